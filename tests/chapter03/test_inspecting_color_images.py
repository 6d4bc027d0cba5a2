"""What Inspecting_color_images.ipynb defines, against colorsys, scikit-image, OpenCV, Pillow, SciPy and torchvision."""
import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import stats
from skimage import color

from tests.definitions import definitions

lesson = definitions("Chapter03/Inspecting_color_images.ipynb", "to_gray", "read_rgb", "largest_difference",
                     "rgb_to_hsv", "mean_hue", "limits", "within", "intersection_over_union", "under_light", "overlap",
                     "composite")
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # torchvision 0.29
fixed = settings(deadline=None, max_examples=100)
bytes_or_ties = st.integers(0, 255) | st.sampled_from([0, 1, 127, 128, 254, 255])
sides = st.integers(1, 6)
images = hnp.arrays(np.uint8, st.tuples(sides, sides, st.just(3)), elements=bytes_or_ties)


def around(a, b):
    """Distance of hues on the circle, in turns."""
    apart = np.abs(np.asarray(a) - b) % 1
    return np.minimum(apart, 1 - apart)


@fixed
@given(images)
def test_hsv_is_that_of_three_libraries(image):
    rgb = image / 255
    hsv = lesson.rgb_to_hsv(rgb)
    single = np.array([[colorsys.rgb_to_hsv(*pixel) for pixel in row] for row in rgb])
    opencv = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2HSV) / np.array([360, 1, 1])
    for expected, tolerance in ((single, 1e-9), (color.rgb2hsv(rgb), 1e-9), (opencv, 1e-4)):
        assert around(hsv[..., 0], expected[..., 0]).max() <= tolerance
        np.testing.assert_allclose(hsv[..., 1:], expected[..., 1:], rtol=0, atol=tolerance)


@fixed
@given(images)
def test_hsv_holds_all_of_rgb_and_stays_within_0_and_1(image):
    hsv = lesson.rgb_to_hsv(image / 255)
    assert hsv.min() >= 0 and hsv.max() <= 1
    np.testing.assert_allclose(color.hsv2rgb(hsv), image / 255, rtol=0, atol=1e-9)


@fixed
@given(images, st.floats(0.01, 1))
def test_hue_and_saturation_do_not_see_the_amount_of_light(image, light):
    full, dim = lesson.rgb_to_hsv(image / 255), lesson.rgb_to_hsv(image / 255 * light)
    assert around(full[..., 0], dim[..., 0]).max() < 1e-9
    np.testing.assert_allclose(dim[..., 1], full[..., 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(dim[..., 2], full[..., 2] * light, rtol=0, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 1e-300, 0.5, 1.0])
def test_greys_and_black_have_no_saturation_and_no_nan(level):
    assert lesson.rgb_to_hsv(np.full((2, 3), level)).tolist() == [[0, 0, level]] * 2
    assert lesson.rgb_to_hsv(np.zeros((0, 3))).shape == (0, 3)


@fixed
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_mean_hue_is_the_circular_mean_of_scipy(hues):
    if abs(np.exp(2j * np.pi * np.array(hues)).mean()) > 1e-3:
        assert around(lesson.mean_hue(hues), stats.circmean(hues, high=1)) < 1e-9


@fixed
@given(images)
def test_grey_is_that_of_opencv_and_pillow(image):
    grey = lesson.to_gray(image)
    assert np.abs(grey - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).max() <= 1
    assert np.abs(grey - np.asarray(Image.fromarray(image).convert("L"))).max() <= 1


@fixed
@given(images, st.data())
def test_composite_is_that_of_pillow(front, data):
    height, width = front.shape[:2]
    alpha = data.draw(hnp.arrays(np.uint8, (height, width), elements=bytes_or_ties))
    back = data.draw(hnp.arrays(np.uint8, front.shape, elements=bytes_or_ties))
    mixed = lesson.composite(front, alpha, back)
    pasted = Image.composite(*(Image.fromarray(array) for array in (front, back, alpha)))
    assert mixed.dtype == np.uint8 and np.abs(mixed.astype(int) - np.asarray(pasted)).max() <= 1
    assert np.array_equal(lesson.composite(front, np.full_like(alpha, 255), back), front)
    assert np.array_equal(lesson.composite(front, np.zeros_like(alpha), back), back)


@settings(fixed, max_examples=20)
@given(images)
def test_three_readers_give_what_was_written(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("png") / "image.png"
    Image.fromarray(image).save(path)
    readings = lesson.read_rgb(path)
    assert len(readings) == 3
    for name, reading in readings.items():
        assert reading.dtype == np.uint8 and np.array_equal(reading, image), name


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_readers_make_rgb_of_grey_palette_and_alpha(tmp_path, mode):
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(photo).convert(mode).save(tmp_path / "image.png")
    readings = lesson.read_rgb(tmp_path / "image.png")
    assert {reading.shape for reading in readings.values()} == {(5, 7, 3)}
    assert lesson.largest_difference(readings.values()) == 0


def test_reading_what_is_not_there_or_no_image_is_an_error(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name in ("missing.png", "text.png"):
        with pytest.raises(FileNotFoundError):
            lesson.read_rgb(tmp_path / name)


def test_largest_difference_does_not_wrap_around():
    black, white = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert lesson.largest_difference([black, white]) == lesson.largest_difference([white, black, white]) == 255
    assert lesson.largest_difference([black + 10, black + 12]) == 2 and lesson.largest_difference([white]) == 0


@fixed
@given(images, st.sampled_from([0, 0.5, 1, 2, (1, 0.5, 0), (0, 3, 1)]))
def test_light_multiplies_rounds_and_saturates(image, light):
    expected = np.clip(np.rint(image.astype(float) * np.broadcast_to(light, 3)), 0, 255)
    result = lesson.under_light(image, light)
    assert result.dtype == np.uint8 and np.array_equal(result, expected)


@fixed
@given(hnp.arrays(bool, (2, 5)), hnp.arrays(bool, (2, 5)))
def test_overlap_of_masks_is_that_of_sets(a, b):
    first, second = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    expected = len(first & second) / len(first | second) if first | second else 0
    assert lesson.intersection_over_union(a, b) == pytest.approx(expected)


def test_limits_and_within_are_per_feature_and_need_all_of_them():
    features = np.stack(np.meshgrid(np.arange(101.0), 10 * np.arange(101.0)), axis=-1)
    bounds = lesson.limits(features)
    np.testing.assert_allclose(bounds, [[1, 10], [99, 990]])
    mask = lesson.within(features, bounds)
    assert mask.shape == (101, 101) and mask.sum() == 99 * 99 and mask[1:100, 1:100].all()


def test_overlap_in_full_light_is_complete_and_with_nothing_found_none():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    everything, bright = np.array([[0.0] * 3, [255.0] * 3]), np.array([[100.0, 0, 0], [255.0] * 3])
    assert lesson.overlap(image, 1.0, np.asarray, everything) == 1
    assert lesson.overlap(image, 0.25, np.asarray, everything) == 1
    assert lesson.overlap(image, 0.25, np.asarray, bright) == 0
