"""What CNN_working_details.ipynb defines, against torch.nn.functional, autograd and SciPy."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from tests.definitions import definitions
from tests.stored import assert_shown

lesson = definitions("Chapter04/CNN_working_details.ipynb", "correlate", "output_size", "windows", "conv2d",
                     "conv2d_im2col", "conv2d_backward", "im2col", "col2im", "max_pool2d", "avg_pool2d",
                     "max_pool2d_backward", "receptive_field", "paths", "tiny_cnn", "tiny_cnn_backward", "costs")
fixed = settings(deadline=None, derandomize=True, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1e-12, 1.0, 1e6])


@st.composite
def layers(draw):
    """Images (b, c, h, w), weight (o, c, kh, kw), bias (o,) and settings (stride, padding, dilation) that fit."""
    stride, padding, dilation = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    b, c, o = draw(st.sampled_from([0, 1, 2])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    (h, w), (kh, kw) = (draw(st.tuples(*[st.integers(1, high)] * 2)) for high in (9, 4))
    assume(h + 2 * padding > dilation * (kh - 1) and w + 2 * padding > dilation * (kw - 1))
    rng, scale = np.random.default_rng(draw(seeds)), draw(scales)
    return (scale * rng.normal(size=(b, c, h, w)), rng.normal(size=(o, c, kh, kw)), rng.normal(size=o),
            (stride, padding, dilation), rng)


@fixed
@given(layers())
def test_convolution_forward_and_backward_are_those_of_torch(layer):
    images, weight, bias, setting, rng = layer
    x, w, b = (torch.from_numpy(array).requires_grad_() for array in (images, weight, bias))
    theirs = F.conv2d(x, w, b, *setting)
    sizes = [lesson.output_size(n, k, *setting) for n, k in zip(images.shape[2:], weight.shape[2:])]
    assert sizes == list(theirs.shape[2:])
    size = max(1.0, np.abs(images).max(initial=0))
    for ours in (lesson.conv2d(images, weight, bias, *setting), lesson.conv2d_im2col(images, weight, bias, *setting)):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-12 * size)
    upstream = rng.normal(size=theirs.shape)
    theirs.backward(torch.from_numpy(upstream))
    before = images.copy(), weight.copy(), upstream.copy()
    for ours, tensor in zip(lesson.conv2d_backward(images, weight, upstream, *setting), (x, w, b), strict=True):
        assert ours.shape == tensor.shape
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-10, atol=1e-11 * size)
    for array, copy in zip((images, weight, upstream), before):
        np.testing.assert_array_equal(array, copy)  # nothing is changed in place


@fixed
@given(layers())
def test_im2col_is_unfold_and_col2im_is_fold(layer):
    images, weight, _, (stride, padding, dilation), _ = layer
    assume(len(images))
    kernel = weight.shape[2:]
    theirs = F.unfold(torch.from_numpy(images), kernel, dilation, padding, stride)
    ours = lesson.im2col(images, kernel, stride, padding, dilation)
    np.testing.assert_array_equal(ours, theirs.transpose(1, 2).reshape(ours.shape).numpy())
    folded = F.fold(theirs, images.shape[2:], kernel, dilation, padding, stride).numpy()
    back = lesson.col2im(ours, images.shape, kernel, stride, padding, dilation)
    np.testing.assert_allclose(back, folded, rtol=1e-12, atol=1e-12)


@fixed
@given(layers(), st.sampled_from([np.nan, np.inf, -np.inf, 1e308, 5e-324]))
def test_an_odd_pixel_reaches_the_outputs_that_read_it_and_no_others(layer, odd):
    images, weight, bias, setting, rng = layer
    assume(images.size)
    images[tuple(rng.integers(images.shape))] = odd
    theirs = F.conv2d(*map(torch.from_numpy, (images, weight, bias)), *setting).numpy()
    with np.errstate(all="ignore"):
        ours = lesson.conv2d(images, weight, bias, *setting)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))


@fixed
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), seeds)
def test_the_loops_are_scipys_correlation(h, w, kh, kw, seed):
    assume(kh <= h and kw <= w)
    rng = np.random.default_rng(seed)
    image, kernel = rng.normal(size=(h, w)), rng.normal(size=(kh, kw))
    np.testing.assert_allclose(lesson.correlate(image, kernel), correlate2d(image, kernel, "valid"), atol=1e-12)


@fixed
@given(st.sampled_from([0, 1, 2]), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4),
       st.integers(1, 3), st.booleans(), seeds)
def test_pooling_is_that_of_torch_also_where_pixels_are_equal(b, c, h, w, size, stride, ties, seed):
    assume(size <= min(h, w))
    rng = np.random.default_rng(seed)
    images = rng.integers(-1, 2, (b, c, h, w)).astype(float) if ties else rng.normal(size=(b, c, h, w))
    x = torch.from_numpy(images).requires_grad_()
    theirs = F.max_pool2d(x, size, stride)
    np.testing.assert_array_equal(lesson.max_pool2d(images, size, stride), theirs.detach().numpy())
    mean = F.avg_pool2d(x, size, stride).detach().numpy()
    np.testing.assert_allclose(lesson.avg_pool2d(images, size, stride), mean, atol=1e-12)
    upstream = rng.normal(size=theirs.shape)
    theirs.backward(torch.from_numpy(upstream))
    ours = lesson.max_pool2d_backward(images, upstream, size, stride)
    np.testing.assert_allclose(ours, x.grad.numpy(), atol=1e-12)


def test_pooling_hides_no_nan():
    images = np.zeros((1, 1, 2, 2))
    images[0, 0, 1, 0] = np.nan
    assert np.isnan(lesson.max_pool2d(images, 2, 2)).all() and np.isnan(lesson.avg_pool2d(images, 2, 2)).all()


@fixed
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=4))
def test_the_receptive_field_is_what_autograd_finds(stack):
    size, jump = lesson.receptive_field(stack)[-1]
    n = size + 2 * jump  # three units in a row fit
    x = torch.zeros(1, 1, n, n, dtype=torch.float64, requires_grad=True)
    out = x
    for kernel, stride, dilation in stack:
        out = F.conv2d(out, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), None, stride, 0, dilation)
    assert out.shape[-1] == 3
    out[0, 0, 1, 1].backward()
    np.testing.assert_array_equal(lesson.paths(stack, n), x.grad[0, 0].numpy())
    rows = x.grad[0, 0].sum(1).nonzero().ravel()
    assert rows[0] == jump and rows[-1] - rows[0] + 1 == size


@fixed
@given(st.integers(1, 4), st.sampled_from([0.0, 1e-6, 1.0, 100.0]), seeds)
def test_the_tiny_network_is_that_of_torch(b, scale, seed):
    rng = np.random.default_rng(seed)
    images, labels = scale * rng.normal(size=(b, 1, 4, 4)), rng.integers(0, 3, b)
    weights = [rng.normal(size=shape) for shape in ((2, 1, 3, 3), (2,), (3, 8), (3,))]
    x, *w = (torch.from_numpy(array).requires_grad_() for array in (images, *weights))
    logits = F.linear(F.max_pool2d(F.relu(F.conv2d(x, w[0], w[1], padding=1)), 2).flatten(1), w[2], w[3])
    loss = F.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    stages = lesson.tiny_cnn(images, labels, *weights)
    assert stages["loss"] == pytest.approx(loss.item(), rel=1e-10, abs=1e-12)
    gradients = lesson.tiny_cnn_backward(images, labels, weights[0], weights[2], stages)
    for ours, tensor in zip(gradients, (x, *w), strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-9, atol=1e-10 * max(1, scale))


def test_costs_are_the_library_layers():
    row = lesson.costs(6, 2, 3, 5)
    count = lambda layer: f"{sum(p.numel() for p in layer.parameters())}"  # noqa: E731
    assert str(row["convolution"]) == count(torch.nn.Conv2d(2, 3, 5, padding=2))
    assert str(row["linear layer"]) == count(torch.nn.Linear(2 * 36, 3 * 36))


def test_answers_of_the_exercises():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(4, 3, 3, 3))
    theirs = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), stride=2, padding=1).numpy()
    shape = (2, 3, *((n - 1) * 2 - 2 * 1 + 3 for n in (5, 6)))
    assert theirs.shape == shape
    np.testing.assert_allclose(lesson.conv2d_backward(np.zeros(shape), weight, x, 2, 1)[0], theirs, atol=1e-12)
    images, mean = rng.normal(size=(2, 3, 6, 4)), np.einsum("oc,ij->ocij", np.eye(3), np.full((2, 2), 0.25))
    pooled = lesson.avg_pool2d(images, 2, 2)
    np.testing.assert_allclose(lesson.conv2d(images, mean, np.zeros(3), stride=2), pooled, atol=1e-12)


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        "Chapter04/CNN_working_details.ipynb",
        "Largest difference to PyTorch: {largest_difference_to_pytorch:.0e}",
        "loss for label 1: {tiny_cnn_loss:.4f}",
        "Sobel kernel by more than {learned_kernel_largest_error:.0e}",
    )
    assert 1 / 3 < results["tiny_cnn_share_of_units_on"] < 1  # ReLU lets through and holds back
