"""What Training_RCNN.ipynb defines: proposals, labels, crops, box coding, losses, training, detections."""
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import nn
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, Matcher

from tests.cells import run_cell
from tests.definitions import definitions

CLASSES = ("Platelets", "RBC", "WBC")
DEVIATION = torch.tensor([0.1, 0.1, 0.2, 0.2])
lesson = definitions(
    "Chapter07/Training_RCNN.ipynb", "field_of", "load_bccd", "split_groups", "merge_regions_quickly",
    "region_proposals", "recall", "assign", "cut", "make_examples", "encode", "decode", "BoxHead", "small_trunk",
    "rcnn", "flip_half", "box_losses", "train_rcnn", "rcnn_outputs", "detections", "detect_all", "coco_map",
    "SAME_FIELD")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def some_boxes(n, seed, width=320, height=240, least=1.0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator) * torch.tensor([width - 60.0, height - 60.0])
    return torch.cat([low, low + least + 58 * torch.rand(n, 2, generator=generator)], dim=1)


# ---- the photos


def test_photos_are_shrunk_with_their_boxes_and_points_are_left_out(tmp_path):
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / name).mkdir()
    for number in (257, 3):
        pixels = np.zeros((480, 640, 3), np.uint8)
        pixels[100:300, 200:440] = 255
        Image.fromarray(pixels).save(tmp_path / f"JPEGImages/BloodImage_{number:05d}.jpg", quality=95)
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>" for name, x0, y0, x1, y1 in (
                ("WBC", 200, 100, 440, 300), ("RBC", 504, 337, 504, 337), ("Platelets", 7, 9, 7, 40),
                ("RBC", 9, 9, 5, 20)))
        (tmp_path / f"Annotations/BloodImage_{number:05d}.xml").write_text(f"<annotation>{objects}</annotation>")
    photos, boxes, labels, fields = lesson.load_bccd(tmp_path, 320, CLASSES, ((3, 4), (230, 257)))
    assert photos.shape == (2, 3, 240, 320) and photos.dtype == torch.uint8
    assert [one.tolist() for one in boxes] == [[[100, 50, 220, 150]]] * 2
    assert [one.tolist() for one in labels] == [[3]] * 2
    assert fields.tolist() == [3, 230]
    assert photos[:, :, 55:145, 105:215].min() > 200 and photos[:, :, :45].max() < 60


def test_no_field_of_view_is_on_two_sides():
    names = [f"BloodImage_{number:05d}" for number in range(411)]
    fields = torch.tensor([lesson.field_of(name, lesson.SAME_FIELD) for name in names])
    assert len(fields.unique()) == 411 - 63 + 27
    parts = lesson.split_groups(fields, 0.15, 0.25)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(411))
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(fields[parts[a]].tolist()) & set(fields[parts[b]].tolist())
    assert 0.2 < len(parts["test"]) / 411 < 0.3


# ---- proposals


def test_merging_passes_through_every_region_to_the_whole_photo():
    rng = np.random.default_rng(0)
    segments = ndimage.zoom(np.arange(12).reshape(3, 4), (10, 9), order=0)
    image = rng.uniform(0, 255, (30, 36, 3))
    boxes = lesson.merge_regions_quickly(segments, image)
    assert boxes.shape == (23, 4) and boxes[-1].tolist() == [0, 0, 36, 30]
    for region in range(12):
        ys, xs = np.nonzero(segments == region)
        assert boxes[region].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert lesson.merge_regions_quickly(np.zeros((5, 7), int), np.zeros((5, 7, 3))).tolist() == [[0, 0, 7, 5]]


def test_similar_neighbors_are_merged_first():
    segments = np.repeat(np.arange(4), 10)[None].repeat(20, axis=0)
    colors = np.array([[0, 0, 0], [250, 0, 0], [245, 5, 0], [0, 0, 250]], float)
    boxes = lesson.merge_regions_quickly(segments, colors[segments])
    assert boxes[4].tolist() == [10, 0, 30, 20]  # the two red ones


