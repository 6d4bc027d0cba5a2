"""Composed pictures: one thing before a fitting background, or several with exact boxes and masks."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.offline.drawing.animals import Breed, animal
from tests.offline.drawing.photos import INDOORS, OUTDOORS, background, box_of, paste, trimap
from tests.offline.drawing.things import thing

WHERE = {"automobile": ("china", "gravel", "brick"), "truck": ("china", "gravel", "brick"), "deer": ("grass",),
         "horse": ("grass",), "frog": ("grass", "gravel")}
SKY, SEA = ((186, 212, 236), (110, 158, 214)), ((150, 178, 196), (44, 92, 128))


@dataclass(frozen=True)
class Placed:
    """A thing in a scene: its name, its box as photos.box_of gives it, and the mask of what is seen of it."""

    name: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


def gradient(size: tuple[int, int], rng: np.random.Generator, colours, ripple: float = 0.0) -> np.ndarray:
    """A vertical run from one colour to the other, with ripples: (height, width, 3) float."""
    t = np.linspace(0, 1, size[1])[:, None, None] ** rng.uniform(0.7, 1.4)
    pixels = np.asarray(colours[1]) * (1 - t) + np.asarray(colours[0]) * t
    pixels = np.broadcast_to(pixels, (size[1], size[0], 3)) * rng.uniform(0.8, 1.1)
    waves = ripple * np.sin(np.arange(size[1]) * 2.2 + rng.uniform(0, 6))[:, None, None]
    return np.clip(pixels + waves * rng.uniform(0, 1, (1, size[0], 1)) + rng.normal(0, 3, pixels.shape), 0, 255)


def setting(name: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Where such a thing is found: sky, sea or a photo; now and then any photo, so that it gives less away."""
    if rng.random() < 0.25:
        return background(size, rng)
    if name in ("airplane", "bird"):
        return gradient(size, rng, SKY)
    if name == "ship":
        return gradient(size, rng, SEA, ripple=12)
    return background(size, rng, WHERE.get(name, INDOORS + OUTDOORS))


def single(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """One thing that fills most of a square picture: (size, size, 3) uint8, drawn at twice the size."""
    large = 2 * size
    picture = setting(name, (large, large), rng)
    side = int(large * rng.uniform(0.8, 1.0))
    paste(picture, thing(name, rng, side), *(int(at) for at in rng.uniform(0, large - side + 1, 2)))
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize((size, size), Image.Resampling.BOX))


def portrait(breed: Breed, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An animal in a photo of `size` (width, height): the picture (height, width, 3) uint8 and its trimap."""
    picture = background(size, rng)
    side = int(min(size) * rng.uniform(0.75, 1.0))
    left, top = rng.integers(0, size[0] - side + 1), size[1] - side
    mask = paste(picture, animal(breed, rng, side), int(left), int(top))
    return picture.astype(np.uint8), trimap(mask)


def several(names: list[str], size: tuple[int, int], rng: np.random.Generator,
            draw: Callable[[str, np.random.Generator, int], Image.Image] = thing) -> tuple[np.ndarray, list[Placed]]:
    """Things of these names in one photo of `size` (width, height): (height, width, 3) uint8, and where each is.

    Each is put where it hides less than a third of any other, and left out where eight tries find no such place.
    """
    picture = background(size, rng)
    placed: list[tuple[str, np.ndarray]] = []
    for name in names:
        side = int(min(size) * rng.uniform(0.32, 0.62))
        sprite, before = draw(name, rng, side), picture.copy()
        for _ in range(8):  # a place where it hides little of the others
            left, top = int(rng.integers(0, size[0] - side + 1)), int(rng.integers(0, size[1] - side + 1))
            picture[:] = before
            mask = paste(picture, sprite, left, top)
            if all((other & ~mask).sum() > 0.7 * other.sum() for _, other in placed):
                placed = [(known, other & ~mask) for known, other in placed] + [(name, mask)]
                break
        else:
            picture[:] = before
    return picture.astype(np.uint8), [Placed(name, box_of(mask), mask) for name, mask in placed]
