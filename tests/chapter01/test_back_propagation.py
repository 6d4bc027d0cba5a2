"""What Back_propagation.ipynb defines, against torch.nn, torch.autograd, torch.optim.SGD and scikit-learn."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tests.definitions import definitions

lesson = definitions("Chapter01/Back_propagation.ipynb", "backward_products", "forward", "backward", "sigmoid",
                     "sigmoid_slope", "tanh_slope", "small_network", "flatten", "unflatten", "init_layers",
                     "binary_cross_entropy", "loss_and_slopes", "numerical_slopes", "relative_error", "train",
                     "accuracy", "seconds_per_call", "prices_of", "autograd_slopes")
fixed = settings(deadline=None, derandomize=True, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
widths = st.lists(st.integers(1, 6), min_size=2, max_size=6)
ACTIVATIONS = {"tanh": (np.tanh, lesson.tanh_slope, torch.nn.Tanh),
               "sigmoid": (lesson.sigmoid, lesson.sigmoid_slope, torch.nn.Sigmoid)}
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


def torch_slopes(network, outputs, d_outputs):
    return torch.cat([g.ravel() for g in torch.autograd.grad(outputs, list(network.parameters()), d_outputs)]).numpy()


@fixed
@given(seeds, widths, st.sampled_from([0, 1, 2, 9]), names, st.sampled_from([0.0, 1e-150, 1.0, 20.0, 1e3]))
def test_forward_and_backward_are_those_of_torch(seed, sizes, samples, name, scale):
    rng = np.random.default_rng(seed)
    activation, slope, module = ACTIVATIONS[name]
    layers, X = random_layers(sizes, rng, scale), rng.normal(size=(samples, sizes[0]))
    d_outputs = rng.normal(size=(samples, sizes[-1]))
    network = modules(layers, module)
    outputs = network(torch.tensor(X))
    values = lesson.forward(X, layers, activation)
    assert [value.shape for value in values] == [(samples, size) for size in sizes]
    np.testing.assert_allclose(values[-1], outputs.detach(), rtol=1e-9, atol=1e-12)
    slopes = lesson.backward(values, layers, slope, d_outputs)
    assert [(d_W.shape, d_b.shape) for d_W, d_b in slopes] == [(W.shape, b.shape) for W, b in layers]
    wanted = torch_slopes(network, outputs, torch.tensor(d_outputs))
    np.testing.assert_allclose(lesson.flatten(slopes), wanted, rtol=1e-7, atol=1e-9 * max(1, np.abs(wanted).max()))


@fixed
@given(seeds, widths, names)
def test_three_ways_to_the_slopes_of_the_loss(seed, sizes, name):
    rng = np.random.default_rng(seed)
    activation, slope, module = ACTIVATIONS[name]
    layers, X = random_layers([*sizes, 1], rng), rng.normal(size=(7, sizes[0]))
    targets = rng.integers(0, 2, size=7)
    network = modules(layers, module)
    loss = bce(network(torch.tensor(X))[:, 0], torch.tensor(targets).double())
    wanted = torch_slopes(network, loss, None)
    ours, slopes = lesson.loss_and_slopes(X, targets, layers, activation, slope)
    assert ours == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(lesson.flatten(slopes), wanted, rtol=0, atol=1e-12)
    referee = lesson.autograd_slopes(X, targets, layers, getattr(torch, name))
    np.testing.assert_allclose(referee, wanted, rtol=0, atol=1e-14)
    nudged = lesson.numerical_slopes(X, targets, layers, 1e-5, activation)
    np.testing.assert_allclose(nudged, wanted, rtol=0, atol=1e-8)


def test_the_small_network_has_the_thirteen_slopes_of_the_chain_rule():
    chain = definitions("Chapter01/Chain_rule.ipynb", "gradient_sample", "small_network")
    W1, b1, W2, b2 = lesson.small_network(21)
    assert all((ours == theirs).all() for ours, theirs in zip((W1, b1, W2, b2), chain.small_network(21)))
    for x, target in (([1.0, 1.0], 0.0), ([0.5, -2.0], 3.0)):
        layers = [(W1, b1), (W2, b2)]
        values = lesson.forward(np.array([x]), layers, lesson.sigmoid)
        slopes = lesson.backward(values, layers, lesson.sigmoid_slope, 2 * (values[-1] - target))
        wanted = chain.gradient_sample(np.array(x), target, W1, b1, W2, b2)[:4]
        np.testing.assert_allclose(lesson.flatten(slopes), np.concatenate([d.ravel() for d in wanted]), rtol=1e-12)


def test_local_slopes():
    z = np.array([-1000.0, -30.0, -1.0, -1e-12, 0.0, 1e-12, 1.0, 30.0, 1000.0])
    for activation, slope, module in ACTIVATIONS.values():
        leaf = torch.tensor(z, requires_grad=True)
        wanted = torch.autograd.grad(module()(leaf).sum(), leaf)[0]
        np.testing.assert_allclose(slope(activation(z)), wanted, rtol=0, atol=1e-15)


@fixed
@given(logit_lists, seeds)
def test_loss_is_that_of_torch(logits, seed):
    logits, targets = np.array(logits), np.random.default_rng(seed).integers(0, 2, size=len(logits)).astype(float)
    wanted = bce(torch.tensor(logits), torch.tensor(targets)).item()
    assert lesson.binary_cross_entropy(logits, targets) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_a_nan_is_not_hidden():
    layers = random_layers([2, 3, 1], np.random.default_rng(0))
    X = np.array([[np.nan, 0.0], [1.0, 1.0]])
    loss, slopes = lesson.loss_and_slopes(X, np.array([0, 1]), layers)
    assert np.isnan(loss) and np.isnan(lesson.flatten(slopes)).any()


@fixed
@given(seeds, widths)
def test_flatten_and_unflatten_undo_each_other(seed, sizes):
    layers = random_layers(sizes, np.random.default_rng(seed))
    vector = lesson.flatten(layers)
    assert len(vector) == sum(W.size + b.size for W, b in layers)
    for (W, b), (again_W, again_b) in zip(layers, lesson.unflatten(vector, layers), strict=True):
        assert (W == again_W).all() and W.shape == again_W.shape and (b == again_b).all() and b.shape == again_b.shape


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
            counted += sizes[k] * sizes[k + 1] + sizes[k]  # a matrix times delta, then times the local slopes
    assert lesson.backward_products(sizes) == counted


def test_relative_error():
    a = np.array([3.0, 4.0])
    assert lesson.relative_error(a, a) == 0
    assert [lesson.relative_error(a, b) for b in (-a, np.zeros(2), -7 * a)] == [1, 1, 1]
    assert lesson.relative_error(a, 3 * a) == 0.5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_that_of_torch(momentum):
    rng = np.random.default_rng(1)
    X, targets, layers = rng.normal(size=(20, 3)), rng.integers(0, 2, size=20), random_layers([3, 4, 4, 1], rng)
    X_val, t_val = rng.normal(size=(5, 3)), rng.integers(0, 2, size=5)
    network, wanted = modules(layers), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=momentum)
    for _ in range(30):
        loss = bce(network(torch.tensor(X))[:, 0], torch.tensor(targets).double())
        with torch.inference_mode():
            val_loss = bce(network(torch.tensor(X_val))[:, 0], torch.tensor(t_val).double())
        wanted.append((loss.item(), val_loss.item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = lesson.flatten(layers)
    final, losses, kept = lesson.train((X, targets), (X_val, t_val), layers, 0.2, momentum, 30, keep=(0, 7, 30))
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    theirs = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    np.testing.assert_allclose(lesson.flatten(final), theirs, rtol=1e-8)
    np.testing.assert_array_equal(lesson.flatten(layers), before)
    assert list(kept) == [0, 7, 30] and (lesson.flatten(kept[0]) == before).all()
    assert lesson.loss_and_slopes(X, targets, kept[7])[0] == losses[7, 0]
    np.testing.assert_array_equal(lesson.flatten(kept[30]), lesson.flatten(final))


def test_without_a_hidden_layer_it_is_logistic_regression():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(200, 2))
    targets = (X @ [1.0, -2.0] + 0.5 + rng.normal(size=200) > 0).astype(int)
    model = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(X, targets)
    layers, _, _ = lesson.train((X, targets), (X, targets), lesson.init_layers([2, 1], 0), 0.5, 0.9, 3000)
    np.testing.assert_allclose(layers[0][0], model.coef_, rtol=1e-4)
    np.testing.assert_allclose(layers[0][1], model.intercept_, rtol=1e-4)
    assert lesson.accuracy(X, targets, layers) == model.score(X, targets)


def test_prices():
    calls = []
    seconds = lesson.seconds_per_call(lambda: calls.append(sum(range(1000))), at_least=0.05)
    assert len(calls) > 1 and 0 < seconds * len(calls) < 5
    X, targets = np.random.default_rng(0).normal(size=(4, 2)), np.array([0, 1, 0, 1])
    weights, forward, both, nudging = lesson.prices_of(3, X, targets, 1e-5, 0)
    assert weights == 2 * 3 + 3 + 3 * 3 + 3 + 3 + 1 and nudging > both > 0 and forward > 0
