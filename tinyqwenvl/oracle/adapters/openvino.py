"""OpenVINO: every node of an IR or ONNX model run once, and written as a dump.

    from tinyqwenvl.oracle.adapters.openvino import run_nodes

    run_nodes("vision.xml", {"pixel_values": pixels}, "mine.safetensors", prefix="visual")

Nodes are named as the front end named them: ``__module.visual.blocks.0.attn.qkv/aten::linear/Add``
for models converted from PyTorch, the names of ONNX for the others. The run is in float32 unless
``hint`` says otherwise; adding outputs keeps the runtime from fusing over them.
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
from .names import outputs_of_modules, torch_node


def run_nodes(
    graph: str | os.PathLike,
    feeds: Mapping[str, Any],
    target: str | os.PathLike = "mine.safetensors",
    prefix: str = "",
    hint: str = "f32",
    about: Mapping[str, Any] | None = None,
) -> int:
    """Run ``graph`` on ``feeds`` on the CPU and write every stage that its nodes give.

    ``prefix``: of the converted module ("visual" where the vision encoder alone was converted).
    ``hint``: OpenVINO's INFERENCE_PRECISION_HINT. Returns the number of stages. Raises UserError
    when the package is missing, the file is no model, or it does not run on ``feeds``.
    """
    try:
        import openvino
    except ImportError:
        raise UserError("this needs OpenVINO: pip install openvino") from None
    if not Path(graph).is_file():
        raise UserError(f"{graph}: there is no such file")
    core = openvino.Core()
    try:
        model = core.read_model(os.fspath(graph))
        wanted = stages_of_model(model, prefix)
        outputs = {name: _named(port) for name, port in wanted.items()}
        there = {name for output in model.outputs for name in output.get_names()}
        model.add_outputs([p for n, p in wanted.items() if outputs[n] not in there])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        found = compiled({name: np.asarray(value) for name, value in feeds.items()})
    except Exception as error:  # whatever the runtime raises
        raise UserError(f"{graph} does not run: {str(error).strip()[-300:]}") from None
    made = {"tinyqwenvl": __version__, "openvino": openvino.__version__}
    if not wanted:
        raise UserError(f"{graph}: no node is named after a module; see docs/oracle.md, Adapters")
    with Writer(target, {"made_by": made, **dict(about or {})}) as writer:
        for name, value in feeds.items():
            if canonical(name) in BEGINNINGS:
                writer.add(canonical(name), np.asarray(value))
        for name, output in outputs.items():
            value = np.asarray(found[output])
            if value.dtype.kind in "fiub":
                writer.add(name, value[0] if value.ndim > 2 and len(value) == 1 else value)
        return len(writer.calls)


def stages_of_model(model: Any, prefix: str = "") -> dict[str, Any]:
    """Stage -> output port of a model: modules by the last of their nodes, and its outputs.

    A module whose result goes on under a name of no module (that of an output) is left out: what
    is known of it may lack the last step, a bias for example.
    """
    ports = dict(_ports(model))
    found = {m: ports[n] for m, n in outputs_of_modules(ports).items() if not _goes_on(ports[n])}
    if prefix:
        found = {f"{prefix}.{module}": port for module, port in found.items()}
        found[prefix] = model.outputs[0]
    stages = {canonical(module): port for module, port in found.items()}
    for output in model.outputs:
        names = [name for name in output.get_names() if canonical(name) != name]
        stages |= {canonical(name): output for name in names[:1]}
    return {name: _source(port) for name, port in stages.items()}


def _goes_on(port: Any) -> bool:
    """Whether a node of no module follows."""
    nodes = [target.get_node() for target in port.get_target_inputs()]
    return any(
        node.get_type_name() != "Result" and torch_node(node.get_friendly_name()) is None
        for node in nodes
    )


def _source(port: Any) -> Any:
    """The port that makes a value; an output of the model is a node of its own."""
    node = port.get_node()
    return node.input_value(0) if node.get_type_name() == "Result" else port


def _named(port: Any) -> str:
    """The name of a tensor, which gets one if it has none."""
    tensor = port.get_tensor()
    if not tensor.get_names():
        node = port.get_node().get_friendly_name()
        tensor.set_names({f"{node}:{port.get_index()}"})
    return str(min(tensor.get_names()))


def _ports(model: Any) -> Iterator[tuple[str, Any]]:
    """(name in the module that made it, output port), in the order of the graph."""
    for node in model.get_ordered_ops():
        name = torch_node(node.get_friendly_name().removesuffix("/WithoutBiases"))
        if name is not None and node.get_type_name() not in ("Constant", "Result"):
            for number in range(node.get_output_size()):
                yield f"{name}_output_{number}", node.output(number)
