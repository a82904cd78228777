"""The language model: embeddings, mRoPE, attention, MLP, norms, LM head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ... import decoder, nn
from ...tracing import stage
from ...weights import Weights
from ..precision import to_bf16
from .faulty_parts import linear_without_bias, rotate_neighbours, swapped_mlp
from .registry import mutant, variant


@mutant("class of bug")
def image_tokens_shifted():
    """Each placeholder gets the image token before its own."""

    def scatter(embeds: Any, input_ids: Any, token_id: int, visual: Any) -> Any:
        return original(embeds, input_ids, token_id, np.roll(visual, 1, axis=0))

    original = decoder.scatter
    return {"decoder.scatter": scatter}


@mutant("mlx-vlm 0.7.10")
def video_left_out_beside_an_image():
    """If a prompt has images, the tokens of its videos are not inserted."""
    seen: dict[str, Any] = {}

    def scatter(embeds: Any, input_ids: Any, token_id: int, visual: Any) -> Any:
        again = seen.get("ids") is input_ids
        seen["ids"] = input_ids
        return embeds if again else original(embeds, input_ids, token_id, visual)

    original = decoder.scatter
    return {"decoder.scatter": scatter}


@mutant("class of bug; Gemma's convention")
def embeddings_scaled():
    """Text embeddings are multiplied by the square root of the hidden size."""

    @stage
    def embed(input_ids: Any, embed_tokens: Weights) -> Any:
        table = embed_tokens.weight
        return np.take(table, input_ids, axis=0) * table.dtype.type(table.shape[1] ** 0.5)

    return {"decoder.embed": embed}


def _cos_sin(axes: Callable[[Any], Any]) -> dict[str, Any]:
    """mRoPE in which ``axes(sections)`` gives the axis of each frequency."""

    def cos_sin(position_ids: Any, text: Any, dtype: Any = np.float32) -> Any:
        frequencies = nn.rotary_frequencies(text.head_dim, text.rope_theta, dtype)
        which = np.asarray(axes(text.mrope_section))
        angles = np.transpose(np.take(position_ids, which, axis=0)).astype(dtype) * frequencies
        angles = np.concatenate([angles, angles], axis=-1)
        return np.cos(angles), np.sin(angles)

    return {"decoder.mrope_cos_sin": cos_sin}


@mutant("mlx-vlm#564, #576: Qwen3-VL's layout")
def mrope_interleaved():
    """Frequencies are assigned to time, height and width in turn, not in three chunks."""
    return _cos_sin(lambda sections: np.arange(sum(sections)) % 3)


@mutant("mlx-swift-lm#239")
def mrope_sections_reversed():
    """The sections are read as width, height, time."""
    return _cos_sin(lambda sections: np.repeat([2, 1, 0], sections))


@mutant("transformers#33401; sglang#3605: rope_type mrope not recognised")
def mrope_time_only():
    """All frequencies use the time axis: 1-D RoPE."""
    return _cos_sin(lambda sections: np.zeros(sum(sections), int))


@mutant("class of bug; GPT-J's pairing")
def text_rope_interleaved():
    """Neighbouring dimensions are rotated together in the decoder."""
    return {"decoder.nn": variant(nn, rotate=rotate_neighbours)}


@mutant("class of bug; the published value written into the code")
def text_theta_of_the_published_models():
    """The decoder's rotary frequencies have theta 1,000,000, whatever the config says."""
    whole = decoder.mrope_cos_sin
    return {
        "decoder.mrope_cos_sin": lambda positions, text, *rest: whole(
            positions, replace(text, rope_theta=1e6), *rest
        )
    }


@mutant("runtimes that keep tables in half precision")
def text_rope_in_bfloat16():
    """Cosines and sines of the decoder are rounded to bfloat16."""
    whole = decoder.mrope_cos_sin

    def cos_sin(*args: Any) -> Any:
        cos, sin = whole(*args)
        return to_bf16(cos), to_bf16(sin)

    return {"decoder.mrope_cos_sin": cos_sin}


