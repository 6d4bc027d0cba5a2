"""Make the record of notebooks anew: each is run three times, quick and in the miniature world.

    python -m tests.checks Chapter03/Impact_of_dropout.ipynb …    (--all: every notebook; --missing: those without)

Prints what the watch found and which parts of the record changed. Read that, and `git diff tests/records`, before you
commit: the record says what is right.
"""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jupyter_client.manager import KernelManager

from tests import quick
from tests.checks import records, watched
from tests.notebooks import ROOT, assignments, code_cells, name_of, notebooks, parameters, read, tagged

CELL_SECONDS = 600
SHAKES = (0, 1, 2)  # as the notebook is, and twice shaken


class RunError(RuntimeError):
    """A notebook that did not run to its end; the message names the cell."""


def run(path: Path, values: dict, world: dict[str, str], shake: int) -> dict:
    """What the watch tells of one run of the notebook with these parameters."""
    notebook = read(path)
    set_parameters(notebook, values)
    with tempfile.TemporaryDirectory(prefix="mcvp-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / path.parent.name
        shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__"))
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        manager = KernelManager(connection_file=str(Path(scratch) / "kernel.json"))
        manager.start_kernel(cwd=str(folder), env=env | world | {"IPYTHONDIR": scratch}, stderr=subprocess.DEVNULL)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=120)
            watched.begin(client, shake)
            for number, cell in enumerate(code_cells(notebook), start=1):
                if cell.source.strip():
                    reply = client.execute_interactive(cell.source, timeout=CELL_SECONDS, allow_stdin=False,
                                                       output_hook=lambda message: None)["content"]
                    if reply["status"] != "ok":
                        raise RunError(f"code cell {number}: {reply.get('ename')}: {reply.get('evalue')}")
            return watched.end(client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def set_parameters(notebook, values: dict) -> None:
    """Give the parameters cell these values, in its source."""
    own = parameters(notebook)
    for cell in tagged(notebook, "parameters"):
        mine = {name: quick.shaped(value, own[name]) for name, value in values.items()
                if name in assignments(cell.source)}
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in mine.items())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checks", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="ChapterNN/Name.ipynb")
    parser.add_argument("--all", action="store_true", help="every notebook")
    parser.add_argument("--missing", action="store_true", help="every notebook that has no record")
    options = parser.parse_args(arguments)
    names = options.notebooks or [name_of(path) for path in notebooks()]
    if not options.notebooks and not options.all and not options.missing:
        parser.error("name a notebook, or --all, or --missing")
    if options.missing:
        names = [name for name in names if records.load(name) is None]
    from tests.offline import prepare

    values, failed = quick.load(ROOT), 0
    with tempfile.TemporaryDirectory(prefix="mcvp-", ignore_cleanup_errors=True) as scratch:
        world = prepare(Path(scratch))
        for name in names:
            try:
                runs = [run(ROOT / name, values.get(name, {}), world, shake) for shake in SHAKES]
            except (RunError, watched.WatchError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed += 1
                continue
            if broken := watched.broken_rules(name, read(ROOT / name), runs[0]):
                print("\n".join([*broken, f"{name}: no record is made while a rule is broken without an excuse"]),
                      file=sys.stderr)
                failed += 1
                continue
            before = records.load(name)
            different = records.differences(before, runs[0]) if before else ["new"]
            records.write(records.make(runs), name)
            print(f"{name}: " + (f"{len(different)} differences from the last record" if before else "a first record"))
            for line in different[:20] if before else []:
                print(f"    {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
