"""Fuzz the sources of images and videos with random objects: part of ``scripts.fuzz``.

Texts that are nearly base64, URIs and paths, dicts, arrays of any shape and type, words of a
command line; and items whose keys hold any value.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tinyqwenvl.cli.request import images_and_prompt
from tinyqwenvl.config import Config
from tinyqwenvl.errors import UserError
from tinyqwenvl.image import preprocess
from tinyqwenvl.media import open_image
from tinyqwenvl.media_kinds import kind_of
from tinyqwenvl.video import read_video
from tinyqwenvl.video_request import VIDEO_KEYS, pixel_limits, resized_size, video_options

DTYPES = ("uint8", "int16", "uint16", "int64", "float16", "float32", "float64", "bool", "complex64",
          "object", "U3")  # fmt: skip
MAGICS = (
    b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypisom", b"%PDF", b"PK\x03\x04", b"<svg", b"<html>", b"{",
    b"II*\0", b"8BPS", b"\x1aE\xdf\xa3", b"OggS", b"G" * 600, b"\xff\x0a", b"",
)  # fmt: skip
KEYS = (*VIDEO_KEYS, "min_pixels", "max_pixels", "resized_height", "resized_width", "raw_fps")


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def arrays() -> st.SearchStrategy[np.ndarray]:
    """Arrays of up to 5 dimensions, some of which could be images or videos."""
    side = st.sampled_from([0, 1, 2, 3, 4, 5, 30])
    fill = st.sampled_from([0, 1, 0.5, 200, 255, 256, -1, float("nan"), float("inf")])

    def make(shape: list[int], dtype: str, value: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.full(shape, value).astype(dtype)

    return st.builds(make, st.lists(side, max_size=5), st.sampled_from(DTYPES), fill)


def texts() -> st.SearchStrategy[str]:
    """Texts that are nearly a path, an address or base64."""
    good = base64.b64encode(_png()).decode()
    spoilt = st.tuples(st.integers(0, len(good)), st.text(max_size=3), st.integers(0, 5)).map(
        lambda t: good[: t[0]] + t[1] + good[t[0] + t[2] :]
    )
    begin = st.sampled_from(
        ["data:image/png;base64,", "data:image/png,", "data:", "file://", "", "file://localhost/",
         "FILE:", "http://", "~", "/", "./", "data:,"]
    )  # fmt: skip
    return st.builds(str.__add__, begin, st.one_of(spoilt, st.text(max_size=30)))


def sources() -> st.SearchStrategy[Any]:
    """Anything in place of an image or video."""
    data = st.builds(bytes.__add__, st.sampled_from(MAGICS), st.binary(max_size=300))
    plain = st.one_of(texts(), data, arrays(), st.none(), st.integers(), st.just(_png()))
    dicts = st.dictionaries(st.sampled_from(["bytes", "path", "url", "base64", "a"]), plain)
    return st.one_of(plain, dicts, st.lists(plain, max_size=3), data.map(io.BytesIO))


def items() -> st.SearchStrategy[dict[str, Any]]:
    """The keys of an item with any values."""
    number = st.one_of(
        st.integers(-3, 60), st.integers(), st.floats(), st.floats(0, 10), st.just(10**400),
        st.sampled_from([np.int64(4), np.float32(2), np.bool_(True), True, None, "4", [], "hf"]),
    )  # fmt: skip
    return st.dictionaries(st.sampled_from(KEYS), number, max_size=5)


def target(config: Config, folder: Path) -> tuple[st.SearchStrategy, Callable]:
    """What to draw, and what to do with it."""
    frames = [np.full((30, 40, 3), 20 * i, np.uint8) for i in range(10)]
    path = folder / "request.gif"
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=100)

    def read(case: tuple[str, Any, dict[str, Any]]) -> None:
        what, source, item = case
        if what == "words":
            images_and_prompt([str(source)])
            kind_of(source if isinstance(source, bytes) else str(source).encode())
        elif what == "image":
            limits = config.processor.limits(*pixel_limits(item, None, 10**5))
            if limits[0] > 10**6:  # large, and nothing else
                raise UserError("left out")
            image = open_image(source if not item else frames[3])
            sizes = [size] if (size := resized_size(item)) and max(size) < 2000 else None
            preprocess([(image, *limits)], config.processor, config.vision, sizes)
        elif source is None or isinstance(source, int):
            least, most = pixel_limits(item, None, 10**5)
            config.processor.limits(least, most)
            options = video_options(item)
            if (least or 0) > 10**6 or max(options.get("resized", (0, 0))) > 2000:
                raise UserError("left out")
            read_video(path, config, least, most, **options)
        else:
            read_video(source, config, 3136, 10**5)

    kinds = st.sampled_from(["image", "video", "words"])
    return st.tuples(kinds, sources(), items()), read
