"""What Multi_object_segmentation.ipynb defines: targets, polygons, run lengths, overlaps, grids, fine-tuning."""
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn
from torchvision import ops
from torchvision.datasets import CocoDetection
from torchvision.models.detection.roi_heads import paste_masks_in_image

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter10/Multi_object_segmentation.ipynb"
lesson = definitions(
    NOTEBOOK, "CocoObjects", "polygon_mask", "run_lengths", "from_run_lengths",
    "mask_overlaps", "paste", "on_grid", "simple_masks", "as_found", "renamed", "keep_kinds", "predict_masks",
    "fine_tune_masks", "coco_map")
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def some_masks(n, height=20, width=26, seed=0, share=0.4):
    return torch.rand(n, height, width, generator=torch.Generator().manual_seed(seed)) < share


def encoded(masks):
    return [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks]


# ---- targets


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three photos: two objects and a crowd; nothing; a crowd and a box without area alone."""
    folder = tmp_path_factory.mktemp("coco")
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 30, "height": 20} for k in (4, 7, 9)]
    for image in images:
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(folder / image["file_name"])  # gray files
    crowd = {"size": [20, 30], "counts": [0, 600]}

    def one(number, image, label, bbox, segmentation, iscrowd=0):
        return {"id": number, "image_id": image, "category_id": label, "bbox": bbox, "iscrowd": iscrowd,
                "area": bbox[2] * bbox[3], "segmentation": segmentation}

    annotations = [
        one(1, 4, 90, [2, 3, 10, 5], [[2, 3, 12, 3, 12, 8, 2, 8]]),
        one(2, 4, 1, [0, 0, 30, 20], crowd, 1),
        one(3, 4, 13, [15, 10, 6, 8], [[15, 10, 21, 10, 21, 14, 15, 14], [15, 16, 21, 16, 21, 18, 15, 18]]),
        one(4, 9, 1, [0, 0, 30, 20], crowd, 1), one(5, 9, 1, [3, 3, 0, 4], [[3, 3, 3, 7, 3, 7]])]
    categories = [{"id": k, "name": str(k)} for k in (1, 13, 90)]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return CocoDetection(folder, folder / "a.json")


def test_crowds_and_boxes_without_area_are_no_objects_and_an_empty_photo_has_all_keys(plain):
    data = lesson.CocoObjects(plain, range(3))
    assert len(data) == 3
    for (image, target), n in zip(data, (2, 0, 0)):
        assert image.shape == (3, 20, 30) and image.dtype == torch.uint8
        assert target["boxes"].shape == (n, 4) and target["boxes"].dtype == torch.float32
        assert target["labels"].shape == (n,) and target["labels"].dtype == torch.int64
        assert target["masks"].shape == (n, 20, 30) and target["masks"].dtype == torch.bool
    target = data[0][1]
    assert target["boxes"].tolist() == [[2, 3, 12, 8], [15, 10, 21, 18]] and target["labels"].tolist() == [90, 13]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [50, 36] and target["masks"][1, 11, 16]
    assert not target["masks"][1, 15, 16]  # the gap between the two polygons


def test_rows_are_chosen_in_their_order(plain):
    data = lesson.CocoObjects(plain, [1, 0])
    assert [len(target["labels"]) for _, target in data] == [0, 2] if len(data) == 2 else False


# ---- polygons and run lengths


@quickly
@given(st.lists(st.tuples(st.integers(-80, 400), st.integers(-80, 330)), min_size=3, max_size=12))
def test_a_polygon_equals_matplotlibs(corners):
    """Off the pixel centers' lines; self-crossing outlines only where both rules agree."""
    points = np.array(corners) / 10 + 0.013
    mask = lesson.polygon_mask(points.ravel().tolist(), 24, 30)
    y, x = np.mgrid[:24, :30] + 0.5
    winding = np.zeros(mask.shape, int)
    for (a, b), (c, d) in zip(points, np.roll(points, -1, axis=0)):
        with np.errstate(divide="ignore", invalid="ignore"):
            right = x < a + (c - a) * (y - b) / (d - b)
        winding += ((b <= y) & (d > y) & right).astype(int) - ((b > y) & (d <= y) & right)
    assert (mask.numpy() == (winding % 2 == 1)).all()
    simple = np.abs(winding).max() <= 1
    if simple:
        filled = Outline(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(mask.shape)
        assert (mask.numpy() != filled).sum() <= 1


def test_a_rectangle_and_degenerate_polygons():
    mask = lesson.polygon_mask([2, 3, 12, 3, 12, 8, 2, 8], 20, 30)
    assert mask.sum() == 50 and mask[3:8, 2:12].all()
    assert not lesson.polygon_mask([4, 4, 9, 4, 9, 4], 20, 30).any()
    assert not lesson.polygon_mask([3, 3, 3, 3, 3, 3], 20, 30).any()
    assert lesson.polygon_mask([-5, -5, 40, -5, 40, 40, -5, 40], 20, 30).all()


def test_a_polygon_is_nearly_pycocotools():
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([60 + 45 * np.cos(angles), 50 + 30 * np.sin(3 * angles) * 0.3 + 35 * np.sin(angles)], axis=1)
    ours = lesson.polygon_mask(points.ravel().tolist(), 100, 120)
    theirs = coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], 100, 120))[..., 0] > 0
    assert (ours.numpy() & theirs).sum() / (ours.numpy() | theirs).sum() > 0.97


