"""What Training_EfficientDet.ipynb defines: fusion, BiFPN, anchors, loss, detections, beside loops and torchvision."""
import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter08/Training_EfficientDet.ipynb"
lesson = definitions(
    NOTEBOOK, "fuse", "separable", "Node", "BiFPNLayer", "cost", "empty_maps", "bifpn", "scaled", "SmallEfficientDet",
    "anchor_targets", "efficientdet_loss", "train_efficientdet", "detect", "new_detector", "shares_of", "interval",
    "milliseconds", "speed_of", "base_anchors", "grid_anchors", "match_anchors", "flipped_batch", "CODER",
    "STRIDES", "SIDES")
CPU = torch.device("cpu")
SIZE = (64, 96)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_boxes(number, size=SIZE, seed=0):
    corner = torch.rand(number, 2, generator=rng(seed)) * torch.tensor([size[1] - 20, size[0] - 20])
    return torch.cat([corner, corner + 6 + 14 * torch.rand(number, 2, generator=rng(seed + 1))], dim=1)


def anchors(size=SIZE):
    bases = {t: lesson.base_anchors([side * t for side in lesson.SIDES], (1.0,)) for t in lesson.STRIDES}
    return torch.cat([lesson.grid_anchors(base, size[0] // t, size[1] // t, t) for t, base in bases.items()])


def train(model, images, truths, steps, seed):
    return lesson.train_efficientdet(model, images, truths, anchors(), lesson.CODER, (0.5, 0.4), (0.25, 2.0), steps, 2,
                                     1e-2, seed)


# ---- fusion


@pytest.mark.parametrize("values", [[1.0, 1.0], [2.0, 0.5, -1.0], [0.0, 0.0], [-1.0, -2.0], [1e6, 1.0], [1e-9, 1e-9],
                                    [3.0], [float("nan"), 1.0]])
def test_fusion_is_the_formula(values):
    maps = torch.randn(len(values), 2, 3, 4, 5, generator=rng(), dtype=torch.double)
    weights = [max(value, 0.0) if value == value else value for value in values]
    expected = np.zeros(maps.shape[1:])
    for weight, one in zip(weights, maps.numpy()):
        expected += weight / (1e-4 + sum(weights)) * one
    found = lesson.fuse(list(maps), torch.tensor(values, dtype=torch.double))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradients_of_the_fusion():
    maps = [torch.randn(2, 3, generator=rng(k), dtype=torch.double, requires_grad=True) for k in range(3)]
    v = torch.tensor([0.7, 1.3, 0.2], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *maps: lesson.fuse(maps, v), (v, *maps))
    off = torch.tensor([1.0, -1.0, 1.0], requires_grad=True)
    lesson.fuse([torch.randn(2, generator=rng(k)) for k in range(3)], off).sum().backward()
    assert off.grad[1] == 0 and (off.grad[[0, 2]] != 0).all()


# ---- the BiFPN


def by_hand(layer, P):
    """One layer for three maps, written out node by node."""
    def node(one, *maps):
        w = one.v.clamp(min=0)
        return one.conv(F.silu(sum(w[i] * maps[i] for i in range(len(maps))) / (w.sum() + 1e-4)))

    def up(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def down(x):
        padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        return padded.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))

    p3, p4, p5 = P
    middle = node(layer.down[1], p4, up(p5))
    fine = node(layer.down[0], p3, up(middle))
    second = node(layer.up[0], p4, middle, down(fine))
    return [fine, second, node(layer.up[1], p5, down(second))]


def test_a_layer_is_its_formulas_forwards_and_backwards():
    torch.manual_seed(0)
    layer = lesson.BiFPNLayer(6, 3).double().eval()
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.rand(parameter.shape, generator=rng(k), dtype=torch.double) + 0.1)
    P = [torch.randn(2, 6, 16 // 2**k, 24 // 2**k, generator=rng(k), dtype=torch.double) for k in range(3)]
    kept = copy.deepcopy(P)
    ours, theirs = layer(P), by_hand(layer, P)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
    assert [one.shape for one in ours] == [one.shape for one in P] and all(torch.equal(a, b) for a, b in zip(P, kept))
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in some), list(layer.parameters()))
                 for some in (ours, theirs)]
    for (name, _), a, b in zip(layer.named_parameters(), *gradients):
        torch.testing.assert_close(a, b)
        assert (a != 0).any(), f"{name} has no gradient"


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_every_output_hears_of_every_input(levels):
    torch.manual_seed(0)
    layer = lesson.BiFPNLayer(4, levels).eval()
    P = [torch.randn(1, 4, 64 // 2**k, 64 // 2**k, generator=rng(k), requires_grad=True) for k in range(levels)]
    for out in layer(P):
        found = torch.autograd.grad(out.sum(), P, retain_graph=True, allow_unused=True)
        assert all(one is not None and (one != 0).any() for one in found)


def test_odd_maps_keep_their_shapes():
    layer = lesson.BiFPNLayer(4, 3).eval()
    P = [torch.randn(1, 4, *shape, generator=rng()) for shape in ((15, 21), (8, 11), (4, 6))]
    assert [one.shape for one in layer(P)] == [one.shape for one in P]


# ---- cost and scaling


@pytest.mark.parametrize("inputs, outputs, h, w", [(3, 5, 4, 6), (64, 64, 1, 1), (1, 7, 9, 2)])
def test_cost_counts_multiplications(inputs, outputs, h, w):
    found = lesson.cost(lesson.separable(inputs, outputs).eval(), torch.randn(1, inputs, h, w))
    assert found["billion multiply-adds"] * 1e9 == pytest.approx(h * w * (9 * inputs + inputs * outputs))
    assert found["million parameters"] * 1e6 == pytest.approx(9 * inputs + inputs * outputs + 2 * outputs)
    with torch.device("meta"):
        plain = nn.Conv2d(inputs, outputs, 3, padding=1)
    found = lesson.cost(plain, torch.empty(1, inputs, h, w, device="meta"))
    assert found["billion multiply-adds"] * 1e9 == pytest.approx(h * w * 9 * inputs * outputs)


def test_scaling_is_the_papers_rule():
    assert [lesson.scaled(phi)["R"] for phi in range(5)] == [512, 640, 768, 896, 1024]
    assert [lesson.scaled(phi)["D"] for phi in range(5)] == [3, 4, 5, 6, 7]
    assert [lesson.scaled(phi)["D_head"] for phi in range(7)] == [3, 3, 3, 4, 4, 4, 5]
    published = [64, 88, 112, 160, 224, 288, 384]
    assert all(abs(lesson.scaled(phi)["W"] / width - 1) < 0.06 for phi, width in enumerate(published))
    assert [tuple(one.shape) for one in lesson.empty_maps(7, 512)] == [(1, 7, s, s) for s in (64, 32, 16, 8, 4)]
    assert len(lesson.bifpn(8, 4)) == 4 and len(lesson.bifpn(8, 4)[0].down) == 4


# ---- anchors, targets, loss


def test_anchors_equal_torchvisions():
    generator = AnchorGenerator(sizes=tuple(tuple(side * t for side in lesson.SIDES) for t in lesson.STRIDES),
                                aspect_ratios=((1.0,),) * len(lesson.STRIDES))
    maps = [torch.zeros(1, 1, SIZE[0] // t, SIZE[1] // t) for t in lesson.STRIDES]
    theirs = generator(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), maps)[0]
    torch.testing.assert_close(anchors(), theirs)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_targets_follow_torchvisions_matcher(number):
    boxes, labels = random_boxes(number), torch.randint(1, 4, (number,), generator=rng(5))
    every = anchors()
    hot, moves, m = lesson.anchor_targets(boxes, labels, every, lesson.CODER, 3, (0.5, 0.4))
    assert hot.shape == (len(every), 3) and moves.shape == (len(every), 4)
    if number == 0:
        assert not hot.any() and (m == -1).all()
        return
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    assert torch.equal(m, matcher(box_iou(boxes, every)))
    P = m >= 0
    assert torch.equal(hot[P].argmax(dim=1) + 1, labels[m[P]]) and (hot[P].sum(dim=1) == 1).all() and not hot[~P].any()
    torch.testing.assert_close(lesson.CODER.decode_single(moves[P], every[P]), boxes[m[P]], rtol=1e-3, atol=1e-3)
    assert len(m[P].unique()) == number or len(box_iou(boxes, every).argmax(dim=1).unique()) < number


def test_class_loss_equals_retinanets_for_one_photo():
    boxes, labels = random_boxes(5, seed=3), torch.tensor([1, 2, 3, 2, 2])
    hot, wanted, m = lesson.anchor_targets(boxes, labels, anchors(), lesson.CODER, 3, (0.5, 0.4))
    logits = torch.randn(1, *hot.shape, generator=rng(), requires_grad=True)
    moves = torch.randn(1, *wanted.shape, generator=rng(1))
    ours, _ = lesson.efficientdet_loss(logits, moves, hot[None], wanted[None], m[None], 0.25, 2.0)
    head = RetinaNetClassificationHead.__new__(RetinaNetClassificationHead)
    nn.Module.__init__(head)
    head.BETWEEN_THRESHOLDS = Matcher.BETWEEN_THRESHOLDS
    theirs = head.compute_loss([{"labels": labels - 1}], {"cls_logits": logits}, [m])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)))


