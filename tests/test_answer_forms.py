"""Every form in which published models write boxes and points, and any text that is none.

Witnesses: QwenLM's cookbooks read JSON with ``ast.literal_eval`` and XML with ElementTree, in
pixels of the resized image; whatever these read, we read alike.
"""

import ast
import json
import time
import xml.etree.ElementTree as ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import max_examples

from tinyqwenvl import UserError, run
from tinyqwenvl.cli import run as cli_run
from tinyqwenvl.grounding import Location, draw, locations, read_answer
from tinyqwenvl.model import EXAMPLE_IMAGE

SAME = ((1000, 1000), (1000, 1000))
BOX = (10.0, 20.0, 30.0, 40.0)
A, B = Location(BOX, "a"), Location((50.0, 60.0, 70.0, 80.0), "b")


def read(answer):
    return locations(answer, *SAME)


# ------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("{'bbox_2d': [10, 20, 30, 40], 'label': 'a'}", [A]),
        ('{"bbox_2d": ["10", "20", "30", "40"], "label": "a"}', [A]),
        ('{"bbox_2d": (10, 20, 30, 40), "label": "a"}', [A]),
        ('{"bbox_2d": [[10, 20, 30, 40]], "label": "a"}', [A]),
        ('{"bbox_2d": [[10, 20], [30, 40]], "label": "a"}', [A]),
        ('{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]], "label": "a"}', [A, (B.place, "a")]),
        ('{"bbox": [10.0, 2e1, 30, 40], "label": "a"}', [A]),
        ('{bbox_2d: [10, 20, 30, 40], label: "a",}', [A]),
        ('[[{"bbox_2d": [10, 20, 30, 40], "label": "a"}]]', [A]),
        ('{"a": {"b": [{"bbox_2d": [10, 20, 30, 40], "label": "a"}]}}', [A]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": null}', [(BOX, "")]),
        ("{'bbox_2d': [10, 20, 30, 40], 'label': None}", [(BOX, "")]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": null, "text_content": "a"}', [A]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": 7}', [(BOX, "7")]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": ["a"]}', [(BOX, "")]),
        ('{"bbox_2d": [10, 20, 30, 40]}', [(BOX, "")]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": "the "A" of it"}', [(BOX, 'the "A" of it')]),
        (r'{"bbox_2d": [10, 20, 30, 40], "label": "the \"A\" \u00e9"}', [(BOX, 'the "A" é')]),
        ("{'bbox_2d': [10, 20, 30, 40], 'label': 'the cat's'}", [(BOX, "the cat's")]),
        ('{"bbox_2d": [10, 20, 30, 40], "label": "a\nb"}', [(BOX, "a\nb")]),
        (r'{"bbox_2d": [10, 20, 30, 40], "label": "a\ud800"}', [(BOX, "a\ufffd")]),
        ("I don't see [it], it's here: {'bbox_2d': [10, 20, 30, 40], 'label': 'a'}.", [A]),
        ('{"point_2d": ["10", "20"], "label": "a"}', [((10, 20), "a")]),
        ('{"points": [[10, 20], [30, 40]], "label": "a"}', [((10, 20), "a"), ((30, 40), "a")]),
        ("[10, 20, 30, 40]", [(BOX, "")]),
        ("```json\n[[10, 20, 30, 40], [50, 60, 70, 80]]\n```", [(BOX, ""), (B.place, "")]),
        (
            '<tool_call>\n{"name": "computer_use", "arguments": {"action": "left_click", '
            '"coordinate": [10, 20]}}\n</tool_call>',
            [((10, 20), "left_click")],
        ),
        (
            '{"action": "swipe", "coordinate": [10, 20], "coordinate2": [30, 40]}',
            [((10, 20), "swipe"), ((30, 40), "swipe")],
        ),
        ('{"bbox_2d": [10, 20, 30, 40], "label": "a"} [{"bbox_2d": [50, 60, 70, 80], '
         '"label": "b"}]', [A, B]),
        ('[{"bbox_2d": [10, 20, 30, 40}, {"bbox_2d": [50, 60, 70, 80], "label": "b"}]',
         [(BOX, ""), B]),  # a bracket forgotten
    ],
)  # fmt: skip
def test_json_of_all_kinds(answer, expected):
    reading = read_answer(answer, *SAME)
    assert reading.locations == expected and not reading.cut


labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.integers(0, 1000), st.floats(0, 1000).map(lambda n: round(n, 2)))
items = st.lists(
    st.tuples(st.lists(numbers, min_size=4, max_size=4), labels), min_size=1, max_size=4
)


def corners(place):
    """In order, as the cookbook swaps them."""
    xs, ys = sorted(place[::2]), sorted(place[1::2])
    return (xs[0], ys[0], xs[1], ys[1])


@max_examples(200)
@given(
    items,
    st.sampled_from([(json.dumps, json.loads), (repr, ast.literal_eval)]),
)
def test_what_python_reads_is_read_alike(pairs, write_and_parse):
    """Any label of JSON or Python literals comes back, as Python's own parsers read it."""
    write, parse = write_and_parse
    text = write([{"bbox_2d": place, "label": label} for place, label in pairs])
    witness = [(corners(i["bbox_2d"]), i["label"]) for i in parse(text)]
    assert read(text) == witness
    assert read(f"It's here:\n```json\n{text}\n```\nDone.") == witness


