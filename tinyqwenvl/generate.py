"""Logits -> tokens: greedy decoding with a key/value cache, until a stop token or a limit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from .dims import Array, Float
from .nn import KVCache

if TYPE_CHECKING:
    from .model import Inputs, Model


def greedy(logits: Float[Array, "V"]) -> int:
    """The likeliest token; the first of equals. No penalty, no temperature."""
    return int(np.argmax(logits))


class Generation:
    """The tokens of one answer, made while you iterate over it (once).

    The stop token is not among them. ``finish_reason`` becomes "stop" or "length"; ``timings``
    holds the seconds spent in "vision", "prefill" and "decode".
    """

    def __init__(self, model: Model, inputs: Inputs, max_tokens: int):
        self.model, self.inputs, self.max_tokens = model, inputs, max_tokens
        self.finish_reason: str | None = None
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[what] += time.perf_counter() - start

    def __iter__(self) -> Iterator[int]:
        model, inputs, cache = self.model, self.inputs, KVCache()
        with self._timed("vision"):
            embeds = model.embed(inputs)
        with self._timed("prefill"):
            logits = model.next_logits(embeds, inputs.position_ids, cache)
        for _ in range(self.max_tokens):
            token = greedy(logits)
            if token in model.config.eos_token_ids:
                self.finish_reason = "stop"
                return
            yield token
            with self._timed("decode"):
                position = np.full((3, 1), cache.length + inputs.rope_delta)
                embeds = model.embed_tokens(np.array([token]))
                logits = model.next_logits(embeds, position, cache)
        self.finish_reason = "length"
