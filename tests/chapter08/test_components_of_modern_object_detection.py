"""What Components_of_modern_object_detection.ipynb defines, beside torchvision and SciPy, on hostile inputs too."""
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, box_convert, box_iou, sigmoid_focal_loss
from torchvision.ops.poolers import LevelMapper

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter08/Components_of_modern_object_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "base_anchors", "map_size", "grid_anchors", "match_anchors", "assignments", "census", "sample",
    "gradient_share",
    "rpn_losses", "FeaturePyramid", "roi_level", "distances", "fcos_match", "centerness", "hungarian", "imagine",
    "detr_cost")


def random_boxes(n, generator, width=640, height=480, smallest=1.0):
    """Boxes (n, 4) xyxy with width and height of at least `smallest`, some over the border."""
    center = torch.rand(n, 2, generator=generator) * torch.tensor([width, height])
    half = (torch.rand(n, 2, generator=generator) ** 2 * 150 + smallest) / 2
    return torch.cat([center - half, center + half], dim=1)


# ---- anchors


@pytest.mark.parametrize(("rows", "columns", "stride"), [(1, 1, 16), (3, 7, 8), (30, 40, 16), (5, 2, 61)])
@pytest.mark.parametrize("sizes", [(64,), (32, 45, 128), (1,)])
@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 1.0, 2.0), (3.0, 0.1)])
def test_anchors_equal_torchvisions(rows, columns, stride, sizes, ratios):
    generator = AnchorGenerator((sizes,), (ratios,))
    theirs = generator.grid_anchors([(rows, columns)], [(torch.tensor(stride), torch.tensor(stride))])[0]
    own = lesson.grid_anchors(lesson.base_anchors(sizes, ratios), rows, columns, stride)
    assert torch.equal(own, theirs)


@pytest.mark.parametrize(("height", "width", "stride", "size"), [
    (480, 640, 16, (30, 40)), (480, 640, 128, (4, 5)), (1, 1, 64, (1, 1)), (65, 64, 64, (2, 1))])
def test_map_size_covers_the_photo(height, width, stride, size):
    assert lesson.map_size(height, width, stride) == size


# ---- matching


