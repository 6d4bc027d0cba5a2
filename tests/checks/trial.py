"""Runs small notebooks that are given as lists of cells, watched, and says what was found: for the tests of the watch.

    python -m tests.checks.trial < JOBS.json     {"name": ["x = 1", …], …}

Each runs in a process of its own, forked from this one where the system can fork, so that PyTorch is imported once.
"""
from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

KERNEL = Path(__file__).resolve().parent / "kernel"


def run(cells: list[str]) -> dict:
    """What `watch.finish` tells of a notebook of these cells, and the error of the cell that failed, if one did."""
    from IPython.core.interactiveshell import InteractiveShell

    sys.path.insert(0, str(KERNEL))
    import mcvp_watch as watch

    shell = InteractiveShell.instance()
    shell.enable_gui = lambda gui=None: None
    watch.start()
    failed = None
    for source in cells:
        with contextlib.redirect_stdout(io.StringIO()):
            result = shell.run_cell(source, store_history=True)
        if not result.success:
            failed = repr(result.error_in_exec or result.error_before_exec)
            break
    return {**json.loads(watch.finish()), "failed": failed}


def warm_up() -> None:
    """What PyTorch and matplotlib load at their first use is loaded once, here."""
    import matplotlib.pyplot as plt
    import pandas
    import torch

    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    torch.optim.Adam([weight]).step()
    pandas.DataFrame({"a": [1.0]}).groupby("a").mean()
    plt.subplots()[1].legend()
    plt.close("all")


def main() -> None:
    jobs = json.load(sys.stdin)
    import matplotlib

    matplotlib.use("agg")
    for name in ("matplotlib.pyplot", "pandas", "torch"):
        __import__(name)
    warm_up()
    found = {}
    for name, job in jobs.items():
        if not hasattr(os, "fork"):
            found[name] = run(job) if len(jobs) == 1 else json.loads(subprocess.run(
                [sys.executable, "-m", "tests.checks.trial"], input=json.dumps({name: job}), text=True, check=True,
                capture_output=True).stdout)[name]
            continue
        reading, writing = os.pipe()
        if os.fork() == 0:
            with os.fdopen(writing, "w", encoding="utf-8") as file:
                file.write(json.dumps(run(job)))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as file:
            text = file.read()
        os.wait()
        found[name] = json.loads(text) if text else {"failed": "the process died", "findings": []}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
