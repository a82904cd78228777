"""What a published directory says about its model: ``config.json`` and its small companions.

Field names are the published ones. Both layouts are read: the flat one of the hub (text settings at
the root, ``rope_scaling``) and the nested one that transformers 5 writes (``text_config``,
``rope_parameters``). Qwen2-VL's vision names are translated to Qwen2.5-VL's, which say what they
mean: its ``hidden_size`` is the width of the *text* model (here ``out_hidden_size``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UserError

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MOST_PIXELS = 10**15  # that anybody may ask for
VIDEO_LIMITS = (128 * 28 * 28, 768 * 28 * 28)  # pixels of a frame, as qwen_vl_utils has them
LARGEST = {  # nobody's model; a damaged file's
    "depth": 1000, "num_hidden_layers": 1000, "hidden_size": 2**20, "out_hidden_size": 2**20,
    "patch_size": 2**10, "spatial_merge_size": 2**6, "temporal_patch_size": 2**6,
}  # fmt: skip


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. Widths are in numbers, sizes in pixels unless said otherwise."""

    depth: int  # blocks
    hidden_size: int  # D of the vision encoder
    num_heads: int  # A
    intermediate_size: int  # width inside the MLP
    out_hidden_size: int  # D of the decoder
    patch_size: int = 14
    spatial_merge_size: int = 2  # patches on a side of a merged token
    temporal_patch_size: int = 2  # frames in a patch
    in_channels: int = 3
    window_size: int = 112  # pixels on a side of an attention window
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # the blocks without windows
    tokens_per_second: int = 4  # steps of the temporal position in a second of video
    rms_norm_eps: float = 1e-6  # of every vision norm, whatever the text model has
    rope_theta: float = 10000.0

    @property
    def merged_patches(self) -> int:
        """Patches in a merged token: 4."""
        return self.spatial_merge_size**2


@dataclass(frozen=True)
class TextConfig:
    """The decoder."""

    hidden_size: int  # D
    num_hidden_layers: int
    num_attention_heads: int  # A
    num_key_value_heads: int  # B
    intermediate_size: int
    vocab_size: int  # V
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...]  # how many frequencies turn with time, height, width

    @property
    def head_dim(self) -> int:
        """The size of one head, d."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ProcessorConfig:
    """How large an image may be, and how its colours are normalised."""

    min_pixels: int = 56 * 56
    max_pixels: int = 16384 * 28 * 28  # as published; transformers' class default is 1280 * 28 * 28
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    def limits(self, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
        """(least, most) pixels: what is asked for, else the checkpoint's, which gives way."""
        for asked in (min_pixels, max_pixels):
            if asked is not None and (type(asked) is not int or asked < 1):
                raise UserError(
                    f"a limit of {asked!r} pixels: it must be a whole number, at least 1"
                )
            if asked is not None and asked > MOST_PIXELS:
                raise UserError(f"a limit of over {MOST_PIXELS:,} pixels; ask for fewer pixels")
        least = min_pixels or min(self.min_pixels, max_pixels or self.min_pixels)
        return least, max_pixels or max(self.max_pixels, least)


@dataclass(frozen=True)
class Config:
    """A whole model."""

    model_type: str  # "qwen2_vl" or "qwen2_5_vl"
    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    video_token_id: int
    tie_word_embeddings: bool
    processor: ProcessorConfig = ProcessorConfig()
    eos_token_ids: tuple[int, ...] = ()
    video_limits: tuple[int, ...] = VIDEO_LIMITS
    generation: Mapping[str, Any] = field(default_factory=dict)  # for sampling.published


# ------------------------------------------------------------------ reading


