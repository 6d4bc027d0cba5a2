"""The definitions of Learning_rate against closed forms, pandas, PyTorch's autograd and its schedules."""
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.definitions import definitions

NAMES = ("hessian_of_line", "descend", "loss_grid", "observed_bound", "sigmoid", "two_layer_forward", "backward",
         "squared_error",
         "small_network", "pack", "unpack", "loss_and_gradient", "hessian_of_network", "train_small",
         "cross_entropy_and_gradient",
         "init_params", "train", "smooth", "constant", "cosine", "noisy_line_run")  # fmt: skip
lesson = definitions("Chapter01/Learning_rate.ipynb", *NAMES)
exact = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 10_000)


def line_problem(seed, n, p=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=n), rng.normal(size=p)


def tensors(arrays):
    return [torch.from_numpy(np.array(array)).requires_grad_() for array in arrays]


def test_the_small_network_is_the_one_of_the_chapter():
    same = definitions("Chapter01/Feed_forward_propagation.ipynb", "small_network")
    for ours, theirs in zip(lesson.small_network(21), same.small_network(21), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@exact
@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_hessian_of_line_equals_autograd(seed, n, p):
    A, y, theta = line_problem(seed, n, p)
    design, goal = torch.from_numpy(A), torch.from_numpy(y)
    start = torch.from_numpy(theta)
    expected = torch.autograd.functional.hessian(lambda t: torch.mean((design @ t - goal) ** 2), start)
    np.testing.assert_allclose(lesson.hessian_of_line(A), expected.numpy(), rtol=1e-10, atol=1e-12)


@exact
@given(seeds, st.integers(2, 6), st.floats(0, 2), st.integers(0, 20))
def test_descend_follows_the_closed_form(seed, n, fraction, steps):
    A, y, start = line_problem(seed, n)
    H = lesson.hessian_of_line(A)
    rate = fraction / np.linalg.eigvalsh(H)[-1]
    solution = np.linalg.pinv(A) @ y
    expected = solution + np.linalg.matrix_power(np.eye(2) - rate * H, steps) @ (start - solution)
    path = lesson.descend(A, y, start, rate, steps)
    assert path.shape == (steps + 1, 2)
    scale = 1 + np.abs(solution).max() + np.abs(start).max()
    np.testing.assert_allclose(path[-1], expected, rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_array_equal(path[0], start)


@settings(deadline=None, max_examples=5)
@given(seeds, st.integers(3, 8))
def test_the_bound_separates_on_random_problems(seed, n):
    A, y, start = line_problem(seed, n)
    bound = 2 / np.linalg.eigvalsh(lesson.hessian_of_line(A))[-1]
    assert np.abs(lesson.descend(A, y, start, 0.98 * bound, 2000)).max() < 1e9
    assert np.abs(lesson.descend(A, y, start, 1.02 * bound, 2000)[-1]).max() > 1e9


def test_observed_bound_is_the_predicted_one():
    A, y, start = line_problem(3, 6)
    predicted = 2 / np.linalg.eigvalsh(lesson.hessian_of_line(A))[-1]
    assert lesson.observed_bound(A, y, start) == pytest.approx(predicted, rel=0.02)


def test_loss_grid_is_the_loss():
    A, y, _ = line_problem(0, 5)
    w, b = np.meshgrid([-1.0, 0.0, 2.0], [0.5, 3.0])
    grid = lesson.loss_grid(A, y, w, b)
    assert grid.shape == (2, 3)
    assert grid[1, 2] == pytest.approx(np.mean((A @ [2.0, 3.0] - y) ** 2))


@exact
@given(seeds, st.sampled_from([1, 2, 5]), st.sampled_from([0.0, 1e-8, 1.0, 100.0]), st.booleans())
def test_gradients_equal_autograd(seed, n, scale, classify):
    rng = np.random.default_rng(seed)
    inputs, hidden, outputs = rng.integers(1, 6, 3)
    params = [scale * p for p in lesson.init_params(rng, inputs, hidden, outputs)]
    params[1], params[3] = rng.normal(size=hidden), rng.normal(size=outputs)
    X, targets, labels = rng.normal(size=(n, inputs)), rng.normal(size=(n, outputs)), rng.integers(outputs, size=n)
    H, predictions = lesson.two_layer_forward(params, X)
    if classify:
        loss, d_output = lesson.cross_entropy_and_gradient(predictions, labels)
    else:
        loss, d_output = lesson.squared_error(predictions[:, :1], targets[:, :1])
        d_output = np.concatenate([d_output, np.zeros((n, outputs - 1))], axis=1)
    W1, b1, W2, b2 = leaves = tensors(params)
    scores = F.linear(torch.sigmoid(F.linear(torch.from_numpy(X), W1, b1)), W2, b2)
    expected = (F.cross_entropy(scores, torch.from_numpy(labels)) if classify
                else F.mse_loss(scores[:, :1], torch.from_numpy(targets[:, :1])))  # fmt: skip
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    for ours, leaf in zip(lesson.backward(params, X, H, d_output), leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad.numpy(), rtol=1e-8, atol=1e-10)


@exact
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)),
                  elements=st.sampled_from([-1e4, -30.0, -1e-12, 0.0, 1.0, 1e4])))  # fmt: skip
