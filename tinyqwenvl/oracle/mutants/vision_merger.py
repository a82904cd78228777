"""The merger, which makes image tokens of 2x2 groups of patches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import nn, vision
from .registry import mutant


def gelu_tanh(x: Any) -> Any:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@mutant("llama.cpp ggml_gelu")
def merger_gelu_tanh():
    """The merger has GELU's tanh approximation."""
    return {"nn.gelu": gelu_tanh}


@mutant("class of bug; passes Pearson > 0.9999")
def merger_quick_gelu():
    """The merger has QuickGELU, not the exact GELU."""
    return {"nn.gelu": nn.quick_gelu}


@mutant("class of bug; the merger run on patches in raster order")
def merger_groups_rows_of_four():
    """Patches are put back in raster order before the merger, which then joins four of one row."""
    seen: dict[str, Any] = {}

    def vision_encoder(pixels: Any, grid_thw: Any, *rest: Any) -> Any:
        seen["grid"] = grid_thw
        return original(pixels, grid_thw, *rest)

    def merge(x: Any, merger: Any, whole: Any, *rest: Any) -> Any:
        settings = whole.vision
        index = np.arange(len(x) // settings.merged_patches)
        if whole.model_type == "qwen2_5_vl":
            index, _ = vision.window_index(seen["grid"], settings)
        x = vision.reorder_groups(x, np.argsort(index))
        side, start, raster = settings.spatial_merge_size, 0, []
        for t, h, w in seen["grid"].tolist():
            blocks = np.arange(t * h * w).reshape(t, h // side, w // side, side, side)
            raster.append(start + np.transpose(blocks, (0, 1, 3, 2, 4)).reshape(-1))
            start += t * h * w
        return original_merge(np.take(x, np.concatenate(raster), axis=0), merger, whole, *rest)

    original, original_merge = vision.vision_encoder, vision.merge
    undone = {"vision.restore_order": lambda merged, index: merged}
    return {"vision.vision_encoder": vision_encoder, "vision.merge": merge} | undone
