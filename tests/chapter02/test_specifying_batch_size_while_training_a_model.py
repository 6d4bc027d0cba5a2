"""The definitions of Specifying_batch_size_while_training_a_model against NumPy, DataLoader and loops over samples."""
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.definitions import definitions

NAMES = ("Sums", "crop_to_ink", "pad_collate", "shuffled_batches", "pass_by_loader", "pass_by_index", "seconds",
         "new_model", "per_sample_gradients", "train_steps", "relative_noise", "predicted_noise",
         "accuracy")  # fmt: skip
lesson = definitions("Chapter02/Specifying_batch_size_while_training_a_model.ipynb", *NAMES)
cpu = torch.device("cpu")
often = settings(deadline=None, max_examples=40)


def samples(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 64, generator=g), torch.randint(10, (n,), generator=g)


def test_sums():
    data = lesson.Sums(4)
    assert len(data) == 4 and len(lesson.Sums(0)) == 0
    assert [t.tolist() for t in data[3]] == [[3.0, 1.0], [4.0]]


@often
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=5))
def test_crop_to_ink_is_the_tightest_window(pixels):
    image = torch.zeros(8, 8)
    for row, column in pixels:
        image[row, column] = 0.5
    crop = lesson.crop_to_ink(image)
    rows, columns = np.nonzero(image.numpy())
    assert crop.shape == (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert crop.sum() == image.sum()
    assert all(edge.any() for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]))


@often
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6))
def test_pad_collate_keeps_each_image_and_pads_with_zero(shapes):
    images, sizes, labels = lesson.pad_collate([(torch.full(s, k + 1.0), k) for k, s in enumerate(shapes)])
    assert images.shape == (len(shapes), max(h for h, _ in shapes), max(w for _, w in shapes))
    assert sizes.tolist() == [list(s) for s in shapes] and labels.tolist() == list(range(len(shapes)))
    for k, (image, (h, w)) in enumerate(zip(images, shapes, strict=True)):
        assert (image[:h, :w] == k + 1).all() and image.sum() == (k + 1) * h * w


@often
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3))
def test_each_epoch_visits_every_sample_once_in_a_new_order(n, batch_size, seed):
    steps = -(-n // batch_size)
    batches = list(itertools.islice(lesson.shuffled_batches(n, batch_size, seed, cpu), 2 * steps))
    first, second = torch.cat(batches[:steps]), torch.cat(batches[steps:])
    for epoch in (first, second):
        assert epoch.sort().values.tolist() == list(range(n))
    assert n < 10 or not torch.equal(first, second)
    expected = [len(b) for b in DataLoader(range(n), batch_size=batch_size)]
    assert [len(b) for b in batches[:steps]] == expected
    again = list(itertools.islice(lesson.shuffled_batches(n, batch_size, seed, cpu), 2 * steps))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_both_ways_hand_over_everything(size):
    assert lesson.pass_by_loader(*samples(7), size) == lesson.pass_by_index(*samples(7), size) == 7


def test_seconds_takes_the_shortest_of_the_repeats():
    calls = []
    assert 0 <= lesson.seconds(calls.append, 1, repeats=4) < 1
    assert calls == [1, 1, 1, 1]


@pytest.mark.parametrize("n", [1, 5])
def test_per_sample_gradients_equal_a_loop(n):
    model = lesson.new_model(4, 0, cpu)
    inputs, labels = samples(n)
    ours = lesson.per_sample_gradients(model, inputs, labels)
    for k in range(n):
        model.zero_grad()
        F.cross_entropy(model(inputs[k : k + 1]), labels[k : k + 1]).backward()
        torch.testing.assert_close(ours[k], torch.cat([p.grad.flatten() for p in model.parameters()]))


def test_predicted_noise_equals_the_mean_over_all_possible_batches():
    gradients = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = gradients.mean(dim=0)
    for size in range(1, 7):
        errors = [gradients[list(c)].mean(dim=0) - whole for c in itertools.combinations(range(6), size)]
        exact = torch.stack(errors).square().sum(dim=1).mean().sqrt() / whole.norm()
        assert lesson.predicted_noise(gradients, size) == pytest.approx(exact.item(), abs=1e-12)
        assert lesson.relative_noise(gradients, size, 4000, 1) == pytest.approx(exact.item(), rel=0.05, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_train_steps_equals_sgd_written_out(batch_size):
    inputs, labels = samples(8)
    model, twin = (lesson.new_model(4, 0, cpu) for _ in range(2))
    lesson.train_steps(model, inputs, labels, batch_size, 0.1, 5, seed=2)
    for batch in itertools.islice(lesson.shuffled_batches(8, batch_size, 2, cpu), 5):
        loss = F.cross_entropy(twin(inputs[batch]), labels[batch])
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p -= 0.1 * g
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accuracy_counts_and_leaves_evaluation_mode():
    model = lesson.new_model(4, 0, cpu).train()
    inputs, _ = samples(4)
    labels = model(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 10
    assert lesson.accuracy(model, inputs, labels) == 0.75 and not model.training
