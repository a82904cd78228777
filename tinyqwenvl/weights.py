"""Weights as a tree: published names, split at their dots.

``visual.blocks.0.attn.qkv.weight`` in the file is ``weights.visual.blocks[0].attn.qkv.weight`` in
the code. Every node knows its path, which is the name of the stage that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import UserError


class Weights(Mapping):
    """Nested weights: ``weights.blocks[0].norm1.weight``; every node knows its ``path``.

    Children are attributes or items; leaves are arrays (or any object in a test). A leaf that is a
    function is called once, on first access, and its result is kept.
    """

    def __init__(self, children: Mapping[str, Any], path: str = ""):
        self.path = path
        self._children = dict(children)

    def __getitem__(self, name: str | int) -> Any:
        child = self._children[str(name)]
        if callable(child):
            child = self._children[str(name)] = child()
        return child

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no weight {self.path}.{name}".replace(" .", " ")) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)

    def __repr__(self) -> str:
        return f"Weights({self.path or 'root'}: {', '.join(self._children)})"


def nest(flat: Mapping[str, Any], path: str = "") -> Weights:
    """Build a tree from {"blocks.0.norm1.weight": array}; ``path`` is the name of the root."""
    children: dict[str, Any] = {}
    for name, leaf in flat.items():
        head, _, rest = name.partition(".")
        part = children.setdefault(head, {}) if rest else children
        if not isinstance(part, dict) or (not rest and head in children):
            raise UserError(f"{name} is both a weight and a module with weights")
        part[rest or head] = leaf
    prefix = f"{path}." if path else ""
    return Weights(
        {n: nest(c, prefix + n) if isinstance(c, dict) else c for n, c in children.items()}, path
    )


def change(weights: Weights, function: Callable[[str, Any], Any]) -> Weights:
    """The same tree with every leaf replaced lazily by ``function(name, leaf)``."""
    prefix = f"{weights.path}." if weights.path else ""

    def changed(name: str, child: Any) -> Any:
        if isinstance(child, Weights):
            return change(child, function)
        return lambda: function(prefix + name, weights[name])

    return Weights({n: changed(n, c) for n, c in weights._children.items()}, weights.path)


def flatten(weights: Weights) -> dict[str, Any]:
    """Published names -> arrays: the inverse of :func:`nest` (reads every leaf)."""
    flat: dict[str, Any] = {}
    for name in weights:
        child = weights[name]
        if isinstance(child, Weights):
            flat.update(flatten(child))
        else:
            flat[f"{weights.path}.{name}" if weights.path else name] = child
    return flat
