"""datasets: prepared datasets of the Hugging Face hub, as `load_dataset(name)` keeps them once it has fetched them."""
from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import pyarrow
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from PIL import Image

import tests.offline.learning as learning
from tests.offline.drawing import animals, blood, faces, leaves, people, scenes, writing
from tests.offline.drawing.canvas import Canvas

SERVES = ("datasets",)
CACHE = "huggingface/datasets"
FINGERPRINT = "0" * 40  # load_dataset takes whichever is there


@dataclass(frozen=True)
class Prepared:
    """A dataset: what is planted, and what `python -m tests.offline check` asks of the real one.

    Planted: `features`, `splits` (rows of each) and `rows(split, count)`, which makes them; `use(loaded)` asserts what
    a reader would see beyond that. With `legacy` its columns are written as datasets before version 4 wrote them.

    Claims: the features, `counts` (rows of the real splits, None where unknown), `revision` (the commit that notebooks
    pin), `licence` as the card's metadata name it, and `pictures`, of each column of pictures the mode and the size
    (width, height) of the first row, None where it is unknown or varies.
    """

    features: datasets.Features
    counts: dict[str, int | None]
    splits: dict[str, int]
    rows: Callable[[str, int], Iterable[dict]]
    use: Callable[[datasets.DatasetDict], None]
    config: str = "default"
    revision: str | None = None
    licence: str | None = None
    pictures: dict[str, tuple[str, tuple[int, int] | None]] = field(default_factory=dict)
    legacy: bool = False


def jpeg(pixels: np.ndarray) -> dict:
    """A picture as the Image feature stores it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return {"bytes": file.getvalue(), "path": None}


MISLABELLED = 4  # cats and dogs that carry the other's label, as some of the real set do
GREY = 3  # cats and dogs whose file is a grey one, likewise


def cats_and_dogs(split: str, count: int) -> Iterable[dict]:
    """Photos of many sizes, first all cats, then all dogs, as the real split has them; a few are wrong or grey."""
    rng = np.random.default_rng(10)
    wrong, grey = range(7, count, count // MISLABELLED), range(11, count, count // GREY)
    for number in range(count):
        label = int(number >= count // 2)
        kin = [breed for breed in animals.BREEDS.values() if breed.cat == ((label == 0) != (number in wrong))]
        size = tuple(int(side) for side in rng.integers(100, 200, 2))
        picture, _ = scenes.portrait(kin[rng.integers(len(kin))], size, rng)
        if number in grey:
            picture = np.asarray(Image.fromarray(picture).convert("L"))
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


def blood_cells(split: str, count: int) -> Iterable[dict]:
    """Blood cells under the microscope, as the Roboflow 100 packs BCCD: class 0 is a heading and has no boxes."""
    rng = np.random.default_rng({"train": 40, "validation": 41, "test": 42}[split])
    return boxed(blood.smear((160, 160), rng) for _ in range(count))


def boxes_of(names: tuple[str, ...]) -> datasets.Features:
    """The columns of a dataset of boxes of these classes."""
    return datasets.Features({
        "image_id": datasets.Value("int64"), "image": datasets.Image(), "width": datasets.Value("int32"),
        "height": datasets.Value("int32"), "objects": {
            "id": datasets.List(datasets.Value("int64")), "area": datasets.List(datasets.Value("int64")),
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "category": datasets.List(datasets.ClassLabel(names=list(names)))}})


AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")


def fairface(side: int) -> Callable[[str, int], Iterable[dict]]:
    """Faces of this size; what is drawn follows from the labels."""
    def rows(split: str, count: int) -> Iterable[dict]:
        rng = np.random.default_rng({"train": 50, "validation": 51}[split])
        for _ in range(count):
            age, gender, race = int(rng.integers(9)), int(rng.integers(2)), int(rng.integers(7))
            yield {"image": jpeg(faces.face(side, rng, age, gender == 1, race)), "age": age, "gender": gender,
                   "race": race, "service_test": bool(rng.random() < 0.2)}
    return rows


FAIRFACE = datasets.Features({
    "image": datasets.Image(), "age": datasets.ClassLabel(names=list(AGES)),
    "gender": datasets.ClassLabel(names=["Male", "Female"]), "race": datasets.ClassLabel(names=list(RACES)),
    "service_test": datasets.Value("bool")})
SEEN = {"airplane": "a plane", "automobile": "a car", "bird": "a bird", "bottle": "a bottle", "cat": "a cat",
        "dog": "a dog", "horse": "a horse", "ship": "a boat", "truck": "a truck"}


def flickr8k(split: str, count: int) -> Iterable[dict]:
    """Photos of one to three things, each with five sentences that name them."""
    rng = np.random.default_rng({"train": 60, "validation": 61, "test": 62}[split])
    forms = (
    "{} in a photo .",
    "A picture of {} .",
    "There is {} .",
    "{} can be seen here .",
     "Somebody took a photo of {} .")
    for _ in range(count):
        size = (250, 188) if rng.random() < 0.6 else (188, 250)
        picture, placed = scenes.several(list(rng.choice(list(SEEN), rng.integers(1, 4))), size, rng)
        names = " and ".join(dict.fromkeys(SEEN[one.name] for one in placed))
        sentences = [form.format(names) for form in forms]
        yield {"image": jpeg(picture)} | {f"caption_{n}": sentence[0].upper() + sentence[1:]
                                          for n, sentence in enumerate(sentences)}


WRITTEN = ("the", "house", "of", "a", "man", "who", "had", "been", "in", "London", "said", "that", "he", "would", "not",
           "go", "to", "sea", "again", "before", "winter", "and", "they", "knew", "it")


def handwriting(split: str, count: int) -> Iterable[dict]:
    """Lines of text in grey, with what is written."""
    rng = np.random.default_rng({"train": 70, "validation": 71, "test": 72}[split])
    for _ in range(count):
        text = " ".join(rng.choice(WRITTEN, int(rng.integers(4, 8)))) + str(rng.choice([" .", " ,", ""]))
        yield {"image": jpeg(writing.line(text, 128, rng)), "text": text}


def png(pixels: np.ndarray) -> dict:
    """A picture without loss, as the Image feature stores it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


