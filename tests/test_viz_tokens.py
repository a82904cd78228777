"""Figures of tokens, positions and the merger, against computations of their own."""

import math
import re

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from support import rounding

import tinyqwenvl
from tinyqwenvl import chat, compat, nn, position
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.presets import preset
from tinyqwenvl.tokenizer import ADDED_TOKENS
from tinyqwenvl.viz import (
    gelu_variants,
    id_map,
    merge_group_to_token,
    mrope_sections,
    mrope_timeline,
    patch_groupings,
    positions_compared,
    span_cells,
    token_map,
    token_strip,
)
from tinyqwenvl.viz.chat import Cell, _rows, token_cells, token_text
from tinyqwenvl.viz.position import collisions, runs_of

MODEL = tinyqwenvl.load()
TOKENIZER, CONFIG = MODEL.tokenizer, MODEL.config
IMAGE, VIDEO = CONFIG.image_token_id, CONFIG.video_token_id


def texts(axes):
    return [text.get_text() for text in axes.texts]


def boxes(axes):
    return [patch for patch in axes.patches if type(patch) is Rectangle]


def all_inside(figure):
    """No text of a figure is cut, and none is under 7 points."""
    figure.canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        for text in axes.texts:
            extent = text.get_window_extent()
            assert text.get_fontsize() >= 7
            assert extent.x0 >= whole.x0 - 1 and extent.x1 <= whole.x1 + 1, text.get_text()
            assert extent.y0 >= whole.y0 - 1 and extent.y1 <= whole.y1 + 1, text.get_text()
    assert figure.get_figwidth() <= 7.5
    return True


# ------------------------------------------------------------------ tokens


def test_a_strip_has_a_cell_for_every_token_but_long_runs_of_placeholders():
    pieces = chat.expand(chat.render(user_message(EXAMPLE_IMAGE, "describe")), chat.IMAGE_PAD, [9])
    ids = TOKENIZER.encode(pieces).tolist()
    figure = token_strip(pieces, TOKENIZER)
    numbers = [int(text) for text in texts(figure.axes[0])[1::2]]
    assert numbers == [n for i, n in enumerate(ids) if n != IMAGE or ids[i - 1] != IMAGE]
    assert f"{chat.IMAGE_PAD} × 9" in texts(figure.axes[0])
    assert len(boxes(figure.axes[0])) == len(ids) - 8
    counts = [
        int(n) for n in re.findall(r"(\d+) (?:special|template|text|placeholder)", figure.alt)
    ]
    assert counts == [7, 14, 2, 9] and sum(counts) == len(ids)
    assert figure.alt.startswith(f"{len(ids)} tokens") and all_inside(figure)


@pytest.mark.parametrize(("count", "cells"), [(1, 1), (3, 3), (4, 1)])
def test_short_runs_stay_single_cells(count, cells):
    got = token_cells([chat.VIDEO_PAD] * count, TOKENIZER, alike=3)
    assert len(got) == cells and sum(cell.tokens for cell in got) == count
    assert {cell.kind for cell in got} == {"placeholder"}


def test_kinds_follow_who_wrote_a_piece():
    typed = [{"role": "user", "content": "a<|image_pad|>"}]
    kinds = [cell.kind for cell in token_cells(chat.render(typed), TOKENIZER)]
    assert "placeholder" not in kinds and kinds.count("special token") == 5
    obeyed = token_cells(chat.obey(chat.render(typed)), TOKENIZER)
    assert [cell.text for cell in obeyed if cell.kind == "placeholder"] == ["<|image_pad|>"]
    own = [{"role": "system", "content": "Sing"}, {"role": "user", "content": "x"}]
    text = [cell.text for cell in token_cells(chat.render(own), TOKENIZER) if cell.kind == "text"]
    assert "".join(text) == "Singx"
    roles = [c.text for c in token_cells(chat.render(own), TOKENIZER) if c.kind == "template"]
    assert "".join(roles) == "system↵↵user↵↵assistant↵"


