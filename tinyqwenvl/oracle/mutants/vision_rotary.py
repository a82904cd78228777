"""The rotary position embedding of the vision encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import nn, vision
from ..precision import to_bf16
from .faulty_parts import rotate_neighbours
from .registry import mutant, variant


@mutant("class of bug; correlation does not see it at small weights")
def vision_no_rope():
    """No rotary embedding in the vision encoder."""
    return {"vision.nn": variant(nn, rotate=lambda x, cos, sin: x)}


@mutant("class of bug; correlation does not see it at small weights")
def vision_rope_not_permuted():
    """Patches are put in window order, their rotary angles are not."""

    def rotary_angles(grid_thw: Any, settings: Any, dtype: Any = np.float32) -> Any:
        index, _ = vision.window_index(grid_thw, settings)
        return vision.reorder_groups(whole(grid_thw, settings, dtype), np.argsort(index))

    whole = vision.rotary_angles
    return {"vision.rotary_angles": rotary_angles}


@mutant("class of bug; GPT-J's pairing")
def vision_rope_interleaved():
    """Neighbouring dimensions are rotated together in the vision encoder."""
    return {"vision.nn": variant(nn, rotate=rotate_neighbours)}


@mutant("class of bug")
def vision_rope_height_and_width_swapped():
    """The rotary embedding takes the column first, then the row."""
    whole = vision.patch_positions
    return {"vision.patch_positions": lambda *args: whole(*args)[:, ::-1]}


@mutant("class of bug; other vision transformers' order")
def vision_rope_in_raster_order():
    """(row, column) in raster order on patches that are in merge order."""

    def patch_positions(grid_thw: Any, merge: int) -> Any:
        frames = [
            np.tile(np.indices((h, w)).reshape(2, -1).T, (t, 1)) for t, h, w in grid_thw.tolist()
        ]
        return np.concatenate(frames)

    return {"vision.patch_positions": patch_positions}


@mutant("divergences of runtimes that keep tables in half precision")
def vision_rope_in_bfloat16():
    """Rotary angles rounded to bfloat16."""
    whole = vision.rotary_angles
    return {"vision.rotary_angles": lambda *args: to_bf16(whole(*args))}
