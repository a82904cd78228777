"""Regenerate tests/goldens/batches.json: transformers' positions and rope deltas of padded batches.

    pip install -c constraints.txt ".[hf]" && python -m scripts.make_batch_goldens

Prompts of text, images and short videos, padded left and right. (Text after a *long* video stands
elsewhere in transformers 5.3 and later: docs/differences.md. These are short enough.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from scripts.batch_cases import BATCHES, IMAGE, PAD, VIDEO, sample
from scripts.random_checkpoint import tiny_config
from scripts.witness import VERSIONS

GOLDEN = Path(__file__).parents[1] / "tests" / "goldens" / "batches.json"
COMMAND = "python -m scripts.make_batch_goldens"


def witness(family: str) -> Any:
    """A model of the family without weights: only ``get_rope_index`` is asked."""
    kinds = {
        "qwen2_vl": (Qwen2VLConfig, Qwen2VLModel),
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLModel),
    }
    config, model = kinds[family]
    with torch.device("meta"):
        return model(config(**tiny_config(family)))


def rope_index(model: Any, batch: list[list[Any]], side: str) -> dict[str, Any]:
    """What transformers says of a padded batch: positions [3, B, S] and deltas [B]."""
    samples = [sample(parts) for parts in batch]
    length = max(len(s["ids"]) for s in samples)
    ids, mask = [], []
    for s in samples:
        pads, ones = [PAD] * (length - len(s["ids"])), [1] * len(s["ids"])
        ids.append(pads + s["ids"] if side == "left" else s["ids"] + pads)
        mask.append(pads + ones if side == "left" else ones + pads)
    tokens = torch.tensor(ids)
    arguments: dict[str, Any] = {
        "input_ids": tokens,
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": (tokens == IMAGE).int() + 2 * (tokens == VIDEO).int(),
    }
    for name, key in (("image_grid_thw", "images"), ("video_grid_thw", "videos")):
        grids = [grid for s in samples for grid in s[key]]
        arguments[name] = torch.tensor(grids) if grids else None
    if model.config.model_type == "qwen2_5_vl":
        arguments["second_per_grid_ts"] = torch.tensor([x for s in samples for x in s["seconds"]])
    positions, deltas = model.get_rope_index(**arguments)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions.tolist(),
        "rope_deltas": np.ravel(deltas.numpy()).tolist(),
    }


def everything() -> dict[str, Any]:
    """Every family, batch and side."""
    found: dict[str, Any] = {}
    for family in ("qwen2_vl", "qwen2_5_vl"):
        model = witness(family)
        for name, batch in BATCHES.items():
            for side in ("left", "right"):
                found[f"{family}: {name}: {side}"] = rope_index(model, batch, side)
    return found


def main() -> None:
    """Write the file, a case a line."""
    about = json.dumps({"versions": VERSIONS, "command": COMMAND})
    lines = [f'"about": {about}']
    lines += [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in everything().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{GOLDEN.name}: {len(lines) - 1} batches, {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
