"""The definitions of SDXL-Turbo against diffusers, SciPy, scikit-learn and brute force."""
import copy
import math

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from torch import nn

from tests.definitions import definitions

lesson = definitions("Chapter17/SDXL-Turbo.ipynb", "train_judge", "Latents", "exact_denoiser", "noise_levels", "walk",
                     "path_of", "frechet_between", "readability", "Student", "teacher_step", "consistency_loss",
                     "distill", "jump", "seconds_of", "paint")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KNOWN = randn(7, 3, seed=1)


def denoiser(z, sigma):
    return lesson.exact_denoiser(z, sigma, KNOWN)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 50.0, 1e6])
def test_the_denoiser_is_the_posterior_mean(sigma):
    noisy = randn(5, 3, seed=2) * (1 + sigma)
    for z, answer in zip(noisy, denoiser(noisy, sigma), strict=True):
        logs = [-((z - k) ** 2).sum().item() / (2 * sigma**2) for k in KNOWN]
        weights = [math.exp(value - max(logs)) for value in logs]
        expected = sum(w * k for w, k in zip(weights, KNOWN, strict=True)) / sum(weights)
        torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-7)


def test_the_denoiser_takes_a_level_for_each_row_and_one_known_latent():
    noisy, sigmas = randn(4, 3, seed=3), torch.tensor([[0.1], [1.0], [3.0], [10.0]], dtype=torch.float64)
    together = denoiser(noisy, sigmas)
    for k in range(4):
        torch.testing.assert_close(together[k:k + 1], denoiser(noisy[k:k + 1], sigmas[k].item()))
    torch.testing.assert_close(lesson.exact_denoiser(noisy, 2.0, KNOWN[:1]), KNOWN[:1].expand(4, -1))


@pytest.mark.parametrize("count", [2, 5, 24, 100])
def test_noise_levels_are_those_of_karras(count):
    ours = lesson.noise_levels(count, 14.6, 0.03)
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True)
    theirs = scheduler._convert_to_karras(np.array([14.6, 0.03]), count)
    assert len(ours) == count + 1 and ours[-1] == 0 and ours[:-1] == pytest.approx(theirs.tolist(), rel=1e-5)


def test_one_level_is_the_largest():
    assert lesson.noise_levels(1, 20.0, 0.03) == pytest.approx([20.0, 0.0])


def test_eulers_walk_is_that_of_diffusers():
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                                       prediction_type="sample")
    scheduler.set_timesteps(9)
    levels = scheduler.sigmas.double().tolist()
    state = expected = levels[0] * randn(4, 3, seed=4)
    for t, sigma in zip(scheduler.timesteps, levels, strict=False):
        scheduler.scale_model_input(expected, t)
        expected = scheduler.step(denoiser(expected, sigma), t, expected).prev_sample.double()
    torch.testing.assert_close(lesson.walk(state, levels, denoiser), expected, rtol=1e-4, atol=1e-4)


def test_both_methods_follow_the_equation_with_their_order():
    """Against SciPy's solution; half the step: half of Euler's error, about a quarter of Heun's."""
    start = 3 * randn(1, 3, seed=5)

    def slope(sigma, z):
        point = torch.from_numpy(z)[None]
        return ((point - denoiser(point, sigma)) / sigma)[0].numpy()

    truth = torch.from_numpy(solve_ivp(slope, (3.0, 0.8), start[0].numpy(), rtol=1e-10, atol=1e-12).y[:, -1])
    errors = {}
    for heun in (False, True):
        for count in (40, 80):
            end = lesson.walk(start, np.linspace(3.0, 0.8, count + 1).tolist(), denoiser, heun=heun)
            errors[heun, count] = (end[0] - truth).norm().item()
    assert errors[False, 80] < 0.05 and errors[False, 40] / errors[False, 80] == pytest.approx(2, abs=0.25)
    assert errors[True, 80] < 0.2 * errors[False, 80]
    assert errors[True, 40] / errors[True, 80] == pytest.approx(4, abs=1)


def test_a_path_ends_where_the_walk_ends():
    levels = lesson.noise_levels(12, 20.0, 0.03)
    start = 20 * randn(4, 3, seed=6)
    ways = lesson.path_of(start, levels, denoiser)
    assert ways.shape == (13, 4, 3)
    torch.testing.assert_close(ways[-1], lesson.walk(start, levels, denoiser))
    assert torch.cdist(ways[-1], KNOWN).min(1).values.max() < 0.05, "the exact denoiser ends at known latents"


def test_the_teachers_step_is_one_step_of_heun():
    z = 5 * randn(6, 3, seed=7)
    now, after = torch.full((6, 1), 4.0, dtype=torch.float64), torch.full((6, 1), 2.5, dtype=torch.float64)
    torch.testing.assert_close(lesson.teacher_step(z, now, after, denoiser),
                               lesson.walk(z, [4.0, 2.5], denoiser, heun=True))


