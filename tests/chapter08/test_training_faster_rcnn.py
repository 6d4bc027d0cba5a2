"""Proposals, losses, matching, average precision, bootstrap and training steps of the Faster R-CNN notebook."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork

from tests.cells import run_cell
from tests.definitions import definitions

lesson = definitions(
    "Chapter08/Training_Faster_RCNN.ipynb", "small_faster_rcnn", "propose", "in_anchor_order", "rpn_losses",
    "roi_losses", "training_step", "train", "training_mode", "predict", "proposals_of", "best_overlaps", "claim",
    "photo_hits", "average_precision", "map_of", "bootstrap", "found_false_missed", "count_verdicts",
    "best_threshold", "flip", "flipped_batch", "coco_map", "LOSSES")  # fmt: skip
quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)
THRESHOLDS = np.arange(0.5, 1, 0.05).round(2).tolist()


def random_boxes(count, generator, side=100.0):
    """Boxes (count, 4) xyxy of sides from 1 pixel on, within a square of `side` pixels."""
    corner = torch.rand(count, 2, generator=generator) * (side - 2)
    size = 1 + torch.rand(count, 2, generator=generator) * (side - 1 - corner)
    return torch.cat([corner, corner + size], dim=1)


# ---- the detector's parts


@pytest.fixture(scope="module")
def model():
    return lesson.small_faster_rcnn(0, 6, (16, 40, 80), 40, (96, 128), 4)


@pytest.fixture(scope="module")
def seen(model):
    """One photo in the model: inputs, features, what the RPN says in the order of the anchors, the anchors."""
    model.eval()
    with torch.inference_mode():
        inputs, _ = model.transform([torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))])
        features = model.backbone(inputs.tensors)
        objectness, moves = model.rpn.head([features])
        anchors = model.rpn.anchor_generator(inputs, [features])[0]
    assert features.shape == (1, 12, 12, 16)
    return (inputs, features, lesson.in_anchor_order(objectness[0], 1)[:, 0], lesson.in_anchor_order(moves[0], 4),
            anchors)  # fmt: skip


def test_proposals_equal_torchvisions(model, seen):
    inputs, features, objectness, moves, anchors = seen
    with torch.inference_mode():
        ours = lesson.propose(objectness, moves, anchors, (96, 128), model.rpn.box_coder, 500, 40, 0.7)
        theirs = model.rpn(inputs, {"0": features})[0][0]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(lesson.proposals_of(model, torch.zeros(3, 3, 96, 128, dtype=torch.uint8), 2)[0],
                               lesson.proposals_of(model, torch.zeros(1, 3, 96, 128, dtype=torch.uint8))[0],
                               rtol=1e-3, atol=1e-2)  # fmt: skip


@quick
@given(seeds, st.integers(1, 60), st.sampled_from([0.3, 0.7, 1.0]), st.sampled_from([0.1, 3.0]))
def test_proposals_of_random_and_hostile_moves(seed, count, overlap, scale):
    generator = torch.Generator().manual_seed(seed)
    anchors, coder = random_boxes(count, generator), BoxCoder((1.0, 1.0, 1.0, 1.0))
    scores, moves = torch.randn(count, generator=generator), scale * torch.randn(count, 4, generator=generator)
    ours = lesson.propose(scores, moves, anchors, (100, 100), coder, 20, 7, overlap)
    assert len(ours) <= 7 and (ours >= 0).all() and (ours <= 100).all() and (ours[:, 2:] > ours[:, :2]).all()
    at_most = {"training": 20, "testing": 20}, {"training": 7, "testing": 7}
    library = RegionProposalNetwork(None, None, 0.7, 0.3, 1, 0.5, *at_most, overlap).eval()
    boxes = coder.decode_single(moves, anchors)[None]
    torch.testing.assert_close(ours, library.filter_proposals(boxes, scores[None], [(100, 100)], [count])[0][0])
    far = torch.tensor([[999.0, 0, 0, 0]]).expand(count, 4)
    outside = lesson.propose(scores, far, anchors, (100, 100), coder, 20, 7, overlap)
    assert outside.shape == (0, 4)


@pytest.mark.parametrize("objects", [1, 6])
def test_losses_and_gradients_equal_torchvisions(model, objects):
    generator = torch.Generator().manual_seed(objects)
    target = [{"boxes": random_boxes(objects, generator, 90), "labels": torch.randint(1, 4, (objects,))}]
    model.train()
    model.transform.eval()
    inputs, _ = model.transform([torch.rand(3, 96, 128, generator=generator)])
    features = {"0": model.backbone(inputs.tensors).detach()}
    anchors = model.rpn.anchor_generator(inputs, [features["0"]])[0]
    gradients, values = [], []
    for own in (True, False):
        model.zero_grad()
        torch.manual_seed(3)
        objectness, moves = model.rpn.head([features["0"]])
        if own:
            first = lesson.rpn_losses(model.rpn, lesson.in_anchor_order(objectness[0], 1)[:, 0],
                                      lesson.in_anchor_order(moves[0], 4), anchors, target)  # fmt: skip
            torch.manual_seed(4)
            losses = [*first, *lesson.roi_losses(model.roi_heads, features, random_boxes(30, generator.manual_seed(1)),
                                                 (96, 128), target)]  # fmt: skip
        else:
            library = model.rpn(inputs, features, target)[1]
            torch.manual_seed(4)
            library |= model.roi_heads(features, [random_boxes(30, generator.manual_seed(1))], [(96, 128)], target)[1]
            losses = [library[name] for name in lesson.LOSSES]
        sum(losses).backward()
        gradients.append([p.grad.clone() for p in [*model.rpn.parameters(), *model.roi_heads.parameters()]])
        values.append(torch.stack(losses).detach())
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


# ---- training


class Overflowing:
    """Stands for a GradScaler: leaves out the steps whose numbers are given, and lowers its scale then."""

    def __init__(self, skipped):
        self.skipped, self.calls, self.factor, self.order = skipped, 0, 1024.0, []

    def is_enabled(self):
        return False

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        self.order.append("unscale")

    def get_scale(self):
        return self.factor

    def step(self, optimizer):
        self.order.append("step")
        if self.calls not in self.skipped:
            optimizer.step()

    def update(self):
        self.order.append("update")
        self.factor /= 2 if self.calls in self.skipped else 1
        self.calls += 1


class Losing(nn.Module):
    """Stands for a detector: four losses that depend on its one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, images, targets):
        return {name: self.weight**2 * (k + 1) for k, name in enumerate(lesson.LOSSES)}


