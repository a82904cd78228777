"""Who says what comes out: for each family what it is about, and its witnesses, the first first.

``common`` is shared, ``newer`` is transformers 5, ``older`` transformers 4.51.3 in a process of its
own (here: None), ``qvu`` is qwen_vl_utils.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import newer, qvu
from .common import HF, OLDER, QVU, TEMPLATE, Answer, answer


def frames(recipe: str, **given: Any) -> dict[str, Any]:
    """The witness of a recipe."""
    return {"qwen-vl-utils": qvu.qvu_frames, "hf": newer.hf_frames}[recipe](**given)


ABOUT: dict[str, tuple[str, dict[str, Callable[..., Any] | None]]] = {
    "smart_resize": (
        "Size of a picture (pixels) -> the size at which it is read.",
        {HF: newer.newer_resize, QVU: qvu.qvu_resize, OLDER: None},
    ),
    "frame_sampling": (
        "A clip, and how often to look -> indices of the frames used, and the seconds that one "
        "temporal grid (two of them) lasts.",
        {"recipe": frames},
    ),
    "window_index": (
        "Grids in patches -> token i in window order is token window_index[i] of the raster order "
        "(tokens are 2x2 blocks of patches); reverse_index undoes it.",
        {HF: newer.newer_index, OLDER: None},
    ),
    "cu_seqlens": (
        "Grids in patches -> boundaries among the patches, of frames and (in window order) of "
        "windows.",
        {HF: newer.newer_seqlens, OLDER: None},
    ),
    "vision_positions": (
        "Grids in patches -> [row, column] of every patch, in merge order.",
        {HF: newer.newer_rows},
    ),
    "mrope_positions": (
        "Ids, grids (in patches) and seconds -> positions [time, height, width][token], and the "
        "rope delta: position of a later token = number of real tokens before it + delta.",
        {OLDER: None, HF: newer.newer_mrope},
    ),
    "chat_template": (
        "Messages -> the text of the prompt, with one placeholder for each picture and video.",
        {TEMPLATE: newer.published},
    ),
    "placeholder_expansion": (
        "Ids with one placeholder for each picture and video, and their grids in patches -> how "
        "often each placeholder is repeated, and the ids.",
        {HF: newer.expansion},
    ),
}


def witnesses(family: str, case: dict[str, Any], older: dict[str, Answer]) -> dict[str, Answer]:
    """Everybody's answer to a case, whom we follow first."""
    given, found = case["input"], {}
    for name, function in ABOUT[family][1].items():
        if name == "recipe":
            name = QVU if given["recipe"] == "qwen-vl-utils" else HF
        found[name] = older[case["id"]] if function is None else answer(function, given)
    if 0 in given.get("attention_mask", []):  # 5.x writes 0 in padding, as we do
        found = dict(reversed(found.items()))
    return found
