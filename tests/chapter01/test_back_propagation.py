"""What Back_propagation.ipynb defines, against torch.nn, torch.autograd, torch.optim.SGD and scikit-learn."""
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

lesson = definitions("Chapter01/Back_propagation.ipynb", "backward_products", "forward", "backward", "sigmoid",
                     "sigmoid_derivative", "tanh_derivative", "small_network", "flatten", "init_layers",
                     "binary_cross_entropy", "network_loss", "loss_and_gradients", "numerical_gradients",
                     "relative_difference", "train", "mistakes", "accuracy", "seconds_per_call", "gradient_costs",
                     "autograd_gradients")
fixed = settings(deadline=None, derandomize=True, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
widths = st.lists(st.integers(1, 6), min_size=2, max_size=6)
ACTIVATIONS = {"tanh": (np.tanh, lesson.tanh_derivative, torch.nn.Tanh),
               "sigmoid": (lesson.sigmoid, lesson.sigmoid_derivative, torch.nn.Sigmoid)}
names = st.sampled_from(sorted(ACTIVATIONS))
hostile = st.sampled_from([0.0, -0.0, 1e-300, 1e300, -1e300])
logit_lists = st.lists(st.floats(-1e6, 1e6) | hostile, min_size=1, max_size=9)
bce = torch.nn.functional.binary_cross_entropy_with_logits


def random_layers(sizes, rng, scale=1.0):
    """Layers [(W, b), ...] for sizes (inputs, ..., outputs), biases not zero either."""
    return [(scale * rng.normal(size=(m, n)), scale * rng.normal(size=m)) for n, m in zip(sizes, sizes[1:])]


def modules(layers, activation=torch.nn.Tanh):
    """The same network from torch.nn, in float64."""
    parts = []
    for W, b in layers:
        linear = torch.nn.Linear(W.shape[1], W.shape[0]).double()
        linear.load_state_dict({"weight": torch.tensor(W), "bias": torch.tensor(b)})
        parts += [linear, activation()]
    return torch.nn.Sequential(*parts[:-1])


def torch_gradients(network, outputs, d_outputs):
    return torch.cat([g.ravel() for g in torch.autograd.grad(outputs, list(network.parameters()), d_outputs)]).numpy()


@fixed
@given(seeds, widths, st.sampled_from([0, 1, 2, 9]), names, st.sampled_from([0.0, 1e-150, 1.0, 20.0, 1e3]))
def test_forward_and_backward_are_those_of_torch(seed, sizes, samples, name, scale):
    rng = np.random.default_rng(seed)
    activation, derivative, module = ACTIVATIONS[name]
    layers, X = random_layers(sizes, rng, scale), rng.normal(size=(samples, sizes[0]))
    d_outputs = rng.normal(size=(samples, sizes[-1]))
    network = modules(layers, module)
    outputs = network(torch.tensor(X))
    values = lesson.forward(X, layers, activation)
    assert [value.shape for value in values] == [(samples, size) for size in sizes]
    np.testing.assert_allclose(values[-1], outputs.detach(), rtol=1e-9, atol=1e-12)
    gradients = lesson.backward(values, layers, derivative, d_outputs)
    assert [(d_W.shape, d_b.shape) for d_W, d_b in gradients] == [(W.shape, b.shape) for W, b in layers]
    wanted = torch_gradients(network, outputs, torch.tensor(d_outputs))
    np.testing.assert_allclose(lesson.flatten(gradients), wanted, rtol=1e-7, atol=1e-9 * max(1, np.abs(wanted).max()))


@fixed
@given(seeds, widths, names)
def test_three_ways_to_the_gradients_of_the_loss(seed, sizes, name):
    rng = np.random.default_rng(seed)
    activation, derivative, module = ACTIVATIONS[name]
    layers, X = random_layers([*sizes, 1], rng), rng.normal(size=(7, sizes[0]))
    targets = rng.integers(0, 2, size=7)
    network = modules(layers, module)
    loss = bce(network(torch.tensor(X))[:, 0], torch.tensor(targets).double())
    wanted = torch_gradients(network, loss, None)
    ours, gradients = lesson.loss_and_gradients(X, targets, layers, activation, derivative)
    assert ours == pytest.approx(loss.item(), rel=1e-12)
    assert lesson.network_loss(X, targets, layers, activation) == ours
    np.testing.assert_allclose(lesson.flatten(gradients), wanted, rtol=0, atol=1e-12)
    referee = lesson.autograd_gradients(X, targets, layers, getattr(torch, name))
    np.testing.assert_allclose(referee, wanted, rtol=0, atol=1e-14)
    numerical = lesson.numerical_gradients(X, targets, layers, 1e-5, activation)
    np.testing.assert_allclose(numerical, wanted, rtol=0, atol=1e-8)


def test_the_small_network_has_the_thirteen_gradients_of_the_chain_rule():
    chain = definitions("Chapter01/Chain_rule.ipynb", "gradient_sample", "small_network")
    W1, b1, W2, b2 = lesson.small_network(21)
    assert all((ours == theirs).all() for ours, theirs in zip((W1, b1, W2, b2), chain.small_network(21)))
    for x, target in (([1.0, 1.0], 0.0), ([0.5, -2.0], 3.0)):
        layers = [(W1, b1), (W2, b2)]
        values = lesson.forward(np.array([x]), layers, lesson.sigmoid)
        gradients = lesson.backward(values, layers, lesson.sigmoid_derivative, 2 * (values[-1] - target))
        wanted = chain.gradient_sample(np.array(x), target, W1, b1, W2, b2)[:4]
        np.testing.assert_allclose(lesson.flatten(gradients), np.concatenate([d.ravel() for d in wanted]), rtol=1e-12)


def test_derivatives_of_activations():
    z = np.array([-1000.0, -30.0, -1.0, -1e-12, 0.0, 1e-12, 1.0, 30.0, 1000.0])
    for activation, derivative, module in ACTIVATIONS.values():
        leaf = torch.tensor(z, requires_grad=True)
        wanted = torch.autograd.grad(module()(leaf).sum(), leaf)[0]
        np.testing.assert_allclose(derivative(activation(z)), wanted, rtol=0, atol=1e-15)


@fixed
@given(logit_lists, seeds)
def test_loss_is_that_of_torch(logits, seed):
    logits, targets = np.array(logits), np.random.default_rng(seed).integers(0, 2, size=len(logits)).astype(float)
    wanted = bce(torch.tensor(logits), torch.tensor(targets)).item()
    assert lesson.binary_cross_entropy(logits, targets) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_a_nan_is_not_hidden():
    layers = random_layers([2, 3, 1], np.random.default_rng(0))
    X = np.array([[np.nan, 0.0], [1.0, 1.0]])
    loss, gradients = lesson.loss_and_gradients(X, np.array([0, 1]), layers)
    assert np.isnan(loss) and np.isnan(lesson.flatten(gradients)).any()


@fixed
@given(seeds, widths)
def test_flatten_has_the_order_of_torch(seed, sizes):
    layers = random_layers(sizes, np.random.default_rng(seed))
    wanted = torch.nn.utils.parameters_to_vector(modules(layers).parameters()).detach().numpy()
    np.testing.assert_array_equal(lesson.flatten(layers), wanted)


@fixed
@given(seeds, widths)
def test_finite_differences_change_no_weight(seed, sizes):
    rng = np.random.default_rng(seed)
    layers, X = random_layers([*sizes, 1], rng), rng.normal(size=(3, sizes[0]))
    before = [(W.copy(), b.copy()) for W, b in layers]
    lesson.numerical_gradients(X, np.array([0, 1, 1]), layers, 1e-5)
    assert all((W == V).all() and (b == c).all() for (W, b), (V, c) in zip(layers, before))


def test_every_mistake_is_one_and_the_correct_one_is_none():
    rng = np.random.default_rng(3)
    layers, X, targets = random_layers([2, 4, 4, 1], rng), rng.normal(size=(9, 2)), rng.integers(0, 2, size=9)
    network = modules(layers)
    loss = bce(network(torch.tensor(X))[:, 0], torch.tensor(targets).double())
    wanted = torch_gradients(network, loss, None)
    names = list(lesson.mistakes)
    assert names[0] == "correct" and len(names) == 6
    found = [lesson.flatten(lesson.loss_and_gradients(X, targets, layers, method=lesson.mistakes[name])[1])
             for name in names]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-9, atol=1e-12)
    for name, wrong in zip(names[1:], found[1:]):
        assert lesson.relative_difference(wrong, wanted) > 1e-3, name
    np.testing.assert_allclose(found[names.index("1/n left out")], 9 * wanted, rtol=1e-9)


