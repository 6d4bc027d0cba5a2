"""torchvision.datasets: miniature files under the names each class looks for."""
from __future__ import annotations

import functools
import pickle
import string
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

import tests.offline.learning as learning
from tests.offline.downloads import Files, Size
from tests.offline.drawing import animals, garments, glyphs, imagenette, scenes, signs

SERVES = ("torchvision.datasets",)
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
VOC_SETS = (  # the folder below VOCdevkit, the archive's name, and how many pictures each split has
    ("VOC2012", "VOCtrainval_11-May-2012.tar", {"train": 24, "val": 12}),
    ("VOC2007", "VOCtrainval_06-Nov-2007.tar", {"train": 24, "val": 12}),
    ("VOC2007", "VOCtest_06-Nov-2007.tar", {"test": 10}),
)


def voc_palette() -> list[int]:
    """The colours of VOC's label images, 256 × (red, green, blue): a label's bits spread over the channels."""
    colours = np.zeros((256, 3), dtype=int)
    for bit in range(24):
        colours[:, bit % 3] |= ((np.arange(256) >> bit) & 1) << (7 - bit // 3)
    return colours.ravel().tolist()


def voc_annotation(name: str, size: tuple[int, int], placed: list[scenes.Placed]) -> str:
    """The XML of one picture; VOC counts pixels from 1 and names the last pixel inside the box.

    What is hidden most is marked as difficult.
    """
    area = [int(one.mask.sum()) for one in placed]
    objects = "".join(
        f"<object><name>{DRAWN[one.name]}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(len(placed) > 2 and area[number] == min(area))}</difficult>"
        f"<bndbox><xmin>{one.box[0] + 1}</xmin><ymin>{one.box[1] + 1}</ymin>"
        f"<xmax>{one.box[2]}</xmax><ymax>{one.box[3]}</ymax></bndbox></object>" for number, one in enumerate(placed))
    return (f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size><segmented>1</segmented>{objects}</annotation>\n")


def voc(root: Path, size: tuple[int, int] = (250, 188)) -> None:
    """Scenes with exact boxes, class masks and instance masks (download=True needs the md5 waiver of the guard)."""
    rng = np.random.default_rng(5)
    for devkit, archive, splits in VOC_SETS:
        folder, first = root / "VOCdevkit" / devkit, 1 if "test" not in splits else 37
        for part in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass",
                     "SegmentationObject"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        listed: dict[str, list[str]] = {split: [] for split in splits}
        for number, split in enumerate(split for split, count in splits.items() for _ in range(count)):
            name = f"{devkit[3:]}_{first + number:06d}"
            listed[split].append(f"{name}\n")
            picture, placed = scenes.several(list(rng.choice(list(DRAWN), rng.integers(1, 5))), size, rng)
            save(picture, folder / "JPEGImages" / f"{name}.jpg")
            (folder / "Annotations" / f"{name}.xml").write_text(voc_annotation(name, size, placed))
            for part in ("SegmentationClass", "SegmentationObject"):
                labels = np.zeros(picture.shape[:2], dtype=np.uint8)
                for index, one in enumerate(placed, start=1):
                    labels[one.mask] = 1 + VOC.index(DRAWN[one.name]) if part == "SegmentationClass" else index
                image = Image.fromarray(labels)
                image.putpalette(voc_palette())
                image.save(folder / part / f"{name}.png")
        if "test" not in splits:
            listed["trainval"] = [row for rows in listed.values() for row in rows]
        for part in ("Main", "Segmentation"):
            for split, rows in listed.items():
                (folder / "ImageSets" / part / f"{split}.txt").write_text("".join(rows))
        with tarfile.open(root / archive, "w") as tar:
            tar.add(folder, f"VOCdevkit/{devkit}")


IMAGENETTE = {"160px": (160, 20, 8), "320px": (320, 3, 2)}  # size: shorter side, photos a class in train and in val


def imagenette_photos(root: Path) -> None:
    """Photos in class folders that WordNet numbers name; now and then one in grey, as the real set has them."""
    rng = np.random.default_rng(7)
    for size, (side, train, val) in IMAGENETTE.items():
        for split, count in (("train", train), ("val", val)):
            for wnid in imagenette.CLASSES:
                for number in range(count):
                    picture = imagenette.picture(wnid, side, rng)
                    if number == 5 and wnid == "n03028079":
                        picture = np.asarray(Image.fromarray(picture).convert("L"))
                    name = f"{wnid}_{number}" if split == "train" else f"ILSVRC2012_val_{len(wnid) + number:08d}"
                    save(picture, root / f"imagenette2-{size.removesuffix('px')}/{split}/{wnid}/{name}.jpeg")


GTSRB_TRAIN, GTSRB_TEST, FRAMES = 2, 3, 6  # tracks a class in train, pictures a class in test, frames of a track


def gtsrb(root: Path) -> None:
    """Traffic signs: tracks of frames that come nearer; frame and track are in the name, the test set has none."""
    rng, rows = np.random.default_rng(6), []
    folder = root / "gtsrb/GTSRB"
    for label in range(43):
        for track in range(GTSRB_TRAIN):
            look = int(rng.integers(1 << 30))
            for frame in range(FRAMES):
                picture = signs.sign(label, np.random.default_rng(look), frame / (FRAMES - 1))
                save(picture, folder / f"Training/{label:05d}/{track:05d}_{frame:05d}.ppm")
    for number, label in enumerate(rng.permutation(np.arange(43 * GTSRB_TEST) % 43)):
        picture = signs.sign(int(label), rng, rng.random())
        save(picture, folder / f"Final_Test/Images/{number:05d}.ppm")
        side = len(picture)
        rows.append(f"{number:05d}.ppm;{side};{side};2;2;{side - 3};{side - 3};{label}\n")
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    (root / "gtsrb/GT-final_test.csv").write_text(header + "".join(rows))


KITTI_SIZE = (1242, 375)
KITTI_CAMERA = "7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 2.745884e-03"


def kitti(root: Path, count: int = 3) -> None:
    """Frames of a road with cars: pictures, labels with boxes in the plane and in space, calibration."""
    rng = np.random.default_rng(8)
    focal, middle_x, middle_y = 721.5377, 609.5593, 172.854
    folder = root / "Kitti/raw/training"
    for part in ("image_2", "label_2", "calib"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        width, height = KITTI_SIZE
        picture = np.full((height, width, 3), (96, 96, 100), dtype=np.uint8)
        picture[:int(middle_y)] = (150, 190, 224)
        lines = []
        for _ in range(3):
            depth, side = rng.uniform(9, 30), rng.uniform(-6, 6)
            high, wide, long = 1.5, 1.65, 3.9
            left, right = (focal * (side + s * wide / 2) / depth + middle_x for s in (-1, 1))
            top, bottom = (focal * (1.65 - h) / depth + middle_y for h in (high, 0))
            x0, x1 = (int(np.clip(x, 0, width - 1)) for x in (left, right))
            picture[int(top):int(bottom), x0:x1] = rng.integers(20, 200, 3)
            lines.append(f"Car 0.00 0 {-np.arctan2(side, depth):.2f} {x0:.2f} {top:.2f} {x1:.2f} {bottom:.2f} "
                         f"{high:.2f} {wide:.2f} {long:.2f} {side:.2f} 1.65 {depth:.2f} 0.00\n")
        lines.append("DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n")
        Image.fromarray(picture).save(folder / f"image_2/{number:06d}.png")
        (folder / f"label_2/{number:06d}.txt").write_text("".join(lines))
        (folder / f"calib/{number:06d}.txt").write_text(
            "".join(f"P{camera}: {KITTI_CAMERA}\n" for camera in range(4))
            + "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n")


def flowers102(root: Path) -> None:
    """Pictures of flowers, one a class in each split (needs the md5 waiver of the guard)."""
    rng, folder = np.random.default_rng(9), root / "flowers-102"
    labels = np.tile(np.arange(1, 103), 3)
    for number in range(1, len(labels) + 1):
        save(scenes.setting("frog", (120, 100), rng).astype(np.uint8), folder / f"jpg/image_{number:05d}.jpg")
    numbers = np.arange(1, len(labels) + 1).reshape(3, 102)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    savemat(folder / "setid.mat", {"trnid": numbers[:1], "valid": numbers[1:2], "tstid": numbers[2:]})


# --- use --------------------------------------------------------------------------------------------------------------

def root_of() -> Path:
    """The root that notebooks give to torchvision's datasets."""
    return Path(torch.hub.get_dir()) / "datasets"


def use_arrays(make, shape: tuple[int, ...], labels: list[int], linear: tuple[float, float] = (0, 1)) -> tuple:
    """Both splits of a set that keeps its pictures in one array: their form, and that they can be learned."""
    train, test = (make(root_of(), train=train, download=True) for train in (True, False))
    assert tuple(np.asarray(train.data).shape[1:]) == shape
    parts = [(np.asarray(part.data) / 255, np.asarray(part.targets)) for part in (train, test)]
    assert np.unique(parts[0][1]).tolist() == labels
    reached, guessing = learning.linear_accuracy(*parts), learning.majority(parts[1][1])
    assert reached > 4 * guessing and linear[0] < reached < linear[1], (reached, guessing)
    return train, test


def use_fashion_mnist() -> None:
    """The ten garments in their order."""
    train, _ = use_arrays(datasets.FashionMNIST, (28, 28), list(range(10)), (0.7, 0.95))
    assert train.classes == list(garments.CLASSES)


def use_mnist() -> None:
    """No handwriting stands in both splits."""
    train, test = use_arrays(datasets.MNIST, (28, 28), list(range(10)), (0.8, 1))
    digits, scans = [part.targets.tolist() for part in (train, test)], load_digits().target.tolist()
    assert digits[0] == scans[:len(train)] and digits[1] == scans[-len(test):] and len(train) + len(test) <= len(scans)


def use_emnist() -> None:
    """Labels of letters count from 1; pictures are stored transposed."""
    letters, _ = use_arrays(functools.partial(datasets.EMNIST, split="letters"), (28, 28), list(range(1, 27)))
    assert letters.classes[0] == "N/A"
    balanced, _ = use_arrays(functools.partial(datasets.EMNIST, split="balanced"), (28, 28), list(range(47)))
    assert len(balanced.classes) == 47
    stored = balanced.data[balanced.targets == balanced.classes.index("L")].float().mean(0)
    assert stored.T[14:].sum() > 1.1 * stored.T[:14].sum()  # the foot of an L is at the bottom …
    assert stored[:, 14:].sum() > 1.1 * stored[:, :14].sum()  # … of a picture that lies on its side
    assert stored[14:].sum() < 0.9 * stored[:14].sum()


def use_cifar10() -> None:
    """Ten classes, colors last."""
    train, _ = use_arrays(datasets.CIFAR10, (32, 32, 3), list(range(10)), (0, 0.9))
    assert train.classes == list(CIFAR10)


def use_oxford_iiit_pet() -> None:
    """Breeds, species and trimaps."""
    pets = {(kind, split): datasets.OxfordIIITPet(root_of(), split, target_types=kind, download=True)
            for kind in ("category", "binary-category", "segmentation") for split in ("trainval", "test")}
    breeds = pets["category", "test"]
    assert breeds.bin_classes == ["Cat", "Dog"] and sorted({label for _, label in breeds}) == list(range(37))
    assert len(breeds.classes) == 37 and breeds.classes[:2] == ["Abyssinian", "American Bulldog"]
    sky = []
    for number in range(0, 140, 7):
        image, mask = pets["segmentation", "test"][number]
        values = np.asarray(mask)
        assert image.size == mask.size and np.unique(values).tolist() == [1, 2, 3] and 0.1 < (values == 1).mean() < 0.7
        sky.append((values[0] == 2).mean())
    assert np.mean(sky) > 0.8  # what is above the animals is background
    parts = [(np.stack([learning.small(image) for image, _ in data]), [label for _, label in data])
             for data in (pets["binary-category", "trainval"], pets["binary-category", "test"])]
    reached = learning.accuracy(*parts, epochs=14)
    assert reached > learning.majority(parts[1][1]) + 0.12, reached


def use_voc() -> None:
    """Boxes are tight about the masks, and masks have the class that the annotation names."""
    root, objects = root_of(), 0
    for year in ("2007", "2012"):
        detection = datasets.VOCDetection(root, year=year, image_set="trainval", download=True)
        segmentation = datasets.VOCSegmentation(root, year=year, image_set="trainval", download=True)
        for (_, target), (_, label) in zip(detection, segmentation):
            annotation = target["annotation"]
            name = annotation["filename"].removesuffix(".jpg")
            instances = np.asarray(Image.open(root / f"VOCdevkit/VOC{year}/SegmentationObject/{name}.png"))
            for number, one in enumerate(annotation["object"], start=1):
                rows, columns = np.nonzero(instances == number)
                tight = [int(side) + 1 for side in (columns.min(), rows.min(), columns.max(), rows.max())]
                assert [int(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] == tight
                assert np.unique(np.asarray(label)[rows, columns]).tolist() == [1 + VOC.index(one["name"])]
                objects += 1
    assert objects > 80
    test = datasets.VOCDetection(root, year="2007", image_set="test", download=True)
    assert len(test) and {one["difficult"]
               for _, target in test for one in target["annotation"]["object"]} == {"0", "1"}


def use_imagenette() -> None:
    """Ten classes of tuples of names, photos of many sizes of which some are grey files, and something to learn."""
    root = root_of()
    train, val = (datasets.Imagenette(root, split, size="160px", download=True) for split in ("train", "val"))
    assert [names[0] for names in train.classes[:3]] == ["tench", "English springer", "cassette player"]
    assert min(train[0][0].size) == 160 and len({image.size for image, _ in train}) > 20
    assert {Image.open(path).mode for path, _ in train._samples} == {"RGB", "L"}
    assert min(datasets.Imagenette(root, "val", size="320px", download=True)[0][0].size) == 320
    parts = [(np.stack([learning.small(image) for image, _ in data]), [label for _, label in data])
              for data in (train, val)]
    assert learning.accuracy(*parts, epochs=12) > 0.3


def use_gtsrb() -> None:
    """Signs can be learnt from tracks that the test set does not share; track and frame stand in the name."""
    train, test = (datasets.GTSRB(root_of(), split, download=True) for split in ("train", "test"))
    names = [Path(path) for path, _ in train._samples]
    assert len({(path.parent.name, path.stem.split("_")[0]) for path in names}) == 43 * GTSRB_TRAIN
    assert max(path.stem.split("_")[1] for path in names) == f"{FRAMES - 1:05d}"
    assert sorted({label for _, label in test}) == list(range(43)) and len(test) == 43 * GTSRB_TEST
    parts = [(np.stack([learning.small(image, 32) for image, _ in data]), [label for _, label in data])
             for data in (train, test)]
    assert learning.accuracy(*parts, epochs=8) > 0.15


def use_kitti() -> None:
    """A road in the real size, boxes inside it, one line a thing and one that is not cared for."""
    image, things = datasets.Kitti(root_of(), train=True, download=True)[0]
    assert image.size == KITTI_SIZE and [one["type"] for one in things] == ["Car"] * 3 + ["DontCare"]
    for one in things[:3]:
        x0, y0, x1, y1 = one["bbox"]
        assert 0 <= x0 < x1 < 1242 and 0 <= y0 < y1 < 375 and one["location"][2] > 5


def use_flowers102() -> None:
    """102 classes in three splits."""
    for split in ("train", "val", "test"):
        flowers = datasets.Flowers102(root_of(), split, download=True)
        assert sorted(label for _, label in flowers) == list(range(102))


S3 = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
VOC_HOME = "https://thor.robots.ox.ac.uk/pascal/VOC/"
SIGNS = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
FAST_AI = "https://s3.amazonaws.com/fast-ai-imageclas/"
KITTI = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"

ENTRIES = {
    "CIFAR10": Files(cifar10, use_cifar10,
                     {"https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz": Size(170498071)}),
    "EMNIST": Files(emnist, use_emnist, {"https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip": Size(561753746)}),
    "FashionMNIST": Files(fashion_mnist, use_fashion_mnist, {
        f"{FASHION}train-images-idx3-ubyte.gz": Size(26421880), f"{FASHION}train-labels-idx1-ubyte.gz": Size(29515),
        f"{FASHION}t10k-images-idx3-ubyte.gz": Size(4422102), f"{FASHION}t10k-labels-idx1-ubyte.gz": Size(5148)},
        "MIT"),
    "Flowers102": Files(flowers102, use_flowers102, {
        f"{FLOWERS}102flowers.tgz": None, f"{FLOWERS}imagelabels.mat": None, f"{FLOWERS}setid.mat": None}),
    "GTSRB": Files(gtsrb, use_gtsrb, {
        f"{SIGNS}GTSRB-Training_fixed.zip": Size(187490228), f"{SIGNS}GTSRB_Final_Test_Images.zip": None,
        f"{SIGNS}GTSRB_Final_Test_GT.zip": None}),
    "Imagenette": Files(imagenette_photos, use_imagenette, {
        f"{FAST_AI}imagenette2-160.tgz": Size(99003388), f"{FAST_AI}imagenette2-320.tgz": None}),
    "Kitti": Files(kitti, use_kitti, {f"{KITTI}data_object_image_2.zip": None, f"{KITTI}data_object_label_2.zip": None},
                   "CC BY-NC-SA 3.0"),
    "MNIST": Files(mnist, use_mnist, {
        f"{S3}train-images-idx3-ubyte.gz": Size(9912422), f"{S3}train-labels-idx1-ubyte.gz": Size(28881),
        f"{S3}t10k-images-idx3-ubyte.gz": Size(1648877), f"{S3}t10k-labels-idx1-ubyte.gz": Size(4542)}),
    "OxfordIIITPet": Files(oxford_iiit_pet, use_oxford_iiit_pet, {
        f"{PETS}images.tar.gz": Size(791918971), f"{PETS}annotations.tar.gz": Size(19173078)}, "CC BY-SA 4.0"),
    "VOC": Files(voc, use_voc, {
        f"{VOC_HOME}voc2012/VOCtrainval_11-May-2012.tar": Size(1999639040),
        f"{VOC_HOME}voc2007/VOCtrainval_06-Nov-2007.tar": Size(460032000),
        f"{VOC_HOME}voc2007/VOCtest_06-Nov-2007.tar": Size(451020800)}),
}


def use(name: str) -> None:
    """Load one entry inside the world and assert what a reader would see."""
    ENTRIES[name].use()


def build(root: Path) -> None:
    """Plant every dataset of ENTRIES."""
    for entry in ENTRIES.values():
        entry.plant(root / DATA)
