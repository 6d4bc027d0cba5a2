"""Make the record of notebooks anew: each is run twice, quick and in the miniature world.

    python -m tests.checks Chapter03/Impact_of_dropout.ipynb …
    python -m tests.checks --changed    (those that have none, or one of other code; or --all)

The second run is shaken: clocks run unevenly, the machine seems another, and networks begin a ten-thousandth beside
where they would. Prints what broke a rule and what changed. Read that, and `git diff tests/records`,
before you commit: the record says what is right.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import quick
from tests.checks import records, watched
from tests.notebooks import ROOT, code_digest, name_of, notebooks, read

SHAKES = (0, 1)  # seeds of the shaking (0: none)
AGAIN = 3  # times that a notebook is shaken whose own checks fail: the second time without moving its networks


def run(names: list[str], folder: Path, shake: int, workers: str) -> None:
    """Have pytest run these notebooks and write what the watch told below `folder`; of one that fails, nothing."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", "--tell", str(folder),
               "--shake", str(shake), *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))),
              file=sys.stderr)


def code_as_run(name: str) -> str:
    """The digest of the code of a notebook with its quick parameters, as runs tell it."""
    notebook = read(ROOT / name)
    quick.set_parameters(notebook, quick.load(ROOT).get(name, {}))
    return code_digest(notebook)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checks", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="ChapterNN/Name.ipynb")
    parser.add_argument("--all", action="store_true", help="every notebook")
    parser.add_argument("--changed", action="store_true", help="every notebook that has none, or one of other code")
    parser.add_argument("-n", dest="workers", default="logical", help="notebooks at once, as pytest takes it")
    parser.add_argument("--told", metavar="FOLDER", type=Path, help="keep what the runs tell there, and run only what "
                        "it lacks: records can then be made again without running")
    options = parser.parse_args(arguments)
    if not any((options.notebooks, options.all, options.changed)):
        parser.error("name a notebook, or --changed, or --all")
    names = options.notebooks or [name_of(path) for path in notebooks()]
    if options.changed:
        names = [name for name in names if (records.load(name) or {}).get("code") != code_as_run(name)]
    if not names:
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mcvp-", ignore_cleanup_errors=True) as scratch:
        scratch = options.told.resolve() if options.told else scratch
        for shake in SHAKES:
            folder = Path(scratch, str(shake))
            for name in names:
                path = Path(folder, name).with_suffix(".json")
                if path.exists() and json.loads(path.read_text(encoding="utf-8"))["code"] != code_as_run(name):
                    path.unlink()
            for attempt in range(AGAIN if shake else 1):
                if lacking := [name for name in names if not Path(folder, name).with_suffix(".json").exists()]:
                    run(lacking, folder, shake + attempt, options.workers)
        for name in names:
            paths = [Path(scratch, str(shake), name).with_suffix(".json") for shake in SHAKES]
            if missing := [path for path in paths if not path.exists()]:
                print(f"{name}: {len(missing)} of {len(paths)} runs failed, no record is made", file=sys.stderr)
                failed += 1
                continue
            runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
            if broken := watched.broken_rules(name, read(ROOT / name), runs[0]):
                print("\n".join([*broken, f"{name}: no record is made while a rule is broken without an excuse"]),
                      file=sys.stderr)
                failed += 1
                continue
            before = records.load(name)
            different = records.differences(before, runs[0]) if before else []
            records.write(records.make(runs), name)
            print(f"{name}: " + (f"{len(different)} differences from the last record" if before else "a first record"))
            for line in different[:20]:
                print(f"    {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
