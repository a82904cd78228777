"""The drawn scenes that the embedded checkpoint learned from, and what it makes of new ones."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from support import max_examples

import tinyqwenvl
from scripts.first_edition import evaluate, examples, measure, questions, scenes, words
from tinyqwenvl import run
from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE, EXAMPLE_VIDEO
from tinyqwenvl.tokenizer import load_tokenizer


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


def test_a_image_shows_its_shapes_where_they_are():
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


def test_numbers_are_single_tokens():
    tokenizer = load_tokenizer(EMBEDDED)
    for number in [*range(32), *range(0, 449, 2)]:
        assert len(tokenizer.encode(str(number))) == 1
    assert len(tokenizer.encode("451")) > 1


def test_locations():
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
    for skill, images in (("change", 2), ("read", 1)):
        case = evaluate.make_case(1, skill, 0)
        assert len(case.images) == images and case.fps is None
        assert evaluate.mark(case, case.question.answer) == 1
        assert evaluate.mark(case, case.question.answer.lower()) == 0


def test_evaluation_draws_the_pairs_that_are_asked_for(capsys):
    pairs = (("red", "heart"), ("blue", "ring"))
    for i in range(5):
        case = evaluate.make_case(1, "count", i, pairs=pairs)
        assert {(s.colour, s.kind) for s in case.scene.shapes} <= set(pairs)
    with pytest.raises(SystemExit):
        evaluate.main(["--pairs", "red house"])
    assert "red house" in capsys.readouterr().err
    for option in (["--kept-out"], ["--renderer", "other"], ["--pairs", "red heart"]):
        with pytest.raises(SystemExit):
            evaluate.main([*option, "--skills", "count", "when"])
        assert "only these skills: describe count" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main(["--pairs", "red heart"])
    assert "relation needs two pairs" in capsys.readouterr().err
    for main in (evaluate.main, measure.main):
        with pytest.raises(SystemExit):
            main(["--n", "0"])
        assert "--n must be 1 or more" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["--model", "nowhere"])
        assert "nowhere has no model.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("column", measure.CONDITIONS)
def test_the_commands_of_the_card_measure_what_it_says(column, capsys):
    words = shlex.split(measure.command(column, seed=3, n=4))[3:]
    if "--skills" in words:
        del words[words.index("--skills") :]
    evaluate.main([*words, "--skills", "describe", "locate"])
    figures = json.loads(capsys.readouterr().out)
    for skill, name in (("describe", "describe"), ("locate", "locate_iou")):
        found = measure.measure_one(EMBEDDED, column, skill, seed=3, n=4)
        assert found == {name: figures[name]}


def test_a_measurement_is_written_into_the_card_of_the_package_only(tmp_path, monkeypatch, capsys):
    old = json.loads(measure.FILE.read_text())
    new = json.loads(json.dumps(old))
    new["unseen scenes"]["figures"]["count"] = 0.1234
    card, file = tmp_path / "README.md", tmp_path / "figures.json"
    card.write_text(f"before\n\n{measure.table(old)}\nafter\n")
    file.write_text(json.dumps(old))
    monkeypatch.setattr(measure, "measure", lambda *_: new)
    monkeypatch.setattr(measure, "FILE", file)
    monkeypatch.setattr(evaluate, "CHECKPOINT", tmp_path)
    measure.main([])
    assert "12.3" in capsys.readouterr().out and json.loads(file.read_text()) == old
    with pytest.raises(SystemExit):
        measure.main(["--write", "--model", str(EMBEDDED)])
    measure.main(["--write"])
    assert card.read_text() == f"before\n\n{measure.table(new)}\nafter\n"
    assert json.loads(file.read_text()) == new
    card.write_text("no table")
    with pytest.raises(SystemExit):
        measure.main(["--write"])
    assert "another table" in capsys.readouterr().err and card.read_text() == "no table"


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


def test_characters_are_single_tokens():
    tokenizer = load_tokenizer(EMBEDDED)
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = words.make_text(rng)
        assert len(tokenizer.encode(text)) == len(text)


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


def test_questions_by_colour_or_kind_alone():
    """Counts, boxes and labels follow the half of the name that is asked about."""
    star = scenes.Shape("", "star", (0, 0, 30, 30), paint=(120, 220, 200))
    odd = scenes.Shape("red", "", (40, 40, 70, 70), outline=((0, 0), (1, 0), (0, 1)))
    circle = scenes.Shape("blue", "circle", (80, 80, 110, 110))
    scene = scenes.Scene(112, 112, (star, odd, circle))
    assert questions.fitting(scene, "star") == [star]
    assert questions.fitting(scene, "red shape") == [odd]
    assert questions.fitting(scene, "blue shape") == questions.fitting(scene, "circle") == [circle]
    doubtful = [c for c in scenes.COLOURS if questions.may_be_called(star, c)]
    assert "green" in doubtful and "red" not in doubtful
    rng = np.random.default_rng(0)
    asked = [q for q in (questions.ask_part(rng, scene) for _ in range(400)) if q]
    assert {q.skill for q in asked} == set(questions.PART_SKILLS)
    for question in asked:
        text = question.text.lower()
        assert not any(colour in text for colour in doubtful)
        assert not any(f"{c} {k}" in text for c in scenes.COLOURS for k in scenes.KINDS)
        if question.skill == "count":
            assert question.answer == str(
                int(any(w in text for w in ("star", "red", "blue", "circle")))
            )
        if question.skill == "locate":
            item = json.loads(question.answer)
            assert item["label"] in text
            assert tuple(item["bbox_2d"]) == questions.fitting(scene, item["label"])[0].box
        if question.skill == "colour":
            assert "circle" in text and question.answer == "Blue."


def test_no_training_question_names_a_held_out_pair():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)
    seen = set()
    for step in (2000, 2001):
        for batch in batches.make_step(encoder, 1, step):
            seen |= {questions.SKILLS[i] for i in np.unique(batch["skills"]) if i >= 0}
            for row in batch["ids"]:
                text = tokenizer.decode(row.tolist())
                assert not any(f"{colour} {kind}" in text for colour, kind in scenes.HELD_OUT)
    assert {"change", "read", "locate", "count", "describe"} <= seen


def test_training_rows_of_two_images_are_what_the_package_prepares():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)
    rng = np.random.default_rng(0)
    change = scenes.make_change(rng, 4, 5)
    pair = scenes.draw_frames(rng, (change.before, change.after))
    text = "What changed?"
    content = [*({"image": p} for p in pair), {"text": text}]
    inputs = tinyqwenvl.load().prepare([{"role": "user", "content": content}])
    ids = encoder.question(text)
    branches = [batches.Branch.asking(ids)]
    row = batches.make_row(encoder, "<|image_pad|>", (1, 8, 10), 1.0, branches, images=2)
    np.testing.assert_array_equal(row.ids, inputs.input_ids)
    np.testing.assert_array_equal(row.positions, inputs.position_ids)


@pytest.mark.parametrize(
    ("skill", "asked", "answer", "unsaid"),
    [
        ("colour", "What colour is the heart?", "Pink.", ["Blue."]),
        ("colour", "What colour is the circle?", "Pink.", []),
        ("absent", "What colour is the heart?", questions.NOT_THERE, []),
        ("shape", "Which shape is red?", "A ring.", ["A star."]),
        ("describe", "Describe.", "An orange cross on the left.", ["An yellow cross on the left."]),
        ("describe", "Describe.", "A red ring.", ["A green ring.", "A red star."]),
        (
            "change",
            "What changed?",
            "The pink heart turned black.",
            ["The blue heart turned black.", "The pink heart turned blue."],
        ),
    ],
)
def test_training_does_not_say_no_to_held_out_pairs(skill, asked, answer, unsaid):
    assert questions.unsaid(questions.Question(skill, asked, answer)) == unsaid


@pytest.mark.parametrize(
    ("asked", "others", "denies"),
    [
        ("How many hearts are there?", "blue square", True),
        ("How many hearts are there?", "green square", False),
        ("How many crosses are there?", "yellow ring", True),
        ("count the green shapes", "red ring", True),
        ("Is there a star? Reply Y or N.", "red circle", True),
        ("Is the green shape left of the square?", "pink ring", True),
        ("What colour is the triangle?", "purple square", True),
        ("What shape is red?", "pink star", True),
        ("Locate the green star.", "red ring", False),  # the star alone tells them apart
        ("Which is higher, the red heart or the blue star?", "blue square", False),
        ("How many shapes are there?", "blue square", False),
        ("Describe.", "blue square", False),
    ],
)
def test_a_question_that_would_say_no_to_a_held_out_pair_is_not_asked(asked, others, denies):
    shape = scenes.Shape(*others.split(), (0, 0, 28, 28))
    question = questions.Question("", asked, "")
    assert questions.denies(question, scenes.Scene(112, 112, (shape,))) == denies


@pytest.mark.parametrize(
    ("asked", "given", "denies"),
    [
        ("Is there a ring?", {"colour": "", "paint": (0, 90, 60)}, True),
        ("Is there a ring?", {"colour": "", "paint": (90, 60, 0)}, False),
        ("Is there a ring?", {"colour": "", "paint": (90, 90, 90)}, False),
        ("Is there a green shape?", {"kind": "", "form": "arc"}, True),
        ("Is there a green shape?", {"kind": "", "form": "bars"}, False),
        ("Is there a red shape?", {"kind": "", "form": "polygon"}, True),
    ],
)
def test_nor_beside_a_shape_without_a_name_that_is_like_it(asked, given, denies):
    shape = scenes.Shape(**{"colour": "pink", "kind": "square", "box": (0, 0, 28, 28)} | given)
    question = questions.Question("", asked, "")
    assert questions.denies(question, scenes.Scene(112, 112, (shape,))) == denies


@pytest.mark.parametrize("unnamed", [False, True])
def test_training_asks_no_such_question(unnamed):
    pytest.importorskip("torch")
    from scripts.first_edition import batches

    asked, rng = [], np.random.default_rng(3)
    for _ in range(60):
        scene = scenes.make_scene(rng, 4, 4)
        stream = batches.scene_questions
        if unnamed:
            scene, stream = scenes.with_unnamed(rng, scene), batches.part_questions
        asked += zip([scene] * 20, stream(rng, scene), strict=False)
    assert not any(questions.denies(question, scene) for scene, question in asked)
    for part in (part for pair in scenes.HELD_OUT for part in pair):  # beside other shapes
        assert any(part in question.text for _, question in asked)


def test_hints_do_not_say_no_to_a_held_out_pair():
    torch = pytest.importorskip("torch")
    from scripts.first_edition.hints import HintHead, cell_labels

    torch.manual_seed(0)
    head, numbers, features = HintHead(8), torch.randn(225, 8), torch.randn(16, 8)
    kinds = len(scenes.KINDS) + 1

    def pushed(*names):
        """Gradients of the kinds' and the colours' scores in cells that show one shape."""
        head.zero_grad()
        shapes = (scenes.Shape(*names, (0, 0, 112, 112)),)
        labels, cells = map(torch.from_numpy, cell_labels(scenes.Scene(112, 112, shapes)))
        head.loss(features, numbers, labels, cells).backward()
        return head.read.bias.grad[:kinds], head.read.bias.grad[kinds:][: len(scenes.COLOURS) + 1]

    kind, colour = pushed("blue", "ring")
    heart, green = scenes.KINDS.index("heart") + 1, list(scenes.COLOURS).index("green") + 1
    assert kind[heart] == colour[green] == 0
    assert np.count_nonzero(kind) == kinds - 1 and np.count_nonzero(colour) == len(scenes.COLOURS)
    kind, colour = pushed("pink", "square")
    assert kind.all() and colour.all()


def test_what_is_left_out_is_one_word_of_a_held_out_pair():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encoder = batches.Encoder(tokenizer)

    def left_out(skill, asked, answer):
        reply = encoder.answer(answer)
        tokens = encoder.unsaid(questions.Question(skill, asked, answer), reply)
        return [tokenizer.decode([token]) if token >= 0 else "" for token in tokens]

    found = left_out("describe", "Describe.", "A red ring on the left.")
    assert found[:4] == ["", " green", " star", ""] and not any(found[4:])
    begins = {colour: encoder.text(colour.capitalize())[0] for colour in scenes.COLOURS}
    for colour, kind in scenes.HELD_OUT:
        for said in set(scenes.COLOURS) - {colour}:
            question = questions.Question("colour", f"What colour is the {kind}?", "")
            question = question._replace(answer=f"{said.capitalize()}.")
            first, *rest = encoder.unsaid(question, encoder.answer(question.answer))
            assert first not in {begins[taught] for taught in scenes.COLOURS if taught != colour}
            shared = begins[colour] == begins["pink"]  # P, of Purple: told apart after it
            assert (first == begins[colour]) != shared
            assert any(token >= 0 for token in rest) == (shared and said == "pink")


def test_the_loss_does_not_push_down_what_is_left_out():
    torch = pytest.importorskip("torch")
    from scripts.first_edition.batches import NO_TOKEN
    from scripts.first_edition.train import answer_losses

    scores = torch.tensor([[1.0, 2.0, 0.5, 0.0]] * 2, requires_grad=True)
    losses = answer_losses(scores, torch.tensor([0, 0]), torch.tensor([1, NO_TOKEN]))
    losses.sum().backward()
    assert scores.grad[0, 1] == 0 and (scores.grad[0, 2:] > 0).all() and scores.grad[0, 0] < 0
    assert (scores.grad[1, 1:] > 0).all() and losses[0] < losses[1]


def test_training_batches_leave_out_tokens_of_answers_only():
    pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from scripts.first_edition import batches

    encoder = batches.Encoder(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")))
    for batch in batches.make_step(encoder, 1, 2000)[:3]:  # the rest are words
        some = batch["unsaid"] >= 0
        assert some.any() and (batch["unsaid"] != batch["ids"])[some].all()
        assert (batch["weights"][some] > 0).all()


def test_hints_say_what_each_cell_covers():
    """Kind, colour and character count from 1; what has no name is not asked for."""
    pytest.importorskip("torch")
    from scripts.first_edition.hints import UNNAMED, cell_labels

    shapes = (
        scenes.Shape("", "square", (0, 0, 28, 28), paint=(120, 120, 10)),
        scenes.Shape("orange", "", (56, 84, 84, 112), outline=((0, 0), (1, 0), (0, 1))),
    )
    labels = cell_labels(scenes.Scene(112, 112, shapes))[0].reshape(4, 4, 7)
    assert labels[0, 0].tolist() == [2, UNNAMED, 0, 0, 0, 14, 14]
    assert labels[3, 2].tolist() == [UNNAMED, 2, 0, 28, 42, 42, 56]
    assert np.count_nonzero(labels.any(-1)) == 2
    word = words.Word(112, 112, "B7", 40, ((0, 28, 28, 56), (56, 28, 84, 56)), ((0, 56), (56, 56)))
    labels = cell_labels(word)[0].reshape(4, 4, 7)
    assert labels[1, 0, 2] == 2 and labels[1, 2, 2] == len(words.LETTERS) + 8
    assert np.count_nonzero(labels) == 2


def test_what_is_exported_is_the_mean_of_the_weights(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from scripts.first_edition import export, train

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    (tmp_path / ".train").mkdir()
    for folder in (tmp_path, tmp_path / ".train"):
        tokenizer.save(str(folder / "tokenizer.json"))
    network, mean, *rest = train.load_or_start(tmp_path, tokenizer, "cpu")
    mean.update_parameters(network)
    before = network.model.norm.weight.detach().clone()
    with torch.no_grad():
        network.model.norm.weight += 100
    mean.update_parameters(network)
    train.save_all(tmp_path, network, mean, *rest)
    again, mean, *_ = train.load_or_start(tmp_path, tokenizer, "cpu")
    assert torch.equal(again.model.norm.weight, before + 100)
    expected = before + 100 * (1 - train.MEAN_DECAY)
    torch.testing.assert_close(mean.module.model.norm.weight, expected)
    exported = tmp_path / "out" / "model.safetensors"

    def export_mean(*folders):
        words = ["--state", *map(str, folders)] if folders else []
        monkeypatch.setattr("sys.argv", ["", *words, "--out", str(exported.parent)])
        export.main()
        return load_file(exported)["model.norm.weight"]

    assert torch.equal(export_mean(tmp_path), expected.to(torch.bfloat16))
    with torch.no_grad():
        mean.module.model.norm.weight.copy_(before + 300)
    train.save_all(tmp_path / ".train", network, mean, *rest)
    assert torch.equal(
        export_mean(tmp_path, tmp_path / ".train"),
        ((expected + before + 300) / 2).to(torch.bfloat16),
    )
    monkeypatch.chdir(tmp_path)  # the folder .train, unless another is given
    assert torch.equal(export_mean(), (before + 300).to(torch.bfloat16))
    with pytest.raises(SystemExit):
        export_mean("nowhere")
    assert "nowhere has no state.pt" in capsys.readouterr().err


def test_training_goes_on_where_it_stopped(tmp_path):
    """Every step goes into the mean and into the counters, which a second slice takes up."""
    torch = pytest.importorskip("torch")
    from scripts.first_edition import train

    steps = []
    for _ in range(2):
        before = steps[-1]["counters"]["seconds"] if steps else 0
        train.train(tmp_path, seconds=1e-3, of=before + 1)
        steps.append(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = steps
    assert (first["counters"]["steps"], second["counters"]["steps"]) == (1, 2)
    assert second["counters"]["seconds"] > first["counters"]["seconds"]
    assert (first["mean"]["n_averaged"], second["mean"]["n_averaged"]) == (1, 2)
    name = "model.norm.weight"
    moved = second["network"][name] - first["network"][name]
    expected = first["network"][name] + (1 - train.MEAN_DECAY) * moved
    assert moved.abs().max() > 0
    torch.testing.assert_close(second["mean"][f"module.{name}"], expected)


def asked_in_the_readme():
    """(words of the command line, answer) of the table of example images."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r'`([^`\n]+) "([^"]+)"`<br>([^|]+?) \|', readme)


@pytest.mark.parametrize(("words", "question", "answer"), asked_in_the_readme())
def test_it_answers_about_the_examples_as_the_readme_says(words, question, answer, capsys):
    words = [w if w.startswith("-") else str(EXAMPLE_IMAGE.with_name(w)) for w in words.split()]
    assert run.main([*words, question]) == 0
    assert capsys.readouterr().out.strip() == answer


def test_the_readme_asks_about_every_kind_of_example():
    files = {word for words, _, _ in asked_in_the_readme() for word in words.split()}
    assert {"before.png", "after.png", "clip.gif", "word.png"} <= files


@pytest.mark.parametrize("fps", [1, 2, 4])
def test_a_time_is_the_same_at_every_rate(fps, capsys):
    """Seconds, not frames: the truth is what drew the clip."""
    (name, seconds), *_ = examples.draw_clip()[0].appears.items()
    words = ["--video", str(EXAMPLE_VIDEO), "--fps", str(fps), f"When does the {name} appear?"]
    assert run.main(words) == 0
    assert capsys.readouterr().out.strip() == f"At {seconds:g} seconds."


def test_the_examples_are_what_draws_them():
    """`python -m scripts.first_edition.examples`"""
    change, pair = examples.draw_change()
    drawn = {name: examples.draw_example(name)[1] for name in examples.EXAMPLES}
    drawn |= {"before": pair[0], "after": pair[1], "word": examples.draw_sign()[1]}
    for name, image in drawn.items():
        held = np.asarray(Image.open(EXAMPLE_IMAGE.with_name(f"{name}.png")))
        assert held.shape == np.shape(image)
        assert np.mean(np.abs(held - np.asarray(image, float))) < 1  # another Pillow, perhaps
    question = questions.ask_change(scenes.generator(0), change)
    assert question.answer == "The orange triangle turned black."


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
