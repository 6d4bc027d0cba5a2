"""Dropout written out against nn.Dropout: values, gradients, frequencies, both modes; and the loop around it."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chisquare
from torch import nn

from tests.definitions import definitions

NAMES = ("dropout", "to_inputs", "new_model", "train_one_epoch", "predict", "accuracy", "train")
lesson = definitions("Chapter03/Impact_of_dropout.ipynb", *NAMES)
often = settings(deadline=None, max_examples=60)
values = hnp.arrays("float64", hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-1e6, 1e6))


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


@often
@given(values, st.floats(0, 0.99), st.integers(0, 2**31))
def test_values_and_gradients_are_kept_and_scaled_or_zero(array, p, seed):
    x = torch.from_numpy(array).requires_grad_()
    out = lesson.dropout(x, p, True, torch.Generator().manual_seed(seed))
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= p if p else torch.ones_like(x) > 0
    torch.testing.assert_close(out, torch.where(kept, x / (1 - p), 0.0))
    out.sum().backward()
    torch.testing.assert_close(x.grad, kept.double() / (1 - p))


@often
@given(values, st.floats(0, 0.99))
def test_outside_training_it_is_the_identity_like_the_librarys(array, p):
    x = torch.from_numpy(array)
    assert torch.equal(lesson.dropout(x, p, False), x) and torch.equal(nn.Dropout(p).eval()(x), x)


def test_probability_one_drops_everything_and_what_is_no_probability_is_refused():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    for out in (lesson.dropout(x, 1, True), nn.Dropout(1)(x)):
        assert torch.equal(out, torch.zeros(2))
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.zeros(2))
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="probability"):
            lesson.dropout(x, p, True)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_as_many_are_dropped_as_by_the_library_and_independently(p):
    x = torch.ones(200_000)
    torch.manual_seed(0)
    for out in (lesson.dropout(x, p, True, torch.Generator().manual_seed(0)), nn.Dropout(p)(x)):
        dropped = (out == 0).numpy()
        assert dropped.mean() == pytest.approx(p, abs=0.005)
        assert out.mean().item() == pytest.approx(1, abs=0.02)
        pairs = np.bincount(2 * dropped[::2] + dropped[1::2], minlength=4)
        expected = np.array([(1 - p) ** 2, (1 - p) * p, p * (1 - p), p * p]) * pairs.sum()
        assert chisquare(pairs, expected).pvalue > 1e-4


def test_training_wakes_dropout_and_evaluation_silences_it():
    images, labels = pictures(40)
    model = lesson.new_model(0, torch.device("cpu"), 0.5, hidden=30).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    lesson.train_one_epoch(model, images, labels, optimizer, 10, torch.Generator())
    assert model.training
    torch.testing.assert_close(lesson.predict(model, images, batch_size=7), lesson.predict(model, images))
    assert not model.training
    torch.manual_seed(0)
    awake = [lesson.predict(model, images, training=True) for _ in range(2)]
    assert not torch.equal(*awake) and model.training
    rows = lesson.train(model, (images, labels), (images, labels), 2, 10, 1e-3, 0)
    assert not model.training, "the last thing a training does is to evaluate"
    assert rows[-1]["val"] == lesson.accuracy(lesson.predict(model, images), labels)


def test_same_seed_same_weights_whatever_the_strength():
    a, b = (lesson.new_model(3, torch.device("cpu"), p, hidden=5) for p in (0.0, 0.5))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
