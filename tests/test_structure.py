"""The notebooks keep the rules of tests/structure.py; and each rule finds what it is there for.

One good notebook passes every rule. Each bad example changes one thing of it and must fail its own rule and no other.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.catalogue import update_title
from tests.notebooks import code_cells, code_digest, first_part, name_of, notebooks, read
from tests.structure import (
    FIRST_FORM,
    RULES,
    SHELF_RULES,
    check,
    check_all,
    main,
    same_name_same_meaning,
    short_of_second_form,
)

SHA = "0123456789abcdef0123456789abcdef01234567"
WORDS = "The prose says what the reader is about to see, why it is worth seeing, and how the code below goes about it. "


# --- the real notebooks

@pytest.fixture(scope="module")
def findings() -> dict[Path, list[str]]:
    """The findings for every notebook of the shelf (ruff runs once for all)."""
    return check_all(notebooks())


@pytest.mark.parametrize("path", notebooks(), ids=name_of)
def test_notebook(path, findings):
    if findings[path]:
        pytest.fail("\n".join([name_of(path), *findings[path]]), pytrace=False)


def test_list_of_the_first_form_only_shrinks():
    """Whoever rewrites a notebook takes it off the list, and from then on it keeps the second form."""
    paths = {name_of(path): path for path in notebooks()}
    done = {name for name in FIRST_FORM if name not in paths or not list(short_of_second_form(read(paths[name])))}
    assert not done, f"delete from tests/first_form.txt: {sorted(done)}"


# --- one good notebook, and what its bad examples change

TITLE, GUARD, IMPORTS, PARAMETERS, FIRST, LESSON, SECOND, CHECK, RESULTS, REMEMBER, EXERCISES = range(0, 22, 2)


def good_notebook() -> NotebookNode:
    """A notebook that keeps every rule. Its own cells have even numbers (above); prose stands between them."""
    own = [
        new_markdown_cell(f"# A good notebook\n\n{WORDS}"),
        new_code_cell('import sys\n\nif "google.colab" in sys.modules:\n    %pip install -q "timm[extra]>=1.0.11,<2"'),
        new_code_cell("import math"),
        new_code_cell("STEPS = 10  # how many\nRATES = (0.1, 1e-3)  # how large", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## 1. Why `x` counts"),
        new_code_cell("total = STEPS * math.prod(RATES)"),
        new_markdown_cell(f"## 2. How it is done\n\n{WORDS}"),
        new_code_cell("assert abs(total - 1e-3) < 1e-9"),
        new_code_cell('results = {"total": total}\nprint(results)', metadata={"tags": ["results"]}),
        new_markdown_cell("## What to remember\n\n- `One`.\n- Two.\n- Three."),
        new_markdown_cell("## Exercises\n\n"
                          "**1.** Turn it.\n\n<details><summary>Answer</summary>\n\n2. is so.\n\n</details>\n\n"
                          "**2.** Turn it\nback.\n\n<details><summary>Answer</summary>\n\n"
                          "```python\nassert total < 1\n```\n\n</details>\n\n"
                          "**Next:** [the next one](Next.ipynb)"),
    ]
    cells = [cell for one in own for cell in (one, new_markdown_cell(WORDS))][:-1]
    notebook = new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "shelf": {"order": 1, "learn": "what is good", "data": "none", "result": "total {total:.1%}",
                  "download": "30 MB"}})
    update_title(notebook, "Chapter01/Good.ipynb")
    return notebook


def measured(notebook: NotebookNode, **output) -> None:
    """Make the notebook one that was run and measured; its lesson's cell has that output (default: a printed line)."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    kind = output.pop("output_type", "stream")
    notebook.cells[LESSON].outputs = [new_output(kind, **(output or {"name": "stdout", "text": "0.001\n"}))]
    notebook.metadata.shelf["measured"] = {"cpu": {"code": code_digest(notebook)}}


