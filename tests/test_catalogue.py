"""The catalogue: its tables, what it finds stale, what it refuses; and that nothing in this repository is stale."""
from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests import catalogue
from tests.notebooks import ROOT, SLUG, NotebookError, code_digest, first_part, read, write

COLAB = f"https://colab.research.google.com/github/{SLUG}/blob/main"


def run(**changes) -> dict:
    """A measurement; `code` is to be set to the notebook's digest."""
    return {"date": "2026-11-23", "seconds": 20.0, "host_peak_mb": 400, "device_peak_mb": None, "downloaded_mb": 0.0,
            "device": "some CPU", "versions": {}, "parameters": {}, "results": {"accuracy": 0.9712}, **changes}


def notebook(title: str, order: int, **shelf) -> NotebookNode:
    """A notebook with this title and metadata; the digest of its code is put into its measurements."""
    made = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nA question."), new_code_cell("x = 1")])
    made.metadata.shelf = {"order": order, "learn": "to learn", "data": "none", "result": "accuracy {accuracy:.1%}",
                           **shelf}
    for entry in made.metadata.shelf.get("measured", {}).values():
        entry.setdefault("code", code_digest(made))
    return made


def readme(heading: str) -> str:
    return f"# {heading}\n\nBy hand | above.\n\n{catalogue.BEGIN}\n{catalogue.END}\n\nBy hand below.\n"


@pytest.fixture
def root(tmp_path) -> Path:
    """A tree of two chapters with three notebooks, its catalogue up to date."""
    for folder, heading in (("", "Shelf"), ("Chapter01", "Chapter 1: First"), ("Chapter02", "Chapter 2: Second")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "README.md").write_text(readme(heading), encoding="utf-8")
    nbformat.write(notebook("Zebra | horse", 1, measured={"cpu": run()}), tmp_path / "Chapter01" / "Zebra.ipynb")
    nbformat.write(notebook("Ant", 2), tmp_path / "Chapter01" / "Ant.ipynb")
    nbformat.write(notebook("Bee", 1), tmp_path / "Chapter02" / "Bee.ipynb")
    assert catalogue.main([], tmp_path) == 0
    return tmp_path


def stale(root: Path) -> list[str]:
    """The names of the files that are stale."""
    return [piece.name for piece in catalogue.pieces(root) if piece.stale]


def change(path: Path, function) -> None:
    """Apply the function to the notebook at `path` and store it."""
    found = read(path)
    function(found)
    write(found, path)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# ---- what is written


def test_readme_of_a_chapter(root):
    items = f"""{catalogue.BEGIN}
1. **[Zebra | horse](Zebra.ipynb)** [![Open in Colab]({catalogue.BADGE_IMAGE})]({COLAB}/Chapter01/Zebra.ipynb)<br>
   to learn<br>
   *Data:* none · *download:* nothing · *CPU:* 0.3 min · *GPU:* –<br>
   *Result:* accuracy 97.1%
1. **[Ant](Ant.ipynb)** [![Open in Colab]({catalogue.BADGE_IMAGE})]({COLAB}/Chapter01/Ant.ipynb)<br>
   to learn<br>
   *Data:* none · *download:* – · *CPU:* – · *GPU:* –<br>
   *Result:* –
{catalogue.END}"""
    text = (root / "Chapter01" / "README.md").read_text(encoding="utf-8")
    assert text == readme("Chapter 1: First").replace(f"{catalogue.BEGIN}\n{catalogue.END}", items)


def test_readme_of_the_root_has_a_section_for_each_chapter(root):
    badge = f"[![Open in Colab]({catalogue.BADGE_IMAGE})]({COLAB}/Chapter0"
    items = f"""{catalogue.BEGIN}
Straight to a chapter: [1](Chapter01/README.md) · [2](Chapter02/README.md). \
Still to come: {", ".join(map(str, range(3, 19)))}.

### [Chapter 1: First](Chapter01/README.md)

- **[Zebra | horse](Chapter01/Zebra.ipynb)** {badge}1/Zebra.ipynb) CPU&nbsp;0.3&nbsp;min<br>
  to learn
- **[Ant](Chapter01/Ant.ipynb)** {badge}1/Ant.ipynb) –<br>
  to learn

### [Chapter 2: Second](Chapter02/README.md)

- **[Bee](Chapter02/Bee.ipynb)** {badge}2/Bee.ipynb) –<br>
  to learn
{catalogue.END}"""
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text == readme("Shelf").replace(f"{catalogue.BEGIN}\n{catalogue.END}", items)


def test_nothing_is_said_to_come_when_all_chapters_are_there():
    assert catalogue._overview(range(1, 19)).endswith("· [18](Chapter18/README.md)")


