"""What pix2pix.ipynb defines: houses, inputs and hints, U-Net, patches, losses, training, measures, real facades."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter13/pix2pix.ipynb"
lesson = definitions(
    NOTEBOOK, "draw_house", "draw_houses", "paint", "gradient_lengths", "gradient_share", "to_inputs", "down_block",
    "up_block", "DrawingUNet", "train_reader", "share_read", "patch_discriminator", "receptive_field", "patch_loss",
    "drawing_loss", "train_pix2pix", "measure_houses", "read_pairs", "nearest_colors", "CLASSES", "PALETTE", "WALLS")
quickly = settings(deadline=None, derandomize=True, max_examples=20)
CPU = torch.device("cpu")
K = len(lesson.CLASSES)


def some_images(n=2, side=16, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def houses():
    return lesson.draw_houses(30, 64, 0)


# ---- houses


def test_houses_have_every_part_and_are_as_the_seed_says(houses):
    labels, photos = houses
    assert labels.shape == (30, 64, 64) and labels.dtype == torch.int64
    assert photos.shape == (30, 3, 64, 64) and photos.dtype == torch.float32
    assert 0 <= photos.min() and photos.max() <= 1 and photos.is_contiguous()
    for k in range(K):
        share = (labels == k).any(dim=(1, 2)).float().mean()
        assert share == 1 or lesson.CLASSES[k] == "balcony" and share > 0.2
    again, other = lesson.draw_houses(2, 64, 0), lesson.draw_houses(2, 64, 1)
    assert torch.equal(again[1], photos[:2]) and not torch.equal(other[1], photos[:2])


@pytest.mark.parametrize("side", [32, 64])
def test_the_photo_follows_the_drawing_and_says_more(side):
    labels, photos = lesson.draw_houses(20, side, 2)
    by_class = torch.stack([photos.movedim(1, -1)[labels == k].mean(dim=0) for k in range(K)])
    assert by_class[lesson.CLASSES.index("sky")].argmax() == 2  # blue
    assert by_class[lesson.CLASSES.index("door")].argmax() == 0  # brown
    walls = torch.stack([photo[:, drawing == 1].mean(dim=1) for photo, drawing in zip(photos, labels)])
    assert walls.std(dim=0).min() > 0.08  # the drawing does not tell the color
    lit = torch.stack([photo[0, drawing == 3].max() for photo, drawing in zip(photos, labels)])
    assert lit.min() > 0.15


def test_places_follow_the_drawing_from_top_to_bottom(houses):
    labels, _ = houses
    rows = torch.arange(64.0)[:, None]
    height = {name: (rows * (labels == k)).sum() / (labels == k).sum() for k, name in enumerate(lesson.CLASSES)}
    assert height["roof"] < height["window"] < height["door"] < height["ground"]
    assert (labels[:, -1] == lesson.CLASSES.index("ground")).all() and (labels[:, 0] == 0).all()


def test_drawings_are_painted_in_the_colors_of_their_classes():
    labels = torch.arange(K)[None, None].expand(2, 3, -1)
    found = lesson.paint(labels)
    assert found.shape == (2, 3, 3, K)
    torch.testing.assert_close(found[0, :, 1].T, torch.tensor(lesson.PALETTE))
    assert len(set(lesson.PALETTE)) == K


# ---- measures


def test_gradients_equal_numpys_differences():
    images = some_images()
    found = lesson.gradient_lengths(images)
    x = images.numpy().astype(float)
    down, right = np.diff(x, axis=2)[..., :-1], np.diff(x, axis=3)[:, :, :-1]
    np.testing.assert_allclose(found.numpy(), np.sqrt((down**2 + right**2).sum(axis=1)), atol=1e-5)


def test_gradient_share_of_equals_of_half_and_of_a_smooth_place():
    images, everywhere = some_images(), torch.ones(2, 16, 16, dtype=torch.bool)
    assert lesson.gradient_share(images, images, everywhere) == pytest.approx(1)
    assert lesson.gradient_share(images / 2, images, everywhere) == pytest.approx(0.5, rel=1e-4)
    half = images.clone()
    half[..., :8] = 0.5  # smooth at the left
    left, right = everywhere.clone(), everywhere.clone()
    left[..., 7:], right[..., :8] = False, False
    assert lesson.gradient_share(half, images, left) == 0
    assert lesson.gradient_share(half, images, right) == pytest.approx(1)


def test_measures_of_the_truth_and_of_gray():
    labels, photos = lesson.draw_houses(4, 32, 0)
    fixed = lambda images: F.one_hot(torch.where(labels == 1, 0, labels), K).permute(0, 3, 1, 2)  # noqa: E731
    found = lesson.measure_houses(photos, photos, labels, fixed)
    assert found["L1"] == 0 and found["gradient share of walls"] == pytest.approx(1)
    assert found["read as drawn (%)"] == pytest.approx(100 * (labels != 1).float().mean().item())
    gray = lesson.measure_houses(torch.full_like(photos, 0.5), photos, labels, fixed)
    assert gray["L1"] == pytest.approx((photos - 0.5).abs().mean().item()) and gray["gradient share of walls"] == 0


# ---- inputs and networks


@quickly
@given(st.integers(0, 1000), st.integers(0, 9))
def test_inputs_are_one_hot_drawings_and_dots_of_the_true_color(seed, hints):
    labels = torch.randint(K, (3, 8, 8), generator=torch.Generator().manual_seed(seed))
    photos = 0.1 + 0.9 * some_images(3, 8, seed)
    found = lesson.to_inputs(labels, photos, hints, torch.Generator().manual_seed(seed))
    assert found.shape == (3, K + 4, 8, 8)
    assert torch.equal(found[:, :K].argmax(dim=1), labels) and (found[:, :K].sum(dim=1) == 1).all()
    dots = found[:, -1]
    assert set(dots.unique().tolist()) <= {0.0, 1.0}
    counts = dots.sum(dim=(1, 2))
    assert (counts <= hints).all() and (counts >= min(hints, 1)).all()
    torch.testing.assert_close(found[:, K:-1], dots[:, None] * photos)


def test_hints_differ_from_photo_to_photo_and_fall_everywhere():
    labels, photos = torch.zeros(60, 8, 8, dtype=torch.int64), some_images(60, 8)
    dots = lesson.to_inputs(labels, photos, 8, torch.Generator().manual_seed(0))[:, -1]
    assert not torch.equal(dots[0], dots[1]) and (dots.sum(dim=0) > 0).all()


def test_the_unet_keeps_the_size_uses_its_input_at_the_end_and_gives_gradients_everywhere():
    torch.manual_seed(0)
    for side in (32, 48):
        assert lesson.DrawingUNet(5, 3, 4)(torch.randn(2, 5, side, side)).shape == (2, 3, side, side)
    model = lesson.DrawingUNet(5, 3, 4)
    x = torch.randn(2, 5, 32, 32, requires_grad=True)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.dim() > 1)
    assert x.grad.abs().max() > 0
    with torch.no_grad():
        model.out.weight[:, 4:].zero_()
        assert not torch.equal(model(x)[..., 5, 5], model(x + 1)[..., 5, 5])  # by the way down, too


def test_blocks_halve_and_double():
    x = torch.randn(2, 3, 8, 8)
    assert lesson.down_block(3, 5)(x).shape == (2, 5, 4, 4) and lesson.up_block(3, 5)(x).shape == (2, 5, 16, 16)
    assert not any(isinstance(m, nn.InstanceNorm2d) for m in lesson.down_block(3, 5, norm=False))


def test_the_field_of_view_is_what_a_gradient_sees():
    for layers in ([(3, 1)], [(4, 2), (4, 2), (4, 1), (4, 1)], [(5, 3), (1, 1), (3, 2)], [(7, 2)]):
        network = nn.Sequential(*[one for k, s in layers for one in (nn.Conv2d(1, 1, k, s), nn.LeakyReLU(0.2))])
        x = torch.randn(1, 1, 120, 120, dtype=torch.float64, requires_grad=True)
        y = network.double()(x)
        seen, = torch.autograd.grad(y[0, 0, y.shape[2] // 2, y.shape[3] // 2], x)
        assert lesson.receptive_field(network) == int((seen.abs().sum(dim=(0, 1, 2)) > 0).sum())
    assert lesson.receptive_field(nn.Sequential(nn.ReLU())) == 1
    assert lesson.receptive_field(lesson.patch_discriminator(3, 2)) == 34
    assert lesson.patch_discriminator(14, 4)(torch.randn(2, 14, 64, 64)).shape == (2, 1, 14, 14)


# ---- losses and training


def test_losses_are_binary_cross_entropies_and_l1():
    real, fake = torch.randn(3, 1, 4, 4, dtype=torch.float64), 20 * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    expected = (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2
    torch.testing.assert_close(lesson.patch_loss(real, fake), expected)
    images, photos = some_images().double(), some_images(seed=1).double()
    torch.testing.assert_close(lesson.drawing_loss(images, photos, None, 7.0), 7 * (images - photos).abs().mean())
    expected = 7 * (images - photos).abs().mean() + bce(fake, torch.ones_like(fake))  # the generator wants "real"
    torch.testing.assert_close(lesson.drawing_loss(images, photos, fake, 7.0), expected)
    assert torch.isfinite(lesson.patch_loss(torch.tensor([-1e4]), torch.tensor([1e4])))
    assert lesson.patch_loss(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2))


class Watched(nn.Module):
    """A judge that remembers its inputs, whether gradients could flow into them, and where both networks stood."""

    def __init__(self, model):
        super().__init__()
        self.weight, self.model, self.calls = nn.Parameter(torch.ones(())), [model], []

    def forward(self, x):
        state = sum(p.abs().sum().item() for p in self.model[0].parameters())
        self.calls.append((x.detach().clone(), x.requires_grad, self.weight.item(), state))
        return self.weight * x[:, -3:].mean(dim=(1, 2, 3))


def test_the_judge_sees_drawing_and_photo_and_steps_without_the_generator():
    labels, photos = lesson.draw_houses(6, 32, 0)
    torch.manual_seed(0)
    model = lesson.DrawingUNet(K + 4, 3, 2)
    judge = Watched(model)
    frames = lesson.train_pix2pix(model, judge, labels, photos, 2, 3, 2, 1e-2, 10.0, 0)
    assert frames == {} and [call[1] for call in judge.calls] == [False, False, True] * 3
    for (real, _, weight, state), (made, *_), (again, _, weight_after, state_after) in zip(*[iter(judge.calls)] * 3):
        assert real.shape == (2, K + 7, 32, 32)
        assert torch.equal(real[:, : K + 4], made[:, : K + 4]) and not torch.equal(real[:, -3:], made[:, -3:])
        assert torch.equal(made, again)  # the same photo, once detached and once not
        assert any(torch.equal(real[0, -3:], photo) for photo in photos)  # the true photo, of its own drawing
        k = next(k for k, photo in enumerate(photos) if torch.equal(real[0, -3:], photo))
        assert torch.equal(real[0, :K].argmax(dim=0), labels[k])
        assert weight != weight_after and state == state_after
    assert judge.calls[3][3] != judge.calls[2][3]


def test_l1_alone_learns_is_reproducible_and_keeps_a_film():
    labels, photos = lesson.draw_houses(12, 32, 0)
    film = lesson.to_inputs(labels[:2], photos[:2], 0, torch.Generator())
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = lesson.DrawingUNet(K + 4, 3, 4)
        frames = lesson.train_pix2pix(model, None, labels, photos, 0, 40, 4, 1e-2, 100.0, 0, film)
        assert list(frames) == [2, 8, 16, 26, 40] and frames[40].shape == (2, 3, 32, 32)
        results.append(frames[40])
    assert torch.equal(*results)
    inputs = lesson.to_inputs(labels, photos, 0, torch.Generator())
    with torch.no_grad():
        assert F.l1_loss(model(inputs).sigmoid(), photos) < 0.6 * F.l1_loss(torch.full_like(photos, 0.5), photos)


def test_the_learning_rates_fall_to_zero_in_the_second_half(monkeypatch):
    rates = []
    adam = torch.optim.Adam

    class Spy(adam):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    labels, photos = lesson.draw_houses(3, 32, 0)
    model = lesson.DrawingUNet(K + 4, 3, 2)
    lesson.train_pix2pix(model, Watched(model), labels, photos, 0, 10, 2, 0.1, 1.0, 0)
    wanted = [0.1 * min(1, 2 * (1 - t / 10)) for t in range(10)]
    assert rates[1::2] == pytest.approx(wanted) and rates[::2] == pytest.approx([rate / 2 for rate in wanted])


def test_the_reader_learns_to_read_houses():
    labels, photos = lesson.draw_houses(40, 32, 0)
    reader = lesson.train_reader(photos[:30], labels[:30], K, 4, 50, 0)
    assert not reader.training
    most_frequent = (labels[30:] == labels[:30].flatten().mode().values).float().mean().item()
    assert lesson.share_read(reader, photos[30:], labels[30:]) > most_frequent + 0.2


# ---- real facades


def test_the_left_half_is_the_photo_and_the_right_half_the_map(tmp_path):
    for number in range(2):
        pair = np.zeros((20, 40, 3), dtype=np.uint8)
        pair[:, :20], pair[:, 20:] = (200, 100 * number, 0), (0, 0, 250)
        Image.fromarray(pair).save(tmp_path / f"{number}.jpg", quality=95)
    maps, photos = lesson.read_pairs(tmp_path, 10, CPU)
    assert maps.shape == photos.shape == (2, 3, 10, 10)
    np.testing.assert_allclose(maps[:, :, 5, 6].numpy() * 255, [[0, 0, 250]] * 2, atol=6)
    np.testing.assert_allclose(photos[:, :, 5, 4].numpy() * 255, [[200, 0, 0], [200, 100, 0]], atol=6)


def test_pixels_get_the_number_of_the_nearest_color():
    colors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    wanted = torch.randint(3, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    images = colors[wanted].permute(0, 3, 1, 2) + 0.1
    assert torch.equal(lesson.nearest_colors(images, colors), wanted)


# ---- the notebook's own steps


def sources():
    return [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]


def test_training_and_testing_houses_have_seeds_of_their_own():
    text = "\n".join(sources())
    assert "draw_houses(count, SIDE, seed)] for seed, count in enumerate(HOUSES))" in text.replace("\n    ", "")
    assert "train_pix2pix(models[name, seed], judge, labels, photos, " in text
    assert "train_reader(photos, labels, " in text
    assert "class_means = torch.stack([photos.permute(0, 2, 3, 1)[labels == k]" in text


def test_only_the_run_with_hints_gets_hints_and_only_the_gan_has_a_judge():
    text = "\n".join(sources())
    assert 'inputs = {"L1": blank, "L1, hints": dotted, "L1 + GAN": blank}' in text
    assert "HINTS if some is dotted else 0" in text
    assert text.count('PATCH_CHANNELS).to(device) if "GAN" in name else None') == 2
    assert "for hints in (0, HINTS))" in text


def test_results_are_taken_from_the_rows_that_they_name():
    cell = next(cell for cell in sources() if cell.startswith("named = "))
    columns = ["L1", "gradient share of walls", "read as drawn (%)"]
    index = ["class means", "L1", "L1 + GAN", "L1, hints", "true photos"]
    namespace = {"table": pd.DataFrame(np.arange(15.0).reshape(5, 3), index, columns), "pd": pd, "read_true": 0.9,
                 "measured_field": 34, "followed": 0.5}
    exec(cell, namespace)
    found = namespace["results"]
    assert found["means_l1_distance"] == 0 and found["l1_gradient_share"] == 4 and found["gan_read_percent"] == 8
    assert found["hints_l1_distance"] == 9 and found["judge_accuracy_percent"] == 90
    assert found["receptive_field_pixels"] == 34 and found["colors_followed_percent"] == 50 and len(found) == 15


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(NOTEBOOK, "the judge reads {judge_accuracy_percent:.1f}%", "{l1_l1_distance:.3f} ±",
                           "{gan_gradient_share:.3f} ±", "by the gradient {receptive_field_pixels:.0f} pixels")
    assert results["l1_l1_distance"] < results["means_l1_distance"]
    assert results["l1_l1_distance"] < results["gan_l1_distance"]
    assert results["l1_gradient_share"] < results["gan_gradient_share"]
    assert results["hints_l1_distance"] < results["l1_l1_distance"]
