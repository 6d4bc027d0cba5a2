"""The environment of the miniature world: the variables by which the libraries find it and the network is closed."""
from __future__ import annotations

import os
from pathlib import Path

SITE = Path(__file__).resolve().parent / "site"
DEAD_PROXY = "http://127.0.0.1:9"  # the discard port: programs that are not Python end here instead of outside
BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(scratch: Path) -> dict[str, str]:
    """The variables, to be laid over the process's own, of everything that runs in the world below `scratch`."""
    scratch = Path(scratch).resolve()
    huggingface = scratch / "huggingface"
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(SITE)]
    variables = {
        "MCVP_OFFLINE": "1",
        "MCVP_OFFLINE_LOG": str(scratch / "refused.log"),
        "MCVP_OFFLINE_URLS": str(scratch / "urls"),
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
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no machine but this one: Ray's processes talk over the loopback
        "SDL_VIDEODRIVER": "dummy",
        "SDL_AUDIODRIVER": "dummy",
        "XDG_RUNTIME_DIR": str(scratch / "runtime"),
    }
    variables.update(dict.fromkeys(BLAS, "1"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variables[name] = variables[name.upper()] = DEAD_PROXY
    variables["no_proxy"] = variables["NO_PROXY"] = "localhost,127.0.0.1,::1"
    return variables
