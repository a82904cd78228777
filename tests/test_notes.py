"""Notes on what the embedded checkpoint has not learnt, and the limits that follow from it."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

import tinyqwenvl
from scripts.first_edition.scenes import CELL, TWO_GRIDS
from tinyqwenvl import UserError, run
from tinyqwenvl.cli import embedded as cli_embedded
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.model import ASSETS, EXAMPLE_IMAGE, EXAMPLE_VIDEO, user_message
from tinyqwenvl.video import open_video, read_video

BEFORE, AFTER = (ASSETS / "images" / f"{name}.png" for name in ("before", "after"))
LIMIT = {"image": 75_264, "frame": 28_224}


@pytest.fixture(scope="module")
def embedded():
    return tinyqwenvl.load()


@pytest.fixture
def pair(tmp_path):
    """Two drawings of 640 x 480 pixels: a red circle, and nothing."""
    for name, shown in (("one", True), ("two", False)):
        image = Image.new("RGB", (640, 480), "white")
        ImageDraw.Draw(image).rectangle((400, 60, 540, 200), fill=(40, 80, 220))
        if shown:
            ImageDraw.Draw(image).ellipse((60, 240, 220, 400), fill=(220, 40, 40))
        image.save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in ("one", "two")]


def ask(capsys, *words):
    code = run.main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0
    return json.loads(out), err


def areas(answer):
    return [h * w * 196 for _, h, w in answer["image_grid_thw"]]


def talk(monkeypatch, capsys, *lines, words=()):
    """stderr of ``run --chat``."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    assert run.main(["--chat", *map(str, words)]) == 0
    return capsys.readouterr().err


# ------------------------------------------------------------------ what was shown


def test_without_an_image_the_embedded_checkpoint_guesses(capsys):
    answer, err = ask(capsys, "hello")
    assert "no image was given" in err
    assert [note for note in answer["notes"] if "no image was given" in note]
    for words in ([EXAMPLE_IMAGE], ["--video", EXAMPLE_VIDEO, "describe"]):
        answer, err = ask(capsys, *words, "-n", 1)
        assert "no image was given" not in err + str(answer["notes"])


def test_notes_are_those_of_stderr_and_of_this_command(capsys):
    for _ in range(2):
        answer, err = ask(capsys, "hello", "--top-k", 3)
        assert [f"note: {note}" for note in answer["notes"]] == err.splitlines()
        assert len(answer["notes"]) >= 3


def test_a_chat_longer_than_was_learnt(monkeypatch, capsys):
    words = [EXAMPLE_IMAGE, "describe", "-n", 1]
    assert cli_embedded.TURNS == 2
    assert "was trained on conversations" not in talk(monkeypatch, capsys, "describe", words=words)
    err = talk(monkeypatch, capsys, "describe", "describe", "describe", words=words)
    assert err.count("turn 3: the embedded checkpoint was trained on conversations of 2 turns") == 1
    assert err.count("was trained on conversations") == 1  # said once, not at every turn from there
    assert "no image was given" not in err
    err = talk(monkeypatch, capsys, "a", "b", "/clear", "c", "d", words=["-n", 1])
    assert "was trained on conversations" not in err and err.count("no image was given") == 2


