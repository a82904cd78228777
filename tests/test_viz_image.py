"""What the figures of sizes, patches and kernels show, against computations of our own."""

import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from PIL import Image
from support import rounding

from tinyqwenvl import compat, image, viz
from tinyqwenvl.viz import image as figures


def some_image(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def rows_of(n, width=1176, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def texts(axes):
    return {(round(t.get_position()[0], 6), round(t.get_position()[1], 6)): t for t in axes.texts}


FIGURES = {
    "beside": lambda: viz.image_row({"a": some_image(90, 20), "b": some_image(9, 40)}, "T"),
    "grid": lambda: viz.patch_grid(some_image(100, 60)),
    "grid, tall": lambda: viz.patch_grid(some_image(60, 200)),
    "grid, thin": lambda: viz.patch_grid(some_image(28, 2800)),
    "rounding": lambda: viz.rounding_steps(),
    "rounding to 7": lambda: viz.rounding_steps(40, 7),
    "areas": lambda: viz.resized_areas({"small": (10, 10), "big": (9000, 9000)}),
    "one area": lambda: viz.resized_areas({"one": (100, 100)}),
    "map": lambda: viz.tokens_by_size(longest=2000, steps=30, marked={"one": (60, 1000)}),
    "map without corners": lambda: viz.tokens_by_size(longest=100, steps=20),
    "merge": lambda: viz.merge_groups(np.array([[1, 4, 6]])),
    "merge, one block": lambda: viz.merge_groups(np.array([[1, 2, 2]])),
    "merge, tall": lambda: viz.merge_groups(np.array([[1, 40, 4]])),
    "merge, tokens": lambda: viz.merge_groups(np.array([[1, 32, 60]])),
    "merge, many": lambda: viz.merge_groups(np.array([[1, 80, 120]])),
    "merge, several": lambda: viz.merge_groups(np.array([[2, 4, 6], [2, 6, 4]])),
    "nine": lambda: viz.nine_axes(1, 224, 336),
    "nine, clip": lambda: viz.nine_axes(5, 1120, 3360),
    "apart": lambda: viz.patch_layout(rows_of(3), 1),
    "kernels": lambda: viz.kernel_images(rows_of(30), range(23)),
    "one kernel": lambda: viz.kernel_images(rows_of(3), [2]),
    "product": lambda: viz.matrix_product(rows_of(400), rows_of(160)),
    "product, small": lambda: viz.matrix_product(rows_of(9), rows_of(5)),
    "responses": lambda: viz.responses(some_image(84, 56), rows_of(24, 9), (1, 4, 6), [3, 5]),
}


def texts_of(axes):
    """All text of axes that is shown: titles, labels, ticks and what is written inside."""
    ticks = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
    shown = [axes.title, *axes.texts, *(ticks if axes.axison else [])]
    return [t for t in shown if t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_fit_and_read(name):
    """All is inside the figure, texts have 7 points or more and do not lie on each other."""
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert figure.get_figwidth() <= 7.5 and figure.get_figheight() <= 7.6
    assert len(figure.alt) > 20 and figure.get_suptitle()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 > -1 and box.y0 > -1, (axes.get_title(), box)
        assert box.x1 < figure.bbox.width + 1 and box.y1 < figure.bbox.height + 1, box
        assert all(text.get_fontsize() >= 7 for text in texts_of(axes))
        boxes = np.array([t.get_window_extent().extents for t in axes.texts if t.get_text()])
        if len(boxes) > 1:
            low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
            high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
            over = np.all(high - low > 1, axis=2) & ~np.eye(len(boxes), dtype=bool)
            assert not over.any(), [axes.texts[i].get_text() for i in np.argwhere(over)[0]]
    suptitle = figure._suptitle.get_window_extent()
    assert suptitle.x0 > 0 and suptitle.x1 < figure.bbox.width


# ------------------------------------------------------------------ 01


def lines_at(axes):
    """Places of vertical and of horizontal lines, in pixels."""
    segments = [
        s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()
    ]
    down = {round(float(s[0, 0])) for s in segments if s[0, 0] == s[1, 0]}
    across = {round(float(s[0, 1])) for s in segments if s[0, 1] == s[1, 1]}
    return down, across


def test_patch_grid_draws_every_patch():
    figure = viz.patch_grid(some_image(100, 70))  # 100 / 28 = 3.6 -> 4 blocks; 70 is a tie -> 2
    before, after = figure.axes
    assert lines_at(before) == (set(), set())
    assert lines_at(after) == (set(range(0, 113, 14)), set(range(0, 57, 14)))
    assert "100x70 is resized to 112x56: 32 patches, 8 tokens" in figure.get_suptitle()
    assert "4 rows of 8 patches" in figure.alt and "8 tokens of 28 pixels" in figure.alt
    expected = image.resize(some_image(100, 70), 56, 112)
    assert np.array_equal(after.images[0].get_array(), expected)


def test_patch_grid_leaves_out_lines_that_would_merge_and_keeps_limits():
    figure = viz.patch_grid(some_image(3000, 300))
    assert lines_at(figure.axes[1])[0] == set(range(0, 2997, 28))
    small = viz.patch_grid(some_image(300, 300), max_pixels=9 * 784)
    assert "84x84: 36 patches, 9 tokens" in small.get_suptitle()


def test_rounding_steps_shows_ties():
    figure = viz.rounding_steps(130)
    even, away = (
        c.get_offsets().tolist()
        for c in figure.axes[0].collections
        if isinstance(c, PathCollection)
    )
    assert even == [[14, 0], [42, 56], [70, 56], [98, 112], [126, 112]]
    assert away == [[14, 28], [70, 84], [126, 140]]
    assert "Of 5 ties, 14, 70, 126 would" in figure.alt


def test_rounding_steps_are_the_steps_of_smart_resize():
    staircase = viz.rounding_steps(150).axes[0].lines
    for side in range(100, 151):  # a square of 100 pixels is neither too small nor too large
        step = image.smart_resize(side, side)[0]
        runs = [line for line in staircase[:-1] if line.get_ydata()[0] == step]
        assert len(runs) == 1 and runs[0].get_xdata()[0] <= side <= runs[0].get_xdata()[1]


def test_resized_areas_are_those_of_the_function():
    sizes = {"thin": (28, 5600), "square": (100, 100), "big": (4000, 4000)}
    ours = viz.resized_areas(sizes, 3136, 12544)
    theirs = viz.resized_areas(
        {"thin": (28, 5600)}, 3136, 12544, resize=compat.smart_resize_qwen_vl_utils
    )
    points = ours.axes[0].collections[0].get_offsets()
    assert points.tolist() == [[156800, 28 * 1568], [10000, 112 * 112], [16e6, 112 * 112]]
    assert "1 grow and 2 shrink" in ours.alt and "big 4000x4000 becomes 112x112" in ours.alt
    assert [line.get_ydata()[0] for line in ours.axes[0].lines[1:]] == [3136, 12544]
    assert theirs.axes[0].collections[0].get_offsets().tolist() == [[156800, 1]]
    assert "thin 5600x28 becomes 1568x0" in theirs.alt


def test_token_map_counts_tokens_and_refuses():
    figure = viz.tokens_by_size(784 * 4, 784 * 100, longest=3000, steps=25)
    mesh = next(c for c in figure.axes[0].collections if isinstance(c, QuadMesh))
    values = np.ma.filled(mesh.get_array(), np.nan)
    sides = np.unique(np.round(np.geomspace(1, 3000, 25)).astype(int)).tolist()
    assert values.shape == (len(sides), len(sides))
    for i, height in enumerate(sides):
        for j, width in enumerate(sides):
            if max(height, width) > 200 * min(height, width):
                assert np.isnan(values[i, j])
            else:
                h, w = image.smart_resize(height, width, 28, 784 * 4, 784 * 100)
                assert math.isclose(10 ** values[i, j], h * w / 784, rel_tol=1e-9)
    assert "Hatched" in figure.alt
    assert "Hatched" not in FIGURES["map without corners"]().alt


def test_images_beside_names_each():
    figure = FIGURES["beside"]()
    assert [axes.get_title() for axes in figure.axes] == ["a\n90x20", "b\n9x40"]
    assert "a (90x20), b (9x40)" in figure.alt
    assert viz.image_row({"a": some_image(9, 9)}, "T", "seen").alt == "seen"


# ------------------------------------------------------------------ 02


def slow_numbers(t, h, w, merge=2, start=0):
    """For each time, (x, y) of a patch's centre -> its number, by walking the blocks."""
    number, frames = start, []
    for _ in range(t):
        frame = {}
        for block_row in range(0, h, merge):
            for block_column in range(0, w, merge):
                for row in range(block_row, block_row + merge):
                    for column in range(block_column, block_column + merge):
                        frame[column + 0.5, row + 0.5] = number
                        number += 1
        frames.append(frame)
    return frames


@pytest.mark.parametrize(
    "grids", [[(1, 4, 6)], [(1, 2, 2)], [(2, 4, 6), (1, 6, 4)], [(1, 2, 12), (3, 4, 2)]]
)
def test_merge_groups_number_patches(grids):
    figure = viz.merge_groups(np.array(grids))
    expected, start = [], 0
    for t, h, w in grids:
        expected += slow_numbers(t, h, w, start=start)
        start += t * h * w
    panels = [axes for axes in figure.axes if axes.texts]
    assert len(panels) == len(expected)
    for axes, frame in zip(panels, expected, strict=True):
        assert {place: int(t.get_text()) for place, t in texts(axes).items()} == frame
        path = axes.lines[0].get_xydata().tolist()
        assert path == [list(place) for place in sorted(frame, key=frame.get)]
    assert f"up to {start - 1}" in figure.alt and f"{start} patches" in figure.get_suptitle()


def test_merge_groups_colour_blocks_and_never_a_neighbour_alike():
    axes = viz.merge_groups(np.array([[1, 6, 8]])).axes[0]
    assert lines_at(axes) == (set(range(9)), set(range(7)))
    tints = axes.images[0].get_array()
    assert axes.images[0].get_extent() == [0, 8, 6, 0] and tints.shape[:2] == (3, 4)
    for y, x in np.ndindex(3, 4):
        for other in np.ndindex(3, 4):
            near = max(abs(y - other[0]), abs(x - other[1])) == 1
            assert not (near and np.array_equal(tints[y, x], tints[other]))


def test_merge_groups_number_tokens_where_patches_are_small():
    figure = viz.merge_groups(np.array([[1, 10, 16]]))
    numbers = {place: int(t.get_text()) for place, t in texts(figure.axes[0]).items()}
    assert numbers == {
        (2 * column + 1, 2 * row + 1): row * 8 + column for row in range(5) for column in range(8)
    }
    assert "tokens are numbered, up to 39" in figure.alt


def test_merge_groups_number_sparsely_where_tokens_are_many():
    """The first token of at most about a dozen rows, and the last of all."""
    figure = FIGURES["merge, tokens"]()
    numbers = [int(t.get_text()) for t in figure.axes[0].texts]
    assert numbers == [*range(0, 450, 60), 450, 479]
    assert "some tokens are numbered, up to 479" in figure.alt
    numbers = [int(t.get_text()) for t in FIGURES["merge, many"]().axes[0].texts]
    assert len(numbers) <= 14 and numbers[0] == 0 and numbers[-1] == 2399


def test_an_image_that_keeps_its_size_is_drawn_once():
    figure = viz.patch_grid(some_image(112, 56))
    (axes,) = figure.axes
    assert lines_at(axes) == (set(range(0, 113, 14)), set(range(0, 57, 14)))
    assert "112x56 keeps its size: 32 patches, 8 tokens" in figure.get_suptitle()
    assert "is not resized" in figure.alt and "4 rows of 8 patches" in figure.alt


def test_contours_of_the_map_are_at_their_counts():
    figure = viz.tokens_by_size(784, 784 * 900, longest=2000, steps=40)
    labels = {t.get_text() for t in figure.axes[0].texts}
    assert {"10", "30", "100", "300"} <= labels


def test_merge_groups_of_threes_and_over_images():
    axes = viz.merge_groups(np.array([[1, 6, 3]]), merge=3, images=[some_image(42, 84)]).axes[0]
    assert {p: int(t.get_text()) for p, t in texts(axes).items()} == slow_numbers(1, 6, 3, 3)[0]
    assert axes.images[0].get_extent() == [0, 3, 6, 0]


def boxes(figure, y):
    """(name, length) of the boxes whose centre is at height y, from the left."""
    found = {}
    for (x, at), text in texts(figure.axes[0]).items():
        if abs(at - y) < 0.5 and text.get_text()[:6] not in ("which ", "its va"):
            found.setdefault(x, []).append(text.get_text().replace("\n", " "))
    return [tuple(found[x]) for x in sorted(found)]


def test_nine_axes_have_the_shapes_of_patchify():
    figure = viz.nine_axes(3, 56, 84)
    seen = []

    def keep(name, value, _):
        seen.append(value.shape)

    with image_watch(keep):
        image.patchify(np.zeros((3, 56, 84, 3), np.float32))
    below, above = boxes(figure, -0.2), boxes(figure, 2.4)
    assert tuple(int(length) for _, length in below) == seen[0] == (2, 2, 3, 2, 2, 3, 2, 14, 14)
    assert [name for name, _ in below[:5]] == [
        "time", "group row", "group column", "row in group", "column in group",
    ]  # fmt: skip
    assert [name for name, _ in above[3:6]] == ["group row", "row in group", "y in patch"]
    assert [int(length) for _, length in above] == [2, 2, 3, 2, 2, 14, 3, 2, 14]
    assert figure.get_suptitle() == "From 4 frames of 84x56 to 48 patches of 1176 values"


def image_watch(watch):
    from tinyqwenvl.tracing import watching

    return watching(watch)


def test_nine_axes_arrows_follow_the_order():
    order = (0, 3, 4, 6, 7, 1, 5, 8, 2)
    figure = viz.nine_axes(2, 56, 84, order=order)
    arrows = [t for t in figure.axes[0].texts if getattr(t, "arrow_patch", None)]
    assert [(round(a.xyann[0]), round(a.xy[0])) for a in arrows] == [
        (axis, place) for place, axis in enumerate(order)
    ]
    assert [name for name, _ in boxes(figure, -0.2)][-1] == "channel"


def test_patch_layout_cuts_the_row_in_its_order():
    rows = rows_of(4)
    figure = viz.patch_layout(rows, 2)
    strip, colour, *squares = (i.get_array() for i in figure.axes[0].images)
    assert np.array_equal(strip, rows[2:3]) and len(squares) == 6
    for p in range(1176):
        square = squares[p // 392 * 2 + p // 196 % 2]
        assert square[p // 14 % 14, p % 14] == rows[2, p]
    assert colour[3, 5, 1] == pytest.approx(
        np.clip(rows[2, 392 + 3 * 14 + 5] * 0.26130258 + 0.4578275, 0, 1)
    )
    assert "not the same in all frames" in figure.alt
    least, most = np.min(rows[2]), np.max(rows[2])
    assert f"lowest value ({least:.2f}), yellow the highest ({most:.2f})" in figure.get_supxlabel()
    still, _ = image.patchify(image.normalise(np.asarray(some_image(28, 28))[None]))
    assert "the same in all frames" in viz.patch_layout(still, 0).alt
    assert "not the same" not in viz.patch_layout(still, 0).alt


def test_as_bytes_undoes_normalise():
    every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(viz.as_bytes(image.normalise(every[None])[0]), every)


# ------------------------------------------------------------------ 03


def test_kernel_images_are_colours_around_grey():
    kernels = rows_of(12)
    kernels[7] = 0
    figure = viz.kernel_images(kernels, [3, 7, 11], "Three")
    tiles = [i.get_array() for i in figure.axes[0].images]
    assert len(tiles) == 6 and [t.get_text() for t in figure.axes[0].texts] == ["3", "7", "11"]
    p = 2 * 392 + 196 + 4 * 14 + 9  # blue, frame 1, y 4, x 9
    assert tiles[1][4, 9, 2] == pytest.approx(0.5 + 0.5 * kernels[3, p] / np.abs(kernels[3]).max())
    assert np.all(tiles[2] == 0.5) and np.all(tiles[3] == 0.5)
    assert figure.alt.startswith("Three: 3 images of 14x14") and "3, 7, 11" in figure.alt
    assert figure.get_supxlabel() == "frame 0 above frame 1; grey is 0"


def test_kernel_images_stand_in_rows_without_overlap():
    extents = [i.get_extent() for i in FIGURES["kernels"]().axes[0].images]
    corners = {(round(left, 2), round(top, 2)) for left, _, _, top in extents}
    assert len(extents) == len(corners) == 46


def test_matrix_product_is_the_product():
    rows, kernels = rows_of(7, 12), rows_of(5, 12, 1)
    figure = viz.matrix_product(rows, kernels, most=4)
    shown, below, result = (i.get_array() for i in figure.axes[0].images)
    assert np.array_equal(shown, rows[:4]) and np.array_equal(below, kernels)
    for i in range(4):
        for j in range(5):
            off = 2 * rounding(13, np.float32) * sum(np.abs(rows[i] * kernels[j]))
            assert abs(result[i, j] - sum(rows[i] * kernels[j])) <= off
    assert figure.get_suptitle() == "[7, 12] patches by [5, 12] kernels give [7, 5]"


def test_responses_lie_where_patches_stand():
    embedded = rows_of(48, 9)
    embedded[13, 5] = 100  # block 3, the second of its four: row 2, column 1
    figure = viz.responses(some_image(84, 56), embedded, (2, 4, 6), [3, 5])
    maps = [axes.images[0].get_array() for axes in figure.axes[1:3]]
    for (x, y), number in slow_numbers(1, 4, 6)[0].items():
        for laid, kernel in zip(maps, (3, 5), strict=True):
            assert laid[int(y), int(x)] == embedded[number, kernel]
    assert "kernel 5 most at row 2, column 1" in figure.alt


def test_every_public_figure_is_drawn_here_and_exported():
    names = {
        n for n, f in vars(figures).items()
        if getattr(f, "__module__", "") == figures.__name__ and callable(f) and n[0] != "_"
    }  # fmt: skip
    assert names <= set(viz.__all__)
