"""Describe, count, colour and yes-or-no questions in Chinese, German, French and Spanish.

The words are in `chinese.py`, `german.py`, `french.py` and `spanish.py`, which all define the same
names; an answer has one canonical form in the language of the question.
"""

from functools import cache

from scripts.train_scenes.language import chinese, french, german, spanish
from scripts.train_scenes.language.compared import missing, present
from scripts.train_scenes.language.facts import HELD_COLOUR, MOST
from scripts.train_scenes.language.foreign_later import REQUESTS as LATER
from scripts.train_scenes.language.grammar import compile_template, split
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.language.rewordings import without, wordings
from scripts.train_scenes.language.seen import by_kind, mention_to_count
from scripts.train_scenes.scene import COLOURS, KINDS

LANGUAGES = {"chinese": chinese, "german": german, "french": french, "spanish": spanish}


@cache
def texts_of(language, held_out=False):
    """{key: texts} of a language: those held out, or those of training with the later ones."""
    requests = LANGUAGES[language].REQUESTS
    halves = {key: split(f"{language}.{key}", texts) for key, texts in requests.items()}
    if held_out:
        return {key: half[1] or requests[key] for key, half in halves.items()}
    hidden = {text for half in halves.values() for text in half[1]}
    forbidden, later = wordings(hidden), LATER[language]
    return {
        key: (
            *(text for text in half[0] if text not in hidden),
            *(line for text in later[key] for line in without(text, forbidden)),
        )
        for key, half in halves.items()
    }


@cache
def _pools(language, held_out):
    texts = texts_of(language, held_out)
    return {key: tuple(map(compile_template, lines)) for key, lines in texts.items()}


@cache
def _names(language):
    """{(colour, kind): words} of all shapes, held-out pairs included."""
    words = LANGUAGES[language]
    return {(c, k): words.name(c, k) for c in COLOURS for k in KINDS}


def _say(voice, language, key, **slots):
    """A request, now and then typed without capitals or full stop."""
    if voice.typed:
        pool = voice.pools.get(f"{language}.{key}")
        return voice._fill(voice.pick(pool), slots)[0] if pool else None
    text = voice._fill(voice.pick(_pools(language, voice.held_out)[key]), slots)[0]
    roll = voice.random()
    if roll < 0.75:
        return text[:1].upper() + text[1:]
    return text.strip("¿¡").rstrip("?？.。") if roll < 0.9 else text


def _question(language, text, answer, mentions=(), **more):
    return Question(language, text, answer, mentions, names=_names(language), **more)


def _describe(voice, facts, language, words):
    if not facts.named or len(facts.shapes) > MOST or facts.words or not facts.shapes:
        return None
    if not facts.places:
        return None
    parts = [
        words.placed(s.colour, s.kind, place)
        for s, place in zip(facts.ordered, facts.places, strict=True)
    ]
    return _question(language, _say(voice, language, "describe"), words.sentence(parts))


def _count(voice, facts, language, words):
    if voice.chance(0.4):
        mention, things, mentions = ("", ""), words.SHAPES, ()
        count = len(facts.shapes)
    else:
        mention = mention_to_count(voice, facts)
        if not any(mention) or not facts.is_certain(mention):
            return None
        things, mentions = words.many(*mention), (mention,)
        count = len(facts.fitting(mention))
    key = "count" if not hasattr(words, "count_key") else words.count_key(*mention)
    text = _say(voice, language, key, things=things)
    return _question(language, text, str(count) if count <= 10 else words.MORE, mentions)


def _colour(voice, facts, language, words):
    known = [(m, s) for m, s in by_kind(facts) if m[1]]
    if voice.chance(0.12):
        mention = ("", voice.pick(KINDS))
        if not facts.is_certain(mention) or facts.fitting(mention):
            return None
        text = _say(
            voice,
            language,
            "colour",
            the_thing=words.the(mention[1]),
            of_thing=words.of(mention[1]),
        )
        return _question(language, text, words.NOT_THERE, (mention,))
    if not known:
        return None
    mention, shape = voice.pick(known)
    text = _say(
        voice, language, "colour", the_thing=words.the(shape.kind), of_thing=words.of(shape.kind)
    )
    other = HELD_COLOUR.get(shape.kind)
    instead = (words.colour(other),) if other and other != shape.colour else ()
    return _question(language, text, words.colour(shape.colour), (mention,), instead=instead)


def _yes_no(voice, facts, language, words):
    truth = voice.chance(0.5)
    if not truth and voice.chance(0.2):
        text = _say(voice, language, "yes_no", a_thing=voice.pick(words.UNKNOWN))
        return _question(language, text, words.NO)
    mention = (present if truth else missing)(voice, facts)
    if not mention:
        return None
    text = _say(voice, language, "yes_no", a_thing=words.a(*mention))
    return _question(language, text, words.YES if truth else words.NO, (mention,))


KINDS_OF_QUESTION = (_describe, _count, _colour, _yes_no)


def _ask(voice, facts, language):
    return voice.pick(KINDS_OF_QUESTION)(voice, facts, language, LANGUAGES[language])


def ask_chinese(voice, facts):
    """A question in Chinese."""
    return _ask(voice, facts, "chinese")


def ask_german(voice, facts):
    """A question in German."""
    return _ask(voice, facts, "german")


def ask_french(voice, facts):
    """A question in French."""
    return _ask(voice, facts, "french")


def ask_spanish(voice, facts):
    """A question in Spanish."""
    return _ask(voice, facts, "spanish")
