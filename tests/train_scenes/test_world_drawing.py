"""Pixels of drawn scenes: boxes against ink, circles against rings, contrast, both renderers."""

import numpy as np
import pytest

from scripts.train_scenes import drawing, forms, layout, sheets, world
from scripts.train_scenes.drawing import fonts, grounds, pens
from scripts.train_scenes.scene import (
    COLOURS,
    EVALUATION,
    KINDS,
    TRAINING,
    Scene,
    Shape,
    Word,
    generator,
)


def ink_box(with_ink, without):
    """The box of the pixels in which two images differ."""
    differs = np.abs(with_ink.astype(int) - without).sum(-1) > 80
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def black_shape(rng, kind, least=16):
    """A scene of one black shape of a kind (empty: one without a name)."""
    size = layout.image_size(rng, 50_176, world.LIMITS, "small")
    form = forms.pick_form(rng, kind) if kind else forms.unnamed_form(rng, "black")
    sides = [rng.uniform(least, 0.9 * min(size))]
    box = layout.place(rng, size, (0, 0, *size), sides, [form.aspect], [[0]])[0]
    return Scene(*size, (form.shape("black", box),))


@pytest.mark.parametrize("pen", pens.PENS + pens.HELD_OUT_PENS)
def test_boxes_are_those_of_the_ink(pen):
    for kind in (*KINDS, ""):
        for i in range(4):
            rng = generator(21, TRAINING, i)
            scene = black_shape(rng, kind)
            contents = [scene, Scene(scene.width, scene.height, ())]
            images = drawing.draw(rng, contents, f"plain/{pen}", damage=False)
            found = ink_box(*images)
            assert np.abs(np.array(found) - scene.shapes[0].box).max() <= 2, (kind, i, scene)


@pytest.mark.parametrize("ground", grounds.GROUNDS + grounds.HELD_OUT_GROUNDS)
def test_boxes_are_those_of_the_ink_on_every_ground(ground):
    style = next(s for s in drawing.STYLES_TRAINING + drawing.STYLES_HELD_OUT
                 if s.startswith(f"{ground}/"))  # fmt: skip
    for i in range(12):
        rng = generator(22, TRAINING, i)
        scene = black_shape(rng, KINDS[i])
        contents = [scene, Scene(scene.width, scene.height, ())]
        found = ink_box(*drawing.draw(rng, contents, style, damage=False))
        assert np.abs(np.array(found) - scene.shapes[0].box).max() <= 2, (i, scene)


def test_word_boxes_are_those_of_the_ink():
    for font in range(len(fonts.ALL)):
        for i, text in enumerate(("cat", "QR7", "y", "Egg")):
            rng = generator(23, TRAINING, font, i)
            width, height = fonts.measure(text, font)
            factor = rng.uniform(20, 60) / height
            sides = (2 * round(factor * width / 2), 2 * round(factor * height / 2))
            word = Word(text, (20, 30, 20 + sides[0], 30 + sides[1]), font)
            contents = [Scene(308, 140, (), (word,)), Scene(308, 140, ())]
            images = drawing.draw(rng, contents, "plain/filled", damage=False)
            difference = np.abs(np.array(ink_box(*images)) - word.box).max()
            assert difference <= 2, (fonts.ALL[font], text)


def hole(pixels, box):
    """Width of the ground in the middle of a shape over the width of its box."""
    row = pixels[(box[1] + box[3]) // 2].astype(int)
    ink = np.abs(row - pixels[2, 2]).sum(-1) > 150
    middle = (box[0] + box[2]) // 2
    left = middle - np.flatnonzero(ink[:middle])[-1]
    right = np.flatnonzero(ink[middle:])[0]
    return (left + right) / (box[2] - box[0])


@pytest.mark.parametrize("pen", ["outline", "pencil", "open", "filled", "crayon"])
def test_outlined_circles_are_not_rings(pen):
    """The hole of a circle's outline is over 0.76 of its width, that of a ring at most 0.72."""
    for i in range(25):
        rng = generator(24, TRAINING, i)
        for kind in ("circle", "ring"):
            form = forms.pick_form(rng, kind)
            shape = form.shape("black", (20, 20, 120, 120))
            style = drawing.Style(rng, [Scene(140, 140, (shape,))], f"plain/{pen}", damage=False)
            pixels = style.draw(rng, Scene(140, 140, (shape,)))
            if kind == "circle" and pen in ("outline", "pencil"):
                assert hole(pixels, shape.box) > 0.76
            if kind == "ring" and pen in ("filled", "crayon"):
                assert hole(pixels, shape.box) < 0.72


def test_grounds_are_in_clear_contrast_to_every_ink():
    """White on white paper, and the like, do not occur."""
    for i in range(300):
        rng = generator(25, TRAINING, i)
        content = world.make_image(rng)
        if isinstance(content, Scene) and content.shapes:
            style = drawing.Style(rng, [content])
            colours = np.array([style.ground.base])
            assert grounds.contrast(colours, style.ground.inks, grounds.FAR)[0] >= 0.8
    white = np.array([COLOURS["white"]], dtype=float)
    assert grounds.contrast(white, np.array([[235.0, 235, 235]]), grounds.FAR)[0] < 0.5


def test_colours_are_those_that_are_named():
    """The middle of a filled shape is nearest to its own colour of the table."""
    for i, colour in enumerate(COLOURS):
        for j, kind in enumerate(("square", "circle", "heart", "square", "circle")):
            shape = Shape(colour, kind, (28, 28, 84, 84))
            rng = generator(26, TRAINING, i, j)
            pixels = drawing.draw(rng, [Scene(112, 112, (shape,))], "plain/filled", damage=False)
            middle = pixels[0][54:60, 54:60].mean((0, 1))
            distances = forms.distances(middle)
            assert min(distances, key=distances.get) == colour


def test_unknown_styles_are_refused():
    with pytest.raises(ValueError, match="no style squared/chalk"):
        drawing.draw(generator(1, TRAINING), [Scene(56, 56, ())], "squared/chalk")


def test_held_out_styles_draw_every_scene():
    for i in range(60):
        rng = generator(27, EVALUATION, i)
        scene = world.make_image(rng, family="free")
        pixels = drawing.draw(rng, [scene], "held-out")[0]
        assert pixels.shape == (scene.height, scene.width, 3) and pixels.std() > 2


def test_the_outside_renderer_draws_the_same_boxes():
    outside = pytest.importorskip("scripts.train_scenes.outside_renderer", exc_type=ImportError)
    for i in range(60):
        rng = generator(28, EVALUATION, i)
        scene = black_shape(rng, KINDS[i % len(KINDS)])
        style = outside.Style(rng, [scene])
        style.light = 0.0
        found = ink_box(style.draw(scene), style.draw(Scene(scene.width, scene.height, ())))
        assert np.abs(np.array(found) - scene.shapes[0].box).max() <= 2, scene
    words = world.make_image(generator(29, EVALUATION), family="labelled")
    assert outside.draw(rng, [words])[0].shape == (words.height, words.width, 3)


def test_the_outside_renderer_shares_no_drawing_code():
    source = (sheets.Path(sheets.__file__).parent / "outside_renderer.py").read_text()
    assert "drawing." not in source and "import drawing" not in source


def test_sheets_are_written(tmp_path, capsys):
    assert sheets.main(["-o", str(tmp_path), "--only", "pairs"]) == 0
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        sheets.main(["-o", str(tmp_path), "--only", "unheard"])
    assert "unheard" in capsys.readouterr().err
