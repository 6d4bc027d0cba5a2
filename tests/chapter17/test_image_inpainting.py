"""What Chapter17/Image-Inpainting.ipynb defines, against NumPy, PIL, scikit-image and diffusers' own classes."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage.metrics import peak_signal_noise_ratio

from tests.definitions import definitions

NOTEBOOK = "Chapter17/Image-Inpainting.ipynb"
quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
masks = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
images = VaeImageProcessor()


@pytest.fixture(scope="module")
def own():
    """The notebook's functions."""
    return definitions(NOTEBOOK, "square", "box_mask", "recorder", "to_pixels", "encode", "decode", "fit_colours",
                       "as_colours", "erase", "latent_mask", "scribble_mask", "grow", "told", "guide", "ddim_step",
                       "psnr_where", "paste_back", "crop", "feather", "seam", "extend", "attention_gb", "decoder_gb")


def picture(seed: int, height: int = 32, width: int = 48) -> Image.Image:
    """A random RGB picture."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grey(seed: int, height: int = 32, width: int = 48) -> Image.Image:
    """A random mask with every grey level, most of it in blocks."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 256, (height // 4, width // 4)), np.ones((4, 4)))
    noise = rng.integers(0, 256, (height, width))
    return Image.fromarray(np.where(rng.random((height, width)) < 0.8, blocks, noise).astype(np.uint8))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (64, 64), (1, 5)])
def test_square_takes_the_middle(own, shape):
    h, w = shape
    side = min(shape)
    array = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    top, left = (h - side) // 2, (w - side) // 2
    assert np.array_equal(np.asarray(own.square(array, side)), array[top:top + side, left:left + side])
    assert own.square(array, 16).size == (16, 16)


def test_the_box_is_white_and_the_rest_black(own):
    mask = np.asarray(own.box_mask((12, 8), (3, 1, 7, 5)))
    assert mask.shape == (8, 12) and set(np.unique(mask)) == {0, 255}
    assert (mask[1:5, 3:7] == 255).all() and (mask == 255).sum() == 16


@quick
@given(seeds)
def test_pixels_and_masks_are_those_of_the_pipeline(own, seed):
    image, mask = picture(seed), grey(seed)
    pixels = own.to_pixels(image)
    white = masks.preprocess(mask, height=32, width=48)
    torch.testing.assert_close(pixels, images.preprocess(image, height=32, width=48), rtol=0, atol=0)
    torch.testing.assert_close(own.erase(pixels, mask), pixels * (white < 0.5), rtol=0, atol=0)
    small = torch.nn.functional.interpolate(white, size=(4, 6))
    torch.testing.assert_close(own.latent_mask(mask, 8), small, rtol=0, atol=0)


@pytest.mark.parametrize(("level", "repaint"), [(0, 0.0), (127, 0.0), (128, 1.0), (255, 1.0)])
def test_white_is_repainted(own, level, repaint):
    mask, pixels = Image.new("L", (16, 16), level), torch.ones(1, 3, 16, 16)
    assert (own.latent_mask(mask, 8) == repaint).all()
    assert (own.erase(pixels, mask) == 1 - repaint).all()


def test_encode_scales_and_decode_undoes_it(own):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2).eval()
    pixels = own.to_pixels(picture(0))
    latents = own.encode(vae, pixels, torch.Generator().manual_seed(3))
    with torch.no_grad():
        sample = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(3))
        decoded = vae.decode(sample).sample
    torch.testing.assert_close(latents, sample * vae.config.scaling_factor)
    theirs = images.postprocess(decoded, output_type="pil")[0]
    assert np.abs(np.asarray(own.decode(vae, latents), int) - np.asarray(theirs, int)).max() <= 1


