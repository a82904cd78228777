"""The shared arithmetic: linear, norms, activations, rotation, attention, the key/value cache.

Every operation has a reference form: NumPy functions only, no item assignment, no branch on data,
so that it can be read aloud and traced. The few optimised forms stand right below their reference
form and are tested to be equal to it.
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
    """Divide by the root mean square, then scale (Zhang & Sennrich 2019); eps is in the root."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return weights.weight * (x / np.sqrt(mean_square + eps))


@stage
def layer_norm(x: Float[Array, "... D"], weights: Weights, eps: float) -> Float[Array, "... D"]:
    """Take off the mean, divide by the standard deviation, scale and shift (Ba et al. 2016)."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return weights.weight * (centred / np.sqrt(variance + eps)) + weights.bias


# ------------------------------------------------------------------ activations


def softmax(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Exponentials that sum to one along the last axis; the maximum is taken off first."""
    exponentials = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True)


def sigmoid(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # e^-x may overflow to infinity: 1 / inf = 0 is the answer
        return 1 / (1 + np.exp(-x))


def silu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x sigmoid(x), also called swish."""
    return x * sigmoid(x)


def quick_gelu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x sigmoid(1.702 x): the cheap GELU of CLIP, used in the blocks of Qwen2-VL."""
    return x * sigmoid(1.702 * x)


_erf: Any = np.frompyfunc(math.erf, 1, 1)


def gelu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x Phi(x) with the exact error function, used in the merger (not the tanh approximation)."""
    return 0.5 * x * (1 + np.astype(_erf(x / math.sqrt(2)), x.dtype))


def gelu_in_chunks(x: Float[Array, "S D"], rows: int = 64) -> Float[Array, "S D"]:
    """Optimised form of :func:`gelu`: a few rows at a time, as erf makes one Python object a
    number.
    """
    return np.concatenate([gelu(x[i : i + rows]) for i in range(0, len(x), rows)] or [x])


@stage
def swiglu_mlp(x: Float[Array, "... D"], mlp: Weights) -> Float[Array, "... D"]:
    """silu(gate) * up, then narrow (Shazeer 2020): both decoders and Qwen2.5-VL's vision blocks."""
    return linear(silu(linear(x, mlp.gate_proj)) * linear(x, mlp.up_proj), mlp.down_proj)


# ------------------------------------------------------------------ rotary position embedding


def rotary_frequencies(dim: int, theta: float, dtype=np.float32) -> Float[Array, "D"]:
    """theta ** (-2i / dim) for i = 0 .. dim/2 - 1 (Su et al. 2021).

    Rounded in PyTorch's order: the exponent, the power and the quotient each to ``dtype``.
    """
    exponent = np.arange(0, dim, 2, dtype=dtype) / dtype(dim)
    return dtype(1) / np.astype(theta ** np.astype(exponent, np.float64), dtype)


def rotate(
    x: Float[Array, "A S d"], cos: Float[Array, "S d"], sin: Float[Array, "S d"]
) -> Float[Array, "A S d"]:
    """Turn each pair (x[i], x[i + d/2]) by its angle. ("half" pairing, as GPT-NeoX; not i, i+1)."""
    half = cos.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


# ------------------------------------------------------------------ attention
#
# ``key_ranges`` is a compact attention mask: query i attends to the keys
# key_ranges[i, 0] <= j < key_ranges[i, 1]. Windows, frames and the causal mask all have this form.


def segment_key_ranges(cu_seqlens: Int[Array, "G"]) -> Int[Array, "S 2"]:
    """Every row sees its own segment; ``cu_seqlens`` is 0, the end of the first segment, ..."""
    lengths = np.diff(cu_seqlens)
    return np.repeat(np.stack([cu_seqlens[:-1], cu_seqlens[1:]], axis=1), lengths, axis=0)


def causal_key_ranges(new: int, past: int = 0) -> Int[Array, "S 2"]:
    """Row i of ``new`` tokens sees all ``past`` ones, those before it, and itself."""
    last = past + 1 + np.arange(new)
    return np.stack([np.zeros_like(last), last], axis=1)


def visible_keys(key_ranges: Int[Array, "S 2"], keys: int) -> Bool[Array, "S K"]:
    """The key ranges as an attention mask: True where a query may attend."""
    j = np.arange(keys)
    return (key_ranges[:, :1] <= j) & (j < key_ranges[:, 1:])


def attention_weights(
    q: Float[Array, "A S d"], k: Float[Array, "B K d"], key_ranges: Int[Array, "S 2"]
) -> Float[Array, "A S K"]:
    """softmax(q k^T / sqrt(d)) over the visible keys: how much each row looks at each key.

    With fewer key heads than query heads, A / B neighbouring query heads share one (Ainslie et al.
    2023). Pass some rows and heads of q (and their key ranges) for just those.
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
    """Each row takes the mean of the values it can see, weighted by :func:`attention_weights`."""
    return attention_weights(q, k, key_ranges) @ np.repeat(v, q.shape[0] // v.shape[0], axis=0)


def optimised_attention(
    q: Float[Array, "A S d"],
    k: Float[Array, "B K d"],
    v: Float[Array, "B K d"],
    key_ranges: Int[Array, "S 2"],
) -> Float[Array, "A S d"]:
    """Optimised form of :func:`attention`: never makes all [A, S, K]; windows go in batches."""
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
    """A block of rows at a time, against the keys that any of them sees: [B, A/B, rows, keys]."""
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
    """Keys and values of the tokens seen so far, one pair a layer, grown by concatenation."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def length(self) -> int:
        """How many tokens are held."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def whole(self, layers: int) -> int:
        """How many tokens all ``layers`` hold: fewer than ``length`` after an interruption."""
        held = [k.shape[1] for k, _ in self.layers.values()]
        return min(held) if len(held) == layers else 0

    def keep(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.layers = {i: (k[:, :length], v[:, :length]) for i, (k, v) in self.layers.items()}

    def append(
        self, layer: int, k: Float[Array, "B S d"], v: Float[Array, "B S d"]
    ) -> tuple[Float[Array, "B K d"], Float[Array, "B K d"]]:
        """Add the new tokens' keys and values to a layer; return all of that layer's."""
        if layer in self.layers:
            past_k, past_v = self.layers[layer]
            k, v = np.concatenate([past_k, k], axis=1), np.concatenate([past_v, v], axis=1)
        self.layers[layer] = k, v
        return k, v


class KVCache(ReferenceCache):
    """Optimised form of :class:`ReferenceCache`: room is taken ahead, so a new token copies only
    itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def append(
        self, layer: int, k: Float[Array, "B S d"], v: Float[Array, "B S d"]
    ) -> tuple[Float[Array, "B K d"], Float[Array, "B K d"]]:
        """As :meth:`ReferenceCache.append`; what it returns are views of the room."""
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
