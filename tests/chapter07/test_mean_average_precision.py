"""What Mean_average_precision.ipynb defines: matching, curves, AP by threshold, class and size, and the bootstrap."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import MeanAveragePrecision
from torchvision import ops

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said

NOTEBOOK = "Chapter07/Mean_average_precision.ipynb"

lesson = definitions(
    NOTEBOOK, "iou", "area", "by_score", "match", "precision_recall",
    "average_precision", "ap_readings", "match_at", "judge", "pooled_ap", "ap_table", "above", "verdicts", "flooded",
    "with_truth", "used_at", "bootstrap_maps", "coco_map", "THRESHOLDS", "SIZES")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=20)
seeds = st.integers(0, 10**6)
NONE = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
THRESHOLDS = lesson.THRESHOLDS


def random_boxes(n, generator, side=200):
    """Boxes (n, 4) on a grid of quarter pixels, of small, medium and large sizes; some without area."""
    size = 4 * torch.tensor([0, 6, 20, 40, 60, 110])[torch.randint(6, (n, 2), generator=generator)]
    size = (size + torch.randint(0, 40, (n, 2), generator=generator)) * (size > 0)
    low = torch.randint(0, 4 * side, (n, 2), generator=generator)
    return torch.cat([low, low + size], dim=1) / 4


def scenes(seed, photos=5, classes=3, most=8, ties=False, crowd=0):
    """Random targets, and detections: true boxes moved by whole pixels, doubles, inventions, wrong classes."""
    generator = torch.Generator().manual_seed(seed)
    predictions, targets = [], []
    for _ in range(photos):
        n, more = torch.randint(0, most, (2,), generator=generator).tolist()
        truth = {"boxes": random_boxes(n, generator), "labels": torch.randint(0, classes, (n,), generator=generator)}
        of = torch.randint(n, (2 * n,), generator=generator) if n else torch.zeros(0, dtype=torch.int64)
        moved = truth["boxes"][of] + torch.randint(-3, 4, (len(of), 4), generator=generator) * (1 + seed % 3)
        moved = torch.cat([moved[:, :2], torch.maximum(moved[:, :2], moved[:, 2:])], dim=1)
        labels = torch.where(torch.rand(len(of), generator=generator) < 0.85, truth["labels"][of],
                             torch.randint(0, classes, (len(of),), generator=generator))  # fmt: skip
        boxes = torch.cat([moved, random_boxes(more + crowd, generator)])
        labels = torch.cat([labels, torch.randint(0, classes, (more + crowd,), generator=generator)])
        scores = torch.rand(len(boxes), generator=generator)
        predictions.append({"boxes": boxes, "scores": (scores * 5).round() / 5 if ties else scores, "labels": labels})
        targets.append(truth)
    return predictions, targets


def referee(predictions, targets):
    """torchmetrics' AP {(class, size): (t,)}, nan where no true box counts, for all four sizes."""
    metric = MeanAveragePrecision(iou_thresholds=THRESHOLDS.tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist(),
                                  extended_summary=True, class_metrics=True)  # fmt: skip
    metric.warn_on_many_detections = False
    metric.update(predictions, targets)
    found = metric.compute()
    precision = found["precision"][..., -1].double()  # (t, recalls, class, size)
    classes = sorted(torch.cat([one["labels"] for one in (*predictions, *targets)]).unique().tolist())
    return {(label, size): torch.where(precision[:, 0, k, a] < 0, math.nan, precision[:, :, k, a].mean(1))
            for k, label in enumerate(classes) for a, size in enumerate(lesson.SIZES)}, found  # fmt: skip


def compare(predictions, targets, some=None):
    expected, found = referee(predictions, targets)
    tables = {size: lesson.ap_table(predictions, targets, range(3), THRESHOLDS, *limits)
              for size, limits in lesson.SIZES.items()}  # fmt: skip
    for (label, size), aps in expected.items():
        torch.testing.assert_close(tables[size][label], aps, atol=1e-6, rtol=0, equal_nan=True, msg=f"{label}, {size}")
    for size, table in tables.items():
        if found[size] >= 0:
            assert table.nanmean().item() == pytest.approx(found[size].item(), abs=1e-6)
    return tables


# ---- against torchmetrics


@quickly
@given(seeds)
def test_random_detections_equal_torchmetrics(seed):
    compare(*scenes(seed))


@quickly
@given(seeds)
def test_equal_scores_equal_torchmetrics(seed):
    compare(*scenes(seed, ties=True))


def test_thousands_of_detections_equal_torchmetrics():
    tables = compare(*scenes(1, photos=60, most=16))
    assert all((table > 0).any() for table in tables.values())  # every size is judged