@quickly
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_run_lengths_equal_pycocotools_and_return(height, width, seed, share):
    mask = some_masks(1, height, width, seed, share)[0]
    counts = lesson.run_lengths(mask)
    assert sum(counts) == height * width and all(count > 0 for count in counts[1:])
    theirs = coco_mask.decode(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    assert (theirs == mask.numpy()).all()
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    assert packed == encoded([mask])[0]["counts"]
    assert torch.equal(lesson.from_run_lengths(counts, height, width), mask)


# ---- overlaps


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_overlaps_equal_pycocotools_also_in_crowds(share):
    found, true = some_masks(4, seed=1, share=share), some_masks(3, seed=2)
    crowd = torch.tensor([False, True, False])
    theirs = np.asarray(coco_mask.iou(encoded(found), encoded(true), crowd.int().tolist()))
    np.testing.assert_allclose(lesson.mask_overlaps(found, true, crowd).numpy(), np.nan_to_num(theirs), atol=1e-6)


def test_overlaps_without_masks():
    none = torch.zeros(0, 5, 5, dtype=torch.bool)
    assert lesson.mask_overlaps(none, some_masks(2, 5, 5), torch.zeros(2, dtype=torch.bool)).shape == (0, 2)
    assert lesson.mask_overlaps(some_masks(2, 5, 5), none, torch.zeros(0, dtype=torch.bool)).shape == (2, 0)


# ---- masks on a grid


def test_pasting_into_whole_pixels_is_the_mask_itself():
    soft = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.0, 5, 9, 11], [10, 2, 16, 8]])
    pasted = lesson.paste(soft, boxes, 20, 30)
    torch.testing.assert_close(pasted[0, 5:11, 3:9], soft[0])
    torch.testing.assert_close(pasted[1, 2:8, 10:16], soft[1])
    assert pasted.count_nonzero() == soft.count_nonzero()


def test_pasting_is_nearly_torchvisions():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    soft = torch.stack([((x**2 + y**2) < 0.8).float(), ((x - 0.3).abs() + y.abs() < 0.6).float()])
    boxes = torch.tensor([[10.0, 12, 70, 60], [30, 5, 95, 75]])
    ours, theirs = lesson.paste(soft, boxes, 80, 100) > 0.5, paste_masks_in_image(soft[:, None], boxes, (80, 100))[:, 0]
    overlap = lesson.mask_overlaps(ours, theirs > 0.5, torch.zeros(2, dtype=torch.bool)).diagonal()
    assert overlap.min() > 0.93


def test_a_rectangle_survives_any_grid_and_an_ellipse_a_fine_one():
    boxes = torch.tensor([[4.0, 6, 24, 30], [10, 10, 50, 40]])
    full = lesson.simple_masks(boxes, 60, 60, 200.0)
    assert full.sum(dim=(1, 2)).tolist() == [20 * 24, 40 * 30]
    for side in (2, 7, 28):
        assert torch.equal(lesson.on_grid(full, boxes, side), full)
    round_ = lesson.simple_masks(boxes, 60, 60, 2.0)
    areas = round_.sum(dim=(1, 2)) / (torch.pi / 4 * torch.tensor([20 * 24, 40 * 30]))
    assert ((areas - 1).abs() < 0.03).all()
    none = torch.zeros(2, dtype=torch.bool)
    ious = [lesson.mask_overlaps(lesson.on_grid(round_, boxes, side), round_, none).diagonal() for side in (3, 28)]
    assert (ious[0] < ious[1]).all() and ious[1].min() > 0.97
    assert lesson.on_grid(round_[:0], boxes[:0], 28).shape == (0, 60, 60)


