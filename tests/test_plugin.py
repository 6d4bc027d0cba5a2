"""The rules of tests/plugin.py, each shown on small notebooks: a shelf made for the test, run by a pytest of its own.

That pytest is a subprocess: `pytester` would move the home folder, and with it the cache of the miniature world.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat.v4
import psutil
import pytest

from tests import plugin, quick
from tests.checks import records
from tests.notebooks import ROOT, write
from tests.offline import SITE

IN_A_TERMINAL = {  # a script that runs tests in the background hands down that Ctrl-C is ignored
    "start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
} if os.name == "posix" else {}


def heed_ctrl_c() -> None:
    """As in a terminal, even where this pytest was started with Ctrl-C ignored, as a script's `pytest &` is."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Shelf:
    """A shelf of one chapter in a folder of its own, with the repository's settings and runner."""

    def __init__(self, root: Path):
        self.root = root / "shelf"
        self.temporary = root / "tmp"  # where its runs have their scratch folders
        self.chapter = self.root / "Chapter01"
        for folder in (self.temporary, self.chapter, self.root / "tests/quick"):
            folder.mkdir(parents=True)
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)

    def add(self, name: str, *sources: str, parameters: int | None = None) -> None:
        """Write a notebook of code cells; the one at index `parameters` gets the tag."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        if parameters is not None:
            cells[parameters].metadata["tags"] = ["parameters"]
        write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *cells]), self.chapter / name)

    def quick(self, text: str) -> None:
        """Write the quick values of the chapter."""
        (self.root / "tests/quick/Chapter01.toml").write_text(text)

    def add_answers(self, name: str, source: str, *markdown: str) -> None:
        """Write a notebook of one code cell and text after it."""
        cells = [nbformat.v4.new_code_cell(source), *(nbformat.v4.new_markdown_cell(text) for text in markdown)]
        write(nbformat.v4.new_notebook(cells=cells), self.chapter / name)

    def add_with_output(self, name: str, source: str, printed: str, *tags: str) -> None:
        """Write a notebook of one code cell that once printed `printed`."""
        output = nbformat.v4.new_output("stream", name="stdout", text=printed)
        cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output], metadata={"tags": list(tags)})
        write(nbformat.v4.new_notebook(cells=[cell]), self.chapter / name)

    def files(self) -> set[str]:
        """All files but Python's and pytest's own caches."""
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*")
                if not {"__pycache__", ".pytest_cache"} & set(path.parts)}

    def left(self) -> list[str]:
        """What runs left in the folder for temporary files, but for the `tmp_path` folders that pytest keeps."""
        return [name for name in os.listdir(self.temporary) if not name.startswith("pytest-of-")]

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen:
        """Start pytest in this shelf, as a user would who is not inside another run."""
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(("MCVP_OFFLINE", "PYTEST_")) and name not in ("CI", "BUILD_NUMBER")}
        paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(SITE)]
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *paths]), "COLUMNS": "200", "OMP_NUM_THREADS": "7",
                "MPLBACKEND": "Agg"}
        env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temporary))
        posix = {"start_new_session": True, "preexec_fn": heed_ctrl_c} if os.name == "posix" else {}
        return subprocess.Popen([sys.executable, "-m", "pytest", "-rA", *arguments], cwd=cwd or self.root, env=env,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **posix)

    def run(self, *arguments: str, cwd: Path | None = None) -> SimpleNamespace:
        """Run pytest; the exit code, the output, and test -> (outcome, message) of what passed or failed."""
        process = self.start(*arguments, cwd=cwd)
        output, _ = process.communicate()
        lines = re.findall(r"^(PASSED|FAILED|ERROR) (\S+::\S+(?: \d+)?)(?: - (.*))?$", output, re.MULTILINE)
        return SimpleNamespace(code=process.returncode, output=output,
                               tests={test: (outcome, message) for outcome, test, message in lines})


FINE = """import os, sys, tempfile
from pathlib import Path
assert sorted(os.listdir()) == ["picture.txt"], os.listdir()
assert (os.environ["OMP_NUM_THREADS"], os.environ["MCVP_NOTEBOOK"]) == ("1", "Chapter01/Fine.ipynb")
assert "inline" in os.environ["MPLBACKEND"] and "PYTEST_CURRENT_TEST" not in os.environ
assert "get_ipython" in dir() and sys.executable == {python!r}
Path("written.txt").write_text("in the scratch copy")
tempfile.mkdtemp()"""

ASK = """import socket
def ask():
    try:
        socket.getaddrinfo("swallowed.example", 80)
    except OSError:
        pass
