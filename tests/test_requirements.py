"""requirements.txt has what the notebooks, Colab and the tests need, in the oldest versions and in Colab's."""
from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.notebooks import ROOT, code_cells, name_of, notebooks, read
from tests.structure import trees

CONSTRAINTS = ROOT / "tests" / "constraints"
DISTRIBUTIONS = packages_distributions()
lesson_at = functools.cache(read)
OWN = {"tests", "mcvp_guard", "mcvp_device"}  # modules of this repository


def requirements(path: Path) -> dict[str, Requirement]:
    """Package -> what a file of requirements or constraints asks of it."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(one.name): one for one in found}


LISTED = requirements(ROOT / "requirements.txt")
COLAB, OLDEST = requirements(CONSTRAINTS / "colab.txt"), requirements(CONSTRAINTS / "oldest.txt")


def imports(trees) -> set[str]:
    """The top-level names of all modules that code imports, those of Python left out."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - OWN


def packages(module: str) -> set[str]:
    """The packages that bring a module (its own name where it is not installed)."""
    return {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}


def installed_by(notebook) -> list[Requirement]:
    """What a notebook installs on Colab."""
    lines = [line for cell in code_cells(notebook) for line in re.findall(r"^ *%pip install (.*)", cell.source, re.M)]
    return [Requirement(text.strip("\"'")) for line in lines for text in re.findall(r"\"[^\"]*\"|'[^']*'", line)]


def missing_on_colab(notebook) -> set[str]:
    """The modules that a notebook imports and that Colab neither has nor is told to install."""
    there = {*COLAB, *(canonicalize_name(one.name) for one in installed_by(notebook))}
    return {module for module in imports(tree for _, tree in trees(notebook)) if not packages(module) & there}


@pytest.mark.parametrize("path", notebooks(), ids=name_of)
def test_colab_has_what_a_notebook_imports(path):
    assert not missing_on_colab(lesson_at(path)), "add a guarded %pip cell: see the other notebooks"


COLAB_ONLY = {"mediapipe"}  # a second part installs it there alone: its wheel brings another copy of OpenCV


def bounds(asked: Requirement) -> SpecifierSet:
    """The bounds of a requirement, single versions left out."""
    return SpecifierSet(",".join(str(one) for one in asked.specifier if one.operator != "!="))


@pytest.mark.parametrize("path", notebooks(), ids=name_of)
def test_a_notebook_installs_what_is_tested(path):
    """The bounds of its `%pip install` are those of requirements.txt."""
    for one in installed_by(lesson_at(path)):
        if one.name in COLAB_ONLY:
            assert {bound.operator for bound in one.specifier} == {">=", "<"}, f"%pip install {one}: bounds"
            continue
        listed = LISTED[canonicalize_name(one.name)]
        assert bounds(one) == bounds(listed), f"%pip install {one}, but requirements.txt has {listed}"
        assert one.extras <= listed.extras


def test_whatever_is_imported_is_listed():
    files = [ROOT / "conftest.py", *ROOT.glob("tests/**/*.py"), *ROOT.glob("Chapter*/**/*.py")]
    code = [ast.parse(path.read_text(encoding="utf-8")) for path in files if not {".venv", "venv"} & set(path.parts)]
    code += [tree for path in notebooks() for _, tree in trees(lesson_at(path))]
    own = {path.parent.name if path.stem == "__init__" else path.stem for path in files}
    unlisted = {module for module in imports(code) - own if not packages(module) & LISTED.keys()}
    assert not unlisted, "add them to requirements.txt"


@pytest.mark.parametrize("name", LISTED)
def test_the_oldest_versions_are_allowed(name):
    pin, = OLDEST[name].specifier
    assert pin.operator == "==" and LISTED[name].specifier.contains(pin.version)


def test_only_what_is_listed_has_an_oldest_version():
    assert OLDEST.keys() == LISTED.keys()


@pytest.mark.parametrize("name", sorted(LISTED.keys() & COLAB.keys()))
def test_colabs_versions_are_allowed(name):
    pins = [one.version for one in COLAB[name].specifier if one.operator == "=="]
    assert all(LISTED[name].specifier.contains(pin) for pin in pins)


def test_every_set_of_versions_has_a_job():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    sets = {one["constraints"]: one["python"] for one in jobs["versions"]["strategy"]["matrix"]["include"]}
    assert {f"{name}.txt" for name in sets} == {path.name for path in CONSTRAINTS.iterdir()}
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = settings["tool"]["ruff"]["target-version"].replace("py3", "3.")
    assert min(pythons, key=Version) == sets["oldest"] == oldest


def test_forms_and_workflows_can_be_read():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


# --- and each test finds what it is there for


def lesson(text: str):
    """A notebook of one cell."""
    from nbformat.v4 import new_code_cell, new_notebook
    return new_notebook(cells=[new_code_cell(text)])


GUARD = 'if "google.colab" in sys.modules:\n    %pip install -q "torchmetrics[detection]>=1.6,<2" "imageio>=2"\n'


def test_imports_that_colab_lacks_are_found():
    assert missing_on_colab(lesson("import json, numpy.linalg\nfrom PIL import Image\nimport cv2")) == set()
    assert missing_on_colab(lesson("from torchmetrics.detection import x")) == {"torchmetrics"}
    assert missing_on_colab(lesson("def f():\n    import torchinfo.nodes")) == {"torchinfo"}
    assert missing_on_colab(lesson(f"{GUARD}from torchmetrics.detection import x")) == set()


def test_what_a_notebook_installs_is_read():
    assert [str(one) for one in installed_by(lesson(GUARD))] == ["torchmetrics[detection]<2,>=1.6", "imageio>=2"]
