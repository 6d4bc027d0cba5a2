"""The definitions of Why_neural_networks_for_image_analysis against scikit-image, scikit-learn and NumPy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import feature
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.definitions import definitions

NAMES = ("draw_subset", "pixel_histogram", "to_inputs", "oriented_votes", "hog", "fit_logistic", "new_model",
         "train_one_epoch", "fit_mlp", "predict", "accuracy", "extract", "shift")  # fmt: skip
lesson = definitions("Chapter03/Why_neural_networks_for_image_analysis.ipynb", *NAMES)
often = settings(deadline=None, max_examples=20)


def pictures(n, seed=0, size=(28, 28), most=256):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, most, (n, *size), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


def library_hog(image, cell, bins):
    options = {"pixels_per_cell": (cell, cell), "cells_per_block": (2, 2), "block_norm": "L2-Hys"}
    return feature.hog(image.numpy(), orientations=bins, **options)


@often
@given(st.sampled_from([4, 7]), st.sampled_from([4, 9]), st.sampled_from([2, 30, 256]), st.integers(0, 99))
def test_hog_is_scikit_images(cell, bins, most, seed):
    images, _ = pictures(2, seed, most=most)
    ours = lesson.hog(images, cell, bins)
    for mine, image in zip(ours, images, strict=True):
        np.testing.assert_allclose(mine.numpy(), library_hog(image, cell, bins), atol=2e-5)


@pytest.mark.parametrize("image", [
    torch.zeros(28, 28),
    torch.full((28, 28), 255),
    torch.arange(28).expand(28, 28) * 9,  # 0 degrees
    252 - torch.arange(28).expand(28, 28) * 9,  # 180 degrees, which counts as 0
    (torch.arange(28) * 9)[:, None].expand(28, 28),  # 90 degrees
    torch.arange(28) + torch.arange(28)[:, None],  # 45 degrees
    torch.arange(28) + 27 - torch.arange(28)[:, None],  # 135 degrees
])  # fmt: skip
def test_hog_of_special_pictures(image):
    image = image.to(torch.uint8)
    np.testing.assert_allclose(lesson.hog(image[None])[0].numpy(), library_hog(image, 4, 9), atol=2e-5)


def test_every_direction_that_bytes_can_have_falls_into_its_bin():
    down, right = torch.meshgrid(torch.arange(-255, 256), torch.arange(-255, 256), indexing="ij")
    angle = (torch.atan2(down.double(), right.double()) * 180 / math.pi) % 180
    single = torch.rad2deg(torch.atan2(down.float(), right.float())) % 180
    assert torch.equal((angle / 20).long() % 9, (single * 9 / 180).long().clamp(max=8))


def test_votes_and_hog_of_no_picture_and_of_a_rectangle():
    assert lesson.hog(pictures(0)[0]).shape == (0, 1296)
    image, _ = pictures(1, size=(24, 16))
    np.testing.assert_allclose(lesson.hog(image)[0].numpy(), library_hog(image[0], 4, 9), atol=2e-5)


@often
@given(st.integers(0, 5), st.sampled_from([1, 2, 32, 256]), st.integers(0, 99))
def test_histogram_against_numpy(n, bins, seed):
    images, _ = pictures(n, seed)
    found = lesson.pixel_histogram(images, bins)
    assert found.shape == (n, bins) and found.dtype == torch.float32
    for mine, image in zip(found, images.numpy(), strict=True):
        counts, _ = np.histogram(image, bins=bins, range=(0, 256))
        np.testing.assert_allclose(mine.numpy(), np.sqrt(counts / 784), atol=1e-6)


def test_logistic_regression_is_scikit_learns():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(120, 12, generator=g), torch.arange(120) % 10
    x[torch.arange(120), y] += 0.5
    for penalty in (1e-3, 1e-1):
        ours = lesson.fit_logistic(x, y, penalty, 2000)
        theirs = LogisticRegression(C=1 / (120 * penalty), tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
        with torch.inference_mode():
            probabilities = ours(x).softmax(1).numpy()
        np.testing.assert_allclose(probabilities, theirs.predict_proba(x.numpy()), atol=5e-3)


def test_the_network_is_trained_by_the_plain_loop_with_a_falling_rate():
    x, y = lesson.to_inputs(pictures(20)[0]), pictures(20)[1]
    ours, twin = lesson.fit_mlp(x, y, 12, 5, 0.01, 3), lesson.new_model(3, torch.device("cpu"))
    optimizer, g = torch.optim.Adam(twin.parameters(), lr=0.01), torch.Generator().manual_seed(3)
    for epoch in range(3):  # 12 steps of 5 images
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - epoch / 3)
        for rows in torch.randperm(20, generator=g).split(5):
            optimizer.zero_grad()
            F.cross_entropy(twin(x[rows]), y[rows]).backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_features_come_in_order_and_evaluation_is_without_dropout():
    images, labels = pictures(11)
    torch.testing.assert_close(lesson.extract(lesson.to_inputs, images, 4), images.reshape(11, -1) / 255)
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(784, 10)).train()
    x = lesson.to_inputs(images)
    logits = lesson.predict(model, x, batch_size=4)
    torch.testing.assert_close(logits, model[1](x))
    expected = np.mean(logits.argmax(1).numpy() == labels.numpy())
    assert lesson.accuracy(logits, labels) == pytest.approx(expected)


@often
@given(st.integers(-9, 9), st.integers(-9, 9))
def test_shift_does_not_wrap(dx, dy):
    images, _ = pictures(2)
    expected = ndimage.shift(images.numpy(), (0, dy, dx), order=0, mode="constant", cval=0)
    assert np.array_equal(lesson.shift(images, dx, dy).numpy(), expected)


@often
@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 5))
def test_a_subset_has_each_image_once_with_its_own_label(m, n, seed):
    rows, marks = lesson.draw_subset(torch.arange(m), 3 * torch.arange(m), n, seed)
    assert len(rows) == len(rows.unique()) == min(m, n) and torch.equal(marks, 3 * rows)
