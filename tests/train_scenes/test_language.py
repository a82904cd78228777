"""Questions and answers about drawn scenes."""

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import language_rules as rules
import pytest

from scripts.train_scenes import language
from scripts.train_scenes.language import changes, foreign, honesty, names, nouns, texts
from scripts.train_scenes.language.asking import SCENE
from scripts.train_scenes.language.facts import Facts
from scripts.train_scenes.language.grammar import (
    REQUESTS,
)
from scripts.train_scenes.scene import (
    COLOURS,
    KINDS,
    Change,
    Clip,
    Pair,
    Refusal,
    Scene,
    Shape,
    Word,
    generator,
)

NEWCOMERS = json.loads((Path(__file__).parent / "newcomers.json").read_text(encoding="utf-8"))


def shape(name, x1, y1, x2, y2):
    return Shape(*name.split(" "), (x1, y1, x2, y2))


def scenes(seed, count):
    """Made-up scenes with a share of crowded and of empty ones."""
    rng = generator(seed)
    return [texts.made_up_scene(rng, 12 if i % 8 == 0 else 6) for i in range(count)]


def asked(contents, count, **options):
    """(content, question) of the first questions about each content."""
    rng = generator(7)
    for content in contents:
        for question in islice(language.ask(rng, content, **options), count):
            yield content, question


def test_every_answer_about_a_scene_is_found_again_by_a_slow_rule():
    counts = Counter()
    for scene, question in asked(scenes(1, 320), 40, own=rules.FORMS):
        if question.skill not in ("blank", "chat", "other", *foreign.LANGUAGES):
            assert rules.is_right(scene, question), (scene, question)
            counts[question.skill, question.text.split("|")[0] if "|" in question.text else ""] += 1
    skills = {skill for skill, _ in counts}
    assert skills == set(SCENE) - {"chat", "other", *foreign.LANGUAGES}
    forms = {form for _, form in counts}
    assert {
        "there",
        "any",
        "colour",
        "kind",
        "number",
        "more",
        "place",
        "is",
        "points",
        "of",
    } <= forms


def test_the_slow_rule_can_fail():
    scene = Scene(200, 200, (shape("red circle", 10, 10, 40, 40),))
    right = language.Question("count", "circles", "1")
    assert rules.is_right(scene, right)
    assert not rules.is_right(scene, language.Question("count", "circles", "2"))
    assert not rules.is_right(scene, language.Question("place", "circle", "On the left."))
    assert not rules.is_right(scene, language.Question("yes_no", "there|a red star", "Yes."))


def test_canonical_forms():
    scene = Scene(
        336, 224,
        (
            shape("red circle", 10, 10, 60, 60), shape("orange arrow", 140, 84, 190, 140),
            shape("blue square", 270, 160, 320, 210),
        ),
    )  # fmt: skip
    places = (
        "A red circle at the top left, an orange arrow in the middle and a blue square at the "
        "bottom right."
    )
    listed = "A red circle, an orange arrow and a blue square."
    found = {}
    for _, question in asked([scene], 600):
        found.setdefault(question.skill, set()).add(question.answer)
    assert found["describe"] == {places} and found["list"] == {listed}
    assert '{"bbox_2d": [10, 10, 60, 60], "label": "red circle"}' in found["locate"]
    assert (
        '{"point_2d": [36, 36], "label": "red circle"}' in found["point"]
        or '{"point_2d": [34, 34], "label": "red circle"}' in found["point"]
    )
    assert found["absent"] == {"I don't see one."}
    assert found["yes_no"] == {"Yes.", "No.", "Y", "N"}
    assert found["between"] <= {"An orange arrow."}
    assert found["unknown"] <= {"No.", "N", "I don't see one.", "0"}