def test_the_schedule_waits_for_the_optimizer():
    model = Losing()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 / (1 + step))
    scaler, rates, weights = Overflowing({0, 2}), [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where the schedule goes first
        for _ in range(4):
            losses = lesson.training_step(model, torch.zeros(1, 3, 8, 8), [], optimizer, schedule, scaler)
            rates.append(schedule.get_last_lr()[0])
            weights.append(model.weight.item())
    assert losses.shape == (4,) and not losses.requires_grad
    assert rates == pytest.approx([0.1, 0.05, 0.05, 0.1 / 3])
    assert weights[0] == 3 and weights[1] < 3 and weights[2] == weights[1] and weights[3] < weights[2]
    assert scaler.order[:3] == ["unscale", "step", "update"]


def test_pretrained_batch_norm_keeps_its_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Dropout())
    model[1].pretrained = True
    before = [m.running_mean.clone() for m in model[1:3]]
    lesson.training_mode(model.eval())(torch.randn(2, 3, 5, 5))
    assert model.training and model[3].training
    assert torch.equal(model[1].running_mean, before[0]) and not torch.equal(model[2].running_mean, before[1])


def test_training_learns_one_photo():
    photo = torch.zeros(1, 3, 96, 128, dtype=torch.uint8)
    photo[:, :, 30:70, 40:80] = 255
    target = [{"boxes": torch.tensor([[40.0, 30.0, 80.0, 70.0]]), "labels": torch.tensor([2])}]
    model = lesson.small_faster_rcnn(0, 6, (16, 40, 80), 40, (96, 128), 4)
    frozen = [p.detach().clone() for p in model.backbone.requires_grad_(False).parameters()]
    head = model.rpn.head.cls_logits.weight.detach().clone()
    lesson.train(model, photo, target, 2, 2, 5e-3, 0, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(frozen, model.backbone.parameters()))
    assert not torch.equal(head, model.rpn.head.cls_logits.weight)
    model.backbone.requires_grad_(True)
    losses = lesson.train(model, photo, target, 80, 2, 5e-3, 0, torch.device("cpu"))
    assert losses.shape == (80, 4) and losses[-5:].sum(1).mean() < 0.6 * losses[:3].sum(1).mean()
    (one,) = lesson.predict(model, photo)
    assert one["labels"][0] == 2 and ops.box_iou(one["boxes"][:1], target[0]["boxes"]).item() > 0.5


# ---- judging


