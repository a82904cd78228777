"""The tolerance of a stage: a multiple of its noise floor, the error of rounding alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .dump import Dump, Entry
from .metrics import Distance

# Tolerance over noise floor, for NMSE and 1 - cosine. Both are quadratic in the error, so for the
# largest error it is the square root. scripts/calibrate_oracle.py measured it (docs/oracle.md).
MULTIPLE = {"float32": 100.0, "float16": 16.0, "bfloat16": 16.0, "int8": 16.0}
# No tolerance is smaller: half a unit of the last place of each value, squared.
LEAST = {"float32": 1e-14, "float16": 2e-7, "bfloat16": 1.5e-5, "int8": 1e-14}
# Where a dump has no noise floors: (NMSE, 1 - cosine of the worst row, largest error / std).
BANDS = {
    "float32": (1e-9, 1e-5, 1e-4), "float16": (1e-5, 5e-4, 2e-2), "bfloat16": (1e-3, 5e-3, 1e-1),
    "int8": (1e-2, 2e-2, 5e-1),
}  # fmt: skip
HOPELESS = 0.5  # a tolerance (of NMSE or 1 - cosine) that zeros or noise would pass
NAMES = ("nmse", "cosine_error", "max_error")
Limits: TypeAlias = tuple[float, float, float]


def band(
    entry: Entry,
    precision: str,
    scope: str = "entire",
    multiple: float | None = None,
    reference: Dump | None = None,
) -> Limits:
    """The tolerance of a stage: (NMSE, 1 - cosine of the worst row, largest error / std).

    The floor of a decoding step is measured on a single token, so it may be small by chance. With
    a ``reference`` it is never below that of the prompt's call of the same stage. No format has a
    smaller tolerance than float32.
    """
    calls = [entry]
    if reference is not None and entry.call and not entry.name.startswith("image."):
        prompt = reference.get(entry.name, 0)
        calls += [prompt] if prompt is not None else []
    floors = [call.info.get("floor") or {} for call in calls]
    found = _band(floors, precision, scope, multiple)
    if precision == "float32" or "float32" not in floors[0]:
        return found
    finest = _band(floors, "float32", scope, None)
    return max(found[0], finest[0]), max(found[1], finest[1]), max(found[2], finest[2])


def _band(
    floors: Sequence[Mapping[str, Any]], precision: str, scope: str, multiple: float | None
) -> Limits:
    """From the floors of the stage's own call first, and of others that count."""
    formats = {precision, "float32"}
    known = [call[p][scope] for call in floors for p in formats if scope in call.get(p, {})]
    if precision not in floors[0] or not known:
        return BANDS[precision]
    least, multiple = LEAST[precision], multiple or MULTIPLE[precision]
    nmse, cosine, largest = (max(floor[name] for floor in known) for name in NAMES)
    return (
        multiple * max(least, nmse),
        multiple * max(least, cosine),
        float(np.sqrt(multiple) * max(np.sqrt(least), largest)),
    )


def added(bands: Sequence[Limits]) -> Limits:
    """The tolerance over several consecutive stages: their noise adds up."""
    nmse, cosine, largest = np.transpose(bands)
    return float(np.sum(nmse)), float(np.sum(cosine)), float(np.sqrt(np.sum(largest**2)))


def within(far: Distance, limits: Limits) -> bool:
    """All three distances at once."""
    return far.nmse <= limits[0] and far.cosine_error <= limits[1] and far.max_error <= limits[2]
