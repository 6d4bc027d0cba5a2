"""What Non_max_suppression.ipynb defines: greedy NMS, each class for itself, soft-NMS, the crowds, and the detector."""
import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from tests.cells import run_cell
from tests.definitions import definitions

lesson = definitions(
    "Chapter07/Non_max_suppression.ipynb", "iou", "area", "greedy_nms", "apart_by_class", "soft_nms", "after_nms",
    "after_soft_nms", "ap50", "class_aps", "sweep", "lost_cells", "boxes_in_piles", "crowd", "crowd_detections",
    "color_numbers", "pixel_labels", "learn_colors", "search_windows", "frames_around", "window_sums",
    "color_detector")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 10**6)
thresholds = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
# boxes on a coarse grid: many coincide, touch, are nested or have no area; scores of few values: many are equal
cell = st.integers(0, 4).map(float)
few = st.sampled_from([0.0, 0.25, 0.5, 1.0])
hostile = st.lists(st.tuples(cell, cell, cell, cell, few, st.integers(0, 2)), max_size=25)


def unpack(rows):
    """Boxes (n, 4), scores and labels (n,) of rows of corner, size, score and label."""
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], dim=1), table[:, 4], table[:, 5].long()


def random_boxes(n, seed, side=100.0):
    generator = torch.Generator().manual_seed(seed)
    low = side * torch.rand(n, 2, generator=generator)
    boxes = torch.cat([low, low + 1 + 40 * torch.rand(n, 2, generator=generator)], dim=1)
    return boxes, torch.rand(n, generator=generator), torch.randint(0, 4, (n,), generator=generator)


# ---- greedy NMS


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_thousands_of_boxes_equal_torchvision(threshold):
    boxes, scores, labels = random_boxes(2000, 0)
    assert lesson.greedy_nms(boxes, scores, threshold).tolist() == ops.nms(boxes, scores, threshold).tolist()
    few = (scores * 4).round() / 4  # with ties
    assert lesson.greedy_nms(boxes, few, threshold).tolist() == ops.nms(boxes, few, threshold).tolist()
    ours = lesson.greedy_nms(lesson.apart_by_class(boxes.double(), labels), scores, threshold)
    assert ours.tolist() == ops.batched_nms(boxes.double(), scores.double(), labels, threshold).tolist()


@quickly
@given(hostile, thresholds)
def test_hostile_boxes_equal_torchvision(rows, threshold):
    boxes, scores, labels = unpack(rows)
    kept = lesson.greedy_nms(boxes, scores, threshold)
    assert kept.dtype == torch.int64 and kept.tolist() == ops.nms(boxes, scores, threshold).tolist()
    ours = lesson.greedy_nms(lesson.apart_by_class(boxes, labels), scores, threshold)
    assert ours.tolist() == ops.batched_nms(boxes, scores, labels, threshold).tolist()


def test_no_box_one_box_and_two_equal_ones():
    none = lesson.greedy_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert none.shape == (0,) and none.dtype == torch.int64
    assert lesson.apart_by_class(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    one = torch.tensor([[0.0, 0, 5, 5]])
    assert lesson.greedy_nms(one, torch.tensor([0.1]), 0.5).tolist() == [0]
    assert lesson.greedy_nms(one.repeat(2, 1), torch.tensor([0.5, 0.5]), 0.5).tolist() == [0]
    assert lesson.greedy_nms(one.repeat(2, 1), torch.tensor([0.5, 0.5]), 1.0).tolist() == [0, 1]


def test_the_threshold_itself_stays():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])  # IoU one half
    assert lesson.greedy_nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert lesson.greedy_nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_overlap_of_tenths_at_a_threshold_of_tenths(tenths):
    """0.3 in single precision is a little more than 0.3 in double precision, in which torchvision compares."""
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, tenths]]), torch.tensor([0.9, 0.8])
    for threshold in (tenths / 10, tenths / 10 + 1e-6, tenths / 10 - 1e-6):
        assert lesson.greedy_nms(boxes, scores, threshold).tolist() == ops.nms(boxes, scores, threshold).tolist()


