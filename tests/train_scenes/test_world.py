"""What is drawn in training: limits, shares, clear names, held-out pairs, reproducibility."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from drawn_world import LIMITS, clips, every_scene, images, pairs, scenes

from scripts.train_scenes import drawing, forms, layout, photographs, words, world
from scripts.train_scenes.drawing import fonts, grounds, pens
from scripts.train_scenes.scene import (
    COLOURS,
    EVALUATION,
    HELD_OUT,
    KINDS,
    PAIRS,
    TRAINING,
    Limits,
    Refusal,
    Scene,
    Shape,
    generator,
)


def check_size(content, area):
    width, height = content.width, content.height
    assert width % 28 == height % 28 == 0
    assert width * height <= area
    assert min(width, height) >= LIMITS.least_side
    assert max(width, height) <= LIMITS.aspect * min(width, height)


def test_sizes_are_within_limits_and_every_extreme_occurs():
    for content in images():
        check_size(content, LIMITS.image_area)
    for pair in pairs():
        check_size(pair.before, LIMITS.pair_area)
        check_size(pair.after, LIMITS.pair_area)
    for clip in clips():
        check_size(clip.frames[0], LIMITS.frame_area)
    small = [c for c in images() if max(c.width, c.height) <= 224]
    large = [c for c in images() if c.width * c.height >= 0.75 * LIMITS.image_area]
    long = [c for c in images() if max(c.width, c.height) >= 5 * min(c.width, c.height)]
    assert len(small) >= 0.5 * len(images())
    assert len(large) >= 0.12 * len(images())
    assert len(long) >= 0.01 * len(images())
    assert any(len(c.frames) > 16 and c.frames[0].width > 112 for c in clips())
    tight = Limits(image_area=6_272, pair_area=12_544)
    for i in range(50):
        check_size(world.make_image(generator(1, TRAINING, i), tight), 6_272)
        check_size(world.make_pair(generator(1, TRAINING, i), tight).after, 12_544)


def test_boxes_are_even_and_inside():
    for scene in every_scene():
        for thing in (*scene.shapes, *scene.words):
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height, scene
            assert x1 % 2 == y1 % 2 == x2 % 2 == y2 % 2 == 0


def test_boxes_do_not_overlap_in_images():
    for scene in scenes():
        boxes = [thing.box for thing in (*scene.shapes, *scene.words)]
        for i, a in enumerate(boxes):
            assert layout.fits(a, boxes[:i], [0] * i), scene


def test_boxes_cover_the_canvas_at_every_size():
    cells, sizes = Counter(), Counter()
    for scene in scenes():
        for shape in scene.shapes:
            x, y = shape.centre
            cells[int(6 * x / scene.width), int(6 * y / scene.height)] += 1
            sizes[int(10 * shape.size / max(scene.width, scene.height))] += 1
    assert len(cells) == 36
    assert min(cells.values()) >= 0.12 * max(cells.values())
    assert all(sizes[tenth] >= 5 for tenth in range(9))
    assert all(shape.size >= layout.SMALLEST - 2 for scene in scenes() for shape in scene.shapes)


def test_shapes_are_sorted():
    for scene in every_scene():
        centres = [shape.centre for shape in scene.shapes]
        assert centres == sorted(centres)


def share(test):
    return sum(map(test, images())) / len(images())


def shapes_of(content):
    return content.shapes if isinstance(content, Scene) else ()


def words_of(content):
    return content.words if isinstance(content, Scene) else ()


def is_turned(shape):
    return bool(shape.kind) and shape.angle % 90 > 3 and shape.angle % 90 < 87


def is_touching(a, b):
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.box, b.box
    across = ax2 == bx1 and ay1 < by2 and by1 < ay2
    return across or (ay2 == by1 and ax1 < bx2 and bx1 < ax2)


def fills(content):
    return any(
        max((s.box[2] - s.box[0]) / content.width, (s.box[3] - s.box[1]) / content.height) >= 0.7
        for s in shapes_of(content)
    )


MUST = {  # what must occur: (test of a content, least share of images)
    "one to three upright shapes": (
        lambda c: 1 <= len(shapes_of(c)) <= 3 and not any(map(is_turned, c.shapes)), 0.25),
    "clear": (lambda c: isinstance(c, Scene) and c.shapes != () and c.clear, 0.4),
    "rotated": (lambda c: any(map(is_turned, shapes_of(c))), 0.35),
    "stretched": (
        lambda c: any(s.stretch != 1 and s.kind in ("triangle", "star", "heart", "cross")
                      for s in shapes_of(c)), 0.15),
    "one big shape": (lambda c: len(shapes_of(c)) == 1 and fills(c), 0.02),
    "of 16 to 24 pixels": (lambda c: any(s.size <= 24 for s in shapes_of(c)), 0.12),
    "touching": (
        lambda c: any(is_touching(a, b) for a in shapes_of(c) for b in shapes_of(c)), 0.02),
    "four to six": (lambda c: 4 <= len(shapes_of(c)) <= 6, 0.15),
    "seven to ten": (lambda c: 7 <= len(shapes_of(c)) <= 10, 0.03),
    "more than ten": (lambda c: len(shapes_of(c)) > 10, 0.015),
    "unnamed colour": (lambda c: any(not s.colour for s in shapes_of(c)), 0.06),
    "unnamed kind": (lambda c: any(not s.kind for s in shapes_of(c)), 0.06),
    "word": (lambda c: len(words_of(c)) == 1 and not c.shapes, 0.04),
    "word beside a shape": (lambda c: bool(words_of(c)) and bool(c.shapes), 0.03),
    **{what: (lambda c, what=what: isinstance(c, Refusal) and c.what == what, 0.008)
       for what in ("photograph", "noise", "blank")},
    **{ground: (lambda c, ground=ground: isinstance(c, Scene) and c.ground == ground, 0.05)
       for ground in grounds.GROUNDS},
    **{colour: (lambda c, colour=colour: any(s.colour == colour for s in shapes_of(c)), 0.05)
       for colour in COLOURS},
    **{kind: (lambda c, kind=kind: any(s.kind == kind for s in shapes_of(c)), 0.08)
       for kind in KINDS},
}  # fmt: skip


@pytest.mark.parametrize("what", MUST)
def test_the_mixture_holds_enough_of(what):
    test, least = MUST[what]
    assert share(test) >= least


def test_each_pen_and_font_occurs_in_training_and_none_that_is_held_out():
    families, written = Counter(), Counter()
    for i, content in enumerate(scenes()[:400]):
        rng = generator(14, TRAINING, i)
        style = drawing.Style(rng, [content])
        assert style.ground.name in grounds.GROUNDS
        style.draw(rng, content)
        families.update({pen.family for pen in style.pens.values()})
        written.update(word.font for word in content.words)
    assert set(families) == set(pens.PENS)
    assert min(families.values()) >= 10
    assert set(written) <= set(range(len(fonts.FONTS)))
    assert len({word.font for scene in scenes() for word in scene.words}) >= 10
    assert not set(drawing.STYLES_TRAINING) & set(drawing.STYLES_HELD_OUT)
    style = drawing.Style(generator(1, EVALUATION), scenes()[:1], "held-out")
    assert f"{style.ground.name}/{style.pen}" in drawing.STYLES_HELD_OUT


def test_training_never_draws_a_held_out_pair():
    assert {("red", "star"), ("blue", "heart"), ("green", "ring")} < HELD_OUT
    seen = {(s.colour, s.kind) for scene in every_scene() for s in scene.shapes}
    assert not seen & HELD_OUT
    assert len(seen & set(PAIRS)) == len(PAIRS)
    chosen = (("red", "star"), ("blue", "heart"))
    for i in range(40):
        scene = world.make_image(generator(2, EVALUATION, i), family="free", pairs=chosen)
        assert {(s.colour, s.kind) for s in scene.shapes} <= set(chosen)


def test_unnamed_halves_are_unlike_held_out_ones():
    for scene in scenes():
        for shape in scene.shapes:
            for colour, kind in HELD_OUT:
                if shape.kind == kind and not shape.colour:
                    assert not forms.has_hue(shape.paint, colour)
                if shape.colour == colour and not shape.kind:
                    assert shape.form not in forms.LIKE[kind]
            assert shape.colour or shape.kind
            if not shape.colour:
                assert min(forms.distances(shape.paint).values()) >= 64


def is_beyond_doubt(shape):
    """Whether a shape's form leaves no doubt of its kind."""
    quarter = shape.angle % 90
    if shape.kind == "square":
        return shape.stretch == 1 and min(quarter, 90 - quarter) <= 22
    if shape.kind == "diamond":
        slim = max(shape.stretch, 1 / shape.stretch) >= 1.39
        return min(quarter, 90 - quarter) <= (22.1 if slim else 12.1)
    if shape.kind in ("circle", "ring"):
        width, height = (shape.box[i + 2] - shape.box[i] for i in (0, 1))
        return abs(width - height) <= 2
    if shape.kind in ("oval", "rectangle"):
        return 1.39 <= shape.stretch <= 3.2
    if shape.kind == "line":
        return shape.stretch >= 9
    return True


