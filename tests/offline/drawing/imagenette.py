"""Drawn things for the ten classes of Imagenette, by their WordNet numbers."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.offline.drawing.animals import BREEDS, animal
from tests.offline.drawing.canvas import Canvas, rotation, shade
from tests.offline.drawing.photos import background, paste, textured
from tests.offline.drawing.things import GLASS, PAINTS, TYRE, choice, truck


def tench(canvas: Canvas, rng: np.random.Generator) -> None:
    """A fish."""
    skin = choice(rng, ((110, 116, 60), (96, 104, 74)))
    canvas.polygon([(0.7, 0.5), (0.95, 0.3), (0.9, 0.5), (0.95, 0.7)], shade(skin, 0.7), rounds=0)
    canvas.polygon([(0.35, 0.36), (0.55, 0.2), (0.6, 0.38)], shade(skin, 0.7), rounds=0)
    canvas.ellipse((0.42, 0.5), (0.38, 0.17), skin)
    canvas.ellipse((0.42, 0.56), (0.3, 0.09), shade(skin, 1.4))
    canvas.ellipse((0.14, 0.46), (0.025, 0.025), (200, 70, 40))


def cassette_player(canvas: Canvas, rng: np.random.Generator) -> None:
    """A box with two loudspeakers and a window."""
    case = choice(rng, ((50, 50, 56), (150, 152, 158)))
    canvas.polygon([(0.04, 0.26), (0.96, 0.26), (0.96, 0.76), (0.04, 0.76)], case, rounds=0)
    for x in (0.22, 0.78):
        canvas.ellipse((x, 0.53), (0.15, 0.15), TYRE)
        canvas.ellipse((x, 0.53), (0.06, 0.06), (120, 120, 124))
    canvas.polygon([(0.4, 0.42), (0.6, 0.42), (0.6, 0.64), (0.4, 0.64)], GLASS, rounds=0)


def chain_saw(canvas: Canvas, rng: np.random.Generator) -> None:
    """An orange body and a long bar."""
    paint = choice(rng, ((226, 96, 30), (200, 50, 40)))
    canvas.polygon([(0.38, 0.48), (0.97, 0.5), (0.97, 0.6), (0.38, 0.64)], (150, 152, 156), rounds=1)
    canvas.polygon([(0.05, 0.36), (0.42, 0.32), (0.46, 0.7), (0.05, 0.72)], paint, rounds=1)
    canvas.line([(0.1, 0.36), (0.16, 0.2), (0.34, 0.2), (0.38, 0.34)], 0.05, TYRE)


def church(canvas: Canvas, rng: np.random.Generator) -> None:
    """A nave with a tower and a spire."""
    wall = choice(rng, ((226, 214, 192), (188, 150, 120)))
    canvas.polygon([(0.4, 0.5), (0.92, 0.5), (0.92, 0.95), (0.4, 0.95)], wall, rounds=0)
    canvas.polygon([(0.36, 0.52), (0.46, 0.36), (0.88, 0.36), (0.96, 0.52)], (120, 60, 50), rounds=0)
    canvas.polygon([(0.12, 0.36), (0.38, 0.36), (0.38, 0.95), (0.12, 0.95)], shade(wall, 0.92), rounds=0)
    canvas.polygon([(0.08, 0.38), (0.25, 0.02), (0.42, 0.38)], (90, 92, 100), rounds=0)
    for x in (0.25, 0.56, 0.76):
        canvas.ellipse((x, 0.68), (0.04, 0.09), shade(GLASS, 0.5))


def french_horn(canvas: Canvas, rng: np.random.Generator) -> None:
    """Brass rings and a bell."""
    brass = choice(rng, ((214, 170, 60), (226, 190, 96)))
    for radius in (0.3, 0.22, 0.14):
        angles = np.linspace(0, 2 * np.pi, 40)
        canvas.line([(0.42 + radius * np.cos(a), 0.45 + radius * np.sin(a))
                    for a in angles], 0.04, shade(brass, 1.2 - radius))
    canvas.polygon([(0.5, 0.6), (0.62, 0.56), (0.97, 0.72), (0.72, 0.97)], brass, rounds=1)


def gas_pump(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pillar with a display and a hose."""
    paint = choice(rng, PAINTS)
    canvas.polygon([(0.28, 0.06), (0.68, 0.06), (0.68, 0.95), (0.28, 0.95)], paint, rounds=0)
    canvas.polygon([(0.34, 0.14), (0.62, 0.14), (0.62, 0.38), (0.34, 0.38)], (230, 234, 226), rounds=0)
    canvas.line([(0.68, 0.3), (0.86, 0.4), (0.84, 0.8), (0.7, 0.76)], 0.035, TYRE)


def golf_ball(canvas: Canvas, rng: np.random.Generator) -> None:
    """A white ball with dimples."""
    canvas.ellipse((0.5, 0.5), (0.36, 0.36), (240, 240, 238))
    for radius, count in ((0.1, 6), (0.2, 11), (0.29, 16)):
        for angle in 2 * np.pi * np.arange(count) / count + rng.uniform(0, 1):
            canvas.ellipse((0.5 + radius * np.cos(angle), 0.5 + radius * \
                           np.sin(angle)), (0.028, 0.028), (206, 208, 212))


def parachute(canvas: Canvas, rng: np.random.Generator) -> None:
    """A canopy, its lines and somebody below."""
    paint = choice(rng, PAINTS)
    arc = [(0.5 + 0.42 * np.cos(a), 0.4 + 0.34 * np.sin(a)) for a in np.linspace(np.pi, 2 * np.pi, 20)]
    canvas.polygon(arc, paint, rounds=0)
    canvas.polygon([(0.38, 0.4), (0.44, 0.08), (0.56, 0.08), (0.62, 0.4)], shade(paint, 1.5), rounds=0)
    for x in (0.08, 0.36, 0.64, 0.92):
        canvas.line([(x, 0.4), (0.5, 0.82)], 0.008, (60, 60, 60))
    canvas.ellipse((0.5, 0.87), (0.035, 0.08), (50, 50, 60))


CLASSES: dict[str, Callable | None] = {
    "n01440764": tench, "n02102040": None, "n02979186": cassette_player, "n03000684": chain_saw, "n03028079": church,
    "n03394916": french_horn, "n03417042": truck, "n03425413": gas_pump, "n03445777": golf_ball,
    "n03888257": parachute}  # None: a dog, which animals draws


def picture(wnid: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A photo of one thing, its shorter side `side`: (height, width, 3) uint8."""
    long = int(side * rng.uniform(1, 1.4))
    size = (long, side) if rng.random() < 0.7 else (side, long)
    photo, extent = background(size, rng), int(side * rng.uniform(0.7, 0.98))
    draw = CLASSES[wnid]
    if draw is None:
        dogs = [breed for breed in BREEDS.values() if not breed.cat and breed.ears in ("hanging", "long")]
        sprite = animal(dogs[rng.integers(len(dogs))], rng, extent)
    else:
        canvas = Canvas((extent, extent), "RGBA", (0, 0, 0, 0), over=2)
        canvas.matrix = rotation(rng.normal(0, 6))
        draw(canvas, rng)
        sprite = textured(canvas.finish(), rng, 0.04)
    paste(photo, sprite, int(rng.integers(0, size[0] - extent + 1)), int(rng.integers(0, size[1] - extent + 1)))
    return photo.astype(np.uint8)
