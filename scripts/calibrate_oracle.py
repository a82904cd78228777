"""Calibrate ``diff.MULTIPLE``: how far a correct implementation exceeds its noise floor.

    python -m scripts.calibrate_oracle [--cases 20] [--seed S]

For freshly drawn configurations, weights and images of both families, our dump is the reference
and transformers' the candidate, in float32 and in bfloat16. Prints, for each case, the largest
ratio of a distance to its floor (the root of it for the largest error, so that all three can be
held to one multiple) with its stage, and the stages that ``diff`` calls wrong. Exit code 1 for a
false alarm.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import tinyqwenvl
from scripts.compare_with_transformers import draw_config, draw_content
from scripts.random_checkpoint import write_checkpoint
from scripts.witness import VERSIONS, Witness
from tinyqwenvl.config import FAMILIES
from tinyqwenvl.oracle.diff import MULTIPLE, Comparison, band, compare
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record
from tinyqwenvl.oracle.torch import instrument

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def largest_ratio(found: Comparison) -> tuple[float, str]:
    """(how many floors, at which stage), as ``diff`` counts: all three distances at once."""
    worst = (0.0, "")
    entries = {e.key: e for e in found.reference}
    for verdict in found.compared:
        if verdict.distance is None:
            continue
        nmse, cosine, largest = band(entries[verdict.name], found.precision, multiple=1.0)
        far = verdict.distance
        ratio = max(far.nmse / nmse, far.cosine_error / cosine, (far.max_error / largest) ** 2)
        worst = max(worst, (ratio, verdict.name))
    return worst


def dump_of_transformers(directory: Path, inputs: tinyqwenvl.Inputs, precision: str, path: Path):
    """Transformers' dump of the prompt, at its own positions."""
    witness = Witness(directory, DTYPES[precision])
    grids, pixels = inputs.image_grid_thw, inputs.pixel_values
    with torch.no_grad(), instrument(witness.model, path, inputs=False):
        witness.model(**witness.inputs(inputs.input_ids, pixels, grids))
    return open_dump(path)


def main() -> int:
    """Run the cases; a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    args = parser.parse_args()
    print(f"seed {args.seed}; " + ", ".join(f"{n} {v}" for n, v in VERSIONS.items()))
    alarms, ratios = 0, {name: list[float]() for name in DTYPES}
    for case in range(args.cases):
        rng = np.random.default_rng([args.seed, case])
        model_type = FAMILIES[case % 2]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            seed = int(rng.integers(2**31))
            directory = write_checkpoint(place / "model", draw_config(rng, model_type), seed)
            content, _ = draw_content(rng)
            model = tinyqwenvl.load(directory)
            job = Job([{"role": "user", "content": content}], options={"max_pixels": 60_000})
            reference = record(model, job, place / "ref.safetensors", floors=tuple(DTYPES))
            inputs = model.prepare(job.messages, **job.options)
            for name in DTYPES:
                theirs = dump_of_transformers(
                    directory, inputs, name, place / f"{name}.safetensors"
                )
                found = compare(reference, theirs, name)
                ratio, stage = largest_ratio(found)
                wrong = [v.name for v in found.compared if v.bad]
                alarms += bool(wrong)
                ratios[name].append(ratio)
                told = f"FALSE ALARM: {', '.join(wrong[:4])}" if wrong else "no alarm"
                print(
                    f"{case} {model_type} {name}: {len(found.compared)} stages, at most "
                    f"{ratio:.1f} x its floor ({stage}); {told}",
                    flush=True,
                )
    for name, found_ratios in ratios.items():
        print(f"{name}: median {np.median(found_ratios):.1f}, largest {max(found_ratios):.1f}")
    print(f"allowed {MULTIPLE}; {alarms} false alarms in {2 * args.cases} dumps")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
