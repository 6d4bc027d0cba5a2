"""A forked kernel is what a kernel in a process of its own would be, and nothing passes from one to the next."""
from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests import forking
from tests.plugin import NotebookKernel, reader_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

IMPORTS = """import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torchvision
from sklearn.datasets import load_digits
from torchmetrics import Accuracy
from transformers import ViTConfig"""

# What code in a notebook can see of its process. Written for a fresh kernel: the imports come first, as there.
PROBE = IMPORTS + """
import decimal, gc, locale, logging, multiprocessing, random, signal, sys, tempfile, threading, warnings, os
from multiprocessing import process
from tqdm.auto import tqdm
from IPython import get_ipython

figure = plt.figure()
plt.close(figure)
state = {
    "environment": dict(sorted(os.environ.items())),
    "folder": os.getcwd(), "started in": process.ORIGINAL_DIR, "temporary": tempfile.gettempdir(),
    "path": sys.path, "arguments": [os.path.basename(sys.argv[0]), *sys.argv[1:2]], "flags": str(sys.flags),
    "main": sorted(vars(sys.modules["__main__"]).keys() & {"__file__", "__spec__", "serve"}),
    "own session": os.getsid(0) == os.getpid(), "umask": os.umask(0o22),
    "standard streams": [type(sys.stdout).__name__, type(sys.stderr).__name__],
    "signals": [str(signal.getsignal(number)).partition(" at ")[0]
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "threads": sorted(type(thread).__name__ for thread in threading.enumerate()),
    "matplotlib": {name: str(value) for name, value in plt.rcParams.items()}, "backend": plt.get_backend(),
    "events": sorted(f"{name}: {callback.__qualname__}" for name, callbacks in get_ipython().events.callbacks.items()
                     for callback in callbacks),
    "formatters": sorted(str(kind) for kind in get_ipython().display_formatter.formatters["image/png"].type_printers),
    "numpy": str(np.get_printoptions()), "errors": str(np.geterr()),
    "torch": [str(torch._tensor_str.PRINT_OPTS), str(torch.get_default_dtype()), torch.get_num_threads(),
              torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()],
    "pandas": [pd.get_option(name) for name in ("display.max_rows", "display.width", "display.precision")],
    "locale": [locale.getlocale(), locale.localeconv()["decimal_point"]], "decimal": str(decimal.getcontext()),
    "multiprocessing": multiprocessing.get_start_method(), "progress bar": str(tqdm),
    "logging": [logging.getLogger().level, str([type(handler) for handler in logging.getLogger().handlers])],
    "garbage": [gc.isenabled(), gc.get_threshold()], "recursion": sys.getrecursionlimit(),
    "warnings": sorted({str(rule[:3]) for rule in warnings.filters}),
}
"""
CHANGES = """
plt.rcParams["figure.dpi"] = 17; np.set_printoptions(precision=1); pd.set_option("display.width", 7)
torch.manual_seed(3); np.random.seed(1); random.seed(1); torch.set_default_dtype(torch.float64)
os.environ["LEFT"] = "1"; sys.path.insert(0, "left"); os.chdir(".."); tempfile.tempdir = "left"
warnings.simplefilter("error"); torch.left = torchvision.left = 1; sys.modules["left"] = sys
"""
DRAWS = "[random.random(), float(np.random.rand()), float(torch.rand(())), hash('a')]"


@contextmanager
def kernel(folder: Path, server: forking.Server | None = None, **env: str):
    """A kernel in its own folder, forked where a server is given: a function that runs code and gives a value."""
    here = folder / "Chapter01"
    here.mkdir(parents=True)
    env = reader_environment() | {"IPYTHONDIR": str(folder / "ipython"), "MCVP_NOTEBOOK": "Chapter01/X.ipynb"} | env
    running = NotebookKernel(here, env, folder / "kernel.json", server=server, imports=forking.imports(IMPORTS))

    def run(code: str, expression: str = "None"):
        reply = running.kc.execute_interactive(
            code, user_expressions={"x": f"__import__('json').dumps({expression})"}, timeout=300, allow_stdin=False,
            output_hook=lambda message: None)["content"]
        assert reply["status"] == "ok", reply
        return json.loads(eval(reply["user_expressions"]["x"]["data"]["text/plain"]))

    run.kernel = running
    try:
        yield run
    finally:
        running.stop()


@pytest.fixture(scope="module")
def server():
    running = forking.Server(reader_environment())
    yield running
    running.stop()


def state(folder: Path, server: forking.Server | None) -> dict:
    """What the probe sees, without what differs from any process to the next."""
    with kernel(folder, server) as run:
        found = run(PROBE, "state")
    text = json.dumps(found).replace(str(folder), "FOLDER")
    found = json.loads(text)
    found["environment"] = {name: value for name, value in found["environment"].items()
                            if name not in ("JPY_PARENT_PID", "PYTEST_CURRENT_TEST")}
    return found


def test_a_forked_kernel_is_like_one_in_a_process_of_its_own(server, tmp_path):
    own, forked = state(tmp_path / "own", None), state(tmp_path / "forked", server)
    assert {name: (own[name], forked[name]) for name in own if own[name] != forked[name]} == {}


def test_nothing_passes_from_one_kernel_to_the_next(server, tmp_path):
    with kernel(tmp_path / "kernel-1", server) as run:
        before, first = run(PROBE, "state"), run("", DRAWS)
        run(CHANGES)
    with kernel(tmp_path / "kernel-2", server) as run:
        after, second = run(PROBE, "state"), run("", DRAWS)
        assert run("", "[hasattr(torch, 'left'), 'left' in sys.modules, 'LEFT' in os.environ]") == [False, False, False]
    assert json.dumps(after).replace("kernel-2", "kernel-1") == json.dumps(before)
    assert [one == other for one, other in zip(first, second)] == [False, False, False, True]  # the seed of hashes is


def test_the_imports_are_done_before_the_fork(server, tmp_path):
    with kernel(tmp_path, server) as run:
        assert run("import sys", "[name in sys.modules for name in ('torch', 'transformers.models.vit')]") == [True] * 2
        assert run("", "[name in dir() for name in ('torch', 'np')]") == [False, False]
        assert run.kernel.processor_seconds() < 1.5  # of a kernel's start; torch alone takes two


def test_an_import_that_fails_or_leaves_a_thread(tmp_path):
    """The first is the notebook's to report; with the second the server does not fork, and says so."""
    (tmp_path / "numpy_thread.py").write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), "
                                              "daemon=True).start()")
    running = forking.Server(reader_environment() | {"PYTHONPATH": str(tmp_path)})
    arguments = {"arguments": [], "cwd": str(tmp_path), "env": {"PATH": os.environ["PATH"]}}
    pid = running.fork(**arguments, statements=["import numpy.absent"])
    psutil.Process(pid).kill()
    with pytest.raises(RuntimeError, match="forks the kernels has ended"):
        running.fork(**arguments, statements=["import numpy_thread"])
    running.stop()


def test_kernels_end_with_the_server(tmp_path):
    running = forking.Server(reader_environment())
    with kernel(tmp_path, running) as run:
        process = psutil.Process(run.kernel.km.provisioner.pid)
        running.stop()
        assert not psutil.wait_procs([process], timeout=60)[1]


def test_imports_of_a_notebook():
    source = "import os\nimport numpy as np, json\nfrom torch import nn\nif x:\n    import pandas\nfrom . import a\n"
    assert forking.imports(source) == ["import numpy as np, json", "from torch import nn"]
    assert forking.imports("%matplotlib inline\nimport torch") == []
