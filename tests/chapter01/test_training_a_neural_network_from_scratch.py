"""The definitions of Training_a_neural_network_from_scratch against PyTorch and scikit-learn."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from tests.definitions import definitions

NAMES = ("three_parts", "nearest_mean", "sigmoid", "init_params", "forward", "cross_entropy_and_gradient", "backward",
         "small_network", "update",
         "evaluate", "train", "run", "best_accuracy", "form_starts", "torch_batch_losses")  # fmt: skip
lesson = definitions("Chapter01/Training_a_neural_network_from_scratch.ipynb", *NAMES)
exact = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 10_000)
layer_sizes = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def problem(seed, n=24, features=5, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)), np.arange(n) % classes


def torch_scores(leaves, X):
    for layer in range(0, len(leaves), 2):
        X = F.linear(X if layer == 0 else torch.sigmoid(X), leaves[layer], leaves[layer + 1])
    return X


def test_the_small_network_is_the_one_of_the_chapter():
    same = definitions("Chapter01/Feed_forward_propagation.ipynb", "small_network")
    for ours, theirs in zip(lesson.small_network(21), same.small_network(21), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@exact
@given(seeds, layer_sizes, st.sampled_from([1, 2, 7]), st.sampled_from([0.0, 1e-8, 1.0, 100.0]))
def test_loss_and_gradients_equal_autograd(seed, sizes, n, scale):
    rng = np.random.default_rng(seed)
    params = [(W, rng.normal(size=len(b))) for W, b in lesson.init_params(rng, sizes, scale)]
    X, labels = rng.normal(size=(n, sizes[0])), rng.integers(sizes[-1], size=n)
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for layer in params for array in layer]
    expected = F.cross_entropy(torch_scores(leaves, torch.from_numpy(X)), torch.from_numpy(labels))
    expected.backward()
    activations = lesson.forward(params, X)
    loss, delta = lesson.cross_entropy_and_gradient(activations[-1], labels)
    assert [a.shape for a in activations] == [(n, size) for size in sizes]
    assert loss == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    ours = [array for layer in lesson.backward(params, activations, delta) for array in layer]
    for gradient, leaf in zip(ours, leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-8, atol=1e-10)


@exact
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)),
                  elements=st.sampled_from([-1e4, -30.0, -1e-12, 0.0, 1.0, 1e4])))  # fmt: skip
def test_cross_entropy_on_cruel_logits(logits):
    labels = np.arange(len(logits)) % logits.shape[1]
    t = torch.from_numpy(logits.copy()).requires_grad_()
    expected = F.cross_entropy(t, torch.from_numpy(labels))
    expected.backward()
    loss, derivative = lesson.cross_entropy_and_gradient(logits, labels)
    assert loss == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(derivative, t.grad.numpy(), atol=1e-12)


def test_nan_is_not_swallowed_and_sigmoid_never_overflows():
    params = lesson.init_params(np.random.default_rng(0), (2, 3, 2))
    assert np.isnan(lesson.evaluate(params, np.array([[np.nan, 0.0]]), np.array([1]))[0])
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(lesson.sigmoid(np.array([-1e308, 0.0, 1e308])), [0.0, 0.5, 1.0])


@exact
@given(seeds, st.booleans())
def test_update_is_one_step_of_torch_sgd(seed, train_bias):
    X, labels = problem(seed)
    params = lesson.init_params(np.random.default_rng(seed), (5, 4, 3))
    before = [array.copy() for layer in params for array in layer]
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in before]
    F.cross_entropy(torch_scores(leaves, torch.from_numpy(X)), torch.from_numpy(labels)).backward()
    new, _ = lesson.update(params, X, labels, 0.3, train_bias)
    for place, (ours, leaf) in enumerate(zip([a for layer in new for a in layer], leaves, strict=True)):
        step = 0.3 * leaf.grad if train_bias or place % 2 == 0 else 0
        np.testing.assert_allclose(ours, (leaf - step).detach().numpy(), atol=1e-12)
    for array, kept in zip([a for layer in params for a in layer], before, strict=True):
        np.testing.assert_array_equal(array, kept)  # the old parameters are left as they were


def test_train_equals_torch_and_keeps_the_best_epoch():
    training, validation = problem(0), problem(1)
    start = lesson.init_params(np.random.default_rng(2), (5, 4, 3))
    best, history, losses = lesson.train(start, training, validation, 0.5, 7, 40, np.random.default_rng(3))
    expected = lesson.torch_batch_losses(start, training, 0.5, 7, 40, np.random.default_rng(3))
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert len(losses) == 40 * 4 and list(history.index) == list(range(1, 41))
    assert lesson.evaluate(best, *validation)[0] == pytest.approx(history["validation loss"].min())
    assert history["validation loss"].idxmin() < 40  # noise cannot be generalised: the last epoch is not the best
    assert history["training loss"].iloc[-1] == pytest.approx(losses[-4:].mean())
    assert lesson.best_accuracy(history) == lesson.evaluate(best, *validation)[1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_is_seen_once_an_epoch(shuffle):
    training = problem(5)
    start = lesson.init_params(np.random.default_rng(0), (5, 4, 3))
    _, _, losses = lesson.train(start, training, training, 0.0, 6, 2, np.random.default_rng(1), shuffle=shuffle)
    whole, _ = lesson.evaluate(start, *training)
    assert losses[:4].mean() == pytest.approx(whole) and losses[4:].mean() == pytest.approx(whole)
    assert np.allclose(losses[:4], losses[4:]) is not shuffle
    in_order = [lesson.evaluate(start, training[0][i : i + 6], training[1][i : i + 6])[0] for i in range(0, 24, 6)]
    assert np.allclose(losses[:4], in_order) is not shuffle


def test_run_is_the_recipe():
    recipe = {"sizes": (5, 4, 3), "rate": 0.5, "batch": 6, "epochs": 3, "scale": 0.0, "shuffle": True,
              "train_bias": False}  # fmt: skip
    best, history, losses = lesson.run(recipe, 0, problem(0), problem(1))
    assert len(history) == 3 and len(losses) == 12
    assert not any(b.any() for _, b in best)  # no bias was trained
    assert np.ptp(best[0][0], axis=0).max() < 1e-12  # and equal weights stayed equal
    again = lesson.run(recipe | {"scale": 1.0}, 0, problem(0), problem(1))
    np.testing.assert_array_equal(again[2], lesson.run(recipe | {"scale": 1.0}, 0, problem(0), problem(1))[2])
    assert np.ptp(again[0][0][0], axis=0).max() > 0.1


@exact
@given(seeds, st.integers(1, 6), st.integers(1, 8))
def test_init_params_shapes_and_scale(seed, n_in, n_out):
    ((W, b),) = lesson.init_params(np.random.default_rng(seed), (n_in, n_out))
    ((doubled, _),) = lesson.init_params(np.random.default_rng(seed), (n_in, n_out), 2.0)
    assert W.shape == (n_out, n_in) and not b.any() and b.shape == (n_out,)
    np.testing.assert_allclose(doubled, 2 * W)
    ((wide, _),) = lesson.init_params(np.random.default_rng(seed), (400, 50))
    assert wide.std() == pytest.approx(1 / 20, rel=0.05)


@exact
@given(seeds)
def test_nearest_mean_is_sklearn_nearest_centroid(seed):
    rng = np.random.default_rng(seed)
    X, labels, new = rng.normal(size=(30, 4)), rng.choice([1, 5, 7], size=30), rng.normal(size=(6, 4))
    expected = NearestCentroid().fit(X, labels).predict(new)
    np.testing.assert_array_equal(lesson.nearest_mean(X, labels, new), expected)


def test_three_parts_share_nothing_and_keep_the_classes():
    X, labels = load_digits(return_X_y=True)
    parts = lesson.three_parts(np.arange(len(X))[:, None], labels, 0)
    members = np.concatenate([rows[:, 0] for rows, _ in parts])
    assert sorted(members) == list(range(len(X)))
    assert [len(rows) for rows, _ in parts] == [1077, 360, 360]
    for rows, answers in parts:
        np.testing.assert_array_equal(labels[rows[:, 0]], answers)
        assert np.ptp(np.bincount(answers) / len(answers) - np.bincount(labels) / len(labels)) < 0.01


def test_form_starts_finds_planted_forms():
    rng = np.random.default_rng(0)
    head = np.concatenate([np.arange(10), np.arange(10)])
    forms = [np.concatenate([head, rng.integers(10, size=n)]) for n in (110, 105, 98)]
    forms[1][3] = 9  # one slip of the pen
    labels = np.concatenate(forms)
    np.testing.assert_array_equal(lesson.form_starts(labels), [0, 130, 255])
    assert len(lesson.form_starts(np.zeros(50, dtype=int))) == 0
    assert len(lesson.form_starts(np.array([], dtype=int))) == 0
