"""huggingface_hub: repositories of plain files, which no library but the hub's own client reads."""
from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
from huggingface_hub import hf_hub_download
from PIL import Image

from tests.offline.drawing import clips, faces
from tests.offline.hub import Repository, home, plant, planted

SERVES = ("huggingface_hub",)
UCF_ACTIONS = ("ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching",
               "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress")
UCF_VIDEOS = {"train": (8, 9), "val": (20,), "test": (1,)}  # source videos (groups) of each action; two clips of each
COLORS = ((220, 60, 50), (60, 90, 220), (60, 180, 75), (240, 200, 60), (150, 80, 200))
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young")
CELEBA_FILE = "img_align+identity+attr/train-00000-of-00019.parquet"


def celeba_face(person: int, rng: np.random.Generator) -> dict:
    """A row of CelebA: a portrait of 178 by 218 pixels, PNG, in which smile, glasses and blond hair can be seen."""
    smiling, glasses, blond = rng.random() < 0.5, rng.random() < 0.3, rng.random() < 0.3
    female = person % 2 == 0
    portrait, points = faces.with_points(178, rng, 2 + person % 3, female, 3 if blond else person % 3)
    picture = np.concatenate([portrait[:20][::-1], portrait, portrait[-20:][::-1]]).copy()
    points = points + (0, 20)
    if glasses:
        for eye in (points[36:42], points[42:48]):
            cv2.circle(picture, tuple(eye.mean(0).round().astype(int).tolist()), 15, (20, 20, 20), 3)
    if smiling:
        center = tuple(points[48:60].mean(0).round().astype(int).tolist())
        cv2.ellipse(picture, center, (16, 8), 0, 0, 180, (250, 250, 250), -1)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    row = dict.fromkeys(CELEBA_ATTRIBUTES, False)
    row |= {"Smiling": smiling, "Eyeglasses": glasses, "Blond_Hair": blond, "Male": not female, "Young": True}
    return {"image": {"bytes": data.getvalue(), "path": None}, "celeb_id": person, **row}


def celeba(folder: Path) -> None:
    """The first of 19 files of the training part."""
    rng = np.random.default_rng(109)
    kinds = {"image": pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
             "celeb_id": pyarrow.int64()} | dict.fromkeys(CELEBA_ATTRIBUTES, pyarrow.bool_())
    rows = [celeba_face(1 + number % 30, rng) for number in range(120)]
    (folder / CELEBA_FILE).parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds.items())), folder / CELEBA_FILE)


def use_celeba(repo_id: str, revision: str) -> None:
    """PNG bytes of 178 by 218 pixels; attributes are bools; glasses darken the eyes; several photos of a person."""
    path = hf_hub_download(repo_id, CELEBA_FILE, repo_type="dataset", revision=revision)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert list(rows[0]) == ["image", "celeb_id", *CELEBA_ATTRIBUTES] and rows[0]["Smiling"] in (True, False)
    photos = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    assert {photo.size for photo in photos} == {(178, 218)} and {photo.format for photo in photos} == {"PNG"}
    assert len({row["celeb_id"] for row in rows}) < len(rows) / 3
    eyes = np.array([np.asarray(photo)[85:115, 40:140].min() for photo in photos])
    glasses = np.array([row["Eyeglasses"] for row in rows])
    assert eyes[glasses].mean() < eyes[~glasses].mean()


def ucf101_subset(folder: Path) -> None:
    """Ten actions as films of 320 by 240 pixels, 25 frames a second, in a tar that is not compressed."""
    rng = np.random.default_rng(108)
    with tarfile.open(folder / "UCF101_subset.tar.gz", "w:") as archive:
        for number, action in enumerate(UCF_ACTIONS):
            for split, groups in UCF_VIDEOS.items():
                for group in groups:
                    ground = tuple(int(c) for c in rng.integers(60, 180, 3))
                    for clip in (1, 2):
                        speed = (9, 0) if number < 5 else (0, 7)
                        film = clips.ball((320, 240), 12, COLORS[number % 5], ground, speed, rng)
                        content = clips.encoded(film, "avi", 25)
                        name = f"v_{action}_g{group:02d}_c{clip:02d}.avi"
                        entry = tarfile.TarInfo(f"UCF101_subset/{split}/{action}/{name}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))


def use_ucf101_subset(repo_id: str, revision: str) -> None:
    """A plain tar of clips; no source video in two splits; OpenCV decodes them."""
    path = hf_hub_download(repo_id, "UCF101_subset.tar.gz", repo_type="dataset", revision=revision)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path, "r:*") as archive:
            archive.extractall(folder, filter="data")
        paths = sorted(Path(folder).glob("UCF101_subset/*/*/*.avi"))
        sides = {(path.parts[-3], path.stem.rpartition("_")[0]) for path in paths}
        assert len(paths) == 80 and len({video for _, video in sides}) == len(sides) == 40
        video = cv2.VideoCapture(str(paths[0]))
        answer, frame = video.read()
        assert answer and frame.shape == (240, 320, 3)


ENTRIES = {
    "flwrlabs/celeba": Repository(
        "2d738f56e0e7f925ea36ae7c808ea925264aacec", celeba, use_celeba, "other", (CELEBA_FILE,), kind="dataset"),
    "sayakpaul/ucf101-subset": Repository(
        "b9984b8d2a95e4a1879e1b071e9433858d0bc24a", ucf101_subset, use_ucf101_subset, "apache-2.0",
        ("UCF101_subset.tar.gz",), kind="dataset"),
}


def use(name: str) -> None:
    """Load one repository inside the world and use it; its files are as they are claimed."""
    planted(home(), name, ENTRIES[name])
    ENTRIES[name].use(name, ENTRIES[name].revision)


def build(root: Path) -> None:
    """Plant every repository of ENTRIES."""
    for repo_id, repository in ENTRIES.items():
        plant(root, repo_id, repository)
