"""huggingface_hub: repositories of plain files, which no library but the hub's own client reads."""
from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
from huggingface_hub import hf_hub_download

from tests.offline.drawing import clips
from tests.offline.hub import Repository, home, plant, planted

SERVES = ("huggingface_hub",)
UCF_ACTIONS = ("ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching",
               "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress")
UCF_VIDEOS = {"train": (8, 9), "val": (20,), "test": (1,)}  # source videos (groups) of each action; two clips of each
COLORS = ((220, 60, 50), (60, 90, 220), (60, 180, 75), (240, 200, 60), (150, 80, 200))


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
