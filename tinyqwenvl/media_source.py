"""Convert every accepted source of an image or video to a path, file bytes or a uint8 array.

Accepted are the sources of transformers' ``load_image`` and ``load_video``, qwen_vl_utils and
Hugging Face datasets: paths, ``file://`` and ``data:`` URIs, base64, bytes, file objects, the dict
``{"bytes", "path"}``, arrays and tensors in either layout. Nothing is decoded here.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

from .errors import UserError
from .media_kinds import HEAD, kind_of


class ImageWarning(UserWarning):
    """An image or video was read, but not completely, or not as requested."""


def warn(message: str) -> None:
    """Issue an :class:`ImageWarning`."""
    warnings.warn(message, ImageWarning, stacklevel=4)


CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_IN_A_DICT = ("bytes", "path", "url", "base64")  # two keys of datasets, two of chat templates


def unwrapped(source: Any, what: str = "image") -> Any:
    """The value inside a dict such as ``{"bytes": None, "path": "a.png"}`` or ``{"url": ...}``."""
    if not isinstance(source, Mapping):
        return source
    held = next((source[key] for key in _IN_A_DICT if source.get(key) is not None), None)
    if held is None or isinstance(held, Mapping):
        keys = ", ".join(map(str, source)) or "no key"
        raise UserError(f"a dict of {_article(what)} needs bytes, path or url; this one has {keys}")
    return held


def _article(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


# ------------------------------------------------------------------ files, URIs, bytes


def path_or_bytes(source: Any, what: str = "image") -> tuple[str, str | bytes]:
    """(name for messages, path or file bytes) of a source. Raises UserError, in one line.

    The path is not checked here: a video may be a folder.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"the {what}", bytes(source)
    if callable(getattr(source, "read", None)):
        return _read(source, what)
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise UserError(f"cannot read {_article(what)} from {kind}; give a path or {what}")
    path = os.fspath(source)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if path[:5].lower() == "data:":
        return "the data: URI", _of_data_uri(path)
    if path.lower().startswith(("http://", "https://")):
        raise UserError(
            f"{shown(path)}: addresses are not fetched; download the {what} and give its path"
        )
    if path[:5].lower() == "file:":
        path = _of_file_uri(path)
    if (data := _of_base64(path)) is not None:
        return "the base64 text", data
    return shown(path), path


def shown(path: str, most: int = 200) -> str:
    """A name for messages: in one line, of bounded length, and never empty."""
    if not path.strip():
        return "an empty name"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in path[: most + 1])
    return text if len(path) <= most else text[:most] + "..."


def checked_file(name: str, path: str) -> str | bytes:
    """Check that a path is a non-empty file; read a named pipe. Raises UserError."""
    try:
        about = os.stat(path)
        if stat.S_ISFIFO(about.st_mode):
            with open(path, "rb") as pipe:
                return pipe.read()
    except FileNotFoundError:
        raise UserError(f"{name}: no such image") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {name}: {reason}") from None
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{name} is a directory, not an image; for frames: --video {name}")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{name} is not a file")
    if about.st_size == 0:
        raise UserError(f"{name} is empty")
    return path


