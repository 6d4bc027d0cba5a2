"""What Chain_rule.ipynb defines, against torch.nn, torch.autograd and formulas written out with loops."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

lesson = definitions("Chapter01/Chain_rule.ipynb", "small_network", "sigmoid", "forward_sample", "gradient_sample",
                     "unpack", "autograd_sample", "nudge_sample", "compare")
fixed = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)
values = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-300, -1e-300, 1e6])


def random_weights(seed, hidden=3, inputs=2):
    """W1 (hidden, inputs), b1 (hidden,), W2 (1, hidden), b2 (1,)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((hidden, inputs), (hidden,), (1, hidden), (1,))]


def torch_slopes(x, target, weights):
    """Loss and slopes, in the order W1, b1, W2, b2, x, from torch.nn.Linear and mse_loss in float64."""
    hidden, inputs = weights[0].shape
    layers = torch.nn.Linear(inputs, hidden), torch.nn.Sigmoid(), torch.nn.Linear(hidden, 1)
    network = torch.nn.Sequential(*layers).double()
    network.load_state_dict({name: torch.tensor(part) for name, part in zip(network.state_dict(), weights)})
    sample = torch.tensor(x, requires_grad=True)
    loss = torch.nn.functional.mse_loss(network(sample), torch.tensor([target], dtype=torch.float64))
    slopes = torch.autograd.grad(loss, [*network.parameters(), sample])
    return loss.item(), [slope.numpy() for slope in slopes]


def test_the_small_network_is_the_one_of_the_chapter():
    same = lesson.unpack(np.array([0.6, 0.2, 0.4, -0.8, 0.3, 1.0, -0.2, -0.8, 0.9, 0.4, -0.6, 0.3, 1.0]))
    for ours, part in zip(lesson.small_network(21), same, strict=True):
        assert ours.shape == part.shape and ours.tolist() == part.tolist()


@fixed
@given(seeds, st.lists(values, min_size=2, max_size=2), values)
def test_forward_and_slopes_are_those_of_torch_for_any_sample(seed, x, target):
    x, weights = np.array(x), random_weights(seed)
    loss, wanted = torch_slopes(x, target, weights)
    z, h, prediction, ours = lesson.forward_sample(x, target, *weights)
    assert z.shape == h.shape == (3,) and prediction.shape == (1,)
    assert ours == pytest.approx(loss, rel=1e-9, abs=1e-12)
    for ours, theirs in zip(lesson.gradient_sample(x, target, *weights), wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * max(1, abs(target)) * max(1, np.abs(x).max()))


@fixed
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_slopes_of_other_sizes(seed, hidden, inputs):
    weights = random_weights(seed, hidden, inputs)
    x, target = np.random.default_rng(seed + 1).normal(size=inputs), 0.5
    wanted = torch_slopes(x, target, weights)[1]
    for ours, theirs in zip(lesson.gradient_sample(x, target, *weights), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@fixed
@given(seeds)
def test_every_slope_is_its_own_chain(seed):
    rng = np.random.default_rng(seed)
    x, target, (W1, b1, W2, b2) = rng.normal(size=2), rng.normal(), random_weights(seed)
    _, h, prediction, _ = lesson.forward_sample(x, target, W1, b1, W2, b2)
    d_W1, d_b1, d_W2, d_b2, d_x = lesson.gradient_sample(x, target, W1, b1, W2, b2)
    error = 2 * (prediction[0] - target)
    for j in range(3):
        through = error * W2[0, j] * h[j] * (1 - h[j])
        assert d_b1[j] == pytest.approx(through)
        assert d_W2[0, j] == pytest.approx(error * h[j])
        for i in range(2):
            assert d_W1[j, i] == pytest.approx(through * x[i])
    assert d_b2[0] == pytest.approx(error)
    for i in range(2):
        assert d_x[i] == pytest.approx(sum(d_b1[j] * W1[j, i] for j in range(3)))


def test_no_error_no_input_or_a_saturated_unit_means_no_slope():
    weights = random_weights(3)
    x = np.array([0.7, -1.3])
    _, _, prediction, _ = lesson.forward_sample(x, 0.0, *weights)
    assert all((slope == 0).all() for slope in lesson.gradient_sample(x, prediction[0], *weights))
    assert (lesson.gradient_sample(np.zeros(2), 5.0, *weights)[0] == 0).all()
    weights[1] = np.array([1000.0, -1000.0, 0.0])
    d_W1, d_b1, *_ = lesson.gradient_sample(x, 5.0, *weights)
    assert (d_b1 == 0).tolist() == [True, True, False] and (d_W1 == 0).all(axis=1).tolist() == [True, True, False]


def test_a_nan_reaches_every_slope():
    slopes = lesson.gradient_sample(np.array([np.nan, 1.0]), 0.0, *random_weights(0))
    assert all(np.isnan(slope).all() for slope in slopes)


@fixed
@given(seeds)
def test_the_referees_agree_and_the_table_keeps_its_rows_apart(seed):
    rng = np.random.default_rng(seed)
    x, target, weights = rng.normal(size=2), rng.normal(), rng.normal(size=13)
    wanted = np.concatenate([part.ravel() for part in torch_slopes(x, target, lesson.unpack(weights))[1][:4]])
    ours = lesson.autograd_sample(x, target, *lesson.unpack(weights))
    np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(lesson.nudge_sample(x, target, weights, 1e-5), wanted, rtol=0, atol=1e-7)
    table = lesson.compare(x, target, weights, 1e-5)
    assert table.shape == (13, 4)
    np.testing.assert_allclose(table["chain rule"], wanted, rtol=1e-12, atol=1e-14)
    three = table[["chain rule", "central difference", "autograd"]].to_numpy()
    np.testing.assert_array_equal(table["largest difference"], np.ptp(three, axis=1))
