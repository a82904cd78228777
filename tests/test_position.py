import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import rounding

from scripts.random_checkpoint import TOKEN_IDS, tiny_config
from tinyqwenvl import UserError, compat
from tinyqwenvl.config import TextConfig, parse_config
from tinyqwenvl.position import mrope_cos_sin, rope_index

NEW = parse_config(tiny_config("qwen2_5_vl"))  # 2 steps a second
OLD = parse_config(tiny_config("qwen2_vl"))
IMAGE, VIDEO = TOKEN_IDS["<|image_pad|>"], TOKEN_IDS["<|video_pad|>"]


def prompt(*parts):
    """Numbers are runs of text; grids are images, or videos when they have a fourth entry."""
    ids, images, videos, seconds = [], [], [], []
    for part in parts:
        if isinstance(part, int):
            ids += [5] * part
            continue
        video = len(part) == 4
        (videos if video else images).append(part[:3])
        if video:
            seconds.append(part[3])
        ids += [VIDEO if video else IMAGE] * (part[0] * part[1] * part[2] // 4)
    grids = [np.array(g) if g else None for g in (images, videos)]
    return np.array(ids, dtype=np.int64), *grids, seconds


def slow_rope_index(config, *parts):
    """One token at a time."""
    positions, cur = [], 0
    for part in parts:
        if isinstance(part, int):
            for _ in range(part):
                positions.append((cur, cur, cur))
                cur += 1
            continue
        t, h, w = part[:3]
        step = np.float32(1)
        if config.model_type == "qwen2_5_vl":
            step = np.float32(part[3] if len(part) == 4 else 1) * np.float32(2)
        block = [
            (cur + int(np.float32(k) * step), cur + i, cur + j)
            for k in range(t)
            for i in range(h // 2)
            for j in range(w // 2)
        ]
        positions += block
        cur = max(max(p) for p in block) + 1
    return np.array(positions).reshape(-1, 3).T, cur - len(positions)


texts = st.integers(1, 6)
images = st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 6)).map(
    lambda g: (1, 2 * g[1], 2 * g[2])
)
videos = st.tuples(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0.25, 0.5, 2 / 3, 1.0, 2.0, 4.0]),
).map(lambda g: (g[0], 2 * g[1], 2 * g[2], g[3]))


@given(
    st.lists(st.one_of(texts, images, videos), min_size=1, max_size=7),
    st.sampled_from([NEW, OLD]),
)
def test_rope_index_equals_the_loop(parts, config):
    got, delta = rope_index(prompt(*parts)[0], config, *prompt(*parts)[1:])
    expected, expected_delta = slow_rope_index(config, *parts)
    np.testing.assert_array_equal(got, expected)
    assert delta == expected_delta


def test_seconds_are_one_for_each_video():
    ids, _, grids, seconds = prompt((2, 2, 2, 0.5), 1, (2, 2, 2, 2.0))
    expected = rope_index(ids, NEW, None, grids, seconds)[0]
    np.testing.assert_array_equal(rope_index(ids, NEW, None, grids, np.array(seconds))[0], expected)
    with pytest.raises(UserError, match="2 videos need as many"):
        rope_index(ids, NEW, None, grids, [0.5])
    assert rope_index(ids, NEW, None, grids)[0][0].tolist() == [0, 2, 3, 4, 6]  # 1 s when absent


def test_text_only_is_plain_counting():
    positions, delta = rope_index(prompt(7)[0], NEW)
    np.testing.assert_array_equal(positions, np.tile(np.arange(7), (3, 1)))
    assert delta == 0


def test_nothing_has_no_positions_and_no_delta():
    positions, delta = rope_index(np.zeros(0, int), NEW)
    assert positions.shape == (3, 0) and delta == 0


def test_an_image_in_text():
    ids, images, _, _ = prompt(2, (1, 4, 6), 2)
    positions, delta = rope_index(ids, NEW, images)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert delta == -3


def test_text_after_a_video_and_what_transformers_5_does():
    """Grid (10, 4, 4), 1 s a grid, 2 steps a second, 3 tokens of text before, 4 after."""
    ids, _, videos_, seconds = prompt(3, (10, 4, 4, 1.0), 4)
    positions, delta = rope_index(ids, NEW, None, videos_, seconds)
    assert positions[0, 3:43:4].tolist() == list(range(3, 22, 2))
    assert positions[:, 43:].tolist() == [[22, 23, 24, 25]] * 3
    assert len(ids) + delta == 26
    theirs, their_delta = compat.rope_index_hf_5(ids, NEW, None, videos_, seconds)
    assert theirs[:, 43:].tolist() == [[5, 6, 7, 8]] * 3
    assert len(ids) + their_delta == 22


def test_time_is_cut_once_in_float32():
    """0.12 frames a second: float64 would give 500 at the fifteenth grid."""
    ids, _, videos_, _ = prompt((16, 2, 2, 0.0))
    positions, _ = rope_index(ids, NEW, None, videos_, [2 / 0.12])
    assert positions[0, 15] == 499


def test_same_frames_other_times():
    """Eight frames: 4 s at 2 a second and 1 s at 8 a second differ in Qwen2.5-VL only."""
    for config, slow, fast in (
        (NEW, [0, 2, 4, 6], [0, 0, 1, 1]),
        (OLD, [0, 1, 2, 3], [0, 1, 2, 3]),
    ):
        for seconds, expected in ((1.0, slow), (0.25, fast)):
            ids, _, videos_, _ = prompt((4, 2, 2, 0.0))
            assert rope_index(ids, config, None, videos_, [seconds])[0][0].tolist() == expected


@pytest.mark.parametrize(
    ("parts", "grids", "complaint"),
    [
        ([2, (1, 4, 4)], None, "more image placeholders"),
        ([2], [[1, 4, 4]], "fewer image placeholders"),
        ([2, (1, 4, 4), 3], [[1, 4, 6]], "fewer placeholders"),
        ([2, (1, 4, 4)], [[1, 4, 6]], "fewer placeholders"),
    ],
)
def test_placeholders_and_grids_must_match(parts, grids, complaint):
    with pytest.raises(UserError, match=complaint):
        rope_index(prompt(*parts)[0], NEW, None if grids is None else np.array(grids))


def test_sections_are_chunks_not_interleaved():
    config = TextConfig(64, 1, 4, 2, 64, 99, 1e-6, 10000.0, (2, 3, 3))
    cos, sin = mrope_cos_sin(np.array([[7], [11], [13]]), config, np.float64)
    frequencies = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    angles = np.array([7, 7, 11, 11, 11, 13, 13, 13]) * frequencies
    # an angle is off by its exponent's rounding times ln 10000 = 9.2, and by four more
    off = 13 * rounding(9.3 + 4)
    np.testing.assert_allclose(cos[0], np.cos(np.tile(angles, 2)), rtol=0, atol=off)
    np.testing.assert_allclose(sin[0], np.sin(np.tile(angles, 2)), rtol=0, atol=off)
