import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import max_examples, rounding

from tinyqwenvl import UserError, compat
from tinyqwenvl.config import ProcessorConfig, VisionConfig
from tinyqwenvl.image import normalise, patchify, preprocess, resize, smart_resize, unpatchify

sides = st.integers(1, 5000)
VISION = VisionConfig(1, 48, 3, 64, 64)


def fair(h, w):
    return max(h, w) / min(h, w) <= 200


# ------------------------------------------------------------------ smart_resize


def slow_round_to_multiple(side, factor):
    """The nearest multiple, ties to the even one, found by trying them all."""
    best = None
    for k in range(side // factor + 2):
        distance = abs(k * factor - side)
        if best is None or distance < best[0] or (distance == best[0] and k % 2 == 0):
            best = (distance, k)
    return best[1] * factor


def slow_smart_resize(h, w, factor, smallest, largest):
    """The rule, written as the three cases it is."""
    rounded = slow_round_to_multiple(h, factor), slow_round_to_multiple(w, factor)
    area = rounded[0] * rounded[1]
    if area > largest:
        shrink = math.sqrt(h * w / largest)
        return tuple(max(factor, int(s / shrink / factor) * factor) for s in (h, w))
    if area < smallest:
        grow = math.sqrt(smallest / (h * w))
        return tuple(-int(-(s * grow / factor) // 1) * factor for s in (h, w))
    return rounded


@given(sides, sides, st.sampled_from([(3136, 12845056), (3136, 1003520), (12544, 100352)]))
def test_smart_resize_follows_the_rule(h, w, limits):
    if not fair(h, w):
        with pytest.raises(UserError, match="200 times"):
            smart_resize(h, w, 28, *limits)
        return
    got = smart_resize(h, w, 28, *limits)
    assert got == slow_smart_resize(h, w, 28, *limits)
    assert got[0] % 28 == got[1] % 28 == 0 and min(got) > 0


@given(st.integers(28, 4000), st.integers(28, 4000))
def test_smart_resize_stays_within_limits_and_keeps_the_aspect(h, w):
    if not fair(h, w):
        return
    H, W = smart_resize(h, w, 28, 3136, 1003520)
    assert H * W <= 1003520 or min(H, W) == 28
    assert H * W >= 3136
    if min(H, W) >= 280:  # rounding by at most one factor a side
        assert abs(math.log((H / W) / (h / w))) < 2 * 28 / min(H, W)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((70, 70), (56, 56)),  # ties to even: 2.5 -> 2
        ((98, 98), (112, 112)),  # 3.5 -> 4
        ((42, 42), (56, 56)),
        ((10, 1000), (28, 560)),
        ((1, 200), (28, 812)),
        ((14, 2800), (28, 812)),
        ((13, 13), (56, 56)),
        ((1974, 591), (1960, 588)),
        ((3991, 3991), (3584, 3584)),
        ((720, 1280), (728, 1288)),
    ],
)
def test_smart_resize_vectors(size, expected):
    assert smart_resize(*size) == expected


def test_smart_resize_other_implementations():
    assert smart_resize(28, 5600, max_pixels=12544) == (28, 1568)
    assert compat.smart_resize_qwen_vl_utils(28, 5600, max_pixels=12544) == (0, 1568)
    assert compat.smart_resize_qwen_vl_utils(10, 1000) == (28, 1008)
    assert compat.smart_resize_qwen_vl_utils(1, 200) == (28, 196)
    with pytest.raises(UserError, match="under 28"):
        compat.smart_resize_hf_4_49(10, 1000)
    assert compat.smart_resize_hf_4_49(28, 5600, max_pixels=12544) == (0, 1568)


@pytest.mark.parametrize("limits", [(0, 100), (-1, 100), (200, 100)])
def test_smart_resize_limits_that_make_no_sense(limits):
    with pytest.raises(UserError, match="allow no size"):
        smart_resize(100, 100, 28, *limits)


def test_the_ratio_200_passes_and_201_does_not():
    smart_resize(1, 200)
    with pytest.raises(UserError, match="200 times"):
        smart_resize(1, 201)


def test_limits_not_asked_for_give_way():
    processor = ProcessorConfig(3136, 1003520)
    assert processor.limits(None, None) == (3136, 1003520)
    assert processor.limits(None, 1000) == (1000, 1000)
    assert processor.limits(2_000_000, None) == (2_000_000, 2_000_000)
    assert processor.limits(500, 100) == (500, 100)  # smart_resize will refuse this
    for bad in (0, -5, 1.5, "1000", float("inf"), True):
        with pytest.raises(UserError, match="must be an integer"):
            processor.limits(None, bad)


def test_an_image_is_not_enlarged_without_bounds():
    with pytest.raises(UserError, match="request fewer pixels"):
        preprocess([(Image.new("RGB", (60, 60)), 10**12, 10**12)], ProcessorConfig(), VISION)


# ------------------------------------------------------------------ patchify


def slow_patchify(frames, patch, merge, temporal):
    """The order of patches, and of numbers in a patch, as eight loops."""
    frames = list(frames)
    while len(frames) % temporal:
        frames.append(frames[-1])
    height, width, channels = frames[0].shape
    rows = []
    for t in range(0, len(frames), temporal):
        for block_row in range(0, height, merge * patch):
            for block_column in range(0, width, merge * patch):
                for i in range(merge):
                    for j in range(merge):
                        y, x = block_row + i * patch, block_column + j * patch
                        rows.append(
                            [
                                frames[t + f][y + dy, x + dx, c]
                                for c in range(channels)
                                for f in range(temporal)
                                for dy in range(patch)
                                for dx in range(patch)
                            ]
                        )
    return np.array(rows)


@max_examples(30)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)
)
def test_patchify_equals_the_loops_and_inverts(frame_count, down, across, patch, merge):
    shape = (frame_count, down * patch * merge, across * patch * merge, 3)
    frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    patches, grid = patchify(frames, patch, merge, 2)
    np.testing.assert_array_equal(patches, slow_patchify(frames, patch, merge, 2))
    assert grid == (-(-frame_count // 2), down * merge, across * merge)
    back = unpatchify(patches, grid, patch, merge, 2)
    np.testing.assert_array_equal(back[:frame_count], frames)
    if frame_count % 2:
        np.testing.assert_array_equal(back[-1], frames[-1])


def test_normalise_is_clip():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = normalise(frames)
    exact = (frames / 255 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert x.dtype == np.float32
    # float32 rounds the byte's share, the mean, the difference, the deviation and the quotient
    size = (1 + 0.4815 + 1) / 0.2613 + 2 * np.abs(exact)
    assert np.all(np.abs(x - exact) <= rounding(1, np.float32) * size)


def test_resize_is_pillow_bicubic():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 61, 3), np.uint8))
    expected = np.asarray(image.resize((84, 56), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, 56, 84), expected)


def test_the_walk_of_a_756_by_476_image():
    """At most 307,200 pixels: 420 x 672, grid 1 x 30 x 48, 1440 patches, 360 image tokens."""
    patches, grids = preprocess(
        [(Image.new("RGB", (756, 476)), 3136, 307200)], ProcessorConfig(), VISION
    )
    assert patches.shape == (1440, 1176)
    assert grids.tolist() == [[1, 30, 48]]


def test_images_follow_one_another():
    images = [Image.new("RGB", (56, 84), "red"), Image.new("RGB", (140, 56), "blue")]
    both, grids = preprocess([(p, 3136, 10**6) for p in images], ProcessorConfig(), VISION)
    one, _ = preprocess([(images[1], 3136, 10**6)], ProcessorConfig(), VISION)
    assert grids.tolist() == [[1, 6, 4], [1, 4, 10]]
    np.testing.assert_array_equal(both[24:], one)
