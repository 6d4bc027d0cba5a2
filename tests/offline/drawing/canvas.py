"""A small anti-aliased canvas in unit coordinates: x to the right, y down, 0 to 1 whatever the size in pixels."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]


def smooth(points: Sequence[Point] | np.ndarray, rounds: int = 2) -> np.ndarray:
    """A closed polygon, (n, 2), its corners cut `rounds` times (Chaikin 1974, high-speed curve generation)."""
    corners = np.asarray(points, dtype=float)
    for _ in range(rounds):
        following = np.roll(corners, -1, axis=0)
        corners = np.stack([0.75 * corners + 0.25 * following, 0.25 * corners + 0.75 * following], 1).reshape(-1, 2)
    return corners


def mirrored(half: Sequence[Point]) -> list[Point]:
    """A left-right symmetric polygon from its right half, given from top to bottom as (distance from the axis, y)."""
    return [(0.5 + x, y) for x, y in half] + [(0.5 - x, y) for x, y in reversed(half)]


def rotation(angle: float, scale: float = 1.0, shift: Point = (0.0, 0.0)) -> np.ndarray:
    """The (2, 3) matrix that turns by `angle` (degrees, clockwise) and scales about the middle, then moves."""
    a = np.deg2rad(angle)
    linear = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.column_stack([linear, np.array([0.5, 0.5]) - linear @ [0.5, 0.5] + shift])


CIRCLE = np.column_stack([np.cos(np.linspace(0, 2 * np.pi, 37))[:-1], np.sin(np.linspace(0, 2 * np.pi, 37))[:-1]])


class Canvas:
    """An image drawn `over` times too large and shrunk in the end, which smooths its edges.

    `matrix` (2, 3), affine on unit coordinates, moves everything that is drawn after it has been set.
    """

    def __init__(self, size: tuple[int, int], mode: str = "RGB", colour: Colour | int = 0, over: int = 4):
        self.size, self.over = size, over
        self.image = Image.new(mode, (size[0] * over, size[1] * over), colour)
        self.pen = ImageDraw.Draw(self.image)
        self.matrix = rotation(0)

    def place(self, points: Sequence[Point] | np.ndarray) -> list[float]:
        """Unit coordinates to pixels of the large image: x, y, x, y, …"""
        moved = np.asarray(points, dtype=float) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return (moved * self.image.size).ravel().tolist()

    def polygon(self, points: Sequence[Point], colour, rounds: int = 2) -> None:
        """A filled polygon, its corners cut `rounds` times."""
        self.pen.polygon(self.place(smooth(points, rounds)), fill=colour)

    def ellipse(self, centre: Point, radii: Point, colour, angle: float = 0.0) -> None:
        """A filled ellipse; `angle` in degrees turns it clockwise."""
        points = CIRCLE * radii @ rotation(angle)[:, :2].T + centre
        self.pen.polygon(self.place(points), fill=colour)

    def line(self, points: Sequence[Point], width: float, colour) -> None:
        """A line through the points; `width` in units of the image's width."""
        scale = np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        self.pen.line(self.place(points), fill=colour, width=max(1, round(width * scale * self.image.size[0])),
                      joint="curve")

    def finish(self) -> Image.Image:
        """The image at its own size."""
        return self.image.resize(self.size, Image.Resampling.BOX)


def shade(colour: Sequence[float], factor: float) -> Colour:
    """A colour made darker (factor below 1) or lighter, within 0 to 255."""
    return tuple(int(np.clip(channel * factor, 0, 255)) for channel in colour)
