"""What Practical_aspects_of_model_implementation.ipynb defines: seven traps, their cures and their measures."""
import hashlib
import io

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos
from sklearn.metrics import balanced_accuracy_score, jaccard_score
from torch import nn

from tests.definitions import definitions

CPU = torch.device("cpu")
lesson = definitions(
    "Chapter06/Practical_aspects_of_model_implementation.ipynb", "load_animals", "small_cnn", "fit", "photo_inputs",
    "predict", "accuracy", "as_trained", "opencv", "torchvision_resize", "recompressed", "middle", "shirts_and_others",
    "recalls", "best_threshold", "scatter", "shrink", "mosaics", "shrink_labels", "pixel_cnn", "mean_iou", "Viewed",
    "disguised", "difference_hash", "by_method")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def jpeg(pixels, quality=95, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=quality)
    return file.getvalue()


PHOTO = jpeg(photos.astronaut())
SMOOTH = jpeg(np.asarray(Image.fromarray(photos.astronaut()).resize((24, 24)).resize((120, 96))))
HALVES = np.zeros((64, 128, 3), np.uint8)
HALVES[:, :64, 0], HALVES[:, 64:, 2] = 220, 220  # red left, blue right


# ---- trap 1


@pytest.mark.parametrize("name", ["as_trained", "opencv", "torchvision_resize"])
def test_servers_agree_on_colors_and_places(name):
    serve = getattr(lesson, name)
    image = serve(jpeg(HALVES), 32)
    assert image.shape == (3, 32, 32) and image.dtype == torch.uint8
    assert image[0, :, :14].min() > 180 and image[2, :, :14].max() < 60  # red left
    assert image[2, :, 18:].min() > 180 and image[0, :, 18:].max() < 60  # blue right
    assert (serve(SMOOTH, 48).float() - lesson.as_trained(SMOOTH, 48).float()).abs().mean() < 3
    assert serve(jpeg(photos.astronaut(), mode="L"), 48).shape == (3, 48, 48)  # a gray file


def test_what_goes_wrong_goes_wrong():
    right = lesson.opencv(PHOTO, 48)
    assert torch.equal(lesson.opencv(PHOTO, 48, rgb=False), right.flip(0))
    reference = lesson.as_trained(PHOTO, 48).float()
    assert (lesson.recompressed(PHOTO, 48).float() - reference).abs().mean() > 3
    assert (lesson.recompressed(PHOTO, 48, quality=97).float() - reference).abs().mean() < 2
    assert torch.equal(lesson.middle(PHOTO, 48), lesson.as_trained(PHOTO, 96)[:, 24:72, 24:72])


# ---- trap 2


def garments():
    labels = torch.arange(400) % 10
    return labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28), labels


def test_shirts_among_others():
    images, is_shirt = lesson.shirts_and_others(garments(), 50, 0.2, 0)
    assert len(images) == 50 and is_shirt.sum() == 10
    assert torch.equal(images[:, 0, 0, 0] == 6, is_shirt == 1)
    assert set(images[:, 0, 0, 0].tolist()) == {0, 2, 3, 4, 6}


scores = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5001, 0.7, 1.0]), st.integers(0, 1)), min_size=2,
                  max_size=40).filter(lambda rows: len({label for _, label in rows}) == 2)


@quickly
@given(scores, st.sampled_from([0.2, 0.5, 0.6]))
def test_recalls_are_those_of_scikit_learn(rows, threshold):
    values, labels = (torch.tensor(column) for column in zip(*rows))
    found, left = lesson.recalls(values, labels, threshold)
    expected = balanced_accuracy_score(labels, values > threshold)
    assert (found + left) / 2 == pytest.approx(100 * expected, abs=1e-3)
    assert found == pytest.approx(100 * (values > threshold)[labels == 1].float().mean().item(), abs=1e-3)


@quickly
@given(scores)
def test_best_threshold_is_the_best(rows):
    values, labels = (torch.tensor(column) for column in zip(*rows))
    best = sum(lesson.recalls(values, labels, lesson.best_threshold(values, labels)))
    if values.unique().numel() > 1:
        between = [(a + b) / 2 for a, b in zip(sorted(set(values.tolist())), sorted(set(values.tolist()))[1:])]
        assert best >= max(sum(lesson.recalls(values, labels, t)) for t in between) - 1e-3