ADE = {"background": 0, "person": 1, "car": 2}


def ade20k(split: str, count: int) -> Iterable[dict]:
    """Cars and people; the annotation holds the class in red, the instance in green, nothing in blue."""
    rng = np.random.default_rng({"train": 80, "validation": 81}[split])
    for _ in range(count):
        picture, placed = scenes.several(["automobile"] * int(rng.integers(1, 3)), (256, 192), rng)
        height, width = picture.shape[:2]
        annotation = np.zeros((height, width, 3), dtype=np.uint8)
        for number, one in enumerate(placed, start=1):
            annotation[one.mask] = (ADE["car"], number, 0)
        side = int(rng.integers(60, 110))
        left = int(rng.integers(0, width - side))
        canvas = Canvas((side, side), "RGBA", (0, 0, 0, 0), over=2)
        people.wear(canvas, "skin", people.SKINS[rng.integers(4)])
        people.wear(canvas, "clothes", people.CLOTHES[rng.integers(4)])
        pasted = picture.astype(float)
        mask = scenes.paste(pasted, canvas.finish(), left, height - side)
        annotation[mask] = (ADE["person"], len(placed) + 1, 0)
        yield {"image": jpeg(pasted.astype(np.uint8)), "annotation": png(annotation), "semantic_class_to_id": ADE}


# --- use --------------------------------------------------------------------------------------------------------------

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(split: str, count: int) -> Iterable[dict]:
    """Photos of 32 pixels in ten classes, mixed, stored as PNG without loss, as the real ones are."""
    rng = np.random.default_rng({"train": 60, "test": 61}[split])
    for label in rng.permutation(np.arange(count) % 10):
        yield {"img": png(scenes.single(CIFAR10[label], 32, rng)), "label": int(label)}


def arrays(part, column: str = "labels") -> tuple[np.ndarray, list[int]]:
    """Pictures (n, 3, 40, 40) and labels of a split."""
    return np.stack([learning.small(image) for image in part["image"]]), part[column]


def use_cats_and_dogs(loaded: datasets.DatasetDict) -> None:
    """All cats come first; photos have many sizes, some a single channel; and the two can be told apart."""
    pets = loaded["train"]
    assert pets["labels"] == sorted(pets["labels"]) and len({image.size for image in pets["image"]}) > 100
    assert [image.mode for image in pets["image"]].count("L") == GREY
    parts = pets.train_test_split(0.3, seed=0)
    reached = learning.accuracy(arrays(parts["train"]), arrays(parts["test"]), 14)
    assert reached > learning.majority(parts["test"]["labels"]) + 0.2, reached


def use_cifar10(loaded: datasets.DatasetDict) -> None:
    """Ten classes of small photos that can be learnt."""
    parts = [(np.stack([np.asarray(picture) for picture in part["img"]]).transpose(0, 3, 1, 2), list(part["label"]))
             for part in (loaded["train"], loaded["test"])]
    assert parts[0][0].shape[1:] == (3, 32, 32) and set(parts[0][1]) == set(range(10))
    reached = learning.accuracy(*parts, 14)
    assert reached > learning.majority(parts[1][1]) + 0.2, reached


