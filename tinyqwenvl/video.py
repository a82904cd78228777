"""Turn a video into patches: sample frames, resize them, and keep the time between them.

A video file is sampled at a rate (``fps``). A list of frames is used as it is; then ``fps`` is the
rate at which the frames were sampled. Two sampled frames form one temporal patch. Its duration in
seconds gives the time positions of Qwen2.5-VL.

There are two **sampling policies**: that of training ("qwen-vl-utils", >= 0.0.11) and that of
transformers ("hf").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .config import Config
from .deprecated import old_names
from .dims import Array, Float, Int
from .errors import UserError
from .image import MAX_IMAGE_PIXELS, normalise, patchify, resize, size_to_read, smart_resize
from .media import ImageWarning, warn
from .video_request import Wanted, count, local_video, pixel_limits
from .video_source import VideoSource, open_video

FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768
ALL_PIXELS = 128_000 * 28 * 28 * 0.9  # of all frames; a pair counts once


# ------------------------------------------------------------------ sampling policies


def _count(total: int, rate: float, fps: float, least: int, most: int) -> int:
    """The number of frames that samples ``rate`` down to ``fps``: even, within the limits."""
    most = min(most, total) // 2 * 2
    wanted = min(max(total / rate * fps, -(-least // 2) * 2), most)
    return max(int(wanted // 2) * 2, 1)  # one frame is a valid video


def _asked(nframes: int, total: int) -> int:
    """The requested number of frames, rounded to even (ties to a multiple of 4)."""
    even = round(nframes / 2) * 2
    if not 2 <= even <= total:
        raise UserError(
            f"nframes is {nframes}, which is rounded to {even}; the video, or the requested part "
            f"of it, has {total} frames"
        )
    return even


def sample_qwen_vl_utils(
    total: int,
    rate: float,
    fps: float = FPS,
    least: int = MIN_FRAMES,
    most: int = MAX_FRAMES,
    nframes: int | None = None,
    first: int = 0,
) -> Int[Array, "F"]:
    """Indices evenly spaced from the first frame to the last. qwen_vl_utils: ``smart_nframes``.

    The ``total`` frames begin at index ``first``. ``nframes`` requests a number of frames instead
    of a rate. Rounding follows ``torch.linspace`` and ``round``: the step is float32 and counts
    from the nearer end, each index is rounded once to float32, and ties go to even.
    """
    number = _count(total, rate, fps, least, most) if nframes is None else _asked(nframes, total)
    if number == 1:
        return np.full(1, first, np.int64)
    last = first + total - 1
    step, i = np.float64(np.float32(total - 1) / np.float32(number - 1)), np.arange(number)
    spread = np.where(i < number // 2, first + step * i, last - step * (number - 1 - i))
    return np.astype(np.round(np.astype(spread, np.float32)), np.int64)


def sample_hf(
    total: int,
    rate: float,
    fps: float = FPS,
    least: int = MIN_FRAMES,
    most: int = MAX_FRAMES,
    nframes: int | None = None,
    first: int = 0,
) -> Int[Array, "F"]:
    """Indices at the starts of equal parts. HF: ``Qwen2VLVideoProcessor.sample_frames``.

    An odd ``least`` is rounded down; qwen_vl_utils rounds it up. (HF sometimes yields one extra
    index, past the last frame; we drop it.)
    """
    even = least // 2 * 2
    number = _count(total, rate, fps, even, most) if nframes is None else _asked(nframes, total)
    return first + np.astype(np.astype(np.arange(number) * (total / number), np.float32), np.int64)


def limits_qwen_vl_utils(
    frames: int,
    config: Config,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    total_pixels: int | None = None,
) -> tuple[int, float]:
    """(least, most) pixels per frame; many frames share a budget. qwen_vl_utils: ``fetch_video``.

    The bounds come from this policy or from the checkpoint's ``video_preprocessor_config.json``.
    ``total_pixels`` replaces the budget of all frames. Warns if ``max_pixels`` exceeds it.
    """
    least, most = config.video_limits
    least = min_pixels or min(least, max_pixels or least)
    even = -(-frames // 2) * 2
    share, lowest = (total_pixels or ALL_PIXELS) / even * 2, int(least * 1.05)
    shared = max(min(most, share), lowest)
    if total_pixels and share < lowest and not (max_pixels and max_pixels <= share):
        warn(
            f"total_pixels {total_pixels:,} of a video of {frames} frames: a frame has at least "
            f"{least:,.0f} pixels, so more are read"
        )
    if max_pixels and max_pixels > shared:
        warn(
            f"max_pixels {max_pixels:,} of a video of {frames} frames: at most {shared:,.0f} "
            "pixels per frame are read"
        )
    return least, min(max_pixels or shared, shared)


def limits_hf(
    frames: int,
    config: Config,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    total_pixels: int | None = None,
) -> tuple[int, float]:
    """(least, most) pixels per frame from the checkpoint's files, for any number of frames.

    HF: ``Qwen2VLVideoProcessor`` from ``from_pretrained``. For a published checkpoint it has the
    limits of images. (With ``cap_pixels_per_frame``, all frames share one bound.)
    """
    if total_pixels is not None:
        warn("total_pixels is not used by the sampling policy hf: it has no budget of all frames")
    if not config.video.hf_limits:
        return config.processor.limits(min_pixels, max_pixels)
    bounds: dict[str, Any] = dict(
        zip(("min_pixels", "max_pixels"), config.video.hf_limits, strict=True)
    )
    least, most = config.video.hf_limits  # smart_resize raises if least > most
    if min_pixels or max_pixels:
        least, most = replace(config.processor, **bounds).limits(min_pixels, max_pixels)
    if config.video.shared_tokens:
        vision = config.vision
        factor = vision.patch_size * vision.spatial_merge_size
        shared = int(config.video.shared_tokens * factor * factor * 0.9)
        most = max(min(most, shared * vision.temporal_patch_size // frames), int(least * 1.05))
    return least, most


class SamplingPolicy(NamedTuple):
    """How a video is sampled, and the pixel limits of its frames."""

    sample: Callable[..., Any]  # frames and rates -> indices [F], like sample_hf
    limits: Callable[..., tuple[int, float]]  # (least, most) pixels per frame, like limits_hf
    by_time: bool = True  # sample an uneven video by time, not by frame index


SAMPLING_POLICIES = {
    "qwen-vl-utils": SamplingPolicy(sample_qwen_vl_utils, limits_qwen_vl_utils),
    "hf": SamplingPolicy(sample_hf, limits_hf),
    "qwen-vl-utils-by-index": SamplingPolicy(sample_qwen_vl_utils, limits_qwen_vl_utils, False),
    "hf-by-index": SamplingPolicy(sample_hf, limits_hf, False),
}


# ------------------------------------------------------------------ the stage


class Video(NamedTuple):
    """A preprocessed video."""

    patches: Float[Array, "N P"]  # all frame pairs in order of time
    grid: tuple[int, int, int]  # (t, h, w) in patches
    seconds: float  # duration of one temporal patch


def read_video(
    source: Any,
    config: Config,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    fps: float | None = None,
    least: int | None = None,
    most: int | None = None,
    policy: str = "qwen-vl-utils",
    nframes: int | None = None,
    start: float | None = None,
    end: float | None = None,
    total_pixels: int | None = None,
    resized: tuple[int, int] | None = None,
    do_sample_frames: bool | None = None,
    sample_fps: float | None = None,
) -> Video:
    """Open a video, sample and resize its frames, and cut them into patches.

    For a video file, ``fps`` is the sampling rate. For a list of frames it is the rate at which
    they were sampled; all of them are used, up to ``most`` (``sample_fps`` is a synonym there, and
    wins). Defaults come from the checkpoint (published: fps 2, 4 to 768 frames). ``nframes``
    requests a number of frames, ``start`` and ``end`` (seconds) a part of the video, and
    ``do_sample_frames=False`` every frame. ``resized`` is the (height, width) of the frames, and
    ``total_pixels`` the budget of all frames. If the number of frames is odd, the last one is
    repeated. Only the sampled frames are kept in memory. Raises UserError.
    """
    wanted = Wanted.checked(fps, nframes, start, end, do_sample_frames)
    settings = config.video
    fps = settings.fps if fps is None else fps
    least = count("min_frames", settings.min_frames if least is None else least)
    most = count("max_frames", settings.max_frames if most is None else most)
    if not isinstance(policy, str) or policy not in SAMPLING_POLICIES:
        raise UserError(
            f"unknown sampling policy {policy!r}; use one of {', '.join(SAMPLING_POLICIES)}"
        )
    limits = pixel_limits({}, min_pixels, max_pixels)
    config.processor.limits(*limits)  # raises for invalid limits
    budget = None if total_pixels is None else count("total_pixels", total_pixels)

    def sampled(clip: VideoSource) -> tuple[list[np.ndarray], float]:
        at = wanted.rate_of(clip, fps, sample_fps)
        here = wanted if clip.rate is None else wanted.or_number(settings.num_frames)
        indices, between = choose_frames(clip, at, least, most, policy, here)
        found = SAMPLING_POLICIES[policy].limits(len(indices), config, *limits, budget)
        return _resized(clip, indices, FrameLimits(*found, *limits, resized), config), between

    with local_video(source) as (local, name):
        clip = open_video(local)
        clip = clip if name is None else replace(clip, name=name)
        _say_what_opening_tells(clip, SAMPLING_POLICIES[policy].by_time)
        try:
            frames, between = sampled(clip)
        except _Short as short:
            warn(f"{clip.name} declares {clip.total} frames, but contains {short.held}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ImageWarning)  # said already
                frames, between = sampled(clip.cut_to(short.held))
        for note in clip.decoding.messages():
            warn(f"{clip.name}: {note}")
    step = config.vision.temporal_patch_size
    pairs = [_patches(frames[i : i + step], config) for i in range(0, len(frames), step)]
    _, h, w = pairs[0][1]
    return Video(np.concatenate([rows for rows, _ in pairs]), (len(pairs), h, w), step * between)


def _say_what_opening_tells(clip: VideoSource, by_time: bool) -> None:
    if clip.uneven:
        chosen = "time" if by_time else "index"
        warn(f"{clip.name}: {clip.uneven}; frames are sampled by {chosen}")
    for note in clip.notes:
        warn(f"{clip.name}: {note}")


def choose_frames(
    clip: VideoSource,
    fps: float,
    least: int,
    most: int,
    policy: str = "qwen-vl-utils",
    wanted: Wanted = Wanted(),  # noqa: B008 (a constant)
) -> tuple[list[int], float]:
    """Choose the frames of a video; return their indices and the mean seconds between them.

    ``policy`` (:data:`SAMPLING_POLICIES`) samples ``fps`` frames per second, at least ``least`` and
    at most ``most``, unless ``wanted`` requests other frames. A list of frames has no rate of its
    own: it was sampled at ``fps``, and all of it is used, up to ``most``. Warns if there are more.
    """
    total: float = clip.total
    if clip.rate is not None:
        indices, total = _sampled(clip, clip.rate, fps, least, most, policy, wanted)
    else:
        wanted.note_unused(clip.name)
        indices = np.arange(clip.total)
        if clip.total > most and not wanted.all_frames:
            indices = sample_qwen_vl_utils(clip.total, 1.0, 1.0, 1, most)
            warn(f"{clip.name} has {clip.total} frames; {len(indices)} of them are used")
    return indices.tolist(), total / len(indices) / (clip.rate or fps)


def _sampled(
    clip: VideoSource,
    rate: float,
    fps: float,
    least: int,
    most: int,
    policy: str,
    wanted: Wanted,
) -> tuple[np.ndarray, float]:
    """Sampled indices, and the length of the wanted part in frames of mean duration."""
    rule, nframes = SAMPLING_POLICIES[policy], wanted.nframes
    first, total = wanted.part(clip.name, clip.total, rate)
    if wanted.all_frames:
        return _every_frame(clip, rate, first, total)
    indices = rule.sample(total, rate, fps, least, most, nframes, first)
    indices = clip.shown_instead(indices) if rule.by_time else indices
    if nframes is None and (here := int(min(total / rate * fps, total))) > most:
        warn(f"{clip.name} has {here} frames at {fps:g} per second; {len(indices)} are used")
    return indices, total


def _every_frame(
    clip: VideoSource, rate: float, first: int, total: int
) -> tuple[np.ndarray, float]:
    """All frames of a part of ``total`` mean durations; an uneven video is cut by time."""
    if not clip.times or total == clip.total:
        return first + np.arange(total), total
    begins, lasts = np.array(clip.times[:-1]), np.diff(clip.times)
    inside = (begins >= first / rate - 1e-9) & (begins < (first + total) / rate)
    indices = np.flatnonzero(inside)
    if len(indices) == 0:  # a single long frame covers the whole part
        indices = np.searchsorted(begins, [first / rate], side="right") - 1
    return indices, float(np.sum(lasts[indices])) * rate


class FrameLimits(NamedTuple):
    """The least and most pixels of a frame, and the limits and size that the user requested."""

    least: float  # fewest pixels of a resized frame
    most: float  # most pixels of a resized frame
    min_pixels: int | None = None  # as requested; None: no request
    max_pixels: int | None = None  # as requested; None: no request
    resized: tuple[int, int] | None = None  # height, width


def frame_size(frame: Image.Image, factor: int, limits: FrameLimits) -> tuple[int, int]:
    """(height, width) to resize a frame to; warns if a limit that the user requested is not met.

    The shared budget of all frames need not be met to the pixel, so it gives no warning.
    """
    least, most = limits.least, limits.most
    asked = (
        limits.min_pixels if limits.min_pixels == least else None,
        limits.max_pixels if limits.max_pixels == most else None,
    )
    if limits.resized is None and asked == (None, None):
        return smart_resize(frame.height, frame.width, factor, least, most)
    size = frame.height, frame.width
    return size_to_read(*size, factor, (least, most), limits.resized, "a frame", asked)


class _Short(Exception):
    """A video contains fewer frames than it declares."""

    def __init__(self, held: int):
        self.held = held


def _resized(
    clip: VideoSource, indices: list[int], limits: FrameLimits, config: Config
) -> list[np.ndarray]:
    """The frames at these sorted indices, resized: uint8 [H, W, 3] each.

    Frames are decoded one by one, no more than needed. The resized frames go into one preallocated
    array: small arrays allocated between large ones would keep the large ones' memory alive.
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
            size = frame_size(frame, factor, limits)
            if size[0] * size[1] > MAX_IMAGE_PIXELS:
                raise UserError(f"a frame would be {size[1]}x{size[0]} pixels; request fewer")
            room = np.empty((len(indices), *size, 3), np.uint8)
        if frame.size != first:
            both = (
                f"one frame is {frame.width}x{frame.height} pixels, the first {first[0]}x{first[1]}"
            )
            if clip.rate is None:
                raise UserError(f"{clip.name}: {both}; all frames of a video need the same size")
            clip.decoding.note(f"{both}; all are resized to the size of the first")
        again = used + indices[used:].count(index)  # a long frame is used several times
        room[used:again] = resize(frame, *size)
        used = again
        if used == len(indices):
            return list(room)
    if not held:
        raise UserError(f"{clip.name} has no frames; a video needs at least one")
    raise _Short(held)


def _patches(frames: Sequence[np.ndarray], config: Config) -> tuple[np.ndarray, tuple]:
    """The patches of one frame pair; a single last frame is repeated to fill its pair."""
    vision, processor = config.vision, config.processor
    x = normalise(np.stack(frames), processor.image_mean, processor.image_std)
    return patchify(x, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


old_names(globals())
