"""The losses and update rules of Varying_loss_optimizer against PyTorch's, on random and on adversarial gradients."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from tests.definitions import definitions

NAMES = ("cross_entropy", "squared_error", "sgd", "rmsprop", "adam_step", "adamw_step", "assert_same_steps", "train",
         "fit", "search", "new_model")
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


@pytest.mark.parametrize("mistake", ["no bias correction", "root of v left out", "rate of the gradient squared"])
def test_the_check_of_the_lesson_sees_mistakes(mistake):
    def wrong(w, g, state, rate):
        if mistake == "no bias correction":
            state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
            state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
            return w - rate * state["m"] / (state["v"].sqrt() + 1e-8)
        step = w - lesson.adam_step(w, g, state, rate)
        return w - (step**2 if mistake == "root of v left out" else step * 0.9)

    gradients = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lesson.assert_same_steps(lesson.adam_step, {}, torch.optim.Adam, {}, gradients)
    with pytest.raises(AssertionError):
        lesson.assert_same_steps(wrong, {}, torch.optim.Adam, {}, gradients)


def test_a_gradient_of_zero_moves_nothing():
    """What the lesson says of Adam's first step: the rate, in the direction of the gradient, but 0 where that is 0."""
    g = torch.tensor([100.0, 1e-3, -5.0, 0.0])
    torch.testing.assert_close(lesson.adam_step(torch.zeros(4), g, {}, 0.1), torch.tensor([-0.1, -0.1, 0.1, 0.0]),
                               rtol=1e-4, atol=0)


IMAGES = torch.randint(0, 256, (30, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 10
DATA = {"train": (IMAGES, LABELS), "val": (IMAGES[:10], LABELS[:10])}


def test_training_is_in_training_mode_at_a_rate_that_falls_to_zero():
    model = nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    before, rates = [p.detach().clone() for p in model.parameters()], []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    lesson.train(model, IMAGES, LABELS, F.cross_entropy, Recorder(model.parameters(), lr=0.4), 7, 2, 0)
    assert model.training and model[2].num_batches_tracked == 10
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert rates == pytest.approx([0.4 * (1 - k / 10) for k in range(10)])


def optimizer(weights, rate):
    return torch.optim.SGD(weights, lr=rate)


def test_a_run_depends_on_its_seed_alone_and_reports_validation_accuracy():
    runs = [lesson.fit(DATA, F.cross_entropy, optimizer, 0.1, seed, 10, 1) for seed in (0, 0, 1)]
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model, _ in runs)
    assert torch.equal(first, again) and not torch.equal(first, other)
    for model, accuracy in runs:
        assert not model.training  # measured in evaluation mode
        answers = model(IMAGES[:10].flatten(1) / 255).argmax(1)
        assert accuracy == pytest.approx((answers == LABELS[:10]).float().mean().item())


def test_the_bad_start_scales_the_last_layer_only():
    model, _ = lesson.fit(DATA, F.cross_entropy, optimizer, 0.0, 3, 10, 1, last_layer_scale=50.0)
    start = lesson.new_model(3, "cpu")
    torch.testing.assert_close(model[-1].weight, 50 * start[-1].weight)
    assert torch.equal(model[0].weight, start[0].weight) and torch.equal(model[-1].bias, start[-1].bias)


def test_the_search_makes_one_full_run_for_each_rate():
    found = lesson.search(DATA, F.cross_entropy, optimizer, (0.01, 1.0), 5, 10, 2)
    assert list(found.index) == [0.01, 1.0]
    for rate, accuracy in found.items():
        assert accuracy == lesson.fit(DATA, F.cross_entropy, optimizer, rate, 5, 10, 2)[1]
