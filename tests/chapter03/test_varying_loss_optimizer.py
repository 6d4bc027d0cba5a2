"""The losses and update rules of Varying_loss_optimizer against PyTorch's, on random and on adversarial gradients."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from tests.definitions import definitions

NAMES = ("cross_entropy", "squared_error", "sgd", "rmsprop", "adam_step", "adamw_step", "predict", "train_one_epoch")
lesson = definitions("Chapter03/Varying_loss_optimizer.ipynb", *NAMES)
often = settings(deadline=None, derandomize=True, max_examples=60)
numbers = st.floats(-1e4, 1e4, allow_subnormal=False)
RULES = {
    "sgd": (lesson.sgd, {}, torch.optim.SGD, {}),
    "momentum": (lesson.sgd, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (lesson.rmsprop, {"alpha": 0.9}, torch.optim.RMSprop, {"alpha": 0.9}),
    "adam": (lesson.adam_step, {"beta1": 0.8, "beta2": 0.95}, torch.optim.Adam, {"betas": (0.8, 0.95)}),
    "adamw": (lesson.adamw_step, {"decay": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
}


@pytest.mark.parametrize("name", RULES)
@often
@given(gradients=hnp.arrays("float64", (8, 3), elements=numbers), rate=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_rules_are_pytorchs_step_for_step(name, gradients, rate):
    rule, options, library, library_options = RULES[name]
    w, state = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), {}
    parameter = nn.Parameter(w.clone())
    optimizer = library([parameter], lr=rate, **library_options)
    for g in torch.from_numpy(gradients):
        w, parameter.grad = rule(w, g, state, rate, **options), g.clone()
        optimizer.step()
        torch.testing.assert_close(w, parameter.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rules_do_not_change_their_arguments(name):
    rule, options, *_ = RULES[name]
    w, g, state = torch.ones(3), torch.ones(3), {}
    for _ in range(3):
        rule(w, g, state, 0.1, **options)
    assert torch.equal(w, torch.ones(3)) and torch.equal(g, torch.ones(3))


@often
@given(hnp.arrays("float64", (5, 4), elements=st.floats(-50, 50)), st.floats(0, 1))
def test_losses_are_pytorchs_forward_and_backward(logits, smoothing):
    z, labels = torch.from_numpy(logits).requires_grad_(), torch.tensor([0, 1, 2, 3, 0])
    pairs = [
        (lesson.cross_entropy(z, labels, smoothing), F.cross_entropy(z, labels, label_smoothing=smoothing)),
        (lesson.squared_error(z, labels), 4 * F.mse_loss(z, F.one_hot(labels, 4).double())),
        (lesson.squared_error(z.softmax(1), labels), 4 * F.mse_loss(z.softmax(1), F.one_hot(labels, 4).double())),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (ours, theirs)))


def test_cross_entropy_survives_huge_logits():
    z = torch.tensor([[1000.0, 0.0], [-1000.0, 1000.0]])
    torch.testing.assert_close(lesson.cross_entropy(z, torch.tensor([0, 0])), torch.tensor(1000.0))


def test_loop_trains_and_evaluation_sleeps():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 28, 28), generator=g, dtype=torch.uint8)
    labels = torch.randint(10, (30,), generator=g)
    model = nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = lesson.train_one_epoch(model, images, labels, F.cross_entropy, optimizer, 10, g)
    assert loss > 0 and model.training and model[2].num_batches_tracked == 3
    assert torch.equal(lesson.predict(model, images, 7), lesson.predict(model, images, 7)) and not model.training
