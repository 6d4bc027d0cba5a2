"""What Image_colorization.ipynb defines: Lab both ways, bins and weights, the U-Net, losses, decoding, measures."""
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import deltaE_cie76, lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter10/Image_colorization.ipynb"
lesson = definitions(
    NOTEBOOK, "has_color", "rgb_to_lab", "lab_to_rgb", "with_colors", "psnr", "ColorUNet", "train_colors", "outputs_of",
    "color_l1", "colorfulness", "color_bins", "nearest_bin", "bin_weights", "color_loss", "annealed_mean", "AB_SCALE")
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def some_images(n=3, height=16, width=12, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ---- Lab


@pytest.mark.parametrize("scale", [1.0, 0.05, 0.002])
def test_lab_equals_scikit_images_in_the_light_and_in_the_dark(scale):
    images = scale * some_images()
    theirs = torch.from_numpy(rgb2lab(images.numpy(), channel_axis=1)).float()
    torch.testing.assert_close(lesson.rgb_to_lab(images), theirs, rtol=1e-3, atol=0.01)


def test_every_color_of_eight_bits_goes_and_returns():
    """A grid of all RGB colors, with both ends: white, black, the pure colors."""
    steps = torch.linspace(0, 1, 18)
    images = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(2)[None]
    lab = lesson.rgb_to_lab(images)
    theirs = torch.from_numpy(rgb2lab(images.numpy(), channel_axis=1)).float()
    torch.testing.assert_close(lab, theirs, rtol=1e-3, atol=0.01)
    torch.testing.assert_close(lesson.lab_to_rgb(lab), images, rtol=0, atol=2e-3)
    assert deltaE_cie76(lab.movedim(1, -1).numpy(), theirs.movedim(1, -1).numpy()).max() < 0.02


def test_known_colors():
    colors = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]]).T[None, :, None]
    lightness, a, b = lesson.rgb_to_lab(colors)[0, :, 0]
    assert lightness.tolist() == pytest.approx([100, 0, 53.24, 87.73, 32.30, 53.39], abs=0.02)
    assert a.tolist() == pytest.approx([0, 0, 80.09, -86.18, 79.19, 0], abs=0.05)  # red +, green -
    assert b.tolist() == pytest.approx([0, 0, 67.20, 83.18, -107.86, 0], abs=0.05)  # yellow +, blue -


@quickly
@given(st.floats(0, 100), st.floats(-110, 110), st.floats(-110, 110))
def test_the_way_back_equals_scikit_images_and_is_clipped(lightness, a, b):
    lab = torch.tensor([lightness, a, b], dtype=torch.float64).view(1, 3, 1, 1)
    found = lesson.lab_to_rgb(lab).flatten().numpy()
    theirs = lab2rgb(lab.flatten().numpy())
    assert found.min() >= 0 and found.max() <= 1
    if b / 200 < (lightness + 16) / 116:  # beyond, scikit-image clips Z and warns
        np.testing.assert_allclose(found, np.clip(theirs, 0, 1), atol=2e-4)


def test_back_and_forth_has_finite_gradients_also_in_the_dark():
    lab = torch.tensor([[0.0, 0, 0], [0.5, 30, -30], [100, 0, 0], [50, 90, 90]]).T[None, :, None].requires_grad_()
    lesson.lab_to_rgb(lab).sum().backward()
    assert torch.isfinite(lab.grad).all()


def test_gray_is_the_lightness_without_colors():
    images = some_images()
    lab = lesson.rgb_to_lab(images)
    gray = lesson.with_colors(lab[:, :1], torch.zeros(3, 2, 8, 6))
    assert (gray.amax(dim=1) - gray.amin(dim=1)).max() < 2e-3
    torch.testing.assert_close(lesson.rgb_to_lab(gray)[:, 0], lab[:, 0], rtol=0, atol=0.05)


def test_gray_photos_are_told_from_colored_ones():
    lab = torch.tensor([[50.0, 0, 0], [90, 1, -1], [50, 3, 4], [0, -30, 0]])[:, :, None, None].expand(-1, -1, 6, 5)
    assert lesson.has_color(lab, 4.0).tolist() == [False, False, True, True]
    patch = torch.zeros(1, 3, 10, 10)
    patch[0, 2, 0, 0] = 90  # a colored stamp on a gray photo
    assert lesson.has_color(patch, 0.8).tolist() == [True] and lesson.has_color(patch, 4.0).tolist() == [False]


