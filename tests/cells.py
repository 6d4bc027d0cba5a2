"""Run single cells of a notebook with names of a test's choice: what a figure draws, a table holds, `results` reports.

    from tests.cells import run_cell

    space = run_cell("Chapter03/Batch_normalization.ipynb", "# @title Figure: learning rates", grid=grid, ...)
    assert space["axes"][0].get_title() == "without: 0 of 4 reach 80 %"

The notebook's imports are executed first; nothing else of it is, so every other name a cell reads must be given.
"""
from __future__ import annotations

import ast
from typing import Any

import matplotlib

from tests.definitions import parse
from tests.notebooks import ROOT, code_cells, read


def find_cell(notebook: str, text: str) -> str:
    """The source of the one code cell that contains `text`."""
    found = [cell.source for cell in code_cells(read(ROOT / notebook)) if text in cell.source]
    assert len(found) == 1, f"{notebook}: {len(found)} code cells contain {text!r}"
    return found[0]


def run_cell(notebook: str, text: str, **names: Any) -> dict[str, Any]:
    """The names after running the cell that contains `text`, with `names` and the notebook's imports at hand."""
    matplotlib.use("agg")
    space: dict[str, Any] = {}
    for cell in code_cells(read(ROOT / notebook)):
        for node in parse(cell.source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], type_ignores=[]), notebook, "exec"), space)
    space["plt"].close("all")
    space.update(names)
    exec(compile(parse(find_cell(notebook, text)), f"<{notebook}: {text}>", "exec"), space)
    return space


def loops_over_seeds(notebook: str) -> list[tuple[str, list[str]]]:
    """Every call inside a loop whose variables include `seed`: what is called, and the names among its arguments."""
    found = []
    for cell in code_cells(read(ROOT / notebook)):
        for loop in ast.walk(parse(cell.source)):
            if isinstance(loop, ast.For) and "seed" in {node.id for node in ast.walk(loop.target)
                                                        if isinstance(node, ast.Name)}:
                assigned = {target.id: {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
                            for node in ast.walk(loop) if isinstance(node, ast.Assign)
                            for target in node.targets if isinstance(target, ast.Name)}
                for call in (node for node in ast.walk(loop) if isinstance(node, ast.Call)):
                    names = {name.id for argument in call.args for name in ast.walk(argument)
                             if isinstance(name, ast.Name)}
                    names |= {inner for name in names for inner in assigned.get(name, ())}
                    found.append((ast.unparse(call.func), sorted(names)))
    return found
