"""`python -m tests.offline.families MODULE FOLDER` builds the family in the file MODULE below FOLDER.

With `--use` in place of the folder, inside a world, it uses every entry instead (or those that are named behind it) and
prints what came of it as JSON.
"""
from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def load(module_file: Path) -> ModuleType:
    """The family in a file."""
    spec = importlib.util.spec_from_file_location(module_file.stem, module_file)
    family = sys.modules[module_file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(family)
    return family


def logged() -> list[str]:
    """What the closed network has refused so far."""
    log = Path(os.environ["MCVP_OFFLINE_LOG"])
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def use(family: ModuleType, names: Iterable[str]) -> dict[str, dict]:
    """Of each entry: `ok` or the end of a traceback, what was refused meanwhile, and the seconds it took."""
    found = {}
    for name in names:
        outcome, before, began = "ok", len(logged()), time.perf_counter()
        try:
            family.use(name)
        except Exception:
            outcome = traceback.format_exc()[-3000:]
        found[name] = {"outcome": outcome, "refused": logged()[before:], "seconds": time.perf_counter() - began}
    return found


if __name__ == "__main__":
    module = load(Path(sys.argv[1]))
    if sys.argv[2] == "--use":
        print("\nfacts:" + json.dumps(use(module, sys.argv[3:] or module.ENTRIES)))
    else:
        module.build(Path(sys.argv[2]))
