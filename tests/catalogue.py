"""The catalogue: the tables of the READMEs, and each notebook's badge and budget table, made from the notebooks.

    python -m tests.catalogue            write what is stale
    python -m tests.catalogue --check    write nothing; list what is stale and exit with 1

What the tables say comes from each notebook's title cell and its metadata under `shelf`: `order`, `learn`, `data` and
`result` by its author, `measured` by tests.measure. Two more are optional: `note`, shown with the result, and
`download`, the size of the download in words, for data that were already at hand when the notebook was measured.
"""
from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from nbformat import NotebookNode

from tests.notebooks import ROOT, SLUG, NotebookError, code_digest, notebooks, read, write, write_text

BEGIN, END = "<!-- catalogue:begin -->", "<!-- catalogue:end -->"
BADGE_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/"
NOT_MEASURED = "not measured yet"
BUDGET_HEADER = ("data and licence", "download", "CPU", "GPU", "result")
CATALOGUE_HEADER = ("notebook", "", "what you learn", "data and licence", "budget", "result")


class CatalogueError(ValueError):
    """The catalogue cannot be made; the message has one line for each thing wrong, with its file."""


# ---- one notebook


def title_of(notebook: NotebookNode, name: str) -> str:
    """The notebook's title: the first line of its first cell. Raises NotebookError where that is no `# Title`."""
    cells = notebook.cells
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise NotebookError(f"{name}: the first cell is not a markdown cell that begins with `# Title`")
    return cells[0].source.splitlines()[0].removeprefix("# ").strip()


