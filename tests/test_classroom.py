"""Parameters cells are rewritten as they should be, and the classroom treats a reader's notebooks as it promises."""
from __future__ import annotations

import ast
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from tests import offline, quick
from tests.notebooks import ROOT, notebooks, parameters, read, tagged
from tests.offline import archives
from tests.offline.site.mcvp_classroom import copy_folder, known, rewrite

# --- rewriting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source, expected", [
    ("A = 1", "A = 9"),
    ("A: int = 1  # ä, then B", "A: int = 9  # ä, then B"),
    ("ä = 'ü'; A = 1; B = 2", "ä = 'ü'; A = 9; B = 2"),
    ("A = (\n    1,  # one\n    2,\n)\nB = 2", "A = 9\nB = 2"),
    ("A = (1 +\n     2)\nB = 2", "A = (9)\nB = 2"),
    ("A = 1\nA = A + 1", "A = 9\nA = 9"),
    ("\n\nif x:\n    A = 1\nC = A = 1\nA += 1\nA, B = 1, 2\nA: int\nx.A = 1", None),
    ("B = 'A = 1'\r\nA = 1\r\n", "B = 'A = 1'\r\nA = 9\r\n"),
    ("x = '\x0c'\nA = 1", "x = '\x0c'\nA = 9"),
    ("", None),
])
def test_rewrite(source, expected):
    assert rewrite(source, {"A": "9"}) == (source if expected is None else expected)


values = st.recursive(st.integers() | st.text() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3))


@given(own=st.lists(values, min_size=1, max_size=4), new=st.dictionaries(st.integers(0, 3), values))
def test_rewritten_source_has_the_new_values_and_the_others(own, new):
    source = "\n".join(f"N{number} = {value!r}  # é\n" for number, value in enumerate(own))
    found = {}
    exec(rewrite(source, {f"N{number}": repr(value) for number, value in new.items()}), found)
    assert [found[f"N{number}"] for number in range(len(own))] == [
        new.get(number, value) for number, value in enumerate(own)]


def test_a_copy_of_a_read_only_folder_can_be_written(tmp_path):
    source = tmp_path / "Chapter01"
    (source / "data").mkdir(parents=True)
    for name in ("One.ipynb", "data/picture.txt"):
        (source / name).touch(mode=0o444)
    for folder in (source / "data", source):
        folder.chmod(0o555)
    copy_folder(source, tmp_path / "copy")
    for folder in (source / "data", source):
        folder.chmod(0o755)
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*")) == ["data", "picture.txt"]
    for path in (tmp_path / "copy").rglob("*"):
        assert path.stat().st_mode & 0o200, path


# --- which cell is a parameters cell ------------------------------------------------------------------------------

CELLS = [{"own": {"STEPS": "100", "SEEDS": "(0, 1, 2)"}, "quick": {"STEPS": "4", "SEEDS": "(0,)"}},
         {"own": {"STEPS": "50", "SEEDS": "(0, 1, 2)"}, "quick": {"STEPS": "5"}},
         {"own": {"SEEDS": "(0, 1, 2)"}, "quick": {"SEEDS": "(7,)"}}]


@pytest.mark.parametrize("source, expected", [
    ("STEPS = 100  # of training\nSEEDS = 0, 1, 2", {"STEPS": "4", "SEEDS": "(0,)"}),
    ("STEPS: int = 50\nSEEDS = (0, 1, 2)", {"STEPS": "5"}),
    ("STEPS = 30\nSEEDS = (0, 1, 2)", {"SEEDS": "(0,)"}),  # the reader's 30 stays
    ("STEPS = 100\nSEEDS = (0, 1)\nMORE = 1", {"STEPS": "4"}),  # a line of the reader's own
    ("SEEDS = (0, 1, 2)", {"SEEDS": "(7,)"}),
    ("STEPS = 100", {}),
    ("print(STEPS)", {}),
    ("STEPS = ", {}),
    ("%pip install x", {}),
])
def test_known(source, expected):
    assert known(source, CELLS) == expected


