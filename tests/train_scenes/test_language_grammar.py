"""Requests: the grammar, its held-out quarter, newcomers' own phrasings, speed."""

import json
import re
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from scripts.train_scenes import language
from scripts.train_scenes.language import foreign, texts
from scripts.train_scenes.language.asking import table_of
from scripts.train_scenes.language.grammar import (
    REQUESTS,
    Voice,
    compile_template,
    pools,
    split,
    split_requests,
)
from scripts.train_scenes.scene import COLOURS, HELD_OUT, KINDS, generator

NEWCOMERS = json.loads((Path(__file__).parent / "newcomers.json").read_text(encoding="utf-8"))


def scenes(seed, count):
    rng = generator(seed)
    return [texts.made_up_scene(rng, 6) for _ in range(count)]


def asked(contents, count, **options):
    """(content, question) of the first questions about each content."""
    rng = generator(7)
    for content in contents:
        for question in islice(language.ask(rng, content, **options), count):
            yield content, question


def test_a_quarter_of_the_templates_is_held_out():
    training, held_out = split_requests()
    everywhere = {text for lines in training.values() for text in lines}
    for key in REQUESTS:
        assert not set(held_out[key]) & everywhere
        assert 0.15 <= len(held_out[key]) / len(set(REQUESTS[key])) <= 0.35, key
        assert len(training[key]) >= 3, key
    assert split("x", REQUESTS["describe"]) == split("x", REQUESTS["describe"])


def test_held_out_phrasings_are_not_heard_in_training():
    def said(held_out):
        contents = [*scenes(5, 150), *(c for _ in range(12) for c in texts.contents(generator(4)))]
        plain = (
            re.sub(r"[^\w ]", "", q.text.lower()) for _, q in asked(contents, 12, held_out=held_out)
        )
        return list(plain)

    training, held_out = set(said(False)), said(True)
    assert sum(text in training for text in held_out) < 0.02 * len(held_out)


def test_every_template_can_be_filled():
    slots = {
        "thing", "things", "a_thing", "colour_word", "place", "extreme", "first", "second", "two",
        "side", "number", "others", "a_kind", "a_first", "a_second",
    }  # fmt: skip
    voice = Voice(np.random.default_rng(0))
    values = {slot: "X" for slot in slots}
    for key, lines in REQUESTS.items():
        for line in lines:
            text, _ = voice._fill(compile_template(line), values)
            assert text and not re.search(r"\{\w+\}|  |\|", text), (key, text)
    for held_out in (False, True):
        assert set(pools(held_out)) == set(REQUESTS) and all(pools(held_out).values())


def test_every_skill_is_reached():
    rng, seen = generator(6), Counter()
    for _ in range(60):
        for content in texts.contents(rng):
            seen.update(q.skill for q in islice(language.ask(rng, content), 12))
    assert set(seen) == set(language.SKILLS)
    assert all(set(table_of(c)) <= {*language.SKILLS, "either"} for c in texts.contents(rng))


# -------------------------------------------------------------------------------- newcomers


def test_newcomers_phrasings_are_their_own():
    known = {key: list(lines) for key, lines in REQUESTS.items()}
    for lang, words in foreign.LANGUAGES.items():
        known |= {f"{lang}.{key}": list(lines) for key, lines in words.REQUESTS.items()}
    assert set(NEWCOMERS) <= set(known)
    lines = [(key, line) for key, texts_ in NEWCOMERS.items() for line in texts_]
    assert len(lines) == len(set(lines)) >= 200
    assert {key.split(".")[0] for key in NEWCOMERS} <= {*language.SKILLS, "extreme"}

    def plain(text):
        return re.sub(r"[^\w{} ]", "", text.lower()).strip()

    same = [line for key, line in lines if plain(line) in {plain(t) for t in known[key]}]
    assert len(same) <= 6, same
    for key, line in lines:
        allowed = {slot for text in known[key] for slot in re.findall(r"\{(\w+)\}", text)}
        assert set(re.findall(r"\{(\w+)\}", line)) <= allowed, (key, line)


def test_newcomers_can_be_asked():
    contents = [*scenes(8, 60), *(c for _ in range(8) for c in texts.contents(generator(8)))]
    heard = {q.text for _, q in asked(contents, 150, own=NEWCOMERS)}
    whole = {line for lines in NEWCOMERS.values() for line in lines if "{" not in line}
    assert len(whole & heard) > 0.95 * len(whole)
    assert not any(re.search(r"\{\w+\}", text) for text in heard)


# ------------------------------------------------------------------------------------- speed


def test_questions_are_quick():
    contents = scenes(9, 60)
    best = 1.0
    for _ in range(3):
        start, count = time.process_time(), 0
        for _, question in asked(contents, 12):
            count += 1 + len(language.unsaid(question))
        best = min(best, (time.process_time() - start) / count)
    assert best < 0.3e-3


def test_corpus_has_all_words():
    corpus = list(language.corpus(count=200))
    whole = " ".join(corpus)
    assert all(
        word in whole
        for word in (*COLOURS, *KINDS, "bbox_2d", "Kreis", "圆形", "gauche", "círculo")
    )
    assert not any(f"{c} {k}" in whole for c, k in HELD_OUT)


@pytest.mark.parametrize("skill", ["describe", "count", "locate"])
def test_only_the_wanted_skill(skill):
    assert {q.skill for _, q in asked(scenes(10, 10), 5, skills=[skill])} == {skill}


def test_no_request_ends_before_it_says_where():
    voice, ends = (
        Voice(generator(2)),
        re.compile(r"(?<!where it )(?<!there )\b(is|are|is something)\W*$"),
    )
    for text in ("tell me what is{in}.", "is something{in}?", "which {shapes} are{in}?"):
        own = Voice(generator(2), own={"describe": [text]})
        assert not any(ends.search(own.say("describe")) for _ in range(60))
    said = [voice.say(key) for key in ("describe", "list") for _ in range(400)]
    assert not [text for text in said if ends.search(text)]
    plain = Voice(generator(2), own={"describe": ["what do you see{in}?"]})
    assert "what do you see?" in {plain.say("describe") for _ in range(60)}


def test_without_an_image_nothing_is_asked_about_one():
    rng, templates = generator(3), {"other": ["{text}"]}
    for text, image in (
        ("edit the image.", True), ("change the colour.", True), ("how big is this?", True),
        ("do you like it?", True), ("why is the sky blue?", False), ("is it cold outside?", False),
        ("who wrote Hamlet?", False),
    ):  # fmt: skip
        own = {key: [text] for key in templates}
        found = set(q.text for q in islice(language.ask(rng, None, skills=["other"], own=own), 3))
        assert found == (set() if image else {text})
        seen = language.ask(rng, scenes(5, 1)[0], skills=["other"], own=own)
        assert next(seen).text == text


def test_what_asks_for_a_list_is_not_asked_for_a_description():
    own = {"describe": ["what is {image}?"], "list": ["what is my drawing?"]}
    for scene in scenes(6, 10):
        for question in islice(language.ask(generator(8), scene, own=own), 60):
            if question.skill == "describe":
                assert "my drawing" not in question.text
