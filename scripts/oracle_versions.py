"""Compare a dump of the installed transformers with ours, stage by stage.

    python -m scripts.oracle_versions

Makes a small checkpoint of each family, loads it with transformers, records one forward pass with
:func:`tinyqwenvl.oracle.torch.instrument` (three ragged images, text around them), and prints a
line for each family of stages: how many, and the largest normalised squared error (0 or infinity
for what must be equal). Then a few greedy steps, whose calls and positions are checked. The exit
code is 1 when a float is further than 1e-9, anything exact differs, or a stage of ours is missing
among theirs. Run with transformers 4.51.3, 4.57.3, 5.23.0 and 5.24.0 (torch 2.13.0).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, with_images, write_checkpoint
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.torch import instrument

SIZES = (140, 84), (56, 196), (84, 84)
CONTENT = [
    {"text": "one "},
    {"image": 0},
    {"text": " two "},
    {"image": 1},
    {"image": 2},
    {"text": " what?"},
]
BOUND = 1e-9  # normalised squared error
# Stages of ours inside attention, where no module stands, and before the model.
ALONE = r".*\.(q|k|v|key_ranges|context)|image\..*"
STEPS = 4  # ids to generate


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The checkpoint in transformers, any version."""
    transformers.utils.logging.set_verbosity_error()
    if hasattr(transformers.utils.logging, "disable_progress_bar"):
        transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModelForImageTextToText
    name = "torch_dtype" if int(transformers.__version__.partition(".")[0]) < 5 else "dtype"
    return kind.from_pretrained(directory, **{name: dtype}).eval()


def arguments(model: Any, inputs: tinyqwenvl.model.Inputs) -> dict[str, Any]:
    """Prepared inputs for a call; from 5.0 on the types of the tokens are needed too."""
    ids = torch.as_tensor(inputs.input_ids)[None]
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.as_tensor(inputs.pixel_values).to(model.dtype),
        "image_grid_thw": torch.as_tensor(inputs.image_grid_thw),
    }
    if int(transformers.__version__.partition(".")[0]) >= 5:
        given["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    return given


def compare(family: str, directory: Path) -> int:
    """Print a line a family of stages; how many stages are wrong."""
    write_checkpoint(directory, tiny_config(family), seed=8)
    ours = tinyqwenvl.load(directory)
    images = [random_image(30 + i, *size) for i, size in enumerate(SIZES)]
    messages = [{"role": "user", "content": with_images(CONTENT, images)}]
    with tinyqwenvl.trace() as stages:
        inputs = ours.prepare(messages)
        ours.forward(inputs)
    stages["model.rope_delta"] = [np.array(inputs.rope_delta)]

    model = load(directory)
    target = directory / "hf.safetensors"
    with torch.no_grad(), instrument(model, target):
        model(**arguments(model, inputs))
    dump = open_dump(target)

    lines: dict[str, list[float]] = defaultdict(list)
    wrong: list[str] = []
    for name, (mine, *_) in stages.items():
        if re.fullmatch(ALONE, name):
            continue
        theirs = dump.get(name)
        if theirs is None:
            wrong.append(f"{name} is not there")
        elif theirs.shape != np.shape(mine):
            wrong.append(f"{name} is {theirs.shape}, ours {np.shape(mine)}")
        elif theirs.exact:
            same = np.array_equal(theirs.read(), mine)
            lines[re.sub(r"\d+", "N", name)].append(0.0 if same else np.inf)
            wrong += [] if same else [f"{name} differs"]
        else:
            far = distance(np.asarray(mine), theirs.read())
            lines[re.sub(r"\d+", "N", name)].append(far.nmse)
            wrong += [] if far.nmse <= BOUND and not far.not_finite else [f"{name}: {far}"]
    wrong += decode(model, inputs, target)
    print(f"\n{family}, transformers {transformers.__version__}: {len(dump)} tensors in the dump")
    for name, errors in lines.items():
        print(f"  {name:<44} {len(errors):>2}   {max(errors):.1e}")
    for line in [*wrong, *dump.notes]:
        print(f"  WRONG: {line}")
    return len(wrong) + len(dump.notes)


def decode(model: Any, inputs: tinyqwenvl.model.Inputs, target: Path) -> list[str]:
    """What is wrong with the calls and the positions of a few greedy steps."""
    with instrument(model, target, ["model.position_ids", "model.layers.0", "lm_head"]):
        model.generate(
            **arguments(model, inputs),
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
        )
    dump, wrong = open_dump(target), []
    length = len(inputs.input_ids)
    for step in range(STEPS):
        place = np.full((3, 1), length + step - 1 + inputs.rope_delta)
        expected = place if step else inputs.position_ids
        entry, layer = dump.get("model.position_ids", step), dump.get("model.layers.0", step)
        if entry is None or not np.array_equal(entry.read(), expected):
            wrong.append(f"model.position_ids of step {step} differ")
        if layer is None or layer.shape[0] != expected.shape[1] or not dump.get("lm_head", step):
            wrong.append(f"the calls of step {step} are not all there")
    names = [entry.key for entry in dump if entry.name == "generated"]
    if len(names) != STEPS - 1 or not np.array_equal(dump["input_ids"], inputs.input_ids):
        wrong.append(f"the ids of the steps are not all there: {names}")
    return wrong + dump.notes


def main() -> int:
    """Both families."""
    with tempfile.TemporaryDirectory() as work:
        return int(any([compare(f, Path(work) / f) for f in ("qwen2_vl", "qwen2_5_vl")]))


if __name__ == "__main__":
    sys.exit(main())
