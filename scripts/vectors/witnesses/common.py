"""What both versions of transformers share: an answer or a refusal, grids, get_rope_index."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import transformers

HF = f"transformers {transformers.__version__}"
OLDER, QVU, TEMPLATE = "transformers 4.51.3", "qwen_vl_utils 0.0.14", "published template"
Answer = dict[str, Any]  # {"output": ...} or {"error": True}


def answer(function: Callable[..., Any], given: dict[str, Any]) -> Answer:
    """What a witness says; whatever it raises is a refusal."""
    try:
        return {"output": function(**given)}
    except Exception:  # StopIteration, ZeroDivisionError, shape errors: they were never meant
        return {"error": True}


def grids(rows: list[list[int]]) -> torch.Tensor | None:
    """[I, 3], or None where there are none."""
    return torch.tensor(rows) if rows else None


def mrope(
    method: Callable[..., Any], token_types: bool, with_seconds: bool, **given: Any
) -> dict[str, Any]:
    """``get_rope_index`` of a model class, without a model."""
    ids = torch.tensor([given["input_ids"]])
    arguments = {
        "attention_mask": torch.tensor([given["attention_mask"]]),
        "image_grid_thw": grids(given["image_grid_thw"]),
        "video_grid_thw": grids(given["video_grid_thw"]),
    }
    seconds = given["second_per_grid_ts"]
    if with_seconds and seconds is not None:
        arguments["second_per_grid_ts"] = torch.tensor(seconds)  # float32
    if token_types:
        types = (ids == given["image_token_id"]).int() + 2 * (ids == given["video_token_id"]).int()
        arguments["mm_token_type_ids"] = types
    positions, delta = method(input_ids=ids, **arguments)
    return {"position_ids": positions[:, 0].tolist(), "rope_delta": int(delta.reshape(-1)[0])}


def rope_settings(given: dict[str, Any]) -> SimpleNamespace:
    """All of a model that ``get_rope_index`` looks at."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id")
    vision = {n: given[n] for n in ("spatial_merge_size", "tokens_per_second")}
    config = SimpleNamespace(
        vision_config=SimpleNamespace(**vision), **{n: given[n] for n in names}
    )
    return SimpleNamespace(config=config)


def sampled(indices: list[int], seconds: float) -> dict[str, Any]:
    """The output of frame_sampling; two frames make one temporal grid."""
    return {"indices": indices, "second_per_grid": 2 * seconds}