def test_more_than_a_hundred_detections_equal_torchmetrics():
    predictions, targets = scenes(2, photos=3, most=8, crowd=400)
    assert all((p["labels"] == 0).sum() > 100 for p in predictions)
    compare(predictions, targets)


@pytest.mark.parametrize("kind", ["no detections", "no truth in a photo", "a class without truth", "same boxes",
                                  "one of each", "no area"])  # fmt: skip
def test_hostile_cases_equal_torchmetrics(kind):
    predictions, targets = scenes(3)
    if kind == "no detections":
        predictions = [NONE] * len(targets)
    elif kind == "no truth in a photo":
        targets[0] = {key: values[:0] for key, values in targets[0].items()}
    elif kind == "a class without truth":
        targets = [{key: values[t["labels"] != 1] for key, values in t.items()} for t in targets]
    elif kind == "same boxes":  # equal true boxes, equal detections, equal scores
        one = torch.tensor([[10.0, 10, 60, 60]])
        targets = [{"boxes": one.repeat(3, 1), "labels": torch.zeros(3, dtype=torch.int64)}] * 2
        five = {"boxes": one.repeat(5, 1), "scores": torch.full((5,), 0.5), "labels": torch.zeros(5).long()}
        predictions = [five] * 2
    elif kind == "one of each":
        predictions = [{key: values[:1] for key, values in p.items()} for p in predictions[:1]]
        targets = [{key: values[:1] for key, values in t.items()} for t in targets[:1]]
    else:
        flat = torch.tensor([[10.0, 10, 10, 60], [30, 30, 30, 30]])
        targets = [{"boxes": flat, "labels": torch.tensor([0, 0])}, targets[1]]
        both = {"boxes": flat, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([0, 0])}
        predictions = [both, predictions[1]]
    compare(predictions, targets)


def test_the_later_of_two_equal_fits_is_taken_as_in_pycocotools():
    """A box between two true ones fits both alike; the next detection fits only the one or the other."""
    truth = torch.tensor([[0.0, 0, 40, 40], [10, 0, 50, 40]])
    middle = torch.tensor([[5.0, 0, 45, 40]])
    for other in truth:
        predictions = [{"boxes": torch.cat([middle, other[None]]), "scores": torch.tensor([0.9, 0.8]),
                        "labels": torch.zeros(2, dtype=torch.int64)}]  # fmt: skip
        compare(predictions, [{"boxes": truth, "labels": torch.zeros(2, dtype=torch.int64)}])


def test_iou_equal_to_the_threshold_is_a_hit():
    truth, half = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([[0.0, 0, 40, 20]])
    assert lesson.match(half, truth, 0.5).tolist() == [0]
    overlap = lesson.iou(half, truth)
    assert lesson.match_at(overlap, torch.tensor([0.5, 0.51]), torch.tensor([False])).tolist() == [[0], [-1]]
    predictions = [{"boxes": half, "scores": torch.tensor([0.9]), "labels": torch.zeros(1, dtype=torch.int64)}]
    tables = compare(predictions, [{"boxes": truth, "labels": torch.zeros(1, dtype=torch.int64)}])
    assert tables["map"][0, :2].tolist() == [1, 0]


# ---- the steps


@quickly
@given(seeds, st.sampled_from([0.3, 0.5, 0.75]))
def test_the_simple_matching_finds_as_much(seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    truth = 100 * torch.rand(6, 2, generator=generator)
    truth = torch.cat([truth, truth + 10 + 40 * torch.rand(6, 2, generator=generator)], dim=1)
    boxes = truth.repeat(3, 1) + 5 * torch.randn(18, 4, generator=generator)
    simple = lesson.match(boxes, truth, threshold)
    full = lesson.match_at(lesson.iou(boxes, truth), torch.tensor([threshold]), torch.zeros(6, dtype=torch.bool))[0]
    assert torch.equal(simple, full)
    taken = simple[simple >= 0]
    assert len(taken.unique()) == len(taken)
    assert (ops.box_iou(boxes, truth)[simple >= 0, taken] >= threshold).all()


def test_matching_in_turns():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    boxes = torch.tensor([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 6], [20, 0, 30, 4.0], [50, 50, 60, 60]])
    assert lesson.match(boxes, truth).tolist() == [0, -1, 1, -1, -1]
    assert lesson.match(boxes, truth, threshold=0.95).tolist() == [-1, 0, -1, -1, -1]
    assert lesson.match(boxes, truth[:0]).tolist() == [-1] * 5 and lesson.match(boxes[:0], truth).tolist() == []
    overlap, none = lesson.iou(boxes, truth), torch.zeros(2, dtype=torch.bool)
    thresholds = torch.tensor([0.5, 0.95])
    assert lesson.match_at(overlap, thresholds, none).tolist() == [[0, -1, 1, -1, -1], [-1, 0, -1, -1, -1]]
    assert lesson.match_at(overlap[:, :0], thresholds, none[:0]).tolist() == [[-1] * 5] * 2
    assert lesson.match_at(overlap[:0], thresholds, none).shape == (2, 0)


