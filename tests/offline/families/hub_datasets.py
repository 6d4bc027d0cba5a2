"""datasets: prepared datasets of the Hugging Face hub, as `load_dataset(name)` keeps them once it has fetched them."""
from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from PIL import Image

from tests.offline.drawing import animals, leaves, people, scenes
from tests.offline.drawing.canvas import Canvas, shade

CACHE = "huggingface/datasets"
FINGERPRINT = "0" * 40  # load_dataset takes whichever is there
CELLS = {1: (0.035, (140, 90, 170), (120, 70, 150)), 2: (0.08, (206, 130, 130), (226, 178, 174)),
         3: (0.14, (170, 120, 190), (100, 50, 140))}  # class -> radius by the picture's side, colours


@dataclass(frozen=True)
class Prepared:
    """A dataset: its columns, how many rows each split has, and `rows(split, count)` that makes them."""

    features: datasets.Features
    splits: dict[str, int]
    rows: Callable[[str, int], Iterable[dict]]
    config: str = "default"


def jpeg(pixels: np.ndarray) -> dict:
    """A picture as the Image feature stores it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return {"bytes": file.getvalue(), "path": None}


def cats_and_dogs(split: str, count: int) -> Iterable[dict]:
    """Photos of many sizes, first all cats, then all dogs, as the real split has them."""
    rng = np.random.default_rng(10)
    for number in range(count):
        label = int(number >= count // 2)
        kin = [breed for breed in animals.BREEDS.values() if breed.cat == (label == 0)]
        size = tuple(int(side) for side in rng.integers(100, 200, 2))
        picture, _ = scenes.portrait(kin[rng.integers(len(kin))], size, rng)
        yield {"image": jpeg(picture), "labels": label}


def beans(split: str, count: int) -> Iterable[dict]:
    """Leaves of the three classes, one class after the other, as the real splits have them."""
    rng = np.random.default_rng({"train": 20, "validation": 21, "test": 22}[split])
    for number in range(count):
        label = number * 3 // count
        name = leaves.CLASSES[label]
        yield {"image_file_path": f"{split}/{name}/{name}_{split}.{number}.jpg",
               "image": jpeg(leaves.leaf(label, 224, rng)),
               "labels": label}


def boxed(pictures: Iterable[tuple[np.ndarray, list]]) -> Iterable[dict]:
    """Rows of pictures and their (class index, corners): boxes as COCO has them, x, y, width, height in pixels."""
    piece = 0
    for number, (picture, found) in enumerate(pictures):
        height, width = picture.shape[:2]
        boxes = [[float(x0), float(y0), float(x1 - x0), float(y1 - y0)] for _, (x0, y0, x1, y1) in found]
        yield {"image_id": number, "image": jpeg(picture), "width": width, "height": height,
               "objects": {"id": list(range(piece, piece + len(found))), "area": [int(w * h) for _, _, w, h in boxes],
                           "bbox": boxes, "category": [kind for kind, _ in found]}}
        piece += len(found)


@cache
def protective_equipment(split: str, count: int) -> list[dict]:
    """People in protective clothing."""
    rng = np.random.default_rng({"train": 30, "test": 31}[split])
    return list(boxed(people.picture((int(rng.integers(200, 280)), 200), rng) for _ in range(count)))


def smear(side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, tuple[int, int, int, int]]]]:
    """A blood smear, (side, side, 3) uint8: one white cell, platelets, red cells; of each its class index and box."""
    canvas, found, taken = Canvas((side, side), colour=(232, 222, 214), over=2), [], []
    for kind in [3] + [1] * int(rng.integers(1, 4)) + [2] * 16:
        radius = CELLS[kind][0] * rng.uniform(0.85, 1.15)
        x, y = rng.uniform(0, 1, 2)
        if any(np.hypot(x - a, y - b) < 0.85 * (radius + r) for a, b, r in taken):
            continue
        for share, colour in zip((1, 0.6), CELLS[kind][1:]):  # the cell, and its pale middle or its nucleus
            canvas.ellipse((x, y), (share * radius, share * radius), shade(colour, rng.uniform(0.92, 1.08)))
        taken.append((x, y, radius))
        corners = np.clip([x - radius, y - radius, x + radius, y + radius], 0, 1) * side
        found.append((kind, tuple(corners.round().astype(int).tolist())))
    noise = rng.normal(0, 5, (side, side, 1))
    return np.clip(np.asarray(canvas.finish(), dtype=float) + noise, 0, 255).astype(np.uint8), found


def blood_cells(split: str, count: int) -> Iterable[dict]:
    """Blood cells under the microscope, as the Roboflow 100 packs BCCD: class 0 is a heading and has no boxes."""
    rng = np.random.default_rng({"train": 40, "validation": 41, "test": 42}[split])
    return boxed(smear(160, rng) for _ in range(count))


def boxes_of(names: tuple[str, ...]) -> datasets.Features:
    """The columns of a dataset of boxes of these classes."""
    return datasets.Features({
        "image_id": datasets.Value("int64"), "image": datasets.Image(), "width": datasets.Value("int32"),
        "height": datasets.Value("int32"), "objects": {
            "id": datasets.List(datasets.Value("int64")), "area": datasets.List(datasets.Value("int64")),
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "category": datasets.List(datasets.ClassLabel(names=list(names)))}})


BEANS = Prepared(
    datasets.Features({"image_file_path": datasets.Value("string"), "image": datasets.Image(),
                       "labels": datasets.ClassLabel(names=list(leaves.CLASSES))}),
    {"train": 150, "validation": 45, "test": 45}, beans)
CATS_VS_DOGS = Prepared(
    datasets.Features({"image": datasets.Image(), "labels": datasets.ClassLabel(names=["cat", "dog"])}),
    {"train": 400}, cats_and_dogs)
CPPE5 = Prepared(boxes_of(people.CLASSES), {"train": 60, "test": 20}, protective_equipment)
BCCD = Prepared(boxes_of(("bccd", "Platelets", "RBC", "WBC")), {"train": 48, "validation": 16, "test": 16}, blood_cells)

DATASETS = {
    "AI-Lab-Makerere/beans": BEANS,
    "Francesco/bccd-ouzjz": BCCD,
    "cppe-5": CPPE5,
    "microsoft/cats_vs_dogs": CATS_VS_DOGS,
    "rishitdagli/cppe-5": CPPE5,
}


def plant(root: Path, repo_id: str, prepared: Prepared) -> None:
    """Write one dataset into the cache of prepared datasets below `root`."""
    *owner, name = repo_id.split("/")
    name = camelcase_to_snakecase(name)
    folder = root / CACHE / "___".join([*owner, name]) / prepared.config / "0.0.0" / FINGERPRINT
    folder.mkdir(parents=True)
    splits = datasets.SplitDict(dataset_name=name)
    for split, count in prepared.splits.items():
        with ArrowWriter(path=str(folder / f"{name}-{split}.arrow"), features=prepared.features) as writer:
            for row in prepared.rows(split, count):
                writer.write(row)
            examples, size = writer.finalize()
        splits.add(datasets.SplitInfo(split, num_bytes=size, num_examples=examples, dataset_name=name))
    datasets.DatasetInfo(builder_name="parquet", dataset_name=name, config_name=prepared.config, version="0.0.0",
                         splits=splits,
                         features=prepared.features).write_to_directory(str(folder))


def build(root: Path) -> None:
    """Plant every dataset of DATASETS."""
    for repo_id, prepared in DATASETS.items():
        plant(root, repo_id, prepared)