def read_text(path: Path) -> str:
    """A text file. Raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}: is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch the file again") from None


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object, or {} when the file is not there and not required."""
    if not path.exists() and not required:
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not JSON: {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold one JSON object; fetch the file again")
    return value


def load_config(directory: Path) -> Config:
    """Read ``config.json``, and what the processor and generation configs add.

    Raises UserError for another kind of model, a setting that is not supported, an impossible size.
    """
    processor = read_json(directory / "preprocessor_config.json")
    if not processor:  # transformers 5 may write this file instead
        processor = read_json(directory / "processor_config.json").get("image_processor") or {}
    raw = read_json(directory / "config.json", required=True)
    video = read_json(directory / "video_preprocessor_config.json")
    try:
        return parse_config(raw, processor, read_json(directory / "generation_config.json"), video)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    except KeyError as error:
        raise UserError(f"{directory}: config.json lacks {error}") from None
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{directory}: a setting in its JSON files is of a wrong kind: {error}"
        ) from None


def parse_config(
    raw: dict[str, Any],
    processor: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    video: dict[str, Any] | None = None,
) -> Config:
    """The dictionaries of ``config.json`` and its companions -> :class:`Config`, checked."""
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(f"model_type is {model_type!r}; known are {', '.join(FAMILIES)}")
    if not raw.get("vision_config"):
        raise KeyError("vision_config")
    if quantised := _object(raw, "quantization_config"):
        method = quantised.get("quant_method", "unknown")
        raise UserError(f"the checkpoint is quantised ({method}); take the unquantised one")
    text = {**raw, **_object(raw, "text_config")}
    eos = (generation or {}).get("eos_token_id", text.get("eos_token_id"))
    tied = raw.get("tie_word_embeddings") or text.get("tie_word_embeddings", False)
    config = Config(
        model_type=model_type,
        vision=_vision(_object(raw, "vision_config"), model_type, text["hidden_size"]),
        text=_text(text),
        image_token_id=raw.get("image_token_id", 151655),
        video_token_id=raw.get("video_token_id", 151656),
        tie_word_embeddings=tied,
        processor=_processor(processor or {}),
        eos_token_ids=tuple(eos if isinstance(eos, list) else [eos] if eos is not None else []),
        video_limits=_limits(video or {}, *VIDEO_LIMITS),
        generation=generation or {},
    )
    _check(config)
    return config


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """A setting that is an object itself; {} when it is not there."""
    value = holder.get(name) or {}
    if not isinstance(value, dict):
        raise UserError(f"{name} is {value!r}, not a JSON object")
    return value


def _only(what: str, value: Any, *known: Any) -> None:
    """Refuse a setting that we would have to ignore."""
    if value not in known:
        raise UserError(f"{what} is {value!r}; only {' or '.join(map(repr, known))} is supported")


def _text(text: dict[str, Any]) -> TextConfig:
    rope = _object(text, "rope_scaling") or _object(text, "rope_parameters")
    _only("rope_type", rope.get("rope_type", rope.get("type", "default")), "default", "mrope")
    _only("hidden_act", text.get("hidden_act", "silu"), "silu")
    _only("use_sliding_window", text.get("use_sliding_window") or False, False)
    return TextConfig(
        hidden_size=text["hidden_size"],
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=text["num_attention_heads"],
        num_key_value_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
        intermediate_size=text["intermediate_size"],
        vocab_size=text["vocab_size"],
        rms_norm_eps=text["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", text.get("rope_theta", 1e6)),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
    )


def _vision(vision: dict[str, Any], model_type: str, text_width: int) -> VisionConfig:
    optional = ["patch_size", "spatial_merge_size", "temporal_patch_size", "in_channels"]
    sizes = {"depth": vision["depth"], "num_heads": vision["num_heads"]}
    if model_type == "qwen2_vl":
        _only("vision hidden_act", vision.get("hidden_act", "quick_gelu"), "quick_gelu")
        sizes["hidden_size"] = vision["embed_dim"]
        sizes["intermediate_size"] = int(vision["embed_dim"] * vision.get("mlp_ratio", 4))
        sizes["out_hidden_size"] = vision.get("hidden_size", text_width)
        sizes["fullatt_block_indexes"] = tuple(range(min(vision["depth"], LARGEST["depth"])))
    else:
        _only("vision hidden_act", vision.get("hidden_act", "silu"), "silu")
        sizes["hidden_size"] = vision["hidden_size"]
        sizes["intermediate_size"] = vision["intermediate_size"]
        sizes["out_hidden_size"] = vision.get("out_hidden_size", text_width)
        optional += ["window_size", "tokens_per_second"]
        if vision.get("fullatt_block_indexes") is not None:
            sizes["fullatt_block_indexes"] = tuple(vision["fullatt_block_indexes"])
    sizes |= {name: vision[name] for name in optional if name in vision}
    if rope := _object(vision, "rope_parameters"):
        sizes["rope_theta"] = rope.get("rope_theta", VisionConfig.rope_theta)
    return VisionConfig(**sizes)


