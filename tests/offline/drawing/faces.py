"""Drawn faces whose skin, hair and lines follow from what they stand for, seen from the front or turned."""
from __future__ import annotations

import numpy as np

from tests.offline.drawing.canvas import Canvas, Point, rotation, shade
from tests.offline.drawing.photos import background, paste, textured

SKINS = ((240, 208, 170), (176, 124, 88), (98, 66, 48), (240, 214, 196),
         (206, 162, 124), (200, 152, 112), (222, 184, 144))


def arc(center: Point, radii: Point, first: float, last: float, count: int) -> np.ndarray:
    """Points on an ellipse, (count, 2), from one angle to another, in degrees, 0 to the right, clockwise."""
    angles = np.deg2rad(np.linspace(first, last, count))
    return np.column_stack([center[0] + radii[0] * np.cos(angles), center[1] + radii[1] * np.sin(angles)])


def landmarks() -> np.ndarray:
    """The 68 points of an unmoved face, (68, 2) in units: jaw 17, brows 10, nose 9, eyes 12, mouth 20."""
    eyes = [arc((0.5 + side * 0.11, 0.46), (0.045, 0.024), 180, 480, 6) for side in (-1, 1)]
    brows = [np.column_stack([0.5 + side * 0.11 + np.linspace(-0.05, 0.05, 5), np.full(5, 0.41)]) for side in (-1, 1)]
    bridge = np.column_stack([np.linspace(0.5, 0.49, 4), np.linspace(0.47, 0.56, 4)])
    base = np.column_stack([np.linspace(0.465, 0.535, 5), [0.58, 0.588, 0.592, 0.588, 0.58]])
    mouth = arc((0.5, 0.68), (0.085, 0.026), 180, 510, 12), arc((0.5, 0.68), (0.06, 0.008), 180, 495, 8)
    return np.concatenate([arc((0.5, 0.5), (0.25, 0.33), 180, 0, 17), *brows, bridge, base, *eyes, *mouth])


def turned(places: np.ndarray, turn: Point) -> np.ndarray:
    """Where places (n, 2) of a face lie once the head, a bulge with a nose, is turned by (yaw, pitch) in degrees."""
    yaw, pitch = np.deg2rad(turn)
    x, y = (np.asarray(places) - 0.5).T
    bulge = 0.28 * np.sqrt(np.clip(1 - (x / 0.26) ** 2 - (y / 0.34) ** 2, 0, None)) - 0.14
    z = bulge + 0.09 * np.exp(-((x / 0.04) ** 2) - ((y - 0.08) / 0.05) ** 2)  # toward the viewer
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.column_stack([x, y * np.cos(pitch) - z * np.sin(pitch)]) + 0.5


def with_points(size: int, rng: np.random.Generator, age: int, female: bool, kin: int,
                turn: Point = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """A portrait, (size, size, 3) uint8, and its 68 points, (68, 2) in pixels.

    Age is 0 to 8 (older: grayer, more lines), kin 0 to 6 (the skin), turn yaw and pitch of the head in degrees.
    """
    def at(x: float, y: float) -> Point:
        """Where a place of the face lies in the picture's units."""
        return tuple(turned(np.array([[x, y]]), turn)[0].tolist())

    picture = background((size, size), rng)
    canvas = Canvas((size, size), "RGBA", (0, 0, 0, 0), over=2)
    canvas.matrix = rotation(rng.normal(0, 4), rng.uniform(0.85, 1.0), tuple(rng.uniform(-0.03, 0.03, 2)))
    skin = shade(SKINS[kin], rng.uniform(0.92, 1.06))
    grey = max(0.0, (age - 4) / 4)
    hair = tuple(int(c * (1 - grey) + 205 * grey) for c in ((40, 30, 26) if kin != 3 else (150, 110, 70)))
    width = 0.25 if age > 1 else 0.28
    if female:
        canvas.ellipse((0.5, 0.52), (width + 0.1, 0.42), hair)
    canvas.ellipse((0.5, 0.98), (0.36, 0.22), shade((90, 110, 160), rng.uniform(0.6, 1.2)))
    canvas.ellipse((0.5, 0.8), (0.1, 0.14), shade(skin, 0.9))
    edges = turned(np.array([[0.25, 0.5], [0.75, 0.5], [0.5, 0.17], [0.5, 0.83]]), turn)
    canvas.ellipse((edges[:2, 0].mean(), edges[2:, 1].mean()), (width * np.ptp(edges[:2, 0]) / 0.5, 0.33), skin)
    canvas.ellipse((0.5, 0.24), (width, 0.13 if female else 0.1), hair)
    for side in (-1, 1):
        eye, brow = at(0.5 + side * 0.11, 0.46), at(0.5 + side * 0.11, 0.41)
        canvas.ellipse(eye, (0.045, 0.022 if age > 1 else 0.032), (250, 250, 250))
        canvas.ellipse(eye, (0.02, 0.022), (50, 36, 28))
        canvas.line([(brow[0] - 0.05, brow[1]), (brow[0] + 0.05, brow[1])], 0.012, shade(hair, 0.9))
        for line in range(max(0, age - 4)):
            canvas.line([(0.5 + side * 0.17, 0.47 + 0.02 * line), (0.5 + side * 0.22, 0.45 + 0.035 * line)], 0.007,
                        shade(skin, 0.7))
    canvas.line([at(0.5, 0.47), at(0.48, 0.58), at(0.52, 0.58)], 0.012, shade(skin, 0.75))
    canvas.ellipse(at(0.5, 0.68), (0.085, 0.022), (176, 60, 70) if female else shade(skin, 0.65))
    if not female and age > 2 and rng.random() < 0.5:
        canvas.ellipse(at(0.5, 0.77), (0.13, 0.06), hair)
    paste(picture, textured(canvas.finish(), rng, 0.03), 0, 0)
    points = (turned(landmarks(), turn) @ canvas.matrix[:, :2].T + canvas.matrix[:, 2]) * size
    return picture.astype(np.uint8), points


def face(size: int, rng: np.random.Generator, age: int, female: bool, kin: int) -> np.ndarray:
    """A portrait as `with_points` draws it, without the points."""
    return with_points(size, rng, age, female, kin)[0]
