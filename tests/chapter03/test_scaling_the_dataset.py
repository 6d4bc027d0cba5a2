"""The definitions of Scaling_the_dataset against scikit-learn, plain loops and the theorem on divided inputs."""
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torch import nn

from tests.definitions import definitions

NAMES = ("to_inputs", "new_model", "train_one_epoch", "evaluate", "train", "gradient_norms", "slowed_first_layer",
         "losses_of", "mean_confidence", "off_scale", "Scale")  # fmt: skip
lesson = definitions("Chapter03/Scaling_the_dataset.ipynb", *NAMES)
cpu = torch.device("cpu")
often = settings(deadline=None, max_examples=25)
loss_fn = nn.CrossEntropyLoss()


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


def small_model(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 10))


def test_standardised_inputs_are_scikit_learns():
    images, _ = pictures(9)
    pixels = images.reshape(-1, 1).double().numpy()
    scaler = StandardScaler().fit(pixels)
    ours = lesson.to_inputs(images, scaler.mean_[0], scaler.scale_[0])
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy().reshape(-1, 1), scaler.transform(pixels), atol=1e-5)


def test_inputs_at_the_ends():
    ends = torch.tensor([0, 255], dtype=torch.uint8).repeat(392).reshape(1, 28, 28)
    assert lesson.to_inputs(ends, 0, 255)[0, :2].tolist() == [0, 1]
    assert lesson.to_inputs(ends, 0, 1)[0, :2].tolist() == [0, 255]
    assert lesson.to_inputs(ends[:0], 3, 7).shape == (0, 784)


def test_an_epoch_sees_scaled_images_each_once():
    images, labels = pictures(23)
    model, twin = small_model(), small_model()
    optimizer, twins = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    loss, accuracy = lesson.train_one_epoch(model, images, labels, (10, 90), loss_fn, optimizer, 5,
                                            torch.Generator().manual_seed(4))
    losses, hits = [], 0
    for rows in torch.randperm(23, generator=torch.Generator().manual_seed(4)).split(5):
        logits = twin((images[rows].reshape(len(rows), -1).float() - 10) / 90)
        each = F.cross_entropy(logits, labels[rows], reduction="none")
        losses += each.tolist()
        hits += (logits.argmax(1) == labels[rows]).sum().item()
        twins.zero_grad()
        each.mean().backward()
        twins.step()
    assert len(losses) == 23 and accuracy == pytest.approx(hits / 23)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@often
@given(st.integers(1, 40), st.integers(1, 50), st.sampled_from([(0, 1), (0, 255), (72.9, 90.0), (0, 255**2)]))
def test_evaluate_is_the_mean_over_all_scaled_images(n, batch_size, scaling):
    images, labels = pictures(n, n)
    model = small_model()
    loss, accuracy = lesson.evaluate(model, images, labels, scaling, loss_fn, batch_size)
    logits = model((images.reshape(n, -1).float() - scaling[0]) / scaling[1])
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_modes_are_switched_where_they_must_be():
    images, labels = pictures(64)
    model = small_model(dropout=0.9).train()
    first = lesson.evaluate(model, images, labels, (0, 255), loss_fn)
    assert not model.training and first == lesson.evaluate(model, images, labels, (0, 255), loss_fn)
    optimizer = torch.optim.SGD(model.parameters())
    lesson.train_one_epoch(model, images, labels, (0, 255), loss_fn, optimizer, 16, torch.Generator())
    assert model.training, "training in evaluation mode"
    sure = lesson.mean_confidence(model, images, (0, 255))
    assert sure == lesson.mean_confidence(model, images, (0, 255)) and 0.1 <= sure <= 1


@pytest.mark.parametrize("falling, rates", [(False, [0.4] * 4), (True, [0.4, 0.3, 0.2, 0.1])])
def test_the_rate_falls_along_a_line(falling, rates):
    data = {"train": pictures(8, 1), "val": pictures(5, 2)}
    model, seen = small_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    optimizer.register_step_post_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    table = lesson.train(model, data, (0, 255), optimizer, 4, 8, 0, loss_fn, falling)
    assert seen == pytest.approx(rates) and table["epoch"].tolist() == [1, 2, 3, 4]
    last = lesson.evaluate(model, *data["val"], (0, 255), loss_fn)
    assert tuple(table.iloc[-1][["val_loss", "val_accuracy"]]) == pytest.approx(last)


