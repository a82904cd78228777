"""Nodes of an ONNX graph as stages: the last node of a module is the module's output.

Dumping every node of a graph gives several tensors per module (``/visual/merger/mlp/mlp.0/MatMul_
output_0``, ``.../Add_output_0``). Here they become one stage each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from .adapters.names import outputs_of_modules, scope_of
from .dump import Entry
from .stages import canonical

_LATE = ("Transpose", "MatMul", "Gemm", "Cast", "Mul", "Add")  # of the same number, in this order


def is_node(key: str) -> bool:
    """Whether a tensor's key is that of a node in a module: ``/visual/blocks.0/Add_output_0``."""
    return scope_of(key.partition("#")[0]) is not None


def stages_of(entries: Iterable[Entry], ordered: bool) -> tuple[list[Entry], list[str]]:
    """Entries with nodes (``info["node"]``) converted to stages, and notes.

    ``ordered``: whether they come in the order of the graph. If not, only modules without
    submodules and those that end in a sum (the blocks) are used; other outputs are ambiguous.
    """
    found: list[Entry] = []
    last, open_at = "", set()  # nodes before an output of the graph, which has no module's name
    built: dict[tuple[str, int], Entry] = {}  # of GenAI's builder: the last of a name counts
    nodes: dict[int, dict[str, Entry]] = defaultdict(dict)
    given = list(entries)
    if not ordered:
        given.sort(key=lambda e: _late(str(e.info.get("node", "")).removesuffix("/output_0")))
    for entry in given:
        node = str(entry.info.get("node", "")).partition("#")[0]
        if is_node(node):
            nodes[entry.call][node] = entry
            last = node
        elif node:
            built[entry.name, entry.call] = entry
        else:
            found.append(entry)
            open_at |= {last} if last else set()
    there = {(e.name, e.call) for e in found}
    found += [entry for key, entry in built.items() if key not in there]
    taken, there = len(built), there | set(built)
    for call, named in nodes.items():
        keys = list(named) if ordered else sorted(named, key=_late)
        outputs = outputs_of_modules(keys) if ordered else _alone(keys)
        stages = {canonical(scope): n for scope, n in outputs.items()}
        for stage, node in stages.items():
            whole = node not in open_at or stage == canonical(scope_of(node) or "")
            if whole and (stage, call) not in there:
                found.append(replace(named[node], name=stage))
                taken += 1
    count = sum(map(len, nodes.values())) + len(built)
    notes = [f"{count} nodes of a graph, of which {taken} are used as outputs of modules"]
    return found, notes if count else []


def _late(node: str) -> tuple[int, int]:
    """Sort key: the number of an operator in its module, then what usually comes late."""
    operator, _, _ = node.rpartition("/")[2].partition("_output_")
    kind, _, number = operator.partition("_")
    rank = _LATE.index(kind) if kind in _LATE else -1
    return int(number) if number.isdecimal() else 0, rank


def _alone(nodes: Iterable[str]) -> dict[str, str]:
    """As ``outputs_of_modules``, without the order of the graph."""
    last = {scope: node for node in nodes if (scope := scope_of(node)) is not None}
    return {
        scope: node
        for scope, node in last.items()
        if node.rpartition("/")[2].startswith("Add")
        or not any(other.startswith(f"{scope}.") for other in last)
    }
