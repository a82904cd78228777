"""Figures of the rotary embedding show what an independent computation says."""

import math

import numpy as np
import pytest
from support import rounding

from tinyqwenvl import presets, viz
from tinyqwenvl.config import VisionConfig

PUBLISHED = presets.preset("qwen2.5-vl-3b").vision
SMALL = VisionConfig(depth=2, hidden_size=16, num_heads=2, intermediate_size=8, out_hidden_size=8)


@pytest.mark.parametrize(("config", "quarter"), [(PUBLISHED, 20), (SMALL, 2)])
def test_frequency_bands(config, quarter):
    figure = viz.frequency_bands(config, largest=40)
    head, bars = figure.axes
    turns = [2 * math.pi * 10000 ** (i / quarter) for i in range(quarter)]
    heights = [bar.get_height() for bar in bars.patches]
    # in float32: the exponent is multiplied by ln 10000 = 9.2, and four more roundings
    assert np.allclose(heights, turns + turns, rtol=rounding(9.3 + 4, np.float32), atol=0)
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    assert np.allclose(centres, np.arange(2 * quarter))
    texts = [t.get_text() for t in head.texts if " to " in t.get_text()]
    ends = [f"{i * quarter} to {(i + 1) * quarter - 1}" for i in range(4)]
    axes = ["row", "column", "row", "column"]
    assert texts == [f"{a}\n{e}" for a, e in zip(axes, ends, strict=True)]
    assert (
        f"{sum(turn <= 40 for turn in turns)} of {quarter} complete a turn within 40" in figure.alt
    )
    assert list(bars.lines[0].get_ydata()) == [40, 40]


def test_bars_of_rows_and_columns_differ_in_more_than_colour():
    _, bars = viz.frequency_bands(SMALL).axes
    assert {bar.get_hatch() for bar in bars.patches[:2]} == {None}
    assert {bar.get_hatch() for bar in bars.patches[2:]} == {"////"}


@pytest.mark.parametrize("grid", [[1, 4, 6], [2, 2, 2]])
def test_angle_maps(grid):
    figure = viz.angle_maps(np.array([grid]), PUBLISHED, [3, 23])
    _, h, w = grid
    step = 10000 ** (-3 / 20)
    # an angle of at most 5 steps is off by 5 times its frequency's rounding; a cosine by one more
    off = 5 * rounding(9.3 * 3 / 20 + 4, np.float32) + rounding(1, np.float32)
    by_row, by_column = (axes.images[0].get_array() for axes in figure.axes[:2])
    expected = [[math.cos(r * step) for _ in range(w)] for r in range(h)]
    assert np.allclose(by_row, expected, rtol=0, atol=off)
    expected = [[math.cos(c * step) for c in range(w)] for _ in range(h)]
    assert np.allclose(by_column, expected, rtol=0, atol=off)
    assert f"Angle 23: column times {step:.3g}, vertical stripes" in figure.alt
    assert f"Angle 3: row times {step:.3g}, horizontal stripes" in figure.alt


def test_angle_maps_choose_a_fast_and_a_slow_one_of_each_axis():
    titles = [a.get_title() for a in viz.angle_maps(np.array([[1, 4, 4]]), PUBLISHED).axes]
    assert titles[:4] == [
        "angle 0 (row)",
        "angle 5 (row)",
        "angle 20 (column)",
        "angle 25 (column)",
    ]


def slow_score(q, k, down, right, quarter):
    """q . (k turned) / sqrt(d), pair by pair with complex numbers."""
    total = 0.0
    for i in range(2 * quarter):
        angle = (down if i < quarter else right) * 10000 ** (-(i % quarter) / quarter)
        turned = complex(k[i], k[i + 2 * quarter]) * complex(math.cos(angle), math.sin(angle))
        total += q[i] * turned.real + q[i + 2 * quarter] * turned.imag
    return total / math.sqrt(4 * quarter)


def test_score_by_distance():
    q, k = np.random.default_rng(1).standard_normal((2, 8))
    figure = viz.score_by_distance(q, k, SMALL, reach=3)
    area, lines = figure.axes[:2]
    shown = area.images[0].get_array()
    expected = [[slow_score(q, k, d, r, 2) for r in range(-3, 4)] for d in range(-3, 4)]
    # angles of at most 3 frequencies in float32, and a dot product of 8
    size = np.linalg.norm(q) * np.linalg.norm(k) / math.sqrt(8)
    off = (3 * rounding(9.3 + 4, np.float32) + rounding(10, np.float32)) * size
    assert np.allclose(shown, expected, rtol=0, atol=off)
    down, along = lines.lines[:2]
    assert np.allclose(down.get_ydata(), [row[3] for row in expected], rtol=0, atol=off)
    assert np.allclose(along.get_ydata(), expected[3], rtol=0, atol=off)
    assert f"{expected[3][3]:.2f} at distance 0" in figure.alt
    best = max((value, d, r) for d, row in enumerate(expected) for r, value in enumerate(row))
    below, right = best[1] - 3, best[2] - 3
    assert f"{abs(below)} patches {'below' if below >= 0 else 'above'}" in figure.alt
    assert f"{abs(right)} patches to the {'right' if right >= 0 else 'left'}" in figure.alt


def test_equal_arrows_score_highest_at_no_distance():
    scores = viz.distance_scores(np.ones(80, np.float32), np.ones(80, np.float32), PUBLISHED, 5)
    assert scores.shape == (11, 11) and np.argmax(scores) == 60
    off = 2 * rounding(80 + 4, np.float32) * 80 / math.sqrt(80)  # two sums of 80 ones, turned
    assert np.allclose(scores, scores.T, rtol=0, atol=off)
