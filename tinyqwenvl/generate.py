"""Logits -> tokens: greedy decoding until a stop token or a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .dims import Array, Float


def greedy(logits: Float[Array, "V"]) -> int:
    """The likeliest token; the first of equals. No penalty, no temperature."""
    return int(np.argmax(logits))


class Generation:
    """The tokens of one answer, made while you iterate over it (once).

    ``see()`` makes the prompt's embeddings, ``prefill(embeddings)`` the logits after it, and
    ``step(token)`` those after one more token. The stop token is not among the tokens.
    ``finish_reason`` becomes "stop" or "length"; ``timings`` holds the seconds spent in "vision",
    "prefill" and "decode".
    """

    def __init__(
        self,
        see: Callable[[], Any],
        prefill: Callable[[Any], Float[Array, "V"]],
        step: Callable[[int], Float[Array, "V"]],
        stop_ids: Collection[int],
        max_tokens: int,
    ):
        self.see, self.prefill, self.step = see, prefill, step
        self.stop_ids, self.max_tokens = stop_ids, max_tokens
        self.finish_reason: str | None = None
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}

    def __iter__(self) -> Iterator[int]:
        with self._timed("vision"):
            embeddings = self.see()
        with self._timed("prefill"):
            logits = self.prefill(embeddings)
        for count in range(self.max_tokens):
            token = greedy(logits)
            if token in self.stop_ids:
                self.finish_reason = "stop"
                return
            yield token
            if count + 1 < self.max_tokens:
                with self._timed("decode"):
                    logits = self.step(token)
        self.finish_reason = "length"

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[what] += time.perf_counter() - start
