"""Load the preprocessing settings of images and videos from a checkpoint's files.

The rules are those of transformers 5. ``processor_config.json`` comes first if it has an
``image_processor`` (``video_processor``); else ``preprocessor_config.json``
(``video_preprocessor_config.json``, or the images' file without it). A missing setting gets the
default of transformers' class; for the largest size, this is not the published value. An
unsupported setting raises an error that names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MOST_PIXELS = 10**15  # upper limit of any request
CLASS_LIMITS = (56 * 56, 28 * 28 * 1280)  # pixels per image, from transformers' class
VIDEO_LIMITS = (128 * 28 * 28, 768 * 28 * 28)  # per frame, from its class and qwen_vl_utils
PATCHES = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}  # from both classes
TYPES = {
    "image": ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
    "video": ("Qwen2VLVideoProcessor",),
}
NESTED = "processor_config.json"
IMAGE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"


@dataclass(frozen=True)
class ProcessorConfig:
    """The pixel limits of images, and the mean and standard deviation of their channels."""

    min_pixels: int = 56 * 56  # fewest pixels of a resized image
    max_pixels: int = 16384 * 28 * 28  # as published; transformers' class default is 1280 * 28 * 28
    image_mean: tuple[float, ...] = CLIP_MEAN  # per channel (R, G, B), of values in 0..1
    image_std: tuple[float, ...] = CLIP_STD  # per channel, of the same values

    def limits(self, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        """(least, most) pixels: the arguments override the checkpoint's limits."""
        for asked in (min_pixels, max_pixels):
            if asked is not None and (type(asked) is not int or asked < 1):
                raise UserError(f"a limit of {asked!r} pixels: it must be an integer, at least 1")
            if asked is not None and asked > MOST_PIXELS:
                raise UserError(f"a limit of over {MOST_PIXELS:,} pixels; request fewer pixels")
        least = min_pixels or min(self.min_pixels, max_pixels or self.min_pixels)
        return least, max_pixels or max(self.max_pixels, least)


@dataclass(frozen=True)
class VideoSettings:
    """The checkpoint's video settings, besides the pixel limits of a frame (``video_limits``)."""

    hf_limits: tuple[int, ...] = ()  # pixels per frame in transformers; (): those of images
    fps: float = 2.0  # sampling rate, frames per second
    min_frames: int = 4  # fewest sampled frames, if the video has as many
    max_frames: int = 768  # most sampled frames
    shared_tokens: int = 0  # budget of all frames in policy hf; 0: no bound
    num_frames: int | None = None  # a number of frames instead of a rate


# ------------------------------------------------------------------ choose the file


def image_settings(files: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """The settings of images. ``files``: name -> content, or None for a missing file.

    Raises UserError if there are none, as transformers does.
    """
    settings = _nested(files, "image_processor")
    settings = files.get(IMAGE_FILE) if settings is None else settings
    if settings is None:
        raise UserError(
            f"no {IMAGE_FILE}, and no image_processor in {NESTED}: the pixel limits are unknown; "
            "copy the file from the base model"
        )
    return settings


def video_settings(files: dict[str, dict[str, Any] | None]) -> tuple[dict[str, Any], bool]:
    """The settings of videos, and whether they have their own file (else they are the images')."""
    own = _nested(files, "video_processor")
    own = files.get(VIDEO_FILE) if own is None else own
    if own is not None:
        return own, True
    if (shared := files.get(IMAGE_FILE)) is None:
        raise UserError(
            f"{NESTED} has no video_processor, and there is no {VIDEO_FILE}: copy it from the base "
            "model"
        )
    return shared, False


def _nested(files: dict[str, dict[str, Any] | None], name: str) -> dict[str, Any] | None:
    value = (files.get(NESTED) or {}).get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} of {NESTED} is {value!r}, not a JSON object")
    return value


# ------------------------------------------------------------------ read the settings