"""

PARAMETERS = "STEPS: int = 100  # of training\nRATES = (1.0, 2.0)\nNAME = 'kept'\nHALF = STEPS // 2"


ANSWERS = """1. Why?
   <details>

   So:

   ```python
   if x:
       x = 2
   ```

   ```text
   this is not run
   ```
   </details>

```python
nor is this
```
""", "<details>\n\n```python\nassert x == 2\n```\n</details>"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One quick run, by two workers, of a shelf in which most notebooks break one rule."""
    shelf = Shelf(tmp_path_factory.mktemp("rules"))
    (shelf.chapter / "picture.txt").write_text("beside the notebooks")
    shelf.add("Fine.ipynb", FINE.format(python=sys.executable), "assert Path('written.txt').exists()")
    shelf.add("Raises.ipynb", "x = 1", "x / 0", "print('not reached')")
    shelf.add("Dies.ipynb", "import os; os._exit(1)", "1")
    shelf.add_with_output("Same.ipynb", "print(6 * 7)", "42\n", "nbval-check-output")
    shelf.add_with_output("Differs.ipynb", "print(6 * 7)", "41\n", "nbval-check-output")
    shelf.add_with_output("Comment.ipynb", "# NBVAL_CHECK_OUTPUT\nprint(6 * 7)", "41\n")
    shelf.add_with_output("Unmarked.ipynb", "print(6 * 7)", "41\n")
    shelf.add("Refused.ipynb", "import socket; socket.getaddrinfo('refused.example', 80)")
    shelf.add("Swallowed.ipynb", ASK, "ask()")
    shelf.add("Prose.ipynb")
    shelf.add("Skipped.ipynb", "# NBVAL_SKIP\nprint(1)")
    (shelf.chapter / "Torn.ipynb").write_text('{"cells": [')
    (shelf.chapter / "Invalid.ipynb").write_text('{"cells": 1, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    shelf.add("Quick.ipynb", "STEPS = 1  # the same name elsewhere", "assert STEPS == 1", PARAMETERS,
              "assert (STEPS, RATES, NAME, HALF) == (4, (3.0,), 'kept', 2), (STEPS, RATES, NAME, HALF)\n"
              "assert type(RATES[0]) is float\nSTEPS = 7", "assert STEPS == 7", parameters=2)
    shelf.add_answers("Answers.ipynb", "x = 1", *ANSWERS)
    shelf.add_answers("Wrong.ipynb", "x = 1", *(ANSWERS[1].replace("x == 2", text) for text in ("x", "x == 3, x")))
    shelf.quick('["Quick.ipynb"]\nSTEPS = 4\nRATES = [3]\n')
    (shelf.root / "tests/test_ordinary.py").write_text(f"{ASK}\ndef test_quiet():\n    ask()\n")
    before = shelf.files()
    result = shelf.run("-n", "2")
    result.written = shelf.files() - before
    result.left = shelf.left()
    return result


def failures(outcome, notebook):
    """Test -> message of the failures of a notebook."""
    return {test.partition("::")[2]: message for test, (result, message) in outcome.tests.items()
            if test.startswith(f"Chapter01/{notebook}.ipynb") and result != "PASSED"}


@pytest.mark.parametrize("notebook", ["Fine", "Same", "Unmarked", "Quick", "Answers"])
def test_passes(outcome, notebook):
    assert not failures(outcome, notebook), outcome.output
    assert outcome.tests[f"Chapter01/{notebook}.ipynb::notebook"][0] == "PASSED"


@pytest.mark.parametrize("notebook, test, message", [
    ("Raises", "Cell 2", "Chapter01/Raises.ipynb, code cell 2: ZeroDivisionError: division by zero"),
    ("Dies", "Cell 1", "Chapter01/Dies.ipynb, code cell 1: the kernel died"),
    ("Differs", "Cell 1", "Chapter01/Differs.ipynb, code cell 1: Cell outputs differ"),
    ("Comment", "Cell 1", "Chapter01/Comment.ipynb, code cell 1: Cell outputs differ"),
    ("Wrong", "notebook", "Chapter01/Wrong.ipynb, answer 2 in code (in cell 3): AssertionError: 1"),
    ("Swallowed", "notebook", "Chapter01/Swallowed.ipynb: asked for the network: the host swallowed.example"),
    ("Prose", "notebook", "Chapter01/Prose.ipynb: ran no code cell"),
    ("Skipped", "notebook", "Chapter01/Skipped.ipynb: ran no code cell"),
    ("Torn", "notebook", "Torn.ipynb: not a valid notebook: "),
    ("Invalid", "notebook", "Invalid.ipynb: not a valid notebook: "),
])
def test_fails_once(outcome, notebook, test, message):
    """One failure, in the place and by the words expected; whatever follows it in the notebook is not run."""
    found = failures(outcome, notebook)
    assert list(found) == [test], outcome.output
    assert message in found[test]
    reported = [name.partition("::")[2] for name in outcome.tests if name.startswith(f"Chapter01/{notebook}.ipynb")]
    assert max(reported) == test  # "Cell 1" < "Cell 2" < "notebook"


