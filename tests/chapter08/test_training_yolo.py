"""What Training_YOLO.ipynb defines: boxes that follow the photo, averaged weights, tables, beside the libraries."""
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter08/Training_YOLO.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "flipped", "mosaic_of", "mosaics", "several_scales", "update_average", "targets_of", "train_recipe",
    "detect", "watching", "interval", "details", "sizes_by_class", "milliseconds", "new_yolo", "encode",
    "decode", "resized", "flip", "coco_map", "PretrainedYOLO")
ANCHORS = torch.tensor([[10.0, 12.0], [30.0, 30.0]])


def scenes(n, height=48, width=64, seed=0):
    """Gray photos with bright filled boxes, each of its own brightness, and their truths."""
    rng = torch.Generator().manual_seed(seed)
    images, truths = torch.zeros(n, 3, height, width, dtype=torch.uint8), []
    for image in images:
        boxes = []
        for k in range(3):
            x0, y0 = (torch.randint(side - 12, (), generator=rng).item() for side in (width, height))
            boxes.append([x0, y0, x0 + 6 + k, y0 + 9])
            image[:, y0 : y0 + 9, x0 : x0 + 6 + k] = 60 * (k + 1)
        truths.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.arange(1, 4)})
    return images, truths


def test_flips_equal_torchvisions():
    images, truths = scenes(40)
    kept = images.clone(), copy.deepcopy(truths)
    photos, found = lesson.flipped(images, truths, torch.Generator().manual_seed(0))
    seen = set()
    for image, truth, photo, one in zip(images, truths, photos, found):
        boxes = tv_tensors.BoundingBoxes(truth["boxes"], format="XYXY", canvas_size=image.shape[1:])
        for name, change in {"no": [], "x": [v2.functional.horizontal_flip], "y": [v2.functional.vertical_flip],
                             "xy": [v2.functional.horizontal_flip, v2.functional.vertical_flip]}.items():
            a, b = tv_tensors.Image(image), boxes
            for function in change:
                a, b = function(a), function(b)
            if torch.equal(a, photo):
                assert torch.equal(b.as_subclass(torch.Tensor), one["boxes"])
                seen.add(name)
                break
        else:
            raise AssertionError("a photo that no flip gives")
        assert torch.equal(one["labels"], truth["labels"])
    assert seen == {"no", "x", "y", "xy"}
    assert torch.equal(images, kept[0])
    assert all(torch.equal(a[name], b[name]) for a, b in zip(truths, kept[1]) for name in a)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_a_mosaic_lie_on_their_objects(seed):
    images, truths = scenes(4, seed=seed)
    for k in range(4):  # which photo a pixel comes from
        images[k, 1] = images[k, 0] + 10 * (k + 1)
    kept = images.clone()
    photo, truth = lesson.mosaic_of(images, truths, torch.Generator().manual_seed(seed))
    assert photo.shape == images.shape[1:] and len(truth["boxes"]) == len(truth["labels"]) and torch.equal(images, kept)
    assert set((photo[1].int() - photo[0]).unique().tolist()) == {10, 20, 30, 40}
    for box, label in zip(truth["boxes"], truth["labels"]):
        x0, y0, x1, y1 = box.int().tolist()
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48
        inside = photo[0, y0:y1, x0:x1]
        assert (inside == 60 * label).float().mean() > 0.2  # others may hide a part of it
        assert len((photo[1].int() - photo[0])[y0:y1, x0:x1].unique()) == 1, "a box over the seam"


def test_slivers_are_left_out_and_the_rest_is_kept():
    images, truths = scenes(4)
    for least, rule in ((0.0, lambda share: share >= 0), (1.0, lambda share: share >= 1)):
        _, found = lesson.mosaic_of(images, truths, torch.Generator().manual_seed(3), least)
        full = {1: 54, 2: 63, 3: 72}
        areas = (found["boxes"][:, 2:] - found["boxes"][:, :2]).prod(dim=1)
        assert all(rule(area / full[label]) for area, label in zip(areas.tolist(), found["labels"].tolist()))
        assert least == 0 or all(area == full[label] for area, label in zip(areas.tolist(), found["labels"].tolist()))