def head_of(data: str | bytes) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    if isinstance(data, bytes):
        return data[:HEAD]
    try:
        with open(data, "rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def _read(source: Any, what: str) -> tuple[str, bytes]:
    """Read a whole file object, from its start if it is seekable."""
    name = getattr(source, "name", None)
    name = shown(name) if isinstance(name, str) and name else f"the {what}"
    try:
        if callable(getattr(source, "seek", None)) and getattr(source, "seekable", bool)():
            source.seek(0)
        data = source.read()
    except Exception as error:  # closed, not readable, a lost socket
        raise UserError(f"cannot read {name}: {error}") from None
    if not isinstance(data, (bytes, bytearray)):
        raise UserError(f"{name} is open as text; open it in binary mode: open(..., 'rb')")
    return name, bytes(data)


def _of_data_uri(uri: str) -> bytes:
    """The bytes of a ``data:`` URI: base64 with line breaks, spaces or %-escapes, or %-encoded."""
    header, comma, body = uri.partition(",")
    if not comma:
        raise UserError("the data: URI has no comma before its data")
    if ";base64" not in header.lower():
        plain = unquote_to_bytes(body)
        known = plain.startswith(_IMAGES) or kind_of(plain[:HEAD]) is not None
        if known and _decoded(body) is None:
            return plain
    data = _decoded(unquote(body) if "%" in body else body)
    if data is None:
        raise UserError("the data: URI is not base64, or is truncated")
    return data


def _of_base64(text: str) -> bytes | None:
    """The bytes of raw base64; None if such a path exists or the bytes are not a known file."""
    if len(text) < 40 or os.path.exists(text) or (data := _decoded(text)) is None:
        return None
    kind = kind_of(data[:HEAD])
    known = data.startswith(_IMAGES) or (kind is not None and kind.medium in ("image", "video"))
    return data if known else None


def _decoded(text: str) -> bytes | None:
    """Decode base64 (standard or URL alphabet, with or without padding); None for other text."""
    text = "".join(text.split())
    if not _BASE64.fullmatch(text):
        return None
    text = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _of_file_uri(uri: str) -> str:
    """The path of a ``file:`` URI: literally if it exists, otherwise with %-escapes decoded."""
    path = uri[5:]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        # otherwise an empty host, or a relative path instead of a URI
        path = slash + rest if host.lower() == "localhost" else path[2:]
    if os.sep == "\\" and re.match(r"/[A-Za-z]:", path):
        path = path[1:]
    return path if os.path.exists(path) else unquote(path)


# ------------------------------------------------------------------ arrays and tensors


def as_array(source: Any) -> np.ndarray | None:
    """Convert an array or tensor of any library to NumPy; None for other objects."""
    if isinstance(source, np.ndarray):
        return source
    if callable(getattr(source, "read", None)):  # a file object, which may have a detach() too
        return None
    try:
        if callable(getattr(source, "detach", None)):  # torch, without importing it
            tensor = source.detach().cpu()
            try:
                return np.asarray(tensor.numpy())
            except TypeError:  # bfloat16
                return np.asarray(tensor.float().numpy())
        if hasattr(source, "__array__") and not isinstance(source, type):
            return np.asarray(source)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot convert {type(source).__name__} to an array: {reason}") from None
    return None


def image_bytes(array: np.ndarray, unit: bool | None = None) -> np.ndarray:
    """Convert an image array to uint8 [H, W] or [H, W, 3 or 4].

    Accepts [H, W], [H, W, C] and [C, H, W] with 1, 3 or 4 channels, and a batch of one image.
    ``unit`` is that of :func:`to_uint8`.
    """
    shape = list(array.shape)
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 4 and set(shape[1::2]) & set(CHANNELS):
        raise UserError(f"an array of shape {shape} has {shape[0]} images; give them one by one")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise _not_an_image(array.dtype, shape)
    if array.ndim == 3:
        if not {array.shape[0], array.shape[2]} & set(CHANNELS):
            raise _not_an_image(array.dtype, shape)
        array = _channels_last(array, first=0)
    array = to_uint8(array, "an image array", unit)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _not_an_image(dtype: np.dtype, shape: list[int]) -> UserError:
    return UserError(
        f"an image array is [H, W, 3] or [3, H, W], uint8 or floats in 0..1, not {dtype} {shape}"
    )


def video_bytes(array: np.ndarray) -> np.ndarray:
    """Convert a video array, channels first or last, to uint8 [F, H, W] or [F, H, W, 3 or 4]."""
    shape = list(array.shape)
    if array.ndim != 4 or 0 in shape[1:] or not {shape[1], shape[3]} & set(CHANNELS):
        raise UserError(
            f"a video array must be uint8 [F, H, W, 3] or [F, 3, H, W], not {array.dtype} {shape}"
        )
    array = to_uint8(_channels_last(array, first=1), "a video array")
    return array[..., 0] if array.shape[3] == 1 else array


def _channels_last(array: np.ndarray, first: int) -> np.ndarray:
    """Move the channels last. If both ends could be channels, the first axis is taken, as in HF.

    (HF: ``infer_channel_dimension_format``.)
    """
    if array.shape[first] in CHANNELS and array.shape[-1] in CHANNELS:
        warn(
            f"an array of shape {list(array.shape)} may have channels first or last; channels "
            "first is assumed, as in transformers"
        )
    return np.moveaxis(array, first, -1) if array.shape[first] in CHANNELS else array


def in_unit_range(array: np.ndarray) -> bool:
    """Whether an array has float values that are all in 0..1."""
    return array.dtype.kind == "f" and bool(np.all((array >= 0) & (array <= 1)))


def to_uint8(array: np.ndarray, what: str, unit: bool | None = None) -> np.ndarray:
    """Convert values to bytes: floats that are all in 0..1 (``unit``) times 255, others unscaled.

    Values are rounded to nearest, ties to even. Raises UserError for values outside 0..255.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return np.astype(array, np.uint8) * np.uint8(255)
    if array.dtype.kind not in "fiu":
        raise UserError(f"{what} must be uint8 or float, not {array.dtype} {list(array.shape)}")
    if array.size == 0:
        return np.astype(array, np.uint8)
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise UserError(f"{what} contains NaN or infinity")
    least, most = float(np.min(array)), float(np.max(array))
    if least < 0 or most > 255:
        raise UserError(
            f"{what} has values from {least:g} to {most:g}; give 0..255, or floats in 0..1 "
            "(before normalisation)"
        )
    if in_unit_range(array) if unit is None else unit:
        array = np.astype(array, np.float64) * 255
    return np.astype(np.round(array), np.uint8)