def in_two_parts(notebook: NotebookNode) -> None:
    """Make the lesson's cell the first that needs a hub; results stand before it and at the end."""
    notebook.cells[LESSON].metadata.tags = ["hub"]
    notebook.cells[RESULTS].source = 'results |= {"total": total}\nprint(results)'
    first = new_code_cell('results = {"steps": STEPS}\nprint(results)', metadata={"tags": ["results"]})
    notebook.cells[LESSON:LESSON] = [new_code_cell("assert STEPS > 0"), new_markdown_cell(WORDS), first,
                                     new_markdown_cell(WORDS)]
    notebook.metadata.shelf["first_result"] = "{steps} steps"


def first_part_measured(notebook: NotebookNode) -> None:
    """Make it a notebook in two parts of which the first was run and measured."""
    in_two_parts(notebook)
    for count, cell in enumerate(code_cells(first_part(notebook)), start=1):
        cell.update(execution_count=count, outputs=[new_output("stream", name="stdout", text="0.001\n")])
    notebook.metadata.shelf["measured"] = {"cpu": {"code": code_digest(first_part(notebook)), "first_part": True}}


@pytest.fixture
def save(tmp_path) -> Callable[[NotebookNode], Path]:
    """Writes a notebook as it is, mending nothing, into a chapter where the next notebook exists."""
    chapter = tmp_path / "Chapter01"
    chapter.mkdir()
    (chapter / "Next.ipynb").touch()

    def write_to_chapter(notebook: NotebookNode, name: str = "Good.ipynb") -> Path:
        path = chapter / name
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return path

    return write_to_chapter


def failed(path: Path) -> dict[str, list[str]]:
    """Name of each rule that has findings -> the findings."""
    notebook = read(path)
    found = {rule.__name__: list(rule(notebook, path)) for rule in RULES}
    return {name: findings for name, findings in found.items() if findings}


def test_good_notebook(save):
    assert check(save(good_notebook())) == []


def test_good_notebook_with_outputs(save):
    notebook = good_notebook()
    measured(notebook)
    assert check(save(notebook)) == []


def test_good_notebook_in_two_parts(save):
    notebook = good_notebook()
    in_two_parts(notebook)
    assert check(save(notebook)) == []
    measured(notebook)
    notebook.cells[LESSON + 4].outputs = notebook.cells[LESSON].outputs
    assert check(save(notebook)) == []


def test_good_notebook_with_the_outputs_of_its_first_part(save):
    notebook = good_notebook()
    first_part_measured(notebook)
    assert check(save(notebook)) == []
    notebook.cells[-5].source = 'results |= {"total": 2 * total}\nprint(results)'  # of the second part
    assert check(save(notebook)) == []


# --- bad examples

class Bad(NamedTuple):
    """What a rule must find: a change of the good notebook, and words of the finding."""

    rule: str
    change: Callable[[NotebookNode], None]
    words: str


def source(place: int, text: str) -> Callable[[NotebookNode], None]:
    """The change that gives a cell another source."""
    return lambda notebook: notebook.cells[place].update(source=text)


def replace(place: int, old: str, new: str) -> Callable[[NotebookNode], None]:
    """The change of a part of a cell's source, which must be there."""
    def change(notebook: NotebookNode) -> None:
        assert old in notebook.cells[place].source
        notebook.cells[place].source = notebook.cells[place].source.replace(old, new)
    return change


def tags(place: int, *names: str) -> Callable[[NotebookNode], None]:
    """The change that gives a cell these tags and no other."""
    return lambda notebook: notebook.cells[place].metadata.update(tags=list(names))


def printed(text: str) -> Callable[[NotebookNode], None]:
    """The change that makes the notebook one that was run and printed `text`."""
    return lambda notebook: measured(notebook, name="stdout", text=text)


def shelf(**values: object) -> Callable[[NotebookNode], None]:
    """The change of the metadata `shelf`."""
    return lambda notebook: notebook.metadata.shelf.update(values)


def unordered(notebook: NotebookNode) -> None:
    """Outputs as of a notebook whose lesson was run once more at the end."""
    measured(notebook)
    notebook.cells[LESSON].execution_count = 9


def edited(notebook: NotebookNode) -> None:
    """Outputs of the code before an edit."""
    measured(notebook)
    notebook.cells[LESSON].source += " + 1"


