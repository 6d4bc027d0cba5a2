"""What chapters 3 and 4 do alike in many notebooks, tested in each: the split, the inputs, training and evaluation.

No code is shared between notebooks, so each has its own `load_fashion_mnist`, `to_inputs`, `train_one_epoch`,
`evaluate` or `predict`, and a fault in one of them is a fault of one notebook. Which have which is read from them.
(What has one name and one signature is the same in all: tests/structure.py.)
"""
import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.definitions import definitions
from tests.notebooks import code_cells, name_of, notebooks, read

SOURCES = {name: "\n".join(cell.source for cell in code_cells(read(path)))
           for path in notebooks() if (name := name_of(path)).startswith(("Chapter03/", "Chapter04/"))}


def with_definition(function):
    """Notebooks of both chapters that define `function` at the top level."""
    return [name for name, source in SOURCES.items() if re.search(rf"^def {function}\(", source, re.MULTILINE)]


def test_these_are_the_chapters():
    assert len(with_definition("load_fashion_mnist")) >= 16 and len(CONVERSIONS) >= 18
    assert len(with_definition("train_one_epoch")) >= 12
    assert len(with_definition("evaluate")) >= 7 and len(with_definition("predict")) >= 9


# ---- the data


class Numbered:
    """Stands for torchvision's FashionMNIST: image k has the pixels k, k, …, and its label follows from k."""

    classes = [f"class {k}" for k in range(10)]

    def __init__(self, root, train=True, download=False):
        numbers = torch.arange(60) if train else torch.arange(100, 120)
        self.data = numbers.to(torch.uint8)[:, None, None].expand(-1, 28, 28).clone()
        self.targets = self.label(numbers)

    @staticmethod
    def label(numbers):
        return numbers.long() * 7 % 10

    def __len__(self):
        return len(self.data)


@pytest.mark.parametrize("notebook", with_definition("load_fashion_mnist"))
@pytest.mark.parametrize("validation", [1, 13])
def test_the_split(notebook, validation, monkeypatch):
    """A partition of the training set, the same in all notebooks; the test set whole; labels stay with their images."""
    load = definitions(notebook, "load_fashion_mnist").load_fashion_mnist
    monkeypatch.setitem(load.__globals__, "FashionMNIST", Numbered)
    data, classes = load(validation, torch.device("cpu"))
    assert classes == Numbered.classes and set(data) == {"train", "val", "test"}
    numbers = {}
    for part, (images, labels) in data.items():
        assert images.dtype == torch.uint8 and images.shape[1:] == (28, 28) and labels.dtype == torch.int64
        assert (images == images[:, :1, :1]).all(), f"{part}: images are not as they were downloaded"
        numbers[part] = images[:, 0, 0].long()
        assert torch.equal(labels, Numbered.label(numbers[part])), f"{part}: labels of other images"
    assert sorted(torch.cat([numbers["train"], numbers["val"]]).tolist()) == list(range(60)), "not a partition"
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert sorted(numbers["val"].tolist()) == sorted(order[:validation].tolist()), "another split than the others'"
    assert numbers["test"].tolist() == list(range(100, 120))


# ---- the inputs

RANGES = {"to_inputs": [(0, 1), (-1, 1)], "to_raw_inputs": [(0, 255)], "to_image_inputs": [(0, 1)],
          "photo_inputs": [(-1, 1)]}
CONVERSIONS = {notebook: name for name in RANGES for notebook in with_definition(name)}


def conversion(notebook):
    """The function that makes inputs of the images of a notebook."""
    return getattr(definitions(notebook, CONVERSIONS[notebook]), CONVERSIONS[notebook])


@pytest.mark.parametrize("notebook", [
    notebook for notebook in CONVERSIONS if list(inspect.signature(conversion(notebook)).parameters) == ["images"]])
