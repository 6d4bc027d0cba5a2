"""Measure notebooks: run them in full, store their outputs, and record what the run took and what came out.

    python -m tests.measure Chapter01/*.ipynb
    python -m tests.measure --missing
    python -m tests.measure --first-part Chapter15/Needs_weights_from_a_hub.ipynb
    python -m tests.measure --set EPOCHS=3 Chapter03/Some_notebook.ipynb
    python -m tests.measure --clear Chapter05/Too_large_for_this_machine.ipynb

Each notebook runs as it stands, top to bottom, in a fresh kernel of this interpreter, with the network open and with
the user's own caches; its working folder is a scratch copy of its chapter, so nothing lands in the repository. Then its
outputs, normalised, and the measurement (`shelf.measured.cpu`, or `.gpu` where an accelerator was used) are stored in
one step, with the budget table. All or nothing: where anything fails or is interrupted, the file stays as it was. A run
that cannot be stored because its outputs are too large is kept below `executed`, where git does not look.
"""
from __future__ import annotations

import argparse
import ast
import hashlib
import html
import inspect
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from glob import glob
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import nbformat
import platformdirs
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tests import catalogue
from tests.notebooks import (
    SIZE_LIMIT,
    NotebookError,
    code_cells,
    code_digest,
    first_part,
    is_current,
    name_of,
    notebooks,
    parameters,
    parse,
    read,
    same_type,
    tagged,
    write,
)
from tests.offline.site.mcvp_classroom import copy_folder
from tests.quick import set_parameters, shaped

PROGRESS_BAR = re.compile(r"\d%\||\d\S{0,9} \[\d+:\d\d[,<]")  # of tqdm, with and without a total
SAMPLING_SECONDS = 0.2  # between two looks at the memory of the kernel's processes


# ---- the run


@dataclass(frozen=True)
class Run:
    """What a complete run took, and what the kernel said at its end."""

    seconds: float  # first cell to last, without the start of the kernel
    host_peak_mb: float
    downloaded_mb: float
    results: dict[str, float]
    threads: int
    accelerator: str | None  # its name; None where the notebook put nothing on one
    device_peak_mb: float | None


class ThisInterpreter(KernelSpecManager):
    """Knows one kernel, that of this interpreter, whatever kernels the user has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


class ProcessTree(threading.Thread):
    """Watches a process and all its descendants: their peak memory together, and that none of them outlives the run.

    `peak_mb` is the largest sum of resident memory seen; memory that processes share counts in each of them.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._root = psutil.Process(pid)
        self._seen = {self._root}
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        resident = 0
        try:
            members = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:  # the kernel has just died
            return
        self._seen.update(members)
        for member in members:
            with suppress(psutil.Error):  # this one has just ended
                resident += member.memory_info().rss
        self.peak_mb = max(self.peak_mb, resident / 1e6)

    def stop(self) -> None:
        """Take the last sample."""
        self._done.set()
        self.join()
        self._sample()

    def kill(self) -> None:
        """End every process that was seen and still runs."""
        for member in self._seen:
            with suppress(psutil.Error):
                member.kill()


def execute(notebook: NotebookNode, path: Path, values: dict[str, Any], scratch: Path, timeout: float | None) -> Run:
    """Run the notebook in a fresh kernel, its parameters set to `values`; the cells of `notebook` get their outputs.

    `scratch` is an empty folder, `timeout` the seconds that the whole notebook may take. Raises NotebookError, naming
    the cell, where one fails, the time is over, the kernel dies, or there are no valid `results` at the end.
    """
    name = name_of(path)
    folder = scratch / path.parent.name
    copy_folder(path.parent, folder)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    caches = cache_folders()
    cached = megabytes(caches)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel's own
    own_sources = [(cell, cell.source) for cell in tagged(notebook, "parameters")]
    set_parameters(notebook, values)
    with _kernel(notebook, folder, environment) as (client, tree):
        started = time.monotonic()
        if timeout is not None:
            client.timeout_func = lambda cell: max(0.1, started + timeout - time.monotonic())
        for index, cell in enumerate(notebook.cells):
            with _named_errors(notebook, cell, name):
                client.execute_cell(cell, index)
        seconds = time.monotonic() - started
        tree.stop()
        report = _ask(client, inspect.getsource(_kernel_report), "_kernel_report()")
    if report["status"] == "error":
        raise NotebookError(f"{name}: {report['evalue']}")
    for cell, source in own_sources:
        cell.source = source
    flatten_widgets(notebook, client.widget_state)
    return Run(seconds=seconds, host_peak_mb=tree.peak_mb, downloaded_mb=megabytes(caches) - cached,
               **json.loads(ast.literal_eval(report["data"]["text/plain"])))


