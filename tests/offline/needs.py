"""Which families of the world a notebook needs: those that serve what it imports or uses.

Each family names what it serves in its SERVES, a tuple of dotted names: `torchvision.models`, `datasets`,
`torch.hub.download_url_to_file`. It is needed where a notebook imports one of them or a part of one, by whatever form
of import, or uses it of a package that it has imported: `import torchvision` alone asks for nothing,
`torchvision.models.resnet18(…)` after it for the weights.
"""
from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from tests.notebooks import NotebookError, code_cells, read
from tests.offline import archives


def names(tree: ast.AST) -> set[str]:
    """Dotted names of all that a syntax tree imports, and of what it uses of that."""
    stand_for, found = {}, set()  # a name in the code: what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.add(alias.name)
                stand_for[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = node.module if alias.name == "*" else f"{node.module}.{alias.name}"
                found.add(whole)
                stand_for[alias.asname or alias.name] = whole
    for node in ast.walk(tree):
        steps = []
        while isinstance(node, ast.Attribute):
            steps.insert(0, node.attr)
            node = node.value
        if steps and isinstance(node, ast.Name) and node.id in stand_for:
            found.add(".".join([stand_for[node.id], *steps]))
    return found


def imports(notebook: Path) -> set[str] | None:
    """Dotted names of what a notebook imports, and uses of it; None where it cannot be told (not Python)."""
    transform = TransformerManager().transform_cell
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the notebook's own code
            return names(ast.parse("\n".join(transform(cell.source) for cell in code_cells(read(notebook)))))
    except (NotebookError, SyntaxError):
        return None


def serves(family: str) -> tuple[str, ...]:
    """The module names that a family serves, read from its source."""
    return tuple(archives.constant(family, "SERVES"))


def of(notebooks: Iterable[Path]) -> list[str]:
    """The families that these notebooks need; all of them where one notebook's imports cannot be told."""
    wanted: set[str] = set()
    for notebook in notebooks:
        found = imports(notebook)
        if found is None:
            return archives.families()
        wanted |= found
    return [family for family, served in [(family, serves(family)) for family in archives.families()]
            if any(f"{name}.".startswith(f"{one}.") for name in wanted for one in served)]


def of_arguments(arguments: Iterable[str], folder: Path) -> list[str]:
    """The families that a pytest run of these arguments, in `folder`, needs: all where it runs more than notebooks."""
    notebooks: list[Path] = []
    for argument in arguments:
        path = (folder / argument.split("::")[0]).resolve()
        if path.suffix == ".ipynb":
            notebooks.append(path)
        elif path.is_dir() and path.match("Chapter[0-9][0-9]"):
            notebooks += sorted(path.glob("*.ipynb"))
        else:
            return archives.families()
    return of(notebooks) if notebooks else archives.families()