def cleared(notebook: NotebookNode) -> None:
    """A valid measurement without outputs."""
    measured(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)


def after(base: Callable[[NotebookNode], None], more: Callable[[NotebookNode], None]
          ) -> Callable[[NotebookNode], None]:
    """One change, and then another."""
    return lambda notebook: (base(notebook), more(notebook)) and None


def more_than_the_first_part(notebook: NotebookNode) -> None:
    """One more cell was run, by itself."""
    next(cell for cell in notebook.cells if "hub" in cell.metadata.get("tags", [])).execution_count = 8


def whole_by_the_digest_of_the_first_part(notebook: NotebookNode) -> None:
    """All outputs, but only the first part was measured."""
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.update(execution_count=count, outputs=[new_output("stream", name="stdout", text="0.001\n")])


def first_part_by_the_digest_of_the_whole(notebook: NotebookNode) -> None:
    """Outputs of the first part only, but a record of a whole run."""
    notebook.metadata.shelf["measured"]["cpu"] = {"code": code_digest(notebook)}


def last_cell_not_run(notebook: NotebookNode) -> None:
    """A run that was stopped before the last cell of the notebook, or of its first part."""
    code_cells(first_part(notebook) or notebook)[-1].update(outputs=[], execution_count=None)


def edited_first_part(notebook: NotebookNode) -> None:
    """Outputs of a first part before an edit."""
    notebook.cells[IMPORTS].source += "\nmath.pi"


def part_without_outputs(notebook: NotebookNode) -> None:
    """A valid measurement of a first part without outputs."""
    for cell in code_cells(notebook):
        cell.update(outputs=[], execution_count=None)


def old_format(notebook: NotebookNode) -> None:
    """Format 4.4, without cell ids."""
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


def long_cells(notebook: NotebookNode) -> None:
    """Eleven lines in most of the code cells, with prose to match."""
    for place in (IMPORTS, LESSON, CHECK, RESULTS):
        notebook.cells[place].source += "\n" * 10 + "total = 1"
    notebook.cells[LESSON + 1].source = WORDS * 10


def three_in_a_row(notebook: NotebookNode) -> None:
    """Two more code cells before the lesson's."""
    notebook.cells[LESSON:LESSON] = [new_code_cell("total = 1"), new_code_cell("total = 2")]


def little_prose(notebook: NotebookNode) -> None:
    """Two long cells, and few words between the cells but where the first section opens."""
    for place in (LESSON, CHECK):
        notebook.cells[place].source += "\ntotal = 1" * 29
    for place in {*range(1, EXERCISES, 2)} - {FIRST + 1}:
        notebook.cells[place].source = "So."


