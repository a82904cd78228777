"""Regenerate tests/goldens/video_requests.json: results of the references for an item's keys.

    pip install transformers torch pillow qwen-vl-utils==0.0.14
    python -m scripts.make_request_goldens

Random videos (number of frames, rate, size) with random keys. Both references run unchanged, but
for torchvision, of which only the resizing of frames is used: a stand-in notes the size that was
asked for. qwen_vl_utils reads the video through its own decord backend, which a stand-in feeds.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "tests" / "goldens" / "video_requests.json"
DRAWS = 500  # of videos; as many of images
CLIP: dict[str, Any] = {}  # that the stand-in for decord "reads"


def stand_ins() -> None:
    """Stub modules for torchvision and decord."""

    def resize(video: torch.Tensor, size: list[int], **_: Any) -> torch.Tensor:
        return torch.zeros(len(video), 3, *size)

    class VideoReader:
        def __init__(self, path: str):
            pass

        def __len__(self) -> int:
            return CLIP["total"]

        def get_avg_fps(self) -> float:
            return CLIP["rate"]

        def get_batch(self, indices: list[int]) -> Any:
            assert max(indices) < CLIP["total"]
            frames = np.broadcast_to(np.uint8(0), (len(indices), *CLIP["size"], 3))
            return types.SimpleNamespace(asnumpy=lambda: frames)

    def module(name: str, **contents: Any) -> types.ModuleType:
        made = sys.modules[name] = types.ModuleType(name)
        made.__dict__.update(contents, __getattr__=lambda name: MagicMock(), __path__=[])
        made.__spec__ = ModuleSpec(name, None)
        return made

    mode = MagicMock()
    functional = module("torchvision.transforms.functional", resize=resize)
    v2 = module("torchvision.transforms.v2")
    v2.functional = module("torchvision.transforms.v2.functional")  # type: ignore[attr-defined]
    parts: dict[str, Any] = {"InterpolationMode": mode, "functional": functional, "v2": v2}
    transforms = module("torchvision.transforms", **parts)
    io = module("torchvision.io")
    module("torchvision", __version__="0.28.0", transforms=transforms, io=io)
    module("decord", VideoReader=VideoReader)


def draw_video(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A clip, and the keys of an item that asks for it."""
    clip = {
        "total": rng.choice([2, 3, 4, 5, 7, 16, 40, 99, 100, 240, 900, 3000, 20_000]),
        "rate": rng.choice([1.0, 2.0, 5.0, 8.0, 12.5, 24.0, 25.0, 29.97, 30.0, 60.0]),
        "size": [rng.randint(60, 1400), rng.randint(60, 1400)],
    }
    lasts, keys = clip["total"] / clip["rate"], {}
    kind = rng.choice(["nframes", "fps", "fps", "none"])
    if kind == "nframes":
        keys["nframes"] = rng.choice([1, 2, 3, 4, 5, 6, 8, 13, 16, 64, 99])
    if kind == "fps":
        keys["fps"] = rng.choice([0.5, 1, 1.5, 2, 3, 4.0, 10, 24])
    if rng.random() < 0.3:
        keys["min_frames"] = rng.choice([1, 2, 3, 5, 8])
    if rng.random() < 0.3:
        keys["max_frames"] = rng.choice([4, 5, 10, 32, 768, 1000])
    if rng.random() < 0.4:
        keys["video_start"] = round(rng.uniform(-0.1, 0.8) * lasts, rng.choice([0, 1, 3]))
    if rng.random() < 0.4:
        keys["video_end"] = round(rng.uniform(0.2, 1.2) * lasts, rng.choice([0, 1, 3]))
    if rng.random() < 0.3:
        keys["total_pixels"] = rng.choice([20480 * 784, 1_000_000, 5_000_000.0, 24576 * 784])
    keys |= draw_sizes(rng, (50_176, 100_352, 12_544), (151_200, 602_112, 1_003_520, 120_000))
    return clip, keys