def test_title_cell(root):
    assert read(root / "Chapter01" / "Zebra.ipynb").cells[0].source == f"""# Zebra | horse

[![Open in Colab]({catalogue.BADGE_IMAGE})]({COLAB}/Chapter01/Zebra.ipynb)

A question.

| data and license | download | CPU | GPU | result |
|---|---|---|---|---|
| none | nothing | 0.3 min | – | accuracy 97.1% |"""


def test_older_form_of_the_budget_table_is_replaced(root):
    path = root / "Chapter01" / "Zebra.ipynb"
    wanted = read(path).cells[0].source
    replace(path, "| data and license |", "| data and licence |")
    assert catalogue.main([], root) == 0
    assert read(path).cells[0].source == wanted


def test_second_run_writes_nothing(root, capsys):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.*")}
    capsys.readouterr()
    assert catalogue.main([], root) == 0
    assert catalogue.main(["--check"], root) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.*")} == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [
    (0.0, "< 0.1 min"), (5.9, "< 0.1 min"), (6.0, "0.1 min"), (18.0, "0.3 min"), (594.0, "9.9 min"), (890.0, "15 min")])
def test_minutes(seconds, text):
    assert catalogue.budget(notebook("A", 1, measured={"cpu": run(seconds=seconds)}), "A").cpu == text


@pytest.mark.parametrize(("megabytes", "text"), [
    (0.0, "nothing"), (0.4, "0.4 MB"), (30.2, "30 MB"), (1234.0, "1.2 GB")])
def test_download(megabytes, text):
    measured = {"cpu": run(downloaded_mb=megabytes), "gpu": run()}
    assert catalogue.budget(notebook("A", 1, measured=measured), "A").download == text


def test_download_in_the_authors_words():
    assert catalogue.budget(notebook("A", 1, download="30 MB", measured={"cpu": run()}), "A").download == "30 MB"


def test_note_and_other_parameters_are_said():
    measured = {"cpu": run(parameters={"EPOCHS": 3, "MODEL": "small"})}
    found = catalogue.budget(notebook("A", 1, note="on 2,002 of 23,410 photos", measured=measured), "A")
    assert found.cpu == "0.3 min with EPOCHS = 3, MODEL = 'small'"
    assert found.result == "accuracy 97.1% with EPOCHS = 3, MODEL = 'small' (on 2,002 of 23,410 photos)"
    assert found.gpu == "–"


def test_result_is_of_the_last_run_with_the_notebooks_own_parameters():
    old, new = run(date="2026-01-01", results={"accuracy": 0.1}), run(date="2026-02-01", results={"accuracy": 0.2})
    assert catalogue.budget(notebook("A", 1, measured={"cpu": old, "gpu": new}), "A").result == "accuracy 20.0%"
    assert catalogue.budget(notebook("A", 1, measured={"cpu": new, "gpu": old}), "A").result == "accuracy 20.0%"
    short = {**new, "parameters": {"EPOCHS": 1}}
    assert catalogue.budget(notebook("A", 1, measured={"cpu": old, "gpu": short}), "A").result == "accuracy 10.0%"


def test_edited_code_is_not_measured_and_prose_does_not_matter(root):
    path = root / "Chapter01" / "Zebra.ipynb"
    change(path, lambda found: found.cells.append(new_markdown_cell("More prose.")))
    assert stale(root) == []
    change(path, lambda found: found.cells.append(new_code_cell("y = 2")))
    assert stale(root) == ["Chapter01/Zebra.ipynb", "Chapter01/README.md", "README.md"]
    catalogue.main([], root)
    assert read(path).cells[0].source.endswith("| none | – | – | – | – |")


def in_two_parts(**shelf) -> NotebookNode:
    """A notebook whose second code cell needs a hub, with a result for its first part."""
    made = notebook("A", 1, first_result="first {accuracy:.0%}", **shelf)
    made.cells.append(new_code_cell("y = 2", metadata={"tags": ["hub"]}))
    return made


def part_run(**changes) -> dict:
    """A measurement of the first part of that notebook."""
    return run(first_part=True, code=code_digest(first_part(in_two_parts())), **changes)


def test_first_part_is_said_to_be_no_more():
    found = catalogue.budget(in_two_parts(measured={"cpu": part_run()}), "A")
    assert found == catalogue.Budget(download="first part: nothing", cpu="first part: 0.3 min", gpu="–",
                                     result="first part measured: first 97%")
    assert catalogue.budget(in_two_parts(measured={"cpu": part_run()}, download="4.5 GB"), "A").download == "4.5 GB"


