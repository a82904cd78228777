"""Figures of attention, of the cache and of the next token show what an independent count says."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import assert_same_but_for_rounding

from tinyqwenvl import nn, viz
from tinyqwenvl.config import TextConfig
from tinyqwenvl.model import user_message
from tinyqwenvl.sampling import Sampling
from tinyqwenvl.viz.decoder_cache import steps_computed
from tinyqwenvl.viz.words import drawable, readable

TEXT = TextConfig(48, 3, 6, 2, 64, 100, 1e-6, 1e4, (2, 1, 1))


def texts(figure):
    """Every text of a figure that is to be seen, and its box in the figure's pixels."""
    figure.draw_without_rendering()
    seen = [figure._suptitle, *(t for legend in figure.legends for t in legend.get_texts())]
    for axes in figure.axes:
        seen += [axes.title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            seen += [axis.label, *(label for t in ticks for label in (t.label1, t.label2))]
    renderer = figure.canvas.get_renderer()
    seen = [text for text in seen if text.get_text().strip() and text.get_visible()]
    return [(text, text.get_window_extent(renderer)) for text in seen]


def read_well(figure):
    """Narrow enough, large enough, nothing cut, an alt text, and it can be shown."""
    assert figure.get_figwidth() <= 7.5
    assert len(figure.alt) > 40 and figure.alt in figure.__repr__()
    for text, box in texts(figure):
        assert text.get_fontsize() >= 7, text.get_text()
        assert box.x0 > -2 and box.x1 < figure.bbox.width + 2, text.get_text()
        assert box.y0 > -2 and box.y1 < figure.bbox.height + 2, text.get_text()
    return figure


def maps(figure):
    """What is drawn over the faint images: the second image of each panel that has two."""
    return [a.images[1].get_array() for a in figure.axes if len(a.images) == 2]


# ------------------------------------------------------------------ boxes and shares


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 4, 6), (3, 6, 4)])
@pytest.mark.parametrize("box", [(0, 0, 28, 28), (5, 9, 61, 40), (-10, 20, 1000, 30), (7, 7, 7, 9)])
def test_box_coverage_is_the_share_of_pixels(grid, box):
    pixels = np.zeros((grid[1] * 14, grid[2] * 14))
    left, top, right, bottom = (max(0, side) for side in box)
    pixels[top:bottom, left:right] = 1
    squares = [
        np.mean(pixels[y : y + 28, x : x + 28])
        for _ in range(grid[0])
        for y in range(0, pixels.shape[0], 28)
        for x in range(0, pixels.shape[1], 28)
    ]
    assert np.allclose(viz.box_coverage(box, grid), squares)


def test_box_coverage_of_other_patches():
    assert viz.box_coverage((0, 0, 24, 8), (1, 6, 6), merge=3, patch=8).tolist() == [1 / 3, 0, 0, 0]


def test_attention_in_box_leaves_text_out_and_is_the_area_of_an_even_look():
    cover = np.array([1.0, 0.5, 0, 0])
    assert np.isclose(viz.attention_in_box(np.full(4, 0.02), cover), cover.mean())
    weights = np.random.default_rng(0).random((2, 3, 4))
    slow = [[(w[0] + w[1] / 2) / sum(w) for w in rows] for rows in weights]
    assert np.allclose(viz.attention_in_box(weights, cover), slow)


def test_attention_in_box_by_head_says_every_share_and_frames_the_largest():
    shares = np.random.default_rng(1).random((4, 6))
    figure = read_well(viz.attention_in_box_by_head(shares, 0.3))
    assert figure._repr_html_().startswith("<img alt=")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == [f"{s:.0%}" for s in shares.ravel()]
    places = [t.get_position() for t in axes.texts]
    assert places == [(j, i) for i in range(4) for j in range(6)]
    layer, head = divmod(int(np.argmax(shares)), 6)
    assert axes.patches[0].get_xy() == (head - 0.5, layer - 0.5)
    assert f"Layer {layer}, head {head} has" in figure.alt
    assert f"{sum(s > 0.6 for s in shares.ravel())} of 24 have" in figure.alt


def test_attention_in_box_by_head_of_a_large_model_has_no_numbers():
    assert not read_well(viz.attention_in_box_by_head(np.full((36, 16), 0.1), 0.3)).axes[0].texts


# ------------------------------------------------------------------ attention


