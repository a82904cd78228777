"""Unusual but valid images for goldens and tests: every mode, size and orientation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

TURNS = range(1, 9)  # EXIF's orientations


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.RandomState(height * 1000 + width)
    return rng.randint(0, 256, (height, width, channels)).astype(np.uint8)


def odd_images() -> dict[str, Image.Image]:
    """Name -> a PIL image in memory."""
    colour = Image.fromarray(_noise(22, 37))
    grey = Image.fromarray(_noise(22, 37, 1)[..., 0])
    alpha = Image.fromarray(_noise(22, 37, 1)[..., 0].T.reshape(22, 37))
    deep = (np.arange(22 * 37).reshape(22, 37) * 80).astype(np.uint16)
    images = {f"{w}x{h}": Image.fromarray(_noise(h, w)) for w, h in ((1, 1), (200, 1), (1, 200))}
    for mode in ("1", "CMYK", "YCbCr", "HSV", "P"):
        images[mode] = colour.convert(mode)
    images["L"] = grey
    images["I;16"] = Image.fromarray(deep)
    images["I"] = Image.fromarray(deep.astype(np.int32) - 300)
    images["F"] = Image.fromarray(deep.astype(np.float32) / 7 - 9.5)
    for mode, opaque in (("RGBA", colour), ("LA", grey)):
        images[mode] = opaque.convert(mode)
        images[mode].putalpha(alpha)
    images["PA"] = images["P"].convert("PA")
    images["PA"].putalpha(alpha)
    for name, value in (("index", 5), ("bytes", bytes(range(0, 250, 2)))):
        images[f"P, transparent {name}"] = images["P"].copy()
        images[f"P, transparent {name}"].info["transparency"] = value
    images["L, transparent level"] = grey.copy()
    images["L, transparent level"].info["transparency"] = int(np.asarray(grey)[3, 3])
    images["RGB, transparent colour"] = colour.copy()
    where = tuple(int(v) for v in np.asarray(colour)[3, 3])
    images["RGB, transparent colour"].info["transparency"] = where
    return images


def turned_file(orientation: int) -> bytes:
    """A PNG that says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(_noise(30, 44)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