def test_first_part_is_bound_to_its_own_code():
    made = in_two_parts(measured={"cpu": part_run()})
    made.cells[-1].source = "y = 3"
    assert catalogue.budget(made, "A").cpu == "first part: 0.3 min"
    made.cells.insert(1, new_code_cell("z = 0"))
    assert catalogue.budget(made, "A") == catalogue.Budget("–", "–", "–", "–")


def test_first_part_ends_with_its_tag():
    made = in_two_parts(measured={"cpu": part_run()})
    made.cells[-1].metadata.tags = []
    assert catalogue.budget(made, "A").cpu == "–"


def test_whole_run_goes_before_a_first_part():
    whole = run(code=code_digest(in_two_parts()), date="2026-01-01", downloaded_mb=30.0, parameters={"X": 1})
    found = catalogue.budget(in_two_parts(measured={"cpu": part_run(downloaded_mb=99.0), "gpu": whole}), "A")
    assert found == catalogue.Budget("30 MB", "first part: 0.3 min", "0.3 min with X = 1", "accuracy 97.1% with X = 1")


def test_first_part_without_its_result_is_named():
    made = in_two_parts(measured={"cpu": part_run()})
    del made.metadata.shelf["first_result"]
    with pytest.raises(NotebookError, match="A: only the first part is measured: say with shelf.first_result"):
        catalogue.budget(made, "A")


# ---- what is found stale


def set_results(found: NotebookNode) -> None:
    found.metadata.shelf.measured.cpu.results.accuracy = 0.5


def set_title(found: NotebookNode) -> None:
    found.cells[0].source = found.cells[0].source.replace("# Zebra", "# Gnu")


@pytest.mark.parametrize(("function", "files"), [
    (lambda root: change(root / "Chapter01" / "Zebra.ipynb", set_title), ["README.md", "Chapter01/README.md"]),
    (lambda root: change(root / "Chapter01" / "Zebra.ipynb", set_results),
     ["Chapter01/Zebra.ipynb", "Chapter01/README.md"]),
    (lambda root: (root / "Chapter01" / "Ant.ipynb").unlink(), ["README.md", "Chapter01/README.md"]),
    (lambda root: (root / "Chapter02" / "Bee.ipynb").unlink(), ["README.md", "Chapter02/README.md"]),
    (lambda root: nbformat.write(notebook("New", 3), root / "Chapter01" / "New.ipynb"),
     ["README.md", "Chapter01/New.ipynb", "Chapter01/README.md"]),
    (lambda root: replace(root / "README.md", "0.3&nbsp;min", "0.2&nbsp;min"), ["README.md"]),
    (lambda root: replace(root / "Chapter01" / "README.md", "97.1%", "99.1%"), ["Chapter01/README.md"]),
    (lambda root: replace(root / "Chapter02" / "README.md", "Chapter 2: Second", "Chapter 2: Two"), ["README.md"]),
    (lambda root: replace(root / "README.md", "Still to come: 3, ", "Still to come: "), ["README.md"]),
    (lambda root: replace(root / "Chapter01" / "Ant.ipynb", "main/Chapter01/Ant", "main/Chapter01/Zebra"),
     ["Chapter01/Ant.ipynb"]),
    (lambda root: replace(root / "Chapter01" / "Ant.ipynb", SLUG, "somebody/else"), ["Chapter01/Ant.ipynb"]),
    (lambda root: replace(root / "Chapter01" / "Zebra.ipynb", "| nothing |", "| 3 MB |"), ["Chapter01/Zebra.ipynb"]),
], ids=["title", "results", "deleted", "last one deleted", "new", "item of README", "item of chapter",
        "chapter's title", "to come", "badge of another notebook", "badge of another repository", "budget"])
def test_stale_is_found_listed_and_mended(root, capsys, function, files):
    function(root)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    capsys.readouterr()
    assert catalogue.main(["--check"], root) == 1
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    listed = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" is stale:")]
    assert sorted(listed) == sorted(f"{name} is stale:" for name in files)
    assert catalogue.main([], root) == 0
    assert stale(root) == []


def test_check_shows_the_lines(root, capsys):
    replace(root / "Chapter01" / "README.md", "97.1%", "99.1%")
    catalogue.main(["--check"], root)
    gone, come = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("    -", "    +"))]
    assert ("99.1%" in gone, "97.1%" in come) == (True, True)


# ---- what is refused


