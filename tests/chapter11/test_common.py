"""What the autoencoders of chapter 11 share, in each notebook that has it: the split of the digits, the training."""
import inspect
import re

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from tests.definitions import definitions
from tests.notebooks import code_cells, name_of, notebooks, read

SOURCES = {name: "\n".join(cell.source for cell in code_cells(read(path)))
           for path in notebooks() if (name := name_of(path)).startswith("Chapter11/")}


def defining(function):
    """Notebooks of the chapter that define `function` at the top level."""
    return [name for name, source in SOURCES.items() if re.search(rf"^def {function}\(", source, re.MULTILINE)]


def test_one_training_function():
    assert defining("train_autoencoder") and defining("train_autoencoder") == defining("load_mnist")
    bodies = {inspect.getsource(definitions(name, "train_autoencoder").train_autoencoder)
              for name in defining("train_autoencoder")}
    assert len(bodies) == 1


class Numbered:
    """Stands for torchvision's MNIST: image k has the pixels k, and its label follows from k."""

    def __init__(self, root, train=True, download=False):
        numbers = torch.arange(60) if train else torch.arange(100, 120)
        self.data = numbers.to(torch.uint8)[:, None, None].expand(-1, 28, 28).clone()
        self.targets = numbers * 7 % 10

    def __len__(self):
        return len(self.data)


@pytest.mark.parametrize("notebook", defining("load_mnist"))
@pytest.mark.parametrize("validation", [1, 13])
def test_the_split(notebook, validation, monkeypatch):
    load = definitions(notebook, "load_mnist").load_mnist
    monkeypatch.setitem(load.__globals__, "MNIST", Numbered)
    data = load(validation, torch.device("cpu"))
    numbers = {}
    for part, (images, labels) in data.items():
        assert images.dtype == torch.float32 and images.shape[1:] == (784,)
        numbers[part] = (255 * images[:, 0]).round().long()
        torch.testing.assert_close(images, numbers[part][:, None].expand(-1, 784) / 255)
        assert torch.equal(labels, numbers[part] * 7 % 10), f"{part}: labels of other images"
    assert len(numbers["val"]) == validation and numbers["test"].tolist() == list(range(100, 120))
    assert sorted(torch.cat([numbers["train"], numbers["val"]]).tolist()) == list(range(60)), "not a partition"


def run(notebook, seed=0, images=None, epochs=3, batch_size=4, rate=0.1):
    """A training of a probe: what it saw, the losses, the steps at which it was watched, the rates, the probe."""
    train = definitions(notebook, "train_autoencoder").train_autoencoder
    images = torch.arange(22.0)[:, None] if images is None else images
    torch.manual_seed(99)
    model, seen, steps, modes = nn.Linear(1, 1), [], [], []

    def batch_loss(model, batch):
        seen.append(batch[:, 0].tolist())
        modes.append(model.training)
        return (model(batch / 22) ** 2).mean() + 0 * torch.randn(())

    losses = train(model, images, batch_loss, epochs, batch_size, rate, seed, watch=steps.append)
    return seen, losses, steps, modes, model


@pytest.mark.parametrize("notebook", defining("train_autoencoder"))
def test_training(notebook):
    seen, losses, steps, modes, model = run(notebook)
    assert all(modes) and len(losses) == 15 and steps == list(range(16)) and losses.requires_grad is False
    for epoch in range(3):
        rows = sum(seen[5 * epoch:5 * epoch + 5], [])
        assert len(set(rows)) == 20, "an image twice in an epoch"
    assert seen[0] != seen[5] and losses[-1] < losses[0]
    again = run(notebook)
    assert again[0] == seen and torch.equal(again[4].weight, model.weight)
    assert run(notebook, seed=1)[0] != seen


@pytest.mark.parametrize("notebook", defining("train_autoencoder"))
def test_the_steps_are_adams_with_one_cycle(notebook):
    seen, _, _, _, model = run(notebook)
    torch.manual_seed(99)
    other = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(other.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=15)
    for batch in seen:
        optimizer.zero_grad()
        (other(torch.tensor(batch)[:, None] / 22) ** 2).mean().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(model.weight, other.weight)


@pytest.mark.parametrize("notebook", defining("show_digit_rows"))
def test_rows_of_digits_stand_in_order(notebook, monkeypatch):
    lesson = definitions(notebook, "show_digit_rows")
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gca()))
    upper, lower = torch.zeros(3, 784), torch.ones(3, 784)
    upper[1] = 0.5
    upper[0, 27] = 0.25  # the upper right corner of the first image
    lesson.show_digit_rows({"first": upper, "second": lower}, "a title")
    ax = drawn[0]
    sheet = ax.images[0].get_array()
    assert sheet.shape == (60, 90) and ax.get_title() == "a title"
    assert sheet[1, 28] == 0.25 and sheet[15, 45] == 0.5 and sheet[45, 45] == 1 and sheet[15, 75] == 0
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    plt.close("all")