@pytest.mark.parametrize("text", ["plain words", "a b\nc\td", "café", "你好", "😀", "$x$", "", "Ġ"])
def test_token_text_loses_nothing(text):
    """What is shown of the tokens can be read back: dots, arrows, code points and bytes."""
    shown = "".join(token_text(TOKENIZER, n) for n in TOKENIZER.encode(text).tolist())
    if text.isascii():
        back = shown.replace("·", " ").replace("↵", "\n").replace("⇥", "\t")
        assert back == text
    elif text == "café":
        assert shown == "cafC3A9"
    else:
        bytes_shown = text.encode().hex().upper()
        points = "".join(f"U+{ord(c):04X}" for c in text)
        assert shown in (bytes_shown, points, text)
    assert all_inside(token_strip([text], TOKENIZER))


def test_a_strip_wraps_and_cuts_a_long_token():
    long = token_strip(["word " * 60], TOKENIZER)
    tops = {box.get_y() for box in boxes(long.axes[0])}
    assert len(tops) > 5 and long.alt.endswith("and so on.") and all_inside(long)


def test_a_token_too_long_for_a_row_is_cut():
    ((cell,), (other,)) = _rows([Cell("x" * 300, 7, "text", 1), Cell("y" * 60, 8, "text", 1)])
    assert len(cell.text) < 100 and cell.text.endswith("x…") and other.text == "y" * 60


def test_the_map_of_ids_has_every_added_token():
    figure = id_map({"small": (793, 815), "large": (151643, 151936)})
    shown = texts(figure.axes[0])
    assert set(ADDED_TOKENS) <= set(shown) and all_inside(figure)
    row = shown.index("<|image_pad|>")
    assert shown[row + 1 : row + 3] == ["805", "151,655"]
    assert TOKENIZER.token_id("<|image_pad|>") == 805
    assert shown[-2:] == ["none", "151,665 to 151,935"]
    assert "<|image_pad|> is 151,655" in figure.alt


# ------------------------------------------------------------------ positions


