"""Kernels forked from a process that has imported the large libraries: each saves the seconds of importing them anew.

The test runner starts one such server for each of its workers (Linux only; elsewhere a kernel is a process of its own).
The server runs this file as a script, never a notebook: between its forks it only imports. What a kernel sees after the
fork is what it would see in a process of its own; tests/test_forking.py compares the two.
"""
from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

# Importing these leaves nothing behind but modules; others (ultralytics, say) change how numbers are printed.
LARGE = {"PIL", "accelerate", "datasets", "diffusers", "huggingface_hub", "matplotlib", "numpy", "pandas",
         "safetensors", "scipy", "skimage", "sklearn", "torch", "torchmetrics", "torchvision", "transformers"}
THREADS = {"jemalloc_bg_thd"}  # of pyarrow's allocator, which sees to itself when a process forks


def imports(source: str) -> list[str]:
    """The import statements at the top level of Python source that are of large libraries."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with a magic command
        return []
    found = [statement for statement in statements if isinstance(statement, (ast.Import, ast.ImportFrom))]
    return [ast.unparse(statement) for statement in found
            if (getattr(statement, "module", None) or statement.names[0].name).partition(".")[0] in LARGE]


class Server:
    """A process that forks kernels; it and they end with the process that started it, however that ends."""

    def __init__(self, env: Mapping[str, str]):
        # as a process of its own session, so that Ctrl-C reaches the test runner alone, which then ends the kernels
        self._process = subprocess.Popen([sys.executable, __file__], env=dict(env), stdin=subprocess.PIPE, text=True,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)

    def fork(self, arguments: list[str], cwd: str, env: Mapping[str, str], statements: list[str]) -> int:
        """The process id of a new kernel, forked after the server has executed these import statements.

        `arguments` are those of ipykernel. Raises RuntimeError where the server has ended or cannot fork.
        """
        request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env), "imports": statements}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError("the process that forks the kernels has ended") from None

    def stop(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# --- inside the server ------------------------------------------------------------------------------------------------


def threads() -> list[str]:
    """The names of the threads of this process but the first and those that may be there."""
    names = []
    for number in sorted(os.listdir("/proc/self/task"), key=int)[1:]:
        with open(f"/proc/self/task/{number}/comm", encoding="utf-8") as file:
            names.append(file.read().strip())
    return [name for name in names if name not in THREADS]


def serve() -> dict | None:
    """Fork a kernel for each line of the standard input: its request, in the kernel; None at the end of the input."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    del sys.path[0]  # the folder of this file
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that end leave no zombies
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel ends with the process of this number
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as ipykernel sets it for its imports
    import ipykernel.ipkernel  # noqa: F401  (first, as in a kernel: what is imported later may look for it)

    before = dict(os.environ)
    done: set[str] = set()
    for line in requests:
        request = json.loads(line)
        for statement in request["imports"]:
            if statement not in done:
                done.add(statement)
                with contextlib.suppress(Exception):  # the notebook will say it
                    exec(statement, {})
        gc.collect()
        gc.freeze()  # what is there now stays in memory that all kernels share
        if others := threads():
            raise RuntimeError(f"a thread would be lost in the fork: {others}")
        if os.fork() == 0:
            os.setsid()
            replies.write(f"{os.getpid()}\n")
            replies.close()
            requests.close()
            # what the imports have set stays set
            request["env"] |= {name: value for name, value in os.environ.items() if before.get(name) != value}
            request["env"]["JPY_PARENT_PID"] = before["JPY_PARENT_PID"]
            return request
    return None


def become_kernel(request: dict) -> None:
    """Make this process, just forked, what `python -m ipykernel_launcher` would be."""
    import ipykernel_launcher
    from ipykernel import kernelapp

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [ipykernel_launcher.__file__, *request["arguments"]]
    for name, start in {"multiprocessing.process": lambda module: setattr(module, "ORIGINAL_DIR", os.getcwd()),
                        "tempfile": lambda module: setattr(module, "tempdir", None),
                        "numpy.random": lambda module: module.seed(),  # as at its import, by chance
                        "torch": lambda module: module.default_generator.seed()}.items():
        if name in sys.modules:
            start(sys.modules[name])
    kernelapp.launch_new_instance()


if __name__ == "__main__" and (kernel := serve()):
    become_kernel(kernel)
