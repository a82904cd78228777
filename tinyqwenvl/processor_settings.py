"""The settings of images and videos: which file holds them, and what they mean.

Read as transformers 5 reads them. ``processor_config.json`` goes first where it has an
``image_processor`` (``video_processor``) of its own; else ``preprocessor_config.json``
(``video_preprocessor_config.json``, and the images' file where there is none). What a file leaves
out has the default of transformers' class, which for the largest size is not the published one.
What we do not have is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MOST_PIXELS = 10**15  # that anybody may ask for
CLASS_LIMITS = (56 * 56, 28 * 28 * 1280)  # pixels of an image, of transformers' class
VIDEO_LIMITS = (128 * 28 * 28, 768 * 28 * 28)  # of a frame, of its class and of qwen_vl_utils
PATCHES = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}  # of both classes
TYPES = {
    "image": ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
    "video": ("Qwen2VLVideoProcessor",),
}
NESTED = "processor_config.json"
IMAGE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"


@dataclass(frozen=True)
class ProcessorConfig:
    """How large an image may be, and how its colours are normalised."""

    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28  # as published; transformers' class default is 1280 * 28 * 28
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    def limits(self, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        """(least, most) pixels: what is asked for, else the checkpoint's, which gives way."""
        for asked in (min_pixels, max_pixels):
            if asked is not None and (type(asked) is not int or asked < 1):
                raise UserError(f"a limit of {asked!r} pixels: it must be an integer, at least 1")
            if asked is not None and asked > MOST_PIXELS:
                raise UserError(f"a limit of over {MOST_PIXELS:,} pixels; ask for fewer pixels")
        least = min_pixels or min(self.min_pixels, max_pixels or self.min_pixels)
        return least, max_pixels or max(self.max_pixels, least)


@dataclass(frozen=True)
class VideoSettings:
    """What the checkpoint says of videos, besides the limits of a frame (``video_limits``)."""

    hf_limits: tuple[int, ...] = ()  # pixels of a frame as transformers reads them; (): images'
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    shared_tokens: int = 0  # of all frames together, in policy hf; 0: no bound
    num_frames: int | None = None  # so many instead of a rate


# ------------------------------------------------------------------ which file


def image_settings(files: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """The settings of images. ``files``: name -> content, None where there is no such file.

    Raises UserError when there are none, as transformers does.
    """
    settings = _nested(files, "image_processor")
    settings = files.get(IMAGE_FILE) if settings is None else settings
    if settings is None:
        raise UserError(
            f"no {IMAGE_FILE}, and no image_processor in {NESTED}: how large an image may be is "
            "not known; copy the file from the model that this one was made of"
        )
    return settings


def video_settings(files: dict[str, dict[str, Any] | None]) -> tuple[dict[str, Any], bool]:
    """The settings of videos, and whether they are videos' own (else they are the images')."""
    own = _nested(files, "video_processor")
    own = files.get(VIDEO_FILE) if own is None else own
    if own is not None:
        return own, True
    if (shared := files.get(IMAGE_FILE)) is None:
        raise UserError(
            f"{NESTED} has no video_processor, and there is no {VIDEO_FILE}: copy it from the "
            "model that this one was made of"
        )
    return shared, False


def _nested(files: dict[str, dict[str, Any] | None], name: str) -> dict[str, Any] | None:
    value = (files.get(NESTED) or {}).get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} of {NESTED} is {value!r}, not a JSON object")
    return value


# ------------------------------------------------------------------ what it means


def read_image_settings(settings: dict[str, Any], vision_sizes: dict[str, int]) -> ProcessorConfig:
    """Settings of images, checked; ``vision_sizes`` are those of the vision encoder."""
    _check_kind(settings, "image", vision_sizes)
    least, most = _limits(settings, "image", CLASS_LIMITS)
    mean, std = (_colours(settings, name) for name in ("image_mean", "image_std"))
    return ProcessorConfig(least, most, mean, std)


def read_video_settings(
    settings: dict[str, Any], own: bool, images: ProcessorConfig, vision_sizes: dict[str, int]
) -> tuple[VideoSettings, tuple[int, int]]:
    """Settings of videos, checked, and (least, most) pixels of a frame for qwen_vl_utils' policy.

    Where videos have no settings of their own, that policy has limits of its own.
    """
    _check_kind(settings, "video", vision_sizes)
    limits = _limits(settings, "video", VIDEO_LIMITS)
    for name in ("image_mean", "image_std"):
        if _colours(settings, name) != getattr(images, name):
            raise UserError(f"videos have another {name} than images; only one is supported")
    frames = settings.get("num_frames")
    if frames is not None and (type(frames) is not int or frames < 1):
        raise UserError(f"num_frames is {frames!r}, not an integer of at least 1")
    names = ("fps", "num_frames", "min_frames", "max_frames")
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    if settings.get("cap_pixels_per_frame"):
        given["shared_tokens"] = settings.get("max_video_tokens", 128_000)
    return VideoSettings(limits, **given), limits if own else VIDEO_LIMITS


def only(what: str, value: Any, *known: Any) -> None:
    """Refuse a setting that we would have to ignore."""
    if not any(type(value) is type(one) and value == one for one in known):
        raise UserError(f"{what} is {value!r}; only {' or '.join(map(json.dumps, known))} is read")


def _check_kind(settings: dict[str, Any], medium: str, vision_sizes: dict[str, int]) -> None:
    """Refuse another processor, another step, another patch than the vision encoder's."""
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
                f"{vision_sizes[name]}: they must be the same"
            )


def _limits(settings: dict[str, Any], medium: str, default: tuple[int, int]) -> tuple[int, int]:
    """(least, most) pixels. min_pixels and max_pixels go before the edges of ``size``."""
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
            "longest_edge, and no more (min_pixels and max_pixels stand beside size, not in it)"
        )
    return edges["shortest_edge"], edges["longest_edge"]


def _colours(settings: dict[str, Any], name: str) -> tuple[float, ...]:
    """A mean or deviation of three colours; one number counts for all three."""
    value = settings.get(name, CLIP_MEAN if name == "image_mean" else CLIP_STD)
    if type(value) in (int, float):
        return (value,) * 3
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise UserError(f"{name} is {value!r}, not three numbers")
    return tuple(value)
