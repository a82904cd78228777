"""mRoPE positions of the prompt, and the rope delta."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ... import compat, position
from ...position import rope_index
from .registry import mutant


def _rope_index(after: Callable[..., int]) -> dict[str, Any]:
    return {"model.rope_index": partial(rope_index, after=after)}


@mutant("transformers 5.x without mm_token_type_ids; mlx-lm#1768; gLLM#115")
def positions_in_one_dimension():
    """Image tokens are counted like text, on all three axes."""

    def one_dimension(input_ids: Any, *_: Any, **__: Any) -> tuple[Any, int]:
        return position.text_positions(0, len(input_ids)), 0

    return {"model.rope_index": one_dimension}


def _spans(change: Callable[..., Any]) -> dict[str, Any]:
    whole = position.span_positions
    return {"position.span_positions": lambda *args: change(whole, *args)}


@mutant("transformers#45325, #45381 (5.3 to 5.5)")
def image_time_scaled():
    """The time of an image's tokens is multiplied by tokens per second."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        block = whole(start, grid, merge, *pace)
        rate = int(pace[1]) if len(pace) > 1 else 1
        return np.stack([np.full_like(block[0], start * rate), block[1], block[2]])

    return _spans(change)


@mutant("transformers 5.3 to 5.5")
def video_height_slowest():
    """Positions of a video are ordered row first, then frame."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        t, h, w = grid[0], grid[1] // merge, grid[2] // merge
        block = whole(start, grid, merge, *pace).reshape(3, t, h, w)
        return np.reshape(np.swapaxes(block, 1, 2), (3, -1))

    return _spans(change)


@mutant("class of bug")
def image_height_and_width_swapped():
    """The second axis of mRoPE counts columns, the third rows."""

    def change(whole: Any, *args: Any) -> Any:
        return whole(*args)[[0, 2, 1]]

    return _spans(change)


@mutant("mlx-vlm qwen2_5_vl; sglang#3674")
def seconds_ignored():
    """Time in a video advances by one per frame pair, as in Qwen2-VL."""
    return _spans(lambda whole, start, grid, merge, *_: whole(start, grid, merge))


@mutant("transformers 4.52.4 to 5.17; #48669")
def seconds_truncated():
    """The seconds per frame pair are truncated to an integer first."""
    return {"model.rope_index": compat.rope_index_hf_4_52}


@mutant("the class default of transformers")
def four_tokens_per_second():
    """tokens_per_second is twice the checkpoint's: 4, the class default, not the published 2."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        return whole(start, grid, merge, *(pace and (pace[0], 2 * pace[1])))

    return _spans(change)


@mutant("transformers 5.3 to 5.24")
def text_after_video_at_its_side():
    """Text continues at start + max(height, width), however long the video."""
    return _rope_index(compat.after_span_hf_5)


@mutant("llama.cpp before mtmd counted positions")
def text_one_after_the_image():
    """An image takes one position."""
    return _rope_index(lambda start, block, grid, merge: start + 1)


@mutant("class of bug")
def text_after_all_image_tokens():
    """An image takes as many positions as it has tokens."""
    return _rope_index(lambda start, block, grid, merge: start + block.shape[1])


@mutant("mlx-vlm#319, #1527; transformers rope_deltas kept on the module")
def rope_delta_lost():
    """A new token's position is its index in the sequence."""

    def without(*args: Any, **kwargs: Any) -> tuple[Any, int]:
        return rope_index(*args, **kwargs)[0], 0

    return {"model.rope_index": without}


@mutant("vLLM 0.32")
def seconds_in_float64():
    """The time of a frame pair is computed in float64, which sometimes gives one step less."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        block = whole(start, grid, merge, *pace)
        seconds, rate = pace or (1.0, 1.0)
        time = np.astype(np.arange(grid[0]) * float(seconds) * float(rate), np.int64)
        each = block.shape[1] // grid[0]
        return np.stack([start + np.repeat(time, each), block[1], block[2]])

    return _spans(change)
