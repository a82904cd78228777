"""Watch any stage by its name, without the stages knowing who watches.

A stage is a function whose second argument is its weights; the weights know their path in the
published checkpoint (``visual.blocks.0.attn``), and that path is the name of the stage. Tensors
that no module owns (``visual.window_index``) are given a name with :func:`record`.
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
"""``watch(name, value, inputs)``, ``inputs`` being the arrays that ``value`` was made of. What it
returns, unless None, takes the place of ``value``."""

_watchers: list[Watch] = []


def current_name(name: str) -> str:
    """The name that a stage, or a glob of stages, has today.

    Version 0.1 wrote ``picture`` for ``image.rgb``, and ``....spans`` for ``....key_ranges``.
    """
    return "image.rgb" if name == "picture" else re.sub(r"\bspans$", "key_ranges", name)


class Stages(dict[str, list[Any]]):
    """Stages by name; a name of version 0.1 finds the stage by its name of today."""

    def __missing__(self, name: str) -> list[Any]:
        if (current := current_name(name)) not in self:
            raise KeyError(name)
        deprecated.warn(f"the stage {name}", current)
        return self[current]


def record(name: str, value: Any, **inputs: Any) -> Any:
    """Show ``value``, made of ``inputs``, to whoever watches, and hand it (or what they say) on."""
    for watch in _watchers:
        other = watch(name, value, inputs)
        value = value if other is None else other
    return value


def stage(function):
    """Record what ``function(x, weights, ...)`` returns under the path of its weights."""
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
    """Call ``watch(name, value, inputs)`` for every stage while the ``with`` block runs."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


@contextmanager
def trace(*patterns: str) -> Iterator[Stages]:
    """Collect the stages that run inside a ``with`` block.

    ``patterns`` are shell globs on stage names (none: everything). Yields a dict from name to the
    list of arrays recorded under it, one per call, in the order of the calls.
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
    """Raise UserError at the first stage in the ``with`` block that yields NaN or infinity."""

    def watch(name: str, value: Any, _: Any) -> None:
        if wrong := np.size(value) - np.count_nonzero(np.isfinite(value)):
            raise UserError(
                f"{name} is the first stage with NaN or infinity: {wrong} of its "
                f"{np.size(value)} values; look at its weights and at what went in"
            )

    with watching(watch):
        yield