def test_a_failure_ends_with_notebook_cell_and_error(outcome):
    block = outcome.output.partition("_ Chapter01/Raises.ipynb::Cell 2 _")[2].partition("\n___")[0]
    assert "\nx / 0\n" in block and "Traceback" in block and "\x1b" not in block
    assert block.splitlines()[-1] == "Chapter01/Raises.ipynb, code cell 2: ZeroDivisionError: division by zero"
    assert outcome.output.count("ZeroDivisionError: division by zero\n") == 3  # traceback, last line, short summary


def test_a_refused_request_fails_the_cell_and_is_reported(outcome):
    found = failures(outcome, "Refused")
    assert "refused.example" in found["Cell 1"]
    assert found["notebook"] == "Chapter01/Refused.ipynb: asked for the network: the host refused.example"


def test_network_outside_the_notebooks_is_reported(outcome):
    assert outcome.tests["tests/test_ordinary.py::test_quiet"][0] == "PASSED"
    section = outcome.output.partition("network attempts outside the notebooks")[2].splitlines()
    assert section[1] == "the host swallowed.example"


def test_table_of_times(outcome):
    table = outcome.output.partition("notebooks by processor time, slowest first")[2].partition("\n=")[0]
    rows = re.findall(r"^ *([\d.]+) s  (.*)$", table, re.MULTILINE)
    times = [float(seconds) for seconds, _ in rows[:-1]]
    assert times == sorted(times, reverse=True) and len(times) == min(plugin.SHOWN, 10)
    assert rows[-1][1] == "12 notebooks in all", table


def test_nothing_is_left(outcome):
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    assert outcome.written == set()
    assert outcome.left == []


@pytest.fixture
def shelf(tmp_path):
    """A shelf with one notebook, whose parameters cell is its second."""
    shelf = Shelf(tmp_path)
    shelf.add("One.ipynb", "import os", PARAMETERS, "print(STEPS)", "assert STEPS == 100, STEPS", parameters=1)
    return shelf


def test_network_outside_the_notebooks_fails_the_run(shelf):
    (shelf.root / "tests/test_ordinary.py").write_text(f"{ASK}\ndef test_quiet():\n    ask()\n")
    result = shelf.run("tests/test_ordinary.py")  # a single file: in the process that was started
    assert result.tests["tests/test_ordinary.py::test_quiet"][0] == "PASSED"
    assert result.code == pytest.ExitCode.TESTS_FAILED, result.output


