"""Logits -> tokens: greedy decoding until a stop token or a limit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from .dims import Array, Float
from .nn import KVCache


def greedy(logits: Float[Array, "V"]) -> int:
    """The likeliest token; the first of equals. No penalty, no temperature."""
    return int(np.argmax(logits))


class LanguageModel(Protocol):
    """What :class:`Generation` needs of a model."""

    def embed(self, inputs: Any) -> Any:
        """Embeddings of the prompt, image tokens in place."""

    def embed_tokens(self, input_ids: Any) -> Any:
        """Embeddings of tokens."""

    def next_logits(self, embeds: Any, position_ids: Any, cache: KVCache) -> Any:
        """Add tokens to the cache; logits [V] after the last."""


class Generation:
    """The tokens of one answer, made while you iterate over it, afresh each time.

    The stop token is not among them. ``finish_reason`` becomes "stop" or "length"; ``timings``
    holds the seconds spent in "vision" (embedding the prompt and its pictures), "prefill" and
    "decode".
    """

    def __init__(
        self, model: LanguageModel, inputs: Any, stop_ids: Collection[int], max_tokens: int
    ):
        self.model, self.inputs = model, inputs
        self.stop_ids, self.max_tokens = stop_ids, max_tokens
        self.finish_reason: str | None = None
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}

    def __iter__(self) -> Iterator[int]:
        model, inputs, cache = self.model, self.inputs, KVCache()
        with self._timed("vision"):
            embeds = model.embed(inputs)
        with self._timed("prefill"):
            logits = model.next_logits(embeds, inputs.position_ids, cache)
        for count in range(1, self.max_tokens + 1):
            token = greedy(logits)
            if token in self.stop_ids:
                self.finish_reason = "stop"
                return
            yield token
            if count < self.max_tokens:
                with self._timed("decode"):
                    position = np.full((3, 1), cache.length + inputs.rope_delta)
                    logits = model.next_logits(
                        model.embed_tokens(np.array([token])), position, cache
                    )
        self.finish_reason = "length"

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[what] += time.perf_counter() - start
