"""The pytest plugin that runs the shelf: every notebook cell by cell through nbval, in one of two profiles.

Quick (the default): the parameters of tests/quick, the miniature world of tests/offline, no network, a time limit.
Full (`--full`): the notebooks as they are, the network and this machine's own caches.

Each notebook is a file of test items: one per code cell, and a last one, `notebook`, for what only the whole can show.
"""
from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty

import nbformat.v4
import psutil
import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager, RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

from tests import forking, quick
from tests.checks import records, watched
from tests.notebooks import ROOT, NotebookError, answers, read
from tests.offline.site.mcvp_classroom import copy_folder

pytest_plugins = ["nbval.plugin"]  # its options; pyproject.toml keeps it from being loaded before this file

MEMORY_PER_WORKER = 7 * 2**29  # bytes: the runner, the process that forks its kernels, and one kernel at work
STARTUP_SECONDS = 300  # to wait for a kernel, and
OUTPUT_SECONDS = 30  # for a cell's output after its end; both long, for machines that are busy with other things
GUARD_SECONDS = 600  # of a notebook in the quick profile, by the clock: its limit is processor time
SHOWN = 10  # notebooks in the table of times
SECONDS = "seconds"  # the property of a notebook's last item that holds its processor time
UNRECORDED, UNWATCHED = "no record", "unwatched"  # and what the checks of tests/checks could not do for it
ANSI = re.compile(r"\x1b\[[0-9;]*m")

QUICK = pytest.StashKey[quick.Quick]()
SERVER = pytest.StashKey[forking.Server]()
SCRATCH = pytest.StashKey[Path]()


# --- options and the session ----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("notebooks")
    group.addoption("--full", action="store_true", help=(
        "run the notebooks with their own parameters, the network open and this machine's own caches; one at a time "
        "unless -n says otherwise, because two trainings at once distort each other's time"))
    group.addoption("--fresh-kernels", action="store_true", help=(
        "start every kernel as a process of its own, as Jupyter does; the quick profile forks them on Linux"))
    group.addoption("--device", choices=["simulated"], help=(
        "run the notebooks on a device that is not the CPU: tests/offline/site/mcvp_device.py, quick profile only"))
    group.addoption("--unwatched", action="store_true", help=(
        "run the notebooks without the checks of tests/checks, which watch them in the quick profile"))
    group.addoption("--tell", metavar="FOLDER", type=Path, help=(
        "write what those checks see of each notebook below FOLDER, and compare it with no record"))
    parser.addini("quick_seconds", "a notebook that needs more processor time fails in the quick profile", default="60")
    parser.addini("full_cell_seconds", "a cell that takes longer is stopped in the full profile", default="3600")


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    option.nbval = option.nbval_lax = False  # the files below collect the notebooks; nbval's own would do it again
    option.nbval_cell_timeout = float(config.getini("full_cell_seconds")) if option.full else GUARD_SECONDS
    if option.full and option.device:
        raise pytest.UsageError("--device simulated is for the quick profile; --full uses the device there is")
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
    device = f", {config.option.device} accelerator" if config.option.device else ""
    return f"notebooks: quick profile (tests/quick), miniature world (tests/offline), no network{device}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Check the quick values and prepare the world, once, in the environment that workers and kernels inherit."""
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
        enter_world(scratch / "world", config)
    os.environ["MCVP_KERNEL_DEVICE"] = config.option.device or ""


def enter_world(folder: Path, config: pytest.Config) -> None:
    """Prepare the miniature world in `folder`; from then on this process and all it starts have it, and no network."""
    from tests.offline import archives, needs, prepare
    from tests.offline.site import mcvp_guard

    try:
        world = prepare(folder, needs.of_arguments(config.args, config.invocation_params.dir))
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


