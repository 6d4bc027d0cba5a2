"""Take functions, classes and constants out of a notebook without running it, so that ordinary tests can use them.

    from tests.definitions import definitions

    lesson = definitions("Chapter01/Feed_forward_propagation.ipynb", "softmax", "cross_entropy")
    assert lesson.softmax(np.zeros(4)).tolist() == [0.25] * 4

    quick = definitions("Chapter01/Gradient_descent.ipynb", "descend", STEPS=5)   # whatever STEPS is in the notebook

Of the notebook's top-level statements only imports, `def`, `class` and plain assignments are ever executed, and of
these only the ones that the requested names need, directly or through one another, in the order of the notebook.
"""
from __future__ import annotations

import ast
import functools
import linecache
import symtable
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.notebooks import ROOT, NotebookError, name_of, parse, python_source, read

IMPORTS = (ast.Import, ast.ImportFrom)
EXECUTED = (*IMPORTS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


@dataclass(frozen=True)
class Statement:
    """One top-level statement of a notebook: its cell (the first is 1), the names it binds and the names it reads."""

    cell: int
    node: ast.stmt
    binds: frozenset[str]
    reads: frozenset[str]


def definitions(notebook: str | Path, /, *names: str, **replacements: Any) -> SimpleNamespace:
    """The notebook's own `names`, ready to use; a name given as `NAME=value` has that value instead of the notebook's.

    `notebook` is a path, taken from the repository's root. Raises NotebookError where the notebook cannot be read, does
    not define a name, defines a needed name more than once, or defines it by a statement that is never executed (a
    loop, say), and where a replacement is of no use to `names`.
    """
    path = ROOT / notebook
    label = name_of(path)
    statements = _statements(path, path.stat().st_mtime_ns if path.exists() else 0)
    providers: dict[str, list[Statement]] = {}
    for statement in statements:
        for name in statement.binds:
            providers.setdefault(name, []).append(statement)

    for name in (*names, *replacements):
        if name not in providers:
            known = ", ".join(sorted(providers)) or "nothing"
            raise NotebookError(f"{label} does not define {name}; it defines {known}")
    needed, executed = _closure(names, set(replacements), providers, label)
    for name in replacements:
        if name not in needed:
            raise NotebookError(f"{label}: {name} is replaced, but {', '.join(names)} does not use it")

    module = ModuleType(f"{path.parent.name}.{path.stem}")
    sys.modules[module.__name__] = module  # where dataclasses, pickle and inspect look for the module of a class
    space = vars(module)
    space.update(replacements)
    for statement in statements:
        if statement in executed:
            unit = ast.Module([statement.node], type_ignores=[])
            exec(compile(unit, _filename(label, statement.cell), "exec", dont_inherit=True), space)
            space.update(replacements)  # the statement may bind a replaced name beside the one it is executed for
    return SimpleNamespace(**{name: space[name] for name in names})


def _closure(names: tuple[str, ...], given: set[str], providers: dict[str, list[Statement]],
             label: str) -> tuple[set[str], set[Statement]]:
    """All names that `names` need, and the statements that bind them; nothing is sought behind a `given` name."""
    needed: set[str] = set()
    executed: set[Statement] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in needed or name not in providers:  # known already, or a built-in
            continue
        needed.add(name)
        if name not in given:
            for statement in _binding(name, providers[name], label):
                executed.add(statement)
                waiting += statement.reads
    return needed, executed


def _binding(name: str, statements: list[Statement], label: str) -> list[Statement]:
    """The statements to execute for `name`: one, or its imports. Raises NotebookError where that is not clear."""
    if all(isinstance(statement.node, IMPORTS) for statement in statements):
        return statements
    cells = ", ".join(str(statement.cell) for statement in statements)
    if len(statements) > 1:
        raise NotebookError(f"{label} defines {name} more than once, in cells {cells}: "
                            f"rename one or give a value ({name}=...)")
    kind = type(statements[0].node)
    if kind not in EXECUTED:
        raise NotebookError(f"{label} binds {name} in cell {cells} by a statement that is not executed here "
                            f"({kind.__name__}): give a value ({name}=...)")
    return statements


@functools.lru_cache(maxsize=256)
def _statements(path: Path, changed: int) -> tuple[Statement, ...]:
    """The top-level statements of the notebook at `path`, as it was when last `changed`; its lines go to tracebacks."""
    label = name_of(path)
    found = []
    for number, cell in enumerate(read(path).cells, start=1):
        if cell.cell_type != "code":
            continue
        source = python_source(cell.source)
        filename = _filename(label, number)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        try:
            nodes = parse(cell.source).body
        except SyntaxError as error:
            raise NotebookError(f"{label}: cell {number}, line {error.lineno}: {error.msg}") from error
        found += [Statement(number, node, *_names(node)) for node in nodes]
    return tuple(found)


def _names(node: ast.stmt) -> tuple[frozenset[str], frozenset[str]]:
    """The module-level names that a statement binds and those that it reads, at once or when called later."""
    table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
    binds = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    reads = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    scopes = list(table.get_children())
    while scopes:
        scope = scopes.pop()
        reads |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        scopes += scope.get_children()
    return frozenset(binds), frozenset(reads)


def _filename(label: str, cell: int) -> str:
    """The file name that a traceback shows for a line of a cell."""
    return f"<{label} cell {cell}>"
