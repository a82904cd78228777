"""The drawn scenes that the embedded checkpoint learned from."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from support import max_examples

from scripts.first_edition import questions, scenes, words


@max_examples(60)
@given(st.integers(0, 10**6), st.sampled_from(scenes.GRIDS))
def test_shapes_lie_inside_and_apart(seed, grid):
    scene = scenes.make_scene(np.random.default_rng(seed), *grid)
    boxes = [shape.box for shape in scene.shapes]
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height
        assert x1 % 2 == y1 % 2 == x2 % 2 == y2 % 2 == 0
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert not scenes.HELD_OUT & {(s.colour, s.kind) for s in scene.shapes}


def test_an_image_shows_its_shapes_where_they_are():
    """Inside a square's box is its colour; the corners of the image are background."""
    rng = np.random.default_rng(5)
    square = scenes.Shape("red", "square", (28, 42, 70, 84))
    image = np.asarray(scenes.draw_scene(rng, scenes.Scene(112, 112, (square,)), plain=True))
    inside, outside = image[45:81, 31:67], image[:20, :20]
    assert np.abs(inside.mean(axis=(0, 1)) - scenes.COLOURS["red"]).max() < 25
    assert outside.min() > 200


def test_the_same_seed_draws_the_same_image():
    images = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        scene = scenes.make_scene(rng, 4, 6)
        images.append(np.asarray(scenes.draw_scene(rng, scene)))
    assert images[0].shape == (112, 168, 3)
    np.testing.assert_array_equal(*images)


def test_descriptions():
    shapes = (
        scenes.Shape("orange", "star", (0, 0, 30, 30)),
        scenes.Shape("blue", "ring", (40, 40, 70, 70)),
        scenes.Shape("red", "cross", (80, 80, 110, 110)),
    )
    assert questions.description(scenes.Scene(112, 112, shapes)) == (
        "An orange star at the top left, a blue ring in the middle and a red cross "
        "at the bottom right."
    )
    assert (
        questions.description(scenes.Scene(112, 112, shapes[1:2])) == "A blue ring in the middle."
    )


def contents(change):
    return [{(s.name, s.box) for s in scene.shapes} for scene in (change.before, change.after)]


@max_examples(80)
@given(st.integers(0, 10**6), st.sampled_from(((4, 4), *scenes.TWO_GRIDS)))
def test_a_change_is_the_only_one_and_the_answer_names_it(seed, grid):
    rng = np.random.default_rng(seed)
    change = scenes.make_change(rng, *grid)
    before, after = contents(change)
    gone, come = before - after, after - before
    answer = questions.ask_change(rng, change).answer
    for names in ([name for name, _ in before], [name for name, _ in after]):
        assert len(set(names)) == len(names)
        assert not scenes.HELD_OUT & {tuple(name.split()) for name in names}
    if answer == "Nothing changed.":
        assert before == after
    elif answer.endswith(" is gone."):
        ((name, _),) = gone
        assert not come and answer == f"The {name} is gone."
    elif answer.endswith(" was added."):
        ((name, _),) = come
        assert not gone and answer.lower() == f"{questions.article(name)} was added."
    else:
        ((old, box), (new, new_box)) = *gone, *come
        if box == new_box:
            assert answer == f"The {old} turned {new.split()[0]}." and old.split()[1] in new
        else:
            assert answer == f"The {old} moved." and old == new
            (x1, y1, x2, y2), (nx1, ny1, nx2, ny2) = box, new_box
            assert (x2 - x1, y2 - y1) == (nx2 - nx1, ny2 - ny1)
            assert x2 <= nx1 or nx2 <= x1 or y2 <= ny1 or ny2 <= y1


def test_all_changes_occur():
    rng = np.random.default_rng(0)
    assert {scenes.make_change(rng, 4, 4).what for _ in range(60)} == set(scenes.CHANGES)


