"""The definitions of Stable_Diffusion_pipeline against diffusers' schedulers, brute force and scikit-image."""
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from PIL import Image
from skimage.color import rgb2hsv

from tests.definitions import definitions

lesson = definitions(
    "Chapter16/Stable_Diffusion_pipeline.ipynb", "crops_of", "denoise", "step_from_clean", "linear_schedule",
    "run_loop", "as_picture", "nearest_in", "shares_of", "zero_terminal", "trailing_signals", "vague_prior", "guided",
    "with_guidance", "real_parts", "ddim_step", "saturation")  # fmt: skip
SETTINGS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def pictures(count, seed, side=4):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def posterior_mean(noisy, signal, known, prior):
    """The same by the definition, with densities of the normal distribution and a loop."""
    variance, size = 1 - signal, known[0].numel()
    logs = [math.log(p) - size / 2 * math.log(2 * math.pi * variance)
            - ((noisy - math.sqrt(signal) * x) ** 2).sum().item() / (2 * variance) if p else -math.inf
            for x, p in zip(known, prior.tolist(), strict=True)]
    weights = [math.exp(value - max(logs)) for value in logs]
    return sum(w * x for w, x in zip(weights, known, strict=True)) / sum(weights)


@pytest.mark.parametrize("signal", [0.0, 1e-6, 0.0047, 0.3, 0.9, 0.9991])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_denoise_is_the_posterior_mean(signal, count):
    known, noisy = pictures(count, 1), 3 * pictures(4, 2)
    prior = torch.arange(1, count + 1, dtype=torch.float64) / sum(range(1, count + 1))
    ours = lesson.denoise(noisy, signal, known, prior)
    for answer, x in zip(ours, noisy, strict=True):
        torch.testing.assert_close(answer, posterior_mean(x, signal, known, prior), rtol=1e-8, atol=1e-9)


def test_a_picture_of_probability_zero_never_comes():
    known = pictures(3, 1)
    prior = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    noisy = known[:1] * math.sqrt(0.99)  # exactly where the forbidden picture would be
    torch.testing.assert_close(lesson.denoise(noisy, 0.99, known, prior),
                               lesson.denoise(noisy, 0.99, known[1:], prior[1:]))


def test_denoise_survives_huge_and_equal_pictures():
    known = torch.cat([pictures(1, 3)] * 2 + [pictures(1, 4)])
    prior = torch.full((3,), 1 / 3, dtype=torch.float64)
    answer = lesson.denoise(1e4 * pictures(2, 5), 0.999, known, prior)
    assert answer.isfinite().all()
    near = lesson.denoise(known[:1] * math.sqrt(0.999), 0.999, known, prior)
    torch.testing.assert_close(near, known[:1], rtol=1e-6, atol=1e-6)


def test_schedules_are_those_of_diffusers():
    ours = lesson.linear_schedule(0.00085, 0.012, 1000)
    theirs = DDIMScheduler(**SETTINGS)
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert (ours.diff() < 0).all() and 0 < ours[-1] < ours[0] < 1
    zero = lesson.zero_terminal(ours)
    betas = rescale_zero_terminal_snr(theirs.betas.double())
    torch.testing.assert_close(zero, torch.cumprod(1 - betas, 0), rtol=1e-3, atol=1e-6)
    assert zero[-1] == 0 and zero[0] == pytest.approx(ours[0].item())


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 200, 1000])
def test_trailing_times_are_those_of_diffusers(steps):
    schedule = lesson.zero_terminal(lesson.linear_schedule(0.00085, 0.012, 1000))
    theirs = DDIMScheduler(**SETTINGS, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours = lesson.trailing_signals(schedule, steps)
    assert len(ours) == steps + 1 and ours[-1] == 1 and ours[0] == 0
    assert torch.equal(ours[:-1], schedule[theirs.timesteps])


@pytest.mark.parametrize(("now", "after"), [(0.0047, 0.1), (0.3, 0.31), (0.9, 1.0), (0.5, 0.0)])
def test_both_steps_agree_and_keep_what_they_promise(now, after):
    clean, noise = pictures(2, 6), pictures(2, 7)
    noisy = now**0.5 * clean + (1 - now) ** 0.5 * noise
    following = lesson.step_from_clean(noisy, clean, now, after)
    torch.testing.assert_close(following, after**0.5 * clean + (1 - after) ** 0.5 * noise)
    by_noise, estimate = lesson.ddim_step(noisy, noise, torch.tensor(now).double(), torch.tensor(after).double())
    torch.testing.assert_close(by_noise, following, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(estimate, clean, rtol=1e-5, atol=1e-5)


def test_a_step_from_pure_noise_is_finite():
    noise, clean = pictures(1, 8), pictures(1, 9)
    answer = lesson.step_from_clean(noise, clean, 0.0, 0.25)
    torch.testing.assert_close(answer, 0.5 * clean + 0.75**0.5 * noise)


def test_the_loop_asks_at_every_share_and_ends_at_the_estimate():
    asked, target = [], pictures(1, 10)
    signals = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)

    def denoiser(x, now):
        asked.append(now)
        return target

    history, start = [], pictures(1, 11)
    final = lesson.run_loop(start, signals, denoiser, history)
    assert asked == signals[:-1].tolist() and len(history) == 3
    assert history[0][0] is start and all(clean is target for _, clean in history)
    torch.testing.assert_close(final, target)
    torch.testing.assert_close(lesson.run_loop(start, signals, denoiser), final)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.5])
