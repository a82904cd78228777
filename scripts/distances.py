"""How far two arrays are apart: three numbers that have to be read together.

Correlation is not among them: it passes models that are badly broken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Distance(NamedTuple):
    """Of a candidate from a reference, rows being tokens."""

    nmse: float  # squared error over squared reference
    cosine: float  # of the worst row
    max_error: float  # largest error, in standard deviations of the reference

    def within(self, nmse: float, cosine: float, max_error: float) -> bool:
        """All three at once."""
        return self.nmse <= nmse and self.cosine >= cosine and self.max_error <= max_error


def distance(candidate: np.ndarray, reference: np.ndarray) -> Distance:
    """Both arrays [..., D]; shapes must be equal, and everything finite."""
    assert candidate.shape == reference.shape, (candidate.shape, reference.shape)
    a = candidate.astype(np.float64).reshape(-1, candidate.shape[-1])
    b = reference.astype(np.float64).reshape(-1, candidate.shape[-1])
    assert np.isfinite(a).all() and np.isfinite(b).all()
    error = a - b
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.sum(a * b, axis=1) / np.maximum(norms, 1e-300)
    return Distance(
        float(np.sum(error**2) / max(np.sum(b**2), 1e-300)),
        float(np.min(np.where(norms > 0, cosines, 1.0))),
        float(np.max(np.abs(error)) / max(np.std(b), 1e-300)),
    )