def test_the_loss_is_divided_by_the_positive_anchors_of_all_photos():
    logits, hot = torch.randn(2, 9, 3, generator=rng()), torch.zeros(2, 9, 3)
    m = torch.full((2, 9), -1)
    m[0, 2], m[1, 4], m[1, 5], m[0, 7] = 0, 1, 0, -2
    hot[0, 2, 1] = hot[1, 4, 0] = hot[1, 5, 2] = 1
    moves, wanted = torch.randn(2, 9, 4, generator=rng(1)), torch.randn(2, 9, 4, generator=rng(2))
    total = box = 0.0
    for b in range(2):
        for n in range(9):
            for c in range(3):
                p = logits[b, n, c].sigmoid()
                p_t, a = (p, 0.25) if hot[b, n, c] else (1 - p, 0.75)
                total += 0.0 if m[b, n] == -2 else -a * (1 - p_t) ** 2 * p_t.log()
            if m[b, n] >= 0:
                box += F.smooth_l1_loss(moves[b, n], wanted[b, n], reduction="sum")
    found = lesson.efficientdet_loss(logits, moves, hot, wanted, m, 0.25, 2.0)
    torch.testing.assert_close(torch.stack(found), torch.stack([total, box]) / 3, rtol=1e-4, atol=1e-5)
    nothing = lesson.efficientdet_loss(logits, moves, torch.zeros_like(hot), wanted, torch.full((2, 9), -1), 0.25, 2.0)
    assert nothing[0] > 0 and nothing[1] == 0


