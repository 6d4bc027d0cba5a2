"""The definitions of Varying_batch_size against plain sums, autograd and the full Hessian."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

NAMES = ("to_inputs", "gradient", "gradient_error", "index_batches", "evaluate", "train", "sharpness")
lesson = definitions("Chapter03/Varying_batch_size.ipynb", *NAMES)
often = settings(deadline=None, max_examples=60)


def pictures(n, side=28, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, side, side), generator=g, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=g)


def small_model(inputs=784, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 10))


@often
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 200))
def test_batches_go_through_the_data_epoch_after_epoch(n, batch_size, steps):
    batches = list(lesson.index_batches(n, batch_size, steps, torch.Generator().manual_seed(0)))
    assert len(batches) == steps
    per_epoch = math.ceil(n / batch_size)
    for start in range(0, steps - per_epoch + 1, per_epoch):
        assert sorted(torch.cat(batches[start : start + per_epoch]).tolist()) == list(range(n))
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_epochs_are_shuffled_anew():
    batches = list(lesson.index_batches(100, 100, 2, torch.Generator().manual_seed(0)))
    assert not torch.equal(*batches) and not torch.equal(batches[0], torch.arange(100))


@pytest.mark.parametrize("chunk", [1, 7, 5000])
def test_gradient_is_that_of_the_mean_loss(chunk):
    images, labels = pictures(23)
    model = small_model()
    ours = lesson.gradient(model, images, labels, batch_size=chunk)
    loss = F.cross_entropy(model(images.flatten(1) / 255), labels)
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [1, 3, 8, 12])
def test_error_of_the_gradient_follows_the_law_of_samples(size):
    images, labels = pictures(12)
    model, n = small_model(), 12
    full = lesson.gradient(model, images, labels)
    single = torch.stack([lesson.gradient(model, images[k : k + 1], labels[k : k + 1]) for k in range(n)])
    variance = (single - full).square().sum(1).mean().item()
    found = lesson.gradient_error(model, images, labels, size, 400, full, torch.Generator().manual_seed(0))
    expected = math.sqrt(variance / size * (n - size) / (n - 1))
    assert found == pytest.approx(expected, rel=0.1, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_sharpness_is_the_largest_eigenvalue(seed):
    images, labels = pictures(15, side=2, seed=seed)
    model = small_model(inputs=4, seed=seed)
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss_of(vector):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (images.flatten(1) / 255,)), labels)

    hessian = torch.func.hessian(loss_of)(torch.cat([p.detach().flatten() for p in model.parameters()]))
    values = torch.linalg.eigvalsh(hessian)
    largest = values[values.abs().argmax()].item()
    assert lesson.sharpness(model, images, labels, iterations=300) == pytest.approx(largest, rel=2e-2)


def test_training_makes_the_steps_it_is_asked_for():
    images, labels = pictures(50)
    parts = {"train": (images, labels), "val": (images, labels)}
    model, rows = lesson.train(20, 0.05, 0.9, 7, 0, parts, looks=3)
    assert rows[-1]["step"] == 7 and rows[-1]["seen"] == 2 * 50 + 20
    assert [row["step"] for row in rows] == [3, 5, 7]
    loss, accuracy = lesson.evaluate(model, images, labels, batch_size=11)
    assert (loss, accuracy) == pytest.approx((rows[-1]["val loss"], rows[-1]["val"]), abs=1e-6)
    assert np.isfinite(loss)
