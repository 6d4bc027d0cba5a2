"""Backgrounds cut from the photos that scikit-image and scikit-learn ship, and sprites laid over them."""
from __future__ import annotations

from functools import cache

import numpy as np
import skimage.data
from PIL import Image, ImageFilter
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.color import gray2rgb
from sklearn.datasets import load_sample_image

TINTS = {"grass": (0.75, 1.0, 0.5), "gravel": (1.0, 0.95, 0.85), "brick": (1.0, 0.72, 0.6)}  # these come in grey


@cache
def photo(name: str) -> np.ndarray:
    """A photo by its name in scikit-image or scikit-learn: (height, width, 3) uint8."""
    if name in ("china", "flower"):
        return load_sample_image(f"{name}.jpg")
    image = getattr(skimage.data, name)()
    return ((image if image.ndim == 3 else gray2rgb(image)) * TINTS.get(name, (1.0, 1.0, 1.0))).astype(np.uint8)


INDOORS, OUTDOORS = ("coffee", "brick", "gravel"), ("grass", "gravel", "china", "flower")


def background(size: tuple[int, int], rng: np.random.Generator, names: tuple[str, ...] = INDOORS + OUTDOORS,
               blur: float = 1.2) -> np.ndarray:
    """A random window of a random photo: (height, width, 3) float; `size` is (width, height), `blur` in pixels."""
    source = photo(str(rng.choice(names)))
    height, width = source.shape[:2]
    scale = rng.uniform(0.35, 0.9) * min(width / size[0], height / size[1])
    w, h = int(size[0] * scale), int(size[1] * scale)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    window = Image.fromarray(source[top:top + h, left:left + w])
    if rng.random() < 0.5:
        window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    blurred = window.resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(blurred, dtype=float)
    return np.clip(pixels * rng.uniform(0.75, 1.15) + rng.uniform(-15, 15), 0, 255)


def paste(picture: np.ndarray, sprite: Image.Image, left: int, top: int) -> np.ndarray:
    """Lay an RGBA sprite (colours premultiplied, as Canvas.finish leaves them on black) over `picture`, in place.

    Returns the sprite's mask in the picture, (height, width) bool: where it covers at least half a pixel.
    """
    pixels = np.asarray(sprite, dtype=float)
    height, width = picture.shape[:2]
    y, x = slice(max(top, 0), min(top + sprite.height, height)), slice(max(left, 0), min(left + sprite.width, width))
    pixels = pixels[y.start - top:y.stop - top, x.start - left:x.stop - left]
    alpha = pixels[..., 3:] / 255
    picture[y, x] = pixels[..., :3] + (1 - alpha) * picture[y, x]
    mask = np.zeros((height, width), dtype=bool)
    mask[y, x] = alpha[..., 0] >= 0.5
    return mask


def textured(sprite: Image.Image, rng: np.random.Generator, strength: float, grain: float = 1.5) -> Image.Image:
    """A premultiplied RGBA sprite, lit, its brightness varied by noise in strands of `grain` pixels."""
    pixels = np.asarray(sprite, dtype=float)
    coarse = rng.normal(0, strength, (int(sprite.height / (2 * grain)) + 1, int(sprite.width / grain) + 1))
    noise = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize(sprite.size, Image.Resampling.BICUBIC))
    light = np.linspace(1.15, 0.85, sprite.height)[:, None]
    pixels = np.concatenate([np.minimum(pixels[..., :3] * (light + noise)[..., None], pixels[..., 3:]),
                             pixels[..., 3:]], 2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of a mask: xmin, ymin, xmax, ymax in pixels, the last two just outside."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def trimap(mask: np.ndarray, border: int = 2) -> np.ndarray:
    """A mask as Oxford-IIIT Pet stores it: uint8, 1 the animal, 2 the background, 3 the border between them."""
    inside = binary_erosion(mask, iterations=border, border_value=1)
    around = binary_dilation(mask, iterations=border)
    return np.where(inside, 1, np.where(around, 3, 2)).astype(np.uint8)