def _processor(processor: dict[str, Any]) -> ProcessorConfig:
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        _only(step, processor.get(step, True), True, None)
    _only("resample", processor.get("resample", 3), 3)  # bicubic
    _only("rescale_factor", round(255 * processor.get("rescale_factor", 1 / 255), 9), 1)
    least, most = _limits(processor, ProcessorConfig.min_pixels, ProcessorConfig.max_pixels)
    return ProcessorConfig(
        min_pixels=least,
        max_pixels=most,
        image_mean=tuple(processor.get("image_mean", CLIP_MEAN)),
        image_std=tuple(processor.get("image_std", CLIP_STD)),
    )


def _limits(processor: dict[str, Any], least: int, most: int) -> tuple[int, int]:
    """(least, most) pixels, under either of their names."""
    size = _object(processor, "size")
    return (
        processor.get("min_pixels") or size.get("shortest_edge", least),
        processor.get("max_pixels") or size.get("longest_edge", most),
    )


def _check(config: Config) -> None:
    """Kinds and sizes that cannot be: each gets its own line."""
    vision, text, processor = config.vision, config.text, config.processor
    for part in (vision, text, processor, config):
        for name, kind in part.__annotations__.items():
            _check_number(name, getattr(part, name), kind)
    if not isinstance(config.tie_word_embeddings, bool):
        raise UserError(f"tie_word_embeddings is {config.tie_word_embeddings!r}, not true or false")
    if vision.hidden_size % (4 * vision.num_heads):
        raise UserError("vision hidden_size must be a multiple of 4 * num_heads")
    if text.hidden_size % (2 * text.num_attention_heads):
        raise UserError("hidden_size must be an even multiple of num_attention_heads")
    if text.num_attention_heads % text.num_key_value_heads:
        raise UserError("num_attention_heads must be a multiple of num_key_value_heads")
    if len(text.mrope_section) != 3 or 2 * sum(text.mrope_section) != text.head_dim:
        half = text.head_dim // 2
        raise UserError(f"mrope_section {list(text.mrope_section)}: three numbers, {half} in all")
    if vision.out_hidden_size != text.hidden_size:
        raise UserError("the vision encoder's output width must be the decoder's hidden_size")
    if vision.window_size < vision.patch_size * vision.spatial_merge_size:
        raise UserError("window_size is smaller than one merged token")
    for least, most in ((processor.min_pixels, processor.max_pixels), config.video_limits):
        if not 0 < least <= most:
            raise UserError(
                f"a preprocessor's min_pixels {least} and max_pixels {most} leave no size to choose"
            )
    if len(processor.image_mean) != 3 or len(processor.image_std) != 3 or 0 in processor.image_std:
        raise UserError("image_mean and image_std are three numbers each, none of image_std zero")


def _check_number(name: str, value: Any, kind: str) -> None:
    """One field against its annotation; indices and ids may be 0, sizes may not."""
    if kind.startswith("tuple[int"):
        for item in value:
            _check_number(f"each of {name}", item, "index")
    elif kind.startswith("tuple[float"):
        if not all(type(v) in (int, float) and math.isfinite(v) for v in value):
            raise UserError(f"{name} is {list(value)}, not finite numbers")
    elif kind in ("int", "index"):
        least = 0 if kind == "index" or name.endswith("_id") else 1
        most = LARGEST.get(name, 2**31)
        if type(value) is not int or not least <= value <= most:
            raise UserError(f"{name} is {value!r}, not a whole number from {least} to {most}")
    elif kind == "float" and not (type(value) in (int, float) and 0 < value <= 1e30):
        raise UserError(f"{name} is {value!r}, not a positive number")
