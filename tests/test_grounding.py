"""Boxes and points of answers: published forms, places on the original image, the drawing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import max_examples

from tinyqwenvl import grounding, run
from tinyqwenvl.cli import run as cli_run
from tinyqwenvl.errors import UserError
from tinyqwenvl.grounding import Location, draw, locations
from tinyqwenvl.model import EXAMPLE_IMAGE, EXAMPLE_VIDEO

SAME = ((1000, 1000), (1000, 1000))
BOX = '{"bbox_2d": [10, 20, 30, 40], "label": "red circle"}'
MARK = Location((10, 20, 30, 40), "red circle")


@pytest.mark.parametrize(
    "answer",
    [
        BOX,
        f"[{BOX}]",
        f"```json\n[\n\t{BOX}\n]\n```",
        f"Here it is:\n```json\n{BOX}\n``` as asked.",
        '{"objects": [' + BOX + "]}",
        "{not json} " + BOX,
        "[" + BOX + ', {"bbox_2d": [1, 2, 3',  # cut off
        '{"label": "red circle", "bbox_2d": [30, 40, 10, 20]}',  # corners the other way round
        "<|object_ref_start|>red circle<|object_ref_end|>"
        "<|box_start|>(10,20),(30,40)<|box_end|><|im_end|>",
    ],
)
def test_published_forms_of_one_box(answer):
    assert locations(answer, *SAME) == [MARK]


def test_a_label_may_hold_braces_and_several_objects_keep_their_order():
    items = [
        {"bbox_2d": [0, 0, 9, 9], "label": "{a}"},
        {"point_2d": [5, 6.5], "label": "b"},
        {"bbox_2d": [1, 1, 2, 2], "text_content": "c"},
    ]
    found = locations(json.dumps(items), *SAME)
    assert [mark.label for mark in found] == ["{a}", "b", "c"]
    assert found[1] == Location((5, 6.5), "b") and found[1].is_point and not found[0].is_point


def test_pixels_of_the_resized_image_become_those_of_the_original():
    found = locations(BOX, resized=(280, 140), original=(560, 420))
    assert found == [Location((20, 60, 60, 120), "red circle")]


def test_a_label_is_that_of_its_own_box():
    answer = (
        "<|object_ref_start|>a<|object_ref_end|> is not there, but "
        "<|object_ref_start|>b<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    )
    assert locations(answer, *SAME) == [Location((1, 2, 3, 4), "b")]


def test_thousandths_do_not_depend_on_the_resized_image():
    answer = "the cat(100,200),(300,400)"  # as it reads without special tokens
    assert locations(answer, (28, 28), (2000, 500)) == [Location((200, 100, 600, 200), "")]
    point = "<|box_start|>(500,500)<|box_end|>"
    assert locations(point, (28, 28), (200, 100)) == [Location((100, 50), "")]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I don't see one.",
        "between (3, 4) and later",  # a pair of numbers in a sentence is no point
        '{"bbox_2d": [1, 2, 3], "label": "short"}',
        '{"bbox_2d": [1, 2, 3, NaN]}',
        '{"bbox_2d": [true, 2, 3, 4]}',
        '{"bbox_2d": "1, 2, 3, 4"}',
        "{" * 3000,
        '{"bbox_2d": [1, 2, 3, ' + "9" * 400 + "]}",  # too large for a float
        "<|quad_start|>(1,2),(3,4),(5,6),(7",  # a quadrilateral that was cut off
    ],
)
def test_what_is_no_box_is_left_out(answer):
    assert locations(answer, *SAME) == []


@max_examples(60)
@given(st.lists(st.integers(-500, 5000), min_size=4, max_size=4))
def test_places_lie_within_the_image_with_corners_in_order(place):
    (found,) = locations(json.dumps({"bbox_2d": place}), (100, 100), (300, 200))
    x1, y1, x2, y2 = found.place
    assert 0 <= x1 <= x2 <= 300 and 0 <= y1 <= y2 <= 200


def test_a_box_is_drawn_along_its_edges_and_nowhere_inside():
    grey = Image.new("RGB", (200, 100), (128, 128, 128))
    before = np.asarray(grey)
    after = np.asarray(draw(grey, [Location((50, 40, 120, 80))]))
    changed = np.any(before != after, axis=2)
    assert np.all(changed[60, [50, 120]]) and np.all(changed[[40, 80], 90])
    assert not np.any(changed[46:75, 56:115]) and not np.any(changed[:, :44])
    assert np.array_equal(np.asarray(grey), before)  # the image itself stays


def test_labels_stay_within_the_image_and_several_locations_are_numbered():
    small = Image.new("RGB", (60, 40), "black")
    odd = [Location((0, 0, 60, 40), "a very long name of a thing\n" * 3), Location((59, 1), "é漢")]
    assert draw(small, odd).size == (60, 40)
    one, two = (np.asarray(draw(small, [Location((30, 30))] * n)) for n in (1, 2))
    assert not np.array_equal(one, two)  # a single one has no number


# ------------------------------------------------------------------ the command line


def test_run_draws_the_boxes_of_the_answer(tmp_path, capsys):
    out = tmp_path / "out.png"
    words = [str(EXAMPLE_IMAGE), "Locate the blue cross.", "--boxes", str(out), "--json"]
    assert run.main(words) == 0
    (found,) = json.loads(capsys.readouterr().out)["boxes"]
    assert found["label"] == "blue cross"
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (EXAMPLE_IMAGE, out))
    assert before.shape == after.shape and not np.array_equal(before, after)
    blue = np.argwhere((before[:, :, 2] > 180) & (before[:, :, 0] < 120))
    (top, left), (bottom, right) = blue.min(axis=0), blue.max(axis=0)
    assert np.max(np.abs(np.array(found["box"]) - (left, top, right, bottom))) < 14


def test_run_writes_nothing_when_there_is_nothing_to_draw(tmp_path, capsys):
    out = tmp_path / "out.png"
    assert run.main([str(EXAMPLE_IMAGE), "describe", "--boxes", str(out)]) == 0
    assert "the answer has no box and no point" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_answer_is_told_though_its_boxes_cannot_be_written(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise UserError("cannot write: no space left")

    monkeypatch.setattr(cli_run, "write_bytes", full)
    words = [str(EXAMPLE_IMAGE), "Locate the blue cross.", "--boxes", str(tmp_path / "out.png")]
    assert run.main([*words, "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["boxes"] and "no space left" in told.err


def test_an_image_too_large_for_its_form_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grounding, "draw", lambda *_: Image.new("RGB", (16400, 10)))
    words = [str(EXAMPLE_IMAGE), "Locate the blue cross.", "--boxes", str(tmp_path / "out.webp")]
    assert run.main(words) == 2
    told = capsys.readouterr()
    assert "blue cross" in told.out and "16400x10 pixels as WEBP; give a .png" in told.err
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_opened_once_for_its_boxes(tmp_path, capsys):
    """What there is to say about it is said once."""
    words = [str(EXAMPLE_VIDEO), "Locate the black heart.", "--boxes", str(tmp_path / "out.png")]
    assert run.main(words) == 0
    assert capsys.readouterr().err.count("only the first is read") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.png", "what?", "--boxes", "there.png"], "missing.png: no such image"),
        (["--boxes", "out.wmf"], "Pillow"),
        (["--boxes", "out.ico"], "Pillow"),
        (["--boxes", "out.palm"], "Pillow"),
        (["--boxes", "folder.png"], "not a file"),
        (["--boxes", "out.txt"], "name of an image"),
        (["--boxes", "nowhere/out.png"], "no such directory"),
        (["--boxes", ""], "name of an image"),
        (["--boxes", str(EXAMPLE_IMAGE)], "the image itself"),
        (["--boxes", "out.png", "--chat"], "one image"),
        (["a.png", "b.png", "what?", "--boxes", "out.png"], "one image"),
    ],
)
def test_run_says_in_one_line_why_boxes_cannot_be_drawn(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_bytes(b"kept")
    Path("folder.png").mkdir()
    assert run.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"there.png", "folder.png"}
    assert Path("there.png").read_bytes() == b"kept"