def test_training_does_not_see_the_validation_images():
    models = [small_model() for _ in range(2)]
    for k, model in enumerate(models):
        data = {"train": pictures(20, 1), "val": pictures(12, 2 + k)}
        lesson.train(model, data, (0, 255), torch.optim.SGD(model.parameters(), lr=0.1), 2, 8, 0, loss_fn)
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in models), strict=True))


def test_gradient_norms_are_those_of_the_batches():
    images, labels = pictures(30)
    model, twin = lesson.new_model(0, cpu, 6), lesson.new_model(0, cpu, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    table = lesson.gradient_norms(model, images, labels, (0, 255), loss_fn, optimizer, 7, 3,
                                  torch.Generator().manual_seed(1))
    for k, rows in enumerate(torch.randperm(30, generator=torch.Generator().manual_seed(1))[:21].split(7)):
        loss = loss_fn(twin(images[rows].reshape(7, -1).float() / 255), labels[rows])
        first, _, output, _ = torch.autograd.grad(loss, list(twin.parameters()))
        assert table.iloc[k].tolist() == pytest.approx([first.norm().item(), output.norm().item()], rel=1e-4)
    assert len(table) == 3


@often
@given(st.sampled_from([0.1, 3.0, 25.5, 255.0]), st.sampled_from([1e-3, 0.05]), st.integers(0, 20))
def test_dividing_the_inputs_is_another_start_and_another_rate(c, rate, seed):
    images, labels = pictures(12, seed)
    batches = list(zip((images // 60).split(4), labels.split(4), strict=True))
    a, b = (lesson.new_model(seed, cpu, 5).double() for _ in range(2))
    by_input = lesson.losses_of(a, torch.optim.SGD(a.parameters(), lr=rate), batches, (0, c), loss_fn)
    by_weight = lesson.losses_of(b, lesson.slowed_first_layer(b, 1 / c, 1 / c**2, rate), batches, (0, 1), loss_fn)
    np.testing.assert_allclose(by_input, by_weight, rtol=1e-8)
    torch.testing.assert_close(a[0].weight / c, b[0].weight, rtol=1e-7, atol=1e-10)
    for p, q in zip(list(a.parameters())[1:], list(b.parameters())[1:], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-10)


@often
@given(st.floats(-5, 5), st.floats(0.01, 9), st.sampled_from([(0, 1), (0.3, 1), (-0.3, 1), (0, 1.3), (0, 0.7),
                                                             (0.2, 1), (0, 1.2), (0, 255), (0, 1 / 255)]))
def test_the_alarm_rings_for_another_mean_or_spread(mean, std, change):
    x = torch.linspace(-1, 1, 1000).double().reshape(10, 100)
    x = (x - x.mean()) / x.std()
    inputs = mean + std * (change[0] + change[1] * x)
    wrong = abs(change[0]) > 0.25 or abs(change[1] - 1) > 0.25
    assert lesson.off_scale(inputs, mean, std) is wrong


def test_the_alarm_rings_for_nan_and_for_an_empty_image():
    assert lesson.off_scale(torch.full((2, 3), torch.nan), 0.0, 1.0)
    assert lesson.off_scale(torch.zeros(2, 3), 0.0, 1.0)


@often
@given(st.floats(-300, 300), st.floats(0.001, 300))
def test_scale_is_saved_and_not_trained(shift, scale):
    layer, fresh = lesson.Scale(shift, scale), lesson.Scale()
    assert not list(layer.parameters())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    images, _ = pictures(3)
    assert torch.equal(fresh(images), layer(images))
    torch.testing.assert_close(layer(images), lesson.to_inputs(images, shift, scale), rtol=1e-4, atol=1e-4)
    raw = lesson.to_inputs(images, 0, 1)  # `evaluate` hands over flat floats
    torch.testing.assert_close(layer(raw), layer(images))
