"""Faulty parts that injected bugs of several stages share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from ... import nn, vision
from ...tracing import stage
from ...weights import Weights
from .registry import variant


def gelu_tanh(x: Any) -> Any:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rotate_neighbours(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding that pairs x[2i] with x[2i + 1] (GPT-J), not x[i] with x[i + d/2]."""
    half = cos.shape[-1] // 2
    cos, sin = np.repeat(cos[..., :half], 2, axis=-1), np.repeat(sin[..., :half], 2, axis=-1)
    turned = np.reshape(np.stack([-x[..., 1::2], x[..., ::2]], axis=-1), x.shape)
    return x * cos + turned * sin


def encoder_with(settings: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """The vision encoder with other vision settings."""

    def vision_encoder(pixels: Any, grid_thw: Any, visual: Any, whole: Any, *rest: Any) -> Any:
        changed = replace(whole, vision=replace(whole.vision, **settings(whole)))
        return original(pixels, grid_thw, visual, changed, *rest)

    original = vision.vision_encoder
    return {"vision.vision_encoder": vision_encoder}


def vision_norms(**changed: Any) -> dict[str, Any]:
    """The norms of the vision encoder, some of them changed: model type -> function."""
    return {"vision.NORM": {**vision.NORM, **changed}}


@stage
def bias_dropped(x: Any, weights: Weights) -> Any:
    """A linear layer whose bias is left out."""
    return x @ np.transpose(weights.weight)


def linear_without_bias(module: ModuleType, *ends: str) -> dict[str, Any]:
    """Linear layers of ``module`` whose path ends in one of ``ends`` have no bias."""
    before = module.nn.linear

    def linear(x: Any, weights: Weights) -> Any:
        return (bias_dropped if weights.path.endswith(ends) else before)(x, weights)

    return {f"{module.__name__.rpartition('.')[2]}.nn": variant(nn, linear=linear)}


@stage
def swapped_mlp(x: Any, mlp: Weights) -> Any:
    """SwiGLU with gate and up swapped."""
    gate, up = nn.linear(x, mlp.gate_proj), nn.linear(x, mlp.up_proj)
    return nn.linear(gate * nn.silu(up), mlp.down_proj)