def test_proposals_find_drawn_cells_and_keep_to_the_limits():
    y, x = np.mgrid[:240, :320]
    photo = np.full((240, 320, 3), 220)
    cells = torch.tensor([[40.0, 40, 100, 100], [180, 60, 260, 140], [90, 170, 110, 190]])
    for x0, y0, x1, y1 in cells.tolist():
        photo[(x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2 <= ((x1 - x0) / 2) ** 2] = (200, 90, 110)
    photo = torch.from_numpy(photo.astype(np.uint8)).permute(2, 0, 1)
    found = lesson.region_proposals(photo, 160, (20, 60), 8, 180)
    assert found.dtype == torch.float32 and len(found.unique(dim=0)) == len(found)
    assert ops.box_iou(cells, found).amax(dim=1).min() > 0.8
    sides = found[:, 2:] - found[:, :2]
    assert sides.min() >= 8 and sides.max() <= 180
    assert (found[:, :2] >= 0).all() and (found[:, 2:] <= torch.tensor([320, 240])).all()


# ---- labels


@pytest.mark.parametrize("least", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_those_of_torchvisions_matcher(least, seed):
    boxes = some_boxes(9, seed)
    proposals = torch.cat([some_boxes(200, 100 + seed), boxes, boxes + 3])
    labels = torch.randint(1, 4, (9,), generator=torch.Generator().manual_seed(seed))
    found, target, value = lesson.assign(proposals, boxes, labels, least)
    matched = Matcher(least, least)(ops.box_iou(boxes, proposals))
    assert torch.equal(found, torch.where(matched >= 0, labels[matched.clamp(min=0)], 0))
    torch.testing.assert_close(value, ops.box_iou(boxes, proposals).amax(dim=0))
    rows = matched >= 0
    assert torch.equal(target[rows], boxes[matched[rows]])
    assert (found[200:209] == labels).all()


def test_labels_of_nothing_and_at_the_threshold():
    labels, target, value = lesson.assign(some_boxes(5, 0), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0.5)
    assert labels.tolist() == [0] * 5 and value.tolist() == [0] * 5 and target.shape == (5, 4)
    assert lesson.assign(torch.zeros(0, 4), some_boxes(2, 0), torch.ones(2, dtype=torch.int64), 0.5)[0].shape == (0,)
    half = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 5]])
    assert lesson.assign(*half, torch.tensor([2]), 0.5)[0].tolist() == [2]  # IoU is exactly 0.5
    assert lesson.assign(*half, torch.tensor([2]), 0.51)[0].tolist() == [0]


def test_recall_by_class():
    boxes = [torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([[0.0, 0, 10, 10]])]
    labels = [torch.tensor([1, 2]), torch.tensor([2])]
    proposals = [torch.tensor([[0.0, 0, 10, 9], [100, 100, 120, 120]]), torch.tensor([[0.0, 0, 10, 5]])]
    found = lesson.recall([0, 1], proposals, boxes, labels, ("a", "b"), 0.5)
    assert found == {"a": 1.0, "b": 0.5}
    assert lesson.recall([0, 1], proposals, boxes, labels, ("a", "b"), 0.6) == {"a": 1.0, "b": 0.0}


# ---- crops


def test_a_crop_shows_its_box():
    photo = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = lesson.cut(photo, torch.tensor([[0.0, 0, 8, 8], [8, 16, 16, 24]]), 8, 0)
    assert whole.dtype == torch.uint8 and whole.shape == (2, 3, 8, 8)
    smooth = torch.zeros(3, 24, 32, dtype=torch.uint8)
    smooth[0] = torch.arange(32) * 8  # red grows to the right,
    smooth[1] = torch.arange(24)[:, None] * 10  # green downwards
    crop = lesson.cut(smooth, torch.tensor([[8.0, 4, 24, 20]]), 8, 0)[0].float()
    assert (crop[0].diff(dim=1) == 16).all() and (crop[1].diff(dim=0) == 20).all()
    assert crop[0, 0, 0].item() == pytest.approx(8 * 8.5, abs=1)
    assert crop[1, 0, 0].item() == pytest.approx(10 * 4.5, abs=1)
    wider = lesson.cut(smooth, torch.tensor([[8.0, 4, 24, 20]]), 8, 0.25)[0].float()
    assert wider[0].min() < crop[0].min() and wider[0].max() > crop[0].max()
    torch.testing.assert_close(wider, lesson.cut(smooth, torch.tensor([[6.0, 2, 26, 22]]), 8, 0)[0].float())
    assert lesson.cut(photo, torch.zeros(0, 4), 8, 0.2).shape == (0, 3, 8, 8)


