"""Dependencies between stages: a rank for every stage name, in the model's data flow."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

Rank: TypeAlias = tuple[float, float, float]  # part of the model, block or layer, inside of it

_PARTS = {
    "image.rgb": 0.0, "image.resize": 0.2, "image.normalise": 0.4, "image.nine_dimensions": 0.6,
    "pixel_values": 1.0, "pixel_values_videos": 1.0, "image_grid_thw": 1.0, "video_grid_thw": 1.0,
    "visual.patch_embed": 2.0, "visual.window_index": 2.5, "visual.cu_seqlens": 2.5,
    "visual.cu_window_seqlens": 2.5, "visual.merger.ln_q": 4.0, "visual.merger.mlp.0": 5.0,
    "visual.merger.mlp.1": 5.5, "visual.merger.mlp.2": 6.0, "visual.merger": 7.0, "visual": 8.0,
    "input_ids": 7.5, "model.embed_tokens": 8.0, "model.inputs_embeds": 9.0, "model.norm": 11.0,
    "lm_head": 12.0,
}  # fmt: skip
_OF_TEXT, _JOINED = ("input_ids", "model.embed_tokens"), 9.0  # parallel to the encoder
_LISTS = {"visual.blocks": 3.0, "model.layers": 10.0}
_ANGLES = {"visual.rotary_angles": 3.0, "model.position_ids": 10.0}  # of every block or layer
_TURNED, _WHOLE = 2.5, 11.0
_INSIDE = {
    "norm1": 0.0, "input_layernorm": 0.0, "qkv": 1.0, "q_proj": 1.0, "k_proj": 1.0, "v_proj": 1.0,
    "q": 2.0, "k": 2.0, "v": 2.0, "key_ranges": _TURNED, "context": 3.0, "proj": 4.0, "o_proj": 4.0,
    "attn": 5.0, "self_attn": 5.0, "norm2": 6.0, "post_attention_layernorm": 6.0,
    "gate_proj": 7.0, "up_proj": 7.0, "fc1": 7.0, "act": 8.0, "act_fn": 8.0, "down_proj": 9.0,
    "fc2": 9.0, "mlp": 10.0, "": _WHOLE,
}  # fmt: skip
_ALONE = ("qkv", "fc1", "context", "proj", "o_proj", "attn", "self_attn", "down_proj", "fc2", "mlp")


@lru_cache(maxsize=10_000)
def rank(name: str) -> Rank | None:
    """The rank of a stage; stages of higher rank depend on it. None for an unknown name."""
    if name in _PARTS:
        return _PARTS[name], 0, 0
    if name in _ANGLES:
        return _ANGLES[name], 0, _TURNED
    if found := re.fullmatch(r"(visual\.blocks|model\.layers)\.([0-9]{1,6})(?:\.(.*))?", name):
        last = (found[3] or "").rpartition(".")[2]
        if last in _INSIDE:
            return _LISTS[found[1]], int(found[2]), _INSIDE[last]
    return None


def depends(name: str, on: str) -> bool:
    """Whether a stage certainly depends on another one."""
    here, there = rank(name), rank(on)
    if here is None or there is None:
        return False
    if name in _OF_TEXT or (on in _OF_TEXT and here[0] < _JOINED):
        return (name, on) == _OF_TEXT[::-1]
    return here > there


def carries_all(name: str, of: str) -> bool:
    """Whether everything that depends on the stage ``of``, and comes after ``name``, does so
    through ``name`` alone.
    """
    here, there = rank(name), rank(of)
    if here is None or there is None or here <= there:
        return False
    if of in _ANGLES:
        return here[0] > there[0]
    if here[0] not in _LISTS.values() or here[2] == _WHOLE:
        return here[0] >= 2.0 and name not in _OF_TEXT
    if here[:2] != there[:2]:
        return False  # the residual stream passes by
    last = name.rpartition(".")[2]
    if last in ("q", "k", "v"):
        return of.rpartition(".")[2] == f"{last}_proj"
    attention, mlp = there[2] < 5 and here[2] <= 5, there[2] >= 6 and here[2] > 6
    return last in _ALONE and (attention or mlp)


def summands(name: str) -> list[str]:
    """The stages that a residual sum adds to its input; none for other stages."""
    here = rank(name)
    if here is None or here[0] not in _LISTS.values() or here[2] != _WHOLE:
        return []
    return [f"{name}.{'attn' if here[0] == 3.0 else 'self_attn'}", f"{name}.mlp"]
