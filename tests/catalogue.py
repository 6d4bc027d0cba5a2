"""The catalogue: the lists of notebooks in the READMEs, and each notebook's badge and budget table.

    python -m tests.catalogue            write what is stale
    python -m tests.catalogue --check    write nothing; list what is stale and exit with 1

What they say comes from each notebook's title cell and its metadata under `shelf`: `order`, `learn`, `data` and
`result` by its author, `measured` by tests.measure. Three more are optional: `note`, shown with the result; `download`,
the size of the download in words, for data that were already at hand when the notebook was measured; and, where a cell
is tagged `hub`, `first_result`, which is filled with the results of the first part where only that was measured.

Where a README has the marks of tests.detectors, the detectors of all chapters are compared there, in a table and a
figure. Otherwise the READMEs hold lists and no tables: GitHub shrinks a picture in a table to the width of the longest
word beside it, down to nothing on a phone, and a badge that cannot be seen cannot be clicked.
"""
from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from nbformat import NotebookNode

from tests import detectors
from tests.notebooks import ROOT, SLUG, NotebookError, is_current, name_of, notebooks, read, write, write_text

BEGIN, END = "<!-- catalogue:begin -->", "<!-- catalogue:end -->"
BADGE_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/"
CHAPTERS = 18
NOT_MEASURED = "–"
FIRST_PART = "first part"
BUDGET_HEADER = ("data and license", "download", "CPU", "GPU", "result")


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
    for key in ("learn", "data", "result", "note", "download", "first_result"):
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

    A run of the whole notebook goes before one of its first part, then one with the notebook's own parameters before
    others, then the last; the result is that of the best. Raises NotebookError where the metadata are malformed, or
    `shelf.result` names something that the results do not have.
    """
    shelf = shelf_of(notebook, name)
    runs = {slot: run for slot, run in shelf.get("measured", {}).items() if is_current(run, notebook)}
    result = download = NOT_MEASURED
    if runs:
        best = max(runs.values(), key=lambda run: (not _is_first(run), not run["parameters"], run["date"]))
        alike = [run for run in runs.values() if _is_first(run) == _is_first(best)]
        download = _of(best) + _size(max(run["downloaded_mb"] for run in alike))
        result = _result(shelf, best, name)
    minutes = {slot: _of(run) + _minutes(run["seconds"]) + _with(run["parameters"]) for slot, run in runs.items()}
    return Budget(download=shelf.get("download", download), cpu=minutes.get("cpu", NOT_MEASURED),
                  gpu=minutes.get("gpu", NOT_MEASURED), result=result)


def _is_first(run: dict[str, Any]) -> bool:
    return bool(run.get("first_part"))


def _of(run: dict[str, Any]) -> str:
    """`first part: ` where a figure is not of the whole notebook."""
    return f"{FIRST_PART}: " if _is_first(run) else ""


def _result(shelf: dict[str, Any], run: dict[str, Any], name: str) -> str:
    """What the run has found, in the author's words."""
    key = "first_result" if _is_first(run) else "result"
    if key not in shelf:
        raise NotebookError(f"{name}: only the first part is measured: say with shelf.{key} what it found")
    text = _filled(key, shelf[key], run["results"], name) + _with(run["parameters"])
    if "note" in shelf:
        text += f" ({shelf['note']})"
    return f"{FIRST_PART} measured: {text}" if _is_first(run) else text