@contextmanager
def _kernel(notebook: NotebookNode, folder: Path, environment: dict[str, str]
            ) -> Iterator[tuple[NotebookClient, ProcessTree]]:
    """A fresh kernel in `folder`, and its processes; none of them is left at the end, however the body ends."""
    silent = logging.getLogger("tests.measure.nbclient")
    silent.disabled = True  # what it would say is raised, too
    client = NotebookClient(notebook, km=AsyncKernelManager(kernel_spec_manager=ThisInterpreter()), log=silent)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # cells' prints come as outputs all the same
    with client.setup_kernel(cleanup_kc=True, cwd=str(folder), env=environment, **quiet):
        tree = ProcessTree(client.km.provisioner.pid)
        tree.start()
        try:
            yield client, tree
        except (KeyboardInterrupt, NotebookError):
            client.shutdown_kernel = "immediate"  # it may be busy, and a busy kernel takes long to go by itself
            raise
        finally:
            tree.stop()
            if client.shutdown_kernel == "immediate":
                tree.kill()
    tree.kill()


@contextmanager
def _named_errors(notebook: NotebookNode, cell: NotebookNode, name: str) -> Iterator[None]:
    """Turn what goes wrong in a cell into a NotebookError that names the cell."""
    try:
        yield
    except CellExecutionError as error:
        problem = f"{error.ename}: {error.evalue}".strip()
    except CellTimeoutError:
        problem = "the time limit was reached here"
    except DeadKernelError:
        problem = "the kernel died here; was there enough memory?"
    else:
        return
    raise NotebookError(f"{name}: {_place(notebook, cell)}: {problem}")


def _place(notebook: NotebookNode, cell: NotebookNode) -> str:
    """`code cell 3 (first line)`: the number is the one that Jupyter shows after a run."""
    number = next(number for number, other in enumerate(code_cells(notebook), start=1) if other is cell)
    return f"code cell {number} ({(cell.source.strip().splitlines() or [''])[0]})"


def _ask(client: NotebookClient, source: str, expression: str) -> dict[str, Any]:
    """Run `source` in the kernel, without a trace in its history, then the expression; the kernel's answer to that.

    The answer has `status`; where it is "ok" there is `data`, where it is "error" there are `ename` and `evalue`.
    """
    reply = client.wait_for_reply(client.kc.execute(source, silent=True, user_expressions={"answer": expression}))
    return reply["content"].get("user_expressions", {}).get("answer", reply["content"])


def _kernel_report() -> str:
    """Runs in the kernel, after the last cell: the notebook's results and what it used, as JSON.

    Raises ValueError unless `results` is a flat dict of names to finite numbers.
    """
    import json
    import math
    import numbers
    import os
    import sys

    results = get_ipython().user_ns.get("results")  # noqa: F821
    if not isinstance(results, dict) or not results:
        raise ValueError("no results: the notebook must bind `results`, a dict of name to number")
    plain = {}
    for name, value in results.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"results: the key {name!r} is not a name")
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ValueError(f"results[{name!r}] is {value!r} of type {type(value).__name__}, not a number")
        if not math.isfinite(value):
            raise ValueError(f"results[{name!r}] is {value!r}, not a finite number")
        plain[name] = int(value) if isinstance(value, numbers.Integral) else float(value)
    threads = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or os.cpu_count())
    report = {"results": plain, "threads": threads, "accelerator": None, "device_peak_mb": None}
    torch = sys.modules.get("torch")
    if torch is not None:
        report["threads"] = torch.get_num_threads()
        if torch.accelerator.is_available():
            kind = torch.accelerator.current_accelerator().type
            backend = getattr(torch, kind)
            peak = getattr(backend, "max_memory_allocated", None) or backend.driver_allocated_memory  # MPS has no peak
            if peak() > 0:
                report["device_peak_mb"] = peak() / 1e6
                report["accelerator"] = getattr(backend, "get_device_name", lambda: kind)()
    return json.dumps(report)


