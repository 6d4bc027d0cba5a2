"""What Image_super_resolution_using_SRGAN.ipynb defines: resizing, measures, pixel shuffle, networks, training."""
import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import wasserstein_distance
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter13/Image_super_resolution_using_SRGAN.ipynb"
lesson = definitions(
    NOTEBOOK, "shrink", "enlarge", "luminance", "luma_psnr", "gradients", "gradient_distance", "measure",
    "pixel_shuffle", "ResidualBlock", "SRResNet", "random_patches", "train_upscaler", "discriminator_loss",
    "generator_loss", "patch_discriminator", "train_srgan", "mix_networks", "sharpest_window", "load_photos",
    "swin_enlarge", "SCALE", "LEFT_OUT", "TEST_FOLDERS")
quickly = settings(deadline=None, derandomize=True, max_examples=30)


def some_photos(n=2, height=32, width=24, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def smooth_photos(n=2, height=32, width=24, seed=0):
    small = some_photos(n, height // 4, width // 4, seed)
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)


# ---- shrinking and enlarging


@pytest.mark.parametrize("scale", [2, 4])
def test_shrinking_is_pillows_bicubic(scale):
    photos = (255 * some_photos()).round() / 255
    found = lesson.shrink(photos, scale)
    assert found.shape == (2, 3, 32 // scale, 24 // scale)
    torch.testing.assert_close(255 * found, (255 * found).round(), rtol=0, atol=1e-4)  # as in a file
    for photo, ours in zip(photos, found):
        image = Image.fromarray((255 * photo).round().byte().permute(1, 2, 0).numpy())
        theirs = np.asarray(image.resize((24 // scale, 32 // scale), Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(255 * ours.permute(1, 2, 0).numpy() - theirs).max() <= 1.01


def test_enlarging_is_pillows_bicubic_and_not_clamped():
    low = (255 * (0.4 + 0.2 * some_photos(1, 8, 6))).round() / 255  # Pillow clamps between its two passes
    found = lesson.enlarge(low, 4)
    image = Image.fromarray((255 * low[0]).round().byte().permute(1, 2, 0).numpy())
    theirs = np.asarray(image.resize((24, 32), Image.Resampling.BICUBIC), dtype=float)
    assert lesson.enlarge(some_photos(1, 8, 6).round(), 4).max() > 1.01
    assert np.abs(255 * found[0].clamp(0, 1).permute(1, 2, 0).numpy() - theirs).max() <= 1.01


def test_a_fine_pattern_becomes_gray_and_not_stripes():
    """Without antialiasing every fourth column of stripes would be all white or all black."""
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32)
    assert (lesson.shrink(stripes, 4)[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.03


def test_black_and_white_stay_what_they_are():
    for value in (0.0, 1.0):
        photos = torch.full((1, 3, 16, 16), value)
        assert (lesson.shrink(photos, 4) == value).all()
        torch.testing.assert_close(lesson.enlarge(photos, 4), torch.full((1, 3, 64, 64), value))


# ---- measures


def test_luminance_is_scikit_images_y():
    photos = some_photos()
    theirs = rgb2ycbcr(photos.numpy(), channel_axis=1)[:, 0]
    np.testing.assert_allclose(lesson.luminance(photos).numpy(), theirs, atol=1e-3)
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert lesson.luminance(ends).flatten().tolist() == pytest.approx([16, 235], abs=1e-3)


@quickly
@given(st.integers(0, 100), st.sampled_from([1e-3, 0.1, 1.0]), st.integers(1, 6))
def test_psnr_is_scikit_images_of_the_inner_luminance(seed, noise, border):
    photos, others = some_photos(seed=seed), some_photos(seed=seed + 1)
    mixed = (1 - noise) * photos + noise * others
    inner = [lesson.luminance(some)[:, border:-border, border:-border].double().numpy() for some in (mixed, photos)]
    theirs = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(*inner)]
    assert lesson.luma_psnr(mixed, photos, border).tolist() == pytest.approx(theirs, rel=1e-3)


def test_psnr_of_equals_is_infinite_and_the_border_does_not_count():
    photos = some_photos()
    changed = photos.clone()
    changed[:, :, :4], changed[:, :, -4:], changed[..., :4], changed[..., -4:] = 0, 0, 0, 0
    assert lesson.luma_psnr(changed, photos, 4).tolist() == [math.inf] * 2
    assert lesson.luma_psnr(changed, photos, 3).max() < math.inf


def test_gradients_by_hand():
    image = torch.zeros(1, 3, 4, 5)
    image[..., 2:] = 1  # an upright edge: 219 gray levels
    found = lesson.gradients(image)
    assert found.shape == (1, 3, 4)
    assert (found[..., 1] - 219).abs().max() < 1e-3 and found[..., [0, 2, 3]].abs().max() < 1e-3
    torch.testing.assert_close(lesson.gradients(image.transpose(2, 3)), found.transpose(1, 2))


def test_gradients_equal_numpys_differences():
    photos = some_photos()
    y = lesson.luminance(photos).double().numpy()
    theirs = np.hypot(np.diff(y, axis=2)[:, :-1], np.diff(y, axis=1)[:, :, :-1])
    np.testing.assert_allclose(lesson.gradients(photos).numpy(), theirs, atol=1e-3)


@quickly
@given(st.integers(0, 100))
def test_gradient_distance_is_scipys(seed):
    photos, others = smooth_photos(seed=seed), some_photos(seed=seed + 1)
    values = [lesson.gradients(some).flatten(1).numpy() for some in (others, photos)]
    theirs = [wasserstein_distance(a, b) for a, b in zip(*values)]
    assert lesson.gradient_distance(others, photos).tolist() == pytest.approx(theirs, rel=1e-3)
    assert lesson.gradient_distance(photos, photos).tolist() == [0, 0]
    assert lesson.gradient_distance(photos.flip(3).flip(2), photos).max() < 3  # places do not count


def test_measure_of_the_truth_of_a_blur_and_of_an_answer_out_of_range():
    photos = list(some_photos(3, 48, 40))
    truth = iter(photos)
    best = lesson.measure(lambda low: next(truth)[None], photos, 4)
    assert best["PSNR (dB)"] == math.inf and best["SSIM"] == pytest.approx(1, abs=1e-5)
    assert best["gradient share"] == pytest.approx(1) and best["gradient distance"] == 0
    soft = lesson.measure(lambda low: lesson.enlarge(low, 4), photos, 4)
    assert soft["gradient share"] < 0.5 and soft["gradient distance"] > 10 and soft["SSIM"] < 0.9
    wild = lesson.measure(lambda low: 100 * (lesson.enlarge(low, 4) - 0.5), photos, 4)
    clamped = lesson.measure(lambda low: (100 * (lesson.enlarge(low, 4) - 0.5)).clamp(0, 1), photos, 4)
    assert wild == clamped


def test_measure_is_the_mean_over_photos_of_each_photos_values():
    photos = [*smooth_photos(1, 48, 40), *some_photos(1, 32, 56)]
    both = lesson.measure(lambda low: lesson.enlarge(low, 4), photos, 4)
    single = [lesson.measure(lambda low: lesson.enlarge(low, 4), [photo], 4) for photo in photos]
    for name, value in both.items():
        assert value == pytest.approx(np.mean([one[name] for one in single]))
    image, truth = (lesson.luminance(some)[0, 4:-4, 4:-4].numpy() for some in (
        lesson.enlarge(lesson.shrink(photos[0][None], 4), 4).clamp(0, 1), photos[0][None]))
    theirs = structural_similarity(image, truth, data_range=255, gaussian_weights=True, use_sample_covariance=False,
                                   sigma=1.5, full=True)[1]
    assert single[0]["SSIM"] == pytest.approx(theirs.mean(), abs=0.02)


# ---- pixel shuffle and the network


@quickly
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_pixel_shuffle_equals_the_librarys_forward_and_backward(n, channels, r, h, w):
    x = torch.randn(n, channels * r * r, h, w, dtype=torch.float64, requires_grad=True)
    ours, theirs = lesson.pixel_shuffle(x, r), F.pixel_shuffle(x, r)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    assert torch.equal(*grads)
    assert torch.equal(F.pixel_unshuffle(ours, r), x)


def test_an_untrained_network_is_bicubic_enlargement_and_can_learn():
    torch.manual_seed(0)
    model, low = lesson.SRResNet(6, 2, 4), some_photos(2, 6, 5)
    torch.testing.assert_close(model(low), lesson.enlarge(low, 4), rtol=0, atol=1e-6)
    assert len(model.body) == 2 and sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 0
    model(low).square().sum().backward()
    assert model.tail.weight.grad.abs().max() > 0
    nn.init.normal_(model.tail.weight)
    model.zero_grad()
    model(low).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_residual_block_adds_to_its_input():
    block = lesson.ResidualBlock(4)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(block(x) - x, block.convs(x), rtol=0, atol=1e-6)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


# ---- patches


@quickly
@given(st.integers(0, 1000), st.sampled_from([2, 4]))
def test_low_and_high_patches_show_the_same_place(seed, scale):
    """Each low pixel is named by its number: its block in the high patch must carry the same number."""
    lows = [torch.arange(3.0 * h * w).view(3, h, w) + 1000 * k for k, (h, w) in enumerate(((9, 12), (14, 7)))]
    highs = [low.repeat_interleave(scale, 1).repeat_interleave(scale, 2) for low in lows]
    low, high = lesson.random_patches(lows, highs, 5, 6, torch.Generator().manual_seed(seed))
    assert low.shape == (6, 3, 5, 5) and high.shape == (6, 3, 5 * scale, 5 * scale)
    assert torch.equal(low.repeat_interleave(scale, 2).repeat_interleave(scale, 3), high)


def test_patches_come_from_everywhere_in_all_eight_views():
    low = torch.arange(3.0 * 36).view(3, 6, 6)
    generator = torch.Generator().manual_seed(0)
    patches, _ = lesson.random_patches([low], [low], 5, 400, generator)
    assert set(patches[:, 0].flatten().tolist()) == set(range(36))
    assert len({tuple(patch[0].flatten().tolist()) for patch in patches}) == 8 * 4
    whole, _ = lesson.random_patches([low[:, :5, :5]], [low[:, :5, :5]], 5, 3, generator)
    assert whole.shape == (3, 3, 5, 5)  # a photo that is just large enough


# ---- training


def test_training_beats_the_start_and_is_reproducible():
    photos = list((smooth_photos(4, 48, 48) > 0.5).float())  # hard edges
    lows = [lesson.shrink(photo[None], 4)[0] for photo in photos]
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = lesson.SRResNet(8, 1, 4)
        losses.append(lesson.train_upscaler(model, lows, photos, 8, 40, 4, 1e-2, 0))
    assert torch.equal(*losses) and losses[0].shape == (40,)
    start = F.mse_loss(lesson.enlarge(torch.stack(lows), 4), torch.stack(photos))
    with torch.no_grad():
        assert F.mse_loss(model(torch.stack(lows)), torch.stack(photos)) < 0.95 * start


def test_the_losses_are_binary_cross_entropies():
    real, fake = torch.randn(3, 1, 4, 4, dtype=torch.float64), 20 * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(lesson.discriminator_loss(real, fake), expected)
    images, photos = some_photos().double(), some_photos(seed=1).double()
    expected = F.mse_loss(images, photos) + 0.3 * bce(fake, torch.ones_like(fake))  # the generator wants "real"
    torch.testing.assert_close(lesson.generator_loss(images, photos, fake, 0.3), expected)
    assert lesson.discriminator_loss(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(2 * math.log(2))
    assert torch.isfinite(lesson.discriminator_loss(torch.tensor([-1e4]), torch.tensor([1e4])))


def test_the_discriminator_sees_a_patch_of_20_pixels():
    judge = lesson.patch_discriminator(4).double()
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    logits = judge(x)
    assert logits.shape == (1, 1, 24, 24)
    seen, = torch.autograd.grad(logits[0, 0, 12, 12], x)
    places = seen.abs().sum(dim=(0, 1)).nonzero()
    assert (places.amax(dim=0) - places.amin(dim=0) + 1).tolist() == [20, 20]


class Watched(nn.Module):
    """A judge that remembers whether a gradient could flow into each input, and in which order the networks changed."""

    def __init__(self, model):
        super().__init__()
        self.weight, self.model, self.calls = nn.Parameter(torch.ones(())), [model], []

    def forward(self, x):
        state = (self.weight.item(), sum(p.abs().sum().item() for p in self.model[0].parameters()))
        self.calls.append((x.requires_grad, state))
        return self.weight * x.mean(dim=(1, 2, 3))


def test_a_step_trains_the_judge_without_the_generator_and_then_the_generator():
    torch.manual_seed(0)
    photos = list(some_photos(3, 48, 48))
    lows = [lesson.shrink(photo[None], 4)[0] for photo in photos]
    model = lesson.SRResNet(4, 1, 4)
    judge = Watched(model)
    kept, losses = lesson.train_srgan(model, judge, lows, photos, 8, 3, 2, 1e-2, 1e-3, 0, snapshots=4)
    assert list(kept) == [0, 1, 2, 3] and losses.shape == (3,)
    assert [flows for flows, _ in judge.calls] == [False, False, True] * 3  # real, detached fake, fake
    for step in range(3):
        (_, before), _, (_, between) = judge.calls[3 * step : 3 * step + 3]
        assert before[0] != between[0] and before[1] == between[1]  # the judge moved, the generator did not
    assert judge.calls[3][1][1] != judge.calls[2][1][1]  # then the generator moved


def test_without_the_adversarial_weight_the_generator_learns_the_squared_error_alone():
    photos = list(some_photos(3, 48, 48))
    lows = [lesson.shrink(photo[None], 4)[0] for photo in photos]
    weights = []
    for judge_seed in (1, 2):
        torch.manual_seed(0)
        model = lesson.SRResNet(4, 1, 4)
        torch.manual_seed(judge_seed)
        lesson.train_srgan(model, lesson.patch_discriminator(2), lows, photos, 8, 4, 2, 1e-2, 0.0, 0)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("steps, snapshots", [(8, 5), (10, 5), (3, 2), (2, 5)])
def test_snapshots_are_copies_at_even_distances_with_both_ends(steps, snapshots):
    torch.manual_seed(0)
    photos = list(some_photos(2, 32, 32))
    lows = [lesson.shrink(photo[None], 4)[0] for photo in photos]
    model = lesson.SRResNet(2, 1, 4)
    start = copy.deepcopy(model.state_dict())
    judge = lesson.patch_discriminator(2)
    kept, _ = lesson.train_srgan(model, judge, lows, photos, 8, steps, 1, 1e-2, 1e-3, 0, snapshots)
    assert min(kept) == 0 and max(kept) == steps and len(kept) == min(snapshots, steps + 1)
    assert all(torch.equal(value, start[name]) for name, value in kept[0].state_dict().items())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept[steps].state_dict().items())
    assert all(one is not model for one in kept.values())


# ---- the rest


def test_mixtures_lie_between_their_parents_and_leave_them_alone():
    torch.manual_seed(0)
    first, second = lesson.SRResNet(3, 1, 4), lesson.SRResNet(3, 1, 4)
    for parameter in second.parameters():
        nn.init.normal_(parameter)
    before = copy.deepcopy(first.state_dict())
    for share in (0.0, 0.25, 1.0):
        mixed = lesson.mix_networks(first, second, share)
        for name, value in mixed.state_dict().items():
            expected = (1 - share) * first.state_dict()[name] + share * second.state_dict()[name]
            torch.testing.assert_close(value, expected)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_the_sharpest_window_holds_the_sharp_place_and_lies_inside():
    photo = torch.full((3, 160, 200), 0.5)
    photo[:, 90:130, 140:180] = torch.rand(1, 40, 40)
    rows = lesson.sharpest_window(photo, 96)
    assert photo[rows].shape == (3, 96, 96) and photo[rows].std() > 0.9 * photo.std()
    assert rows[1].start <= 90 and rows[1].stop >= 130 and rows[2].start <= 140 and rows[2].stop >= 180


def test_photos_are_cut_to_multiples_read_in_color_and_some_are_left_out(tmp_path):
    folder = tmp_path / "data/set14"
    folder.mkdir(parents=True)
    for number, mode in ((1, "RGB"), (3, "L"), (9, "RGB"), (19, "RGB")):
        Image.new(mode, (30 + number, 21), 200 if mode == "L" else (10 * number, 0, 255)).save(
            folder / f"img_{number:03d}.png")
    found = lesson.load_photos(folder, 4, torch.device("cpu"), lesson.LEFT_OUT)
    assert [tuple(photo.shape) for photo in found] == [(3, 20, 28), (3, 20, 32), (3, 20, 48)]
    assert found[0][:, 0, 0].tolist() == pytest.approx([10 / 255, 0, 1])
    assert (found[1] == 200 / 255).all()
    assert len(lesson.load_photos(folder, 4, torch.device("cpu"))) == 4


def test_swins_padding_is_cut_off_and_channels_stay_in_place():
    class Padded(nn.Module):
        def forward(self, pixel_values):
            self.reconstruction = pixel_values.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.0
            return self

    def processor(images, return_tensors):
        pixels = torch.stack([image.float() / 255 for image in images])
        return {"pixel_values": F.pad(pixels, (0, 3, 0, 2), value=9.0)}

    low = (255 * some_photos(1, 6, 5)).round() / 255
    found = lesson.swin_enlarge(low, Padded(), processor, 4)
    torch.testing.assert_close(found, low.repeat_interleave(4, 2).repeat_interleave(4, 3))


# ---- the notebook's own steps


def sources():
    return [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]


def test_no_test_photo_is_looked_at_in_training_or_in_choices():
    text = "\n".join(sources())
    assert "train, val = photos[VALIDATION:], photos[:VALIDATION]" in text
    for call in ("train_upscaler(models", "train_srgan(models"):
        assert f"{call}" in text
        line = text[text.index(call):].partition("\n")[0]
        assert "lows, train, PATCH" in line
    assert "lows = [shrink(photo[None], SCALE)[0] for photo in train]" in text
    path = next(cell for cell in sources() if cell.startswith("path = "))
    assert "val, SCALE)" in path and "tests" not in path


def test_results_are_taken_from_the_rows_that_they_name():
    namespace = {"SCALE": 4}
    cell = next(cell for cell in sources() if cell.startswith("short = "))
    import pandas as pd
    columns = ["PSNR (dB)", "SSIM", "gradient share", "gradient distance"]
    index = pd.MultiIndex.from_product([["set5", "set14"], ["bicubic", "SRResNet", "SRGAN"]], names=["set", "method"])
    table = pd.DataFrame(np.arange(24.0).reshape(6, 4), index=index, columns=columns)
    change = pd.DataFrame({"PSNR (dB)": [-1.0, -3.0, -5.0, -9.0]},
                          index=pd.MultiIndex.from_product([["set5", "set14"], [0, 1]], names=["set", "seed"]))
    namespace |= {"table": table, "change": change, "gains": pd.Series([0.5, 0.25]), "train": [0] * 7, "pd": pd,
                  "tests": {"set5": [], "set14": []}}
    exec(cell, namespace)
    found = namespace["results"]
    assert found["set5_bicubic_psnr_db"] == 0 and found["set5_srresnet_ssim"] == 5
    assert found["set14_srgan_gradient_distance"] == 23 and found["set14_bicubic_gradient_share"] == 14
    assert found["set5_srgan_psnr_change_db"] == -2 and found["set14_srgan_psnr_change_db"] == -7
    assert found["least_gain_over_bicubic_db"] == 0.25 and found["training_photos"] == 7 and len(found) == 28


def test_figures_show_what_their_titles_say():
    text = "\n".join(sources())
    assert '("bicubic", "SRResNet", "original")' in text
    assert "[enlarge(low, SCALE)[0][window], corrected[window], val[k][window]]" in text
    assert "[small[place], enlarge(low, SCALE)[0][place], butterfly[place]]" in text
    curve = next(cell for cell in sources() if "label=\"mixtures" in cell)
    assert 'ax.plot(curve["gradient distance"], curve["PSNR (dB)"]' in curve
    assert 'ax.set(xlabel="gradient distance' in curve and 'ylabel="PSNR (dB)"' in curve


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(NOTEBOOK, "{set5_srresnet_psnr_db:.3f} ±", "{set14_srgan_psnr_db:.3f} ±",
                           "{set14_srgan_gradient_share:.3f} ±")
    for name in ("set5", "set14"):
        assert results[f"{name}_srgan_psnr_db"] < results[f"{name}_srresnet_psnr_db"]
        assert results[f"{name}_bicubic_psnr_db"] < results[f"{name}_srresnet_psnr_db"]
        assert results[f"{name}_srgan_gradient_share"] > results[f"{name}_srresnet_gradient_share"]