@quickly
@given(hostile, thresholds)
def test_what_the_rule_promises(rows, threshold):
    boxes, scores, _ = unpack(rows)
    kept = lesson.greedy_nms(boxes, scores, threshold)
    overlap = ops.box_iou(boxes, boxes).double()
    assert not (overlap[kept][:, kept].triu(1) > threshold).any()
    assert (scores[kept].diff() <= 0).all()
    for k in set(range(len(boxes))) - set(kept.tolist()):
        better = [j for j in kept.tolist() if scores[j] > scores[k] or (scores[j] == scores[k] and j < k)]
        assert (overlap[better, k] > threshold).any()


# ---- classes


@quickly
@given(hostile, thresholds, st.sampled_from([0.0, -50.0, 1000.0]))
def test_each_class_for_itself(rows, threshold, shift):
    """As a loop over the classes says; also where coordinates are negative or large."""
    boxes, scores, labels = unpack(rows)
    boxes = boxes + shift
    expected = []
    for label in labels.unique():
        of = (labels == label).nonzero()[:, 0]
        expected += of[ops.nms(boxes[of], scores[of], threshold)].tolist()
    ours = lesson.greedy_nms(lesson.apart_by_class(boxes, labels), scores, threshold)
    assert sorted(ours.tolist()) == sorted(expected) and (scores[ours].diff() <= 0).all()


def test_shifted_classes_do_not_touch():
    boxes, _, labels = random_boxes(300, 1)
    boxes = boxes - 60
    shifted = lesson.apart_by_class(boxes, labels)
    other = labels[:, None] != labels[None]
    assert (ops.box_iou(shifted, shifted)[other] == 0).all() and (ops.box_iou(boxes, boxes)[other] > 0).any()
    torch.testing.assert_close(shifted[:, 2:] - shifted[:, :2], boxes[:, 2:] - boxes[:, :2], atol=1e-3, rtol=0)


# ---- soft-NMS


def soft_by_loops(boxes, scores, sigma, floor):
    """Soft-NMS in plain Python."""
    scores, waiting, chosen = [float(s) for s in scores], list(range(len(boxes))), []
    overlap = ops.box_iou(boxes, boxes).nan_to_num().tolist()
    while waiting:
        best = max(waiting, key=lambda k: (scores[k], -k))
        if scores[best] < floor:
            break
        waiting.remove(best)
        chosen.append((best, scores[best]))
        for k in waiting:
            scores[k] *= math.exp(-overlap[best][k] ** 2 / sigma)
    return [k for k, _ in chosen], [s for _, s in chosen]


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("floor", [0.001, 0.2])
def test_soft_nms_equals_loops(sigma, floor):
    for seed in range(6):
        boxes, scores, _ = random_boxes(60, seed)
        boxes, scores = boxes.double(), scores.double()
        kept, lowered = lesson.soft_nms(boxes, scores, sigma, floor)
        expected, values = soft_by_loops(boxes, scores, sigma, floor)
        assert kept.tolist() == expected
        torch.testing.assert_close(lowered, torch.tensor(values, dtype=torch.float64))


@quickly
@given(hostile, st.sampled_from([0.05, 0.5]))
def test_soft_nms_of_hostile_boxes(rows, sigma):
    boxes, scores, _ = unpack(rows)
    before = scores.clone()
    kept, lowered = lesson.soft_nms(boxes, scores, sigma)
    assert torch.equal(scores, before)  # the given scores are not changed
    assert len(kept.unique()) == len(kept) and (lowered.diff() <= 0).all() and (lowered <= scores[kept]).all()
    assert not lowered.isnan().any() and (lowered >= 0.001).all()
    if len(scores) and scores.max() >= 0.001:
        assert lowered[0] == scores.max()
    again, softer = lesson.soft_nms(boxes, scores, 1e9)  # so wide that nothing is lowered
    assert len(again) == (scores >= 0.001).sum()
    torch.testing.assert_close(softer, scores[again], rtol=1e-4, atol=1e-6)


