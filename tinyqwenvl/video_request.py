"""Read the options of an image or video in a message: size, frames, start and end.

The keys are those of qwen_vl_utils, as in the models' README, and transformers' names for them.
A key whose value is None counts as absent, because a table of many items fills missing keys so.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import UserError
from .media_source import (
    as_array,
    image_bytes,
    in_unit_range,
    path_or_bytes,
    shown,
    unwrapped,
    video_bytes,
    warn,
)

MOST = 10**15  # upper limit of any count
VIDEO_SOURCES = ("video", "video_url", "path", "url")
VIDEO_KEYS = {  # key of an item -> argument of read_video
    "fps": "fps",
    "sample_fps": "sample_fps",
    "min_frames": "least",
    "max_frames": "most",
    "nframes": "nframes",
    "num_frames": "nframes",  # transformers' name
    "video_start": "start",
    "video_end": "end",
    "total_pixels": "total_pixels",
    "do_sample_frames": "do_sample_frames",
    "recipe": "policy",  # the key of version 0.1; sampling_policy wins if both are given
    "sampling_policy": "policy",
}


def media_of(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The image or video of a content item: the value of the first of these keys that is set."""
    return next((item[name] for name in names if item.get(name) is not None), None)


def pixel_limits(
    item: Mapping[str, Any], min_pixels: Any = None, max_pixels: Any = None
) -> tuple[int | None, int | None]:
    """(min_pixels, max_pixels) from an item, else from the arguments."""
    asked = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    least, most = (
        limit if limit is None else pixels(limit)
        for limit in (item.get(key) if item.get(key) is not None else asked[key] for key in asked)
    )
    return least, most


def pixels(value: Any) -> Any:
    """A pixel limit as int if it is an integer of any type; otherwise unchanged."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        return int(number) if number.is_integer() else value


def resized_size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) in pixels that an item requests, before rounding; or None."""
    keys = ("resized_height", "resized_width")
    asked = {key: item[key] for key in keys if item.get(key) is not None}
    if len(asked) == 1:
        here, value = next(iter(asked.items()))
        other = next(key for key in keys if key != here)
        warn(f"{here} {value} without {other} is ignored, as in qwen_vl_utils; give both")
    if len(asked) < 2:
        return None
    height, width = (count(key, value) for key, value in asked.items())
    return height, width


