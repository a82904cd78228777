"""ONNX: every node of a graph run once with ONNX Runtime, and written as a dump.

    from tinyqwenvl.oracle.adapters.onnx import run_nodes

    feeds = {"pixel_values": pixels, "grid_thw": grids}
    run_nodes("vision.onnx", feeds, "mine.safetensors", prefix="visual")

For exports of PyTorch, whose names are the modules' (``/blocks.0/attn/qkv/Add_output_0``), and for
graphs of ONNX Runtime GenAI's builder (``/model/layers.0/attn/q_proj/MatMul/output_0``). The graph
is run without optimisations, so that its nodes are those of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...errors import UserError
from ..dump import Writer
from ..stages import BEGINNINGS, canonical
from .names import outputs_of_modules, scope_of

MOST = 400  # nodes whose outputs are held at a time


def run_nodes(
    graph: str | os.PathLike,
    feeds: Mapping[str, Any],
    target: str | os.PathLike = "mine.safetensors",
    prefix: str = "",
    about: Mapping[str, Any] | None = None,
) -> int:
    """Run ``graph`` on ``feeds`` and write every stage that its nodes give to the dump ``target``.

    ``prefix``: of the exported module ("visual" where the vision encoder alone was exported).
    Returns the number of stages. Raises UserError when the packages are missing, the file is no
    ONNX graph, or it does not run on ``feeds``.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise UserError("this needs ONNX Runtime: pip install onnx onnxruntime") from None
    if not Path(graph).is_file():
        raise UserError(f"{graph}: there is no such file")
    try:
        model = onnx.load(os.fspath(graph))
    except Exception as error:  # of protobuf
        raise UserError(f"{graph} is not an ONNX file ({str(error)[:200]})") from None
    wanted = stages_of_graph(model.graph, prefix)
    made = {"tinyqwenvl": __version__, "onnxruntime": onnxruntime.__version__}
    if not wanted:
        raise UserError(f"{graph}: no node is named after a module; see docs/oracle.md, Adapters")
    with Writer(target, {"made_by": made, **dict(about or {})}) as writer:
        for name, value in feeds.items():
            if canonical(name) in BEGINNINGS:
                writer.add(canonical(name), np.asarray(value))
        names = list(wanted)
        for start in range(0, len(names), MOST):
            part = names[start : start + MOST]
            values = _run(model, graph, feeds, [wanted[name] for name in part])
            for name, value in zip(part, values, strict=True):
                if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                    writer.add(name, value[0] if value.ndim > 2 and len(value) == 1 else value)
        return len(writer.calls)


def _run(model: Any, graph: Any, feeds: Mapping[str, Any], outputs: list[str]) -> list[Any]:
    """The values of some tensors of a graph."""
    import onnx
    import onnxruntime

    there = {output.name for output in model.graph.output}
    added = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(outputs) if n not in there]
    model.graph.output.extend(added)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {i.name: np.asarray(feeds[i.name]) for i in session.get_inputs()}
        return session.run(outputs, given)
    except KeyError as error:
        raise UserError(f"{graph} needs the input {error.args[0]}, which is not given") from None
    except Exception as error:  # whatever the runtime raises
        raise UserError(f"{graph} does not run: {str(error)[:300]}") from None
    finally:
        for _ in added:
            model.graph.output.pop()


def stages_of_graph(graph: Any, prefix: str = "") -> dict[str, str]:
    """Stage -> tensor of an ONNX graph: modules by their last node, other known names as they are.

    Of several tensors with one name, the last counts.
    """
    tensors = [name for node in graph.node for name in node.output if name]
    made_in = dict(_made_in(graph))
    found = {m: made_in[node] for m, node in outputs_of_modules(made_in).items()}
    if prefix and tensors:
        ends = [output.name for output in graph.output]
        found = {prefix: ends[0] if ends else tensors[-1], **_prefixed(found, prefix)}
    stages = {canonical(module): tensor for module, tensor in found.items()}
    for name in _others(graph, tensors):
        stages[canonical(name)] = name
    return stages


def _made_in(graph: Any) -> Iterator[tuple[str, str]]:
    """(name in the module that made it, tensor). An output of the graph has a name of its own, but
    its node still has the module's.
    """
    for node in graph.node:
        for number, tensor in enumerate(node.output):
            if scope_of(tensor) is not None:
                yield tensor, tensor
            elif tensor and node.name.startswith("/") and not tensor.startswith("/"):
                yield f"{node.name}_output_{number}", tensor


def _prefixed(found: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {f"{prefix}.{module}": tensor for module, tensor in found.items()}


def _others(graph: Any, tensors: list[str]) -> Iterator[str]:
    """Tensors that are a stage by their own name: of GenAI's builder, and outputs of the graph."""
    ends = {output.name for output in graph.output}
    yield from (n for n in tensors if scope_of(n) is None and (n in ends or canonical(n) != n))
