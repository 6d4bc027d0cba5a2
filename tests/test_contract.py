"""One contract for the training loops of chapters 3 and 4: an epoch equals plain PyTorch on the same rows and rates.

The parameters afterwards, the learning rates seen, the loss and accuracy reported, with a last batch that is smaller.
And in every notebook what a function is given and what the parameters cell sets is used.

What only a whole notebook shows (schedules, seeds, rows) is watched while it runs: tests/checks/kernel.
"""
from __future__ import annotations

import ast
import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from nbformat import NotebookNode

from tests.definitions import parse
from tests.notebooks import code_cells, name_of, notebooks, read, tagged
from tests.test_conventions import CONVERSIONS, conversion, prepared, with_definition

BATCH = 5  # of 23 images: the last batch has three


def plain_epoch(model, images, labels, to_inputs, order, rate):
    """Loss and accuracy, mean over the images, of an epoch of SGD that updates `model`."""
    model.train()
    total, correct = 0.0, 0
    for batch in order.split(BATCH):
        logits = model(to_inputs(images[batch]))
        loss = F.cross_entropy(logits, labels[batch])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter -= rate * gradient
        total += loss.item() * len(batch)
        correct += (logits.argmax(1) == labels[batch]).sum().item()
    return total / len(images), correct / len(images)


def inputs_of(notebook, needed):
    """What the notebook's loop is given, and what makes the network's inputs of it."""
    if "inputs" in needed:
        return needed["inputs"], lambda x: x
    images = needed["images" if "images" in needed else "photos"]
    to_inputs = needed.get("to_inputs") or (conversion(notebook) if notebook in CONVERSIONS else lambda x: x)
    scaling = needed.get("scaling", ())
    return images, lambda x: to_inputs(x, *scaling)


LOOPS = with_definition("train_one_epoch")


@pytest.mark.parametrize("notebook", LOOPS)
def test_an_epoch_equals_plain_pytorch(notebook):
    function, model, needed = prepared(notebook, "train_one_epoch")
    if "largest" in needed:
        needed["largest"] = 0  # without augmentation
    images, to_inputs = inputs_of(notebook, needed)
    twin = copy.deepcopy(model)
    rates = []
    needed["optimizer"].register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"]))
    order = torch.randperm(len(images), generator=copy_of(needed["generator"]))
    result = function(**needed)
    loss, accuracy = plain_epoch(twin, images, needed["labels"], to_inputs, order, 0.01)
    assert rates == [0.01] * 5
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    reported = [value for value in (result if isinstance(result, tuple) else (result,)) if isinstance(value, float)]
    expected_values = (loss, accuracy) if len(reported) == 2 else (closest(reported, loss, accuracy),)
    for value, expected in zip(reported, expected_values):
        assert value == pytest.approx(expected, rel=1e-4), "not the mean over the images"


@pytest.mark.parametrize("notebook", LOOPS)
def test_another_order_of_rows_gives_another_network(notebook):
    function, model, needed = prepared(notebook, "train_one_epoch")
    _, other, again = prepared(notebook, "train_one_epoch")
    again["generator"].manual_seed(99)
    function(**needed)
    function(**again)
    pairs = zip(model.parameters(), other.parameters())
    assert any(not torch.equal(p, q) for p, q in pairs), "the generator is not used"


def copy_of(generator):
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return twin


def closest(reported, loss, accuracy):
    """Which of the two a loop reports that reports one number."""
    return min((loss, accuracy), key=lambda value: abs(value - reported[0])) if reported else None


def test_these_are_the_loops():
    assert len(LOOPS) >= 12
    assert all("generator" in inspect.signature(prepared(name, "train_one_epoch")[0]).parameters for name in LOOPS)


MUST_BE_USED = {"seed", "generator", "scheduler", "optimizer", "rate", "learning_rate", "batch_size", "epochs", "steps",
                "device", "labels", "model", "loss_fn"}


def may_ignore(function: ast.FunctionDef) -> bool:
    """One statement that stands where other functions do more, or a method, whose base class says what it is given."""
    statements = [statement for statement in function.body if not (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))]  # the docstring
    return len(statements) == 1 or "self" in {argument.arg for argument in function.args.args[:1]}


def unused(source: str) -> list[str]:
    """`function(parameter)` for what a function is given and never reads, of the parameters that must be used."""
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef) and not may_ignore(node):
            given = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)} & MUST_BE_USED
            read = {name.id for statement in node.body for name in ast.walk(statement) if isinstance(name, ast.Name)}
            found += [f"{node.name}({name})" for name in sorted(given - read)]
    return found


def test_what_a_function_is_given_it_uses():
    assert unused("def train(model, seed):\n    generator = manual_seed(0)\n    model(generator)") == ["train(seed)"]
    assert unused("def as_stored(images, generator):\n    return images") == []
    assert unused("class A(B):\n    def step(self, rate):\n        self.k += 1\n        return self.k") == []
    wrong = {name_of(path): names for path in notebooks()
             if (names := [name for cell in code_cells(read(path)) for name in unused(cell.source)])}
    assert not wrong, f"given and never used: {wrong}"


def idle_parameters(notebook: NotebookNode) -> list[str]:
    """What the parameters cell sets and no other cell reads: a number or a seed stands where it should."""
    cells = {id(cell): parse(cell.source) for cell in tagged(notebook, "parameters")}
    given = [target.id for tree in cells.values() for node in tree.body if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)]
    read_elsewhere = {node.id for cell in code_cells(notebook) if id(cell) not in cells
                      for node in ast.walk(parse(cell.source)) if isinstance(node, ast.Name)}
    return [name for name in given if name not in read_elsewhere]


def test_parameters_are_used():
    idle = {name_of(path): names for path in notebooks() if (names := idle_parameters(read(path)))}
    assert not idle, f"set in the parameters cell and never used: {idle}"
