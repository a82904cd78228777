"""Put mlx-vlm before the oracle: random checkpoints and prompts, with the shipped adapter alone.

    python -m scripts.run_mlx_port [--cases N] [--tokens N] [--seed S] [--keep DIR]

Needs ``pip install mlx-vlm 'mlx[cpu]'``. Each case is a random model of one family and a prompt of
one to three images. mlx-vlm generates from our ids and patches, in float32 and in bfloat16, with
its own prefill (S - 1 tokens and then 1) and in chunks of 40 tokens. A line per run; a right port
should show no stage that differs. Exit code 1 when one does.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl.cli import Parser, command
from tinyqwenvl.model import user_message
from tinyqwenvl.oracle.adapters.mlx import instrument
from tinyqwenvl.oracle.diff import Comparison, compare
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
CHUNKS = 40  # tokens


def theirs(directory: Path, given: Any, target: Path, dtype: str, chunk: int | None, tokens: int):
    """Run mlx-vlm on what a dump of ours begins with; writes ``target``."""
    import mlx.core as mx
    from mlx_vlm.generate.ar import generate_step
    from mlx_vlm.utils import load_model

    model = load_model(directory)
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    ids, pixels = mx.array(given["input_ids"][None]), mx.array(given["pixel_values"])
    grids = mx.array(given["image_grid_thw"])
    further = {} if chunk is None else {"prefill_step_size": chunk}
    with instrument(model, target):
        steps = generate_step(
            ids, model, pixels, None, image_grid_thw=grids, max_tokens=tokens, temperature=0.0,
            **further,
        )  # fmt: skip
        for _ in itertools.islice(steps, tokens):
            pass


def case(number: int, seed: int, folder: Path, tokens: int) -> list[tuple[str, Comparison]]:
    """(name of the run, comparison) of one model and prompt in every way."""
    family = FAMILIES[number % 2]
    rng = np.random.default_rng([seed, number])
    directory = write_checkpoint(folder / f"{number}", tiny_config(family), seed=seed + number)
    sizes = [rng.integers(40, 260, 2).tolist() for _ in range(int(rng.integers(1, 4)))]
    images = [random_image(int(rng.integers(1 << 30)), *size) for size in sizes]
    model = tinyqwenvl.load(directory)
    job = Job(user_message(images, "what is this?"), tokens=tokens)
    reference = record(model, job, folder / f"{number}.safetensors", floors=["float32", "bfloat16"])
    found = []
    for dtype, chunk in itertools.product(("float32", "bfloat16"), (None, CHUNKS)):
        name = f"{number} {family} {dtype} {'chunks of 40' if chunk else 'S - 1 and 1'}"
        target = folder / f"{number}-{dtype}-{chunk}.safetensors"
        theirs(directory, reference, target, dtype, chunk, tokens)
        found.append((name, compare(reference, open_dump(target))))
    return found


def run(argv: list[str] | None) -> int:
    """Run the cases."""
    p = Parser("run_mlx_port", __doc__ or "")
    p.add_argument("--cases", type=int, default=4)
    p.add_argument("--tokens", type=int, default=8)
    p.add_argument("--seed", type=int, default=2026)
    p.add_argument("--keep")
    args = p.parse_args(argv)
    wrong = total = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(args.keep or place)
        folder.mkdir(exist_ok=True)
        for number in range(args.cases):
            for name, found in case(number, args.seed, folder, args.tokens):
                total, wrong = total + 1, wrong + (found.first is not None)
                first = found.first.name if found.first else "none"
                worst = max((_of_band(v) for v in found.compared), default=0.0)
                print(
                    f"{name:44} {len(found.compared)} stages, worst {worst:.2f} of its band, "
                    f"first that differs: {first}",
                    flush=True,
                )
    print(f"{wrong} of {total} runs have a stage that differs")
    return int(wrong > 0)


def _of_band(verdict: Any) -> float:
    if verdict.distance is None or verdict.band is None:
        return 0.0
    return max(d / b for d, b in zip(verdict.distance[:3], verdict.band, strict=True))


if __name__ == "__main__":
    sys.exit(command(run, None))
