"""Open an image (file, bytes, data: URI, PIL image or array) as RGB.

This module holds the whole policy. Files and data: URIs are rotated upright by their EXIF
orientation; images in memory are used as they are. Transparent pixels are composited onto white, as
transformers 5.21 and later do for PIL images. Pillow converts the other modes (grey, 1-bit,
palette, CMYK). It clips 16-bit grey at 255, as in every version of transformers. An animation gives
its first frame. Anything dropped is reported with an :class:`ImageWarning`.
:mod:`tinyqwenvl.media_source` defines the sources, and :mod:`tinyqwenvl.media_kinds` recognises
files that are not images.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .deprecated import old_names
from .errors import UserError
from .media_kinds import AVIF, HEIC, RAW, TEXT, kind_of
from .media_source import (
    ImageWarning,
    as_array,
    checked_file,
    head_of,
    image_bytes,
    path_or_bytes,
    unwrapped,
    warn,
)

__all__ = ["IMAGE_KEYS", "ImageWarning", "open_file", "open_image", "rgb", "warn"]

IMAGE_KEYS = ("image", "image_url", "path", "url", "base64")  # keys of a content item, as in HF
MOST_PIXELS = 100_000_000  # in a file, before resizing
NOT_IMAGES = ("EPS", "WMF")  # drawn by another program
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # of a PNG; they do not change its pixels
_TEXT_LIMITS = ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY")  # named in Pillow's exceptions
_DNG_VERSION, _SUBFILE_TYPE = 50706, 254  # TIFF tags


def open_image(
    source: Any, to_rgb: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    """Open anything that names or holds an image as a PIL image in mode RGB.

    ``source`` is a path, a ``file://`` or ``data:`` URI, base64, the bytes of a file or a file
    object, ``{"bytes", "path"}``, a PIL image, or an array or tensor: [H, W], [H, W, C] or
    [C, H, W], uint8 or floats in 0..1. ``to_rgb`` replaces :func:`rgb`
    (example: ``compat.drop_alpha``). Raises UserError, in one line, if that fails.
    """
    to_rgb = to_rgb or rgb
    source = unwrapped(source)
    if isinstance(source, Image.Image):
        return to_rgb(_decoded(source, "the image"))
    if (array := as_array(source)) is not None:
        return to_rgb(Image.fromarray(image_bytes(array)))
    image, name, data = _open(source)
    with image:  # closes the file: Pillow keeps it open if it has several frames
        try:
            first = _decoded(image, name)
        except _LongText:  # after the pixel data
            first = _decoded(_textless(data, name), name)
        if _is_animated(first):
            warn(f"{name} has several frames; only the first is read (as a video, all are)")
        return to_rgb(_upright(first, name))


def open_file(source: Any) -> tuple[Image.Image, str]:
    """Open a path, URI, base64, bytes or file object; return the undecoded image and its name.

    Raises UserError, in one line, if Pillow cannot read the image or if it is too large.
    """
    image, name, _ = _open(source)
    return image, name


def _open(source: Any) -> tuple[Image.Image, str, str | bytes]:
    """:func:`open_file`, plus the path or bytes that it read."""
    name, data = path_or_bytes(unwrapped(source))
    if isinstance(data, str):
        data = checked_file(name, data)
    if not data:
        raise UserError(f"{name} is empty")
    head = head_of(data)
    kind = kind_of(head)
    if kind is not None and kind.medium in ("video", "audio"):
        raise UserError(f"{name} is {kind}")
    if kind is HEIC:
        _register_heif()
    try:
        image = _opened(data, name)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; make it smaller") from None
    except MemoryError:
        raise
    except Exception:  # Pillow may raise anything on damaged bytes
        raise _not_read(name, head) from None
    if image.format in NOT_IMAGES:
        raise UserError(f"{name} is {image.format}, a drawing; convert it to PNG")
    if kind is RAW or _is_raw(image):
        raise UserError(f"{name} is {RAW}")
    if image.width * image.height > MOST_PIXELS:
        millions = MOST_PIXELS // 1_000_000
        raise UserError(f"{name} has more than {millions} million pixels; make it smaller")
    return image, name, data


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, composited onto white. HF: ``convert_to_rgb`` (>= 5.21)."""
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


def _opened(data: str | bytes, name: str) -> Image.Image:
    """``Image.open``; if a PNG's text exceeds Pillow's limits, open the image without that text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    except ValueError as error:
        if not _is_long_text(error):
            raise
        return _textless(data, name)


class _LongText(Exception):
    """A PNG has text over Pillow's limits after its pixel data."""


def _is_long_text(error: Exception) -> bool:
    return any(limit in str(error) for limit in _TEXT_LIMITS)


def _textless(data: str | bytes, name: str) -> Image.Image:
    """Open a PNG without its text and colour profile, which do not affect the pixels."""
    if isinstance(data, str):
        with open(data, "rb") as file:
            data = file.read()
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _TEXT_CHUNKS:
            kept.append(data[at:end])
        at = end
    warn(f"{name} has text or a colour profile over Pillow's limit; it is ignored")
    return Image.open(io.BytesIO(b"".join(kept)))


def _register_heif() -> None:
    """Let Pillow read HEIC if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _not_read(name: str, head: bytes) -> UserError:
    """The error for a file that Pillow cannot read: its kind, and what to do."""
    kind = kind_of(head)
    if kind is None and head and not any(head):
        return UserError(f"{name} is only zeros: a copy or download that failed; fetch it again")
    if kind is None:
        return UserError(f"{name} is not an image that Pillow can read, or is damaged")
    if kind is TEXT:
        return UserError(f"{name} is not an image but {kind}")
    known = Image.registered_extensions()  # formats that Pillow could read if undamaged
    if (kind is HEIC and ".heic" in known) or (kind is AVIF and ".avif" in known):
        return UserError(f"{name} is {kind.name} that is damaged; fetch it again")
    return UserError(f"{name} is {kind}")


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera raw file: Pillow would read only a thumbnail, or nothing."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags is None:
        return False
    return _DNG_VERSION in tags or bool(int(tags.get(_SUBFILE_TYPE) or 0) & 1)


def _decoded(image: Image.Image, name: str) -> Image.Image:
    """Decode the whole image now, so that a truncated file raises here."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        if _is_long_text(error):
            raise _LongText from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name} is truncated or damaged: {reason}") from None
    if 0 in image.size:
        raise UserError(f"{name} has no pixels")
    if image.mode[0] in "IF":
        most = np.max(np.asarray(image))
        if most > 255:
            warn(f"{name} has values over 255, clipped to white; scale it to 8 bits first")
        elif image.mode == "F" and most <= 1:
            warn(f"{name} has no value over 1, so it becomes black; scale it to 0 .. 255 first")
    return image


def _is_animated(image: Image.Image) -> bool:
    """Whether the image is animated; an MPO's extra frames are previews and gain maps."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # damage after the first frame does not affect the first
        return True


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Rotate by the EXIF orientation; unreadable EXIF is ignored."""
    try:
        return ImageOps.exif_transpose(image) or image
    except MemoryError:
        raise
    except Exception:
        warn(f"{name} has EXIF that cannot be read; it is not rotated")
        return image


old_names(globals())
