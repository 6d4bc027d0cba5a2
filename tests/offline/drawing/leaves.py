"""Drawn bean leaves on soil, healthy or with the two diseases of the `beans` dataset."""
from __future__ import annotations

import numpy as np

from tests.offline.drawing.canvas import Canvas, rotation, shade
from tests.offline.drawing.photos import background, paste, textured

CLASSES = ("angular_leaf_spot", "bean_rust", "healthy")
GREENS = ((74, 132, 52), (96, 150, 60), (60, 112, 48), (120, 160, 70))
OUTLINE = [(0.5, 0.03), (0.66, 0.14), (0.84, 0.36), (0.86, 0.6), (0.72, 0.8), (0.54, 0.9), (0.5, 0.95),
           (0.46, 0.9), (0.28, 0.8), (0.14, 0.6), (0.16, 0.36), (0.34, 0.14)]


def veins(canvas: Canvas, green) -> None:
    """The midrib and the side veins."""
    light = shade(green, 1.25)
    canvas.line([(0.5, 0.05), (0.5, 1.0)], 0.014, light)
    for y in np.arange(0.24, 0.85, 0.12):
        reach = 0.29 * np.sin(np.pi * y)
        for side in (-1, 1):
            canvas.line([(0.5, y + 0.06), (0.5 + side * reach, y - 0.05)], 0.008, light)


def leaf(label: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A leaf of class `label` (CLASSES): (size, size, 3) uint8."""
    picture = background((size, size), rng, ("gravel", "grass"), blur=2.5) * (0.75, 0.7, 0.6)
    green = shade(GREENS[rng.integers(len(GREENS))], rng.uniform(0.85, 1.15))
    canvas = Canvas((size, size), "RGBA", (0, 0, 0, 0), over=2)
    canvas.matrix = rotation(rng.uniform(-70, 70), rng.uniform(0.85, 1.1), tuple(rng.uniform(-0.05, 0.05, 2)))
    canvas.polygon([(x + rng.normal(0, 0.01), y + rng.normal(0, 0.01)) for x, y in OUTLINE], green)
    veins(canvas, green)

    def places(count):
        turn, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
        return zip(0.5 + 0.3 * reach * np.cos(turn), 0.5 + 0.36 * reach * np.sin(turn))

    if CLASSES[label] == "angular_leaf_spot":  # brown patches with straight edges, bounded by the veins
        for x, y in places(rng.integers(7, 16)):
            corners = [(x + rng.uniform(0.025, 0.06) * np.cos(t), y + rng.uniform(0.025, 0.06) * np.sin(t))
                       for t in np.sort(rng.uniform(0, 2 * np.pi, 5))]
            canvas.polygon(corners, shade((112, 78, 44), rng.uniform(0.7, 1.2)), rounds=0)
    elif CLASSES[label] == "bean_rust":  # many small round rust pustules with a yellow halo
        for x, y in places(rng.integers(35, 70)):
            r = rng.uniform(0.009, 0.018)
            canvas.ellipse((x, y), (1.9 * r, 1.9 * r), (196, 186, 74))
            canvas.ellipse((x, y), (r, r), shade((158, 78, 30), rng.uniform(0.8, 1.2)))
    else:
        for x, y in places(rng.integers(0, 3)):  # a speck of dust is no disease
            canvas.ellipse((x, y), (0.008, 0.008), (170, 160, 130))
    paste(picture, textured(canvas.finish(), rng, 0.05, 3), 0, 0)
    return np.clip(picture, 0, 255).astype(np.uint8)
