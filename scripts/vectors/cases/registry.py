"""The registry of cases, and what several families share: grids, and ids of special tokens.

A case is (name, what it pins, flags, input), and a ``reason`` where published implementations do
not agree about it; ``result`` is then "acceptable", unless it says that only one of them is right.
"""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]
Grids = list[list[int]]

REGISTRY: dict[str, list[Case]] = {}
START, END, IMAGE, VIDEO, PAD = 90, 91, 92, 93, 99  # ids of special tokens in these cases


def case(
    family: str, name: str, pins: str, flags: str, reason: str = "", result: str = "", **given: Any
) -> None:
    """Add a case; ``flags`` are words. ``result`` is "" where the maker can tell."""
    made = {"id": f"{family}/{name}", "pins": pins, "flags": flags.split(), "input": given}
    REGISTRY.setdefault(family, []).append(made | {"reason": reason, "result": result})
