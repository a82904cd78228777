"""Put an ONNX export of transformers' vision encoder before the oracle, with the shipped adapter.

    python -m scripts.run_onnx_port export DIR     with torch, transformers and onnx
    python -m scripts.run_onnx_port run DIR        with onnx and onnxruntime: a line per family

The two steps may run in two environments. The model is a small random checkpoint of each family,
the export torch.onnx's (TorchScript), and the run is ONNX Runtime's on every node. Exit code 1 when
a stage differs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl.cli import Parser, command
from tinyqwenvl.model import user_message
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
IMAGE = (5, 150, 210)  # seed, height, width


def export(folder: Path, family: str) -> None:
    """Write a reference and the graph of the vision encoder for its grid."""
    import torch

    from scripts.witness import Witness

    directory = write_checkpoint(folder / family, tiny_config(family), seed=11)
    job = Job(user_message([random_image(*IMAGE)], "what is this?"))
    dump = record(
        tinyqwenvl.load(directory), job, folder / f"{family}.safetensors", floors=["float32"]
    )
    encoder = Witness(directory).model.model.visual.eval()
    pixels = torch.from_numpy(np.array(dump["pixel_values"]))
    grid = torch.from_numpy(np.array(dump["image_grid_thw"]))

    class Alone(torch.nn.Module):
        """The encoder with its grid built in: its windows depend on the values of the grid."""

        def __init__(self) -> None:
            super().__init__()
            self.visual = encoder

        def forward(self, pixel_values):
            result = self.visual(pixel_values, grid_thw=grid)
            return getattr(result, "pooler_output", result)

    with torch.no_grad():
        torch.onnx.export(
            Alone(), (pixels,), str(folder / family / "vision.onnx"), dynamo=False,
            input_names=["pixel_values"], output_names=["image_embeds"],
            do_constant_folding=False, opset_version=18,
        )  # fmt: skip


def run_graph(folder: Path, family: str) -> bool:
    """Run the graph with ONNX Runtime and compare; whether all stages agree."""
    from tinyqwenvl.oracle.adapters.onnx import run_nodes

    began = time.perf_counter()
    reference = open_dump(folder / f"{family}.safetensors")
    feeds = {"pixel_values": np.array(reference["pixel_values"], np.float32)}
    target = folder / f"{family}-onnx.safetensors"
    run_nodes(folder / family / "vision.onnx", feeds, target)
    found = compare(reference, open_dump(target))
    spent = time.perf_counter() - began
    first = found.first.name if found.first else "none"
    print(f"{family}: {len(found.compared)} stages, first that differs: {first}; {spent:.1f} s")
    return found.first is None


def run(argv: list[str] | None) -> int:
    """Export or run."""
    p = Parser("run_onnx_port", __doc__ or "")
    p.add_argument("step", choices=("export", "run"))
    p.add_argument("folder")
    args = p.parse_args(argv)
    folder = Path(args.folder)
    folder.mkdir(exist_ok=True)
    if args.step == "export":
        for family in FAMILIES:
            export(folder, family)
        return 0
    return int(not all([run_graph(folder, family) for family in FAMILIES]))


if __name__ == "__main__":
    sys.exit(command(run, None))