def prompt(*parts, seconds=None):
    """Runs of text (numbers) and blocks (("image" | "video", grid)) -> ids, positions, media."""
    ids, grids = [], {"image": [], "video": []}
    for part in parts:
        if isinstance(part, int):
            ids += [5] * part
        else:
            kind, grid = part
            grids[kind].append(grid)
            ids += [{"image": IMAGE, "video": VIDEO}[kind]] * (math.prod(grid) // 4)
    ids = np.array(ids, dtype=np.int64)
    given = {f"{k}_grid_thw": np.array(g) for k, g in grids.items() if g}
    if seconds:
        given["second_per_grid_ts"] = seconds
    media = np.isin(ids, (IMAGE, VIDEO))
    return ids, position.rope_index(ids, CONFIG, **given)[0], media, given


PROMPTS = [
    (3, ("image", (1, 4, 6)), 2),
    (1, ("image", (1, 2, 2)), 1),
    (2, ("image", (1, 16, 24)), 2, ("image", (1, 24, 10)), 9),
    (4, ("video", (4, 8, 8)), 5),
    (("image", (1, 4, 4)),),
    (7,),
    (1,),
]


@pytest.mark.parametrize("parts", PROMPTS)
def test_the_timeline_draws_every_token_once_an_axis(parts):
    _, positions, media, _ = prompt(*parts)
    figure = mrope_timeline(positions, media)
    drawn = {name: {} for name in ("text", "time", "height", "width")}
    for line in figure.axes[0].lines:
        if line.get_label() in drawn:
            drawn[line.get_label()] |= dict(
                zip(*map(np.ndarray.tolist, line.get_data()), strict=True)
            )
    for i, name in enumerate(("time", "height", "width")):
        expected = {s: positions[i, s] for s in range(len(media)) if media[s]}
        assert drawn[name] == expected
    assert drawn["text"] == {s: positions[0, s] for s in range(len(media)) if not media[s]}
    delta = positions.max() + 1 - len(media)
    assert f"rope delta {delta}." in figure.alt and all_inside(figure)
    restarts = [t for t in texts(figure.axes[0]) if t.startswith("text continues")]
    after = [s for s in range(1, len(media)) if media[s - 1] and not media[s]]
    assert restarts == [
        f"text continues at {positions[0, s]} = {positions[:, :s].max()} + 1" for s in after
    ]


def test_a_restart_that_is_not_the_largest_plus_one_is_not_called_so():
    ids, _, media, given = prompt(3, ("video", (10, 4, 4)), 4)
    theirs, _ = compat.rope_index_hf_5(ids, CONFIG, **given)
    shown = texts(mrope_timeline(theirs, media).axes[0])
    assert "text continues at 5" in shown


def test_runs():
    media = np.array([False, True, True, False, True])
    assert [tuple(run) for run in runs_of(media)] == [
        (0, 1, False),
        (1, 3, True),
        (3, 4, False),
        (4, 5, True),
    ]
    assert runs_of(media[:0]) == []


@pytest.mark.parametrize(
    "grid", [(1, 2, 2), (1, 4, 6), (3, 4, 4), (1, 16, 24), (2, 2, 40), (9, 8, 8)]
)
def test_cells_say_the_positions_of_their_place(grid):
    t, h, w = grid[0], grid[1] // 2, grid[2] // 2
    block = position.span_positions(7, grid, 2, 1.0, 2)
    figure = span_cells(block, grid)
    panels = [axes for axes in figure.axes if boxes(axes)]
    assert len(panels) == t and all_inside(figure)
    for k, axes in enumerate(panels):
        assert len(boxes(axes)) == h * w
        said = {tuple(np.round(text.get_position(), 3)): text.get_text() for text in axes.texts}
        assert len(said) == (h * w if w <= 12 else len({0, h - 1}) * 2)
        for (x, y), words in said.items():
            expected = [7 + 2 * k, 7 + math.floor(y), 7 + math.floor(x)]
            assert list(map(int, re.findall(r"\d+", words))) == expected
    assert f"{t} frame pair" in figure.alt and f"({7}, {7}, {7})" in figure.alt


def test_cells_lie_on_the_image():
    image = Image.new("RGB", (336, 224))
    block = position.span_positions(0, (1, 16, 24), 2)
    axes = span_cells(block, (1, 16, 24), 2, image).axes[0]
    assert {(box.get_width(), box.get_height()) for box in boxes(axes)} == {(28, 28)}
    assert np.array_equal(axes.images[0].get_array(), np.asarray(image))


@pytest.mark.parametrize("text", [CONFIG.text, preset("qwen2.5-vl-3b").text])
def test_sections_are_bars_of_wavelengths(text):
    figure = mrope_sections(text)
    bars = boxes(figure.axes[0])
    half = text.head_dim // 2
    expected = [2 * math.pi * text.rope_theta ** (2 * i / text.head_dim) for i in range(half)]
    # in float32: the exponent is multiplied by ln 1,000,000 = 13.8, and four more roundings
    off = rounding(13.9 + 4, np.float32)
    assert np.allclose([bar.get_height() for bar in bars], expected, rtol=off, atol=0)
    colours = [bar.get_facecolor() for bar in bars]
    lengths = [sum(c == colour for c in colours) for colour in dict.fromkeys(colours)]
    assert lengths == list(text.mrope_section)
    assert len({bar.get_hatch() for bar in bars}) == 3  # not by colour alone
    first = text.mrope_section[0]
    assert f"time has frequencies 0 to {first - 1}" in figure.alt and all_inside(figure)


def test_rules_compared_count_their_collisions():
    ids, ours, media, given = prompt(3, ("video", (10, 4, 4)), 4, seconds=[1.0])
    theirs, _ = compat.rope_index_hf_5(ids, CONFIG, **given)
    slow = 0
    for s in range(len(ids)):
        before = [int(ours[:, r].max()) for r in range(s) if media[r]]
        slow += bool(not media[s] and before and theirs[0, s] <= max(before))
    assert (collisions(ours, media), collisions(theirs, media)) == (0, slow) == (0, 4)
    figure = positions_compared({"ours": ours, "theirs": theirs}, media)
    shown = texts(figure.axes[0])
    assert {"ours", "theirs", "0 text tokens at a span's positions"} <= set(shown)
    assert "4 text tokens at a span's positions" in shown and all_inside(figure)
    assert shown.count("span of 40") == 2 and shown.count("text of 4") == 2
    extents = [(box.get_x(), box.get_width()) for box in boxes(figure.axes[0])]
    assert extents == [(0, 3), (3, 19), (22, 4), (0, 3), (3, 19), (5, 4)]
    assert len(figure.axes[0].lines) == 2 * 10  # a stroke for each frame pair
    assert "times of the spans 3, 5, 7, 9" in figure.alt
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split(":")[0] for text in legend] == [
        "text", "image or video span", "time of a frame pair",
    ]  # fmt: skip
    assert figure.axes[0].get_xlabel() == "position"


