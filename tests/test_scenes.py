"""The drawn scenes that the embedded checkpoint learned from, and what it makes of new ones."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyqwenvl
from scripts.train_scenes import evaluate, questions, scenes
from tinyqwenvl.model import EMBEDDED
from tinyqwenvl.tokenizer import load_tokenizer


@settings(deadline=None, max_examples=60)
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
    assert not scenes.KEPT_OUT & {(s.colour, s.kind) for s in scene.shapes}


def test_a_picture_shows_its_shapes_where_they_are():
    """Inside a square's box is its colour; the corners of the picture are background."""
    rng = np.random.default_rng(5)
    square = scenes.Shape("red", "square", (28, 42, 70, 84))
    picture = np.asarray(scenes.draw_scene(rng, scenes.Scene(112, 112, (square,)), plain=True))
    inside, outside = picture[45:81, 31:67], picture[:20, :20]
    assert np.abs(inside.mean(axis=(0, 1)) - scenes.COLOURS["red"]).max() < 25
    assert outside.min() > 200


def test_the_same_seed_draws_the_same_picture():
    pictures = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        scene = scenes.make_scene(rng, 4, 6)
        pictures.append(np.asarray(scenes.draw_scene(rng, scene)))
    assert pictures[0].shape == (112, 168, 3)
    np.testing.assert_array_equal(*pictures)


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


def test_numbers_are_single_tokens():
    tokenizer = load_tokenizer(EMBEDDED)
    for number in [*range(32), *range(0, 449, 2)]:
        assert len(tokenizer.encode(str(number))) == 1
    assert len(tokenizer.encode("451")) > 1


def test_marks():
    """Overlap of boxes, points inside, seconds within a half, and sentences to the letter."""
    case = evaluate.make_case(1, "locate", 0)
    box = json.loads(case.question.answer)
    assert evaluate.mark(case, case.question.answer) == 1
    x1, y1, x2, y2 = box["bbox_2d"]
    half = json.dumps({**box, "bbox_2d": [x1, y1, x2, (y1 + y2) / 2]})
    assert evaluate.mark(case, half) == 0.5
    assert evaluate.mark(case, "nothing") == evaluate.mark(case, "[]") == 0
    case = evaluate.make_case(1, "point", 0)
    assert evaluate.mark(case, case.question.answer) == 1
    assert evaluate.mark(case, case.question.answer.replace("[", "[9")) == 0
    case = evaluate.make_case(1, "when", 0)
    seconds = float(case.question.answer.split()[1])
    assert evaluate.mark(case, f"At {seconds + 0.5} seconds.") == 1
    assert evaluate.mark(case, f"At {seconds + 0.75} seconds.") == 0
    case = evaluate.make_case(1, "describe", 0)
    assert evaluate.mark(case, case.question.answer) == 1
    assert evaluate.mark(case, case.question.answer.lower()) == 0


def test_evaluation_scenes_are_never_training_scenes():
    seeds = [scenes.generator(20250, kind, 0).integers(2**60) for kind in (0, 1)]
    assert (scenes.TRAINING, scenes.EVALUATION) == (0, 1) and seeds[0] != seeds[1]


def test_it_describes_scenes_that_it_has_not_seen():
    """Exact descriptions of a few; the model card has the figure of a thousand."""
    model = tinyqwenvl.load()
    figures = evaluate.evaluate(
        lambda cases: evaluate.package_answers(model, cases), 99, 40, ["describe"]
    )
    assert figures["describe"] >= 0.6