def test_a_linear_relation_is_found(own):
    rng = np.random.default_rng(0)
    latents, truth = torch.from_numpy(rng.normal(size=(1, 4, 6, 5))).float(), rng.normal(size=(5, 3)) / 10
    colours = np.moveaxis(latents[0].double().numpy(), 0, -1) @ truth[:-1] + truth[-1]  # (6, 5, 3)
    pixels = torch.from_numpy(np.kron(np.moveaxis(colours, -1, 0), np.ones((8, 8)))).float()[None]
    weights, r_squared = own.fit_colours(latents, pixels)
    np.testing.assert_allclose(weights, truth, atol=1e-6)
    assert r_squared > 1 - 1e-9
    np.testing.assert_allclose(own.as_colours(latents, weights), np.clip(colours / 2 + 0.5, 0, 1), atol=1e-6)
    noise = torch.from_numpy(rng.normal(size=(1, 3, 48, 40))).float()
    assert own.fit_colours(latents, noise)[1] < 0.7  # patches without a relation are not explained


@quick
@given(seeds)
def test_a_grown_mask_is_told_whole_and_no_larger_than_needed(own, seed):
    mask = grey(seed).point(lambda value: 255 if value > 200 else 0)
    white, grown = np.asarray(mask) >= 128, own.grow(mask, 8)
    blocks = white.reshape(4, 8, 6, 8).any(axis=(1, 3))
    assert np.array_equal(np.asarray(grown) >= 128, np.kron(blocks, np.ones((8, 8))) > 0)
    if white.any():
        assert own.told(grown, 8) == 1
        cells = np.kron(white[::8, ::8], np.ones((8, 8))) > 0
        assert own.told(mask, 8) == pytest.approx((cells & white).sum() / white.sum())


def test_a_scribble_grows_with_its_width(own):
    areas = [(np.asarray(own.scribble_mask(128, width)) == 255).sum() for width in (2, 4, 8, 16)]
    assert areas == sorted(set(areas)) and areas[0] > 0
    assert own.scribble_mask(64, 4).size == (64, 64)