def use_beans(loaded: datasets.DatasetDict) -> None:
    """Three classes that can be learnt; splits can be cut."""
    reached = learning.accuracy(arrays(loaded["train"]), arrays(loaded["test"]), 8)
    assert reached > learning.majority(loaded["test"]["labels"]) + 0.2, reached
    cut = datasets.load_dataset("AI-Lab-Makerere/beans", split="train[:20%]", revision="0123abc")
    assert cut.num_rows == 30


def use_boxes(classes: list[int]) -> Callable[[datasets.DatasetDict], None]:
    """Boxes, x, y, width, height in pixels, lie in their pictures, and each of these classes has some."""
    def use(loaded: datasets.DatasetDict) -> None:
        seen, boxes = set(), 0
        for row in loaded["train"]:
            assert row["image"].size == (row["width"], row["height"])
            for x, y, w, h in row["objects"]["bbox"]:
                assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= row["width"] and y + h <= row["height"]
                boxes += 1
            seen |= set(row["objects"]["category"])
        assert sorted(seen) == classes and boxes > 100
        assert loaded["train"].features["objects"]["category"].feature.names
    return use


def use_fairface(loaded: datasets.DatasetDict) -> None:
    """A configuration must be named; gender and age can be learnt."""
    try:
        datasets.load_dataset("HuggingFaceM4/FairFace")
    except ValueError as error:
        assert "0.25" in str(error)
    else:
        raise AssertionError("FairFace loaded without the name of a configuration")
    if loaded["train"].num_rows > 100:
        train, test = loaded["train"], loaded["validation"]
        reached = learning.accuracy(arrays(train, "gender"), arrays(test, "gender"), 12)
        assert reached > learning.majority(test["gender"]) + 0.2, reached


def use_flickr8k(loaded: datasets.DatasetDict) -> None:
    """Five sentences a photo, which name the same things."""
    row = loaded["train"][0]
    assert len({row[f"caption_{n}"] for n in range(5)}) == 5 and any(name in row["caption_1"] for name in SEEN.values())


def use_handwriting(loaded: datasets.DatasetDict) -> None:
    """Dark ink on light paper, wider the longer the text; in grey, so that a reader must convert it."""
    lines = sorted(loaded["train"], key=lambda row: len(row["text"]))
    assert lines[-1]["image"].width > 1.3 * lines[0]["image"].width
    assert all(row["image"].mode == "L" and np.asarray(row["image"]).mean() > 180 for row in lines)


def use_ade20k(loaded: datasets.DatasetDict) -> None:
    """Red holds the class, green the instance; the picture and its annotation have one size."""
    seen = set()
    for row in loaded["validation"]:
        annotation = np.asarray(row["annotation"])
        assert row["annotation"].mode == "RGB" and row["image"].size == row["annotation"].size and not annotation[...,
            2].any()
        assert (annotation[..., 0] == 0).tolist() == (annotation[..., 1] == 0).tolist()
        seen |= set(np.unique(annotation[..., 0]).tolist())
        assert row["semantic_class_to_id"] == ADE
    assert seen == {0, 1, 2}


CPPE5 = Prepared(boxes_of(people.CLASSES), {"train": 1000, "test": 29}, {"train": 60, "test": 20}, protective_equipment,
                 use_boxes([0, 1, 2, 3, 4]), legacy=True)

