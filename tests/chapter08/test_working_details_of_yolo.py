"""What Working_details_of_YOLO.ipynb defines, beside torchvision and plain loops, on random and hostile inputs."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, box_iou, nms

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter08/Working_details_of_YOLO.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "shape_scene", "shape_scenes", "mean_average_precision", "YOLO", "size_iou", "typical_sizes", "decode",
    "encode", "as_outputs", "yolo_loss", "new_yolo", "photo_inputs", "train_yolo", "raw_detections",
    "without_duplicates", "as_detections", "diagnose")
ANCHORS = torch.tensor([[15.0, 20.0], [30.0, 25.0], [50.0, 60.0]])


def random_boxes(n, width, height, generator, smallest=4.0):
    """Boxes (n, 4) xyxy whose centers lie in the image; they may hang over its border."""
    center = torch.rand(n, 2, generator=generator) * torch.tensor([width, height])
    size = smallest + torch.rand(n, 2, generator=generator) ** 2 * 60
    return box_convert(torch.cat([center, size], dim=1), "cxcywh", "xyxy")


# ---- anchors


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_iou_of_sizes_equals_torchvisions_iou_of_boxes_with_one_center(scale):
    generator = torch.Generator().manual_seed(0)
    a, b = (scale * (0.01 + torch.rand(n, 2, generator=generator, dtype=torch.float64)) for n in (30, 7))
    b[0] = a[0]
    boxes = [torch.cat([-some / 2, some / 2], dim=1) for some in (a, b)]
    torch.testing.assert_close(lesson.size_iou(a, b), box_iou(*boxes))
    assert lesson.size_iou(a, b)[0, 0] == 1


def test_typical_sizes_are_the_medians_of_what_they_overlap_most():
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[12.0, 12.0], [20.0, 45.0], [60.0, 50.0]])
    sizes = (groups[:, None] * (1 + 0.1 * torch.randn(3, 200, 2, generator=generator))).reshape(-1, 2)
    found = lesson.typical_sizes(sizes, 3)
    torch.testing.assert_close(found, groups, rtol=0.05, atol=0)
    nearest = lesson.size_iou(sizes, found).argmax(dim=1)
    for k in range(3):
        assert torch.equal(found[k], sizes[nearest == k].median(dim=0).values)
    assert torch.equal(found, lesson.typical_sizes(sizes, 3)) and (found.prod(dim=1).diff() > 0).all()


@pytest.mark.parametrize("number", [1, 3, 5])
def test_typical_sizes_of_equal_boxes(number):
    found = lesson.typical_sizes(torch.tensor([[10.0, 20.0]] * 6), number)
    assert found.tolist() == [[10, 20]] * number


# ---- encode, decode


@pytest.mark.parametrize("grid", [(6, 6), (4, 7), (1, 1)])
@pytest.mark.parametrize("smallest", [0.05, 4.0, 300.0])
def test_decode_undoes_encode(grid, smallest):
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        box = random_boxes(1, grid[1] * 16, grid[0] * 16, generator, smallest).double()
        target = lesson.encode(box, torch.tensor([1]), ANCHORS.double(), grid, 16, 3)
        mine = target[..., 4] == 1
        assert mine.sum() == 1 and target.shape == (3, *grid, 8)
        found = lesson.decode(lesson.as_outputs(target), ANCHORS.double(), 16)[mine]
        torch.testing.assert_close(found, box, rtol=1e-4, atol=1e-4)


def test_the_place_that_answers():
    boxes = torch.tensor([[20.0, 2, 40, 22], [0, 40, 50, 96], [90, 0, 102, 12]])  # centers (30, 12), (25, 68), (96, 6)
    target = lesson.encode(boxes, torch.tensor([2, 0, 1]), ANCHORS, (6, 6), 16, 3)
    assert (target[..., 4] == 1).nonzero().tolist() == [[0, 0, 1], [0, 0, 5], [2, 4, 1]]  # anchor, row, column
    assert target[0, 0, 1, :2].tolist() == [30 / 16 - 1, 12 / 16] and target[2, 4, 1, :2].tolist() == [9 / 16, 0.25]
    assert target[0, 0, 5, :2].tolist() == [1, 6 / 16]  # on the border: in the last cell
    np.testing.assert_allclose(target[2, 4, 1, 2:4], np.log([50 / 50, 56 / 60]), atol=1e-6)
    assert target[0, 0, 1, 5:].tolist() == [0, 0, 1] and target[2, 4, 1, 5:].tolist() == [1, 0, 0]
    assert target[target[..., 4] == 0].abs().sum() == 0


def test_no_objects_and_two_for_one_place():
    empty = lesson.encode(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), ANCHORS, (6, 6), 16, 3)
    assert empty.abs().sum() == 0
    two = torch.tensor([[20.0, 20, 40, 40], [21, 21, 41, 41]])
    target = lesson.encode(two, torch.tensor([0, 1]), ANCHORS, (6, 6), 16, 3)
    assert (target[..., 4] == 1).sum() == 1 and target[target[..., 4] == 1][0, 5:].tolist() in ([1, 0, 0], [0, 1, 0])


def test_decode_equals_a_loop():
    outputs = 2 * torch.randn(2, 3, 4, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = lesson.decode(outputs, ANCHORS.double(), 16)
    assert found.shape == (2, 3, 4, 5, 4)
    for image, anchor, row, column in np.ndindex(2, 3, 4, 5):
        tx, ty, tw, th = outputs[image, anchor, row, column, :4].tolist()
        x, y = 16 * (column + 1 / (1 + math.exp(-tx))), 16 * (row + 1 / (1 + math.exp(-ty)))
        w, h = (ANCHORS[anchor].double() * torch.tensor([math.exp(min(tw, 4)), math.exp(min(th, 4))])).tolist()
        expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        assert found[image, anchor, row, column].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_decode_stays_finite(value):
    outputs = torch.full((3, 2, 2, 8), value, requires_grad=True)
    boxes = lesson.decode(outputs, ANCHORS, 16)
    boxes.sum().backward()
    assert boxes.isfinite().all() and outputs.grad.isfinite().all()
    center = (boxes[..., :2] + boxes[..., 2:]) / 2  # never leaves its cell
    assert (center >= -1e-3).all() and (center <= 32 + 1e-3).all()


# ---- the loss


def loss_by_loops(outputs, targets, weights):
    """The loss in plain Python and float64."""
    parts, n = [0.0] * 4, 0
    for place in np.ndindex(*targets.shape[:-1]):
        said, asked = outputs[place], targets[place]
        if asked[4] == 1:
            n += 1
            parts[0] = parts[0] + sum((torch.sigmoid(said[k]) - asked[k]) ** 2 for k in (0, 1))
            parts[0] = parts[0] + sum((said[k] - asked[k]) ** 2 for k in (2, 3))
            parts[1] = parts[1] + F.softplus(-said[4])
            parts[3] = parts[3] + torch.logsumexp(said[5:], 0) - said[5 + int(asked[5:].argmax())]
        else:
            parts[2] = parts[2] + F.softplus(said[4])
    parts = [part / max(n, 1) for part in parts]
    return sum(w * part for w, part in zip(weights, parts)), [float(torch.as_tensor(part).detach()) for part in parts]


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("objects", [0, 1, 5])
@pytest.mark.parametrize("weights", [(5.0, 1.0, 0.5, 1.0), (0.0, 2.0, 0.0, 3.0)])
def test_the_loss_equals_a_loop_forwards_and_backwards(scale, objects, weights):
    generator = torch.Generator().manual_seed(0)
    targets = torch.stack([lesson.encode(random_boxes(objects, 64, 48, generator),
                                         torch.randint(3, (objects,), generator=generator), ANCHORS, (3, 4), 16, 3)
                           for _ in range(2)]).double()
    results = []
    for function in (lesson.yolo_loss, loss_by_loops):
        outputs = scale * torch.randn(targets.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        outputs.requires_grad_()
        loss, parts = function(outputs, targets, weights)
        loss.backward()
        results.append((loss.item(), list(map(float, parts)), outputs.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-9)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-6, atol=1e-9)


def test_a_perfect_network_pays_nothing_and_background_has_neither_box_nor_class():
    target = lesson.encode(torch.tensor([[20.0, 2, 40, 22]]), torch.tensor([2]), ANCHORS, (3, 3), 16, 3)
    outputs = lesson.as_outputs(target)
    outputs[..., 4] = torch.where(target[..., 4] == 1, 50.0, -50.0)
    outputs[..., 5:] = 50 * target[..., 5:]
    outputs[target[..., 4] == 0, :4] = 7.0  # whatever they say
    loss, parts = lesson.yolo_loss(outputs[None], target[None], (5.0, 1.0, 0.5, 1.0))
    assert loss < 1e-6 and (parts < 1e-6).all() and not parts.requires_grad


# ---- the network


@pytest.mark.parametrize("size", [(96, 96), (48, 80), (16, 16)])
def test_the_shape_of_the_outputs(size):
    model = lesson.new_yolo(ANCHORS, 3, 0, CPU).eval()
    assert model(torch.zeros(2, 3, *size)).shape == (2, 3, size[0] // 16, size[1] // 16, 8)


def test_each_output_belongs_to_its_anchor():
    model = lesson.new_yolo(ANCHORS, 2, 0, CPU).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(21.0))
    outputs = model(torch.rand(1, 3, 32, 48))
    for anchor in range(3):
        assert (outputs[0, anchor] == 7 * anchor + torch.arange(7)).all()


def test_each_output_belongs_to_its_cell():
    """What changes in one corner of the image changes outputs around that corner."""
    model = lesson.new_yolo(ANCHORS, 3, 0, CPU).eval()
    images = torch.zeros(1, 3, 96, 192)
    changed = images.clone()
    changed[..., 80:, 176:] = 1
    difference = (model(images) - model(changed)).abs().sum(dim=(0, 1, 4))
    assert difference[-1, -1] > 0 and (difference[:, :6] == 0).all() and difference[0].sum() < difference[-1].sum()


def test_seeds_decide_the_weights():
    first, again, other = (lesson.new_yolo(ANCHORS, 3, seed, CPU).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_training_is_in_training_mode_by_its_seed():
    images, truths = lesson.shape_scenes(12, 48, 2, 0)
    targets = torch.stack([lesson.encode(**truth, anchors=ANCHORS, grid=(3, 3), stride=16, classes=3)
                           for truth in truths])
    found = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        model = lesson.new_yolo(ANCHORS, 3, 0, CPU).eval()
        before = [p.clone() for p in model.parameters()]
        found[name] = lesson.train_yolo(model, images, targets, (5.0, 1.0, 0.5, 1.0), 6, 4, 1e-3, seed)
        assert model.training and all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
        assert (model.blocks[0][1].num_batches_tracked == 6) and not found[name].requires_grad
    assert found["first"].shape == (6, 4) and torch.equal(found["first"], found["again"])
    assert not torch.equal(found["first"], found["other"])


# ---- detections


class Says(torch.nn.Module):
    """A network that says the given outputs (n, A, rows, columns, 5 + C), in the order of the images."""

    def __init__(self, outputs):
        super().__init__()
        self.anchors, self.outputs, self.at = ANCHORS, outputs, 0

    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        self.at += len(images)
        return self.outputs[self.at - len(images) : self.at]


def test_detections_equal_a_loop():
    n = 103  # more than one batch
    outputs = 3 * torch.randn(n, 3, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    found = lesson.raw_detections(Says(outputs).train(), torch.zeros(n, 3, 32, 48, dtype=torch.uint8), 16, 0.3)
    assert len(found) == n
    for one, said in zip(found, outputs):
        boxes, p = lesson.decode(said, ANCHORS, 16), said[..., 4:5].sigmoid() * said[..., 5:].softmax(dim=-1)
        expected = [(boxes[place], p[place].max(), p[place].argmax()) for place in np.ndindex(3, 2, 3)
                    if p[place].max() > 0.3]
        assert len(expected) == len(one["boxes"]) == len(one["scores"]) == len(one["labels"])
        for name, values in zip(("boxes", "scores", "labels"), zip(*expected)):
            torch.testing.assert_close(one[name], torch.stack(values))


def test_duplicates_go_class_by_class():
    generator = torch.Generator().manual_seed(0)
    found = [{"boxes": random_boxes(60, 48, 48, generator), "scores": torch.rand(60, generator=generator),
              "labels": torch.randint(3, (60,), generator=generator)},
             {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)},
             {"boxes": torch.tensor([[0.0, 0, 10, 10]] * 3), "scores": torch.tensor([0.5, 0.9, 0.7]),
              "labels": torch.tensor([1, 1, 2])}]
    kept = lesson.without_duplicates(found, 0.5)
    for one, left in zip(found, kept):
        rows = [torch.nonzero(one["labels"] == k)[:, 0] for k in range(3)]
        stays = torch.cat([some[nms(one["boxes"][some], one["scores"][some], 0.5)] for some in rows])
        stays = stays[one["scores"][stays].argsort(descending=True)]
        assert all(torch.equal(one[name][stays], left[name]) for name in one)
    np.testing.assert_allclose(kept[2]["scores"], [0.9, 0.7])


def test_a_perfect_network_is_diagnosed_as_perfect():
    images, truths = lesson.shape_scenes(6, 96, 3, 0)
    targets = torch.stack([lesson.encode(**truth, anchors=ANCHORS, grid=(6, 6), stride=16, classes=3)
                           for truth in truths])
    outputs = lesson.as_outputs(targets)
    outputs[..., 4], outputs[..., 5:] = 40 * targets[..., 4] - 20, 40 * targets[..., 5:]
    outputs[targets[..., 4] == 0, :2] = 0  # finite
    kept = [lesson.as_detections(target, ANCHORS, 16) for target in targets]
    twice = Says(torch.cat([outputs, outputs]))  # it is asked twice
    found = lesson.diagnose(twice, images, targets, truths, 16, 0.05, 0.5)
    assert found["mAP50"] == pytest.approx(lesson.mean_average_precision(kept, truths)[0], abs=1e-6)
    assert found["IoU where it answers"] == pytest.approx(1, abs=1e-4) and found["right class"] == 1
    assert found["sure boxes per object"] == pytest.approx(
        sum(len(one["labels"]) for one in kept) / sum(len(one["labels"]) for one in truths))


def test_the_metric_reads_xyxy_and_labels():
    truths = [{"boxes": torch.tensor([[10.0, 10, 30, 20]]), "labels": torch.tensor([1])}]
    exact = [{**truths[0], "scores": torch.ones(1)}]
    assert lesson.mean_average_precision(exact, truths) == (1, 1)
    other = [{**exact[0], "labels": torch.tensor([2])}]
    assert lesson.mean_average_precision(other, truths)[0] == 0


# ---- scenes


def test_scenes_are_what_they_say():
    images, truths = lesson.shape_scenes(40, 96, 4, 0)
    again, _ = lesson.shape_scenes(40, 96, 4, 0)
    other, _ = lesson.shape_scenes(40, 96, 4, 1)
    assert images.dtype == torch.uint8 and images.shape == (40, 3, 96, 96)
    assert torch.equal(images, again) and not torch.equal(images, other)
    assert {len(truth["labels"]) for truth in truths} == {1, 2, 3, 4}
    for truth in truths:
        boxes = truth["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2] + 10).all() and (boxes >= 0).all() and (boxes <= 96).all()
        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert (overlaps < 0.2).all() and truth["labels"].dtype == torch.int64


@pytest.mark.parametrize("label", [0, 1, 2])
def test_boxes_are_exact(label):
    """Pixels of an object have one color, up to noise. Their extent is the box."""
    checked = 0
    for seed in range(40):
        image, boxes, labels = lesson.shape_scene(np.random.default_rng(seed), 96, 1)
        if labels.item() != label:
            continue
        x0, y0, x1, y1 = boxes[0].round().int().tolist()
        pixels = image.float()
        middle = pixels[:, (y0 + 2 * y1) // 3 - 1 : (y0 + 2 * y1) // 3 + 2, (x0 + x1) // 2 - 1 : (x0 + x1) // 2 + 2]
        near = (pixels - middle.mean(dim=(1, 2))[:, None, None]).abs().amax(dim=0) < 42
        counts = F.avg_pool2d(near[None, None].float(), 3, 1, 1)[0, 0] > 0.6  # single pixels of the background go
        outside = counts.clone()
        outside[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
        if outside.float().mean() > 0.02:
            continue  # a background of nearly that color
        inside = near[y0:y1, x0:x1]
        rows, columns = inside.float().mean(dim=1), inside.float().mean(dim=0)
        assert (rows[1:-1] > 0).all() and (columns[2:-2] > 0).all()
        area = {0: math.pi / 4, 1: 1.0, 2: 0.5}[label]
        assert inside.float().mean().item() == pytest.approx(area, abs=0.17)
        checked += 1
    assert checked >= 3


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK,
        "mAP50 {test_map_50:.2f} against {copied_map_50:.2f} of copied boxes",
        "{lost_objects_percent:.2f}% of the objects share cell",
        "{places_with_an_object_percent:.1f}% of the places answer",
    )
    assert results["copied_map_50"] < results["test_map_50"] < results["ceiling_map_50"]
    others = [value for name, value in results.items() if name.startswith("short_without_")]
    assert len(others) == 4 and results["short_whole_map_50"] > max(others)


def test_lost_objects_and_results_are_taken_from_where_they_belong():
    scenes = {"train": (None, [{"boxes": torch.zeros(3, 4)}]), "test": (None, [{"boxes": torch.zeros(1, 4)},
                                                                               {"boxes": []}])}
    targets = {"train": torch.zeros(1, 2, 5, 6), "test": torch.zeros(1, 2, 5, 6)}
    targets["train"][0, 0, :2, 4] = targets["test"][0, 0, 0, 4] = 1  # two of three objects have a place, and one of one
    found = run_cell(NOTEBOOK, "lost = 1 - sum(", scenes=scenes, targets=targets)
    assert found["lost"] == pytest.approx(0.25) and found["filled"] == pytest.approx(0.2)
    quality = pd.DataFrame({"mAP50": [0.9, 0.8, 0.1, 0.02], "mAP": [0.7, 0.6, 0.05, 0.01]},
                           index=["what the grid allows", "trained network", "untrained network", "copied boxes"])
    table = pd.DataFrame({("mAP50", "mean"): [0.5, 0.4], ("mAP50", "std"): [0.1, 0.1]},
                         index=["all parts", "no sigmoid"])
    results = run_cell(NOTEBOOK, '"places_with_an_object_percent"', trained=0.8, floor=0.02, quality=quality,
                       parameters=7, lost=0.25, filled=0.2, table=table)["results"]
    assert results == pytest.approx({
        "test_map_50": 0.8, "test_map": 0.6, "copied_map_50": 0.02, "ceiling_map_50": 0.9, "untrained_map_50": 0.1,
        "network_parameters": 7, "lost_objects_percent": 25, "places_with_an_object_percent": 20,
        "short_all_parts_map_50": 0.5, "short_no_sigmoid_map_50": 0.4})