def test_soft_nms_without_boxes():
    kept, lowered = lesson.soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert kept.shape == lowered.shape == (0,) and kept.dtype == torch.int64


@quickly
@given(hostile)
def test_detections_keep_their_scores_and_labels(rows):
    boxes, scores, labels = unpack(rows)
    found = {"boxes": boxes, "scores": scores, "labels": labels}
    hard, soft = lesson.after_nms(found, 0.3), lesson.after_soft_nms(found, 0.3)
    rows = ops.batched_nms(boxes, scores, labels, 0.3)
    for key, values in found.items():
        assert torch.equal(hard[key], values[rows])
    assert len(soft["boxes"]) == len(soft["scores"]) == len(soft["labels"])
    given_rows, kept_rows = (set(map(tuple, torch.cat([b, k[:, None]], dim=1).tolist()))
                             for b, k in ((boxes, labels), (soft["boxes"], soft["labels"])))
    assert kept_rows <= given_rows
    for label in labels.unique().tolist():  # as on its own
        of = labels == label
        _, alone = lesson.soft_nms(boxes[of], scores[of], 0.3)
        torch.testing.assert_close(soft["scores"][soft["labels"] == label], alone)


# ---- the measurements


def test_cells_lost_by_a_perfect_detector():
    boxes = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 0, 60, 10]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1, 2, 1]), torch.zeros(0, dtype=torch.int64)]
    assert lesson.lost_cells(boxes, labels, 0.5, by_class=True) == 0
    assert lesson.lost_cells(boxes, labels, 0.5, by_class=False) == 1
    assert lesson.lost_cells(boxes, labels, 0.9, by_class=False) == 0


