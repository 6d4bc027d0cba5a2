"""torchvision.datasets: miniature files under the names each class looks for."""
from __future__ import annotations

import pickle
import string
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.offline.drawing import animals, garments, glyphs, scenes

DATA = "torch/hub/datasets"  # Path(torch.hub.get_dir()) / "datasets", the root the notebooks use


def write_idx(path: Path, array: np.ndarray) -> None:
    """A uint8 array in the IDX format of the MNIST files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + np.ascontiguousarray(array, dtype=np.uint8).tobytes())


def save(image: np.ndarray, path: Path) -> None:
    """An image file, of the kind that the name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=88)


def fashion_mnist(root: Path, train: int = 1200, test: int = 300) -> None:
    """Drawn garments, the ten classes equally often and mixed."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        labels = rng.permutation(np.arange(count) % 10)
        images = np.stack([garments.garment(label, rng) for label in labels])
        write_idx(root / f"FashionMNIST/raw/{split}-images-idx3-ubyte", images)
        write_idx(root / f"FashionMNIST/raw/{split}-labels-idx1-ubyte", labels)


def mnist(root: Path, train: int = 1200, test: int = 300) -> None:
    """Real handwritten digits of scikit-learn; no writing stands in both splits."""
    rng = np.random.default_rng(1)
    for split, count, first, last in (("train", train, 0, 1497), ("t10k", test, 1497, 1797)):
        images, labels = glyphs.digits(count, rng, first, last)
        write_idx(root / f"MNIST/raw/{split}-images-idx3-ubyte", images)
        write_idx(root / f"MNIST/raw/{split}-labels-idx1-ubyte", labels)


# Split of EMNIST: the label of its first class, and for each class the characters that count as it.
EMNIST = {
    "letters": (1, [upper + upper.lower() for upper in string.ascii_uppercase]),
    "balanced": (0, list(string.digits + string.ascii_uppercase + "abdefghnqrt")),
}


def emnist(root: Path, train: int = 20, test: int = 6) -> None:
    """Bent letters, so many of each class; stored transposed, as the real files are."""
    rng = np.random.default_rng(2)
    for split, (first, classes) in EMNIST.items():
        for part, count in (("train", train), ("test", test)):
            labels = rng.permutation(np.repeat(np.arange(len(classes)), count))
            images = np.stack([glyphs.letter(str(rng.choice(list(classes[label]))), rng).T for label in labels])
            write_idx(root / f"EMNIST/raw/emnist-{split}-{part}-images-idx3-ubyte", images)
            write_idx(root / f"EMNIST/raw/emnist-{split}-{part}-labels-idx1-ubyte", labels + first)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Path, batch: int = 100) -> None:
    """Five training batches and one test batch of `batch` pictures each (needs the md5 waiver of the guard)."""
    rng = np.random.default_rng(3)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = [int(label) for label in rng.permutation(np.arange(batch) % 10)]
        images = np.stack([scenes.single(CIFAR10[label], 32, rng) for label in labels])
        rows = images.transpose(0, 3, 1, 2).reshape(batch, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10)}))


def oxford_iiit_pet(root: Path, trainval: int = 8, test: int = 4) -> None:
    """So many photos of each of the 37 breeds, with trimaps (1 animal, 2 background, 3 border)."""
    rng = np.random.default_rng(4)
    folder = root / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, (breed, look) in enumerate(animals.BREEDS.items(), start=1):
        for number in range(trainval + test):
            size = (160, 120) if rng.random() < 0.6 else (120, 160)
            picture, trimap = scenes.portrait(look, size, rng)
            name = f"{breed}_{number + 1}"
            save(picture, folder / "images" / f"{name}.jpg")
            save(trimap, folder / "annotations/trimaps" / f"{name}.png")
            split = "trainval" if number < trainval else "test"
            lines[split].append(f"{name} {label} {1 if look.cat else 2} {label}\n")
    for split, rows in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("".join(rows))


VOC = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
       "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
DRAWN = {"airplane": "aeroplane", "automobile": "car", "bird": "bird", "bottle": "bottle", "cat": "cat", "dog": "dog",
         "horse": "horse", "ship": "boat"}  # what scenes draws: its name in VOC
VOC_SETS = {  # the folder below VOCdevkit: the archive's name, and how many pictures each split has
    "VOC2012": ("VOCtrainval_11-May-2012.tar", {"train": 24, "val": 12}),
    "VOC2007": ("VOCtrainval_06-Nov-2007.tar", {"train": 24, "val": 12}),
}


def voc_palette() -> list[int]:
    """The colours of VOC's label images, 256 × (red, green, blue): a label's bits spread over the channels."""
    colours = np.zeros((256, 3), dtype=int)
    for bit in range(24):
        colours[:, bit % 3] |= ((np.arange(256) >> bit) & 1) << (7 - bit // 3)
    return colours.ravel().tolist()


def voc_annotation(name: str, size: tuple[int, int], placed: list[scenes.Placed]) -> str:
    """The XML of one picture; VOC counts pixels from 1 and names the last pixel inside the box."""
    objects = "".join(
        f"<object><name>{DRAWN[one.name]}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{one.box[0] + 1}</xmin><ymin>{one.box[1] + 1}</ymin>"
        f"<xmax>{one.box[2]}</xmax><ymax>{one.box[3]}</ymax></bndbox></object>" for one in placed)
    return (f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size><segmented>1</segmented>{objects}</annotation>\n")


def voc(root: Path, size: tuple[int, int] = (250, 188)) -> None:
    """Scenes with exact boxes, class masks and instance masks (download=True needs the md5 waiver of the guard)."""
    rng = np.random.default_rng(5)
    for devkit, (archive, splits) in VOC_SETS.items():
        folder = root / "VOCdevkit" / devkit
        for part in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
            (folder / part).mkdir(parents=True)
        listed: dict[str, list[str]] = {"train": [], "val": [], "trainval": []}
        for split in (split for split, count in splits.items() for _ in range(count)):
            name = f"{devkit[3:]}_{len(listed['trainval']) + 1:06d}"
            for part in (split, "trainval"):
                listed[part].append(f"{name}\n")
            picture, placed = scenes.several(list(rng.choice(list(DRAWN), rng.integers(1, 5))), size, rng)
            save(picture, folder / "JPEGImages" / f"{name}.jpg")
            (folder / "Annotations" / f"{name}.xml").write_text(voc_annotation(name, size, placed))
            for part in ("SegmentationClass", "SegmentationObject"):
                labels = np.zeros(picture.shape[:2], dtype=np.uint8)
                for number, one in enumerate(placed, start=1):
                    labels[one.mask] = 1 + VOC.index(DRAWN[one.name]) if part == "SegmentationClass" else number
                image = Image.fromarray(labels)
                image.putpalette(voc_palette())
                (folder / part).mkdir(exist_ok=True)
                image.save(folder / part / f"{name}.png")
        for part in ("Main", "Segmentation"):
            for split, rows in listed.items():
                (folder / "ImageSets" / part / f"{split}.txt").write_text("".join(rows))
        with tarfile.open(root / archive, "w") as tar:
            tar.add(folder, f"VOCdevkit/{devkit}")


DATASETS: dict[str, Callable[[Path], None]] = {
    "CIFAR10": cifar10,
    "EMNIST": emnist,
    "FashionMNIST": fashion_mnist,
    "MNIST": mnist,
    "OxfordIIITPet": oxford_iiit_pet,
    "VOC": voc,
}


def build(root: Path) -> None:
    """Plant every dataset of DATASETS."""
    for plant in DATASETS.values():
        plant(root / DATA)