def test_examples_are_balanced_and_fit_together():
    photos = torch.zeros(2, 3, 240, 320, dtype=torch.uint8)
    boxes = [some_boxes(4, 1, least=20), some_boxes(3, 2, least=20)]
    labels = [torch.tensor([1, 2, 3, 2]), torch.tensor([3, 3, 1])]
    for i in range(2):
        for k, (x0, y0, x1, y1) in enumerate(boxes[i].long().tolist()):
            photos[i, 0, y0:y1, x0:x1] = 50 * (k + 1)
    proposals = [torch.cat([boxes[i] + 2, some_boxes(60, 5 + i)]) for i in range(2)]
    given_ = [0, 1], photos, proposals, boxes, labels, 0.5, 6, 10, 12, 0.2
    crops, found, references, targets = lesson.make_examples(*given_)
    assert len(crops) == len(found) == len(references) == len(targets)
    assert 0 < (found > 0).sum() <= 12 and (found == 0).sum() <= 20
    everything = torch.cat(boxes)
    for k in (found > 0).nonzero().squeeze(1):
        overlap = ops.box_iou(references[k : k + 1], everything)[0]
        assert overlap.max() >= 0.5 and torch.cat(labels)[(everything == targets[k]).all(dim=1)][0] == found[k]
    for reference in references[found == 0]:
        assert min(ops.box_iou(reference[None], boxes[i]).max() for i in range(2)) < 0.5
    again = lesson.make_examples(*given_)
    assert all(torch.equal(a, b) for a, b in zip(again, (crops, found, references, targets)))


# ---- box coding


@pytest.mark.parametrize("deviation", [DEVIATION, torch.ones(4), torch.tensor([0.1, 0.2, 0.3, 0.4])])
@pytest.mark.parametrize("seed", range(3))
def test_coding_equals_torchvisions(deviation, seed):
    boxes, references = some_boxes(300, seed), some_boxes(300, 50 + seed)
    coder = BoxCoder(weights=tuple((1 / deviation).tolist()))
    moves = lesson.encode(boxes, references, deviation)
    torch.testing.assert_close(moves, coder.encode_single(boxes, references), rtol=1e-4, atol=1e-4)
    wild = torch.randn(300, 4, generator=torch.Generator().manual_seed(seed)) * 40
    ours = lesson.decode(wild, references, deviation)
    torch.testing.assert_close(ours, coder.decode_single(wild, references), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(lesson.decode(moves, references, deviation), boxes, rtol=1e-4, atol=1e-2)


def test_coding_of_nothing_of_points_and_backwards():
    assert lesson.encode(torch.zeros(0, 4), torch.zeros(0, 4), DEVIATION).shape == (0, 4)
    assert lesson.decode(torch.zeros(0, 4), torch.zeros(0, 4), DEVIATION).shape == (0, 4)
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert not torch.isfinite(lesson.encode(point, some_boxes(1, 0), DEVIATION)).all()  # why such boxes are left out
    huge = lesson.decode(torch.full((1, 4), 1e4), some_boxes(1, 0), DEVIATION)
    assert torch.isfinite(huge).all()
    moves, references = torch.randn(20, 4).requires_grad_(), some_boxes(20, 1)
    other = moves.detach().clone().requires_grad_()
    weights = torch.rand(20, 4)
    (lesson.decode(moves, references, DEVIATION) * weights).sum().backward()
    (BoxCoder(weights=(10, 10, 5, 5)).decode_single(other, references) * weights).sum().backward()
    torch.testing.assert_close(moves.grad, other.grad, rtol=1e-4, atol=1e-4)


# ---- losses and training


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 0, 3], [2, 2, 1]])
def test_losses(labels):
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator, requires_grad=True)
    moves = torch.randn(3, 4, generator=generator, requires_grad=True)
    targets = 3 * torch.randn(3, 4, generator=generator)
    first, second = lesson.box_losses(logits, moves, labels, targets)
    rows = labels > 0
    torch.testing.assert_close(first, F.cross_entropy(logits, labels))
    wanted = F.smooth_l1_loss(moves[rows], targets[rows]) if rows.any() else torch.tensor(0.0)
    torch.testing.assert_close(second, wanted)
    (first + second).backward()
    assert torch.isfinite(moves.grad).all() and (moves.grad[~rows] == 0).all() and (moves.grad[rows] != 0).all()


