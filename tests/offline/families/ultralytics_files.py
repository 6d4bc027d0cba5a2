"""ultralytics: fonts, settings, tiny weights under real names, and the eight pictures of coco8."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from PIL import Image
from ultralytics import YOLO
from ultralytics.utils import ROOT, SETTINGS

from tests.offline.drawing import scenes

FOLDER = "ultralytics"  # YOLO_CONFIG_DIR
WEIGHTS = {  # the file: its architecture below ultralytics/cfg/models
    "yolov8n.pt": "v8/yolov8.yaml",
    "yolov8n-seg.pt": "v8/yolov8-seg.yaml",
    "yolov8n-pose.pt": "v8/yolov8-pose.yaml",
    "yolov8n-cls.pt": "v8/yolov8-cls.yaml",
    "yolo11n.pt": "11/yolo11.yaml",
}
COCO = {"cat": 15, "dog": 16, "automobile": 2, "bird": 14, "horse": 17, "ship": 8, "bottle": 39, "truck": 7,
        "airplane": 4}


def plant_weights(folder: Path, name: str, architecture: str) -> None:
    """A random network of real structure and little width; a detector of objects knows COCO's names."""
    config = yaml.safe_load((ROOT / "cfg/models" / architecture).read_text(encoding="utf-8"))
    config["scales"] = {"n": [0.33, 0.0625, 1024]}
    path = folder / Path(architecture).name.replace(".yaml", "n.yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    model = YOLO(str(path))
    if model.task in ("detect", "segment"):
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


def build(root: Path) -> None:
    """Plant fonts, weights, data, and settings whose folders tests.offline.prepare makes absolute."""
    home = root / FOLDER
    (home / "weights").mkdir(parents=True)
    (home / "Ultralytics").mkdir()
    sans = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copy(sans, home / "Ultralytics" / name)
    for name, architecture in WEIGHTS.items():
        plant_weights(home / "weights", name, architecture)
    plant_coco8(home / "datasets/coco8")
    folders = {f"{name}_dir": f"@WORLD@/{FOLDER}/{name}" for name in ("datasets", "weights", "runs")}
    settings = {**SETTINGS, **folders, "sync": False, "tensorboard": False}
    (home / "Ultralytics/settings.json").write_text(json.dumps(settings))
