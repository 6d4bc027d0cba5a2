"""Boxes, moves, IoU, NMS, smooth L1, matching and average precision of the Faster R-CNN notebook."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision import ops, tv_tensors
from torchvision.models.detection._utils import BoxCoder

from tests.definitions import definitions

lesson = definitions(
    "Chapter08/Training_Faster_RCNN.ipynb", "to_xyxy", "to_xywh", "area", "read_photo", "audit", "repair", "augment",
    "thumbnails", "encode", "decode", "iou", "nms", "smooth_l1", "match", "precision_recall", "average_precision",
    "best_threshold", "blind_recall", "found_false_missed", "mistakes", "count_verdicts", "training_mode",
    "running_mean", "spoil",
    "class_table")  # fmt: skip
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def random_boxes(count, generator, side=100.0):
    """Boxes (count, 4) xyxy of sides from 1 pixel on, within a square of `side` pixels."""
    corner = torch.rand(count, 2, generator=generator) * (side - 2)
    size = 1 + torch.rand(count, 2, generator=generator) * (side - 1 - corner)
    return torch.cat([corner, corner + size], dim=1)


def row(boxes, classes=None, size=(100, 80), areas=None):
    """A row of the dataset: boxes in COCO's format, on a plain photo of `size` (width, height)."""
    areas = [int(w * h) for _, _, w, h in boxes] if areas is None else areas
    return {"image": Image.new("RGB", size, (200, 100, 50)),
            "objects": {"bbox": boxes, "area": areas, "category": classes or [1] * len(boxes)}}  # fmt: skip


@quick
@given(seeds, st.integers(0, 8))
def test_formats(seed, count):
    boxes = random_boxes(count, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(lesson.to_xywh(boxes), ops.box_convert(boxes, "xyxy", "xywh"))
    torch.testing.assert_close(lesson.to_xyxy(lesson.to_xywh(boxes)), boxes)
    torch.testing.assert_close(lesson.area(boxes), ops.box_area(boxes))


def test_photos_are_read_in_coco_format():
    image, target = lesson.read_photo(row([[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 100.0, 80.0]], [2, 3]))
    assert image.shape == (3, 80, 100) and image[:, 0, 0].tolist() == [200, 100, 50]
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes) and target["boxes"].canvas_size == (80, 100)
    assert target["boxes"].tolist() == [[10, 20, 40, 60], [0, 0, 100, 80]] and target["labels"].tolist() == [2, 3]
    _, empty = lesson.read_photo(row([]))
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)


def test_audit_sees_each_fault():
    right = [lesson.read_photo(row([[10.0, 20.0, 30.0, 40.0], [60.0, 50.0, 20.0, 10.0]]))]
    assert lesson.audit(right) == {"boxes": 2, "area as stated": 1, "inside": 1, "of class 0": 0}
    xyxy = [lesson.read_photo(row([[10.0, 20.0, 40.0, 60.0], [60.0, 50.0, 80.0, 60.0]], areas=[1200, 200]))]
    assert lesson.audit(xyxy)["area as stated"] == 0
    inverted = [lesson.read_photo(row([[10.0, 20.0, -30.0, -40.0]], areas=[1200]))]
    assert lesson.audit(inverted)["area as stated"] == 0
    outside = [lesson.read_photo(row([[80.0, 20.0, 30.0, 40.0], [-5.0, 0.0, 20.0, 10.0]]))]
    assert lesson.audit(outside)["inside"] == 0
    assert lesson.audit([lesson.read_photo(row([[1.0, 2.0, 30.0, 40.0]] * 3, [0, 1, 0]))])["of class 0"] == 2


def test_repair_cuts_and_drops_with_the_label():
    sample = lesson.read_photo(row([[80.0, 20.0, 30.0, 40.0], [5.0, 5.0, 0.0, 9.0], [1.0, 1.0, 9.0, 9.0]], [1, 2, 3]))
    _, target = lesson.repair(*sample)
    assert target["boxes"].tolist() == [[80, 20, 100, 60], [1, 1, 10, 10]] and target["labels"].tolist() == [1, 3]


def test_boxes_stay_on_what_they_enclose():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 5:15, 30:50] = 255
    boxes = tv_tensors.BoundingBoxes([[30.0, 5.0, 50.0, 15.0]], format="XYXY", canvas_size=(40, 60))
    places = set()
    for seed in range(12):
        torch.manual_seed(seed)
        moved, target = lesson.augment(tv_tensors.Image(image), {"boxes": boxes, "labels": torch.tensor([1])})
        y, x = (moved[0] > 0.3).nonzero().T
        assert target["boxes"][0].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert moved.dtype == torch.float32 and moved.max() <= 1
        places.add(tuple(target["boxes"][0].tolist()))
    assert len(places) == 4


