"""Check the arguments of :class:`~.model.Model`'s methods: a one-line error instead of a crash.

The stages themselves check nothing and need matching arrays. Every function here raises UserError,
or returns its argument as an array (lists of numbers become arrays).
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from .config import Config
from .dims import Array, Int
from .errors import UserError

MOST_SECONDS = 10**6  # per temporal patch: above any video, far below an overflow of positions
KINDS = {"i": "integers", "f": "floating point"}
MEDIA = (  # the fields of a prompt for images and videos, and the name of each medium
    ("pixel_values", "image_grid_thw", "image"),
    ("pixel_values_videos", "video_grid_thw", "video"),
)


def array_of(value: Any, name: str, kind: str, shape: str) -> np.ndarray:
    """``value`` as an array of ``kind`` "i" or "f" and a ``shape`` such as "S" or "3 S"."""
    axes = shape.split()
    expected = f"{name} must be {KINDS[kind]} of shape [{', '.join(axes)}]"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        raise UserError(f"{expected}, not ragged lists or other objects") from None
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64 if kind == "i" else np.float32)  # an empty list has no type
    if array.dtype.kind not in {"i": "iu", "f": "f"}[kind]:
        raise UserError(f"{expected}, not {_type_of(value, array)}")
    fits = array.ndim == len(axes) and all(
        not axis.isdigit() or int(axis) == size
        for axis, size in zip(axes, array.shape, strict=True)
    )
    if not fits:
        raise UserError(f"{expected}, not {list(array.shape)}")
    return array


def _type_of(value: Any, array: np.ndarray) -> str:
    return type(value).__name__ if array.dtype.kind in "OUS" else str(array.dtype)


def token_ids(ids: Any, vocabulary: int, name: str = "input_ids") -> Int[Array, "S"]:
    """Token ids [S], at least one, all of them in the vocabulary."""
    array = array_of(ids, name, "i", "S")
    if array.size == 0 or np.min(array) < 0 or np.max(array) >= vocabulary:
        raise UserError(
            f"the prompt has no tokens, or one outside the vocabulary of {vocabulary} tokens: "
            "do tokenizer and config.json match?"
        )
    return array


def grids(value: Any, config: Config, name: str) -> Int[Array, "I 3"]:
    """(t, h, w) of each image or video in patches; h and w are multiples of the merge size."""
    array = array_of(value, name, "i", "I 3")
    merge = config.vision.spatial_merge_size
    for t, h, w in array.tolist():
        if min(t, h, w) < 1 or h % merge or w % merge:
            raise UserError(
                f"{name} has a grid of {t}, {h}, {w}; it needs at least one frame pair, and rows "
                f"and columns of patches that are multiples of {merge}"
            )
    return array


def patches(pixels: Any, grid_thw: np.ndarray, config: Config, name: str) -> np.ndarray:
    """Patches [N, P]: finite floating-point values, as many patches as the grids need."""
    vision = config.vision
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    array = array_of(pixels, name, "f", f"N {size}")
    needed = sum(t * h * w for t, h, w in grid_thw.tolist())
    if len(array) != needed:
        raise UserError(f"{name} has {len(array)} patches; its grids need {needed}")
    if not np.all(np.isfinite(array)):
        bad = np.count_nonzero(~np.isfinite(array))
        raise UserError(f"{name} has {bad} values that are not finite (NaN or infinity)")
    return array


def seconds(value: Any, videos: int) -> Sequence[float] | None:
    """One finite number of seconds per video, or None."""
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError):
        raise UserError("second_per_grid_ts must be numbers, one per video") from None
    if array.shape != (videos,):
        raise UserError(f"{videos} videos need as many second_per_grid_ts, not {array.size}")
    if not np.all((array >= 0) & (array <= MOST_SECONDS)):
        raise UserError(f"second_per_grid_ts must be between 0 and {MOST_SECONDS:,} seconds")
    return value


def media_of_positions(media: Any, config: Config) -> dict[str, Any]:
    """The grids and seconds of a prompt's media, for its positions."""
    if not isinstance(media, Mapping):
        raise UserError('media must be a dict such as {"image_grid_thw": [[1, 4, 6]]}')
    found: dict[str, Any] = {}
    for _, name, _ in MEDIA:
        if media.get(name) is not None:
            found[name] = grids(media[name], config, name)
    videos = len(found.get("video_grid_thw", ()))
    if media.get("second_per_grid_ts") is not None:
        found["second_per_grid_ts"] = seconds(media["second_per_grid_ts"], videos)
    return found