LESSONS = [  # rule, source of the lesson's cell, words of the finding
    ("code_parses", "total = = 1", "line 1 is not Python"),
    ("code_parses", "# nothing", "delete the cell"),
    ("few_magics", "%load_ext tensorboard", "%load_ext"),
    ("few_magics", "%%bash\nls", "%%bash"),
    ("few_magics", "%%time\nfrom math import *", "%%time"),
    ("living_packages", "def f():\n    import gym.spaces", "gymnasium"),
    ("living_packages", "def f():\n    from imgaug import augmenters", "torchvision"),
    ("imports_first", "import json", "import json"),
    ("no_hidden_globals", "rate = 0.1\ndef step(x):\n    return rate * x", "`step` reads `rate`"),
    ("no_hidden_globals", "for seed in range(3):\n    def f():\n        return seed\ndef g():\n    return seed", "`g`"),
    ("no_hidden_globals", "a, b = 1, 2\nclass A:\n    def f(self):\n        return [b for _ in 'x']", "`A` reads `b`"),
    ("no_test_switch", "SMOKE = True", "tests/quick"),
    ("no_test_switch", 'total = 1 if "CI" in os.environ else 2', "tests/quick"),
    ("no_skipped_cells", "# NBVAL_SKIP\ntotal = 1", "NBVAL_SKIP"),
    ("no_machinery", "# NBVAL_CHECK_OUTPUT\nprint(total)", "nbval-check-output"),
    ("no_machinery", "total = (1,\n         2)  # fmt: skip", "fmt: skip"),
    ("no_machinery", "total = 1  # type: ignore[misc]", "type: ignore"),
    ("collapsed_cells", "# @title Drawing helpers\ntotal = 1", "collapsed in some tools only"),
    ("collapsed_cells", "def box(ax, x, y, text):\n    return ax", "`box` draws schematics"),
    ("weights_argument", "net = resnet18(pretrained=True)", "weights="),
    ("old_ipython", 'Image(data, format="png", alt="a cart")', "alt"),
    ("no_shell", "!ls", "shell command"),
    ("no_shell", "files = !ls", "shell command"),
    ("no_shell", 'os.system("ls")', "shell command"),
    ("no_shell", 'subprocess.run(["git", "clone", "x"])', "shell command"),
    ("no_shell", 'subprocess.check_call([sys.executable, "-m", "pip", "install", "x"])', "shell command"),
    ("guarded_pip", '%pip install -q "timm>=1,<2"', "only below"),
    ("guarded_pip", 'if "google.colab" in sys.modules:\n    %pip install timm', "bound it"),
    ("guarded_pip", 'if "google.colab" in sys.modules:\n    %pip install timm<2', "quote"),
    ("guarded_pip", 'if "google.colab" in sys.modules:\n    %pip install "timm>=1"', "bound it"),
    ("guarded_pip", 'if "google.colab" in sys.modules:\n    %pip uninstall "timm<2"', "%pip uninstall"),
    ("no_colab_import", "def mount():\n    from google.colab import drive", "Colab only"),
    ("lasting_hosts", 'url = "https://github.com/someone/data/archive/main.zip"', "github.com"),
    ("lasting_hosts", 'url = "https://raw.githubusercontent.com/someone/data/main/a.jpg"', "raw.githubusercontent.com"),
    ("lasting_hosts", 'url = "https://example.org/photo.jpg"', "example.org"),
    ("lasting_hosts", 'url = f"https://example.org/{name}.jpg"', "example.org"),
    ("lasting_hosts", 'frame = pd.read_csv("hf://datasets/someone/table.csv")', "datasets"),
    ("lasting_hosts", "# get it from drive.google.com first\ntotal = 1", "drive.google.com"),
    ("no_logins", "notebook_login()", "notebook_login"),
    ("no_logins", "def f():\n    from huggingface_hub import hf_hub_download, login", "login"),
    ("no_logins", f'net = Net.from_pretrained("a/b", revision="{SHA}", token=word)', "token"),
    ("no_secrets", 'word = "' + "hf_" + "a1" * 17 + '"', "Hugging Face token"),
    ("no_secrets", 'word = "' + "AKIA" + "A1" * 8 + '"', "AWS"),
    ("no_secrets", 'word = "' + "ghp_" + "a1" * 18 + '"', "GitHub"),
    ("no_secrets", 'word = "' + "sk-" + "a1" * 18 + '"', "API key"),
    ("no_secrets", 'word = "-----BEGIN RSA ' + 'PRIVATE KEY-----"', "private key"),
    ("no_pickle", 'state = torch.load("model.pt")', "weights_only=True"),
    ("no_pickle", 'state = torch.load("model.pt", weights_only=False)', "weights_only=True"),
    ("no_pickle", "state = load_state_dict_from_url(url, weights_only=False)", "weights_only=True"),
    ("no_pickle", "state = pickle.loads(data)", "unpickles"),
    ("no_pickle", "state = joblib.load(path)", "unpickles"),
    ("no_pickle", "state = np.load(path, allow_pickle=True)", "unpickles"),
    ("no_remote_code", "net = Net.from_pretrained(folder, trust_remote_code=True)", "stranger"),
    ("pinned_hub_ids", 'net = Net.from_pretrained("a/b")', "'a/b'"),
    ("pinned_hub_ids", 'net = Net.from_pretrained(pretrained_model_name_or_path="gpt2")', "'gpt2'"),
    ("pinned_hub_ids", 'net = Net.from_pretrained("a/b", revision="main")', "40 digits"),
    ("pinned_hub_ids", 'MODEL = "a/b"\nnet = Net.from_pretrained(MODEL)', "'a/b'"),
    ("pinned_hub_ids", 'TAG = "v1.0"\nphotos = load_dataset("a/b", revision=TAG)', "40 digits"),
    ("pinned_hub_ids", 'def f():\n    from transformers import pipeline\n    return pipeline("ocr")', "without model"),
    ("pinned_hub_ids", 'def f():\n    from transformers import pipeline\n    return pipeline("ocr", "a/b")', "'a/b'"),
    ("no_absolute_paths", 'path = "/home/me/data"', "in the code (/home)"),
    ("no_absolute_paths", 'path = Path("/content/data")', "in the code (/content)"),
    ("no_absolute_paths", r'path = "C:\\Users\\me"', "in the code"),
]

