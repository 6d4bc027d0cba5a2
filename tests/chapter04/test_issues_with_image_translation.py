"""`shift`: nothing wraps around, nothing else changes; the same function in each notebook that has it."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.definitions import definitions

NOTEBOOKS = ["Chapter03/Why_neural_networks_for_image_analysis.ipynb", "Chapter04/Issues_with_image_translation.ipynb",
             "Chapter04/CNN_on_FashionMNIST.ipynb", "Chapter04/Data_augmentation_with_CNN.ipynb"]  # fmt: skip


@pytest.mark.parametrize("notebook", NOTEBOOKS)
@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 3), h=st.integers(1, 9), w=st.integers(1, 9), dx=st.integers(-12, 12), dy=st.integers(-12, 12))
def test_equals_scipy_with_zeros_entering(notebook, n, h, w, dx, dy):
    shift = definitions(notebook, "shift").shift
    images = torch.randint(1, 256, (n, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(h * w + n))
    moved = shift(images, dx, dy)
    assert moved.dtype == torch.uint8 and moved.shape == images.shape
    expected = [ndimage.shift(image, (dy, dx), order=0, mode="constant", cval=0) for image in images.numpy()]
    np.testing.assert_array_equal(moved.numpy(), np.reshape(expected, images.shape))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_shift_is_the_identity_and_signs_are_right(notebook):
    shift = definitions(notebook, "shift").shift
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    assert torch.equal(shift(image, 0, 0), image)
    assert shift(image, 1, 0)[0].tolist() == [0, 0, 1, 2] and shift(image, 0, -1)[0].tolist() == [4, 5, 6, 7]