def read_image_settings(settings: dict[str, Any], vision_sizes: dict[str, int]) -> ProcessorConfig:
    """Check and convert image settings; ``vision_sizes`` are the vision encoder's sizes."""
    _check_kind(settings, "image", vision_sizes)
    least, most = _limits(settings, "image", CLASS_LIMITS)
    mean, std = (_colours(settings, name) for name in ("image_mean", "image_std"))
    return ProcessorConfig(least, most, mean, std)


def read_video_settings(
    settings: dict[str, Any], own: bool, images: ProcessorConfig, vision_sizes: dict[str, int]
) -> tuple[VideoSettings, tuple[int, int]]:
    """Check video settings; also (least, most) pixels per frame for the policy of qwen_vl_utils.

    Without own settings of videos, that policy uses its own limits.
    """
    _check_kind(settings, "video", vision_sizes)
    limits = _limits(settings, "video", VIDEO_LIMITS)
    for name in ("image_mean", "image_std"):
        if _colours(settings, name) != getattr(images, name):
            raise UserError(f"videos and images have different {name}; that is not supported")
    frames = settings.get("num_frames")
    if frames is not None and (type(frames) is not int or frames < 1):
        raise UserError(f"num_frames is {frames!r}, not an integer of at least 1")
    names = ("fps", "num_frames", "min_frames", "max_frames")
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    if settings.get("cap_pixels_per_frame"):
        given["shared_tokens"] = settings.get("max_video_tokens", 128_000)
    return VideoSettings(limits, **given), limits if own else VIDEO_LIMITS


def only(what: str, value: Any, *known: Any) -> None:
    """Raise UserError for a setting that we would have to ignore."""
    if not any(type(value) is type(one) and value == one for one in known):
        raise UserError(f"{what} is {value!r}; only {' or '.join(map(json.dumps, known))} is read")


def _check_kind(settings: dict[str, Any], medium: str, vision_sizes: dict[str, int]) -> None:
    """Raise UserError for another processor, other steps or other patch sizes."""
    kind = settings.get(f"{medium}_processor_type")
    if kind is not None and kind not in TYPES[medium]:
        raise UserError(
            f"{medium}_processor_type is {kind!r}; only {TYPES[medium][0]} is read, the one of "
            "Qwen2-VL and Qwen2.5-VL"
        )
    here = f"of the {medium} settings"
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        only(f"{step} {here}", settings.get(step, True), True)  # null is false in transformers
    only(f"resample {here}", settings.get("resample", 3), 3)  # bicubic
    only(f"rescale_factor {here}", settings.get("rescale_factor", 1 / 255), 1 / 255)
    for name, default in PATCHES.items():
        if (size := settings.get(name, default)) != vision_sizes[name]:
            raise UserError(
                f"{name} {here} is {size!r}, but the vision encoder's is "
                f"{vision_sizes[name]}: they must be equal"
            )


def _limits(settings: dict[str, Any], medium: str, default: tuple[int, int]) -> tuple[int, int]:
    """(least, most) pixels. min_pixels and max_pixels override the edges of ``size``."""
    size = settings.get("size")
    if size is not None and not isinstance(size, dict):
        raise UserError(f"size of the {medium} settings is {size!r}, not a JSON object")
    edges = dict(zip(("shortest_edge", "longest_edge"), default, strict=True))
    edges = edges if size is None else dict(size)
    for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        if (pixels := settings.get(name)) is not None:
            edges[edge] = pixels
            edges.pop(name, None)
    if set(edges) != {"shortest_edge", "longest_edge"}:
        raise UserError(
            f"size of the {medium} settings is {json.dumps(size)}; it needs shortest_edge and "
            "longest_edge only (min_pixels and max_pixels belong next to size, not in it)"
        )
    return edges["shortest_edge"], edges["longest_edge"]


def _colours(settings: dict[str, Any], name: str) -> tuple[float, ...]:
    """A mean or standard deviation of three channels; one number applies to all three."""
    value = settings.get(name, CLIP_MEAN if name == "image_mean" else CLIP_STD)
    if type(value) in (int, float):
        return (value,) * 3
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise UserError(f"{name} is {value!r}, not three numbers")
    return tuple(value)
