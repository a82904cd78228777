"""Conversations: follow-ups, earlier images, new images."""

import json
import re
from collections import Counter
from itertools import pairwise

import language_rules as rules
import pytest

from scripts.train_scenes import language
from scripts.train_scenes.language import grammar, texts
from scripts.train_scenes.scene import Refusal, Scene, Shape, generator

LAST = r"last image|latest image|newest image|this image"


@pytest.fixture(autouse=True)
def _without_misspellings(monkeypatch):
    """These tests read the words of requests."""
    monkeypatch.setattr(grammar, "TYPO", 0)


def shape(name, x1, y1, x2, y2):
    return Shape(*name.split(" "), (x1, y1, x2, y2))


def talks(contents, count, seed=1, **options):
    rng = generator(seed)
    return [language.conversation(rng, contents, **options) for _ in range(count)]


def three_scenes():
    """Three images that share no colour and no kind."""
    return [
        Scene(
            224, 112, (shape("red circle", 10, 10, 40, 40), shape("pink line", 180, 70, 220, 90))
        ),
        Scene(168, 112, (shape("blue square", 10, 70, 30, 90),)),
        Scene(
            112, 112, (shape("green oval", 70, 10, 100, 26), shape("black cross", 10, 80, 30, 100))
        ),
    ]


def meant(text, shown):
    """Index of the image that a request is about, by its words alone."""
    text = text.lower()
    for number, word in enumerate(("first", "second", "third")):
        if re.search(rf"{word} (im|pic|one|draw)|(image|picture|img|pic) {number + 1}\b", text):
            return shown[number]
    if re.search(r"previous|(image|picture) before", text):
        return shown[-2]
    return shown[-1]


def colours_and_boxes(answer):
    """What an answer names: full names, and boxes."""
    try:
        value = json.loads(answer)
    except ValueError:
        return set(rules.named(answer)), []
    items = value if isinstance(value, list) else [value]
    items = [item for item in items if isinstance(item, dict)]  # a count is a number
    return set(), [tuple(item["bbox_2d"]) for item in items if "bbox_2d" in item]


def test_answers_are_about_the_right_image():
    contents, about, checked = three_scenes(), Counter(), 0
    for turns in talks(contents, 700):
        shown = []
        for turn in turns:
            shown += turn.images
            if turn.about is None or turn.question.names is not None:
                continue
            follow = not re.search("image|picture|pic|img|drawing|one", turn.text.lower())
            if not follow:
                assert turn.about == meant(turn.text, shown) or _is_bare(turn.text), (turn, shown)
            if len(turns[0].images) == len(shown) == 2:  # which of the two was before?
                assert not re.search("previous|before|latest|newest|last", turn.text.lower())
            names, boxes = colours_and_boxes(turn.answer)
            scene = contents[turn.about]
            assert names <= {(s.colour, s.kind) for s in scene.shapes}, turn
            assert set(boxes) <= {s.box for s in scene.shapes}, turn
            about[len(shown), turn.about == shown[-1]] += 1
            checked += bool(names or boxes)
    assert checked > 500 and min(about[n, now] for n in (2, 3) for now in (True, False)) > 50


def _is_bare(text):
    """Whether a request says nothing about which image, as `in this picture` does not."""
    return not re.search(
        r"first|second|third|previous|before|last|latest|newest|image \d|picture \d", text.lower()
    )


def test_after_an_earlier_image_the_newest_is_named():
    named = re.compile(rf"first|second|third|(image|picture|img|pic) \d|{LAST}|previous|before")
    checked = 0
    for turns in talks(three_scenes(), 700):
        newest, last = None, None
        for turn in turns:
            newest = turn.images[-1] if turn.images else newest
            if not turn.images and last not in (None, newest) and turn.about == newest:
                assert named.search(turn.text.lower().replace("teh ", "").replace("the ", "")), turn
                checked += 1
            last = last if turn.about is None else turn.about
    assert checked > 20