def test_ignored_boxes_are_the_last_choice():
    overlap = torch.tensor([[0.6, 0.9], [0.6, 0.9], [0.6, 0.9]])
    found = lesson.match_at(overlap, torch.tensor([0.5, 0.7]), torch.tensor([False, True]))
    assert found.tolist() == [[0, 1, -1], [1, -1, -1]]


def test_sizes_are_ignored_on_both_sides():
    truth = {"boxes": torch.tensor([[0, 0, 10, 10], [100, 0, 140, 40.0]]), "labels": torch.tensor([1, 1])}
    prediction = {"boxes": torch.tensor([[100, 0, 140, 40], [0, 0, 10, 10], [50, 50, 90, 90], [50, 50, 55, 55.0]]),
                  "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]), "labels": torch.tensor([1, 1, 1, 1])}  # fmt: skip
    half = torch.tensor([0.5])
    scores, hits, ignored, count = lesson.judge(prediction, truth, 1, half, 0, 32**2)
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6]) and count == 1
    assert hits.tolist() == [[False, True, False, False]] and ignored.tolist() == [[True, False, True, False]]
    _, hits, ignored, count = lesson.judge(prediction, truth, 1, half)
    assert hits.tolist() == [[True, True, False, False]] and not ignored.any() and count == 2
    assert lesson.judge(prediction, truth, 1, half, limit=2)[1].shape == (1, 2)
    assert lesson.judge(prediction, truth, 2, half)[3] == 0


def test_precision_and_recall_by_hand():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    targets = [{"boxes": truth, "labels": torch.tensor([1, 1])}, {"boxes": truth[:1], "labels": torch.tensor([2])}]
    predictions = [
        {"boxes": torch.cat([truth, truth[:1]]), "scores": torch.tensor([0.5, 0.9, 0.4]),
         "labels": torch.tensor([1, 1, 1])},
        {"boxes": truth[:1], "scores": torch.tensor([0.7]), "labels": torch.tensor([1])}]  # fmt: skip
    scores, precision, recall = lesson.precision_recall(predictions, targets, 1)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.5, 0.4]))
    torch.testing.assert_close(precision, torch.tensor([1, 1 / 2, 2 / 3, 2 / 4], dtype=torch.float64))
    torch.testing.assert_close(recall, torch.tensor([0.5, 0.5, 1, 1], dtype=torch.float64))
    expected = (51 + 50 * 2 / 3) / 101
    assert lesson.average_precision(precision, recall) == pytest.approx(expected)
    judged = [lesson.judge(*pair, 1, torch.tensor([0.5])) for pair in zip(predictions, targets)]
    assert lesson.pooled_ap(judged).tolist() == pytest.approx([expected])


def test_truths_that_nothing_matches_count_in_recall():
    truth = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10.0]])
    targets = [{"boxes": truth, "labels": torch.tensor([1, 1, 1])}, {"boxes": truth[:1], "labels": torch.tensor([1])}]
    predictions = [{"boxes": truth[:1], "scores": torch.tensor([0.9]), "labels": torch.tensor([1])},
                   {"boxes": truth[2:], "scores": torch.tensor([0.8]), "labels": torch.tensor([1])}]
    _, precision, recall = lesson.precision_recall(predictions, targets, 1)
    torch.testing.assert_close(precision, torch.tensor([1, 1 / 2], dtype=torch.float64))
    torch.testing.assert_close(recall, torch.tensor([1 / 4, 1 / 4], dtype=torch.float64))  # four truths, one is found
    judged = [lesson.judge(*pair, 1, torch.tensor([0.5])) for pair in zip(predictions, targets)]
    assert lesson.pooled_ap(judged).tolist() == pytest.approx([26 / 101])  # recall 0.00 to 0.25


def test_three_readings_of_one_curve():
    tp = torch.tensor([1, 1, 2, 3, 3], dtype=torch.float64)
    found = lesson.ap_readings(tp / torch.arange(1, 6), tp / 4)
    assert found == pytest.approx({"VOC 2007": (3 + 5 * 0.75) / 11, "VOC 2010": 0.25 + 0.5 * 0.75,
                                   "COCO": (26 + 50 * 0.75) / 101})  # fmt: skip
    empty = torch.zeros(0, dtype=torch.float64)
    assert set(lesson.ap_readings(empty, empty).values()) == {0}
    assert lesson.average_precision(torch.ones(1).double(), torch.ones(1).double()) == 1


