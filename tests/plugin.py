"""The pytest plugin that runs the shelf: every notebook cell by cell through nbval, in one of two profiles.

Quick (the default): the parameters of tests/quick.toml, the miniature world of tests/offline, no network, a time limit.
Full (`--full`): the notebooks as they are, the network and this machine's own caches.

Each notebook is a file of test items: one per code cell, and a last one, `notebook`, for what only the whole can show.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import psutil
import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative
from jupyter_client.manager import KernelManager
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager, RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

from tests import quick
from tests.checks import records, watched
from tests.notebooks import ROOT, NotebookError, parameters, read, tagged

pytest_plugins = ["nbval.plugin"]  # its options; pyproject.toml keeps it from being loaded before this file

MEMORY_PER_WORKER = 2 * 2**30  # bytes: a kernel with torch, transformers and a small model, and its runner
STARTUP_SECONDS = 60  # to wait for a kernel
SHOWN = 10  # notebooks in the table of times
KERNEL_FILES = Path(__file__).parent / "kernel"
SECONDS = "seconds"  # the property of a notebook's last item that holds its time
ANSI = re.compile(r"\x1b\[[0-9;]*m")

QUICK = pytest.StashKey[quick.Quick]()
SCRATCH = pytest.StashKey[Path]()


# --- options and the session ----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("notebooks")
    group.addoption("--full", action="store_true", help=(
        "run the notebooks with their own parameters, the network open and this machine's own caches; one at a time "
        "unless -n says otherwise, because two trainings at once distort each other's time"))
    parser.addini("quick_seconds", "a notebook that takes longer fails in the quick profile", default="60")
    parser.addini("full_cell_seconds", "a cell that takes longer is stopped in the full profile", default="3600")


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    option.nbval = option.nbval_lax = False  # the files below collect the notebooks; nbval's own would do it again
    option.nbval_cell_timeout = float(config.getini("full_cell_seconds" if option.full else "quick_seconds"))
    try:
        config.stash[QUICK] = {} if option.full else quick.load(config.rootpath)
    except quick.QuickError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many workers as processors and memory allow; none for the full profile or for a single file."""
    single = len(config.args) == 1 and Path(config.args[0].split("::")[0]).is_file()
    if config.option.full or single:
        return 0
    return max(1, min(psutil.cpu_count() or 1, psutil.virtual_memory().available // MEMORY_PER_WORKER))


def pytest_report_header(config: pytest.Config) -> str:
    if config.option.full:
        return "notebooks: full profile, network open"
    return "notebooks: quick profile (tests/quick.toml), miniature world (tests/offline), no network"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Check quick.toml and prepare the world, once, in the environment that workers and kernels inherit."""
    config = session.config
    if hasattr(config, "workerinput"):  # a worker: the process that started it has done this
        return
    try:
        quick.check(config.stash[QUICK], config.rootpath)
    except quick.QuickError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.collectonly:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended tidies up as Ctrl-C does
    scratch = config.stash[SCRATCH] = Path(tempfile.mkdtemp(prefix="mcvp-"))
    os.environ["MCVP_SCRATCH"] = str(scratch)
    if not config.option.full:
        enter_world(scratch / "world")


def enter_world(folder: Path) -> None:
    """Prepare the miniature world in `folder`; from then on this process and all it starts have it, and no network."""
    from tests.offline import archives, prepare
    from tests.offline.site import mcvp_guard

    try:
        world = prepare(folder)
    except archives.BuildError as error:
        raise pytest.UsageError(str(error)) from None
    inside = os.environ.get("MCVP_OFFLINE") == "1"
    os.environ.update(world)
    if not inside:
        mcvp_guard.close()


def network_attempts(notebook: str) -> list[str]:
    """What `notebook` (`-`: anything else) asked the closed network for in this run; nothing where it is open."""
    log = Path(os.environ.get("MCVP_OFFLINE_LOG", os.devnull))
    lines = [line.partition("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    return [what for name, _, what in lines if name == notebook]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a network attempt that no notebook made."""
    if SCRATCH in session.config.stash and network_attempts("-"):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if SCRATCH in config.stash:
        remove(config.stash[SCRATCH])


def remove(folder: Path) -> None:
    """Remove a folder in which processes that are ending may still write."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.25)


# --- the report -----------------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The slowest notebooks, the total, and network attempts that no notebook made."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    seconds = {report.nodeid.split("::")[0]: value for report in reports
               for key, value in getattr(report, "user_properties", ()) if key == SECONDS}
    if seconds:
        limit = None if config.option.full else float(config.getini("quick_seconds"))
        terminalreporter.section("notebooks, slowest first")
        for name in sorted(seconds, key=seconds.get, reverse=True)[:SHOWN]:
            mark = f"  over half of the {limit:g} s limit" if limit and seconds[name] > limit / 2 else ""
            terminalreporter.line(f"{seconds[name]:7.1f} s  {name}{mark}")
        terminalreporter.line(f"{sum(seconds.values()):7.1f} s  {len(seconds)} notebooks in all")
    if SCRATCH in config.stash and (attempts := network_attempts("-")):
        terminalreporter.section("network attempts outside the notebooks: the run fails", red=True)
        for attempt in attempts:
            terminalreporter.line(attempt)


def failure(path: Path, details: str, summary: str) -> ReprExceptionInfo:
    """A failure as pytest shows it: the details, and last the summary, which is also the line of the short summary."""
    return ReprExceptionInfo(
        reprtraceback=ReprTracebackNative([f"{details}\n{summary}\n".lstrip()]),
        reprcrash=ReprFileLocation(str(path), 0, summary))


# --- the notebooks --------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> NotebookFile | None:
    if file_path.parent.parent == parent.config.rootpath and file_path.match("Chapter[0-9][0-9]/*.ipynb"):
        return NotebookFile.from_parent(parent, path=file_path)
    return None


class NotebookKernel(RunningKernel):
    """A kernel of the Python that runs pytest, in `cwd`, with `env` as its environment and its keys in a file."""

    def __init__(self, cwd: Path, env: dict[str, str], connection_file: Path):
        self.km = KernelManager(kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager(),
                                connection_file=str(connection_file))
        self.km.start_kernel(cwd=str(cwd), env=env, stderr=subprocess.DEVNULL)
        self.kc = self.km.client()
        self.kc.start_channels()
        try:
            self.kc.wait_for_ready(timeout=STARTUP_SECONDS)
            self._ensure_iopub_up()
        except BaseException:
            self.stop()
            raise

    def await_reply(self, msg_id: str, timeout: float) -> None:
        """As nbval's, but a kernel that dies is noticed: RuntimeError then, queue.Empty after `timeout`."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            try:
                return super().await_reply(msg_id, timeout=min(left, 1))
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died (out of memory, or a crash in a library)") from None
        raise Empty


class NotebookFile(IPyNbFile):
    """A notebook, run in a fresh copy of its chapter's folder; it stops at the first cell that fails."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.compare_outputs = False  # but for the cells marked NBVAL_CHECK_OUTPUT
        self.values = self.config.stash[QUICK].get(self.nodeid, {})
        self.unreadable: str | None = None
        self.cells: list[NotebookCell] = []
        self.pending: list[NotebookCell] = []
        self.ran = 0  # code cells
        self.failed = False
        self.run: Path | None = None  # the folder of this run
        quick_shelf = not self.config.option.full and self.config.rootpath == ROOT
        self.is_watched = quick_shelf and records.load(self.nodeid) is not None
        self.told: dict | None = None  # what the watch of the whole run tells
        self.seconds = 0.0  # from asking for the kernel to the end of the last cell that ran

    def collect(self) -> Iterator[pytest.Item]:
        try:
            read(self.path)
        except NotebookError as error:
            self.unreadable = str(error)
        else:
            self.cells = [
                NotebookCell.from_parent(
                    self, name=f"Cell {number}", cell_num=number, cell=item.cell, options=item.options)
                for number, item in enumerate(super().collect(), start=1)]
        self.pending = list(self.cells)
        yield from self.cells
        yield WholeNotebook.from_parent(self, name="notebook")

    def setup(self) -> None:
        """Nothing: the first cell starts the kernel, so that a kernel that does not start is one failure."""

    def start(self) -> None:
        """Start the kernel in a folder of its own below the session's scratch folder."""
        scratch = os.environ["MCVP_SCRATCH"]
        self.run = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
        chapter = self.path.parent
        folder = self.run / chapter.name
        shutil.copytree(chapter, folder, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "__pycache__"))
        startup = self.run / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        env = {name: value for name, value in os.environ.items()
               if name != "MPLBACKEND" and not name.startswith("PYTEST_")}  # as for a reader
        env |= {"IPYTHONDIR": str(self.run / "ipython"), "MCVP_NOTEBOOK": self.nodeid}
        env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)  # what a killed kernel leaves is removed with it
        if self.values:
            own = parameters(self.nb)
            job = {"cells": [cell.source for cell in tagged(self.nb, "parameters")],
                   "values": {name: repr(quick.shaped(value, own[name])) for name, value in self.values.items()}}
            (self.run / "quick.json").write_text(json.dumps(job), encoding="utf-8")
            shutil.copy(KERNEL_FILES / "quick_startup.py", startup)
            env["MCVP_QUICK"] = str(self.run)
        self.kernel = NotebookKernel(folder, env, self.run / "kernel.json")
        if self.is_watched:
            watched.begin(self.kernel.kc)

    def run_through(self, number: int) -> None:
        """Run the cells up to this number that have not run: a cell asked for alone gets what stands before it."""
        if self.failed:
            pytest.skip("an earlier cell of this notebook failed")
        began = time.perf_counter()
        try:
            while self.pending and self.pending[0].cell_num <= number:
                cell = self.pending.pop(0)
                if cell.cell.source.strip() and not cell.options["skip"]:
                    if self.kernel is None:
                        self.start()
                    cell.execute()
                    self.ran += 1
        except Exception:
            self.failed = True
            raise
        finally:
            self.seconds += time.perf_counter() - began

    def findings(self) -> list[str]:
        """What is wrong with the notebook as a whole, a line each."""
        if self.unreadable:
            return [self.unreadable]
        found = [f"{self.nodeid}: asked for the network: {what}" for what in network_attempts(self.nodeid)]
        if self.failed:  # the cell says why, and what follows would only follow from it
            return found
        if not self.ran:
            return [f"{self.nodeid}: ran no code cell"]
        applied = self.run / "applied.txt"
        names = applied.read_text(encoding="utf-8").split() if applied.exists() else []
        found += [f"{self.nodeid}: {name} of tests/quick.toml was not applied: no parameters cell ran that sets it"
                  for name in self.values if name not in names]
        if self.told is not None:
            found += watched.findings(self.nodeid, self.nb, self.told)
        limit = float(self.config.getini("quick_seconds"))
        if not self.config.option.full and self.seconds > limit:
            found.append(f"{self.nodeid}: took {self.seconds:.1f} s, the quick profile allows {limit:g} s: "
                         "lower its parameters in tests/quick.toml")
        return found

    def describe(self, error: NbCellError) -> ReprExceptionInfo:
        """The cell's source, what became of it, and in the last line the notebook, the cell and the error."""
        cell = self.cells[error.cell_num - 1]
        what = str(error)
        raised = [output for output in cell.test_outputs or () if output.output_type == "error"]
        if raised and not self.timed_out and not cell.options["check_exception"]:
            what = f"{raised[-1].ename}: {raised[-1].evalue}".splitlines()[0]
        where = f"{self.nodeid}, code cell {error.cell_num}"
        details = ANSI.sub("", f"{where}:\n\n{error.source}\n\n{error.inner_traceback or ''}\n")
        return failure(self.path, details, f"{where}: {what}")

    def teardown(self) -> None:
        super().teardown()
        if self.run is not None:
            remove(self.run)


