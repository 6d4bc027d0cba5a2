"""The definitions of Auto_gradient_of_tensors against PyTorch's layers, optimizer and own bookkeeping."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.definitions import definitions

NAMES = ("grow", "small_network", "squared_error", "graph_nodes", "chain_rule", "batch_loss", "descend", "saved_bytes",
         "gradient_norms", "digit_parameters", "digit_logits", "accuracy", "message", "cut")  # fmt: skip
lesson = definitions("Chapter02/Auto_gradient_of_tensors.ipynb", *NAMES)
SHAPES = {"W1": (3, 2), "b1": (3,), "W2": (1, 3), "b2": (1,)}
numbers = st.one_of(st.sampled_from([0.0, 1e-8, -30.0, 30.0]), st.floats(-5, 5))
weights = st.fixed_dictionaries({k: hnp.arrays(np.float64, shape, elements=numbers) for k, shape in SHAPES.items()})
exact = settings(deadline=None, max_examples=50)


def leaves(arrays):
    return {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in arrays.items()}


def test_the_small_network_is_the_one_of_chapter_1():
    same = definitions("Chapter01/Feed_forward_propagation.ipynb", "small_network")
    for seed in (0, 21):
        for ours, theirs in zip(lesson.small_network(seed), same.small_network(seed), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@exact
@given(weights, hnp.arrays(np.float64, 2, elements=numbers), numbers)
def test_chain_rule_equals_autograd(arrays, x, target):
    parameters = leaves(arrays)
    _, _, loss = lesson.squared_error(torch.from_numpy(x), target, **parameters)
    loss.backward()
    with np.errstate(over="ignore"):  # exp of a large number: the sigmoid becomes 0, which is right
        by_hand = lesson.chain_rule(x, target, **arrays)
    assert set(by_hand) == set(SHAPES)
    for name, gradient in by_hand.items():
        assert gradient.shape == SHAPES[name]
        np.testing.assert_allclose(gradient, parameters[name].grad.numpy(), rtol=1e-9, atol=1e-9)


@exact
@given(weights, hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=numbers))
def test_batch_loss_equals_layers_and_single_samples(arrays, X):
    parameters = {name: torch.from_numpy(array) for name, array in arrays.items()}
    X, targets = torch.from_numpy(X), torch.linspace(-1, 1, len(X), dtype=torch.float64)
    hidden = torch.sigmoid(F.linear(X, parameters["W1"], parameters["b1"]))
    theirs = F.mse_loss(F.linear(hidden, parameters["W2"], parameters["b2"])[:, 0], targets)
    ours = lesson.batch_loss(X, targets, **parameters)
    torch.testing.assert_close(ours, theirs)
    singles = [lesson.squared_error(x, t, **parameters)[2] for x, t in zip(X, targets, strict=True)]
    torch.testing.assert_close(ours, torch.stack(singles).mean())


def test_a_nan_input_stays_visible():
    parameters = {name: torch.ones(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    X = torch.full((1, 2), torch.nan, dtype=torch.float64)
    assert torch.isnan(lesson.batch_loss(X, torch.zeros(1), **parameters))


@pytest.mark.parametrize("zero", [True, False])
def test_descend_equals_torch_sgd(zero):
    x = torch.tensor([1.0, 1.0], dtype=torch.float64)
    ours, theirs = ([torch.from_numpy(w).requires_grad_() for w in lesson.small_network(21)] for _ in range(2))
    losses = lesson.descend(ours, lambda *p: lesson.squared_error(x, 0.0, *p)[2], 12, 0.05, zero)
    optimizer, expected = torch.optim.SGD(theirs, lr=0.05), []
    for _ in range(12):
        if zero:
            optimizer.zero_grad()
        loss = lesson.squared_error(x, 0.0, *theirs)[2]
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-12)
    assert losses[0] == pytest.approx(1.9306, abs=5e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@exact
@given(st.floats(0.01, 100))
def test_grow_and_its_slope(start):
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    y, turns = lesson.grow(x)
    (slope,) = torch.autograd.grad(y, x)
    grown = start * 3**turns
    assert grown >= 20 * (1 - 1e-12) and (turns == 0 or grown / 3 < 20 * (1 + 1e-12))
    squared = grown < 40
    assert y.item() == pytest.approx(grown**2 if squared else grown, rel=1e-12)
    assert slope.item() == pytest.approx(3**turns * (2 * grown if squared else 1), rel=1e-12)


def test_graph_nodes_finds_each_leaf_once_with_its_parent():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    loss = (torch.sigmoid(a * 2) + b).sum()
    nodes = lesson.graph_nodes(loss.grad_fn, {id(a): "a", id(b): "b"})
    assert sorted(label for label, *_ in nodes if label in "ab") == ["a", "b"]
    assert [label for label, *_ in nodes if "Backward" in label] == [
        "SumBackward", "AddBackward", "SigmoidBackward", "MulBackward"]  # fmt: skip
    parents = {label: nodes[parent][0] for label, _, _, parent in nodes if parent is not None}
    assert parents["a"] == "MulBackward" and parents["b"] == "AddBackward"


def test_saved_bytes_counts_shared_memory_once_and_nothing_without_recording():
    w = torch.ones(100, dtype=torch.float64, requires_grad=True)
    assert lesson.saved_bytes(lambda: w.exp()) == 800  # keeps its output
    assert lesson.saved_bytes(lambda: (w * w).sum()) == 800  # keeps both factors: the same memory
    assert lesson.saved_bytes(lambda: w + 1) == 0
    with torch.no_grad():
        assert lesson.saved_bytes(lambda: w.exp()) == 0


def test_gradient_norms_equal_retained_gradients():
    depth, width, seed = 5, 16, 3
    g = torch.Generator().manual_seed(seed)
    h, kept = torch.randn(64, width, generator=g, dtype=torch.float64), []
    for _ in range(depth):
        h = torch.tanh(h @ (torch.randn(width, width, generator=g, dtype=torch.float64) * (2 / width) ** 0.5).T)
        if not h.requires_grad:
            h.requires_grad_()
        h.retain_grad()
        kept.append(h)
    h.square().mean().backward()
    expected = [layer.grad.norm().item() for layer in kept]
    assert lesson.gradient_norms(torch.tanh, depth, width, seed) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_digit_reader_equals_linear_layers(n):
    parameters = lesson.digit_parameters(5, 0, torch.device("cpu"))
    assert [tuple(p.shape) for p in parameters] == [(5, 64), (5,), (10, 5), (10,)]
    assert all(p.is_leaf and p.requires_grad for p in parameters)
    images = torch.rand(n, 64, generator=torch.Generator().manual_seed(1))
    W1, b1, W2, b2 = parameters
    theirs = F.linear(torch.tanh(F.linear(images, W1, b1)), W2, b2)
    torch.testing.assert_close(lesson.digit_logits(images, *parameters), theirs)
    if n:
        labels = theirs.argmax(dim=1)
        labels[0] = (labels[0] + 1) % 10
        assert lesson.accuracy(images, labels, parameters) == pytest.approx(1 - 1 / n)


def test_message_and_the_planted_fault():
    assert lesson.message(lambda: None) == "no error"
    assert lesson.message(lambda: torch.ones(2) @ torch.ones(3)) != "no error"
    W1, W2 = torch.ones(3, 2, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    lesson.cut(torch.ones(2), W1, W2).backward()
    assert W1.grad is None and W2.grad is not None
