"""Compare with transformers live, on random configurations, weights and images.

    python -m scripts.compare_with_transformers [--cases 6] [--settings 300] [--seed S]
        [--embedded | --templates]

For each case: pixel_values bit-equal, position ids equal, 32 greedy ids equal, with a repetition
penalty too, logits within ten times transformers' own distance between float32 and float64. That is
around 1e-11, and we stay under 1e-10 unless a random model is so sharp that transformers itself
does not. The logits again for a conversation with a clip, at our positions. ``--embedded`` takes
the embedded checkpoint instead, and fresh images; ``--templates`` compares chat templates alone
(scripts.compare_templates), of which each case without ``--embedded`` draws some too. So many
random ``--settings`` of images and videos are read as well (scripts.compare_settings). Exit code 1
when anything differs.
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
import transformers
from PIL import Image

import tinyqwenvl
from scripts.compare_settings import compare_all_settings
from scripts.compare_templates import compare_templates
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from scripts.witness import VERSIONS, Witness
from tinyqwenvl.config import FAMILIES
from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.sampling import Sampling


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
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-2])),
    }
    raw |= {"rope_scaling": {"type": "mrope", "mrope_section": sections}}
    raw |= {"tie_word_embeddings": bool(rng.integers(2))}
    vision = raw["vision_config"]
    heads, depth = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    vision_encoder = 4 * int(rng.integers(2, 8)) * heads
    vision |= {"num_heads": heads, "depth": depth}
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": vision_encoder}
    else:
        full = rng.choice(depth, int(rng.integers(1, depth + 1)), replace=False)
        vision |= {"hidden_size": vision_encoder, "intermediate_size": int(rng.integers(20, 130))}
        vision |= {"fullatt_block_indexes": sorted(full.tolist())}
        vision |= {"window_size": int(rng.choice([56, 84, 112]))}
    return raw


def draw_content(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """One to three images of any shape with text before, between and after."""
    items: list[dict[str, Any]] = []
    images = []
    for _ in range(int(rng.integers(1, 4))):
        size = rng.integers(20, 400, 2)
        images.append(Image.fromarray(random_image(int(rng.integers(2**31)), *size)))
        items.append({"type": "text", "text": "x" * int(rng.integers(1, 20))})
        items.append({"type": "image", "image": images[-1]})
    return [*items, {"type": "text", "text": "and now?"}], images


def compare(
    rng: np.random.Generator, model_type: str, directory: Path
) -> Iterator[tuple[str, bool]]:
    """Yield each thing that was compared, and whether it holds."""
    write_checkpoint(directory, draw_config(rng, model_type), int(rng.integers(2**31)))
    content, images = draw_content(rng)
    most = int(rng.choice([20_000, 12_845_056]))
    model = tinyqwenvl.load(directory, reference=bool(rng.integers(2)))
    inputs = model.prepare([{"role": "user", "content": content}], max_pixels=most)
    single, double = (Witness(directory, dtype) for dtype in (torch.float32, torch.float64))
    pixels, grids = single.pixels(images, longest_edge=most)
    yield f"grids {grids.tolist()}", np.array_equal(grids, inputs.image_grid_thw)
    yield "pixels", np.array_equal(pixels, inputs.pixel_values)
    arguments = single.inputs(inputs.input_ids, pixels, grids)
    positions = single.position_ids(arguments)
    yield "positions", np.array_equal(positions, inputs.position_ids)
    with torch.no_grad():
        theirs = single.model(**arguments).logits[0].numpy()
        truth = double.model(**double.inputs(inputs.input_ids, pixels, grids)).logits[0].numpy()
    ours, noise = distance(model.forward(inputs), truth), distance(theirs, truth)
    bound = min(10 * noise.nmse, max(1e-10, 2 * noise.nmse))
    holds = ours.nmse <= bound and ours.cosine > 0.999999
    yield f"logits NMSE {ours.nmse:.1e} (its own noise {noise.nmse:.1e})", holds
    endless = replace(model, config=replace(model.config, eos_token_ids=()))
    ids = list(endless.generate(inputs, 32))
    yield "32 greedy ids", ids == single.generate(inputs.input_ids, pixels, grids)
    penalty = float(rng.choice([1.05, 1.3]))
    ids = list(endless.generate(inputs, 32, Sampling(repetition_penalty=penalty)))
    theirs = single.generate(inputs.input_ids, pixels, grids, penalty=penalty)
    yield f"32 ids at repetition penalty {penalty}", ids == theirs
    yield compare_video(rng, model, directory)


def compare_video(rng: np.random.Generator, model: Any, directory: Path) -> tuple[str, bool]:
    """A conversation of three turns with a clip, at our positions (theirs differ after a video)."""
    count, fps = int(rng.choice([*range(2, 10), 22])), float(rng.choice([0.5, 1.5, 2, 3, 24]))
    size = rng.integers(30, 120, 2)
    frames = [random_image(int(rng.integers(2**31)), *size) for _ in range(count)]
    clip = {"video": frames, "fps": fps, "min_pixels": 3136, "max_pixels": 20_000}
    content, _ = draw_content(rng)
    turns = [content[:-1], [{"type": "text", "text": "then"}, clip], content[:2]]
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Yes."}]
    inputs = model.prepare(messages[:-1], max_pixels=40_000)
    theirs, truth = (
        Witness(directory, d).conversation(inputs) for d in (torch.float32, torch.float64)
    )
    ours, noise = distance(model.forward(inputs), truth), distance(theirs, truth)
    holds = ours.nmse <= min(10 * noise.nmse, max(1e-10, 2 * noise.nmse))
    grid = inputs.video_grid_thw.tolist()
    return f"clip {grid} at {fps} a second: NMSE {ours.nmse:.1e} ({noise.nmse:.1e})", holds


QUESTIONS = ("describe", "How many shapes are there?", "Is there a red circle? Reply Y or N.")


def compare_embedded(rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """The embedded checkpoint on a fresh image: prompt, pixels and answers."""
    model, theirs = tinyqwenvl.load(), Witness(EMBEDDED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED)
    limits = model.config.processor
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    image = Image.fromarray(random_image(int(rng.integers(2**31)), *rng.integers(60, 600, 2)))
    if rng.integers(2):
        image = Image.open(EXAMPLE_IMAGE).resize(rng.integers(100, 500, 2).tolist())
    pixels, grids = theirs.pixels([image], **size)
    for question in QUESTIONS:
        inputs = model.prepare(user_message(image, question))
        yield "pixels", np.array_equal(pixels, inputs.pixel_values)
        text = model.tokenizer.decode(inputs.input_ids, skip_special=False)
        yield "tokenizer", tokenizer(text)["input_ids"] == inputs.input_ids.tolist()
        ids = list(model.generate(inputs, 64))
        expected = theirs.generate(inputs.input_ids, pixels, grids, 65)  # past the stop token
        stops = [i for i, token in enumerate(expected) if token in model.config.eos_token_ids]
        yield (
            f"{len(ids)} ids ({model.tokenizer.decode(ids)})",
            ids == expected[: min(stops, default=64)],
        )


def main() -> int:
    """Run the cases, print a line each; the exit code says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--settings", type=int, default=300)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument(
        "--embedded", action="store_true", help="compare only the embedded checkpoint"
    )
    parser.add_argument("--templates", action="store_true", help="compare only chat templates")
    args = parser.parse_args()
    print(f"seed {args.seed}; " + ", ".join(f"{n} {v}" for n, v in VERSIONS.items()))
    cases, failed = 0 if args.templates else args.cases, 0
    templates = 0 if args.embedded else compare_templates(args.seed, 10 * args.cases)[0]
    for case in range(cases):
        rng = np.random.default_rng([args.seed, case])
        model_type = "embedded" if args.embedded else FAMILIES[case % 2]
        with tempfile.TemporaryDirectory() as folder:
            compared = compare(rng, model_type, Path(folder))
            results = list(compare_embedded(rng) if args.embedded else compared)
        failed += not all(holds for _, holds in results)
        told = "; ".join(what if holds else f"NOT EQUAL: {what}" for what, holds in results)
        print(f"{case} {model_type}: {told}", flush=True)
    print(f"{cases - failed} passed, {failed} failed; {templates} differences in templates")
    if args.settings and not (args.embedded or args.templates):
        with tempfile.TemporaryDirectory() as folder:
            failed += compare_all_settings(args.seed, args.settings, Path(folder))
    return int(failed + templates > 0)


if __name__ == "__main__":
    sys.exit(main())