@mutant("class of bug")
def text_attention_not_scaled():
    """Attention scores of the decoder are not divided by sqrt(d)."""

    def attend_to(attend: Any, weights: Any, *given: Any) -> Any:
        def unscaled(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
            return attend(q * q.shape[-1] ** 0.5, k, v, key_ranges)

        return nn.attend_to(unscaled, weights, *given)

    return {"decoder.nn": variant(nn, attend_to=attend_to)}


@stage
def _eps_outside(x: Any, weights: Weights, eps: float) -> Any:
    """RMSNorm with eps added outside the square root."""
    return weights.weight * (x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps))


@mutant("class of bug")
def eps_outside_the_root():
    """RMSNorm of the decoder divides by sqrt(mean square) + eps."""
    return {"decoder.nn": variant(nn, rms_norm=_eps_outside)}


@mutant("the class default of transformers")
def text_eps_class_default():
    """The decoder's norms have eps 1e-5, whatever the config says."""

    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return nn.rms_norm(x, weights, 1e-5)

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)}


@mutant("class of bug")
def text_eps_zero():
    """The decoder's norms have no eps."""

    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return nn.rms_norm(x, weights, 0.0)

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)}


@mutant("class of bug; Llama's attention has no bias")
def qkv_bias_missing():
    """The decoder's q, k and v have no bias."""
    return linear_without_bias(decoder, ".q_proj", ".k_proj", ".v_proj")


@mutant("class of bug; tile for repeat")
def gqa_heads_in_turn():
    """Query head i uses key head i modulo B, not i // (A / B)."""

    def attend_to(attend: Any, weights: Any, *given: Any) -> Any:
        def tiled(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
            times = (len(q) // len(k), 1, 1)
            return attend(q, np.tile(k, times), np.tile(v, times), key_ranges)

        return nn.attend_to(tiled, weights, *given)

    return {"decoder.nn": variant(nn, attend_to=attend_to)}


@mutant("llama.cpp#13694, #15474, #16825")
def causal_mask_from_time():
    """A token attends to every token whose time is not later: image tokens attend to each other."""
    seen: dict[str, Any] = {"time": np.zeros(0, int)}

    def cos_sin(position_ids: Any, *rest: Any) -> Any:
        seen["new"] = np.asarray(position_ids)[0]
        return original(position_ids, *rest)

    def causal_key_ranges(new: int, past: int = 0) -> Any:
        time = np.concatenate([seen["time"][:past], seen["new"]])
        seen["time"] = time
        last = np.array([np.flatnonzero(time <= t)[-1] + 1 for t in seen["new"]])
        return np.stack([np.zeros_like(last), last], axis=1)

    original = decoder.mrope_cos_sin
    return {
        "decoder.mrope_cos_sin": cos_sin,
        "decoder.nn": variant(nn, causal_key_ranges=causal_key_ranges),
    }


@mutant("class of bug")
def no_causal_mask():
    """Every token of the prompt attends to all others."""

    def causal_key_ranges(new: int, past: int = 0) -> Any:
        return np.tile([0, past + new], (new, 1))

    return {"decoder.nn": variant(nn, causal_key_ranges=causal_key_ranges)}


@mutant("class of bug; a fused gate_up split the wrong way round")
def gate_and_up_swapped():
    """silu(up) * gate instead of silu(gate) * up, in the decoder."""
    return {"decoder.nn": variant(nn, swiglu_mlp=swapped_mlp)}


@mutant("class of bug")
def last_norm_missing():
    """The decoder's final norm is left out."""

    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return x if weights.path == "model.norm" else nn.rms_norm(x, weights, eps)

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)}


@mutant("class of bug; tie_word_embeddings read from the wrong place")
def head_tied_by_mistake():
    """The embedding is used as the LM head although the checkpoint has a separate one."""
    seen: dict[str, Any] = {}

    def embed(input_ids: Any, embed_tokens: Weights) -> Any:
        seen["weight"] = embed_tokens.weight
        return original(input_ids, embed_tokens)

    def logits(x: Any, lm_head: Weights) -> Any:
        return nn.linear(x, Weights({"weight": seen["weight"]}, lm_head.path))

    original = decoder.embed
    return {"decoder.embed": embed, "decoder.logits": logits}