def test_a_mirrored_crop_has_the_mirrored_move():
    generator = torch.Generator().manual_seed(3)
    references, boxes = some_boxes(200, 0), some_boxes(200, 1)
    moves = lesson.encode(boxes, references, DEVIATION)
    images = torch.arange(200 * 4, dtype=torch.float32).view(200, 1, 2, 2)
    kept = images.clone(), moves.clone()
    flipped, changed = lesson.flip_half(images, moves, generator)
    assert torch.equal(images, kept[0]) and torch.equal(moves, kept[1])
    kinds = set()
    for k in range(200):
        across = not torch.equal(flipped[k, 0, 0].sort().values, images[k, 0, 0].sort().values)  # rows exchanged
        along = flipped[k, 0, 0, 0] > flipped[k, 0, 0, 1]  # columns exchanged
        kinds.add((across, bool(along)))
        pair = torch.stack([boxes[k], references[k]])
        if along:
            pair = torch.stack([320 - pair[:, 2], pair[:, 1], 320 - pair[:, 0], pair[:, 3]], dim=1)
        if across:
            pair = torch.stack([pair[:, 0], 240 - pair[:, 3], pair[:, 2], 240 - pair[:, 1]], dim=1)
        wanted = lesson.encode(pair[:1], pair[1:], DEVIATION)[0]
        torch.testing.assert_close(changed[k], wanted, rtol=1e-3, atol=1e-3)
    assert len(kinds) == 4


def test_the_network_has_the_shapes_it_says():
    features = lesson.small_trunk(4)(torch.zeros(2, 3, 24, 32))
    assert features.shape == (2, 8, 6, 8)
    logits, moves = lesson.rcnn(4, 28, 3, 0)(torch.zeros(5, 3, 28, 28))
    assert logits.shape == (5, 4) and moves.shape == (5, 4)
    first, again, other = (torch.cat([p.flatten() for p in lesson.rcnn(4, 28, 3, seed).parameters()])
                           for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


class Spy(nn.Module):
    """Answers of one layer; remembers each batch."""

    def __init__(self):
        super().__init__()
        self.layer, self.batches, self.modes = nn.Linear(3 * 64, 8), [], []

    def forward(self, x):
        self.batches.append(x.detach().clone())
        self.modes.append(self.training)
        return self.layer(x.flatten(1)).split(4, dim=1)


def test_training_is_balanced_learns_and_repeats():
    torch.manual_seed(0)
    labels = torch.cat([torch.zeros(90, dtype=torch.int64), torch.randint(1, 4, (10,))])
    crops = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    crops[labels > 0] += 60 * labels[labels > 0, None, None, None].to(torch.uint8)
    moves = torch.where((labels > 0)[:, None], torch.randn(100, 4), 0)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = Spy().eval()
        losses = lesson.train_rcnn(model, crops, labels, moves, 60, 16, 1e-2, 5)
        runs.append(losses)
        assert losses.shape == (60, 2) and all(model.modes)
        objects = torch.stack([(batch.flatten(1).amax(dim=1) > -1).sum() for batch in model.batches])
        assert (objects == 4).all() and all(len(batch) == 16 for batch in model.batches)
    assert torch.equal(*runs) and runs[0][-10:, 0].mean() < 0.7 * runs[0][:5, 0].mean()


# ---- detections


def reference(probabilities, boxes, height, width, least, overlap, most):
    """The same, class after class."""
    boxes = boxes.clone()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    found = []
    for label in range(1, probabilities.shape[1]):
        rows = (probabilities[:, label] >= least).nonzero().squeeze(1)
        rows = rows[ops.nms(boxes[rows], probabilities[rows, label], overlap)]
        found += [(probabilities[row, label].item(), label, boxes[row].tolist()) for row in rows]
    return sorted(found, reverse=True)[:most]


@quickly
@given(st.integers(0, 60), st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.4]),
       st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([1, 5, 100]))