def video_options(item: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :func:`video.read_video` from a video's item. Raises UserError."""
    given = {key: item[key] for key in VIDEO_KEYS if item.get(key) is not None}
    if "nframes" in given and "num_frames" in given:
        raise UserError("nframes and num_frames are synonyms; give one of them")
    if item.get("raw_fps") is not None:  # rate of the file behind a list of frames: no effect
        rate("raw_fps", item["raw_fps"])
    resized = resized_size(item)
    return {VIDEO_KEYS[key]: value for key, value in given.items()} | (
        {} if resized is None else {"resized": resized}
    )


# ------------------------------------------------------------------ check values


def count(name: str, value: Any) -> int:
    """Check an integer, at least 1. Raises UserError."""
    whole = pixels(value)
    if type(whole) is not int or whole < 1:
        raise UserError(f"{name} is {_said(value)}; it must be an integer, at least 1")
    if whole > MOST:
        raise UserError(f"{name} is over {MOST:,}; give a smaller number")
    return whole


def _said(value: Any) -> str:
    """A value for a message, truncated."""
    try:
        return shown(repr(value), 60)
    except ValueError:  # an integer of thousands of digits
        return "a very large integer"


def rate(name: str, value: Any) -> float:
    """Check a rate in frames per second. Raises UserError."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if good else math.nan
    except OverflowError:
        number = math.inf
    if not 1e-6 <= number <= 1e6:
        raise UserError(f"{name} is {_said(value)}; it must be a number over 0")
    return number


def seconds(name: str, value: Any) -> float | None:
    """Check a time in seconds. Raises UserError."""
    if value is None:
        return None
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if good else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= 1e9:
        raise UserError(f"{name} is {_said(value)}; it must be a number of seconds")
    return number


# ------------------------------------------------------------------ which frames


@dataclass(frozen=True)
class Wanted:
    """Which frames of a video are wanted besides a rate: a number of frames, a part, or all."""

    nframes: int | None = None  # number of frames, before rounding to even; None: by rate
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    all_frames: bool = False  # use every frame of the part: do_sample_frames is false
    fps_given: bool = False  # whether the item sets fps

    @classmethod
    def checked(cls, fps: Any, nframes: Any, start: Any, end: Any, sampled: Any) -> Wanted:
        """Check the options of an item; ``sampled`` is "do_sample_frames". Raises UserError."""
        if fps is not None and nframes is not None:
            raise UserError("fps and nframes are both given; give one of them")
        if not isinstance(sampled, (bool, np.bool_, type(None))):
            raise UserError(f"do_sample_frames is {_said(sampled)}; it must be true or false")
        every = sampled is not None and not sampled
        if every and nframes is not None:
            raise UserError("nframes contradicts do_sample_frames false; give one of them")
        number = None if nframes is None else count("nframes", nframes)
        times = seconds("video_start", start), seconds("video_end", end)
        return cls(number, *times, all_frames=every, fps_given=fps is not None)

    def or_number(self, nframes: int | None) -> Wanted:
        """Use the checkpoint's number of frames, unless the item requests frames or a rate."""
        asked = self.nframes is not None or self.fps_given or self.all_frames
        return self if asked or nframes is None else replace(self, nframes=nframes)

    def rate_of(self, clip: Any, fps: Any, sample_fps: Any) -> float:
        """Frames per second: the sampling rate of a video, or the given rate of a list."""
        found = rate("fps", fps)
        listed = None if sample_fps is None else rate("sample_fps", sample_fps)
        if clip.rate is None:
            if listed is not None and self.fps_given and listed != found:
                warn(f"sample_fps {listed:g} is the rate of the frames; fps {found:g} is ignored")
            return found if listed is None else listed
        if listed is not None:
            warn(f"sample_fps is for lists of frames and is ignored: {clip.name} has its own rate")
        if self.all_frames and self.fps_given:
            warn("fps is ignored: do_sample_frames is false, so all frames are used")
        return found

    def part(self, name: str, total: int, rate: float) -> tuple[int, int]:
        """(first frame, number of frames) of the wanted part. Raises UserError if it is empty.

        qwen_vl_utils: ``calculate_video_frame_range``. Times outside the video are clipped to it.
        """
        if self.start is None and self.end is None:
            return 0, total
        lasts = total / rate
        start = min(max(self.start or 0.0, 0.0), lasts)
        first, last = math.ceil(start * rate), total - 1
        if self.end is not None:
            last = min(math.floor(min(max(self.end, 0.0), lasts) * rate), last)
        if first >= last:
            raise UserError(
                f"{name}: from video_start {start:g} to video_end "
                f"{lasts if self.end is None else self.end:g} there are fewer than two frames; it "
                f"lasts {lasts:.2f} s"
            )
        return first, last - first + 1

    def note_unused(self, name: str) -> None:
        """Warn about options that a list of frames ignores: all of its frames are used."""
        asked = {"nframes": self.nframes, "video_start": self.start, "video_end": self.end}
        if unused := [key for key, value in asked.items() if value is not None]:
            warn(f"{' and '.join(unused)} ignored: all frames of a list are used ({name})")


# ------------------------------------------------------------------ sources


@contextmanager
def local_video(source: Any) -> Iterator[tuple[Any, str | None]]:
    """Convert any video source for :func:`video_source.open_video`; also give its name, or None.

    A path, a list of frames or an array [F, H, W, C] needs no name. Bytes (also those of a
    ``data:`` URI, base64 or a file object) are written to a temporary file for the duration of the
    ``with`` statement. Raises UserError.
    """
    source = unwrapped(source, "video")
    if isinstance(source, (list, tuple)):
        yield _one_range(list(source)), None
    elif (array := as_array(source)) is not None:
        yield (video_bytes(array) if array.ndim == 4 else array), None
    else:
        name, data = path_or_bytes(source, "video")
        if isinstance(data, str):
            try:
                yield data, None
            except UserError as error:
                raise UserError(shown(str(error), 600)) from None
            return
        if not data:
            raise UserError(f"{name} is empty")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = os.path.join(folder, "video")
            with open(path, "wb") as file:
                file.write(data)
            try:
                yield path, name
            except UserError as error:
                raise UserError(str(error).replace(path, name)) from None


def _one_range(frames: list[Any]) -> list[Any]:
    """Convert float frames with one common range, 0..1 or 0..255, for all of them."""
    arrays = [as_array(frame) for frame in frames]
    floats = [array for array in arrays if array is not None and array.dtype.kind == "f"]
    if not floats:
        return frames
    unit = all(in_unit_range(array) for array in floats)
    return [
        image_bytes(array, unit) if array is not None and array.dtype.kind == "f" else frame
        for frame, array in zip(frames, arrays, strict=True)
    ]
