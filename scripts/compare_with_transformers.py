"""A live comparison with transformers on freshly drawn configurations, weights and pictures.

    python -m scripts.compare_with_transformers [--cases 6] [--seed S]

For each case: pixel_values bit-equal, position ids equal, logits within ten times transformers' own
distance between float32 and float64, 32 greedy ids equal. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tinyqwenvl
from scripts.distances import distance
from scripts.random_checkpoint import random_picture, tiny_config, write_checkpoint
from scripts.witness import VERSIONS, Witness


def draw_config(rng: np.random.Generator, model_type: str) -> dict[str, Any]:
    """Widths, heads, depths, sections, window, full blocks and tying, all at random."""
    shared, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    half = int(rng.integers(3, 13))  # half of a head
    cuts = np.sort(rng.choice(np.arange(1, half), 2, replace=False))
    sections = np.diff([0, *cuts, half]).tolist()
    width = 2 * half * shared * groups
    raw = tiny_config(model_type, hidden_size=width, intermediate_size=int(rng.integers(20, 130)))
    raw |= {"num_attention_heads": shared * groups, "num_key_value_heads": shared}
    raw |= {
        "num_hidden_layers": int(rng.integers(1, 5)),
        "rope_theta": float(rng.choice([1e4, 1e6])),
    }
    raw |= {"rope_scaling": {"type": "mrope", "mrope_section": sections}}
    raw |= {"tie_word_embeddings": bool(rng.integers(2))}
    vision = raw["vision_config"]
    heads, depth = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    tower = 4 * int(rng.integers(2, 8)) * heads
    vision |= {"num_heads": heads, "depth": depth}
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": tower}
    else:
        full = rng.choice(depth, int(rng.integers(1, depth + 1)), replace=False)
        vision |= {"hidden_size": tower, "intermediate_size": int(rng.integers(20, 130))}
        vision |= {"fullatt_block_indexes": sorted(full.tolist())}
        vision |= {"window_size": int(rng.choice([56, 84, 112]))}
    return raw


def draw_content(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """One to three pictures of any shape with text before, between and after."""
    items: list[dict[str, Any]] = []
    pictures = []
    for _ in range(int(rng.integers(1, 4))):
        size = rng.integers(20, 400, 2)
        pictures.append(Image.fromarray(random_picture(int(rng.integers(2**31)), *size)))
        items.append({"type": "text", "text": "x" * int(rng.integers(1, 20))})
        items.append({"type": "image", "image": pictures[-1]})
    return [*items, {"type": "text", "text": "and now?"}], pictures


def compare(
    rng: np.random.Generator, model_type: str, directory: Path
) -> Iterator[tuple[str, bool]]:
    """Yield each thing that was compared, and whether it holds."""
    write_checkpoint(directory, draw_config(rng, model_type), int(rng.integers(2**31)))
    content, pictures = draw_content(rng)
    model = tinyqwenvl.load(directory)
    inputs = model.prepare([{"role": "user", "content": content}])
    single, double = (Witness(directory, dtype) for dtype in (torch.float32, torch.float64))
    pixels, grids = single.pixels(pictures)
    yield f"grids {grids.tolist()}", np.array_equal(grids, inputs.image_grid_thw)
    yield "pixels", np.array_equal(pixels, inputs.pixel_values)
    arguments = single.inputs(inputs.input_ids, pixels, grids)
    positions = single.position_ids(arguments)
    yield "positions", np.array_equal(positions, inputs.position_ids)
    with torch.no_grad():
        theirs = single.model(**arguments).logits[0].numpy()
        truth = double.model(**double.inputs(inputs.input_ids, pixels, grids)).logits[0].numpy()
    ours, noise = distance(model.forward(inputs), truth), distance(theirs, truth)
    holds = ours.nmse <= min(10 * noise.nmse, 1e-9) and ours.cosine > 0.999999
    yield f"logits NMSE {ours.nmse:.1e} (its own noise {noise.nmse:.1e})", holds
    endless = replace(model, config=replace(model.config, eos_token_ids=()))
    ids = list(endless.generate(inputs, 32))
    yield "32 greedy ids", ids == single.generate(inputs.input_ids, pixels, grids)


def main() -> int:
    """Run the cases, print a line each; the exit code says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}; " + ", ".join(f"{n} {v}" for n, v in VERSIONS.items()))
    failed = 0
    for case in range(args.cases):
        rng = np.random.default_rng([args.seed, case])
        model_type = ("qwen2_vl", "qwen2_5_vl")[case % 2]
        with tempfile.TemporaryDirectory() as folder:
            results = list(compare(rng, model_type, Path(folder)))
        failed += not all(holds for _, holds in results)
        told = "; ".join(what if holds else f"NOT EQUAL: {what}" for what, holds in results)
        print(f"{case} {model_type}: {told}", flush=True)
    print(f"{args.cases - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
