"""Drawn garments, 28×28 grey, in the classes and poses of Fashion-MNIST (light on black, toe to the left).

A garment is a list of strokes on one canvas: a silhouette with a grey level, and details lighter or darker than it.
Every number is jittered, so that no two are alike; shirts, coats and pullovers share one cut and differ in details.
"""
from __future__ import annotations

import numpy as np
from PIL import Image

from tests.offline.drawing.canvas import Canvas, mirrored, rotation

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def upper(canvas: Canvas, rng: np.random.Generator, tone: int, sleeve: float, hem: float, waist: float,
          neck: float) -> None:
    """A torso down to `hem` with sleeves down to y = `sleeve`; `waist` and `neck` are half widths."""
    shoulder, top = rng.uniform(0.21, 0.25), rng.uniform(0.07, 0.1)
    spread = rng.uniform(0.30, 0.36) if sleeve > 0.5 else rng.uniform(0.36, 0.42)
    width = rng.uniform(0.09, 0.12)
    canvas.polygon(mirrored([(neck, top), (shoulder, top + 0.05), (shoulder - 0.02, 0.4), (waist, 0.6),
                             (waist + 0.02, hem)]),
                   tone, rounds=1)
    for side in (-1, 1):
        arm = [(0.5 + side * (shoulder - 0.08), top + 0.02), (0.5 + side * shoulder, top + 0.05),
               (0.5 + side * spread, sleeve), (0.5 + side * (spread - width), sleeve + 0.03),
               (0.5 + side * (shoulder - 0.03), 0.36)]
        canvas.polygon(arm, int(tone * rng.uniform(0.8, 0.97)), rounds=1)
        if sleeve > 0.5:  # the gap between arm and body
            canvas.line([(0.5 + side * (shoulder - 0.01), 0.38), (0.5 + side * (spread - width), sleeve)], 0.02,
                        tone // 3)
    canvas.ellipse((0.5, top - 0.01), (neck * 0.9, rng.uniform(0.03, 0.06)), 0)


def stripes(canvas: Canvas, rng: np.random.Generator, tone: int, half: float, hem: float, upright: bool) -> None:
    """Stripes of another tone across (or, `upright`, along) the torso."""
    other = int(np.clip(tone * rng.choice([0.55, 0.7, 1.25]), 0, 255))
    step, width = rng.uniform(0.07, 0.13), rng.uniform(0.015, 0.04)
    for at in np.arange(0.2, hem - 0.05, step):
        if upright:
            x = 0.5 - half + (at - 0.2) / (hem - 0.25) * 2 * half
            canvas.line([(x, 0.2), (x, hem - 0.03)], width, other)
        else:
            canvas.line([(0.5 - half, at), (0.5 + half, at)], width, other)


def t_shirt(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """Short sleeves, round neck; some with stripes or a print."""
    waist, hem = rng.uniform(0.16, 0.24), rng.uniform(0.84, 0.96)
    upper(canvas, rng, tone, rng.uniform(0.28, 0.44), hem, waist, rng.uniform(0.06, 0.12))
    kind = rng.random()
    if kind < 0.25:
        stripes(canvas, rng, tone, waist - 0.02, hem, upright=False)
    elif kind < 0.6:
        canvas.ellipse((0.5, rng.uniform(0.36, 0.48)), (rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.1)),
                       int(tone * rng.choice([0.4, 0.6])))


def trouser(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """Two legs with a gap that widens towards the feet."""
    waist, hip, cuff, gap = rng.uniform(0.12, 0.15), rng.uniform(0.16, 0.19), rng.uniform(0.07,
                                                                                          0.11), rng.uniform(0.01, 0.04)
    rise, hem = rng.uniform(0.28, 0.36), rng.uniform(0.93, 0.97)
    for side in (-1, 1):
        leg = [(0.5, 0.05), (0.5 + side * waist, 0.05), (0.5 + side * hip, rise - 0.03),
               (0.5 + side * (gap + cuff + 0.03), hem), (0.5 + side * gap, hem), (0.5 + side * 0.005, rise)]
        canvas.polygon(leg, int(tone * (1 if side < 0 else rng.uniform(0.85, 1))), rounds=1)
    canvas.line([(0.5 - waist, 0.07), (0.5 + waist, 0.07)], 0.025, int(tone * 0.7))


def pullover(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """Long sleeves, closed front, ribbed hem and cuffs."""
    waist, hem = rng.uniform(0.18, 0.24), rng.uniform(0.84, 0.95)
    upper(canvas, rng, tone, rng.uniform(0.72, 0.9), hem, waist, rng.uniform(0.06, 0.1))
    if rng.random() < 0.35:
        stripes(canvas, rng, tone, waist - 0.03, hem, upright=rng.random() < 0.3)
    if rng.random() < 0.3:  # a zip at the neck
        canvas.line([(0.5, 0.08), (0.5, rng.uniform(0.25, 0.45))], 0.02, int(tone * 0.5))
    if rng.random() < 0.7:
        canvas.line([(0.5 - waist - 0.02, hem - 0.03), (0.5 + waist + 0.02, hem - 0.03)], 0.03,
                    int(tone * rng.uniform(0.65, 0.9)))


def dress(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A narrow top, a waist, a skirt that widens; with straps or short sleeves."""
    top, waist, skirt = rng.uniform(0.1, 0.18), rng.uniform(0.07, 0.15), rng.uniform(0.12, 0.26)
    canvas.polygon(mirrored([(top * 0.5, 0.05), (top, 0.08), (top, 0.25), (waist, 0.42), (skirt * 0.8, 0.7),
                             (skirt, 0.96)]),
                   tone, rounds=1)
    canvas.ellipse((0.5, 0.05), (top * 0.5, rng.uniform(0.04, 0.1)), 0)
    if rng.random() < 0.4:
        for side in (-1, 1):
            canvas.polygon([(0.5 + side * top * 0.8, 0.06), (0.5 + side * (top + 0.09), rng.uniform(0.2, 0.3)),
                            (0.5 + side * top, 0.24)], int(tone * 0.9), rounds=0)
    if rng.random() < 0.5:
        canvas.line([(0.5 - waist, 0.42), (0.5 + waist, 0.42)], 0.03, int(tone * 0.5))


def coat(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """Long sleeves, longer body, an open front with lapels, sometimes pockets."""
    waist, hem = rng.uniform(0.19, 0.25), rng.uniform(0.88, 0.98)
    upper(canvas, rng, tone, rng.uniform(0.8, 0.9), hem, waist, rng.uniform(0.07, 0.1))
    canvas.line([(0.5, 0.1), (0.5 + rng.uniform(-0.03, 0.03), hem)], rng.uniform(0.012, 0.035),
                int(tone * rng.uniform(0.35, 0.85)))
    lapels, pockets = rng.random() < 0.6, rng.random() < 0.5
    for side in (-1, 1):
        if lapels:
            canvas.polygon([(0.5 + side * 0.01, rng.uniform(0.24, 0.4)), (0.5 + side * 0.11, 0.09),
                            (0.5 + side * 0.13, 0.2)],
                           int(tone * rng.uniform(0.6, 0.9)), rounds=0)
        if pockets:
            canvas.line([(0.5 + side * 0.08, 0.66), (0.5 + side * 0.17, 0.64)], 0.022, int(tone * 0.55))


def shirt(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A collar and a row of buttons; long or short sleeves; often striped."""
    waist, hem = rng.uniform(0.18, 0.24), rng.uniform(0.86, 0.97)
    sleeve = rng.uniform(0.72, 0.9) if rng.random() < 0.6 else rng.uniform(0.3, 0.42)
    upper(canvas, rng, tone, sleeve, hem, waist, rng.uniform(0.06, 0.1))
    if rng.random() < 0.45:
        stripes(canvas, rng, tone, waist - 0.02, hem, upright=rng.random() < 0.6)
    if rng.random() < 0.7:
        canvas.polygon([(0.4, 0.06), (0.5, 0.2), (0.6, 0.06), (0.56, 0.04), (0.5, 0.12), (0.44, 0.04)],
                       min(255, int(tone * rng.uniform(0.8, 1.25))), rounds=0)
    contrast = rng.uniform(0.35, 0.9)
    for y in np.arange(0.24, hem - 0.05, rng.uniform(0.09, 0.14)):
        canvas.ellipse((0.5, y), (0.017, 0.017), int(tone * contrast))


def sandal(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A sole, flat or on a heel, and straps with air between them."""
    heel, ground = rng.choice([0.03, 0.12, 0.24]), rng.uniform(0.7, 0.76)
    sole = rng.uniform(0.04, 0.07)
    toe, mid, back = (0.04, ground), (0.45, ground - heel * 0.3), (0.95, ground - heel)
    canvas.polygon([toe, mid, back, (back[0], back[1] + sole), (mid[0], mid[1] + sole), (toe[0], toe[1] + sole)], tone,
                   rounds=1)
    if heel > 0.05:
        canvas.polygon([(0.85, back[1]), (0.96, back[1]), (0.94, ground + sole), (0.89, ground + sole)], tone, rounds=0)
    for x in rng.choice([0.14, 0.26, 0.38, 0.52], size=rng.integers(2, 4), replace=False):
        rise = rng.uniform(0.1, 0.2)
        canvas.line([(x, ground - 0.02), (x + 0.09, ground - rise), (x + 0.2, ground - rise - 0.02)], 0.055,
                    int(tone * 0.85))
    canvas.line([(0.9, back[1]), (0.86, back[1] - 0.2), (0.66, back[1] - 0.2 + 0.04)], 0.04, int(tone * 0.85))


def sneaker(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A low shoe with a light sole, laces and a stripe."""
    top, ground = rng.uniform(0.26, 0.42), rng.uniform(0.68, 0.78)
    canvas.polygon([(0.03, ground), (0.05, ground - 0.12), (0.3, top + 0.12), (0.55, top), (0.72, top + 0.08),
                    (0.9, top - 0.04),
                    (0.97, ground - 0.08), (0.97, ground)], tone)
    canvas.polygon([(0.02, ground - 0.03), (0.97, ground - 0.03), (0.97, ground + 0.05), (0.04, ground + 0.05)],
                   int(rng.uniform(120, 250)), rounds=1)
    for x in (0.34, 0.42, 0.5):
        canvas.line([(x, top + 0.12 - (x - 0.34) * 0.5), (x + 0.06, top + 0.2)], 0.025, min(255, int(tone * 1.4)))
    canvas.line([(0.55, ground - 0.05), (rng.uniform(0.62, 0.78), top + 0.1)], 0.04, int(tone * rng.choice([0.4, 1.5])))


def bag(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A box with a handle, a flap or a zip, and a clasp."""
    top, base, lid = rng.uniform(0.34, 0.46), rng.uniform(0.36, 0.44), rng.uniform(0.28, 0.42)
    reach = rng.uniform(0.16, 0.28)
    canvas.line([(0.5 - lid * 0.6, top), (0.5 - lid * 0.5, top - reach), (0.5 + lid * 0.5, top - reach),
                 (0.5 + lid * 0.6, top)],
                0.045, int(tone * 0.8))
    canvas.polygon(mirrored([(lid, top), (base, 0.86)]), tone, rounds=int(rng.integers(0, 2)))
    if rng.random() < 0.6:
        canvas.polygon(mirrored([(lid * 0.98, top + 0.01), (lid * 0.9, top + 0.2)]), int(tone * 0.75), rounds=1)
        canvas.ellipse((0.5, top + 0.2), (0.03, 0.03), min(255, int(tone * 1.5)))
    else:
        canvas.line([(0.5 - lid * 0.9, top + 0.08), (0.5 + lid * 0.9, top + 0.08)], 0.025, int(tone * 0.4))


def ankle_boot(canvas: Canvas, rng: np.random.Generator, tone: int) -> None:
    """A shaft over the ankle, a foot, a sole and a heel."""
    top, front, ground = rng.uniform(0.06, 0.34), rng.uniform(0.44, 0.58), rng.uniform(0.8, 0.9)
    heel = rng.uniform(0.03, 0.1)
    canvas.polygon([(front, top), (0.93, top), (0.95, 0.5), (0.96, ground - heel), (0.6, ground - heel * 0.6),
                    (0.05, ground),
                    (0.05, ground - 0.1), (0.25, ground - 0.22), (front - 0.02, 0.5)], tone, rounds=1)
    canvas.polygon([(0.74, ground - heel - 0.04), (0.96, ground - heel - 0.04), (0.94, ground + 0.04),
                    (0.76, ground + 0.04)],
                   int(tone * 0.6), rounds=0)
    canvas.line([(0.05, ground), (0.74, ground - heel * 0.6)], 0.04, int(tone * 0.6))
    if rng.random() < 0.5:
        canvas.line([(0.68, top + 0.02), (0.68, 0.6)], 0.025, int(tone * 0.5))
    else:
        for y in np.arange(top + 0.1, 0.55, 0.1):
            canvas.line([(front, y), (front + 0.12, y + 0.03)], 0.025, int(tone * 0.55))


DRAW = (t_shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle_boot)  # by label, as CLASSES


def garment(label: int, rng: np.random.Generator) -> np.ndarray:
    """One garment of class `label`: (28, 28) uint8, background 0."""
    canvas = Canvas((28, 28), "L", over=6)
    canvas.matrix = rotation(rng.normal(0, 5), rng.uniform(0.8, 1.04), tuple(rng.normal(0, 0.03, 2)))
    canvas.matrix[0] = canvas.matrix[0] * (stretch := rng.uniform(0.86, 1.12)) + (0, 0, 0.5 * (1 - stretch))
    tone = int(rng.uniform(50, 215))
    DRAW[label](canvas, rng, tone)
    image = np.asarray(canvas.finish(), dtype=float)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    light = 1 + rng.uniform(-0.15, 0.15) * x + rng.uniform(-0.12, 0.12) * y
    weave = rng.normal(0, rng.uniform(2, 9), (28, 28)) + np.asarray(
        Image.fromarray(rng.normal(0, 10, (7, 7)).astype(np.float32)).resize((28, 28), Image.Resampling.BICUBIC))
    return np.where(image > 12, np.clip(image * light + weave, 1, 255), image).astype(np.uint8)
