"""What the run that is stored in a notebook showed: for tests that compare its results with its lines and its prose."""
from __future__ import annotations

import re

import pytest
from nbformat import NotebookNode

from tests.notebooks import ROOT, code_cells, is_current, read
from tests.structure import output_texts


def _results(name: str) -> tuple[NotebookNode, dict[str, float]]:
    """A notebook and its stored results, of the whole or of its first part.

    Skips where the notebook holds no run of its present code.
    """
    notebook = read(ROOT / name)
    measured = notebook.metadata.shelf.get("measured", {}).get("cpu")
    if measured is None or not is_current(measured, notebook):
        pytest.skip("not measured with this code")
    return notebook, measured["results"]


def assert_shown(name: str, *lines: str) -> dict[str, float]:
    """The stored results of a notebook, each of `lines` filled with which must stand among its outputs."""
    notebook, results = _results(name)
    shown = "\n".join("\n".join(output_texts(cell)) for cell in code_cells(notebook))
    for line in lines:
        assert line.format(**results) in shown, line
    return results


def assert_said(name: str, *lines: str) -> None:
    """What the prose of a notebook says of its stored run: each of `lines`, filled with the results, stands in it.

    Line breaks and the marks of a quoted box do not count.
    """
    notebook, results = _results(name)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = " ".join(re.sub(r"^> ?", "", prose, flags=re.MULTILINE).split())
    for line in lines:
        assert line.format(**results) in prose, f"{line!r}: {line.format(**results)!r} is not in the text"
