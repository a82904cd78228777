"""Choose the next token from the logits: greedy decoding or random sampling.

The steps are those of transformers' ``generate``, in its order: repetition penalty, temperature,
top-k, top-p. Each gives the same values as its processor (``RepetitionPenaltyLogitsProcessor``,
``TemperatureLogitsWarper``, ``TopKLogitsWarper``, ``TopPLogitsWarper``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dims import Array, Float, Int
from .errors import UserError
from .nn import softmax

# ------------------------------------------------------------------ the steps


def greedy(logits: Float[Array, "V"]) -> int:
    """Greedy decoding: the argmax, the first one if several logits tie."""
    return int(np.argmax(logits))


def penalise(logits: Float[Array, "V"], ids: Int[Array, "S"], penalty: float) -> Float[Array, "V"]:
    """Repetition penalty: make every token of ``ids`` less likely, once however often it occurs.

    ``ids`` are the whole prompt (system text and placeholders too) and the answer so far. A
    positive logit is divided by ``penalty``, a negative one multiplied (Keskar et al. 2019).
    """
    seen = np.isin(np.arange(logits.shape[0]), ids)
    return np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Array, "V"], k: int) -> Float[Array, "V"]:
    """Set all but the ``k`` largest logits to -inf (Fan et al. 2018); ties with the k-th stay."""
    least = np.sort(logits)[-min(k, logits.shape[0])]
    return np.where(logits < least, -np.inf, logits)


def keep_top_p(logits: Float[Array, "V"], p: float) -> Float[Array, "V"]:
    """Nucleus sampling: keep the most probable tokens that reach ``p`` (Holtzman et al. 2020).

    The token that crosses ``p`` stays, so at least one does; the others become -inf. Cumulative
    sums are computed in float64 and each rounded to float32, as in PyTorch.
    """
    ascending = np.argsort(logits, kind="stable")
    sums = np.cumsum(softmax(np.take(logits, ascending)), dtype=np.float64)
    below = np.astype(sums, np.float32) <= np.float32(1 - p)
    dropped = below & (np.arange(logits.shape[0]) < logits.shape[0] - 1)
    return np.where(np.take(dropped, np.argsort(ascending)), -np.inf, logits)


def probability(logits: Float[Array, "V"], token: int) -> float:
    """The probability of a token under the model: softmax of its raw logits, before the steps."""
    most = np.max(logits)
    return float(np.exp(logits[token] - most) / np.sum(np.exp(logits - most)))


def draw(logits: Float[Array, "V"], random: float) -> int:
    """The token at which the cumulative probability exceeds ``random``, a value in [0, 1)."""
    sums = np.cumsum(softmax(np.astype(logits, np.float64)))
    return int(np.searchsorted(sums, random * sums[-1], side="right"))


# ------------------------------------------------------------------ the whole pipeline


def _within(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults mean greedy decoding."""

    temperature: float = 0.0  # 0: greedy decoding; top_k, top_p and seed are ignored
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0  # cumulative probability that is kept; 1: all tokens
    repetition_penalty: float = 1.0  # applies at temperature 0 too
    seed: int | None = None  # None: a new one each time

    def __post_init__(self) -> None:
        heat, seed = self.temperature, self.seed
        self._must("temperature", heat == 0 or _within(heat, 1e-6, 1e6), "0, or from 1e-6 to 1e6")
        self._must("top_k", _whole(self.top_k), "an integer from 0")
        self._must("top_p", _within(self.top_p, 1e-9, 1), "over 0 and at most 1")
        penalty = _within(self.repetition_penalty, 1e-3, 1e3)
        self._must("repetition_penalty", penalty, "from 0.001 to 1000")
        self._must("seed", seed is None or _whole(seed), "an integer from 0")

    def _must(self, name: str, good: bool, kind: str) -> None:
        if not good:
            raise UserError(f"{name} is {getattr(self, name)!r}; it must be {kind}")

    def scores(self, logits: Float[Array, "V"], ids: Int[Array, "S"]) -> Float[Array, "V"]:
        """The processed logits from which the token is chosen; ``ids`` are prompt and answer."""
        if self.repetition_penalty != 1:
            logits = penalise(logits, ids, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        logits = logits / self.temperature
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        return keep_top_p(logits, self.top_p) if self.top_p < 1 else logits

    def chooser(self) -> Callable[[np.ndarray, np.ndarray], int]:
        """A function (logits, ids) -> token with its own random generator."""
        rng = np.random.default_rng(self.seed)

        def choose(logits: np.ndarray, ids: np.ndarray) -> int:
            if not np.isfinite(np.max(logits)):
                raise UserError(
                    "the logits contain NaN or infinity; --check-finite (tracing.check_finite) "
                    "names the first stage that produces one"
                )
            scores = self.scores(logits, ids)
            return draw(scores, rng.random()) if self.temperature else greedy(scores)

        return choose


GREEDY = Sampling()
# Other settings of a generation_config.json that would change the answer.
NOT_FOLLOWED = {
    "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "num_beams": 1,
    "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_new_tokens": 0,
    "min_length": 0, "bad_words_ids": None, "suppress_tokens": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "begin_suppress_tokens": None, "sequence_bias": None,
    "exponential_decay_length_penalty": None, "guidance_scale": None,
}  # fmt: skip


def not_followed(generation: Mapping[str, Any]) -> list[str]:
    """The settings of a ``generation_config.json`` that :func:`published` ignores."""
    return [n for n, off in NOT_FOLLOWED.items() if generation.get(n) not in (None, off)]


def published(generation: Mapping[str, Any], **asked: Any) -> Sampling:
    """The sampling a ``generation_config.json`` recommends; ``asked`` wins where it is not None.

    transformers applies the repetition penalty even if ``do_sample`` is false.
    """
    names = ["repetition_penalty"]
    if generation.get("do_sample"):
        names += ["temperature", "top_k", "top_p"]
    # Defaults of transformers' GenerationConfig.
    defaults = {"temperature": 1.0, "top_k": 50}
    settings: dict[str, Any] = defaults if generation.get("do_sample") else {}
    settings |= {n: generation[n] for n in names if generation.get(n) is not None}
    settings |= {n: v for n, v in asked.items() if v is not None}
    try:
        return Sampling(**settings)
    except UserError as error:
        raise UserError(f"generation_config.json or the options: {error}") from None
