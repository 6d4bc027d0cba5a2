"""What crowd_counting.ipynb defines: crowds, density maps, their pooling, both losses, counts, errors."""
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize
from skimage.measure import block_reduce
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from torch import nn
from torchvision import ops

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter10/crowd_counting.ipynb"
lesson = definitions(
    NOTEBOOK, "draw_crowd", "draw_crowds", "foreground", "count_pieces", "density_map", "sum_pool", "csrnet",
    "density_loss", "density_counts", "train_counter", "outputs_of", "peak_map", "peak_loss", "peak_counts",
    "best_threshold", "box_centers", "fit_area", "simple_counts", "count_errors", "error_table", "errors_by_size",
    "SCALE")
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def some_points(n, width, height, seed=0):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height])


# ---- the drawn crowds


@pytest.mark.parametrize("count", [0, 1, 7, 60, 150])
def test_a_crowd_has_its_heads_within_the_image_and_apart(count):
    image, heads = lesson.draw_crowd(count, 128, 96, np.random.default_rng(count))
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8 and heads.shape == (count, 2)
    assert (heads >= 0).all() and (heads[:, 0] < 128).all() and (heads[:, 1] < 96).all()
    if count > 1:
        assert F.pdist(torch.from_numpy(heads)).min() > 1.1


def test_no_more_heads_than_find_room():
    _, heads = lesson.draw_crowd(500, 40, 30, np.random.default_rng(0))
    assert 20 < len(heads) < 500


def test_the_point_of_a_head_is_on_the_head():
    """Alone on the ground, the pixels above the body that differ from it have their middle near the point, x and y."""
    near = []
    for seed in range(12):
        image, heads = lesson.draw_crowd(1, 160, 60, np.random.default_rng(seed))
        (x, y), differs = heads[0], np.abs(image.astype(int) - np.median(image, axis=(0, 1))).sum(axis=2) > 75
        radius = 1 + 2 * y / 60
        ys, xs = np.nonzero(differs[: int(y + 0.5 * radius)])
        if len(xs):  # hair may have the color of the ground
            near.append(abs(xs.mean() + 0.5 - x) < 1.2 and ys.min() > y - 1.15 * radius - 2)
    assert len(near) > 6 and all(near)


def test_crowds_follow_their_seed_and_their_counts():
    images, heads = lesson.draw_crowds([3, 20, 1], 64, 48, seed=4)
    again, others = (lesson.draw_crowds([3, 20, 1], 64, 48, seed=s)[0] for s in (4, 5))
    assert images.shape == (3, 3, 48, 64) and [len(one) for one in heads] == [3, 20, 1]
    assert torch.equal(images, again) and not torch.equal(images, others)


# ---- density maps


@quickly
@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1e-3, 0.5, 3.0, 50.0, 1e4]))
def test_the_sum_is_the_number_of_points(n, height, width, sigma):
    density = lesson.density_map(some_points(n, width, height), height, width, sigma)
    assert density.shape == (height, width) and (density >= 0).all()
    assert density.sum().item() == pytest.approx(n, abs=1e-4 * max(n, 1))


def test_a_density_equals_scipys_filter_far_from_the_border():
    points = 30 + some_points(25, 40, 60)
    impulses = np.zeros((120, 100))
    for x, y in points.floor().int().tolist():
        impulses[y, x] += 1
    for sigma in (1.0, 2.5, 3.0):
        filtered = ndimage.gaussian_filter(impulses, sigma, truncate=8, mode="constant")
        density = lesson.density_map(points.floor() + 0.5, 120, 100, sigma)
        np.testing.assert_allclose(density.numpy(), filtered, rtol=1e-3, atol=1e-7)


def test_x_goes_along_the_width_and_y_along_the_height():
    density = lesson.density_map(torch.tensor([[17.5, 4.5]]), 20, 30, 0.3)
    assert density[4, 17] == density.max() and density[4, 17] > 0.9


