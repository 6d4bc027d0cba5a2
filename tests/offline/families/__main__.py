"""`python -m tests.offline.families MODULE FOLDER` builds the family in the file MODULE below FOLDER."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    module_file, folder = map(Path, sys.argv[1:])
    spec = importlib.util.spec_from_file_location(module_file.stem, module_file)
    family = sys.modules[module_file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(family)
    family.build(folder)
