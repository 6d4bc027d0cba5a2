"""Drawn cats and dogs that sit and face the viewer, in the coats, ears and muzzles of Oxford-IIIT Pet's 37 breeds."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.offline.drawing.canvas import CIRCLE, Canvas, Colour, rotation, shade
from tests.offline.drawing.photos import textured

WHITE, CREAM, SAND, RED, BROWN = (238, 234, 228), (226, 208, 176), (206, 164, 104), (190, 108, 52), (112, 74, 46)
GREY, BLUE, BLACK, PINK = (150, 148, 146), (112, 122, 138), (48, 44, 44), (222, 172, 158)
NOSE = (40, 30, 32)


@dataclass(frozen=True)
class Breed:
    """How a breed looks.

    `marks` is the second colour and `pattern` where it goes: plain, tabby, spots, points, patches or saddle.
    `ears` is a key of EARS, `muzzle` a length from 0 (flat) to 1, `fluff` how ragged the outline is, 0 to 1.
    """

    cat: bool
    coat: Colour
    marks: Colour
    pattern: str = "plain"
    ears: str = "upright"
    muzzle: float = 0.5
    fluff: float = 0.2
    eyes: Colour = (120, 150, 60)


BREEDS = {
    "Abyssinian": Breed(True, SAND, RED, "tabby", "wide"),
    "american_bulldog": Breed(False, WHITE, BROWN, "patches", "folded", 0.3, 0.1),
    "american_pit_bull_terrier": Breed(False, BLUE, WHITE, "saddle", "folded", 0.4, 0.0),
    "basset_hound": Breed(False, WHITE, RED, "saddle", "long", 0.9, 0.1),
    "beagle": Breed(False, WHITE, SAND, "saddle", "hanging", 0.6, 0.1),
    "Bengal": Breed(True, SAND, BLACK, "spots", "small"),
    "Birman": Breed(True, CREAM, BROWN, "points", "small", 0.5, 0.7, (90, 140, 210)),
    "Bombay": Breed(True, BLACK, BLACK, "plain", "small", 0.5, 0.1, (214, 160, 40)),
    "boxer": Breed(False, RED, BLACK, "points", "folded", 0.2, 0.0),
    "British_Shorthair": Breed(True, BLUE, BLUE, "plain", "small", 0.3, 0.4, (214, 140, 40)),
    "chihuahua": Breed(False, SAND, CREAM, "plain", "wide", 0.3, 0.1),
    "Egyptian_Mau": Breed(True, GREY, BLACK, "spots", "upright"),
    "english_cocker_spaniel": Breed(False, RED, RED, "plain", "long", 0.6, 0.6),
    "english_setter": Breed(False, WHITE, BLACK, "spots", "hanging", 0.8, 0.6),
    "german_shorthaired": Breed(False, BROWN, WHITE, "spots", "hanging", 0.8, 0.0),
    "great_pyrenees": Breed(False, WHITE, CREAM, "plain", "hanging", 0.7, 0.9),
    "havanese": Breed(False, CREAM, WHITE, "patches", "long", 0.4, 1.0),
    "japanese_chin": Breed(False, WHITE, BLACK, "patches", "long", 0.1, 0.9),
    "keeshond": Breed(False, GREY, BLACK, "points", "small", 0.5, 1.0),
    "leonberger": Breed(False, SAND, BLACK, "points", "hanging", 0.7, 0.9),
    "Maine_Coon": Breed(True, BROWN, BLACK, "tabby", "upright", 0.7, 1.0),
    "miniature_pinscher": Breed(False, BLACK, RED, "saddle", "upright", 0.6, 0.0),
    "newfoundland": Breed(False, BLACK, BLACK, "plain", "hanging", 0.6, 0.9),
    "Persian": Breed(True, WHITE, CREAM, "plain", "small", 0.0, 1.0, (214, 140, 40)),
    "pomeranian": Breed(False, RED, SAND, "plain", "small", 0.3, 1.0),
    "pug": Breed(False, CREAM, BLACK, "points", "folded", 0.0, 0.0),
    "Ragdoll": Breed(True, WHITE, GREY, "points", "small", 0.5, 0.8, (90, 150, 220)),
    "Russian_Blue": Breed(True, BLUE, BLUE, "plain", "upright", 0.5, 0.1, (90, 170, 70)),
    "saint_bernard": Breed(False, WHITE, RED, "saddle", "hanging", 0.5, 0.7),
    "samoyed": Breed(False, WHITE, WHITE, "plain", "small", 0.6, 1.0),
    "scottish_terrier": Breed(False, BLACK, BLACK, "plain", "upright", 0.9, 0.8),
    "shiba_inu": Breed(False, SAND, WHITE, "saddle", "upright", 0.5, 0.3),
    "Siamese": Breed(True, CREAM, BLACK, "points", "wide", 0.7, 0.0, (90, 150, 220)),
    "Sphynx": Breed(True, PINK, PINK, "plain", "wide", 0.5, 0.0, (110, 170, 150)),
    "staffordshire_bull_terrier": Breed(False, BLACK, WHITE, "patches", "folded", 0.3, 0.0),
    "wheaten_terrier": Breed(False, SAND, SAND, "plain", "folded", 0.6, 0.9),
    "yorkshire_terrier": Breed(False, BLUE, SAND, "points", "upright", 0.4, 0.9),
}
EARS = {  # one ear of the right side, from the head's centre, in head radii: outline points
    "upright": [(0.25, -0.75), (0.62, -1.55), (0.92, -0.45)],
    "small": [(0.35, -0.8), (0.72, -1.25), (0.95, -0.45)],
    "wide": [(0.2, -0.7), (1.05, -1.6), (1.0, -0.2)],
    "hanging": [(0.5, -0.75), (0.95, -0.75), (1.3, 0.35), (1.0, 0.6), (0.75, 0.1)],
    "long": [(0.55, -0.65), (0.95, -0.6), (1.35, 1.1), (0.95, 1.25), (0.72, 0.2)],
    "folded": [(0.35, -0.85), (0.75, -1.05), (1.12, -0.55), (0.78, -0.42)],
}


def ragged(centre, radii, rng: np.random.Generator, fluff: float) -> np.ndarray:
    """The outline of an ellipse, (n, 2), with tufts: its radius varied by up to a tenth where `fluff` is 1."""
    return CIRCLE * (1 + fluff * rng.uniform(-0.04, 0.12, (len(CIRCLE), 1))) * radii + centre


def marks_on(canvas: Canvas, breed: Breed, rng: np.random.Generator, centre, radii, count: int) -> None:
    """Stripes, spots or patches in an ellipse, by the breed's pattern."""
    for _ in range({"tabby": count, "spots": 2 * count, "patches": 3}.get(breed.pattern, 0)):
        turn, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.75))
        at = (centre[0] + radii[0] * reach * np.cos(turn), centre[1] + radii[1] * reach * np.sin(turn))
        if breed.pattern == "tabby":
            canvas.line([at, (at[0] + radii[0] * rng.uniform(-0.2, 0.2), at[1] + radii[1] * 0.35)], 0.014, breed.marks)
        else:
            size = rng.uniform(0.012, 0.022) if breed.pattern == "spots" else rng.uniform(0.05, 0.09)
            canvas.ellipse(at, (size, size * rng.uniform(0.7, 1.2)), breed.marks, rng.uniform(0, 90))