def prompt(inputs: Any, config: Config) -> Any:
    """Inputs whose fields are arrays that match each other and the model."""
    needed = ("input_ids", *(name for pair in MEDIA for name in pair[:2]))
    given: Any = inputs if is_dataclass(inputs) else None
    if given is None or not {field.name for field in fields(given)}.issuperset(needed):
        raise UserError(f"inputs must come from Model.prepare, not be {type(inputs).__name__}")
    ids = token_ids(given.input_ids, config.text.vocab_size)
    checked: dict[str, Any] = {"input_ids": ids}
    placeholders = {"image": config.image_token_id, "video": config.video_token_id}
    for pixels_name, grid_name, what in MEDIA:
        pixels, grid_thw = getattr(given, pixels_name), getattr(given, grid_name)
        if (pixels is None) != (grid_thw is None):
            missing = pixels_name if pixels is None else grid_name
            raise UserError(
                f"the prompt has no {missing}, but the other field of the pair is there"
            )
        tokens = 0
        if pixels is not None:
            grid_thw = grids(grid_thw, config, grid_name)
            checked[grid_name] = grid_thw if len(grid_thw) else None
            pixels = patches(pixels, grid_thw, config, pixels_name)
            checked[pixels_name] = pixels if len(grid_thw) else None
            tokens = len(pixels) // config.vision.merged_patches
        found = np.count_nonzero(ids == placeholders[what])
        if found != tokens:
            raise UserError(
                f"the prompt must have {tokens} placeholders for its {what} tokens, not {found}"
            )
    return replace(given, **checked)


def positions(position_ids: Any, tokens: int) -> Int[Array, "3 S"]:
    """Positions [3, S]: one per axis and token."""
    array = array_of(position_ids, "position_ids", "i", "3 S")
    if array.shape[1] != tokens:
        raise UserError(f"position_ids are of {array.shape[1]} tokens; the prompt has {tokens}")
    return array


def embeddings(embeds: Any, config: Config) -> np.ndarray:
    """Embeddings [S, hidden size] of at least one token."""
    array = array_of(embeds, "embeddings", "f", f"S {config.text.hidden_size}")
    if len(array) == 0:
        raise UserError("there are no embeddings: the decoder needs at least one token")
    return array


def key_value_cache(cache: Any, config: Config) -> None:
    """A cache that is empty, or matches this model's layers, heads and head dimension."""
    if cache is None:
        return
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, dict):
        raise UserError(f"a cache must be a KVCache or ReferenceCache, not {type(cache).__name__}")
    text = config.text
    held = any(k.shape[1] for k, _ in layers.values())  # empty after an interrupted prefill
    if held and (
        len(layers) != text.num_hidden_layers
        or any(
            k.shape[::2] != (text.num_key_value_heads, text.head_dim) for k, _ in layers.values()
        )
        or len({k.shape[1] for k, _ in layers.values()}) != 1
    ):
        raise UserError(
            "the key/value cache is of another model, or a pass over it was interrupted"
        )


def generation(max_tokens: Any, rope_delta: Any, sampling: Any) -> None:
    """The other arguments of a generation, besides its prompt and its past."""
    if not isinstance(max_tokens, numbers.Integral) or max_tokens < 0:
        raise UserError(f"max_tokens is {max_tokens!r}; it must be an integer, at least 0")
    if not isinstance(rope_delta, numbers.Integral):
        raise UserError(f"rope_delta is {_short(rope_delta)}; it must be an integer")
    if not callable(getattr(sampling, "chooser", None)):
        raise UserError(f"sampling must be a Sampling, not {type(sampling).__name__}")


def past_ids(past: Any) -> Int[Array, "S"]:
    """The ids of a past (cache, ids): as many as its cache has tokens."""
    cache, ids = past if isinstance(past, tuple) and len(past) == 2 else (None, None)
    held = getattr(cache, "length", None)
    if held is None or ids is None:
        raise UserError("past must be a Past: a key/value cache and the ids in it")
    ids = array_of(ids, "the ids of the past", "i", "S")
    if len(ids) != held:
        raise UserError(f"the past has {len(ids)} ids, but its cache holds {held} tokens")
    return ids


def _short(value: Any) -> str:
    """The value in one line."""
    return " ".join(repr(value).split())[:60]


def chosen(which: Any, count: int, name: str) -> Int[Array, "S"]:
    """The indices that an index, a list of indices or a slice selects among ``count``."""
    try:
        return np.atleast_1d(np.arange(count)[which])
    except (IndexError, TypeError, ValueError):
        raise UserError(f"{name} must be indices or a slice of {count}") from None
