"""Make the record of notebooks anew: each is run twice, quick and in the miniature world.

The second time with the arithmetic of another processor: what only one of the runs tells is not recorded.

    python -m tests.checks Chapter03/Impact_of_dropout.ipynb …
    python -m tests.checks --changed    (those that have none, or one of other code; or --all)

Prints what broke a rule and what is other than in the last record. Read that, and `git diff tests/records`, before you
commit: the record says what is right.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import quick
from tests.checks import records, watched
from tests.notebooks import ROOT, code_digest, name_of, notebooks, read

# of the libraries' own switches for older processors; elsewhere they change nothing
OTHER_ARITHMETIC = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                    "OPENBLAS_CORETYPE": "Haswell"}


def run(names: list[str], folder: Path, workers: str, other: bool = False) -> None:
    """Have pytest run these notebooks and write what the watch told below `folder`; of one that fails, nothing."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", "--tell", str(folder),
               *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env=os.environ | OTHER_ARITHMETIC if other else None)
    if done.returncode:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))),
              file=sys.stderr)


def code_as_run(name: str) -> str:
    """The digest of the code of a notebook with its quick parameters, as runs tell it."""
    notebook = read(ROOT / name)
    quick.set_parameters(notebook, quick.load(ROOT).get(name, {}))
    return code_digest(notebook)


def remade(name: str, folders: list[Path]) -> bool:
    """Whether a record was made of what is told of the notebook below these folders."""
    paths = [path for folder in folders if (path := Path(folder, name).with_suffix(".json")).exists()]
    if not paths or not paths[0].is_relative_to(folders[0]):
        print(f"{name}: its run failed, no record is made", file=sys.stderr)
        return False
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    notebook = read(ROOT / name)
    wrong = watched.broken_rules(name, notebook, runs[0]) + [f"{name}: {error}" for error in runs[0]["errors"]]
    if wrong:
        print("\n".join([*wrong, f"{name}: no record is made while that is so"]), file=sys.stderr)
        return False
    before, made = records.load(name), records.make(*runs)
    different = records.differences(before, runs[0], "steps" in watched.excuses(notebook)) if before else []
    records.write(made, name)
    print(f"{name}: " + (f"{len(different)} differences from the last record" if before else "a first record")
          + (f"; not held to {', '.join(made['open'])}, which the two runs tell otherwise" if made["open"] else ""))
    for line in different:
        print(f"    {line}")
    return True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checks", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="ChapterNN/Name.ipynb")
    parser.add_argument("--changed", action="store_true", help="every notebook that has none, or one of other code")
    parser.add_argument("--all", action="store_true", help="every notebook")
    parser.add_argument("-n", dest="workers", default="logical", help="notebooks at once, as pytest takes it")
    parser.add_argument("--told", metavar="FOLDER", type=Path, action="append",
                        help="run nothing: take what pytest --tell has told; may be given again")
    options = parser.parse_args(arguments)
    if not any((options.notebooks, options.all, options.changed)):
        parser.error("name a notebook, or --changed, or --all")
    names = options.notebooks or [name_of(path) for path in notebooks()]
    if options.changed:
        names = [name for name in names if (records.load(name) or {}).get("code") != code_as_run(name)]
    with tempfile.TemporaryDirectory(prefix="mcvp-", ignore_cleanup_errors=True) as scratch:
        folders = options.told or [Path(scratch, "0"), Path(scratch, "1")]
        for other, folder in enumerate(folders):
            if names and not options.told:
                run(names, folder, options.workers, bool(other))
        made = [remade(name, folders) for name in names]
    return 0 if all(made) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