def test_nothing_is_asked_in_doubt():
    near = Scene(
        300, 300, (shape("red circle", 86, 10, 116, 40),)
    )  # its centre is 1 pixel off a third
    assert Facts(near).places is None
    tied = Scene(
        300, 300, (shape("red circle", 10, 10, 40, 40), shape("blue circle", 22, 200, 52, 230))
    )
    assert Facts(tied).ordered is None and Facts(tied).outsized(True) is None
    both = Scene(
        300, 300, (shape("red circle", 10, 10, 40, 40), shape("red circle", 200, 10, 230, 40))
    )
    assert Facts(both).single == []
    column = Scene(
        300, 300, (shape("red circle", 12, 200, 42, 230), shape("blue circle", 10, 10, 40, 40))
    )
    assert [s.colour for s in Facts(column).ordered] == ["blue", "red"]


def test_more_than_six_and_more_than_ten():
    row = tuple(shape("red circle", 40 * i, 10, 40 * i + 20, 30) for i in range(12))
    for count, said in ((7, "7"), (12, "more than ten")):
        scene = Scene(500, 60, row[:count])
        answers = {
            q.skill: q.answer for _, q in asked([scene], 200) if q.skill in ("list", "describe")
        }
        assert set(answers.values()) == {f"I see {said} shapes, too many to list."}
    counts = {q.answer for _, q in asked([Scene(500, 60, row)], 100, skills=["count"])}
    assert "More than ten." in counts and not counts & {"11", "12"}


# ------------------------------------------------------------------------- images without shapes


def test_photographs_noise_blank_pages_and_no_image():
    for what, wanted in (("photograph", "refuse"), ("noise", "refuse"), ("blank", "blank")):
        questions = [q for _, q in asked([Refusal(112, 112, what)] * 20, 20)]
        assert {q.skill for q in questions} == {wanted, "chat", "other"}
        answers = {q.answer for q in questions if q.skill == wanted}
        assert answers == {honesty.UNKNOWN_IMAGE} if wanted == "refuse" else "Nothing." in answers
    blank = [q for _, q in asked([Refusal(112, 112, "blank")] * 9, 40) if q.skill == "blank"]
    assert {q.answer for q in blank} == {
        "Nothing.", "0", "No.", "N", "Yes.", "Y", "I don't see one.", "I don't see any text.",
    }  # fmt: skip
    nothing = {q.skill: q.answer for _, q in asked([None] * 10, 20)}
    assert nothing == {
        "no_image": honesty.NO_IMAGE,
        "chat": nothing["chat"],
        "other": honesty.OTHER,
    }


def test_blank_pages_by_the_slow_rule():
    page, forms = Scene(112, 112, ()), Counter()
    for _, q in asked([Refusal(112, 112, "blank")] * 30, 40, own=rules.FORMS, skills=["blank"]):
        form, *parts = q.text.split("|")
        if q.answer in ("Yes.", "No."):
            assert (q.answer == "Yes.") == rules.yes(page, form, *parts), q
            forms[form] += 1
    assert set(forms) == {"there", "any", "anything", "empty"}


def test_what_is_written_is_not_asked_for():
    page = Scene(112, 112, (), (Word("Cat", (0, 0, 40, 20)),))
    said = " ".join(q.text.lower() for _, q in asked([page] * 20, 60, skills=["unknown"]))
    assert len(said) > 5000 and "monster" in said
    assert not re.search(r"\bcats?\b", said)


def test_no_unknown_word_means_a_known_one():
    known = {*COLOURS, *KINDS, *(s for words in nouns.SYNONYMS.values() for s in words)}
    unknown = [*nouns.NOUNS, *nouns.SHAPES, *nouns.COLOURS]
    assert not known & set(unknown) and len(unknown) == len(set(unknown)) > 450
    near = {word for words in nouns.NEAR.values() for word in words}
    assert near <= {*COLOURS, *KINDS} and set(nouns.NEAR) <= set(unknown)
    assert set(nouns.PLURALS) | nouns.UNCOUNTED <= set(unknown)


def test_a_quarter_of_the_nouns_is_held_out():
    for training, held_out in (names.NOUNS, names.SHAPES, names.TINTS):
        assert not set(training) & set(held_out)
        assert 0.2 < len(held_out) / len(training + held_out) < 0.3
    spoken = {
        t
        for _, q in asked(scenes(2, 40), 60, skills=["unknown"])
        for t in re.findall("[a-z-]+", q.text.lower())
    }
    assert not spoken & (set(names.NOUNS[1]) - set(names.NOUNS[0])) - {"drill", "saw", "ruler"}