def body(canvas: Canvas, breed: Breed, rng: np.random.Generator) -> None:
    """Tail, body, chest and front legs of a sitting animal."""
    side, coat = int(rng.choice([-1, 1])), breed.coat
    tip = breed.marks if breed.pattern in ("points", "saddle") else coat
    if breed.cat:
        tail = [(0.5 + side * 0.15, 0.86), (0.5 + side * 0.36, 0.85), (0.5 + side * 0.4, 0.66),
                (0.5 + side * rng.uniform(0.33, 0.42), 0.5)]
        canvas.line(tail, 0.05 + 0.04 * breed.fluff, shade(tip, 0.85))
    else:
        tail = [(0.5 + side * 0.18, 0.8), (0.5 + side * 0.34, 0.68), (0.5 + side * rng.uniform(0.34, 0.44), 0.54)]
        canvas.line(tail, 0.06 + 0.06 * breed.fluff, shade(tip, 0.85))
    centre, radii = (0.5, 0.76), (0.21 if breed.cat else 0.25, 0.23)
    canvas.polygon(ragged(centre, radii, rng, breed.fluff), shade(coat, 0.9), rounds=1)
    if breed.pattern == "saddle":
        canvas.polygon(ragged((0.5, 0.66), (radii[0], 0.12), rng, breed.fluff), breed.marks, rounds=1)
    marks_on(canvas, breed, rng, centre, radii, 12)
    canvas.polygon(ragged((0.5, 0.7), (0.11, 0.16), rng, breed.fluff), shade(coat, 1.12), rounds=1)
    for x in (0.42, 0.58):
        canvas.ellipse((x, 0.88), (0.05, 0.12), shade(coat, 1.02))
        canvas.ellipse((x, 0.97), (0.06, 0.03), shade(tip if breed.pattern == "points" else coat, 1.1))


