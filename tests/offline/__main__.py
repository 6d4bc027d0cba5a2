"""`python -m tests.offline COMMAND …`: run any command in the miniature world, with the network closed.

Kernels that the command opens are those of a classroom: they give each parameters cell of the shelf the quick values,
and say in the first cell that nothing there is real.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests import quick
from tests.notebooks import ROOT
from tests.offline import archives, prepare
from tests.offline.site.mcvp_classroom import writable

USAGE = """usage: python -m tests.offline [--as-is] COMMAND [ARGUMENT …]

Runs the command in the miniature world: small data and tiny models where the libraries look for them, no network.
Notebooks get small numbers in their parameters cell, in memory; with --as-is they keep their own.
For example the classroom without a network:   python -m tests.offline jupyter lab

`python -m tests.offline check` (network open) compares what the world stands for with the hub and the servers."""
BANNER = "Miniature world: small data, random weights, no network; numbers and pictures are not real."
CONFIGURATION = "get_config().InteractiveShellApp.extensions = ['mcvp_classroom']\n"


def find(command: str, path: str) -> str | None:
    """The program `command` names: beside this Python first, then on `path`, then as a path of its own."""
    if command in ("python", "python3"):
        return sys.executable
    return shutil.which(command, path=sysconfig.get_path("scripts")) or shutil.which(command, path=path)


def classroom(scratch: Path, as_is: bool) -> dict[str, str]:
    """The variables that make every IPython kernel one of the classroom, whose files are below `scratch`."""
    profile = scratch / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(CONFIGURATION, encoding="utf-8")
    cells = [] if as_is else quick.parameter_cells(quick.load(ROOT), ROOT)
    job = {"banner": BANNER, "root": str(ROOT), "scratch": str(scratch), "cells": cells}
    (scratch / "classroom.json").write_text(json.dumps(job), encoding="utf-8")
    variables = {"IPYTHONDIR": str(scratch / "ipython"), "MCVP_CLASSROOM": str(scratch / "classroom.json")}
    if not writable(Path.home()):  # Jupyter and others insist on a home that they can write
        (scratch / "home").mkdir()
        variables["HOME"] = str(scratch / "home")
    return variables


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code: 2 without a command, 127 where there is no such command."""
    as_is = arguments[:1] == ["--as-is"]
    arguments = arguments[as_is:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "check":
        from tests.offline import check

        return check.main(arguments[1:])
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    program = find(arguments[0], path)
    if program is None:
        print(f"tests.offline: no such command: {arguments[0]}", file=sys.stderr)
        return 127
    with tempfile.TemporaryDirectory(prefix="mcvp-", ignore_cleanup_errors=True) as scratch:
        try:
            variables = prepare(Path(scratch)) | classroom(Path(scratch), as_is)
        except (archives.BuildError, quick.QuickError) as error:
            print(f"tests.offline: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        process = subprocess.Popen([program, *arguments[1:]], env={**os.environ, "PATH": path, **variables})
        # Ctrl+C reaches the command too; it decides, as jupyter lab does by asking, whether to end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
    return code if code >= 0 else 128 - code  # ended by signal n: 128 + n, as a shell says it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