# ---- trap 3


def test_garments_lie_where_the_corners_say():
    images = torch.full((20, 1, 28, 28), 250, dtype=torch.uint8)
    pictures, corners = lesson.scatter(images, 60, 0)
    assert pictures.shape == (20, 1, 60, 60) and len(corners.unique(dim=0)) > 15
    for picture, (top, left) in zip(pictures, corners.tolist()):
        assert (picture[0, top : top + 28, left : left + 28] == 250).all() and (picture == 250).sum() == 28 * 28
    assert pictures[pictures < 250].max() < 90 and images.unique().tolist() == [250]


def test_shrinking_averages():
    stripes = torch.zeros(1, 1, 56, 56, dtype=torch.uint8)
    stripes[..., ::2] = 200
    made = lesson.shrink(stripes, 28)
    assert made.dtype == torch.uint8 and made.shape == (1, 1, 28, 28) and (made.float() - 100).abs().max() < 30


# ---- traps 4 and 7


def test_animals_come_without_copies_and_with_their_labels(monkeypatch):
    files = [jpeg(np.full((40, 30, 3), value, np.uint8)) for value in (10, 60, 110, 160)]
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": file, "path": None}
                   for file in (files[0], files[1], files[0], b"broken", files[2], files[3])],
         "labels": [0, 1, 0, 1, 0, 1]},
        features=datasets.Features({"image": datasets.Image(), "labels": datasets.ClassLabel(names=["cat", "dog"])}))
    monkeypatch.setitem(lesson.load_animals.__globals__, "load_dataset", lambda *args, **kwargs: rows)
    found, images, labels = lesson.load_animals(6, 16)
    assert len(found) == len(images) == len(labels) == 4
    assert len({hashlib.sha256(file).digest() for file in found}) == 4
    for file, image, label in zip(found, images, labels):
        value = image.float().mean().item()
        assert label == files.index(file) % 2 and value == pytest.approx((10, 60, 110, 160)[files.index(file)], abs=3)
    assert len(lesson.load_animals(2, 16)[0]) <= 2


PICTURES = {"astronaut": photos.astronaut(), "cat": photos.chelsea(), "coffee": photos.coffee(),
            "rocket": photos.rocket()}


@pytest.mark.parametrize("name", PICTURES)
def test_a_disguised_copy_is_found_and_no_other(name):
    original = jpeg(PICTURES[name])
    copy = lesson.disguised(original)
    assert copy != original
    sides = Image.open(io.BytesIO(original)).size
    assert Image.open(io.BytesIO(copy)).size == tuple(round(0.9 * side) for side in sides)
    hashes = {key: lesson.difference_hash(jpeg(pixels)) for key, pixels in PICTURES.items()}
    distance = {key: int((lesson.difference_hash(copy) != one).sum()) for key, one in hashes.items()}
    assert distance.pop(name) <= 6 < min(distance.values())


def test_difference_hash_compares_with_the_right_neighbor():
    ramp = np.repeat(np.linspace(250, 5, 90).astype(np.uint8)[None], 80, 0)
    assert lesson.difference_hash(jpeg(ramp[:, ::-1].copy())).all() and lesson.difference_hash(jpeg(ramp)).sum() == 0
    assert lesson.difference_hash(jpeg(ramp)).shape == (64,)
    assert lesson.disguised(jpeg(np.zeros((1, 1, 3), np.uint8)))  # the smallest picture


# ---- trap 5


def test_view_gives_four_rows_for_an_image_of_twice_the_side():
    model = lesson.Viewed(0, 4).eval()
    x = torch.rand(3, 1, 28, 28)
    with torch.inference_mode():
        assert model(x).shape == (3, 10) and model(torch.rand(3, 1, 56, 56)).shape == (12, 10)
        torch.testing.assert_close(model(x), model.linear(model.blocks(x).flatten(1)))
    assert not torch.equal(model.linear.weight, lesson.Viewed(1, 4).linear.weight)
    assert not torch.equal(model.blocks[0][0].weight, lesson.Viewed(1, 4).blocks[0][0].weight)


