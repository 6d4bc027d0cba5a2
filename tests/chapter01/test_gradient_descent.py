"""What Gradient_descent.ipynb defines, against torch.nn, torch.optim.SGD, torch.autograd and brute force."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

NOTEBOOK = "Chapter01/Gradient_descent.ipynb"
lesson = definitions(NOTEBOOK, "small_network", "sigmoid", "predict", "loss_of", "slope_of", "numerical_gradient",
                     "forward_gradient", "exact_gradient", "relative_error", "bowl", "bowl_gradient", "descend",
                     "steps_needed", "train", "cost_of_gradient")
fixed = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1e-300, 1e-6, 1.0, 30.0, 1e6])


def random_case(seed, hidden, samples, scale=1.0):
    """Weights (4 * hidden + 1,), inputs (samples, 2) and targets (samples,)."""
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=4 * hidden + 1), rng.normal(size=(samples, 2)), rng.normal(size=samples)


def modules(weights):
    """The same network from torch.nn, in float64, with the weights in the order in which the notebook stores them."""
    k = len(weights) // 4
    network = torch.nn.Sequential(torch.nn.Linear(2, k), torch.nn.Sigmoid(), torch.nn.Linear(k, 1)).double()
    torch.nn.utils.vector_to_parameters(torch.tensor(weights), network.parameters())
    return network


def torch_loss(network, X, targets):
    return torch.nn.functional.mse_loss(network(torch.tensor(X))[:, 0], torch.tensor(targets))


def torch_gradient(weights, X, targets):
    network = modules(weights)
    parts = torch.autograd.grad(torch_loss(network, X, targets), list(network.parameters()))
    return torch.cat([part.ravel() for part in parts]).numpy()


def test_the_small_network_is_the_one_of_the_chapter():
    W1, b1, W2, b2 = lesson.small_network(21)
    assert W1.tolist() == [[0.6, 0.2], [0.4, -0.8], [0.3, 1.0]] and b1.tolist() == [-0.2, -0.8, 0.9]
    assert W2.tolist() == [[0.4, -0.6, 0.3]] and b2.tolist() == [1.0]


@fixed
@given(seeds, st.integers(1, 9), st.sampled_from([0, 1, 2, 7]), scales)
def test_predictions_and_loss_are_those_of_torch(seed, hidden, samples, scale):
    weights, X, targets = random_case(seed, hidden, samples, scale)
    network = modules(weights)
    with torch.inference_mode():
        np.testing.assert_allclose(lesson.predict(weights, X), network(torch.tensor(X))[:, 0], rtol=1e-9, atol=1e-12)
        if samples:
            wanted = torch_loss(network, X, targets).item()
            assert lesson.loss_of(weights, X, targets) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_a_nan_in_one_sample_stays_in_that_sample():
    weights, X, _ = random_case(0, 3, 4)
    X[2, 0] = np.nan
    assert np.isnan(lesson.predict(weights, X)).tolist() == [False, False, True, False]


@fixed
@given(seeds, st.integers(1, 6), st.integers(0, 5))
def test_central_difference_is_exact_for_a_parabola_and_leaves_the_weights_alone(seed, size, entry):
    rng = np.random.default_rng(seed)
    A, w, i = rng.normal(size=(size, size)), rng.normal(size=size), entry % size
    before = w.copy()
    slope = lesson.slope_of(lambda w: w @ A @ w, w, i, 0.5)
    assert slope == pytest.approx(((A + A.T) @ w)[i], rel=1e-10, abs=1e-12)
    np.testing.assert_array_equal(w, before)


@fixed
@given(seeds, st.integers(1, 9), st.sampled_from([1, 2, 7]))
def test_three_gradients_agree_entry_by_entry(seed, hidden, samples):
    weights, X, targets = random_case(seed, hidden, samples)
    wanted = torch_gradient(weights, X, targets)
    np.testing.assert_allclose(lesson.exact_gradient(weights, X, targets), wanted, rtol=1e-12, atol=1e-14)
    central = lesson.numerical_gradient(lambda w: lesson.loss_of(w, X, targets), weights, 1e-5)
    np.testing.assert_allclose(central, wanted, rtol=0, atol=1e-7)
    forward = lesson.forward_gradient(lambda w: lesson.loss_of(w, X, targets), weights, 1e-7)
    np.testing.assert_allclose(forward, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1e300, -1.0])
def test_a_constant_has_no_slope(constant):
    np.testing.assert_array_equal(lesson.numerical_gradient(lambda w: constant, np.zeros(4), 1e-5), np.zeros(4))


def test_relative_error():
    exact = np.array([3.0, 4.0])
    assert lesson.relative_error(exact, exact) == 0
    assert lesson.relative_error(np.zeros(2), exact) == 1
    assert lesson.relative_error(-exact, exact) == 2


@fixed
@given(seeds, st.floats(0.1, 1e3))
def test_gradient_of_the_bowl(seed, k):
    w = np.random.default_rng(seed).normal(size=2)
    leaf = torch.tensor(w, requires_grad=True)
    wanted = torch.autograd.grad(0.5 * (leaf[0] ** 2 + k * leaf[1] ** 2), leaf)[0]
    np.testing.assert_allclose(lesson.bowl_gradient(w, k), wanted, rtol=1e-12)
    central = lesson.numerical_gradient(lambda w: lesson.bowl(w, k), w, 1e-3)
    np.testing.assert_allclose(central, wanted, rtol=1e-6, atol=1e-6 * k)


@fixed
@given(seeds, st.floats(0, 0.99), st.floats(1e-4, 0.1), st.integers(0, 30))
def test_descend_walks_as_torch_does(seed, momentum, rate, steps):
    start = np.random.default_rng(seed).normal(size=2)
    leaf = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.SGD([leaf], lr=rate, momentum=momentum)
    wanted = [start]
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (leaf[0] ** 2 + 7 * leaf[1] ** 2)).backward()
        optimizer.step()
        wanted.append(leaf.detach().numpy().copy())
    path = lesson.descend(lambda w: lesson.bowl_gradient(w, 7.0), start, rate, steps, momentum)
    assert path.shape == (steps + 1, 2)
    np.testing.assert_allclose(path, np.array(wanted), rtol=1e-9, atol=1e-12)


def needed_by_brute_force(heights, share):
    for step in range(1, len(heights)):
        if all(height <= share * heights[0] for height in heights[step:]):
            return step
    return np.nan


@fixed
@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, np.nan, np.inf]), max_size=8))
def test_steps_needed(rest):
    path = np.array([[1.0, 0.0], *([u, 0.0] for u in rest)])
    heights = 0.5 * path[:, 0] ** 2
    np.testing.assert_equal(float(lesson.steps_needed(path, 4.0, 0.3)), float(needed_by_brute_force(heights, 0.3)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_sgd_on_the_exact_gradient(momentum):
    weights, X, targets = random_case(5, 3, 4)
    network = modules(weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=momentum)
    wanted = []
    for _ in range(21):
        loss = torch_loss(network, X, targets)
        wanted.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = weights.copy()
    final, losses = lesson.train(weights, X, targets, 0.05, momentum, 0.0, 20, 1e-5)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert lesson.loss_of(final, X, targets) == losses[-1]
    np.testing.assert_array_equal(weights, before)


def test_training_stops_at_the_goal_at_the_limit_and_when_it_flies_off():
    weights, X, targets = random_case(5, 3, 4)
    start = lesson.loss_of(weights, X, targets)
    final, losses = lesson.train(weights, X, targets, 0.05, 0.0, start + 1, 20, 1e-5)
    assert losses.tolist() == [start] and (final == weights).all()
    losses = lesson.train(weights, X, targets, 0.05, 0.0, 0.9 * start, 500, 1e-5)[1]
    assert losses[-1] <= 0.9 * start < losses[-2]
    assert len(lesson.train(weights, X, targets, 1e-6, 0.0, 0.0, 7, 1e-5)[1]) == 8
    losses = lesson.train(weights, X, targets, 100.0, 0.0, 0.0, 500, 1e-5)[1]
    assert len(losses) < 500 and losses[-1] >= 100 > losses[-2]


@pytest.mark.parametrize("width", [1, 3, 17])
def test_the_passes_of_a_numerical_gradient_are_counted(width):
    _, X, targets = random_case(0, 1, 4)
    size, calls, seconds = lesson.cost_of_gradient(width, X, targets, 1e-5)
    assert size == 4 * width + 1 and calls == 2 * size and seconds > 0