@pytest.mark.parametrize(("function", "message"), [
    (lambda root: (root / "README.md").unlink(), "README.md: no such file"),
    (lambda root: (root / "Chapter01" / "README.md").unlink(), "Chapter01/README.md: no such file"),
    (lambda root: replace(root / "Chapter01" / "README.md", catalogue.END, ""), "Chapter01/README.md: needs one line"),
    (lambda root: replace(root / "README.md", catalogue.BEGIN, catalogue.END), "README.md: needs one line"),
    (lambda root: replace(root / "Chapter01" / "README.md", "# Chapter", "Chapter"), "Chapter01/README.md: no heading"),
    (lambda root: (root / "Chapter01" / "Ant.ipynb").write_text("{"), "Ant.ipynb: not a valid notebook"),
    (lambda root: nbformat.write(notebook("A", 1), root / "Appendix.ipynb"), "Appendix.ipynb: stands outside"),
    (lambda root: replace(root / "README.md", "By hand below", f"{COLAB}/Chapter01/Gone.ipynb"),
     f"README.md: {COLAB}/Chapter01/Gone.ipynb leads to no notebook"),
    (lambda root: replace(root / "Chapter01" / "README.md", "By hand below",
                          f"[it]({COLAB.replace(SLUG, 'some/fork')}/Chapter01/Ant.ipynb)"), "leads to no notebook"),
    (lambda root: change(root / "Chapter01" / "Ant.ipynb", lambda found: found.cells.append(
        new_markdown_cell(f"Next: [it]({COLAB}/Chapter01/Gone.ipynb)"))), "Ant.ipynb: https://colab"),
], ids=["no README", "no chapter README", "no end marker", "no begin marker", "no heading", "corrupted notebook",
        "stray", "dead link", "link elsewhere", "dead link in a notebook"])
def test_fault_in_the_tree_is_named_and_nothing_is_written(root, capsys, function, message):
    function(root)
    replace(root / "Chapter02" / "README.md", "to learn", "stale")
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    assert catalogue.main([], root) == 1
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before


@pytest.mark.parametrize(("key", "value", "message"), [
    ("order", None, "shelf.order is None"), ("order", True, "shelf.order is True"), ("order", 0, "shelf.order is 0"),
    ("order", 1, "shelf.order 1 is taken by Chapter01/Ant.ipynb"),
    ("learn", None, "shelf.learn is None"), ("data", " ", "shelf.data is ' '"), ("result", 3, "shelf.result is 3"),
    ("note", "", "shelf.note is ''"), ("download", 30, "shelf.download is 30"),
    ("result", "loss {loss}", "shelf.result asks for 'loss', which is not among the measured results: accuracy"),
    ("result", "{accuracy:q}", "shelf.result is no format string"), ("result", "{}", "shelf.result asks for"),
    ("result", "{accuracy", "shelf.result is no format string"),
])
def test_malformed_metadata_are_named(root, capsys, key, value, message):
    def malform(found):
        found.metadata.shelf[key] = value

    change(root / "Chapter01" / "Ant.ipynb", lambda found: found.metadata.shelf.update(order=1))
    change(root / "Chapter01" / "Zebra.ipynb", lambda found: found.metadata.shelf.update(order=2))
    change(root / "Chapter01" / "Zebra.ipynb", malform)
    assert catalogue.main([], root) == 1
    assert f"Chapter01/Zebra.ipynb: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("cells", [[], [new_code_cell("# Title")], [new_markdown_cell("## Title")]])
def test_notebook_without_a_title_is_named(root, capsys, cells):
    change(root / "Chapter01" / "Ant.ipynb", lambda found: found.update(cells=cells))
    assert catalogue.main([], root) == 1
    assert "Chapter01/Ant.ipynb: the first cell" in capsys.readouterr().err


def test_every_fault_is_listed_at_once(root, capsys):
    change(root / "Chapter01" / "Ant.ipynb", lambda found: found.metadata.shelf.pop("learn"))
    change(root / "Chapter02" / "Bee.ipynb", lambda found: found.metadata.pop("shelf"))
    assert catalogue.main([], root) == 1
    error = capsys.readouterr().err
    assert "Ant.ipynb: shelf.learn" in error
    assert "Bee.ipynb: no `shelf`" in error


# ---- this repository


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/README.md")), ids=lambda path: path.parent.name)
def test_badges_have_room(path):
    """GitHub lets a picture in a table shrink to nothing; in a list it has its full width, on a phone too."""
    rows = [line for line in path.read_text(encoding="utf-8").splitlines()
            if line.lstrip().startswith("|") and catalogue.BADGE_IMAGE in line]
    assert not rows


def test_nothing_in_this_repository_is_stale():
    found = [f"{piece.name} is stale: run python -m tests.catalogue\n{piece.difference()}"
             for piece in catalogue.pieces(ROOT) if piece.stale]
    assert not found, "\n".join(found)
