"""Bilinear values, paste-back, RoIAlign, hooks, targets and masks of the Mask R-CNN notebook against torchvision."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import nn
from torchvision import ops
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter09/Exploring_Mask_R_CNN.ipynb"
lesson = definitions(
    NOTEBOOK, "bilinear", "paste", "roi_align_one", "through_small", "shrunk", "ious_of",
    "shapes_of", "watch", "small_mask_rcnn", "QuantizedPool", "view_target", "random_views", "train_mask_rcnn",
    "detect", "masks_in", "mask_map", "painted")  # fmt: skip
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def random_boxes(count, generator, side):
    """Boxes (count, 4) xyxy with sides from 0 on within a square of `side` pixels."""
    corners = torch.rand(count, 2, 2, generator=generator) * side
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


# ---- between the places of a grid


@quick
@given(seeds, st.integers(1, 7), st.integers(1, 7))
def test_bilinear_values_are_scipys(seed, h, w):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(2, h, w, generator=generator)
    v, u = (torch.rand(5, generator=generator) * (n + 3) - 2 for n in (h, w))  # some lie outside
    grid = np.meshgrid(v.numpy(), u.numpy(), indexing="ij")
    expected = np.stack([map_coordinates(one.numpy(), grid, order=1, mode="nearest") for one in f])
    np.testing.assert_allclose(lesson.bilinear(f, v, u), expected, atol=1e-5)


def test_bilinear_is_exact_on_the_places_and_passes_gradients():
    f = torch.randn(3, 4, 5, requires_grad=True)
    torch.testing.assert_close(lesson.bilinear(f, torch.arange(4.0), torch.arange(5.0)), f)
    lesson.bilinear(f, torch.tensor([1.25]), torch.tensor([2.5])).sum().backward()
    torch.testing.assert_close(f.grad[0, 1:3, 2:4], torch.tensor([[0.375, 0.375], [0.125, 0.125]]))


# ---- paste-back


@quick
@given(seeds, st.sampled_from([1, 2, 14, 28]), st.sampled_from([0.5, 5.0, 25.0]))
def test_the_paste_is_torchvisions(seed, m, reach):
    generator = torch.Generator().manual_seed(seed)
    middles, halves = 40 * torch.rand(4, 2, generator=generator), reach * torch.rand(4, 2, generator=generator)
    boxes, masks = torch.cat([middles - halves, middles + halves], dim=1), torch.rand(4, 1, m, m, generator=generator)
    theirs = paste_masks_in_image(masks, boxes, (40, 44))[:, 0]
    ours = torch.stack([lesson.paste(mask[0], box, 40, 44) for mask, box in zip(masks, boxes)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_box_outside_the_picture_pastes_nothing():
    box = torch.tensor([50.0, 5.0, 60.0, 15.0])
    assert lesson.paste(torch.ones(28, 28), box, 20, 20).sum() == 0


def test_the_paste_of_a_full_mask_fills_its_box():
    box = torch.tensor([5.0, 8.0, 25.0, 18.0])
    mask = lesson.paste(torch.ones(28, 28), box, 40, 40) > 0.5
    filled = torch.zeros(40, 40, dtype=torch.bool)
    filled[8:18, 5:25] = True
    assert (mask ^ filled).sum() <= 62 and mask[9:17, 6:24].all()  # at most a ring of one pixel differs


def test_through_28_places_small_masks_survive_and_through_one_place_they_do_not():
    y, x = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    masks = torch.stack([(y - 20) ** 2 + (x - 30) ** 2 <= 100, ((y - 40) / 3) ** 2 + (x - 30) ** 2 <= 25])
    masks = masks.to(torch.uint8)
    boxes = ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    fine, coarse = (lesson.ious_of(lesson.through_small(masks, boxes, size), masks.bool()) for size in (28, 1))
    assert (fine > 0.8).all() and (fine > coarse + 0.05).all()


def test_masks_are_shrunk_as_in_torchvisions_training():
    masks = (torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
    boxes = torch.tensor([[1.0, 2, 9, 12], [0, 0, 24, 20], [4.5, 3, 6, 19]])
    theirs = project_masks_on_boxes(masks, boxes, torch.arange(3), 14)
    torch.testing.assert_close(lesson.shrunk(masks, boxes, 14), theirs)


def test_ious_pair_by_pair():
    a = torch.zeros(3, 4, 4, dtype=torch.bool)
    b = a.clone()
    a[0, :2], b[0, 1:3], a[1], b[1] = True, True, True, True
    assert lesson.ious_of(a, b).tolist() == pytest.approx([1 / 3, 1, 0])


# ---- RoIAlign


@quick
@given(seeds, st.sampled_from([1, 2, 7, 14]), st.integers(1, 3), st.sampled_from([1.0, 0.5, 0.25]))
def test_roi_align_is_torchvisions(seed, size, k, scale):
    generator = torch.Generator().manual_seed(seed)
    features, boxes = torch.randn(3, 20, 24, generator=generator), random_boxes(5, generator, 20 / scale)
    theirs = ops.roi_align(features[None], [boxes], size, scale, k, aligned=False)
    ours = torch.stack([lesson.roi_align_one(features, box, size, scale, k) for box in boxes])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_roi_align_has_torchvisions_gradient():
    features, box = torch.randn(2, 10, 10), torch.tensor([3.0, 5.0, 30.0, 33.0])
    grads = []
    for cut in (lambda f: lesson.roi_align_one(f, box, 7, 0.25),
                lambda f: ops.roi_align(f[None], [box[None]], 7, 0.25, 2)):
        f = features.clone().requires_grad_()
        cut(f).square().sum().backward()
        grads.append(f.grad)
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


def test_the_quantized_pool_is_roi_pool_in_torchvisions_place():
    features, boxes = torch.randn(2, 3, 10, 10), [torch.tensor([[2.0, 3.0, 30.0, 22.0]]), torch.zeros(0, 4)]
    cut = lesson.QuantizedPool(7, 4)({"0": features}, boxes, [(40, 40)] * 2)
    torch.testing.assert_close(cut, ops.roi_pool(features, boxes, 7, 0.25))
    moved = [boxes[0] + 0.9, boxes[1]]  # the rounding hides a move of less than a place
    assert torch.equal(lesson.QuantizedPool(7, 4)({"0": features}, moved, [(40, 40)] * 2), cut)


# ---- hooks


def test_shapes_are_told_for_nested_outputs():
    a, b = torch.zeros(2, 3), torch.zeros(4)
    assert lesson.shapes_of([a, {"x": b, "y": (a, 1)}, None]) == "2×3, 4, 2×3"


def test_hooks_keep_the_latest_output_and_go():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    hooks, seen = lesson.watch(model, ("0", "1"))
    out = model(torch.ones(1, 2))
    assert torch.equal(seen["1"], out) and torch.equal(seen["0"].relu(), out)
    for hook in hooks:
        hook.remove()
    model(torch.zeros(1, 2))
    assert torch.equal(seen["1"], out)


# ---- the model


@pytest.fixture(scope="module")
def model():
    return lesson.small_mask_rcnn(0, 4, 4, 14, "align", 64)


def test_both_ways_start_from_the_same_weights_and_differ_in_the_mask_cut_alone(model):
    other = lesson.small_mask_rcnn(0, 4, 4, 14, "pool", 64)
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert isinstance(other.roi_heads.mask_roi_pool, lesson.QuantizedPool)
    assert isinstance(other.roi_heads.box_roi_pool, ops.MultiScaleRoIAlign)
    assert isinstance(model.roi_heads.mask_roi_pool, ops.MultiScaleRoIAlign)


@pytest.mark.parametrize("stride", [4, 8])
def test_the_stride_is_what_it_says(stride):
    backbone = lesson.small_mask_rcnn(0, 4, stride, 14, "align", 64).backbone
    assert backbone(torch.zeros(1, 1, 64, 32)).shape == (1, 8, 64 // stride, 32 // stride)


def square_labels(side=64):
    labels = torch.zeros(side, side, dtype=torch.int64)
    labels[10:30, 12:28], labels[40:60, 30:50], labels[0, 0] = 1, 2, 3
    return labels


def test_pictures_and_crops_keep_their_size(model):
    model.train()
    assert model.transform([torch.zeros(1, 32, 32)])[0].tensors.shape == (1, 1, 32, 32)
    model.eval()
    assert model.transform([torch.zeros(1, 64, 64)])[0].tensors.shape == (1, 1, 64, 64)


def test_masks_in_true_boxes_are_those_of_the_detector(model):
    image = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    model.eval()
    model.roi_heads.score_thresh = 0.0
    found = lesson.detect(model, image)
    assert len(found["boxes"]) > 3 and found["labels"].unique().tolist() == [1]
    small = lesson.masks_in(model, image, found["boxes"])
    assert small.shape == (len(found["boxes"]), 28, 28)
    ours = torch.stack([lesson.paste(mask, box, 64, 64) for mask, box in zip(small, found["boxes"])])
    torch.testing.assert_close(ours, found["masks"][:, 0], atol=1e-5, rtol=1e-4)


def test_targets_leave_out_tiny_objects_and_have_boxes_to_the_edge():
    target = lesson.view_target(square_labels())
    assert target["boxes"].tolist() == [[12, 10, 28, 30], [30, 40, 50, 60]] and target["labels"].tolist() == [1, 1]
    assert target["masks"].dtype == torch.uint8 and target["masks"].sum(dim=(1, 2)).tolist() == [320, 400]
    nothing = lesson.view_target(torch.zeros(8, 8, dtype=torch.int64))
    assert nothing["boxes"].shape == (0, 4) and nothing["masks"].shape == (0, 8, 8)


def test_views_are_cut_and_mirrored_with_their_labels():
    labels = square_labels()
    images, generator = labels[None, None].float(), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(10):
        views, targets = lesson.random_views(images, labels[None], 2, 48, generator)
        for view, target in zip(views, targets):
            for mask, box in zip(target["masks"].bool(), target["boxes"].int().tolist()):
                assert view[0][mask].unique().numel() == 1 and view[0][mask][0] > 0
                assert mask[box[1] : box[3], box[0] : box[2]].sum() == mask.sum()
            seen.add(tuple(target["boxes"].flatten().tolist()))
    assert len(seen) > 10


def test_training_changes_every_part_and_lowers_the_loss():
    torch.manual_seed(0)
    labels = square_labels()
    images = (labels[None, None] > 0).float() * 0.8 + 0.1
    model = lesson.small_mask_rcnn(0, 8, 4, 14, "align", 64)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = lesson.train_mask_rcnn(model, images, labels[None], 25, 2, 64, 3e-3, 0, torch.device("cpu"))
    assert history.shape == (25, 5) and "loss_mask" in history
    assert history["loss_mask"].tail(4).mean() < history["loss_mask"].head(4).mean()
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name


def test_mask_map_cuts_soft_masks_and_is_one_for_the_truth():
    target = lesson.view_target(square_labels())
    soft = 0.2 + 0.6 * target["masks"][:, None].float()
    answer = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.tensor([0.9, 0.8]), "masks": soft}
    assert lesson.mask_map([answer], [target]) == pytest.approx(1)
    assert lesson.mask_map([{**answer, "masks": soft.flip(3)}], [target]) < 0.2


def test_painting_leaves_the_picture_alone():
    gray, masks = torch.full((20, 20), 0.5), torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 2:9, 2:9] = True
    pixels = lesson.painted(gray, masks)
    assert (gray == 0.5).all() and np.allclose(pixels[15, 15], 0.45) and not np.allclose(pixels[5, 5], pixels[15, 15])


# ---- the notebook as a whole


def cell_with(text):
    """The source of the one code cell of the notebook that holds the text."""
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if text in cell.source]
    assert len(cells) == 1, f"{text}: {len(cells)} cells"
    return cells[0]


def test_training_validation_and_test_pictures_keep_their_roles():
    assert 'training = [images[rows["train"]], labels[rows["train"]],' in cell_with("training =")
    assert 'truths = [view_target(labels[row]) for row in rows["val"].tolist()]' in cell_with("truths =")
    assert 'chosen = rows["test"]' in (testing := cell_with("test_images, tests ="))
    assert "images[chosen], [view_target(labels[row]) for row in chosen" in testing


def test_areas_after_the_paste_are_compared_with_those_before():
    masks, targets = torch.zeros(2, 8, 8, dtype=torch.bool), torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4], targets[:, :2] = True, True
    space = {"rows": {"val": torch.tensor([0])}, "labels": [None], "ious_of": lesson.ious_of, "pd": pd, "torch": torch,
             "view_target": lambda _: {"masks": targets, "boxes": None}, "through_small": lambda *_: masks}
    exec(cell_with("swollen ="), space)
    assert set(space["swollen"].values()) == {2.0} and set(space["ceilings"].values()) == {0.5}


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK, "a mask that fills its box: IoU {box_iou:.3f}",
        "RoIAlign - RoIPool: IoU {gain_iou:+.3f} ± {gain_iou_std:.3f} (std)",
        "RoIAlign - RoIPool: mAP {gain_map:+.3f} ± {gain_map_std:.3f} (std)")
    for name in ("iou", "map"):
        assert results[f"align_{name}"] - results[f"pool_{name}"] == pytest.approx(results[f"gain_{name}"])


def test_the_pictures_are_split_as_in_the_other_notebook():
    first, second = (definitions(f"Chapter09/{name}.ipynb", "VALIDATION", "TEST", "ALIKE", "SIDE", "URL")
                     for name in ("Instance_Segmentation", "Exploring_Mask_R_CNN"))
    assert vars(first) == vars(second)
