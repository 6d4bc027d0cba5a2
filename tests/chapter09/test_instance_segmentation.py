"""Targets, decoding, mask IoU, matching, average precision and verdicts of the instance segmentation notebook."""
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.spatial.distance import cdist
from skimage.filters import threshold_otsu
from skimage.measure import label
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter09/Instance_Segmentation.ipynb"
lesson = definitions(
    NOTEBOOK, "fetch_nuclei", "load_nuclei", "middle", "renumbered", "one_form",
    "describe", "split_whole_groups", "SmallUNet", "random_crops", "predict_maps", "train_maps", "center_map",
    "targets_of", "grow", "around_threshold", "part_map",
    "by_boundary", "by_center", "by_distance", "dropped", "mask_ious", "scores_of", "hits_of", "judge", "verdicts",
    "shares", "as_masks", "library_map", "target_of", "label_map", "colored", "fine_tune")  # fmt: skip
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def blobs(seed, side=32, count=8, fewest=0):
    """A random label map, numbers 1 to n without gaps: rectangles over one another, many of which touch."""
    rng, labels = np.random.default_rng(seed), np.zeros((side, side), np.int64)
    for number in range(1, int(rng.integers(fewest, count + 1)) + 1):
        y, x = rng.integers(0, side - 2, 2)
        h, w = rng.integers(1, side // 2, 2)
        labels[y : y + h, x : x + w] = number
    return lesson.renumbered(labels)


# ---- targets


@quick
@given(seeds)
def test_the_center_map_is_the_distance_to_other_pixels_and_the_outside(seed):
    labels = blobs(seed, side=16)
    padded = np.pad(labels, 1, constant_values=-1)
    expected = np.zeros(labels.shape)
    for k in range(1, labels.max() + 1):
        own, others = np.argwhere(padded == k), np.argwhere(padded != k)
        d = cdist(own, others).min(axis=1)
        expected[tuple((own - 1).T)] = d / d.max()
    np.testing.assert_allclose(lesson.center_map(labels), expected, rtol=1e-6)


@quick
@given(seeds)
def test_targets_are_inside_and_the_pixels_with_another_neighbor(seed):
    labels = blobs(seed, side=12)
    inside, boundary, center = lesson.targets_of(labels)
    edge = np.pad(labels, 1, mode="edge")
    around = np.stack([edge[y : y + 12, x : x + 12] for y in range(3) for x in range(3)])
    np.testing.assert_array_equal(inside, labels > 0)
    np.testing.assert_array_equal(boundary, (around != labels).any(axis=0))
    np.testing.assert_array_equal(center, lesson.center_map(labels))
    assert lesson.targets_of(labels).dtype == np.float32


def test_two_that_touch_have_a_boundary_between_them_and_a_peak_each():
    labels = np.zeros((11, 22), np.int64)
    labels[1:10, 1:11], labels[1:10, 11:21] = 1, 2
    inside, boundary, center = lesson.targets_of(labels)
    assert boundary[5, 10] == boundary[5, 11] == inside[5, 10] == 1
    assert label(center > 0.6).max() == 2 and label(inside > 0).max() == 1


def test_an_empty_map_has_empty_targets():
    assert not lesson.targets_of(np.zeros((5, 5), np.int64)).any()


# ---- from maps to objects


def two_circles():
    """A label map of two circles that touch."""
    y, x = np.mgrid[:40, :60]
    labels = np.zeros((40, 60), np.int64)
    labels[(y - 20) ** 2 + (x - 20) ** 2 <= 100] = 1
    labels[((y - 20) ** 2 + (x - 39) ** 2 <= 100) & (labels == 0)] = 2
    return labels


@pytest.mark.parametrize("cut", ["by_boundary", "by_center"])
def test_true_maps_give_back_the_objects(cut):
    labels = two_circles()
    y = lesson.targets_of(labels)
    found = getattr(lesson, cut)(y, 0.5)
    ious = lesson.mask_ious(found, labels)
    assert ious.shape == (2, 2) and (ious.max(axis=0) > 0.9).all()
    assert set(np.unique(found[y[0] == 0])) == {0}


def test_the_distance_recipe_separates_circles_and_blobs_do_not():
    labels = two_circles()
    assert label(labels > 0).max() == 1
    found = lesson.by_distance(labels > 0)
    assert (lesson.mask_ious(found, labels).max(axis=0) > 0.85).all() and found.max() == 2
    assert ((found > 0) == (labels > 0)).all()


def test_markers_must_lie_inside_and_a_threshold_matters():
    y = np.zeros((3, 8, 8), np.float32)
    y[1:] = 1.0
    assert lesson.by_center(y, 0.5).max() == 0 == lesson.by_boundary(y, 0.5).max()  # nothing is inside
    y[0], y[1], y[2] = 1, 0.4, 0.1
    y[1, :, 4], y[2, :, 1], y[2, :, 6] = 0.9, 0.8, 0.6  # a boundary between two halves, whose centers differ in height
    assert [lesson.by_boundary(y, tau).max() for tau in (0.3, 0.5, 1.0)] == [1, 2, 1]  # none, two, one marker
    assert [lesson.by_center(y, tau).max() for tau in (0.05, 0.5, 0.7, 0.9)] == [1, 2, 1, 1]


def test_a_blob_without_a_marker_stays_one_object():
    where = np.array([[1, 1, 1, 0, 1, 1]], bool)
    markers = np.array([[1, 0, 1, 0, 0, 0]], bool)
    found = lesson.grow(markers, np.ones((1, 6)), where)
    assert found[0, 4] == found[0, 5] > 0 == found[0, 3] and found.max() == 3 and found[0, 0] != found[0, 2]


def test_markers_grow_from_high_places_first():
    height = np.array([[1, 0.9, 0.8, 0.7, 0.1, 0.7, 1.0]])
    markers = np.array([[1, 0, 0, 0, 0, 0, 1]], bool)
    found = lesson.grow(markers, height, np.ones((1, 7), bool))
    assert found[0, [0, 1, 2, 3]].tolist() == [1] * 4 and found[0, [5, 6]].tolist() == [2] * 2


@quick
@given(seeds, st.integers(0, 40))
def test_small_objects_are_dropped_and_the_rest_numbered_without_gaps(seed, smallest):
    labels = blobs(seed)
    found = lesson.dropped(labels, smallest)
    areas = np.bincount(found.ravel())[1:]
    assert (areas >= smallest).all() and set(np.unique(found)) | {0} == set(range(found.max() + 1))
    kept = [k for k in range(1, labels.max() + 1) if (labels == k).sum() >= smallest]
    np.testing.assert_array_equal(found > 0, np.isin(labels, kept))


def test_numbers_without_background_start_at_one():
    assert lesson.renumbered(np.array([[7, 7], [9, 9]])).tolist() == [[1, 1], [2, 2]]
    assert lesson.renumbered(np.array([[0, 300]], np.uint16)).tolist() == [[0, 1]]
    assert lesson.dropped(np.full((2, 2), 1), 10).tolist() == [[0, 0], [0, 0]]


# ---- the measure


@quick
@given(seeds)
def test_mask_ious_equal_pycocotools(seed):
    found, true = blobs(seed), blobs(seed + 1)
    encoded = [[coco_mask.encode(np.asfortranarray(one.astype(np.uint8))) for one in
                lesson.as_masks(labels)["masks"].numpy()] for labels in (found, true)]
    ours = lesson.mask_ious(found, true)
    assert ours.shape == (found.max(), true.max())
    if found.max() and true.max():
        np.testing.assert_allclose(ours, coco_mask.iou(*encoded, [0] * true.max()), atol=1e-12)


@quick
@given(seeds)
def test_scores_are_means_over_the_objects(seed):
    found, sure = blobs(seed), np.random.default_rng(seed).random((32, 32))
    expected = [sure[found == k].mean() for k in range(1, found.max() + 1)]
    np.testing.assert_allclose(lesson.scores_of(found, sure), expected)


@settings(deadline=None, max_examples=6)
@given(seeds)
def test_judge_equals_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    true = [blobs(seed + k, count=6, fewest=1) for k in range(4)]  # torchmetrics skips pictures without a true mask
    found = [np.roll(one, rng.integers(0, 3, 2), axis=(0, 1)) if k else blobs(seed + 9) for k, one in enumerate(true)]
    found = [lesson.renumbered(one) if one.any() else one for one in found]
    sure = [rng.random((32, 32)).astype(np.float32) for _ in true]
    ours = lesson.judge(found, sure, true)
    theirs = lesson.library_map(found, [lesson.scores_of(*pair) for pair in zip(found, sure)], true)
    np.testing.assert_allclose([ours["mAP"], ours["AP50"]], theirs, atol=1e-6)
    assert ours["count error"] == np.mean([abs(f.max() - t.max()) for f, t in zip(found, true)])


def test_judge_of_nothing_found_and_of_the_truth():
    true, sure = [two_circles()] * 2, [np.ones((40, 60))] * 2
    assert lesson.judge(true, sure, true) == {"mAP": 1.0, "AP50": 1.0, "count error": 0.0}
    nothing = lesson.judge([np.zeros((40, 60), np.int64)] * 2, sure, true)
    assert nothing == {"mAP": 0.0, "AP50": 0.0, "count error": 2.0}


def test_false_objects_count_on_pictures_without_true_ones_too():
    empty, sure = np.zeros((40, 60), np.int64), [np.full((40, 60), 0.9), np.full((40, 60), 0.5)]
    assert lesson.judge([two_circles(), two_circles()], sure, [empty, two_circles()])["mAP"] == pytest.approx(0.5)


def test_every_true_object_is_claimed_once_and_by_the_surest():
    ious = np.array([[0.9, 0.0], [0.8, 0.0], [0.6, 0.5]])
    hits = lesson.hits_of(ious, np.array([0.1, 0.9, 0.5]), [0.5, 0.75])
    assert hits.tolist() == [[False, False], [True, True], [True, False]]
    assert lesson.hits_of(ious[:, :0], np.ones(3), [0.5]).tolist() == [[False]] * 3


def test_library_map_counts_more_than_a_hundred_objects():
    true = np.zeros((60, 60), np.int64)
    true[::4, ::4] = np.arange(1, 226).reshape(15, 15)
    assert lesson.library_map([true], [np.linspace(0, 1, 225)], [true]) == (1.0, 1.0)


# ---- verdicts


def test_verdicts_are_as_the_text_says():
    true = np.zeros((20, 60), np.int64)
    true[2:12, 2:12], true[2:12, 12:22], true[2:12, 30:40], true[2:12, 45:55] = 1, 2, 3, 4
    found = np.zeros_like(true)
    found[1:12, 2:22] = 1  # over two
    found[2:12, 30:34], found[2:12, 34:38] = 2, 3  # two in one
    assert lesson.verdicts(found, true).tolist() == ["merged", "merged", "split", "missed"]
    assert lesson.verdicts(true, true).tolist() == ["found"] * 4
    assert lesson.verdicts(np.zeros_like(true), true).tolist() == ["missed"] * 4
    assert lesson.verdicts(found, np.zeros_like(true)).shape == (0,)
    percent = lesson.shares([found, true], [true, true])
    assert percent == {"found": 50.0, "merged": 25.0, "split": 12.5, "missed": 12.5}


def test_one_object_over_a_large_and_a_small_one_finds_the_large_and_merges_the_small():
    true = np.zeros((20, 40), np.int64)
    true[2:18, 2:30], true[5:9, 30:34] = 1, 2
    found = (true > 0).astype(np.int64)
    assert lesson.verdicts(found, true).tolist() == ["found", "merged"]


# ---- pictures and training


def test_pictures_come_to_one_form():
    rng = np.random.default_rng(0)
    dark = np.full((64, 64, 3), 10, np.uint8)
    dark[20:30, 20:30] = 90
    light = np.full((64, 64, 3), 220, np.uint8)
    light[20:30, 20:30] = rng.integers(100, 120, 3)
    for photo in (dark, light):
        gray = lesson.one_form(photo)
        assert gray.dtype == np.float32 and gray[25, 25] > 0.9 and gray[0, 0] < 0.1
        assert 0 <= gray.min() <= gray.max() <= 1
    assert np.isfinite(lesson.one_form(np.zeros((8, 8, 3), np.uint8))).all()
    kept = dark.copy()
    lesson.one_form(dark)
    assert (dark == kept).all()


@quick
@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.sampled_from([(0.15, 0.3), (0.2, 0.2)]))
def test_groups_stay_whole_and_shares_are_near_what_is_asked(groups, shares):
    groups = torch.tensor(groups)
    parts = lesson.split_whole_groups(groups, *shares)
    assert sorted(torch.cat(list(parts.values())).int().tolist()) == list(range(len(groups)))
    for group in groups.unique():
        assert sum(group in groups[rows.long()] for rows in parts.values()) == 1
    if groups.bincount().max() <= 0.1 * len(groups):
        assert abs(len(parts["test"]) / len(groups) - shares[1]) <= 0.1