BAD = [
    *(Bad(rule, source(LESSON, text), words) for rule, text, words in LESSONS),

    Bad("size", lambda notebook: notebook.metadata.update(padding="x" * 1_500_000), "1.50 MB"),
    Bad("cell_ids", lambda notebook: notebook.cells[2].update(id=notebook.cells[0].id), "cell 3: no id of its own"),
    Bad("cell_ids", old_format, "below 4.5"),
    Bad("kernelspec", lambda notebook: notebook.metadata.kernelspec.update(name="venv"), "'venv'"),
    Bad("shelf_metadata", shelf(order=True), "order"),
    Bad("shelf_metadata", shelf(data=""), "data"),
    Bad("shelf_metadata", lambda notebook: notebook.metadata.shelf.pop("learn"), "learn"),
    Bad("shelf_metadata", shelf(result="total {total"), "format string"),
    Bad("shelf_metadata", shelf(result="total {}"), "name of a result"),
    *(Bad("download_named", after(source(LESSON, text), lambda notebook: notebook.metadata.shelf.pop("download")),
          "say how much") for text in ("photos = FashionMNIST(folder, download=True)",
                                       f'net = Net.from_pretrained("a/b", revision="{SHA}")')),
    Bad("shelf_metadata", shelf(first_result="total {"), "shelf.first_result is not a format string"),

    Bad("title_cell", replace(TITLE, "# A good", "A good"), "starts with `# Title`"),
    Bad("title_cell", source(LESSON + 1, f"# More\n\n{WORDS}"), "second"),
    Bad("title_cell", replace(TITLE, "Good.ipynb", "Other.ipynb"), "badge"),
    Bad("title_cell", replace(TITLE, WORDS.strip(), "Short."), "paragraph"),
    Bad("title_cell", replace(TITLE, "| download |", "| size |"), "budget"),
    Bad("title_cell", replace(TITLE, "\n| none |", "\n| none |\n| none |"), "budget"),
    Bad("parameters_cell", tags(PARAMETERS), "0 cells"),
    Bad("parameters_cell", tags(LESSON, "parameters"), "2 cells"),
    Bad("parameters_cell", replace(PARAMETERS, "  # how many", ""), "`STEPS = 10`: say in a comment"),
    Bad("parameters_cell", replace(PARAMETERS, "(0.1, 1e-3)", "[0.1, {}]"), "a tuple or list"),
    Bad("parameters_cell", replace(PARAMETERS, "10", "5 * 2"), "`STEPS = 5 * 2`"),
    Bad("parameters_cell", replace(PARAMETERS, "RATES", "rates"), "CAPITALS"),
    Bad("parameters_cell", replace(PARAMETERS, "STEPS =", "STEPS = COUNT ="), "CAPITALS"),
    Bad("parameters_cell", replace(PARAMETERS, "STEPS", "print(1)  # shown\nSTEPS"), "`print(1)`"),
    Bad("results_cell", tags(RESULTS), "0 cells"),
    Bad("results_cell", replace(RESULTS, "results", "numbers"), "does not bind"),
    Bad("results_cell", source(RESULTS, 'results = {"total": total}'), "show"),
    Bad("results_cell", replace(RESULTS, ": total", ': {"mean": total}'), "flat"),
    Bad("results_cell", after(in_two_parts, tags(RESULTS + 4)), "1 cells tagged `results`: there must be two"),
    Bad("results_cell", after(in_two_parts, after(tags(LESSON + 4), tags(IMPORTS, "hub"))), "must stand before this"),
    Bad("results_cell", after(in_two_parts, replace(RESULTS + 4, "total}", "[total]}")), "flat"),
    Bad("hub_cell", after(in_two_parts, tags(CHECK + 4, "hub")), "only the first cell"),
    Bad("hub_cell", after(in_two_parts, after(tags(LESSON + 4), tags(LESSON + 3, "hub"))), "belongs to the code"),
    Bad("hub_cell", after(in_two_parts, lambda notebook: notebook.metadata.shelf.pop("first_result")), "first_result"),
    Bad("hub_cell", after(in_two_parts, lambda notebook: notebook.metadata.shelf.pop("download")), "shelf.download"),
    Bad("second_form", replace(EXERCISES, "```python", "```"), "answer one in code"),
    Bad("second_form", source(LESSON + 1, WORDS * 160), "words of prose, more than 3500"),
    Bad("second_form", lambda notebook: notebook.cells.extend(new_markdown_cell("So.") for _ in range(60)), "81 cells"),
    Bad("numbered_sections", replace(SECOND, "2.", "3."), "must have the number 2"),
    Bad("numbered_sections", replace(SECOND, "2. ", ""), "must stand in sections"),
    Bad("numbered_sections", replace(FIRST + 1, WORDS, f"## More\n\n{WORDS}"), "`More` must have the number 2"),
    Bad("check_before_results", source(CHECK, "print(total)"), "no check"),
    Bad("check_before_results", source(CHECK, "assert True"), "cannot fail"),
    Bad("what_to_remember", replace(REMEMBER, "\n- Two.", ""), "2 bullets"),
    Bad("what_to_remember", replace(REMEMBER, "What to remember", "Summary"), "0 bullets"),
    Bad("exercises", replace(EXERCISES, "**2.** Turn it\nback.", ""), "must stand exercise 2"),
    Bad("exercises", replace(EXERCISES, "**2.**", "**3.**"), "must stand exercise 2"),
    Bad("exercises", replace(EXERCISES, "**Next", "**3.** Again.\n\n**Next"), "no answer"),
    Bad("exercises", replace(EXERCISES, "<summary>Answer</summary>", ""), "<summary>"),
    Bad("exercises", replace(EXERCISES, "**1.**", "<details></details>" * 3 + "\n\n**1.**"), "5 answers"),
    Bad("next_notebook", replace(EXERCISES, "[the next one](Next.ipynb)", "the next one"), "no link"),
    Bad("live_links", replace(EXERCISES, "Turn it.", "Turn [it](Missing.ipynb)."), "Missing.ipynb"),
    Bad("live_links", source(LESSON + 1, f"{WORDS}\n\n![](https://example.org/photo.jpg)"), "another site"),
    Bad("live_links", source(LESSON + 1, f'{WORDS}\n\n<img src="https://example.org/photo.jpg">'), "another site"),

    Bad("prose_before_code", source(FIRST + 1, "Now:"), "starts with code"),
    Bad("code_runs", three_in_a_row, "in a row"),
    Bad("cell_length", source(LESSON, "total = 1\n" * 30 + "total = 2"), "31 lines, more than 30"),
    Bad("cell_length", source(LESSON, "def f():\n" + "    print()\n" * 39 + "    return 2"), "41 lines, more than 40"),
    Bad("cell_length", long_cells, "median"),
    Bad("enough_prose", little_prose, "words of prose"),
    Bad("no_skipped_cells", tags(LESSON, "nbval-skip"), "nbval-skip"),

    Bad("no_secrets", printed("AKIA" + "A1" * 8), "AWS"),
    Bad("no_absolute_paths", printed("/tmp/ipykernel_12/34.py: Warning"), "in the output (/tmp)"),
    Bad("no_absolute_paths", printed("File C:\\Users\\me\\x.py"), "in the output"),
    Bad("no_widgets", lambda notebook: measured(notebook, output_type="display_data", data={
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}), "stored widget"),
    Bad("no_widgets", lambda notebook: notebook.metadata.update(widgets={}), "widget state"),
    Bad("rendered_outputs", lambda notebook: measured(notebook, output_type="display_data", data={
        "image/gif": "R0lGOD", "text/plain": "a film"}), "stored image/gif"),
    Bad("no_errors", lambda notebook: measured(notebook, output_type="error", ename="ValueError", evalue="no",
                                               traceback=["no"]), "traceback"),
    Bad("one_run", unordered, "one run in order"),
    Bad("one_run", lambda notebook: notebook.cells[LESSON].update(execution_count=1), "one run in order"),
    Bad("one_run", after(measured, last_cell_not_run), "one run in order"),
    Bad("one_run", after(first_part_measured, last_cell_not_run), "one run in order"),
    Bad("one_run", after(first_part_measured, more_than_the_first_part), "one run in order"),
    Bad("measured_outputs", edited, "not of this code"),
    Bad("measured_outputs", after(first_part_measured, whole_by_the_digest_of_the_first_part), "not of this code"),
    Bad("measured_outputs", after(first_part_measured, first_part_by_the_digest_of_the_whole), "without the outputs"),
    Bad("measured_outputs", after(first_part_measured, edited_first_part), "not of this code"),
    Bad("measured_outputs", after(first_part_measured, part_without_outputs), "without the outputs"),
    Bad("measured_outputs", cleared, "without the outputs"),
]


