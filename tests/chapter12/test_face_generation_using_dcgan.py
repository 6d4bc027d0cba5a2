"""Face_generation_using_DCGAN.ipynb: transposed convolution, kernel distance, power iteration, networks, the loop."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchmetrics.image.kid import KernelInceptionDistance

from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter12/Face_generation_using_DCGAN.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "transposed_convolution", "kernel_distance", "largest_singular_value", "new_dcgan",
                     "train_dcgan", "to_square", "share_named", "plain", "generate", "film_steps", "kid")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- what is built from scratch


@pytest.mark.parametrize("kind", ["noise", "zeros", "huge", "tiny", "ones"])
@pytest.mark.parametrize(("h", "w", "m", "s", "p"), [(2, 2, 3, 2, 1), (3, 5, 4, 2, 1), (1, 1, 4, 1, 0), (4, 2, 2, 3, 0),
                                                     (3, 3, 5, 1, 2), (1, 6, 4, 2, 1), (2, 3, 1, 2, 0)])
def test_transposed_convolution_is_pytorchs(h, w, m, s, p, kind):
    x, k = random(h, w), random(m, m, seed=1)
    x = {"noise": x, "zeros": 0 * x, "huge": 1e8 * x, "tiny": 1e-8 * x, "ones": torch.ones_like(x)}[kind]
    inputs = [(x.clone().requires_grad_(), k.clone().requires_grad_()) for _ in range(2)]
    ours = lesson.transposed_convolution(*inputs[0], s, p)
    theirs = F.conv_transpose2d(inputs[1][0][None, None], inputs[1][1][None, None], stride=s, padding=p)[0, 0]
    assert ours.shape == (s * (h - 1) + m - 2 * p, s * (w - 1) + m - 2 * p)
    torch.testing.assert_close(ours, theirs)
    for output in (ours, theirs):
        (output**2).sum().backward()
    for a, b in zip(*inputs):
        torch.testing.assert_close(a.grad, b.grad)


class Pixels(nn.Module):
    """Stands for Inception in torchmetrics: the pixels are the features."""

    num_features = 12

    def forward(self, images):
        return images.flatten(1)


@pytest.mark.parametrize(("n", "m", "shift", "scale"), [(50, 50, 0.0, 1.0), (50, 50, 0.5, 1.0), (40, 40, 0.0, 30.0),
                                                        (2, 2, 0.0, 1.0), (60, 60, 0.0, 0.0)])
def test_kernel_distance_is_torchmetrics(n, m, shift, scale):
    a, b = scale * random(n, 12).float(), scale * random(m, 12, seed=1).float() + shift
    metric = KernelInceptionDistance(Pixels(), subsets=1, subset_size=n, normalize=True)
    metric.update(a.view(n, 3, 2, 2), real=True)
    metric.update(b.view(m, 3, 2, 2), real=False)
    found = lesson.kernel_distance(a, b)
    assert found == pytest.approx(metric.compute()[0].item(), rel=1e-3, abs=1e-4 * max(1, scale) ** 6)
    assert lesson.kernel_distance(b, a) == pytest.approx(found, rel=1e-9, abs=1e-12)


def test_kernel_distance_by_loops_on_sets_of_two_sizes():
    a, b = random(7, 3), 2 * random(4, 3, seed=1) + 1

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
              for x in (a, b)]
    expected = sum(within) - 2 * sum(k(x, y) for x in a for y in b) / 28
    assert lesson.kernel_distance(a, b) == pytest.approx(expected.item())


def test_kernel_distance_is_unbiased_and_sees_a_difference():
    values = [lesson.kernel_distance(random(20, 4, seed=2 * k), random(20, 4, seed=2 * k + 1)) for k in range(200)]
    mean, deviation = torch.tensor(values).mean(), torch.tensor(values).std()
    assert abs(mean) < 4 * deviation / 200**0.5 and min(values) < 0
    assert lesson.kernel_distance(random(200, 4), random(200, 4, seed=1) + 1) > 5 * deviation


@pytest.mark.parametrize("W", [random(5, 8), random(8, 5), 1e6 * random(4, 4), 1e-6 * random(4, 4),
                               torch.ones(3, 7).double(), torch.eye(4).double(), random(1, 6), random(6, 1)])
def test_power_iteration_is_the_largest_singular_value(W):
    torch.testing.assert_close(lesson.largest_singular_value(W, 300), torch.linalg.svdvals(W)[0], rtol=1e-4, atol=0.0)
    assert lesson.largest_singular_value(W, 1) <= torch.linalg.svdvals(W)[0] * (1 + 1e-9)


def test_power_iteration_of_zeros_is_zero():
    assert lesson.largest_singular_value(torch.zeros(3, 4), 5) == 0


def test_kid_scales_the_judges_features_as_the_real_ones():
    judge, images = nn.Sequential(nn.Flatten(), nn.Identity()), random(30, 1, 2, 2)
    real = random(20, 4, seed=1)
    expected = lesson.kernel_distance(images.flatten(1) / 3, real)
    assert lesson.kid(judge, images, real, 3.0) == pytest.approx(expected)


# ---- networks and loop


@pytest.mark.parametrize(("size", "colors", "channels"), [(32, 1, 2), (64, 3, 2), (16, 2, 3)])
def test_networks_mirror_each_other(size, colors, channels):
    G, D = lesson.new_dcgan(0, 6, channels, colors, size, CPU)
    images = G(torch.randn(3, 6))
    assert images.shape == (3, colors, size, size) and images.abs().max() <= 1
    assert D(images).shape == (3, 1) and not any(isinstance(layer, nn.Sigmoid) for layer in D)
    up = [layer for layer in G if isinstance(layer, nn.ConvTranspose2d)]
    down = [layer for layer in D if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in up] == [
        (layer.out_channels, layer.in_channels) for layer in reversed(down)]
    assert down[0].out_channels == channels


def test_spectral_norm_is_where_it_is_said():
    for wrap, normalized in ((spectral_norm, True), (lesson.plain, False)):
        _, D = lesson.new_dcgan(0, 6, 4, 1, 32, CPU, wrap)
        layers = [layer for layer in D if hasattr(layer, "weight")]
        assert len(layers) == 4
        assert all(nn.utils.parametrize.is_parametrized(layer) is normalized for layer in layers)


def test_one_step_by_hand():
    """A first step equals Adam's on both losses, with smoothed real labels, the discriminator before the generator."""
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    (G, D), (G2, D2) = (lesson.new_dcgan(0, 6, 2, 1, 16, CPU) for _ in range(2))
    lesson.train_dcgan(G, D, images, 1, 8, 1e-2, 3, 0.9)
    generator = torch.Generator().manual_seed(3)
    real = images[torch.randint(20, (8,), generator=generator)]
    fake = G2(torch.randn(8, 6, generator=generator))
    bce = F.binary_cross_entropy_with_logits
    for net, loss in ((D2, lambda: bce(D2(real), torch.full((8, 1), 0.9)) + bce(D2(fake.detach()), torch.zeros(8, 1))),
                      (G2, lambda: bce(D2(fake), torch.ones(8, 1)))):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2, betas=(0.5, 0.999))
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for p, q in zip([*G.parameters(), *D.parameters()], [*G2.parameters(), *D2.parameters()]):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_the_film_and_repeatability():
    images = torch.rand(20, 1, 16, 16) * 2 - 1
    watched, films = torch.randn(4, 6), []
    for _ in range(2):
        G, D = lesson.new_dcgan(0, 6, 2, 1, 16, CPU)
        before = lesson.generate(G, watched)
        films.append(lesson.train_dcgan(G, D, images, 9, 5, 1e-2, 0, watched=watched, frames=4))
    assert [step for step, _ in films[0]] == lesson.film_steps(9, 4) == [0, 1, 4, 9]
    torch.testing.assert_close(films[0][0][1], before)
    torch.testing.assert_close(films[0][-1][1], lesson.generate(G, watched))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*films))


