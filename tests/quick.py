"""`tests/quick.toml`: per notebook, the values of its `parameters` cell that the quick profile replaces."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.notebooks import NotebookError, notebooks, parameters, read, same_type

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

Quick = dict[str, dict[str, Any]]  # `Chapter01/Name.ipynb` -> parameter -> value


class QuickError(ValueError):
    """tests/quick.toml asks for something that is not there; the message names every wrong entry."""


def load(root: Path) -> Quick:
    """The tables of `root/tests/quick.toml`, none where there is no such file. Raises QuickError if it is not TOML."""
    path = root / "tests" / "quick.toml"
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise QuickError(f"{path}: {error}") from None


def check(quick: Quick, root: Path) -> None:
    """Raise QuickError unless each entry names a notebook below `root` and parameters of it, by values of their types.

    An unreadable notebook is passed over: its own test says what is wrong with it.
    """
    paths = {path.relative_to(root).as_posix(): path for path in notebooks(root)}
    wrong = []
    for name, values in quick.items():
        if not isinstance(values, dict):
            wrong.append(f'{name} = {values!r}: of no notebook; write ["ChapterNN/Name.ipynb"] in a line above')
        elif name not in paths:
            wrong.append(f'["{name}"]: no such notebook; there are: {_listed(paths)}')
        else:
            try:
                own = parameters(read(paths[name]))
            except NotebookError:
                continue
            wrong.extend(f'["{name}"] {problem}' for problem in _wrong_values(values, own))
    if wrong:
        raise QuickError("\n".join(f"tests/quick.toml: {problem}" for problem in wrong))


def shaped(value: Any, original: Any) -> Any:
    """`value` in the types of `original`, which TOML lacks or takes lightly: a tuple for a list, a float for an int."""
    if isinstance(original, (list, tuple)):
        return type(original)(shaped(item, original[0]) if original else item for item in value)
    return float(value) if isinstance(original, float) else value


def _wrong_values(values: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What is wrong with the `values` for a notebook whose parameters are `own`."""
    wrong = []
    for parameter, value in values.items():
        if parameter not in own:
            wrong.append(f"{parameter}: no such parameter; there are: {_listed(own)}")
        elif not same_type(value, own[parameter]):
            wrong.append(f"{parameter} = {value!r}: another type than the notebook's {parameter} = {own[parameter]!r}")
    return wrong


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(names) or "none"