def test_inputs_are_scaled_alike_in_training_and_evaluation(notebook):
    to_inputs = conversion(notebook)
    shape = (4, 3, 8, 8) if CONVERSIONS[notebook] == "photo_inputs" else (4, 28, 28)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images.view(-1)[:2] = torch.tensor([0, 255])
    kept, training = images.clone(), to_inputs(images)
    assert training.dtype == torch.float32 and torch.equal(images, kept)
    low, high = training.min(), training.max()
    assert (low, high) in RANGES[CONVERSIONS[notebook]], f"inputs from {low} to {high}"
    torch.testing.assert_close(training.flatten(), low + images.flatten() * (high - low) / 255)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(to_inputs(images), training), f"other inputs in {mode.__name__}"


# ---- training and evaluation


class Probe(nn.Sequential):
    """A small network that remembers in which mode it was each time it was used."""

    def __init__(self, outputs):
        torch.manual_seed(0)
        super().__init__(nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, outputs))
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return super().forward(x.flatten(1)[:, :784])


def prepared(notebook, name):
    """The notebook's function of that name, the probe, and for each parameter without a default what its name means."""
    function = getattr(definitions(notebook, name), name)
    model = Probe(outputs=1 if "Cats" in notebook else 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randint(0, 256, (23, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    photos = images[:, None].expand(-1, 3, -1, -1)
    if "Cats" in notebook:
        images = photos
    elif "Image_augmentation" in notebook:
        images = images / 255
    numbers = torch.arange(len(images))
    known = {
        "model": model, "images": images, "photos": photos, "rows": numbers, "scaling": (0, 255), "mean": 0, "std": 1,
        "inputs": images.flatten(1) / 255, "features": images.flatten(1) / 255,
        "labels": numbers * 3 % 10, "targets": (numbers % 2).float(), "loss_fn": F.cross_entropy, "batch_size": 5,
        "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        "rate_of_step": lambda step: 0.01, "watch": 2, "kind": "none", "strength": 0.0, "largest": 2,
        "generator": torch.Generator().manual_seed(2), "shift_generator": torch.Generator().manual_seed(3),
        "to_inputs": lambda images: images.flatten(1) / 255,
    }
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return function, model, {name: known[name] for name in needed}


@pytest.mark.parametrize("notebook, name", [
    *((notebook, "train_one_epoch") for notebook in with_definition("train_one_epoch")),
    *((notebook, "train_step") for notebook in with_definition("train_step"))])
def test_training_is_in_training_mode_and_changes_the_network(notebook, name):
    function, model, needed = prepared(notebook, name)
    before = [p.detach().clone() for p in model.parameters()]
    model.eval()  # as an evaluation left it
    function(**needed)
    assert model.modes and all(model.modes), "trained in evaluation mode"
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))


EVALUATIONS = [(notebook, name) for name in ("evaluate", "accuracy_on", "predict")
               for notebook in with_definition(name)]


@pytest.mark.parametrize("notebook, name", EVALUATIONS)
def test_evaluation_is_in_evaluation_mode_and_changes_nothing(notebook, name):
    function, model, needed = prepared(notebook, name)
    before = [p.detach().clone() for p in model.parameters()]
    model.train()  # as a training left it
    function(**needed)
    assert model.modes and not any(model.modes), "evaluated in training mode"
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


BATCHED = [case for case in EVALUATIONS if "batch_size" in inspect.signature(prepared(*case)[0]).parameters]


@pytest.mark.parametrize("batch_size", [1, 6, 23, 100])
@pytest.mark.parametrize("notebook, name", BATCHED)
def test_evaluation_takes_every_image_once_whatever_the_batches(notebook, name, batch_size):
    function, model, needed = prepared(notebook, name)
    inputs = needed.get("features", needed["images"].flatten(1) / 255 if "mean" in needed else None)
    if inputs is None:
        inputs = conversion(notebook)(needed["images" if "images" in needed else "photos"], *needed.get("scaling", ()))
    with torch.no_grad():
        logits = model.eval()(inputs).squeeze(1)
    result = function(**needed, batch_size=batch_size)
    if name == "predict":
        torch.testing.assert_close(result, logits, rtol=1e-4, atol=1e-5)
        return
    loss, accuracy = result if isinstance(result, tuple) else (None, result)
    assert accuracy == pytest.approx((logits.argmax(1) == needed["labels"]).float().mean().item())
    assert loss is None or loss == pytest.approx(F.cross_entropy(logits, needed["labels"]).item(), rel=1e-5)