@pytest.mark.parametrize(("n", "m", "d"), [(30, 50, 2), (200, 100, 5), (20, 20, 1)])
def test_frechet_distance(n, m, d):
    a, b = randn(n, d, seed=8), 2 * randn(m, d, seed=9) + 1
    ca, cb = (np.atleast_2d(np.cov(x.numpy().T)) for x in (a, b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    if d > 1:
        assert lesson.frechet_between(a, b) == pytest.approx(expected, rel=1e-6)
        assert lesson.frechet_between(a, a) == pytest.approx(0, abs=1e-6)
        same = torch.zeros(10, d, dtype=torch.float64)  # one picture again and again
        assert lesson.frechet_between(same, b) == pytest.approx((b.mean(0) ** 2).sum().item() + np.trace(cb), rel=1e-6)


def test_latents_are_whitened_principal_components():
    images = randn(400, 784, seed=10).float() * torch.linspace(3, 0.1, 784)
    ours, theirs = lesson.Latents(images, 6), PCA(6, whiten=True, svd_solver="full").fit(images.numpy())
    expected = torch.from_numpy(theirs.transform(images.numpy())).float()
    codes = ours.encode(images)
    torch.testing.assert_close(codes.abs(), expected.abs(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.decode(codes), torch.from_numpy(theirs.inverse_transform(expected.numpy())).float(),
                               rtol=1e-2, atol=2e-2)
    assert codes.std(0).sub(1).abs().max() < 1e-3


def test_a_student_returns_its_input_at_the_smallest_noise():
    student = lesson.Student(3, 8, 0.03).double()
    z = randn(5, 3, seed=11)
    torch.testing.assert_close(student(z, torch.full((5, 1), 0.03).double()), z)
    assert student(100 * z, torch.full((5, 1), 1e4).double()).isfinite().all()


def test_the_target_of_the_loss_has_no_gradient_and_stands_on_the_same_path():
    student = lesson.Student(3, 8, 0.03).double()
    average = copy.deepcopy(student)
    clean, noise = randn(6, 3, seed=12), randn(6, 3, seed=13)
    now, after = torch.full((6, 1), 2.0).double(), torch.full((6, 1), 1.2).double()
    loss = lesson.consistency_loss(student, average, clean, noise, now, after, denoiser)
    loss.backward()
    assert all(p.grad is None for p in average.parameters()) and all(p.grad is not None for p in student.parameters())
    z = clean + 2 * noise
    target = average(lesson.walk(z, [2.0, 1.2], denoiser, heun=True), after)
    distance = ((student(z, now) - target).square().sum(1) + 1e-4).sqrt().mean()
    torch.testing.assert_close(loss, distance)


def test_distillation_learns_the_ends_and_depends_on_its_seed():
    world = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    levels = lesson.noise_levels(8, 5.0, 0.05)
    settings = {"batch_size": 64, "learning_rate": 5e-3, "hidden": 32, "levels": levels}
    student, kept = lesson.distill(world, 0, 1000, keep_at=[1, 1000], **settings)
    again, other = (lesson.distill(world, seed, 20, **settings)[0] for seed in (0, 1))
    assert sorted(kept) == [1, 1000]
    start = 5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    ends = lesson.jump(student, start, [5.0], 0)
    untrained = lesson.jump(kept[1], start, [5.0], 0)
    near, far = (torch.cdist(end, world).min(1).values.mean().item() for end in (ends, untrained))
    assert near < 0.6 < far, (near, far)
    same_side = (ends[:, 0].sign() == lesson.walk(start, lesson.noise_levels(60, 5.0, 0.05), lambda z, s:
                 lesson.exact_denoiser(z, s, world))[:, 0].sign()).float().mean()
    assert same_side > 0.9
    first, second, third = (next(model.parameters()) for model in
                            (again, lesson.distill(world, 0, 20, **settings)[0], other))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_jumps_add_noise_of_their_level():
    class Echo(nn.Module):
        """Remembers what it is asked and answers with zeros."""

        def __init__(self):
            super().__init__()
            self.asked = []

        def forward(self, z, sigma):
            self.asked.append((z.std().item(), sigma[0, 0].item()))
            return torch.zeros_like(z)

    echo = Echo()
    lesson.jump(echo, 20 * torch.randn(4000, 3), [20.0, 2.0, 0.5], 0)
    assert [level for _, level in echo.asked] == [20.0, 2.0, 0.5]
    assert [spread for spread, _ in echo.asked] == pytest.approx([20, 2, 0.5], rel=0.05)


def test_the_judge_learns_and_confidence_is_a_mean_of_maxima():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (600,), generator=generator)
    images = nn.functional.one_hot(labels, 784).float() + 0.1 * torch.randn(600, 784, generator=generator)
    judge = lesson.train_judge(images, labels, 20, seed=0)
    assert (judge(images).argmax(1) == labels).float().mean() > 0.95 and not judge.training

    class Same:
        def decode(self, latents):
            return latents

    expected = judge(images).softmax(1).max(1).values.mean().item()
    assert lesson.readability(images, Same(), judge) == pytest.approx(expected, abs=1e-6)
