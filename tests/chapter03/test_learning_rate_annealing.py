"""The schedules of Learning_rate_annealing against torch.optim.lr_scheduler, and the loop that applies them."""
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from tests.definitions import definitions

NAMES = ("constant", "step_decay", "cosine", "one_cycle", "on_plateau", "library_rates", "train_one_epoch", "evaluate")
lesson = definitions("Chapter03/Learning_rate_annealing.ipynb", *NAMES)
often = settings(deadline=None, max_examples=40)
rates = st.sampled_from([1e-5, 1e-3, 0.5, 10.0])


def library(make, total, rate):
    """Rates of a PyTorch scheduler, read off before each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, found = make(optimizer), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


@often
@given(st.integers(2, 400), rates)
def test_constant_step_and_cosine_are_the_librarys(total, rate):
    milestones = [round(0.5 * total), round(0.8 * total)]
    assume(len(set(milestones)) == 2)
    makers = {lesson.constant: lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
              lesson.step_decay: lambda o: lr_scheduler.MultiStepLR(o, milestones, gamma=0.2),
              lesson.cosine: lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=total)}  # fmt: skip
    for schedule, make in makers.items():
        ours = [schedule(t, total, rate) for t in range(total)]
        np.testing.assert_allclose(ours, library(make, total, rate), rtol=1e-8, atol=1e-12 * rate)
        np.testing.assert_allclose(lesson.library_rates(make, total, rate), library(make, total, rate), rtol=0)


@often
@given(st.integers(10, 400), rates)
def test_one_cycle_is_the_librarys(total, rate):
    ours = [lesson.one_cycle(t, total, rate) for t in range(total)]
    theirs = library(lambda o: lr_scheduler.OneCycleLR(o, max_lr=rate, total_steps=total), total, rate)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12 * rate)
    assert max(ours) <= rate * (1 + 1e-12) and min(ours) >= 0


@often
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.integers(0, 3), st.sampled_from([0.1, 0.5]))
def test_on_plateau_is_the_librarys_after_each_epoch(losses, patience, factor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience, eps=0)
    for epoch, loss in enumerate(losses):
        scheduler.step(loss)
        ours = lesson.on_plateau(losses[: epoch + 1], 0.7, factor=factor, patience=patience)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_nan_losses_count_as_no_improvement():
    assert lesson.on_plateau([1.0, math.nan, math.nan], 1.0, factor=0.5) == 0.25


def test_each_step_uses_its_own_rate():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (25, 28, 28), generator=g, dtype=torch.uint8)
    labels = torch.randint(10, (25,), generator=g)
    model = nn.Sequential(nn.Linear(784, 4), nn.BatchNorm1d(4), nn.Linear(4, 10)).eval()
    optimizer, used = torch.optim.SGD(model.parameters(), lr=9.0), []
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    lesson.train_one_epoch(model, images, labels, optimizer, 10, g, [0.3, 0.0, 0.1].__getitem__)
    assert used == [0.3, 0.0, 0.1] and model.training and model[1].num_batches_tracked == 3
    before = model[1].running_mean.clone()
    assert lesson.evaluate(model, images, labels, 7) == pytest.approx(lesson.evaluate(model, images, labels), abs=1e-6)
    assert torch.equal(model[1].running_mean, before) and not model.training
