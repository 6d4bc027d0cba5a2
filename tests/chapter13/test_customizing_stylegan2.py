"""What Customizing_StyleGAN2.ipynb defines: layers, modulation, networks, penalties, training, KID, inversion."""
import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter13/Customizing_StyleGAN2.ipynb"
lesson = definitions(
    NOTEBOOK, "EqualLinear", "EqualConv", "double", "Mapping", "modulated_conv_reference", "modulated_conv",
    "StyledConv", "ToImage", "StyleGenerator", "with_batch_deviation", "StyleDiscriminator", "r1_penalty",
    "path_lengths", "mixed_styles", "update_average", "train_garment_judge", "kernel_distance", "distance_to_real",
    "invert")
trainer = definitions(NOTEBOOK, "train_stylegan", "StyleGenerator", "StyleDiscriminator", R1_EVERY=2, PATH_EVERY=3)
quickly = settings(deadline=None, derandomize=True, max_examples=25)


def small_generator():
    torch.manual_seed(0)
    return lesson.StyleGenerator(6, (8, 6, 4), 2)


# ---- layers


def test_equalized_layers_start_with_outputs_of_variance_one_and_are_linear():
    torch.manual_seed(0)
    for rate in (1.0, 0.1):
        layer = lesson.EqualLinear(200, 300, bias=0.5, rate=rate)
        y = layer(torch.randn(400, 200))
        assert y.var().item() == pytest.approx(1, abs=0.05) and y.mean().item() == pytest.approx(0.5, abs=0.05)
        assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.02)
        x = torch.randn(3, 200)
        expected = x @ (rate / math.sqrt(200) * layer.weight).T + rate * layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    conv = lesson.EqualConv(20, 50, 3)
    x = torch.randn(2, 20, 9, 9)
    expected = F.conv2d(x, conv.weight / math.sqrt(180), conv.bias, padding=1)
    torch.testing.assert_close(conv(x), math.sqrt(2) * F.leaky_relu(expected, 0.2))


def test_doubling_is_bilinear():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(lesson.double(x), nn.Upsample(scale_factor=2, mode="bilinear")(x))


def test_the_mapping_network_does_not_see_the_length_of_the_noise():
    torch.manual_seed(0)
    mapping, z = lesson.Mapping(8, 3), torch.randn(5, 8)
    torch.testing.assert_close(mapping(z), mapping(7 * z), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mapping(z), mapping(-z))
    assert torch.isfinite(mapping(torch.zeros(2, 8))).all()
    assert len([m for m in mapping.modules() if isinstance(m, nn.LeakyReLU)]) == 3


# ---- modulated convolution


