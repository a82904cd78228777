"""Windowed and full attention of the vision encoder, and the order of its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ... import nn, vision
from ..precision import to_float16
from .faulty_parts import encoder_with
from .registry import mutant, variant


@mutant("llama.cpp#12402; ollama#16868")
def window_mask_missing():
    """Windows are ignored: every block has full attention."""
    return encoder_with(lambda c: {"fullatt_block_indexes": tuple(range(c.vision.depth))})


@mutant("cosmos-rl#171: the layer's number compared as text")
def full_attention_missing():
    """Every block has windowed attention."""

    def settings(c: Any) -> dict[str, Any]:
        blocks = c.vision.fullatt_block_indexes
        return {"fullatt_block_indexes": () if c.model_type == "qwen2_5_vl" else blocks}

    return encoder_with(settings)


@mutant("vllm#15122, #15200")
def windows_and_full_swapped():
    """Blocks with full and with windowed attention are swapped."""

    def settings(c: Any) -> dict[str, Any]:
        full = set(range(c.vision.depth)) - set(c.vision.fullatt_block_indexes)
        old = c.vision.fullatt_block_indexes
        return {"fullatt_block_indexes": tuple(full) if c.model_type == "qwen2_5_vl" else old}

    return encoder_with(settings)


@mutant("VeOmni#1024")
def window_size_in_tokens():
    """Windows are window_size / patch_size tokens wide, but that number counts patches."""

    def window_index(grid_thw: Any, settings: Any) -> Any:
        return whole(grid_thw, replace(settings, window_size=2 * settings.window_size))

    whole = vision.window_index
    return {"vision.window_index": window_index}


@mutant("mlx-vlm#704")
def window_mask_of_ones():
    """The mask is added to the attention scores as ones, not as minus infinity."""

    def attend(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
        scores = q @ np.swapaxes(k, 1, 2) * q.shape[-1] ** -0.5
        return nn.softmax(scores + nn.visible_keys(key_ranges, k.shape[1])) @ v

    def attend_to(_: Any, *rest: Any) -> Any:
        return nn.attend_to(attend, *rest)

    return {"vision.nn": variant(nn, attend_to=attend_to)}


@mutant("class of bug; images joined into one sequence")
def windows_across_images():
    """The last window of an image and the first of the next are joined."""

    def window_index(grid_thw: Any, settings: Any) -> Any:
        index, windows = whole(grid_thw, settings)
        borders = np.cumsum(np.prod(grid_thw, axis=1))[:-1]
        return index, windows[~np.isin(windows, borders)]

    whole = vision.window_index
    return {"vision.window_index": window_index}


@mutant("mlxcel#1601")
def permutation_applied_twice():
    """The window order is undone by applying it once more."""
    return {"vision.restore_order": lambda merged, index: np.take(merged, index, axis=0)}


@mutant("class of bug")
def window_order_never_undone():
    """Image tokens stay in window order."""
    return {"vision.restore_order": lambda merged, index: merged}


@mutant("rknn-toolkit2#425: Gather in float16")
def permutation_in_float16():
    """Reordering patches, and their rotary angles, rounds them to float16."""
    whole = vision.reorder_groups
    return {"vision.reorder_groups": lambda x, index: to_float16(whole(x, index))}


@mutant("class of bug; a full attention over all frames")
def attention_over_the_whole_video():
    """Blocks with full attention attend to all frames of a video, not to their own frame pair."""

    def frame_seqlens(grid_thw: Any) -> Any:
        return np.concatenate([[0], np.cumsum(np.prod(grid_thw, axis=1))])

    return {"vision.frame_seqlens": frame_seqlens}


@mutant("class of bug; all images in one attention")
def attention_across_images():
    """Blocks with full attention attend to all images of the prompt."""

    def frame_seqlens(grid_thw: Any) -> Any:
        return np.array([0, int(np.sum(np.prod(grid_thw, axis=1)))])

    return {"vision.frame_seqlens": frame_seqlens}


@mutant("rknn-llm#246; transformers#34852: exports of one fixed grid")
def geometry_of_another_image():
    """Window order and rotary angles are those of the grids with height and width swapped."""

    def turned(function: Any) -> Any:
        return lambda grid_thw, *rest: function(np.asarray(grid_thw)[:, [0, 2, 1]], *rest)

    names = ("window_index", "rotary_angles")
    return {f"vision.{name}": turned(getattr(vision, name)) for name in names}