@pytest.mark.filterwarnings("ignore:Non-unique cell id")
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.rule}: {bad.words}")
def test_bad_example_fails_its_rule_and_no_other(bad, save):
    notebook = good_notebook()
    bad.change(notebook)
    found = failed(save(notebook))
    assert list(found) == [bad.rule]
    assert bad.words in found[bad.rule][0]


def test_every_rule_has_a_bad_example():
    assert {rule.__name__ for rule in RULES} == {bad.rule for bad in BAD}
    assert {rule.__name__ for rule in SHELF_RULES} == {  # tested below
        "unique_titles", "same_name_same_meaning", "ruff"}


# --- what must not be found

@pytest.mark.parametrize("text", [
    "system = platform.system()",
    'server = subprocess.Popen([sys.executable, "-m", "uvicorn", "app.main:app"])',
    'url = f"http://127.0.0.1:{PORT}/predict"',
    f'url = "https://raw.githubusercontent.com/someone/data/{SHA}/a.jpg"',
    'url = f"http://{HOST}:{PORT}/predict"',
    'def attention(q):\n    """Scaled dot product (https://example.org/paper, section 3)."""\n    return q',
    "%matplotlib inline",
    'net = timm.create_model("resnet18", pretrained=True)',
    'state = torch.load("model.pt", weights_only=True)',
    'numbers = np.load("numbers.npz")',
    f'REVISION = "{SHA}"\nnet = Net.from_pretrained("a/b", revision=REVISION)',
    'net = Net.from_pretrained(folder / "model")',
    'net = Net.from_pretrained("./model")',
    "nets = [Net.from_pretrained(name, revision=sha) for name, sha in NETS.items()]",
    'photos = load_dataset("imagefolder", data_dir=folder)',
    'pipeline = Pipeline.from_pretrained(folder)\npicture = pipeline("a cat").images[0]',
    "try:\n    total = 1\nexcept ValueError:\n    total = 2",
    "def f():\n    import json\n    return json.dumps(1)",
    'path = Path("data/home/tmp") / "content"',
    "rate = 0.1\ndef step(x, rate=rate):\n    return RATE * rate * helper(x)",
    "rate = 0.1\ndef step(x):\n    rate = 2\n    return [rate * x for x in x]",
    "rate = 0.1\nstep = lambda x: rate * x",
    "def f():\n" + "    print()\n" * 38 + "    return 2",
])
def test_fine_code(text, save):
    notebook = good_notebook()
    source(LESSON, text)(notebook)
    assert failed(save(notebook)) == {}