def test_images_are_shown_once_and_in_order():
    lengths, later = Counter(), 0
    for turns in talks(three_scenes(), 300, seed=2):
        shown = [i for turn in turns for i in turn.images]
        assert shown == list(range(len(shown))) and turns[0].images
        lengths[len(turns)] += 1
        later += any(turn.images for turn in turns[1:])
    assert set(lengths) == {2, 3, 4, 5, 6} and later > 150
    assert {len(t) for t in talks(three_scenes(), 30, turns=1)} == {1}
    assert {len(t) for t in talks(three_scenes(), 30, turns=6)} == {6}


def test_follow_ups_are_found_again_by_a_slow_rule():
    """`What colour is it?`, `And the blue square?` after questions of every kind."""
    rng, seen = generator(3), Counter()
    for _ in range(1500):
        scene = texts.made_up_scene(rng, 4, 0)
        before = None
        for turn in language.conversation(rng, [scene]):
            text, answer = turn.text.lower(), turn.answer
            if (
                re.search(r"\b(its|it|that one)\b", text)
                and turn.skill in ("colour", "shape")
                and before
                and before.focus
                and not turn.question.mentions
                and re.match(
                    r"(and |what |which |tell me )?(about )?(colou?r|shape|its|kind|is its|what)",
                    text,
                )
            ):
                focus = before.focus
                wanted = (
                    focus.colour
                    if turn.skill == "colour"
                    else rules.KINDS[rules.KINDS.index(focus.kind)]
                )
                assert wanted in answer.lower(), turn
                seen["it", turn.skill] += 1
            if (
                turn.question.mentions
                and turn.skill in ("colour", "locate", "point", "shape", "place")
                and len(turn.question.mentions) == 1
                and answer != "I don't see one."
            ):
                colour, kind = turn.question.mentions[0]
                fitting = [
                    s for s in scene.shapes if colour in ("", s.colour) and kind in ("", s.kind)
                ]
                assert len(fitting) >= 1
                if len(fitting) == 1 and turn.skill == "shape":
                    assert answer.rstrip(".").endswith(f" {fitting[0].kind}"), turn
                if len(fitting) == 1 and turn.skill == "colour":
                    assert answer == f"{fitting[0].colour.capitalize()}.", turn
                if len(fitting) == 1 and turn.skill == "locate":
                    assert colours_and_boxes(answer)[1] == [fitting[0].box], turn
                if len(fitting) == 1 and turn.skill == "place":
                    assert answer.lower() == rules.place_name(scene, fitting[0]) + ".", turn
                seen["named", turn.skill] += 1
            before = turn.question
    assert min(seen.values()) > 20 and len(seen) == 7, seen


def test_the_same_about_a_new_image():
    found = Counter()
    for turns in talks(three_scenes(), 900, seed=4):
        for before, turn in pairwise(turns):
            if turn.images and re.fullmatch(
                r"((and |what about |how about |now )?"
                r"(this( one| image)?|here|in this (image|picture)|now)"
                r"|same question|the same for this one)\W*",
                turn.text.lower(),
            ):
                scene = three_scenes()[turn.about]
                assert turn.skill == before.skill and turn.about == turn.images[-1]
                if turn.skill == "count" and not turn.question.mentions:
                    assert turn.answer == str(len(scene.shapes))
                if turn.skill in ("describe", "list"):
                    assert rules.listed(scene, turn.answer, scene.shapes)
                found[turn.skill] += 1
    assert found["count"] > 10 and found["describe"] + found["list"] > 10


def test_conversations_about_nothing_and_about_photographs():
    for turns in talks([None, three_scenes()[0]], 100, seed=5):
        assert turns[0].images == () and turns[0].skill in ("no_image", "chat", "other")
        for turn in turns:
            if turn.images:
                break
            assert turn.skill in ("no_image", "chat", "other")
    for turns in talks([Refusal(112, 112, "photograph"), three_scenes()[1]], 100, seed=6):
        for turn in turns:
            if turn.about == 0:
                assert turn.answer == "I only know drawn shapes, and I don't recognise any here."


def test_held_out_phrasings_in_conversations():
    training = {turn.text for turns in talks(three_scenes(), 400, seed=7) for turn in turns}
    held_out = [
        turn.text for turns in talks(three_scenes(), 100, seed=8, held_out=True) for turn in turns
    ]
    assert sum(text in training for text in held_out) < 0.06 * len(held_out)
