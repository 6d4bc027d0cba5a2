"""Polygons, run lengths, maps of classes and numbers, mAP, confusion, scenes and ADE20K's annotation."""
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from torchmetrics.detection import MeanAveragePrecision

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter09/predicting_multiple_instances_of_multiple_classes.ipynb"
lesson = definitions(
    NOTEBOOK, "coco_subset", "read_photo", "color_of",
    "overlay", "polygon_mask", "two_maps", "encode_runs", "decode_runs", "overlaps", "class_aps", "careless",
    "coco_targets", "pycocotools_map", "shape", "scene", "shape_mask_rcnn", "cut", "mean_ap", "blobs", "confusion",
    "wrong_entries", "counts_of", "panoptic", "ade_target", "ade_part", "detect", "fine_tune", "CLASSES",
    "THRESHOLDS")  # fmt: skip
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


# ---- polygons and run lengths


@quick
@given(seeds)
def test_polygons_are_filled_nearly_as_pycocotools_fills_them(seed):
    rng = np.random.default_rng(seed)
    angles, reach = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(8, 24, 9)
    polygon = np.stack([30 + reach * np.cos(angles), 25 + reach * np.sin(angles)], axis=1).ravel().tolist()
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 50, 60))).astype(bool)
    ours = lesson.polygon_mask([polygon], 50, 60)
    assert ours.shape == (50, 60) and (ours ^ theirs).sum() <= 0.08 * theirs.sum() + 40  # the rim may differ
    if theirs.sum() > 200:
        centers = [np.argwhere(mask).mean(axis=0) for mask in (ours, theirs)]
        np.testing.assert_allclose(*centers, atol=0.25)  # and is not shifted


def test_a_rectangle_fills_exactly_its_pixels_and_parts_are_joined():
    square, far = [2, 3, 6, 3, 6, 8, 2, 8], [10, 0, 12, 0, 12, 2, 10, 2]
    mask = lesson.polygon_mask([square, far], 12, 14)
    expected = np.zeros((12, 14), bool)
    expected[3:8, 2:6], expected[0:2, 10:12] = True, True
    np.testing.assert_array_equal(mask, expected)
    assert not lesson.polygon_mask([], 3, 4).any()


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_run_lengths_are_cocos(seed, h, w, share):
    mask = np.random.default_rng(seed).random((h, w)) < share
    counts = lesson.encode_runs(mask)
    assert sum(counts) == mask.size and all(count > 0 for count in counts[1:])
    np.testing.assert_array_equal(lesson.decode_runs(counts, h, w), mask)
    theirs = coco_mask.decode(coco_mask.frPyObjects({"size": [h, w], "counts": counts}, h, w))
    np.testing.assert_array_equal(theirs.astype(bool), mask)


def test_run_lengths_begin_with_zeros_and_go_by_column():
    assert lesson.encode_runs(np.array([[1, 1], [0, 0]])) == [0, 1, 1, 1, 1]
    assert lesson.encode_runs(np.zeros((2, 3))) == [6]
    assert lesson.encode_runs(np.ones((2, 2))) == [0, 4]


# ---- a class and a number


def test_numbers_start_anew_in_each_class_and_the_later_mask_wins():
    masks = np.zeros((4, 6, 6), bool)
    masks[0, :2], masks[1, 2:4], masks[2, 4:], masks[3, :, 0] = True, True, True, True
    classes, numbers = lesson.two_maps(masks, [3, 1, 3, 1])
    assert classes[:, 3].tolist() == [3, 3, 1, 1, 3, 3] and numbers[:, 3].tolist() == [1, 1, 1, 1, 2, 2]
    assert classes[:, 0].tolist() == [1] * 6 and numbers[:, 0].tolist() == [2] * 6
    pairs = {(c, n) for c, n in zip(classes.ravel().tolist(), numbers.ravel().tolist())}
    assert len(pairs) == 4 and len(np.unique(numbers)) == 2  # a number alone is not an object


def test_an_empty_photo_has_empty_maps():
    classes, numbers = lesson.two_maps(np.zeros((0, 3, 4), bool), [])
    assert classes.shape == numbers.shape == (3, 4) and not classes.any()
    assert lesson.overlay(np.full((3, 4, 3), 100.0), classes, numbers).shape == (3, 4, 3)


def test_the_overlay_paints_each_object_and_leaves_the_photo_alone():
    photo = np.full((20, 20, 3), 100, np.uint8)
    classes, numbers = np.zeros((20, 20), int), np.zeros((20, 20), int)
    classes[2:9, 2:9], numbers[2:9, 2:9] = 1, 1
    classes[2:9, 11:18], numbers[2:9, 11:18] = 1, 2
    pixels = lesson.overlay(photo, classes, numbers)
    assert (photo == 100).all()
    np.testing.assert_allclose(pixels[15, 15], 0.9 * 100 / 255)
    assert not np.allclose(pixels[5, 5], pixels[5, 14]) and not np.allclose(pixels[5, 5], pixels[15, 15])