def iou_tables():
    """Names and tables (G, N) of overlaps."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(5, 400, generator=generator)
    anchors = random_boxes(300, generator)
    yield "noise", noise
    yield "ties", (noise * 10).round() / 10  # 0.3 and 0.7 among them
    yield "zeros", 0 * noise
    yield "an object that overlaps nothing", torch.cat([noise, 0 * noise[:1]])
    yield "ones", 0 * noise + 1
    yield "one object", noise[:1]
    yield "one anchor", noise[:, :1]
    yield "thresholds", torch.tensor([[0.7, 0.3, math.nextafter(0.7, 0), math.nextafter(0.3, 0)]], dtype=torch.float64)
    yield "boxes", box_iou(random_boxes(9, generator), anchors)
    yield "double boxes", box_iou(anchors[[3, 3, 8]], anchors)


@pytest.mark.parametrize(("name", "iou"), [*iou_tables()])
@pytest.mark.parametrize(("high", "low"), [(0.7, 0.3), (0.5, 0.5), (1.0, 0.0)])
def test_matches_equal_torchvisions(name, iou, high, low):
    kept = iou.clone()
    own = lesson.match_anchors(iou, high, low)
    assert torch.equal(own, Matcher(high, low, allow_low_quality_matches=True)(iou)) and torch.equal(iou, kept)


def test_a_photo_without_objects_is_all_background():
    assert lesson.match_anchors(torch.zeros(0, 7), 0.7, 0.3).tolist() == [-1] * 7
    points = torch.rand(7, 2)
    assert lesson.fcos_match(torch.zeros(0, 4), points, torch.full((7,), 8), torch.zeros(7)).tolist() == [-1] * 7


def test_assignments_count_what_each_object_gets():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [100, 100, 120, 120], [300, 300, 310, 310]])
    truths = [(anchors[[0]], torch.tensor([2])), (torch.tensor([[100.0, 100, 120, 110], [0, 0, 10, 10]]),
                                                  torch.tensor([1, 3]))]
    table = lesson.assignments(truths, anchors, 0.7, 0.3)
    assert table["class"].tolist() == ["RBC", "Platelets", "WBC"]
    assert table["positives"].tolist() == [2, 1, 2]  # the platelet by the rescue alone
    np.testing.assert_allclose(table["best IoU"], [1, 0.5, 1])
    np.testing.assert_allclose(table["size"], [10, 200**0.5, 10])
    census = lesson.census(table, 0.7)
    assert census.loc["Platelets"].tolist() == pytest.approx([1, 200**0.5, 1, 1])
    assert census.loc["WBC"].tolist() == pytest.approx([1, 10, 2, 0])


# ---- sampling, losses


@pytest.mark.parametrize("positive", [0, 1, 7, 500])
@pytest.mark.parametrize("negative", [0, 3, 900])
def test_the_sample_is_as_large_as_torchvisions(positive, negative):
    matched = torch.cat([torch.arange(positive), torch.full((negative,), -1), torch.full((50,), -2)])
    matched = matched[torch.randperm(len(matched), generator=torch.Generator().manual_seed(0))]
    chosen = lesson.sample(matched, 64, torch.Generator().manual_seed(1))
    theirs = BalancedPositiveNegativeSampler(64, 0.5)([torch.where(matched >= 0, 1, matched + 1)])
    assert (matched[chosen] >= 0).sum() == theirs[0][0].sum() and (matched[chosen] == -1).sum() == theirs[1][0].sum()
    assert len(chosen.unique()) == len(chosen) and not (matched[chosen] == -2).any()


def test_the_sample_is_drawn_at_random_and_by_its_generator():
    matched = torch.full((1000,), -1)
    matched[::2] = 0
    seen = [lesson.sample(matched, 64, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert seen[0].float().mean() == pytest.approx(500, abs=120)


@pytest.mark.parametrize("p", [0.5, 0.01, 0.9])
def test_the_share_of_the_gradient(p):
    matched = torch.tensor([0, 3, -1, -1, -1, -1, -1, -2, -2])
    found = lesson.gradient_share(matched, p, F.binary_cross_entropy_with_logits)
    assert found == pytest.approx(2 * (1 - p) / (2 * (1 - p) + 5 * p))
    slopes = []
    for t in (0.0, 1.0):
        z = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64, requires_grad=True)
        sigmoid_focal_loss(z, torch.full_like(z, t), reduction="sum").backward()
        slopes.append(z.grad.abs().item())
    focal = lesson.gradient_share(matched, p, sigmoid_focal_loss)
    assert focal == pytest.approx(2 * slopes[1] / (2 * slopes[1] + 5 * slopes[0]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("positive", [0, 1, 12])
def test_the_losses_of_the_rpn_equal_torchvisions(scale, positive):
    generator = torch.Generator().manual_seed(0)
    matched = torch.full((40,), -1)
    matched[:positive] = torch.arange(positive) % 3
    matched[30:] = -2
    wanted = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    rpn = RegionProposalNetwork(AnchorGenerator(), RPNHead(8, 9), 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    results = []
    for ours in (True, False):
        generator = torch.Generator().manual_seed(1)
        logits, moves = ((scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
                         for shape in ((40,), (40, 4)))
        if ours:
            losses = lesson.rpn_losses(logits, moves, matched, wanted, (matched > -2).nonzero()[:, 0])
        else:
            labels = torch.where(matched >= 0, 1.0, matched + 1.0).double()  # -1 is what torchvision leaves out
            losses = rpn.compute_loss(logits[:, None], moves, [labels], [wanted])
        (losses[0] + 3 * losses[1]).backward()
        results.append([*(loss.detach() for loss in losses), logits.grad, moves.grad])
    torch.testing.assert_close(results[0], results[1])


# ---- the pyramid


@pytest.mark.parametrize("sizes", [[(16, 20), (8, 10), (4, 5)], [(15, 9), (8, 5), (4, 3)], [(1, 1)], [(3, 2), (1, 1)]])
def test_the_pyramid_equals_torchvisions(sizes):
    torch.manual_seed(0)
    inputs = [4 * (k + 1) for k in range(len(sizes))]
    ours = lesson.FeaturePyramid(inputs, 6).double()
    theirs = FeaturePyramidNetwork(inputs, 6).double()
    for own, other in zip((*ours.W, *ours.V), (*theirs.inner_blocks, *theirs.layer_blocks)):
        own.load_state_dict(other[0].state_dict())
    results = []
    for net in (ours, theirs):
        generator = torch.Generator().manual_seed(1)
        maps = [torch.randn(2, c, *size, generator=generator, dtype=torch.float64).requires_grad_()
                for c, size in zip(inputs, sizes)]
        found = net(maps) if net is ours else [*net({str(k): one for k, one in enumerate(maps)}).values()]
        sum((one * torch.linspace(-1, 1, one.numel()).view_as(one)).sum() for one in found).backward()
        results.append([*(one.detach() for one in found), *(one.grad for one in maps)])
    torch.testing.assert_close(results[0], results[1])


def test_the_level_of_a_proposal_equals_torchvisions():
    sides = torch.cat([torch.logspace(-1, 4, 400), torch.tensor([56.0, 112, 224, 448, 223.99, 224.01])])
    boxes = torch.stack([0 * sides + 3, 0 * sides + 5, 3 + sides, 5 + sides * 1.0], dim=1)
    boxes = torch.cat([boxes, random_boxes(500, torch.Generator().manual_seed(0))])
    assert torch.equal(lesson.roi_level(boxes), LevelMapper(2, 5)([boxes]) + 2)
    assert lesson.roi_level(torch.tensor([[0.0, 0, 224, 224], [0, 0, 112, 448], [0, 0, 1, 1]])).tolist() == [4, 4, 2]


# ---- FCOS


class Caught(Exception):
    """Carries what torchvision's FCOS hands to its head."""