def test_colors_are_enlarged_and_stay_in_their_planes():
    ab = torch.tensor([30.0, -20.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    found = lesson.with_colors(torch.full((1, 1, 8, 8), 60.0), ab)
    assert found.shape == (1, 3, 8, 8)
    torch.testing.assert_close(lesson.rgb_to_lab(found)[0, 1:, 3, 3], ab[0, :, 0, 0], rtol=0, atol=0.1)


# ---- measures


@quickly
@given(st.integers(0, 100), st.sampled_from([1e-3, 0.1, 1.0]))
def test_psnr_equals_scikit_images(seed, noise):
    images, others = some_images(seed=seed), some_images(seed=seed + 1)
    mixed = (1 - noise) * images + noise * others
    theirs = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(images, mixed)]
    assert lesson.psnr(mixed, images).tolist() == pytest.approx(theirs, rel=1e-3)


def test_psnr_of_the_same_image_is_infinite():
    assert lesson.psnr(some_images(), some_images()).tolist() == [math.inf] * 3


def test_colorfulness_by_hand_and_of_gray():
    images = some_images(4)
    for image, found in zip(images, lesson.colorfulness(images)):
        r, g, b = 255 * image.numpy().astype(float)
        rg, yb = r - g, 0.5 * (r + g) - b
        spread = np.sqrt(ndimage.variance(rg) + ndimage.variance(yb))
        assert found.item() == pytest.approx(spread + 0.3 * np.hypot(rg.mean(), yb.mean()), rel=1e-4)
    gray = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    assert lesson.colorfulness(gray).abs().max() < 1e-3
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert lesson.colorfulness(red).item() == pytest.approx(0.3 * 255 * math.hypot(1, 0.5))


# ---- bins


def test_bins_are_the_squares_that_hold_enough_pixels():
    ab = torch.tensor([[0.0, 3, 21, 44, -9], [1.0, -4, 19, -61, 9]]).view(1, 2, 1, 5)
    centers = lesson.color_bins(ab, 20.0, 0.0)
    assert sorted(map(tuple, centers.tolist())) == [(-0.0, 0.0), (20.0, 20.0), (40.0, -60.0)]
    assert lesson.color_bins(ab, 20.0, 0.3).tolist() in ([[0.0, 0.0]], [[-0.0, 0.0]])


def test_the_nearest_bin_is_scipys_nearest():
    generator = torch.Generator().manual_seed(0)
    ab, centers = 80 * torch.randn(3, 2, 5, 7, generator=generator), 60 * torch.randn(9, 2, generator=generator)
    found = lesson.nearest_bin(ab, centers)
    assert found.shape == (3, 5, 7) and found.dtype == torch.int64
    flat = ab.movedim(1, -1).reshape(-1, 2)
    distances = np.linalg.norm(flat.numpy()[:, None] - centers.numpy(), axis=2)
    assert found.flatten().tolist() == distances.argmin(axis=1).tolist()


def test_a_bin_is_its_own_nearest():
    centers = lesson.color_bins(40 * torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1)), 20.0, 0.0)
    found = lesson.nearest_bin(centers.T[None, :, :, None], centers)
    assert found.flatten().tolist() == list(range(len(centers)))


@quickly
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.sampled_from([0.0, 0.5, 1.0]))
def test_weights_have_mean_one_over_the_pixels_and_are_larger_for_rare_bins(counts, mix):
    share = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    weights = lesson.bin_weights(share, mix)
    assert (share * weights).sum().item() == pytest.approx(1)
    assert (weights[share.argsort()].diff() <= 1e-9).all()
    if mix == 0:
        assert weights.tolist() == pytest.approx([1.0] * len(counts))
    if mix == 1:
        labels = np.repeat(np.arange(len(counts)), counts)
        theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
        assert weights.tolist() == pytest.approx(theirs.tolist())


def test_a_bin_that_never_occurs_gets_a_finite_weight():
    assert torch.isfinite(lesson.bin_weights(torch.tensor([1.0, 0.0]), 0.5)).all()


# ---- losses and decoding


def test_the_loss_of_classes_equals_pytorchs_where_the_weights_are_one_and_is_weighted_by_the_target():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    bins, weights = torch.randint(4, (2, 3, 5), generator=generator), torch.tensor([0.1, 1, 3, 9], dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(lesson.color_loss(one)(logits, bins), F.cross_entropy(logits, bins))
    ours = lesson.color_loss(weights)(logits, bins)
    theirs = F.cross_entropy(logits, bins, weight=weights, reduction="sum") / bins.numel()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0])


def test_the_l1_loss_is_in_units_of_the_scale():
    ab = 40 * torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert lesson.color_l1(ab / lesson.AB_SCALE, ab) == 0
    torch.testing.assert_close(lesson.color_l1(torch.zeros_like(ab), ab), ab.abs().mean() / lesson.AB_SCALE)


def test_the_annealed_mean_goes_from_the_mean_to_the_most_probable_bin():
    centers = torch.tensor([[60.0, 0], [-60, 10], [0, -40]])
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1).expand(1, 3, 2, 5)
    found = [lesson.annealed_mean(logits, centers, t)[0, :, 1, 4] for t in (1.0, 0.01, 1e6)]
    torch.testing.assert_close(found[0], torch.tensor([12.0, -5.0]))
    torch.testing.assert_close(found[1], centers[0])
    torch.testing.assert_close(found[2], centers.mean(dim=0), rtol=1e-4, atol=1e-3)
    assert lesson.annealed_mean(logits, centers, 1.0).shape == (1, 2, 2, 5)


# ---- the network and its training