@given(items, st.data())
def test_an_answer_cut_anywhere_keeps_what_is_whole_and_says_so(pairs, data):
    objects = [{"bbox_2d": place, "label": "a"} for place, _ in pairs]
    text = json.dumps(objects)
    end = data.draw(st.integers(0, len(text) - 1))
    reading = read_answer(text[:end], *SAME)
    whole = text[:end].count("}")  # as the cookbook: up to the last complete object
    assert reading.locations == [(corners(o["bbox_2d"]), "a") for o in objects[:whole]]
    assert reading.cut == ('"bbox_2d"' in text[:end])


# ------------------------------------------------------------------ XML and HTML


@max_examples(100)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), labels, labels)
def test_points_of_xml_are_those_of_elementtree(points, alt, phrase):
    clean = [
        "".join(c for c in t if c.isprintable() and c not in "<&>").strip() for t in (alt, phrase)
    ]
    places = " ".join(f'x{i}="{x}" y{i}="{y}"' for i, (x, y) in enumerate(points, 1))
    text = f"<points {places} alt={quoteattr(clean[0])}>{clean[1]}</points>"
    root = ElementTree.fromstring(text)
    count = (len(root.attrib) - 1) // 2  # decode_xml_points of the cookbook
    witness = [
        (float(root.attrib[f"x{i}"]), float(root.attrib[f"y{i}"])) for i in range(1, count + 1)
    ]
    found = read(f"```xml\n{text}\n```")
    assert [mark.place for mark in found] == witness == [tuple(map(float, p)) for p in points]
    assert {mark.label for mark in found} == {root.attrib["alt"].strip() or (root.text or "")}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('<point x="10" y="20" alt="a">the a</point>', [((10, 20), "a")]),
        ("<point x='10' y='20'>the a</point>", [((10, 20), "the a")]),
        ('<points x1="10.5" y1="20" alt="a &quot;b&quot;"/>', [((10.5, 20), 'a "b"')]),
        ("Here: <points y1=20 x1=10 alt='it is'>x</points> there", [((10, 20), "it is")]),
        ('<points x1="10" y1="20" x2="30" alt="a">a</points>', [((10, 20), "a")]),
        ('<points x10="1" y10="1" x2="2" y2="2">a</points>', [((2, 2), "a"), ((1, 1), "a")]),
        (
            '<h2 data-bbox="10 20 30 40">1. Title</h2>\n<div class="image" '
            'data-bbox="50 60 70 80"><img data-bbox="50 60 70 80"/></div>',
            [(BOX, "1. Title"), (B.place, "image"), (B.place, "")],
        ),
        ('<p data-bbox="[10, 20, 30, 40]">a</p>', [A]),
        ('<p data-polygon="1 2 3 2 3 4 1 4">a</p>', [((1, 2, 3, 2, 3, 4, 1, 4), "a")]),
    ],
)
def test_tags(answer, expected):
    reading = read_answer(answer, *SAME)
    assert reading.locations == expected and not reading.cut


def test_tags_are_in_pixels_of_the_resized_image():
    answers = ('<point x="10" y="20">a</point>', '<p data-bbox="10 20 30 40">a</p>')
    expected = ([Location((20, 60), "a")], [Location((20, 60, 60, 120), "a")])
    for answer, marks in zip(answers, expected, strict=True):
        assert locations(answer, (280, 140), (560, 420)) == marks


# ------------------------------------------------------------------ special tokens

REF = "<|object_ref_start|>a<|object_ref_end|>"
ONE, TWO = "<|box_start|>(10,20),(30,40)<|box_end|>", "<|box_start|>(50,60),(70,80)<|box_end|>"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (REF + ONE + TWO, [A, (B.place, "a")]),
        (f"{REF} {ONE}, {TWO}", [A, (B.place, "a")]),
        (f"{REF}<|box_start|>(10,20),(30,40), (50,60),(70,80)<|box_end|>", [A, (B.place, "a")]),
        (f"{REF}{ONE} and {TWO}", [A, (B.place, "")]),  # prose ends what a name is for
        (f"{REF}{ONE}{REF.replace('>a<', '>b<')}{TWO}", [A, B]),
        ("<|object_ref_start|>a\nb<|object_ref_end|>" + ONE, [(BOX, "a\nb")]),
        (f"{REF}<|box_start|>(10,20)<|box_end|>", [((10, 20), "a")]),
        ("Action: click(start_box='<|box_start|>(10,20)<|box_end|>')", [((10, 20), "")]),
        (
            f"{REF}<|quad_start|>(1,2),(9,2),(9,8),(1,8)<|quad_end|>",
            [((1, 2, 9, 2, 9, 8, 1, 8), "a")],
        ),
        ("<|quad_start|>(1,2),(9,2),(9,8)<|quad_end|>", []),  # no quadrilateral of three corners
        (f"{REF}<|box_start|>(10,20),(30,40),(50,60)<|box_end|>", [A]),  # a corner too many
        ("a(10,20),(30,40)\nb(50,60),(70,80)", [(BOX, ""), (B.place, "")]),
    ],
)
def test_special_tokens(answer, expected):
    reading = read_answer(answer, *SAME)
    assert reading.locations == expected and not reading.cut


