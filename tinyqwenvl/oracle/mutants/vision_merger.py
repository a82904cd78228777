"""The merger, which turns each merge group of patches into one image token."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ... import nn, vision
from ...tracing import stage
from ...weights import Weights
from .faulty_parts import gelu_tanh, linear_without_bias, vision_norms
from .registry import mutant


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
    """Patches return to raster order before the merger, which then joins four of one grid row."""
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


@mutant("class of bug; a converter that drops biases of the merger")
def merger_biases_missing():
    """The two linear layers of the merger have no bias."""
    return linear_without_bias(vision, ".merger.mlp.0", ".merger.mlp.2")


@stage
def _norm_of_groups(x: Any, weights: Weights, norm: Any, eps: float) -> Any:
    """The merger's norm over the four patches of a group together."""
    names = [name for name in ("weight", "bias") if name in weights]
    tiled = {name: np.tile(getattr(weights, name), 4) for name in names}
    wide = inspect.unwrap(norm)(np.reshape(x, (len(x) // 4, -1)), Weights(tiled, ""), eps)
    return np.reshape(wide, x.shape)


@mutant("class of bug; the deepstack mergers of Qwen3-VL")
def merger_norm_after_grouping():
    """The merger normalises the four patches of a group together."""

    def norm_of(norm: Any) -> Any:
        def call(x: Any, weights: Weights, eps: float) -> Any:
            last = weights.path.endswith("ln_q")
            return _norm_of_groups(x, weights, norm, eps) if last else norm(x, weights, eps)

        return call

    return vision_norms(**{family: norm_of(norm) for family, norm in vision.NORM.items()})