@quick
@given(seeds, st.sampled_from([0.0, 1.0, 7.5, -2.0]))
def test_guidance(own, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    without, with_prompt = torch.randn(2, 1, 4, 3, 3, generator=generator, dtype=torch.float64)
    guided = own.guide(without, with_prompt, scale)
    torch.testing.assert_close(guided, (1 - scale) * without + scale * with_prompt)
    torch.testing.assert_close(own.guide(without, without, scale), without)


@quick
@given(seeds, st.sampled_from([4, 10, 30, 1000]))
def test_a_ddim_step_is_the_scheduler_s(own, seed, steps):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    latents, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    stride = 1000 // steps
    for t in scheduler.timesteps[[0, steps // 2, -1]].clamp(max=999).tolist():
        after = scheduler.alphas_cumprod[t - stride] if t >= stride else scheduler.final_alpha_cumprod
        following, clean = own.ddim_step(latents, noise, scheduler.alphas_cumprod[t], after)
        theirs = scheduler.step(noise, t, latents)
        torch.testing.assert_close(following, theirs.prev_sample)
        torch.testing.assert_close(clean, theirs.pred_original_sample)


def test_the_true_noise_leads_back_to_the_picture(own):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 5, 5, generator=generator, dtype=torch.float64)
    now, after = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    following, guess = own.ddim_step(now**0.5 * clean + (1 - now) ** 0.5 * noise, noise, now, after)
    torch.testing.assert_close(guess, clean)
    torch.testing.assert_close(following, after**0.5 * clean + (1 - after) ** 0.5 * noise)


@quick
@given(seeds)
def test_psnr_looks_only_where_it_should(own, seed):
    rng = np.random.default_rng(seed)
    a, b = np.asarray(picture(seed)), np.asarray(picture(seed + 1))
    where = rng.random(a.shape[:2]) < 0.5
    assert own.psnr_where(a, b, where) == pytest.approx(peak_signal_noise_ratio(a[where], b[where], data_range=255))
    mixed = np.where(where[..., None], a, b)
    assert own.psnr_where(a, mixed, where) == math.inf
    assert own.psnr_where(a, mixed, ~where) == pytest.approx(own.psnr_where(a, b, ~where))


def test_psnr_of_one_grey_level(own):
    a = np.full((4, 4, 3), 7, dtype=np.uint8)
    where = np.ones((4, 4), dtype=bool)
    assert own.psnr_where(a, a + 1, where) == pytest.approx(20 * math.log10(255))
    assert own.psnr_where(a + 1, a, where) == pytest.approx(20 * math.log10(255))  # no wrap-around below 0


@quick
@given(seeds)
def test_pasting_back_is_the_library_s_overlay(own, seed):
    image, painted = picture(seed), picture(seed + 1)
    hard = grey(seed).point(lambda value: 255 if value >= 128 else 0)
    alpha = np.asarray(hard) / 255
    pasted = own.paste_back(image, painted, alpha)
    assert pasted == images.apply_overlay(hard, image, painted) == Image.composite(painted, image, hard)
    soft = np.asarray(grey(seed)) / 255
    exact = soft[..., None] * np.asarray(painted, float) + (1 - soft[..., None]) * np.asarray(image, float)
    assert np.abs(np.asarray(own.paste_back(image, painted, soft)) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("radius", [0, 1, 4, 16])
def test_the_feather_stays_inside(own, radius):
    mask = own.box_mask((96, 64), (16, 8, 80, 56))
    white = np.asarray(mask) == 255
    alpha = own.feather(mask, radius)
    assert alpha.shape == (64, 96) and alpha.min() >= 0 and alpha.max() <= 1
    assert (alpha[~white] == 0).all()
    both = own.feather(mask, radius, inwards=False)
    if radius:
        assert both[~white].max() > 0.1 and (np.diff(alpha[32, 48:80]) <= 0).all()  # falls towards the edge
    else:
        assert np.array_equal(alpha, white) and np.array_equal(both, white)


def test_the_seam_counts_only_pairs_across_the_edge(own):
    mask = own.box_mask((8, 6), (2, 1, 5, 4))
    white = np.asarray(mask) == 255
    step = np.where(white, 100, 40)[..., None].repeat(3, axis=-1).astype(np.uint8)
    assert own.seam(step, mask) == 60
    assert own.seam(np.full_like(step, 9), mask) == 0
    step[0, 0] = step[3, 3] = 255  # a difference inside or outside is no seam, unless it touches the edge
    rim = own.seam(step, mask)
    step[0, 0] = 0
    assert own.seam(step, mask) == rim


@quick
@given(seeds, st.integers(1, 20), st.integers(0, 5))
def test_extending_keeps_the_picture_in_the_middle(own, seed, border, overlap):
    image = picture(seed)
    canvas, mask = own.extend(image, border, overlap)
    assert canvas.size == mask.size == (image.width + 2 * border, image.height)
    assert canvas.crop((border, 0, border + image.width, image.height)) == image
    kept = np.asarray(ImageOps.invert(mask))
    assert (kept[:, border + overlap:border + image.width - overlap] == 255).all()
    assert (kept == 255).sum() == image.height * (image.width - 2 * overlap)


def test_crop_takes_fractions_of_the_size(own):
    image = picture(0, 40, 80)
    assert own.crop(image, (0.25, 0.5, 0.75, 1)) == image.crop((20, 20, 60, 40))


def test_the_recorder_keeps_copies(own):
    history: list[dict] = []
    callback = own.recorder(history)
    tensors = {"latents": torch.zeros(2)}
    assert callback(None, 0, 0, tensors) is tensors
    tensors["latents"] += 1
    assert history[0]["latents"].tolist() == [0, 0]


def test_memory(own):
    scores = torch.empty(2 * 8, 64 * 64, 64 * 64, dtype=torch.float16, device="meta")
    assert own.attention_gb(512, 8) == pytest.approx(scores.numel() * scores.element_size() / 1e9)
    assert own.attention_gb(1024, 8) == 16 * own.attention_gb(512, 8)
    features = torch.empty(1, 256, 512, 512, dtype=torch.float16, device="meta")
    assert own.decoder_gb(512, 256) == pytest.approx(features.numel() * features.element_size() / 1e9)