def test_a_mosaic_of_photos_without_objects():
    images, _ = scenes(4)
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 4
    _, truth = lesson.mosaic_of(images, nothing, torch.Generator().manual_seed(0))
    assert truth["boxes"].shape == (0, 4) and truth["labels"].shape == (0,)
    photos, found = lesson.flipped(images, nothing, torch.Generator().manual_seed(0))
    assert photos.shape == images.shape and all(one["boxes"].shape == (0, 4) for one in found)


def test_half_of_the_batch_becomes_mosaics():
    images, truths = scenes(8)
    photos, found = lesson.mosaics(images, truths, torch.Generator().manual_seed(0))
    plain, _ = lesson.flipped(images, truths, torch.Generator().manual_seed(0))
    assert photos.shape == images.shape and len(found) == 8
    assert [torch.equal(a, b) for a, b in zip(photos, plain)] == [False] * 4 + [True] * 4


def test_scales_multiply_photos_and_boxes():
    images, truths = scenes(3, height=240, width=320)
    seen = set()
    for seed in range(12):
        photos, found = lesson.several_scales(images, truths, torch.Generator().manual_seed(seed))
        plain, flips = lesson.flipped(images, truths, torch.Generator().manual_seed(seed))
        height, width = photos.shape[2:]
        assert height % 16 == 0 and width % 16 == 0
        seen.add(width)
        for one, flip in zip(found, flips):
            factor = torch.tensor([width / 320, height / 240] * 2)
            torch.testing.assert_close(one["boxes"], flip["boxes"] * factor)
            assert torch.equal(one["labels"], flip["labels"])
    assert seen == {240, 320, 400}


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.98, 1.0])
def test_averaged_weights_equal_pytorchs(decay):
    nets = [lesson.new_yolo(ANCHORS, 3, seed, CPU) for seed in range(4)]
    for seed, net in enumerate(nets):  # other statistics of batch norm
        net(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    referee = AveragedModel(nets[0], multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    referee.update_parameters(nets[0])
    average = copy.deepcopy(nets[0])
    for net in nets[1:]:
        before = copy.deepcopy(net.state_dict())
        lesson.update_average(average, net, decay)
        referee.update_parameters(net)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values()))
    theirs = referee.module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, theirs[name])