@pytest.mark.parametrize(("at", "expected"), [(3, 1), (4, 0)])
def test_the_largest_position_of_a_block_is_its_own(at, expected):
    positions = np.array([[0, 1, at], [0, 3, at], [0, 2, at]])
    assert collisions(positions, np.array([False, True, False])) == expected


def test_text_before_a_block_never_collides():
    _, positions, media, _ = prompt(30, ("image", (1, 4, 4)), 1)
    assert collisions(positions, media) == 0


# ------------------------------------------------------------------ the merger


def test_gelu_variants_are_drawn_as_they_are():
    values = np.linspace(-3, 3, 50)
    figure = gelu_variants(values, reach=4.0)
    exact, tanh, quick = (line.get_data() for line in figure.axes[0].lines)
    x = exact[0]
    erf = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    off = 2 * rounding(16) * 4  # of values up to 4; an exponent of 7 counts 7 times
    assert np.allclose(exact[1], erf, rtol=0, atol=off)
    assert np.allclose(tanh[1], 0.5 * x * (1 + np.tanh(cubic)), rtol=0, atol=off)
    assert np.allclose(quick[1], x / (1 + np.exp(-1.702 * x)), rtol=0, atol=off)
    assert f"tanh approximation {np.max(np.abs(tanh[1] - erf)):.2g}" in figure.alt
    assert "histogram is of 50 values" in figure.alt and "histogram" not in gelu_variants().alt
    assert all_inside(figure)


@pytest.mark.parametrize("grid", [(1, 4, 8), (2, 2, 2), (1, 6, 10), (1, 2, 8)])
def test_groupings(grid):
    _, h, w = grid
    figure = patch_groupings(grid)
    right, wrong = ([int(text) for text in texts(axes)] for axes in figure.axes)
    slow_right = [(i // 2) * (w // 2) + j // 2 for i in range(h) for j in range(w)]
    slow_wrong = [(i * w + j) // 4 for i in range(h) for j in range(w)]
    assert right == slow_right and wrong == slow_wrong and all_inside(figure)
    grounds = {box.get_facecolor() for axes in figure.axes for box in boxes(axes)}
    assert (1, 1, 1, 1) not in grounds  # white lines part the cells, so no cell is white
    moved = sum(a != b for a, b in zip(slow_right, slow_wrong, strict=True))
    assert f"{moved} of {h * w} patches" in figure.alt


def test_four_patches_are_the_second_strip_end_to_end():
    rng = np.random.default_rng(0)
    patches, hidden, token = rng.normal(size=(4, 6)), rng.normal(size=24), rng.normal(size=5)
    figure = merge_group_to_token(patches, hidden, token, Image.new("RGB", (28, 28), "red"))
    strips = [axes.images[0].get_array() for axes in figure.axes[1::2]]
    assert np.array_equal(strips[0], patches) and np.array_equal(strips[1][0], patches.ravel())
    assert np.array_equal(strips[2][0], hidden) and np.array_equal(strips[3][0], nn.gelu(hidden))
    assert np.array_equal(strips[4][0], token) and all_inside(figure)
    assert texts(figure.axes[0]) == ["0", "1", "2", "3"]
    assert "24 values" in figure.alt and "projects to 5: one image token" in figure.alt
    assert not merge_group_to_token(patches, hidden, token).axes[0].images


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 16, 24), (1, 24, 10)])
def test_a_token_map_puts_numbers_in_their_places(grid):
    h, w = grid[1] // 2, grid[2] // 2
    values = np.random.default_rng(1).normal(size=h * w)
    image = Image.new("RGB", (14 * grid[2], 14 * grid[1]))
    figure = token_map(values, grid, 2, image, mark=h * w - 1, unit="cosine")
    heat = figure.axes[1]
    assert np.array_equal(heat.images[0].get_array(), values.reshape(h, w))
    lowest = int(np.argmin(values))
    assert f"from {values.min():.2g} (row {lowest // w}, column {lowest % w})" in figure.alt
    frames = {box.get_xy() for box in boxes(heat)}
    assert frames == {(w - 1, h - 1)}
    assert {box.get_xy() for box in boxes(figure.axes[0])} == {(28 * (w - 1), 28 * (h - 1))}
    assert all_inside(figure) and len(token_map(values, grid).axes) == 2  # and its scale
