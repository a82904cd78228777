"""Keep the run in the repository: the weights and what it takes to go on from them.

    python -m scripts.train_scenes.keep --state .train --device "one H100" --evaluation FILE

The folder `run/` then holds `weights.safetensors` (the running mean in bfloat16, under the
published names), `run.json` (counters, seed, slices), the log and the evaluation, in 14 MB at most.
Momenta are not kept: whoever goes on from there begins with fresh optimisers and a warm-up.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from scripts.train_scenes import tokenizer as tokenizers
from scripts.train_scenes.state import WHOLE, StateError, put, read_compact, read_whole, rename

RUN = Path(__file__).with_name("run")
WEIGHTS, MANIFEST, LOG, EVALUATION = (
    "weights.safetensors",
    "run.json",
    "log.jsonl",
    "evaluation.json",
)
LARGEST_RUN = 14_000_000  # bytes
SEED = 20260
GO_ON = "python -m scripts.train_scenes.train --state .train --seconds 3600"


def digest(contents):
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(contents).hexdigest()


def read_lines(path):
    """The lines of a log; none where there is no log."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StateError(f"{path} is not a log: {error}") from None


def join_logs(kept, new):
    """The kept lines and those of `new` that come after them."""
    last = kept[-1]["images"] if kept else -1
    return kept + [line for line in new if line["images"] > last]


def read_manifest(folder):
    """What `run.json` says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not all(key in manifest["counters"] for key in ("steps", "images", "seconds")):
            raise KeyError("counters")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{folder} holds no run: {error!r}") from None


def read_run(folder=RUN):
    """(weights, counters, tokenizer) of a kept run; StateError when a file is amiss."""
    manifest, tokenizer = read_manifest(folder), tokenizers.load()
    try:
        contents = (folder / WEIGHTS).read_bytes()
        if digest(contents) != manifest["sha256"]:
            raise StateError(f"{folder / WEIGHTS} is not the one of {MANIFEST}")
        weights = {name: value.float() for name, value in load(contents).items()}
    except (OSError, KeyError, SafetensorError) as error:
        raise StateError(f"{folder} holds no run: {error!r}") from None
    if digest(tokenizer.to_str().encode()) != manifest.get("tokenizer"):
        raise StateError(f"{folder} is a run with another tokenizer than {tokenizers.FILE.name}")
    return weights, manifest["counters"], tokenizer


def add_slice(manifest, counters, device):
    """The slices of a run with what was trained since they were kept."""
    before = manifest["counters"] if manifest else {"steps": 0, "images": 0, "seconds": 0.0}
    since = {key: counters[key] - before[key] for key in ("steps", "images", "seconds")}
    if since["steps"] <= 0:
        raise StateError(f"nothing was trained since step {before['steps']}, which is kept")
    slices = list(manifest["slices"]) if manifest else []
    return [*slices, {"device": device, **since, "seconds": round(since["seconds"], 1)}]


def write_run(folder, mean, counters, tokenizer, device, log=(), evaluation=None, note=None):
    """Write or replace a kept run; returns the bytes of its files.

    mean: {name: tensor}; device: in words; log: lines of the state's log; evaluation: figures.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
    weights = save({n: v.to(torch.bfloat16).cpu().contiguous() for n, v in mean.items()})
    kept = {key: counters[key] for key in ("steps", "images", "seconds")}
    kept["seconds"] = round(kept["seconds"], 1)
    said = {
        "counters": kept,
        "seed": SEED,
        "slices": add_slice(manifest, counters, device),
        "notes": [*(manifest["notes"] if manifest else ()), *([note] if note else ())],
        "go_on": GO_ON,
        "sha256": digest(weights),
        "tokenizer": digest(tokenizer.to_str().encode()),
    }
    lines = join_logs(read_lines(folder / LOG), list(log))
    files = {
        WEIGHTS: weights,
        MANIFEST: (json.dumps(said, indent=2) + "\n").encode(),
        LOG: "".join(json.dumps(line) + "\n" for line in lines).encode(),
    }
    if evaluation is not None:
        files[EVALUATION] = (json.dumps(evaluation, indent=1) + "\n").encode()
    total = sum(map(len, files.values()))
    if total > LARGEST_RUN:
        raise StateError(f"the run takes {total} bytes, over {LARGEST_RUN}")
    folder.mkdir(parents=True, exist_ok=True)
    rename([put(folder / name, contents) for name, contents in files.items()])
    return total


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".train"), help="whole or compact state")
    parser.add_argument("--out", type=Path, default=RUN, help="folder of the kept run")
    parser.add_argument("--device", required=True, help="what the slice ran on, in words")
    parser.add_argument("--log", type=Path, help="default: log.jsonl of the state")
    parser.add_argument("--evaluation", type=Path, help="JSON object of figures")
    parser.add_argument("--note", help="what a reader must know about the slice")
    options = parser.parse_args(arguments)
    try:
        read = read_whole if (options.state / WHOLE).is_file() else read_compact
        parts, counters, tokenizer = read(options.state)
        evaluation = None
        if options.evaluation:
            evaluation = json.loads(options.evaluation.read_text())
        log = read_lines(options.log or options.state / LOG)
        total = write_run(
            options.out, parts["mean"], counters, tokenizer, options.device, log, evaluation,
            options.note,
        )  # fmt: skip
    except (StateError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.out}: {counters['images']:,} images, {total:,} bytes")


if __name__ == "__main__":
    main()
