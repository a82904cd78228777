"""Facts about a stage by its name: its axes, its token order, and its names elsewhere."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..tracing import current_name
from .adapters.names import llama_cpp, onnx, without_wrappers


class About(NamedTuple):
    """Letters of the axes (:data:`tinyqwenvl.dims.GLOSSARY`), and the order of the rows.

    ``order``: "raster" (frame, row, column), "merge" (the four patches of a merge group together),
    "window" (merge groups of a window together), "sequence" (tokens of the prompt), or "".
    """

    axes: tuple[str, ...]
    order: str


# The inputs of a run: in every dump, whichever stages are chosen.
BEGINNINGS = (
    "image.rgb", "input_ids", "pixel_values", "image_grid_thw", "pixel_values_videos",
    "video_grid_thw", "second_per_grid_ts", "generated",
)  # fmt: skip

_VISUAL, _TEXT = r"visual\.blocks\.\d+\.attn\.", r"model\.layers\.\d+\.self_attn\."
_RULES = (  # the first match counts
    (r"image\.rgb", "H W C", "raster"),
    (r"image\.(resize|normalise)", "F H W C", "raster"),
    (r"image\.nine_dimensions", "t h/2 w/2 2 2 C 2 14 14", "merge"),
    (r"pixel_values(_videos)?", "N P", "merge"),
    (r"(image|video)_grid_thw", "I 3", ""),
    (r"input_ids|generated", "S", "sequence"),
    (r"visual\.(cu_seqlens|cu_window_seqlens)", "G", ""),
    (r"visual\.window_index", "M", "window"),
    (r"visual\.patch_embed(\..*)?", "N D", "merge"),
    (r"visual\.merger\.mlp.*|visual\.merger", "M D", "window"),
    (r"visual", "M D", "raster"),
    (_VISUAL + r"(q|k|v|context)", "A N d", "window"),
    (_VISUAL + r"key_ranges", "N 2", "window"),
    (r"visual\..*", "N D", "window"),
    (r"model\.position_ids", "3 S", "sequence"),
    (_TEXT + r"(q|context)", "A S d", "sequence"),
    (_TEXT + r"(k|v)", "B K d", "sequence"),
    (_TEXT + r"key_ranges", "S 2", "sequence"),
    (r"lm_head", "S V", "sequence"),
    (r"model\.rope_delta", "", ""),
    (r"model\..*", "S D", "sequence"),
)


def about(name: str, model_type: str = "qwen2_5_vl") -> About:
    """Facts about the stage ``name``; empty if unknown."""
    for pattern, axes, order in _RULES:
        if re.fullmatch(pattern, name):
            if order == "window" and model_type == "qwen2_vl":
                order = "merge"  # this family has no windows
            return About(tuple(axes.split()), order)
    return About((), "")


# ------------------------------------------------------------------ the order of a run

_ORDER = (  # of whole modules, then inside a block and a layer; a module comes after its parts
    "image", "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw",
    "input_ids", "second_per_grid_ts", "model.rope_delta", "model.embed_tokens",
    "visual.cu_seqlens", "visual.window_index", "visual.cu_window_seqlens", "visual.patch_embed",
    "visual.rotary_angles", "visual.blocks", "visual.merger", "visual", "model.position_ids",
    "model.inputs_embeds", "model.layers", "model.norm", "lm_head", "generated",
)  # fmt: skip
_INSIDE = (
    "norm1", "input_layernorm", "attn.qkv", "q_proj", "k_proj", "v_proj", "q", "k", "v",
    "key_ranges", "context", "proj", "o_proj", "attn", "self_attn", "norm2",
    "post_attention_layernorm", "gate_proj", "up_proj", "fc1", "act", "act_fn", "fc2",
    "down_proj", "ln_q", "0", "1", "2", "mlp", "",
)  # fmt: skip


def position_in_run(name: str) -> tuple[int, ...]:
    """Sort key of a stage in a run, for dumps that do not say their order; unknown ones last."""
    fits = [part for part in _ORDER if name == part or name.startswith(part + ".")]
    part = max(fits, key=len, default="")
    inside = name[len(part) :].strip(".")
    numbered = re.fullmatch(r"([0-9]{1,9})(?:\.(.*))?", inside, re.DOTALL)
    number, rest = (numbered[1], numbered[2] or "") if numbered else ("0", inside)
    last = rest if rest in _INSIDE else rest.rpartition(".")[2]
    known = _INSIDE.index(last) if last in _INSIDE else len(_INSIDE)
    return _ORDER.index(part) if part else len(_ORDER), int(number), known


# ------------------------------------------------------------------ what others call it

_PREFIXES = (
    ("thinker.", ""),  # Qwen2.5-Omni
    ("model.visual.", "visual."),  # transformers >= 4.52 in memory
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),  # mlx-vlm
    ("language_model.lm_head", "lm_head"),
    ("vision_tower.", "visual."),
    ("vision_model.", "visual."),
)
_WHOLE = {
    "model.visual": "visual", "vision_tower": "visual", "image_embeds": "visual",
    "image_features": "visual", "logits": "lm_head", "position_ids": "model.position_ids",
    "inputs_embeds": "model.inputs_embeds", "rope_deltas": "model.rope_delta",
    "rope_delta": "model.rope_delta", "window_index": "visual.window_index",
    "cu_window_seqlens": "visual.cu_window_seqlens", "cu_seqlens": "visual.cu_seqlens",
    "rotary_pos_emb": "visual.rotary_angles",
}  # fmt: skip


def canonical(name: str) -> str:
    """Any known name of a stage -> ours, which is its path in the published checkpoint.

    Known are those of transformers (all layouts) and mlx-vlm, also inside wrappers, and the ones of
    :mod:`.adapters.names`. A name that is not known stays.
    """
    name = without_wrappers(name)
    name = onnx(name) or llama_cpp(name) or name
    for there, here in _PREFIXES:
        if name.startswith(there):
            name = here + name[len(there) :]
    return current_name(_WHOLE.get(name, name))