# ---- the network


def test_outputs_belong_to_their_anchors():
    """What changes in one corner of the photo changes the outputs of the anchors there, where no neck carries it on."""
    model = lesson.new_detector("no neck", 0, 8, 16, 2, len(lesson.SIDES), 3, CPU).eval()
    size = (192, 256)
    every = anchors(size)
    images = torch.zeros(1, 3, *size)
    changed = images.clone()
    changed[..., 176:, 240:] = 1
    for a, b in zip(model(images), model(changed)):
        assert a.shape[:2] == (1, len(every))
        difference = (a - b).abs().sum(dim=(0, 2))
        center = every[difference > difference.max() / 2].view(-1, 2, 2).mean(dim=1)
        assert (center > torch.tensor([180.0, 120.0])).all()


def test_the_start_says_one_in_a_hundred():
    model = lesson.new_detector("learned weights", 0, 8, 16, 2, 3, 3, CPU)
    logits, _ = model(torch.randn(2, 3, 64, 96, generator=rng()))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)


def test_the_three_ways_differ_in_what_they_say():
    def build(way):
        return lesson.new_detector(way, 0, 8, 16, 2, 3, 3, CPU)

    none, equal, learned = map(build, ("no neck", "equal weights", "learned weights"))
    assert len(none.bifpn) == 0 and len(equal.bifpn) == len(learned.bifpn) == 2
    assert all(torch.equal(a, b) for a, b in zip(equal.state_dict().values(), learned.state_dict().values()))
    frozen = {name for name, p in equal.named_parameters() if not p.requires_grad}
    assert frozen and all(name.endswith(".v") for name in frozen)
    assert all(p.requires_grad for p in learned.parameters())
    images = torch.randint(0, 256, (6, 3, 64, 96), dtype=torch.uint8, generator=rng())
    truths = [{"boxes": random_boxes(3, seed=k), "labels": torch.tensor([1, 2, 3])} for k in range(6)]
    for model in (equal, learned):
        before = lesson.shares_of(model)
        history = train(model, images, truths, 5, 0)
        assert history.shape == (5, 2) and history.isfinite().all()
        assert (lesson.shares_of(model) == before) == (model is equal)
    assert len(lesson.shares_of(learned)) == 8
    assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in lesson.shares_of(learned).values())
    assert [len(shares) for shares in lesson.shares_of(learned).values()] == [2, 2, 3, 2] * 2


def test_training_follows_its_seed():
    images = torch.randint(0, 256, (6, 3, 64, 96), dtype=torch.uint8, generator=rng())
    truths = [{"boxes": random_boxes(3, seed=k), "labels": torch.tensor([1, 2, 3])} for k in range(6)]
    found = []
    for seed in (0, 0, 1):
        model = lesson.new_detector("learned weights", seed, 8, 16, 1, 3, 3, CPU)
        start = copy.deepcopy(model.state_dict())
        found.append(train(model, images, truths, 4, seed))
        still = [name for name, p in model.named_parameters() if torch.equal(p, start[name])]
        assert not still, still
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


class Says(nn.Module):
    """A network that says the given logits and moves."""

    def __init__(self, logits, moves):
        super().__init__()
        self.logits, self.moves = nn.Parameter(logits), nn.Parameter(moves)

    def forward(self, images):
        return self.logits[: len(images)], self.moves[: len(images)]