def test_panoptic_puts_the_surest_on_top_and_drops_the_unsure():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :, :3], masks[1, :, 1:], masks[2] = True, True, True
    answer = {"masks": masks, "labels": torch.tensor([2, 1, 3]), "scores": torch.tensor([0.9, 0.6, 0.4])}
    classes, numbers = lesson.panoptic(answer, 0.5)
    assert classes[0].tolist() == [2, 2, 2, 1] and set(numbers.ravel().tolist()) == {1}


# ---- ADE20K's annotation


def test_an_ade_object_is_a_pair_of_red_and_green():
    annotation = np.zeros((20, 40, 3), np.uint8)
    annotation[:, :10], annotation[:, 10:20], annotation[:, 20:30] = (1, 1, 0), (2, 1, 0), (1, 2, 0)
    annotation[0, 39] = (2, 2, 0)  # too small
    target = lesson.ade_target(Image.fromarray(annotation))
    assert target["labels"].tolist() == [1, 1, 2]
    assert target["boxes"].tolist() == [[0, 0, 10, 20], [20, 0, 30, 20], [10, 0, 20, 20]]
    assert target["masks"].dtype == torch.uint8 and target["masks"].sum(dim=(1, 2)).tolist() == [200] * 3
    nothing = lesson.ade_target(np.zeros((5, 5, 3), np.uint8))
    assert nothing["boxes"].shape == (0, 4) and nothing["masks"].shape == (0, 5, 5)


def test_annotations_are_resized_without_new_classes_and_empty_photos_left_out():
    annotation = np.zeros((60, 90, 3), np.uint8)
    annotation[:, 30:60] = (2, 1, 0)
    picture = Image.fromarray(np.zeros((60, 90, 3), np.uint8))
    rows = [{"image": picture, "annotation": Image.fromarray(annotation)},
            {"image": picture, "annotation": Image.fromarray(0 * annotation)}]
    images, targets = lesson.ade_part(rows, 41)
    assert len(images) == len(targets) == 1 and images[0].shape == (3, 41, 62) and images[0].max() <= 1
    assert targets[0]["labels"].tolist() == [2] and targets[0]["masks"].shape == (1, 41, 62)


# ---- measures


def random_answers(seed, photos=5, side=24, classes=4, fewest=0):
    """Targets and detections (dicts of masks, labels, scores) that overlap in part."""
    rng, found, true = np.random.default_rng(seed), [], []
    for _ in range(photos):
        n = int(rng.integers(fewest, 5))
        masks = np.zeros((n, side, side), bool)
        for mask in masks:
            y, x = rng.integers(0, side - 8, 2)
            mask[y : y + rng.integers(4, 9), x : x + rng.integers(4, 9)] = True
        labels = torch.from_numpy(rng.integers(1, classes + 1, n))
        true.append({"masks": torch.from_numpy(masks), "labels": labels})
        moved = torch.from_numpy(np.stack([np.roll(m, rng.integers(-1, 2, 2), (0, 1)) for m in masks] + [masks[0]])
                                 if n else masks)
        names = torch.cat([torch.where(torch.rand(n) < 0.8, labels, labels % classes + 1), labels[:1]])
        found.append({"masks": moved, "labels": names,
                      "scores": torch.from_numpy(rng.permutation(len(names)) / 10 + rng.random()).float()})
    return found, true


@settings(deadline=None, max_examples=8)
@given(seeds)
def test_class_aps_are_those_of_torchmetrics(seed):
    torch.manual_seed(seed)
    found, true = random_answers(seed, fewest=1)  # torchmetrics skips photos without a true mask
    aps = lesson.class_aps(found, true, range(1, 5), lesson.THRESHOLDS)
    metric = MeanAveragePrecision(iou_type="segm", class_metrics=True, iou_thresholds=lesson.THRESHOLDS.tolist(),
                                  rec_thresholds=np.linspace(0, 1, 101).tolist())
    metric.update(found, true)
    theirs = metric.compute()
    per_class = zip(theirs["classes"].reshape(-1).tolist(), theirs["map_per_class"].reshape(-1).tolist())
    expected = {c: value for c, value in per_class if value >= 0}
    assert {c: pytest.approx(ap.mean().item(), abs=1e-4) for c, ap in aps.items()} == expected


@quick
@given(seeds)
def test_overlaps_are_pycocotools(seed):
    found, true = (part[0]["masks"] for part in random_answers(seed, photos=1))
    ours = lesson.overlaps(found, true)
    assert ours.shape == (len(found), len(true))
    if len(found) and len(true):
        runs = [[coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in part]
                for part in (found, true)]
        np.testing.assert_allclose(ours, coco_mask.iou(*runs, [0] * len(true)), atol=1e-6)