def test_ap_needs_only_the_order_of_the_scores_and_never_falls_by_a_longer_list():
    predictions, targets = scenes(4, photos=8)
    before = lesson.ap_table(predictions, targets, range(3), THRESHOLDS)
    squeezed = [{**p, "scores": p["scores"].double() * 0.01 + 0.9} for p in predictions]
    torch.testing.assert_close(lesson.ap_table(squeezed, targets, range(3), THRESHOLDS), before, equal_nan=True)
    cut = lesson.ap_table([lesson.above(p, 0.5) for p in predictions], targets, range(3), THRESHOLDS)
    assert (cut <= before + 1e-12).all() and cut.mean() < before.mean()


# ---- what stands around it


@quickly
@given(seeds)
def test_verdicts_count_each_box_once(seed):
    predictions, targets = scenes(seed, photos=3)
    for prediction, target in zip(predictions, targets):
        found = lesson.verdicts(prediction, target, range(3))
        assert len(found["hit"]) + len(found["false"]) == len(prediction["boxes"])
        assert len(found["hit"]) + len(found["missed"]) == len(target["boxes"])
    used = lesson.used_at(predictions, targets, range(3), 0.4)
    kept = [lesson.above(p, 0.4) for p in predictions]
    hits = sum(len(lesson.verdicts(p, t, range(3))["hit"]) for p, t in zip(kept, targets))
    assert used["precision"] == pytest.approx(hits / max(1, sum(len(p["boxes"]) for p in kept)))
    assert used["recall"] == pytest.approx(hits / max(1, sum(len(t["boxes"]) for t in targets)))
    assert used["boxes"] == pytest.approx(np.mean([len(p["boxes"]) for p in predictions]))
    assert all((p["scores"] >= 0.4).all() for p in kept)


def test_flood_and_truth_are_appended():
    prediction, target = (some[0] for some in scenes(8, photos=1))
    n = len(prediction["boxes"])
    wet = lesson.flooded(prediction, 30, 64, 48, 2, seed=1)
    assert torch.equal(wet["boxes"][:n], prediction["boxes"]) and len(wet["boxes"]) == n + 30
    more = {key: values[n:] for key, values in wet.items()}
    assert (more["scores"] == 0).all() and (more["labels"] == 2).all()
    assert more["boxes"].min() >= 0 and more["boxes"][:, 2].max() <= 64 and more["boxes"][:, 3].max() <= 48
    assert (more["boxes"][:, 2:] >= more["boxes"][:, :2]).all()
    mended = lesson.with_truth(prediction, target["boxes"], 1)
    assert torch.equal(mended["boxes"][n:], target["boxes"]) and (mended["scores"][n:] == 1).all()
    assert (mended["labels"][n:] == 1).all() and len(mended["scores"]) == n + len(target["boxes"])


def test_resamples_keep_groups_whole():
    predictions, targets = scenes(6, photos=6)
    judged = [[lesson.judge(p, t, label, THRESHOLDS) for p, t in zip(predictions, targets)] for label in range(3)]
    whole = lesson.ap_table(predictions, targets, range(3), THRESHOLDS).nanmean(0)
    alone = lesson.bootstrap_maps(judged, np.zeros(6), 3, seed=0)
    torch.testing.assert_close(alone, whole.expand(3, -1))
    groups = np.array([0, 1, 0, 1, 0, 1])
    maps = lesson.bootstrap_maps(judged, groups, 40, seed=0)
    possible = []
    for rows in ([0, 2, 4, 0, 2, 4], [1, 3, 5, 1, 3, 5], [0, 2, 4, 1, 3, 5], [1, 3, 5, 0, 2, 4]):
        possible.append(torch.stack([lesson.pooled_ap([one[row] for row in rows]) for one in judged]).nanmean(0))
    distance = (maps[:, None] - torch.stack(possible)[None]).abs().amax(2)
    assert (distance.amin(1) < 1e-9).all() and len(distance.argmin(1).unique()) >= 3
    torch.testing.assert_close(lesson.bootstrap_maps(judged, groups, 5, seed=0), maps[:5])


