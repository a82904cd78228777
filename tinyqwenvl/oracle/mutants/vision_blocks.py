"""The arithmetic of the vision blocks: norms, attention, MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import nn, vision
from ...tracing import stage
from ...weights import Weights
from ..precision import to_float16
from .faulty_parts import encoder_with, gelu_tanh, linear_without_bias, swapped_mlp, vision_norms
from .registry import mutant, variant


@mutant("class of bug")
def layer_norm_for_rms_norm():
    """Qwen2.5-VL's vision norms subtract the mean."""

    @stage
    def norm(x: Any, weights: Weights, eps: float) -> Any:
        centred = x - np.mean(x, axis=-1, keepdims=True)
        return weights.weight * (
            centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
        )

    return vision_norms(qwen2_5_vl=norm)


@mutant("class of bug")
def rms_norm_for_layer_norm():
    """Qwen2-VL's vision norms do not subtract the mean."""

    @stage
    def norm(x: Any, weights: Weights, eps: float) -> Any:
        scaled = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return weights.weight * scaled + weights.bias

    return vision_norms(qwen2_vl=norm)


@mutant("vLLM qwen2_5_vl.py; llama.cpp's converter")
def vision_eps_of_the_text():
    """The vision norms have the text config's eps instead of the fixed 1e-6."""
    return encoder_with(lambda c: {"rms_norm_eps": c.text.rms_norm_eps})


@mutant("Gemma's convention")
def norm_weight_plus_one():
    """RMSNorm scales by 1 + weight."""

    @stage
    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return (1 + weights.weight) * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)} | vision_norms(qwen2_5_vl=rms_norm)


@mutant("class of bug; a fused qkv split head by head")
def qkv_split_by_heads():
    """The 3 * D outputs of qkv are read as [heads, 3, d], not [3, heads, d]."""

    def linear(x: Any, weights: Weights) -> Any:
        y = nn.linear(x, weights)
        if not weights.path.endswith(".attn.qkv"):
            return y
        heads = np.reshape(y, (len(y), heads_of[0], 3, -1))
        return np.reshape(np.swapaxes(heads, 1, 2), y.shape)

    def attention(x: Any, attn: Weights, heads: int, *rest: Any) -> Any:
        heads_of[0] = heads
        return original(x, attn, heads, *rest)

    original, heads_of = vision.attention, [1]
    return {"vision.attention": attention, "vision.nn": variant(nn, linear=linear)}


@mutant("class of bug; Llama's layers have no bias")
def vision_qkv_bias_missing():
    """The bias of the vision encoder's qkv is left out."""
    return linear_without_bias(vision, ".attn.qkv")


@mutant("class of bug")
def vision_attention_not_scaled():
    """Attention scores of the vision encoder are not divided by sqrt(d)."""

    def attend_to(attend: Any, weights: Any, *given: Any) -> Any:
        def unscaled(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
            return attend(q * q.shape[-1] ** 0.5, k, v, key_ranges)

        return nn.attend_to(unscaled, weights, *given)

    return {"vision.nn": variant(nn, attend_to=attend_to)}


@mutant("class of bug; a fused gate_up split the wrong way round")
def vision_gate_and_up_swapped():
    """silu(up) * gate instead of silu(gate) * up, in the vision encoder."""
    return {"vision.MLP": {**vision.MLP, "qwen2_5_vl": swapped_mlp}}


@mutant("class of bug; QuickGELU is an approximation of GELU")
def gelu_for_quick_gelu():
    """Qwen2-VL's vision MLP has the exact GELU, not QuickGELU."""
    return {"nn.quick_gelu": nn.gelu}


@mutant("class of bug; runtimes whose GELU is the tanh form")
def gelu_tanh_for_quick_gelu():
    """Qwen2-VL's vision MLP has GELU's tanh approximation, not QuickGELU."""
    return {"nn.quick_gelu": gelu_tanh}


@mutant("llama.cpp#17534; ollama#18070; transformers#33294")
def float16_overflow():
    """The output of the vision MLPs is float16: values beyond 65,504 become infinite."""

    def narrow(mlp: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, weights: Weights) -> Any:
            return to_float16(mlp(x, weights))

        return call

    return {"vision.MLP": {family: narrow(mlp) for family, mlp in vision.MLP.items()}}
