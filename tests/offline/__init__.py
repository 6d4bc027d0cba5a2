"""The miniature world: small data and tiny models in the on-disk form the libraries expect, and a closed network.

`prepare(scratch)` builds what is stale, lays the world out below `scratch` and returns the environment in which the
libraries find it. What is in it and how to add to it stands in README.md beside this file.
"""
from __future__ import annotations

import os
from pathlib import Path

from tests.offline import archives

SITE = Path(__file__).resolve().parent / "site"
DEAD_PROXY = "http://127.0.0.1:9"  # the discard port: programs that are not Python end here instead of outside
WITH_PATHS = ("ultralytics/Ultralytics/settings.json",)  # planted files in which @WORLD@ stands for the scratch folder
BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


def prepare(scratch: Path) -> dict[str, str]:
    """Lay the world out below `scratch`, building the families that are stale, and return its environment.

    A second call puts everything back as it was built. Raises archives.BuildError where a family cannot be built.
    """
    scratch = Path(scratch).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    archives.unpack_all(scratch)
    for path in (scratch / name for name in WITH_PATHS):
        path.write_text(path.read_text(encoding="utf-8").replace("@WORLD@", scratch.as_posix()), encoding="utf-8")
    variables = environment(scratch)
    for name in ("TORCH_HOME", "HF_HOME", "YOLO_CONFIG_DIR"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True)
    Path(variables["XDG_RUNTIME_DIR"]).mkdir(mode=0o700, exist_ok=True)
    Path(variables["MCVP_OFFLINE_LOG"]).touch()
    return variables


def environment(scratch: Path) -> dict[str, str]:
    """The variables, to be laid over the process's own, of everything that runs in the world below `scratch`."""
    scratch = Path(scratch).resolve()
    huggingface = scratch / "huggingface"
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(SITE)]
    variables = {
        "MCVP_OFFLINE": "1",
        "MCVP_OFFLINE_LOG": str(scratch / "refused.log"),
        "PYTHONPATH": os.pathsep.join([str(SITE), *inherited]),
        "TORCH_HOME": str(scratch / "torch"),
        "HF_HOME": str(huggingface),
        "HF_HUB_CACHE": str(huggingface / "hub"),
        "HF_DATASETS_CACHE": str(huggingface / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "YOLO_CONFIG_DIR": str(scratch / "ultralytics"),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "SDL_VIDEODRIVER": "dummy",
        "SDL_AUDIODRIVER": "dummy",
        "XDG_RUNTIME_DIR": str(scratch / "runtime"),
    }
    variables.update(dict.fromkeys(BLAS, "1"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variables[name] = variables[name.upper()] = DEAD_PROXY
    variables["no_proxy"] = variables["NO_PROXY"] = "localhost,127.0.0.1,::1"
    return variables
