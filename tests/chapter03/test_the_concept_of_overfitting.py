"""The definitions of The_concept_of_overfitting: early stopping, subsets, shuffled labels, scores."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

NAMES = ("draw_subset", "to_inputs", "new_model", "train_one_epoch", "epochs_of_training", "predict", "scores",
         "train_and_val_scores", "epochs_for", "shuffled", "EarlyStopping", "replay")  # fmt: skip
lesson = definitions("Chapter03/The_concept_of_overfitting.ipynb", *NAMES)
often = settings(deadline=None, max_examples=50)


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


@often
@given(st.lists(st.floats(0, 3) | st.just(math.nan), min_size=1, max_size=30), st.integers(1, 8))
def test_early_stopping_against_a_plain_search(losses, patience):
    model, stopper, stop = nn.Linear(1, 1, bias=False), lesson.EarlyStopping(patience), None
    for epoch, loss in enumerate(losses, start=1):
        nn.init.constant_(model.weight, epoch)
        if stopper.update(loss, model):
            stop = epoch
            break
    best, waited, expected = math.inf, 0, None
    for epoch, loss in enumerate(losses, start=1):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience and expected is None:
            expected = epoch
    assert stop == expected
    seen = losses[: stop or len(losses)]
    real = [x for x in seen if x == x]
    assert lesson.replay(losses, patience) == (len(seen), seen.index(min(real)) + 1 if real else 0)
    if real:
        nn.init.constant_(model.weight, -1)
        stopper.restore(model)
        assert model.weight.item() == stopper.best_epoch == seen.index(min(real)) + 1
        assert stopper.best_loss == min(real)


def test_kept_weights_are_copies_and_include_buffers():
    model, stopper = nn.BatchNorm1d(2), lesson.EarlyStopping(3)
    stopper.update(1.0, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(8, 2)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    stopper.update(2.0, model)
    assert any(not torch.equal(before[name], now) for name, now in model.state_dict().items())
    stopper.restore(model)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert not any(kept.requires_grad for kept in stopper.best_weights.values())


def test_an_equal_loss_is_no_progress_and_nothing_can_be_restored_before_the_first_epoch():
    assert lesson.replay([0.5, 0.5, 0.5, 0.1], 2) == (3, 1)
    with pytest.raises(TypeError):
        lesson.EarlyStopping(1).restore(nn.Linear(1, 1))


@often
@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 5))
def test_a_subset_has_each_image_once_with_its_own_label(m, n, seed):
    images, labels = torch.arange(m), 3 * torch.arange(m)
    rows, marks = lesson.draw_subset(images, labels, n, seed)
    assert len(rows) == len(rows.unique()) == min(m, n) and torch.equal(marks, 3 * rows)
    again = lesson.draw_subset(images, labels, n, seed)[0]
    assert torch.equal(rows, again)


def test_shuffled_labels_keep_their_counts_and_leave_the_original_alone():
    labels = torch.arange(1000) % 10
    kept = labels.clone()
    mixed = lesson.shuffled(labels, 0)
    assert torch.equal(labels, kept) and torch.equal(mixed.bincount(), labels.bincount())
    assert 0.05 < (mixed == labels).float().mean() < 0.15
    assert not torch.equal(mixed, lesson.shuffled(labels, 1))


@often
@given(st.integers(1, 30), st.integers(0, 20))
def test_scores_against_numpy(n, seed):
    g = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(n, 10, generator=g), torch.randint(10, (n,), generator=g)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    losses, right = -np.log(p[np.arange(n), labels]), p.argmax(1) == labels.numpy()
    found = lesson.scores(logits, labels)
    wrong = losses[~right].mean() if (~right).any() else math.nan
    expected = {"loss": losses.mean(), "accuracy": right.mean(), "confidence": p.max(1).mean(), "wrong_loss": wrong}
    assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_training_is_the_plain_loop_and_hands_over_after_each_epoch():
    images, labels = pictures(23)
    model, twin = (lesson.new_model(0, torch.device("cpu"), 6) for _ in range(2))
    optimizer, g = torch.optim.Adam(twin.parameters(), lr=0.01), torch.Generator().manual_seed(4)
    epochs = []
    for epoch in lesson.epochs_of_training(model.eval(), images, labels, 3, 5, 0.01, 4):
        epochs.append(epoch)
        assert model.training, "training in evaluation mode"
        for rows in torch.randperm(23, generator=g).split(5):
            loss = F.cross_entropy(twin(images[rows].reshape(-1, 784) / 255), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
        assert lesson.predict(model, images).shape == (23, 10) and not model.training  # the caller may measure
    assert epochs == [1, 2, 3]


def test_predictions_are_made_without_dropout_and_put_together_in_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.9), nn.Linear(8, 10)).train()
    images, _ = pictures(11)
    once = lesson.predict(model, images, batch_size=4)
    torch.testing.assert_close(once, model.eval()(images.reshape(-1, 784) / 255))


def test_both_sets_are_scored_and_not_exchanged():
    model = lesson.new_model(0, torch.device("cpu"), 5)
    sets = {"train": pictures(30, 1), "val": pictures(12, 2)}
    found = lesson.train_and_val_scores(model, sets["train"], sets["val"], most=20)
    for part, most in (("train", 20), ("val", 12)):
        images, labels = (tensor[:most] for tensor in sets[part])
        loss = F.cross_entropy(model(images.reshape(-1, 784) / 255), labels)
        assert found[f"{part}_loss"] == pytest.approx(loss.item(), rel=1e-4)


@often
@given(st.integers(1, 3000), st.integers(1, 60_000), st.integers(1, 512))
def test_epochs_come_nearest_to_the_steps(steps, n, batch_size):
    epochs, per = lesson.epochs_for(steps, n, batch_size), -(-n // batch_size)
    assert epochs >= 1 and (epochs == 1 or abs(epochs * per - steps) <= per / 2)
