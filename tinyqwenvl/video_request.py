"""What a message's item asks of its image or video: sizes, frames, a part of its time.

The keys are those that the models' own README uses with qwen_vl_utils, and transformers' names for
the same. A key that is there and None is absent, as a table of many rows leaves it.
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

MOST = 10**15  # of anything that is counted
VIDEO_SOURCES = ("video", "video_url", "path", "url")
VIDEO_KEYS = {  # of an item -> an argument of read_video
    "fps": "fps",
    "sample_fps": "sample_fps",
    "min_frames": "least",
    "max_frames": "most",
    "nframes": "nframes",
    "num_frames": "nframes",  # transformers' name of it
    "video_start": "start",
    "video_end": "end",
    "total_pixels": "total_pixels",
    "do_sample_frames": "do_sample_frames",
    "recipe": "policy",  # the key of version 0.1; today's wins where both are given
    "sampling_policy": "policy",
}


def media_of(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The image or video of a content item: the first of these keys that holds something."""
    return next((item[name] for name in names if item.get(name) is not None), None)


def pixel_limits(
    item: Mapping[str, Any], min_pixels: Any = None, max_pixels: Any = None
) -> tuple[int | None, int | None]:
    """(min_pixels, max_pixels) of an item, else the arguments."""
    asked = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    least, most = (
        limit if limit is None else pixels(limit)
        for limit in (item.get(key) if item.get(key) is not None else asked[key] for key in asked)
    )
    return least, most


def pixels(value: Any) -> Any:
    """A limit on pixels as an int where it is an integer of any type; else as it is."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        return int(number) if number.is_integer() else value


def resized_size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) in pixels that an item asks for, before rounding to multiples; or None."""
    keys = ("resized_height", "resized_width")
    asked = {key: item[key] for key in keys if item.get(key) is not None}
    if len(asked) == 1:
        here, value = next(iter(asked.items()))
        other = next(key for key in keys if key != here)
        warn(f"{here} {value} without {other} is not used, as in qwen_vl_utils; give both")
    if len(asked) < 2:
        return None
    height, width = (count(key, value) for key, value in asked.items())
    return height, width


def video_options(item: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :func:`video.read_video` that a video's item gives. Raises UserError."""
    given = {key: item[key] for key in VIDEO_KEYS if item.get(key) is not None}
    if "nframes" in given and "num_frames" in given:
        raise UserError("nframes and num_frames are two names for one thing; give one of them")
    if item.get("raw_fps") is not None:  # that of the file a list was taken from: of no effect
        rate("raw_fps", item["raw_fps"])
    resized = resized_size(item)
    return {VIDEO_KEYS[key]: value for key, value in given.items()} | (
        {} if resized is None else {"resized": resized}
    )


# ------------------------------------------------------------------ kinds of values


def count(name: str, value: Any) -> int:
    """An integer of at least 1. Raises UserError."""
    whole = pixels(value)
    if type(whole) is not int or whole < 1:
        raise UserError(f"{name} is {_said(value)}; it must be an integer, at least 1")
    if whole > MOST:
        raise UserError(f"{name} is over {MOST:,}; give a smaller number")
    return whole


def _said(value: Any) -> str:
    """A value in a message, cut."""
    try:
        return shown(repr(value), 60)
    except ValueError:  # an integer of thousands of digits
        return "a number of many digits"


def rate(name: str, value: Any) -> float:
    """Frames per second. Raises UserError."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if good else math.nan
    except OverflowError:
        number = math.inf
    if not 1e-6 <= number <= 1e6:
        raise UserError(f"{name} is {_said(value)}; it must be a number over 0")
    return number


def seconds(name: str, value: Any) -> float | None:
    """A time in a video. Raises UserError."""
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


# ------------------------------------------------------------------ frames and time


@dataclass(frozen=True)
class Wanted:
    """Which frames of a video are wanted, beside a rate: a number of them, a part, or all."""

    nframes: int | None = None
    start: float | None = None  # seconds
    end: float | None = None
    all_frames: bool = False
    fps_given: bool = False

    @classmethod
    def checked(cls, fps: Any, nframes: Any, start: Any, end: Any, sampled: Any) -> Wanted:
        """Of what an item says; ``sampled`` is its "do_sample_frames". Raises UserError."""
        if fps is not None and nframes is not None:
            raise UserError("fps and nframes are given; give one of them")
        if not isinstance(sampled, (bool, np.bool_, type(None))):
            raise UserError(f"do_sample_frames is {_said(sampled)}; it must be true or false")
        every = sampled is not None and not sampled
        if every and nframes is not None:
            raise UserError("nframes is given, and do_sample_frames is false; give one of them")
        number = None if nframes is None else count("nframes", nframes)
        times = seconds("video_start", start), seconds("video_end", end)
        return cls(number, *times, all_frames=every, fps_given=fps is not None)

    def or_number(self, nframes: int | None) -> Wanted:
        """With the checkpoint's number of frames, where neither that nor a rate is asked for."""
        asked = self.nframes is not None or self.fps_given or self.all_frames
        return self if asked or nframes is None else replace(self, nframes=nframes)

    def rate_of(self, clip: Any, fps: Any, sample_fps: Any) -> float:
        """Frames per second at which to sample a clip, or at which a list was taken."""
        found = rate("fps", fps)
        listed = None if sample_fps is None else rate("sample_fps", sample_fps)
        if clip.rate is None:
            if listed is not None and self.fps_given and listed != found:
                warn(f"sample_fps {listed:g} is the rate of the frames; fps {found:g} is not used")
            return found if listed is None else listed
        if listed is not None:
            warn(f"sample_fps is the rate of a list of frames; {clip.name} has its own")
        if self.all_frames and self.fps_given:
            warn("fps is not used, because do_sample_frames is false: all frames are")
        return found

    def part(self, name: str, total: int, rate: float) -> tuple[int, int]:
        """(first frame, number of frames) from start to end. Raises UserError for an empty part.

        qwen_vl_utils: ``calculate_video_frame_range``. Times outside the video are its ends.
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
                f"{lasts if self.end is None else self.end:g} there are no two frames; it lasts "
                f"{lasts:.2f} s"
            )
        return first, last - first + 1

    def note_unused(self, name: str) -> None:
        """Say what is not used of a list of frames, all of which are read."""
        asked = {"nframes": self.nframes, "video_start": self.start, "video_end": self.end}
        if unused := [key for key, value in asked.items() if value is not None]:
            warn(f"{' and '.join(unused)} of a list is not used: all of its frames are ({name})")


# ------------------------------------------------------------------ what holds a video


@contextmanager
def local_video(source: Any) -> Iterator[tuple[Any, str | None]]:
    """What :func:`video_source.open_video` takes, of all that may hold a video, and its name.

    That is a path, a list of frames or an array [F, H, W, C], which need no name. Bytes (also of a
    ``data:`` URI, base64 or a file object) lie in a temporary file until the block ends. Raises
    UserError.
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
    """Frames, of which arrays of floats are read as 0..1 or as 0..255 all alike."""
    arrays = [as_array(frame) for frame in frames]
    floats = [array for array in arrays if array is not None and array.dtype.kind == "f"]
    if not floats:
        return frames
    unit = all(in_unit_range(array) for array in floats)
    return [
        image_bytes(array, unit) if array is not None and array.dtype.kind == "f" else frame
        for frame, array in zip(frames, arrays, strict=True)
    ]
