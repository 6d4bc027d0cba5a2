"""Handwritten digits (scikit-learn's, real) and letters drawn from fonts and bent, both 28×28, light on black."""
from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.datasets import load_digits

FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral",
         "STIXGeneralItalic", "cmss10", "cmtt10")


def bend(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Turn, shear, scale and warp an image a little, about its centre of mass, which comes to its middle.

    The warp is a smooth random field (Simard et al. 2003, "Best practices for convolutional neural networks").
    """
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(float)
    mass = image.sum()
    centre = np.array([(y * image).sum(), (x * image).sum()]) / mass
    angle, shear = rng.normal(0, 0.1 * strength), rng.normal(0, 0.12 * strength)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[1, 0], [shear, 1]]
    matrix *= 1 + rng.normal(0, 0.05 * strength)
    at = matrix @ np.stack([y - (height - 1) / 2, x - (width - 1) / 2]).reshape(2, -1) + centre[:, None]
    warp = np.stack([gaussian_filter(rng.normal(0, 1, (height, width)), 5) for _ in range(2)]).reshape(2, -1)
    warped = map_coordinates(image, at + 14 * strength * warp, order=1)
    return warped.reshape(height, width)


@cache
def digit_scans() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits, enlarged: images (1797, 28, 28) float 0 to 255, labels (1797,)."""
    digits = load_digits()
    pages = np.zeros((len(digits.images), 28, 28))
    for page, scan in zip(pages, digits.images):
        large = Image.fromarray((scan * 255 / 16).astype(np.float32)).resize((22, 22), Image.Resampling.BICUBIC)
        page[3:25,
             3:25] = 255 / (1 + np.exp(-(np.asarray(large) - 150) / 24))  # the pen's edge, sharper than 8×8 has it
    return np.where(pages > 8, pages, 0), digits.target


def digits(count: int, rng: np.random.Generator, first: int = 0, last: int = 1797) -> tuple[np.ndarray, np.ndarray]:
    """`count` digits from scans `first` to `last`: (count, 28, 28) uint8 and labels (count,) uint8.

    The scans are taken in order, each once more only when all have been used, and each time bent anew.
    """
    scans, labels = digit_scans()
    taken = first + np.arange(count) % (last - first)
    images = np.stack([np.clip(bend(scans[index], rng, 0.5), 0, 255) for index in taken])
    return images.astype(np.uint8), labels[taken].astype(np.uint8)


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def letter(character: str, rng: np.random.Generator) -> np.ndarray:
    """A character as if written with a pen: (28, 28) uint8."""
    page = Image.new("L", (56, 56))
    face = font(str(rng.choice(FONTS)), int(rng.integers(36, 44)))
    ImageDraw.Draw(page).text((28, 28), character, fill=255, font=face, anchor="mm",
                              stroke_width=int(rng.integers(0, 3)))
    bent = gaussian_filter(bend(np.asarray(page, dtype=float), rng, 1.3), 1.2)
    small = np.asarray(Image.fromarray(bent.astype(np.float32)).resize((28, 28), Image.Resampling.BOX))
    return np.clip(small * (255 / small.max()), 0, 255).astype(np.uint8)