def test_torchmetrics_is_asked_for_cocos_recalls():
    predictions, targets = scenes(7, photos=6)
    found = lesson.coco_map(predictions, targets, iou_thresholds=THRESHOLDS.tolist())
    assert found["map"].item() == pytest.approx(
        lesson.ap_table(predictions, targets, range(3), THRESHOLDS).nanmean().item(), abs=1e-6)
    assert found["map_50"].item() == pytest.approx(
        lesson.ap_table(predictions, targets, range(3), THRESHOLDS[:1]).nanmean().item(), abs=1e-6)


def test_the_text_says_what_the_stored_run_found():
    assert_said(NOTEBOOK, "falls from {as_it_is_precision:.2f} to {squeezed_scores_precision:.2f}",
                "lift mAP from {as_it_is_mAP:.3f} to {platelets_mended_mAP:.3f}, mended red cells only to "
                "{red_cells_mended_mAP:.3f}", "is {test_map50:.3f} on 91 test photos",
                "between {test_map50_low:.3f} and {test_map50_high:.3f}")


def test_test_photos_are_judged_by_their_own_truth_and_resampled_by_field():
    """Photos are numbers; an AP is the sum of the photos' numbers, so it says whose detections met whose truth."""
    test, asked = torch.tensor([4, 7, 9]), []
    found = run_cell(
        NOTEBOOK, "maps = bootstrap_maps(", kinds=[1, 2], CLASSES=["a", "b"], parts={"test": test}, RESAMPLES=50,
        THRESHOLDS=torch.tensor([0.5, 0.75]), predictions={"val": [1, 2], "test": [4, 7, 9]},
        targets={"val": [10, 20], "test": [40, 70, 90]}, fields=torch.arange(100, 112), train=[3],
        boxes={3: torch.zeros(2, 4)}, labels={3: torch.tensor([1, 2])},
        judge=lambda p, t, kind, thresholds: (p, t, kind),
        pooled_ap=lambda one: torch.tensor([sum(p * t for p, t, _ in one) + one[0][2], 0.0]),
        bootstrap_maps=lambda *arguments, seed: asked.append(arguments) or torch.arange(101.0)[:, None].expand(-1, 2),
        ap_table=lambda some, truth, kinds, thresholds: torch.tensor([[len(some), 0.0], [sum(truth), 0.0]]))
    total = 4 * 40 + 7 * 70 + 9 * 90
    assert (found["test_map50"], found["test_map"]) == (total + 1.5, total / 2 + 0.75)
    assert asked[0][1].tolist() == [104, 107, 109] and asked[0][2] == 50
    assert (found["low"], found["high"]) == (2.5, 97.5) and found["baseline"] == (3 + 200) / 2


def test_results_are_taken_from_where_they_belong():
    hidden = pd.DataFrame({"mAP": [0.5, 0.4], "precision": [0.9, 0.3]}, index=["as it is", "red cells mended"])
    found = run_cell(NOTEBOOK, '"largest_difference_to_torchmetrics"', test_map=0.3, test_map50=0.6, low=0.5, high=0.7,
                     baseline=0.1, difference=1e-7, CLASSES=("Platelets", "RBC"), hidden=hidden,
                     test_aps=torch.tensor([[0.25, 0.0], [0.75, 0.0]]))["results"]
    assert found == {"test_map": 0.3, "test_map50": 0.6, "test_map50_low": 0.5, "test_map50_high": 0.7,
                     "copied_map50": 0.1, "largest_difference_to_torchmetrics": 1e-7, "test_ap50_Platelets": 0.25,
                     "test_ap50_RBC": 0.75, "as_it_is_mAP": 0.5, "as_it_is_precision": 0.9,
                     "red_cells_mended_mAP": 0.4, "red_cells_mended_precision": 0.3}


def test_curves_have_recall_across_and_a_dot_where_the_score_is():
    precision = torch.tensor([1.0, 0.75, 0.5])
    found = run_cell(NOTEBOOK, 'curves = {name: precision_recall(predictions["val"]', predictions={"val": "found"},
                     targets={"val": "true"}, kinds=(1, 2), CLASSES=("Platelets", "RBC"), SCORE=0.5,
                     precision_recall=lambda found, true, k: (torch.tensor([0.9, 0.6, 0.1]), precision,
                                                              torch.tensor([0.1, 0.2, 0.3]) * k))
    lines = [[values.tolist() for values in line.get_data()] for line in found["ax"].lines]
    for k, (curve, dot) in enumerate(zip(lines[::2], lines[1::2]), start=1):
        assert curve[0] == pytest.approx([0.1 * k, 0.2 * k, 0.3 * k]) and curve[1] == precision.tolist()
        assert dot == [[pytest.approx(0.2 * k)], [0.75]]
    assert found["ax"].get_title() == "The list as a whole finds 60% of the RBC; dots: score 0.5"