def test_training_follows_its_seed_and_averages():
    images, truths = scenes(12)
    found = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        model, seen = lesson.new_yolo(ANCHORS, 3, 0, CPU), []
        start = copy.deepcopy(model.state_dict())
        watch = lesson.watching((2, 4), images[:2], truths[:2], seen)
        average = lesson.train_recipe(
            model, images, truths, lesson.flipped, (5.0, 1.0, 0.5, 1.0), 4, 4, 1e-3, 0.5, seed, watch)
        assert [(one["step"], one["weights"]) for one in seen] == [(s, w) for s in (2, 4) for w in ("last", "averaged")]
        assert not any(torch.equal(p, start[key]) for key, p in model.named_parameters())
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), average.parameters()))
        found[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(found["first"], found["again"]) and not torch.equal(found["first"], found["other"])


def test_targets_are_of_the_changed_boxes_and_averages_of_the_weights_after_a_step():
    images, truths = scenes(6)
    changed, seen = [{"boxes": torch.tensor([[1.0, 2, 20, 30]]), "labels": torch.tensor([2])}] * 3, []

    def targets_of(boxes, *rest):
        seen.append(boxes)
        return lesson.targets_of(boxes, *rest)

    train = definitions(NOTEBOOK, "train_recipe", targets_of=targets_of).train_recipe
    averages = []

    def watch(step, model, average):
        averages.append(all(torch.equal(p, q) for p, q in zip(model.parameters(), average.parameters())))

    model = lesson.new_yolo(ANCHORS, 3, 0, CPU)
    train(model, images, truths, lambda photos, boxes, generator: (photos, changed), (5.0, 1.0, 0.5, 1.0), 2, 3, 1e-3,
          0.0, 0, watch)
    assert all(boxes is changed for boxes in seen) and len(seen) == 2
    assert averages == [True, True]  # a decay of 0 keeps nothing of before


class Says(nn.Module):
    """A network that says the given outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.anchors, self.outputs = ANCHORS, outputs

    def forward(self, images):
        return self.outputs


def test_labels_count_from_one_in_targets_and_detections():
    truth = {"boxes": torch.tensor([[10.0, 10, 40, 40], [50, 4, 60, 16]]), "labels": torch.tensor([3, 1])}
    target = lesson.targets_of([truth], ANCHORS, (3, 4), 16, 3)
    assert target.shape == (1, 2, 3, 4, 8) and target[0, 1, 1, 1, 5:].tolist() == [0, 0, 1]
    outputs = torch.cat([target[..., :2].logit(), target[..., 2:4], 60 * target[..., 4:] - 30], dim=-1)
    found, = lesson.detect(Says(outputs), torch.zeros(1, 3, 48, 64, dtype=torch.uint8), 0.5, 0.5)
    order = found["labels"].argsort(descending=True)
    assert found["labels"][order].tolist() == [3, 1]
    torch.testing.assert_close(found["boxes"][order], truth["boxes"], rtol=1e-4, atol=1e-3)
    table = lesson.sizes_by_class([truth], ("Platelets", "RBC", "WBC"))
    assert table.loc["WBC"].tolist() == [1, 30] and table.loc["Platelets"].tolist() == [1, 11]


def test_details_by_class_and_size():
    truths = [{"boxes": torch.tensor([[0.0, 0, 20, 20], [100, 100, 150, 150]]), "labels": torch.tensor([1, 2])}]
    found = [{"boxes": truths[0]["boxes"] + torch.tensor([[0.0] * 4, [30.0] * 4]), "scores": torch.ones(2),
              "labels": torch.tensor([1, 2])}]
    table = lesson.details(found, truths, ("a", "b", "c"))
    assert table.loc["all", "mAP50"] == pytest.approx(50) and table.loc["all", "mAP"] == pytest.approx(50)
    assert table.loc["a"].tolist() == pytest.approx([100, 100]) and table.loc["b"].tolist() == [0, 0]
    assert table.loc["small boxes", "mAP"] == pytest.approx(100) and table.loc["medium boxes", "mAP"] == 0
    assert "large boxes" not in table.index and "c" not in table.index and np.isnan(table.loc["small boxes", "mAP50"])


def test_resized_photos_keep_their_boxes_on_the_objects():
    images, truths = scenes(2, height=240, width=320)
    photos, found = lesson.resized(images, truths, 192)
    assert photos.shape == (2, 3, 144, 192) and photos.dtype == torch.uint8
    theirs = v2.functional.resize(images, [144, 192], antialias=True)
    assert (photos.int() - theirs.int()).abs().max() <= 1
    for one, truth in zip(found, truths):
        torch.testing.assert_close(one["boxes"], truth["boxes"] * 0.6)


def test_milliseconds_are_those_of_a_photo():
    asked = []
    assert 0 <= lesson.milliseconds(lambda some: asked.append(len(some)), torch.zeros(20, 3, 2, 2), 8) < 100
    assert asked == [8, 8, 8, 4]


def test_what_the_stored_run_showed():
    results = assert_shown(NOTEBOOK, "{parameters:,} parameters; {ms_per_photo:.1f} ms a photo alone")
    assert results["test_map50"] > results["baseline_map50"] + 0.3


def test_the_text_says_what_the_stored_runs_found():
    assert_said(
        NOTEBOOK, "mosaics change mAP50 by {mosaic_points:+.1f} ± {mosaic_reach_points:.1f} points",
        "several scales by {scales_points:+.1f} ± {scales_reach_points:.1f}",
        "by {early_average_points:+.1f} ± {early_average_reach_points:.1f} points after a third",
        "by {late_average_points:+.1f} ± {late_average_reach_points:.1f} at the end",
        "a photo takes {ms_per_photo:.1f} ms alone, and {ms_per_photo_batch_8:.1f} ms in a batch")
    ssd, faster = (assert_shown(f"Chapter08/Training_{name}.ipynb") for name in ("SSD", "Faster_RCNN"))
    assert_said(NOTEBOOK, f"SSD has mAP {ssd['test_map']:.2f} at {ssd['ms_per_photo']:.1f} ms, Faster R-CNN "
                          f"{faster['test_map']:.2f} at {faster['ms_per_photo']:.1f} ms")


def test_detections_are_a_hundred_at_most_and_the_best():
    outputs = torch.randn(1, 2, 12, 16, 8, generator=torch.Generator().manual_seed(0))
    photo = torch.zeros(1, 3, 192, 256, dtype=torch.uint8)
    found, = lesson.detect(Says(outputs), photo, 0.0, 0.99)
    every, = lesson.detect(Says(outputs), photo, 0.0, 0.99, 10**6)
    assert len(found["scores"]) == 100 < len(every["scores"])
    assert all(torch.equal(found[name], every[name][:100]) for name in found)
    assert (found["scores"].diff() <= 0).all() and found["labels"].min() >= 1


def test_effects_are_paired_differences_to_the_recipe_with_flips():
    drawn = []
    runs = pd.DataFrame([{"seed": seed, "recipe": recipe, "mAP50": value + 10 * seed, "loss": 0.0}
                         for seed in (0, 1) for recipe, value in (("flips", 50), ("mosaic", 43), ("several scales",
                                                                                                  41))])
    curves = pd.DataFrame([{"seed": seed, "step": step, "weights": weights, "mAP50": value + seed / 10}
                           for seed in (0, 1) for step, weights, value in (
                               (60, "last", 0.2), (60, "averaged", 0.25), (90, "last", 0.3), (90, "averaged", 0.33),
                               (300, "last", 0.5), (300, "averaged", 0.49))])
    found = run_cell(NOTEBOOK, "effects = {", runs=runs, curves=curves, looks=[60, 90, 300], draw_effects=drawn.append,
                     verdict=lambda differences: "")
    assert {name: some.tolist() for name, some in found["effects"].items()} == {
        "mosaic": [-7, -7], "several scales": [-9, -9], "averaging, step 60": pytest.approx([5, 5]),
        "averaging, end": pytest.approx([-1, -1])}
    assert drawn[0] is found["effects"]
    mean = pd.DataFrame({"mAP50": [82.0, 1, 2, 3], "mAP": [43.0, 30, 40, 50]}, index=["all", "Platelets", "RBC", "WBC"])
    results = run_cell(
        NOTEBOOK, '"flips_validation_map50"', mean=mean, std=mean / 100, CLASSES=("Platelets", "RBC", "WBC"),
        wide=found["wide"], best_baseline=0.02, speed={1: 2.2, 8: 1.6}, parameters=7, effects=found["effects"],
        interval=lambda some: (some.mean(), 0.5))["results"]
    assert results == pytest.approx({
        "test_map50": 0.82, "test_map": 0.43, "test_map50_std": 0.0082, "test_map_std": 0.0043,
        "test_map_platelets": 0.3,
        "test_map_rbc": 0.4, "test_map_wbc": 0.5, "baseline_map50": 0.02, "ms_per_photo": 2.2,
        "ms_per_photo_batch_8": 1.6,
        "parameters": 7, "flips_validation_map50": 0.55, "mosaic_points": -7, "mosaic_reach_points": 0.5,
        "scales_points": -9, "scales_reach_points": 0.5, "early_average_points": 5, "early_average_reach_points": 0.5,
        "late_average_points": -1, "late_average_reach_points": 0.5})


def test_times_are_of_one_photo_and_of_eight():
    timed = []
    found = run_cell(
        NOTEBOOK, "speed = {batch: milliseconds(", models={0: nn.Linear(3, 2), 1: None}, SEEDS=(0,), SCORE=0.1,
        OVERLAP=0.5,
        images={"val": None, "test": torch.zeros(60, 2)}, device=torch.device("cpu"), detect=lambda model, some,
        *_: None,
        milliseconds=lambda answer, some, batch: timed.append((len(some), batch)) or 10.0 / batch)
    assert found["speed"] == {1: 10, 8: 1.25} and timed == [(21, 1), (48, 8)] and found["parameters"] == 8