def test_thumbnails_correlate():
    generator = torch.Generator().manual_seed(0)
    images = [tv_tensors.Image(torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8))
              for _ in range(3)]  # fmt: skip
    images.append(tv_tensors.Image((images[0] // 2) + 40))  # the first, paler
    images.append(tv_tensors.Image(torch.full((3, 64, 64), 90, dtype=torch.uint8)))
    rows = lesson.thumbnails([(image, {}) for image in images])
    likeness = rows @ rows.T
    assert likeness[0, 3] > 0.99 and likeness[0, 1].abs() < 0.3 and likeness[4].abs().max() < 1e-5


def test_class_table():
    corners = [[0, 0, 10, 10], [0, 0, 32, 32], [0, 0, 96, 96.0]]
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(99, 99))
    table = lesson.class_table([(None, {"boxes": boxes, "labels": torch.tensor([1, 1, 2])})], ["none", "a", "b"])
    assert table["boxes"].to_dict() == {"a": 2, "b": 1} and table["side"]["b"] == 96
    assert table.loc["a", ["small", "medium", "large"]].tolist() == [0.5, 0.5, 0]
    assert table.loc["b", ["small", "medium", "large"]].tolist() == [0, 0, 1]


@quick
@given(seeds, st.integers(0, 8), st.sampled_from([(1, 1, 1, 1), (10.0, 10.0, 5.0, 5.0)]))
def test_moves_equal_torchvisions_and_lead_back(seed, count, weights):
    generator = torch.Generator().manual_seed(seed)
    boxes, references = (random_boxes(count, generator).double() for _ in range(2))
    coder = BoxCoder(weights)
    moves = lesson.encode(boxes, references, weights)
    torch.testing.assert_close(moves, coder.encode_single(boxes, references))
    torch.testing.assert_close(lesson.decode(moves, references, weights), coder.decode_single(moves, references))
    kept = (moves[:, 2:] / torch.tensor(weights[2:]) < 4).all(dim=1)  # beyond 1000 / 16 growth is capped
    torch.testing.assert_close(lesson.decode(moves, references, weights)[kept], boxes[kept])


def test_growth_is_capped():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    grown = lesson.decode(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), box)
    torch.testing.assert_close(grown[:, 2:] - grown[:, :2], torch.full((1, 2), 625.0))


@quick
@given(seeds, st.integers(0, 7), st.integers(0, 7))
def test_iou(seed, n, m):
    generator = torch.Generator().manual_seed(seed)
    a, b = random_boxes(n, generator), random_boxes(m, generator)
    torch.testing.assert_close(lesson.iou(a, b), ops.box_iou(a, b))


def test_iou_of_separate_touching_and_nested_boxes():
    boxes = torch.tensor([[0, 0, 2, 2], [2, 0, 4, 2], [5, 5, 9, 9], [0, 0, 4, 4.0]])
    assert lesson.iou(boxes[:1], boxes)[0].tolist() == [1, 0, 0, 0.25]


@quick
@given(seeds, st.integers(0, 30), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]))
def test_nms(seed, count, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = random_boxes(count, generator, side=20), torch.rand(count, generator=generator)
    assert lesson.nms(boxes, scores, threshold).tolist() == ops.nms(boxes, scores, threshold).tolist()


@quick
@given(st.lists(st.floats(-50, 50), max_size=20), st.sampled_from([1 / 9, 0.5, 1.0]))
def test_smooth_l1(errors, beta):
    errors = torch.tensor(errors, dtype=torch.float64)
    expected = F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=beta, reduction="none")
    torch.testing.assert_close(lesson.smooth_l1(errors, beta), expected)


def test_a_true_box_is_taken_once_by_the_better_detection():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    boxes = torch.tensor([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 6], [20, 0, 30, 4.0], [50, 50, 60, 60]])
    assert lesson.match(boxes, truth).tolist() == [0, -1, 1, -1, -1]
    assert lesson.match(boxes, truth, threshold=0.95).tolist() == [-1, 0, -1, -1, -1]
    assert lesson.match(boxes, truth[:0]).tolist() == [-1] * 5 and lesson.match(boxes[:0], truth).tolist() == []


