"""What every notebook of the shelf must look like, as rules that read the file and run nothing of it.

Usage: python -m tests.structure [NOTEBOOK ...]      (none: the whole shelf; exit status 1 where there is a finding)

A rule is a function of one notebook and its path, marked with `@rule`; what only several notebooks show together
(equal titles) or what is faster for all at once (ruff) is marked with `@shelf_rule`. A finding is a sentence that names
the cell (the first is 1) and says what to do.
"""
from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import string
import subprocess
import symtable
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from nbformat import NotebookNode

from tests.catalogue import BADGE_IMAGE, BUDGET_HEADER, badge, shelf_of
from tests.notebooks import (
    ROOT,
    SIZE_LIMIT,
    NotebookError,
    code_cells,
    first_part,
    is_current,
    name_of,
    notebooks,
    parse,
    read,
)

LONGEST_CELL = 30  # lines
LONGEST_DEFINITION = 40  # lines of a cell that only defines functions and classes
MEDIAN_CELL = 10  # lines: the median stays below
CODE_RUN = 3  # code cells in a row without prose: one fewer is allowed
MOST_CELLS = 80  # of a notebook; the aim is 70
MOST_WORDS = 3_500  # of its prose; the aim is 3,000
WORDS_PER_LINE = 3  # words of prose for each line of code
SECTION_WORDS = 10  # words before the first code of a section
TITLE_WORDS = 15  # words of the title cell's paragraph

COLAB_GUARD = "'google.colab' in sys.modules"
LINE_MAGICS = {"pip", "matplotlib", "config", "timeit"}
RETIRED = {"gym": "gymnasium", "imgaug": "torchvision.transforms.v2"}  # package nobody keeps -> what to use

# Where code may fetch from, or send its reader: homes that last, kept by an institution, and this machine.
HOSTS = {
    "localhost", "127.0.0.1", "0.0.0.0", "testserver",
    "pytorch.org", "docs.pytorch.org", "download.pytorch.org", "huggingface.co", "zenodo.org", "archive.ics.uci.edu",
    "cocodataset.org", "images.cocodataset.org", "www.robots.ox.ac.uk", "host.robots.ox.ac.uk",
    "data.lhncbc.nlm.nih.gov", "efrosgans.eecs.berkeley.edu",
    "numpy.org", "scikit-learn.org", "scikit-image.org", "arxiv.org", "doi.org", "creativecommons.org", "www.w3.org",
}
ARCHIVES = r"https://github\.com/[\w.-]+/[\w.-]+/archive/[0-9a-f]{40}\.zip"  # of a repository at a commit: lasts, too
RAW_FILES = r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/[\w./-]+"  # likewise, a single file
PERSONAL_HOSTS = (r"(drive|docs)\.google\.com|\bgdown\b|dropbox\.com|\bbit\.ly|tinyurl\.com|onedrive|1drv\.ms|mega\.nz"
                  r"|imgur\.com|amazonaws\.com")
LOGINS = (r"notebook_login|interpreter_login|\bimport\b.*\blogin\b|(hub|wandb)\.login|kaggle\.json|KAGGLE_KEY"
          r"|\bgetpass\b|\bHF_TOKEN\b|HUGGING_FACE_HUB_TOKEN|use_auth_token|\bapi_key\s*=|_API_KEY\b|\buserdata\b")
SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{40,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{35}|\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "an AWS access key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
TEST_SWITCHES = (r"SMOKE|QUICK_(TEST|RUN)|FAST_RUN|PYTEST|MCVP_|GITHUB_ACTIONS"
                 r"|\bCI\b.*(environ|getenv)|(environ|getenv).*\bCI\b")
SKIPS = r"(NBVAL|PYTEST_VALIDATE)_(?!CHECK_OUTPUT\b)\w+"
MACHINERY = r"# *(NBVAL_CHECK_OUTPUT|fmt: *\w+|(isort|yapf|ruff|pylint|mypy): *\w+|type: *ignore)"
COLLAPSED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's way, Colab's way
COLLAPSED_TAG = "hide-input"  # a rendered book's way
COLLAPSED_TITLE = "# @title "  # first line: Colab shows what follows in place of the code
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SCHEMATICS = {"canvas", "box", "arrow", "matrix"}  # the functions that draw schematics
ABSOLUTE_PATHS = (r"(?<![\w.~/<])/(home|root|Users|tmp|private/var|var/folders)\b|/content\b"
                  r"|\b[A-Za-z]:[\\/]+Users\b|/(site|dist)-packages/|" + re.escape(str(ROOT)))
SHELL_CALLS = {"get_ipython().system", "get_ipython().getoutput", "os.system", "os.popen", "subprocess.getoutput"}
PROCESS_CALLS = {"run", "Popen", "call", "check_call", "check_output"}
DOWNLOADERS = {"curl", "wget", "git", "pip", "pip3", "conda", "apt", "apt-get", "brew", "kaggle"}
BOUNDED_REQUIREMENT = r"""(["'])[\w.-]+(\[[\w,.-]+\])?[^"'\s]*(<|==)[^"'\s]*\1"""
UNPICKLERS = r"(pickle|dill|cloudpickle|joblib)\.loads?|(pd|pandas)\.read_pickle|(\w+\.)?loaddill"
HUB_CALLS = {  # function -> where its hub id stands: place and keyword
    "from_pretrained": (0, "pretrained_model_name_or_path"),
    "load_lora_weights": (0, "pretrained_model_name_or_path_or_dict"),
    "load_dataset": (0, "path"),
    "hf_hub_download": (0, "repo_id"),
    "snapshot_download": (0, "repo_id"),
    "pipeline": (1, "model"),
}
FIRST_FORM = set((ROOT / "tests" / "first_form.txt").read_text(encoding="utf-8").splitlines())
HUB_ID = r"\w[\w.-]*(/[\w.-]+)?"
LOCAL_BUILDERS = {"imagefolder", "videofolder", "audiofolder", "csv", "json", "parquet", "arrow", "text", "webdataset"}

COLAB_LACKS = {("Image", "alt")}  # keywords that IPython 7.34, which Colab has, does not know
RENDERED_IMAGES = {"image/png", "image/jpeg", "image/svg+xml"}  # what nbconvert, GitHub and nbviewer show

Rule = Callable[[NotebookNode, Path], Iterator[str]]
ShelfRule = Callable[[dict[Path, NotebookNode]], Iterator[tuple[Path, str]]]
RULES: list[Rule] = []
SHELF_RULES: list[ShelfRule] = []


def rule(function: Rule) -> Rule:
    """Make a function of a notebook and its path, which yields findings, a rule."""
    RULES.append(function)
    return function


def shelf_rule(function: ShelfRule) -> ShelfRule:
    """Make a function of many notebooks (path -> notebook), which yields (path, finding), a rule."""
    SHELF_RULES.append(function)
    return function


def check(path: Path) -> list[str]:
    """What is wrong with the notebook at `path`; empty where nothing is."""
    return check_all([path])[path]


def check_all(paths: list[Path]) -> dict[Path, list[str]]:
    """Path -> findings of every notebook; one that cannot be read has that as its only finding."""
    found: dict[Path, list[str]] = {path: [] for path in paths}
    shelf = {}
    for path in paths:
        try:
            shelf[path] = read(path)
        except NotebookError as error:
            found[path].append(str(error))
    for path, notebook in shelf.items():
        for one in RULES:
            found[path] += one(notebook, path)
    for one in SHELF_RULES:
        for path, finding in one(shelf):
            found[path].append(finding)
    return found


# --- what the rules look at

class Section(NamedTuple):
    """What stands below a `## ` heading (the first: before any). `parts`: ("markdown" or "code", text), in order."""

    title: str
    cell: int
    parts: list[tuple[str, str]]

    @property
    def prose(self) -> str:
        """The section's markdown."""
        return "\n\n".join(text for kind, text in self.parts if kind == "markdown")


def cells(notebook: NotebookNode, kind: str) -> Iterator[tuple[int, NotebookNode]]:
    """The cells of a kind ("code" or "markdown") with their numbers, the notebook's first cell being 1."""
    return ((number, cell) for number, cell in enumerate(notebook.cells, start=1) if cell.cell_type == kind)


def places(notebook: NotebookNode, tag: str) -> list[int]:
    """The numbers of the cells that carry a tag."""
    return [number for number, cell in enumerate(notebook.cells, start=1) if tag in cell.metadata.get("tags", [])]


def lines(cell: NotebookNode) -> int:
    """How many lines a cell has."""
    return cell.source.count("\n") + 1


def is_collapsed(cell: NotebookNode) -> bool:
    """Whether a reader sees a cell's code only after asking for it: the rules on length are for what is read."""
    return COLLAPSED_TAG in cell.metadata.get("tags", [])


def without_code(markdown: str) -> str:
    """Markdown without fenced code; code and formulas within a line become `x`."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1[^\n]*$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`|\$[^$\n]+\$", "x", text)


def links(markdown: str) -> list[tuple[str, bool]]:
    """Target of every link of a markdown text, and whether it is a picture."""
    text = without_code(markdown)
    found = [(target, mark == "!") for mark, target in re.findall(r"(!?)\[[^][]*\]\(([^)\s]+)[^)]*\)", text)]
    return found + [(target, True) for target in re.findall(r"<img[^>]*src=[\"']([^\"']+)", text)]


def sections(notebook: NotebookNode) -> list[Section]:
    """The notebook cut at its `## ` headings, fenced code left out."""
    found = [Section("", 1, [])]
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code":
            found[-1].parts.append(("code", cell.source))
            continue
        for piece in re.split(r"^(?=## )", without_code(cell.source), flags=re.MULTILINE):
            if piece.startswith("## "):
                heading, _, piece = piece.partition("\n")
                found.append(Section(heading[3:].strip(), number, []))
            found[-1].parts.append(("markdown", piece))
    return found


def prose_of(notebook: NotebookNode, title: str) -> str:
    """The markdown of the section with that title; empty where there is none."""
    return "".join(section.prose for section in sections(notebook) if section.title == title)


def trees(notebook: NotebookNode) -> Iterator[tuple[int, ast.Module]]:
    """Number and syntax tree of every code cell; one that does not parse is left to the rule about that."""
    for number, cell in cells(notebook, "code"):
        try:
            yield number, parse(cell.source)
        except SyntaxError:
            continue


def nodes(notebook: NotebookNode, kind: type) -> Iterator[tuple[int, ast.AST]]:
    """Every node of a kind in the notebook's code, with the number of its cell."""
    return ((number, node) for number, tree in trees(notebook) for node in ast.walk(tree) if isinstance(node, kind))


def calls(notebook: NotebookNode) -> Iterator[tuple[int, ast.Call, str]]:
    """Every call in the notebook's code: the number of its cell, the call, and what is called (`torch.load`)."""
    return ((number, call, ast.unparse(call.func)) for number, call in nodes(notebook, ast.Call))


def magics(notebook: NotebookNode) -> Iterator[tuple[int, ast.Call, str, str]]:
    """Every magic: the number of its cell, the call that IPython makes of it, its name, what follows on the line."""
    for number, call, name in calls(notebook):
        if name in ("get_ipython().run_line_magic", "get_ipython().run_cell_magic"):
            magic, line = (str(getattr(argument, "value", "")) for argument in call.args[:2])
            yield number, call, magic if name.endswith("line_magic") else f"%{magic}", line


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword of a call, or None."""
    return next((one.value for one in call.keywords if one.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether a node is that very constant (`True` is not 1)."""
    return isinstance(node, ast.Constant) and node.value is value


def texts_in(node: ast.AST) -> list[str]:
    """Every string that code uses, docstrings left out."""
    inner = list(ast.walk(node))
    unused = {id(one.value) for one in inner if isinstance(one, ast.Expr)}
    return [one.value for one in inner
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in unused]


def output_texts(cell: NotebookNode) -> Iterator[str]:
    """What a cell's stored outputs say, pictures left out."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/") or kind.endswith("xml"):
                yield data if isinstance(data, str) else json.dumps(data)


def has_outputs(notebook: NotebookNode) -> bool:
    """Whether any code cell has outputs."""
    return any(cell.outputs for cell in code_cells(notebook))


def in_code(notebook: NotebookNode, pattern: str, advice: str) -> Iterator[str]:
    """A finding for each code cell whose source, comments included, matches `pattern`."""
    for number, cell in cells(notebook, "code"):
        match = re.search(pattern, cell.source)
        if match:
            yield f"cell {number}: `{match[0]}`: {advice}"


# --- the file

@rule
def size(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A notebook is not too large to be shown."""
    found = path.stat().st_size
    if found > SIZE_LIMIT:
        yield f"{found / 1e6:.2f} MB on disk, more than {SIZE_LIMIT / 1e6:.1f} MB: store fewer or smaller figures"


@rule
def cell_ids(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every cell in the file has an id of its own (reading mends them, so the file itself is looked at)."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if (stored["nbformat"], stored["nbformat_minor"]) < (4, 5):
        yield "notebook format below 4.5 has no cell ids: save the notebook again"
        return
    seen: set[str] = set()
    for number, cell in enumerate(stored["cells"], start=1):
        if "id" not in cell or cell["id"] in seen:
            yield f"cell {number}: no id of its own: save the notebook again"
        seen.add(cell.get("id", ""))


@rule
def kernelspec(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The kernel is `python3`, which every installation has."""
    name = notebook.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        yield f"kernelspec is {name!r}: it must be 'python3'"


@rule
def shelf_metadata(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The metadata `shelf` holds what the catalogue needs: order, learn, data, result."""
    try:
        shelf = shelf_of(notebook, "metadata")
    except NotebookError as error:
        yield str(error)
        return
    for key in ("result", "first_result"):
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(shelf.get(key, "")) if name is not None]
        except ValueError as error:
            yield f"metadata: shelf.{key} is not a format string: {error}"
            continue
        for name in names:
            if not name.isidentifier():
                yield f"metadata: shelf.{key}: {{{name}}} cannot be the name of a result"


@rule
def download_named(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Whoever downloads something says how much: the measurement does not know it where it was at hand before."""
    if "download" in notebook.metadata.get("shelf", {}):
        return
    for number, call, name in calls(notebook):
        if is_constant(keyword(call, "download"), True) or name.rpartition(".")[2] in HUB_CALLS.keys() - {"pipeline"}:
            yield f'cell {number}: {name}(...) downloads: say how much in the metadata (shelf.download: "30 MB")'
            return


# --- the anatomy

@rule
def title_cell(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The first cell is markdown: the notebook's only `# Title`, its own Colab badge, a paragraph, the budget table."""
    source = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    if not source.startswith("# "):
        yield "cell 1: must be markdown that starts with `# Title`"
    for number, cell in cells(notebook, "markdown"):
        if len(re.findall(r"^# ", without_code(cell.source), re.MULTILINE)) > (number == 1):
            yield f"cell {number}: a second `# Title`: sections are `## `"
    if badge(name_of(path)) not in source:
        yield "cell 1: no Colab badge of this very file: run python -m tests.catalogue"
    paragraph = " ".join(line for line in source.splitlines() if not re.match(r"#|\||\[!\[", line))
    if len(paragraph.split()) < TITLE_WORDS:
        yield "cell 1: no paragraph with the question and what the reader will have at the end"
    table = [line.strip() for line in source.splitlines() if line.startswith("|")]
    if len(table) != 3 or [column.strip() for column in table[0].strip("|").split("|")] != list(BUDGET_HEADER):
        yield "cell 1: no budget table of one row: run python -m tests.catalogue"


@rule
def parameters_cell(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """One code cell tagged `parameters`: nothing but `CAPITALS = literal  # what it does`."""
    found = places(notebook, "parameters")
    if len(found) != 1 or notebook.cells[found[0] - 1].cell_type != "code":
        yield f"{len(found)} cells tagged `parameters`: there must be one, of code"
        return
    number, source = found[0], notebook.cells[found[0] - 1].source
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        yield f"cell {number}: the parameters must be plain Python"
        return
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for statement in statements:
        if not is_parameter(statement):
            yield (f"cell {number}: `{ast.unparse(statement)}`: a parameter is CAPITALS = a number, a text, a bool, "
                   "or a tuple or list of them")
        elif commented.isdisjoint(range(statement.lineno, statement.end_lineno + 1)):
            yield f"cell {number}: `{ast.unparse(statement)}`: say in a comment behind it what it does"


def is_parameter(statement: ast.stmt) -> bool:
    """Whether a statement is `CAPITALS = literal`."""
    try:
        target, = statement.targets
        return re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id) is not None and is_plain(ast.literal_eval(statement.value))
    except (AttributeError, ValueError):  # not an assignment to one name; not a literal
        return False


def is_plain(value: object) -> bool:
    """Whether a value is a number, a string, a bool, or a tuple or list of such values."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str))


@rule
def results_cell(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """One code cell tagged `results`, after the parameters: binds the flat dict `results` and shows it.

    Where a cell is tagged `hub` there are two: one before it, for the first part alone, and one that adds the rest.
    """
    found, hub = places(notebook, "results"), places(notebook, "hub")[:1]
    if len(found) != 1 + len(hub) or any(notebook.cells[number - 1].cell_type != "code" for number in found):
        wanted = "two, of code, one before the cell tagged `hub` and one after it" if hub else "one, of code"
        yield f"{len(found)} cells tagged `results`: there must be {wanted}"
        return
    if hub and not found[0] < hub[0] < found[1]:
        yield f"cell {hub[0]}: one cell tagged `results` must stand before this `hub`, the other behind it"
    if any(place > found[0] for place in places(notebook, "parameters")):
        yield f"cell {found[0]}: the results stand before the parameters"
    for number in found:
        names = [node for place, node in nodes(notebook, ast.Name) if place == number and node.id == "results"]
        if not any(isinstance(node.ctx, ast.Store) for node in names):
            yield f"cell {number}: is tagged `results` but does not bind `results`"
        elif not any(isinstance(node.ctx, ast.Load) for node in names):
            yield f"cell {number}: show `results` after binding it"
    for place, node in (*nodes(notebook, ast.Assign), *nodes(notebook, ast.AugAssign)):
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        if place in found and ast.unparse(target) == "results" and isinstance(node.value, ast.Dict):
            if any(isinstance(value, (ast.Dict, ast.List, ast.Tuple)) for value in node.value.values):
                yield f"cell {place}: `results` must be flat: one number for each name"


@rule
def hub_cell(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """At most one code cell is tagged `hub`: the first that needs a hub, where the first part ends.

    The metadata say what the first part finds, and how much the second downloads, which no run of the first can know.
    """
    found = places(notebook, "hub")
    if len(found) > 1:
        yield f"cells {', '.join(map(str, found))}: tag `hub` only the first cell that needs weights or data from a hub"
    for number in found:
        if notebook.cells[number - 1].cell_type != "code":
            yield f"cell {number}: the tag `hub` belongs to the code that needs the hub"
    for key, meaning in (("first_result", "what the first part finds, a format string over its `results`"),
                         ("download", "how much the whole notebook downloads")):
        if found and key not in notebook.metadata.get("shelf", {}):
            yield f"metadata: no shelf.{key}: {meaning}"


@rule
def second_form(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What the second form asks for, of all notebooks but those that tests/first_form.txt still names."""
    if name_of(path) not in FIRST_FORM:
        yield from short_of_second_form(notebook)


def short_of_second_form(notebook: NotebookNode) -> Iterator[str]:
    """What a notebook lacks: it is short, and one of its exercises is answered in code (which the tests run)."""
    words = sum(len(cell.source.split()) for _, cell in cells(notebook, "markdown"))
    if len(notebook.cells) > MOST_CELLS:
        yield f"{len(notebook.cells)} cells, more than {MOST_CELLS}: link to what other notebooks teach, or make it two"
    if words > MOST_WORDS:
        yield f"{words} words of prose, more than {MOST_WORDS}: cut it, or make it two notebooks"
    prose = "\n\n".join(cell.source for _, cell in cells(notebook, "markdown"))
    answers = re.findall(r"<details>(.*?)</details>", prose.partition("## Exercises")[2], re.DOTALL)
    if not any(re.search(r"^```python$", answer, re.MULTILINE) for answer in answers):
        yield "Exercises: answer one in code: a ```python block inside its <details>, which ends in an assert or prints"


@rule
def numbered_sections(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The lesson stands in sections `## 1. ...`, `## 2. ...`: in order, and none between them without a number."""
    found = [(section, re.match(r"(\d+)\. ", section.title)) for section in sections(notebook)]
    numbered = [place for place, (_, match) in enumerate(found) if match]
    if len(numbered) < 2:
        yield "the lesson must stand in sections `## 1. ...`, `## 2. ...`"
        return
    for expected, (section, match) in enumerate(found[numbered[0]:numbered[-1] + 1], start=1):
        if not match or int(match[1]) != expected:
            yield f"cell {section.cell}: section `{section.title}` must have the number {expected}"


@rule
def check_before_results(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Something is asserted before the results, and no assertion is one that cannot fail."""
    for number, node in nodes(notebook, ast.Assert):
        if isinstance(node.test, ast.Constant):
            yield f"cell {number}: `{ast.unparse(node)}` cannot fail: check something that was computed"
    checks = [number for number, _ in nodes(notebook, ast.Assert)]
    checks += [number for number, _, name in calls(notebook)
               if re.match(r"assert_|gradcheck|gradgradcheck", name.rpartition(".")[2])]
    end = min(places(notebook, "results"), default=len(notebook.cells))
    if not any(number <= end for number in checks):
        yield "no check before the results: assert that what was built equals the library's, or beats the baseline"


@rule
def what_to_remember(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A section `## What to remember` of 3 to 5 bullets."""
    bullets = len(re.findall(r"^[-*] \S", prose_of(notebook, "What to remember"), re.MULTILINE))
    if not 3 <= bullets <= 5:
        yield f"{bullets} bullets in `## What to remember`: there must be 3 to 5"


@rule
def exercises(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A section `## Exercises` of 2 to 4 exercises: `1. ...`, `2. ...`, each with its own answer in `<details>`."""
    pieces = re.split(r"<details>(.*?)</details>", prose_of(notebook, "Exercises"), flags=re.DOTALL)
    *questions, rest = pieces[::2]
    answers = pieces[1::2]
    start = re.compile(r"^(?:#{3,4} )?\**(?:Exercise )?(\d+)[.:)][*\s]", re.MULTILINE)
    if not 2 <= len(answers) <= 4:
        yield f"{len(answers)} answers in <details> in `## Exercises`: there must be 2 to 4, one for each exercise"
    for number, question in enumerate(questions, start=1):
        if start.findall(question) != [str(number)]:
            yield f"Exercises: before answer {number} must stand exercise {number} (`{number}. ...`) and no other"
        if "<summary>" not in answers[number - 1]:
            yield f"Exercises: answer {number} has no <summary>"
    if start.search(rest) or "<details>" in rest:
        yield "Exercises: the last exercise has no answer in <details> ... </details>"


@rule
def next_notebook(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """After the exercises stands a link to the next notebook, or to a chapter's page where there is none."""
    prose = "\n\n".join(cell.source for _, cell in cells(notebook, "markdown"))
    after = prose.partition("\n## Exercises\n")[2].rpartition("</details>")[2]
    if not any(target.endswith((".ipynb", "README.md")) for target, _ in links(after)):
        yield "after the exercises: no link to the next notebook, or to a chapter's page (../Chapter02/README.md)"


@rule
def live_links(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Links to files lead somewhere, and no picture is loaded from another site (but the badge)."""
    for number, cell in cells(notebook, "markdown"):
        for target, is_picture in links(cell.source):
            if is_picture and target.startswith(("http:", "https:")) and target != BADGE_IMAGE:
                yield f"cell {number}: picture {target} is loaded from another site: draw it or leave it out"
            elif not re.match(r"#|\w+:", target) and not (path.parent / unquote(target).partition("#")[0]).exists():
                yield f"cell {number}: link to {target}, which does not exist"


# --- prose and code

@rule
def prose_before_code(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every numbered section opens with prose: why, then how."""
    for section in sections(notebook):
        kinds = [kind for kind, _ in section.parts]
        if re.match(r"\d", section.title) and "code" in kinds:
            opening = " ".join(text for _, text in section.parts[:kinds.index("code")])
            if len(opening.split()) < SECTION_WORDS:
                yield f"cell {section.cell}: section `{section.title}` starts with code: say first why and how"


@rule
def code_runs(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Never three code cells in a row without a sentence between them."""
    run = 0
    for number, cell in enumerate(notebook.cells, start=1):
        run = run + 1 if cell.cell_type == "code" else 0
        if run == CODE_RUN:
            yield f"cell {number}: {CODE_RUN} code cells in a row: put prose between them"


@rule
def cell_length(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Code cells are short: below 10 lines at the median, at most 30, at most 40 where they only define.

    Collapsed ones may have any length, here and in the next rule.
    """
    for number, tree in trees(notebook):
        if is_collapsed(notebook.cells[number - 1]):
            continue
        found = lines(notebook.cells[number - 1])
        defines = all(isinstance(node, DEFINITIONS) for node in tree.body)
        limit = LONGEST_DEFINITION if defines else LONGEST_CELL
        if found > limit:
            yield f"cell {number}: {found} lines, more than {limit}: split it where the reader needs a sentence"
    median = statistics.median([lines(cell) for cell in code_cells(notebook)] or [0])
    if median >= MEDIAN_CELL:
        yield f"the median code cell has {median:g} lines: bring it below {MEDIAN_CELL}"


@rule
def enough_prose(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """At least three words of prose for each line of code."""
    words = sum(len(cell.source.split()) for _, cell in cells(notebook, "markdown"))
    code = sum(lines(cell) for cell in code_cells(notebook) if not is_collapsed(cell))
    if words < WORDS_PER_LINE * code:
        yield f"{words} words of prose for {code} lines of code: there must be {WORDS_PER_LINE * code} or more"


@rule
def code_parses(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every code cell holds Python (magics allowed), and is not empty."""
    for number, cell in cells(notebook, "code"):
        try:
            if not parse(cell.source).body:
                yield f"cell {number}: no code: delete the cell"
        except SyntaxError as error:
            yield f"cell {number}: line {error.lineno} is not Python: {error.msg}"


@rule
def few_magics(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Only the magics that a lesson needs; the code inside others and inside cell magics no rule would see."""
    for number, _, magic, _ in magics(notebook):
        if magic not in LINE_MAGICS:
            yield f"cell {number}: %{magic}: write it in plain Python"


@rule
def living_packages(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No package that is no longer kept, where there is a successor."""
    for number, node in (*nodes(notebook, ast.Import), *nodes(notebook, ast.ImportFrom)):
        for name in [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]:
            package = name.partition(".")[0]
            if package in RETIRED:
                yield f"cell {number}: {package} is no longer kept: use {RETIRED[package]}"


@rule
def imports_first(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Imports stand before the parameters (those inside functions may stand where they are)."""
    start = min(places(notebook, "parameters"), default=len(notebook.cells))
    for number, tree in trees(notebook):
        for node in tree.body:
            if number > start and isinstance(node, (ast.Import, ast.ImportFrom)):
                yield f"cell {number}: `{ast.unparse(node)}`: move it to the imports, before the parameters"


@rule
def no_hidden_globals(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What a function uses it is given: it reads no data of the notebook but constants, which are in CAPITALS."""
    data = set()
    for _, tree in trees(notebook):
        for node in tree.body:
            if not isinstance(node, (*DEFINITIONS, ast.Import, ast.ImportFrom)):
                symbols = symtable.symtable(ast.unparse(node), "<cell>", "exec").get_symbols()
                data |= {symbol.get_name() for symbol in symbols if symbol.is_assigned()}
    for number, tree in trees(notebook):
        for node in tree.body:
            if isinstance(node, DEFINITIONS):
                for name in sorted(name for name in globals_read(node) & data if name != name.upper()):
                    yield f"cell {number}: `{node.name}` reads `{name}` of the notebook: make it an argument"


def globals_read(definition: ast.stmt) -> set[str]:
    """The names that the bodies of a function or class take from the notebook (default values are not in the body)."""
    found: set[str] = set()
    scopes = list(symtable.symtable(ast.unparse(definition), "<cell>", "exec").get_children())
    while scopes:
        scope = scopes.pop()
        found |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        scopes += scope.get_children()
    return found


@rule
def no_test_switch(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A lesson does not know that it is tested."""
    return in_code(notebook, TEST_SWITCHES, "no test switch in a lesson: quick values stand in tests/quick")


@rule
def no_skipped_cells(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every cell is run and must succeed: no marker and no tag that skips or excuses a cell."""
    yield from in_code(notebook, SKIPS, "every cell is tested: delete the marker")
    for tag in ("nbval-skip", "nbval-raises-exception", "nbval-ignore-output", "raises-exception", "skip-execution"):
        for number in places(notebook, tag):
            yield f"cell {number}: tag {tag}: every cell is tested: delete the tag"


@rule
def no_machinery(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A reader sees no comment that is meant for a tool: whose output is compared says the tag `nbval-check-output`."""
    return in_code(notebook, MACHINERY, "a reader sees this: tag the cell `nbval-check-output`, or leave it out")


@rule
def collapsed_cells(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What a reader need not read is collapsed wherever the notebook is opened, and schematics are always."""
    for number, cell in cells(notebook, "code"):
        signs = [*(cell.metadata.get(key) == value for key, value in COLLAPSED.items()),
                 is_collapsed(cell), cell.source.startswith(COLLAPSED_TITLE)]
        if any(signs) and not all(signs):
            yield (f"cell {number}: collapsed in some tools only: metadata {json.dumps(COLLAPSED)}, tag "
                   f"`{COLLAPSED_TAG}` and a first line `{COLLAPSED_TITLE}...` go together")
    for number, node in nodes(notebook, ast.FunctionDef):
        if node.name in SCHEMATICS and not is_collapsed(notebook.cells[number - 1]):
            yield f"cell {number}: `{node.name}` draws schematics: collapse the cell"


@rule
def old_ipython(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What displays something works with Colab's IPython, which is years old."""
    for number, call, name in calls(notebook):
        for one in call.keywords:
            if (name.rpartition(".")[2], one.arg) in COLAB_LACKS:
                yield f"cell {number}: {name}({one.arg}=...): Colab's IPython 7.34 does not know it: leave it out"


@rule
def weights_argument(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Pretrained models load by `weights=`; only timm's `create_model`, which has no such argument, is excepted."""
    for number, call, name in calls(notebook):
        if is_constant(keyword(call, "pretrained"), True) and name.rpartition(".")[2] != "create_model":
            yield f"cell {number}: {name}(pretrained=True): name the weights (weights=...)"


# --- shell, network and trust

@rule
def no_shell(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No `!command`, no process that downloads or installs: it works on one system only."""
    for number, call, name in calls(notebook):
        words = {word for text in texts_in(call) for word in text.split()}
        if name in SHELL_CALLS or (name.rpartition(".")[2] in PROCESS_CALLS and words & DOWNLOADERS):
            yield f"cell {number}: shell command: do it in Python, or leave it out"


@rule
def guarded_pip(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """`%pip install` is for Colab: inside `if "google.colab" in sys.modules:`, each requirement quoted and bounded."""
    guarded = {id(node) for _, branch in nodes(notebook, ast.If) if ast.unparse(branch.test) == COLAB_GUARD
               for statement in branch.body for node in ast.walk(statement)}
    for number, call, magic, line in magics(notebook):
        if magic != "pip":
            continue
        if id(call) not in guarded:
            yield f'cell {number}: %pip only below `if "google.colab" in sys.modules:`'
        words = re.findall(r"\"[^\"]*\"|'[^']*'|\S+", line)
        command, *requirements = [word for word in words if not word.startswith("-")] or [""]
        if command != "install":
            yield f"cell {number}: %pip {command}: there is only `%pip install`"
        for requirement in requirements:
            if not re.fullmatch(BOUNDED_REQUIREMENT, requirement):
                yield f'cell {number}: %pip install {requirement}: quote and bound it ("name>=1.2,<2")'


@rule
def no_colab_import(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The notebook runs anywhere: Colab's own module is not used."""
    return in_code(notebook, r"\b(import|from) google\.colab|\bfrom google import colab", "works on Colab only")


@rule
def lasting_hosts(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Code fetches from homes that last: no personal drive, short link or stranger's repository."""
    yield from in_code(notebook, PERSONAL_HOSTS, "not a home that lasts: use torchvision, the hub or a package")
    for number, tree in trees(notebook):
        texts = "\n".join(text for text in texts_in(tree) if not re.fullmatch(f"{ARCHIVES}|{RAW_FILES}", text))
        for host in re.findall(r"\b[A-Za-z][\w+.-]*://([^/\s\"'<>?#]*)", texts):
            if host.partition(":")[0] not in {*HOSTS, ""}:
                yield f"cell {number}: {host} is not a known home of data: see HOSTS in tests/structure.py"


@rule
def no_logins(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No login, account or key is needed."""
    yield from in_code(notebook, LOGINS, "nobody should need an account: use open data and weights")
    for number, call, name in calls(notebook):
        if name.rpartition(".")[2] in HUB_CALLS and keyword(call, "token") is not None:
            yield f"cell {number}: {name}(token=...): use what is open to everybody"


@rule
def no_secrets(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No key or token, in the source or in the outputs. (The finding does not repeat it.)"""
    for number, cell in enumerate(notebook.cells, start=1):
        for kind, pattern in SECRETS.items():
            if any(re.search(pattern, text) for text in (cell.source, *output_texts(cell))):
                yield f"cell {number}: {kind}: delete it here and revoke it where it came from"


@rule
def no_pickle(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Nothing that may have come over the network is unpickled: that would run its code."""
    for number, call, name in calls(notebook):
        if name == "torch.load" and not is_constant(keyword(call, "weights_only"), True):
            yield f"cell {number}: torch.load needs weights_only=True"
        elif is_constant(keyword(call, "weights_only"), False):
            yield f"cell {number}: {name}(weights_only=False) runs code from the file: use weights_only=True"
        elif re.fullmatch(UNPICKLERS, name) or is_constant(keyword(call, "allow_pickle"), True):
            yield f"cell {number}: {name} unpickles, which runs code from the file: use safetensors, npz or JSON"


@rule
def no_remote_code(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No code from the hub is run."""
    for number, call, name in calls(notebook):
        if is_constant(keyword(call, "trust_remote_code"), True):
            yield f"cell {number}: {name}(trust_remote_code=True) runs a stranger's code: use what the library has"


@rule
def pinned_hub_ids(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What comes from the Hugging Face hub is pinned: `revision=` a whole commit hash, or a constant that holds one.

    An id or a revision that the text alone does not tell (a loop's variable, a function's argument) is not judged.
    """
    constants = {ast.unparse(target): node.value.value for _, tree in trees(notebook) for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) for target in node.targets}
    has_transformers_pipeline = any(node.module == "transformers" and "pipeline" in {alias.name for alias in node.names}
                                    for _, node in nodes(notebook, ast.ImportFrom))

    def value(node: ast.expr | None) -> object:
        """What a constant or its name stands for, None for no node; the node itself where the text does not tell."""
        if isinstance(node, ast.Name):
            return constants.get(node.id, node)
        return node.value if isinstance(node, ast.Constant) else node

    for number, call, name in calls(notebook):
        function = name.rpartition(".")[2]
        unpacks = any(one.arg is None for one in call.keywords)
        if function not in HUB_CALLS or unpacks or (name == "pipeline" and not has_transformers_pipeline):
            continue
        place, key = HUB_CALLS[function]
        hub_id = value(keyword(call, key) or next(iter(call.args[place:]), None))
        revision = value(keyword(call, "revision"))
        if hub_id is None:
            yield f"cell {number}: {name} without {key}: name what it loads, and its revision"
        elif (isinstance(hub_id, str) and hub_id not in LOCAL_BUILDERS and re.fullmatch(HUB_ID, hub_id)
              and not isinstance(revision, ast.expr) and not re.fullmatch(r"[0-9a-f]{40}", str(revision))):
            yield f"cell {number}: {name}({hub_id!r}): pin it with revision= and the 40 digits of a commit"


# --- the outputs

@rule
def no_widgets(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No widget state and no widget among the outputs: they do not show without a kernel."""
    if "widgets" in notebook.metadata:
        yield "metadata: widget state: run python -m tests.measure"
    for number, cell in cells(notebook, "code"):
        if any("widget" in kind for output in cell.outputs for kind in output.get("data", {})):
            yield f"cell {number}: stored widget: run python -m tests.measure"


@rule
def rendered_outputs(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Stored pictures are of kinds that show wherever the notebook is read (a film: a PNG of many frames)."""
    for number, cell in cells(notebook, "code"):
        for kind in sorted({kind for output in cell.outputs for kind in output.get("data", {})} - RENDERED_IMAGES):
            if kind.startswith(("image/", "video/", "audio/")):
                yield f"cell {number}: stored {kind}: pages that show notebooks leave it out: store PNG, JPEG or SVG"


@rule
def no_errors(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No traceback among the outputs."""
    for number, cell in cells(notebook, "code"):
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"cell {number}: stored traceback: mend the cell and run python -m tests.measure"


@rule
def one_run(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Outputs are of one run in order, of the whole notebook or of its first part, or there are none at all."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if not any(counts) and not has_outputs(notebook):
        return
    part = first_part(notebook)
    ends = {len(counts), len(code_cells(part)) if part else len(counts)}
    complete = any(counts == [*range(1, end + 1)] + [None] * (len(counts) - end) for end in ends)
    if not complete or any(cell.outputs and not cell.execution_count for cell in code_cells(notebook)):
        yield "outputs are not of one run in order: run python -m tests.measure, or clear them all"


@rule
def measured_outputs(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Outputs come with the record of the run that made them, and a record that is valid comes with its outputs."""
    measured = notebook.metadata.get("shelf", {}).get("measured", {})
    current = [entry for entry in measured.values() if is_current(entry, notebook)]
    whole = any(not entry.get("first_part") for entry in current)
    part = first_part(notebook)
    rest = code_cells(notebook)[len(code_cells(part)):] if part else code_cells(notebook)
    ran = any(cell.outputs for cell in rest)  # more than the first part
    if (has_outputs(notebook) and not current) or (ran and not whole):
        yield "the outputs are not of this code: run python -m tests.measure, or clear them all"
    elif (current and not has_outputs(notebook)) or (whole and not ran):
        yield "measured, but without the outputs of that run: run python -m tests.measure"


@rule
def no_absolute_paths(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No path of one machine, in code or among the outputs."""
    for number, cell in cells(notebook, "code"):
        for place, text in (("code", cell.source), *(("output", text) for text in output_texts(cell))):
            match = re.search(ABSOLUTE_PATHS, text)
            if match:
                yield f"cell {number}: a path of one machine in the {place} ({match[0]}): make it relative"


# --- the whole shelf

@shelf_rule
def unique_titles(shelf: dict[Path, NotebookNode]) -> Iterator[tuple[Path, str]]:
    """No two notebooks have one title."""
    first: dict[str, Path] = {}
    for path, notebook in shelf.items():
        title = notebook.cells[0].source.partition("\n")[0] if notebook.cells else ""
        other = first.setdefault(title, path)
        if other != path:
            yield path, f"has the title of {name_of(other)}: {title}"


@shelf_rule
def same_name_same_meaning(shelf: dict[Path, NotebookNode]) -> Iterator[tuple[Path, str]]:
    """Functions, or classes, of one name and signature are the same in all notebooks, their docstrings too."""
    found: dict[tuple[str, str], dict[str, list[tuple[Path, int]]]] = {}
    for path, notebook in shelf.items():
        for number, tree in trees(notebook):
            for node in tree.body:
                if isinstance(node, DEFINITIONS):
                    bodies = found.setdefault((node.name, signature(node)), {})
                    bodies.setdefault(ast.dump(node), []).append((path, number))
    for (name, arguments), bodies in found.items():
        most, *others = sorted(bodies.values(), key=len, reverse=True)
        for path, number in (place for places in others for place in places):
            there = f"{most[0][0].parent.name}/{most[0][0].name}"
            yield path, (f"cell {number}: `{name}({arguments})` differs from that of {there}"
                         f"{f' and {len(most) - 1} more' * (len(most) > 1)}: make it the same, or give it another name")


def signature(definition: ast.stmt) -> str:
    """The arguments of a function, or of the `__init__` of a class (none: empty)."""
    if isinstance(definition, ast.ClassDef):
        made = [node for node in definition.body if getattr(node, "name", None) == "__init__"]
        return signature(made[0]) if made else ""
    return ast.unparse(definition.args)


@shelf_rule
def ruff(shelf: dict[Path, NotebookNode]) -> Iterator[tuple[Path, str]]:
    """The code is clean to ruff by the repository's settings."""
    paths = {path.resolve(): path for path in shelf}
    if not paths:
        return
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache",
               "--exit-zero", "--output-format", "json", *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if run.returncode:
        raise RuntimeError(f"ruff did not run: {run.stderr.strip()}")
    for one in json.loads(run.stdout):
        finding = f"cell {one['cell']}, line {one['location']['row']}: {one['message']} (ruff {one['code']})"
        yield paths[Path(one["filename"]).resolve()], finding


def main() -> int:
    """Print the findings for the notebooks named on the command line, or for all."""
    parser = argparse.ArgumentParser(prog="python -m tests.structure", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path, help="a notebook to look at (none: the whole shelf)")
    found = check_all(parser.parse_args().notebook or notebooks())
    for path, findings in found.items():
        for finding in findings:
            print(f"{name_of(path)}: {finding}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a title may hold what a Windows console cannot show
    sys.exit(main())