@pytest.mark.parametrize(
    ("grid", "rows"), [((1, 2, 2), 2), ((1, 4, 10), 1), ((1, 12, 4), 3), ((1, 16, 24), 5)]
)
def test_attention_lies_where_its_tokens_are(grid, rows):
    down, across = grid[1] // 2, grid[2] // 2
    weights = np.random.default_rng(2).random((rows, down * across)) / 500
    image = Image.new("RGB", (grid[2] * 14, grid[1] * 14), (200, 10, 10))
    words = [f"word {i}" for i in range(rows)]
    box = (3.0, 5.0, 20.0, 27.0)
    figure = read_well(viz.attention_over_image(image, weights, grid, words, boxes=[box]))
    drawn = maps(figure)
    assert len(drawn) == rows
    for row, each in zip(weights, drawn, strict=True):
        for token, weight in enumerate(row):
            assert np.isclose(each[token // across, token % across], 100 * weight)
    titles = [a.get_title() for a in figure.axes if len(a.images) == 2]
    assert [t.split("\n")[0] for t in titles] == words
    assert all(f"{sum(r):.0%} of" in t for r, t in zip(weights, titles, strict=True))
    for axes in figure.axes[: rows + 1]:
        assert list(axes.images[-1].get_extent()) == [0, grid[2] * 14, grid[1] * 14, 0]
        assert axes.get_xlim() == (0, grid[2] * 14) and axes.get_ylim() == (grid[1] * 14, 0)
        outlined = [p for p in axes.patches if p.get_gid() != "most"]
        assert {(p.get_x(), p.get_y(), p.get_width()) for p in outlined} == {(3, 5, 17)}
    for row, axes in zip(weights, figure.axes[1 : rows + 1], strict=True):
        (framed,) = {p.get_xy() for p in axes.patches if p.get_gid() == "most"}
        best = int(np.argmax(row))
        assert framed == (28 * (best % across), 28 * (best // across))
        assert axes.images[1].cmap(0.0)[3] == 0 and axes.images[1].cmap(1.0)[3] > 0.8
    y, x = divmod(int(np.argmax(weights[0])), across)
    assert f"word 0 most at row {y}, column {x} (" in figure.alt


def test_all_rows_share_one_scale():
    weights = np.array([[0.1, 0.0], [0.4, 0.2]])
    figure = viz.attention_over_image(Image.new("RGB", (56, 28)), weights, (1, 2, 4), ["a", "b"])
    limits = {a.images[1].get_clim() for a in figure.axes if len(a.images) == 2}
    assert limits == {(0, 40)}


def test_attention_over_a_video_has_a_column_for_each_time():
    weights = np.arange(24.0).reshape(2, 12) / 300
    frames = [Image.new("RGB", (84, 56), (i, i, i)) for i in (10, 200)]
    figure = read_well(
        viz.attention_over_image(frames, weights, (2, 4, 6), ["first", "second"], columns=5)
    )
    rows = [a.get_subplotspec().rowspan.start for a in figure.axes if a.get_subplotspec()]
    assert rows == [0, 0, 1, 1, 2, 2]
    assert np.mean(figure.axes[1].images[0].get_array()) == 200
    expected = weights.reshape(4, 2, 3) * 100
    assert all(np.allclose(a, b) for a, b in zip(maps(figure), expected, strict=True))
    assert "first most at time 1, row 1, column 2" in figure.alt


# ------------------------------------------------------------------ the logit lens


def test_the_lens_after_the_last_layer_is_the_model(model, exact_model):
    image = Image.new("RGB", (84, 56), (90, 200, 30))
    inputs = model.prepare(user_message(image, "what"))
    last = f"model.layers.{model.config.text.num_hidden_layers - 1}"
    from tinyqwenvl import trace

    with trace(last) as seen:
        logits = model.forward(inputs)
    exact = exact_model.forward(inputs)
    found = viz.lens(seen[last][0], model.weights, model.config)
    assert_same_but_for_rounding(found, nn.softmax(logits), nn.softmax(exact))


@pytest.fixture
def lens_of_three_words():
    """A head in which token i of the stream is nearest to the word that it points at."""
    weights = SimpleNamespace(
        model=SimpleNamespace(norm=SimpleNamespace(weight=np.ones(3), path="norm")),
        lm_head=_Leaf(np.eye(3)),
    )
    config = SimpleNamespace(
        text=SimpleNamespace(rms_norm_eps=1e-6, vocab_size=3),
        vision=SimpleNamespace(spatial_merge_size=2),
    )
    return weights, config, ["alpha", " beta", "a very long word"].__getitem__


class _Leaf:
    path = "lm_head"

    def __init__(self, weight):
        self.weight = weight

    def __contains__(self, name):
        return name == "weight"


def lens_words(axes):
    """{(column, row): word} of a panel."""
    return {tuple(int(v) for v in t.get_position()): t.get_text() for t in axes.texts}


def test_every_square_has_its_word(lens_of_three_words):
    said = np.array([0, 1, 1, 2, 0, 1])
    streams = {"layer 0": np.eye(3)[said], "layer 7": np.eye(3)[1 - np.minimum(said, 1)]}
    figure = read_well(
        viz.logit_lens(
            Image.new("RGB", (60, 40)), streams, (1, 4, 6), *lens_of_three_words, marked=["beta"]
        )
    )
    words = ["alpha", "beta", "a very long word"]
    assert lens_words(figure.axes[0]) == {(i % 3, i // 3): words[w] for i, w in enumerate(said)}
    framed = {(p.get_x() // 1, p.get_y() // 1) for p in figure.axes[0].patches}
    assert framed == {(1, 0), (2, 0), (2, 1)}
    assert "layer 0: 3 different words, most often beta (3 of 6), 3 framed" in figure.alt
    assert "layer 7: 2 different words" in figure.alt
    assert [a.get_title()[:7] for a in figure.axes] == ["layer 0", "layer 7"]


def test_words_may_be_chosen_among_some(lens_of_three_words):
    streams = {"x": np.array([[0.0, 3, 1]])}
    for among, word in ((None, "beta"), ({0, 2}, "a very long word"), ({0}, "alpha")):
        figure = viz.logit_lens(
            Image.new("RGB", (9, 9)), streams, (1, 2, 2), *lens_of_three_words, among=among
        )
        assert list(lens_words(figure.axes[0]).values()) == [word]
        assert "framed" not in figure.alt


def test_long_words_are_cut_to_their_square(lens_of_three_words):
    streams = {"x": np.tile(np.eye(3)[2], (48, 1))}
    figure = read_well(
        viz.logit_lens(Image.new("RGB", (9, 9)), streams, (1, 4, 48), *lens_of_three_words)
    )
    for text, box in texts(figure):
        if text in figure.axes[0].texts:
            assert text.get_text().endswith("…")
            assert box.width <= figure.axes[0].get_window_extent().width / 24


def test_labels_can_be_drawn():
    assert [readable(w) for w in (" a ", "", "\n", "  ")] == ["a", "(none)", "(line)", "(space)"]
    assert drawable(" 中$") == r" U+4E2D\$"


# ------------------------------------------------------------------ the cache


@pytest.mark.parametrize(("heads", "keys"), [(6, 2), (4, 4), (8, 1), (28, 4)])
def test_query_heads_are_joined_to_the_key_head_that_attention_gives_them(heads, keys):
    figure = read_well(viz.grouped_query_heads(heads, keys))
    v = np.arange(keys, dtype=float)[:, None, None]
    one = np.ones((heads, 1, 1))
    owner = nn.attention(one, np.ones((keys, 1, 1)), v, nn.causal_key_ranges(1)).ravel().astype(int)
    boxes = figure.axes[0].texts
    keys_at = [t.get_position()[0] for t in boxes if t.get_position()[1] == 0]
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert [list(x) for x in lines] == [[a, keys_at[owner[a]]] for a in range(heads)]
    assert len(boxes) == heads + keys
    assert figure.get_suptitle() == f"{heads} query heads, {keys} key/value heads"
    assert f"0 to {heads // keys - 1} share key/value head 0" in figure.alt


@pytest.mark.parametrize(("prompt", "new"), [(1, 0), (5, 3), (2, 9), (121, 22)])
def test_steps_are_those_of_a_run(prompt, new):
    kept, again = steps_computed(prompt, new)
    held = 0
    for step in range(new + 1):
        total = prompt + step
        with_cache = [1] * held + [2] * (total - held) + [0] * (prompt + new - total)
        assert kept[step].tolist() == with_cache
        assert again[step].tolist() == [2] * total + [0] * (prompt + new - total)
        held = total
    figure = read_well(viz.keys_computed(prompt, new))
    assert np.array_equal(figure.axes[0].images[0].get_array(), kept)
    assert np.array_equal(figure.axes[1].images[0].get_array(), again)
    computed = sum(prompt + step for step in range(new + 1))
    assert figure.axes[0].get_title() == f"with the cache: {prompt + new:,} computed"
    assert figure.axes[1].get_title() == f"without: {computed:,} computed"
    assert (
        f"{prompt + new} keys are computed" in figure.alt and f"{computed}, because" in figure.alt
    )


def test_bytes_are_those_of_a_cache(model):
    inputs = model.prepare(user_message(None, "how are you"))
    cache = nn.KVCache()
    model.decode(model.embed(inputs), inputs.position_ids, cache)
    held = sum(k.nbytes + v.nbytes for k, v in cache.layers.values())
    assert viz.cache_bytes(model.config.text, cache.length) == held


@pytest.mark.parametrize(("prompt", "new", "image"), [(20, 6, 12), (9, 0, 0), (7, 90, 7)])
def test_the_cache_grows_by_one_token_a_step(prompt, new, image):
    figure = read_well(viz.cache_growth(TEXT, prompt, new, 2, image))
    one = 2 * 3 * 2 * 8 * 2 / 2**10  # keys and values, layers, key heads, head size, bytes
    tops = np.zeros(new + 1)
    for bars in figure.axes[0].containers:
        heights = np.array([bar.get_height() for bar in bars])
        assert np.allclose([bar.get_y() for bar in bars], tops)
        tops = tops + heights
    assert np.allclose(tops, [one * (prompt + step) for step in range(new + 1)])
    (line,) = figure.axes[0].lines
    assert np.allclose(line.get_ydata(), 3 * tops)
    left, right = (text.get_position()[0] for text in figure.axes[0].texts)
    assert left + 0.5 > 0.007 * (new + 1) and np.isclose(left + right, new)  # off the frame
    parts = (("image", image), ("rest", prompt - image), ("new", new))
    names = [c.get_label() for c in figure.axes[0].containers]
    assert len(names) == sum(size > 0 for _, size in parts)
    assert f"{one * prompt:,.1f} KiB after the prompt of {prompt}" in figure.alt


def test_one_key_head_for_each_has_no_line_above():
    config = TextConfig(48, 3, 2, 2, 64, 100, 1e-6, 1e4, (2, 1, 1))
    assert not viz.cache_growth(config, 5, 5).axes[0].lines


def test_errors_are_drawn_on_a_logarithmic_scale():
    errors = {"small": np.array([1e-6, 0.0, 3e-6]), "large": np.array([1.0, 2, 3])}
    figure = read_well(viz.errors_by_step(errors, ["a", " ", "b"]))
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "(space)", "b"]
    assert np.allclose(axes.lines[0].get_ydata(), [1e-6, 1e-9, 3e-6])
    assert np.allclose(axes.lines[1].get_ydata(), errors["large"])
    assert axes.get_xlabel() == "input token"
    assert "large: from 1e+00 to 3e+00" in figure.alt


# ------------------------------------------------------------------ the next token


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_next_token_bars_are_probabilities_in_order():
    logits = np.log(np.array([1.0, 4, 2, 8, 1]) / 16)
    cut = Sampling(temperature=1.0, top_k=2).scores(logits, np.array([], int))
    figure = read_well(viz.next_token({"all": logits, "two": cut}, "abcde".__getitem__, most=3))
    first, second = figure.axes
    assert np.allclose(widths(first), [50, 25, 12.5, 12.5])
    assert np.allclose(widths(second), [200 / 3, 100 / 3, 0, 0])
    named = [t.get_text() for t in first.get_yticklabels()]
    assert named == ["“d”", "“b”", "“c”", "all others"]
    assert [t.get_text() for t in second.texts] == ["66.7%", "33.3%", "out", "0.0%"]
    assert "all: “d” 50.0%, 5 of 5" in figure.alt and "two: “d” 66.7%, 2 of 5" in figure.alt
    assert first.yaxis_inverted()


def test_no_others_where_all_are_shown():
    figure = read_well(viz.next_token({"x": np.array([0.0, 20.0])}, "ab".__getitem__))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["“b”", "“a”"]
    assert [t.get_text() for t in figure.axes[0].texts] == ["100.0%", "< 0.1%"]


@pytest.mark.parametrize("count", [1, 3, 26])
def test_token_probabilities_have_a_bar_and_a_diamond_for_each_word(count):
    rng = np.random.default_rng(count)
    chosen, second = rng.random(count), rng.random(count) / 9
    words = [f" w{i}" for i in range(count)]
    figure = read_well(viz.token_probabilities(words, chosen, second, labels=("after", "before")))
    axes = figure.axes[0]
    assert np.allclose([bar.get_height() for bar in axes.patches], 100 * chosen)
    assert np.allclose(axes.collections[0].get_offsets()[:, 1], 100 * second)
    assert [t.get_text() for t in axes.get_xticklabels()] == [w.strip() for w in words]
    least = int(np.argmin(chosen))
    assert re.search(rf"w{least}, token {least}: after {chosen[least]:.1%}", figure.alt)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["before", "after"]


def test_probabilities_near_one_are_drawn_on_a_logarithmic_axis():
    """With 21 of 22 bars over 99 % the second tokens would all lie on the floor of a linear one."""
    chosen = np.full(22, 0.999)
    chosen[5] = 0.9
    figure = read_well(viz.token_probabilities(["w"] * 22, chosen, 1 - chosen))
    assert figure.axes[0].get_yscale() == "log" and "log scale" in figure.axes[0].get_ylabel()
    assert figure.axes[0].get_ylim()[0] <= 100 * 0.001
    even = read_well(viz.token_probabilities(["w"] * 22, np.full(22, 0.7), np.full(22, 0.2)))
    assert even.axes[0].get_yscale() == "linear"
