"""What Feed_forward_propagation.ipynb defines, against PyTorch on random and hostile input."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.definitions import definitions

lesson = definitions(
    "Chapter01/Feed_forward_propagation.ipynb", "sigmoid", "relu", "leaky_relu", "gelu", "softmax", "forward", "mse",
    "mae", "binary_cross_entropy", "cross_entropy", "small_network")  # fmt: skip
check = settings(deadline=None)
hostile = st.sampled_from([0.0, -0.0, 5e-324, -1e-300, 1e-16, 36.7, -37.5, 709.8, -745.2, 1e4, -1e4, 1e300, -1e300])
numbers = st.one_of(hostile, st.floats(-100, 100))
any_array = arrays(np.float64, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5), elements=numbers)

ACTIVATIONS = {
    "sigmoid": torch.sigmoid, "relu": F.relu, "leaky_relu": F.leaky_relu, "gelu": F.gelu,
}  # fmt: skip


@pytest.mark.filterwarnings("error")  # an overflow that is repaired afterwards is an overflow all the same
@pytest.mark.parametrize("name", ACTIVATIONS)
@check
@given(z=any_array)
def test_activations(name, z):
    ours, theirs = getattr(lesson, name)(z), ACTIVATIONS[name](torch.from_numpy(z)).numpy()
    assert ours.shape == z.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_do_not_hide_nan(name):
    assert np.isnan(getattr(lesson, name)(np.array([np.nan, 1.0]))).tolist() == [True, False]


@pytest.mark.filterwarnings("error")
@check
@given(arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(1, 6)), elements=numbers))
def test_softmax(logits):
    ours = lesson.softmax(logits)
    np.testing.assert_allclose(ours, F.softmax(torch.from_numpy(logits), dim=1).numpy(), atol=1e-12)
    np.testing.assert_allclose(ours.sum(axis=1), np.ones(len(logits)), rtol=1e-12)


@check
@given(st.integers(1, 20), st.integers(0, 999), st.sampled_from([1e-8, 1.0, 1e4]))
def test_losses(n, seed, scale):
    rng = np.random.default_rng(seed)
    z, targets = scale * rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    t, y = torch.from_numpy(z), torch.from_numpy(targets)
    pairs = [(lesson.mse, F.mse_loss), (lesson.mae, F.l1_loss)]
    pairs.append((lesson.binary_cross_entropy, F.binary_cross_entropy_with_logits))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours(z, targets), theirs(t, y).item(), rtol=1e-10, atol=1e-12)
    logits, labels = scale * rng.normal(size=(n, 7)), rng.integers(0, 7, n)
    theirs = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    np.testing.assert_allclose(lesson.cross_entropy(logits, labels), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("z", [-1e300, -1e4, 1e4, 1e300])
def test_cross_entropies_are_finite_for_any_logit(z):
    with np.errstate(all="raise", under="ignore"):
        assert lesson.binary_cross_entropy(np.array([z]), np.array([1.0])) == pytest.approx(max(-z, 0))
        assert lesson.cross_entropy(np.array([[z, 0.0]]), np.array([0])) == pytest.approx(max(-z, 0))


@check
@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 999))
def test_forward_is_linear_sigmoid_linear(n, inputs, hidden, outputs, seed):
    """Any sizes, an empty batch and one sample included; a transposed weight or a forgotten bias differs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, inputs))
    parts = [rng.normal(size=shape) for shape in ((hidden, inputs), (hidden,), (outputs, hidden), (outputs,))]
    W1, b1, W2, b2 = map(torch.from_numpy, parts)
    Z1, H, Y_hat = lesson.forward(X, *parts)
    expected = F.linear(torch.from_numpy(X), W1, b1)
    np.testing.assert_allclose(Z1, expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(H, torch.sigmoid(expected).numpy(), atol=1e-12)
    np.testing.assert_allclose(Y_hat, F.linear(torch.sigmoid(expected), W2, b2).numpy(), atol=1e-12)


def test_the_network_of_the_chapter():
    parts = lesson.small_network(21)
    assert [part.shape for part in parts] == [(3, 2), (3,), (1, 3), (1,)]
    assert lesson.forward(np.array([[1.0, 1.0]]), *parts)[2].item() == pytest.approx(1.3895, abs=5e-5)


def test_softmax_keeps_a_nan_in_its_row():
    assert np.isnan(lesson.softmax(np.array([[np.nan, 1.0], [2.0, 3.0]]))).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("place", [0, 1])
def test_losses_do_not_hide_a_nan(place):
    """A NaN in the predictions of one sample is a NaN in the mean, as in PyTorch."""
    z, targets = np.array([0.5, -0.5]), np.array([0.0, 1.0])
    z[place] = np.nan
    for loss in (lesson.mse, lesson.mae, lesson.binary_cross_entropy):
        assert np.isnan(loss(z, targets))
    assert np.isnan(lesson.cross_entropy(np.stack([z, np.zeros(2)], axis=1), np.array([0, 0])))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_the_mean_over_no_sample_is_nan_as_in_torch():
    none, empty = np.zeros(0), torch.zeros(0, dtype=torch.float64)
    pairs = [(lesson.mse, F.mse_loss), (lesson.mae, F.l1_loss)]
    pairs.append((lesson.binary_cross_entropy, F.binary_cross_entropy_with_logits))
    for ours, theirs in pairs:
        assert np.isnan(ours(none, none)) and torch.isnan(theirs(empty, empty))
    assert np.isnan(lesson.cross_entropy(np.zeros((0, 3)), np.zeros(0, dtype=int)))
    assert torch.isnan(F.cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_leaky_relu_with_a_slope_of_ones_choice(slope):
    z = np.array([-1e300, -2.0, -5e-324, -0.0, 0.0, 5e-324, 2.0, 1e300])
    wanted = F.leaky_relu(torch.from_numpy(z), slope).numpy()
    np.testing.assert_allclose(lesson.leaky_relu(z, slope), wanted, rtol=1e-15, atol=0)


@check
@given(st.integers(1, 6), st.integers(0, 999), st.sampled_from([0.0, 1e-300, 1.0, 1e3]))
def test_forward_is_that_of_torch_modules_and_a_nan_stays_in_its_sample(n, seed, scale):
    rng = np.random.default_rng(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1)).double()
    parts = [scale * rng.normal(size=tuple(part.shape)) for part in network.parameters()]
    network.load_state_dict({name: torch.from_numpy(part) for name, part in zip(network.state_dict(), parts)})
    X = rng.normal(size=(n, 2))
    with torch.inference_mode():
        np.testing.assert_allclose(lesson.forward(X, *parts)[2], network(torch.from_numpy(X)), rtol=1e-10, atol=1e-12)
    X[0, 1] = np.nan
    assert np.isnan(lesson.forward(X, *parts)[2][:, 0]).tolist() == [True] + (n - 1) * [False]
