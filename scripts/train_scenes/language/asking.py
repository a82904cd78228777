"""Endless questions about whatever is shown."""

from bisect import bisect
from functools import cache
from itertools import accumulate

from scripts.train_scenes.language import (
    changes,
    compared,
    foreign,
    grounding,
    honesty,
    places,
    seen,
)
from scripts.train_scenes.language.english_more import EARLIER
from scripts.train_scenes.language.facts import Facts
from scripts.train_scenes.language.grammar import Voice
from scripts.train_scenes.language.question import denies
from scripts.train_scenes.scene import Clip, Pair, Refusal, Scene
from scripts.train_scenes.steering import MORE_SHAPES, QUESTIONS

SCENE = {  # skill: (asks, how often)
    "describe": (seen.ask_describe, 1.0), "list": (seen.ask_list, 0.7),
    "count": (seen.ask_count, 1.7), "colour": (seen.ask_colour, 1.0),
    "shape": (seen.ask_shape, 0.9), "place": (places.ask_place, 0.6),
    "side": (places.ask_side, 1.0), "size": (places.ask_size, 0.9),
    "between": (places.ask_between, 1.2), "relation": (compared.ask_relation, 2.2),
    "yes_no": (compared.ask_yes_no, 2.2), "absent": (compared.ask_absent, 0.7),
    "locate": (grounding.ask_locate, 2.0), "locate_all": (grounding.ask_locate_all, 0.8),
    "point": (grounding.ask_point, 1.2), "read": (seen.ask_read, 0.12),
    "unknown": (honesty.ask_unknown, 1.1), "chat": (honesty.ask_chat, 0.15),
    "other": (honesty.ask_other, 0.25), "chinese": (foreign.ask_chinese, 0.3),
    "german": (foreign.ask_german, 0.3), "french": (foreign.ask_french, 0.3),
    "spanish": (foreign.ask_spanish, 0.3),
}  # fmt: skip
RARE = {  # further questions of a skill, now and then
    "count": (seen.ask_count_colours, 0.06), "colour": (seen.ask_colours, 0.15),
}  # fmt: skip
WORDS = {"read": (seen.ask_read, 14.0)}  # where there is only something to read
LABELS = {"read": (seen.ask_read, 4.0)}  # beside shapes
PAIR = {
    "change": (changes.ask_change, 1.0), "chat": (honesty.ask_chat, 0.03),
    "other": (honesty.ask_other, 0.04),
}  # fmt: skip
CLIP = {
    "when": (changes.ask_when, 1.0), "motion": (changes.ask_motion, 1.0),
    "happens": (changes.ask_happens, 0.7), "count": (changes.ask_ends, 0.3),
    "chat": (honesty.ask_chat, 0.03), "other": (honesty.ask_other, 0.04),
}  # fmt: skip
NO_IMAGE = {
    "no_image": (honesty.ask_no_image, 1.0), "chat": (honesty.ask_chat, 0.8),
    "other": (honesty.ask_other, 1.0),
}  # fmt: skip
LANGUAGES = ("chinese", "german", "french", "spanish")
ALONE = ("chat", "other", *LANGUAGES)  # skills that do not say which image they are about
SKILLS = (
    "describe", "list", "count", "colour", "shape", "place", "side", "size", "between", "relation",
    "yes_no", "absent", "locate", "locate_all", "point", "read", "unknown", "when", "motion",
    "happens", "change", "refuse", "blank", "no_image", "chat", "other", *LANGUAGES,
)  # fmt: skip
FIRST = (("describe", 0.5), ("list", 0.2), ("locate_all", 0.25), ("locate", 0.5), ("count", 0.3))
PATIENCE = 400  # fruitless tries after which nothing is left to ask


@cache
def _steered(skills_and_entries):
    return {
        s: (asks, share * QUESTIONS.get(s, (1, ""))[0]) for s, (asks, share) in skills_and_entries
    }


def steered(table):
    """A table with the shares of training: see `steering.py`."""
    return _steered(tuple(table.items()))


def table_of(content):
    """{skill: (asks, how often)} for a content, as the evaluation asks."""
    if content is None:
        return NO_IMAGE
    if isinstance(content, Pair):
        return PAIR
    if isinstance(content, Clip):
        return CLIP
    if isinstance(content, Scene) and (content.shapes or content.words):
        if content.words:
            return {**SCENE, **(LABELS if content.shapes else WORDS)}
        return SCENE
    what = content.what if isinstance(content, Refusal) else "blank"
    chat = {"chat": (honesty.ask_chat, 0.1), "other": (honesty.ask_other, 0.1)}
    if what == "blank":
        return {"blank": (honesty.ask_blank, 1.0), **chat}
    return {"refuse": (honesty.ask_refusal, 1.0), **chat}


@cache
def _weighted(skills_and_shares):
    skills, shares = zip(*skills_and_shares, strict=True)
    return skills, tuple(accumulate(shares))


def seen_by(content):
    """What an asking function gets besides the voice."""
    if isinstance(content, Scene):
        return Facts(content)
    return content.what if isinstance(content, Refusal) else content


def is_scenes(table, skill):
    """Whether a table asks a skill as one does about a scene."""
    return skill in SCENE and table[skill][0] is SCENE[skill][0]


def once(voice, content, facts, table, skill, fair=True):
    """One question of a skill about a content, or None."""
    more, share = RARE.get(skill, (None, 0)) if is_scenes(table, skill) else (None, 0)
    asks = more if more and voice.chance(share) else table[skill][0]
    question = asks(voice, facts)
    if question is None or question.text is None or (fair and denies(question, content)):
        return None
    return question


def ask_either(voice, pair):
    """A question about the first or the second of two images."""
    index = int(voice.chance(0.5))
    scene = (pair.before, pair.after)[index]
    table = table_of(scene) if voice.held_out else steered(table_of(scene))
    table = {skill: entry for skill, entry in table.items() if skill not in ALONE}
    skill = voice.weighted({skill: entry[1] for skill, entry in table.items()})
    voice = voice.about(voice.pick(EARLIER[index]))
    return once(voice, scene, seen_by(scene), table, skill, fair=False)


PAIR["either"] = (ask_either, 0.3)


def ask(rng, content, held_out=False, fair=True, skills=None, own=None):
    """Endless questions about a Scene, Refusal, Pair or Clip, or about no image (None).

    The most telling skills come first.  held_out: asked in the held-out quarter of the templates;
    own: in somebody's own, {key: texts}; fair: without those that `denies` (as in training);
    skills: only these.  Ends when nothing can be asked.
    """
    voice = Voice(rng, held_out, own)
    table = steered(table_of(content)) if fair else table_of(content)
    if skills is not None:
        table = {skill: entry for skill, entry in table.items() if skill in skills}
    if not table:
        return
    names, shares = _weighted(tuple((skill, entry[1]) for skill, entry in table.items()))
    facts = seen_by(content)
    many = fair and isinstance(content, Scene) and len(content.shapes) >= 4
    shares_first = MORE_SHAPES if many else FIRST
    first = [s for s, share in shares_first if s in table and voice.chance(share)]
    tries = 0
    while tries < PATIENCE:
        skill = first.pop(0) if first else names[bisect(shares, voice.random() * shares[-1])]
        question = once(voice, content, facts, table, skill, fair)
        if question and skills is not None and question.skill not in skills:
            question = None
        tries = 0 if question else tries + 1
        if question:
            yield question
