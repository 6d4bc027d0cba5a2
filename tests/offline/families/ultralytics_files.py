"""ultralytics: fonts, settings, tiny weights under real names, and the eight pictures of coco8."""
from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from PIL import Image
from ultralytics import YOLO, FastSAM
from ultralytics.utils import ROOT, SETTINGS
from ultralytics.utils.downloads import attempt_download_asset

from tests.offline.downloads import Size
from tests.offline.drawing import scenes

SERVES = ("ultralytics",)
FOLDER = "ultralytics"  # YOLO_CONFIG_DIR
COCO = {"cat": 15, "dog": 16, "automobile": 2, "bird": 14, "horse": 17, "ship": 8, "bottle": 39, "truck": 7,
        "airplane": 4}


def plant_weights(folder: Path, name: str, architecture: str) -> None:
    """A random network of real structure and little width; a detector of objects knows COCO's names."""
    config = yaml.safe_load((ROOT / "cfg/models" / architecture).read_text(encoding="utf-8"))
    config["scales"] = {"n": [0.33, 0.0625, 1024]}
    if name.startswith("FastSAM"):
        config["nc"] = 1  # everything is an object
    path = folder / Path(architecture).name.replace(".yaml", "n.yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    model = YOLO(str(path))
    if name.startswith("FastSAM"):
        model.model.names = {0: "object"}
    elif model.task in ("detect", "segment"):
        model.model.names = yaml.safe_load((ROOT / "cfg/datasets/coco8.yaml").read_text(encoding="utf-8"))["names"]
    model.save(folder / name)
    path.unlink()


def plant_coco8(folder: Path) -> None:
    """Four pictures to train on and four to validate, with labels as YOLO writes them: class x y w h, relative."""
    rng = np.random.default_rng(40)
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number in range(4):
            picture, placed = scenes.several(list(rng.choice(list(COCO), rng.integers(1, 4))), (320, 240), rng)
            Image.fromarray(picture).save(folder / "images" / split / f"{number:012d}.jpg", quality=88)
            rows = [(COCO[one.name], (x0 + x1) / 640, (y0 + y1) / 480, (x1 - x0) / 320, (y1 - y0) / 240)
                    for one in placed for x0, y0, x1, y1 in [one.box]]
            (folder / "labels" / split / f"{number:012d}.txt").write_text(
                "".join(f"{kind} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for kind, x, y, w, h in rows))


# --- use --------------------------------------------------------------------------------------------------------------

def data() -> Path:
    """The eight pictures, where ultralytics looks for them."""
    return Path(os.environ["YOLO_CONFIG_DIR"]) / "datasets/coco8"


def pictures() -> list[Path]:
    """Four pictures."""
    return sorted((data() / "images/train").glob("*.jpg"))


def predicts(task: str) -> Callable[[str], None]:
    """A network for this task, which says something of every picture."""
    def use(name: str) -> None:
        model = YOLO(name)
        assert model.task == task
        answers = model(pictures(), imgsz=64, verbose=False)
        part = {"segment": "masks", "pose": "keypoints", "classify": "probs", "obb": "obb"}.get(task, "boxes")
        assert len(answers) == 4 and all(hasattr(answer, part) for answer in answers)
        if task in ("detect", "segment"):
            assert model.names[15] == "cat" and len(model.names) == 80
        if task == "classify":
            assert answers[0].probs.shape == (len(model.names),)
    return use


def trains(name: str) -> None:
    """A detector that can be trained, too, and saves its runs in the world."""
    import ultralytics

    predicts("detect")(name)
    model = YOLO(name)
    model.train(data="coco8.yaml", epochs=1, imgsz=64, batch=4, workers=0, plots=False, verbose=False, device="cpu")
    assert Path(model.trainer.best).exists() and ultralytics.settings["runs_dir"] in str(model.trainer.best)


def segments_everything(name: str) -> None:
    """FastSAM finds its classes of one: everything."""
    answers = FastSAM(name)(pictures()[0], imgsz=64, conf=0.0, verbose=False, device="cpu")
    assert len(answers) == 1 and hasattr(answers[0], "masks")


def coco8(name: str) -> None:
    """Labels of the eight pictures: class x y w h, relative."""
    lines = [line.split() for path in sorted((data() / "labels").glob("*/*.txt"))
                        for line in path.read_text().splitlines()]
    assert lines and len(list((data() / "images").glob("*/*.jpg"))) == 8
    for kind, *box in lines:
        assert 0 <= int(kind) < 80 and len(box) == 4 and all(0 < float(value) < 1 for value in box)


@dataclass(frozen=True)
class Asset:
    """A file of ultralytics' releases: its architecture below ultralytics/cfg/models, its use, its size where known."""

    architecture: str | None
    use: Callable[[str], None]
    size: Size | None = None


ENTRIES = {
    "yolov8n.pt": Asset("v8/yolov8.yaml", trains, Size(6549796)),
    "yolov8n-seg.pt": Asset("v8/yolov8-seg.yaml", predicts("segment")),
    "yolov8n-pose.pt": Asset("v8/yolov8-pose.yaml", predicts("pose")),
    "yolov8n-cls.pt": Asset("v8/yolov8-cls.yaml", predicts("classify")),
    "yolo11n.pt": Asset("11/yolo11.yaml", trains),
    "yolo11n-seg.pt": Asset("11/yolo11-seg.yaml", predicts("segment")),
    "yolo11n-pose.pt": Asset("11/yolo11-pose.yaml", predicts("pose")),
    "yolo11n-cls.pt": Asset("11/yolo11-cls.yaml", predicts("classify")),
    "yolo11n-obb.pt": Asset("11/yolo11-obb.yaml", predicts("obb")),
    "yolo26n.pt": Asset("26/yolo26.yaml", predicts("detect")),
    "FastSAM-s.pt": Asset("v8/yolov8-seg.yaml", segments_everything),
    "coco8.zip": Asset(None, coco8),
}


def urls(name: str) -> dict[str, Size | None]:
    """Where the file comes from: weights from the release that the installed version asks for, data from the first."""
    release = inspect.signature(attempt_download_asset).parameters["release"].default
    release = release if name.endswith(".pt") else "v0.0.0"
    return {f"https://github.com/ultralytics/assets/releases/download/{release}/{name}": ENTRIES[name].size}


def use(name: str) -> None:
    """Load one file inside the world and use it."""
    ENTRIES[name].use(name)


def build(root: Path) -> None:
    """Plant fonts, weights, data, and settings whose folders tests.offline.prepare makes absolute."""
    home = root / FOLDER
    (home / "weights").mkdir(parents=True)
    (home / "Ultralytics").mkdir()
    sans = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copy(sans, home / "Ultralytics" / name)
    for name, asset in ENTRIES.items():
        if asset.architecture:
            plant_weights(home / "weights", name, asset.architecture)
    plant_coco8(home / "datasets/coco8")
    folders = {f"{name}_dir": f"@WORLD@/{FOLDER}/{name}" for name in ("datasets", "weights", "runs")}
    settings = {**SETTINGS, **folders, "sync": False, "tensorboard": False}
    (home / "Ultralytics/settings.json").write_text(json.dumps(settings))