def test_a_chat_says_when_an_answer_is_improbable(monkeypatch, capsys, tmp_path):
    noise = np.random.default_rng(3).integers(0, 256, (12, 18, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((336, 224), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    err = talk(monkeypatch, capsys, "describe", words=["-v", tmp_path / "a.png"])
    assert "the answer's probability is 0." in err and "token probability mean 0." in err
    assert "the answer's prob" not in talk(monkeypatch, capsys, "describe", words=[EXAMPLE_IMAGE])


# ------------------------------------------------------------------ the prompt


def test_an_empty_prompt_is_refused_in_python_too(embedded):
    for prompt in ("", " \n"):
        with pytest.raises(
            UserError, match="the prompt is empty; type a question or an instruction"
        ):
            embedded.ask(str(EXAMPLE_IMAGE), prompt)


def test_two_images_without_a_prompt_ask_what_changed(embedded, capsys):
    answer, err = ask(capsys, BEFORE, AFTER)
    assert answer["text"] == "The orange triangle turned black." and "several images" not in err
    prompt = embedded.tokenizer.decode(answer["prompt_token_ids"], skip_special=False)
    assert "<|vision_end|>What changed?<|im_end|>" in prompt
    for words in ([BEFORE], [BEFORE, AFTER, BEFORE], [BEFORE, AFTER, "--video", EXAMPLE_VIDEO]):
        answer, _ = ask(capsys, *words, "-n", 1)
        prompt = embedded.tokenizer.decode(answer["prompt_token_ids"], skip_special=False)
        assert "<|vision_end|>describe<|im_end|>" in prompt


# ------------------------------------------------------------------ limits on sizes


def test_the_limits_of_the_embedded_checkpoint(embedded):
    assert embedded.config.processor.max_pixels == LIMIT["image"]
    assert embedded.config.video_limits == (12_544, LIMIT["frame"])
    example = embedded.prepare(user_message(str(EXAMPLE_IMAGE), "describe"))
    assert example.image_grid_thw.tolist() == [[1, 16, 24]]  # 336 x 224: as it is


def test_the_limit_of_an_item_or_an_argument_wins(embedded):
    image = Image.new("RGB", (640, 480))
    asked = user_message(image, "describe")
    own = [{"role": "user", "content": [{"image": image, "max_pixels": 150_000}]}]
    sizes = [
        embedded.prepare(asked),
        embedded.prepare(asked, max_pixels=300_000),
        embedded.prepare(own, max_pixels=20_000),
    ]
    found = [int(np.prod(i.image_grid_thw)) * 196 for i in sizes]
    assert found == [308 * 224, 616 * 448, 420 * 308]


def test_a_lower_limit_of_a_clip_wins(embedded):
    """A higher one does not: the smaller of the two is the limit (docs/spec.md)."""
    clip = {"video": [Image.new("RGB", (640, 480))] * 2, "fps": 2}
    found = []
    for limit in ({}, {"max_pixels": 13_000}, {"max_pixels": 300_000}):
        inputs = embedded.prepare([{"role": "user", "content": [{**clip, **limit}]}])
        found.append(int(np.prod(inputs.video_grid_thw)) * 196)
    assert found == [168 * 140, 112 * 84, 168 * 140]


def test_large_pairs_are_read_as_they_were_learnt(pair, capsys):
    assert max(r * c for r, c in TWO_GRIDS) * CELL**2 == cli_embedded.PAIR_PIXELS
    answer, err = ask(capsys, *pair)
    assert answer["text"] == "The red circle is gone."
    assert "several images are resized to at most 28,224 pixels each" in err
    assert all(area <= cli_embedded.PAIR_PIXELS for area in areas(answer))
    answer, err = ask(capsys, *pair, "--max-pixels", 50_000)
    assert areas(answer) == [252 * 168] * 2 and "several images" not in err
    answer, err = ask(capsys, pair[0], "describe")
    assert areas(answer) == [308 * 224] and "several images" not in err


def test_large_pairs_of_a_chat(pair, monkeypatch, capsys):
    lines = [f"/image {pair[0]}", f"/image {pair[1]}", "What changed?"]
    err = talk(monkeypatch, capsys, "describe", *lines, words=[EXAMPLE_IMAGE, "-n", 3])
    assert err.count("several images are resized to at most 28,224 pixels") == 1


def test_a_pair_for_another_checkpoint_is_read_by_its_own_limit(pair, capsys):
    answer, err = ask(capsys, *pair, "-n", 1, "-m", ASSETS / "checkpoint")
    assert areas(answer) == [308 * 224] * 2 and err == ""


# ------------------------------------------------------------------ animations


def animation(path, durations):
    frames = [Image.new("RGB", (56, 56), (20 * i, 0, 0)) for i in range(len(durations))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations)
    return path


def test_uneven_durations_are_pointed_out(embedded, tmp_path, capsys):
    held = animation(tmp_path / "held.gif", [100] * 9 + [2000])  # begins 0.9 s in, read as 2.61 s
    late = animation(tmp_path / "late.gif", [1000] + [100] * 9)
    with pytest.warns(ImageWarning, match=r"frames last 100 to 2000 ms.* mean of 290 ms.* 1.7 s"):
        read_video(held, embedded.config)
    assert "off by 0.81 s" in open_video(late).uneven
    answer, err = ask(capsys, "--video", late, "describe", "-n", 1)
    assert "late.gif: frames last 100 to 1000 ms" in err
    assert any("frames last 100 to 1000 ms" in note for note in answer["notes"])


@pytest.mark.parametrize("durations", [[100] * 6, [30, 40] * 4, [0] * 4, [30, 30, 40] * 3])
def test_durations_that_are_rounded_or_missing_are_even(durations, tmp_path):
    assert open_video(animation(tmp_path / "a.gif", durations)).uneven == ""
    assert open_video(EXAMPLE_VIDEO).uneven == ""
