"""mRoPE: (time, height, width) positions of every token, and the cos and sin that rotate q and k.

Text tokens count 0, 1, 2 ... on all three axes at once. The tokens of an image or video form a
span: each has a position in time, height and width, counted from the start of the span. Text
continues one past the largest position of the span. (Qwen2-VL paper, section 2.1; Qwen2.5-VL
report, section 2.1.3; ``get_rope_index`` in transformers 4.49 to 4.51. Later versions differ: see
``compat.py``.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .config import Config, TextConfig
from .deprecated import old_names
from .dims import Array, Float, Int
from .errors import UserError
from .nn import rotary_frequencies


def text_positions(start: int, length: int) -> Int[Array, "3 S"]:
    """Positions of ``length`` text tokens from ``start``: equal on all three axes."""
    return np.tile(start + np.arange(length), (3, 1))


def span_positions(
    start: int, grid: Sequence[int], merge: int, seconds: float = 1.0, per_second: float = 1.0
) -> Int[Array, "3 S"]:
    """Positions of an image or video of ``grid`` = (t, h, w) patches, in raster order.

    Each temporal patch (a pair of frames) lasts ``seconds``; the time axis advances ``per_second``
    steps per second. Both products are computed in float32, in this order, and truncated to an
    integer once, at the end.
    """
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    passed = np.arange(t, dtype=np.float32) * np.float32(seconds)
    time = np.astype(passed * np.float32(per_second), np.int64)
    axes = np.meshgrid(time, np.arange(h), np.arange(w), indexing="ij")
    return start + np.reshape(np.stack(axes), (3, t * h * w))


def after_span(start: int, span: Int[Array, "3 S"], grid: Sequence[int], merge: int) -> int:
    """Position of the next text token: one past the span's maximum over all three axes."""
    return int(np.max(span)) + 1


def rope_index(
    input_ids: Int[Array, "S"],
    config: Config,
    image_grid_thw: Int[Array, "I 3"] | None = None,
    video_grid_thw: Int[Array, "J 3"] | None = None,
    second_per_grid_ts: Sequence[float] | None = None,
    after: Callable[..., int] = after_span,
) -> tuple[Int[Array, "3 S"], int]:
    """Positions of a whole prompt, and the rope delta.

    The **rope delta** is largest position + 1 - length. A generated token's position is its index
    in the sequence plus the rope delta. Grids are in patches. ``second_per_grid_ts`` holds, for
    each video, the seconds that one temporal patch lasts (default 1.0). Raises UserError if
    placeholders and grids do not match.
    """
    merge = config.vision.spatial_merge_size
    images = iter(() if image_grid_thw is None else image_grid_thw.tolist())
    videos = iter(() if video_grid_thw is None else video_grid_thw.tolist())
    videos_given = 0 if video_grid_thw is None else len(video_grid_thw)
    if second_per_grid_ts is None:
        second_per_grid_ts = [1.0] * videos_given
    if len(second_per_grid_ts) != videos_given:
        raise UserError(f"{videos_given} videos need as many second_per_grid_ts")
    seconds = iter(second_per_grid_ts)
    placeholders = np.flatnonzero(
        np.isin(input_ids, (config.image_token_id, config.video_token_id))
    )
    pieces = []
    index = position = 0
    while index < len(input_ids):
        at = np.searchsorted(placeholders, index)
        next_span = int(placeholders[at]) if at < len(placeholders) else len(input_ids)
        if index < next_span:
            pieces.append(text_positions(position, next_span - index))
            position += next_span - index
        else:
            video = input_ids[index] == config.video_token_id
            grid = next(videos if video else images, None)
            if grid is None:
                raise UserError("the prompt has more image placeholders than images")
            lasts = next(seconds) if video else 1.0
            newer = config.model_type == "qwen2_5_vl"
            pace = (lasts, config.vision.tokens_per_second) if newer else (1.0, 1.0)
            span = span_positions(position, grid, merge, *pace)
            if (
                np.count_nonzero(input_ids[index:][: span.shape[1]] == input_ids[index])
                != span.shape[1]
            ):
                raise UserError(f"an image of {span.shape[1]} tokens has fewer placeholders")
            pieces.append(span)
            position = after(position, span, grid, merge)
        index += pieces[-1].shape[1]
    if next(images, None) or next(videos, None):
        raise UserError("the prompt has fewer image placeholders than images")
    if not pieces:
        return text_positions(0, 0), 0
    positions = np.concatenate(pieces, axis=1)
    return positions, int(np.max(positions)) + 1 - len(input_ids)


def mrope_cos_sin(
    position_ids: Int[Array, "3 S"], config: TextConfig, dtype=np.float32
) -> tuple[Float[Array, "S d"], Float[Array, "S d"]]:
    """cos and sin of position * frequency, one row per token.

    The first ``mrope_section[0]`` frequencies use the time position, the next the height, the last
    the width (three chunks, not interleaved). The second half of the head repeats them.
    """
    frequencies = rotary_frequencies(config.head_dim, config.rope_theta, dtype)
    axis_of_frequency = np.repeat(np.arange(3), config.mrope_section)
    positions = np.astype(np.take(position_ids, axis_of_frequency, axis=0), dtype)
    angles = np.transpose(positions) * frequencies
    angles = np.concatenate([angles, angles], axis=-1)
    return np.cos(angles), np.sin(angles)


old_names(globals())