def test_special_tokens_that_are_cut_off():
    for end in ("<|box_start|>", "<|box_start|>(50,60)", "<|box_start|>(50,60),(70,"):
        assert read_answer(f"{REF}{ONE}{end}", *SAME) == ([A], True)
    assert read_answer("<|quad_start|>(1,2),(3,4),(5,6),(7", *SAME) == ([], True)
    assert read_answer('<points x1="10" y1="20" x2="3', *SAME) == ([], True)


def test_the_unit_can_be_given():
    """ms-swift's older data for Qwen2.5-VL has pixels between the box tokens."""
    sizes = ((280, 140), (560, 420))
    assert locations(ONE, *sizes, unit="pixels")[0].place == (20, 60, 60, 120)
    answer = '{"bbox_2d": [100, 200, 300, 400]}'
    assert locations(answer, *sizes, unit="thousandths")[0].place == pytest.approx(
        (56, 84, 168, 168)
    )
    with pytest.raises(UserError, match="unit is 'percent'; it must be one of pixels, thousandths"):
        locations(ONE, *sizes, unit="percent")


# ------------------------------------------------------------------ any text

PIECES = st.sampled_from(
    "{ } [ ] ( ) : , \" ' \\ < > / = - . \n 1 20 99999999999 1e999 null None NaN x y "
    'bbox_2d "bbox_2d": "label": point_2d "point_2d" <points <point x1=" y1=" alt=" data-bbox=" '
    "&#99999999999999; &quot; \\u \\ud83d \\n (1,2) (3 <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|object_ref_start|> <|object_ref_end|> ```json ```".split(" ")
)


@max_examples(400)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join)))
def test_no_text_is_too_odd(answer):
    reading = read_answer(answer, (280, 140), (560, 420))
    for mark in reading.locations:
        assert mark.kind in ("point", "box", "quad")
        assert all(0 <= n <= limit for n, limit in zip(mark.place, (560, 420) * 4, strict=False))
        mark.label.encode()
    draw(Image.new("RGB", (56, 42)), reading.locations[:3])


HOSTILE = (
    "{", "[", "(", "{[", '{"', "{'", '{"a":', '{"a": "', '["a",', "[1,", "{a:", "}", "]{", '" ',
    '{"bbox_2d": [1,2,3,4], "label": "', "'", "\\", '{"\\', "1", "1.", "-", "9" * 50 + "a", " ",
    "<", "<p", "<point ", '<point x="', "<point x='", '<point x="1" ', "<a b=c ", "&#", "&#1",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_start|>(", "(1,2),", "(",
    "(1", "(1,2) " + 30 * " ", "<|quad_start|>(1,2)", "<|object_ref_start|>a<|object_ref_end|> ",
    '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, ', "```json\n", '"a" "b", ', "{'a': 'b' 'c', ",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_length_alone(piece):
    """Ten times the text takes at most some thirty times as long; a quadratic reader, a hundred."""

    def seconds(size):
        text = (piece * (size // len(piece)))[:size]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            read_answer(text, *SAME)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(60_000) < 30 * max(seconds(6_000), 0.002)


# ------------------------------------------------------------------ the drawing, the command line


def test_a_quadrilateral_is_drawn_along_its_edges():
    grey = Image.new("RGB", (200, 100), (128, 128, 128))
    after = np.asarray(draw(grey, [Location((50, 50, 100, 20, 150, 50, 100, 80))]))
    changed = np.any(after != 128, axis=2)
    assert changed[50, 50] and changed[50, 150] and changed[20, 100] and changed[35, 75]
    assert changed[65, 75] and changed[65, 125]  # also the edge that closes it
    assert not changed[50, 70:130].any() and not changed[22:30, 50:60].any()


def test_run_says_that_an_answer_ends_within_a_location(tmp_path, capsys):
    out = tmp_path / "out.png"
    words = [str(EXAMPLE_IMAGE), "Locate the blue cross.", "--boxes", str(out), "--max-tokens"]
    assert run.main([*words, "12"]) == 0
    error = capsys.readouterr().err
    assert "ends in the middle of a location" in error and "no box and no point" in error
    assert not out.exists()


def test_run_tells_a_quadrilateral(tmp_path, capsys, monkeypatch):
    quad = Location((1, 2, 9, 2, 9, 8, 1, 8), "a")
    monkeypatch.setattr(cli_run, "find_locations", lambda *_: [quad])
    words = [str(EXAMPLE_IMAGE), "Locate the blue cross.", "--boxes", str(tmp_path / "out.png")]
    assert run.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["boxes"]
    assert told == [{"quad": [1, 2, 9, 2, 9, 8, 1, 8], "label": "a"}]
    assert (tmp_path / "out.png").exists()
