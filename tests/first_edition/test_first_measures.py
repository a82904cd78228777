"""What the embedded checkpoint makes of new scenes, and of the examples."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyqwenvl
from scripts.first_edition import evaluate, examples, measure, questions, scenes, words
from tinyqwenvl import run
from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE, EXAMPLE_VIDEO
from tinyqwenvl.tokenizer import load_tokenizer


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


def test_characters_are_single_tokens():
    tokenizer = load_tokenizer(EMBEDDED)
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = words.make_text(rng)
        assert len(tokenizer.encode(text)) == len(text)


def asked_in_the_readme():
    """(words of the command line, answer) of the table of example images."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
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
