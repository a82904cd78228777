"""Batch several samples: padded to one length, or packed into one sequence.

Our model runs one sequence at a time. This module builds the arrays that a training loop or another
implementation needs for many: ids, labels, attention mask, positions and rope deltas. A sample is
the output of :class:`~.transform.Transform`, or the :class:`~.model.Inputs` of a prompt.

No token attends to padding or to another sample, so every sample keeps its own positions and
logits. ``get_rope_index`` of transformers gives the same with the attention mask. Positions of
padding have no meaning; we write 0, as it does (versions 4.49 to 5.0 write 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from . import checks
from .config import Config
from .dims import Array, Bool, Int
from .errors import UserError
from .model import Inputs
from .nn import segment_key_ranges, visible_keys
from .position import rope_index

IGNORED = -100  # label of a token excluded from the loss, PyTorch's ignore_index
SIDES = ("right", "left")
PIXELS = ("pixel_values", "pixel_values_videos")
GRIDS = ("image_grid_thw", "video_grid_thw")


@dataclass(frozen=True)
class Media:
    """The images and videos of all samples, in the order of their placeholders."""

    pixel_values: np.ndarray | None  # [N, P], as in a single prompt
    image_grid_thw: np.ndarray | None  # [I, 3]
    pixel_values_videos: np.ndarray | None  # [Q, P], as in a single prompt
    video_grid_thw: np.ndarray | None  # [J, 3]
    second_per_grid_ts: tuple[float, ...]  # seconds per temporal patch of each video


@dataclass(frozen=True)
class Batch:
    """Samples padded to one length S; B of them."""

    input_ids: np.ndarray  # [B, S] int64; padding holds pad_id
    attention_mask: np.ndarray  # [B, S] int64: 1 for a token, 0 for padding
    labels: np.ndarray  # [B, S] int64; -100 is excluded from the loss
    position_ids: np.ndarray  # [B, 3, S] int64; transformers swaps the first two axes
    rope_deltas: np.ndarray  # [B] int64; without padding
    media: Media  # images and videos of all samples
    samples: tuple[Inputs, ...]  # one by one, for the model

    def causal_mask(self) -> np.ndarray:
        """[B, S, S]: True where a query (axis 1) attends to a key (axis 2); padding to nothing."""
        real = self.attention_mask.astype(bool)
        causal = np.tril(np.ones((real.shape[1], real.shape[1]), bool))
        return causal & real[:, :, None] & real[:, None, :]


@dataclass(frozen=True)
class Packed:
    """Samples packed into one sequence of S tokens; positions restart in each sample."""

    input_ids: Int[Array, "S"]  # the samples' tokens, concatenated
    labels: Int[Array, "S"]  # -100 for a sample's first token, which no token predicts
    position_ids: Int[Array, "3 S"]  # time, height, width
    cu_seqlens: Int[Array, "G"]  # 0, end of the first sample, ... as in flash attention
    segment_ids: Int[Array, "S"]  # the sample that each token belongs to
    rope_deltas: np.ndarray  # of each sample
    media: Media  # images and videos of all samples
    samples: tuple[Inputs, ...]  # one by one, for the model

    @property
    def key_ranges(self) -> Int[Array, "S 2"]:
        """The attention mask as key ranges: a token attends to its own sample, up to itself."""
        own = segment_key_ranges(self.cu_seqlens)
        return np.stack([own[:, 0], np.arange(len(own)) + 1], axis=1)

    def causal_mask(self) -> Bool[Array, "S K"]:
        """The same as a block-diagonal array: True where a query attends to a key."""
        return visible_keys(self.key_ranges, len(self.input_ids))


def pad(
    samples: Sequence[Any],
    config: Config,
    pad_id: int,
    side: str = "right",
    max_length: int | None = None,
    multiple_of: int = 1,
) -> Batch:
    """Pad samples with ``pad_id`` on one side, to the longest of them or to ``max_length``.

    The length is then rounded up to ``multiple_of``. Raises UserError if a sample is longer than
    ``max_length``: truncate it with ``Transform(max_seq_len=...)``, which keeps images whole.
    """
    if side not in SIDES:
        raise UserError(f"side is {side!r}; it must be one of {', '.join(SIDES)}")
    _check_integer("pad_id", pad_id, 0)
    _check_integer("multiple_of", multiple_of, 1)
    _check_integer("max_length", 1 if max_length is None else max_length, 1)
    if pad_id >= config.text.vocab_size:
        raise UserError(f"pad_id is {pad_id}; the vocabulary has {config.text.vocab_size} tokens")
    read, labels = _read(samples, config)
    longest = max(len(sample.input_ids) for sample in read)
    if max_length is not None and longest > max_length:
        raise UserError(
            f"a sample has {longest} tokens, more than max_length {max_length}; truncate it with "
            "Transform(max_seq_len=...), which keeps images whole"
        )
    length = -(-(max_length or longest) // multiple_of) * multiple_of

    def padded(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
        return np.stack([_padded(row, length, side, value) for row in rows])

    return Batch(
        padded([sample.input_ids for sample in read], pad_id),
        padded([np.ones(len(sample.input_ids), np.int64) for sample in read], 0),
        padded(labels, IGNORED),
        padded([sample.position_ids for sample in read], 0),
        np.array([sample.rope_delta for sample in read]),
        _media(read),
        tuple(read),
    )


def pack(samples: Sequence[Any], config: Config, max_length: int | None = None) -> Packed:
    """Pack all samples into one sequence. Raises UserError above ``max_length`` tokens."""
    _check_integer("max_length", 1 if max_length is None else max_length, 1)
    read, labels = _read(samples, config)
    lengths = [len(sample.input_ids) for sample in read]
    if max_length is not None and sum(lengths) > max_length:
        raise UserError(
            f"the samples have {sum(lengths)} tokens together, more than max_length {max_length}; "
            "pack fewer of them"
        )
    return Packed(
        np.concatenate([sample.input_ids for sample in read]),
        np.concatenate(labels),
        np.concatenate([sample.position_ids for sample in read], axis=1),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.repeat(np.arange(len(read)), lengths),
        np.array([sample.rope_delta for sample in read]),
        _media(read),
        tuple(read),
    )


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name} is {value!r}; it must be an integer, at least {least}")


def inputs_of(sample: Any, config: Config) -> Inputs:
    """Convert one sample to the inputs of the model. Raises UserError."""
    return _read([sample], config)[0][0]


def _padded(row: np.ndarray, length: int, side: str, value: int) -> np.ndarray:
    missing = length - row.shape[-1]
    ends = (missing, 0) if side == "left" else (0, missing)
    return np.pad(row, [(0, 0)] * (row.ndim - 1) + [ends], constant_values=value)


def _read(samples: Sequence[Any], config: Config) -> tuple[list[Inputs], list[np.ndarray]]:
    """Each sample as inputs, and its labels."""
    if not isinstance(samples, (list, tuple)) or not samples:
        raise UserError("give a list of samples, at least one")
    read, labels = [], []
    for sample in samples:
        inputs, left_out = (
            _from_prompt(sample) if isinstance(sample, Inputs) else _from_dict(sample)
        )
        inputs = _placed(inputs, config)
        if len(left_out) != len(inputs["input_ids"]):
            raise UserError(
                f"a sample has {len(inputs['input_ids'])} tokens, but a mask of {len(left_out)}"
            )
        read.append(Inputs(**inputs))
        own = np.where(left_out, IGNORED, inputs["input_ids"])
        own[0] = IGNORED  # no token of this sample predicts it
        labels.append(own)
    return read, labels


def _from_prompt(prompt: Inputs) -> tuple[dict[str, Any], np.ndarray]:
    names = ("input_ids", *PIXELS, *GRIDS, "second_per_grid_ts")
    return {name: getattr(prompt, name) for name in names}, np.ones(len(prompt.input_ids), bool)


def _from_dict(sample: Any) -> tuple[dict[str, Any], np.ndarray]:
    if not isinstance(sample, Mapping) or "tokens" not in sample or "mask" not in sample:
        raise UserError("a sample must be the output of Transform: a dict with tokens and mask")
    encoder = sample.get("encoder_input") or {}
    vision = encoder.get("vision") or {} if isinstance(encoder, Mapping) else {}
    images = vision.get("images") or []
    inputs: dict[str, Any] = {"input_ids": sample["tokens"]}
    if len(images):
        if vision.get("image_grid_thw") is None:
            raise UserError("a sample has images without image_grid_thw; make it with Transform")
        inputs["image_grid_thw"] = vision["image_grid_thw"]
        inputs["pixel_values"] = np.concatenate(images)
    try:
        return inputs, np.asarray(sample["mask"], dtype=bool).reshape(-1)
    except ValueError:
        raise UserError("the mask of a sample must be a list of booleans, one per token") from None


def _placed(inputs: dict[str, Any], config: Config) -> dict[str, Any]:
    """The fields of Inputs with checked ids, positions and rope delta."""
    ids = checks.token_ids(inputs["input_ids"], config.text.vocab_size, "tokens")
    found = checks.media_of_positions(inputs, config)
    images, videos, seconds = (found.get(name) for name in (*GRIDS, "second_per_grid_ts"))
    positions, delta = rope_index(ids, config, images, videos, seconds)
    for pixels, grids in zip(PIXELS, GRIDS, strict=True):
        patches = 0 if inputs.get(pixels) is None else len(inputs[pixels])
        needed = sum(t * h * w for t, h, w in found.get(grids, np.zeros((0, 3), int)).tolist())
        if patches != needed:
            raise UserError(f"a sample has {patches} patches in {pixels}; its grids need {needed}")
    placed = {"input_ids": ids, "position_ids": positions, "rope_delta": delta}
    return {**inputs, **found, **placed, "second_per_grid_ts": _seconds(inputs, found)}


def _seconds(inputs: dict[str, Any], found: dict[str, Any]) -> tuple[float, ...]:
    videos = len(found.get("video_grid_thw", ()))
    return tuple(inputs.get("second_per_grid_ts") or [1.0] * videos)  # as rope_index has it


def _media(samples: Sequence[Inputs]) -> Media:
    def joined(name: str) -> np.ndarray | None:
        parts = [getattr(s, name) for s in samples if getattr(s, name) is not None]
        return np.concatenate(parts) if parts else None

    seconds = tuple(s for sample in samples for s in sample.second_per_grid_ts)
    images, videos = ((joined(p), joined(g)) for p, g in zip(PIXELS, GRIDS, strict=True))
    return Media(*images, *videos, seconds)
