"""Stacks and residual layers of the notebook on depth: sizes, gradients against autograd, starts."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

NAMES = ("new_stack", "count_parameters", "ResidualLayer", "new_deep", "gradient_lengths", "to_inputs",
         "train_one_epoch",
         "evaluate")  # fmt: skip
lesson = definitions("Chapter03/Impact_of_building_a_deeper_neural_network.ipynb", *NAMES)
often = settings(deadline=None, max_examples=40)
cpu = torch.device("cpu")


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


@often
@given(st.integers(0, 6), st.integers(1, 40))
def test_parameters_are_counted(depth, width):
    model = lesson.new_stack(depth, width, 0, cpu)
    assert lesson.count_parameters(depth, width) == sum(p.numel() for p in model.parameters())
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in model) == depth
    assert model(torch.zeros(3, 784)).shape == (3, 10)


def test_residual_is_input_plus_relu_with_its_gradient():
    torch.manual_seed(0)
    block, x = lesson.ResidualLayer(5), torch.randn(7, 5, requires_grad=True)
    torch.testing.assert_close(block(x), x + (x @ block.linear.weight.T + block.linear.bias).clamp(min=0))
    block(x).sum().backward()
    on = (block.linear(x) > 0).float()
    torch.testing.assert_close(x.grad, 1 + on @ block.linear.weight)


@pytest.mark.parametrize("kind", ["plain", "He start", "skip"])
def test_deep_networks_are_of_one_size_and_reproducible(kind):
    a, b = (lesson.new_deep(kind, 4, 12, 3, cpu) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert sum(p.numel() for p in a.parameters()) == lesson.count_parameters(4, 12)
    if kind == "He start":
        assert a[2].weight.std().item() == pytest.approx(math.sqrt(2 / 12), rel=0.2)


@pytest.mark.parametrize("kind", ["plain", "skip"])
def test_gradient_lengths_are_autograds(kind):
    images, labels = pictures(9)
    model = lesson.new_deep(kind, 3, 6, 0, cpu)
    ours = lesson.gradient_lengths(model, images, labels)
    assert len(ours) == 3
    for layer, expected in enumerate(ours):
        cut = [k for k, m in enumerate(model) if isinstance(m, (torch.nn.ReLU, lesson.ResidualLayer))][layer] + 1
        squares = []
        for image, label in zip(images, labels, strict=True):
            hidden = model[:cut](lesson.to_inputs(image[None])).detach().requires_grad_()
            gradient = torch.autograd.grad(F.cross_entropy(model[cut:](hidden), label[None]), hidden)[0]
            squares.append(gradient.square().sum().item())
        found = math.sqrt(sum(squares) / len(squares))
        assert expected == pytest.approx(found, rel=1e-4)


def test_loop_and_evaluation_use_the_right_mode():
    images, labels = pictures(30)
    model = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss, accuracy = lesson.train_one_epoch(model, images, labels, optimizer, 10, torch.Generator())
    assert model.training and model[1].num_batches_tracked == 3 and loss > 0 and 0 <= accuracy <= 1
    lesson.evaluate(model, images, labels)
    assert not model.training and model[1].num_batches_tracked == 3