@pytest.mark.parametrize("spacing", [2.0, 1.0, 0.5])
def test_crowds_keep_their_distance(spacing):
    boxes = lesson.crowd(spacing, seed=0)
    assert 8 <= len(boxes) <= 24 and boxes.min() >= 0 and boxes.max() <= 200
    centers, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2] - boxes[:, 0]) / 2
    torch.testing.assert_close(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    reach = spacing * (radii[:, None] + radii[None]) / 2
    assert (torch.cdist(centers, centers) + 1e4 * torch.eye(len(boxes)) >= reach - 1e-3).all()
    assert torch.equal(boxes, lesson.crowd(spacing, seed=0))
    assert not torch.equal(boxes[:3], lesson.crowd(spacing, seed=1)[:3])


def test_detections_of_a_crowd_score_by_their_fit():
    truth = lesson.crowd(2.0, seed=0)
    found = lesson.crowd_detections(truth, seed=1)
    n = 8 * len(truth)
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) == n + 6
    fit = ops.box_iou(found["boxes"], truth)[torch.arange(n), torch.arange(n) // 8]
    assert torch.corrcoef(torch.stack([fit, found["scores"][:n]]))[0, 1] > 0.8
    assert 0 <= found["scores"].min() and found["scores"].max() <= 1
    assert not torch.equal(found["scores"], lesson.crowd_detections(truth, seed=2)["scores"])


def test_a_sweep_judges_each_group_on_its_own():
    truth = [lesson.crowd(2.0, seed) for seed in range(4)]
    targets = {2.0: [{"boxes": some, "labels": torch.ones(len(some), dtype=torch.int64)} for some in truth]}
    found = {2.0: [{**target, "scores": torch.rand(len(target["labels"]))} for target in targets[2.0]]}
    found[2.0][3] = {key: values[:0] for key, values in found[2.0][3].items()}  # nothing is found in the last scene
    table = lesson.sweep(lambda one, value: one if value else found[2.0][3], (0, 1), found, targets, 2)
    aps = table.set_index(["value", "group"])["AP"]
    assert aps[1, 0] == 1 and aps[0, 0] == aps[0, 1] == 0
    share = len(truth[2]) / (len(truth[2]) + len(truth[3]))
    assert aps[1, 1] == pytest.approx(share, abs=0.01)
    assert set(table["spacing"]) == {2.0} and len(table) == 4
    assert lesson.class_aps(found[2.0][:2], targets[2.0][:2], (1,)) == [lesson.ap50(found[2.0][:2], targets[2.0][:2])]


def test_piles():
    boxes, scores = lesson.boxes_in_piles(100, 20, seed=0)
    assert boxes.shape == (100, 4) and scores.shape == (100,)
    overlap, same = ops.box_iou(boxes, boxes), torch.arange(100)[:, None] // 20 == torch.arange(100) // 20
    assert overlap[same].min() > 0.5 and overlap[~same].max() == 0
    assert len(lesson.greedy_nms(boxes, scores, 0.5)) == 5
    apart, scores = lesson.boxes_in_piles(50, 1, seed=0)
    assert len(lesson.greedy_nms(apart, scores, 0.5)) == 50


# ---- the detector without a network


def test_colors_have_numbers():
    photo = torch.tensor([[[[0, 255]], [[0, 128]], [[0, 17]]]], dtype=torch.uint8)
    assert lesson.color_numbers(photo, 16).tolist() == [[[0, 15 * 256 + 8 * 16 + 1]]]
    every = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    numbers = lesson.color_numbers(every, 4)
    assert numbers.shape == (2, 20, 20) and numbers.min() >= 0 and numbers.max() < 64


def test_pixels_belong_to_the_ellipse_in_their_box():
    found = lesson.pixel_labels(torch.tensor([[2.0, 2, 22, 12], [4, 4, 8, 8]]), torch.tensor([2, 1]), 20, 30)
    assert found[7, 12] == 2 and found[2, 2] == 0 and found[6, 6] == 1  # the small one lies on top
    assert (found == 2).sum() + (found == 1).sum() == pytest.approx(math.pi / 4 * 200, rel=0.05)
    assert lesson.pixel_labels(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 5, 6).sum() == 0


def test_colors_are_learned_by_counting():
    photos = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    photos[:, :, 4:12, 4:12] = 200
    boxes, labels = [torch.tensor([[4.0, 4, 12, 12]]), torch.zeros(0, 4)], [torch.tensor([2]), torch.zeros(0).long()]
    table = lesson.learn_colors(photos, boxes, labels, 2, 8)
    torch.testing.assert_close(table.sum(1), torch.ones(512, dtype=torch.float64))
    light = lesson.color_numbers(torch.full((1, 3, 1, 1), 200, dtype=torch.uint8), 8).item()
    inside = (lesson.pixel_labels(boxes[0], labels[0], 16, 16) == 2).sum() / 128  # of the light pixels of both photos
    assert table[light, 2] == pytest.approx(inside.item(), abs=0.1) and table[0, 0] > 0.95 and table[:, 1].max() == 0
    unseen = table[300]
    torch.testing.assert_close(unseen[2], inside.double() * 128 / 512, atol=0.01, rtol=0)


def test_windows_have_the_sizes_of_the_cells_and_lie_in_the_photo():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[8.0, 12], [30, 20]]).repeat_interleave(50, 0)
    sizes = sizes + torch.randint(-2, 3, (100, 2), generator=generator)
    boxes, labels = torch.cat([torch.zeros(100, 2), sizes], dim=1), torch.tensor([1, 2]).repeat_interleave(50)
    windows, found = lesson.search_windows(boxes, labels, 48, 64, 4)
    assert windows.dtype == torch.int64 and len(windows) == 12 * 16 * 6 and found.bincount().tolist() == [0, 576, 576]
    assert windows.min() >= 0 and windows[:, 2].max() <= 64 and windows[:, 3].max() <= 48
    middle = (windows[:, 0] > 0) & (windows[:, 1] > 0) & (windows[:, 2] < 64) & (windows[:, 3] < 48)
    for label, (width, height) in ((1, (8, 12)), (2, (30, 20))):
        some = windows[middle & (found == label)]
        assert (some[:, 2:] - some[:, :2] - torch.tensor([width, height])).abs().max() <= 2
    frames = lesson.frames_around(windows, 48, 64)
    assert (frames[:, :2] <= windows[:, :2]).all() and (frames[:, 2:] >= windows[:, 2:]).all()
    assert frames.min() >= 0 and frames[:, 2].max() <= 64 and frames[:, 3].max() <= 48
    inner = windows[middle] + torch.tensor([-1, -1, 1, 1])
    assert (frames[middle][:, 0] <= inner[:, 0].clamp(min=0)).all()