ENTRIES = {
    "AI-Lab-Makerere/beans": Prepared(
        datasets.Features({"image_file_path": datasets.Value("string"), "image": datasets.Image(),
                           "labels": datasets.ClassLabel(names=list(leaves.CLASSES))}),
        {"train": 1034, "validation": 133, "test": 128}, {"train": 150, "validation": 45, "test": 45}, beans, use_beans,
        revision="27aa014ce09b193e1a6f58112d4a66e0eddb69c5", licence="mit", pictures={"image": ("RGB", (500, 500))}),
    "Francesco/bccd-ouzjz": Prepared(
        boxes_of(("bccd", "Platelets", "RBC", "WBC")), {"train": 255, "validation": 73, "test": 36},
        {"train": 48, "validation": 16, "test": 16}, blood_cells, use_boxes([1, 2, 3]),
        revision="2fe1c8ae95d2a46d8c9568846fedb04b16ab3790", licence="cc", pictures={"image": ("RGB", (640, 640))}),
    "HuggingFaceM4/FairFace 0.25": Prepared(
        FAIRFACE, {"train": 86744, "validation": 10954}, {"train": 160, "validation": 60}, fairface(224), use_fairface,
        config="0.25", revision="54d573cdb8b5af490ba8da9da2799628f6e5c496", licence="cc-by-4.0",
        pictures={"image": ("RGB", (224, 224))}),
    "HuggingFaceM4/FairFace 1.25": Prepared(
        FAIRFACE, {"train": 86744, "validation": 10954}, {"train": 8, "validation": 4}, fairface(448), use_fairface,
        config="1.25", revision="54d573cdb8b5af490ba8da9da2799628f6e5c496", licence="cc-by-4.0",
        pictures={"image": ("RGB", (448, 448))}),
    "Teklia/IAM-line": Prepared(
        datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")}),
        {"train": 6482, "validation": 976, "test": 2915}, {"train": 48, "validation": 12, "test": 12}, handwriting,
        use_handwriting, licence="mit", pictures={"image": ("L", None)}),
    "cppe-5": CPPE5,
    "jxie/flickr8k": Prepared(
        datasets.Features({"image": datasets.Image()} | {f"caption_{n}": datasets.Value("string") for n in range(5)}),
        {"train": 6000, "validation": 1000, "test": 1000}, {"train": 120, "validation": 24, "test": 24}, flickr8k,
        use_flickr8k, pictures={"image": ("RGB", None)}),
    "microsoft/cats_vs_dogs": Prepared(
        datasets.Features({"image": datasets.Image(), "labels": datasets.ClassLabel(names=["cat", "dog"])}),
        {"train": 23410}, {"train": 400}, cats_and_dogs, use_cats_and_dogs,
        revision="b3c46ce6b19fda7884ce2dfab7886e1dcc88e0e2", licence="unknown", pictures={"image": ("RGB", None)}),
    "qubvel-hf/ade20k-mini": Prepared(
        datasets.Features({"image": datasets.Image(), "annotation": datasets.Image(),
                           "semantic_class_to_id": {name: datasets.Value("int64") for name in ADE}}),
        {"train": None, "validation": 330}, {"train": 32, "validation": 12}, ade20k, use_ade20k,
        revision="0d17237f0ea54dd73dc1239d06f7c834dd27007f",
        pictures={"image": ("RGB", None), "annotation": ("RGB", None)}),
    "rishitdagli/cppe-5": CPPE5,
    "uoft-cs/cifar10": Prepared(
        datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CIFAR10))}),
        {"train": 50000, "test": 10000}, {"train": 500, "test": 100}, cifar10, use_cifar10, config="plain_text",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2", licence="unknown", pictures={"img": ("RGB", (32, 32))}),
}


def repository_id(name: str) -> str:
    """The repository of an entry; what follows a space tells its configurations apart."""
    return name.partition(" ")[0]


def use(name: str) -> None:
    """Load one entry inside the world: its splits, its columns and its pictures are as they are claimed, and more."""
    entry = ENTRIES[name]
    config = () if entry.config == "default" else (entry.config,)
    loaded = datasets.load_dataset(repository_id(name), *config, revision=entry.revision)
    assert {
    split: part.num_rows for split,
    part in loaded.items()} == entry.splits and set(
        entry.splits) == set(
            entry.counts)
    for part in loaded.values():
        assert part.features == entry.features
        for column, (mode, _) in entry.pictures.items():
            assert part[0][column].mode == mode
    entry.use(loaded)


def as_before_version_4(features):
    """Columns in the JSON of datasets before version 4: a struct of lists is a `Sequence` of a struct."""
    if isinstance(features, dict) and features.get("_type") == "List":
        return {"feature": as_before_version_4(features["feature"]),
                                               "length": features.get("length", -1), "_type": "Sequence"}
    if not isinstance(features, dict) or "_type" in features:
        return features
    inner = list(features.values())
    if inner and all(isinstance(one, dict) and one.get("_type") == "List" for one in inner):
        return {"feature": {name: as_before_version_4(one["feature"])
                                                      for name, one in features.items()}, "_type": "Sequence"}
    return {name: as_before_version_4(one) for name, one in features.items()}


def make_legacy(folder: Path) -> None:
    """Rewrite the columns of a planted dataset as datasets before version 4 wrote them, in JSON and tables."""
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info["features"] = as_before_version_4(info["features"])
    path.write_text(json.dumps(info), encoding="utf-8")
    for file in folder.glob("*.arrow"):
        table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
        written = json.loads(table.schema.metadata[b"huggingface"])
        written["info"]["features"] = as_before_version_4(written["info"]["features"])
        table = table.replace_schema_metadata({b"huggingface": json.dumps(written).encode()})
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)


def plant(root: Path, entry: str, prepared: Prepared) -> None:
    """Write one dataset into the cache of prepared datasets below `root`."""
    *owner, name = repository_id(entry).split("/")
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
                         splits=splits, features=prepared.features).write_to_directory(str(folder))
    if prepared.legacy:
        make_legacy(folder)


def build(root: Path) -> None:
    """Plant every dataset of ENTRIES."""
    for name, prepared in ENTRIES.items():
        plant(root, name, prepared)
