"""Calibrate ``diff.MULTIPLE``: how far a correct implementation exceeds its noise floor.

    python -m scripts.calibrate_oracle [--cases 20] [--tokens 8] [--seed S] [--precisions ...]

For freshly drawn configurations, weights and images of both families, our dump is the reference
and transformers' the candidate, in float32 and in bfloat16: the prompt, and ``--tokens`` steps of
decoding after it (the ids that ours generates). Prints, for each case, the largest ratio of a
distance to its floor (the root of it for the largest error, so that all three can be held to one
multiple) with its stage, apart for the prompt and for the steps, and the stages that ``diff`` calls
wrong. Exit code 1 for a false alarm.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import tinyqwenvl
from scripts.compare_with_transformers import draw_config, draw_content
from scripts.random_checkpoint import write_checkpoint
from scripts.witness import VERSIONS, Witness
from tinyqwenvl.config import FAMILIES
from tinyqwenvl.oracle.diff import MULTIPLE, Comparison, band, compare
from tinyqwenvl.oracle.dump import Dump, Entry
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, generated, record
from tinyqwenvl.oracle.torch import instrument

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = ("prompt", "steps")


def largest_ratio(found: Comparison, steps: bool) -> tuple[float, str]:
    """(how many floors, at which stage), as ``diff`` counts: all three distances at once.

    Of the stages of the prompt, or of the ``steps`` of decoding.
    """
    worst = (0.0, "")
    entries = {e.key: e for e in found.reference}
    for verdict in found.compared:
        if verdict.distance is None or is_step(entries[verdict.name]) != steps:
            continue
        limits = band(
            entries[verdict.name], found.precision, multiple=1.0, reference=found.reference
        )
        nmse, cosine, largest = limits
        far = verdict.distance
        ratio = max(far.nmse / nmse, far.cosine_error / cosine, (far.max_error / largest) ** 2)
        worst = max(worst, (ratio, verdict.name))
    return worst


def is_step(entry: Entry) -> bool:
    """Whether a stage is one of a step of decoding."""
    return entry.call > 0 and not entry.name.startswith("image.")


def dump_of_transformers(
    directory: Path, inputs: tinyqwenvl.Inputs, ids: Sequence[int], precision: str, path: Path
) -> Dump:
    """Transformers' dump of the prompt, at its own positions, and of a step for each of ``ids``."""
    witness = Witness(directory, DTYPES[precision])
    grids, pixels = inputs.image_grid_thw, inputs.pixel_values
    given = witness.inputs(inputs.input_ids, pixels, grids)
    with torch.no_grad(), instrument(witness.model, path, inputs=False):
        past = witness.model(**given, use_cache=True).past_key_values
        for step, token in enumerate(ids):
            index = len(inputs.input_ids) + step
            witness.model(
                input_ids=torch.tensor([[token]]),
                attention_mask=torch.ones((1, index + 1), dtype=torch.long),
                position_ids=torch.full((3, 1, 1), index + inputs.rope_delta),
                past_key_values=past,
                use_cache=True,
            )
    return open_dump(path)


def main() -> int:
    """Run the cases; a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--precisions", nargs="+", choices=tuple(DTYPES), default=tuple(DTYPES))
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}; " + ", ".join(f"{n} {v}" for n, v in VERSIONS.items()))
    alarms, ratios = 0, {(name, part): list[float]() for name in args.precisions for part in PARTS}
    for case in range(args.cases):
        rng = np.random.default_rng([args.seed, case])
        model_type = FAMILIES[case % 2]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            seed = int(rng.integers(2**31))
            directory = write_checkpoint(place / "model", draw_config(rng, model_type), seed)
            content, _ = draw_content(rng)
            model = tinyqwenvl.load(directory)
            messages = [{"role": "user", "content": content}]
            job = Job(messages, tokens=args.tokens, options={"max_pixels": 60_000})
            reference = record(model, job, place / "ref.safetensors", floors=args.precisions)
            inputs = model.prepare(job.messages, **job.options)
            ids = generated(reference, model.config)
            for name in args.precisions:
                theirs = dump_of_transformers(
                    directory, inputs, ids, name, place / f"{name}.safetensors"
                )
                found = compare(reference, theirs, name)
                wrong = [v.name for v in found.compared if v.bad]
                alarms += bool(wrong)
                verdict = f"FALSE ALARM: {', '.join(wrong[:4])}" if wrong else "no alarm"
                parts = []
                for part in PARTS:
                    ratio, stage = largest_ratio(found, part == "steps")
                    ratios[name, part].append(ratio)
                    parts.append(f"{part} at most {ratio:.1f} x its floor ({stage})")
                print(
                    f"{case} {model_type} {name}: {len(found.compared)} stages, "
                    f"{', '.join(parts)}; {verdict}",
                    flush=True,
                )
    for (name, part), values in ratios.items():
        print(f"{name}, {part}: median {np.median(values):.1f}, largest {max(values):.1f}")
    print(f"allowed {MULTIPLE}; {alarms} false alarms in {len(args.precisions) * args.cases} dumps")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