# ------------------------------------------------------------------------------ pairs and videos


def pair(*changes):
    rest = shape("pink oval", 100, 100, 130, 120)
    before = tuple(c.before for c in changes if c.before)
    after = tuple(c.after for c in changes if c.after)
    return Pair(Scene(200, 200, (*before, rest)), Scene(200, 200, (*after, rest)), changes)


def test_changes():
    circle, big = shape("red circle", 10, 10, 40, 40), shape("red circle", 10, 10, 60, 60)
    square, gone = shape("blue square", 150, 10, 180, 40), Change("removed", circle, None)
    green, arrow = shape("green circle", 10, 10, 40, 40), shape("red arrow", 10, 10, 40, 40)
    cases = [
        ((), "Nothing changed."), ((Change("removed", circle, None),), "The red circle is gone."),
        ((Change("added", None, circle),), "A red circle was added."),
        ((Change("coloured", circle, green),), "The red circle turned green."),
        ((Change("kind", circle, arrow),), "The red circle turned into an arrow."),
        ((Change("resized", circle, big),), "The red circle got bigger."),
        ((Change("resized", big, circle),), "The red circle got smaller."),
        ((Change("moved", circle, shape("red circle", 30, 10, 60, 40)),), "The red circle moved."),
        ((Change("moved", square, square), gone),
         "The red circle is gone and the blue square moved."),
        ((Change("removed", square, None), gone),
         "The red circle is gone and the blue square is gone."),
    ]  # fmt: skip
    for parts, wanted in cases:
        answers = {q.answer for _, q in asked([pair(*parts)], 60, skills=["change"])}
        yes = {"Yes.", "No.", "Y", "N"}
        assert answers - yes == {wanted} and answers & yes
    same = {"CHANGED": ["changed"], "change.any": ["any"], "change.same": ["same"]}
    for _, q in asked(
        [pair(), pair(Change("removed", circle, None))] * 5, 9, own=same, skills=["change"]
    ):
        changed = q.text == "any"
        assert q.answer in ("Yes.", "No.") and changed in (True, False)
    twice = pair(Change("removed", circle, None), Change("moved", circle, big))
    assert changes.difference(twice) is None  # two red circles: which one?


def test_either_of_two_images():
    change = Change("removed", shape("red circle", 10, 10, 40, 40), None)
    numbers = {
        "the first": "2",
        "the second": "1",
        "image 1": "2",
        "image 2": "1",
        "picture 1": "2",
        "picture 2": "1",
    }
    found = 0
    for _, q in asked([pair(change)] * 40, 120):
        if (
            q.skill == "count"
            and re.search(r"\b(shapes|objects|figures|things|items)\b", q.text)
            and not q.mentions
        ):
            where = [n for n in numbers if n in q.text.lower()]
            if where and "colo" not in q.text.lower():
                assert q.answer == numbers[where[0]], q
                found += 1
    assert found > 10


def test_videos():
    frames = tuple(
        Scene(112, 112, (shape("red circle", 10 + 8 * i, 10, 40 + 8 * i, 40),)) for i in range(8)
    )
    times = tuple(round(0.85 * i, 2) for i in range(8))
    clip = Clip(frames, times, {"blue square": 3.4}, {"red circle": "right"})
    found = {}
    for _, q in asked([clip], 200, own={key: [key] for key in REQUESTS}):
        found.setdefault(q.text, set()).add(q.answer)
    assert found["when"] == {"At 3.5 seconds."} and found["motion"] == {"Right."}
    assert found["happens"] == {
        "The red circle moves right and the blue square appears at 3.5 seconds."
    }
    assert found["motion.what"] == {"The red circle."} and found["clip.end"] == {"1"}
    still = Clip(frames[:1] * 2, (0, 1), {}, {})
    assert changes.happenings(still) == "Nothing happens."
    assert changes.seconds(1.0) == "1 second" and changes.seconds(0.1) == "0.5 seconds"


