"""The decode loop: generate token by token until a stop token, a stop string, or a limit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from .nn import KVCache
from .sampling import GREEDY, Sampling, probability


class LanguageModel(Protocol):
    """The methods of a model that :class:`Generation` uses."""

    def embed(self, inputs: Any) -> Any:
        """Embeddings of the prompt, with the image tokens inserted."""

    def embed_tokens(self, input_ids: Any) -> Any:
        """Embeddings of tokens."""

    def next_logits(self, embeds: Any, position_ids: Any, cache: KVCache) -> Any:
        """Add tokens to the cache; return the logits [V] of the last."""


class Past(NamedTuple):
    """The context before the inputs: the KV cache, which grows, and the ids in it."""

    cache: KVCache  # keys and values of every decoder layer
    ids: Any  # one id per token in the cache


class Generation:
    """The tokens of one answer, generated lazily; without a past, each iteration starts anew.

    The stop token is not yielded. ``finish_reason`` becomes "stop" or "length". ``timings`` holds
    the seconds spent in "vision" (embedding the prompt and its images), "prefill" and "decode".
    ``probabilities`` holds one value per yielded token: its probability under the model
    (:func:`sampling.probability`), independent of temperature and the other sampling steps.
    """

    def __init__(
        self,
        model: LanguageModel,
        inputs: Any,
        stop_ids: Collection[int],
        max_tokens: int,
        sampling: Sampling = GREEDY,
        past: Past | None = None,
    ):
        self.model, self.inputs, self.past = model, inputs, past
        self.stop_ids, self.max_tokens, self.sampling = stop_ids, max_tokens, sampling
        self.finish_reason: str | None = None
        self.probabilities: list[float] = []
        self.timings = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}

    def __iter__(self) -> Iterator[int]:
        model, inputs = self.model, self.inputs
        self.timings = dict.fromkeys(self.timings, 0.0)
        self.probabilities = []
        cache, before = self.past or Past(KVCache(), inputs.input_ids[:0])
        choose, ids = self.sampling.chooser(), np.append(before, inputs.input_ids)
        with self._timed("vision"):
            embeds = model.embed(inputs)
        with self._timed("prefill"):
            logits = model.next_logits(embeds, inputs.position_ids, cache)
        for count in range(1, self.max_tokens + 1):
            token = choose(logits, ids)
            if token in self.stop_ids:
                self.finish_reason = "stop"
                return
            ids = np.append(ids, token)
            self.probabilities.append(probability(logits, token))
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


def until(parts: Iterable[str], stops: Collection[str]) -> Iterator[str]:
    """Yield the parts of a text, but end before the first occurrence of one of ``stops``.

    Text that may be the start of a stop string is held back until that is certain, or until an
    interrupt.
    """
    held, longest = "", max(map(len, stops), default=0)
    try:
        for part in parts:
            held += part
            found = min((held.find(stop) for stop in stops if stop in held), default=len(held))
            may_begin = range(max(0, len(held) - longest + 1), found)
            safe = next((i for i in may_begin if _begins(held[i:], stops)), found)
            yield held[:safe]
            if safe == found < len(held):
                return
            held = held[safe:]
    except KeyboardInterrupt:
        yield held
        raise
    yield held[: min((held.find(stop) for stop in stops if stop in held), default=len(held))]


def _begins(text: str, stops: Collection[str]) -> bool:
    return any(stop.startswith(text) for stop in stops)
