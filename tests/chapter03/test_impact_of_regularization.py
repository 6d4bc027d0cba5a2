"""Penalties, decay and pruning of the notebook on regularization against SciPy, autograd and PyTorch's optimizers."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tests.definitions import definitions

NAMES = ("l1_minimum", "l2_minimum", "shrunk", "penalty", "new_optimizer", "new_model", "train_one_epoch", "evaluate",
         "pruned_accuracy", "to_inputs")  # fmt: skip
lesson = definitions("Chapter03/Impact_of_regularization.ipynb", *NAMES)
often = settings(deadline=None, max_examples=60)
cpu = torch.device("cpu")


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


@often
@given(st.floats(-5, 5), st.floats(0, 4))
def test_minima_are_found_by_search_too(a, strength):
    for ours, size in ((lesson.l1_minimum(a, strength), abs), (lesson.l2_minimum(a, strength), lambda w: w * w / 2)):
        found = minimize_scalar(lambda w, size=size: (w - a) ** 2 / 2 + strength * size(w), bounds=(-6, 6),
                                method="bounded", options={"xatol": 1e-9})  # fmt: skip
        assert float(ours) == pytest.approx(found.x, abs=1e-4)


def test_soft_threshold_is_exactly_zero_and_odd():
    a = np.linspace(-3, 3, 61)
    out = lesson.l1_minimum(a, 1.0)
    assert (out[np.abs(a) <= 1.0 - 1e-9] == 0).all() and np.allclose(out, -lesson.l1_minimum(-a, 1.0))


def test_penalties_and_their_gradients():
    model = lesson.new_model(0, cpu, hidden=7)
    for kind, slope in (("L1", torch.sign), ("L2", lambda w: w)):
        model.zero_grad()
        lesson.penalty(model, kind).backward()
        for layer in (0, 2):
            torch.testing.assert_close(model[layer].weight.grad, slope(model[layer].weight.detach()))
            assert model[layer].bias.grad is None
    assert lesson.penalty(model, "none") == 0 and lesson.penalty(model, "decay") == 0


def test_decay_leaves_biases_alone():
    model = lesson.new_model(0, cpu, hidden=7)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = lesson.new_optimizer(model, "decay", 2.0, 0.01)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.01 * 2.0 if p.dim() == 2 else 1
        torch.testing.assert_close(p.detach(), factor * before[name])
    assert all(group["weight_decay"] == 0 for group in lesson.new_optimizer(model, "L1", 2.0, 0.01).param_groups)


@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_step_is_that_of_loss_plus_penalty_and_the_report_is_not(kind):
    images, labels = pictures(12)
    model, twin = (lesson.new_model(0, cpu, hidden=5) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reported = lesson.train_one_epoch(model, images, labels, optimizer, 12, torch.Generator(), kind, 0.3)
    loss = F.cross_entropy(twin(lesson.to_inputs(images)), labels)
    assert reported == pytest.approx(loss.item(), rel=1e-5)
    (loss + 0.3 * lesson.penalty(twin, kind)).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_pruning_removes_the_smallest_and_leaves_the_model(share):
    images, labels = pictures(50)
    model = lesson.new_model(0, cpu, hidden=9)
    before = model[0].weight.detach().clone()
    found = lesson.pruned_accuracy(model, share, images, labels)
    assert torch.equal(model[0].weight, before)
    order = before.abs().flatten().argsort()
    weight = before.flatten().clone()
    weight[order[: round(share * len(order))]] = 0
    with torch.no_grad():
        model[0].weight.copy_(weight.view_as(before))
    assert found == pytest.approx(lesson.evaluate(model, images, labels)[1])


def test_decay_is_l2_for_sgd_only():
    def sgd(p, **options):
        return torch.optim.SGD(p, lr=0.01, **options)

    torch.testing.assert_close(lesson.shrunk(sgd, 0.7), lesson.shrunk(lambda p: sgd(p, weight_decay=0.7), 0.0))
    in_loss = lesson.shrunk(lambda p: torch.optim.Adam(p, lr=0.01), 0.7)
    decoupled = lesson.shrunk(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.7), 0.0)
    assert (in_loss - decoupled).abs().max() > 0.05
