"""An item's keys: frames and sizes as qwen_vl_utils and transformers choose them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.random_checkpoint import random_image, tiny_config
from tests.test_video_sources import write_video
from tinyqwenvl import UserError, video
from tinyqwenvl.config import parse_config
from tinyqwenvl.image import size_to_read
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.model import EXAMPLE_VIDEO
from tinyqwenvl.video import FrameLimits, choose_frames, frame_size, read_video
from tinyqwenvl.video_request import (
    Wanted,
    pixel_limits,
    pixels,
    resized_size,
    video_options,
)
from tinyqwenvl.video_source import VideoSource

CONFIG = parse_config(tiny_config("qwen2_5_vl"))
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "video_requests.json").read_text())
SMALL = {"min_pixels": 3136, "max_pixels": 12544}


def ours(clip, keys, policy):
    """(indices, rate of the frames used, size) of a golden's clip and keys."""
    source = VideoSource("a.mp4", clip["total"], clip["rate"], lambda: iter(()))
    options = video_options(keys)
    fps, least = options.get("fps"), options.get("least", video.MIN_FRAMES)
    names = ("nframes", "start", "end", "do_sample_frames")
    wanted = Wanted.checked(fps, *(options.get(name) for name in names))
    most = options.get("most", video.MAX_FRAMES)
    indices, between = choose_frames(
        source, wanted.rate_of(source, fps, None), least, most, policy, wanted
    )
    asked = pixel_limits(keys)
    limits = video.SAMPLING_POLICIES[policy].limits(
        len(indices), CONFIG, *asked, pixels(keys.get("total_pixels"))
    )
    height, width = clip["size"]
    frame = Image.new("L", (width, height))
    size = frame_size(frame, 28, FrameLimits(*limits, *asked, options.get("resized")))
    return indices, 1 / between, list(size)


def matches(indices, golden):
    if isinstance(golden, list):
        return indices == golden
    found = {"count": len(indices), "ends": [indices[0], indices[-1]]}
    found["sum"] = sum((i + 1) * index for i, index in enumerate(indices))
    return found == golden


def is_lenient(clip, keys):
    """Where qwen_vl_utils refuses, and we read: one frame of time, or a default that gives way."""
    defaults_cross = "min_pixels" not in keys and keys.get("max_pixels", 10**9) < 100_352
    return defaults_cross or ("nframes" not in keys and clip["total"] < 4)


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_requests_as_qwen_vl_utils_reads_them():
    assert GOLDEN["versions"]["qwen-vl-utils"] == "0.0.14"
    read = 0
    for draw in GOLDEN["videos"]:
        clip, keys, golden = draw["clip"], draw["keys"], draw["qwen-vl-utils"]
        if "error" in golden:
            try:
                indices, _, _ = ours(clip, keys, "qwen-vl-utils")
                assert len(indices) == 1, draw  # a single frame, which we read
            except UserError:
                pass
            continue
        read += 1
        indices, rate, size = ours(clip, keys, "qwen-vl-utils")
        assert matches(indices, golden["indices"]), draw
        assert rate == pytest.approx(golden["rate"], rel=1e-12), draw
        assert size == golden["size"], draw
    assert read > 300 and len(GOLDEN["videos"]) == 500


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_requests_as_transformers_samples_them():
    read = 0
    for draw in GOLDEN["videos"]:
        keys = {k: v for k, v in draw["keys"].items() if not k.startswith("video_")}
        golden = draw["hf"]
        if "error" in golden:
            try:
                assert len(ours(draw["clip"], keys, "hf")[0]) == 1, draw
            except UserError:
                pass
            continue
        indices, _, _ = ours(draw["clip"], keys, "hf")
        read += 1
        past_the_end = not matches(indices, golden["indices"])
        if past_the_end:  # one index more, past the last frame (docs/differences.md)
            assert isinstance(golden["indices"], list), draw
            assert golden["indices"] == [*indices, draw["clip"]["total"]], draw
    assert read > 300


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_sizes_of_images_as_qwen_vl_utils_has_them():
    for draw in GOLDEN["images"]:
        width, height = draw["size"]
        keys, golden = draw["keys"], draw["qwen-vl-utils"]
        limits = CONFIG.processor.limits(*pixel_limits(keys))
        size = list(size_to_read(height, width, 28, limits, resized_size(keys)))
        if "error" not in golden:
            assert size == golden["size"], draw