def their_fcos_match(boxes, anchors, counts):
    """The matches of torchvision's FCOS, taken from its own loss."""
    class Head(FCOSHead):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
            raise Caught(matched_idxs[0])

    model = FCOS.__new__(FCOS)
    torch.nn.Module.__init__(model)
    model.head, model.center_sampling_radius = Head(), 1.5
    with pytest.raises(Caught) as caught:
        model.compute_loss([{"boxes": boxes}], {}, [anchors], counts)
    return caught.value.args[0]


@pytest.mark.parametrize("kind", ["random", "tiny", "huge", "degenerate", "nested", "equal", "on the points"])
def test_fcos_matches_equal_torchvisions(kind):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(12, generator).double()
    boxes = {"random": boxes, "tiny": random_boxes(12, generator, smallest=0.1).double() * 0.1 + 100,
             "huge": boxes * 10, "degenerate": torch.cat([boxes[:2], boxes[2:, [0, 1, 0, 3]]]),
             "nested": torch.tensor([[320.0 - s, 240 - s, 320 + s, 240 + s] for s in (5, 20, 60, 61)]).double(),
             "equal": boxes[[0, 0, 1]], "on the points": (boxes / 8).round() * 8}[kind]
    grids, strides = [(60, 80), (30, 40), (15, 20), (8, 10), (4, 5)], (8, 16, 32, 64, 128)
    maps = [lesson.grid_anchors(lesson.base_anchors((s,), (1.0,)), *grid, s) for grid, s in zip(grids, strides)]
    anchors, counts = torch.cat(maps).double(), [len(one) for one in maps]
    levels = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    own = lesson.fcos_match(boxes, points, torch.tensor(strides)[levels], levels)
    theirs = their_fcos_match(boxes, anchors, counts)
    assert torch.equal(own, theirs)
    assert kind in ("degenerate", "huge") or (own >= 0).any()


def test_distances_and_centerness():
    boxes, points = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10], [1, 10], [0, 5], [12, 5]])
    d = lesson.distances(boxes, points)[:, 0]
    assert d.tolist() == [[5, 10, 5, 10], [1, 10, 9, 10], [0, 5, 10, 15], [12, 5, -2, 15]]
    found = lesson.centerness(d[:3])
    np.testing.assert_allclose(found, [1, (1 / 9) ** 0.5, 0], atol=1e-6)


# ---- DETR


def costs():
    """Names and costs (G, Q)."""
    rng = np.random.default_rng(0)
    for G, Q in ((1, 1), (1, 9), (4, 4), (7, 40), (20, 20), (30, 100)):
        yield f"noise {G} {Q}", rng.normal(size=(G, Q))
        yield f"ties {G} {Q}", rng.integers(0, 3, (G, Q)).astype(float)
        yield f"product {G} {Q}", np.outer(np.arange(G) + 1.0, np.arange(Q) + 1.0)  # greedy is as wrong as can be
        yield f"huge {G} {Q}", 1e12 * rng.normal(size=(G, Q))
        yield f"tiny {G} {Q}", 1e-12 * rng.normal(size=(G, Q))
        yield f"constant {G} {Q}", np.full((G, Q), 0.1)
    yield "zeros", np.zeros((5, 8))
    yield "none", np.zeros((0, 4))
    yield "all want the same", np.tile(np.r_[0, 1:30.0], (20, 1)) + 1e-3 * rng.normal(size=(20, 30))


@pytest.mark.parametrize(("name", "cost"), [*costs()])
def test_the_hungarian_algorithm_equals_scipy(name, cost):
    kept = cost.copy()
    queries = lesson.hungarian(cost)
    assert queries.shape == (len(cost),) and len(set(queries.tolist())) == len(cost) and (cost == kept).all()
    rows, columns = linear_sum_assignment(cost)
    best, scale = cost[rows, columns].sum(), np.abs(cost).max(initial=0)
    assert cost[np.arange(len(cost)), queries].sum() == pytest.approx(best, rel=1e-9, abs=1e-9 * scale)
    if "noise" in name:
        assert queries.tolist() == columns.tolist()


def test_the_hungarian_algorithm_equals_trying_everything():
    rng = np.random.default_rng(1)
    for _ in range(200):
        G, Q = sorted(rng.integers(1, 6, 2).tolist())
        cost = rng.integers(-4, 5, (G, Q)).astype(float)
        best = min(cost[np.arange(G), list(one)].sum() for one in itertools.permutations(range(Q), G))
        assert cost[np.arange(G), lesson.hungarian(cost)].sum() == best