def test_detections_equal_nms_class_after_class(n, seed, least, overlap, most):
    generator = torch.Generator().manual_seed(seed)
    boxes = some_boxes(n, seed) * 1.2 - 20  # some reach beyond the photo
    probabilities = (2 * torch.randn(n, 4, generator=generator)).softmax(dim=1)
    found = lesson.detections(probabilities, boxes, 240, 320, least, overlap, most)
    wanted = reference(probabilities, boxes, 240, 320, least, overlap, most)
    assert found["boxes"].shape == (len(wanted), 4) and found["labels"].dtype == torch.int64
    assert found["labels"].tolist() == [label for _, label, _ in wanted]
    torch.testing.assert_close(found["scores"].tolist(), [score for score, _, _ in wanted])
    torch.testing.assert_close(found["boxes"].tolist(), [box for _, _, box in wanted])


def test_background_is_never_detected_and_classes_do_not_suppress_one_another():
    boxes = torch.tensor([[10.0, 10, 50, 50]] * 3)
    probabilities = torch.tensor([[0.1, 0.8, 0.05, 0.05], [0.1, 0.05, 0.8, 0.05], [0.97, 0.01, 0.01, 0.01]])
    found = lesson.detections(probabilities, boxes, 240, 320, 0.3, 0.5, 100)
    assert sorted(found["labels"].tolist()) == [1, 2]


@pytest.mark.parametrize("regression", [True, False])
def test_regression_moves_boxes_and_nothing_else(regression):
    proposals, moves = some_boxes(3, 0, least=30), torch.randn(3, 4)
    placed = {7: (torch.zeros(3, 240, 320, dtype=torch.uint8), proposals)}
    outputs = {7: (torch.eye(4)[1:], moves)}
    [found] = lesson.detect_all([7], outputs, placed, DEVIATION, 0.5, regression)
    boxes = lesson.decode(moves, proposals, DEVIATION) if regression else proposals
    wanted = ops.clip_boxes_to_image(boxes, (240, 320))
    torch.testing.assert_close(found["boxes"][found["labels"].argsort()], wanted)


def test_outputs_are_probabilities_of_the_crops():
    model = lesson.rcnn(4, 28, 3, 0).eval()
    photo = torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    proposals = some_boxes(6, 0)
    probabilities, moves = lesson.rcnn_outputs(model, photo, proposals, 28, 0.2)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(6))
    logits, again = model(lesson.cut(photo, proposals, 28, 0.2).float() / 127.5 - 1)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moves, again, rtol=1e-4, atol=1e-4)
    assert not probabilities.requires_grad


def test_the_truth_scores_one_and_another_class_nothing():
    truth = [{"boxes": some_boxes(5, 0, least=20), "labels": torch.tensor([1, 2, 3, 2, 1])}]
    right = [{**truth[0], "scores": torch.ones(5)}]
    wrong = [{**right[0], "labels": truth[0]["labels"] % 3 + 1}]
    assert lesson.coco_map(right, truth)["map"] == pytest.approx(1)
    assert lesson.coco_map(wrong, truth)["map_50"] < 0.5


def tested():
    """mAP50 and mAP by regression and seed: with regression 0.8 and 0.5, without 0.6 and 0.2, and 0.01 more a seed."""
    return {(flag, seed): {"map_50": torch.tensor((0.8 if flag else 0.6) + seed / 100),
                           "map": torch.tensor((0.5 if flag else 0.2) + seed / 100)}
            for flag in (True, False) for seed in (0, 1, 2)}


