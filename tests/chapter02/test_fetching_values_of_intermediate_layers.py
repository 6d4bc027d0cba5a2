"""The hooks, the two models and the count of dead units of the intermediate-layers notebook."""
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from tests.definitions import definitions

lesson = definitions("Chapter02/Fetching_values_of_intermediate_layers.ipynb", "capture", "never_on", "DigitCNN",
                     "DigitCNNWithFeatures", "megabytes_alive", "memory_per_batch", "Saved", "recorder",
                     "train", "accuracy")  # fmt: skip
numbers = st.sampled_from((-np.inf, -1e30, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, np.inf, np.nan))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@settings(deadline=None)
@given(arrays.arrays("float32", arrays.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4), elements=numbers))
def test_never_on_against_loops(values):
    expected = [not any(value > 0 for value in values[:, unit].flatten()) for unit in range(values.shape[1])]
    assert lesson.never_on(torch.from_numpy(values)).tolist() == expected


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 5), st.integers(0, 1000))
def test_capture_equals_the_layers_called_one_by_one(samples, seed):
    torch.manual_seed(seed)
    model = lesson.DigitCNN()
    images = torch.rand(samples, 1, 8, 8)
    with lesson.capture(model, "conv1", "hidden", "act3") as outputs:
        logits = model(images)
    first = nn.functional.conv2d(images, model.conv1.weight, model.conv1.bias, padding=1)
    maps = nn.functional.max_pool2d(first.relu(), 2)
    second = nn.functional.conv2d(maps, model.conv2.weight, model.conv2.bias, padding=1)
    maps = nn.functional.max_pool2d(second.relu(), 2)
    hidden = maps.flatten(1) @ model.hidden.weight.T + model.hidden.bias
    torch.testing.assert_close(outputs, {"conv1": first, "hidden": hidden, "act3": hidden.clamp(min=0)})
    torch.testing.assert_close(logits, outputs["act3"] @ model.output.weight.T + model.output.bias)
    assert hooks(model) == 0


def test_capture_keeps_a_detached_copy():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(50, 4)
    with lesson.capture(model, "0") as outputs:
        model(x)
    assert not outputs["0"].requires_grad
    torch.testing.assert_close(outputs["0"], model[0](x).detach())


@pytest.mark.parametrize("names", [("hidden",), ("hidden", "no such layer")])
def test_capture_removes_its_hooks_after_an_error(names):
    model = lesson.DigitCNN()
    with pytest.raises((KeyError, RuntimeError)), lesson.capture(model, *names):
        model(torch.zeros(1, 3))
    assert hooks(model) == 0


def test_capture_leaves_other_hooks():
    model, calls = lesson.DigitCNN(), []
    handle = model.hidden.register_forward_hook(lambda *_: calls.append(1))
    with lesson.capture(model, "hidden"):
        model(torch.zeros(2, 1, 8, 8))
    model(torch.zeros(2, 1, 8, 8))
    assert len(calls) == 2 and hooks(model) == 1
    handle.remove()


def test_capture_holds_the_last_call_of_a_module():
    model = lesson.DigitCNN()
    with lesson.capture(model, "pool", "act2") as outputs:
        model(torch.rand(3, 1, 8, 8))
    torch.testing.assert_close(outputs["pool"], nn.functional.max_pool2d(outputs["act2"], 2))


def test_the_returning_model_is_the_same_network():
    model, returning = lesson.DigitCNN(), lesson.DigitCNNWithFeatures()
    returning.load_state_dict(model.state_dict())
    images = torch.rand(3, 1, 8, 8)
    logits, features = returning(images)
    assert torch.equal(logits, model(images))
    with lesson.capture(model, "act3") as outputs:
        model(images)
    assert torch.equal(features, outputs["act3"])


def test_blocks_of_memory_are_counted_once():
    block = torch.zeros(250_000)  # 1 MB
    saved = weakref.WeakSet()
    one = lesson.Saved(block[10:])
    saved.add(one)
    assert lesson.megabytes_alive(saved, [block, block.view(500, 500), 0.5]) == 1.0
    assert lesson.megabytes_alive(saved, [torch.zeros(250_000)]) == 2.0
    del one
    assert lesson.megabytes_alive(saved, []) == 0.0


def test_only_a_kept_graph_grows_beyond_the_outputs():
    model, batches = lesson.DigitCNN(), [torch.rand(50, 1, 8, 8) for _ in range(4)]
    graph = lesson.memory_per_batch(model, lambda output: output, batches)
    detached = lesson.memory_per_batch(model, lambda output: output.detach(), batches)
    number = lesson.memory_per_batch(model, lambda output: output.mean().item(), batches)
    np.testing.assert_allclose(detached, np.arange(1, 5) * 50 * 64 * 4 / 1e6)
    assert number == [0.0] * 4 and graph[3] - graph[0] > 10 * (detached[3] - detached[0])
    assert hooks(model) == 0


def test_train_looks_when_it_should():
    torch.manual_seed(0)
    model, moments = lesson.DigitCNN(), []
    x, y = torch.rand(10, 1, 8, 8), torch.arange(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lesson.train(model, x, y, nn.CrossEntropyLoss(), 2, 4, 0.01, 0, moments.append, (0, 2, 5))
    assert moments == [0, 2, 5, 6]
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_recorder_writes_the_pre_activations():
    model, records = lesson.DigitCNN(), {}
    images = torch.rand(5, 1, 8, 8)
    lesson.recorder(model, images, records)(7)
    assert records.keys() == {7} and records[7].shape == (5, 64) and (records[7] < 0).any()


def test_accuracy_counts_rows():
    x = torch.eye(4)
    assert lesson.accuracy(nn.Identity(), x, torch.tensor([0, 1, 0, 0])) == 0.5
