"""The miniature world: small data and tiny models in the on-disk form the libraries expect, and a closed network.

`prepare(scratch)` builds what is stale, lays the world out below `scratch` and returns the environment in which the
libraries find it. What is in it and how to add to it stands in README.md beside this file.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.offline import archives
from tests.offline.variables import SITE, environment

__all__ = ["SITE", "environment", "prepare"]
WITH_PATHS = ("ultralytics/Ultralytics/settings.json",)  # planted files in which @WORLD@ stands for the scratch folder


def prepare(scratch: Path, families: Iterable[str] | None = None) -> dict[str, str]:
    """Lay the world out below `scratch`, building the families that are stale, and return its environment.

    `families` names those that are wanted (`needs.of` tells which a notebook needs); without it the whole world is laid
    out. A second call puts everything back as it was built. Raises archives.BuildError where a family cannot be built.
    """
    scratch = Path(scratch).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    archives.unpack_all(scratch, archives.families() if families is None else families)
    for path in (scratch / name for name in WITH_PATHS):
        if path.exists():
            path.write_text(path.read_text(encoding="utf-8").replace("@WORLD@", scratch.as_posix()), encoding="utf-8")
    variables = environment(scratch)
    for name in ("TORCH_HOME", "HF_HOME", "YOLO_CONFIG_DIR"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True)
    Path(variables["XDG_RUNTIME_DIR"]).mkdir(mode=0o700, exist_ok=True)
    Path(variables["MCVP_OFFLINE_LOG"]).touch()
    return variables
