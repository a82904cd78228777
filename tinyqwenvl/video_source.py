"""Open a video (file, folder, list or array): its frames and their rate.

Nothing is decoded until you iterate over the frames. :mod:`tinyqwenvl.video` samples and resizes
them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image

from .errors import UserError
from .media import open_file, open_image, rgb
from .media_kinds import TEXT, kind_of
from .media_source import head_of, shown
from .video_file import read_file
from .video_time import Decoding, VideoSource, timed

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
GIF_RATE = 10.0  # frames per second of an animation without durations, as in browsers
SHORTEST = 10  # ms; browsers and FFmpeg treat a duration up to this as missing


def open_video(source: Any) -> VideoSource:
    """Open a video: a list or folder of frames, an array [F, H, W, 3], or a file.

    Pillow reads animated GIF, WebP and PNG; PyAV (the extra ``video``) reads all other files.
    Raises UserError, in one line.
    """
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UserError(f"a video array must be uint8 [F, H, W, 3], not {list(source.shape)}")
    if isinstance(source, (list, tuple, np.ndarray)):
        return _of_frames("the list of frames", list(source))
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"cannot read a video from {type(source).__name__}; give a path or frames")
    path = os.fspath(source).removeprefix("file://")
    if os.path.isdir(path):
        whole = [os.path.join(path, name) for name in sorted(os.listdir(path), key=_natural)]
        return _of_frames(path, [p for p in whole if _is_frame(p)])
    if not path.startswith(("data:", "http://", "https://")) and not os.path.exists(path):
        if os.path.islink(path) and not os.path.exists(os.path.realpath(path)):
            raise UserError(f"{shown(path)} is a link to what is not there")
        raise UserError(f"{shown(path)}: no such video")
    try:
        image, name = open_file(path)
    except UserError as error:
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            raise
        return _of_file(path, error)
    return _of_animation(image, name, path)


def _of_file(path: str, error: UserError) -> VideoSource:
    """Open a file that Pillow rejects with ``error``; name the kind of a file that is no video.

    FFmpeg would open some of these as images because of their names.
    """
    head = head_of(path)
    kind = kind_of(head)
    if kind is TEXT:
        raise UserError(f"{shown(path)} is text, not a video") from None
    if kind is not None and kind.medium == "other":
        raise UserError(f"{shown(path)} is not a video but {kind}") from None
    if not any(head):
        raise error
    try:
        return read_file(path)
    except UserError:
        if kind is not None and kind.medium == "image":
            raise error from None
        raise


def _is_frame(path: str) -> bool:
    """Whether a file in a folder is a frame: an image that is not hidden."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    return suffix in FRAME_SUFFIXES and not name.startswith(".") and os.path.isfile(path)


def _natural(name: str) -> list[Any]:
    """Natural sort key: frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _of_frames(name: str, sources: Sequence[Any]) -> VideoSource:
    if not sources:
        raise UserError(f"{name} has no frames; a video needs at least one")
    return VideoSource(name, len(sources), None, lambda: map(open_image, sources))


def _of_animation(image: Image.Image, name: str, path: str) -> VideoSource:
    decoding = Decoding()

    def frames() -> Iterator[Image.Image]:
        decoding.clear()
        with open_file(path)[0] as again:
            for index in range(len(lasts)):
                yield rgb(_frame(again, name, index).copy())

    lasts: list[Fraction] = []
    notes: list[str] = []
    with image:
        try:
            total = getattr(image, "n_frames", 1)
        except Exception:  # Pillow may raise anything on damaged bytes
            total = None  # read as many as possible
        if total == 1:  # a still image: use the image policy
            return VideoSource(name, 1, GIF_RATE, lambda: iter([open_image(path)]))
        try:
            while total is None or len(lasts) < total:
                lasts.append(_lasts(_frame(image, name, len(lasts))))
        except UserError as error:
            if not lasts:
                raise
            held = f"only its first {len(lasts)} frames are read"
            notes.append(f"{held}; it {str(error).removeprefix(name + ' ')}")
    *starts, end = accumulate(lasts, initial=Fraction())
    return timed(name, starts, end, frames, notes=tuple(notes), decoding=decoding)


def _frame(image: Image.Image, name: str, index: int) -> Image.Image:
    """A frame of an animation, decoded."""
    try:
        image.seek(index)
        image.load()  # WebP has its duration only after this
        return image
    except MemoryError:
        raise
    except Exception as error:  # as above
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name} is truncated or damaged at frame {index + 1}: {reason}") from None


def _lasts(image: Image.Image) -> Fraction:
    """Duration of an animation's frame in seconds; 0.1 if it declares 10 ms or less.

    Browsers do the same, and FFmpeg for GIF.
    """
    length = image.info.get("duration", 0)
    known = isinstance(length, (int, float)) and SHORTEST < length < math.inf
    return Fraction(length) / 1000 if known else Fraction(1) / int(GIF_RATE)