def test_names_are_beyond_doubt():
    shapes = [s for scene in every_scene() for s in scene.shapes]
    assert all(map(is_beyond_doubt, shapes))
    assert not is_beyond_doubt(Shape("red", "square", (0, 0, 20, 20), angle=45.0))


def test_clear_is_honest():
    """Clear scenes: at least 6.9 % apart in x, no centre within 3 % of a border of thirds."""
    for scene in every_scene():
        xs = [s.centre[0] / scene.width for s in scene.shapes]
        marks = xs + [s.centre[1] / scene.height for s in scene.shapes]
        apart = all(b - a >= 0.069 for a, b in pairwise(xs))
        off = all(min(abs(m - 1 / 3), abs(m - 2 / 3)) > 0.03 for m in marks)
        if scene.clear:
            assert apart and off and len(xs) <= 6
    row = [Shape("red", "circle", (40, y, 60, y + 20)) for y in (0, 90)]
    assert not layout.close_scene(112, 112, row).clear
    steps = [28, 72, 116, 204, 252, 300, 400]
    row = [Shape("red", "circle", (x - 10, 40, x + 10, 60)) for x in steps]
    assert layout.close_scene(504, 112, row[:6]).clear
    assert not layout.close_scene(504, 112, row).clear


def test_the_same_seed_gives_the_same():
    pytest.importorskip("skimage", reason="photographs need scikit-image")
    for make in (world.make_image, world.make_pair, world.make_clip):
        for i in range(20):
            first, second = (make(generator(3, TRAINING, i)) for _ in range(2))
            assert first == second
    for i in range(20):
        drawn = []
        for _ in range(2):
            rng = generator(4, TRAINING, i)
            drawn.append(drawing.draw(rng, [world.make_image(rng)])[0])
        np.testing.assert_array_equal(*drawn)


