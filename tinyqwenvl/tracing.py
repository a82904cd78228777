"""Trace the output of any stage by its name; the stages need no change.

A stage is a function whose second argument is its weights. The weights know their path in the
published checkpoint (``visual.blocks.0.attn``), and that path is the name of the stage.
:func:`record` names tensors that belong to no module (``visual.window_index``).
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from . import deprecated
from .errors import UserError

Watch: TypeAlias = Callable[[str, Any, dict[str, Any]], Any]
"""``watch(name, value, inputs)``; ``inputs`` are the arrays that ``value`` was computed from. If it
returns anything but None, that replaces ``value``."""

_watchers: list[Watch] = []


def current_name(name: str) -> str:
    """The current name of a stage, or of a glob of stages.

    Version 0.1 wrote ``picture`` for ``image.rgb``, and ``....spans`` for ``....key_ranges``.
    """
    return "image.rgb" if name == "picture" else re.sub(r"\bspans$", "key_ranges", name)


class Stages(dict[str, list[Any]]):
    """Stages by name; a name of version 0.1 works too, with a DeprecationWarning."""

    def __missing__(self, name: str) -> list[Any]:
        if (current := current_name(name)) not in self:
            raise KeyError(name)
        deprecated.warn(f"the stage {name}", current)
        return self[current]


def record(name: str, value: Any, **inputs: Any) -> Any:
    """Pass ``value`` and its ``inputs`` to all watchers; return it, or their replacement."""
    for watch in _watchers:
        other = watch(name, value, inputs)
        value = value if other is None else other
    return value


def stage(function):
    """Decorate ``function(x, weights, ...)``: record its result under the path of its weights."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(x, weights, *args, **kwargs):
        result = function(x, weights, *args, **kwargs)
        if _watchers:
            given = signature.bind(x, weights, *args, **kwargs).arguments
            arrays = {n: v for n, v in given.items() if hasattr(v, "shape")}
            result = record(weights.path, result, **arrays)
        return result

    return call


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Call ``watch(name, value, inputs)`` for every stage inside the ``with`` statement."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


@contextmanager
def trace(*patterns: str) -> Iterator[Stages]:
    """Collect the stages that run inside a ``with`` statement.

    ``patterns`` are globs of stage names (none: all stages). Yields a dict from name to the
    list of recorded arrays, one per call, in the order of the calls.
    """
    stages = Stages()
    patterns = tuple(map(current_name, patterns))

    def keep(name: str, value: Any, _: Any) -> None:
        if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            stages.setdefault(name, []).append(value)

    with watching(keep):
        yield stages


@contextmanager
def check_finite() -> Iterator[None]:
    """Raise UserError at the first stage that produces NaN or infinity."""

    def watch(name: str, value: Any, _: Any) -> None:
        if wrong := np.size(value) - np.count_nonzero(np.isfinite(value)):
            raise UserError(
                f"{name} is the first stage with NaN or infinity: {wrong} of its "
                f"{np.size(value)} values; check its weights and its inputs"
            )

    with watching(watch):
        yield
