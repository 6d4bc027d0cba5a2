"""The parameter formulas, the residual block and the row of blocks of the Sequential notebook, against PyTorch."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

NOTEBOOK = "Chapter02/Sequential_method_to_build_a_neural_network.ipynb"
lesson = definitions(NOTEBOOK, "count_by_hand", "Residual", "mlp", "conv_block", "Forgetful", "Remembering",
                     "accuracy")  # fmt: skip
sizes = st.integers(1, 40)


def by_pytorch(module):
    return sum(p.numel() for p in module.parameters())


@settings(deadline=None)
@given(sizes, sizes, st.booleans())
def test_linear_count(inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias)
    assert lesson.count_by_hand(layer) == by_pytorch(layer)


@settings(deadline=None)
@given(st.integers(1, 4), sizes, sizes, st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_convolution_count(groups, inputs, outputs, height, width, bias):
    layer = nn.Conv2d(groups * inputs, groups * outputs, (height, width), groups=groups, bias=bias)
    assert lesson.count_by_hand(layer) == by_pytorch(layer)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False), nn.ReLU(), nn.Flatten()])
def test_other_counts(layer):
    assert lesson.count_by_hand(layer) == by_pytorch(layer)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 8), st.integers(1, 20), st.integers(0, 5), st.integers(0, 1000))
def test_residual_row_is_the_written_out_sum(hidden_layers, width, samples, seed):
    torch.manual_seed(seed)
    model = lesson.mlp(hidden_layers, width, residual=True)
    x = torch.randn(samples, 64)
    expected = model[0](x)
    for skip in model[1:-1]:
        linear = skip.block[0]
        expected = expected + (expected @ linear.weight.T + linear.bias).clamp(min=0)
    torch.testing.assert_close(model(x), model[-1](expected))
    assert by_pytorch(model) == by_pytorch(lesson.mlp(hidden_layers, width, residual=False))


def test_residual_gradient_has_the_direct_path():
    block = nn.Linear(4, 4)
    nn.init.zeros_(block.weight)
    x = torch.randn(3, 4, requires_grad=True)
    lesson.Residual(block)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("size", [(1, 3, 8, 8), (2, 3, 9, 15)])
def test_conv_block_halves_the_picture(size):
    n, channels, height, width = size
    assert lesson.conv_block(channels, 6)(torch.zeros(size)).shape == (n, 6, height // 2, width // 2)


def test_only_registered_layers_are_seen():
    hidden = 3 * (64 * 64 + 64)
    assert by_pytorch(lesson.Remembering(3)) - by_pytorch(lesson.Forgetful(3)) == hidden


def test_accuracy_leaves_the_model_in_eval_and_counts_rows():
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.9))
    x = torch.eye(4)
    assert lesson.accuracy(model, x, torch.arange(4)) == 1.0
    assert lesson.accuracy(model, x, torch.tensor([0, 1, 0, 0])) == 0.5
