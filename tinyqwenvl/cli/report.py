"""Reports on an answer: hints before it, ``--json`` and ``--verbose`` after it."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..checkpoint import parameter_count
from ..model import Inputs, Model
from ..sampling import Sampling
from .shared import note, noted

MANY_TOKENS = 2560  # per image; more give a hint


def hints(args: argparse.Namespace, model: Model, inputs: Inputs) -> None:
    """Suggest --max-pixels for each image of very many tokens."""
    vision = model.config.vision
    side = vision.patch_size * vision.spatial_merge_size
    for number, (t, h, w) in enumerate(grids_of(inputs.image_grid_thw), start=1):
        tokens = t * h * w // vision.merged_patches
        if tokens > MANY_TOKENS and (args.min_pixels or 0) <= MANY_TOKENS * side**2:
            note(
                f"image {number} makes {tokens:,} tokens, which takes time; "
                f"--max-pixels {MANY_TOKENS * side**2} makes at most {MANY_TOKENS:,}"
            )


class Clock:
    """Measures the seconds of consecutive parts."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End the part ``name``."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began


def confidence(probabilities: Sequence[float]) -> dict[str, float] | None:
    """The probability of an answer, from those of its tokens; None without tokens.

    A token's probability is the softmax of the raw logits at the chosen token, before the sampling
    steps. "mean" and "least" are over the answer's tokens without the stop token. "answer" is
    their product: the probability of the whole answer.
    """
    if not probabilities:
        return None
    return {
        "mean": math.fsum(probabilities) / len(probabilities),
        "least": min(probabilities),
        "answer": math.prod(probabilities),
    }


def in_words(probability: dict[str, float] | None) -> str:
    """The result of :func:`confidence` as text, for ``-v``."""
    if probability is None:
        return "no token, no probability"
    values = (f"{name} {value:.2f}" for name, value in probability.items() if name != "answer")
    return f"token probability {', '.join(values)}; of the answer {probability['answer']:.2f}"


def as_json(
    said: dict[str, Any], inputs: Inputs, sampling: Sampling, timings: dict[str, float]
) -> dict[str, Any]:
    """The object that ``--json`` prints; times in seconds."""
    return {
        **said,
        "notes": noted(),
        "prompt_token_ids": inputs.input_ids.tolist(),
        "image_grid_thw": grids_of(inputs.image_grid_thw),
        "video_grid_thw": grids_of(inputs.video_grid_thw),
        "second_per_grid_ts": list(inputs.second_per_grid_ts),
        "sampling": asdict(sampling),
        "timings": {name: round(seconds, 6) for name, seconds in timings.items()},
    }


def grids_of(grid_thw: Any) -> list[list[int]]:
    """Grids as lists; an empty list for None."""
    return [] if grid_thw is None else grid_thw.tolist()


def report(
    args: argparse.Namespace,
    model: Model,
    inputs: Inputs,
    sampling: Sampling,
    said: dict[str, Any],
    timings: dict[str, float],
) -> None:
    """Print the report of ``-v`` on stderr."""
    patch = model.config.vision.patch_size
    sizes = [f"{w * patch}x{h * patch}" for _, h, w in grids_of(inputs.image_grid_thw)]
    clips = [
        f"{t * model.config.vision.temporal_patch_size} frames of {w * patch}x{h * patch}, "
        f"{t * seconds:.2f} s"
        for (t, h, w), seconds in zip(
            grids_of(inputs.video_grid_thw), inputs.second_per_grid_ts, strict=True
        )
    ]
    used = ", ".join(f"{name} {value}" for name, value in asdict(sampling).items())
    source = " (generation_config.json)" if args.use_generation_config else ""
    if source and not model.config.generation:
        source = " (there is no generation_config.json)"
    count = parameter_count(model.config)
    lines = {
        "model": f"{args.model or 'embedded'}, {model.config.model_type}, {count:,} parameters",
        "images": f"resized to {', '.join(sizes)} pixels" if sizes else "none",
        "videos": f"sampled as {'; '.join(clips)}" if clips else "none",
        "prompt": f"{len(inputs.input_ids)} tokens",
        "sampling": (used if sampling.temperature else "greedy, repetition_penalty "
                     f"{sampling.repetition_penalty}") + source,
        "answer": f"{len(said['token_ids'])} tokens, ended by {said['finish_reason']}; "
                  f"{in_words(said['probability'])}",
        "seconds": ", ".join(f"{name} {seconds:.2f}" for name, seconds in timings.items()),
    }  # fmt: skip
    if timings["prefill"] and timings["decode"]:
        prefill = len(inputs.input_ids) / timings["prefill"]
        decode = (len(said["token_ids"]) - 1) / timings["decode"]
        lines["tokens/s"] = f"{prefill:.1f} of the prompt, {decode:.1f} of the answer"
    if peak := peak_memory():
        lines["memory"] = f"{peak / 1e6:,.0f} MB peak"
    for name, line in lines.items():
        print(f"{name:10}{line}", file=sys.stderr)


def peak_memory() -> int | None:
    """Peak memory of this process in bytes; None if the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
