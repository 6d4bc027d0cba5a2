"""`tests/quick/ChapterNN.toml`: per notebook, the values of its `parameters` cell that the quick profile replaces.

    ["Name.ipynb"]
    STEPS = 50
    SEEDS = [0]  # a tuple in the notebook stays a tuple

A notebook, a name or a type that is not the notebook's own is an error before anything runs.
"""
from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from tests.notebooks import NotebookError, notebooks, parameters, read, same_type, tagged
from tests.offline.site.mcvp_classroom import assigned, rewrite

Quick = dict[str, dict[str, Any]]  # `Chapter01/Name.ipynb` -> parameter -> value


class QuickError(ValueError):
    """tests/quick asks for something that is not there; the message names every wrong entry."""


def load(root: Path) -> Quick:
    """The tables of all files `root/tests/quick/ChapterNN.toml`. Raises QuickError where one is not TOML."""
    quick: Quick = {}
    for path in sorted((root / "tests" / "quick").glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise QuickError(f"{path}: {error}") from None
        quick.update({f"{path.stem}/{name}": values for name, values in tables.items()})
    return quick


def check(quick: Quick, root: Path) -> None:
    """Raise QuickError unless each entry names a notebook below `root` and parameters of it, by values of their types.

    An unreadable notebook is passed over: its own test says what is wrong with it.
    """
    paths = {path.relative_to(root).as_posix(): path for path in notebooks(root)}
    wrong = []
    for notebook, values in quick.items():
        chapter, _, name = notebook.partition("/")
        where = f"tests/quick/{chapter}.toml: "
        if not isinstance(values, dict):
            wrong.append(f'{where}{name} = {values!r}: of no notebook; write ["Name.ipynb"] in a line above')
        elif notebook not in paths:
            there = [path.name for path in paths.values() if path.parent.name == chapter]
            wrong.append(f'{where}["{name}"]: no such notebook; there are: {_listed(there)}')
        else:
            try:
                own = parameters(read(paths[notebook]))
            except NotebookError:
                continue
            wrong.extend(f'{where}["{name}"] {problem}' for problem in _wrong_values(values, own))
    if wrong:
        raise QuickError("\n".join(wrong))


def shaped(value: Any, original: Any) -> Any:
    """`value` in the types of `original`, which TOML lacks or takes lightly: a tuple for a list, a float for an int."""
    if isinstance(original, (list, tuple)):
        return type(original)(shaped(item, original[0]) if original else item for item in value)
    return float(value) if isinstance(original, float) else value


def set_parameters(notebook: NotebookNode, values: dict[str, Any]) -> None:
    """Replace these values, which `check` has passed, in the sources of the notebook's parameters cells."""
    literals = _literals(notebook, values)
    for cell in tagged(notebook, "parameters"):
        cell.source = rewrite(cell.source, literals)


def parameter_cells(quick: Quick, root: Path) -> list[dict[str, dict[str, str]]]:
    """Every parameters cell that `quick` changes, as the kernels of the classroom know it (`mcvp_classroom.known`).

    An unreadable notebook and an entry that no longer fits are passed over: a reader may have changed the notebook.
    """
    cells = []
    for path in notebooks(root):
        try:
            notebook = read(path)
            own = parameters(notebook)
        except (NotebookError, SyntaxError):
            continue
        values = {name: value for name, value in quick.get(path.relative_to(root).as_posix(), {}).items()
                  if name in own and same_type(value, own[name])}
        for cell in tagged(notebook, "parameters") if values else ():
            sides = {name: ast.unparse(side) for name, side in assigned(cell.source)}
            literals = _literals(notebook, {name: value for name, value in values.items() if name in sides})
            cells.append({"own": sides, "quick": literals})
    return cells


def _literals(notebook: NotebookNode, values: dict[str, Any]) -> dict[str, str]:
    own = parameters(notebook)
    return {name: repr(shaped(value, own[name])) for name, value in values.items()}


def _wrong_values(values: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What is wrong with the `values` for a notebook whose parameters are `own`."""
    wrong = []
    for parameter, value in values.items():
        if parameter not in own:
            wrong.append(f"{parameter}: no such parameter; there are: {_listed(own)}")
        elif not same_type(value, own[parameter]):
            wrong.append(f"{parameter} = {value!r}: another type than the notebook's {parameter} = {own[parameter]!r}")
    return wrong


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
