"""The definitions of Steps_to_build_a_neural_network_on_FashionMNIST against scikit-learn, autograd and plain loops."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from torch import nn

from tests.definitions import definitions

NAMES = ("to_raw_inputs", "new_model", "nearest_mean_accuracy", "train_one_epoch", "evaluate", "from_loader",
         "from_index",
         "from_nowhere", "to_bits", "inside", "first_step", "train", "watch", "autopsy")  # fmt: skip
lesson = definitions("Chapter03/Steps_to_build_a_neural_network_on_FashionMNIST.ipynb", *NAMES)
cpu = torch.device("cpu")
often = settings(deadline=None, max_examples=25)


def pictures(n, seed=0, largest=255):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, largest + 1, (n, 28, 28), generator=g, dtype=torch.uint8)
    return images, torch.randint(10, (n,), generator=g)


def small_model(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 10))


def test_inputs_keep_every_pixel_in_reading_order():
    images, _ = pictures(3)
    x = lesson.to_raw_inputs(images)
    assert x.dtype == torch.float32 and x.shape == (3, 784)
    assert np.array_equal(x.numpy(), images.numpy().reshape(3, -1).astype(float))
    assert lesson.to_raw_inputs(images[:0]).shape == (0, 784)


def test_bits_cut_between_127_and_128():
    levels = torch.arange(256, dtype=torch.uint8)
    assert lesson.to_bits(levels).dtype == torch.uint8
    assert lesson.to_bits(levels).tolist() == [0] * 128 + [1] * 128


def test_model_is_the_reference_one_and_follows_its_seed_alone():
    torch.manual_seed(5)
    a = lesson.new_model(3, cpu)
    torch.rand(7)
    b, c = lesson.new_model(3, cpu), lesson.new_model(4, cpu)
    assert sum(p.numel() for p in a.parameters()) == 784 * 1000 + 1000 + 1000 * 10 + 10
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[0].weight, c[0].weight)


@often
@given(st.integers(0, 5), st.integers(1, 40))
def test_nearest_mean_is_scikit_learns(seed, n):
    images, _ = pictures(40, seed)
    labels = torch.arange(40) % 10
    new, truth = pictures(n, seed + 50)
    theirs = NearestCentroid().fit(images.reshape(40, -1), labels).score(new.reshape(n, -1), truth)
    assert lesson.nearest_mean_accuracy(images, labels, new, truth) == pytest.approx(theirs, abs=1e-6)


def test_an_epoch_is_sgd_written_out_over_each_image_once():
    images, labels = pictures(23, largest=3)
    model, twin = small_model(), small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(4)
    loss, accuracy = lesson.train_one_epoch(model, images, labels, lesson.to_raw_inputs, nn.CrossEntropyLoss(),
                                            optimizer, 5, generator)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(4)).tolist()
    losses, hits = [], 0
    for start in range(0, 23, 5):
        rows = order[start:start + 5]
        logits = twin(images[rows].reshape(len(rows), -1).float())
        each = F.cross_entropy(logits, labels[rows], reduction="none")
        losses += each.tolist()
        hits += (logits.argmax(1) == labels[rows]).sum().item()
        gradients = torch.autograd.grad(each.mean(), list(twin.parameters()))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p -= 0.1 * g
    assert len(losses) == 23
    assert loss == pytest.approx(np.mean(losses), rel=1e-5) and accuracy == pytest.approx(hits / 23)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@often
@given(st.integers(1, 40), st.integers(1, 50))
def test_evaluate_is_the_mean_over_all_images(n, batch_size):
    images, labels = pictures(n, n)
    model = small_model()
    loss, accuracy = lesson.evaluate(model, images, labels, nn.CrossEntropyLoss(), batch_size)
    logits = model(images.reshape(n, -1).float())
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_modes_are_switched_where_they_must_be():
    images, labels = pictures(64)
    model, loss_fn = small_model(dropout=0.9), nn.CrossEntropyLoss()
    model.train()
    first = lesson.evaluate(model, images, labels, loss_fn)
    assert not model.training and first == lesson.evaluate(model, images, labels, loss_fn), "dropout in evaluation"
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    lesson.train_one_epoch(model, images, labels, lesson.to_raw_inputs, loss_fn, torch.optim.SGD(model.parameters()),
                           16, generator)
    assert model.training, "training in evaluation mode"


def test_training_uses_the_training_images_only():
    data = {"train": pictures(20, 1, largest=1), "val": pictures(12, 2, largest=1)}
    other = {"train": data["train"], "val": pictures(9, 3, largest=1)}
    arguments = 0, 2, 0.1, 8, nn.CrossEntropyLoss()
    (a, rows), (b, _) = lesson.train(data, *arguments), lesson.train(other, *arguments)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert rows["epoch"].tolist() == [0, 1, 2] and rows["seed"].eq(0).all()
    untrained = lesson.evaluate(lesson.new_model(0, cpu), *data["val"], nn.CrossEntropyLoss())
    assert (rows["val_loss"][0], rows["val_accuracy"][0]) == untrained
    last = lesson.evaluate(a, *data["val"], nn.CrossEntropyLoss())
    assert (rows["val_loss"][2], rows["val_accuracy"][2]) == last


@often
@given(st.integers(1, 30), st.integers(1, 12))
def test_three_sources_of_batches(n, batch_size):
    images, labels = pictures(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(n))[:n]
    loader, index, floor = ([(x, y) for x, y in source(images, labels, order, batch_size, cpu)]
                            for source in (lesson.from_loader, lesson.from_index, lesson.from_nowhere))
    assert len(loader) == len(index) == len(floor) == -(-n // batch_size)
    for (x, y), (x2, y2) in zip(loader, index, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    assert torch.equal(torch.cat([y for _, y in index]), labels[order])
    assert all(torch.equal(x, index[0][0]) for x, _ in floor)


def test_dead_units_are_those_off_for_every_image():
    images, _ = pictures(6)
    model = lesson.new_model(0, cpu)
    with torch.no_grad():
        model[0].weight[:250] = -1.0  # negative for any image
        model[0].bias[:250] = -1.0
        model[0].weight[250:] = 1.0
        model[0].bias[250:] = -lesson.to_raw_inputs(images).sum(1).median()  # off for some of the images only
    size, dead = lesson.inside(model, images)
    z = model[0](lesson.to_raw_inputs(images)).detach()
    assert dead == 0.25 and size == pytest.approx(z.abs().mean().item())
    remains = list(lesson.autopsy(model, images).values())
    off = (z <= 0).all(dim=1).float().mean().item()
    answers = model(lesson.to_raw_inputs(images)).argmax(1)
    favourite = (answers == answers.mode().values).float().mean().item()
    assert remains == pytest.approx([0.25, (z > 0).float().mean().item(), off, favourite])
    assert 0 < off < 1


def test_watching_is_training():
    images, labels = pictures(40, largest=1)
    model, twin = lesson.new_model(1, cpu), lesson.new_model(1, cpu)
    rows = lesson.watch(model, images, labels, images[:7], nn.CrossEntropyLoss(), 0.1, 8, 5,
                        torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    loss, _ = lesson.train_one_epoch(twin, images, labels, lesson.to_raw_inputs, nn.CrossEntropyLoss(), optimizer, 8,
                                     torch.Generator().manual_seed(2))
    assert len(rows) == 5 and rows["loss"].mean() == pytest.approx(loss, rel=1e-5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert rows["weights"][0] == pytest.approx(lesson.new_model(1, cpu)[0].weight.norm().item())


@often
@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 1.0, 255.0, -30.0]), st.sampled_from([1e-6, 0.01, 2.0]))
def test_the_leap_is_the_rate_times_squared_length_plus_one(seed, size, rate):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 10)).double()
    x, label = size * torch.rand(1, 5, dtype=torch.float64), torch.tensor([seed % 10])
    output = [p.clone() for p in model[2].parameters()]
    before, after, predicted = lesson.first_step(model, x, label, rate)
    torch.testing.assert_close(after - before, predicted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(after, model[0](x))
    assert all(torch.equal(p, q) for p, q in zip(output, model[2].parameters(), strict=True))
    assert (predicted[before <= 0] == 0).all()