@pytest.mark.parametrize(
    ("times", "answer"),
    [
        ((0.0, 1.0, 2.0), "The blue square appears at 1 second."),
        ((0.0, 1.2, 2.0), "The blue square appears at 1 second."),  # the mean rate says the same
        ((0.0, 1.6, 2.0), None),  # the model sees the mean rate alone
        ((0.0, 1.0), "The blue square appears."),  # of one pair of frames not even that
    ],
)
def test_no_time_is_asked_for_that_the_model_cannot_know(times, answer):
    scene = Scene(112, 112, (shape("blue square", 10, 10, 40, 40),))
    clip = Clip((scene,) * len(times), times, {"blue square": times[1]}, {})
    assert changes.happenings(clip) == answer
    found = {q.answer for _, q in asked([clip], 40, skills=["when"])}
    assert found == ({"At 1 second."} if len(times) > 2 and answer else set())


# --------------------------------------------------------------------------- other languages


def test_four_languages_answer_alike():
    pattern = {
        "describe": ["describe"],
        "count": ["{things}"],
        "colour": ["{the_thing}"],
        "yes_no": ["{a_thing}"],
    }
    own = {f"{lang}.{key}": value for lang in foreign.LANGUAGES for key, value in pattern.items()}
    for lang in ("french", "spanish"):
        own |= {f"{lang}.count.{end}": ["{things}"] for end in ("m", "f", "de", "d")}
    for lang, words in foreign.LANGUAGES.items():
        count = Counter()
        for scene, q in asked(scenes(3, 150), 12, own=own, skills=[lang]):
            assert q.skill == lang
            if q.text == "describe":
                facts = Facts(scene)
                parts = [
                    words.placed(s.colour, s.kind, p)
                    for s, p in zip(facts.ordered, facts.places, strict=True)
                ]
                assert q.answer == words.sentence(parts)
                assert sorted(n for n in parts) and len(parts) == len(scene.shapes)
            elif q.answer in (words.YES, words.NO):
                there = {words.a(s.colour, k) for s in scene.shapes for k in (s.kind, "")}
                there |= {words.a("", s.kind) for s in scene.shapes}
                assert (q.answer == words.YES) == (q.text in there), q
            elif q.answer.isdigit() or q.answer == words.MORE:
                fitting = sum(
                    q.text
                    in (
                        words.SHAPES,
                        *(
                            words.many(*m)
                            for m in ((s.colour, s.kind), (s.colour, ""), ("", s.kind))
                        ),
                    )
                    for s in scene.shapes
                )
                assert q.answer == (str(fitting) if fitting <= 10 else words.MORE)
            else:
                owners = [s for s in scene.shapes if words.the(s.kind) == q.text]
                assert [words.colour(s.colour) for s in owners] == [q.answer] or (
                    not owners and q.answer == words.NOT_THERE
                )
            count[q.text == "describe", q.answer in (words.YES, words.NO)] += 1
        assert min(count.values()) > 20 and len(count) == 3


def test_grammar_of_four_languages():
    german, french = foreign.LANGUAGES["german"], foreign.LANGUAGES["french"]
    parts = (
        german.placed("red", "circle", "at the top left"),
        german.placed("blue", "square", "in the middle"),
        german.placed("orange", "line", "on the left"),
    )
    assert german.sentence(parts) == (
        "Ein roter Kreis oben links, ein blaues Quadrat in der Mitte und eine orange Linie links."
    )
    assert german.a("red", "circle") == "einen roten Kreis" and german.of("star") == "des Sterns"
    assert german.many("pink", "heart") == "rosa Herzen" and german.the("diamond") == "die Raute"
    assert french.name("green", "star") == "une étoile verte" and french.of("oval") == "de l'ovale"
    assert (
        french.many("brown", "cross") == "croix marron"
        and french.many("grey", "circle") == "cercles gris"
    )
    spanish, chinese = foreign.LANGUAGES["spanish"], foreign.LANGUAGES["chinese"]
    assert (
        spanish.many("blue", "arrow") == "flechas azules"
        and spanish.name("black", "cross") == "una cruz negra"
    )
    assert chinese.placed("red", "circle", "on the left") == "左边有一个红色圆形"
