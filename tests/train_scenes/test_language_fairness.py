"""What training must not teach about pairs of colour and kind that it never shows."""

import re
from itertools import islice

import language_rules as rules
import pytest

from scripts.first_edition import questions as first_edition
from scripts.train_scenes import language, world
from scripts.train_scenes.language import foreign, grammar, nouns
from scripts.train_scenes.scene import HELD_OUT, Pair, Scene, Shape, generator

HELD_COLOUR = {kind: colour for colour, kind in HELD_OUT}
HELD_KIND = dict(HELD_OUT)


@pytest.fixture(autouse=True)
def _without_misspellings(monkeypatch):
    """These tests read the words of requests."""
    monkeypatch.setattr(grammar, "TYPO", 0)


def shape(name, x1, y1, x2, y2):
    return Shape(*name.split(" "), (x1, y1, x2, y2))


def contents(seed, count):
    """Drawn scenes, shapes without a name among them, pairs and videos."""
    rng = generator(seed)
    found = [world.make_image(rng) for _ in range(count)]
    found += [world.make_image(rng, family="unnamed") for _ in range(count // 4)]
    found += [world.make_pair(rng) for _ in range(count // 4)]
    found += [world.make_clip(rng) for _ in range(count // 8)]
    return [*found, None]


def everything_said(seed, count, **options):
    """(content, question) of questions and of turns of conversations."""
    rng, all_of_it = generator(seed), contents(seed, count)
    for content in all_of_it:
        for question in islice(language.ask(rng, content, **options), 12):
            yield content, question
    for _ in range(count):
        some = [
            all_of_it[int(rng.integers(len(all_of_it)))] for _ in range(int(rng.integers(1, 4)))
        ]
        for turn in language.conversation(rng, some):
            yield (None if turn.about is None else some[turn.about]), turn.question


def forbidden():
    """A pattern of every way to name a held-out pair, in all five languages."""
    names = set()
    for colour, kind in HELD_OUT:
        for c in (colour, *nouns.SYNONYMS.get(colour, ())):
            for k in (kind, *nouns.SYNONYMS.get(kind, ())):
                names |= {f"{c} {k}", f"{k} is {c}", f"{k} {c}", f"{c}: {k}"}
        for words in foreign.LANGUAGES.values():
            names |= {words.name(colour, kind), words.a(colour, kind), words.many(colour, kind)}
            names.add(words.name(colour, kind).split(" ", 1)[-1])  # without its article
    return re.compile("|".join(map(re.escape, sorted(names))), re.IGNORECASE)


def test_training_never_names_a_held_out_pair():
    pattern, count = forbidden(), 0
    for _, question in everything_said(1, 260):
        count += 1
        assert not pattern.search(question.text), question
        assert not pattern.search(question.answer), question
    assert count > 2800
    for text in (
        "Is there a red star?",
        "how many violet triangles",
        "¿hay un corazón azul?",
        "有黄色十字形吗",
    ):
        assert pattern.search(text)


def denies_by_words(text, scene):
    """The first edition's rule, read off the words of an English request."""
    for known, others in nouns.SYNONYMS.items():
        for other in sorted(others, key=len, reverse=True):
            text = re.sub(rf"\b{other}", known, text, flags=re.IGNORECASE)
    colours, kinds = "|".join(rules.COLOURS), "|".join(rules.KINDS)
    name = rf"\b(?:(?:{colours}) (?:{kinds})|({colours})|({kinds}))(?:e?s)?\b"
    alone = {
        word.lower() for m in re.finditer(name, text, re.IGNORECASE) for word in m.groups() if word
    }
    return any(
        (kind in alone and s.colour == colour) or (colour in alone and s.kind == kind)
        for colour, kind in HELD_OUT
        for s in scene.shapes
    )


def test_training_never_denies_one_by_its_words():
    count = 0
    for content, question in everything_said(2, 300):
        own = question.names is None and question.skill not in ("unknown", "chat", "other", "blank")
        if isinstance(content, Scene) and own:
            count += 1
            assert not denies_by_words(question.text, content), (question, content)
    assert count > 1600
    heart, blue = shape("red heart", 10, 10, 40, 40), shape("blue square", 100, 10, 130, 40)
    assert denies_by_words("How many love hearts?", Scene(200, 100, (heart, blue)))
    assert not denies_by_words("How many love hearts?", Scene(200, 100, (heart,)))
    old = first_edition.Question("count", "How many hearts?", "0")
    assert first_edition.denies(old, Scene(200, 100, (blue,)))


def unfair_cases():
    heart, blue = shape("red heart", 10, 10, 40, 40), shape("blue square", 100, 10, 130, 40)
    scene = Scene(200, 100, (heart, blue))
    poly = Scene(200, 100, (Shape("", "square", (10, 10, 40, 40), paint=(30, 60, 140)), heart))
    return [
        ("How many hearts are there?", (("", "heart"),), scene, True),
        ("Count the blue shapes.", (("blue", ""),), scene, True),
        ("How many hearts are there?", (("", "heart"),), Scene(200, 100, (heart,)), False),
        ("How many hearts are there?", (("", "heart"),), poly, True),
        ("Is there a blue heart?", (("blue", "heart"),), None, True),
        ("Is the heart blue?", (("", "heart"), ("blue", "")), Scene(200, 100, (heart,)), True),
        ("Is there a red heart?", (("red", "heart"),), scene, False),
        ("How many circles are there?", (("", "circle"),), scene, False),
        ("Wie viele Herzen gibt es?", (("", "heart"),), scene, True),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "mentions", "content", "unfair"), unfair_cases())
def test_denies(text, mentions, content, unfair):
    question = language.Question("count", text, "0", mentions)
    assert language.denies(question, content) is unfair
    if isinstance(content, Scene):
        after = Scene(200, 100, ())
        assert language.denies(question, Pair(content, after)) is unfair
        assert language.denies(question, Pair(after, content)) is unfair


def test_what_a_question_mentions_is_what_it_says():
    """`denies` goes by the mentions: they must be those of the words."""
    rng = generator(3)
    named = {key: lines for key, lines in rules.FORMS.items() if "{" in lines[0]}
    count = 0
    for content in contents(3, 200):
        if not isinstance(content, Scene):
            continue
        for question in islice(language.ask(rng, content, own=named), 15):
            text = question.text
            words = [w for part in text.split("|") for w in part.split(" or ")]
            said = {rules.meaning(w) for w in words} - {None, ("", "")}
            if question.skill == "shape" and "|" not in text:
                said = {(rules.WORDS.get(text, text), "")}
            if question.skill in ("unknown", "chat", "other", "describe", "list"):
                continue
            count += 1
            assert said <= set(question.mentions), question
    assert count > 1000


def test_unsaid_words_of_answers():
    def said(skill, answer, **more):
        return set(language.unsaid(language.Question(skill, "", answer, **more)))

    assert said("describe", "A blue square on the left and a red heart on the right.") == {
        "A blue heart on the left and a red heart on the right.",
        "A blue square on the left and a red star on the right.",
        "A blue square on the left and a blue heart on the right.",
    }
    assert said("side", "A white ring.") == {"A green ring."}
    assert said("change", "The white ring turned black.") == {
        "The green ring turned black.",
        "The white ring turned green.",
    }
    assert said("change", "The red circle turned into a square.") == {
        "The red star turned into a square.",
        "The red circle turned into a star.",
    }
    assert said("locate", '{"bbox_2d": [2, 4, 6, 8], "label": "green line"}') == {
        '{"bbox_2d": [2, 4, 6, 8], "label": "green ring"}'
    }
    assert said("count", "3") == said("colour", "Red.") == set()


def test_unsaid_of_attributes():
    heart, square = shape("red heart", 10, 10, 40, 40), shape("blue square", 100, 10, 130, 40)
    ring = shape("red ring", 100, 60, 130, 90)
    found = {"colour": set(), "shape": set()}
    rng = generator(4)
    for scene in (
        Scene(200, 100, (heart,)),
        Scene(200, 100, (square,)),
        Scene(200, 100, (heart, ring)),
    ):
        for question in islice(
            language.ask(rng, scene, skills=["colour", "shape"], fair=False), 300
        ):
            found[question.skill].add((question.answer, tuple(language.unsaid(question))))
    assert ("Red.", ("Blue.",)) in found["colour"] and ("A square.", ("A heart.",)) in found[
        "shape"
    ]
    assert ("Blue.", ()) in found["colour"]
    assert ("A heart and a ring.", ("A star and a ring.", "A heart and a star.")) in found["shape"]


def test_unsaid_is_complete():
    """Every name in an answer that one word would turn into a held-out pair is found."""
    for _, question in everything_said(5, 120):
        if question.names is not None:
            continue
        wanted = sum(
            (kind in HELD_COLOUR) + (colour in HELD_KIND)
            for colour, kind in rules.named(question.answer)
        )
        swapped = [
            t for t in language.unsaid(question) if rules.named(t) != rules.named(question.answer)
        ]
        assert len(swapped) == wanted, question
        assert all(set(rules.named(text)) & HELD_OUT for text in swapped)


def test_unsaid_in_other_languages():
    answers = {
        "german": ("Ein rotes Herz links.", {"Ein blaues Herz links.", "Ein roter Stern links."}),
        "french": (
            "Un cœur rouge à gauche.", {"Un cœur bleu à gauche.", "Une étoile rouge à gauche."},
        ),
        "spanish": (
            "Un corazón rojo a la izquierda.",
            {"Un corazón azul a la izquierda.", "Una estrella roja a la izquierda."},
        ),
        "chinese": ("左边有一个红色心形。", {"左边有一个蓝色心形。", "左边有一个红色星形。"}),
    }  # fmt: skip
    for lang, (answer, wanted) in answers.items():
        words = foreign.LANGUAGES[lang]
        assert words.sentence([words.placed("red", "heart", "on the left")]) == answer
        question = language.Question(lang, "", answer, names=foreign._names(lang))
        assert set(language.unsaid(question)) == wanted


def test_held_out_pairs_can_be_asked_about_in_evaluation():
    """Without `fair`, scenes of held-out pairs alone get all kinds of questions."""
    rng, skills = generator(6), set()
    own = {**rules.FORMS}
    for _ in range(60):
        scene = world.make_image(rng, family="easy", pairs=tuple(sorted(HELD_OUT)))
        for question in islice(language.ask(rng, scene, fair=False, own=own), 40):
            if question.skill not in ("blank", "unknown"):
                assert rules.is_right(scene, question), question
                skills.add(question.skill)
    assert {"describe", "list", "count", "colour", "shape", "yes_no", "locate", "point"} <= skills


def test_conversation_turns_are_fair_too():
    rng, asked = generator(7), 0
    heart, line = shape("red heart", 10, 10, 40, 40), shape("pink line", 100, 60, 130, 90)
    scene = Scene(200, 100, (heart, line))
    for _ in range(600):
        for turn in language.conversation(rng, [scene, scene]):
            assert not language.denies(turn, scene)
            if turn.skill == "colour" and turn.answer == "Red.":
                assert language.unsaid(turn) == ["Blue."], turn
                asked += not turn.question.mentions
    assert asked > 5