def shelf_of(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """The notebook's metadata under `shelf`. Raises NotebookError, naming the key, where one lacks or is malformed."""
    shelf = notebook.metadata.get("shelf")
    if not isinstance(shelf, dict):
        raise NotebookError(f"{name}: no `shelf` in the notebook's metadata")
    order = shelf.get("order")
    if type(order) is not int or order < 1:
        raise NotebookError(f"{name}: shelf.order is {order!r}, not 1, 2, …")
    for key in ("learn", "data", "result", "note", "download"):
        needed = key in ("learn", "data", "result")
        text = shelf.get(key)
        if (needed or key in shelf) and not (isinstance(text, str) and text.strip()):
            raise NotebookError(f"{name}: shelf.{key} is {text!r}, not a line of text")
    return shelf


@dataclass(frozen=True)
class Budget:
    """What a notebook asks for and what it reaches, in words."""

    download: str
    cpu: str
    gpu: str
    result: str


def budget(notebook: NotebookNode, name: str) -> Budget:
    """The notebook's budget by its measurements; one made with other code than it has now counts as not made.

    The result is that of the last run with the notebook's own parameters, or else of the last run. Raises
    NotebookError where the metadata are malformed, or `shelf.result` names something that the results do not have.
    """
    shelf = shelf_of(notebook, name)
    digest = code_digest(notebook)
    measured = {slot: run for slot, run in shelf.get("measured", {}).items() if run["code"] == digest}
    result, download = NOT_MEASURED, NOT_MEASURED
    if measured:
        download = _size(max(run["downloaded_mb"] for run in measured.values()))
        best = max(measured.values(), key=lambda run: (not run["parameters"], run["date"]))
        result = _filled(shelf["result"], best["results"], name) + _with(best["parameters"])
        if "note" in shelf:
            result += f" ({shelf['note']})"
    minutes = {slot: _minutes(run["seconds"]) + _with(run["parameters"]) for slot, run in measured.items()}
    return Budget(download=shelf.get("download", download), cpu=minutes.get("cpu", NOT_MEASURED),
                  gpu=minutes.get("gpu", NOT_MEASURED), result=result)


def _filled(result: str, results: dict[str, float], name: str) -> str:
    """The format string `shelf.result` filled with the measured results."""
    try:
        return result.format(**results)
    except (KeyError, IndexError) as error:
        raise NotebookError(f"{name}: shelf.result asks for {error}, which is not among the measured results: "
                            f"{', '.join(results)}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise NotebookError(f"{name}: shelf.result is no format string for the results: {error}") from None


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 0.1:
        return "< 0.1 min"
    return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"


def _size(megabytes: float) -> str:
    if megabytes < 0.1:
        return "nothing"
    if megabytes < 10:
        return f"{megabytes:.1f} MB"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def _with(parameters: dict[str, Any]) -> str:
    """` with EPOCHS = 3` where a run had other parameters than the notebook's own."""
    return " with " + ", ".join(f"{name} = {value!r}" for name, value in parameters.items()) if parameters else ""


def badge(name: str) -> str:
    """The Colab badge of the notebook `ChapterNN/Name.ipynb`, linked to it."""
    return f"[![Open in Colab]({BADGE_IMAGE})]({COLAB}{SLUG}/blob/main/{quote(name)})"


def title_source(notebook: NotebookNode, name: str) -> str:
    """The source that the title cell should have: title, badge, the author's text, budget table."""
    title_of(notebook, name)
    found = budget(notebook, name)
    row = (notebook.metadata.shelf["data"], found.download, found.cpu, found.gpu, found.result)
    title, *text = _without_table(notebook.cells[0].source.splitlines())
    text = "\n".join(line for line in text if BADGE_IMAGE not in line).strip()
    return "\n\n".join(part for part in (title, badge(name), text, _table(BUDGET_HEADER, [row])) if part)


def _without_table(lines: list[str]) -> list[str]:
    """The lines that are not part of the budget table."""
    kept, inside = [], False
    for line in lines:
        inside = line.startswith("|") and (inside or line.startswith(f"| {BUDGET_HEADER[0]} |"))
        if not inside:
            kept.append(line)
    return kept


def update_title(notebook: NotebookNode, name: str) -> None:
    """Write the badge and the budget table into the notebook's title cell."""
    notebook.cells[0].source = title_source(notebook, name)


# ---- tables


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A markdown table; pipes and line breaks in the cells are made harmless."""
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def _row(notebook: NotebookNode, name: str, folder: str) -> tuple[str, ...]:
    """The notebook's row in the table of a README in `folder` ("" for the root)."""
    shelf, found = notebook.metadata.shelf, budget(notebook, name)
    link = f"[{title_of(notebook, name)}]({quote(name.removeprefix(folder))})"
    costs = f"download: {found.download}<br>CPU: {found.cpu}<br>GPU: {found.gpu}"
    return link, badge(name), shelf["learn"], shelf["data"], costs, found.result


# ---- the tree


@dataclass(frozen=True)
class Piece:
    """A text of the catalogue: a README, or the title cell of a notebook."""

    path: Path
    name: str
    present: str
    wanted: str

    @property
    def stale(self) -> bool:
        return self.present != self.wanted

    def difference(self) -> str:
        """The lines that go (-) and come (+)."""
        lines = difflib.unified_diff(self.present.splitlines(), self.wanted.splitlines(), lineterm="", n=0)
        return "\n".join(f"    {line}" for line in lines if not line.startswith(("---", "+++", "@@")))

    def write(self) -> None:
        if self.path.suffix == ".ipynb":
            notebook = read(self.path)
            notebook.cells[0].source = self.wanted
            write(notebook, self.path)
        else:
            write_text(self.wanted, self.path)


def pieces(root: Path) -> list[Piece]:
    """Every text of the catalogue below `root`, as it is and as it should be.

    Raises CatalogueError with everything that is wrong: notebooks and READMEs that cannot be used, two notebooks of one
    chapter at one place, a notebook that stands outside the chapters, a Colab link that leads nowhere.
    """
    problems: list[str] = []
    found: list[Piece] = []
    sections = []
    for folder in sorted(path for path in root.glob("Chapter[0-9][0-9]") if path.is_dir()):
        readme = folder / "README.md"
        chapter = {}
        for path in sorted(folder.glob("*.ipynb")):
            name = f"{folder.name}/{path.name}"
            with _noting(problems):
                notebook = read(path)
                wanted = title_source(notebook, name)
                found.append(Piece(path, name, notebook.cells[0].source, wanted))
                problems += _broken_links(root, name, [wanted, *_prose(notebook)[1:]])
                chapter[name] = notebook
        if not chapter and not readme.exists():
            continue
        problems += _doubled_orders(chapter)
        with _noting(problems):
            piece = _readme_piece(root, readme, _chapter_table(chapter, f"{folder.name}/"))
            found.append(piece)
            sections.append(f"### [{_heading(piece)}]({folder.name}/README.md)\n\n{_chapter_table(chapter, '')}")
    with _noting(problems):
        found.append(_readme_piece(root, root / "README.md", "\n\n".join(sections)))
    for piece in found:
        if piece.path.suffix == ".md":
            problems += _broken_links(root, piece.name, [piece.wanted])
    problems += [f"{path.relative_to(root).as_posix()}: stands outside ChapterNN/, so no table lists it"
                 for path in _strays(root)]
    if problems:
        raise CatalogueError("\n".join(problems))
    return found


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Note the fault that the body finds, instead of stopping at it."""
    try:
        yield
    except NotebookError as error:
        problems.append(str(error))


def _chapter_table(chapter: dict[str, NotebookNode], folder: str) -> str:
    """The table of a chapter's notebooks (name -> notebook), in their order, for a README in `folder`."""
    ordered = sorted(chapter, key=lambda name: chapter[name].metadata.shelf["order"])
    return _table(CATALOGUE_HEADER, [_row(chapter[name], name, folder) for name in ordered])


def _doubled_orders(chapter: dict[str, NotebookNode]) -> list[str]:
    """Two notebooks of the chapter that ask for the same place, in words."""
    taken: dict[int, str] = {}
    problems = []
    for name, notebook in chapter.items():
        order = notebook.metadata.shelf["order"]
        if order in taken:
            problems.append(f"{name}: shelf.order {order} is taken by {taken[order]}")
        taken.setdefault(order, name)
    return problems


def _readme_piece(root: Path, path: Path, table: str) -> Piece:
    """The README at `path` with `table` between its markers. Raises NotebookError where it or they are missing."""
    name = path.relative_to(root).as_posix()
    if not path.exists():
        raise NotebookError(f"{name}: no such file; the catalogue writes its table into it")
    present = path.read_text(encoding="utf-8")
    if present.count(BEGIN) != 1 or present.count(END) != 1 or present.index(BEGIN) > present.index(END):
        raise NotebookError(f"{name}: needs one line `{BEGIN}` and, below it, one line `{END}`")
    wanted = present[:present.index(BEGIN)] + f"{BEGIN}\n{table}\n" + present[present.index(END):]
    return Piece(path, name, present, wanted)


def _heading(readme: Piece) -> str:
    """The first heading of a chapter's README: the chapter's title."""
    found = re.search(r"^# +(.+)$", readme.present, re.MULTILINE)
    if not found:
        raise NotebookError(f"{readme.name}: no heading `# Title`, from which the chapter's title is taken")
    return found[1].strip()


def _prose(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def _broken_links(root: Path, name: str, texts: list[str]) -> list[str]:
    """The Colab links in `texts`, from the file `name`, that do not lead to a notebook of this repository."""
    here = f"{COLAB}{SLUG}/blob/main/"
    links = [link.rstrip(".,;:") for link in re.findall(re.escape(COLAB) + r"[^\s)\"'>]*", "\n".join(texts))]
    return [f"{name}: {link} leads to no notebook of {SLUG}"
            for link in links if not (link.startswith(here) and (root / unquote(link.removeprefix(here))).is_file())]


def _strays(root: Path) -> list[Path]:
    """The notebooks that `notebooks` does not know, in the root and in the chapters' subfolders."""
    everything = {*root.glob("*.ipynb"), *root.glob("Chapter*/**/*.ipynb")}
    return sorted(path for path in everything - set(notebooks(root)) if ".ipynb_checkpoints" not in path.parts)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.catalogue", description=(
        "Write the tables of the READMEs, and each notebook's badge and budget table, from the notebooks."))
    parser.add_argument("--check", action="store_true", help="write nothing; list what is stale and exit with 1")
    options = parser.parse_args(arguments)
    try:
        stale = [piece for piece in pieces(root) if piece.stale]
    except CatalogueError as error:
        print(error, file=sys.stderr)
        return 1
    for piece in stale:
        if options.check:
            print(f"{piece.name} is stale:\n{piece.difference()}")
        else:
            piece.write()
            print(f"{piece.name}: written")
    if stale and options.check:
        print("To write what is stale: python -m tests.catalogue")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
