"""Drawn things for the class lists of CIFAR-10 and Pascal VOC: each a function that draws on a canvas, side view.

Cats and dogs are not here: `thing` takes them from animals.
"""
from __future__ import annotations

import numpy as np
from PIL import Image

from tests.offline.drawing.animals import BREEDS, animal
from tests.offline.drawing.canvas import Canvas, Colour, rotation, shade
from tests.offline.drawing.photos import textured

GLASS, TYRE, LIGHT = (150, 190, 215), (38, 38, 42), (245, 230, 150)
PAINTS = ((196, 40, 40), (40, 84, 170), (235, 235, 235), (60, 120, 70), (225, 180, 50), (90, 90, 100))
FURS = ((134, 90, 54), (92, 62, 42), (160, 120, 84), (70, 58, 54))


def choice(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, a little varied."""
    return shade(colours[rng.integers(len(colours))], rng.uniform(0.85, 1.15))


def wheels(canvas: Canvas, places: tuple[float, ...], y: float, radius: float) -> None:
    """Wheels with hubs on the ground line."""
    for x in places:
        canvas.ellipse((x, y), (radius, radius), TYRE)
        canvas.ellipse((x, y), (radius * 0.45, radius * 0.45), (170, 170, 175))


def airplane(canvas: Canvas, rng: np.random.Generator) -> None:
    """A fuselage with wings, tail and windows."""
    paint = choice(rng, ((232, 234, 238), (200, 206, 214)))
    stripe = choice(rng, PAINTS)
    canvas.polygon([(0.45, 0.5), (0.6, 0.16), (0.68, 0.16), (0.62, 0.5)], shade(paint, 0.8), rounds=0)
    canvas.polygon([(0.03, 0.52), (0.12, 0.44), (0.85, 0.42), (0.97, 0.46), (0.85, 0.56), (0.12, 0.58)], paint)
    canvas.polygon([(0.82, 0.44), (0.9, 0.24), (0.97, 0.24), (0.95, 0.46)], stripe, rounds=0)
    canvas.polygon([(0.42, 0.52), (0.62, 0.84), (0.7, 0.84), (0.6, 0.52)], shade(paint, 0.7), rounds=0)
    for x in np.arange(0.18, 0.8, 0.07):
        canvas.ellipse((x, 0.485), (0.016, 0.018), (70, 96, 130))


def automobile(canvas: Canvas, rng: np.random.Generator) -> None:
    """A car: body, roof, windows, lamps, two wheels."""
    paint = choice(rng, PAINTS)
    roof = rng.uniform(0.26, 0.36)
    canvas.polygon([(0.22, 0.5), (0.32, roof), (0.66, roof), (0.82, 0.5)], shade(paint, 0.9), rounds=1)
    canvas.polygon([(0.27, 0.5), (0.35, roof + 0.04), (0.48, roof + 0.04), (0.48, 0.5)], GLASS, rounds=0)
    canvas.polygon([(0.52, 0.5), (0.52, roof + 0.04), (0.64, roof + 0.04), (0.76, 0.5)], GLASS, rounds=0)
    canvas.polygon([(0.04, 0.5), (0.12, 0.46), (0.88, 0.47), (0.97, 0.54), (0.97, 0.7), (0.04, 0.7)], paint, rounds=1)
    canvas.ellipse((0.93, 0.56), (0.03, 0.03), LIGHT)
    wheels(canvas, (0.25, 0.76), 0.71, 0.105)


def truck(canvas: Canvas, rng: np.random.Generator) -> None:
    """A box body behind a cab, three wheels."""
    box, cab = choice(rng, ((226, 226, 220), (180, 150, 110), (120, 140, 160))), choice(rng, PAINTS)
    canvas.polygon([(0.03, 0.16), (0.64, 0.16), (0.64, 0.72), (0.03, 0.72)], box, rounds=0)
    for y in (0.3, 0.44, 0.58):
        canvas.line([(0.04, y), (0.63, y)], 0.01, shade(box, 0.75))
    canvas.polygon([(0.66, 0.34), (0.84, 0.34), (0.96, 0.52), (0.96, 0.74), (0.66, 0.74)], cab, rounds=0)
    canvas.polygon([(0.72, 0.38), (0.83, 0.38), (0.91, 0.52), (0.72, 0.52)], GLASS, rounds=0)
    wheels(canvas, (0.16, 0.36, 0.82), 0.76, 0.095)


def ship(canvas: Canvas, rng: np.random.Generator) -> None:
    """A hull with decks and a funnel."""
    hull = choice(rng, ((150, 40, 40), (40, 50, 80), (70, 80, 90)))
    canvas.polygon([(0.22, 0.44), (0.78, 0.44), (0.78, 0.58), (0.22, 0.58)], (236, 236, 230), rounds=0)
    canvas.polygon([(0.32, 0.34), (0.62, 0.34), (0.62, 0.44), (0.32, 0.44)], (216, 216, 212), rounds=0)
    canvas.polygon([(0.42, 0.14), (0.52, 0.14), (0.52, 0.34), (0.42, 0.34)], choice(rng, PAINTS), rounds=0)
    for x in np.arange(0.27, 0.76, 0.08):
        canvas.ellipse((x, 0.51), (0.02, 0.02), (60, 90, 120))
    canvas.polygon([(0.02, 0.56), (0.98, 0.56), (0.86, 0.78), (0.14, 0.78)], hull, rounds=1)


def bird(canvas: Canvas, rng: np.random.Generator) -> None:
    """A bird on thin legs: body, wing, head, beak."""
    plumage = choice(rng, ((180, 60, 50), (70, 110, 180), (120, 100, 70), (200, 170, 60)))
    for x in (0.46, 0.54):
        canvas.line([(x, 0.7), (x - 0.02, 0.94)], 0.02, (160, 110, 40))
    canvas.polygon([(0.28, 0.6), (0.05, 0.78), (0.02, 0.7), (0.26, 0.5)], shade(plumage, 0.7), rounds=0)
    canvas.ellipse((0.46, 0.56), (0.26, 0.19), plumage, -20)
    canvas.ellipse((0.42, 0.57), (0.17, 0.1), shade(plumage, 0.72), 20)
    canvas.ellipse((0.55, 0.64), (0.12, 0.1), shade(plumage, 1.3), -20)
    canvas.ellipse((0.7, 0.34), (0.13, 0.12), plumage)
    canvas.polygon([(0.81, 0.3), (0.97, 0.37), (0.81, 0.4)], (225, 150, 40), rounds=0)
    canvas.ellipse((0.74, 0.31), (0.025, 0.025), TYRE)


def four_legged(canvas: Canvas, rng: np.random.Generator, fur: Colour, neck: float) -> tuple[float, float]:
    """Legs, trunk, neck and head of a standing animal that looks to the right; returns where the head is."""
    for x, tone in ((0.24, 0.7), (0.34, 0.9), (0.6, 0.7), (0.68, 0.9)):
        canvas.line([(x, 0.6), (x + rng.uniform(-0.03, 0.03), 0.96)], 0.06, shade(fur, tone))
    canvas.ellipse((0.45, 0.54), (0.29, 0.16), fur)
    head = (0.82, 0.54 - neck)
    canvas.polygon([(0.58, 0.5), (0.7, 0.6), (head[0] + 0.03, head[1] + 0.06), (head[0] - 0.08, head[1] - 0.06)], fur,
                   rounds=1)
    canvas.ellipse(head, (0.14, 0.075), fur, 28)
    canvas.ellipse((head[0] + 0.1, head[1] + 0.06), (0.045, 0.04), shade(fur, 0.6))
    canvas.ellipse((head[0] + 0.01, head[1] - 0.025), (0.02, 0.02), TYRE)
    return head


def horse(canvas: Canvas, rng: np.random.Generator) -> None:
    """Dark mane and long tail."""
    fur = choice(rng, FURS)
    canvas.line([(0.18, 0.48), (0.08, 0.6), (0.09, 0.84)], 0.06, shade(fur, 0.45))
    x, y = four_legged(canvas, rng, fur, 0.3)
    canvas.line([(x - 0.05, y - 0.09), (0.66, 0.34), (0.57, 0.46)], 0.06, shade(fur, 0.45))
    canvas.polygon([(x - 0.06, y - 0.04), (x - 0.03, y - 0.14), (x + 0.01, y - 0.04)], fur, rounds=0)


def deer(canvas: Canvas, rng: np.random.Generator) -> None:
    """Antlers, white tail, light spots."""
    fur = choice(rng, ((176, 118, 66), (150, 100, 60)))
    x, y = four_legged(canvas, rng, fur, 0.22)
    canvas.ellipse((0.16, 0.48), (0.04, 0.06), (240, 236, 228))
    for _ in range(9):
        canvas.ellipse((rng.uniform(0.25, 0.62), rng.uniform(0.44, 0.56)), (0.018, 0.014), (236, 216, 180))
    for lean in (-0.1, 0.06):
        canvas.line([(x - 0.05, y - 0.05), (x - 0.05 + lean, y - 0.28)], 0.025, (110, 84, 60))
        canvas.line([(x - 0.05 + lean * 0.6, y - 0.18), (x - 0.05 + lean * 2, y - 0.24)], 0.02, (110, 84, 60))


def frog(canvas: Canvas, rng: np.random.Generator) -> None:
    """Green, wide, with eyes on top and folded legs."""
    skin = choice(rng, ((84, 150, 50), (110, 140, 60), (60, 130, 80)))
    for side in (-1, 1):
        canvas.ellipse((0.5 + side * 0.3, 0.72), (0.17, 0.12), shade(skin, 0.8), side * 30)
        canvas.ellipse((0.5 + side * 0.26, 0.88), (0.17, 0.045), shade(skin, 0.7))
    canvas.ellipse((0.5, 0.66), (0.3, 0.22), skin)
    canvas.ellipse((0.5, 0.74), (0.2, 0.12), shade(skin, 1.5))
    for side in (-1, 1):
        canvas.ellipse((0.5 + side * 0.16, 0.42), (0.1, 0.1), skin)
        canvas.ellipse((0.5 + side * 0.16, 0.41), (0.065, 0.065), (235, 210, 80))
        canvas.ellipse((0.5 + side * 0.16, 0.41), (0.045, 0.02), TYRE)
    canvas.line([(0.3, 0.6), (0.5, 0.66), (0.7, 0.6)], 0.015, shade(skin, 0.45))


def bottle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A bottle with a label and a cap."""
    glass = choice(rng, ((40, 110, 70), (120, 70, 30), (60, 100, 160)))
    canvas.polygon([(0.42, 0.05), (0.58, 0.05), (0.58, 0.28), (0.7, 0.42), (0.7, 0.96), (0.3, 0.96), (0.3, 0.42),
                    (0.42, 0.28)], glass, rounds=1)
    canvas.polygon([(0.3, 0.52), (0.7, 0.52), (0.7, 0.8), (0.3, 0.8)], (236, 228, 206), rounds=0)
    canvas.line([(0.38, 0.42), (0.38, 0.94)], 0.03, shade(glass, 1.7))
    canvas.polygon([(0.41, 0.02), (0.59, 0.02), (0.59, 0.09), (0.41, 0.09)], (190, 60, 50), rounds=0)


THINGS = {"airplane": airplane, "automobile": automobile, "bird": bird, "bottle": bottle, "deer": deer, "frog": frog,
          "horse": horse, "ship": ship, "truck": truck}


def thing(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """One thing, `side` pixels wide and high, mirrored half of the time: RGBA, premultiplied, on nothing."""
    if name in ("cat", "dog"):
        kin = [breed for breed in BREEDS.values() if breed.cat == (name == "cat")]
        return animal(kin[rng.integers(len(kin))], rng, side)
    canvas = Canvas((side, side), "RGBA", (0, 0, 0, 0), over=2)
    canvas.matrix = rotation(rng.normal(0, 4), rng.uniform(0.88, 1.0), tuple(rng.uniform(-0.02, 0.02, 2)))
    if rng.random() < 0.5:
        canvas.matrix[:, 2] += canvas.matrix[:, 0]
        canvas.matrix[:, 0] *= -1
    THINGS[name](canvas, rng)
    return textured(canvas.finish(), rng, 0.04)
