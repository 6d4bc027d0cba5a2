"""What Training_Fast_R_CNN.ipynb defines: RoI pooling, RoIAlign, mirrored photos, sampled proposals, training."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import ops

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said

NOTEBOOK = "Chapter07/Training_Fast_R_CNN.ipynb"
DEVIATION = torch.tensor([0.1, 0.1, 0.2, 0.2])
lesson = definitions(
    NOTEBOOK, "bin_edges", "roi_pool_by_hand", "bilinear", "roi_align_by_hand", "FastRCNN",
    "mirror", "sample_rois", "train_fast", "fast_outputs", "fast_photo", "rcnn_photo", "rcnn", "encode", "decode",
    "median_seconds")  # fmt: skip


def random_boxes(n, seed, width=320, height=240):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator) * torch.tensor([width - 80.0, height - 80.0])
    return torch.cat([low, low + 3 + 75 * torch.rand(n, 2, generator=generator)], dim=1)


HOSTILE = torch.tensor([
    [0.0, 0, 320, 240],  # all
    [10, 10, 10, 10], [10, 10, 10, 50], [33, 21, 34, 22],  # a point, a line, less than a cell
    [60, 60, 20, 20],  # corners exchanged
    [-40, -30, 20, 20], [300, 220, 380, 300],  # partly outside,
    [-500, -500, -400, -400], [900, 900, 1000, 1000],  # wholly
    [2, 2, 6, 6], [-2, -2, 6, 6], [-6, -6, 10, 10], [6, 10, 14, 18],  # halves of a cell
    [316, 236, 320, 240], [0, 0, 4, 4], [0, 0, 3000, 2000]])


def some_features(seed=0, c=3, h=60, w=80):
    return torch.randn(c, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [1, 2, 7])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 8, 1.0])
@pytest.mark.parametrize("boxes", [random_boxes(40, 0), HOSTILE, torch.zeros(0, 4)], ids=["random", "hostile", "none"])
def test_roi_pooling_equals_torchvisions(side, scale, boxes):
    features = some_features()
    ours = lesson.roi_pool_by_hand(features, boxes, side, scale)
    assert torch.equal(ours, ops.roi_pool(features[None], [boxes], side, scale))


@pytest.mark.parametrize("side, samples", [(1, 1), (2, 3), (7, 2), (7, 1)])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 8, 1.0])
@pytest.mark.parametrize("boxes", [random_boxes(200, 1), HOSTILE, torch.zeros(0, 4)], ids=["random", "hostile", "none"])
def test_roi_align_equals_torchvisions(side, samples, scale, boxes):
    features = some_features()
    ours = lesson.roi_align_by_hand(features, boxes, side, scale, samples)
    theirs = ops.roi_align(features[None], [boxes], side, scale, sampling_ratio=samples, aligned=True)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["roi_pool", "roi_align"])
@pytest.mark.parametrize("boxes", [random_boxes(30, 2), HOSTILE], ids=["random", "hostile"])
def test_gradients_equal_torchvisions(name, boxes):
    mine, yours = (some_features(3).requires_grad_() for _ in range(2))
    options = {"sampling_ratio": 2, "aligned": True} if name == "roi_align" else {}
    ours = getattr(lesson, f"{name}_by_hand")(mine, boxes, 7, 1 / 4)
    theirs = getattr(ops, name)(yours[None], [boxes], 7, 1 / 4, **options)
    weights = torch.rand(theirs.shape, generator=torch.Generator().manual_seed(4))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-3, atol=2e-3)


def test_not_a_number_stays_in_its_bins():
    features = some_features()
    features[:, 10, 10] = torch.nan
    boxes = torch.tensor([[100.0, 100, 200, 200], [20, 20, 60, 60]])
    bad = [lesson.roi_align_by_hand(features, boxes, 7, 1 / 4).isnan(),
           ops.roi_align(features[None], [boxes], 7, 1 / 4, 2, True).isnan()]
    assert not bad[0][0].any() and bad[0][1].any() and torch.equal(*bad)


def test_bilinear_equals_grid_sample_and_is_zero_far_outside():
    features = some_features(5)
    generator = torch.Generator().manual_seed(6)
    y, x = torch.rand(500, generator=generator) * 59, torch.rand(500, generator=generator) * 79
    grid = torch.stack([2 * x / 79 - 1, 2 * y / 59 - 1], dim=1)[None, None]
    wanted = F.grid_sample(features[None], grid, align_corners=True)[0, :, 0]
    torch.testing.assert_close(lesson.bilinear(features, y, x), wanted, rtol=1e-4, atol=1e-4)
    whole = lesson.bilinear(features, torch.tensor([3.0, 59]), torch.tensor([5.0, 79]))
    assert torch.equal(whole, torch.stack([features[:, 3, 5], features[:, 59, 79]], dim=1))
    outside = lesson.bilinear(features, torch.tensor([-1.01, 61, 5, 5]), torch.tensor([5.0, 5, -2, 81]))
    assert (outside == 0).all()
    assert torch.equal(lesson.bilinear(features, torch.tensor([-0.7]), torch.tensor([4.0])), features[:, 0, 4:5])


# ---- mirrored photos, sampled proposals


@pytest.mark.parametrize("dim", [1, 2])
def test_boxes_stay_on_what_they_show(dim):
    photo = torch.zeros(3, 24, 32, dtype=torch.uint8)
    boxes = torch.tensor([[2.0, 3, 10, 9], [20, 12, 31, 24]])
    for k, (x0, y0, x1, y1) in enumerate(boxes.long().tolist()):
        photo[:, y0:y1, x0:x1] = k + 1
    kept = photo.clone(), boxes.clone()
    moved, (again, other) = lesson.mirror(photo, [boxes, boxes[:1]], dim)
    assert torch.equal(photo, kept[0]) and torch.equal(boxes, kept[1]) and torch.equal(again[:1], other)
    for k, (x0, y0, x1, y1) in enumerate(again.long().tolist()):
        assert (moved[:, y0:y1, x0:x1] == k + 1).all() and (moved == k + 1).sum() == 3 * (x1 - x0) * (y1 - y0)
    back, (twice,) = lesson.mirror(moved, [again], dim)
    assert torch.equal(back, photo) and torch.equal(twice, boxes)
    assert lesson.mirror(photo, [torch.zeros(0, 4)], dim)[1][0].shape == (0, 4)


@pytest.mark.parametrize("objects, others, rois, wanted", [
    (100, 500, 64, (16, 48)), (5, 500, 64, (5, 59)), (0, 500, 32, (0, 32)), (50, 10, 32, (8, 10)), (0, 0, 8, (0, 0))])
def test_a_quarter_of_the_proposals_has_objects(objects, others, rois, wanted):
    label = torch.cat([torch.full((objects,), 2), torch.zeros(others, dtype=torch.int64)])
    label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    rows = lesson.sample_rois(label, rois, torch.Generator().manual_seed(1))
    assert ((label[rows] > 0).sum(), (label[rows] == 0).sum()) == wanted and len(rows.unique()) == len(rows)
    if objects > 16:
        assert not torch.equal(rows, lesson.sample_rois(label, rois, torch.Generator().manual_seed(2)))


# ---- the network


def fresh(seed=0):
    torch.manual_seed(seed)
    return lesson.FastRCNN(4, 7, 3)


def test_the_photos_of_a_batch_do_not_mix():
    model = fresh().eval()
    images = torch.randn(2, 3, 240, 320)
    boxes = [random_boxes(5, 0), random_boxes(3, 1)]
    with torch.no_grad():
        logits, moves = model(images, boxes)
        features = model.trunk(images)
        assert logits.shape == (8, 4) and moves.shape == (8, 4) and features.shape == (2, 8, 60, 80)
        for k, rows in enumerate((slice(0, 5), slice(5, 8))):
            crops = ops.roi_align(features[k : k + 1], [boxes[k]], 7, 1 / 4, 2, True)
            alone = model.head(crops)
            torch.testing.assert_close(logits[rows], alone[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(moves[rows], alone[1], rtol=1e-4, atol=1e-5)


def test_both_losses_reach_the_trunk():
    for which in (0, 1):
        model = fresh()
        model(torch.randn(1, 3, 120, 160), [random_boxes(6, 0, 160, 120)])[which].square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.trunk.parameters())


class Spy(nn.Module):
    """Answers of one number; remembers photos and boxes."""

    def __init__(self):
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.zeros(8)), []

    def forward(self, images, boxes):
        self.seen.append((images.detach().clone(), [b.clone() for b in boxes], self.training))
        n = sum(map(len, boxes))
        return self.w[:4].expand(n, 4), self.w[4:].expand(n, 4)


def test_what_is_trained_on_belongs_together(monkeypatch):
    """Every true box, decoded from the moves, lies on the color that its label has, in mirrored photos, too."""
    scenes, colors = [], {1: 60, 2: 120, 3: 180}
    for seed in range(3):
        photo = torch.zeros(3, 240, 320, dtype=torch.uint8)
        target = torch.tensor([[20.0, 30, 80, 100], [150, 40, 230, 90], [60, 150, 120, 220]]) + 7 * seed
        for label, (x0, y0, x1, y1) in zip(colors, target.long().tolist()):
            photo[:, y0:y1, x0:x1] = colors[label]
        candidates = torch.cat([target + 5, target - 4, target, random_boxes(30, seed)])
        label = torch.cat([torch.tensor([1, 2, 3] * 3), torch.zeros(30, dtype=torch.int64)])
        scenes.append((photo, candidates, label, torch.cat([target] * 3 + [target[:1].expand(30, 4)])))
    batches = []

    def losses(logits, moves, labels, targets):
        batches.append((labels.clone(), targets.clone()))
        return logits.square().mean() + 1, moves.square().mean() + 1

    monkeypatch.setitem(lesson.train_fast.__globals__, "box_losses", losses)
    model = Spy().eval()
    history = lesson.train_fast(model, scenes, 12, 2, 16, DEVIATION, 1e-2, 0)
    assert history.shape == (12, 2) and all(mode for *_, mode in model.seen)
    starts = set()
    for (images, boxes, _), (labels, targets) in zip(model.seen, batches, strict=True):
        assert len(images) == 2 and [len(b) for b in boxes] == [16, 16]
        which = torch.arange(2).repeat_interleave(16)
        decoded = lesson.decode(targets, torch.cat(boxes), DEVIATION).round().long()
        for photo, label, (x0, y0, x1, y1) in zip(which, labels.tolist(), decoded.tolist()):
            if label:
                patch = (images[photo, :, y0:y1, x0:x1] + 1) * 127.5
                torch.testing.assert_close(patch, torch.full_like(patch, colors[label]), rtol=0, atol=1)
                starts.add((label, x0 > 160, y0 > 120))
        assert (labels > 0).sum() == 8
    assert len(starts) > 4  # in more places than the photos have without mirroring


def test_training_learns_and_repeats():
    photo = torch.zeros(3, 120, 160, dtype=torch.uint8)
    photo[:, 40:80, 50:90] = 200
    target = torch.tensor([[50.0, 40, 90, 80]])
    candidates = torch.cat([target + 3, target - 3, target, random_boxes(40, 0, 160, 120)])
    label = torch.where(ops.box_iou(candidates, target)[:, 0] >= 0.5, 2, 0)
    scenes = [(photo, candidates, label, target.expand(len(candidates), 4))]
    histories = [lesson.train_fast(fresh(), scenes, 15, 1, 16, DEVIATION, 1e-2, 3) for _ in range(2)]
    assert torch.equal(*histories) and histories[0][-3:, 0].mean() < 0.7 * histories[0][:3, 0].mean()


def test_a_photo_gets_the_same_detections_alone():
    photo = torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    proposals, model = random_boxes(20, 0), fresh().eval()
    probabilities, moves = lesson.fast_outputs(model, photo, proposals)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(20))
    with torch.no_grad():
        logits, again = model(photo[None] / 127.5 - 1, [proposals])
    torch.testing.assert_close(probabilities, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moves, again, rtol=1e-4, atol=1e-4)
    for found in (lesson.fast_photo(model, photo, proposals, DEVIATION, 0.5),
                  lesson.rcnn_photo(lesson.rcnn(4, 28, 3, 0).eval(), photo, proposals, 28, 0.2, DEVIATION, 0.5)):
        assert len(found["boxes"]) == len(found["scores"]) > 0 and (found["scores"].diff() <= 0).all()


def test_the_median_leaves_the_warm_up_out():
    calls = []
    seconds = lesson.median_seconds(lambda value: calls.append(value), 3, times=4)
    assert calls == [3] * 5 and 0 <= seconds < 0.1


def test_the_text_says_what_the_stored_run_found():
    assert_said(NOTEBOOK, "one pass over the photo is {trunk_speedup:.1f} times as fast",
                "Fast R-CNN takes {fast_ms_per_photo:.0f} ms for a photo and R-CNN {rcnn_ms_per_photo:.0f} ms",
                "Fast R-CNN is {speedup:.1f} times as fast without the proposals",
                "an mAP50 of {fast_test_map50:.3f} ± {fast_test_map50_std:.3f} and R-CNN {rcnn_test_map50:.3f}",
                "({fast_test_map:.3f} and {rcnn_test_map:.3f})")


def test_scores_and_speeds_are_of_the_detector_that_they_are_called_after():
    tested = {(name, seed): {"map_50": torch.tensor(value + seed / 100), "map": torch.tensor(value / 2 + seed / 100)}
              for name, value in (("R-CNN", 0.6), ("Fast R-CNN", 0.8)) for seed in (0, 1, 2)}
    targets = {part: [{"boxes": torch.zeros(1, 4), "labels": torch.tensor([label])}]
               for part, label in (("train", 1), ("test", 2))}
    parts, copied = {"train": [0], "test": [1, 2, 3]}, []
    found = run_cell(
        NOTEBOOK, "copied_map50 = coco_map(", tested=tested, SEEDS=(0, 1, 2), choice={"R-CNN": 0, "Fast R-CNN": 0},
        parts=parts, targets=targets,
        coco_map=lambda some, truth: copied.append((some, truth)) or {"map_50": torch.tensor(0.05)})
    score = found["score"]
    assert score["map_50"].mean().to_dict() == pytest.approx({"R-CNN": 0.61, "Fast R-CNN": 0.81})
    assert score["map"].mean().to_dict() == pytest.approx({"R-CNN": 0.31, "Fast R-CNN": 0.41})
    (some, truth), = copied
    assert truth is targets["test"] and [one["labels"].item() for one in some] == [1, 1, 1]
    drawn = []
    found = run_cell(
        NOTEBOOK, "points = {name: (milliseconds[name]", slow={0: "slow"}, fast={0: "fast"}, SEEDS=(0,),
        placed={2: (2,), 3: (3,)}, parts={"test": [2, 3, 4]}, TIMED=2, deviation=None, overlap=None, score=score,
        both_ways=lambda k, slow, fast, *_: {"R-CNN": 0.01 * k, "Fast R-CNN": 0.002 * k} if slow == "slow" else 0,
        draw_trade=lambda *arguments: drawn.extend(arguments))
    assert found["milliseconds"].to_dict() == pytest.approx({"R-CNN": 25, "Fast R-CNN": 5})
    assert found["speedup"] == pytest.approx(5) and drawn[1] == "Fast R-CNN: mAP 0.41 against 0.31, 5.0 times as fast"
    assert drawn[0]["Fast R-CNN"][1] == pytest.approx([0.4, 0.41, 0.42])
    results = run_cell(
        NOTEBOOK, '"trunk_speedup"', score=score, copied_map50=0.05, milliseconds=found["milliseconds"], speedup=5.0,
        proposal_ms=60.0, on_crops=8.0, on_photo=2.0, fast={0: nn.Linear(3, 2)}, SEEDS=(0,),
        fast_seconds=[10, 20])["results"]
    assert results == pytest.approx({
        "fast_test_map50": 0.81, "fast_test_map50_std": 0.01, "fast_test_map": 0.41, "fast_test_map_std": 0.01,
        "rcnn_test_map50": 0.61, "rcnn_test_map": 0.31, "copied_map50": 0.05, "fast_ms_per_photo": 5,
        "rcnn_ms_per_photo": 25, "proposals_ms_per_photo": 60, "speedup": 5, "trunk_speedup": 4, "fast_parameters": 8,
        "training_seconds_per_seed": 15})
