"""What Calculating_intersection_over_union.ipynb defines: IoU of all pairs, four losses, the experiment."""
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.autograd import gradcheck
from torchvision import ops

from tests.cells import run_cell
from tests.definitions import definitions

lesson = definitions(
    "Chapter07/Calculating_intersection_over_union.ipynb", "area", "iou", "shared_and_union", "iou_loss", "hull_sides",
    "giou_loss", "diou_loss", "ciou_loss", "iou_by_loops", "starts_and_targets", "descend_boxes", "moved_until",
    "crop_around", "median_box", "read_pixels", "read_voc")  # fmt: skip
LOSSES = {"giou_loss": ops.generalized_box_iou_loss, "diou_loss": ops.distance_box_iou_loss,
          "ciou_loss": ops.complete_box_iou_loss}
quickly = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 10**6)
# corners on a coarse grid: boxes coincide, touch along an edge or at a corner, are nested, have no width or no area
corner = st.integers(-3, 3).map(float)
hostile = st.lists(st.tuples(corner, corner, corner, corner, corner, corner, corner, corner), max_size=12)


def random_boxes(n, seed, spread=10.0, dtype=torch.float64):
    """Boxes (n, 4) xyxy with sides between 0.1 and 6."""
    generator = torch.Generator().manual_seed(seed)
    low = spread * torch.rand(n, 2, generator=generator, dtype=dtype)
    return torch.cat([low, low + 0.1 + 5.9 * torch.rand(n, 2, generator=generator, dtype=dtype)], dim=1)


def both(rows, ordered):
    """Two sets of boxes (n, 4) from rows of eight numbers; with `ordered` no pair of corners is swapped."""
    a, b = torch.tensor(rows, dtype=torch.float64).view(-1, 8).split(4, dim=1)
    if ordered:
        a, b = (torch.cat([torch.minimum(*x.split(2, 1)), torch.maximum(*x.split(2, 1))], dim=1) for x in (a, b))
    return a.clone(), b.clone()


# ---- the matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thousands_of_pairs_equal_torchvision(dtype):
    a, b = random_boxes(2000, 0, dtype=dtype), random_boxes(300, 1, dtype=dtype)
    matrix = lesson.iou(a, b)
    assert matrix.shape == (2000, 300) and matrix.dtype == dtype
    assert 0.5 < (matrix == 0).double().mean() < 0.95  # both kinds of pairs occur
    torch.testing.assert_close(matrix, ops.box_iou(a, b))
    torch.testing.assert_close(lesson.area(a), ops.box_area(a))


@quickly
@given(hostile, st.booleans())
def test_hostile_boxes_equal_torchvision(rows, ordered):
    a, b = both(rows, ordered)
    torch.testing.assert_close(lesson.iou(a, b), ops.box_iou(a, b), equal_nan=True)
    shared, union = lesson.shared_and_union(a, b)
    torch.testing.assert_close(shared / union, ops.box_iou(a, b).diagonal(), equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30])
