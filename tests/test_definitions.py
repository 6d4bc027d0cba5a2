"""tests/definitions.py takes what is asked for out of a notebook, and runs nothing else."""
from __future__ import annotations

import inspect
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.definitions import definitions
from tests.notebooks import NotebookError, write

NOTEBOOK = [
    """
import sys
from dataclasses import dataclass
import math as mathematics
import os.path, os
if "google.colab" in sys.modules:
    %pip install -q "timm>=1,<2"
%matplotlib inline
""",
    """
RATE = 0.5  # how fast
STEPS = 3  # how many
LOW, HIGH = 0, STEPS * 10
print("the notebook runs")
""",
    """
def square(x):
    return x * x

def loss(x):
    '''The square of the distance to RATE.'''
    offset = 0.0
    return square(x - RATE) + offset

raise RuntimeError("the notebook runs")
""",
    """
offset = loss(STEPS)
for total in range(STEPS):
    print(total)
files = !ls
history = []
history += [1]
""",
    """
def doubled(function):
    return lambda *arguments: 2 * function(*arguments)

@doubled
def root(x: float = RATE) -> float:
    return mathematics.sqrt(x)

class Shape:
    SIDES = STEPS
    def area(self):
        return square(self.side)

@dataclass
class Square(Shape):
    side: "float" = 2.0
    def describe(self):
        return [f"{name} {self.area()}" for name in [type(self).__name__]], super().area()
""",
    """
def twice(x):
    return x + x
""",
    """
def twice(x):
    return 2 * x

def four_times(x):
    return twice(twice(x))

def fails(x):
    y = x + 1
    return y / 0  # on this line

def uses(name):
    return os.path.join(name, "b")
""",
]


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Writes a notebook of those code cells, with markdown as cell 1."""
    def write_notebook(*sources: str) -> Path:
        (tmp_path / "Chapter01").mkdir(exist_ok=True)
        path = tmp_path / "Chapter01" / "Lesson.ipynb"
        write(new_notebook(cells=[new_markdown_cell("# Title"), *map(new_code_cell, sources)]), path)
        return path

    return write_notebook


@pytest.fixture
def notebook(save) -> Path:
    """The notebook above."""
    return save(*(source.strip("\n") for source in NOTEBOOK))


def test_a_function_comes_with_what_it_needs(notebook, capsys):
    lesson = definitions(notebook, "loss")
    assert lesson.loss(2.5) == 4.0
    assert vars(lesson).keys() == {"loss"}
    assert capsys.readouterr().out == ""


def test_nothing_else_is_executed(notebook):
    space = definitions(notebook, "loss").loss.__globals__
    assert {"loss", "square", "RATE"} <= space.keys()
    assert not {"STEPS", "offset", "root", "sys", "history"} & space.keys()


def test_constants_and_what_they_are_computed_from(notebook):
    lesson = definitions(notebook, "HIGH", "RATE")
    assert (lesson.HIGH, lesson.RATE) == (30, 0.5)


def test_imports_under_another_name_and_twice(notebook):
    assert definitions(notebook, "uses").uses("a").endswith("b")
    assert definitions(notebook, "mathematics").mathematics.sqrt(4) == 2


def test_decorators_and_defaults(notebook):
    assert definitions(notebook, "root").root(9.0) == 6.0
    assert definitions(notebook, "root", RATE=16.0).root() == 8.0


def test_classes_that_inherit_from_each_other(notebook):
    lesson = definitions(notebook, "Square")
    square = lesson.Square(side=3.0)
    assert square.describe() == (["Square 9.0"], 9.0)
    assert square.SIDES == 3
    assert pickle.loads(pickle.dumps(square)) == square


def test_replacements(notebook):
    assert definitions(notebook, "loss", RATE=2.5).loss(2.5) == 0.0
    assert definitions(notebook, "loss", square=abs).loss(2.5) == 2.0
    assert definitions(notebook, "HIGH", STEPS=1).HIGH == 10
    lesson = definitions(notebook, "LOW", "HIGH", HIGH=7)
    assert (lesson.LOW, lesson.HIGH) == (0, 7)
    assert definitions(notebook, "loss").loss(2.5) == 4.0


def test_a_replaced_definition_may_be_ambiguous(notebook):
    assert definitions(notebook, "four_times", twice=lambda x: 10 * x).four_times(1) == 100


@pytest.mark.parametrize(("names", "replacements", "message"), [
    (["los"], {}, "does not define los; it defines HIGH, LOW, RATE, STEPS, Shape, Square, dataclass"),
    (["loss"], {"RATES": 1}, "does not define RATES"),
    (["loss"], {"STEPS": 1}, "STEPS is replaced, but loss does not use it"),
    (["twice"], {}, "defines twice more than once, in cells 7, 8"),
    (["four_times"], {}, "defines twice more than once, in cells 7, 8"),
    (["total"], {}, "binds total in cell 5 by a statement that is not executed here (For)"),
    (["history"], {}, "defines history more than once, in cells 5, 5"),
])
def test_what_cannot_be_taken(notebook, names, replacements, message):
    with pytest.raises(NotebookError) as caught:
        definitions(notebook, *names, **replacements)
    assert message in str(caught.value) and str(caught.value).startswith("Chapter01/Lesson.ipynb")


def test_notebooks_that_cannot_be_used(save):
    with pytest.raises(NotebookError, match="no such notebook"):
        definitions("Chapter01/Missing.ipynb", "loss")
    with pytest.raises(NotebookError, match="cell 3, line 1: "):
        definitions(save("x = 1", "def f(:"), "x")


def test_traceback_shows_the_notebooks_line(notebook):
    fails = definitions(notebook, "fails").fails
    with pytest.raises(ZeroDivisionError) as caught:
        fails(1)
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "<Chapter01/Lesson.ipynb cell 8>", line 9, in fails' in text
    assert "return y / 0  # on this line" in text
    assert "# on this line" in inspect.getsource(fails)


def test_a_changed_notebook_is_read_again(save):
    assert definitions(save("x = 1"), "x").x == 1
    assert definitions(save("x = 12"), "x").x == 12