def test_the_true_masks_as_found_have_a_map_of_one():
    boxes = torch.tensor([[4.0, 6, 24, 30], [10, 10, 50, 40]])
    target = {"boxes": boxes, "labels": torch.tensor([3, 90]), "masks": lesson.simple_masks(boxes, 60, 60, 2.0)}
    found = lesson.as_found(target, target["masks"])
    assert lesson.coco_map([found], [target], iou_type="segm")["map"].item() == pytest.approx(1)
    gone = lesson.as_found(target, target["masks"] & torch.tensor([True, False])[:, None, None])
    assert gone["labels"].tolist() == [3] and len(gone["scores"]) == len(gone["masks"]) == 1


# ---- fine-tuning


def test_kinds_get_their_new_numbers_with_their_boxes_masks_and_scores():
    target = {"boxes": torch.arange(12.0).view(3, 4), "labels": torch.tensor([90, 5, 17]), "masks": some_masks(3)}
    new = lesson.renamed(target, {17: 1, 90: 2})
    assert new["labels"].tolist() == [2, 1] and new["boxes"][:, 0].tolist() == [0, 8]
    assert torch.equal(new["masks"], target["masks"][[0, 2]])
    found = lesson.keep_kinds({**target, "scores": torch.tensor([0.9, 0.8, 0.7])}, {17: 1, 90: 2})
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7]) and found["labels"].tolist() == [2, 1]
    assert lesson.renamed(target, {1: 1})["masks"].shape == (0, 20, 26)