@pytest.mark.parametrize("cost", [np.zeros((3, 2)), np.full((2, 3), np.nan), np.array([[np.inf, 1.0]])])
def test_the_hungarian_algorithm_refuses_what_it_cannot_do(cost):
    with pytest.raises(ValueError, match="finite costs"):
        lesson.hungarian(cost)


def test_the_cost_of_detr():
    generator = torch.Generator().manual_seed(0)
    boxes, predicted = (box_convert(torch.rand(n, 4, generator=generator) / 2 + 0.1, "cxcywh", "xyxy") for n in (3, 8))
    labels, probabilities = torch.tensor([2, 0, 2]), torch.rand(8, 4, generator=generator)
    found = lesson.detr_cost(boxes, labels, predicted, probabilities)
    assert found.shape == (3, 8)
    for g, q in itertools.product(range(3), range(8)):
        a, b = boxes[g].double(), predicted[q].double()
        shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
        union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
        hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod()
        giou = shared / union - (hull - union) / hull
        middle = ((a[2:] + a[:2]) / 2 - (b[2:] + b[:2]) / 2).abs().sum()
        size = ((a[2:] - a[:2]) - (b[2:] - b[:2])).abs().sum()
        wanted = -probabilities[q, labels[g]] + 5 * (middle + size) - 2 * giou
        assert found[g, q].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_the_imagined_network_is_half_done():
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.5, 0.5, 0.9, 0.8]])
    labels = torch.tensor([1, 3])
    predicted, probabilities = lesson.imagine(boxes, labels, 40, 4, torch.Generator().manual_seed(0))
    assert predicted.shape == (40, 4) and probabilities.shape == (40, 4)
    assert (predicted[:, 2:] > predicted[:, :2]).all()
    assert ((box_iou(boxes, predicted) > 0.4).sum(dim=1) >= 2).all()
    queries = lesson.hungarian(lesson.detr_cost(boxes, labels, predicted, probabilities).double().numpy())
    assert probabilities[queries, labels].tolist() == pytest.approx([0.8, 0.8])


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK,
        "{positive_share_one_map_percent:.2f}% of the anchors are positive", "{outputs_pyramid:.0f} anchors",
        "equal SciPy's up to {largest_difference_to_scipy:.0e}",
    )
    assert results["gradient_of_positives_plain_percent"] < results["gradient_of_positives_sampled_percent"]
    assert results["rescued_pyramid_percent"] < results["rescued_one_map_percent"]
    assert results["positives_fcos"] > results["positives_pyramid"] > results["positives_one_map"] > 1


def test_rules_are_compared_class_by_class_and_results_are_taken_from_where_they_belong():
    classes = ["RBC", "RBC", "WBC"]
    tables = {name: pd.DataFrame({"class": classes, "size": 1.0, "positives": positives, "best IoU": best})
              for name, positives, best in (("one_map", [1, 2, 6], [0.6, 0.8, 0.9]),
                                            ("pyramid", [3, 3, 9], [0.5, 0.6, 0.8]),
                                            ("fcos", [0, 4, 8], 1.0))}
    drawn = []
    found = run_cell(NOTEBOOK, "rules = pd.DataFrame(", HIGH=0.7, draw_summary=drawn.append, **tables)
    assert drawn[0].loc["RBC"].tolist() == [1.5, 3, 2, 1] and drawn[0].loc["WBC"].tolist() == [6, 9, 8, 1]
    assert [some.tolist() for some in found["missed"].values()] == [[True, False, False], [True, True, False],
                                                                    [True, False, False]]
    results = run_cell(
        NOTEBOOK, '"fcos_without_a_point_percent"', anchors=range(10), pyramid_anchors=range(20), points=range(30),
        QUERIES=40, share=0.02, HIGH=0.7, cures={"a": 0.01, "b": 0.5, "c": 0.3, "d": 0.4}, largest_difference=1e-12,
        **tables)["results"]
    assert results == pytest.approx({
        "positives_one_map": 3, "positives_pyramid": 5, "positives_fcos": 4, "outputs_one_map": 10,
        "outputs_pyramid": 20,
        "outputs_fcos": 30, "outputs_detr": 40, "positive_share_one_map_percent": 2, "rescued_one_map_percent": 100 / 3,
        "rescued_pyramid_percent": 200 / 3, "gradient_of_positives_plain_percent": 1,
        "gradient_of_positives_sampled_percent": 50, "gradient_of_positives_prior_percent": 30,
        "gradient_of_positives_focal_percent": 40, "fcos_without_a_point_percent": 100 / 3,
        "largest_difference_to_scipy": 1e-12})
