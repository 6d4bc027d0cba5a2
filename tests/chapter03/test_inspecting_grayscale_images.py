"""What Inspecting_grayscale_images.ipynb defines, against OpenCV, PyTorch, Pillow, scikit-image and NumPy."""
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage import exposure

from tests.definitions import definitions

lesson = definitions("Chapter03/Inspecting_grayscale_images.ipynb", "shrink_by_blocks", "histogram_by_loop",
                     "histogram",
                     "stretch_table", "gamma_table", "equalize_table", "quantize", "rmse", "bilinear_at",
                     "resize_matrix", "resize", "zone_plate")
fixed = settings(deadline=None, max_examples=100)
sides = st.integers(1, 12)
images = hnp.arrays(np.uint8, st.tuples(sides, sides), elements=st.integers(0, 255))
few_values = hnp.arrays(np.uint8, st.tuples(sides, sides), elements=st.sampled_from([0, 1, 128, 254, 255]))


@fixed
@given(images | few_values)
def test_both_histograms_are_those_of_opencv_and_numpy(image):
    counts = lesson.histogram(image)
    assert counts.shape == (256,) and counts.tolist() == lesson.histogram_by_loop(image)
    assert counts.tolist() == cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().tolist()
    assert counts.tolist() == np.histogram(image, bins=256, range=(-0.5, 255.5))[0].tolist()


def test_histogram_of_no_pixels():
    empty = np.zeros((0, 5), np.uint8)
    assert lesson.histogram(empty).tolist() == lesson.histogram_by_loop(empty) == [0] * 256


@fixed
@given(images, st.integers(1, 4), st.integers(1, 4))
def test_block_mean_undoes_repeating_and_is_average_pooling(image, factor, other):
    repeated = image.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_allclose(lesson.shrink_by_blocks(repeated, factor), image, rtol=0, atol=1e-12)
    larger = np.tile(image, (other, other)).astype(float)
    pooled = F.avg_pool2d(torch.from_numpy(larger)[None, None], other)[0, 0].numpy()
    np.testing.assert_allclose(lesson.shrink_by_blocks(larger, other), pooled, rtol=0, atol=1e-12)


def test_block_mean_refuses_a_factor_that_does_not_divide():
    with pytest.raises(ValueError):
        lesson.shrink_by_blocks(np.zeros((5, 6)), 2)


@fixed
@given(images | few_values)
def test_stretching_is_that_of_scikit_image(image):
    table = lesson.stretch_table(image)
    assert table.shape == (256,) and table.dtype == np.uint8
    stretched = table[image].astype(float)
    if image.min() < image.max():
        expected = exposure.rescale_intensity(image.astype(float), out_range=(0, 255))
        assert np.abs(stretched - expected).max() <= 0.5 + 1e-9
        assert stretched.min() == 0 and stretched.max() == 255
    assert (np.diff(table.astype(int)) >= 0).all()


@fixed
@given(st.floats(0.05, 20))
def test_gamma_is_that_of_scikit_image(gamma):
    table = lesson.gamma_table(gamma)
    expected = 255 * exposure.adjust_gamma(np.linspace(0, 1, 256), gamma)
    assert table.dtype == np.uint8 and np.abs(table - expected).max() <= 0.5 + 1e-9
    assert table[0] == 0 and table[255] == 255


def test_gamma_below_one_brightens():
    assert (lesson.gamma_table(0.5)[1:250] > np.arange(1, 250)).all()
    assert lesson.gamma_table(1.0).tolist() == list(range(256))


@fixed
@given(images | few_values)
def test_equalising_is_that_of_opencv(image):
    equalized = lesson.equalize_table(image)[image]
    assert np.abs(equalized.astype(int) - cv2.equalizeHist(image)).max() <= 1  # OpenCV computes in single precision
    assert equalized.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 9, 255])
def test_equalising_one_value_changes_nothing(value):
    image = np.full((3, 4), value, np.uint8)
    assert np.array_equal(lesson.equalize_table(image)[image], image)


