"""Run a porter's function on recorded inputs, and judge its result."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..tracing import current_name
from .diff import Verdict, band, judge, precision_of
from .dump import Dump, Entry


def check(
    stage: str, fn: Callable[..., Any], dump: Dump, call: int = 0, precision: str | None = None
) -> Verdict:
    """Call ``fn`` with the recorded inputs of ``stage``, in order, and judge its result.

    What goes in is what the dump recorded (NumPy arrays; :func:`inputs_of` shows them by name);
    weights and settings are the function's own affair. It is judged as one stage alone, in
    ``precision`` (None: as the dump is stored). Raises UserError when the dump does not hold the
    stage, or not its inputs.
    """
    entry = _entry(dump, stage, call)
    given = inputs_of(stage, dump, call)
    result = np.asarray(_array(fn(*given.values())))
    theirs = Entry(entry.name, call, result.shape, str(result.dtype), lambda: result)
    precision = precision or precision_of(dump)
    verdict = judge(entry, theirs, precision, band(entry, precision, "single", reference=dump))
    return replace(verdict, sequence=list(dump.entries).index((entry.name, call)))


def inputs_of(stage: str, dump: Dump, call: int = 0) -> dict[str, np.ndarray]:
    """The inputs of a stage: argument -> array, in order."""
    keys = _entry(dump, stage, call).info.get("inputs")
    if not keys:
        raise UserError(f"{dump.source} has no inputs of {stage}; record the dump with them")
    return {argument: dump[key] for argument, key in keys.items()}


def _entry(dump: Dump, stage: str, call: int) -> Entry:
    entry = dump.get(stage, call)
    if entry is None and dump.get(stage) is not None:
        calls = sum(e.name in (stage, current_name(stage)) for e in dump)
        raise UserError(f"{dump.source} holds {calls} calls of {stage}, numbered from 0")
    if entry is None:
        last = current_name(stage).rpartition(".")[2]
        near = [e.key for e in dump if fnmatch.fnmatchcase(e.name, f"*{last}*")]
        raise UserError(f"{dump.source} holds no {stage}; it holds {', '.join(near[:4])} ...")
    return entry


def _array(value: Any) -> Any:
    """An array of any library -> one of NumPy."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