def small_coco():
    """Two photos with three objects, one photo without, in COCO's form."""
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in (5, 7, 9)]
    boxes = [(5, 3, 2, 2, 10, 12), (5, 3, 15, 5, 12, 12), (7, 44, 3, 4, 20, 15)]
    annotations = [{"id": k, "image_id": image, "category_id": label, "iscrowd": 0, "area": w * h, "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
                   for k, (image, label, x, y, w, h) in enumerate(boxes, start=1)]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": k, "name": str(k)} for k in (3, 44, 90)]}


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_the_map_on_coco_files_is_pycocotools(seed):
    coco = small_coco()
    objects = {image["id"]: [one for one in coco["annotations"] if one["image_id"] == image["id"]]
               for image in coco["images"]}
    true = lesson.coco_targets(coco, objects)
    assert [len(one["labels"]) for one in true] == [2, 1, 0] and true[2]["masks"].shape == (0, 30, 40)
    generator = torch.Generator().manual_seed(seed)
    found = [lesson.careless(one, generator, [3, 44, 90]) for one in true]
    if sum(len(one["labels"]) for one in found):
        aps = lesson.class_aps(found, true, [3, 44, 90], lesson.THRESHOLDS)
        assert set(aps) == {3, 44}  # no object of class 90: left out
        ours = torch.stack(list(aps.values())).mean().item()
        assert ours == pytest.approx(lesson.pycocotools_map(coco, found), abs=1e-6)


def test_the_careless_annotator_forgets_moves_and_confuses():
    masks = torch.zeros(200, 20, 20, dtype=torch.bool)
    masks[:, 8:12, 8:12] = True
    target = {"masks": masks, "labels": torch.full((200,), 3)}
    found = lesson.careless(target, torch.Generator().manual_seed(0), [3, 5, 8])
    assert 150 < len(found["labels"]) < 190 and len(found["scores"]) == len(found["masks"]) == len(found["labels"])
    assert 0 < (found["labels"] != 3).sum() < 40 and (found["masks"].sum(dim=(1, 2)) == 16).all()
    assert (found["masks"] != masks[0]).any(dim=2).any(dim=1).sum() > 100 and (target["labels"] == 3).all()


def test_confusion_matches_whatever_the_class_and_counts_the_rest():
    masks = torch.zeros(4, 10, 40, dtype=torch.bool)
    for k in range(4):
        masks[k, :, 10 * k : 10 * k + 8] = True
    target = {"masks": masks[:3], "labels": torch.tensor([1, 2, 2])}
    answer = {"masks": torch.stack([masks[0], masks[1], masks[3], masks[0], masks[2]]),
              "labels": torch.tensor([1, 1, 2, 2, 2]), "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1])}
    table = lesson.confusion([answer], [target], 2, 0.5)
    assert table.tolist() == [[0, 0, 2], [0, 1, 0], [1, 1, 0]]
    assert lesson.wrong_entries([answer], [target], 2, 0.5) == 4
    assert lesson.wrong_entries([answer], [target], 2, 0.0) == 3  # the third object is found
    empty = {"masks": masks[:0], "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert lesson.confusion([empty], [target], 2, 0.5)[:, 0].tolist() == [0, 1, 2]
    assert lesson.confusion([answer], [empty], 2, 0.5)[0].tolist() == [0, 2, 2]


def test_counts_leave_out_the_background():
    assert lesson.counts_of(torch.tensor([1, 3, 3]), 4).tolist() == [1, 0, 2, 0]
    assert lesson.counts_of([], 4).tolist() == [0] * 4


def test_soft_masks_are_cut_above_the_threshold():
    answer = {"masks": torch.tensor([0.0, 0.3, 0.5, 0.8]).view(1, 1, 2, 2), "labels": torch.tensor([1])}
    assert lesson.cut(answer, 0.5)["masks"].tolist() == [[[False, False], [False, True]]]
    assert lesson.cut(answer, 0.0)["masks"].sum() == 3 and answer["masks"].dtype == torch.float32


# ---- scenes and the model


@pytest.mark.parametrize("kind", ["disc", "square", "triangle", "star"])
def test_shapes_lie_around_their_center(kind):
    mask = lesson.shape(kind, (30, 40), 15, 0.3, 80)
    assert mask.shape == (80, 80) and mask.dtype == bool and mask[30, 40]
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (30, 40), atol=1)
    share = mask.sum() / 15**2
    assert share == pytest.approx({"disc": np.pi * 0.85**2, "square": 2, "triangle": 1.3, "star": 1.32}[kind], rel=0.1)


def test_scenes_hold_what_can_be_seen():
    rng, labels = np.random.default_rng(0), []
    for _ in range(30):
        image, target = lesson.scene(rng, 64, lesson.CLASSES)
        assert image.shape == (1, 64, 64) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
        assert (target["masks"].sum(dim=0) <= 1).all()  # nothing lies behind something and is seen
        assert (target["masks"].sum(dim=(1, 2)) >= 40).all() and len(target["labels"]) == len(target["masks"]) > 0
        for mask, (x0, y0, x1, y1) in zip(target["masks"].bool(), target["boxes"].int().tolist()):
            assert mask[y0:y1, x0:x1].sum() == mask.sum() and mask[y0].any() and mask[:, x0].any()
            assert mask[y1 - 1].any() and mask[:, x1 - 1].any()
        labels += target["labels"].tolist()
    assert set(labels) == {1, 2, 3, 4}


def test_blobs_find_a_shape_alone_and_call_it_what_they_are_told():
    image = torch.full((1, 40, 40), 0.5)
    image[0, 5:15, 5:15], image[0, 20:32, 20:32] = 1.0, 0.1
    found = lesson.blobs(image, 3)
    assert found["labels"].tolist() == [3, 3] and found["masks"].sum(dim=(1, 2)).tolist() == [100, 144]


def test_the_model_learns_one_scene_and_has_a_mask_for_each_class():
    rng = np.random.default_rng(3)
    images, targets = zip(*(lesson.scene(rng, 64, lesson.CLASSES) for _ in range(2)))
    model = lesson.shape_mask_rcnn(0, 8, 5, 64)
    before = [p.detach().clone() for p in model.parameters()]
    lesson.fine_tune(model, images, targets, 6, 2, 3e-3, 0, torch.device("cpu"))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    model.roi_heads.score_thresh = 0.0
    answer = lesson.detect(model, images[0])
    assert answer["masks"].shape[1:] == (1, 64, 64) and set(answer["labels"].tolist()) <= {1, 2, 3, 4}
    model.train()
    inputs, _ = model.transform(list(images))
    assert inputs.tensors.shape == (2, 1, 64, 64)  # not enlarged, neither in training nor in use
    model.eval()
    assert model.transform(list(images))[0].tensors.shape == (2, 1, 64, 64)
    assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 5 and not model.training


# ---- files


def test_the_subset_keeps_the_first_photos_without_crowds_and_is_fetched_once(tmp_path, monkeypatch):
    coco = small_coco()
    coco["images"] = [{**image, "coco_url": f"http://x/{image['file_name']}"} for image in coco["images"][::-1]]
    coco["annotations"][0]["iscrowd"] = 1
    asked = []

    def download(url, path, progress=True):
        asked.append(url)
        if url.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("annotations/instances_val2017.json", json.dumps(coco))
        else:
            Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    folder = tmp_path / "coco"
    subset = lesson.coco_subset("http://x/a.zip", 2, folder)
    assert [image["id"] for image in subset["images"]] == [5, 7]
    assert [one["id"] for one in subset["annotations"]] == [2, 3]
    assert lesson.read_photo(folder, subset["images"][0]).shape == (30, 40, 3) and len(asked) == 3
    assert lesson.coco_subset("http://x/a.zip", 2, folder) == subset and len(asked) == 3


def test_a_photo_that_cannot_be_fetched_leaves_no_list(tmp_path, monkeypatch):
    def download(url, path, progress=True):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        lesson.coco_subset("http://x/a.zip", 2, tmp_path / "coco")
    assert not (tmp_path / "coco/instances.json").exists()


# ---- the notebook as a whole


def cell_with(text):
    """The source of the one code cell of the notebook that holds the text."""
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if text in cell.source]
    assert len(cells) == 1, f"{text}: {len(cells)} cells"
    return cells[0]


def test_training_validation_and_test_scenes_keep_their_roles():
    assert 'fine_tune(models[seed], *sets["train"],' in cell_with("models, start =")
    choosing, testing = cell_with("SCORE ="), cell_with("aps[\"blobs\"] =")
    assert 'soft[seed]["val"]' in choosing and 'wrong_entries(chosen_cut[seed], truths["val"],' in choosing
    assert 'for one in soft[seed]["test"]]' in testing and testing.count('truths["test"]') == 2 and "val" not in testing
    seeds_of = [line.split("default_rng(")[1][0] for line in cell_with("sets =").splitlines() if "default_rng(" in line]
    assert len(set(seeds_of)) == 3, "each part has a generator of its own"


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK,
        "test mAP {test_map:.3f}, blobs {blob_map:.3f}", "mAP of the careless annotator: ours {coco_map:.6f}",
        "{right_class_percent:.1f}% of the found objects", "off by {count_mae:.2f} objects, a guess by {guess_mae:.2f}")
    by_class = [results[f"test_map_{name}"] for name in lesson.CLASSES]
    assert np.mean(by_class) == pytest.approx(results["test_map"])
