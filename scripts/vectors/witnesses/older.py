"""What transformers 4.51.3 says: its answers, and the process of its own that gives them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from ..cases import CASES
from .common import OLDER, Answer, answer, mrope, rope_settings

ROOT = Path(__file__).parents[3]


def older_mrope(**given: Any) -> dict[str, Any]:
    """``get_rope_index`` of transformers 4.51.3."""
    newer = given["model_type"] == "qwen2_5_vl"
    kind = "Qwen2_5_VLForConditionalGeneration" if newer else "Qwen2VLForConditionalGeneration"
    method = partial(getattr(transformers, kind).get_rope_index, rope_settings(given))
    return mrope(method, False, newer, **given)


def older_windows(**given: Any) -> tuple[list[int], list[int]]:
    """``get_window_index`` of transformers 4.51.3, empty windows included."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

    sizes = {n: given[n] for n in ("patch_size", "spatial_merge_size", "window_size")}
    vision_encoder = SimpleNamespace(**sizes, spatial_merge_unit=sizes["spatial_merge_size"] ** 2)
    kind = modeling.Qwen2_5_VisionTransformerPretrainedModel
    index, boundaries = kind.get_window_index(vision_encoder, torch.tensor(given["grid_thw"]))
    return index.tolist(), [int(b) for b in boundaries]


def older_index(**given: Any) -> dict[str, list[int]]:
    """The window order of transformers 4.51.3."""
    index, _ = older_windows(**given)
    return {"window_index": index, "reverse_index": torch.tensor(index).argsort().tolist()}


def older_seqlens(**given: Any) -> dict[str, list[int]]:
    """Boundaries in transformers 4.51.3 (of frames: retyped from inside its forward pass)."""
    t, h, w = torch.tensor(given["grid_thw"]).T
    frames = torch.repeat_interleave(h * w, t).cumsum(0)
    return {"frames": [0, *frames.tolist()], "windows": older_windows(**given)[1]}


def older_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of transformers 4.51.3."""
    from transformers.models.qwen2_vl import image_processing_qwen2_vl as processing

    return dict(zip(("height", "width"), processing.smart_resize(**given), strict=True))


OLDER_ANSWERS = {
    "smart_resize": older_resize,
    "window_index": older_index,
    "cu_seqlens": older_seqlens,
    "mrope_positions": older_mrope,
}


def answer_older() -> None:
    """The other end of :func:`ask_older`."""
    asked = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        found = [answer(OLDER_ANSWERS[family], given) for family, given in asked]
    json.dump({"version": transformers.__version__, "answers": found}, sys.stdout)


def ask_older(python: str) -> dict[str, Answer]:
    """Case id -> what transformers 4.51.3 says."""
    asked = [(family, c) for family in OLDER_ANSWERS for c in CASES[family]]
    text = json.dumps([[family, case["input"]] for family, case in asked])
    command = [python, "-m", "scripts.vectors.witnesses.older"]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    assert found["version"] == OLDER.split()[1], found["version"]
    return {c["id"]: said for (_, c), said in zip(asked, found["answers"], strict=True)}


if __name__ == "__main__":
    answer_older()