class NotebookCell(IPyNbCell):
    """A code cell; code cells are counted from 1, as Jupyter numbers those of a notebook run in order."""

    def setup(self) -> None:
        """Nothing: nbval would expect a failure here after a cell that timed out; this plugin skips."""

    def runtest(self) -> None:
        if self.options["skip"]:
            pytest.skip("marked NBVAL_SKIP")
        self.parent.run_through(self.cell_num)

    def execute(self) -> None:
        """Run the cell and, where it is marked, compare its output. Raises NbCellError."""
        try:
            super().runtest()
        except RuntimeError as error:  # the kernel, not the cell's code
            self.raise_cell_error(str(error))

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> ReprExceptionInfo:
        if isinstance(excinfo.value, NbCellError):
            return self.parent.describe(excinfo.value)
        return pytest.Item.repr_failure(self, excinfo)


class WholeNotebook(pytest.Item):
    """What only the whole notebook can show: it is readable, ran a cell, asked for no network, kept to its time."""

    def runtest(self) -> None:
        notebook = self.parent
        if not notebook.unreadable and not notebook.failed:
            notebook.run_through(len(notebook.cells))
            if notebook.is_watched and notebook.kernel is not None:
                notebook.told = watched.end(notebook.kernel.kc)
        if notebook.kernel is not None:
            self.user_properties.append((SECONDS, notebook.seconds))
        if findings := notebook.findings():
            raise NotebookFailure("\n".join(findings))
        if notebook.failed:
            pytest.skip("a cell of this notebook failed")

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> ReprExceptionInfo:
        if isinstance(excinfo.value, NotebookFailure):
            return failure(self.path, "", str(excinfo.value))
        if isinstance(excinfo.value, NbCellError):
            return self.parent.describe(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.nodeid


class NotebookFailure(Exception):
    """A notebook is wrong as a whole; the message has a line for each finding."""
