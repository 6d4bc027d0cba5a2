"""Drawn traffic signs: a shape and its colors for each kind of sign, and a mark for each of the 43 classes of GTSRB."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from tests.offline.drawing.canvas import Canvas, shade
from tests.offline.drawing.glyphs import font
from tests.offline.drawing.photos import background, paste

RED, BLUE, WHITE, YELLOW, GREY = (196, 32, 40), (28, 84, 170), (242, 242, 240), (240, 196, 40), (150, 150, 152)
MARKS = ("20", "30", "50", "60", "70", "80", "/80", "100", "120", "oo", "oO", "^", "", "", "STOP", " ", "T", "-", "!",
         "(",
         ")", "S", "w", "~", "Y", "W", "8", "i", "ii", "b", "*", "d", "/", ">", "<", "|", "|>", "<|", "\\", "//", "@",
         "/o", "/O")


def outline(label: int) -> tuple[str, tuple, tuple, tuple]:
    """The shape of a class, and the colors of its rim, its face and its mark."""
    if label in (6, 32, 41, 42):  # an end of something: grey
        return "circle", GREY, WHITE, GREY
    if label == 12:
        return "diamond", WHITE, YELLOW, YELLOW
    if label == 13:
        return "down", RED, WHITE, WHITE
    if label == 14:
        return "octagon", WHITE, RED, WHITE
    if label == 17:
        return "circle", RED, RED, WHITE
    if label == 11 or 18 <= label <= 31:
        return "up", RED, WHITE, (20, 20, 20)
    if label >= 33:
        return "circle", WHITE, BLUE, WHITE
    return "circle", RED, WHITE, (20, 20, 20)


def corners(shape: str, radius: float) -> list[tuple[float, float]]:
    """The polygon of a shape about the middle of the picture."""
    number, turn = {"circle": (32, 0), "diamond": (4, 0), "down": (3, 90), "up": (3, -90), "octagon": (8, 22.5)}[shape]
    angles = np.deg2rad(turn + 360 * np.arange(number) / number)
    return [(0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)) for angle in angles]


def sign(label: int, look: np.random.Generator, frame: float) -> np.ndarray:
    """A photo of a sign, (side, side, 3) uint8: `look` fixes place and light, `frame` (0 to 1) how near it is."""
    side = int(20 + 40 * frame + look.integers(0, 6))
    shape, rim, face, ink = outline(label)
    light = look.uniform(0.45, 1.15)
    canvas = Canvas((side, side), "RGBA", (0, 0, 0, 0))
    canvas.polygon(corners(shape, 0.42), shade(rim, light) + (255,), rounds=0)
    canvas.polygon(corners(shape, 0.30), shade(face, light) + (255,), rounds=0)
    image = canvas.finish()
    mark = MARKS[label].strip()
    if mark:
        ImageDraw.Draw(image).text((side / 2, side / 2), mark, fill=shade(ink, light) + (255,), anchor="mm",
                                   font=font("DejaVuSans", max(6, int(side * 0.42 / max(1, 0.62 * len(mark))))))
    picture = background((side, side), look) * light
    paste(picture, image.rotate(look.uniform(-6, 6), Image.Resampling.BILINEAR), 0, 0)
    noisy = picture + look.normal(0, 4, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