def test_many_groups_give_the_shares_and_the_largest_group_is_trained_on():
    groups = torch.cat([torch.zeros(20), torch.arange(1, 81)]).long()
    parts = lesson.split_whole_groups(groups, 0.15, 0.3)
    assert [len(parts[part]) for part in ("train", "val", "test")] == [55, 15, 30] and set(range(20)) <= set(
        parts["train"].tolist())


def test_like_pictures_have_like_descriptions():
    labels = two_circles()
    photo = np.repeat((20 + 100 * (labels > 0))[..., None], 3, axis=2).astype(np.uint8)
    other = 255 - photo
    here, near, far = (lesson.describe(one, labels) for one in (photo, photo + 2, other))
    assert np.linalg.norm(here - near) < 0.5 < np.linalg.norm(here - far)
    assert np.isfinite(lesson.describe(photo, np.zeros_like(labels))).all()


def test_otsus_threshold_becomes_zero_and_contrast_does_not_matter():
    rng = np.random.default_rng(0)
    gray = np.where(two_circles() > 0, 0.6, 0.2) + rng.normal(0, 0.05, two_circles().shape)
    gray = gray.astype(np.float32)
    x = lesson.around_threshold(gray)
    assert x.dtype == np.float32 and x.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(x > 0, gray > threshold_otsu(gray))
    np.testing.assert_allclose(lesson.around_threshold(0.3 * gray + 0.1), x, atol=0.05)  # the bins move a little
    for flat in (np.zeros((8, 8), np.float32), np.full((8, 8), 0.7, np.float32)):
        assert np.isfinite(lesson.around_threshold(flat)).all()