# ------------------------------------------------------------------------------------ photographs


def test_photographs_are_split(monkeypatch):
    training, held_out = set(photographs.TRAINING_FILES), set(photographs.HELD_OUT_FILES)
    assert training and held_out and not training & held_out
    pytest.importorskip("skimage", reason="photographs need scikit-image")
    pytest.importorskip("sklearn")
    read, load = set(), photographs.load
    monkeypatch.setattr(photographs, "load", lambda *file: read.add(file) or load(*file))
    for i in range(60):
        rng = generator(6, TRAINING, i)
        content = world.make_image(rng, family="photograph")
        pixels = drawing.draw(rng, [content])[0]
        assert pixels.shape == (content.height, content.width, 3)
    assert read == training
    read.clear()
    for i in range(30):
        rng = generator(6, EVALUATION, i)
        drawing.draw(rng, [world.make_image(rng, training=False, family="photograph")])
    assert read == held_out


def test_words_have_no_look_alikes():
    for i in range(1500):
        text = words.make_text(generator(7, TRAINING, i))
        assert 1 <= len(text) <= 8 and text.isalnum() and text.isascii()
        if text.lower() in words.WORDS:
            continue
        assert not (set(text) & set("IOl"))
        assert set(text) - words.ALIKE
        assert not any(a.isdigit() and b.isdigit() for a, b in pairwise(text))
        if text != text.upper():
            assert not set(text) & set("01")