def test_a_true_box_is_taken_once_by_the_better_detection():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    boxes = torch.tensor([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 6], [20, 0, 30, 4.0], [50, 50, 60, 60]])
    assert lesson.claim(boxes, truth).tolist() == [0, -1, 1, -1, -1]
    assert lesson.claim(boxes, truth, threshold=0.95).tolist() == [-1, 0, -1, -1, -1]
    assert lesson.claim(boxes, truth[:0]).tolist() == [-1] * 5 and lesson.claim(boxes[:0], truth).tolist() == []


def spoil(target, generator):
    """Detections made of a target: four in five of its boxes, disturbed, random scores."""
    kept = torch.rand(len(target["labels"]), generator=generator) < 0.8
    boxes = target["boxes"][kept]
    noise = 0.12 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * torch.randn(boxes.shape, generator=generator)
    return {"boxes": boxes + noise, "labels": target["labels"][kept],
            "scores": torch.rand(len(boxes), generator=generator)}  # fmt: skip


def scenes(seed, photos, classes=3):
    """Random targets, and detections that are disturbed copies of them among inventions."""
    generator = torch.Generator().manual_seed(seed)
    predictions, targets = [], []
    for _ in range(photos):
        count, more = torch.randint(0, 7, (2,), generator=generator).tolist()
        target = {"boxes": random_boxes(count, generator),
                  "labels": torch.randint(1, classes + 1, (count,), generator=generator)}  # fmt: skip
        copies = [spoil(target, generator) for _ in range(2)]
        invented = {"boxes": random_boxes(more, generator), "scores": torch.rand(more, generator=generator),
                    "labels": torch.randint(1, classes + 1, (more,), generator=generator)}  # fmt: skip
        predictions.append({key: torch.cat([part[key] for part in (*copies, invented)]) for key in invented})
        targets.append(target)
    return predictions, targets


def judged(predictions, targets, rows):
    """torchmetrics' mAP of the photos `rows`, each a photo of its own."""
    metric = MeanAveragePrecision(rec_thresholds=np.linspace(0, 1, 101).tolist(), iou_thresholds=THRESHOLDS)
    metric.update([predictions[row] for row in rows], [targets[row] for row in rows])
    return metric.compute()["map"].item()


@settings(deadline=None, max_examples=8)
@given(seeds, st.integers(1, 6))
def test_map_equals_torchmetrics_also_of_repeated_photos(seed, photos):
    predictions, targets = scenes(seed, photos)
    hits = [[lesson.photo_hits(*pair, label, THRESHOLDS) for pair in zip(predictions, targets)] for label in (1, 2, 3)]
    draw = np.random.default_rng(seed).integers(photos, size=photos).tolist()
    for rows in (list(range(photos)), draw):
        expected = judged(predictions, targets, rows)
        if expected >= 0:  # -1: no true box at all
            assert lesson.map_of(hits, rows) == pytest.approx(expected, abs=2e-3)


def test_average_precision_by_hand():
    scores, hits = torch.tensor([0.4, 0.9, 0.7, 0.5]), torch.tensor([[False], [True], [False], [True]])
    ap = lesson.average_precision(scores, hits, 2)
    assert ap.tolist() == pytest.approx([(51 + 50 * 2 / 3) / 101])
    none = torch.zeros(0), torch.zeros(0, 3, dtype=torch.bool)
    assert lesson.average_precision(*none, 5).tolist() == [0, 0, 0]
    assert lesson.average_precision(*none, 0).isnan().all()


def test_bootstrap():
    predictions, targets = scenes(3, 12)
    hits = [[lesson.photo_hits(*pair, label, [0.5]) for pair in zip(predictions, targets)] for label in (1, 2, 3)]
    drawn = lesson.bootstrap(hits, 200, seed=0)
    assert drawn.shape == (200,) and drawn.std() > 0.005 and np.array_equal(drawn, lesson.bootstrap(hits, 200, seed=0))
    assert abs(drawn.mean() - lesson.map_of(hits, range(12))) < 0.1
    same = [[one[0]] * 12 for one in hits]  # twelve times the same photo: nothing can vary
    assert lesson.bootstrap(same, 10, seed=0).std() < 1e-9


def test_verdicts_count_each_box_once():
    predictions, targets = scenes(3, 6)
    for label in (1, 2, 3):
        counts = lesson.count_verdicts(predictions, targets, label, 0.5)
        total = sum((target["labels"] == label).sum() for target in targets)
        above = sum(((p["labels"] == label) & (p["scores"] >= 0.5)).sum() for p in predictions)
        assert counts["found"] + counts["missed"] == total and counts["found"] + counts["false"] == above
        hits = [lesson.photo_hits(*pair, label, [0.5]) for pair in zip(predictions, targets)]
        assert counts["found"] == sum(hit[scores >= 0.5].sum() for scores, hit, _ in hits)


