"""What transformers 5 says: sizes, frames, windows, positions, placeholders, the chat template."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from ..cases import WORDS
from .common import grids, mrope, rope_settings, sampled

ASSETS = Path(__file__).parents[3] / "tinyqwenvl" / "assets"
TEMPLATE_FILE = ASSETS / "checkpoint" / "chat_template.json"


def newer_resize(**given: Any) -> dict[str, int]:
    """``smart_resize`` of transformers 5.23.0."""
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

    return dict(zip(("height", "width"), processing.smart_resize(**given), strict=True))


def hf_frames(
    total_frames: int, video_fps: float, fps: float, min_frames: int, max_frames: int, **_: Any
) -> dict[str, Any]:
    """``sample_frames`` of transformers 5.23.0, less an index past the last frame."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    clip = VideoMetadata(total_num_frames=total_frames, fps=video_fps)
    itself = SimpleNamespace(num_frames=None, temporal_patch_size=2)
    limits = {"min_frames": min_frames, "max_frames": max_frames}
    indices = Qwen2VLVideoProcessor.sample_frames(itself, clip, fps=fps, **limits)
    clip.frames_indices = [i for i in indices.tolist() if i < total_frames]
    return sampled(clip.frames_indices, 1 / clip.sampled_fps)


def newer_windows(**given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``get_vision_window_index`` of transformers 5.23.0."""
    from transformers.vision_utils import get_vision_window_index

    given = {**given, "grid_thw": torch.tensor(given["grid_thw"])}
    return get_vision_window_index(**given)


def newer_index(**given: Any) -> dict[str, list[int]]:
    """The window order, and what undoes it."""
    index, _ = newer_windows(**given)
    return {"window_index": index.tolist(), "reverse_index": torch.argsort(index).tolist()}


def newer_seqlens(**given: Any) -> dict[str, list[int]]:
    """Boundaries of frames and of windows."""
    from transformers.vision_utils import get_vision_cu_seqlens

    seqlens = get_vision_cu_seqlens(torch.tensor(given["grid_thw"]))
    return {"frames": seqlens.tolist(), "windows": newer_windows(**given)[1].tolist()}


def newer_rows(grid_thw: list[list[int]], spatial_merge_size: int) -> list[list[int]]:
    """``get_vision_position_ids`` of transformers 5.23.0."""
    from transformers.vision_utils import get_vision_position_ids

    return get_vision_position_ids(torch.tensor(grid_thw), spatial_merge_size).tolist()


def newer_mrope(**given: Any) -> dict[str, Any]:
    """``get_rope_index`` of transformers 5.23.0."""
    newer = given["model_type"] == "qwen2_5_vl"
    kind = transformers.Qwen2_5_VLModel if newer else transformers.Qwen2VLModel
    itself = rope_settings(given)
    itself.get_vision_position_ids = partial(kind.get_vision_position_ids, itself)
    return mrope(partial(kind.get_rope_index, itself), True, newer, **given)


def published(messages: list[Any], **options: bool) -> str:
    """The published template, rendered as transformers renders."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = json.loads(TEMPLATE_FILE.read_text(encoding="utf-8"))["chat_template"]
    (text,), _ = render_jinja_template([messages], chat_template=template, **options)
    return text


def words_tokenizer() -> Any:
    """One token for every word of the cases."""
    from tokenizers import AddedToken, Tokenizer, models

    backend = Tokenizer(models.WordLevel(WORDS, "?"))
    backend.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def expansion(**given: Any) -> dict[str, Any]:
    """What ``Qwen2_5_VLProcessor`` makes of a text and the grids of its images and videos."""
    kind = transformers.Qwen2_5_VLProcessor
    processor = object.__new__(kind)
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    sizes = SimpleNamespace(merge_size=given["spatial_merge_size"])
    processor.image_processor = processor.video_processor = sizes
    tokenizer = processor.tokenizer = words_tokenizer()
    assert tokenizer(given["text"])["input_ids"] == given["input_ids"]
    found = {name: given[name] for name in ("image_grid_thw", "video_grid_thw")}
    blank = {name: [torch.zeros(3, 2, 2) for _ in rows] or None for name, rows in found.items()}
    clips = blank["video_grid_thw"]
    processor.validate_inputs(
        images=blank["image_grid_thw"],
        text=[given["text"]],
        videos=clips and [clip[None] for clip in clips],
    )
    inputs = {name: grids(rows) for name, rows in found.items()}
    counts = [len(rows) for rows in found.values()]
    images = [processor.replace_image_token(inputs, i) for i in range(counts[0])]
    videos = [processor.replace_video_token(inputs, i) for i in range(counts[1])]
    (text,), _ = processor.get_text_with_replacements([given["text"]], images, videos)
    return {
        "image_counts": [len(p) // len(processor.image_token) for p in images],
        "video_counts": [len(v) // len(processor.video_token) for v in videos],
        "input_ids": tokenizer(text)["input_ids"],
    }