def test_at_the_border_and_on_one_place_nothing_is_lost():
    corners = torch.tensor([[0.0, 0.0], [30.0, 20.0], [0.0, 20.0], [30.0, 0.0]])
    density = lesson.density_map(corners, 20, 30, 3.0)
    assert density.sum().item() == pytest.approx(4, abs=1e-4)
    torch.testing.assert_close(density, density.flip(0))
    same = lesson.density_map(torch.tensor([[5.0, 5.0]]).expand(9, 2), 20, 30, 3.0)
    torch.testing.assert_close(same, 9 * lesson.density_map(torch.tensor([[5.0, 5.0]]), 20, 30, 3.0))


def test_each_point_may_have_a_sigma_of_its_own():
    points = some_points(6, 40, 30)
    sigma = torch.tensor([0.5, 1, 2, 3, 5, 8])[:, None]
    together = lesson.density_map(points, 30, 40, sigma)
    single = sum(lesson.density_map(point[None], 30, 40, one.item()) for point, one in zip(points, sigma))
    torch.testing.assert_close(together, single)


@quickly
@given(st.integers(1, 33), st.integers(1, 33), st.integers(1, 40))
def test_pooling_adds(height, width, factor):
    density = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    pooled = lesson.sum_pool(density, factor)
    np.testing.assert_allclose(pooled.numpy(), block_reduce(density.numpy(), (1, factor, factor), np.sum), rtol=1e-4)
    torch.testing.assert_close(pooled.sum(dim=(1, 2)), density.sum(dim=(1, 2)))
    torch.testing.assert_close(lesson.sum_pool(density[0], factor), pooled[0])


def test_pooling_in_two_steps_is_pooling_in_one():
    density = lesson.density_map(some_points(30, 64, 48), 48, 64, 3.0)
    torch.testing.assert_close(lesson.sum_pool(lesson.sum_pool(density, 2), 4), lesson.sum_pool(density, 8))
    torch.testing.assert_close(lesson.sum_pool(density, 1), density)


# ---- peaks


def test_every_point_apart_from_the_others_is_one_peak():
    points = torch.tensor([[3.2, 4.9], [15.0, 4.0], [28.9, 19.9], [0.0, 19.0]])
    heat = lesson.peak_map(points, 20, 30, 1.0)
    assert heat.shape == (20, 30) and heat.max() == 1
    assert (heat == 1).nonzero().flip(1).tolist() == [[3, 4], [15, 4], [0, 19], [28, 19]]
    assert lesson.peak_counts(torch.logit(heat, 1e-6)[None], 0.5).tolist() == [4]


def test_heat_is_the_maximum_not_the_sum():
    one = lesson.peak_map(torch.tensor([[5.5, 5.5]]), 12, 12, 2.0)
    torch.testing.assert_close(lesson.peak_map(torch.tensor([[5.5, 5.5]]).repeat(5, 1), 12, 12, 2.0), one)
    two = lesson.peak_map(torch.tensor([[5.5, 5.5], [7.5, 5.5]]), 12, 12, 2.0)
    torch.testing.assert_close(two, torch.maximum(one, lesson.peak_map(torch.tensor([[7.5, 5.5]]), 12, 12, 2.0)))
    y, x = np.mgrid[:12, :12]
    np.testing.assert_allclose(one.numpy(), np.exp(-((x - 5) ** 2 + (y - 5) ** 2) / 8), rtol=1e-5)


def test_without_points_there_is_no_heat_and_no_peak():
    heat = lesson.peak_map(torch.zeros(0, 2), 6, 8, 1.0)
    assert heat.shape == (6, 8) and (heat == 0).all()
    assert lesson.peak_counts(torch.full((2, 6, 8), -9.0), 0.1).tolist() == [0, 0]


def test_the_threshold_is_a_probability_and_peaks_are_local():
    outputs = torch.full((1, 9, 9), -20.0)
    outputs[0, 2, 2], outputs[0, 2, 3], outputs[0, 6, 6] = 2.0, 1.0, -1.0  # p 0.88, 0.73 beside it, 0.27
    assert [lesson.peak_counts(outputs, t).item() for t in (0.2, 0.5, 0.9)] == [2, 1, 0]


