"""Opening a video: a file, a folder, a list or an array -> its frames and their rate.

Nothing is decoded before the frames are asked for. Which of them are used, and how large, is the
matter of :mod:`tinyqwenvl.video`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .errors import UserError
from .image import MAX_IMAGE_PIXELS
from .media import open_file, open_image, rgb

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
GIF_RATE = 10.0  # frames a second where an animation does not say, as browsers play it


@dataclass(frozen=True)
class VideoSource:
    """A video that is not decoded yet. Every call of ``frames`` begins at the first again."""

    name: str
    total: int  # frames
    rate: float | None  # frames a second; None for a list, which does not know
    frames: Callable[[], Iterator[Image.Image]]
    uneven: str = ""  # how unevenly an animation's frames follow, where that counts


def open_video(source: Any) -> VideoSource:
    """Open a video: a list or folder of frames, an array [F, H, W, 3], or a file.

    Animated GIF, WebP and PNG are read by Pillow, all else by PyAV (the extra ``video``). Raises
    UserError, in one line.
    """
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UserError(f"a video array is uint8 [F, H, W, 3], not {list(source.shape)}")
    if isinstance(source, (list, tuple, np.ndarray)):
        return _of_frames("the list of frames", list(source))
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"a video cannot be made of {type(source).__name__}; give a path or frames")
    path = os.fspath(source).removeprefix("file://")
    if os.path.isdir(path):
        whole = [os.path.join(path, name) for name in sorted(os.listdir(path), key=_natural)]
        return _of_frames(path, [p for p in whole if _is_frame(p)])
    if not path.startswith(("data:", "http://", "https://")) and not os.path.exists(path):
        raise UserError(f"{path[:200] or 'an empty name'}: no such video")
    try:
        image, name = open_file(path)
    except UserError:
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            raise
        return _of_pyav(path)
    return _of_animation(image, name, path)


def _is_frame(path: str) -> bool:
    """Whether a file of a folder is one of its frames: an image, and not hidden."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    return suffix in FRAME_SUFFIXES and not name.startswith(".") and os.path.isfile(path)


def _natural(name: str) -> list[Any]:
    """Sort key by which frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _of_frames(name: str, sources: Sequence[Any]) -> VideoSource:
    if not sources:
        raise UserError(f"{name} holds no frames; a video needs one at least")
    return VideoSource(name, len(sources), None, lambda: map(open_image, sources))


def _of_animation(image: Image.Image, name: str, path: str) -> VideoSource:
    def frame(image: Image.Image, index: int) -> Image.Image:
        try:
            image.seek(index)
            image.load()  # WebP tells the duration only then
            return image
        except MemoryError:
            raise
        except Exception as error:  # Pillow's readers raise whatever comes of damaged bytes
            raise UserError(f"{name} is cut or damaged at frame {index + 1}: {error}") from None

    def frames() -> Iterator[Image.Image]:
        with open_file(path)[0] as again:
            for index in range(total):
                yield rgb(frame(again, index).copy())

    with image:
        try:
            total = getattr(image, "n_frames", 1)
        except Exception as error:  # as above
            raise UserError(f"{name} is cut or damaged: {error}") from None
        if total == 1:  # a still: by the policy of images
            return VideoSource(name, 1, GIF_RATE, lambda: iter([open_image(path)]))
        lengths = [frame(image, index).info.get("duration", 0) for index in range(total)]
    durations = [length if isinstance(length, (int, float)) else 0 for length in lengths]
    seconds = sum(durations) / 1000
    rate = total / seconds if seconds > 0 else GIF_RATE
    return VideoSource(name, total, rate, frames, _unevenness(durations))


def _unevenness(durations: Sequence[float]) -> str:
    """What is uneven about durations in ms; "" while no frame is half a mean duration off."""
    mean = sum(durations) / len(durations)
    begins = np.cumsum([0, *durations[:-1]])
    off = float(np.max(np.abs(begins - mean * np.arange(len(durations)))))
    if off <= mean / 2:
        return ""
    return (
        f"frames last {min(durations):g} to {max(durations):g} ms, but are read as if each lasted "
        f"the mean of {mean:.0f} ms; times may be off by {off / 1000:.2g} s"
    )


def _of_pyav(path: str) -> VideoSource:
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path} is no animation that Pillow can read; for other videos pip install av, or "
            "give a folder of frames"
        ) from None

    def frames() -> Iterator[Image.Image]:
        try:
            with av.open(path) as container:
                for frame in container.decode(video=0):
                    yield frame.to_image()
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"{path} is cut or damaged: {error}") from None

    try:
        with av.open(path) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise UserError(f"{path} holds no video that can be decoded")
            if stream.width * stream.height > MAX_IMAGE_PIXELS:
                raise UserError(f"{path} has frames of over {MAX_IMAGE_PIXELS:,} pixels")
            rate = stream.guessed_rate or stream.average_rate
            total = stream.frames or sum(1 for p in container.demux(stream) if p.size)
            if stream.duration and stream.time_base and total:  # the mean, where it varies too
                rate = total / (stream.duration * stream.time_base)
    except (av.FFmpegError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} is not a video that can be read: {error}") from None
    if not total or not rate:
        raise UserError(f"{path} holds no frames; a video needs one at least")
    return VideoSource(path, total, float(rate), frames)
