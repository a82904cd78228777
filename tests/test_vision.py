from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_same_but_for_rounding, rounding

from tinyqwenvl import nn, vision
from tinyqwenvl.config import VisionConfig

CONFIG = VisionConfig(4, 48, 3, 64, 64, fullatt_block_indexes=(1, 3))
grids = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11)), min_size=1, max_size=3
).map(lambda grids: np.array([(t, 2 * h, 2 * w) for t, h, w in grids]))


def slow_window_index(grid_thw, side=4):
    """Walk the windows; in each, walk its rows and columns; skip what lies outside the image."""
    order, boundaries, offset = [], [0], 0
    for t, h, w in grid_thw:
        h, w = h // 2, w // 2
        for frame in range(t):
            for top in range(0, h, side):
                for left in range(0, w, side):
                    for y in range(top, min(top + side, h)):
                        for x in range(left, min(left + side, w)):
                            order.append(offset + (frame * h + y) * w + x)
                    boundaries.append(4 * len(order))
        offset += t * h * w
    return order, boundaries


@given(grids)
def test_window_index_equals_the_walk(grid_thw):
    index, cu = vision.window_index(grid_thw, CONFIG)
    order, boundaries = slow_window_index(grid_thw.tolist())
    assert index.tolist() == order
    assert cu.tolist() == boundaries


@given(grids)
def test_windows_are_a_permutation_within_frames(grid_thw):
    index, cu = vision.window_index(grid_thw, CONFIG)
    tokens = int(np.sum(np.prod(grid_thw, axis=1))) // 4
    assert sorted(index) == list(range(tokens))
    assert (index[np.argsort(index)] == np.arange(tokens)).all()
    # the frame each token belongs to: no window holds tokens of two frames, or of two images
    frame = np.repeat(
        np.arange(len(vision.frame_seqlens(grid_thw)) - 1),
        np.diff(vision.frame_seqlens(grid_thw)) // 4,
    )
    for start, end in zip(cu[:-1] // 4, cu[1:] // 4, strict=True):
        assert len(set(frame[index[start:end]])) == 1
        assert 0 < end - start <= 16


@pytest.mark.parametrize(
    ("grid", "boundaries"),
    [
        ([[1, 8, 8]], [0, 64]),
        ([[1, 16, 16]], [0, 64, 128, 192, 256]),
        ([[1, 10, 18]], [0, 64, 128, 144, 160, 176, 180]),
        ([[2, 8, 12]], [0, 64, 96, 160, 192]),
        ([[1, 8, 8], [1, 10, 6]], [0, 64, 112, 124]),
        ([[1, 2, 2]], [0, 4]),
    ],
)
def test_window_vectors(grid, boundaries):
    index, cu = vision.window_index(np.array(grid), CONFIG)
    assert cu.tolist() == boundaries
    if grid == [[1, 16, 16]]:
        assert index[:8].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_the_walk_of_420_by_672_pixels_has_24_windows():
    _, boundaries = vision.window_index(np.array([[1, 30, 48]]), CONFIG)
    assert len(boundaries) - 1 == 24


def test_the_inverse_is_argsort_and_448_square_hides_it():
    """On 448x448 the permutation happens to undo itself; on 392x448 it does not."""
    blind, _ = vision.window_index(np.array([[1, 32, 32]]), CONFIG)
    ragged, _ = vision.window_index(np.array([[1, 28, 32]]), CONFIG)
    assert (blind[blind] == np.arange(256)).all()
    assert not (ragged[ragged] == np.arange(224)).all()
    assert (ragged[np.argsort(ragged)] == np.arange(224)).all()


@given(grids)
def test_frame_seqlens(grid_thw):
    slow = [0]
    for t, h, w in grid_thw.tolist():
        for _ in range(t):
            slow.append(slow[-1] + h * w)
    assert vision.frame_seqlens(grid_thw).tolist() == slow


@given(grids)
def test_patch_positions_equal_the_loops(grid_thw):
    slow = []
    for t, h, w in grid_thw.tolist():
        for _ in range(t):
            for row in range(0, h, 2):
                for column in range(0, w, 2):
                    slow += [(row + i, column + j) for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(vision.patch_positions(grid_thw, 2), slow)


def test_rotary_angles_are_row_then_column():
    angles = vision.rotary_angles(np.array([[1, 4, 4]]), CONFIG)
    frequencies = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    # the exponent's rounding is multiplied by ln 10000 = 9.2; power, quotient and product round too
    off = rounding(9.3 + 3, np.float32)
    expected = np.concatenate([1 * frequencies, 3 * frequencies])
    np.testing.assert_allclose(angles[7], expected, rtol=off)


def test_reorder_groups_moves_whole_groups():
    x = np.arange(24.0).reshape(12, 2)
    moved = vision.reorder_groups(x, np.array([2, 0, 1]))
    np.testing.assert_array_equal(moved, np.concatenate([x[8:], x[:4], x[4:8]]))
    np.testing.assert_array_equal(vision.reorder_groups(moved, np.argsort([2, 0, 1])), x)


def test_frames_of_a_video_never_attend_to_each_other(model, exact_model):
    """The tokens of a two-frame-pair clip are those of each pair alone."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(2 * 60, 1176)).astype(np.float32)
    both = model.image_features(patches, np.array([[2, 6, 10]]))
    first = model.image_features(patches[:60], np.array([[1, 6, 10]]))
    second = model.image_features(patches[60:], np.array([[1, 6, 10]]))
    exact = exact_model.image_features(patches, np.array([[2, 6, 10]]))
    assert_same_but_for_rounding(both, np.concatenate([first, second]), exact)


def test_windows_matter(model, family):
    """A far patch changes this window's tokens only through the full blocks; none are left here.

    Qwen2-VL has no windows: there it changes all tokens of the image.
    """
    config = replace(model.config, vision=replace(model.config.vision, fullatt_block_indexes=()))
    grid = np.array([[1, 8, 16]])
    patches = np.random.default_rng(0).normal(size=(128, 1176)).astype(np.float32)
    changed = patches.copy()
    changed[-1] += 1
    see = [vision.vision_encoder(p, grid, model.weights.visual, config) for p in (patches, changed)]
    moved = np.any(see[0] != see[1], axis=1).reshape(4, 8)
    assert moved[:, :4].any() == moved[:, :4].all() == (family == "qwen2_vl")
    assert moved[:, 4:].all()


def test_attention_weights_of_a_window():
    q = np.random.default_rng(0).normal(size=(2, 12, 4))
    key_ranges = nn.segment_key_ranges(np.array([0, 4, 12]))
    weights = nn.attention_weights(q[1:, 5:7], q[1:], key_ranges[5:7])
    assert weights.shape == (1, 2, 12)
    assert (weights[..., :4] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=rounding(2 * 12))