@pytest.mark.parametrize("side, outputs", [(16, 2), (64, 43), (96, 2)])
def test_the_network_answers_at_half_the_resolution(side, outputs):
    model = lesson.ColorUNet(4, outputs).eval()
    assert model(torch.full((2, 1, side, side), 50.0)).shape == (2, outputs, side // 2, side // 2)


def test_every_skip_is_used():
    model = lesson.ColorUNet(4, 2)
    model(100 * torch.rand(2, 1, 32, 32)).square().sum().backward()
    for level in (*model.down, *model.up):
        assert level[0].weight.grad.abs().sum() > 0 if hasattr(level[0], "weight") else True
    for level in model.up:
        assert (level[0].weight.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


class Probe(nn.Module):
    """The lightness at every second pixel, plus a weight; keeps the mode in which it was called."""

    def __init__(self):
        super().__init__()
        self.weight, self.modes = nn.Parameter(torch.zeros(())), []

    def forward(self, x):
        self.modes.append(self.training)
        return x[:, :, ::2, ::2] + self.weight


@pytest.mark.parametrize("extra", [True, False])
def test_photos_and_targets_are_mirrored_together(extra):
    small = torch.rand(9, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    lightness = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    targets, errors, batches = small if extra else small[:, 0], [], set()

    def same(outputs, wanted):
        outputs = outputs if extra else outputs[:, 0]
        errors.append((outputs - wanted).abs().max().item())
        batches.update(one.detach().numpy().tobytes() for one in wanted)
        return (outputs - wanted + 1).square().mean()

    probe = Probe().eval()
    losses = lesson.train_colors(probe, lightness, targets, same, 25, 3, 1e-9, 0)
    assert losses.shape == (25,) and max(errors) < 1e-5 and all(probe.modes)
    assert len(batches) > 12, "mirrored and plain photos"


def test_training_learns_and_follows_its_seed():
    lightness = 100 * torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    ab = (lightness[:, :, ::2, ::2] - 50).expand(-1, 2, -1, -1)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        model = lesson.ColorUNet(4, 2)
        losses.append(lesson.train_colors(model, lightness, ab, lesson.color_l1, 40, 6, 5e-3, 3))
    assert torch.equal(*losses) and losses[0][-5:].mean() < 0.8 * losses[0][:5].mean()


def test_outputs_are_taken_in_evaluation_mode_for_every_photo():
    model, lightness = lesson.ColorUNet(4, 2).train(), 100 * torch.rand(7, 1, 16, 16)
    outputs = lesson.outputs_of(model, lightness, batch_size=3)
    assert outputs.shape == (7, 2, 8, 8) and not model.training and not outputs.requires_grad
    torch.testing.assert_close(outputs, model(lightness).detach(), rtol=1e-4, atol=1e-5)


# ---- what the notebook does with them, as it stands there


def test_bins_weights_and_the_mean_color_come_from_training_photos():
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]
    for start in ("mean_color = ", "centers = color_bins(", "bins = nearest_bin("):
        line, = (line for cell in cells for line in cell.splitlines() if line.startswith(start))
        assert '["train"]' in line, line
    training = [line for cell in cells for line in cell.splitlines() if "train_colors(models" in line]
    assert len(training) == 2 and all('lab["train"][:, :1]' in line for line in training)


def test_results_are_taken_from_the_row_that_they_name():
    cell, = (cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if cell.source.startswith("results = "))
    entries = re.findall(r'"test_(psnr|colorfulness)_(gray|mean_color|l1|classes|rebalanced)(?:_db)?": (.*),', cell)
    assert len(entries) == 8
    for what, method, source in entries:
        row = {"l1": "L1"}.get(method, method.replace("_", " "))
        assert source == f'table.loc["{row}", "{"PSNR (dB)" if what == "psnr" else what}"]'


def test_a_color_network_is_scored_by_its_own_outputs():
    cell, = (cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if "rows.append(score_of(" in cell.source)
    assert 'lab["test"][:, :1], rgb["test"]' in cell and "annealed_mean(z, centers, TEMPERATURE)" in cell
    assert "AB_SCALE * z if name" in cell and "score_of(name, images, truth)" in cell


def test_a_row_of_the_table_has_both_measures():
    images, others = some_images(), some_images(seed=1)
    row = definitions(NOTEBOOK, "score_of").score_of("x", images, others)
    assert row["PSNR (dB)"] == pytest.approx(lesson.psnr(images, others).mean().item()) and row["method"] == "x"
    assert row["colorfulness"] == pytest.approx(lesson.colorfulness(images).mean().item())


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        NOTEBOOK, "the true colors at half the resolution: PSNR {psnr_half_resolution_db:.1f} dB", "{bins:.0f} bins;",
        "colorfulness of the true test photos: {test_colorfulness_true:.1f}",
        "{test_psnr_l1_db:.2f}", "{test_psnr_rebalanced_db:.2f}")
    assert results["test_psnr_rebalanced_db"] < results["test_psnr_l1_db"] > results["test_psnr_gray_db"]
    assert results["test_colorfulness_l1"] < results["test_colorfulness_rebalanced"] < results["test_colorfulness_true"]
