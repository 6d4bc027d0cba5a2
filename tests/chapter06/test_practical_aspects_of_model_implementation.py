"""What Practical_aspects_of_model_implementation.ipynb defines: seven traps, their cures and their measures."""
import hashlib
import io

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photos
from sklearn.metrics import balanced_accuracy_score, jaccard_score
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions

CPU = torch.device("cpu")
NOTEBOOK = "Chapter06/Practical_aspects_of_model_implementation.ipynb"
lesson = definitions(
    NOTEBOOK, "load_animals", "small_cnn", "fit", "photo_inputs",
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


# ---- which images and networks go where in each trap, and what its table says


TRAINING = {"STEPS": 1, "BATCH_SIZE": 1, "LEARNING_RATE": 1, "WIDTH": 1, "device": CPU, "SEEDS": (0,)}


def test_the_threshold_comes_from_validation_and_each_cure_is_what_its_name_says():
    """Trap 2. A network is what it was fitted on: the weights of its loss, and how many of its images are shirts."""
    tops = {"train": (torch.arange(10.0), torch.tensor([1, 1] + [0] * 8)),
            "val": (torch.tensor([-1.0, -0.5, -0.2, 0.5]), torch.tensor([0, 0, 1, 1])),
            "test": (torch.tensor([-3.0, -2.0, -1.5, -0.1, 0.3]), torch.tensor([0, 0, 1, 1, 1]))}
    fitted = []

    def fit(model, images, labels, steps, batch_size, rate, seed, weight=None):
        fitted.append((images.tolist(), labels.float().mean().item(), weight))
        return "network"

    found = run_cell(
        NOTEBOOK, "imbalance = []", tops=tops, RARE=0.02, small_cnn=lambda *_: None, fit=fit, recalls=lesson.recalls,
        best_threshold=lesson.best_threshold, predict=lambda model, x: torch.stack([0 * x, x], 1), **TRAINING)
    (plain, share, none), (weighted, _, weights), (drawn, resampled, nothing) = fitted
    assert plain == weighted == list(range(10)) and share == pytest.approx(0.2) and none is nothing is None
    assert (weights[0] / weights[1]).item() == pytest.approx(2 / 8) and resampled == pytest.approx(0.5)
    assert sorted(set(drawn)) == list(range(10))
    rows = {row["method"]: row for row in found["imbalance"]}
    assert rows["plain"]["shirts found"] == pytest.approx(100 / 3) and rows["plain"]["others left alone"] == 100
    # on validation the best threshold is the probability between -0.5 and -0.2; with it two of three are found
    assert rows["threshold"]["shirts found"] == pytest.approx(200 / 3)
    assert rows["threshold"]["balanced accuracy"] == pytest.approx(250 / 3)
    assert rows["plain"]["accuracy"] == pytest.approx(0.02 * 100 / 3 + 98)


def test_every_view_of_the_small_object_is_tested_as_it_was_trained():
    """Trap 3. Accuracy: side of the images, if the network was trained on that side."""
    scenes = {part: torch.zeros(2, 1, 84, 84) for part in ("train", "test")}
    small = {part: (torch.ones(2, 1, 28, 28), torch.tensor([0, 1])) for part in ("train", "test")}

    def shrink(images, side):
        return images[..., :side, :side]

    found = run_cell(
        NOTEBOOK, "smallness = []", shrink=shrink, scenes=scenes, small=small, CANVAS=84,
        small_cnn=lambda *_, **options: {}, accuracy=lambda model, images, labels:
            float(model["shape"] == images.shape) * (images.shape[-1] + 100 * images.mean().item()),
        fit=lambda model, images, *_: model.update(shape=images.shape), **TRAINING)["smallness"]
    assert found.iloc[0].to_dict() == {"shrunk to 28×28": 28, "full size 84×84": 84, "cut out, 28×28": 128}


def test_new_photos_are_new_and_the_split_by_photo_keeps_crops_together():
    """Trap 4."""
    animals = torch.arange(30)[:, None, None, None].expand(30, 3, 8, 8).to(torch.uint8)
    found = run_cell(
        NOTEBOOK, "source, fresh = torch.arange", load_animals=lambda count, side: (
            [bytes([k]) for k in range(30)], animals, torch.arange(30) % 2), ANIMALS=30, SIDE=8, CROPS=5, NOT_SHOWN=(),
        device=CPU, augment=lambda images, cropper, group: images, draw_images=lambda *_, **options: None)
    values = found["crops"][:, 0, 0, 0].long()
    assert torch.equal(values, found["photo_of"]) and len(values) == 50
    assert found["fresh_crops"][:, 0, 0, 0].tolist() == list(range(10, 30))
    fitted, measured = [], []

    def fit(model, images, labels, *_):
        fitted.append((images[:, 0, 0, 0].long(), labels))
        return "network"

    def accuracy(model, images, labels):
        measured.append((images[:, 0, 0, 0].long(), labels))
        return 90.0 if len(measured) % 2 else 60.0

    species = torch.arange(30) % 2
    leak = run_cell(NOTEBOOK, "leak = []", crops=found["crops"], fresh_crops=found["fresh_crops"], species=species,
                    fresh=found["fresh"], photo_of=found["photo_of"], third=10, small_cnn=lambda *_: None, fit=fit,
                    accuracy=accuracy, **TRAINING)["leak"]
    for numbers, labels in (*fitted, *measured):
        assert torch.equal(labels, species[numbers]), "labels of other photos"
    for k, (numbers, _) in enumerate(fitted):
        held, new = measured[2 * k][0], measured[2 * k + 1][0]
        assert len(numbers) + len(held) == 50 and new.tolist() == list(range(10, 30))
        shared = set(numbers.tolist()) & set(held.tolist())
        assert bool(shared) == (leak["method"][k] == "split by crop"), "a photo on two sides"
    assert leak["overstatement"].tolist() == [30, 30]


def test_the_view_is_measured_on_as_many_rows_as_there_are_images():
    """Trap 5. The first rows of a batch of twice the side are of the first images."""
    answers28 = torch.tensor([3, 1, 2, 0])

    class Viewed(nn.Module):
        def __init__(self, seed, width):
            super().__init__()
            self.blocks, self.linear = nn.Identity(), nn.Linear(49, 10)

    found = run_cell(
        NOTEBOOK, "sizes = []", Viewed=Viewed, fit=lambda model, *_: model, small={"train": ()}, answers28=answers28,
        images=torch.zeros(4, 1, 28, 28), larger=torch.ones(4, 1, 56, 56), shrink=lambda images, side: images / 2,
        predict=lambda model, images: torch.eye(10)[[3, 3, 3, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]],
        accuracy=lambda model, images, labels: 10 * images.mean().item() + 50 * isinstance(model, nn.Sequential),
        **TRAINING)["sizes"].iloc[0].to_dict()
    assert found == {"28×28": 0, "56×56, view(-1, n)": 50, "56×56, adaptive pooling": 60, "56×56, resized to 28×28": 5}


def test_both_kinds_of_labels_are_measured_on_the_right_ones():
    """Trap 6."""
    targets = {mode: {part: (mode, part) for part in ("train", "test")} for mode in ("nearest-exact", "bilinear")}
    found = run_cell(
        NOTEBOOK, "labelings = []", pixel_cnn=lambda *_: {}, pictures={"train": "train", "test": "test"},
        targets=targets,
        fit=lambda model, images, labels, *_: {"learned": (images, *labels)},
        predict=lambda model, images: torch.tensor([[0.0, 1]]) if model["learned"] == (
            "train", "nearest-exact", "train") else torch.tensor([[1.0, 0]]),
        mean_iou=lambda answers, truth, classes: 10.0 * answers.item() + 1 * (truth == ("nearest-exact", "test")),
        draw_bars=lambda *_: None, **TRAINING)["labelings"]
    assert found.iloc[0].to_dict() == {"labels resized bilinearly": 1, "labels resized by nearest": 11}


def test_copies_are_removed_and_carry_the_labels_of_their_originals():
    """Trap 7. Photo k is gray by k; the first ten are the test photos, five of them are copied."""
    files = [bytes([k]) for k in range(30)]
    species = torch.arange(30) % 2
    animals = torch.arange(30)[:, None, None, None].expand(30, 3, 4, 4).to(torch.uint8)
    first = run_cell(NOTEBOOK, "fingerprints = [{", third=10, animals=animals, COPIED=0.5, animal_files=files,
                     disguised=lambda data: data + b"!")
    copied = first["test_rows"][first["is_copied"]].tolist()
    assert [data[0] for data in first["copies"]] == copied and len(copied) > 1
    assert first["test_rows"].tolist() == list(range(10)) and first["own_rows"].tolist() == list(range(10, 30))
    pool = torch.zeros(20 + len(copied))
    suspicious = torch.arange(len(pool)) >= 20
    fitted, measured = [], []
    found = run_cell(
        NOTEBOOK, "duplicates = []", shrink=lambda images, side: images, SIDE=4, animals=animals, species=species,
        decode=lambda data, side: torch.full((3, side, side), data[0], dtype=torch.uint8), copies=first["copies"],
        own_rows=first["own_rows"], test_rows=first["test_rows"], is_copied=first["is_copied"], pool=pool,
        suspicious=suspicious, small_cnn=lambda *_: None,
        fit=lambda model, images, labels, *_: fitted.append((images[:, 0, 0, 0].tolist(), labels.tolist())),
        accuracy=lambda model, images, labels: measured.append((images[:, 0, 0, 0].tolist(), labels.tolist())) or float(
            len(labels)), **TRAINING)["duplicates"]
    for numbers, labels in (*fitted, *measured):
        assert labels == [number % 2 for number in numbers], "labels of other photos"
    assert found["method"].tolist() == ["with copies", "copies removed"]
    assert fitted[0][0] == [*range(10, 30), *copied] and fitted[1][0] == list(range(10, 30))
    left = [k for k in range(10) if k not in copied]
    assert [numbers for numbers, _ in measured] == 2 * [list(range(10)), left]
    assert found["overstatement"].tolist() == 2 * [len(copied)]


def test_summary_and_results_are_taken_from_where_they_belong():
    def table(**values):
        return pd.DataFrame([{"method": name.replace("_", " "), column: value}
                             for name, (column, value) in values.items()])

    shift = pd.DataFrame({"as trained (Pillow)": [60.0], "OpenCV, BGR kept": [30.0], "OpenCV, INTER_AREA": [58.0],
                          "OpenCV, nearest pixel": [55.0]})
    leak = table(split_by_crop=("overstatement", 21.0), split_by_photo=("overstatement", 2.0))
    duplicates = table(with_copies=("overstatement", 12.0), copies_removed=("overstatement", 1.0))
    names = {
        "shift": shift, "leak": leak, "duplicates": duplicates, "by_method": lesson.by_method,
        "imbalance": table(plain=("balanced accuracy", 50.0), threshold=("balanced accuracy", 77.0)),
        "smallness": pd.DataFrame({"shrunk to 28×28": [40.0], "cut out, 28×28": [80.0]}),
        "sizes": pd.DataFrame({"56×56, view(-1, n)": [10.0], "56×56, resized to 28×28": [85.0]}),
        "labelings": pd.DataFrame({"labels resized bilinearly": [33.0], "labels resized by nearest": [39.0]})}
    found = run_cell(NOTEBOOK, "lowered = {", **names)
    assert found["cost"] == pytest.approx({
        "1 exchanged colors": 28, "2 rare class": 27, "3 small object": 40, "5 view(-1, n)": 75, "6 labels": 6,
        "4 leaking crops": 19, "7 copies": 11})
    results = run_cell(
        NOTEBOOK, '"shift_cost_points"', cost=found["cost"], leak=leak, duplicates=duplicates, shift=shift,
        by_method=lesson.by_method, planted=torch.tensor([False, False, True, True]),
        suspicious=torch.tensor([False, False, True, False]))["results"]
    assert results == pytest.approx({
        "shift_cost_points": 28, "imbalance_cost_points": 27, "small_cost_points": 40, "leak_overstatement_points": 21,
        "leak_cured_overstatement_points": 2, "flatten_cost_points": 75, "labels_cost_points": 6,
        "copies_overstatement_points": 12, "copies_cured_overstatement_points": 1, "copies_flagged_percent": 50,
        "nearest_pixel_cost_points": 5, "accuracy_as_trained_percent": 60})
