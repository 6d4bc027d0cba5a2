"""What the run that is stored in a notebook showed: for tests that compare its results with its printed lines."""
from __future__ import annotations

import pytest

from tests.notebooks import ROOT, code_cells, is_current, read
from tests.structure import output_texts


def assert_shown(name: str, *lines: str) -> dict[str, float]:
    """The stored results of a notebook, each of `lines` filled with which must stand among its outputs.

    Skips where the notebook holds no run of its present code.
    """
    notebook = read(ROOT / name)
    measured = notebook.metadata.shelf.get("measured", {}).get("cpu", {})
    if not measured or not is_current(measured, notebook):
        pytest.skip("not measured with this code")
    shown, results = "\n".join("\n".join(output_texts(cell)) for cell in code_cells(notebook)), measured["results"]
    for line in lines:
        assert line.format(**results) in shown, line
    return results
