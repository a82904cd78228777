"""Opening images: from a file, bytes, a data: URI, a PIL image or an array to RGB.

The policy, in one place. Files (and data: URIs) are turned upright by their EXIF orientation;
images already in memory are taken as they are. Transparency is laid on white, as transformers 5.21
and later do for PIL images. Other modes (grey, 1-bit, palette, CMYK) are converted by Pillow, and
as in every version of transformers that clips 16-bit grey at 255. Of an animation the first frame
is taken. Whoever would not see that something was left out is told by a :class:`ImageWarning`.
"""

from __future__ import annotations

import base64
import io
import os
import stat
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .deprecated import old_names
from .errors import UserError

IMAGE_KEYS = ("image", "image_url", "path", "url")  # an image in a content item, as HF spells it
MOST_PIXELS = 100_000_000  # in a file, before resizing
NOT_IMAGES = ("EPS", "WMF")  # drawn by another program


class ImageWarning(UserWarning):
    """An image was read, but not all of it."""


def open_image(
    source: Any, to_rgb: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    """Anything that names or holds an image -> a PIL image in mode RGB.

    ``source`` is a path, a ``data:`` URI, the bytes of a file, a PIL image, or an array of uint8,
    [H, W, 3], [H, W, 4] or [H, W]. ``to_rgb`` may take the place of :func:`rgb`
    (``compat.drop_alpha``). Raises UserError, in one line, when there is no image.
    """
    to_rgb = to_rgb or rgb
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return to_rgb(_decoded(source, "the image"))
    image, name = open_file(source)
    with image:  # closes the file, which Pillow keeps open where there are several frames
        first = _decoded(image, name)
        if _is_animated(first):
            warn(f"{name} has several frames; only the first is read")
        return to_rgb(_upright(first))


def open_file(source: Any) -> tuple[Image.Image, str]:
    """A path, data: URI or bytes -> a PIL image that is not decoded yet, and a name for it.

    Raises UserError, in one line, for what Pillow cannot read and for what is too large.
    """
    name, stream = _stream(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream)
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; make it smaller") from None
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise whatever comes of damaged bytes
        raise UserError(f"{name} is not an image that Pillow can read, or is damaged") from None
    if image.format in NOT_IMAGES:
        raise UserError(f"{name} is {image.format}, a drawing; convert it to PNG")
    if image.width * image.height > MOST_PIXELS:
        millions = MOST_PIXELS // 1_000_000
        raise UserError(f"{name} has more than {millions} million pixels; make it smaller")
    return image, name


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; any transparency is laid on white. HF: ``convert_to_rgb`` (>= 5.21)."""
    transparent = image.info.get("transparency") is not None
    if image.mode == "RGB" and not transparent:
        return image
    try:
        if transparent or image.mode[-1] in "Aa":
            image = image.convert("LA") if image.mode == "La" else image
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    except ValueError as error:
        raise UserError(f"an image of mode {image.mode} cannot become RGB: {error}") from None


def _stream(source: Any) -> tuple[str, Any]:
    """A name for messages, and what Pillow can open."""
    if isinstance(source, bytes):
        return "the image", io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"an image cannot be made of {type(source).__name__}; give a path or image")
    path = os.fspath(source)
    if path.startswith("data:"):
        try:
            return "the data: URI", io.BytesIO(
                base64.b64decode(path.partition(",")[2], validate=True)
            )
        except ValueError as error:
            raise UserError(f"the data: URI is not base64: {error}") from None
    if path.startswith(("http://", "https://")):
        raise UserError(f"{path}: addresses are not fetched; download the image and give its path")
    path = path.removeprefix("file://")
    name = path if len(path) <= 200 else path[:200] + "..."
    try:
        about = os.stat(path)
        if stat.S_ISFIFO(about.st_mode):
            with open(path, "rb") as pipe:
                return name, io.BytesIO(pipe.read())
    except FileNotFoundError:
        raise UserError(f"{name}: no such image") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {name}: {reason}") from None
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{name} is a directory, not an image")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{name} is not a file")
    if about.st_size == 0:
        raise UserError(f"{name} is empty")
    return name, path


def _decoded(image: Image.Image, name: str) -> Image.Image:
    """Decode all of the image now, so that a cut file is noticed here."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name} is cut or damaged: {reason}") from None
    if 0 in image.size:
        raise UserError(f"{name} has no pixels")
    if image.mode[0] in "IF":
        most = np.max(np.asarray(image))
        if most > 255:
            warn(f"{name} has values over 255, which become white; scale it to 8 bits first")
        elif image.mode == "F" and most <= 1:
            warn(f"{name} has no value over 1, and so is read as black; scale it to 0 .. 255 first")
    return image


def _is_animated(image: Image.Image) -> bool:
    """Whether frames follow; those after a photograph in MPO are previews and gain maps."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is damaged; no reason to refuse the first
        return True


def warn(message: str) -> None:
    """Say that something was left out."""
    warnings.warn(message, ImageWarning, stacklevel=4)


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation; unreadable EXIF is no reason to refuse an image."""
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:
        return image


def _from_array(array: np.ndarray) -> Image.Image:
    good = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not good or 0 in array.shape:
        raise UserError(f"an image array is uint8 [H, W, 3], not {array.dtype} {list(array.shape)}")
    return Image.fromarray(array)


old_names(globals())
