"""Lines of text as if written by hand, dark on paper."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from tests.offline.drawing.glyphs import font

HANDS = ("DejaVuSans-Oblique", "STIXGeneralItalic", "DejaVuSerif-Italic", "cmtt10")


def line(text: str, height: int, rng: np.random.Generator) -> np.ndarray:
    """A line of text, (height, width) uint8, as wide as the text needs."""
    face = font(str(rng.choice(HANDS)), int(height * 0.5))
    width = int(face.getlength(text)) + height // 2
    page = Image.new("L", (width, height), 255)
    ImageDraw.Draw(page).text((height // 4, height // 2), text, fill=int(rng.integers(20, 70)), font=face, anchor="lm")
    y, x = np.mgrid[:height, :width].astype(float)
    warp = [gaussian_filter(rng.normal(0, 1, (height, width)), height / 6) * height / 3 for _ in range(2)]
    bent = map_coordinates(np.asarray(page, dtype=float), [y + warp[0], x + warp[1] + 0.15 * (y - height / 2)], order=1,
                           cval=255)
    paper = bent - 15 + rng.normal(0, 4, bent.shape)
    return np.clip(paper, 0, 255).astype(np.uint8)
