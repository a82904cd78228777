"""Regenerate tests/goldens/video.safetensors: results of transformers 4.51.3 for videos.

    pip install transformers==4.51.3 torch pillow safetensors
    python -m scripts.make_video_goldens

Later versions place text after a video wrongly (docs/differences.md), so this one is the witness.
Positions for clips of many lengths and rates; pixels, positions and logits of a prompt with two
images and a video.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from scripts.video_cases import FPS, FRAMES, GRID, LENGTHS, RATES, SIZES, pad

GOLDEN = Path(__file__).parents[1] / "tests" / "goldens" / "video.safetensors"
CLASSES = {
    "qwen2_vl": transformers.Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
}


def positions(model: torch.nn.Module, ids: list[int], seconds: list[float], **grids) -> np.ndarray:
    """[3, S] of ``get_rope_index``."""
    extra = {"second_per_grid_ts": torch.tensor(seconds)}
    if model.config.model_type == "qwen2_vl":
        extra = {}
    tensors = {name: torch.tensor(np.array(grid)) for name, grid in grids.items()}
    found, _ = model.get_rope_index(input_ids=torch.tensor([ids]), **tensors, **extra)
    return found[:, 0].numpy()


@torch.no_grad()
def conversation(model: torch.nn.Module, processor: Qwen2VLImageProcessor) -> dict[str, np.ndarray]:
    """A prompt: an image, a video and an image with words between."""
    pil_images = [Image.fromarray(random_image(i, *SIZES[n])) for i, n in enumerate(SIZES) if i < 2]
    frames = [Image.fromarray(random_image(70 + i, *SIZES["video"])) for i in range(FRAMES)]
    images = processor(images=pil_images, return_tensors="pt")
    videos = processor(images=None, videos=[frames], return_tensors="pt")
    counts = (images["image_grid_thw"].prod(1) // 4).tolist()
    clip = int(videos["video_grid_thw"].prod() // 4)
    text = [*range(40, 60)]
    ids = [*text[:9], *pad("image", counts[0]), *text[:7], *pad("video", clip)]
    ids += [*text[3:6], *pad("image", counts[1]), *text, *text]
    grids = {n: t[n].numpy() for t in (images, videos) for n in t if n.endswith("thw")}
    seconds = [2 / FPS]
    arguments = {**images, **videos, "input_ids": torch.tensor([ids])}
    arguments["attention_mask"] = torch.ones(1, len(ids), dtype=torch.long)
    if model.config.model_type == "qwen2_5_vl":
        arguments["second_per_grid_ts"] = torch.tensor(seconds)
    digest = hashlib.sha256(videos["pixel_values_videos"].numpy().tobytes()).digest()
    return {
        "input_ids": np.array(ids),
        "position_ids": positions(model, ids, seconds, **grids),
        "video_grid_thw": grids["video_grid_thw"],
        "pixel_values_videos.sha256": np.frombuffer(digest, np.uint8),
        "logits": model(**arguments).logits[0].numpy(),
    }


def main() -> None:
    """Write the file."""
    arrays: dict[str, np.ndarray] = {}
    processor = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056)
    for family, kind in CLASSES.items():
        with tempfile.TemporaryDirectory() as folder:
            directory = write_checkpoint(Path(folder), tiny_config(family), seed=7)
            model, info = kind.from_pretrained(directory, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        model.eval()
        for name, array in conversation(model, processor).items():
            arrays[f"{family}: {name}"] = array
        for length in LENGTHS:
            grid = (-(-length // 2), *GRID)
            ids = [1, 2, 3, *pad("video", int(np.prod(grid)) // 4), 4, 5]
            for fps in RATES if family == "qwen2_5_vl" else RATES[:1]:
                found = positions(model, ids, [2 / fps], video_grid_thw=[grid])
                arrays[f"{family}: {length} frames at {fps}"] = found
    versions = {m.__name__: m.__version__ for m in (transformers, torch, np)}
    about = {"versions": versions, "command": "python -m scripts.make_video_goldens"}
    whole = {n: np.ascontiguousarray(a) for n, a in arrays.items()}
    safetensors.numpy.save_file(whole, GOLDEN, {"case": json.dumps(about)})
    print(f"{len(arrays)} arrays, {GOLDEN.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