def test_part_map_judges_the_chosen_pictures_alone():
    true = np.stack([two_circles()] * 3)
    found = [two_circles(), np.zeros_like(true[0]), two_circles()]
    sure = np.stack([(one > 0).astype(float) for one in true])
    assert lesson.part_map(found, sure, true, np.array([True, False, True])) == 1.0
    assert lesson.part_map(found, sure, true, np.array([False, True, False])) == 0.0


def test_the_network_gives_maps_of_the_size_of_the_picture_and_every_weight_learns():
    model = lesson.SmallUNet(4, 3)
    z = model(torch.rand(2, 1, 24, 40))
    assert z.shape == (2, 3, 24, 40)
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_crops_and_targets_are_cut_mirrored_and_turned_alike():
    images = torch.rand(5, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    targets = torch.cat([images, -images], dim=1)
    generator, seen = torch.Generator().manual_seed(1), set()
    for _ in range(30):
        x, t = lesson.random_crops(images, targets, 3, 8, generator)
        assert x.shape == (3, 1, 8, 8) and torch.equal(t, torch.cat([x, -x], dim=1))
        seen.add(x[0, 0, 0, 0].item())
    assert len(seen) > 20


def test_training_fits_each_map_and_evaluates_in_evaluation_mode():
    labels = np.stack([two_circles()[:40, :56]] * 2)
    targets = torch.from_numpy(np.stack([lesson.targets_of(one) for one in labels]))
    images = targets[:, :1] * 0.8 + 0.1
    torch.manual_seed(0)
    model = lesson.SmallUNet(4, 3)
    losses = lesson.train_maps(model, images, targets, 80, 2, 40, 1e-2, 0)
    assert losses.shape == (80, 3) and (losses[-5:].mean(0) < 0.7 * losses[:5].mean(0)).all()
    assert model.training
    y = lesson.predict_maps(model, images, 1)
    assert not model.training and y.shape == (2, 3, 40, 56) and (y[0] == y[1]).all()
    with torch.inference_mode():
        np.testing.assert_allclose(y[0], model(images[:1]).sigmoid()[0], atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_each_map():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def forward(self, x):
            return x * 0 + self.w[None, :, None, None]

    images, targets = torch.zeros(1, 1, 8, 8), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = lesson.train_maps(Still(), images, targets, 3, 1, 8, 0.0, 0)
    y = torch.tensor([1.0, -2.0, 0.5]).sigmoid()
    expected = [F.binary_cross_entropy(y[k].expand(8, 8), targets[0, k]).item() for k in range(3)]
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)


# ---- files


def test_the_archive_is_merged_into_label_maps(tmp_path, monkeypatch):
    def archive(url, root, filename):
        rng = np.random.default_rng(0)
        for number, size in enumerate([(16, 12), (16, 12), (20, 10)]):  # (width, height)
            name = f"{number:064x}"[::-1]
            for kind in ("images", "masks"):
                (tmp_path / "scratch" / name / kind).mkdir(parents=True)
            pixels = rng.integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "scratch" / name / "images" / f"{name}.png")
            for one in range(2):
                mask = np.zeros((size[1], size[0]), np.uint8)
                mask[2:5, 3 + 5 * one : 6 + 5 * one] = 255
                Image.fromarray(mask).save(tmp_path / "scratch" / name / "masks" / f"{one}.png")
        (tmp_path / "scratch").rename(f"{root}/unpacked")

    monkeypatch.setitem(lesson.fetch_nuclei.__globals__, "download_and_extract_archive", archive)
    folder = lesson.fetch_nuclei("https://x", tmp_path / "nuclei", height=12)
    photos, labels = lesson.load_nuclei(folder, 12)
    assert photos.shape == (2, 12, 12, 3) and labels.shape == (2, 12, 12)  # the third has another height
    assert labels[0].max() == 2 and labels[0][3].tolist() == [0, 1, 1, 1, 0, 0, 2, 2, 2, 0, 0, 0]  # the middle columns
    assert lesson.fetch_nuclei("https://nothing", folder, 12) == folder  # and not again