@fixed
@given(seeds, widths)
def test_init_layers(seed, sizes):
    layers = lesson.init_layers(sizes, seed)
    assert [W.shape for W, _ in layers] == list(zip(sizes[1:], sizes)) and all((b == 0).all() for _, b in layers)
    assert all((one[0] == two[0]).all() for one, two in zip(layers, lesson.init_layers(sizes, seed)))


def test_init_layers_keeps_the_size_of_a_sum():
    W = lesson.init_layers([400, 300], 0)[0][0]
    assert W.std() == pytest.approx(1 / 20, rel=0.02) and abs(W.mean()) < 0.001


def test_products_of_a_backward_pass_counted_one_by_one():
    sizes, counted = [2, 4, 3, 1], 0
    for k in reversed(range(3)):
        counted += sizes[k] * sizes[k + 1]  # an outer product
        if k > 0:
            counted += sizes[k] * sizes[k + 1] + sizes[k]  # a matrix times delta, then times the derivatives
    assert lesson.backward_products(sizes) == counted


def test_relative_error():
    a = np.array([3.0, 4.0])
    assert lesson.relative_difference(a, a) == 0
    assert [lesson.relative_difference(a, b) for b in (-a, np.zeros(2), -7 * a)] == [1, 1, 1]
    assert lesson.relative_difference(a, 3 * a) == 0.5


