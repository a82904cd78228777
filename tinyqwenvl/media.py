"""Opening pictures: from a file, bytes, a data: URI, a PIL image or an array to RGB.

The policy, in one place. Files (and data: URIs) are turned upright by their EXIF orientation;
images already in memory are taken as they are. Transparency is laid on white, as transformers 5.21
and later do for PIL images. Other modes (grey, palette, CMYK) are converted by Pillow. Of an
animation the first frame is taken.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError

Picture: TypeAlias = "str | os.PathLike | bytes | Image.Image | np.ndarray"


def open_picture(source: Any) -> Image.Image:
    """Anything that names or holds a picture -> a PIL image in mode RGB.

    Arrays are [H, W, 3] or [H, W, 4] or [H, W] of uint8. Raises UserError, in one line, when there
    is no picture to be had.
    """
    if isinstance(source, np.ndarray):
        return rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return rgb(_loaded(source, "the image"))
    name, stream = _stream(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(stream)
    except UnidentifiedImageError:
        raise UserError(f"{name} is not a picture that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise UserError(f"{name} has more than {limit} million pixels; make it smaller") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read {name}: {error}") from None
    return rgb(_upright(_loaded(image, name)))


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; any transparency is laid on white. HF: ``convert_to_rgb`` (>= 5.21)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _stream(source: Any) -> tuple[str, Any]:
    """A name for messages, and what Pillow can open."""
    if isinstance(source, bytes):
        return "the picture", io.BytesIO(source)
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if text is None:
        raise UserError(
            f"a picture cannot be made of {type(source).__name__}; give a path or image"
        )
    if text.startswith("data:"):
        try:
            return "the data: URI", io.BytesIO(
                base64.b64decode(text.partition(",")[2], validate=True)
            )
        except binascii.Error as error:
            raise UserError(f"the data: URI is not base64: {error}") from None
    if text.startswith(("http://", "https://")):
        raise UserError(
            f"{text}: addresses are not fetched; download the picture and give its path"
        )
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a picture")
    if not path.exists():
        raise UserError(f"{path}: no such picture")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    return str(path), path


def _loaded(image: Image.Image, name: str) -> Image.Image:
    """Decode all of the picture now, so that a cut file is noticed here."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{name} is cut or damaged: {error}") from None
    if 0 in image.size:
        raise UserError(f"{name} has no pixels")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation; unreadable EXIF is no reason to refuse a picture."""
    try:
        return ImageOps.exif_transpose(image) or image
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        return image


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(
            f"a picture array is uint8 [H, W, 3], not {array.dtype} {list(array.shape)}"
        )
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise UserError(f"a picture array is uint8 [H, W, 3], not {list(array.shape)}")
    return Image.fromarray(array)
