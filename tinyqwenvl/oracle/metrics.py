"""Distances between two arrays: several values to read together.

Correlation is shown but decides nothing, because badly broken models pass it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROWS = 200_000  # values compared at a time: they stay in the cache
MOST = 1e30  # of errors over a standard deviation that may be 0
SAMPLE = 65_536  # values of which the median distance in units of the last place is taken


class Distance(NamedTuple):
    """Distances of a candidate from a reference; a row is the last axis, usually a token."""

    nmse: float  # squared error over squared reference
    cosine_error: float  # 1 - cosine, of the worst row
    max_error: float  # largest error, in standard deviations of the reference
    pearson: float = 1.0  # correlation; for information only
    ulp: float = 0.0  # median distance in units of float32's last place
    not_finite: int = 0  # values of the candidate that are NaN or infinite

    @property
    def cosine(self) -> float:
        """Of the worst row."""
        return 1 - self.cosine_error

    def within(self, nmse: float, cosine: float, max_error: float) -> bool:
        """All three at once, and everything finite."""
        near = self.nmse <= nmse and self.cosine >= cosine and self.max_error <= max_error
        return near and not self.not_finite


def distance(candidate: np.ndarray, reference: np.ndarray, ulp: bool = True) -> Distance:
    """Both arrays [..., D], of one shape. A reference that is not finite where the candidate is the
    same does not count. ``ulp``: whether the median in units of the last place is wanted (slow).
    """
    assert candidate.shape == reference.shape, (candidate.shape, reference.shape)
    width = max(reference.shape[-1], 1) if reference.ndim else 1
    a, b = np.reshape(candidate, (-1, width)), np.reshape(reference, (-1, width))
    if a.size == 0 or (a.dtype == b.dtype and np.array_equal(a, b)):
        return Distance(0.0, 0.0, 0.0)
    dtype = np.float32 if a.dtype.itemsize <= 4 and b.dtype.itemsize <= 4 else np.float64
    sums = np.zeros(6)  # of error^2, error * b, b^2, error, b, not finite
    worst = largest = 0.0
    step = max(1, ROWS // max(width, 1))
    with np.errstate(all="ignore"):
        for i in range(0, len(a), step):
            x: np.ndarray = a[i : i + step].astype(dtype, copy=False)
            y: np.ndarray = b[i : i + step].astype(dtype, copy=False)
            e = x - y
            if not np.isfinite(np.sum(e)):  # a sum is quick, and not finite if anything is not
                good = np.isfinite(x) & np.isfinite(y)
                sums[5] += np.count_nonzero(~good & (x != y) & ~(np.isnan(x) & np.isnan(y)))
                e, y = np.where(good, e, 0), np.where(good, y, 0)
            rows = _row_sums(e, y)
            sums[:3] += rows.sum(axis=1)
            sums[3:5] += np.sum(e, dtype=np.float64), np.sum(y, dtype=np.float64)
            worst = max(worst, float(np.max(_cosine_errors(*rows))))
            largest = max(largest, float(max(np.max(e), -np.min(e))))
    see, seb, sbb, se, sb, bad = sums
    count = a.size
    variance = max(sbb / count - (sb / count) ** 2, 0.0)
    return Distance(
        see / sbb if sbb > 0 else float(see > 0),
        worst,
        min(largest / max(np.sqrt(variance), 1e-300), MOST) if largest else 0.0,
        _pearson(see, seb, sbb, se, sb, count),
        _median_ulp(a, b) if ulp else 0.0,
        int(bad),
    )


def _row_sums(e: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Error^2, error * b and b^2 summed over each row, [3, rows] in float64."""
    pairs = ((e, e), (e, b), (b, b))
    return np.stack([np.einsum("nd,nd->n", x, y).astype(np.float64) for x, y in pairs])


def _cosine_errors(see: np.ndarray, seb: np.ndarray, sbb: np.ndarray) -> np.ndarray:
    """1 - cosine of each row, without the cancellation that 1 - a.b / |a||b| would suffer."""
    saa = np.maximum(sbb + 2 * seb + see, 0)
    a, b = np.sqrt(saa), np.sqrt(sbb)
    longer = (see + 2 * seb) / np.maximum(a + b, 1e-300)  # |a| - |b|
    errors = np.maximum(see - longer**2, 0) / np.maximum(2 * a * b, 1e-300)
    errors = np.where((a > 0) & (b > 0), errors, 1.0)
    return np.minimum(np.where((a == 0) & (b == 0), 0.0, errors), 2.0)


def _pearson(see: float, seb: float, sbb: float, se: float, sb: float, n: int) -> float:
    sa, saa, sab = sb + se, sbb + 2 * seb + see, sbb + seb
    variances = (saa - sa**2 / n) * (sbb - sb**2 / n)
    return float((sab - sa * sb / n) / np.sqrt(variances)) if variances > 0 else float("nan")


def _median_ulp(a: np.ndarray, b: np.ndarray) -> float:
    step = max(1, a.size // SAMPLE)
    x, y = (np.reshape(v, -1)[::step].astype(np.float32) for v in (a, b))
    return float(np.median(np.abs(_ordered(x) - _ordered(y))))


def _ordered(x: np.ndarray) -> np.ndarray:
    """float32 -> int64 such that neighbouring values are 1 apart."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