def test_training_is_that_of_torch():
    rng = np.random.default_rng(1)
    X, targets, layers = rng.normal(size=(20, 3)), rng.integers(0, 2, size=20), random_layers([3, 4, 4, 1], rng)
    network, wanted = modules(layers), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(30):
        loss = bce(network(torch.tensor(X))[:, 0], torch.tensor(targets).double())
        wanted.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = lesson.flatten(layers)
    final, losses = lesson.train(X, targets, layers, 0.2, 30)
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    theirs = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    np.testing.assert_allclose(lesson.flatten(final), theirs, rtol=1e-8)
    np.testing.assert_array_equal(lesson.flatten(layers), before)
    same, none = lesson.train(X, targets, layers, 0.2, 0)
    assert none == [] and (lesson.flatten(same) == before).all()


def test_training_uses_the_method_it_is_given():
    rng = np.random.default_rng(4)
    X, targets, layers = rng.normal(size=(5, 2)), np.array([0, 1, 1, 0, 1]), random_layers([2, 3, 1], rng)

    def standstill(A, layers, derivative, delta):
        return [(np.zeros_like(W), np.zeros_like(b)) for W, b in layers]

    final, losses = lesson.train(X, targets, layers, 0.5, 4, standstill)
    assert (lesson.flatten(final) == lesson.flatten(layers)).all() and losses == [losses[0]] * 4


def test_without_a_hidden_layer_it_is_logistic_regression():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(200, 2))
    targets = (X @ [1.0, -2.0] + 0.5 + rng.normal(size=200) > 0).astype(int)
    model = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(X, targets)
    layers, _ = lesson.train(X, targets, lesson.init_layers([2, 1], 0), 2.0, 6000)
    np.testing.assert_allclose(layers[0][0], model.coef_, rtol=1e-4)
    np.testing.assert_allclose(layers[0][1], model.intercept_, rtol=1e-4)
    assert lesson.accuracy(X, targets, layers) == model.score(X, targets)


def test_costs():
    calls = []
    seconds = lesson.seconds_per_call(lambda: calls.append(sum(range(1000))), at_least=0.05)
    assert len(calls) > 1 and 0 < seconds * len(calls) < 5
    X, targets = np.random.default_rng(0).normal(size=(4, 2)), np.array([0, 1, 0, 1])
    weights, forward, both, finite = lesson.gradient_costs(3, X, targets, 1e-5, 0)
    assert weights == 2 * 3 + 3 + 3 * 3 + 3 + 3 + 1 and finite > both > 0 and forward > 0


def cell_with(text):
    """The code cell of the notebook whose source holds `text`."""
    cells = code_cells(read(ROOT / "Chapter01/Back_propagation.ipynb"))
    (source,) = [cell.source for cell in cells if text in cell.source]
    return source


def test_trained_on_the_training_half_and_scored_on_the_other():
    """The cells that make the data and compare with the straight line, with training and scoring only watched."""
    trained, scored = [], []

    def train(X, targets, layers, rate, epochs, method=None):
        trained.append((X, targets))
        return layers, [1.0]

    def accuracy(X, targets, layers):
        scored.append((X, targets))
        return 0.5

    plt = SimpleNamespace(subplots=lambda *_, **__: (MagicMock(), [MagicMock()] * 3), show=lambda: None)
    space = {**vars(lesson), "np": np, "plt": plt, "make_moons": make_moons, "train_test_split": train_test_split,
             "train": train, "accuracy": accuracy, "draw_boundary": lambda *_: None, "NOISE": 0.15, "SEED": 21,
             "HIDDEN": (8, 8), "RATE": 0.3, "EPOCHS": 5, "SNAPSHOTS": (0, 1, 2), "SEEDS": (0, 1)}
    exec(cell_with("make_moons(1000"), space)
    exec(cell_with("test = {}"), space)
    assert len(trained) == 3 + 4 and len(scored) == 4
    everything, labels = make_moons(1000, noise=0.15, random_state=21)
    label_of = {tuple(point): label for point, label in zip(everything, labels)}
    for parts, size in ((trained, 500), (scored, 500)):
        assert all(len(X) == size and [label_of[tuple(point)] for point in X] == list(t) for X, t in parts)
    assert not {tuple(point) for X, _ in trained for point in X} & {tuple(point) for X, _ in scored for point in X}


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(
        "Chapter01/Back_propagation.ipynb",
        "network       test accuracy {test_accuracy:.1%} ± {test_accuracy_std:.1%}",
        "straight line test accuracy {straight_line_accuracy:.1%}",
        "At {largest_network_weights:,.0f} weights it is {speed_up_at_largest:,.0f} times",
        "difference to autograd: {largest_difference_to_autograd:.0e}",
    )
    assert results["gradient_check_relative_difference"] < 1e-7
    assert 1 < results["gradient_cost_forward_passes_median"] < 5