def cache_folders() -> list[Path]:
    """The folders into which the libraries download data and weights, as the environment sets them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    huggingface = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    pooch = {name: Path(platformdirs.user_cache_dir(name)) for name in ("scikit-image", "scipy-data", "pooch")}
    if os.environ.get("SKIMAGE_DATADIR"):
        pooch["scikit-image"] = Path(os.environ["SKIMAGE_DATADIR"])
    return [
        *pooch.values(),
        *_ultralytics_folders(),
        Path(os.environ.get("TORCH_HOME") or cache / "torch"),
        Path(os.environ.get("HF_HUB_CACHE") or huggingface / "hub"),
        Path(os.environ.get("HF_DATASETS_CACHE") or huggingface / "datasets") / "downloads",
        Path(os.environ.get("SCIKIT_LEARN_DATA") or Path.home() / "scikit_learn_data"),
    ]


def _ultralytics_folders() -> list[Path]:
    """Where ultralytics keeps fonts, weights and data; the last two as its own settings say."""
    own = os.environ.get("YOLO_CONFIG_DIR")
    home = Path(own, "Ultralytics") if own else Path(platformdirs.user_config_dir("Ultralytics", False, roaming=True))
    found = [home]
    with suppress(OSError, ValueError, AttributeError):  # none yet, or not readable
        settings = json.loads((home / "settings.json").read_text(encoding="utf-8"))
        folders = [Path(settings.get(key, "")) for key in ("weights_dir", "datasets_dir")]
        found += [folder for folder in folders if folder.is_absolute()]
    return found


def megabytes(folders: list[Path]) -> float:
    """The size of all files in the folders, links not followed."""
    total = 0
    for folder in folders:
        for place, _, files in os.walk(folder):
            for file in files:
                with suppress(OSError):  # removed while we look
                    total += os.lstat(os.path.join(place, file)).st_size
    return total / 1e6


# ---- the record


def measurement(notebook: NotebookNode, run: Run, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The slot ("cpu" or "gpu") and the entry for `shelf.measured`.

    A download that an earlier run has recorded stays recorded: its files are in the cache since.
    """
    differing = {name: value for name, value in values.items() if value != parameters(notebook)[name]}
    earlier = notebook.metadata.shelf.get("measured", {}).values()
    return "gpu" if run.accelerator else "cpu", {
        "date": date.today().isoformat(),
        "seconds": round(run.seconds, 1),
        "host_peak_mb": round(run.host_peak_mb),
        "device_peak_mb": None if run.device_peak_mb is None else round(run.device_peak_mb),
        "downloaded_mb": round(max([run.downloaded_mb, *(entry["downloaded_mb"] for entry in earlier)]), 1),
        "device": run.accelerator or f"{cpu_name()}, {run.threads} thread{'s' if run.threads > 1 else ''}",
        "versions": versions(notebook),
        "parameters": json.loads(json.dumps(differing)),  # a tuple becomes the list that will be read back
        "code": code_digest(notebook),
        "results": run.results,
    }


def cpu_name() -> str:
    """The processor's model, as far as the system tells."""
    if sys.platform == "linux":
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    return platform.processor() or platform.machine()


def versions(notebook: NotebookNode) -> dict[str, str]:
    """The versions of Python and of the installed packages that the notebook imports, by their names as installed."""
    imported = set()
    for cell in code_cells(notebook):
        for node in ast.walk(parse(cell.source)):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    installed = packages_distributions()
    packages = {package for module in imported for package in installed.get(module, [])[:1]}
    return {"python": platform.python_version(), **{package: version(package) for package in sorted(packages)}}


# ---- the file


def normalise(notebook: NotebookNode, places: list[tuple[str, str]]) -> None:
    """Give the notebook the form in which it is stored; `places` as from `short_forms`.

    The same outputs always give the same file: ids by content, kernel and language by name only, no timing, no widget
    state, one stream where several follow each other, overwritten text gone, no absolute paths.
    """
    _give_ids(notebook)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    for cell in code_cells(notebook):
        cell.outputs = [_without_paths(output, places) for output in _tidy_streams(cell.outputs)]


def _give_ids(notebook: NotebookNode) -> None:
    """Ids made from the cells' first lines: the same for every run, and most edits of a cell leave it its id."""
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)  # ids came with 4.5
    times = Counter()
    for cell in notebook.cells:
        first_line = cell.source.partition("\n")[0]
        digest = hashlib.sha256(first_line.encode()).hexdigest()[:8]
        times[digest] += 1
        cell.id = digest if times[digest] == 1 else f"{digest}-{times[digest]}"


