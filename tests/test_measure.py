"""The measuring tool: what it stores, and that a run that goes wrong leaves the notebook byte for byte as it was."""
from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import measure
from tests.notebooks import ROOT, NotebookError, code_cells, code_digest, first_part, is_current, read

RESULTS = "results = {'loss': 1.5}"


@pytest.fixture(autouse=True)
def outside_the_miniature_world(monkeypatch):
    """The tool refuses to measure inside it."""
    for name in [name for name in os.environ if name.startswith("MCVP_")]:
        monkeypatch.delenv(name)


def make(folder: Path, *code: str | NotebookNode, name: str = "Tiny", **shelf) -> Path:
    """A notebook `folder/Chapter01/<name>.ipynb` of these code cells, with a title and metadata."""
    cells = [cell if isinstance(cell, NotebookNode) else new_code_cell(cell) for cell in code]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {name}\n\nA question."), *cells])
    notebook.metadata.shelf = {"order": 1, "learn": "little", "data": "none", "result": "loss {loss:.2f}", **shelf}
    path = folder / "Chapter01" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


# ---- one good run, looked at from all sides

CODE = [
    "import os, sys, time, warnings\nfrom pathlib import Path\n\nimport numpy as np\nfrom tqdm import tqdm\n"
    "from tqdm.auto import trange",
    new_code_cell("STEPS = 3  # steps\nSEEDS = (0, 1)  # seeds\nRATE = 0.5  # learning rate",
                  metadata={"tags": ["parameters"]}),
    "print(STEPS, SEEDS, RATE)\ntime.sleep(0.4)\nprint('next')",
    "for epoch in trange(2, desc='outer & all'):\n"
    "    for step in trange(STEPS, desc='inner', leave=False):\n"
    "        pass",
    "for step in tqdm(range(3)):\n    time.sleep(0.01)\nfor step in tqdm(iter([1, 2])):\n    time.sleep(0.01)",
    "print('first\\rsecond\\rthird', file=sys.stderr)\nwarnings.warn('careful')",
    "Path('model.bin').write_bytes(b'weights')\n"
    "print(Path.cwd() / 'model.bin', np.__file__, Path.home() / 'data', sep='\\n')\n"
    "Path.cwd()",
    "Path(os.environ['TORCH_HOME'], 'weights.bin').write_bytes(bytes(2_000_000));",
    "import subprocess\n"  # 320 MB in another process
    "code = 'import time; block = bytearray(b\\'x\\') * 320_000_000; time.sleep(0.5)'\n"
    "subprocess.run([sys.executable, '-c', code], check=True)",
    new_code_cell("results = {'loss': np.float32(STEPS / 2), 'steps': STEPS}\nresults",
                  metadata={"tags": ["results"], "execution": {"iopub.status.busy": "2026"}}),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> SimpleNamespace:
    """A notebook after a run with `--set STEPS=7 --set SEEDS=[3] --set RATE=0.5`; its path, the exit status."""
    folder = tmp_path_factory.mktemp("größer 日本 measured")
    for name in ("torch", "tmp ü (1)"):
        (folder / name).mkdir()
    path = make(folder, *CODE)
    (path.parent / "picture.txt").write_text("a file beside the notebook")
    before = code_digest(read(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setattr(tempfile, "tempdir", str(folder / "tmp ü (1)"))  # of the tool
        patch.setenv("TMPDIR", str(folder / "tmp ü (1)"))  # of its kernel
        for name in [name for name in os.environ if name.startswith("MCVP_")]:
            patch.delenv(name)
        status = measure.main(["--set", "STEPS=7", "--set", "SEEDS=[3]", "--set", "RATE=0.5", str(path)])
    return SimpleNamespace(path=path, status=status, notebook=read(path), folder=folder, before=before)


def output_text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") or output.data["text/plain"] for output in cell.outputs)


def test_outputs_of_one_run_in_order_are_stored(measured):
    cells = code_cells(measured.notebook)
    assert measured.status == 0
    assert [cell.execution_count for cell in cells] == list(range(1, len(CODE) + 1))
    assert output_text(cells[-1]) == "{'loss': np.float32(3.5), 'steps': 7}"


def test_measurement_is_recorded(measured):
    entry = measured.notebook.metadata.shelf.measured.cpu
    assert entry.results == {"loss": 3.5, "steps": 7}
    assert entry.code == code_digest(measured.notebook)
    assert 1 < entry.seconds < 300
    assert 320 < entry.host_peak_mb < 1000
    assert entry.device_peak_mb is None
    assert entry.downloaded_mb == 2.0
    assert entry.versions.keys() == {"python", "numpy", "tqdm"}
    assert "thread" in entry.device
    time.strptime(entry.date, "%Y-%m-%d")


def test_set_values_reach_the_kernel_and_the_record_but_not_the_source(measured):
    assert output_text(code_cells(measured.notebook)[2]) == "7 (3,) 0.5\nnext\n"
    assert measured.notebook.metadata.shelf.measured.cpu.parameters == {"STEPS": 7, "SEEDS": [3]}  # RATE is its own
    assert code_digest(measured.notebook) == measured.before


def test_budget_table_and_badge_are_written(measured):
    title, badge, _, *table = measured.notebook.cells[0].source.replace("\n\n", "\n").split("\n")
    assert title == "# Tiny"
    assert badge.endswith("/blob/main/Chapter01/Tiny.ipynb)")
    assert table[-1].endswith("| loss 3.50 with STEPS = 7, SEEDS = [3] |")


def test_neighbouring_streams_are_one(measured):
    assert len(code_cells(measured.notebook)[2].outputs) == 1


def test_progress_bars_become_their_last_state(measured):
    assert "widgets" not in measured.notebook.metadata
    outer, = code_cells(measured.notebook)[3].outputs  # the inner ones took themselves away
    assert outer.data.keys() == {"text/plain"}
    assert outer.data["text/plain"].startswith("outer & all: 100%|██████████| 2/2 [")
    assert code_cells(measured.notebook)[4].outputs == []


def test_overwritten_text_and_paths_are_shortened(measured):
    assert output_text(code_cells(measured.notebook)[5]) == (
        "third\n<cell>:2: UserWarning: careful\n  warnings.warn('careful')\n")
    printed, shown = code_cells(measured.notebook)[6].outputs
    model, package, home = printed.text.replace("\\", "/").splitlines()
    assert (model, package, home) == ("./model.bin", "site-packages/numpy/__init__.py", "~/data")
    assert shown.data["text/plain"].endswith("Path('.')")
    assert str(Path.home()) not in measured.path.read_text(encoding="utf-8")


def test_metadata_are_normal(measured):
    assert measured.notebook.metadata.kernelspec.name == "python3"
    assert measured.notebook.metadata.language_info == {"name": "python"}
    assert code_cells(measured.notebook)[-1].metadata == {"tags": ["results"]}


def test_nothing_lands_beside_the_notebook(measured):
    assert sorted(path.name for path in measured.path.parent.iterdir()) == ["Tiny.ipynb", "picture.txt"]
    assert sorted(path.name for path in measured.folder.iterdir()) == ["Chapter01", "tmp ü (1)", "torch"]


# ---- runs that go wrong


@pytest.mark.parametrize(("code", "message"), [
    (["x = 1", "\nx / 0", RESULTS], "code cell 2 (x / 0): ZeroDivisionError: division by zero"),
    (["import os\nos._exit(1)", RESULTS], "code cell 1 (import os): the kernel died here"),
    (["x = 1"], "no results: the notebook must bind `results`"),
    (["results = {'loss': float('nan')}"], "results['loss'] is nan, not a finite number"),
    (["x = 1", "print('x' * 1_600_000)", RESULTS], "over the limit of 1.5; largest: code cell 2"),
], ids=["exception", "dead kernel", "no results", "nan", "too large"])
def test_failed_run_leaves_the_notebook_as_it_was(tmp_path, capsys, code, message):
    path = make(tmp_path, *code)
    before = path.read_bytes()
    assert measure.main([str(path)]) == 1
    assert path.read_bytes() == before
    error = capsys.readouterr().err
    assert f"Chapter01/Tiny.ipynb: {message}" in error.replace("1.6 MB with its outputs, ", "")
    assert "Traceback" not in error


def test_run_that_is_too_large_is_kept(tmp_path, capsys):
    path = make(tmp_path, "print('x' * 1_600_000)", RESULTS)
    assert measure.main([str(path)]) == 1
    assert "largest: code cell 1 (print('x' * 1_600_000)) 1.6 MB" in (error := capsys.readouterr().err)
    assert "The run is kept in executed/Chapter01/Tiny.ipynb." in error
    run = read(tmp_path / "executed" / "Chapter01" / "Tiny.ipynb")
    assert len(code_cells(run)[0].outputs[0].text) > 1_600_000
    assert run.metadata.shelf.measured.cpu.results == {"loss": 1.5}


def test_time_limit(tmp_path, capsys):
    path = make(tmp_path, "x = 1", "import time\ntime.sleep(60)", RESULTS)
    before = path.read_bytes()
    assert measure.main(["--timeout", "1", str(path)]) == 1
    assert path.read_bytes() == before
    assert "Tiny.ipynb: code cell 2 (import time): the time limit was reached here" in capsys.readouterr().err


def test_edit_during_the_run_is_kept(tmp_path, capsys):
    edit = f"from pathlib import Path\nPath({str(tmp_path)!r}, 'Chapter01', 'Tiny.ipynb').write_text('mine')"
    path = make(tmp_path, edit, RESULTS)
    assert measure.main([str(path)]) == 1
    assert path.read_text() == "mine"
    assert "was changed while its notebook ran" in capsys.readouterr().err
    assert read(tmp_path / "executed" / "Chapter01" / "Tiny.ipynb").metadata.shelf.measured.cpu.results == {"loss": 1.5}


# ---- the first part


def in_two_parts(folder: Path, **changes) -> Path:
    """A notebook whose second part asks a hub, here in vain; it has old outputs there."""
    old = [new_output("stream", text="old")]
    cells = [new_code_cell("results = {'loss': 1.5}\nresults", metadata={"tags": ["results"]}),
             new_code_cell("1 / 0  # no hub here", metadata={"tags": ["hub"]}, outputs=old, execution_count=3),
             new_code_cell("results |= {'more': 2}\nresults", metadata={"tags": ["results"]}, outputs=old)]
    return make(folder, "import math", *cells, first_result="loss {loss:.1f}", download="1 GB", **changes)


def test_first_part_is_run_and_stored(tmp_path):
    path = in_two_parts(tmp_path)
    assert measure.main(["--first-part", str(path)]) == 0
    notebook = read(path)
    entry = notebook.metadata.shelf.measured.cpu
    assert [cell.execution_count for cell in code_cells(notebook)] == [1, 2, None, None]
    assert [bool(cell.outputs) for cell in code_cells(notebook)] == [False, True, False, False]
    assert (entry.results, entry.first_part) == ({"loss": 1.5}, True)
    assert entry.code == code_digest(first_part(notebook)) != code_digest(notebook)
    assert notebook.cells[0].source.endswith(
        "| none | 1 GB | first part: < 0.1 min | – | first part measured: loss 1.5 |")


def test_whole_run_takes_the_place_of_the_first_part(tmp_path, capsys):
    path = in_two_parts(tmp_path)
    notebook = read(path)
    notebook.cells[3].source = "x = 1"
    part = first_part(notebook)
    notebook.metadata.shelf.measured = {"cpu": {**ENTRY, "code": code_digest(part), "first_part": True}}
    nbformat.write(notebook, path)
    assert measure.main([str(path)]) == 0
    entry = read(path).metadata.shelf.measured.cpu
    assert (entry.results, "first_part" in entry) == ({"loss": 1.5, "more": 2}, False)
    before = path.read_bytes()
    assert measure.main(["--first-part", str(path)]) == 1
    assert "Chapter01/Tiny.ipynb: is measured whole" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_no_first_part_without_its_tag(tmp_path, capsys):
    assert measure.main(["--first-part", str(make(tmp_path, RESULTS))]) == 1
    assert "Chapter01/Tiny.ipynb: no cell is tagged `hub`" in capsys.readouterr().err


# ---- whatever is missing

ENTRY = {"seconds": 1.0, "downloaded_mb": 0.0, "parameters": {}, "date": "2026-01-01", "results": {"loss": 1.0}}


def record(path: Path, part: bool = False, **changes) -> Path:
    """Give the notebook the record of a run by its present code, of the first part or of the whole."""
    notebook = read(path)
    code = code_digest(first_part(notebook) if part else notebook)
    entry = {**ENTRY, "code": code, **({"first_part": True} if part else {}), **changes}
    assert is_current(entry, notebook) is ("code" not in changes)
    notebook.metadata.shelf.measured = {"gpu": entry}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> dict[str, Path]:
    """Name -> path of notebooks measured in every degree; they are the shelf. Running one is only noted."""
    paths = {
        "whole": record(make(tmp_path, RESULTS, name="Whole")),
        "whole with hub": record(in_two_parts(tmp_path, name="WholeHub")),
        "never": make(tmp_path, RESULTS, name="Never"),
        "never, with hub": in_two_parts(tmp_path, name="NeverHub"),
        "first part": record(in_two_parts(tmp_path, name="First"), part=True),
        "other code": record(make(tmp_path, RESULTS, name="Edited"), code="0" * 12),
        "other parameters": record(make(tmp_path, RESULTS, name="Short"), parameters={"EPOCHS": 1}),
        "broken": tmp_path / "Chapter01" / "Broken.ipynb",
    }
    paths["broken"].write_text("{")
    monkeypatch.setattr(measure, "notebooks", lambda: list(paths.values()))
    return paths


@pytest.mark.parametrize(("first", "wanted"), [
    (False, {"never", "never, with hub", "first part", "other code", "other parameters", "broken"}),
    (True, {"never, with hub", "broken"}),
])
def test_what_is_missing(shelf, first, wanted):
    assert {name for name, path in shelf.items() if measure.is_missing(path, first)} == wanted


def test_missing_goes_on_after_a_failure_and_ends_with_a_table(shelf, monkeypatch, capsys):
    def run(path, values, timeout, first):
        if path == shelf["never"]:
            raise NotebookError("Chapter01/Never.ipynb: code cell 3 (x / 0): ZeroDivisionError\n      more of it")
        if path == shelf["other parameters"]:
            raise KeyboardInterrupt
        read(path)
        return "1.5 s, 400 MB, some CPU: loss 1.5\n      more of it"

    monkeypatch.setattr(measure, "measure", run)
    assert measure.main(["--missing"]) == 130
    captured = capsys.readouterr()
    assert captured.out.partition("\n\n")[2] == """\
Chapter01/Never.ipynb     FAILED: code cell 3 (x / 0): ZeroDivisionError
Chapter01/NeverHub.ipynb  done: 1.5 s, 400 MB, some CPU: loss 1.5
Chapter01/First.ipynb     done: 1.5 s, 400 MB, some CPU: loss 1.5
Chapter01/Edited.ipynb    done: 1.5 s, 400 MB, some CPU: loss 1.5
Chapter01/Short.ipynb     interrupted
Chapter01/Broken.ipynb    not begun
3 of 6 done
"""
    assert "[6/6]" not in captured.out and "[5/6]" in captured.out


def test_missing_of_the_named_notebooks_only(shelf, monkeypatch):
    seen = []
    monkeypatch.setattr(measure, "measure", lambda path, *_: seen.append(path) or "done")
    assert measure.main(["--missing", str(shelf["whole"]), str(shelf["first part"])]) == 0
    assert seen == [shelf["first part"]]


@pytest.mark.parametrize("arguments", [
    [], ["--first-part"], ["--clear", "--missing"], ["--clear", "--first-part", "x"], ["--clear", "--set", "A=1", "x"]])
def test_options_that_do_not_go_together(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        measure.main(arguments)


@pytest.mark.parametrize(("results", "message"), [
    ({}, "must bind `results`"),
    ([("loss", 1.0)], "must bind `results`"),
    ({"loss": math.inf}, "results['loss'] is inf, not a finite number"),
    ({"loss": "1"}, "results['loss'] is '1' of type str, not a number"),
    ({"loss": True}, "results['loss'] is True of type bool, not a number"),
    ({"loss": {"a": 1.0}}, "of type dict, not a number"),
    ({1: 1.0}, "the key 1 is not a name"),
    ({"top 1": 1.0}, "the key 'top 1' is not a name"),
])
def test_results_must_be_names_and_finite_numbers(monkeypatch, results, message):
    shell = SimpleNamespace(user_ns={"results": results})
    monkeypatch.setattr(measure, "get_ipython", lambda: shell, raising=False)
    with pytest.raises(ValueError, match=re.escape(message)):
        measure._kernel_report()


def test_others_are_measured_after_a_failure(tmp_path, capsys):
    corrupt = tmp_path / "Chapter01" / "Corrupt.ipynb"
    good = make(tmp_path, RESULTS)
    corrupt.write_text("{")
    assert measure.main([str(corrupt), str(tmp_path / "Chapter01" / "Nowhere.ipynb"), str(good)]) == 1
    assert read(good).metadata.shelf.measured.cpu.results == {"loss": 1.5}
    assert corrupt.read_text() == "{"
    captured = capsys.readouterr()
    assert "Corrupt.ipynb: not a valid notebook" in captured.err
    assert "Nowhere.ipynb: no such notebook" in captured.err
    assert "[3/3]" in captured.out


def test_malformed_metadata_show_before_the_run(tmp_path, capsys):
    path = make(tmp_path, "raise SystemError('it ran')", learn="")
    assert measure.main([str(path)]) == 1
    assert "Chapter01/Tiny.ipynb: shelf.learn is ''" in capsys.readouterr().err


def test_slip_in_the_result_string_does_not_lose_the_run(tmp_path, capsys):
    path = make(tmp_path, RESULTS, result="accuracy {accuracy}")
    assert measure.main([str(path)]) == 0
    assert read(path).metadata.shelf.measured.cpu.results == {"loss": 1.5}
    assert "asks for 'accuracy'" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C alone on Windows")
def test_interrupted_run_leaves_the_notebook_and_no_process(tmp_path):
    child = f"[{sys.executable!r}, '-c', 'import time; time.sleep(300)']"
    path = make(tmp_path, f"import subprocess, time\nsubprocess.Popen({child}, start_new_session=True)",
                "print('at work')\ntime.sleep(60)", RESULTS)
    other = make(tmp_path, RESULTS, name="Other")
    before = path.read_bytes(), other.read_bytes()
    command = [sys.executable, "-m", "tests.measure", str(path), str(other)]
    # As from a script that runs pytest in the background, where Ctrl-C is ignored from the start.
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as tool:
        started = wait_for(lambda: [process for process in psutil.Process(tool.pid).children(recursive=True)
                                    if "time.sleep" in " ".join(process.cmdline())])
        family = psutil.Process(tool.pid).children(recursive=True)
        time.sleep(0.5)
        tool.send_signal(signal.SIGINT)
        error = tool.communicate()[1]
    assert started and len(family) >= 2
    assert tool.returncode == 130
    assert error == "      Chapter01/Tiny.ipynb: interrupted\n      The notebook is as it was.\n"
    assert (path.read_bytes(), other.read_bytes()) == before
    assert not wait_for(lambda: [process for process in family if alive(process)], wanted=False)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(look, wanted: bool = True, seconds: float = 300):
    """What `look` returns as soon as its truth is `wanted`, or at the end of the time."""
    end = time.monotonic() + seconds
    while bool(found := look()) is not wanted and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(("value", "message"), [
    ("STEP=7", "no parameter STEP; there are: STEPS, NAME"),
    ("STEPS=7.5", "7.5 is of another type than the notebook's STEPS = 3"),
    ("STEPS=True", "True is of another type"),
    ("NAME=3", "3 is of another type than the notebook's NAME = 'a'"),
])
def test_wrong_value_stops_before_anything_runs(tmp_path, capsys, value, message):
    parameters = new_code_cell("STEPS = 3\nNAME = 'a'", metadata={"tags": ["parameters"]})
    path = make(tmp_path, parameters, RESULTS)
    before = path.read_bytes()
    assert measure.main(["--set", value, str(path)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert path.read_bytes() == before


def test_miniature_world_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MCVP_OFFLINE", "1")
    path = make(tmp_path, RESULTS)
    before = path.read_bytes()
    assert measure.main([str(path)]) == 1
    assert "miniature world" in capsys.readouterr().err
    assert path.read_bytes() == before


# ---- the parts


def test_clear_takes_outputs_and_measurements_out(tmp_path):
    cell = new_code_cell(RESULTS, execution_count=4, outputs=[new_output("stream", text="old")])
    entry = {"code": "0" * 12, "seconds": 1.0, "downloaded_mb": 0.0, "parameters": {}, "date": "2026-01-01"}
    path = make(tmp_path, cell, measured={"cpu": {**entry, "results": {"loss": 1.0}}})
    assert measure.main(["--clear", str(path)]) == 0
    notebook = read(path)
    assert (notebook.cells[1].outputs, notebook.cells[1].execution_count) == ([], None)
    assert "measured" not in notebook.metadata.shelf
    assert notebook.cells[0].source.endswith("| – |")


def test_ids_do_not_depend_on_how_the_notebook_was_written():
    def ids() -> list[str]:
        sources = ["# T", "x = 1", "x = 1", "y = 2\nx"]
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])  # each with a random id
        measure.normalise(notebook, [])
        nbformat.validate(notebook)
        return [cell.id for cell in notebook.cells]

    assert ids() == ids()
    assert len(set(ids())) == 4


def test_normal_form_stays(measured):
    again = read(measured.path)
    measure.normalise(again, measure.short_forms(measured.path, measured.folder / "scratch"))
    assert nbformat.writes(again) == nbformat.writes(measured.notebook)


def test_pictures_are_left_alone(tmp_path):
    places = [("/root", "~")]
    html = "<img src='data:image/png;base64,iVBOR/root/QQ=='> file:///root/x.txt /root-beer '/root'"
    output = new_output("display_data", data={"image/png": "/root/", "text/html": html})
    cell = new_code_cell("x", outputs=[output])
    measure.normalise(new_notebook(cells=[cell]), places)
    assert cell.outputs[0].data["image/png"] == "/root/"
    assert cell.outputs[0].data["text/html"] == (
        "<img src='data:image/png;base64,iVBOR/root/QQ=='> ~/x.txt /root-beer '~'")


def test_every_librarys_cache_is_watched(tmp_path, monkeypatch):
    """Each of these folders gets a file, as from a library that downloads."""
    settings = {"weights_dir": str(tmp_path / "weights"), "datasets_dir": "relative", "sync": False}
    (tmp_path / "yolo" / "Ultralytics").mkdir(parents=True)
    (tmp_path / "yolo" / "Ultralytics" / "settings.json").write_text(json.dumps(settings))
    variables = {"TORCH_HOME": "torch", "HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "sets",
                 "SCIKIT_LEARN_DATA": "learn", "SKIMAGE_DATADIR": "image", "YOLO_CONFIG_DIR": "yolo"}
    for variable, name in variables.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(measure.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    before = measure.megabytes(measure.cache_folders())
    files = ["torch/hub/x.pth", "hub/models--x/blobs/x", "sets/downloads/x", "learn/x.npz", "image/main/data/x.png",
             "cache/pooch/x", "cache/scipy-data/x", "yolo/Ultralytics/Arial.ttf", "weights/yolo11n.pt"]
    for number, name in enumerate(files, start=1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1_000_000))
        assert measure.megabytes(measure.cache_folders()) - before == pytest.approx(number), name


def test_cache_of_ultralytics_without_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    assert measure._ultralytics_folders() == [tmp_path / "Ultralytics"]
    (tmp_path / "Ultralytics").mkdir()
    (tmp_path / "Ultralytics" / "settings.json").write_text("[broken")
    assert measure._ultralytics_folders() == [tmp_path / "Ultralytics"]


def test_download_that_an_earlier_run_recorded_stays(tmp_path):
    notebook = read(make(tmp_path, RESULTS, measured={"gpu": {"downloaded_mb": 30.0}}))
    run = measure.Run(seconds=1, host_peak_mb=1, downloaded_mb=0.0, results={}, threads=1, accelerator=None,
                      device_peak_mb=None)
    assert measure.measurement(notebook, run, {})[1]["downloaded_mb"] == 30.0


@pytest.mark.parametrize(("peak", "slot", "device", "megabytes"), [
    (5e6, "gpu", "Some GPU", 5), (0, "cpu", f"{measure.cpu_name()}, 2 threads", None)])
def test_accelerator_decides_the_slot_when_it_was_used(tmp_path, monkeypatch, peak, slot, device, megabytes):
    """A stand-in for torch with a CUDA device, on which the notebook did or did not put anything."""
    torch = SimpleNamespace(
        get_num_threads=lambda: 2,
        accelerator=SimpleNamespace(
            is_available=lambda: True, current_accelerator=lambda: SimpleNamespace(type="cuda")),
        cuda=SimpleNamespace(max_memory_allocated=lambda: peak, get_device_name=lambda: "Some GPU"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    shell = SimpleNamespace(user_ns={"results": {"loss": 1.0}})
    monkeypatch.setattr(measure, "get_ipython", lambda: shell, raising=False)
    run = measure.Run(seconds=1, host_peak_mb=1, downloaded_mb=0, **json.loads(measure._kernel_report()))
    found, entry = measure.measurement(read(make(tmp_path, RESULTS)), run, {})
    assert found == slot
    assert (entry["device"], entry["device_peak_mb"]) == (device, megabytes)
