"""Drawn people in protective clothing, with the exact box of every piece, for the classes of CPPE-5."""
from __future__ import annotations

import numpy as np

from tests.offline.drawing.canvas import Canvas, shade
from tests.offline.drawing.photos import background, box_of, paste, textured

CLASSES = ("Coverall", "Face_Shield", "Gloves", "Goggles", "Mask")
WORN = {"Coverall": 0.8, "Gloves": 0.7, "Mask": 0.8, "Goggles": 0.5, "Face_Shield": 0.4}  # how often
SKINS = ((236, 200, 170), (198, 150, 112), (140, 96, 66), (92, 62, 46))
HAIRS = ((40, 32, 28), (96, 66, 44), (150, 120, 80), (120, 118, 116))
CLOTHES = ((52, 60, 82), (96, 50, 50), (60, 82, 60), (70, 66, 64))
SUITS = ((236, 240, 244), (120, 170, 210), (230, 210, 120), (150, 190, 170))
GLOVES, MASKS = ((70, 110, 200), (240, 240, 240), (90, 70, 150)), ((120, 190, 220), (244, 244, 244))
GLASS, SHIELD = ((150, 190, 200),), ((214, 232, 244),)
COLOURS = {"skin": SKINS, "hair": HAIRS, "clothes": CLOTHES, "Coverall": SUITS, "Gloves": GLOVES, "Mask": MASKS,
           "Goggles": GLASS, "Face_Shield": SHIELD}  # in the order in which they are put on
SUIT = [(0.2, 0.25), (0.3, 0.25), (0.4, 0.29), (0.48, 0.56), (0.41, 0.58), (0.35, 0.42), (0.36, 0.98), (0.27, 0.98),
        (0.25, 0.68), (0.23, 0.98), (0.14, 0.98), (0.15, 0.42), (0.09, 0.58), (0.02, 0.56), (0.1, 0.29)]


def wear(canvas: Canvas, kind: str, colour, sides: tuple[int, ...] = (0, 1)) -> None:
    """Draw one piece of a person who stands in (0, 0) to (0.5, 1); `sides` says which of a pair of gloves."""
    if kind == "skin":
        canvas.ellipse((0.25, 0.13), (0.075, 0.095), colour)
        canvas.ellipse((0.25, 0.24), (0.04, 0.05), colour)
        for x in (0.06, 0.44):
            canvas.ellipse((x, 0.6), (0.035, 0.04), colour)
        for x in (0.222, 0.278):
            canvas.ellipse((x, 0.12), (0.012, 0.008), (40, 34, 34))
    elif kind == "hair":
        canvas.polygon([(0.17, 0.12), (0.19, 0.03), (0.25, 0.01), (0.31, 0.03), (0.33, 0.12), (0.29, 0.07),
                        (0.21, 0.07)], colour)
    elif kind == "clothes":
        canvas.polygon(SUIT, colour, rounds=1)
    elif kind == "Coverall":
        canvas.polygon(SUIT, colour, rounds=1)
        canvas.line([(0.25, 0.27), (0.25, 0.66)], 0.012, shade(colour, 0.7))
    elif kind == "Gloves":
        for side in sides:
            canvas.ellipse(((0.06, 0.44)[side], 0.6), (0.045, 0.055), colour)
    elif kind == "Mask":
        canvas.polygon([(0.18, 0.14), (0.32, 0.14), (0.31, 0.2), (0.25, 0.235), (0.19, 0.2)], colour, rounds=1)
        canvas.line([(0.2, 0.17), (0.3, 0.17)], 0.006, shade(colour, 0.8))
    elif kind == "Goggles":
        canvas.polygon([(0.175, 0.085), (0.325, 0.085), (0.325, 0.145), (0.25, 0.135), (0.175, 0.145)], (60, 62, 70),
                       rounds=1)
        canvas.polygon([(0.19, 0.095), (0.31, 0.095), (0.31, 0.132), (0.25, 0.127), (0.19, 0.132)], colour, rounds=1)
    elif kind == "Face_Shield":  # a band over the forehead, and the rim and the gleam of a clear pane
        canvas.polygon([(0.16, 0.04), (0.34, 0.04), (0.34, 0.075), (0.16, 0.075)], (70, 90, 130), rounds=0)
        canvas.line([(0.165, 0.07), (0.17, 0.25), (0.25, 0.275), (0.33, 0.25), (0.335, 0.07)], 0.01, colour)
        canvas.line([(0.195, 0.09), (0.19, 0.22)], 0.012, colour)


def picture(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray,
                                                                      list[tuple[int, tuple[int, int, int, int]]]]:
    """One or two people: (height, width, 3) uint8, and of each piece its class index and box (photos.box_of).

    Each glove of a pair counts for itself, as in the real data. Boxes end at the picture's edge.
    """
    scene = background(size, rng, ("brick", "coffee", "gravel"))
    found = []
    count = int(rng.integers(1, 3))
    for number in range(count):
        height = rng.uniform(0.8, 1.25)
        across = height * size[1] / size[0]  # the person's height in units of the picture's width
        left = (number + 0.5) / count - 0.25 * across + rng.uniform(-0.04, 0.04)
        matrix = np.array([[across, 0, left], [0, height, rng.uniform(0.02, 0.1)]])
        canvas = Canvas(size, "RGBA", (0, 0, 0, 0), over=2)
        canvas.matrix = matrix
        for kind, colours in COLOURS.items():
            if rng.random() > WORN.get(kind, 1.0):
                continue
            wear(canvas, kind, colours[rng.integers(len(colours))])
            for sides in ((0,), (1,)) if kind == "Gloves" else ((0, 1),) if kind in WORN else ():
                alone = Canvas(size, over=1)
                alone.matrix = matrix
                wear(alone, kind, (255, 255, 255), sides)
                mask = np.asarray(alone.finish()).any(2)
                if mask.sum() > 12:
                    found.append((CLASSES.index(kind), box_of(mask)))
        paste(scene, textured(canvas.finish(), rng, 0.03, 2), 0, 0)
    return np.clip(scene, 0, 255).astype(np.uint8), found
