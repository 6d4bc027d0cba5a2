"""What the tools know of a notebook: its digest changes with its code, and with nothing else."""
from __future__ import annotations

from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import ROOT, bare_code, code_digest, name_of, notebooks


def digest(*sources: str) -> str:
    return code_digest(new_notebook(cells=[new_code_cell(source) for source in sources]))


@pytest.mark.parametrize(("one", "other"), [
    ("x = 1", "x = 1  # one"),
    ("x = 1", "# NBVAL_CHECK_OUTPUT\n\nx = 1\n"),
    ("net = Net(\n    3, 5)", "net = Net(  # fmt: skip\n    # the sizes\n    3, 5)   "),
    ("def f():\n    return 1\ny = 2", "# @title Helpers\ndef f():\n    # why\n\n    return 1\n\n\ny = 2"),
    ("if colab:\n    %pip install -q 'a#b'\n!ls  \"x", "if colab:\n    # once\n    %pip install -q 'a#b'\n\n!ls  \"x"),
    ('f"""{x}\n\n # no\n"""', 'f"""{x}\n\n # no\n"""  # yes'),
    ("total = (a\n         % b)", "total = (a  # left\n         % b)"),
], ids=["behind", "marker", "in a call", "collapsed", "magics", "behind a string", "modulo"])
def test_digest_does_not_see_comments_and_blank_lines(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), [
    ("x = 1", "x = 2"),
    ("x = '# a'", "x = '# b'"),
    ("x = f'{y}# a'", "x = f'{y}# b'"),
    ('x = """a\n\nb"""', 'x = """a\nb"""'),
    ('x = """a \n# b"""', 'x = """a\n# b"""'),
    ("if x:\n    y = 1\n    z = 1", "if x:\n    y = 1\nz = 1"),
    ("%pip install a", "%pip install b"),
    ("%pip install a  # x", "%pip install a  # y"),  # IPython hands it to pip
    ("!ls", "%ls"),
    ("x = = 1  # a", "x = = 2  # a"),
    ("x = (", "x = [  "),
], ids=["value", "hash in a string", "hash in an f-string", "blank line in a string", "space in a string", "indent",
        "magic", "comment behind a magic", "kind of magic", "not Python", "not closed"])
def test_digest_sees_every_change_of_code(one, other):
    assert digest(one) != digest(other)


def test_digest_sees_where_a_cell_ends_and_nothing_but_code():
    assert digest("x = 1\ny = 2") != digest("x = 1", "y = 2")
    cells = [new_markdown_cell("Prose."), new_code_cell("x = 1", outputs=[new_output("stream", text="1")],
                                                         metadata={"tags": ["hub"]}, execution_count=3)]
    assert code_digest(new_notebook(cells=cells)) == digest("x = 1")


def test_source_that_is_no_python_stays_whole():
    assert bare_code("x = '''  # a\n") == "x = '''  # a"


def test_one_name_for_a_path_in_every_message():
    assert name_of(Path("anywhere/größe 日本/Chapter01/Name.ipynb")) == "Chapter01/Name.ipynb"
    assert {name_of(path) for path in notebooks()} == {path.relative_to(ROOT).as_posix() for path in notebooks()}
