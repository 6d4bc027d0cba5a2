"""Drawn cells under the microscope: smears of blood with boxes, single cells with or without parasites, nuclei."""
from __future__ import annotations

import numpy as np

from tests.offline.drawing.canvas import Canvas, shade

CELLS = {1: (0.035, (140, 90, 170), (120, 70, 150)), 2: (0.08, (206, 130, 130), (226, 178, 174)),
         3: (0.14, (170, 120, 190), (100, 50, 140))}  # class -> radius by the shorter side, colors
Box = tuple[int, int, int, int]


def smear(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, Box]]]:
    """A blood smear of `size` (width, height), uint8: a white cell, platelets, red cells; of each its class and box."""
    canvas, found, taken = Canvas(size, colour=(232, 222, 214), over=2), [], []
    wide, high = np.array(size) / min(size)
    for kind in [3] + [1] * int(rng.integers(1, 4)) + [2] * int(16 * wide * high):
        radius = CELLS[kind][0] * rng.uniform(0.85, 1.15)
        x, y = rng.uniform(0, 1, 2) * (wide, high)
        if any(np.hypot(x - a, y - b) < 0.85 * (radius + r) for a, b, r in taken):
            continue
        for share, color in zip((1, 0.6), CELLS[kind][1:]):  # the cell, and its pale middle or its nucleus
            canvas.ellipse((x / wide, y / high), (share * radius / wide, share * radius / high),
                           shade(color, rng.uniform(0.92, 1.08)))
        taken.append((x, y, radius))
        corners = np.clip([x - radius, y - radius, x + radius, y + radius], 0, [wide, high, wide, high]) * min(size)
        box = tuple(corners.round().astype(int).tolist())
        if box[0] < box[2] and box[1] < box[3]:
            found.append((kind, box))
    noise = rng.normal(0, 5, (size[1], size[0], 1))
    return np.clip(np.asarray(canvas.finish(), dtype=float) + noise, 0, 255).astype(np.uint8), found


def cell(infected: bool, rng: np.random.Generator) -> np.ndarray:
    """One red cell on black, (height, width, 3) uint8, about 130 pixels; a purple ring in it where it is infected."""
    size = tuple(int(side) for side in rng.integers(100, 160, 2))
    canvas = Canvas(size, colour=(0, 0, 0), over=2)
    color = shade((218, 170, 160), rng.uniform(0.85, 1.1))
    canvas.ellipse((0.5, 0.5), (0.47, 0.47), color)
    for _ in range(int(rng.integers(2, 6))):
        canvas.ellipse(tuple(rng.uniform(0.3, 0.7, 2)), (0.1, 0.08), shade(color, rng.uniform(0.94, 1.04)))
    if infected:
        at = rng.uniform(0.28, 0.72, 2)
        canvas.ellipse(tuple(at), (0.09, 0.08), (130, 60, 140))
        canvas.ellipse(tuple(at + 0.02), (0.045, 0.04), shade(color, 0.95))
    picture = np.asarray(canvas.finish(), dtype=float)
    return np.clip(picture + rng.normal(0, 4, picture.shape) * (picture > 0), 0, 255).astype(np.uint8)


def nuclei(size: tuple[int, int], slide: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop of `size` (width, height) of a slide, RGB uint8, and its label map: ellipses, many of which touch.

    Slides differ in their light and in the nuclei's size; every third is stained: dark nuclei on a light ground.
    """
    ground, light = 4 + 3 * (slide % 4), 70 + 25 * (slide % 3)
    radius = 7 + 2 * (slide % 5)
    y, x = np.mgrid[: size[1], : size[0]]
    picture, numbers = np.full((size[1], size[0]), float(ground)), np.zeros((size[1], size[0]), dtype=np.uint8)
    places = [rng.uniform(0, size) for _ in range(int(rng.integers(5, 11)))]
    places += [place + radius * np.array([1.7, 0.3]) for place in places[::2]]  # neighbors that touch
    for place in places:
        a, b = radius * rng.uniform(0.8, 1.1, 2)
        inside = ((x - place[0]) / a) ** 2 + ((y - place[1]) / b) ** 2 <= 1
        inside &= numbers == 0
        if inside.sum() >= 25:
            numbers[inside] = numbers.max() + 1
            picture[inside] = light * rng.uniform(0.8, 1.2)
    picture = picture + rng.normal(0, 2.5, picture.shape)
    if slide % 3 == 2:
        colors = np.array([215.0, 195.0, 220.0]) - picture[..., None] * np.array([1.2, 1.5, 0.8])
    else:
        colors = np.repeat(picture[..., None], 3, axis=2)
    return colors.clip(0, 255).astype(np.uint8), numbers