def scenes(seed, photos, classes=3):
    """Random targets, and detections that are disturbed copies of them among inventions."""
    generator = torch.Generator().manual_seed(seed)
    predictions, targets = [], []
    for _ in range(photos):
        count, more = torch.randint(0, 7, (2,), generator=generator).tolist()
        boxes = random_boxes(count, generator)
        labels = torch.randint(1, classes + 1, (count,), generator=generator)
        target = {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 100)), "labels": labels}
        copies = [lesson.spoil(target, generator) for _ in range(2)]
        invented = {"boxes": random_boxes(more, generator), "scores": torch.rand(more, generator=generator),
                    "labels": torch.randint(1, classes + 1, (more,), generator=generator)}  # fmt: skip
        predictions.append({key: torch.cat([part[key] for part in (*copies, invented)]) for key in invented})
        targets.append({"boxes": boxes, "labels": labels})
    return predictions, targets


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 6), st.sampled_from([0.5, 0.75]))
def test_average_precision_equals_torchmetrics(seed, photos, threshold):
    predictions, targets = scenes(seed, photos)
    recalls = np.linspace(0, 1, 101).tolist()
    metric = MeanAveragePrecision(iou_thresholds=[threshold], class_metrics=True, rec_thresholds=recalls)
    metric.update(predictions, targets)
    judged = metric.compute()
    for label, expected in zip(judged["classes"].flatten().tolist(), judged["map_per_class"].flatten().tolist()):
        if expected >= 0:  # -1: no true box of that class
            _, precision, recall = lesson.precision_recall(predictions, targets, label, threshold)
            assert lesson.average_precision(precision, recall) == pytest.approx(expected, abs=1e-6)


def test_precision_recall_by_hand():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    targets = [{"boxes": truth, "labels": torch.tensor([1, 1])}, {"boxes": truth[:1], "labels": torch.tensor([2])}]
    predictions = [
        {"boxes": torch.cat([truth, truth[:1]]), "scores": torch.tensor([0.5, 0.9, 0.4]),
         "labels": torch.tensor([1, 1, 1])},
        {"boxes": truth[:1], "scores": torch.tensor([0.7]), "labels": torch.tensor([1])},  # right place, wrong class
    ]
    scores, precision, recall = lesson.precision_recall(predictions, targets, 1)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.5, 0.4]))
    torch.testing.assert_close(precision, torch.tensor([1, 1 / 2, 2 / 3, 2 / 4], dtype=torch.float64))
    torch.testing.assert_close(recall, torch.tensor([0.5, 0.5, 1, 1], dtype=torch.float64))
    assert lesson.average_precision(precision, recall) == pytest.approx((51 + 50 * 2 / 3) / 101)
    threshold, p, r, f1 = lesson.best_threshold(scores, precision, recall)
    assert (threshold, p, r, f1) == pytest.approx((0.5, 2 / 3, 1, 0.8))


def test_no_detection_at_all():
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [{"boxes": torch.tensor([[0, 0, 5, 5.0]]), "labels": torch.tensor([1])}]
    curve = lesson.precision_recall([none], targets, 1)
    assert lesson.average_precision(*curve[1:]) == 0 and lesson.best_threshold(*curve) == (1, 0, 0, 0)
    assert lesson.blind_recall([none], targets) == 0 and lesson.mistakes(none, targets[0], {1: 0.5}) == 1


def test_verdicts_count_each_box_once():
    predictions, targets = scenes(3, 6)
    for label in (1, 2, 3):
        counts = lesson.count_verdicts(predictions, targets, label, 0.5)
        total = sum((target["labels"] == label).sum() for target in targets)
        above = sum(((p["labels"] == label) & (p["scores"] >= 0.5)).sum() for p in predictions)
        assert counts["found"] + counts["missed"] == total and counts["found"] + counts["false"] == above
        scores, precision, recall = lesson.precision_recall(predictions, targets, label)
        last = (scores >= 0.5).sum() - 1
        assert counts["found"] == round(recall[last].item() * total.item())
        assert counts["found"] / above == pytest.approx(precision[last].item())


def test_blind_recall_ignores_classes():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    prediction = {"boxes": truth[:1], "scores": torch.tensor([0.1]), "labels": torch.tensor([77])}
    assert lesson.blind_recall([prediction], [{"boxes": truth, "labels": torch.tensor([1, 2])}]) == 0.5


def test_batch_norm_keeps_its_statistics():
    model = lesson.training_mode(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()))
    before = model[1].running_mean.clone()
    model(torch.randn(2, 3, 5, 5))
    assert model.training and model[2].training and torch.equal(model[1].running_mean, before)


def test_running_mean():
    assert lesson.running_mean([[1.0, 3.0, 5.0], [0.0, 0.0, 6.0]], 2).tolist() == [[2, 4], [0, 3]]
