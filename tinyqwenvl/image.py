"""Turn images into patches: smart_resize, bicubic resize, rescale and normalise, patchify.

HF: ``Qwen2VLImageProcessorPil``; every value is bit-equal to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .config import CLIP_MEAN, CLIP_STD, ProcessorConfig, VisionConfig
from .deprecated import old_names
from .dims import Array, Float, Int, UInt8
from .errors import UserError
from .media_source import warn
from .tracing import record

Asked = tuple[int | None, int | None]  # min_pixels and max_pixels; None: not requested
MAX_IMAGE_PIXELS = 100_000_000  # pixels; the published limit is 12,845,056


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: float = 56 * 56,
    max_pixels: float = 12845056,
) -> tuple[int, int]:
    """Choose the (height, width) in pixels to resize an image to: multiples of ``factor``.

    Each side is rounded to the nearest multiple (ties to even). If the area is then outside
    ``min_pixels`` .. ``max_pixels``, one factor scales both original sides, which are rounded
    inwards. Raises UserError for an aspect ratio over 200. HF: ``smart_resize`` of
    transformers >= 4.53; ``compat.py`` has the versions of other implementations.
    """
    if min(height, width) < 1:
        raise UserError(f"an image of {width}x{height} pixels is empty")
    if max(height, width) / min(height, width) > 200:
        raise UserError(
            f"an image of {width}x{height} pixels is over 200 times as long as wide; crop it"
        )
    if not 0 < min_pixels <= max_pixels:
        raise UserError(f"min_pixels {min_pixels} and max_pixels {max_pixels} allow no size")
    h = round(height / factor) * factor
    w = round(width / factor) * factor
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / scale / factor) * factor)
        w = max(factor, math.floor(width / scale / factor) * factor)
    elif h * w < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * scale / factor) * factor
        w = math.ceil(width * scale / factor) * factor
    return h, w


def size_to_read(
    height: int,
    width: int,
    factor: int,
    limits: tuple[float, float],
    resized: tuple[int, int] | None = None,
    what: str = "an image",
    asked: Asked = (None, None),
) -> tuple[int, int]:
    """:func:`smart_resize` with ``limits`` = (least, most) pixels; warns if no size meets them.

    ``asked`` are the requested min_pixels and max_pixels; if one was requested, only that one gives
    a warning. ``resized`` requests a (height, width) instead. It is rounded to multiples of
    ``factor`` within the published limits, whatever the size of the image.
    qwen_vl_utils: ``fetch_image``.
    """
    if resized is not None:
        return smart_resize(*resized, factor, 4 * factor**2, 16384 * factor**2)
    h, w = smart_resize(height, width, factor, *limits)
    least, most = limits
    over = h * w > most
    own = asked[over] is None
    if not least <= h * w <= most and (asked == (None, None) or not own):
        bound = f"max_pixels {most:,.0f}" if over else f"min_pixels {least:,.0f}"
        whose = "the checkpoint's " if own else ""
        warn(
            f"{what} of {width}x{height} pixels is resized to {w}x{h}, which is {h * w:,} pixels, "
            f"{'over' if over else 'under'} {whose}{bound}: sides are multiples of {factor} and "
            "keep the aspect ratio"
        )
    return h, w


def resize(image: Image.Image, height: int, width: int) -> UInt8[Array, "H W 3"]:
    """Pillow's bicubic resize (a = -0.5, wider support when shrinking), rounded to bytes."""
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def normalise(
    frames: UInt8[Array, "F H W C"],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Float[Array, "F H W C"]:
    """Bytes -> (x / 255 - mean) / std per channel; x / 255 is rounded from float64 to float32."""
    x = np.astype(frames * np.float64(1 / 255), np.float32)
    return (x - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def patchify(
    frames: Float[Array, "F H W C"], patch: int = 14, merge: int = 2, temporal: int = 2
) -> tuple[Float[Array, "N P"], tuple[int, int, int]]:
    """Cut frames into patches: one reshape to nine dimensions, one transpose, one reshape.

    A patch is ``temporal`` frames deep. The last frame is repeated until the number of frames is a
    multiple of ``temporal``, so a still image fills both frames of its pair. Patches are sorted by
    time, then 2x2 merge group (row, column), then position in the group (**merge order**). The
    values in a patch are sorted by channel, frame, y, x, like the 3-D kernel.
    Returns the patches and their grid (t, h, w).
    """
    frames = np.concatenate([frames, *[frames[-1:]] * (-len(frames) % temporal)])
    f, height, width, channels = frames.shape
    t, h, w = f // temporal, height // patch, width // patch
    nine = np.reshape(
        np.transpose(frames, (0, 3, 1, 2)),
        (t, temporal, channels, h // merge, merge, patch, w // merge, merge, patch),
    )
    #                  t, group row, group column, row in group, column in group, C, frame, y, x
    in_order = record("image.nine_dimensions", np.transpose(nine, (0, 3, 6, 4, 7, 2, 1, 5, 8)))
    return np.reshape(in_order, (t * h * w, channels * temporal * patch * patch)), (t, h, w)


def unpatchify(
    patches: Float[Array, "N P"],
    grid: tuple[int, int, int],
    patch: int = 14,
    merge: int = 2,
    temporal: int = 2,
) -> Float[Array, "F H W C"]:
    """Turn patches back into (still normalised) frames: the inverse of :func:`patchify`."""
    t, h, w = grid
    shape = (t, h // merge, w // merge, merge, merge, -1, temporal, patch, patch)
    nine = np.transpose(np.reshape(patches, shape), (0, 6, 5, 1, 3, 7, 2, 4, 8))
    frames = np.reshape(nine, (t * temporal, -1, h * patch, w * patch))
    return np.transpose(frames, (0, 2, 3, 1))


def preprocess(
    images: Sequence[tuple[Image.Image, int, int]],
    processor: ProcessorConfig,
    vision: VisionConfig,
    resized: Sequence[tuple[int, int] | None] | None = None,
    asked: Sequence[Asked] | None = None,
) -> tuple[Float[Array, "N P"], Int[Array, "I 3"]]:
    """Turn RGB images, each with its (least, most) pixels, into all their patches and grids.

    ``resized`` may hold one requested (height, width) or None per image, and ``asked`` the
    requested limits: :func:`size_to_read`.
    """
    patch, merge = vision.patch_size, vision.spatial_merge_size
    patches, grids = [], []
    sizes = [None] * len(images) if resized is None else resized
    wishes = [(None, None)] * len(images) if asked is None else asked
    for (image, *limits), size, wish in zip(images, sizes, wishes, strict=True):
        within = limits[0], limits[1]
        height, width = size_to_read(
            image.height, image.width, patch * merge, within, size, asked=wish
        )
        if height * width > MAX_IMAGE_PIXELS:
            raise UserError(f"an image would be {width}x{height} pixels; request fewer pixels")
        record("image.rgb", np.asarray(image))
        small = record("image.resize", resize(image, height, width)[None])
        frames = normalise(small, processor.image_mean, processor.image_std)
        frames = record("image.normalise", frames)
        rows, grid = patchify(frames, patch, merge, vision.temporal_patch_size)
        patches.append(rows)
        grids.append(grid)
    return np.concatenate(patches), np.array(grids)


old_names(globals())