@pytest.mark.parametrize("seed", range(3))
def test_detections_equal_a_loop_over_classes(seed):
    every = anchors()
    logits = torch.randn(1, len(every), 3, generator=rng(seed)) - 1
    moves = torch.randn(1, len(every), 4, generator=rng(seed + 1))
    photo = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    found, = lesson.detect(Says(logits, moves), photo, every, lesson.CODER, 0.1, 0.5, 50)
    boxes = clip_boxes_to_image(BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(moves[0], every), SIZE)
    rows = [(p.item(), label + 1, box) for label in range(3)
            for p, box in zip(logits[0, :, label].sigmoid(), boxes) if p > 0.1]
    scores, labels = (torch.tensor([row[k] for row in rows]) for k in (0, 1))
    some = torch.stack([row[2] for row in rows])
    keep = batched_nms(some, scores, labels, 0.5)[:50]
    torch.testing.assert_close(found["scores"], scores[keep])
    assert torch.equal(found["labels"], labels[keep])
    torch.testing.assert_close(found["boxes"], some[keep])
    none, = lesson.detect(Says(logits - 30, moves), photo, every, lesson.CODER)
    assert none["boxes"].shape == (0, 4) and len(none["scores"]) == len(none["labels"]) == 0


# ---- numbers and words


def test_milliseconds_are_those_of_a_photo():
    asked = []
    found = lesson.milliseconds(lambda some: asked.append(len(some)), torch.zeros(20, 3, 2, 2), 8)
    assert asked == [8, 8, 8, 4] and 0 <= found < 100


def test_what_the_stored_run_showed():
    results = assert_shown(NOTEBOOK)
    assert results["test_map50"] > results["baseline_map50"] + 0.3


def test_the_text_says_what_the_stored_runs_found():
    assert_said(
        NOTEBOOK, "the BiFPN changes mAP by {neck_gain_points:+.1f} ± {neck_gain_std_points:.1f} points",
        "Learned weights change it by {weight_gain_points:+.1f} ± {weight_gain_std_points:.1f} against",
        "to {ms_per_photo:.1f} ms a photo")
    results, ssd = assert_shown(NOTEBOOK), assert_shown("Chapter08/Training_SSD.ipynb")
    assert_said(
        NOTEBOOK, f"mAP50 is {100 * results['test_map50']:.1f} ± {100 * results['test_map50_std']:.1f} % and mAP "
                  f"{100 * results['test_map']:.1f} ± {100 * results['test_map_std']:.1f} %",
        f"has an mAP of {100 * ssd['test_map']:.1f} %", f"SSD takes {ssd['ms_per_photo']:.1f} ms")
    assert results["neck_gain_points"] < 0 and abs(results["weight_gain_points"]) < 2


def test_gains_are_paired_by_seed_and_results_are_taken_from_where_they_belong():
    runs = pd.DataFrame({"mAP50": 50.0, "mAP": [30.0, 31, 36, 39, 35, 36]}, index=pd.MultiIndex.from_product(
        [("no neck", "equal weights", "learned weights"), (0, 1)]))
    found = run_cell(NOTEBOOK, "neck_gain = (runs.loc", runs=runs, verdict=lambda some: "")
    assert found["neck_gain"].tolist() == [5, 5] and found["weight_gain"].tolist() == [-1, -3]
    speed = {way: {"ms a photo": 20.0 + k, "ms a photo, 8 at once": 15.0 + k, "million parameters": 0.3 + k,
                   "billion multiply-adds": 0.2 + k} for k, way in enumerate(("learned weights", "no neck"))}
    test_runs = pd.DataFrame({"mAP50": [80.0, 82, 84], "mAP": [40.0, 41, 42], "Platelets": 30.0, "RBC": 40.0,
                              "WBC": 50.0})
    results = run_cell(
        NOTEBOOK, '"million_multiply_adds"', test_runs=test_runs, CLASSES=("Platelets", "RBC", "WBC"),
        best_baseline=0.02,
        neck_gain=np.array([4.0, 6]), weight_gain=np.array([-1.0, -3]), seconds=[10, 20], speed=speed)["results"]
    assert results == pytest.approx({
        "test_map50": 0.82, "test_map": 0.41, "test_map50_std": 0.02, "test_map_std": 0.01, "test_map_platelets": 0.3,
        "test_map_rbc": 0.4, "test_map_wbc": 0.5, "baseline_map50": 0.02, "neck_gain_points": 5,
        "neck_gain_std_points": 2**0.5, "weight_gain_points": -2, "weight_gain_std_points": 2**0.5,
        "seconds_per_training": 15, "ms_per_photo": 20, "ms_per_photo_batch_8": 15, "parameters": 3e5,
        "million_multiply_adds": 200})
