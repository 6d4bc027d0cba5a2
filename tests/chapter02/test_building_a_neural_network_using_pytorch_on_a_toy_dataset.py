"""The definitions of Building_a_neural_network_using_PyTorch_on_a_toy_dataset against NumPy, SGD by hand and Adam."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

NAMES = ("TwoLayerNetwork", "fit", "predict", "new_network", "answers", "rmse", "with_ones")
lesson = definitions("Chapter02/Building_a_neural_network_using_PyTorch_on_a_toy_dataset.ipynb", *NAMES)
cpu = torch.device("cpu")
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 5), st.sampled_from([0.0, 1.0, 1e-20, 1e6]), st.sampled_from([nn.ReLU, nn.Tanh]))
def test_the_network_equals_its_formula(sizes, n, scale, activation):
    network = lesson.new_network(sizes, 0, cpu, activation)
    x = scale * torch.randn(n, sizes[0], generator=torch.Generator().manual_seed(n))
    W1, b1, W2, b2 = (p.detach().double().numpy() for p in network.parameters())
    assert W1.shape == (sizes[1], sizes[0]) and W2.shape == (sizes[2], sizes[1])
    z = x.double().numpy() @ W1.T + b1
    expected = (np.maximum(z, 0) if activation is nn.ReLU else np.tanh(z)) @ W2.T + b2
    assert network(x).shape == (n, sizes[2])
    np.testing.assert_allclose(lesson.predict(network, x).numpy(), expected, rtol=1e-4, atol=1e-5 * max(scale, 1))


def test_a_bad_number_spoils_its_own_sample_only():
    x = torch.ones(3, 2)
    x[1, 0] = torch.nan
    finite = torch.isfinite(lesson.predict(lesson.new_network((2, 8, 1), 0, cpu), x))[:, 0]
    assert finite.tolist() == [True, False, True]


def test_starting_weights_depend_on_the_seed_alone():
    first, again, other = (lesson.new_network((2, 8, 1), seed, cpu) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_fit_equals_adam_written_out():
    """Kingma & Ba 2015, algorithm 1, with PyTorch's defaults."""
    network, twin = (lesson.new_network((2, 3, 1), 0, cpu).double() for _ in range(2))
    X = torch.tensor([[1.0, 1.0], [2.0, 4.0], [5.0, 3.0]], dtype=torch.float64)
    targets = X.sum(dim=1, keepdim=True)
    losses = lesson.fit(network, X, targets, 7, 0.03)
    parameters, expected = list(twin.parameters()), []
    m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for t in range(1, 8):
        loss = ((twin(X) - targets) ** 2).mean()
        expected.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
                m[k], v[k] = 0.9 * m[k] + 0.1 * g, 0.999 * v[k] + 0.001 * g**2
                p -= 0.03 * (m[k] / (1 - 0.9**t)) / ((v[k] / (1 - 0.999**t)).sqrt() + 1e-8)
    assert losses == pytest.approx(expected, rel=1e-9)
    for ours, theirs in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_predict_leaves_evaluation_mode_and_records_nothing():
    network = lesson.new_network((2, 8, 1), 0, cpu).train()
    assert lesson.predict(network, torch.ones(1, 2)).requires_grad is False
    assert not network.training


def test_answers_stand_beside_the_truth():
    adder = nn.Linear(2, 1)
    with torch.no_grad():
        adder.weight.fill_(1.0)
        adder.bias.fill_(0.5)
    table = lesson.answers([adder, adder], [(1.0, 2.0), (-50.0, 50.0)])
    assert table["sum"].tolist() == [3.0, 0.0] and table["network 1"].tolist() == [3.5, 0.5]
    assert list(table.index) == ["1 + 2", "-50 + 50"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.floats(-100, 100))
def test_rmse_equals_numpy(values, shift):
    a = torch.tensor(values, dtype=torch.float64)
    b = a.flip(0) + shift
    assert lesson.rmse(a, b) == pytest.approx(np.sqrt(np.mean((a.numpy() - b.numpy()) ** 2)), abs=1e-12)
    assert lesson.rmse(a, a) == 0


def test_with_ones_appends_the_column():
    assert lesson.with_ones(torch.zeros(2, 3)).tolist() == [[0, 0, 0, 1]] * 2
    assert lesson.with_ones(torch.zeros(0, 3)).shape == (0, 4)
