"""Default boxes, matching, hard negatives, MultiBox loss and detection of the SSD notebook."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, DefaultBoxGenerator

from tests.cells import run_cell
from tests.definitions import definitions

lesson = definitions(
    "Chapter08/Training_SSD.ipynb", "box_shapes", "default_boxes", "match_defaults", "training_targets",
    "hard_negatives", "multibox_loss", "SmallSSD", "small_ssd", "flip", "flipped_batch", "detect", "train_ssd",
    "rescaled", "copied_boxes", "prior_boxes", "coco_map", "summary", "best_fit", "CODER")  # fmt: skip
quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)
CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))  # torchvision's, for its SSD
SCALES, RATIOS, STRIDES, SIZE = (0.1, 0.2, 0.4, 0.6), (4 / 3,), (8, 16, 32), (96, 128)
DEFAULTS, LEVEL = lesson.default_boxes(SCALES, RATIOS, STRIDES, SIZE)


def random_boxes(count, generator, size=(96.0, 128.0)):
    """Boxes (count, 4) xyxy of sides from 2 pixels on, within a photo of `size`."""
    limits = torch.tensor([size[1], size[0]])
    corner = torch.rand(count, 2, generator=generator) * (limits - 4)
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * (limits - 2 - corner)], dim=1)


def library_boxes(scales, ratios, strides, size):
    maps = [torch.zeros(1, 1, size[0] // stride, size[1] // stride) for stride in strides]
    generator = DefaultBoxGenerator([list(ratios)] * len(strides), scales=list(scales), steps=list(strides))
    return generator, generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0]


@quick
@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=4), st.lists(st.floats(0.2, 5), max_size=3),
       st.sampled_from([(64, 64), (96, 128), (128, 32)]))
def test_default_boxes_equal_torchvisions(scales, ratios, size):
    strides = (8, 16, 32)[: len(scales) - 1]
    ours, level = lesson.default_boxes(tuple(scales), tuple(ratios), strides, size)
    generator, theirs = library_boxes(scales, ratios, strides, size)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    counts = [size[0] // t * (size[1] // t) * n for t, n in zip(strides, generator.num_anchors_per_location())]
    assert level.bincount(minlength=len(strides)).tolist() == counts and (level.diff() >= 0).all()


def test_a_box_of_ratio_1_has_the_shape_of_the_photo():
    sides = DEFAULTS[:, 2:] - DEFAULTS[:, :2]
    torch.testing.assert_close(sides[0], torch.tensor([12.8, 9.6]))  # a tenth of 128 and of 96
    torch.testing.assert_close(sides[3, 0], sides[3, 1])  # the inverse of 4:3 is a square on a photo of 4:3


@quick
@given(seeds, st.integers(1, 12), st.sampled_from([0.3, 0.5, 0.7]))
def test_matching_equals_torchvisions(seed, count, threshold):
    boxes = random_boxes(count, torch.Generator().manual_seed(seed))
    expected = SSDMatcher(threshold)(ops.box_iou(boxes, DEFAULTS))
    assert torch.equal(lesson.match_defaults(boxes, DEFAULTS, threshold), expected)


def test_matching_of_hostile_boxes():
    assert (lesson.match_defaults(torch.zeros(0, 4), DEFAULTS, 0.5) == -1).all()
    for boxes in (DEFAULTS[[5, 5]], DEFAULTS[[7, 200]], torch.tensor([[0.0, 0.0, 128.0, 96.0], [3.0, 3.0, 4.0, 4.0]])):
        ours, theirs = lesson.match_defaults(boxes, DEFAULTS, 0.5), SSDMatcher(0.5)(ops.box_iou(boxes, DEFAULTS))
        assert torch.equal(ours, theirs)
    tiny = torch.tensor([[50.0, 50.0, 51.0, 51.0]])  # fits no default box, but gets the best one
    m = lesson.match_defaults(tiny, DEFAULTS, 0.5)
    assert (m >= 0).sum() == 1 and m[ops.box_iou(tiny, DEFAULTS)[0].argmax()] == 0


def test_targets_lead_to_the_objects():
    generator = torch.Generator().manual_seed(1)
    boxes, labels = random_boxes(5, generator), torch.tensor([1, 2, 3, 2, 1])
    classes, moves = lesson.training_targets(boxes, labels, DEFAULTS, CODER, 0.5)
    m = lesson.match_defaults(boxes, DEFAULTS, 0.5)
    positive = m >= 0
    assert torch.equal(classes[positive], labels[m[positive]]) and (classes[~positive] == 0).all()
    torch.testing.assert_close(CODER.decode_single(moves, DEFAULTS)[positive], boxes[m[positive]], rtol=1e-4, atol=1e-3)
    classes, moves = lesson.training_targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), DEFAULTS, CODER, 0.5)
    assert classes.sum() == 0 and moves.shape == DEFAULTS.shape


def scene(seed, counts, scale=1.0):
    """Random outputs (b, D, …) that need gradients, and targets of photos with `counts` objects."""
    generator = torch.Generator().manual_seed(seed)
    targets = [{"boxes": random_boxes(n, generator), "labels": torch.randint(1, 4, (n,), generator=generator)}
               for n in counts]  # fmt: skip
    logits, moves = (scale * torch.randn(len(counts), len(DEFAULTS), k, generator=generator) for k in (4, 4))
    return logits.requires_grad_(), moves.requires_grad_(), targets


def both_losses(logits, moves, targets):
    """Class loss and box loss: the notebook's and torchvision's."""
    wanted = [lesson.training_targets(t["boxes"], t["labels"], DEFAULTS, CODER, 0.5) for t in targets]
    classes, goals = (torch.stack(part) for part in zip(*wanted))
    generator, defaults = library_boxes(SCALES, RATIOS, STRIDES, SIZE)
    library = SSD(nn.Identity(), generator, SIZE, 4, head=nn.Identity())
    matched = [library.proposal_matcher(ops.box_iou(t["boxes"], defaults)) if len(t["boxes"])
               else torch.full((len(defaults),), -1) for t in targets]  # fmt: skip
    theirs = library.compute_loss(
        targets, {"cls_logits": logits, "bbox_regression": moves}, [defaults] * len(targets), matched)
    ours = lesson.multibox_loss(logits, moves, classes, goals, library.neg_to_pos_ratio)
    return ours, (theirs["classification"], theirs["bbox_regression"])


@settings(deadline=None, max_examples=15)
@given(seeds, st.lists(st.integers(0, 6), min_size=1, max_size=3), st.sampled_from([0.01, 1.0, 30.0]))
def test_loss_and_gradients_equal_torchvisions(seed, counts, scale):
    logits, moves, targets = scene(seed, counts, scale)
    ours, theirs = both_losses(logits, moves, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(sum(losses), (logits, moves), retain_graph=True, allow_unused=True)
                 for losses in (ours, theirs)]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_hard_negatives():
    generator = torch.Generator().manual_seed(0)
    losses, positive = torch.rand(4, 50, generator=generator), torch.rand(4, 50, generator=generator) < 0.1
    positive[1] = False  # a photo without objects has no negatives either
    chosen = lesson.hard_negatives(losses, positive, 3)
    for row in range(4):
        count = 3 * int(positive[row].sum())
        expected = losses[row].masked_fill(positive[row], -torch.inf).topk(count).indices
        assert sorted(chosen[row].nonzero()[:, 0].tolist()) == sorted(expected.tolist())
    full = torch.ones(1, 8, dtype=torch.bool)
    full[0, :2] = False
    assert torch.equal(lesson.hard_negatives(torch.rand(1, 8), full, 3), ~full)  # no positive box is counted twice
    every = lesson.hard_negatives(losses, positive, float("inf"))
    assert torch.equal(every[0], ~positive[0])
    ties = lesson.hard_negatives(torch.zeros(1, 20), torch.arange(20)[None] < 2, 3)
    assert ties.sum() == 6 and not ties[0, :2].any()


def test_the_network_answers_in_the_order_of_the_default_boxes():
    model = lesson.small_ssd(0, 4, 4, 4, torch.device("cpu")).eval()
    x = torch.randn(2, 3, *SIZE)
    with torch.inference_mode():
        logits, moves = model(x)
        assert logits.shape == moves.shape == (2, len(DEFAULTS), 4)
        maps, h = [], model.stem(x)
        for stage, head in zip(model.stages, model.heads):
            h = stage(h)
            maps.append(head(h))
    k, row, column, shape = 1, 2, 5, 3  # a place of the middle map
    number = (LEVEL < k).sum() + (row * maps[k].shape[3] + column) * 4 + shape
    center = (DEFAULTS[number, :2] + DEFAULTS[number, 2:]) / 2
    torch.testing.assert_close(center, (torch.tensor([column, row]) + 0.5) * STRIDES[k])
    torch.testing.assert_close(torch.cat([logits, moves], dim=2)[:, number],
                               maps[k][:, shape * 8 : shape * 8 + 8, row, column])  # fmt: skip


class Told(nn.Module):
    """Answers with given logits and moves."""

    def __init__(self, logits, moves):
        super().__init__()
        self.logits, self.moves = nn.Parameter(logits), moves

    def forward(self, x):
        return self.logits.expand(len(x), -1, -1), self.moves.expand(len(x), -1, -1)


def test_detections_are_what_the_network_says():
    target = torch.tensor([[20.0, 10.0, 60.0, 50.0], [100.0, 70.0, 140.0, 110.0]])  # the second sticks out
    classes, moves = lesson.training_targets(target, torch.tensor([3, 1]), DEFAULTS, CODER, 0.5)
    logits = 12 * torch.nn.functional.one_hot(classes, 4).float()
    images = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    for one in lesson.detect(Told(logits[None], moves[None]), images, DEFAULTS, CODER):
        order = one["labels"].argsort(descending=True)
        assert one["labels"][order].tolist() == [3, 1] and (one["scores"] > 0.99).all()
        expected = torch.tensor([[20.0, 10, 60, 50], [100, 70, 128, 96]])
        torch.testing.assert_close(one["boxes"][order], expected, atol=1e-2, rtol=0)
    nothing = torch.tensor([20.0, 0, 0, 0]).expand(len(DEFAULTS), 4)
    (one,) = lesson.detect(Told(nothing[None], moves[None]), images[:1], DEFAULTS, CODER)
    assert one["boxes"].shape == (0, 4) and len(one["scores"]) == len(one["labels"]) == 0


def test_detection_equals_torchvisions_postprocessing():
    generator = torch.Generator().manual_seed(5)
    logits, moves = (torch.randn(1, len(DEFAULTS), 4, generator=generator) for _ in range(2))
    shapes, defaults = library_boxes(SCALES, RATIOS, STRIDES, SIZE)
    library = SSD(nn.Identity(), shapes, SIZE, 4, head=nn.Identity(), score_thresh=0.02, nms_thresh=0.45,
                  detections_per_img=100, topk_candidates=10**6)  # fmt: skip
    (theirs,) = library.postprocess_detections({"cls_logits": logits, "bbox_regression": moves}, [defaults], [SIZE])
    (ours,) = lesson.detect(Told(logits, moves), torch.zeros(1, 3, *SIZE, dtype=torch.uint8), DEFAULTS, CODER)
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(ours[name], theirs[name])


def test_training_fits_one_photo():
    photo = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    photo[:, :, 30:60, 40:80] = 255
    target = [{"boxes": torch.tensor([[40.0, 30.0, 80.0, 60.0]]), "labels": torch.tensor([2])}]
    model = lesson.small_ssd(0, 4, 4, 4, torch.device("cpu"))
    before = [p.detach().clone() for p in model.parameters()]
    losses = lesson.train_ssd(model, photo, target, DEFAULTS, CODER, 0.5, 3, 40, 2, 1e-2, 0)
    assert losses.shape == (40, 2) and losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    (one,) = lesson.detect(model, photo, DEFAULTS, CODER)
    assert one["labels"][0] == 2 and ops.box_iou(one["boxes"][:1], target[0]["boxes"]).item() > 0.5


def test_trivial_detectors():
    generator = torch.Generator().manual_seed(0)
    targets = [{"boxes": random_boxes(n, generator), "labels": torch.randint(1, 4, (n,), generator=generator)}
               for n in (3, 5, 1, 4)]  # fmt: skip
    copied = lesson.copied_boxes(targets, 6, seed=0)
    assert len(copied) == 6 and len({len(one["boxes"]) for one in copied}) > 1
    assert all(any(torch.equal(one["boxes"], t["boxes"]) for t in targets) for one in copied)
    prior = lesson.prior_boxes(targets, SIZE, 2)
    assert len(prior) == 2 and (prior[0]["boxes"] >= 0).all()
    assert (prior[0]["boxes"][:, 2:] <= torch.tensor([128.5, 96.5])).all()
    every, labels = (torch.cat([t[name] for t in targets]) for name in ("boxes", "labels"))
    for label in labels.unique():
        sides = every[labels == label, 2:] - every[labels == label, :2]
        own = prior[0]["boxes"][prior[0]["labels"] == label]
        torch.testing.assert_close((own[:, 2:] - own[:, :2])[0], sides.median(dim=0).values, rtol=1e-4, atol=1e-3)
        assert prior[0]["scores"][prior[0]["labels"] == label][0] == pytest.approx((labels == label).double().mean())


def test_summary_names_the_classes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 40, 20], [50, 50, 80, 80]])
    target = [{"boxes": boxes, "labels": torch.tensor([1, 3, 3])}]
    found = [{"boxes": boxes[1:], "labels": torch.tensor([3, 3]), "scores": torch.ones(2)}]
    scores = lesson.summary(found, target, ("a", "b", "c"))
    assert {name: round(value) for name, value in scores.items()} == {"mAP50": 50, "mAP": 50, "a": 0, "c": 100}
    twice = lesson.summary(lesson.rescaled(found, 2.5), lesson.rescaled(target, 2.5), ("a", "b", "c"))
    assert twice == pytest.approx(scores)
    assert np.isclose(lesson.coco_map(found, target)["map"], 0.5)


def seed_runs():
    """Test scores in percent: rows are seeds."""
    return pd.DataFrame({"mAP50": [80.0, 82, 84], "mAP": [40.0, 41, 42], "Platelets": 30.0, "RBC": 40.0, "WBC": 50.0})


def test_results_are_taken_from_where_they_belong():
    asked = []

    def milliseconds(answer, photos, batch=1):
        asked.append((len(photos), batch, answer("some")))
        return 4.0 if batch == 1 else 2.0

    found = run_cell(
        "Chapter08/Training_SSD.ipynb", '"hard_negative_gain_points"', test_runs=seed_runs(),
        CLASSES=("Platelets", "RBC", "WBC"),
        best_baseline=0.02, gain=pd.DataFrame({"mAP50": [9.0, 9], "mAP": [6.0, 8]}), seconds=30, SEEDS=(3,),
        models={3: nn.Linear(3, 2)}, test_photos=torch.zeros(60, 1), defaults="boxes", CODER="coder",
        detect=lambda model, some, defaults, coder: (some, defaults, coder), milliseconds=milliseconds)["results"]
    assert asked == [(21, 1, ("some", "boxes", "coder")), (48, 8, ("some", "boxes", "coder"))]
    assert found == pytest.approx({
        "test_map50": 0.82, "test_map": 0.41, "test_map50_std": 0.02, "test_map_std": 0.01, "test_map_platelets": 0.3,
        "test_map_rbc": 0.4, "test_map_wbc": 0.5, "baseline_map50": 0.02, "hard_negative_gain_points": 7,
        "hard_negative_gain_std_points": 2**0.5, "seconds_per_training": 30, "ms_per_photo": 4,
        "ms_per_photo_batch_8": 2, "parameters": 8})


def test_moves_are_divided_by_ssds_deviations():
    assert lesson.CODER.weights == CODER.weights


def test_every_seed_is_trained_on_the_photos_and_boxes_of_the_training_part():
    asked = []
    found = run_cell(
        "Chapter08/Training_SSD.ipynb", "train_photos, shapes = photos", photos=torch.arange(10.0), RATIOS=(2, 3),
        SEEDS=(4, 5),
        parts={"train": torch.tensor([7, 2, 9]), "val": torch.tensor([0, 1]), "test": torch.tensor([3])}, CHANNELS=8,
        truths={"train": "of train", "val": "of val"}, CLASSES=("a", "b"), device="cpu", defaults="boxes",
        CODER="coder", IOU=0.5,
        NEGATIVES=3, STEPS=6, BATCH_SIZE=2, LEARNING_RATE=0.1,
        small_ssd=lambda seed, channels, shapes, classes, device: nn.Linear(shapes, classes),
        train_ssd=lambda model, photos, truths, *rest: asked.append((photos.tolist(), truths, rest)) or "history")
    rest = ("boxes", "coder", 0.5, 3, 6, 2, 0.1)
    assert asked == [([7, 2, 9], "of train", (*rest, 4)), ([7, 2, 9], "of train", (*rest, 5))]
    assert found["models"][4].weight.shape == (3, 6) and set(found["histories"]) == {4, 5}
