"""The definitions of Preparing_our_data against torchvision and PyTorch, and what they say to bad input."""
import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets.mnist import read_image_file
from torchvision.transforms import v2

from tests.definitions import definitions

NAMES = ("read_idx_images", "count_duplicates", "split", "TransformedGarments", "batches", "standardise",
         "tensor_batches",
         "train_on", "predict", "accuracy")  # fmt: skip
lesson = definitions("Chapter03/Preparing_our_data.ipynb", *NAMES)
often = settings(deadline=None, max_examples=40)
to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


def write_idx(path, array):
    path.write_bytes(struct.pack(">4i", 2051, *array.shape) + array.tobytes())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 28, 28), (5, 2, 7), (300, 1, 2)])
def test_idx_is_read_as_torchvision_reads_it(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / "images", array)
    ours = lesson.read_idx_images(tmp_path / "images")
    assert np.array_equal(ours, array)
    assert np.array_equal(ours, read_image_file(str(tmp_path / "images")).numpy())


def test_incomplete_or_foreign_files_are_refused(tmp_path):
    whole = struct.pack(">4i", 2051, 2, 3, 3) + bytes(18)
    labels = struct.pack(">2i", 2049, 2) + bytes(20)
    cases = {"cut": (whole[:-1], "incomplete"), "long": (whole + b"x", "incomplete"), "labels": (labels, "2051"),
             "packed": (gzip.compress(whole), "2051"), "empty": (b"", "2051")}  # fmt: skip
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            lesson.read_idx_images(tmp_path / name)


def test_duplicates_are_counted():
    a, b = pictures(6)[0], pictures(4, seed=1)[0]
    assert lesson.count_duplicates(a) == 0 and lesson.count_duplicates(a, b) == 0
    assert lesson.count_duplicates(torch.cat([a, a[:2], a[:1]])) == 3
    assert lesson.count_duplicates(torch.cat([b, a[1:3]]), a) == 2
    near = a.clone()
    near[:, 27, 27] ^= 1
    assert lesson.count_duplicates(near, a) == 0


@often
@given(st.integers(2, 300), st.data())
def test_split_is_a_partition(n, data):
    held_out = data.draw(st.integers(1, n - 1))
    rows, held = lesson.split(n, held_out)
    assert len(held) == held_out
    assert sorted(rows.tolist() + held.tolist()) == list(range(n))
    again = lesson.split(n, held_out)
    assert torch.equal(rows, again[0]) and torch.equal(held, again[1])


def test_split_is_random_and_refuses_nonsense():
    assert lesson.split(1000, 100)[1].tolist() != list(range(100))
    assert lesson.split(1000, 100, seed=1)[1].tolist() != lesson.split(1000, 100)[1].tolist()
    for held_out in (0, 10, -1, 11):
        with pytest.raises(ValueError, match="held_out"):
            lesson.split(10, held_out)


@often
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000))
def test_batches_are_the_data_loaders_and_the_tensors(n, batch_size, seed):
    images, labels = pictures(n, seed)
    garments = lesson.TransformedGarments(images, labels, to_float)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    ours = list(lesson.batches(garments, order, batch_size))
    loader = list(DataLoader(garments, batch_size, sampler=order.tolist()))
    tensors = list(lesson.tensor_batches(images, labels, order, batch_size, 0.0, 1.0))
    assert len(ours) == len(loader) == len(tensors) == -(-n // batch_size)
    for (x, y), (x2, y2), (x3, y3) in zip(ours, loader, tensors, strict=True):
        torch.testing.assert_close(x.as_subclass(torch.Tensor), x2.as_subclass(torch.Tensor))
        torch.testing.assert_close(x.as_subclass(torch.Tensor), x3)
        assert torch.equal(y, y2) and torch.equal(y, y3)


def test_labels_must_fit_images():
    images, labels = pictures(5)
    with pytest.raises(ValueError, match="5 images but 4 labels"):
        lesson.TransformedGarments(images, labels[:4], to_float)


def test_standardised_pixels_are_those_of_the_transform():
    images, labels = pictures(7)
    transform = v2.Compose([to_float, v2.Normalize([0.3], [0.25])])
    items = torch.stack([lesson.TransformedGarments(images, labels, transform)[k][0] for k in range(7)])
    torch.testing.assert_close(items.as_subclass(torch.Tensor), lesson.standardise(images, 0.3, 0.25))


def test_training_wakes_the_model_and_evaluation_puts_it_to_sleep():
    images, labels = pictures(60)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    losses = lesson.train_on(model, lesson.tensor_batches(images, labels, torch.arange(60), 20, 0.3, 0.3), 1e-3)
    assert losses.shape == (3,) and model.training and model[2].num_batches_tracked == 3
    first, second = (lesson.predict(model, images, 0.3, 0.3, batch_size=13) for _ in range(2))
    assert torch.equal(first, second) and not model.training and model[2].num_batches_tracked == 3
    assert lesson.accuracy(first, first.argmax(1)) == 1.0
    assert lesson.accuracy(torch.eye(10), torch.zeros(10, dtype=torch.int64)) == pytest.approx(0.1)
