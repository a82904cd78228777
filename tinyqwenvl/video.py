"""Video -> patches: which frames are looked at, how large, and how much time passes between them.

A clip is sampled at a rate (``fps``), a list of frames is taken as it is (``fps`` is the rate at
which they were taken). What counts later is the time between the frames really used: two of them
make one temporal grid, and Qwen2.5-VL's positions in time follow from its seconds.

Two sampling policies, by name: that of training ("qwen-vl-utils", >= 0.0.11), and that of
transformers ("hf").
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .config import Config
from .deprecated import old_names
from .dims import Array, Float, Int
from .errors import UserError
from .image import MAX_IMAGE_PIXELS, normalise, patchify, resize, smart_resize
from .media import warn
from .video_source import VideoSource, open_video

FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768
ALL_PIXELS = 128_000 * 28 * 28 * 0.9  # of all frames, two counted as one


# ------------------------------------------------------------------ which frames, and how large


def _count(total: int, rate: float, fps: float, least: int, most: int) -> int:
    """How many of ``total`` frames, taken at ``rate``, make ``fps``: even, within the limits."""
    most = min(most, total) // 2 * 2
    wanted = min(max(total / rate * fps, -(-least // 2) * 2), most)
    return max(int(wanted // 2) * 2, 1)  # a single frame is a clip too


def sample_qwen_vl_utils(
    total: int, rate: float, fps: float = FPS, least: int = MIN_FRAMES, most: int = MAX_FRAMES
) -> Int[Array, "F"]:
    """Indices evenly spread from the first frame to the last. qwen_vl_utils: ``smart_nframes``.

    Rounded as ``torch.linspace`` and ``round`` do: the step in float32, counted from the nearer
    end, each index once to float32; ties to even.
    """
    count = _count(total, rate, fps, least, most)
    if count == 1:
        return np.zeros(1, np.int64)
    step, i = np.float64(np.float32(total - 1) / np.float32(count - 1)), np.arange(count)
    spread = np.where(i < count // 2, step * i, total - 1 - step * (count - 1 - i))
    return np.astype(np.round(np.astype(spread, np.float32)), np.int64)


def sample_hf(
    total: int, rate: float, fps: float = FPS, least: int = MIN_FRAMES, most: int = MAX_FRAMES
) -> Int[Array, "F"]:
    """Indices where equal parts begin. HF: ``Qwen2VLVideoProcessor.sample_frames``.

    An odd ``least`` is rounded down, where qwen_vl_utils rounds it up. (It now and then yields one
    index more, past the last frame; that one is left out.)
    """
    count = _count(total, rate, fps, least // 2 * 2, most)
    return np.astype(np.astype(np.arange(count) * (total / count), np.float32), np.int64)


def limits_qwen_vl_utils(
    frames: int, config: Config, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, float]:
    """(least, most) pixels of a frame: fewer when there are many. qwen_vl_utils: ``fetch_video``.

    The bounds are those of its policy, or of the checkpoint's ``video_preprocessor_config.json``.
    """
    least, most = config.video_limits
    least = min_pixels or min(least, max_pixels or least)
    shared = max(min(most, ALL_PIXELS / frames * 2), int(least * 1.05))
    return least, min(max_pixels or shared, shared)


def limits_hf(
    frames: int, config: Config, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, float]:
    """(least, most) pixels of a frame, however many there are, as the checkpoint's files say.

    HF: ``Qwen2VLVideoProcessor`` as ``from_pretrained`` makes it; of a published checkpoint that
    has the limits of images. (With ``cap_pixels_per_frame`` all frames share one bound.)
    """
    if not config.video.hf_limits:
        return config.processor.limits(min_pixels, max_pixels)
    bounds = dict(zip(("min_pixels", "max_pixels"), config.video.hf_limits, strict=True))
    least, most = config.video.hf_limits  # smart_resize refuses them where they cross
    if min_pixels or max_pixels:
        least, most = replace(config.processor, **bounds).limits(min_pixels, max_pixels)
    if config.video.shared_tokens:
        vision = config.vision
        factor = vision.patch_size * vision.spatial_merge_size
        shared = int(config.video.shared_tokens * factor * factor * 0.9)
        most = max(min(most, shared * vision.temporal_patch_size // frames), int(least * 1.05))
    return least, most


class SamplingPolicy(NamedTuple):
    """How a clip is sampled, and how large its frames may be."""

    sample: Callable[..., Any]
    limits: Callable[..., tuple[int, float]]
    by_time: bool = True  # of an uneven video, the frames shown at even instants


SAMPLING_POLICIES = {
    "qwen-vl-utils": SamplingPolicy(sample_qwen_vl_utils, limits_qwen_vl_utils),
    "hf": SamplingPolicy(sample_hf, limits_hf),
    "qwen-vl-utils-by-index": SamplingPolicy(sample_qwen_vl_utils, limits_qwen_vl_utils, False),
    "hf-by-index": SamplingPolicy(sample_hf, limits_hf, False),
}


# ------------------------------------------------------------------ the stage


class Video(NamedTuple):
    """A video as the model takes it."""

    patches: Float[Array, "N P"]
    grid: tuple[int, int, int]
    seconds: float  # that one temporal grid lasts


def read_video(
    source: Any,
    config: Config,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    fps: float | None = None,
    least: int | None = None,
    most: int | None = None,
    policy: str = "qwen-vl-utils",
) -> Video:
    """Open, sample, resize, and cut into patches; only the frames used are kept, resized.

    ``fps`` is the rate to sample a clip at, or the rate of a list's frames, of which all are used
    up to ``most``. What is not given is the checkpoint's (published: 2, 4 to 768 frames). An odd
    number of frames is made even by repeating the last.
    """
    settings = config.video
    fps = settings.fps if fps is None else fps
    least = settings.min_frames if least is None else least
    most = settings.max_frames if most is None else most
    if isinstance(fps, bool) or not isinstance(fps, numbers.Real) or not 1e-6 <= fps <= 1e6:
        raise UserError(f"fps is {fps!r}; it must be a number over 0")
    for name, count in (("min_frames", least), ("max_frames", most)):
        if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
            raise UserError(f"{name} is {count!r}; it must be a whole number, at least 1")
    if not isinstance(policy, str) or policy not in SAMPLING_POLICIES:
        raise UserError(
            f"no sampling policy is called {policy!r}; known are {', '.join(SAMPLING_POLICIES)}"
        )
    config.processor.limits(min_pixels, max_pixels)  # refuses what is no limit
    clip = open_video(source)

    def look(clip: VideoSource) -> tuple[list[np.ndarray], float]:
        indices, between = choose_frames(clip, float(fps), int(least), int(most), policy)
        limits = SAMPLING_POLICIES[policy].limits(len(indices), config, min_pixels, max_pixels)
        return _resized(clip, indices, limits, config), between

    if clip.uneven:
        chosen = "time" if SAMPLING_POLICIES[policy].by_time else "index all the same"
        warn(f"{clip.name}: {clip.uneven}; they are chosen by {chosen}")
    for note in clip.notes:
        warn(f"{clip.name}: {note}")
    try:
        frames, between = look(clip)
    except _Short as short:
        warn(f"{clip.name} says that it has {clip.total} frames, but holds {short.held}")
        frames, between = look(clip.cut_to(short.held))
    for note in clip.decoding.messages():
        warn(f"{clip.name}: {note}")
    step = config.vision.temporal_patch_size
    pairs = [_patches(frames[i : i + step], config) for i in range(0, len(frames), step)]
    _, h, w = pairs[0][1]
    return Video(np.concatenate([rows for rows, _ in pairs]), (len(pairs), h, w), step * between)


def choose_frames(
    clip: VideoSource, fps: float, least: int, most: int, policy: str = "qwen-vl-utils"
) -> tuple[list[int], float]:
    """Which frames of a clip are looked at, and the mean seconds from one of them to the next.

    ``fps`` frames a second, at least ``least`` and at most ``most``, by the rule of ``policy``
    (:data:`SAMPLING_POLICIES`). Frames without a rate were taken at ``fps``: all of them are looked
    at, up to ``most``. Warns when there are more.
    """
    if clip.rate is not None:
        rule = SAMPLING_POLICIES[policy]
        indices = rule.sample(clip.total, clip.rate, fps, least, most)
        indices = clip.shown_instead(indices) if rule.by_time else indices
        if (wanted := int(min(clip.total / clip.rate * fps, clip.total))) > most:
            warn(f"{clip.name} has {wanted} frames at {fps:g} a second; {len(indices)} are used")
    else:
        indices = np.arange(clip.total)
        if clip.total > most:
            indices = sample_qwen_vl_utils(clip.total, 1.0, 1.0, 1, most)
            warn(f"{clip.name} holds {clip.total} frames; {len(indices)} of them are used")
    return indices.tolist(), clip.total / len(indices) / (clip.rate or fps)


class _Short(Exception):
    """A clip that holds fewer frames than it says."""

    def __init__(self, held: int):
        self.held = held


def _resized(
    clip: VideoSource, indices: list[int], limits: tuple[int, float], config: Config
) -> list[np.ndarray]:
    """The frames of these indices (in order) at the size at which they are read, uint8 [H, W, 3].

    Frames are decoded one after another, no more than needed, and only these are kept, in room
    taken beforehand (small arrays kept between large ones would hold on to the large ones' memory).
    """
    factor = config.vision.patch_size * config.vision.spatial_merge_size
    room = np.empty(0, np.uint8)
    first, size, held, used = (0, 0), (0, 0), 0, 0
    for index, frame in enumerate(clip.frames()):
        held = index + 1
        if index != indices[used]:
            continue
        if not used:
            first = frame.size
            size = smart_resize(frame.height, frame.width, factor, *limits)
            if size[0] * size[1] > MAX_IMAGE_PIXELS:
                raise UserError(f"a frame would be {size[1]}x{size[0]} pixels; ask for fewer")
            room = np.empty((len(indices), *size, 3), np.uint8)
        if frame.size != first:
            both = (
                f"one frame is {frame.width}x{frame.height} pixels, the first {first[0]}x{first[1]}"
            )
            if clip.rate is None:
                raise UserError(f"{clip.name}: {both}; all frames of a video have one size")
            clip.decoding.note(f"{both}; all are read at the size of the first")
        again = used + indices[used:].count(index)  # a frame that is shown for long
        room[used:again] = resize(frame, *size)
        used = again
        if used == len(indices):
            return list(room)
    if not held:
        raise UserError(f"{clip.name} holds no frames; a video needs one at least")
    raise _Short(held)


def _patches(frames: Sequence[np.ndarray], config: Config) -> tuple[np.ndarray, tuple]:
    """One temporal grid: a pair of frames, or the last frame alone, which is then seen twice."""
    vision, processor = config.vision, config.processor
    x = normalise(np.stack(frames), processor.image_mean, processor.image_std)
    return patchify(x, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


old_names(globals())