WORK = """import time
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


@pytest.mark.parametrize("option", [[], ["--fresh-kernels"]], ids=["forked", "fresh"])
def test_the_limit_is_processor_time(shelf, option):
    """That of the whole notebook, its child processes included; waiting is free."""
    shelf.add("Waits.ipynb", "import time\ntime.sleep(5)")
    shelf.add("Slow.ipynb", f"{WORK}work(2)", "work(1)\ntime.sleep(1.5)", "work(2)\nprint('not reached')")
    shelf.add("Child.ipynb", "import subprocess, sys\n" f"code = {WORK!r} 'work(1.5)'\n"
              "for _ in range(3):\n    subprocess.run([sys.executable, '-c', code], check=True)")
    shelf.add("Stuck.ipynb", f"{WORK}work(1000)", "1")
    result = shelf.run("-n", "0", "-o", "quick_seconds=4", *option)
    assert not failures(result, "Waits") and not failures(result, "One"), result.output
    for notebook, test in [("Slow", "Cell 3"), ("Child", "Cell 1"), ("Stuck", "Cell 1")]:
        found = failures(result, notebook)
        message = found.get(test) or found["notebook"]  # what is over at the end of the last cell shows there
        assert re.search(rf"{notebook}.ipynb.*: took \d+\.\d s of processor time, the quick profile allows 4", message)
    assert re.search(r"s  Chapter01/Stuck.ipynb  over half of the 4 s limit", result.output)


def test_the_clock_is_a_guard(shelf, monkeypatch):
    shelf.add("Stuck.ipynb", "import time\ntime.sleep(1000)")
    (shelf.root / "conftest.py").write_text("from tests import plugin\nplugin.GUARD_SECONDS = 3\n"
                                            "pytest_plugins = ['tests.plugin']\n")
    result = shelf.run("Chapter01/Stuck.ipynb")
    assert failures(result, "Stuck") == {
        "Cell 1": "Chapter01/Stuck.ipynb, code cell 1: stopped after 3 s in one cell"}, result.output


def test_a_test_that_hangs_ends(shelf):
    (shelf.root / "tests/test_ordinary.py").write_text("import time\ndef test_hangs():\n    time.sleep(1000)\n")
    result = shelf.run("tests/test_ordinary.py", "-o", "timeout=2")
    assert result.tests["tests/test_ordinary.py::test_hangs"][0] == "FAILED" and "Timeout" in result.output


def test_notebooks_are_watched(shelf):
    """In the quick profile of the shelf's own notebooks, up to the last cell; what is found fails the last test.

    Where there is no record it is listed only.
    """
    train = ("import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
             "train_rows, val_rows = torch.rand(20, 3), torch.rand(20, 3)",
             "model = nn.Linear(3, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
             "for _ in range(3):\n    optimizer.zero_grad()\n    model(ROWS).mean().backward()\n    optimizer.step()")
    shelf.add("Wrong.ipynb", *(cell.replace("ROWS", "val_rows") for cell in train))
    shelf.add("Right.ipynb", *(cell.replace("ROWS", "train_rows") for cell in train))
    (shelf.root / "conftest.py").write_text(
        "from pathlib import Path\nfrom tests import plugin\nfrom tests.checks import records\n"
        "plugin.ROOT = Path(__file__).parent\nrecords.FOLDER = plugin.ROOT / 'records'\n"
        "pytest_plugins = ['tests.plugin']\n")
    wrong = "Chapter01/Wrong.ipynb, code cell 2: rows of validation reached a training step [fit]"
    result = shelf.run("-n", "0", "--tell", "told")
    assert result.code == 0 and wrong in result.output, result.output
    for name in ("Wrong", "Right"):
        run = json.loads((shelf.root / f"told/Chapter01/{name}.json").read_text(encoding="utf-8"))
        path = shelf.root / f"records/Chapter01/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records.make(run)), encoding="utf-8")
    result = shelf.run("-n", "0")
    assert failures(result, "Wrong") == {"notebook": wrong}, result.output
    assert not failures(result, "Right") and not failures(result, "One"), result.output
    assert shelf.run("-n", "0", "--unwatched", "Chapter01/Wrong.ipynb").code == 0


def test_every_worker_forks_its_kernels(shelf):
    """On Linux, where there is more than one notebook."""
    shelf.add("Other.ipynb", "import psutil\nassert ('forking.py' in str(psutil.Process().cmdline())) == FORKED")
    text = (shelf.chapter / "Other.ipynb").read_text()
    for forked, arguments in [(sys.platform == "linux", []), (False, ["--fresh-kernels"]),
                              (False, ["Chapter01/Other.ipynb"]), (False, ["--full"])]:
        (shelf.chapter / "Other.ipynb").write_text(text.replace("FORKED", str(forked)))
        assert shelf.run("-n", "0", *arguments).code == 0, arguments


def test_one_notebook_from_another_folder(shelf, tmp_path):
    result = shelf.run(str(shelf.chapter / "One.ipynb"), cwd=tmp_path)
    assert result.code == 0, result.output
    assert [name.partition("::")[2] for name in result.tests] == ["Cell 1", "Cell 2", "Cell 3", "Cell 4", "notebook"]
    assert "workers" not in result.output  # starting them would take longer than the notebook


def test_one_cell_gets_what_stands_before_it(shelf):
    result = shelf.run("Chapter01/One.ipynb::Cell 4")
    assert result.tests == {"Chapter01/One.ipynb::Cell 4": ("PASSED", "")}, result.output


def test_full_profile(shelf):
    shelf.quick('["One.ipynb"]\nSTEPS = 4\n')
    shelf.add("Environment.ipynb", "import os\nassert 'MCVP_OFFLINE' not in os.environ",
              "assert os.environ['OMP_NUM_THREADS'] == '7'")
    result = shelf.run("--full", "-o", "quick_seconds=0.1")
    assert result.code == 0, result.output
    assert "workers" not in result.output
    assert shelf.run("Chapter01/One.ipynb::notebook").code == 1  # while the quick profile replaces the 100


def test_a_wrong_entry_stops_the_run_before_it_starts(shelf):
    shelf.quick('["One.ipynb"]\nSTEP = 4\n')
    result = shelf.run()
    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert 'ERROR: tests/quick/Chapter01.toml: ["One.ipynb"] STEP: no such parameter; ' in result.output
    assert not result.tests and "Traceback" not in result.output


@pytest.mark.parametrize("text, message", [
    ('["Won.ipynb"]', 'Chapter01.toml: ["Won.ipynb"]: no such notebook; there are: One.ipynb'),
    ('["One.ipynb"]\nsteps = 4', "steps: no such parameter; there are: STEPS, RATES, NAME"),
    ('["One.ipynb"]\nHALF = 4', "HALF: no such parameter; there are: STEPS, RATES, NAME"),
    ('["One.ipynb"]\nSTEPS = 4.5', "STEPS = 4.5: another type than the notebook's STEPS = 100"),
    ('["One.ipynb"]\nSTEPS = true', "STEPS = True: another type"),
    ('["One.ipynb"]\nRATES = ["a"]', "RATES = ['a']: another type"),
    ('["One.ipynb"]\nNAME = 1', "NAME = 1: another type than the notebook's NAME = 'kept'"),
    ("STEPS = 4", "STEPS = 4: of no notebook; "),
    ("STEPS = ", "Chapter01.toml: "),
])
def test_wrong_entries(shelf, text, message):
    shelf.quick(text)
    with pytest.raises(quick.QuickError, match=re.escape(message)):
        quick.check(quick.load(shelf.root), shelf.root)


def test_every_wrong_entry_is_named(shelf):
    with pytest.raises(quick.QuickError) as error:
        quick.check({"Chapter01/One.ipynb": {"A": 1, "STEPS": 2, "B": 1}, "Chapter02/Two.ipynb": {}}, shelf.root)
    assert [line.partition(";")[0] for line in str(error.value).splitlines()] == [
        'tests/quick/Chapter01.toml: ["One.ipynb"] A: no such parameter',
        'tests/quick/Chapter01.toml: ["One.ipynb"] B: no such parameter',
        'tests/quick/Chapter02.toml: ["Two.ipynb"]: no such notebook']


def test_entries_of_an_unreadable_notebook_do_not_stop_the_others(shelf):
    (shelf.chapter / "One.ipynb").write_text("torn")
    quick.check({"Chapter01/One.ipynb": {"STEPS": 2}}, shelf.root)


def test_quick_values_of_this_shelf():
    quick.check(quick.load(ROOT), ROOT)


@pytest.mark.parametrize("arguments, full, memory, expected", [
    (["."], False, 64, 8),
    (["."], False, 8, 2),
    (["."], False, 1, 1),
    (["."], True, 64, 0),
    ([__file__], False, 64, 0),
    ([f"{__file__}::test_passes"], False, 64, 0),
    ([__file__, "."], False, 64, 8),
])
def test_number_of_workers(monkeypatch, arguments, full, memory, expected):
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory * 2**30))
    config = SimpleNamespace(args=arguments, option=SimpleNamespace(full=full))
    assert plugin.pytest_xdist_auto_num_workers(config) == expected


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("workers, interrupt", [
    (1, lambda process: os.killpg(process.pid, signal.SIGINT)),  # Ctrl-C reaches all processes of a terminal
    (0, lambda process: process.terminate()),
], ids=["Ctrl-C", "terminated"])
@pytest.mark.parametrize("others", [[], ["Chapter01/One.ipynb"]], ids=["own process", "forked"])
def test_an_interrupted_run_leaves_nothing(shelf, workers, interrupt, others):
    shelf.add("Long.ipynb", "open('started', 'w').close()\nimport time\ntime.sleep(100)")
    process = shelf.start("-n", str(workers), "Chapter01/Long.ipynb", *others)
    end = time.monotonic() + 600
    while not list(shelf.temporary.glob("mcvp-*/run-*/Chapter01/started")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.1)
    started = psutil.Process(process.pid).children(recursive=True)
    interrupt(process)
    output, _ = process.communicate()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    _, alive = psutil.wait_procs(started, timeout=60)
    assert len(started) >= 1 + workers and not alive  # the kernel, and the worker that started it
    assert shelf.left() == []