def test_a_download_that_breaks_leaves_nothing(tmp_path, monkeypatch):
    def breaks(url, root, filename):
        raise zipfile.BadZipFile("cut off")

    monkeypatch.setitem(lesson.fetch_nuclei.__globals__, "download_and_extract_archive", breaks)
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        lesson.fetch_nuclei("https://x", tmp_path / "nuclei")
    assert list(tmp_path.iterdir()) == []


# ---- Mask R-CNN


class Answers(nn.Module):
    """Stands for Mask R-CNN: gives the same answer for every image."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return [self.answer]


def test_a_pixel_belongs_to_the_surest_object_and_soft_masks_are_cut():
    masks = torch.zeros(3, 1, 6, 6)
    masks[0, 0, :4], masks[1, 0, 2:], masks[2, 0] = 0.9, 0.8, 0.3  # the third is soft everywhere
    answer = {"scores": torch.tensor([0.9, 0.6, 0.5]), "masks": masks}
    found, sure = lesson.label_map(Answers(answer), torch.zeros(3, 6, 6), torch.device("cpu"))
    assert found[:4].tolist() == [[1] * 6] * 4 and found[4:].tolist() == [[2] * 6] * 2
    np.testing.assert_allclose(sure[[0, 5], 0], [0.9, 0.6], rtol=1e-6)
    nothing = {"scores": torch.zeros(0), "masks": torch.zeros(0, 1, 6, 6)}
    assert lesson.label_map(Answers(nothing), torch.zeros(3, 6, 6), torch.device("cpu"))[0].max() == 0


def test_targets_have_boxes_with_area_even_for_one_pixel():
    labels = np.zeros((9, 9), np.int64)
    labels[4, 5], labels[1:3, 1:4] = 1, 2
    target = lesson.target_of(labels)
    assert target["boxes"].tolist() == [[5, 4, 6, 5], [1, 1, 4, 3]]
    assert target["masks"].dtype == torch.uint8 and target["masks"].sum((1, 2)).tolist() == [1, 6]
    assert target["labels"].tolist() == [1, 1]


# ---- the notebook as a whole


def cell_with(text):
    """The source of the one code cell of the notebook that holds the text."""
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if text in cell.source]
    assert len(cells) == 1, f"{text}: {len(cells)} cells"
    return cells[0]


def test_training_validation_and_test_pictures_keep_their_roles():
    training, choosing, testing = map(cell_with, ("maps, start =", "val_map =", "tested ="))
    assert training.count('[rows["train"]]') == 2 and 'for part in ("val", "test")' in training
    assert "test" not in choosing and choosing.count('maps[seed]["val"][:, 0], labels[in_val]') == 2
    assert "val" not in testing.replace("val_map", "") and testing.count('maps[seed]["test"]') == 3
    assert 'in_val = rows["val"]' in cell_with("in_val =") and 'in_test = rows["test"]' in testing


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK,
        "test mAP {test_map:.3f} ± {test_map_std:.3f} (std), without a network {baseline_map:.3f}",
        "count error: guess {guess_count_mae:.1f}, Otsu {baseline_count_mae:.1f}, network {count_mae:.1f} nuclei",
        "markers instead of blobs, same maps: mAP {gain_of_markers:+.3f} ± {gain_of_markers_std:.3f} (std)")
    assert results["test_map"] - results["blobs_map"] == pytest.approx(results["gain_of_markers"])
    assert results["gap_to_otsu"] >= results["test_map"] - results["baseline_map"] - 1e-9
    assert sum(results[f"{kind}_percent"] for kind in ("found", "merged", "split", "missed")) == pytest.approx(100)
