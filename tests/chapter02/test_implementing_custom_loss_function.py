"""The notebook's losses against PyTorch, torchvision and scikit-learn, on random and hostile inputs."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torchvision.ops import sigmoid_focal_loss

from tests.definitions import definitions

NOTEBOOK = "Chapter02/Implementing_custom_loss_function.ipynb"
lesson = definitions(NOTEBOOK, "mse_loss", "huber_loss", "HuberLoss", "bce_with_logits", "focal_loss", "FocalLoss",
                     "dice_loss", "hard_dice", "best_threshold")  # fmt: skip
check = settings(deadline=None)
numbers = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20)
hostile = st.sampled_from([0.0, -0.0, 1e-300, -1e-30, 88.0, -104.0, 745.0, -746.0, 1e4, -1e4])
logits = st.lists(st.one_of(st.floats(-50, 50), hostile), min_size=1, max_size=20)


def with_targets(values, seed):
    z = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return z, torch.randint(2, z.shape, generator=torch.Generator().manual_seed(seed)).double()


def assert_same(ours, theirs, z):
    """Equal values, and equal finite gradients with respect to z."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    (our_slope,), (their_slope,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    assert torch.isfinite(our_slope).all()
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-7, atol=1e-12)


@check
@given(numbers, st.integers(0, 99))
def test_mse(values, seed):
    z, t = with_targets(values, seed)
    assert_same(lesson.mse_loss(z, t), F.mse_loss(z, t), z)


@check
@given(numbers, st.floats(1e-3, 1e3), st.integers(0, 99))
def test_huber(values, delta, seed):
    z, t = with_targets(values, seed)
    assert_same(lesson.HuberLoss(delta)(z, t), F.huber_loss(z, t, delta=delta), z)


@check
@given(logits, st.floats(0, 100), st.integers(0, 99))
def test_bce(values, pos_weight, seed):
    z, t = with_targets(values, seed)
    theirs = F.binary_cross_entropy_with_logits(z, t, pos_weight=torch.tensor(pos_weight, dtype=torch.float64))
    ours = lesson.bce_with_logits(z, t, pos_weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert torch.isfinite(torch.autograd.grad(ours, z)[0]).all()


@check
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.floats(0, 1), st.sampled_from([0.0, 1.0, 2.0, 5.0]),
       st.integers(0, 99))  # fmt: skip
def test_focal(values, alpha, gamma, seed):
    z, t = with_targets(values, seed)
    theirs = sigmoid_focal_loss(z, t, alpha=alpha, gamma=gamma, reduction="mean")
    torch.testing.assert_close(lesson.FocalLoss(alpha, gamma)(z, t), theirs, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_losses_of_logits_stay_finite(dtype, target):
    z = torch.tensor([-1e4, -200, -1e-30, 0, 1e-30, 200, 1e4], dtype=dtype, requires_grad=True)
    for loss_fn in (lesson.bce_with_logits, lesson.focal_loss):
        loss = loss_fn(z, torch.full_like(z, target))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(z.grad).all()


@check
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 999))
def test_dice_of_hard_masks_is_the_f1_of_each_image(images, pixels, seed):
    generator = np.random.default_rng(seed)
    predicted, truth = generator.integers(0, 2, (2, images, pixels))
    truth[:, 0] = predicted[:, 0] = 1  # no empty pair: F1 calls it 0, the loss calls it perfect
    expected = np.mean([f1_score(t, p) for p, t in zip(predicted, truth)])
    z, t = torch.tensor(1e4 * (2.0 * predicted - 1)), torch.tensor(truth, dtype=torch.float64)
    assert 1 - lesson.dice_loss(z, t, epsilon=0.0).item() == pytest.approx(expected, abs=1e-9)
    assert lesson.hard_dice(torch.sigmoid(z), t) == pytest.approx(expected, abs=1e-6)


def test_dice_averages_images_and_forgives_emptiness():
    t = torch.zeros(2, 1, 4, 4)
    t[0, 0, 0] = 1
    z = torch.where(t > 0, 1e4, -1e4)
    assert lesson.dice_loss(z, t).item() == pytest.approx(0, abs=1e-6)
    z[0] = -1e4  # one of two images is missed entirely
    assert lesson.dice_loss(z, t, epsilon=1e-6).item() == pytest.approx(0.5, abs=1e-3)


def test_nan_is_not_hidden():
    z, t = torch.tensor([float("nan"), 1.0]), torch.ones(2)
    for loss_fn in (lesson.mse_loss, lesson.huber_loss, lesson.bce_with_logits, lesson.focal_loss):
        assert torch.isnan(loss_fn(z, t))


def test_errors():
    with pytest.raises(ValueError, match="shapes differ"):
        lesson.mse_loss(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="positive"):
        lesson.HuberLoss(0)


def test_best_threshold_separates_what_can_be_separated():
    y = np.array([0] * 90 + [1] * 10)
    p = np.concatenate([np.linspace(0, 0.3, 90), np.linspace(0.31, 0.6, 10)])
    assert f1_score(y, p >= lesson.best_threshold(y, p)) > 0.9