def test_huge_and_missing_numbers(value):
    a = torch.tensor([[0.0, 0.0, value, 1.0], [0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(lesson.iou(a, a), ops.box_iou(a, a), equal_nan=True)


def test_known_values():
    boxes = torch.tensor([[0, 0, 2, 2], [2, 0, 4, 2], [5, 5, 9, 9], [0, 0, 4, 4], [1, 1, 3, 3], [7, 7, 7, 7.0]])
    assert lesson.iou(boxes[:1], boxes)[0].tolist() == pytest.approx([1, 0, 0, 0.25, 1 / 7, 0])
    assert lesson.iou(boxes[-1:], boxes[-1:]).isnan().all()  # no area: 0 / 0
    assert lesson.iou(boxes[:0], boxes).shape == (0, 6) and lesson.iou(boxes, boxes[:0]).shape == (6, 0)
    torch.testing.assert_close(lesson.iou_by_loops(boxes[:3], boxes[3:5]), lesson.iou(boxes[:3], boxes[3:5]))


@quickly
@given(seeds, st.floats(0.1, 50), st.floats(-100, 100))
def test_scale_and_place_do_not_count_and_order_does_not(seed, scale, shift):
    a, b = random_boxes(5, seed), random_boxes(4, seed + 1)
    torch.testing.assert_close(lesson.iou(scale * a + shift, scale * b + shift), lesson.iou(a, b), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(lesson.iou(a, b), lesson.iou(b, a).T)


# ---- the losses


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_of_thousands_of_pairs_equal_torchvision(name, dtype):
    a, b = random_boxes(4000, 2, dtype=dtype), random_boxes(4000, 3, dtype=dtype)
    a[:50] = b[:50]
    results = []
    for loss_fn in (getattr(lesson, name), LOSSES[name]):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        loss = loss_fn(*leaves)
        results.append((loss.detach(), *torch.autograd.grad(loss.square().sum(), leaves)))
    assert results[0][0].shape == (4000,)
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", LOSSES)
@quickly
@given(hostile, st.booleans())
def test_losses_and_gradients_of_hostile_boxes_equal_torchvision(name, rows, ordered):
    a, b = both(rows, ordered)
    results = []
    for loss_fn in (getattr(lesson, name), LOSSES[name]):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        loss = loss_fn(*leaves)
        results.append((loss.detach(), *torch.autograd.grad(loss.sum(), leaves)))
    torch.testing.assert_close(results[0], results[1], equal_nan=True, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["iou_loss", "giou_loss", "diou_loss"])
def test_gradients_are_those_of_finite_differences(name):
    a, b = random_boxes(40, 4).requires_grad_(), random_boxes(40, 5).requires_grad_()
    assert gradcheck(getattr(lesson, name), (a, b))


def test_the_weight_of_ciou_is_a_constant():
    """In the backward pass: the gradient is that of diou + alpha v with alpha as a number."""
    a, b = random_boxes(200, 6).requires_grad_(), random_boxes(200, 7)
    w, h = (a[:, 2] - a[:, 0]), (a[:, 3] - a[:, 1])
    v = 4 / math.pi**2 * (((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])).atan() - (w / h).atan()) ** 2
    alpha = (v / (lesson.iou_loss(a, b) + v)).detach()
    expected = torch.autograd.grad((lesson.diou_loss(a, b) + alpha * v).sum(), a)
    torch.testing.assert_close(torch.autograd.grad(lesson.ciou_loss(a, b).sum(), a), expected, atol=1e-6, rtol=1e-5)


def test_only_the_plain_loss_is_silent_apart():
    a = torch.tensor([[5.0, 5.0, 7.0, 6.0]], requires_grad=True)
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    gradients = {name: torch.autograd.grad(getattr(lesson, name)(a, b).sum(), a)[0] for name in ("iou_loss", *LOSSES)}
    assert (gradients.pop("iou_loss") == 0).all()
    for name, gradient in gradients.items():
        assert gradient[0, [0, 2]].sum() > 0, f"{name} must pull the box to the left"
        assert gradient[0, [1, 3]].sum() > 0, f"{name} must pull the box up"


@pytest.mark.parametrize("name", ["iou_loss", *LOSSES])
def test_no_boxes_and_equal_boxes(name):
    loss_fn = getattr(lesson, name)
    assert loss_fn(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    boxes = random_boxes(9, 8)
    torch.testing.assert_close(loss_fn(boxes, boxes), torch.zeros(9, dtype=torch.float64), atol=1e-5, rtol=0)
    assert loss_fn(boxes, boxes + 100).min() >= 1


def test_hull():
    a, b = torch.tensor([[0, 0, 2, 1.0], [0, 0, 9, 9]]), torch.tensor([[5, -4, 6, 0.0], [2, 3, 4, 5]])
    assert lesson.hull_sides(a, b).tolist() == [[6, 5], [9, 9]]


# ---- the experiment


def test_starts_have_other_sizes_and_lie_within_reach():
    pool = torch.tensor([[0, 0, 10, 10], [5, 5, 45, 25], [100, 100, 300, 200.0]])
    start, target = lesson.starts_and_targets(pool, 500, seed=3)
    assert start.shape == target.shape == (500, 4)
    torch.testing.assert_close(lesson.area(target), torch.ones(500))  # the unit is the target's side
    offset = ((start[:, :2] + start[:, 2:]) - (target[:, :2] + target[:, 2:])) / 2
    relative = offset / (target[:, 2:] - target[:, :2])
    assert relative.norm(dim=1).max() <= 2.5 + 1e-4 and relative.norm(dim=1).min() < 0.1
    assert (relative.mean(dim=0).abs() < 0.3).all()  # in all directions
    assert lesson.area(start).log().std() > 0.5
    again = lesson.starts_and_targets(pool, 500, seed=3)
    torch.testing.assert_close(again, (start, target))
    assert not torch.equal(lesson.starts_and_targets(pool, 500, seed=4)[0], start)


def test_descent_follows_the_gradient_of_each_pair():
    start, target = random_boxes(6, 9), random_boxes(6, 10)
    kept = start.clone()
    path = lesson.descend_boxes(lesson.giou_loss, start, target, partial(torch.optim.SGD, lr=0.1), 5)
    assert path.shape == (6, 6, 4) and torch.equal(start, kept) and torch.equal(path[0], start)
    leaf = start.clone().requires_grad_()
    gradient, = torch.autograd.grad(lesson.giou_loss(leaf, target).sum(), leaf)
    torch.testing.assert_close(path[1], start - 0.1 * gradient)
    alone = lesson.descend_boxes(lesson.giou_loss, start[2:3], target[2:3], partial(torch.optim.SGD, lr=0.1), 5)
    torch.testing.assert_close(alone[:, 0], path[:, 2])  # pairs do not mix
    last = (path[5] - path[4]).norm() / (path[1] - path[0]).norm()
    assert last < 0.5  # the rate decays


# ---- drawing and reading


@quickly
@given(st.floats(0, 1), st.floats(1, 300), st.floats(1, 300))
def test_a_box_is_moved_until_its_iou_is_as_wanted(value, width, height):
    cell = torch.tensor([20.0, 30.0, 20 + width, 30 + height], dtype=torch.float64)
    moved = lesson.moved_until(cell, value)
    torch.testing.assert_close(moved[2:] - moved[:2], cell[2:] - cell[:2])
    assert ops.box_iou(cell[None], moved[None]).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("cell", [[20, 10, 30, 16], [0, 0, 10, 6], [50, 34, 60, 40]])
def test_a_crop_keeps_the_box_on_its_cell(cell):
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    x0, y0, x1, y1 = cell
    image[:, y0:y1, x0:x1] = 200
    view, inside = lesson.crop_around(image, torch.tensor(cell, dtype=torch.float32), margin=0.5)
    y, x = (view[0] == 200).nonzero().T
    assert inside.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert view.shape[2] <= 20 and view.shape[1] <= 12


def test_the_median_box_is_of_its_class():
    boxes = torch.tensor([[0, 0, k, k] for k in (9, 1, 5, 3, 7)], dtype=torch.float32)
    annotated = {"a": (boxes[:3], torch.tensor([2, 2, 1])), "b": (boxes[3:], torch.tensor([2, 1]))}
    assert lesson.median_box(annotated, 2)[0] == "b" and lesson.median_box(annotated, 2)[1].tolist() == [0, 0, 3, 3]


def test_pixels_are_read_as_rgb(tmp_path):
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "photo.png")
    pixels = lesson.read_pixels(tmp_path / "photo.png")
    assert pixels.shape == (3, 4, 6) and pixels.dtype == torch.uint8 and pixels[:, 0, 0].tolist() == [10, 20, 30]
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "gray.png")
    assert (lesson.read_pixels(tmp_path / "gray.png") == 77).all()


def test_annotations_are_read_in_the_order_of_the_corners(tmp_path):
    corners = "<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax>"
    one = "<object><name>{}</name><bndbox>" + corners + "</bndbox></object>"
    (tmp_path / "a.xml").write_text(f"<annotation>{one.format('RBC')}{one.format('WBC')}</annotation>")
    boxes, labels = lesson.read_voc(tmp_path / "a.xml", ("Platelets", "RBC", "WBC"))
    assert boxes.tolist() == [[1, 2, 30, 40]] * 2 and labels.tolist() == [2, 3]
    (tmp_path / "b.xml").write_text("<annotation></annotation>")
    boxes, labels = lesson.read_voc(tmp_path / "b.xml", ("RBC",))
    assert boxes.shape == (0, 4) and labels.shape == (0,) and labels.dtype == torch.int64


def test_pairs_are_parted_by_how_they_start_and_not_by_how_they_end():
    goals = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    start = torch.tensor([[0.0, 0, 10, 5], [80, 80, 90, 90]])  # the first touches its goal, the second does not
    path = [start, goals.clone()]  # and both end on it
    found = run_cell(
        "Chapter07/Calculating_intersection_over_union.ipynb", "touching = found[0] > 0", area=ops.box_area,
        STEPS=1, PAIRS=2, SEEDS=(7,), LOSSES={"one": None}, every=goals, tqdm=lambda pairs, **_: pairs,
        starts_and_targets=lambda boxes, n, seed: (start, goals), descend_boxes=lambda *_: path,
        iou_loss=lambda a, b: 1 - ops.box_iou(a, b).diag())
    progress = {(row["optimizer"], row["start"]): row["progress"].tolist() for row in found["rows"]}
    assert progress == {("SGD", "in touch"): [0.5, 1], ("SGD", "apart"): [0, 1], ("Adam", "in touch"): [0.5, 1],
                        ("Adam", "apart"): [0, 1]}


def test_gains_and_results_are_taken_from_where_they_belong():
    final = pd.DataFrame({"mean": {("SGD", "apart", "IoU"): 0.1, ("SGD", "apart", "GIoU"): 0.6,
                                   ("SGD", "in touch", "GIoU"): 0.9,
                                   ("Adam", "apart", "IoU"): 0.2, ("Adam", "apart", "GIoU"): 0.5,
                                   ("Adam", "in touch", "GIoU"): 0.8}, "std": 0.05})
    name = "Chapter07/Calculating_intersection_over_union.ipynb"
    gains = run_cell(name, "gains = {(kind, name)", final=final, OPTIMIZERS={"SGD": 0, "Adam": 0}, library={"GIoU": 0},
                     REQUIRED_GAIN=0.2)["gains"]
    assert gains == pytest.approx({("SGD", "GIoU"): 0.5, ("Adam", "GIoU"): 0.3})
    with pytest.raises(AssertionError, match="only 0.30 better"):
        run_cell(name, "gains = {(kind, name)", final=final, OPTIMIZERS={"SGD": 0, "Adam": 0}, library={"GIoU": 0},
                 REQUIRED_GAIN=0.4)
    found = run_cell(name, '"smallest_gain"', final=final, SHIFT=4, shifted={"RBC": 0.7}, gains=gains, slow=6.0,
                     fast=2.0)
    assert found["results"] == pytest.approx({
        "SGD_IoU_apart_iou": 0.1, "SGD_GIoU_apart_iou": 0.6, "SGD_GIoU_in_touch_iou": 0.9, "Adam_IoU_apart_iou": 0.2,
        "Adam_GIoU_apart_iou": 0.5, "Adam_GIoU_in_touch_iou": 0.8, "shift_4px_iou_RBC": 0.7, "smallest_gain": 0.3,
        "loops_over_matrix_time": 3})