def test_two_images_of_a_change_differ_only_where_it_is():
    """The style is the same; with noise or compression the rest differs a little."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        change = scenes.make_change(rng, 4, 4)
        pair = scenes.draw_frames(rng, (change.before, change.after), plain=True)
        difference = np.abs(np.subtract(*(np.asarray(p).astype(int) for p in pair))).max(-1)
        rest = difference.copy()
        for _, (x1, y1, x2, y2) in set.symmetric_difference(*contents(change)):
            assert difference[y1:y2, x1:x2].max() > 60
            rest[max(0, y1 - 10) : y2 + 10, max(0, x1 - 10) : x2 + 10] = 0
        assert rest.max() < 40


@max_examples(60)
@given(st.integers(0, 10**6), st.sampled_from(((4, 4), (5, 8), (11, 9))))
def test_words_lie_inside_and_are_large_enough(seed, grid):
    word = words.make_word(np.random.default_rng(seed), *grid)
    assert 1 <= len(word.text) <= 4 and set(word.text) <= set(words.CHARACTERS)
    assert not any(a.isdigit() and b.isdigit() for a, b in pairwise(word.text))
    boxes = np.array(word.boxes)
    assert boxes.min() >= 0 and (boxes[:, 2:] <= (word.width, word.height)).all()
    assert (boxes[1:, 0] > boxes[:-1, 2]).all()  # from left to right, apart
    assert np.ptp(boxes[:, 1::2], axis=1).min() >= 13


def test_a_word_is_drawn_where_its_boxes_are():
    """Characters differ from the background inside their boxes and nowhere else."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        word = words.make_word(rng, 4, 6)
        pixels = np.asarray(words.draw_word(rng, word)).astype(int)
        outside = np.ones(pixels.shape[:2], dtype=bool)
        for x1, y1, x2, y2 in np.array(word.boxes).round().astype(int):
            box = pixels[max(0, y1) : y2, max(0, x1) : x2]
            assert np.ptp(box, axis=(0, 1)).max() > 60
            outside[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = False
        steps = np.abs(np.diff(pixels, axis=1)).max(-1)[outside[:, 1:] & outside[:, :-1]]
        assert np.percentile(steps, 95) < 45


@max_examples(60)
@given(st.integers(0, 10**6))
def test_unnamed_colours_and_kinds_are_far_from_the_held_out_pairs(seed):
    rng = np.random.default_rng(seed)
    for shape in scenes.with_unnamed(rng, scenes.make_scene(rng, 6, 6)).shapes:
        assert (shape.colour, shape.kind) not in scenes.HELD_OUT
        assert bool(shape.colour) != bool(shape.paint) and bool(shape.kind) != bool(shape.outline)
        assert shape.colour or shape.kind
        if shape.paint:
            gaps = {
                n: np.linalg.norm(np.subtract(shape.paint, c)) for n, c in scenes.COLOURS.items()
            }
            assert min(gaps.values()) >= 90
            for colour in [c for c, k in scenes.HELD_OUT if k == shape.kind]:
                assert not scenes.has_hue(shape.paint, colour)


def cover(kind, outline=None):
    """Pixels of a shape 60 pixels wide."""
    image = Image.new("L", (60, 60))
    scenes.draw_shape(ImageDraw.Draw(image), kind, (0, 0, 60, 60), 255, outline)
    return np.asarray(image) > 0


def test_kinds_without_a_name_are_none_of_the_named():
    rng = np.random.default_rng(0)
    named = [cover(kind) for kind in scenes.KINDS]
    for _ in range(400):
        outline = scenes.unnamed_outline(rng, scenes.unnamed_form(rng, "pink"))
        assert np.min(outline) == 0 and np.max(outline) == 1
        mine = cover("", outline)
        assert mine.sum() > 500
        assert max((mine & other).sum() / (mine | other).sum() for other in named) < 0.87


def test_hues():
    assert scenes.has_hue((100, 255, 100), "green") and scenes.has_hue((90, 20, 60), "red")
    assert not scenes.has_hue((20, 160, 220), "green") and not scenes.has_hue(
        (90, 100, 90), "green"
    )


def test_no_shape_without_a_name_looks_like_a_held_out_pair():
    """An arc in green, always without a name, would teach that a green ring has none."""
    assert set(scenes.LIKE) == {kind for _, kind in scenes.HELD_OUT}
    rng = np.random.default_rng(0)
    forms = {c: {scenes.unnamed_form(rng, c) for _ in range(200)} for c in scenes.COLOURS}
    assert forms["pink"] == {"polygon", "frame", "arc", "bars"}
    for colour, kind in scenes.HELD_OUT:
        assert forms[colour] == forms["pink"] - set(scenes.LIKE[kind])


def test_a_shape_without_a_name_is_drawn_in_its_colour_and_outline():
    shapes = (
        scenes.Shape("", "square", (8, 8, 48, 48), paint=(120, 120, 10)),
        scenes.Shape("blue", "", (60, 60, 100, 100), outline=((0, 0), (1, 0), (0, 1))),
    )
    rng = np.random.default_rng(2)
    image = np.asarray(scenes.draw_scene(rng, scenes.Scene(112, 112, shapes), plain=True))
    assert np.abs(image[12:44, 12:44].astype(int) - (120, 120, 10)).mean() < 8
    assert image[64:72, 64:72, 0].mean() < 90 and image[92:97, 92:97].min() > 200