@quickly
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3, 5]), st.booleans())
def test_the_fast_form_equals_the_reference_forward_and_backward(n, inputs, outputs, k, demodulate):
    torch.manual_seed(n + inputs)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True)
               for shape in ((n, inputs, 5, 6), (outputs, inputs, k, k), (n, inputs))]
    ours = lesson.modulated_conv(*tensors, demodulate)
    theirs = lesson.modulated_conv_reference(*tensors, demodulate)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    grads = [torch.autograd.grad((y * weight).sum(), tensors) for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


def test_both_forms_equal_the_grouped_convolution_of_the_paper():
    torch.manual_seed(0)
    x, weight, scales = torch.randn(3, 4, 6, 7), torch.randn(5, 4, 3, 3), torch.randn(3, 4)
    kernels = weight[None] * scales[:, None, :, None, None]
    kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = F.conv2d(x.reshape(1, 12, 6, 7), kernels.reshape(15, 4, 3, 3), padding=1, groups=3).view(3, 5, 6, 7)
    torch.testing.assert_close(lesson.modulated_conv(x, weight, scales), grouped, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lesson.modulated_conv_reference(x, weight, scales), grouped, rtol=1e-4, atol=1e-5)


def test_demodulated_outputs_have_unit_variance_for_every_channel_and_any_scale():
    torch.manual_seed(0)
    weight = torch.randn(6, 16, 3, 3) * torch.logspace(-1, 1, 6)[:, None, None, None]
    scales = torch.randn(1, 16).exp().expand(4000, -1)
    y = lesson.modulated_conv(torch.randn(4000, 16, 3, 3), weight, scales)[..., 1, 1]
    torch.testing.assert_close(y.var(dim=0), torch.ones(6), rtol=0, atol=0.12)
    plain = lesson.modulated_conv(torch.randn(4000, 16, 3, 3), weight, scales, demodulate=False)[..., 1, 1]
    assert plain.var(dim=0).max() > 100


def test_scales_of_zero_give_zero_and_the_size_of_scales_does_not_count():
    x, weight, scales = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    assert torch.equal(lesson.modulated_conv(x, weight, torch.zeros(2, 3)), torch.zeros(2, 5, 4, 4))
    ours = lesson.modulated_conv(x, weight, scales)
    torch.testing.assert_close(ours, lesson.modulated_conv(x, weight, 100 * scales), rtol=1e-4, atol=1e-4)


# ---- networks


def test_noise_bias_and_style_enter_a_styled_convolution():
    torch.manual_seed(0)
    layer, x, w = lesson.StyledConv(4, 5, 6), torch.randn(2, 4, 8, 8), torch.randn(2, 6)
    plain = math.sqrt(2) * F.leaky_relu(lesson.modulated_conv(x, layer.weight, layer.affine(w)), 0.2)
    torch.testing.assert_close(layer(x, w), plain)  # the noise starts with strength 0
    assert torch.equal(layer(x, w), layer(x, w))
    nn.init.constant_(layer.strength, 3.0)
    nn.init.zeros_(layer.weight)
    noisy = layer(x, w)
    assert not torch.equal(noisy, layer(x, w)) and torch.equal(noisy[:, 0], noisy[:, 1])  # one noise for all channels
    assert not torch.equal(noisy[0, 0], noisy[1, 0])
    assert not torch.allclose(plain, math.sqrt(2) * F.leaky_relu(
        lesson.modulated_conv(x, torch.randn_like(layer.weight), layer.affine(-w)), 0.2))


def test_scales_start_around_one():
    torch.manual_seed(0)
    for layer in (lesson.StyledConv(40, 5, 60), lesson.ToImage(40, 60)):
        assert layer.affine(torch.zeros(1, 60)).tolist() == [[1.0] * 40]


def test_each_style_changes_its_own_resolution_and_all_later_ones():
    generator = small_generator()
    assert generator.styles(torch.randn(3, 6)).shape == (3, 3, 6)
    ws = torch.randn(2, 3, 6)
    assert generator(ws).shape == (2, 1, 16, 16)
    calls = {}
    for k, layer in enumerate(generator.second):
        layer.register_forward_hook(lambda module, inputs, output, k=k: calls.__setitem__(k, output.detach().clone()))
    generator(ws)
    before = dict(calls)
    for k in range(3):
        changed = ws.clone()
        changed[:, k] += 1
        generator(changed)
        for j in range(3):
            assert torch.equal(calls[j], before[j]) == (j < k), (k, j)


def test_the_discriminator_sees_the_deviation_of_the_batch():
    x = torch.randn(5, 3, 4, 4)
    found = lesson.with_batch_deviation(x)
    assert found.shape == (5, 4, 4, 4) and torch.equal(found[:, :3], x)
    expected = np.sqrt(x.numpy().var(axis=0) + 1e-8).mean()
    assert found[:, 3].unique().numel() == 1 and found[0, 3, 0, 0].item() == pytest.approx(float(expected), rel=1e-5)
    same = lesson.with_batch_deviation(x[:1].expand(5, -1, -1, -1))
    assert same[0, 3, 0, 0] < 1e-3
    torch.manual_seed(0)
    discriminator = lesson.StyleDiscriminator((4, 6, 8))
    images = torch.randn(4, 1, 16, 16)
    assert discriminator(images).shape == (4,) and discriminator(images[:1]).shape == (1,)


# ---- penalties


def test_r1_of_a_linear_judge_is_the_squared_length_of_its_weights():
    weight = torch.randn(1, 4, 4)
    penalty = lesson.r1_penalty(lambda x: (3 * x * weight).sum(dim=(1, 2, 3)), torch.randn(5, 1, 4, 4))
    assert penalty.item() == pytest.approx(9 * weight.square().sum().item(), rel=1e-5)


def test_r1_reaches_the_weights_and_not_the_images():
    discriminator, images = lesson.StyleDiscriminator((4, 6, 8)), torch.randn(4, 1, 16, 16)
    lesson.r1_penalty(discriminator, images).backward()
    assert images.grad is None and discriminator.start.weight.grad.abs().max() > 0


def test_path_lengths_of_a_linear_generator():
    """Images that are r times an orthonormal map of w have lengths of about r, whatever the style."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5)).Q

    def images_of(ws):
        return 3 * (ws[:, 0] @ basis.T).view(-1, 1, 8, 8)

    ws = torch.randn(4000, 1, 5, requires_grad=True)
    lengths = lesson.path_lengths(images_of, ws)
    assert lengths.shape == (4000,)
    assert lengths.square().mean().item() == pytest.approx(9 * 5 / 64, rel=0.05)


def test_path_lengths_give_gradients_to_the_generator():
    generator = small_generator()
    lengths = lesson.path_lengths(generator, generator.styles(torch.randn(3, 6)))
    lengths.square().mean().backward()
    assert lengths.shape == (3,) and generator.mapping.layers[0].weight.grad.abs().max() > 0


# ---- training


def test_styles_are_mixed_from_some_resolution_on_or_not_at_all():
    generator = small_generator()
    torch.manual_seed(0)
    starts = set()
    for _ in range(20):
        ws = lesson.mixed_styles(generator, 4, 6, 1.0, torch.device("cpu"))
        equal = [(ws[:, k] == ws[:, 0]).all().item() for k in range(3)]
        starts.add(equal.index(False))
        assert equal[0] and not equal[-1] and equal == sorted(equal, reverse=True)
        assert torch.equal(ws[:, -1], ws[:, 0].flip(0))
    assert starts == {1, 2}
    pure = lesson.mixed_styles(generator, 4, 6, 0.0, torch.device("cpu"))
    assert all(torch.equal(pure[:, k], pure[:, 0]) for k in range(3))


def test_the_average_moves_by_its_share():
    old, new = nn.Linear(3, 2), nn.Linear(3, 2)
    before = copy.deepcopy(old)
    lesson.update_average(old, new, 0.75)
    for p, q, r in zip(old.parameters(), before.parameters(), new.parameters()):
        torch.testing.assert_close(p, 0.75 * q + 0.25 * r)


def test_training_steps_each_network_once_and_keeps_frames_of_the_average(monkeypatch):
    stepped = []
    adam = torch.optim.Adam

    class Spy(adam):
        def step(self, *arguments):
            stepped.append(sorted(id(p) for group in self.param_groups for p in group["params"]))
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    torch.manual_seed(0)
    generator, discriminator = trainer.StyleGenerator(6, (8, 6, 4), 2), trainer.StyleDiscriminator((4, 6, 8))
    start = copy.deepcopy(generator)
    images = torch.rand(20, 1, 16, 16) * 2 - 1
    average, frames = trainer.train_stylegan(generator, discriminator, images, 6, 4, 6, torch.randn(3, 6))
    of = [sorted(id(p) for p in network.parameters()) for network in (discriminator, generator)]
    assert stepped == of * 6
    assert list(frames) == [1, 2, 3, 6] and frames[6].shape == (3, 1, 16, 16)
    weights = [network.constant for network in (start, average, generator)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert (weights[1] - weights[0]).norm() < 2 * (weights[2] - weights[0]).norm()
    assert all(torch.isfinite(p).all() for p in [*generator.parameters(), *discriminator.parameters()])


def test_the_discriminators_step_leaves_no_gradient_of_its_loss_in_the_generator():
    cell = next(cell for cell in sources() if cell.startswith("def train_stylegan"))
    assert "discriminator(fake.detach())" in cell
    first, second = cell.split("optimizers[1].step()")
    assert "optimizers[1].zero_grad()" in first and "optimizers[0].zero_grad()" in second


# ---- judge, distance, inversion


@quickly
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 50))
def test_the_kernel_distance_is_the_sum_over_different_pairs(n, m, seed):
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + 0.5
    k = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    within = [np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]) for x in (u, v)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in u for b in v])
    assert lesson.kernel_distance(torch.tensor(u), torch.tensor(v)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_kernel_distance_equals_torchmetrics_formula():
    from torchmetrics.image.kid import poly_mmd
    torch.manual_seed(0)
    u, v = torch.randn(30, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64) + 0.3
    assert lesson.kernel_distance(u, v) == pytest.approx(poly_mmd(u, v).item(), rel=1e-6)


def test_distances_grow_with_the_difference():
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 2))
    images = torch.randn(300, 1, 4, 4)
    real = judge[:-1](images).detach() / 2
    near, far = (lesson.distance_to_real(torch.randn(300, 1, 4, 4) + shift, judge, 2.0, real) for shift in (0.0, 1.0))
    assert abs(near) < 0.1 * far


def test_the_judge_learns():
    labels = torch.arange(200) % 10
    images = -torch.ones(200, 1, 32, 32)
    for k, label in enumerate(labels.tolist()):
        images[k, :, 3 * label : 3 * label + 4] = 1
    judge = lesson.train_garment_judge(images, labels, 30, 0)
    assert not judge.training and (judge(images).argmax(dim=1) == labels).float().mean() > 0.9
    assert judge[:-1](images).shape == (200, 64)


def test_inversion_finds_an_image_of_the_generator():
    generator = small_generator().eval()
    with torch.no_grad():
        wanted = generator(generator.styles(torch.randn(1, 6)))
        middle = generator(generator.styles(torch.randn(500, 6)).mean(dim=0, keepdim=True))
    found = lesson.invert(generator, wanted, 60, 0)
    assert found.shape == (1, 3, 6) and not found.requires_grad
    with torch.no_grad():
        assert F.mse_loss(generator(found), wanted) < 0.3 * F.mse_loss(middle, wanted)


# ---- the notebook's own steps


def sources():
    return [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]


def test_coarse_styles_come_from_the_rows_and_fine_ones_from_the_columns():
    cell = next(cell for cell in sources() if "mixed = average(torch.cat(cells))" in cell)
    assert "torch.cat([row[None, :2], column[None, 2:]], dim=1) for row in rows for column in columns" in cell
    assert "edge, side = average(columns), average(rows)" in cell
    other = next(cell for cell in sources() if cell.lstrip().startswith("with") and "same_as_shape" in cell)
    assert "for some in (side, edge, mixed)" in other
    assert "same_as_shape = (kinds[2].view(5, 6) == kinds[0][:, None])" in other


def test_truncation_pulls_toward_the_mean_style():
    cell = next(cell for cell in sources() if "truncated = {" in cell)
    assert "average(center + psi * (styles - center))" in cell and "styles.mean(dim=0, keepdim=True)" in cell


def test_the_judge_is_trained_on_training_images_and_the_distance_is_to_test_images():
    text = "\n".join(sources())
    assert "judge = train_garment_judge(images, labels, JUDGE_STEPS, SEED)" in text
    assert "real_features = judge[:-1](test_images)" in text
    assert "train_stylegan(generator, discriminator, images," in text


def test_results_are_taken_from_what_they_name():
    cell = next(cell for cell in sources() if cell.startswith("results = {f\"kid_"))
    namespace = {"kid": {"StyleGAN2": 1.0, "blurred real": 2.0, "other real": 3.0, "pixel noise": 4.0}, "pd": pd,
                 "judge_accuracy": 0.9, "missing": 2, "stds": {True: [0.0, 1.5], False: [0.0, 9.0]},
                 "same_as_shape": 0.6, "same_as_surface": 0.3, "reached": {0.0: 0.0, 1.5: 0.8}, "control": 0.1,
                 "errors": [0.01, 0.2]}
    exec(cell, namespace)
    found = namespace["results"]
    assert found["kid_stylegan2"] == 1 and found["kid_blurred_real"] == 2 and found["kinds_covered"] == 8
    assert found["std_after_8_layers_demodulated"] == 1.5 and found["std_after_8_layers_not"] == 9
    assert found["mixture_kind_of_shape_percent"] == 60 and found["direction_reached_percent"] == 80
    assert found["random_direction_reached_percent"] == 10 and found["inversion_error"] == 0.01 and len(found) == 14


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(NOTEBOOK, "the judge names {judge_accuracy_percent:.1f}%",
                           "the kind that gave the shape: {mixture_kind_of_shape_percent:.0f}%")
    assert results["kid_stylegan2"] < results["kid_blurred_real"] < results["kid_pixel_noise"]
    assert results["direction_reached_percent"] > results["random_direction_reached_percent"]
    assert results["inversion_error"] < results["mean_style_error"]