def test_smoothing_changes_only_the_target_of_real_images():
    images, weights = torch.rand(20, 1, 16, 16) * 2 - 1, []
    for smooth in (1.0, 0.5):
        G, D = lesson.new_dcgan(0, 6, 2, 1, 16, CPU)
        lesson.train_dcgan(G, D, images, 1, 8, 1e-3, 0, smooth)
        weights.append(torch.cat([p.flatten() for p in D.parameters()]).detach())
    assert not torch.equal(*weights)


def test_border_and_range():
    images = torch.full((2, 28, 28), 255, dtype=torch.uint8)
    square = lesson.to_square(images)
    assert square.shape == (2, 1, 32, 32) and (square[:, :, 2:-2, 2:-2] == 1).all()
    assert square.sum() == 2 * (784 - (1024 - 784))


def test_share_named_counts_the_label():
    G = nn.Sequential(nn.Linear(3, 3, bias=False))
    nn.init.eye_(G[0].weight)
    judge = nn.Sequential(nn.Identity(), nn.Identity())
    noise = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 8, 1], [1, 0, 5]])
    assert [lesson.share_named(G, judge, noise, label) for label in range(3)] == [0.25, 0.5, 0.25]


# ---- the stored run


def test_results_are_those_that_were_shown():
    results = assert_shown(
        NOTEBOOK, "the judge names {judge_accuracy:.1%} of", "KID {kid:.3g} (untrained {kid_untrained:.3g})",
        "median distance: generated {nearest_generated:.3f}, real test images {nearest_test:.3f}")
    assert results["kid_real"] < results["kid"] < results["kid_untrained"]


def test_the_prose_says_what_was_found():
    assert_said(
        NOTEBOOK, "{kid_gain_label_smoothing:+.2f} ± {kid_gain_sd_label_smoothing:.2f}",
        "± {kid_gain_sd_spectral_norm:.2f}: the standard deviation", "Other real garments have {kid_real:.2f}",
        "turns {moved_share:.0%} of the T-shirts", "same length {moved_share_random:.0%}")