def test_no_detection_at_all():
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    target = {"boxes": torch.tensor([[0, 0, 5, 5.0]]), "labels": torch.tensor([1])}
    verdict = lesson.found_false_missed(none, target, 1, 0.5)
    assert {kind: len(boxes) for kind, boxes in verdict.items()} == {"found": 0, "false": 0, "missed": 1}
    assert 0 < lesson.best_threshold([none], [target], 1) < 1


def test_the_best_threshold():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    found = {"boxes": torch.cat([truth, truth + 40]), "scores": torch.tensor([0.9, 0.62, 0.57, 0.1]),
             "labels": torch.ones(4, dtype=torch.int64)}  # fmt: skip
    assert lesson.best_threshold([found], [{"boxes": truth, "labels": torch.tensor([1, 1])}], 1) == 0.6


def test_best_overlaps():
    truth = [{"boxes": torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60.0]])}]
    assert lesson.best_overlaps([torch.tensor([[0, 0, 10, 5.0], [0, 0, 10, 10]])], truth).tolist() == [1, 0]


def seed_runs():
    """Test scores in percent: rows are seeds."""
    return pd.DataFrame({"mAP50": [80.0, 82, 84], "mAP": [40.0, 41, 42], "Platelets": 30.0, "RBC": 40.0, "WBC": 50.0})


def test_results_are_taken_from_where_they_belong():
    asked = []

    def milliseconds(answer, photos, batch=1):
        asked.append((len(photos), batch, answer("some")))
        return 4.0 if batch == 1 else 2.0

    covered = pd.DataFrame({"covered at IoU 0.5 (%)": [99.0, 98], "covered at IoU 0.75 (%)": [80.0, 75]},
                           index=["proposals", "final boxes"])
    found = run_cell(
        "Chapter08/Training_Faster_RCNN.ipynb", '"covered_75_final_percent"', test_runs=seed_runs(), low=0.39,
        high=0.43, CLASSES=("Platelets", "RBC", "WBC"), best_baseline=0.02, covered=covered, seconds=30, SEEDS=(3,),
        models={3: nn.Linear(3, 2)}, test_photos=torch.zeros(60, 1), predict=lambda model, some: some,
        milliseconds=milliseconds)["results"]
    assert asked == [(21, 1, "some"), (48, 8, "some")]
    assert found == pytest.approx({
        "test_map50": 0.82, "test_map": 0.41, "test_map50_std": 0.02, "test_map_std": 0.01, "test_map_platelets": 0.3,
        "test_map_rbc": 0.4, "test_map_wbc": 0.5, "map_low": 0.39, "map_high": 0.43, "baseline_map50": 0.02,
        "covered_75_proposals_percent": 80, "covered_75_final_percent": 75, "seconds_per_training": 30,
        "ms_per_photo": 4,
        "ms_per_photo_batch_8": 2, "parameters": 8})


def test_all_networks_are_tested_on_test_photos_beside_boxes_of_training_photos():
    parts = {"train": [0], "val": [1], "test": [2, 3]}
    truths = {part: [f"{part} {k}" for k in rows] for part, rows in parts.items()}
    asked = []
    found = run_cell(
        "Chapter08/Training_Faster_RCNN.ipynb", "test_runs = pd.DataFrame({seed: summary(", parts=parts, scale=2.5,
        size=(3, 4),
        photos=torch.arange(4.0), truths=truths, models={0: "a", 1: "b"}, CLASSES=("x",),
        rescaled=lambda some, scale: [f"{one} x {scale}" for one in some],
        predict=lambda model, photos: [f"{model}{k:.0f}" for k in photos],
        copied_boxes=lambda some, n, seed: [*some, "copied"], prior_boxes=lambda some, size, n: [*some, "prior"],
        summary=lambda some, truth, classes: asked.append((some, truth)) or {"mAP50": len(asked), "mAP": 0.0})
    of_test = ["test 2 x 2.5", "test 3 x 2.5"]
    assert asked == [(["a2 x 2.5", "a3 x 2.5"], of_test), (["b2 x 2.5", "b3 x 2.5"], of_test),
                     (["train 0 x 2.5", "copied x 2.5"], of_test), (["train 0 x 2.5", "prior x 2.5"], of_test)]
    assert found["table"].loc["mAP50"].tolist() == pytest.approx([1.5, 0.5**0.5, 3, 4])