def test_the_test_photos_are_tested_with_and_without_regression_beside_boxes_of_training_photos():
    parts = {"train": [0, 1], "val": [2], "test": [3, 4]}
    targets = {part: [{"boxes": torch.full((2, 4), float(k)), "labels": torch.tensor([k, k])} for k in rows]
               for part, rows in parts.items()}
    found = run_cell(
        "Chapter07/Training_RCNN.ipynb", 'base = {name: coco_map(found, targets["test"])', parts=parts, targets=targets,
        share=torch.ones(4), proposals={k: torch.full((3, 4), float(k)) for k in range(5)}, height=3, width=4,
        overlap=0.4, MOST=9, SEEDS=(0, 1), outputs={0: "first", 1: "second"}, placed="placed", deviation="deviation",
        detections=lambda p, boxes, height, width, least, overlap, most: ("prior", boxes[0, 0].item()),
        detect_all=lambda rows, outputs, placed, deviation, overlap, regression: (tuple(rows), outputs, regression),
        coco_map=lambda found, truth: (found, [one["labels"][0].item() for one in truth]))
    assert all(truth == [3, 4] for _, truth in (*found["base"].values(), *found["tested"].values()))
    assert {key: value[0] for key, value in found["tested"].items()} == {
        (flag, seed): ((3, 4), name, flag) for flag in (True, False) for seed, name in ((0, "first"), (1, "second"))}
    assert found["base"]["class prior"][0] == [("prior", 3), ("prior", 4)]
    copied = found["base"]["copied boxes"][0]
    assert len(copied) == 2 and all(one["labels"][0] in (0, 1) and len(one["scores"]) == 2 for one in copied)


def test_tables_and_results_are_taken_from_where_they_belong():
    name = "Chapter07/Training_RCNN.ipynb"
    base = {"copied boxes": {"map_50": torch.tensor(0.05), "map": torch.tensor(0.01)},
            "class prior": {"map_50": torch.tensor(0.04), "map": torch.tensor(0.02)}}
    found = run_cell(name, "score = {key: pd.DataFrame", tested=tested(), SEEDS=(0, 1, 2), base=base)
    assert found["table"].to_numpy().tolist() == [
        pytest.approx(row) for row in ([0.81, 0.01, 0.51, 0.01], [0.61, 0.01, 0.21, 0.01], [0.05, 0, 0.01, 0],
                                       [0.04, 0, 0.02, 0])]
    assert list(found["table"].index) == ["R-CNN", "R-CNN without regression", "copied boxes", "class prior"]
    results = run_cell(
        name, '"rcnn_test_map50_without_regression"', score=found["score"], base=base, SEEDS=(0,),
        before=torch.tensor([0.5, 0.7]), after=torch.tensor([0.8, 0.9]), models={0: nn.Linear(3, 2)},
        milliseconds=pd.Series({"proposals": 50.0, "cut": 1.0, "network": 2.0, "NMS": 4.0}))["results"]
    assert results == pytest.approx({
        "rcnn_test_map50": 0.81, "rcnn_test_map50_std": 0.01, "rcnn_test_map": 0.51, "rcnn_test_map_std": 0.01,
        "rcnn_test_map50_without_regression": 0.61, "rcnn_test_map_without_regression": 0.21, "copied_map50": 0.05,
        "prior_map50": 0.04, "mean_iou_before_regression": 0.6, "mean_iou_after_regression": 0.85,
        "proposals_ms_per_photo": 50, "rcnn_ms_per_photo": 7, "rcnn_parameters": 8})


def test_boxes_before_and_after_regression_are_those_of_the_test_photos():
    target = torch.tensor([[0.0, 0, 10, 10]])
    half, right = torch.tensor([[0.0, 0, 10, 5]]), target
    found = run_cell(
        "Chapter07/Training_RCNN.ipynb", "before, after = torch.cat(before)", parts={"val": [0], "test": [1]},
        MATCH=0.5, proposals={0: torch.zeros(1, 4), 1: half}, boxes={0: torch.ones(1, 4), 1: target},
        labels={1: torch.tensor([2])},
        assign=lambda proposals, boxes, labels, least: (labels, boxes, ops.box_iou(proposals, boxes).diagonal()),
        SEEDS=(5,), outputs={5: {1: (None, right)}}, deviation=None, decode=lambda moves, references, deviation: moves)
    assert found["before"].tolist() == [0.5] and found["after"].tolist() == [1]
