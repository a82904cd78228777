"""Layers that both halves share: linear, norms, activations, RoPE, attention, the KV cache.

Every operation has a reference implementation: NumPy functions only, no item assignment, no branch
on data, so that it is easy to read and to trace. The few optimised implementations follow their
reference directly, and tests check that both are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .deprecated import old_names
from .dims import Array, Bool, Float, Int
from .tracing import record, stage
from .weights import Weights

# ------------------------------------------------------------------ linear and norms


@stage
def linear(x: Float[Array, "... D"], weights: Weights) -> Float[Array, "... E"]:
    """x W^T + b; ``weights.weight`` is [E, D] as PyTorch stores it, ``bias`` [E] is optional."""
    y = x @ np.transpose(weights.weight)
    return y + weights.bias if "bias" in weights else y


@stage
def rms_norm(x: Float[Array, "... D"], weights: Weights, eps: float) -> Float[Array, "... D"]:
    """Divide by the root mean square, then scale (Zhang & Sennrich 2019); eps is under the root."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return weights.weight * (x / np.sqrt(mean_square + eps))


@stage
def layer_norm(x: Float[Array, "... D"], weights: Weights, eps: float) -> Float[Array, "... D"]:
    """Subtract the mean, divide by the standard deviation, scale and shift (Ba et al. 2016)."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return weights.weight * (centred / np.sqrt(variance + eps)) + weights.bias


# ------------------------------------------------------------------ activations


def softmax(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Exponentials that sum to one along the last axis; the maximum is subtracted first."""
    exponentials = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def sigmoid(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # e^-x may overflow to infinity: 1 / inf = 0 is correct
        return 1 / (1 + np.exp(-x))


def silu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x sigmoid(x), also called swish."""
    return x * sigmoid(x)


def quick_gelu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x sigmoid(1.702 x): CLIP's fast GELU, used in the vision blocks of Qwen2-VL."""
    return x * sigmoid(1.702 * x)


_erf: Any = np.frompyfunc(math.erf, 1, 1)


def gelu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x Phi(x) with the exact error function, used in the merger (not the tanh approximation)."""
    return 0.5 * x * (1 + np.astype(_erf(x / math.sqrt(2)), x.dtype))


def gelu_in_chunks(x: Float[Array, "S D"], rows: int = 64) -> Float[Array, "S D"]:
    """Optimised :func:`gelu`: some rows at a time, as erf creates one Python object per value."""
    return np.concatenate([gelu(x[i : i + rows]) for i in range(0, len(x), rows)] or [x])


@stage
def swiglu_mlp(x: Float[Array, "... D"], mlp: Weights) -> Float[Array, "... D"]:
    """down(silu(gate(x)) * up(x)) (Shazeer 2020): both decoders, Qwen2.5-VL's vision blocks."""
    return linear(silu(linear(x, mlp.gate_proj)) * linear(x, mlp.up_proj), mlp.down_proj)


# ------------------------------------------------------------------ rotary position embedding


def rotary_frequencies(dim: int, theta: float, dtype=np.float32) -> Float[Array, "D"]:
    """theta ** (-2i / dim) for i = 0 .. dim/2 - 1 (Su et al. 2021).

    As in PyTorch, the exponent, the power and the quotient are each rounded to ``dtype``.
    """
    exponent = np.arange(0, dim, 2, dtype=dtype) / dtype(dim)
    return dtype(1) / np.astype(theta ** np.astype(exponent, np.float64), dtype)


def rotate(
    x: Float[Array, "A S d"], cos: Float[Array, "S d"], sin: Float[Array, "S d"]
) -> Float[Array, "A S d"]:
    """Rotate each 2-D pair (x[i], x[i + d/2]) by its angle (pairing as in GPT-NeoX, not i, i+1)."""
    half = cos.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


# ------------------------------------------------------------------ attention
#
# ``key_ranges`` is a compact attention mask: query i attends to the keys
# key_ranges[i, 0] <= j < key_ranges[i, 1]. Window, frame-pair and causal masks all fit this form.


def segment_key_ranges(cu_seqlens: Int[Array, "G"]) -> Int[Array, "S 2"]:
    """Each query attends to its own segment; ``cu_seqlens`` is 0, the end of the first, ..."""
    lengths = np.diff(cu_seqlens)
    return np.repeat(np.stack([cu_seqlens[:-1], cu_seqlens[1:]], axis=1), lengths, axis=0)


def causal_key_ranges(new: int, past: int = 0) -> Int[Array, "S 2"]:
    """Each of ``new`` tokens attends to all ``past`` tokens, those before it, and itself."""
    last = past + 1 + np.arange(new)
    return np.stack([np.zeros_like(last), last], axis=1)


def visible_keys(key_ranges: Int[Array, "S 2"], keys: int) -> Bool[Array, "S K"]:
    """Expand key ranges to a full attention mask: True where a query may attend."""
    j = np.arange(keys)
    return (key_ranges[:, :1] <= j) & (j < key_ranges[:, 1:])


def attention_weights(
    q: Float[Array, "A S d"], k: Float[Array, "B K d"], key_ranges: Int[Array, "S 2"]
) -> Float[Array, "A S K"]:
    """softmax(q k^T / sqrt(d)) over the visible keys: the attention each query pays to each key.

    In grouped-query attention, A / B neighbouring query heads share one key head (Ainslie et al.
    2023). To compute a subset, pass some queries and heads of q with their key ranges.
    """
    k = np.repeat(k, q.shape[0] // k.shape[0], axis=0)
    scores = q @ np.swapaxes(k, 1, 2) * q.shape[-1] ** -0.5
    return softmax(np.where(visible_keys(key_ranges, k.shape[1]), scores, -np.inf))


def attention(
    q: Float[Array, "A S d"],
    k: Float[Array, "B K d"],
    v: Float[Array, "B K d"],
    key_ranges: Int[Array, "S 2"],
) -> Float[Array, "A S d"]:
    """Each query's mean of the visible values, weighted by :func:`attention_weights`."""
    return attention_weights(q, k, key_ranges) @ np.repeat(v, q.shape[0] // v.shape[0], axis=0)


def optimised_attention(
    q: Float[Array, "A S d"],
    k: Float[Array, "B K d"],
    v: Float[Array, "B K d"],
    key_ranges: Int[Array, "S 2"],
) -> Float[Array, "A S d"]:
    """Optimised :func:`attention`: never allocates all of [A, S, K]; windows are batched."""
    starts = np.flatnonzero(np.any(np.diff(key_ranges, axis=0, prepend=-1), axis=1))
    ends = np.append(starts[1:], len(key_ranges))
    windows = np.array_equal(key_ranges[starts], np.stack([starts, ends], axis=1))
    if windows and len(k) == len(q) and len(starts) > 1 and np.max(ends - starts) <= 256:
        return _attention_in_windows(q, k, v, starts, ends - starts)
    return _attention_in_chunks(q, k, v, key_ranges)


def _attention_in_windows(q, k, v, starts, lengths):
    """Windows of equal length are stacked and computed together: [A, windows, length, d]."""
    out = np.empty_like(q)
    for length in np.unique(lengths):
        rows = starts[lengths == length][:, None] + np.arange(length)
        scores = q[:, rows] @ np.swapaxes(k[:, rows], -1, -2) * q.shape[-1] ** -0.5
        out[:, rows] = softmax(scores) @ v[:, rows]
    return out


def _attention_in_chunks(q, k, v, key_ranges, rows: int = 128):
    """Some queries at a time, with the keys visible to any of them: [B, A/B, rows, keys]."""
    queries = np.reshape(q, (len(k), len(q) // len(k), *q.shape[1:]))
    out = np.empty_like(queries)
    for i in range(0, q.shape[1], rows):
        seen = key_ranges[i : i + rows]
        first, last = np.min(seen[:, 0]), np.max(seen[:, 1])
        keys = np.swapaxes(k[:, None, first:last], -1, -2)
        scores = queries[:, :, i : i + rows] @ keys * q.shape[-1] ** -0.5
        if not np.all(seen == (first, last)):
            scores = np.where(visible_keys(seen - first, last - first), scores, -np.inf)
        out[:, :, i : i + rows] = softmax(scores) @ v[:, None, first:last]
    return np.reshape(out, q.shape)


Attend: TypeAlias = Callable[..., np.ndarray]
"""The type of :func:`attention` and :func:`optimised_attention`."""


def attend_to(attend: Attend, weights: Weights, q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
    """``attend(q, k, v, key_ranges)``, recorded as ``<path>.context``; its inputs as ``.q`` ...."""
    given = {"q": q, "k": k, "v": v, "key_ranges": key_ranges}
    given = {name: record(f"{weights.path}.{name}", value) for name, value in given.items()}
    return record(f"{weights.path}.context", attend(*given.values()), **given)


# ------------------------------------------------------------------ the key/value cache


class ReferenceCache:
    """The KV cache: keys and values of all tokens so far, per layer, grown by concatenation."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def whole(self, layers: int) -> int:
        """Number of tokens that all ``layers`` hold: below ``length`` after an interruption."""
        held = [k.shape[1] for k, _ in self.layers.values()]
        return min(held) if len(held) == layers else 0

    def keep(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        self.layers = {i: (k[:, :length], v[:, :length]) for i, (k, v) in self.layers.items()}

    def append(
        self, layer: int, k: Float[Array, "B S d"], v: Float[Array, "B S d"]
    ) -> tuple[Float[Array, "B K d"], Float[Array, "B K d"]]:
        """Append the new tokens' keys and values to a layer; return all of that layer."""
        if layer in self.layers:
            past_k, past_v = self.layers[layer]
            k, v = np.concatenate([past_k, k], axis=1), np.concatenate([past_v, v], axis=1)
        self.layers[layer] = k, v
        return k, v


class KVCache(ReferenceCache):
    """Optimised :class:`ReferenceCache`: capacity is preallocated, so appending copies only the
    new token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def append(
        self, layer: int, k: Float[Array, "B S d"], v: Float[Array, "B S d"]
    ) -> tuple[Float[Array, "B K d"], Float[Array, "B K d"]]:
        """Like :meth:`ReferenceCache.append`, but returns views of the buffers."""
        held = self.layers[layer][0].shape[1] if layer in self.layers else 0
        total = held + k.shape[1]
        if layer not in self.buffers or self.buffers[layer][0].shape[1] < total:
            self.buffers[layer] = self._grown(layer, 0, k, total), self._grown(layer, 1, v, total)
        room_k, room_v = self.buffers[layer]
        room_k[:, held:total], room_v[:, held:total] = k, v
        self.layers[layer] = room_k[:, :total], room_v[:, :total]
        return self.layers[layer]

    def _grown(self, layer: int, which: int, new: np.ndarray, total: int) -> np.ndarray:
        room = np.empty((new.shape[0], total + max(total // 2, 128), new.shape[2]), new.dtype)
        if layer in self.layers:
            past = self.layers[layer][which]
            room[:, : past.shape[1]] = past
        return room


old_names(globals())