def flatten_widgets(notebook: NotebookNode, models: dict[str, dict[str, Any]]) -> None:
    """Replace each widget in the outputs by its text; `models` is the last state of every widget, by its id.

    A progress bar gets its last state, one that was taken away at its end (`leave=False`) is dropped, any other widget
    gets the text that the kernel sent with it.
    """
    for cell in code_cells(notebook):
        kept = []
        for output in cell.outputs:
            view = output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if view is not None:
                state = models.get(view["model_id"], {})
                if _state_of(state.get("layout"), models).get("visibility") == "hidden":
                    continue
                output.data["text/plain"] = _widget_text(state, models) or output.data.get("text/plain", "")
            kept.append(output)
        cell.outputs = kept


def _state_of(reference: str | None, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The state that a widget's `IPY_MODEL_<id>` refers to."""
    return models.get((reference or "").removeprefix("IPY_MODEL_"), {})


def _widget_text(state: dict[str, Any], models: dict[str, dict[str, Any]]) -> str | None:
    """What a tqdm bar (a row of text, bar, text) shows; None for any other widget."""
    kind = state.get("_model_name")
    if kind == "HTMLModel":
        return html.unescape(state["value"]).replace("\N{FIGURE SPACE}", " ")
    if kind == "FloatProgressModel":
        return "|" + "█" * round(10 * min(1, state["value"] / (state["max"] or 1))) + "|"
    if kind == "HBoxModel":
        texts = [_widget_text(_state_of(child, models), models) for child in state["children"]]
        return None if None in texts else "".join(texts)
    return None


def _tidy_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs with neighbouring streams of one name joined, as Jupyter shows them, and finished bars left out."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = _overwritten(output.text)
    return [output for output in joined if not (output.output_type == "stream" and _is_empty(output))]


def _overwritten(text: str) -> str:
    """What stands on a terminal after `text`: a carriage return starts its line anew."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r ").rpartition("\r")[2] if "\r" in line else line for line in lines)


def _is_empty(stream: NotebookNode) -> bool:
    """Whether a stream has nothing to read: it is blank, or stderr with nothing but progress bars."""
    lines = [line for line in stream.text.splitlines() if line.strip()]
    return not lines or (stream.name == "stderr" and all(PROGRESS_BAR.search(line) for line in lines))


def short_forms(path: Path, scratch: Path) -> list[tuple[str, str]]:
    """Pattern and short form of every place whose absolute path may stand in the outputs of the notebook at `path`."""
    root = path.parent.parent
    temporary = Path(tempfile.gettempdir())
    places = {
        scratch / path.parent.name: ".", scratch: "..", path.parent: ".", root: "..",
        Path(sysconfig.get_path("purelib")): "site-packages", Path(sysconfig.get_path("platlib")): "site-packages",
        Path(sysconfig.get_path("stdlib")): "python", Path(sys.prefix): "python", temporary: "<tmp>", Path.home(): "~",
    }
    for variable in ("TORCH_HOME", "HF_HOME"):
        if os.environ.get(variable):
            places.setdefault(Path(os.environ[variable]), f"${variable}")
    written = {}  # as the system writes the path, resolved, with forward slashes, and as repr() writes it
    for place, short in places.items():
        for form in (place, place.resolve()):
            for text in (str(form), form.as_posix(), str(form).replace("\\", "\\\\")):
                if len(form.parts) > 1:  # not the root of the file system
                    written.setdefault(text, short)
    patterns = [(re.escape(text), short) for text, short in sorted(written.items(), key=lambda item: -len(item[0]))]
    cell = rf"(?:{re.escape(str(temporary))}|{re.escape(str(temporary.resolve()))})[/\\]ipykernel_\d+[/\\]\d+\.py"
    return [(cell, "<cell>"), *patterns]


def _without_paths(value: Any, places: list[tuple[str, str]]) -> Any:
    """The output, or a part of it, with the short forms for the places; pictures are left alone."""
    if isinstance(value, str):
        for pattern, short in places:  # a path begins and ends where a name does; so no base64 of a picture is touched
            value = re.sub(rf"(?<![\w+/.~$-])(?:file://)?(?:{pattern})(?![\w-])", lambda _, short=short: short, value)
    elif isinstance(value, list):
        value = [_without_paths(item, places) for item in value]
    elif isinstance(value, dict):
        for key in value:
            if key not in ("image/png", "image/jpeg", "image/gif"):
                value[key] = _without_paths(value[key], places)
    return value


def check_size(notebook: NotebookNode, name: str) -> None:
    """Raise NotebookError, with the largest cells, where the notebook would be larger than the limit."""
    size = len(nbformat.writes(notebook).encode())
    if size > SIZE_LIMIT:
        sizes = {_place(notebook, cell): len(json.dumps(cell.outputs)) for cell in code_cells(notebook)}
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        raise NotebookError(f"{name}: {size / 1e6:.1f} MB with its outputs, over the limit of {SIZE_LIMIT / 1e6:.1f}; "
                            "largest: " + ", ".join(f"{cell} {sizes[cell] / 1e6:.1f} MB" for cell in largest))


# ---- the command


def shaped_values(values: dict[str, Any], notebook: NotebookNode, name: str) -> dict[str, Any]:
    """The values in the types of the notebook's parameters; NotebookError for an unknown name or another type."""
    own = parameters(notebook) if values else {}
    for parameter, value in values.items():
        if parameter not in own:
            raise NotebookError(f"{name}: no parameter {parameter}; there are: {', '.join(own) or 'none'}")
        if not same_type(value, own[parameter]):
            raise NotebookError(f"{name}: {value!r} is of another type than the notebook's {parameter} = "
                                f"{own[parameter]!r}")
    return {parameter: shaped(value, own[parameter]) for parameter, value in values.items()}


def measure(path: Path, values: dict[str, Any], timeout: float | None = None, first: bool = False) -> str:
    """Run the notebook and store its outputs and its measurement; returns a line on what was found.

    With `first`, only the cells before the one tagged `hub` run, and the others end without outputs. Raises
    NotebookError, and leaves the file as it was, where the run fails (see `execute`) or its outputs are too large.
    """
    name, notebook = name_of(path), read(path)
    before = path.read_bytes()
    values = shaped_values(values, notebook, name)
    catalogue.title_source(notebook, name)  # what is wrong with title and metadata shows before the run
    part = part_to_run(notebook, first, name)
    for cell in code_cells(notebook)[len(code_cells(part)):]:  # `execute` does it for those that it runs
        cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory(prefix="measure-", ignore_cleanup_errors=True) as scratch:
        run = execute(part, path, values, Path(scratch), timeout)
        normalise(notebook, short_forms(path, Path(scratch)))
    slot, entry = measurement(part, run, values)
    if first:
        entry["first_part"] = True
    notebook.metadata.shelf.setdefault("measured", {})[slot] = entry
    results = ", ".join(f"{key} {value:.4g}" for key, value in run.results.items())
    found = f"{entry['seconds']} s, {entry['host_peak_mb']} MB, {entry['device']}: {results}"
    try:
        catalogue.update_title(notebook, name)
    except NotebookError as error:  # a slip in shelf.result is no reason to lose the run
        found += f"\n      stored, but the budget table is not written: {error}"
    try:
        check_size(notebook, name)
        if path.read_bytes() != before:
            raise NotebookError(f"{name}: the file was changed while its notebook ran")
    except NotebookError as error:  # the run may have taken hours
        raise NotebookError(f"{error}\n      The run is kept in {kept(notebook, path)}.") from None
    write(notebook, path)
    return found


def part_to_run(notebook: NotebookNode, first: bool, name: str) -> NotebookNode:
    """The notebook, or its first part; NotebookError where there is none, or where that would lose a whole run."""
    if not first:
        return notebook
    part = first_part(notebook)
    if part is None:
        raise NotebookError(f"{name}: no cell is tagged `hub`, so there is no first part: measure it whole")
    if any(is_current(entry, notebook) and not entry.get("first_part") for entry in _entries(notebook)):
        raise NotebookError(f"{name}: is measured whole; --clear it before only its first part is stored")
    return part


def kept(notebook: NotebookNode, path: Path) -> str:
    """Write the notebook below `executed`, which git ignores; returns the name of that file from the root."""
    root = path.parent.parent
    file = root / "executed" / path.parent.name / path.name
    file.parent.mkdir(parents=True, exist_ok=True)
    write(notebook, file)
    return file.relative_to(root).as_posix()


def _entries(notebook: NotebookNode) -> list[dict[str, Any]]:
    """The notebook's measurements, whatever code they were made with."""
    return list(notebook.metadata.get("shelf", {}).get("measured", {}).values())


def is_missing(path: Path, first: bool) -> bool:
    """Whether the notebook lacks a run of the whole of it, with its own parameters, by the code that it has now.

    With `first`: whether it has a first part, and no such run even of that. One that cannot be read lacks it.
    """
    try:
        notebook = read(path)
    except NotebookError:
        return True
    if first and first_part(notebook) is None:
        return False
    return not any(is_current(entry, notebook) and not entry["parameters"] and (first or not entry.get("first_part"))
                   for entry in _entries(notebook))


def clear(path: Path) -> str:
    """Take the outputs and the measurements out of the notebook; returns a line that says so."""
    name, notebook = name_of(path), read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    catalogue.shelf_of(notebook, name).pop("measured", None)
    normalise(notebook, [])
    catalogue.update_title(notebook, name)
    write(notebook, path)
    return "cleared"


def assignment(text: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`; a value that is no Python literal is taken for a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.measure", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="Afterwards, for the tables of the READMEs: python -m tests.catalogue")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="ChapterNN/Name.ipynb")
    parser.add_argument(
        "--missing", action="store_true",
        help="of these notebooks (none named: of the whole shelf) run those that are not measured whole, by their "
             "present code and with their own parameters")
    parser.add_argument(
        "--first-part", action="store_true", dest="first",
        help="run and store only the cells before the one tagged `hub`, which needs weights or data from a hub")
    parser.add_argument(
        "--set", action="append", default=[], type=assignment, metavar="NAME=VALUE", dest="values",
        help="run with this value of a parameter; the notebook's source keeps its own, and the tables say so")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give a notebook up after this time")
    parser.add_argument(
        "--clear", action="store_true", help="run nothing: take outputs and measurements out of the notebooks")
    options = parser.parse_args(arguments)
    if not options.notebooks and not options.missing:
        parser.error("name a notebook, or say --missing")
    if options.clear and (options.missing or options.first or options.values):
        parser.error("--clear runs nothing: it goes with no other option")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 where a notebook failed, 130 where the user stopped the run."""
    options = options_of(arguments)
    values = dict(options.values)
    if os.environ.get("MCVP_OFFLINE") == "1" and not options.clear:
        print("Not in the miniature world: what is measured there is not real.", file=sys.stderr)
        return 1
    paths = [Path(path).resolve() for pattern in options.notebooks for path in sorted(glob(pattern)) or [pattern]]
    if options.missing:
        paths = [path for path in paths or notebooks() if is_missing(path, options.first)]
    try:
        for path in paths if values else []:  # a misspelt name shows before the first of many runs
            shaped_values(values, read(path), name_of(path))
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    outcomes = {path: "not begun" for path in paths}
    status = 0
    for number, path in enumerate(paths, start=1):
        name = name_of(path)
        print(f"[{number}/{len(paths)}] {time.strftime('%H:%M:%S')} {name}", flush=True)
        try:
            found = clear(path) if options.clear else measure(path, values, options.timeout, options.first)
            print(f"      {found}", flush=True)
            outcomes[path] = "done: " + found
        except NotebookError as error:
            status = 1
            print(f"      {error}\n      The notebook is as it was.", file=sys.stderr, flush=True)
            outcomes[path] = "FAILED: " + str(error).removeprefix(f"{name}: ")
        except KeyboardInterrupt:
            print(f"      {name}: interrupted\n      The notebook is as it was.", file=sys.stderr, flush=True)
            status, outcomes[path] = 130, "interrupted"
            break
    if options.missing or len(paths) > 1:
        print(summary(outcomes), flush=True)
    return status


def summary(outcomes: dict[Path, str]) -> str:
    """A table of what became of each notebook: a line for each, then how many."""
    width = max((len(name_of(path)) for path in outcomes), default=0)
    done = sum(outcome.startswith(("done", "cleared")) for outcome in outcomes.values())
    lines = [f"{name_of(path):{width}}  {outcome.splitlines()[0]}" for path, outcome in outcomes.items()]
    return "\n".join(["", *lines, f"{done} of {len(outcomes)} done"])


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # a polite kill is taken like Ctrl-C
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main())
