"""Whether planted data can be learnt: a small network, a linear classifier, and what guessing reaches."""
from __future__ import annotations

import warnings

import numpy as np


def accuracy(train, test, epochs: int) -> float:
    """Test accuracy of a small CNN; `train` and `test` are (images (n, channels, height, width), labels (n,))."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    (images, labels), (test_images, test_labels) = (
        (torch.as_tensor(np.asarray(x), dtype=torch.float32), torch.as_tensor(np.asarray(y))) for x, y in (train, test))
    mean, spread = images.mean(), images.std()
    images, test_images = (images - mean) / spread, (test_images - mean) / spread

    def block(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)

    model = nn.Sequential(*block(images.shape[1], 16), *block(16, 32), *block(32, 32), nn.AdaptiveMaxPool2d(2),
                          nn.Flatten(), nn.Linear(128, int(labels.max()) + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        return (model(test_images).argmax(1) == test_labels).float().mean().item()


def linear_accuracy(train, test) -> float:
    """Test accuracy of a linear classifier on pixels; arguments as for `accuracy`, values 0 to 1."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model = LogisticRegression(max_iter=40, C=0.05).fit(np.asarray(train[0]).reshape(len(train[1]), -1), train[1])
    return float(model.score(np.asarray(test[0]).reshape(len(test[1]), -1), test[1]))


def majority(labels) -> float:
    """The share of the most frequent label: what guessing reaches."""
    return float(np.bincount(np.asarray(labels)).max() / len(labels))


def small(image, side: int = 40) -> np.ndarray:
    """A PIL image as (3, side, side), values 0 to 1."""
    return np.asarray(image.convert("RGB").resize((side, side))).transpose(2, 0, 1) / 255