def test_a_collapsed_cell_may_be_long(save):
    notebook = good_notebook()
    source(LESSON, "# @title Drawing helpers\ndef box(ax):\n" + "    print()\n" * 299 + "    return ax")(notebook)
    assert set(failed(save(notebook))) == {"cell_length", "enough_prose", "collapsed_cells"}
    notebook.cells[LESSON].metadata.update(jupyter={"source_hidden": True}, cellView="form", tags=["hide-input"])
    assert failed(save(notebook)) == {}


@pytest.mark.parametrize("text", [
    "Call `layer[0](x)`, or look at $w[i](t)$, in the [next](Next.ipynb#one) or [this](https://example.org/x) page.",
    "```python\n# a comment\n## another\nlayer[0](x)\n```",
    "### A heading below\n\n#### And below that",
])
def test_fine_prose(text, save):
    notebook = good_notebook()
    source(LESSON + 1, f"{WORDS}\n\n{text}")(notebook)
    assert failed(save(notebook)) == {}


# --- the whole shelf

def test_two_notebooks_with_one_title(save):
    first, second = save(good_notebook()), good_notebook()
    update_title(second, "Chapter01/Second.ipynb")
    second = save(second, "Second.ipynb")
    found = check_all([first, second])
    assert found == {first: [], second: ["has the title of Chapter01/Good.ipynb: # A good notebook"]}