def head(canvas: Canvas, breed: Breed, rng: np.random.Generator) -> None:
    """Ears, skull, muzzle, eyes, nose and mouth; whiskers for a cat, sometimes a tongue for a dog."""
    x, y, r = 0.5 + rng.uniform(-0.03, 0.03), 0.36, 0.19
    dark = breed.marks if breed.pattern == "points" else shade(breed.coat, 0.8)
    ear = breed.marks if breed.pattern in ("points", "saddle") and breed.ears in ("hanging", "long") else dark
    upright = breed.ears in ("upright", "small", "wide")
    outlines = [[(x + side * dx * r, y + dy * r) for dx, dy in EARS[breed.ears]] for side in (-1, 1)]
    for outline in outlines if upright else []:
        canvas.polygon(outline, ear, rounds=0 if breed.cat else 1)
        middle = np.mean(outline, axis=0)
        canvas.polygon([tuple(middle + 0.5 * (np.array(point) - middle)) for point in outline], shade(PINK, 0.8),
                       rounds=0)
    width = r * (1.06 if breed.cat else 0.95)
    canvas.polygon(ragged((x, y), (width, r * (0.92 if breed.cat else 1.0)), rng, breed.fluff), breed.coat, rounds=1)
    if breed.pattern == "saddle":
        for side in (-1, 1):
            canvas.ellipse((x + side * 0.55 * r, y - 0.25 * r), (0.42 * r, 0.55 * r), breed.marks, side * 20)
    marks_on(canvas, breed, rng, (x, y - 0.4 * r), (0.8 * r, 0.45 * r), 5)
    if breed.cat:
        for dx in (-0.25, 0.0, 0.25):  # the M on the forehead
            canvas.line([(x + dx * r, y - 0.75 * r), (x + dx * 0.8 * r, y - 0.45 * r)], 0.01, shade(dark, 0.9))
    for outline in [] if upright else outlines:
        canvas.polygon(outline, ear, rounds=2)
    low = y + r * (0.38 if breed.cat else 0.42 + 0.18 * breed.muzzle)
    wide = r * (0.42 if breed.cat else 0.52)
    tone = breed.marks if breed.pattern == "points" else shade(breed.coat, 1.15)
    canvas.ellipse((x, low), (wide, r * (0.32 if breed.cat else 0.36 + 0.24 * breed.muzzle)), tone)
    for side in (-1, 1):
        eye = (x + side * 0.42 * r, y - 0.12 * r)
        if breed.cat:
            canvas.ellipse(eye, (0.23 * r, 0.17 * r), breed.eyes, side * -12)
            canvas.ellipse(eye, (0.05 * r, 0.16 * r), NOSE)
        else:
            canvas.ellipse(eye, (0.15 * r, 0.15 * r), (70, 46, 28))
            canvas.ellipse(eye, (0.09 * r, 0.09 * r), NOSE)
        canvas.ellipse((eye[0] - 0.05 * r, eye[1] - 0.06 * r), (0.035 * r, 0.035 * r), WHITE)
    if breed.cat:
        canvas.polygon([(x - 0.1 * r, low - 0.16 * r), (x + 0.1 * r, low - 0.16 * r), (x, low - 0.02 * r)],
                       shade(PINK, 0.75), rounds=0)
        for side in (-1, 1):
            canvas.line([(x, low), (x + side * 0.2 * r, low + 0.14 * r)], 0.008, NOSE)
            for dy in (-0.1, 0.02, 0.14):
                canvas.line([(x + side * 0.35 * r, low + dy * r), (x + side * 1.25 * r, low + 2.2 * dy * r)], 0.005,
                            WHITE)
    else:
        nose = low - r * (0.1 + 0.1 * breed.muzzle)
        if rng.random() < 0.4:
            canvas.ellipse((x, low + 0.42 * r), (0.14 * r, 0.26 * r), (214, 96, 104))
        canvas.line([(x, nose), (x, low + 0.2 * r)], 0.01, NOSE)
        canvas.line([(x - 0.25 * r, low + 0.24 * r), (x, low + 0.18 * r), (x + 0.25 * r, low + 0.24 * r)], 0.01, NOSE)
        canvas.ellipse((x, nose), (0.2 * r, 0.14 * r), NOSE)


def animal(breed: Breed, rng: np.random.Generator, side: int) -> Image.Image:
    """One animal, `side` pixels wide and high: RGBA, premultiplied, on nothing. Coat, pose and light vary."""
    canvas = Canvas((side, side), "RGBA", (0, 0, 0, 0), over=2)
    canvas.matrix = rotation(rng.normal(0, 5), rng.uniform(0.88, 1.0), (rng.uniform(-0.03, 0.03), rng.uniform(-0.01,
                                                                                                              0.03)))
    if rng.random() < 0.5:
        canvas.matrix[:, 2] += canvas.matrix[:, 0]
        canvas.matrix[:, 0] *= -1
    factor = rng.uniform(0.85, 1.15)
    varied = Breed(**{**breed.__dict__, "coat": shade(breed.coat, factor), "marks": shade(breed.marks, factor)})
    body(canvas, varied, rng)
    head(canvas, varied, rng)
    return textured(canvas.finish(), rng, 0.05 + 0.06 * breed.fluff)