def server(session: pytest.Session) -> forking.Server | None:
    """The process that forks this session's kernels; None where each is a process of its own."""
    option = session.config.option
    several = len({item.path for item in session.items if isinstance(item, NotebookCell)}) > 1
    if sys.platform != "linux" or option.full or option.fresh_kernels or not several:
        return None
    if SERVER not in session.config.stash:
        session.config.stash[SERVER] = forking.Server(reader_environment())
    return session.config.stash[SERVER]


def reader_environment() -> dict[str, str]:
    """This process's environment without what a reader's kernel would not have; temporary files in the scratch folder.

    What a kernel that is killed leaves there is removed with it.
    """
    env = {name: value for name, value in os.environ.items()
           if name not in ("MPLBACKEND", "MCVP_CLASSROOM") and not name.startswith("PYTEST_")}
    env["MCVP_DEVICE"] = env.pop("MCVP_KERNEL_DEVICE", "")
    return env | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), os.environ["MCVP_SCRATCH"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a network attempt that no notebook made."""
    if SCRATCH in session.config.stash and network_attempts("-"):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVER in config.stash:
        config.stash[SERVER].stop()
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
        terminalreporter.section("notebooks by processor time, slowest first")
        for name in sorted(seconds, key=seconds.get, reverse=True)[:SHOWN]:
            mark = f"  over half of the {limit:g} s limit" if limit and seconds[name] > limit / 2 else ""
            terminalreporter.line(f"{seconds[name]:7.1f} s  {name}{mark}")
        terminalreporter.line(f"{sum(seconds.values()):7.1f} s  {len(seconds)} notebooks in all")
    notes = {kind: sorted({(report.nodeid.split("::")[0], value) for report in reports for key, value in
                           getattr(report, "user_properties", ()) if key == kind}) for kind in (UNRECORDED, UNWATCHED)}
    if notes[UNRECORDED]:
        terminalreporter.section("without a record, and so not held to what the watch finds (tests/checks)")
        terminalreporter.line(" ".join(name for name, _ in notes[UNRECORDED]))
        for finding in filter(None, (found for _, found in notes[UNRECORDED])):
            terminalreporter.line(finding)
        terminalreporter.line("python -m tests.checks --changed makes what is missing")
    if notes[UNWATCHED]:
        terminalreporter.section("could not be watched to the end")
        for name, why in notes[UNWATCHED]:
            terminalreporter.line(f"{name}: {why}")
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


class ForkedProcess(psutil.Process):
    """A kernel that is another process's child, with what LocalProvisioner needs of subprocess.Popen."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0

    def send_signal(self, number: int) -> None:
        with suppress(psutil.NoSuchProcess):
            super().send_signal(number)


class ForkingProvisioner(LocalProvisioner):
    """Has the kernel forked by a server, in place of starting it."""

    server: forking.Server
    imports: list[str]

    async def launch_kernel(self, cmd: list[str], **kwargs):
        after = cmd.index("ipykernel_launcher") + 1
        self.pid = self.pgid = self.server.fork(cmd[after:], kwargs["cwd"], kwargs["env"], self.imports)
        self.process, self.cwd = ForkedProcess(self.pid), kwargs["cwd"]
        return self.connection_info


class NotebookKernel(RunningKernel):
    """A kernel of the Python that runs pytest, in `cwd`, with `env` as its environment and its keys in a file.

    `limit` is the processor time that it may use; `server` forks it, with these `imports` done, where there is one.
    """

    def __init__(self, cwd: Path, env: dict[str, str], connection_file: Path, limit: float = math.inf,
                 server: forking.Server | None = None, imports: list[str] | None = None):
        self.limit = limit
        self.km = KernelManager(kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager(),
                                connection_file=str(connection_file))
        if server is not None:
            self.km.provisioner = ForkingProvisioner(kernel_spec=self.km.kernel_spec, parent=self.km)
            self.km.provisioner.server, self.km.provisioner.imports = server, imports or []
        self.km.start_kernel(cwd=str(cwd), env=env, stderr=subprocess.DEVNULL)
        self._process = psutil.Process(self.km.provisioner.pid)
        self._seconds = 0.0
        self.kc = self.km.client()
        self.kc.start_channels()
        try:
            self.kc.wait_for_ready(timeout=STARTUP_SECONDS)
            self._ensure_iopub_up()
        except BaseException:
            self.stop()
            raise

    def _ensure_iopub_up(self) -> None:
        """As nbval's, with the patience that a busy machine needs."""
        end = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < end:
            message = self.kc.kernel_info()
            with suppress(Empty):
                RunningKernel.await_reply(self, message, timeout=STARTUP_SECONDS)
                return self.await_idle(message, timeout=2)
        raise RuntimeError("the kernel does not answer")

    def processor_seconds(self) -> float:
        """The processor time of the kernel and its descendants, with that of those that have ended."""
        total = 0.0
        with suppress(psutil.Error):  # ended meanwhile
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += sum(process.cpu_times()[:4])  # user, system, and both of its children that have ended
        self._seconds = max(self._seconds, total)
        return self._seconds

    def await_reply(self, msg_id: str, timeout: float) -> None:
        """As nbval's, but a kernel that dies is noticed: RuntimeError then, queue.Empty where a limit is reached."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and self.processor_seconds() <= self.limit:
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
        self.compare_outputs = False  # but for the cells with the tag nbval-check-output
        self.values = self.config.stash[QUICK].get(self.nodeid, {})  # of parameters
        self.unreadable: str | None = None
        self.cells: list[NotebookCell] = []
        self.pending: list[NotebookCell] = []
        self.ran = 0  # code cells
        self.failed: NotebookCell | None = None
        self.run: Path | None = None  # the folder of this run
        quick_profile = not self.config.option.full
        option = self.config.option
        self.limit = float(self.config.getini("quick_seconds")) if quick_profile else math.inf  # of processor time
        # the shelf's own notebooks; the simulated device follows tensors by the same means as the watch
        self.is_watched = quick_profile and not option.unwatched and not option.device and self.config.rootpath == ROOT
        self.told: dict | None = None  # what the watch saw of the whole run
        self.unwatched = ""  # why it saw nothing, or not all

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
            quick.set_parameters(self.nb, self.values)
        self.pending = list(self.cells)
        yield from self.cells
        yield WholeNotebook.from_parent(self, name="notebook")

    def setup(self) -> None:
        """Nothing: the first cell starts the kernel, so that a kernel that does not start is one failure."""

    def start(self) -> None:
        """Start the kernel in a folder of its own below the session's scratch folder."""
        self.run = Path(tempfile.mkdtemp(prefix="run-", dir=os.environ["MCVP_SCRATCH"]))
        chapter = self.path.parent
        folder = self.run / chapter.name
        copy_folder(chapter, folder)
        env = reader_environment() | {"IPYTHONDIR": str(self.run / "ipython"), "MCVP_NOTEBOOK": self.nodeid}
        imports = [line for cell in self.cells for line in forking.imports(cell.cell.source)]
        self.kernel = NotebookKernel(folder, env, self.run / "kernel.json", self.limit, server(self.session), imports)
        if self.is_watched:
            try:
                watched.begin(self.kernel)
            except watched.WatchError as error:
                self.is_watched, self.unwatched = False, str(error)

    def run_through(self, number: int) -> None:
        """Run the cells up to this number that have not run: a cell asked for alone gets what stands before it."""
        if self.failed:
            pytest.skip("an earlier cell of this notebook failed")
        while self.pending and self.pending[0].cell_num <= number:
            self.execute(self.pending.pop(0))

    def end_watch(self) -> None:
        """Ask the watch what it saw, once the last cell has run."""
        if self.is_watched and self.kernel is not None:
            try:
                self.told = watched.end(self.kernel, self.nb)
                self.unwatched = "\n".join(self.told["errors"])
            except watched.WatchError as error:
                self.unwatched = str(error)

    def run_answers(self) -> None:
        """Run the answers in code that stand in the notebook's text, after its last cell."""
        for number, (where, source) in enumerate(answers(self.nb), start=len(self.cells) + 1):
            cell = NotebookCell.from_parent(self, name=where, cell_num=number, options=defaultdict(bool),
                                            cell=nbformat.v4.new_code_cell(source))
            cell.place = where
            self.execute(cell)

    def execute(self, cell: NotebookCell) -> None:
        """Run a cell, starting the kernel for the first."""
        if not cell.cell.source.strip() or cell.options["skip"]:
            return
        try:
            if self.kernel is None:
                self.start()
            cell.execute()
            self.ran += 1
        except Exception:
            self.failed = cell
            raise

    def findings(self) -> list[str]:
        """What is wrong with the notebook as a whole, a line each."""
        if self.unreadable:
            return [self.unreadable]
        found = [f"{self.nodeid}: asked for the network: {what}" for what in network_attempts(self.nodeid)]
        if self.failed:  # the cell says why, and what follows would only follow from it
            return found
        if not self.ran:
            return [f"{self.nodeid}: ran no code cell"]
        if self.kernel.processor_seconds() > self.limit:
            found.append(f"{self.nodeid}: {self.too_long()}")
        if self.told is not None:
            if self.config.option.tell:
                watched.write(self.told, self.config.option.tell, self.nodeid)
            else:
                found += watched.findings(self.nodeid, self.nb, self.told)
        return found

    def too_long(self) -> str:
        """Which limit was reached."""
        used = self.kernel.processor_seconds()
        if used <= self.limit:
            return f"stopped after {self.config.option.nbval_cell_timeout:g} s in one cell"
        return (f"took {used:.1f} s of processor time, the quick profile allows {self.limit:g} s: "
                f"lower its parameters in tests/quick/{self.path.parent.name}.toml")

    def describe(self, error: NbCellError) -> ReprExceptionInfo:
        """The cell's source, what became of it, and in the last line the notebook, the cell and the error."""
        cell, what = self.failed, str(error)
        raised = [output for output in cell.test_outputs or () if output.output_type == "error"]
        if self.timed_out and what.startswith("Timeout"):
            what = self.too_long()
        elif raised and not cell.options["check_exception"]:
            what = f"{raised[-1].ename}: {raised[-1].evalue}".splitlines()[0]
        where = f"{self.nodeid}, {cell.place}"
        details = ANSI.sub("", f"{where}:\n\n{error.source}\n\n{error.inner_traceback or ''}\n")
        return failure(self.path, details, f"{where}: {what}")

    def teardown(self) -> None:
        super().teardown()
        if self.run is not None:
            remove(self.run)


class NotebookCell(IPyNbCell):
    """A code cell; code cells are counted from 1, as Jupyter numbers those of a notebook run in order."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.place = f"code cell {self.cell_num}"  # in messages
        self.output_timeout = OUTPUT_SECONDS
        self.add_marker(pytest.mark.timeout(0))  # the runner has limits of its own

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
    """What only the whole notebook can show: its answers run, it asked for no network and kept to its time."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_marker(pytest.mark.timeout(0))

    def runtest(self) -> None:
        notebook = self.parent
        try:
            if not notebook.unreadable and not notebook.failed:
                notebook.run_through(len(notebook.cells))
                notebook.end_watch()
                notebook.run_answers()
        finally:
            if notebook.kernel is not None:
                self.user_properties.append((SECONDS, notebook.kernel.processor_seconds()))
            if notebook.unwatched:
                self.user_properties.append((UNWATCHED, notebook.unwatched))
            if notebook.told and records.load(notebook.nodeid) is None:
                found = watched.broken_rules(notebook.nodeid, notebook.nb, notebook.told)
                self.user_properties.append((UNRECORDED, "\n".join(found)))
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