def test_cross_entropy_and_its_derivative_on_cruel_logits(logits):
    labels = np.arange(len(logits)) % logits.shape[1]
    (t,) = tensors([logits])
    expected = F.cross_entropy(t, torch.from_numpy(labels))
    expected.backward()
    loss, derivative = lesson.cross_entropy_and_gradient(logits, labels)
    assert loss == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(derivative, t.grad.numpy(), atol=1e-12)


def test_nan_is_not_swallowed():
    assert np.isnan(lesson.cross_entropy_and_gradient(np.array([[np.nan, 0.0]]), np.array([1]))[0])
    assert np.isnan(lesson.squared_error(np.array([[np.nan]]), np.array([[0.0]]))[0])


@exact
@given(seeds, st.sampled_from([1, 4]))
def test_hessian_of_network_equals_autograd(seed, n):
    rng = np.random.default_rng(seed)
    vector, X, targets = rng.uniform(-1, 1, 13), rng.normal(size=(n, 2)), rng.normal(size=(n, 1))

    def loss(v):
        hidden = torch.sigmoid(torch.from_numpy(X) @ v[:6].reshape(3, 2).T + v[6:9])
        return torch.mean((hidden @ v[9:12].reshape(1, 3).T + v[12:] - torch.from_numpy(targets)) ** 2)

    expected = torch.autograd.functional.hessian(loss, torch.from_numpy(vector))
    np.testing.assert_allclose(lesson.hessian_of_network(vector, X, targets), expected.numpy(), atol=1e-7)
    np.testing.assert_array_equal(lesson.pack(lesson.unpack(vector)), vector)


def test_train_small_is_torch_sgd():
    start, X, targets = lesson.pack(lesson.small_network(21)), np.array([[1.0, 1.0]]), np.array([[0.0]])
    end, losses = lesson.train_small(start, X, targets, 0.3, steps=20)
    W1, b1, W2, b2 = leaves = tensors(lesson.small_network(21))
    optimizer = torch.optim.SGD(leaves, lr=0.3)
    for loss in losses:
        expected = F.mse_loss(F.linear(torch.sigmoid(F.linear(torch.from_numpy(X), W1, b1)), W2, b2), torch.zeros(1, 1))
        assert loss == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    np.testing.assert_allclose(end, lesson.pack([leaf.detach().numpy() for leaf in leaves]), rtol=1e-9)


def test_train_sees_every_sample_once_an_epoch():
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(12, 3)), np.arange(12) % 3
    params, losses = lesson.train(X, labels, np.zeros(8), 3, 4, seed=5)  # rate 0: nothing moves, two epochs of four
    whole = lesson.cross_entropy_and_gradient(lesson.two_layer_forward(params, X)[1], labels)[0]
    assert losses[:4].mean() == pytest.approx(whole) and losses[4:].mean() == pytest.approx(whole)
    assert not np.allclose(losses[:4], losses[4:])  # in another order
    for ours, fresh in zip(params, lesson.init_params(np.random.default_rng(5), 3, 4, 3), strict=True):
        np.testing.assert_array_equal(ours, fresh)
    assert lesson.train(X, labels, np.full(600, 2.0), 3, 8, seed=5)[1][-4:].mean() < whole / 2


@exact
@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)), st.floats(0.01, 0.99))
def test_smooth_is_pandas_ewm(values, keep):
    expected = pd.Series(values).ewm(alpha=1 - keep, adjust=True).mean().to_numpy()
    np.testing.assert_allclose(lesson.smooth(values, keep), expected, rtol=1e-9, atol=1e-6)


@exact
@given(st.floats(1e-6, 100), st.integers(1, 60))
def test_cosine_is_torch_schedule(rate, updates):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
    expected = []
    for _ in range(updates):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(lesson.cosine(rate, updates), expected, rtol=1e-6, atol=1e-9 * rate)
    np.testing.assert_array_equal(lesson.constant(rate, updates), [rate] * updates)


def test_noisy_line_run_never_beats_least_squares():
    excess = lesson.noisy_line_run(lesson.cosine(0.1, 500), seed=1)
    assert len(excess) == 500 and excess.min() > -1e-12 and excess[-50:].mean() < excess[0] / 20
