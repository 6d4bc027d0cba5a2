"""What Data_augmentation_with_CNN.ipynb defines: shifts of a batch, their draws, a loop with equal steps, a verdict."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.definitions import definitions

lesson = definitions("Chapter04/Data_augmentation_with_CNN.ipynb", "shift", "shift_one_by_one", "shift_each",
                     "draw_offsets", "train_one_epoch", "new_cnn", "predict", "gain_in_words", "to_image_inputs")
CPU = torch.device("cpu")
fixed = settings(deadline=None, max_examples=60)


@fixed
@given(b=st.integers(0, 5), h=st.integers(1, 9), w=st.integers(1, 9), largest=st.integers(0, 12),
       seed=st.integers(0, 999))
def test_a_batch_equals_the_loop_and_scipy_image_by_image(b, h, w, largest, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (b, h, w), dtype=torch.uint8, generator=generator)
    before, offsets = images.clone(), lesson.draw_offsets(b, largest, generator)
    moved = lesson.shift_each(images, offsets)
    assert moved.dtype == torch.uint8 and moved.shape == images.shape and torch.equal(images, before)
    for image, result, (dx, dy) in zip(images, moved, offsets.tolist()):
        np.testing.assert_array_equal(result.numpy(), ndimage.shift(image.numpy(), (dy, dx), order=0, cval=0))
        assert torch.equal(result, lesson.shift(image, dx, dy))
    if b:
        assert torch.equal(moved, lesson.shift_one_by_one(images, offsets))


def test_offsets_are_even_independent_and_reproducible():
    draws = lesson.draw_offsets(200_000, 3, torch.Generator().manual_seed(0))
    assert torch.equal(draws, lesson.draw_offsets(200_000, 3, torch.Generator().manual_seed(0)))
    counts = torch.bincount((draws + 3) @ torch.tensor([7, 1]), minlength=49)
    assert len(counts) == 49 and (counts - 200_000 / 49).abs().max() < 6 * (200_000 / 49) ** 0.5
    assert abs(np.corrcoef(draws.T.numpy())[0, 1]) < 0.01
    assert not lesson.draw_offsets(10, 0, torch.Generator()).any()


class Spy(torch.nn.Linear):
    """Keeps what it is shown in training."""

    def __init__(self):
        super().__init__(784, 10)
        self.seen = []

    def forward(self, x):
        assert self.training
        self.seen.append(x.mul(255).round().to(torch.uint8)[:, 0])
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("largest", [0, 4])
def test_an_epoch_shows_each_image_once_in_the_same_order_with_its_own_shift(largest):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (23, 28, 28), dtype=torch.uint8, generator=generator)
    before, model = images.clone(), Spy().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    order, shifts = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    labels = torch.zeros(23, dtype=torch.int64)
    share = lesson.train_one_epoch(model, images, labels, optimizer, scheduler, 5, order, largest, shifts)
    seen = torch.cat(model.seen)
    expected = before[torch.randperm(23, generator=torch.Generator().manual_seed(5))]
    again = torch.Generator().manual_seed(6)
    offsets = torch.cat([lesson.draw_offsets(n, largest, again) for n in (5, 5, 5, 5, 3)])
    assert torch.equal(seen, lesson.shift_one_by_one(expected, offsets)) and scheduler.last_epoch == 5
    assert torch.equal(images, before) and 0 <= share <= 1
    assert (len(offsets.unique(dim=0)) > 10) == (largest > 0)


def test_prediction_is_in_evaluation_mode_whatever_the_batch():
    images = torch.randint(0, 256, (11, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = lesson.new_cnn(0, CPU).train()
    once, again = lesson.predict(model, images, batch_size=4), lesson.predict(model, images)
    torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-5)
    assert {int(layer.num_batches_tracked) for layer in model if hasattr(layer, "running_mean")} == {0}


def test_the_verdict_asks_for_one_sign_and_more_than_the_spread():
    base = pd.Series([0.90, 0.91, 0.90])
    assert lesson.gain_in_words(base - 0.05, base).endswith("paid")
    assert lesson.gain_in_words(base + 0.05, base).endswith("gained")
    assert lesson.gain_in_words(base + 0.005, base).endswith("within the spread")  # one sign, but small
    assert lesson.gain_in_words(pd.Series([0.99, 0.89, 0.99]), base).endswith("within the spread")  # two signs