def draw_sizes(rng: random.Random, least: tuple, most: tuple) -> dict[str, Any]:
    """Keys that ask for a size."""
    keys: dict[str, Any] = {}
    if rng.random() < 0.3:
        keys["min_pixels"] = rng.choice(least)
    if rng.random() < 0.3:
        keys["max_pixels"] = rng.choice(most)
    if rng.random() < 0.25:
        keys["resized_height"] = rng.randint(30, 900)
    if rng.random() < 0.25:
        keys["resized_width"] = rng.randint(30, 900)
    return keys


def of_qwen_vl_utils(clip: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """The indices, rate and size by ``fetch_video``."""
    from qwen_vl_utils.vision_process import fetch_video

    CLIP.update(clip)
    item = {"type": "video", "video": "clip.mp4", **keys}
    try:
        (video, metadata), rate = fetch_video(
            item, return_video_sample_fps=True, return_video_metadata=True
        )
    except (ValueError, AssertionError, AttributeError) as error:  # as its last reader fails, too
        return {"error": type(error).__name__}
    return {
        "indices": metadata["frames_indices"],
        "rate": rate,
        "size": list(video.shape[2:]),
    }


def of_transformers(clip: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """The indices by ``sample_frames``, and the size by the published limits."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    own = types.SimpleNamespace(
        num_frames=None, fps=None, temporal_patch_size=2, min_frames=4, max_frames=768
    )
    metadata = VideoMetadata(total_num_frames=clip["total"], fps=clip["rate"])
    names = {"fps": "fps", "nframes": "num_frames", "min_frames": "min_frames"}
    names["max_frames"] = "max_frames"
    asked = {names[key]: value for key, value in keys.items() if key in names}
    if "fps" not in asked and "num_frames" not in asked:
        asked["fps"] = 2  # without either, version 5.24 compares None with a number
    try:
        found = Qwen2VLVideoProcessor.sample_frames(own, metadata, **asked)
    except (ValueError, ZeroDivisionError) as error:
        return {"error": type(error).__name__}
    return {"indices": found.tolist()}


def of_an_image(size: list[int], keys: dict[str, Any]) -> dict[str, Any]:
    """The size by ``fetch_image``."""
    from qwen_vl_utils.vision_process import fetch_image

    try:
        found = fetch_image({"image": Image.new("RGB", size), **keys})
    except (ValueError, AssertionError) as error:
        return {"error": type(error).__name__}
    return {"size": [found.height, found.width]}


def main() -> None:
    """Write the file."""
    stand_ins()
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    logging.disable(logging.WARNING)
    rng = random.Random(18)
    videos, images = [], []
    for _ in range(DRAWS):
        clip, keys = draw_video(rng)
        made = {"qwen-vl-utils": of_qwen_vl_utils(clip, keys), "hf": of_transformers(clip, keys)}
        videos.append({"clip": clip, "keys": keys, **made})
    for _ in range(DRAWS):
        size = [rng.randint(20, 1200), rng.randint(20, 1200)]
        keys = draw_sizes(rng, (3136, 50_176, 200_704), (100_352, 307_200, 1_003_520, 784 * 100))
        images.append({"size": size, "keys": keys, "qwen-vl-utils": of_an_image(size, keys)})
    versions = {name: version(name) for name in ("qwen-vl-utils", "transformers", "torch")}
    whole = {
        "versions": versions,
        "command": "python -m scripts.make_request_goldens",
        "videos": [packed(video) for video in videos],
        "images": images,
    }
    GOLDEN.write_text(json.dumps(whole, separators=(",", ":")) + "\n")
    failed = sum("error" in video["qwen-vl-utils"] for video in videos)
    print(f"{len(videos)} videos ({failed} refused), {len(images)} images, "
          f"{GOLDEN.stat().st_size / 1e3:.0f} kB")  # fmt: skip


def packed(video: dict[str, Any]) -> dict[str, Any]:
    """The same with the number of indices, their ends and their sum where there are many."""
    for made in (video["qwen-vl-utils"], video["hf"]):
        if len(found := made.get("indices", [])) > 16:
            digest = sum((i + 1) * index for i, index in enumerate(found))
            made["indices"] = {"count": len(found), "ends": [found[0], found[-1]], "sum": digest}
    return video


if __name__ == "__main__":
    main()
