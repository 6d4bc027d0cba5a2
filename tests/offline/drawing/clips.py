"""Short films: something that moves over a scene, and how frames become a video file."""
from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np


def encoded(frames: np.ndarray, kind: str, rate: float) -> bytes:
    """Frames uint8 RGB (n, h, w, 3) as a video file, `kind` "avi" (motion JPEG) or "mp4" (MPEG-4)."""
    code = cv2.VideoWriter_fourcc(*{"avi": "MJPG", "mp4": "mp4v"}[kind])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{kind}"
        writer = cv2.VideoWriter(str(path), code, rate, frames.shape[2:0:-1])
        assert writer.isOpened(), f"this OpenCV writes no {kind}"
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        return path.read_bytes()


def ball(size: tuple[int, int], count: int, color: tuple[int, int, int], ground: tuple[int, int, int],
         speed: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A ball that crosses a scene of `size` (width, height) at `speed` (pixels a frame) and bounces: (n, h, w, 3)."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    shade = 12 * np.sin(x / rng.uniform(15, 40) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(15, 40))
    scene = np.array(ground) + shade[..., None]
    radius, start = height / 8, rng.uniform(0.2, 0.8, 2) * size
    films = []
    for number in range(count):
        place = [abs((at + number * step) % (2 * side) - side) for at, step, side in zip(start, speed, size)]
        inside = np.hypot(x - place[0], y - place[1]) < radius
        films.append(np.where(inside[..., None], color, scene))
    return np.clip(np.stack(films), 0, 255).astype(np.uint8)