def test_every_parameters_cell_of_the_shelf_gets_its_own_values():
    """No other cell with the same names and values takes its place, and no other cell of a notebook is taken for it."""
    given = quick.load(ROOT)
    cells = quick.parameter_cells(given, ROOT)
    for path in notebooks():
        notebook, name = read(path), path.relative_to(ROOT).as_posix()
        found = {}
        for cell in notebook.cells:
            if cell.cell_type == "code" and (literals := known(cell.source, cells)):
                assert cell in tagged(notebook, "parameters"), f"{name}: {cell.source}"
                found |= {parameter: ast.literal_eval(literal) for parameter, literal in literals.items()}
        own = parameters(notebook)
        assert found == {key: quick.shaped(value, own[key]) for key, value in given.get(name, {}).items()}, name


# --- the classroom ------------------------------------------------------------------------------------------------


def heed_rights() -> None:
    """Have the rights of files apply to this process, even where root runs the tests (in a container)."""
    if sys.platform == "linux":
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: not in what it executes next


def outside(*command: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """Run a Python module as a reader would: not from within a test run."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MCVP_OFFLINE", "PYTEST_"))}
    posix = {"preexec_fn": heed_rights} if os.name == "posix" else {}
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=env | {"PYTHONPATH": str(ROOT)} | variables,
                          text=True, encoding="utf-8", errors="replace", capture_output=True, **posix)


def classroom(*command: str, **options) -> subprocess.CompletedProcess:
    """Run a command in the classroom."""
    return outside("tests.offline", *command, **options)


def executed(*paths: Path, target: Path, options: tuple[str, ...] = (), cwd: Path = ROOT) -> list:
    """Notebooks as nbconvert leaves them in `target`, run from top to bottom in the classroom."""
    run = classroom(*options, "jupyter", "nbconvert", "--to", "notebook", "--execute", f"--output-dir={target}",
                    *map(str, paths), cwd=cwd)
    assert run.returncode == 0, run.stderr[-3000:]
    return [read(target / path.name) for path in paths]


def texts(cell) -> list[str]:
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


# without PyTorch; with data of the hub; with weights of torchvision, of transformers, of diffusers; a server
KINDS = [f"{name}.ipynb" for name in (
    "Chapter01/Comparing_AI_and_traditional_ML", "Chapter04/Cats_Vs_Dogs",
    "Chapter05/Implementing_ResNet18_for_image_classification", "Chapter15/ViT_Image_classification",
    "Chapter17/Image-Inpainting", "Chapter18/Creating_an_API")]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> dict[str, nbformat.NotebookNode]:
    """Notebooks of every kind after a run in one classroom."""
    target = tmp_path_factory.mktemp("converted")
    return dict(zip(KINDS, executed(*(ROOT / name for name in KINDS), target=target)))


@pytest.mark.parametrize("name", KINDS)
def test_a_notebook_of_each_kind_runs_to_its_end(shelf, name):
    notebook, original = shelf[name], read(ROOT / name)
    first, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert texts(first)[0].startswith("Miniature world: small data, random weights, no network; numbers and pictures")
    assert "Miniature world: " not in "".join(text for cell in others for text in texts(cell))
    cell, = tagged(notebook, "parameters")
    own, values = parameters(original), quick.load(ROOT)[name]
    assert [text for text in texts(cell) if text.startswith("Small values for this world")]
    for parameter, value in values.items():
        assert f" {parameter} = {quick.shaped(value, own[parameter])!r}" in texts(cell)[-1]
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in original.cells]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.fixture
def lesson(tmp_path) -> Path:
    """A notebook in a folder of the reader's, with the parameters cell of one of the shelf's and what became of it."""
    source = tagged(read(ROOT / "Chapter02/Auto_gradient_of_tensors.ipynb"), "parameters")[0].source
    cells = [new_code_cell("1 + 1"), new_code_cell(source), new_code_cell("print(STEPS, SEEDS)"),
             new_code_cell("open('written', 'w').close()")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "Mine.ipynb")
    return tmp_path / "Mine.ipynb"


def test_a_copy_under_another_name_gets_the_values(lesson):
    notebook = executed(lesson, target=lesson.parent / "out", cwd=lesson.parent)[0]
    assert texts(notebook.cells[0])[1] == "2"
    assert texts(notebook.cells[2]) == ["100 (0, 1)\n"]


def test_what_a_reader_changes_is_used(lesson):
    notebook = read(lesson)
    notebook.cells[1].source = rewrite(notebook.cells[1].source, {"STEPS": "17"})
    nbformat.write(notebook, lesson)
    assert texts(executed(lesson, target=lesson.parent / "out")[0].cells[2]) == ["17 (0, 1)\n"]


def test_as_is_keeps_the_notebooks_own_numbers(lesson):
    notebook = executed(lesson, options=("--as-is",), target=lesson.parent / "out")[0]
    assert texts(notebook.cells[2]) == ["400 (0, 1, 2)\n"]
    assert texts(notebook.cells[0])[0].startswith("Miniature world: ")
    assert texts(notebook.cells[1]) == []


# --- folders that cannot be written -------------------------------------------------------------------------------


COMMANDS = pytest.mark.parametrize("command, code", [
    (["tests.offline", "python", "-c", "print('ran')"], 1),
    (["pytest", "-p", "no:cacheprovider", "tests/test_catalogue.py"], 4)], ids=["offline", "pytest"])
needs_rights = pytest.mark.skipif(os.name != "posix", reason="needs the rights of POSIX")


@pytest.fixture
def folder(tmp_path):
    """A folder with a home that cannot be written, and one for temporary files."""
    (tmp_path / "home").mkdir(mode=0o555)
    (tmp_path / "tmp").mkdir()
    yield tmp_path
    for path in tmp_path.glob("**/"):
        path.chmod(0o755)


def one_sentence(run: subprocess.CompletedProcess, folder: Path) -> bool:
    said = (run.stdout + run.stderr).strip().splitlines()
    return (len([line for line in said if line]) == 1 and str(folder) in said[0] and "MCVP_CACHE" in said[0]
            and "cannot be written" in said[0])


@COMMANDS
def test_a_cache_that_is_a_file(tmp_path, command, code):
    (tmp_path / "cache").write_text("a file")
    run = outside(*command, MCVP_CACHE=str(tmp_path / "cache"))
    assert run.returncode == code and one_sentence(run, tmp_path / "cache"), run.stdout + run.stderr


@needs_rights
@COMMANDS
def test_a_home_that_cannot_be_written(folder, command, code):
    run = outside(*command, HOME=str(folder / "home"), XDG_CACHE_HOME="", MCVP_CACHE="")
    assert run.returncode == code and one_sentence(run, folder / "home"), run.stdout + run.stderr


@needs_rights
def test_everything_is_read_only_but_the_world_is_built(folder):
    """A teacher's cache and checkout on a share, a home that takes no files: notebooks run, and may write files."""
    offline.prepare(folder / "world")  # builds what is not built yet
    shutil.copytree(archives.folder(), folder / "cache")
    shutil.copytree(ROOT / "tests", folder / "shelf/tests", ignore=shutil.ignore_patterns("__pycache__"))
    chapter = folder / "shelf/Chapter18"
    chapter.mkdir()
    (chapter / "data.txt").write_text("beside it")
    cells = [new_code_cell("from pathlib import Path\nPath('runs').mkdir()\nPath('data.txt').write_text('mine')"),
             new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")]
    nbformat.write(new_notebook(cells=cells), chapter / "Writes.ipynb")
    for path in [folder / "cache", folder / "shelf", *folder.glob("cache/*"), *folder.glob("shelf/**/*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    run = classroom("jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", "Chapter18/Writes.ipynb",
                    cwd=folder / "shelf", HOME=str(folder / "home"), MCVP_CACHE=str(folder / "cache"),
                    TMPDIR=str(folder / "tmp"), PYTHONPATH=str(folder / "shelf"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"The folder {chapter} cannot be written" in texts(nbformat.reads(run.stdout, as_version=4).cells[0])[0]
    assert not list((folder / "tmp").iterdir())  # the copy goes with the classroom
