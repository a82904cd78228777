"""Logits of the sampling goldens, shared by the witness and the tests."""

from __future__ import annotations

import numpy as np

SAMPLING_CASES = {
    "repetition_penalty": (0.8, 1.05, 1.5),
    "temperature": (1e-6, 0.1, 0.7, 2.0),
    "top_k": (1, 5, 50, 1000),
    "top_p": (0.001, 0.3, 0.9, 0.999),
}
VOCABULARY = 151_936  # a published one, where rounding in sums begins to count
LARGE = [(std, p) for std in (0.5, 1.0) for p in (0.3, 0.8, 0.9) for _ in range(5)]


def large_logits(row: int, std: float) -> np.ndarray:
    """One row of as many logits as a published model has."""
    return np.random.RandomState(row).normal(0, std, VOCABULARY).astype(np.float32)