def _filled(key: str, result: str, results: dict[str, float], name: str) -> str:
    """The format string `shelf.result` (or another key) filled with the measured results."""
    try:
        return result.format(**results)
    except (KeyError, IndexError) as error:
        raise NotebookError(f"{name}: shelf.{key} asks for {error}, which is not among the measured results: "
                            f"{', '.join(results)}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise NotebookError(f"{name}: shelf.{key} is no format string for the results: {error}") from None


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
        inside = line.startswith("|") and (inside or re.match(r"\| data and licen[cs]e \|", line) is not None)
        if not inside:
            kept.append(line)
    return kept


def update_title(notebook: NotebookNode, name: str) -> None:
    """Write the badge and the budget table into the notebook's title cell."""
    notebook.cells[0].source = title_source(notebook, name)


# ---- tables and lists


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A markdown table; pipes and line breaks in the cells are made harmless."""
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def _item(mark: str, lines: list[str]) -> str:
    """A list's item of several lines, each one line of text."""
    indent = "\n" + " " * len(mark)
    return mark + f"<br>{indent}".join(" ".join(line.split()) for line in lines)


def _short_item(notebook: NotebookNode, name: str) -> str:
    """The notebook's item in the root's README: title, badge, minutes; what one learns."""
    found = budget(notebook, name)
    times = [f"{kind} {time}".replace(" ", "&nbsp;") for kind, time in (("CPU", found.cpu), ("GPU", found.gpu))
             if time != NOT_MEASURED]
    return _item("- ", [f"**[{title_of(notebook, name)}]({quote(name)})** {badge(name)} "
                        f"{' · '.join(times) or NOT_MEASURED}", notebook.metadata.shelf["learn"]])


def _full_item(notebook: NotebookNode, name: str) -> str:
    """The notebook's item in its chapter's README: everything that is known of it."""
    shelf, found = notebook.metadata.shelf, budget(notebook, name)
    return _item("1. ", [
        f"**[{title_of(notebook, name)}]({quote(name.partition('/')[2])})** {badge(name)}", shelf["learn"],
        f"*Data:* {shelf['data']} · *download:* {found.download} · *CPU:* {found.cpu} · *GPU:* {found.gpu}",
        f"*Result:* {found.result}"])


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
    sections: dict[int, str] = {}
    compared: list[detectors.Detector] = []
    for folder in sorted(path for path in root.glob("Chapter[0-9][0-9]") if path.is_dir()):
        readme = folder / "README.md"
        chapter = {}
        for path in sorted(folder.glob("*.ipynb")):
            name = name_of(path)
            with _noting(problems):
                notebook = read(path)
                wanted = title_source(notebook, name)
                found.append(Piece(path, name, notebook.cells[0].source, wanted))
                problems += _broken_links(root, name, [wanted, *_prose(notebook)[1:]])
                chapter[name] = notebook
        if not chapter and not readme.exists():
            continue
        problems += _doubled_orders(chapter)
        for name in _ordered(chapter):
            with _noting(problems):
                compared += filter(None, [detectors.detector_of(chapter[name], name)])
        with _noting(problems):
            piece = _readme_piece(root, readme, "\n".join(_full_item(chapter[one], one) for one in _ordered(chapter)))
            found.append(piece)
            items = "\n".join(_short_item(chapter[one], one) for one in _ordered(chapter))
            sections[int(folder.name[-2:])] = f"### [{_heading(piece)}]({folder.name}/README.md)\n\n{items}"
    found = [part for piece in found for part in _compared(piece, compared)]
    with _noting(problems):
        found.append(_readme_piece(root, root / "README.md", "\n\n".join([_overview(sections), *sections.values()])))
    for piece in found:
        if piece.path.suffix == ".md":
            problems += _broken_links(root, piece.name, [piece.wanted])
    problems += [f"{path.relative_to(root).as_posix()}: stands outside ChapterNN/, so no list has it"
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


def _ordered(chapter: dict[str, NotebookNode]) -> list[str]:
    """The names of a chapter's notebooks (name -> notebook) in the order in which they are to be read."""
    return sorted(chapter, key=lambda name: chapter[name].metadata.shelf["order"])


def _overview(written: Iterable[int]) -> str:
    """A line of links to the chapters' pages; it says which chapters are not there yet."""
    links = [f"[{number}](Chapter{number:02d}/README.md)" for number in written]
    missing = [str(number) for number in range(1, CHAPTERS + 1) if number not in written]
    line = "Straight to a chapter: " + " · ".join(links)
    return line + (f". Still to come: {', '.join(missing)}." if missing else "")


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


def _readme_piece(root: Path, path: Path, text: str) -> Piece:
    """The README at `path` with `text` between its markers. Raises NotebookError where it or they are missing."""
    name = path.relative_to(root).as_posix()
    if not path.exists():
        raise NotebookError(f"{name}: no such file; the catalogue writes its list into it")
    present = path.read_text(encoding="utf-8")
    if present.count(BEGIN) != 1 or present.count(END) != 1 or present.index(BEGIN) > present.index(END):
        raise NotebookError(f"{name}: needs one line `{BEGIN}` and, below it, one line `{END}`")
    wanted = present[:present.index(BEGIN)] + f"{BEGIN}\n{text}\n" + present[present.index(END):]
    return Piece(path, name, present, wanted)


def _compared(piece: Piece, compared: list[detectors.Detector]) -> list[Piece]:
    """The piece; a README with the marks of tests.detectors holds their table, and has their figure beside it."""
    begin, end = (piece.wanted.find(mark) for mark in (detectors.BEGIN, detectors.END))
    if piece.path.suffix != ".md" or not 0 <= begin < end:
        return [piece]
    wanted = piece.wanted[:begin] + f"{detectors.BEGIN}\n{detectors.table(compared)}\n" + piece.wanted[end:]
    path = piece.path.with_name(detectors.FIGURE)
    name = f"{piece.name.rpartition('/')[0]}/{path.name}"
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    return [replace(piece, wanted=wanted), Piece(path, name, present, detectors.figure(compared))]


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
        "Write the lists in the READMEs, and each notebook's badge and budget table, from the notebooks."))
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
