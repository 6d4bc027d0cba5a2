"""What every tool of the shelf needs to know of a notebook: where it is, its cells, its parameters, its digest."""
from __future__ import annotations

import ast
import copy
import functools
import hashlib
import io
import os
import re
import tempfile
import textwrap
import tokenize
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from tests.offline.site.mcvp_classroom import assigned

ROOT = Path(__file__).resolve().parent.parent
SLUG = "PacktPublishing/Modern-Computer-Vision-with-PyTorch-2E"  # of the repository on GitHub: stands only here
SIZE_LIMIT = 1_500_000  # bytes of a notebook on disk


class NotebookError(ValueError):
    """A notebook that cannot be used; the message names the file and says what is wrong."""


def name_of(path: Path) -> str:
    """`Chapter01/Name.ipynb`: the folder and the name of a notebook's path."""
    return f"{path.parent.name}/{path.name}"


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of the shelf below `root`, sorted by name (`ChapterNN/*.ipynb`)."""
    return sorted(root.glob("Chapter[0-9][0-9]/*.ipynb"))


def read(path: Path) -> NotebookNode:
    """The notebook at `path`, validated.

    Raises NotebookError, naming the file, where it is missing, not JSON, or not a valid notebook of format 4.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise NotebookError(f"{path}: no such notebook") from None
    except Exception as error:  # nbformat raises many kinds for a broken file
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotebookError(f"{path}: not a valid notebook: {summary}") from error
    return notebook


def write_text(text: str, path: Path) -> None:
    """Write a text file in one step: a reader of `path` sees the old file or the new one, never a part."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook in one step, as `write_text` does."""
    write_text(nbformat.writes(notebook).rstrip("\n") + "\n", path)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The notebook's code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells that carry `tag`."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def first_part(notebook: NotebookNode) -> NotebookNode | None:
    """The notebook up to the first cell tagged `hub`, its cells shared with it; None where no cell is."""
    for place, cell in enumerate(notebook.cells):
        if "hub" in cell.metadata.get("tags", []):
            part = copy.copy(notebook)
            part.cells = notebook.cells[:place]
            return part
    return None


def python_source(source: str) -> str:
    """A cell's source in plain Python, as IPython itself would run it."""
    return TransformerManager().transform_cell(source)


@functools.lru_cache(maxsize=512)
def parse(source: str) -> ast.Module:
    """The syntax tree of a cell, its magics and `!` lines read as calls of `get_ipython()`. Raises SyntaxError.

    The tree is shared between callers: read it, do not change it.
    """
    return ast.parse(python_source(source))


def assignments(source: str) -> dict[str, Any]:
    """Name -> value of the plain assignments of literals in a cell's source (`EPOCHS = 10`); others are left out."""
    found = {}
    for name, value in assigned(source):
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            continue
    return found


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Name -> value of everything the cell tagged `parameters` sets; empty where there is no such cell."""
    found: dict[str, Any] = {}
    for cell in tagged(notebook, "parameters"):
        found.update(assignments(cell.source))
    return found


def answers(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Where it stands, and the code, of each answer in code: every ```python fence within <details>, in order.

    The tests run them after the last cell. Code that is not to be run stands in a fence of another kind (```text).
    """
    found = []
    for number, cell in enumerate(notebook.cells, start=1):
        for details in re.findall(r"<details>(.*?)</details>", cell.source, re.DOTALL) * (cell.cell_type == "markdown"):
            for _, code in re.findall(r"^( *)```python\n(.*?)^\1```", details, re.DOTALL | re.MULTILINE):
                found.append((f"answer {len(found) + 1} in code (in cell {number})", textwrap.dedent(code)))
    return found


def same_type(value: Any, original: Any) -> bool:
    """Whether `value` may stand where `original` stands: same type, an int for a float, a list for a tuple.

    A bool is never a number; items of a sequence are compared with the first item of the original.
    """
    if isinstance(original, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) > 0 and (
            not original or all(same_type(item, original[0]) for item in value))
    if isinstance(original, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(original)


def code_digest(notebook: NotebookNode) -> str:
    """Twelve hex digits that change when the code of any cell changes.

    Prose, outputs, metadata, comments and blank lines do not count.
    """
    digest = hashlib.sha256()
    for cell in code_cells(notebook):
        digest.update(bare_code(cell.source).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def cell_digests(notebook: NotebookNode) -> list[str]:
    """Six hex digits for each code cell that holds code, which change when that does."""
    return [hashlib.sha256(bare_code(cell.source).encode()).hexdigest()[:6] for cell in code_cells(notebook)
            if cell.source.strip()]


def is_current(entry: dict[str, Any], notebook: NotebookNode) -> bool:
    """Whether a measurement (an entry of `shelf.measured`) was made with the code that the notebook has now.

    One of the first part (`first_part` is true in it) is bound to the code of that part alone.
    """
    part = first_part(notebook) if entry.get("first_part") else notebook
    return part is not None and entry.get("code") == code_digest(part)


def bare_code(source: str) -> str:
    """A cell's source without comments, blank lines and spaces at the ends of lines.

    The text is cut, not made anew from tokens or a tree, so every version of Python gives the same. What stands inside
    a string stays as it is, and so does a line of IPython (`%pip`, `!`). A source that is not Python stays whole.
    """
    shielded = re.sub(r"^(\s*)((?:%%?[A-Za-z]|!).*)$", lambda line: line[1] + repr(line[2]), source, flags=re.MULTILINE)
    lines = shielded.split("\n")
    inside: set[int] = set()  # lines that end within a string
    try:
        for token in tokenize.generate_tokens(io.StringIO(shielded).readline):
            row, column = token.start
            if token.type == tokenize.COMMENT:
                lines[row - 1] = lines[row - 1][:column]
            inside.update(range(row, token.end[0]))
    except (tokenize.TokenError, SyntaxError):  # an IndentationError is a SyntaxError
        return source.strip()
    return "\n".join(line if row in inside else line.rstrip()
                     for row, line in enumerate(lines, start=1) if row in inside or line.strip())