@quickly
@given(seeds)
def test_sums_in_windows(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 12, 15, generator=generator, dtype=torch.float64)
    x, y = (torch.randint(0, side + 1, (20, 2), generator=generator).sort(dim=1).values for side in (15, 12))
    windows = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
    labels = torch.randint(0, 3, (20,), generator=generator)
    expected = torch.stack([maps[k, y0:y1, x0:x1].sum() for k, (x0, y0, x1, y1) in zip(labels, windows)])
    torch.testing.assert_close(lesson.window_sums(maps, windows, labels), expected)


def test_the_detector_finds_drawn_cells():
    generator = torch.Generator().manual_seed(0)

    def drawn():
        photo = torch.full((3, 60, 80), 220, dtype=torch.uint8)
        boxes = []
        for color in ((200, 60, 60), (60, 60, 200)):
            x, y = (torch.rand(2, generator=generator) * torch.tensor([54, 34]) + 2).int().tolist()
            box = torch.tensor([[x, y, x + 20.0, y + 20]])
            inside = lesson.pixel_labels(box, torch.tensor([1]), 60, 80) == 1
            photo[:, inside] = torch.tensor(color, dtype=torch.uint8)[:, None]
            boxes.append(box)
        return photo, torch.cat(boxes), torch.tensor([1, 2])

    photos, boxes, labels = zip(*[drawn() for _ in range(12)])
    table = lesson.learn_colors(torch.stack(photos[:8]), boxes[:8], labels[:8], 2, 8)
    windows, of = lesson.search_windows(torch.cat(boxes[:8]), torch.cat(labels[:8]), 60, 80, 2)
    found = [lesson.color_detector(photo, table, 8, windows, of, 50) for photo in photos[8:]]
    for one in found:
        assert (one["scores"] > 0).all() and one["labels"].bincount(minlength=3)[1:].max() <= 50
        assert one["boxes"].dtype == torch.float32 and len(one["boxes"]) == len(one["scores"]) == len(one["labels"])
    targets = [{"boxes": box, "labels": label} for box, label in zip(boxes[8:], labels[8:])]
    assert min(lesson.class_aps([lesson.after_nms(one, 0.2) for one in found], targets, (1, 2))) > 0.6


