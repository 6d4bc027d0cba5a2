"""`python -m tests.offline COMMAND …`: run any command in the miniature world, with the network closed."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.offline import archives, prepare

USAGE = """usage: python -m tests.offline COMMAND [ARGUMENT …]

Runs the command in the miniature world: small data and tiny models where the libraries look for them, no network.
For example the classroom without a network:   python -m tests.offline jupyter lab

`python -m tests.offline check` (network open) compares what the world stands for with the hub and the servers."""


def find(command: str, path: str) -> str | None:
    """The program `command` names: beside this Python first, then on `path`, then as a path of its own."""
    if command in ("python", "python3"):
        return sys.executable
    return shutil.which(command, path=sysconfig.get_path("scripts")) or shutil.which(command, path=path)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code: 2 without a command, 127 where there is no such command."""
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
            variables = prepare(Path(scratch))
        except archives.BuildError as error:
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
