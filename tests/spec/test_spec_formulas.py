"""Formulas that docs/spec.md words are those of the code."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scripts.random_checkpoint import random_image
from tinyqwenvl import image, vision
from tinyqwenvl.config import VisionConfig


def cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resized_by_the_formula(values, size):
    """Stage 3 as the page words it, along one axis of bytes."""
    scale = len(values) / size
    stretch = max(scale, 1.0)
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), len(values))
        taps = [cubic((j - centre + 0.5) / stretch) for j in range(first, last)]
        total = sum(taps)
        whole = [math.trunc(t / total * 2**22 + math.copysign(0.5, t)) for t in taps]
        score = 2**21 + sum(k * int(v) for k, v in zip(whole, values[first:last], strict=True))
        out.append(min(max(score >> 22, 0), 255))
    return out


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.integers(1, 30))
def test_the_formula_of_the_resize_is_that_of_pillow(values, size):
    pil_image = Image.fromarray(np.repeat(np.array([values], np.uint8)[..., None], 3, axis=2))
    expected = image.resize(pil_image, 1, size)[0, :, 0].tolist()
    assert resized_by_the_formula(values, size) == expected


def test_the_resize_goes_across_first_and_rounds_in_between():
    pil_image = random_image(5, 40, 50)
    across = [[resized_by_the_formula(row[:, c], 28) for c in range(3)] for row in pil_image]
    across = np.transpose(np.array(across), (0, 2, 1))
    down = [[resized_by_the_formula(across[:, x, c], 56) for c in range(3)] for x in range(28)]
    down = np.transpose(np.array(down), (2, 0, 1))
    np.testing.assert_array_equal(image.resize(Image.fromarray(pil_image), 56, 28), down)


def padded_window_index(grid, side):
    """Stage 10 as transformers words it: pad to whole windows (one more when even), drop."""
    t, h, w = grid[0], grid[1] // 2, grid[2] // 2
    down, across = side - h % side, side - w % side
    index = np.pad(
        np.arange(t * h * w).reshape(t, h, w), ((0, 0), (0, down), (0, across)), constant_values=-1
    )
    windows = index.reshape(t, (h + down) // side, side, (w + across) // side, side)
    windows = windows.transpose(0, 1, 3, 2, 4).reshape(-1, side * side)
    ends = np.cumsum((windows >= 0).sum(axis=1)) * 4
    return windows[windows >= 0].tolist(), list(dict.fromkeys([0, *ends.tolist()]))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_windows_with_and_without_padding_are_the_same(t, h, w):
    grid = (t, 2 * h, 2 * w)
    index, ends = vision.window_index(
        np.array([grid]), VisionConfig(4, 48, 3, 64, 64, fullatt_block_indexes=(1, 3))
    )
    assert (index.tolist(), ends.tolist()) == padded_window_index(grid, 4)