def test_a_window_scores_as_its_colors_exceed_those_around_it():
    table = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).repeat_interleave(4, 0)  # dark, light: 8 colors
    photo = torch.zeros(3, 20, 20, dtype=torch.uint8)
    photo[:, 5:15, 5:15] = 255
    windows, of = torch.tensor([[5, 5, 15, 15], [0, 0, 20, 20], [2, 2, 12, 12]]), torch.tensor([1, 1, 1])
    found = lesson.color_detector(photo, table, 2, windows, of, 10)
    maps = F.pad(torch.full((10, 10), 0.8), (5, 5, 5, 5), value=0.1)
    expected = {}
    for x0, y0, x1, y1 in windows.tolist():
        frame = maps[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
        inside = maps[y0:y1, x0:x1]
        ring = (frame.sum() - inside.sum()) / max(frame.numel() - inside.numel(), 1)
        expected[(x0, y0, x1, y1)] = (inside.mean() - ring).item()
    assert found["scores"].diff().le(0).all()
    for window, score in zip(found["boxes"].tolist(), found["scores"].tolist()):
        assert score == pytest.approx(expected[tuple(map(int, window))], abs=1e-4)


def test_all_ways_are_tested_on_the_test_photos_with_what_was_chosen():
    name = "Chapter07/Non_max_suppression.ipynb"
    photos = {part: [{"boxes": torch.full((n, 4), float(n)), "scores": torch.full((n,), float(n)),
                      "labels": torch.ones(n)}
                     for n in sizes] for part, sizes in (("val", (1, 2)), ("test", (4, 6)))}
    asked = []

    def less(way, by):
        def keep(one, value):
            asked.append((way, len(one["scores"]), value))
            return {key: values[by:] for key, values in one.items()}
        return keep

    found = run_cell(
        name, 'final.insert(0, "mean AP"', raw=photos, targets={"val": "of val", "test": "of test"}, kinds=(1, 2, 3),
        chosen={"NMS": 0.4, "soft-NMS": 0.7}, CLASSES=("a", "b", "c"), after_nms=less("NMS", 2),
        after_soft_nms=less("soft-NMS", 1),
        greedy_nms=lambda boxes, scores, value: asked.append(("across", len(scores), value)) or torch.arange(1),
        class_aps=lambda some, truth, kinds: [len(some[0]["scores"]) / 10, len(some[1]["scores"]) / 10, 0.2]
        if truth == "of test" else None)["final"]
    assert asked == [(way, n, 0.7 if way == "soft-NMS" else 0.4) for way in ("across", "NMS", "soft-NMS") for n in (4,
                                                                                                                    6)]
    assert found["boxes for a photo"].to_dict() == {"no NMS": 5, "NMS across classes": 1, "NMS by class": 3,
                                                    "soft-NMS by class": 4}
    assert found["mean AP"].tolist() == pytest.approx([1.2 / 3, 0.4 / 3, 0.8 / 3, 1 / 3])
    gain = run_cell(name, "assert gain > REQUIRED_GAIN", final=found + 0.3 * (found.index == "NMS by class")[:, None],
                    REQUIRED_GAIN=0.1)["gain"]
    assert gain == pytest.approx(0.3 - 0.4 / 3)
    results = run_cell(name, '"largest_time_ms"', final=found, chosen={"NMS": 0.4, "soft-NMS": 0.7}, gain=0.5,
                       crowd_table=pd.DataFrame({"gain_mean": [0.01, 0.02]}),
                       worst={"torchvision, apart": 7.0, "ours, apart": 9.0})["results"]
    assert results == pytest.approx({
        "test_no_NMS": 1.2 / 3, "test_NMS_across_classes": 0.4 / 3, "test_NMS_by_class": 0.8 / 3,
        "test_soft_NMS_by_class": 1 / 3, "chosen_threshold": 0.4, "chosen_sigma": 0.7, "gain": 0.5, "boxes_before": 5,
        "boxes_after": 3, "soft_gain_crowd_0": 0.01, "soft_gain_crowd_1": 0.02, "largest_time_ms": 7})


def test_in_a_crowd_the_setting_is_chosen_on_scenes_that_are_not_tested():
    """Group 0 chooses; there 1 is the better value, in the other groups 2."""
    def sweep(way, values, found, true, scenes):
        by = 0.1 if way == "soft" else 0.0
        return pd.DataFrame([{"spacing": spacing, "group": group, "value": value,
                              "AP": by + spacing / 10 + (0.2 if (value == 1) == (group == 0) else 0)}
                             for spacing in (1, 3) for group in (0, 1, 2) for value in (1, 2)])

    found = run_cell("Chapter07/Non_max_suppression.ipynb", "crowd_table = pd.DataFrame", sweep=sweep, found=None,
                     true=None, hard=sweep("hard", None, None, None, None), after_soft_nms="soft", SIGMAS=(), SCENES=3,
                     SPACINGS=(1, 3))["crowd_table"]
    assert found["NMS, chosen"].tolist() == [1, 1] and found["NMS, AP"].tolist() == ["0.100 ± 0.000", "0.300 ± 0.000"]
    assert found["soft-NMS, AP"].tolist() == ["0.200 ± 0.000", "0.400 ± 0.000"]
    assert found["gain_mean"].tolist() == pytest.approx([0.1, 0.1])
