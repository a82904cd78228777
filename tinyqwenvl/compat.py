"""The behaviour of other implementations, by name, where it differs from ours.

Each function replaces one function of a stage. ``docs/differences.md`` lists the versions and our
reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from PIL import Image

from .config import Config
from .deprecated import old_names
from .dims import Array, Int
from .errors import UserError
from .position import rope_index
from .weights import Weights


def smart_resize_qwen_vl_utils(
    height: int, width: int, factor: int = 28, min_pixels: int = 3136, max_pixels: int = 12845056
) -> tuple[int, int]:
    """qwen_vl_utils 0.0.8 to 0.0.14: no side is rounded to 0, but one may shrink to 0."""
    if max(height, width) / min(height, width) > 200:
        raise UserError(f"an image of {width}x{height} pixels is over 200 times as long as wide")
    h = max(factor, round(height / factor) * factor)
    w = max(factor, round(width / factor) * factor)
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h = math.floor(height / scale / factor) * factor
        w = math.floor(width / scale / factor) * factor
    elif h * w < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * scale / factor) * factor
        w = math.ceil(width * scale / factor) * factor
    return h, w


def smart_resize_hf_4_49(
    height: int, width: int, factor: int = 28, min_pixels: int = 3136, max_pixels: int = 12845056
) -> tuple[int, int]:
    """Transformers 4.46 to 4.52: sides under 28 raise an error; extreme ratios may give side 0."""
    if min(height, width) < factor:
        raise UserError(f"a side of {width}x{height} is under {factor} pixels")
    return smart_resize_qwen_vl_utils(height, width, factor, min_pixels, max_pixels)


def drop_alpha(image: Image.Image) -> Image.Image:
    """Transformers before 5.21: transparency is ignored, not composited onto white."""
    return image.convert("RGB")


def after_span_hf_5(start: int, span: Int[Array, "3 S"], grid: Sequence[int], merge: int) -> int:
    """Transformers 5.3 to 5.24: text continues at start + max(h, w), for any length of video."""
    return start + max(grid[1], grid[2]) // merge


def rope_index_hf_4_52(
    input_ids: Int[Array, "S"],
    config: Config,
    image_grid_thw: Int[Array, "I 3"] | None = None,
    video_grid_thw: Int[Array, "J 3"] | None = None,
    second_per_grid_ts: Sequence[float] | None = None,
) -> tuple[Int[Array, "3 S"], int]:
    """Transformers 4.52.4 to 5.2: the seconds per temporal patch are first truncated to an integer.

    At more than 2 frames per second, all frames of a video then share one time position. 5.3 to
    5.17 truncate too, but text after a video also has other positions there (``after_span_hf_5``).
    """
    seconds = None if second_per_grid_ts is None else [int(s) for s in second_per_grid_ts]
    return rope_index(input_ids, config, image_grid_thw, video_grid_thw, seconds)


def tied_head(weights: Weights) -> Weights:
    """Transformers 4.51 to 4.57: a tied LM head is the embedding, even if the file has a head.

    Use ``replace(model, weights=compat.tied_head(model.weights))`` for a config that ties.
    """
    return Weights(
        {
            "visual": weights.visual,
            "model": weights.model,
            "lm_head": Weights({"weight": lambda: weights.model.embed_tokens.weight}, "lm_head"),
        }
    )


rope_index_hf_5 = partial(rope_index, after=after_span_hf_5)
"""``get_rope_index`` of transformers 5.18 to 5.24: equal to ours for images, not after videos."""

old_names(globals())