@pytest.mark.parametrize("spread", [0.1, 3.0, 40.0])
def test_the_focal_loss_and_its_gradient_by_hand(spread):
    generator = torch.Generator().manual_seed(0)
    logits = (spread * torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    heat = torch.stack([lesson.peak_map(some_points(n, 7, 6), 6, 7, 1.0) for n in (3, 1)]).double()
    loss = lesson.peak_loss(logits, heat)
    n, total = (heat == 1).sum(), 0.0
    for z, h in zip(logits.flatten(), heat.flatten()):
        one = ops.sigmoid_focal_loss(z, torch.ones_like(z) * (h == 1), alpha=-1, gamma=2)
        total = total + one * (1 if h == 1 else (1 - h) ** 4)
    torch.testing.assert_close(loss, total / n)
    ours, theirs = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(total / n, logits)[0]
    torch.testing.assert_close(ours, theirs)


def test_the_focal_loss_stands_images_without_heads_and_large_logits():
    for logits in (torch.full((1, 4, 4), 1e4), torch.full((1, 4, 4), -1e4), torch.zeros(1, 4, 4)):
        for heat in (torch.zeros(1, 4, 4), torch.ones(1, 4, 4)):
            assert torch.isfinite(lesson.peak_loss(logits, heat))


def test_the_threshold_is_chosen_by_the_error_of_the_count():
    outputs = torch.full((2, 9, 9), -20.0)
    outputs[:, 1, 1], outputs[:, 5, 5], outputs[:, 1, 7] = 3.0, 0.0, -1.5
    for wanted, expected in ((1, 0.8), (2, 0.4), (3, 0.1)):
        assert lesson.best_threshold(outputs, torch.tensor([wanted, wanted]), [0.1, 0.4, 0.8]) == expected


# ---- density loss and counts


def test_what_multiplies_in_training_divides_in_use():
    density = torch.stack([lesson.density_map(some_points(n, 16, 12), 12, 16, 2.0) for n in (0, 5, 40)])
    outputs = lesson.SCALE * density
    assert lesson.density_loss(outputs, density) == 0
    torch.testing.assert_close(lesson.density_counts(outputs), torch.tensor([0.0, 5, 40]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lesson.density_loss(outputs + 1, density), torch.tensor(1.0))


# ---- the network and its training


@pytest.mark.parametrize("height, width", [(96, 128), (120, 160), (30, 42)])
def test_the_network_answers_for_every_second_pixel(height, width):
    model = lesson.csrnet(4, 0).eval()
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 1, height // 2, width // 2)
    assert sum(isinstance(m, nn.Conv2d) and m.dilation == (2, 2) for m in model.modules()) == 3


def test_an_output_sees_as_far_as_the_notebook_says():
    model = lesson.csrnet(4, 0).eval()
    image = torch.randn(1, 3, 96, 96, requires_grad=True)
    model(image)[0, 0, 24, 24].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert (rows.max() - rows.min() + 1).item() <= 1 + 2 + 2 * (2 + 3 * 4)
    assert (rows.max() - rows.min() + 1).item() > 20


class Probe(nn.Module):
    """Repeats every second pixel of its input, plus a weight; keeps what it saw and in which mode."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, x):
        self.seen.append((self.training, x.detach().clone()))
        return x[:, :1, ::2, ::2] + self.weight


def test_images_and_maps_are_mirrored_together():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 8, 10), dtype=torch.uint8, generator=generator).expand(-1, 3, -1, -1)
    images = images.unflatten(3, (5, 2))[..., :1].expand(-1, -1, -1, -1, 2).flatten(3)  # columns in equal pairs
    targets, probe, errors = images[:, 0, ::2, ::2] / 127.5 - 1, Probe(), []

    def same(outputs, maps):
        errors.append((outputs - maps).abs().max().item())
        return F.mse_loss(outputs, maps + 1)

    probe.eval()
    losses = lesson.train_counter(probe, images, targets, same, 12, 4, 1e-9, seed=0)
    assert losses.shape == (12,) and max(errors) < 1e-5
    assert all(training for training, _ in probe.seen)
    kept = {x.numpy().tobytes() for _, batch in probe.seen for x in batch}
    assert len(kept) > 8, "mirrored and plain images, of six"


def test_training_learns_where_points_are_and_follows_its_seed():
    images, heads = lesson.draw_crowds(np.arange(1, 25), 32, 24, seed=0)
    targets = torch.stack([lesson.sum_pool(lesson.density_map(h, 24, 32, 2.0), 2) for h in heads])
    models = [lesson.csrnet(4, 0) for _ in range(2)]
    losses = [lesson.train_counter(m, images, targets, lesson.density_loss, 60, 8, 1e-2, seed=3) for m in models]
    assert torch.equal(*losses) and losses[0][-8:].mean() < 0.7 * losses[0][:4].mean()


def test_outputs_are_taken_in_evaluation_mode_for_every_image():
    model = lesson.csrnet(4, 0)
    images = torch.randint(0, 256, (70, 3, 8, 10), dtype=torch.uint8)
    model.train()
    outputs = lesson.outputs_of(model, images)
    assert not model.training and outputs.shape == (70, 4, 5) and not outputs.requires_grad
    torch.testing.assert_close(outputs[69], model(images[69:].float() / 127.5 - 1)[0, 0].detach(), rtol=1e-4, atol=1e-5)


# ---- without a network


def test_foreground_and_pieces_of_disks():
    image = torch.full((3, 40, 60), 150, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    for a, b in ((10, 10), (30, 10), (34, 10), (50, 30)):
        image[:, (x - a) ** 2 + (y - b) ** 2 <= 16] = torch.tensor([20, 40, 200], dtype=torch.uint8)[:, None]
    image[:, 35, 5] = 0
    mask = lesson.foreground(image)
    assert mask.shape == (40, 60) and mask.dtype == bool and mask[10, 10] and not mask[0, 0]
    assert [lesson.count_pieces(mask, least) for least in (1, 12, 60, 5000)] == [4, 3, 1, 0]
    assert lesson.count_pieces(np.zeros((4, 4), bool), 1) == 0


def test_the_simple_ways_use_training_numbers_alone():
    images, heads = lesson.draw_crowds([5, 60, 20], 64, 48, seed=1)
    line = lesson.fit_area(images, torch.tensor([len(h) for h in heads]))
    shares = [lesson.foreground(image).mean() for image in images]
    found = lesson.simple_counts(images, line, 17.5, 12)
    assert found["mean count"].tolist() == [17.5] * 3
    np.testing.assert_allclose(found["foreground"], line[0] * np.array(shares) + line[1])
    fitted = optimize.curve_fit(lambda x, a, b: a * x + b, shares, [5.0, 60, 20])[0]
    np.testing.assert_allclose(line, fitted, rtol=1e-3)
    assert found["pieces"].tolist() == [lesson.count_pieces(lesson.foreground(image), 12) for image in images]


# ---- errors


@quickly
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 1000)), min_size=1, max_size=30))
def test_errors_equal_scikit_learns(pairs):
    estimates, true = map(np.array, zip(*pairs))
    found = lesson.count_errors(estimates, true)
    assert found["MAE"] == pytest.approx(mean_absolute_error(true, estimates))
    assert found["RMSE"] == pytest.approx(root_mean_squared_error(true, estimates))
    assert found["bias"] == pytest.approx(estimates.mean() - true.mean(), abs=1e-6)
    assert found["RMSE"] >= found["MAE"] - 1e-9


def test_the_table_has_means_and_the_standard_deviation_over_seeds():
    true = torch.tensor([10, 20])
    counts = {"a": [np.array([11.0, 21.0]), np.array([13.0, 23.0])], "b": [np.array([8.0, 20.0])]}
    table = lesson.error_table(counts, true)
    assert table.columns[1] == "± (std over seeds)"
    assert table.loc["a", "MAE"] == 2 and table.loc["a"].iloc[1] == pytest.approx(np.std([1, 3], ddof=1))
    assert table.loc["b"].tolist() == [1, 0, pytest.approx(np.sqrt(2)), -1]
    assert table.loc["a", "bias"] == 2


def test_errors_by_size_fall_into_their_range():
    true = np.array([1, 9, 10, 19, 20])
    found = lesson.errors_by_size({"a": [true + 1.0, true + 3.0]}, true, [1, 10, 20, 21, 30])
    assert list(found.index) == ["1–9", "10–19", "20–20", "21–29"]
    assert found["a"].tolist()[:3] == [2, 2, 2] and pd.isna(found["a"].iloc[3])
    signed = lesson.errors_by_size({"a": [np.array([0.0, 0, 0, 0, 50])]}, true, [1, 10, 20, 21])
    assert signed["a"].tolist() == [-5, -14.5, 30]


# ---- what the notebook does with them, as it stands there


CELLS = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]


def line_of(start):
    line, = (line.strip() for cell in CELLS for line in cell.splitlines() if line.strip().startswith(start))
    return line


def test_choices_are_made_on_validation_images_and_targets_on_training_images():
    assert 'crowds["val"]' in line_of("chosen = ") and 'true["val"]' in line_of("chosen = ")
    assert 'best_threshold(found["val"], cell_counts[val], THRESHOLDS)' in line_of("threshold = best_threshold(")
    assert line_of("cell_models, rows = ").endswith('parts["train"]')
    targets = [cell for cell in CELLS if "_targets = torch.stack(" in cell]
    assert len(targets) == 2
    for cell in targets:
        assert 'in heads["train"]' in cell and 'crowds["train"]' in cell and 'heads["test"]' not in cell
    assert 'fit_area(crowds["train"], true["train"])' in line_of("line = fit_area(crowds")


def test_peaks_are_in_pixels_of_the_output():
    made = [line for cell in CELLS for line in cell.splitlines() if "peak_map(" in line and "def " not in line]
    assert len(made) == 2 and all("points / STRIDE" in line for line in made)


def test_results_are_taken_from_the_row_and_the_table_that_they_name():
    cell, = (cell for cell in CELLS if cell.startswith("results = "))
    name = r'"(crowd|cells)_(density|peaks|pieces|foreground|mean_count)_(mae|rmse|mae_std)"'
    entries = re.findall(name + ": (.*),", cell)
    assert len(entries) == 13
    for data, method, what, source in entries:
        column = {"mae": "MAE", "rmse": "RMSE", "mae_std": "± (std over seeds)"}[what]
        table = {"crowd": "table", "cells": "cell_table"}[data]
        assert source == f'{table}.loc["{method.replace("_", " ")}", "{column}"]'
    assert '"crowd_largest_bias_density": by_size["density"].iloc[-1]' in cell


def test_the_center_of_a_box_is_torchvisions():
    low = 20 * torch.rand(7, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([low, low + torch.rand(7, 2)], dim=1)
    torch.testing.assert_close(lesson.box_centers(boxes), ops.box_convert(boxes, "xyxy", "cxcywh")[:, :2])
    assert lesson.box_centers(torch.zeros(0, 4)).shape == (0, 2)


@pytest.mark.parametrize("what", ["URL", "CLASSES", "VALIDATION", "TEST", "SAME_FIELD"])
def test_the_cells_are_those_of_the_detectors_in_the_same_split(what):
    ours, theirs = (getattr(definitions(name, what), what) for name in (NOTEBOOK, "Chapter07/Training_RCNN.ipynb"))
    assert ours == theirs and line_of("parts = split_groups(fields, VALIDATION, TEST)")


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(NOTEBOOK, "{crowd_density_mae:.2f}", "{crowd_peaks_mae:.2f}", "{cells_density_mae:.2f}")
    assert results["crowd_density_mae"] < results["crowd_peaks_mae"] < results["crowd_mean_count_mae"]
    assert results["cells_density_mae"] < results["cells_mean_count_mae"]