@pytest.mark.parametrize("first, second, differs", [
    ("def f(x):\n    return x", "def f(x):\n    return 2 * x", True),
    ('def f(x):\n    """One."""\n    return x', 'def f(x):\n    """Two."""\n    return x', True),
    ("class A:\n    def __init__(s, x):\n        pass", "class A:\n    def __init__(s, x):\n        s.x = x", True),
    ("class A:\n    x = 1", "class A:\n    x = 2", True),
    ("@cache\ndef f(x):\n    return x", "def f(x):\n    return x", True),
    ("def f(x):  # one\n    return x", "def f( x ):\n\n    return x", False),
    ("def f(x):\n    return x", "def f(x, y):\n    return x + y", False),
    ("def f(x):\n    return x", "def g(x):\n    return 2 * x", False),
    ("class A:\n    def __init__(s):\n        pass", "class A:\n    def __init__(s, x):\n        s.x = x", False),
])
def test_one_name_with_two_meanings(first, second, differs, save):
    paths = []
    for name, text in (("First.ipynb", first), ("Second.ipynb", first), ("Third.ipynb", second)):
        notebook = good_notebook()
        source(LESSON, text)(notebook)
        paths.append(save(notebook, name))
    shelf = {path: read(path) for path in paths}
    found = list(same_name_same_meaning(shelf))
    assert [path.name for path, _ in found] == ["Third.ipynb"] * differs
    assert all(f"cell {LESSON + 1}" in finding and "First.ipynb and 1 more" in finding for _, finding in found)


def test_ruff_findings_name_cell_and_line(save):
    notebook = good_notebook()
    notebook.cells[IMPORTS].source += "\nimport os"
    found, = check(save(notebook))
    assert found == f"cell {IMPORTS + 1}, line 2: `os` imported but unused (ruff F401)"


def test_every_finding_of_an_unreadable_notebook_is_that(tmp_path):
    path = tmp_path / "Broken.ipynb"
    path.write_text('{"cells": [', encoding="utf-8")
    found, = check(path)
    assert "Broken.ipynb" in found and "not a valid notebook" in found


def test_command_line(save, monkeypatch, capsys):
    notebook = good_notebook()
    monkeypatch.setattr("sys.argv", ["structure", str(save(notebook))])
    assert main() == 0
    assert capsys.readouterr().out == ""
    notebook.cells[LESSON].source = "!ls"
    save(notebook)
    assert main() == 1
    assert capsys.readouterr().out.startswith(f"Chapter01/Good.ipynb: cell {LESSON + 1}: shell command")