# ---- trap 6


def test_mosaics_carry_the_class_of_every_pixel():
    labels = torch.arange(30) % 10
    images = (100 + labels.to(torch.uint8))[:, None, None, None].expand(-1, 1, 28, 28).clone()
    images[..., :3] = 0  # ground
    scenes, maps = lesson.mosaics(images, labels, 7, 0)
    assert scenes.shape == (7, 1, 56, 56) and maps.shape == (7, 56, 56)
    ground = scenes[:, 0] == 0
    assert ((maps == 0) == ground).all() and (maps[~ground] == scenes[:, 0][~ground].long() - 99).all()
    assert (maps[:, 10, 10] != maps[:, 40, 40]).any()


def test_nearest_labels_invent_nothing_and_bilinear_ones_do():
    maps = torch.zeros(2, 56, 56, dtype=torch.long)
    maps[:, 17:, 21:] = 8
    right, wrong = (lesson.shrink_labels(maps, 28, mode) for mode in ("nearest-exact", "bilinear"))
    assert right.shape == wrong.shape == (2, 28, 28) and right.dtype == torch.int64
    assert right.unique().tolist() == [0, 8] and len(wrong.unique()) > 2
    assert torch.equal(right, maps[:, 1::2, 1::2])


@quickly
@given(st.integers(0, 1000), st.integers(2, 6))
def test_mean_iou_is_scikit_learns(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    answers, truth = (torch.randint(0, classes, (2, 5, 5), generator=generator) for _ in range(2))
    answers[answers == 1] = truth[answers == 1]
    present = sorted(set(answers.flatten().tolist()) | set(truth.flatten().tolist()))
    expected = jaccard_score(truth.flatten(), answers.flatten(), average="macro", labels=present)
    assert lesson.mean_iou(answers, truth, classes) == pytest.approx(100 * expected, abs=1e-6)


def test_pixel_network_keeps_the_size():
    assert lesson.pixel_cnn(0, CPU, 2)(torch.zeros(2, 1, 28, 28)).shape == (2, 11, 28, 28)


# ---- training


def halves(n=64):
    """Images that are bright above (1) or below (0)."""
    labels = torch.arange(n) % 2
    images = torch.randint(0, 60, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    images[labels == 1, :, :8] += 150
    images[labels == 0, :, 8:] += 150
    return images.to(torch.uint8), labels


def network(seed=0):
    return lesson.small_cnn(seed, CPU, 1, 4, 2)


def test_training_learns_and_follows_from_its_seed():
    images, labels = halves()
    model, again, other = (lesson.fit(network(), images, labels, 40, 16, 1e-2, seed) for seed in (0, 0, 1))
    assert lesson.accuracy(model, images, labels) > 90 and not model.training
    assert torch.equal(model[-1].weight, again[-1].weight) and not torch.equal(model[-1].weight, other[-1].weight)
    assert lesson.accuracy(model, images, 1 - labels) < 10


def test_class_weights_reach_the_loss_and_changes_the_images():
    images, labels = halves()
    ignored = lesson.fit(network(), images, labels, 30, 16, 1e-2, 0, weight=torch.tensor([1.0, 0.0]))
    assert (lesson.predict(ignored, images).argmax(1) == 0).float().mean() > 0.75  # class 1 costs nothing
    seen = []

    def note(batch):
        seen.append(batch.shape)
        return 255 - batch

    changed = lesson.fit(network(), images, labels, 30, 16, 1e-2, 0, change=note)
    assert seen == [(16, 1, 16, 16)] * 30
    assert lesson.accuracy(changed, 255 - images, labels) > 90


def test_pool_can_be_the_maximum():
    model = lesson.small_cnn(0, CPU, 1, 4, 10, pool=nn.AdaptiveMaxPool2d)
    assert isinstance(model[3], nn.AdaptiveMaxPool2d) and model(torch.zeros(2, 1, 84, 84)).shape == (2, 10)
