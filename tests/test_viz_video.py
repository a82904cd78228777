"""Figures of clips: every frame, bracket and position against a slow loop."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import tiny_config
from tinyqwenvl import compat, position, video, viz
from tinyqwenvl.config import parse_config
from tinyqwenvl.model import EXAMPLE_VIDEO

NEWER, OLDER = (parse_config(tiny_config(name)) for name in ("qwen2_5_vl", "qwen2_vl"))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn_at(axes):
    """Left edges of the frames that are drawn, in seconds."""
    return [image.get_extent()[0] for image in axes.images]


def positions(frames, rate, config):
    """By hand: grid k begins at 2 k / rate seconds."""
    count = math.ceil(frames / 2)
    if config.model_type == "qwen2_vl":
        return list(range(count))
    return [int(2 * k / rate * config.vision.tokens_per_second + 1e-6) for k in range(count)]


@pytest.mark.parametrize("config", [NEWER, OLDER], ids=["newer", "older"])
def test_frames_and_positions_of_a_video(config):
    figure = viz.video_strip(EXAMPLE_VIDEO, config, policy="hf")
    assert len(figure.axes) == 3
    for axes, fps in zip(figure.axes, (1, 2, 4), strict=True):
        assert drawn_at(axes) == [i / fps for i in range(4 * fps)]
        expected = positions(4 * fps, fps, config)
        assert texts(axes) == [f"time {time}" for time in expected]
        assert f"{4 * fps} frames in {2 * fps} pairs at times" in figure.alt
        assert ", ".join(map(str, expected)) in figure.alt
    kind = "positions are times" if config is NEWER else "positions are counts"
    assert kind in figure.get_suptitle()


def test_a_frame_stands_where_it_comes_in_the_video():
    first = viz.video_strip(EXAMPLE_VIDEO, NEWER, fps=[1]).axes[0]
    assert drawn_at(first) == [0, 1.25, 2.5, 3.75]  # from the first frame to the last
    held = np.asarray(list(video.open_video(EXAMPLE_VIDEO).frames())[10])
    np.testing.assert_array_equal(first.images[2].get_array(), held)


def brackets(axes):
    lines = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 4]
    return [(x[0], x[-1]) for x in lines]


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_brackets_hold_two_frames_and_an_odd_one_stands_alone(count):
    frames = [np.full((28, 56, 3), 40 * i, np.uint8) for i in range(count)]
    axes = viz.video_strip(frames, NEWER, fps=[4]).axes[0]
    assert len(axes.images) == count
    found = brackets(axes)
    assert len(found) == math.ceil(count / 2) == len(texts(axes))
    for k, (left, right) in enumerate(found):
        inside = [i for i in range(count) if left - 0.02 <= i / 4 < right]
        assert inside == list(range(2 * k, min(2 * k + 2, count)))
    assert texts(axes) == [f"time {time}" for time in positions(count, 4, NEWER)]


def test_a_list_of_frames_has_another_length_at_every_rate():
    frames = [np.zeros((28, 28, 3), np.uint8)] * 8
    slow, fast = viz.video_strip(frames, NEWER, fps=[2, 8]).axes
    assert drawn_at(slow)[-1] == 3.5 and drawn_at(fast)[-1] == 0.875
    assert texts(slow) == ["time 0", "time 2", "time 4", "time 6"]


def test_a_long_video_is_thinned_but_counted_whole():
    frames = [np.zeros((28, 28, 3), np.uint8)] * 60
    figure = viz.video_strip(frames, NEWER, fps=[10])
    edges = drawn_at(figure.axes[0])
    wide = figure.axes[0].images[0].get_extent()[1]
    assert 10 < len(edges) <= 32 and np.all(np.diff(edges) >= wide - 1e-6)
    assert len(brackets(figure.axes[0])) == 30
    assert "60 frames in 30 pairs" in figure.alt and "..., 11." in figure.alt
    shown = [int(re.sub(r"\D", "", t)) for t in texts(figure.axes[0])]
    assert set(shown) <= set(positions(60, 10, NEWER))


def test_frames_keep_their_shape_and_events_their_second():
    frames = [np.zeros((140, 56, 3), np.uint8)] * 4
    figure = viz.video_strip(frames, NEWER, fps=[2], events={"now": 1.5})
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (top - bottom) / (right - left) == pytest.approx(140 / 56)
    assert figure.axes[0].get_aspect() == 1
    assert "now" in texts(figure.axes[0])
    assert [1.5, 1.5] in [list(line.get_xdata()) for line in figure.axes[0].lines]


def test_one_line_for_times_and_a_fan_for_counts():
    rules = {
        "newer": (NEWER, position.rope_index),
        "older": (OLDER, position.rope_index),
        "cut": (NEWER, compat.rope_index_hf_4_52),
    }
    figure = viz.temporal_positions(rules, fps=(1, 2, 4, 8), seconds=8)
    assert "newer: all rates lie on one line, the last pairs are at 12, 14, 15, 15" in figure.alt
    assert "older: rates differ, the last pairs are at 3, 7, 15, 31" in figure.alt
    assert "cut: rates differ, the last pairs are at 12, 14, 0, 0" in figure.alt
    for axes, config in zip(figure.axes[:2], (NEWER, OLDER), strict=True):
        for line, fps in zip(axes.lines, (1, 2, 4, 8), strict=True):
            assert list(line.get_ydata()) == positions(8 * fps, fps, config)
            assert list(line.get_xdata()) == [2 * k / fps for k in range(4 * fps)]
    assert all(np.all(line.get_ydata() == 0) for line in figure.axes[2].lines[2:])


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_the_frames_of_the_patches(count):
    rng = np.random.RandomState(0)
    frames = [rng.randint(0, 256, (112, 140, 3)).astype(np.uint8) for _ in range(count)]
    small = replace(NEWER, video_limits=(3136, 12845056))
    read = video.read_video(frames, small, min_pixels=3136, max_pixels=12845056, fps=2)
    figure = viz.frame_pairs(read, small)
    shown = min(math.ceil(count / 2), 8)
    axes = np.reshape(figure.axes, (2, shown))
    for k in range(shown):
        for f in range(2):
            frame = frames[min(2 * k + f, count - 1)]
            seen = np.asarray(axes[f, k].images[0].get_array())
            np.testing.assert_array_equal(np.rint(seen * 255), frame)
        assert axes[0, k].get_title() == f"pair {k}: {k} s"
    twice = f"the frames of pair {count // 2} are equal" if count % 2 else "frames differ in each"
    assert twice in figure.alt
    assert ("8 of 10" in figure.alt) == (count == 20)


def test_the_example_video_is_what_the_notebook_says_it_is():
    clip = video.open_video(EXAMPLE_VIDEO)
    assert (clip.total, clip.rate) == (16, 4.0)
    assert Image.open(EXAMPLE_VIDEO).size == (112, 112)
    assert tinyqwenvl.load().config.vision.tokens_per_second == 2
