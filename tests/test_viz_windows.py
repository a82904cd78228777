"""Figures of windows show what an independent computation says."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tinyqwenvl import nn, presets, vision, viz
from tinyqwenvl.viz import vision_windows as windows
from tinyqwenvl.viz.style import COLOURS

CONFIG = presets.preset("qwen2.5-vl-3b").vision
GRIDS = {
    "one token": [[1, 2, 2]],
    "one window": [[1, 8, 8]],
    "ragged": [[1, 10, 18]],
    "frames": [[3, 2, 10]],
    "pictures": [[2, 8, 12], [1, 4, 6]],
}


def numbers(axes):
    """{(x, y): number} of the cells of a panel."""
    return {
        (t.get_position()[0] - 0.5, round(t.get_position()[1] - 0.53, 3)): int(t.get_text())
        for t in axes.texts
        if t.get_text().isdigit()
    }


def slow_windows(grids, side=4):
    """The tokens of every window, by loops: lists of raster numbers."""
    found, offset = [], 0
    for t, h, w in grids:
        h, w = h // 2, w // 2
        for _ in range(t):
            for top in range(0, h, side):
                for left in range(0, w, side):
                    found.append(
                        [
                            offset + r * w + c
                            for r in range(top, min(top + side, h))
                            for c in range(left, min(left + side, w))
                        ]
                    )
            offset += h * w
    return found


@pytest.mark.parametrize("name", GRIDS)
def test_window_order(name):
    expected = slow_windows(GRIDS[name])
    order = [token for window in expected for token in window]
    figure = viz.window_order(np.array(GRIDS[name]), CONFIG)
    raster, inverse, listed = figure.axes
    before, after, rows = numbers(raster), numbers(inverse), numbers(listed)
    assert sorted(before.values()) == list(range(len(order)))
    assert {before[at]: after[at] for at in before} == {v: i for i, v in enumerate(order)}
    for number, window in enumerate(expected):
        assert [rows[x, number] for x in range(len(window))] == window
    assert len(rows) == len(order)
    assert f"window {len(expected) - 1}" in [t.get_text() for t in listed.texts]
    sizes = [len(window) for window in expected]
    assert f"{sum(s < max(sizes) for s in sizes)} of {len(sizes)} windows" in figure.alt
    assert f"{sum(i != v for i, v in enumerate(order))} have another position" in figure.alt


def test_window_order_places_tokens_where_they_are():
    (raster, *_) = viz.window_order(np.array([[1, 10, 18]]), CONFIG).axes
    assert numbers(raster) == {(c, r): 9 * r + c for r in range(5) for c in range(9)}
    outlines = [p for p in raster.patches if not p.get_fill()]
    assert sorted((*p.get_xy(), p.get_width(), p.get_height()) for p in outlines) == [
        (0, 0, 4, 4), (0, 4, 4, 1), (4, 0, 4, 4), (4, 4, 4, 1), (8, 0, 1, 4), (8, 4, 1, 1),
    ]  # fmt: skip


def test_frames_stand_apart_and_are_named():
    (raster, *_) = viz.window_order(np.array(GRIDS["pictures"]), CONFIG).axes
    names = [t.get_text() for t in raster.texts if "frame" in t.get_text()]
    assert names == [f"image {i}\nframe pair {k}" for i, k in ((0, 0), (0, 1), (1, 0))]
    tops = [t.get_position()[1] for t in raster.texts if "frame" in t.get_text()]
    assert np.allclose(np.diff(tops), 4 + windows.GAP)
    at = {number: place for place, number in numbers(raster).items()}
    assert np.allclose(np.subtract(at[24], at[0]), (0, 4 + windows.GAP))
    assert np.allclose(at[48], (0, 2 * (4 + windows.GAP)))


def test_numbers_go_when_cells_are_too_small_and_long_lists_are_cut():
    raster, _, listed = viz.window_order(np.array([[1, 60, 60]]), CONFIG).axes
    assert not raster.texts and len(raster.patches) == 900 + 64
    assert "first 24 of 64" in listed.get_title()
    assert len(numbers(listed)) == 3 * (7 * 16 + 8)  # three strips of eight windows


def test_tiles():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (56, 84, 3), dtype=np.uint8)
    order = np.array([3, 1, 2, 0, 5, 4])
    figure = viz.tiles_in_order(image, {"right": np.arange(6), "wrong": order})
    right, wrong = (axes.images[0].get_array() for axes in figure.axes)
    assert np.array_equal(right, image)
    for place, tile in enumerate(order):
        (y, x), (from_y, from_x) = divmod(place, 3), divmod(tile, 3)
        assert np.array_equal(
            wrong[28 * y : 28 * y + 28, 28 * x : 28 * x + 28],
            image[28 * from_y : 28 * from_y + 28, 28 * from_x : 28 * from_x + 28],
        )
    assert figure.alt == "right: every tile at its position; wrong: 4 of 6 tiles moved."
    assert "4 of 6" in figure.axes[1].get_title()


def test_tiles_smaller_than_the_image_and_one_panel():
    image = np.zeros((30, 60, 3), np.uint8)
    (axes,) = viz.tiles_in_order(image, {"all": np.arange(2)}).axes
    assert axes.images[0].get_array().shape == (28, 56, 3)


def test_attention_mask():
    cu = {"windows": np.array([0, 2, 3, 6]), "full": np.array([0, 6])}
    key_ranges = {name: nn.segment_key_ranges(each) for name, each in cu.items()}
    figure = viz.attention_mask(key_ranges, 6)
    for axes, bounds in zip(figure.axes, cu.values(), strict=True):
        segment = [sum(i >= b for b in bounds[1:]) for i in range(6)]
        seen = np.all(axes.images[0].get_array() == to_rgb(COLOURS[0]), axis=-1)
        assert seen.tolist() == [[a == b for b in segment] for a in segment]
    assert "windows: 14 of 36 pairs (39%)" in figure.alt and "in 3 different" in figure.alt
    assert figure.axes[1].get_title() == "full\n36 of 36 pairs (100%)"


def test_attention_mask_of_one_array_with_more_keys_than_rows():
    figure = viz.attention_mask(nn.causal_key_ranges(2, past=3), 5)
    (axes,) = figure.axes
    assert axes.images[0].get_array().shape == (2, 5, 3)
    assert axes.get_title() == "9 of 10 pairs (90%)"


def test_pairs_by_size():
    sides = np.array([112, 252, 448])
    figure = viz.pairs_by_size(sides, CONFIG)
    full, windowed = figure.axes[0].lines
    assert full.get_ydata().tolist() == [64**2, 324**2, 1024**2]
    cut = 4 * 64**2 + 4 * 16**2 + 4**2  # 252 pixels: 8 + 8 + 2 patches a side
    assert windowed.get_ydata().tolist() == [64**2, cut, 16 * 64**2]
    assert "16 times fewer" in figure.alt


@pytest.fixture
def looks():
    """Weights of two panels over two images, for a patch of the second frame of the second."""
    grids = np.array([[1, 4, 4], [2, 6, 10]])
    index, bounds = vision.window_index(grids, CONFIG)
    frames = vision.frame_seqlens(grids)
    assert frames.tolist() == [0, 16, 76, 136]
    order = (4 * index[:, None] + np.arange(4)).ravel()
    patch = 120
    key_ranges = np.stack([nn.segment_key_ranges(each)[patch] for each in (bounds, frames)])
    weights = np.zeros((2, 136))
    rng = np.random.default_rng(0)
    for each, (first, last) in zip(weights, key_ranges, strict=True):
        each[first:last] = rng.dirichlet(np.ones(last - first))
    return grids, order, patch, key_ranges, weights


def test_attention_from_patch(looks):
    grids, order, patch, key_ranges, weights = looks
    image = Image.new("RGB", (140, 84))
    figure = viz.attention_from_patch(weights, key_ranges, grids, CONFIG, patch, ["a", "b"], image)
    assert len(figure.axes) == 3 + 1  # and the scale
    at = {int(p): vision.patch_positions(grids, 2)[p] for p in order}
    for axes, each, (first, last) in zip(figure.axes[1:3], weights, key_ranges, strict=True):
        shown = np.ma.filled(np.ma.masked_invalid(axes.images[0].get_array()), -1)
        expected = np.full((6, 10), -1.0)
        for j in range(first, last):
            expected[tuple(at[int(order[j])])] = each[j] / max(each)
        assert np.allclose(shown, expected)
        assert axes.get_title().endswith(f"at most {100 * max(each):.1f}%")
    row, column = at[int(order[patch])]
    assert figure.alt.startswith(f"The patch in row {row}, column {column} of 6 rows of 10 ")
    seats = {p.get_xy() for axes in figure.axes[:3] for p in axes.patches[-2:]}
    assert seats == {(column, row)}
    best = at[int(order[np.argmax(weights[1])])]
    assert f"b: attends to 60 patches, most to row {best[0]}, column {best[1]}" in figure.alt


def test_attention_draws_windows_of_that_frame_only(looks):
    grids, _, patch, key_ranges, weights = looks
    figure = viz.attention_from_patch(weights[:1], key_ranges[:1], grids, CONFIG, patch, ["only"])
    (axes, _) = figure.axes
    frames = {
        (*p.get_xy(), p.get_width(), p.get_height()) for p in axes.patches[1:-2] if not p.get_fill()
    }
    assert frames == {(0, 0, 8, 6), (8, 0, 2, 6)}


def test_attention_stays_in_the_frame_of_the_patch(looks):
    grids, _, _, _, weights = looks
    key_ranges = np.array([[16, 76]])
    figure = viz.attention_from_patch(weights[:1] + 0.01, key_ranges, grids, CONFIG, 16, ["first"])
    assert figure.axes[0].images[0].get_array().shape == (6, 10)
    assert figure.alt.startswith("The patch in row 0, column 0 of 6 rows of 10 patches.")


@pytest.mark.parametrize("name", GRIDS)
def test_window_masks_are_one_mask_in_two_orders(name):
    expected = slow_windows(GRIDS[name])
    of = {token: number for number, window in enumerate(expected) for token in window}
    order = [token for window in expected for token in window]
    figure = viz.window_masks(np.array(GRIDS[name]), CONFIG)
    for axes, tokens in zip(figure.axes, (sorted(order), order), strict=True):
        allowed = np.any(axes.images[0].get_array() != to_rgb("#eeeeee"), axis=-1)
        assert allowed.tolist() == [[of[a] == of[b] for b in tokens] for a in tokens]
        assert axes.get_xlabel().startswith("key position")
    assert figure.axes[0].get_ylabel().startswith("query position")
    pairs = sum(len(window) ** 2 for window in expected)
    assert f"both allow {pairs:,} of {len(order) ** 2:,} pairs" in figure.alt