@fixed
@given(hnp.arrays(np.float64, (5, 6), elements=st.floats(0, 255)), st.integers(2, 256), st.integers(0, 2**31))
def test_quantize_takes_the_nearest_level_and_noise_at_most_the_next(image, levels, seed):
    allowed = np.linspace(0, 255, levels)
    step = 255 / (levels - 1)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, image.shape)
    for result, furthest in ((lesson.quantize(image, levels), step / 2), (lesson.quantize(image, levels, noise), step)):
        assert np.abs(result[..., None] - allowed).min(axis=-1).max() < 1e-9
        assert np.abs(result - image).max() <= furthest + 1e-9


def test_256_levels_keep_every_byte_and_two_are_black_and_white():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(lesson.quantize(every, 256), every, rtol=0, atol=1e-9)
    assert np.unique(lesson.quantize(every, 2)).tolist() == [0, 255]


@pytest.mark.parametrize("value", [0, 3, 100, 127, 200, 252, 255])
@pytest.mark.parametrize("levels", [2, 3, 8])
def test_dithering_is_right_on_average(value, levels):
    noise = (np.arange(10_000) + 0.5) / 10_000 - 0.5  # evenly spread
    dithered = lesson.quantize(np.full(10_000, value, np.uint8), levels, noise)
    assert dithered.mean() == pytest.approx(value, abs=0.05)


@fixed
@given(images, images)
def test_rmse_does_not_wrap_around(image, other):
    other = np.resize(other, image.shape)
    expected = float(((torch.from_numpy(image).double() - torch.from_numpy(other)) ** 2).mean().sqrt())
    assert lesson.rmse(image, other) == pytest.approx(expected, abs=1e-12)
    assert lesson.rmse(image, image) == 0


@fixed
@given(images, sides, sides, st.booleans())
def test_resize_is_that_of_pytorch(image, height, width, antialias):
    def rows(image, count):
        """Resize along the first axis only; PyTorch 2.15 repeats the first row where a width is 1, so at least two."""
        wide = torch.from_numpy(np.concatenate([image, image], axis=1).astype(np.float64))[None, None]
        size = count, wide.shape[-1]
        out = F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=antialias)[0, 0]
        return out.numpy()[:, : image.shape[1]]

    expected = rows(rows(image, height).T, width).T
    np.testing.assert_allclose(lesson.resize(image, height, width, antialias), expected, rtol=0, atol=1e-9)


@fixed
@given(images, sides, sides)
def test_resize_is_that_of_pillow_and_opencv(image, height, width):
    pillow = Image.fromarray(image.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(lesson.resize(image, height, width, antialias=True), pillow, rtol=0, atol=1e-2)
    opencv = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(lesson.resize(image, height, width, antialias=False), opencv, rtol=0, atol=1e-2)


@fixed
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_weights_are_shares_and_the_same_from_both_ends(old, new, antialias):
    matrix = lesson.resize_matrix(old, new, antialias)
    assert matrix.shape == (new, old) and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, rtol=0, atol=1e-9)
    if old == new:
        np.testing.assert_allclose(matrix, np.eye(old), rtol=0, atol=1e-12)


@fixed
@given(st.floats(0, 3.99), st.floats(0, 4.99))
def test_bilinear_at_is_grid_sample(y, x):
    image = np.random.default_rng(0).uniform(0, 255, (5, 6))
    place = torch.tensor([[[[2 * x / 5 - 1, 2 * y / 4 - 1]]]], dtype=torch.float64)
    expected = F.grid_sample(torch.from_numpy(image)[None, None], place, mode="bilinear", align_corners=True).item()
    assert lesson.bilinear_at(image, y, x) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [64, 65])
def test_zone_plate_is_symmetric_and_as_fine_as_pixels_allow_at_the_border(side):
    rings = lesson.zone_plate(side)
    assert rings.shape == (side, side) and rings.min() >= 0 and rings.max() <= 255
    for mirrored in (rings.T, rings[::-1], rings[:, ::-1]):
        np.testing.assert_allclose(mirrored, rings, rtol=0, atol=1e-8)
    r, phase = np.array([side / 4, side / 2]), 1e-3
    slope = (np.pi * (r + phase) ** 2 / side - np.pi * (r - phase) ** 2 / side) / (2 * phase) / (2 * np.pi)
    np.testing.assert_allclose(slope, [0.25, 0.5])  # periods per pixel, of the formula in the docstring
    middle = rings[side // 2]  # nearly through the centre: up and down from pixel to pixel near the border
    turns = np.sign(np.diff(middle[-6:]))
    assert (turns[1:] == -turns[:-1]).all()