class Detector(nn.Module):
    """Remembers what it is trained on; in evaluation it answers with one object."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.ones(())), []

    def forward(self, images, targets=None):
        if self.training:
            self.batches.append((images, targets))
            return {"a": self.weight**2, "b": self.weight}
        soft = torch.full((1, 1, *images[0].shape[1:]), 0.4)
        soft[..., :3] = 0.6
        return [{"boxes": torch.tensor([[0.0, 0, 3, 5]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9]),
                 "masks": soft}]


def test_photos_boxes_and_masks_are_mirrored_together():
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[0, 4:9, 2:7] = True
    image = (255 * masks).to(torch.uint8).expand(3, -1, -1)
    target = {"boxes": torch.tensor([[2.0, 4, 7, 9]]), "labels": torch.tensor([1]), "masks": masks}
    model = Detector().eval()
    losses = lesson.fine_tune_masks(model, [image], [target], 8, 2, 1e-3, 0, torch.device("cpu"))
    assert losses.shape == (8,) and losses[-1] < losses[0]
    seen = set()
    for images, targets in model.batches:
        for one, wanted in zip(images, targets):
            assert torch.equal(one[0] == 1, wanted["masks"][0]) and one.max() == 1
            around = ops.masks_to_boxes(wanted["masks"]) + torch.tensor([0, 0, 1, 1])
            torch.testing.assert_close(around, wanted["boxes"])
            seen.add(wanted["boxes"][0, 0].item())
    assert seen == {2.0, 23.0} and target["boxes"][0, 0] == 2


def test_predicted_masks_are_cut_at_one_half_in_evaluation_mode():
    model = Detector().train()
    found, = lesson.predict_masks(model, [torch.zeros(3, 5, 8, dtype=torch.uint8)], torch.device("cpu"))
    assert not model.training and found["masks"].dtype == torch.bool
    assert found["masks"].shape == (1, 5, 8) and found["masks"].sum() == 15


# ---- what the notebook does with them, as it stands there


def test_results_are_taken_from_the_row_that_they_name():
    cell, = (cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if cell.source.startswith("results = "))
    entries = re.findall(r'"(filled_box|ellipse|grid_\d+)_mask_map(|_small|_large)": (.*),', cell)
    assert len(entries) == 6
    for way, size, source in entries:
        row = re.sub(r"grid (\d+)", r"grid \1×\1", way.replace("_", " "))
        assert source == f'table.loc["{row}", "{size[1:] or "mask mAP"}"]'


def test_the_network_has_an_output_for_the_background():
    source = "\n".join(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)))
    assert "new_heads(model, len(kinds) + 1)" in source


def test_the_worst_large_object_is_shown_with_its_own_box():
    boxes = torch.tensor([[0.0, 0, 30, 30], [5, 5, 35, 35], [40, 0, 42, 3]])
    thin = torch.zeros(3, 40, 60, dtype=torch.bool)
    thin[0, :30, :30] = True  # a full square: no grid harms it
    thin[1, 5:35, 5:35] = torch.eye(30, dtype=torch.bool) | torch.eye(30, dtype=torch.bool).flip(0)
    thin[2, :3, 40:42] = True  # too small
    none = {"boxes": boxes[:0], "masks": thin[:0]}
    space = run_cell(NOTEBOOK, "worst = []", targets=[none, {"boxes": boxes, "masks": thin}], LARGE=7,
                     on_grid=lesson.on_grid, mask_overlaps=lesson.mask_overlaps)
    assert torch.equal(space["mask"], thin[1:2]) and space["frame"].tolist() == [[5, 5, 35, 35]]
    assert (space["row"], space["k"], space["x0"], space["y1"]) == (1, 1, 5, 35)


def test_the_mean_over_classes_is_of_the_ellipses_and_can_be_weighted_by_objects(capsys):
    judged = {"ellipse": {"classes": torch.tensor([3, 7, 9]), "map_per_class": torch.tensor([0.2, 0.8, 0.5])}}
    targets = [{"labels": torch.tensor([3, 3, 7, 9, 9])}, {"labels": torch.tensor([3] * 10)}]
    space = run_cell(NOTEBOOK, "map_per_class", judged=judged, targets=targets,
                     names={3: "cat", 7: "dog", 8: "cow", 9: "bus"})
    assert space["per_class"].to_dict("list") == {"objects": [12, 1, 2], "AP": pytest.approx([0.2, 0.8, 0.5])}
    said = capsys.readouterr().out
    assert "3 of 4 classes occur, 2 of them" in said
    assert f"mean over classes 0.500, weighted by objects {(12 * 0.2 + 0.8 + 2 * 0.5) / 15:.3f}" in said
    assert f"rare classes {np.std([0.8, 0.5], ddof=1):.2f}" in said


def test_no_photo_is_in_two_parts_and_none_is_without_the_kinds():
    photos, categories = list(range(100, 140)), {16: "bird", 17: "cat", 18: "dog", 44: "bottle"}
    anns = {n: {"category_id": (16, 17, 44)[n % 3]} for n in range(40)}
    coco = SimpleNamespace(anns=anns, getAnnIds=lambda number: [number - 100])
    space = run_cell(NOTEBOOK, "kinds = {number", names=categories, KINDS=("cat", "bird"), SEED=0, VALIDATION=0.15,
                     TEST=0.25, plain=SimpleNamespace(ids=photos, coco=coco))
    assert space["kinds"] == {16: 1, 17: 2}
    rows = [row for part in space["parts"].values() for row in part]
    assert sorted(rows) == [row for row in range(40) if row % 3 != 2]
    assert {part: len(some) for part, some in space["parts"].items()} == {"val": 4, "test": 6, "train": 17}


def test_each_part_is_judged_by_its_own_targets_and_only_training_photos_train():
    events = []
    space = run_cell(
        NOTEBOOK, "untrained_map = ", model=nn.Identity(), kinds={1: 1}, device="cpu", STEPS=1, BATCH_SIZE=2,
        LEARNING_RATE=1.0, SEED=0, images="test photos", wanted="test truths", new_heads=lambda model, n: model,
        data={part: (f"{part} photos", f"{part} truths") for part in ("train", "val", "test")},
        predict_masks=lambda model, images, device: images,
        fine_tune_masks=lambda model, images, targets, *_: events.append((images, targets)),
        coco_map=lambda found, truths, **_: events.append((found, truths)) or {"map": torch.tensor(float(len(events)))})
    val = ("val photos", "val truths")
    assert events == [val, ("train photos", "train truths"), val, ("test photos", "test truths")]
    found = run_cell(NOTEBOOK, "results |= ", results={}, before_map=0.5,
                     **{name: space[name] for name in ("untrained_map", "after_map")})["results"]
    assert found == {"before_test_mask_map": 0.5, "untrained_val_mask_map": 1.0, "after_test_mask_map": 4.0}


def test_crowds_and_empty_photos_are_counted(capsys):
    coco = SimpleNamespace(anns={1: {"iscrowd": 1}, 2: {"iscrowd": 0}, 3: {"iscrowd": 0}, 4: {"iscrowd": 0}},
                           getAnnIds=lambda number: [] if number == 5 else [1])

    class Photos:
        ids = [5, 6, 7]

        def __len__(self):
            return 3

    Photos.coco = coco
    run_cell(NOTEBOOK, "crowds = sum", plain=Photos(), names={1: "a", 3: "b"})
    assert "never used: [2]\n3 photos; 1 without an object; 4 annotations, 1 of them crowds" in capsys.readouterr().out


def test_the_prose_says_what_the_stored_run_showed():
    found = assert_shown(NOTEBOOK, "ellipses: mean over classes {ellipse_mask_map:.3f}",
                         "{classes_that_occur:.0f} of 80 classes occur")
    assert_said(NOTEBOOK, "the mean over classes was {ellipse_mask_map:.2f}")
    assert round(100 - 100 * found["grid_7_mask_map"]) == 22 and found["grid_28_mask_map"] > 0.99
