"""The decoder: embeddings of text and image tokens -> logits. Qwen2's architecture with mRoPE."""

from __future__ import annotations

import numpy as np

from . import nn
from .config import TextConfig
from .dims import Array, Float, Int
from .nn import Attend, ReferenceCache
from .position import mrope_cos_sin
from .tracing import record, stage
from .weights import Weights


@stage
def embed(input_ids: Int[Array, "S"], embed_tokens: Weights) -> Float[Array, "S D"]:
    """Look up the embedding of every token."""
    return np.take(embed_tokens.weight, input_ids, axis=0)


def scatter(
    embeds: Float[Array, "S D"],
    input_ids: Int[Array, "S"],
    token_id: int,
    visual: Float[Array, "M D"],
) -> Float[Array, "S D"]:
    """Replace the placeholders ``token_id`` by the image tokens, in order.

    HF: ``masked_scatter``. The number of placeholders must equal the number of image tokens.
    """
    here = input_ids == token_id
    which = np.maximum(np.cumsum(here) - 1, 0)
    return np.where(here[:, None], np.take(visual, which, axis=0), embeds)


@stage
def attention(
    x: Float[Array, "S D"],
    self_attn: Weights,
    config: TextConfig,
    cos: Float[Array, "S d"],
    sin: Float[Array, "S d"],
    key_ranges: Int[Array, "S 2"],
    cache: ReferenceCache | None = None,
    layer: int = 0,
    attend: Attend = nn.attention,
) -> Float[Array, "S D"]:
    """Grouped-query self-attention; token i attends to key_ranges[i, 0] <= j < key_ranges[i, 1]."""
    q = _heads(nn.linear(x, self_attn.q_proj), config.num_attention_heads)
    k = _heads(nn.linear(x, self_attn.k_proj), config.num_key_value_heads)
    v = _heads(nn.linear(x, self_attn.v_proj), config.num_key_value_heads)
    q, k = nn.rotate(q, cos, sin), nn.rotate(k, cos, sin)
    if cache is not None:
        k, v = cache.append(layer, k, v)
    out = np.swapaxes(nn.attend_to(attend, self_attn, q, k, v, key_ranges), 0, 1)
    return nn.linear(np.reshape(out, (x.shape[0], -1)), self_attn.o_proj)


def _heads(x: Float[Array, "S D"], heads: int) -> Float[Array, "A S d"]:
    return np.swapaxes(np.reshape(x, (x.shape[0], heads, -1)), 0, 1)


@stage
def decoder_layer(
    x: Float[Array, "S D"],
    layer: Weights,
    config: TextConfig,
    cos: Float[Array, "S d"],
    sin: Float[Array, "S d"],
    key_ranges: Int[Array, "S 2"],
    cache: ReferenceCache | None = None,
    number: int = 0,
    attend: Attend = nn.attention,
) -> Float[Array, "S D"]:
    """Pre-norm residual block, as in the vision encoder of Qwen2.5-VL."""
    eps = config.rms_norm_eps
    normed = nn.rms_norm(x, layer.input_layernorm, eps)
    x = x + attention(normed, layer.self_attn, config, cos, sin, key_ranges, cache, number, attend)
    return x + nn.swiglu_mlp(nn.rms_norm(x, layer.post_attention_layernorm, eps), layer.mlp)


def decode(
    embeds: Float[Array, "S D"],
    position_ids: Int[Array, "3 S"],
    model: Weights,
    config: TextConfig,
    cache: ReferenceCache | None = None,
    attend: Attend = nn.attention,
) -> Float[Array, "S D"]:
    """All layers and the final norm. New tokens attend to cached ones too, and join the cache."""
    position_ids = record("model.position_ids", position_ids)
    x = record("model.inputs_embeds", embeds)
    cos, sin = mrope_cos_sin(position_ids, config, embeds.dtype.type)
    key_ranges = nn.causal_key_ranges(embeds.shape[0], cache.length if cache is not None else 0)
    for i in range(config.num_hidden_layers):
        x = decoder_layer(x, model.layers[i], config, cos, sin, key_ranges, cache, i, attend)
    return nn.rms_norm(x, model.norm, config.rms_norm_eps)


def logits(x: Float[Array, "S D"], lm_head: Weights) -> Float[Array, "S V"]:
    """The LM head: one logit per vocabulary entry; ``lm_head`` may be tied to the embedding."""
    return nn.linear(x, lm_head)