def test_guidance_is_linear(scale):
    a, b = pictures(2, 12), pictures(2, 13)
    torch.testing.assert_close(lesson.guided(a, b, scale), (1 - scale) * a + scale * b)
    known = pictures(4, 14)
    priors = torch.full((4,), 0.25).double(), torch.tensor([0.7, 0.1, 0.1, 0.1]).double()
    expected = lesson.guided(*(lesson.denoise(a, 0.3, known, prior) for prior in priors), scale)
    torch.testing.assert_close(lesson.with_guidance(scale, priors, known)(a, 0.3), expected)


@pytest.mark.parametrize("certainty", [0.0, 0.4, 1.0])
def test_a_vague_prior_gives_one_kind_its_share(certainty):
    kinds = torch.tensor([0, 0, 1, 1, 1, 2])
    prior = lesson.vague_prior(1, kinds, certainty)
    assert prior.sum().item() == pytest.approx(1) and prior[kinds == 1].sum().item() == pytest.approx(certainty)
    assert prior[0] == prior[5] and (prior >= 0).all()


def test_nearest_and_shares():
    world = pictures(6, 15).float()
    numbers, distance = lesson.nearest_in(world[[4, 0, 0, 5]] + 0.01, world)
    assert numbers.tolist() == [4, 0, 0, 5]
    torch.testing.assert_close(distance, torch.full((4,), 0.01), rtol=0.02, atol=1e-4)
    shares = lesson.shares_of(numbers, torch.tensor([0, 0, 1, 1, 3, 3]), 4)
    assert shares.tolist() == [0.5, 0, 0, 0.5]


def test_crops_are_square_in_range_and_repeatable():
    photo = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    crops = lesson.crops_of(photo, 5, 16, 0)
    assert crops.shape == (5, 3, 16, 16) and -1 <= crops.min() and crops.max() <= 1
    again, other = (lesson.crops_of(photo, 5, 16, seed) for seed in (0, 1))
    assert torch.equal(crops, again) and not torch.equal(crops, other)
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None], (50, 80, 3))
    rises = [crop[0, :, -1].mean() > crop[0, :, 0].mean() for crop in lesson.crops_of(ramp, 4, 16, 0)]
    assert rises == [True, False, True, False], "every second crop is mirrored"
    assert lesson.as_picture(torch.tensor([-1.0, 0.0, 5.0])[:, None, None]).tolist() == [[[0.0, 0.5, 1.0]]]


def test_the_real_parts_have_the_published_sizes():
    """The parameter counts of the checkpoints (model cards, and diffusers' loaders)."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in lesson.real_parts().items()}
    assert counts == {"text encoder": 123_060_480, "U-Net": 859_520_964, "VAE": 83_653_863,
                      "XL: second text encoder": 694_659_840, "XL: U-Net": 2_567_463_684}


def test_saturation_is_the_mean_of_hsv():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    pixels[0] = 0  # black: no saturation, and no division by zero
    assert lesson.saturation(Image.fromarray(pixels)) == pytest.approx(rgb2hsv(pixels)[..., 1].mean(), abs=1e-9)
