"""Videos: positions against transformers 4.51.3, time, and the choice of frames."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from scripts.video_cases import FPS, FRAMES, GRID, LENGTHS, RATES, SIZES, pad
from tests.test_goldens import BOUND, FILES, read
from tinyqwenvl import compat
from tinyqwenvl.config import parse_config
from tinyqwenvl.model import Inputs
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.position import rope_index
from tinyqwenvl.video import (
    SAMPLING_POLICIES,
    limits_hf,
    limits_qwen_vl_utils,
    sample_hf,
    sample_qwen_vl_utils,
)

_, GOLDEN = read(FILES[0].with_name("video.safetensors"))
CONFIG = parse_config(tiny_config("qwen2_5_vl"))


def frames(count, height=80, width=120):
    return [Image.fromarray(random_image(70 + i, height, width)) for i in range(count)]


# ------------------------------------------------------------------ transformers 4.51.3


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("fps", RATES)
def test_positions_of_videos(family, length, fps):
    """Every length at every rate; Qwen2-VL has no seconds, so one rate stands for all."""
    name = f"{family}: {length} frames at {fps if family == 'qwen2_5_vl' else RATES[0]}"
    grid = np.array([[-(-length // 2), *GRID]])
    ids = np.array([1, 2, 3, *pad("video", int(grid.prod()) // 4), 4, 5])
    config = parse_config(tiny_config(family))
    positions, delta = rope_index(ids, config, None, grid, [2 / fps])
    np.testing.assert_array_equal(positions, GOLDEN[name])
    assert delta == GOLDEN[name].max() + 1 - len(ids)


@pytest.mark.parametrize("reference", [False, True])
def test_a_conversation_with_images_and_a_video(family, reference, tmp_path):
    golden = {n.partition(": ")[2]: a for n, a in GOLDEN.items() if n.startswith(f"{family}:")}
    directory = write_checkpoint(tmp_path, tiny_config(family), seed=7)
    model = tinyqwenvl.load(directory, reference=reference)
    images = [Image.fromarray(random_image(i, *SIZES[n])) for i, n in enumerate(SIZES) if i < 2]
    limits = model.config.processor.limits(None, None)
    clip = {"video": frames(FRAMES, *SIZES["video"]), "fps": FPS}
    clip |= {"min_pixels": limits[0], "max_pixels": limits[1]}
    content = [{"image": images[0]}, clip, {"image": images[1]}, {"text": "?"}]
    prepared = model.prepare([{"role": "user", "content": content}])
    assert prepared.video_grid_thw.tolist() == golden["video_grid_thw"].tolist()
    digest = hashlib.sha256(prepared.pixel_values_videos.tobytes()).digest()
    assert digest == golden["pixel_values_videos.sha256"].tobytes()
    assert prepared.second_per_grid_ts == (2 / FPS,)
    grids = prepared.image_grid_thw, prepared.video_grid_thw, prepared.second_per_grid_ts
    ids = golden["input_ids"]
    positions, delta = rope_index(ids, model.config, *grids)
    np.testing.assert_array_equal(positions, golden["position_ids"])
    inputs = replace(prepared, input_ids=ids, position_ids=positions, rope_delta=delta)
    assert isinstance(inputs, Inputs)
    apart = distance(model.forward(inputs), golden["logits"])
    assert apart.within(**BOUND), apart


# ------------------------------------------------------------------ time


def test_the_same_frames_in_four_seconds_and_in_one():
    """Qwen2.5-VL tells them apart; in Qwen2-VL both count 0, 1, 2, 3."""
    grid = np.array([[4, 2, 2]])
    ids = np.array([CONFIG.video_token_id] * 4)
    slow, fast = (rope_index(ids, CONFIG, None, grid, [2 / fps])[0][0] for fps in (2, 8))
    assert slow.tolist() == [0, 2, 4, 6]
    assert fast.tolist() == [0, 0, 1, 1]
    older = parse_config(tiny_config("qwen2_vl"))
    both = [rope_index(ids, older, None, grid, [2 / fps])[0][0].tolist() for fps in (2, 8)]
    assert both == [[0, 1, 2, 3]] * 2


def test_text_after_a_video_and_what_transformers_5_does():
    """Grid (10, 4, 4), 1 s, 2 a second, 3 tokens before: the vectors of docs/differences.md."""
    grid = np.array([[10, 4, 4]])
    ids = np.array([1, 2, 3, *[CONFIG.video_token_id] * 40, 4, 5, 6, 7])
    ours, delta = rope_index(ids, CONFIG, None, grid, [1.0])
    assert ours[0, 3:43:4].tolist() == list(range(3, 22, 2))
    assert ours[:, 43].tolist() == [22] * 3 and ours[0, -1] == 25
    assert len(ids) + delta == 26
    theirs, delta = compat.rope_index_hf_5(ids, CONFIG, None, grid, [1.0])
    assert theirs[:, 43].tolist() == [5] * 3 and theirs[0, -1] == 8
    assert len(ids) + delta == 22


def test_seconds_cut_first_as_transformers_4_52_did():
    ids, grid = np.array([CONFIG.video_token_id] * 4), np.array([[4, 2, 2]])

    def times(fps):
        return compat.rope_index_hf_4_52(ids, CONFIG, None, grid, [2 / fps])[0][0].tolist()

    for fps in (3, 4, 5, 6, 8):
        assert times(fps) == [0, 0, 0, 0]
    assert times(1.5) == [0, 2, 4, 6]
    for fps in (0.5, 1, 2):
        assert times(fps) == rope_index(ids, CONFIG, None, grid, [2 / fps])[0][0].tolist()


@pytest.mark.parametrize(
    ("fps", "per_second", "t", "expected"),
    [  # transformers 4.51.3; in float64, or with the products in another order, each is one off
        (0.12, 2, 15, 499),
        (0.3, 2, 3, 40),
        (1.2, 2, 3, 10),
        (2.4, 2, 3, 5),
        (25, 25, 5, 9),
        (50, 25, 5, 4),
        (25, 5, 25, 10),
        (25, 10, 25, 20),
    ],
)
def test_time_is_cut_once_and_in_float32(fps, per_second, t, expected):
    vision = replace(CONFIG.vision, tokens_per_second=per_second)
    grid, ids = np.array([[t + 1, 2, 2]]), np.array([CONFIG.video_token_id] * (t + 1))
    positions, _ = rope_index(ids, replace(CONFIG, vision=vision), None, grid, [2 / fps])
    assert positions[0, t] == expected


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize(
    ("total", "rate", "fps", "expected"),
    [  # torch.linspace(0, total - 1, n).round() and torch.arange(0, total, total / n).int()
        (100, 25, 2, ([0, 14, 28, 42, 57, 71, 85, 99], [0, 12, 25, 37, 50, 62, 75, 87])),
        (8, 8, 2, ([0, 2, 5, 7], [0, 2, 4, 6])),
        (3, 30, 2, ([0, 2], [0, 1])),
        (1, 30, 2, ([0], [0])),
        (22, 24, 24, (list(range(22)), list(range(22)))),
    ],
)
def test_sampling(total, rate, fps, expected):
    for sample, indices in zip((sample_qwen_vl_utils, sample_hf), expected, strict=True):
        assert sample(total, rate, fps).tolist() == indices


@given(
    st.integers(1, 100_000),
    st.floats(0.1, 240),
    st.floats(0.01, 240),
    st.sampled_from([*SAMPLING_POLICIES]),
)
def test_samples_are_rising_even_and_within_the_video(total, rate, fps, policy):
    indices = SAMPLING_POLICIES[policy].sample(total, rate, fps)
    assert len(indices) == 1 or len(indices) % 2 == 0
    assert len(indices) <= 768 and indices[0] == 0 and indices[-1] < total
    assert (np.diff(indices) > 0).all()
    wanted = total / rate * fps
    if 4 <= wanted <= 768 and wanted <= total:
        assert len(indices) == math.floor(wanted / 2) * 2


def test_pixel_budgets():
    assert limits_qwen_vl_utils(4, CONFIG) == (100_352, 602_112)
    assert limits_qwen_vl_utils(768, CONFIG) == (100_352, 90_316_800 / 384)
    assert limits_qwen_vl_utils(10_000, CONFIG) == (100_352, 105_369)
    assert limits_qwen_vl_utils(4, CONFIG, max_pixels=50_000) == (50_000, 50_000)
    assert limits_qwen_vl_utils(4, CONFIG, max_pixels=10**7) == (100_352, 602_112)
    assert limits_hf(768, CONFIG) == (3136, 12_845_056)
