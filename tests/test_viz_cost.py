"""Figures of costs and of two families: their bars and lines against formulas and slow loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support import rounding

from tinyqwenvl import nn, viz
from tinyqwenvl.presets import preset
from tinyqwenvl.shapes import walk
from tinyqwenvl.viz.cost import STAGES, stage_flops


def shallow(config, *full):
    """A published size with fewer blocks and layers: as wide, and walked in less time."""
    vision = replace(config.vision, depth=4, fullatt_block_indexes=full)
    return replace(config, vision=vision, text=replace(config.text, num_hidden_layers=3))


SEVEN = preset("qwen2.5-vl-7b")
NEWER, OLDER = shallow(SEVEN, 1, 3), shallow(preset("qwen2-vl-7b"), 0, 1, 2, 3)
SIZES = [(224, 224), (448, 336)]


def by_formula(config, size, text=49):
    """FLOPs by stage, from the widths alone: two for each multiplication and addition."""
    w, h = size[0] // 14, size[1] // 14
    n, v, t = w * h, config.vision, config.text
    full = len(v.fullatt_block_indexes) * n * n
    windows = sum(
        (min(8, h - i) * min(8, w - j)) ** 2 for i in range(0, h, 8) for j in range(0, w, 8)
    )
    pairs = full + (v.depth - len(v.fullatt_block_indexes)) * windows
    mlp = (3 if config.model_type == "qwen2_5_vl" else 2) * v.hidden_size * v.intermediate_size
    block = 4 * v.hidden_size**2 + mlp
    merger = n // 4 * (16 * v.hidden_size**2 + 4 * v.hidden_size * v.out_hidden_size)
    vision_encoder = 2 * (n * 1176 * v.hidden_size + v.depth * n * block + merger)
    s = n // 4 + text
    kv = t.num_key_value_heads * t.head_dim
    layer = 2 * t.hidden_size**2 + 2 * t.hidden_size * kv + 3 * t.hidden_size * t.intermediate_size
    rest = 2 * t.num_hidden_layers * s * layer + 2 * t.hidden_size * t.vocab_size
    looked = t.num_hidden_layers * s * (s + 1) // 2
    return [4 * v.hidden_size * pairs, vision_encoder, 4 * t.hidden_size * looked, rest]


@pytest.mark.parametrize("config", [NEWER, OLDER], ids=["newer", "older"])
@pytest.mark.parametrize("size", [*SIZES, (28, 28), (140, 252)])
def test_flops_by_stage_are_those_of_a_formula(config, size):
    limit = {} if min(size) > 28 else {"min_pixels": 784}
    found = stage_flops(walk(config, [size], 49, **limit))
    assert list(found) == list(STAGES)
    assert list(found.values()) == by_formula(config, size)


def test_bars_are_stacked_in_one_unit_for_all_panels():
    figure = viz.flops_by_resolution({"new": NEWER, "old": OLDER}, SIZES)
    assert len(figure.axes) == 2
    for axes, config in zip(figure.axes, (NEWER, OLDER), strict=True):
        bars = [[bar.get_height() for bar in container] for container in axes.containers]
        expected = np.transpose([by_formula(config, size) for size in SIZES])
        np.testing.assert_allclose(bars, expected / 1e9)
        tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
        np.testing.assert_allclose(tops, expected.sum(axis=0) / 1e9)
        shares = expected[:2].sum(axis=0) / expected.sum(axis=0)
        assert [text.get_text() for text in axes.texts] == [f"{share:.0%}" for share in shares]
        assert [t.get_text() for t in axes.get_xticklabels()] == ["224x224", "448x336"]
    assert figure.axes[0].get_ylabel() == "gigaFLOPs (1e9)"
    total = sum(by_formula(NEWER, SIZES[1])) / 1e9
    assert f"new: {total:.3g} gigaFLOPs at 448x336" in figure.alt


def test_images_are_shrunk_to_the_limit():
    bars = [
        [bar.get_height() for c in viz.flops_by_resolution({"a": NEWER}, **asked).axes[0].containers
         for bar in c]
        for asked in ({"sizes": [(896, 896)], "max_pixels": 50176}, {"sizes": [(224, 224)]})
    ]  # fmt: skip
    assert bars[0] == bars[1]


def test_attention_has_slope_two_when_full_and_one_in_windows():
    windows = replace(NEWER, vision=replace(NEWER.vision, fullatt_block_indexes=()))
    sizes = [(448, 448), (112, 112), (896, 896)]
    figure = viz.attention_by_resolution({"full": OLDER, "windows": windows}, sizes)
    full, cut = figure.axes[0].lines[:2]
    assert list(full.get_xdata()) == list(cut.get_xdata()) == [64, 1024, 4096]
    assert list(full.get_ydata()) == [4 * 1280 * 4 * n * n for n in (64, 1024, 4096)]
    assert list(cut.get_ydata()) == [4 * 1280 * 4 * n * 64 for n in (64, 1024, 4096)]
    assert [t.get_text() for t in figure.axes[0].texts] == ["slope 2.0", "slope 1.0"]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert "slope 2.0" in figure.alt and "4,096 take 3.4e+11" in figure.alt


def test_one_size_has_no_slope():
    figure = viz.attention_by_resolution({"a": NEWER}, [(224, 224)])
    assert not figure.axes[0].texts and "slope" not in figure.alt


def test_bytes_are_two_for_every_weight_and_every_number_of_the_cache():
    figure = viz.bytes_by_resolution({"7b": SEVEN}, SIZES)
    weights, cache = figure.axes[0].containers
    t = SEVEN.text
    a_token = 2 * 2 * t.num_hidden_layers * t.num_key_value_heads * t.head_dim
    tokens = [8 * 8 + 49, 16 * 12 + 49]
    assert [round(bar.get_height() * 1e9) for bar in weights] == [2 * 8_292_166_656] * 2
    assert [round(bar.get_height() * 1e9) for bar in cache] == [a_token * n for n in tokens]
    assert all(bar.get_y() == weights[0].get_height() for bar in cache)
    assert [text.get_text() for text in figure.axes[0].texts] == ["113", "241"]
    assert "weights 16.6 gigabytes" in figure.alt


# ------------------------------------------------------------------ two families


def test_curves_and_what_they_are_apart():
    figure = viz.curves({"GELU": nn.gelu, "quick": nn.quick_gelu}, -3, 3)
    x = figure.axes[0].lines[0].get_xdata()
    exact = np.array([0.5 * n * (1 + math.erf(n / math.sqrt(2))) for n in x])
    quick = np.array([n / (1 + math.exp(-1.702 * n)) for n in x])
    off = 2 * rounding(16) * 3  # of values up to 3; an exponent of 5 counts 5 times
    for line, expected in (
        (figure.axes[0].lines[0], exact),
        (figure.axes[0].lines[1], quick),
        (figure.axes[1].lines[0], quick - exact),
    ):
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=0, atol=2 * off)
    worst = np.argmax(np.abs(quick - exact))
    assert f"by at most {abs(quick - exact)[worst]:.2g}, at {x[worst]:.2g}." in figure.alt


def test_one_curve_stands_alone():
    figure = viz.curves({"silu": nn.silu})
    assert len(figure.axes) == 1 and figure.get_suptitle() == "silu"


def test_vectors_as_bars_show_mean_and_rms():
    figure = viz.vectors_as_bars({"x": np.array([1.0, 3.0]), "y": np.array([-1.0, 1.0, 0.0])})
    heights = [[bar.get_height() for bar in axes.containers[0]] for axes in figure.axes]
    assert heights == [[1, 3], [-1, 1, 0]]
    assert figure.axes[0].get_title() == "x\nmean 2.00, rms 2.24"
    assert figure.alt == "Bars. x: mean 2.00, rms 2.24; y: mean 0.00, rms 0.82."


@pytest.mark.parametrize("h, w", [(2, 2), (6, 10), (4, 18)])
def test_a_change_is_drawn_where_its_patch_lies(h, w):
    rows = [  # merge order, written out
        (i + a, j + b) for i in range(0, h, 2) for j in range(0, w, 2)
        for a in (0, 1) for b in (0, 1)
    ]  # fmt: skip
    one, some = np.zeros(h * w), np.linspace(0, 1, h * w)
    one[min(5, h * w - 1)] = 0.1
    changes = {"a": [one, some], "b": [some]}
    figure = viz.change_propagation(changes, np.array([[2, h, w], [1, 2, 2]]), window=4)
    *maps, bar = figure.axes
    axes = np.reshape(maps, (2, 2))
    assert "log10" in bar.get_ylabel()
    assert not axes[1, 1].get_visible()
    for ax, block in ((axes[0, 0], one), (axes[0, 1], some), (axes[1, 0], some)):
        shown = np.ma.filled(np.ma.asarray(ax.images[0].get_array(), float), np.nan)
        for patch, (i, j) in enumerate(rows):
            if block[patch] > 0:
                assert shown[i, j] == pytest.approx(math.log10(block[patch]))
            else:
                assert np.isnan(shown[i, j])
        assert len(ax.lines) == len(range(4, h, 4)) + len(range(4, w, 4))
    assert axes[0, 0].get_title() == "block 0: 1"
    assert figure.alt.endswith(f"a: 1, {h * w - 1}; b: {h * w - 1}.")


def test_no_change_at_all_is_an_empty_map():
    figure = viz.change_propagation({"a": [np.zeros(16)]}, np.array([[1, 4, 4]]))
    assert figure.alt == "Of 16 patches, changed after each block: a: 0."
