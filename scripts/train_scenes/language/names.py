"""What shapes are called in English: articles, plurals, synonyms; words for unknown things."""

from typing import NamedTuple

from scripts.train_scenes.language import nouns
from scripts.train_scenes.language.facts import HELD_COLOUR
from scripts.train_scenes.language.grammar import split
from scripts.train_scenes.scene import COLOURS, KINDS

NOT_THERE = "I don't see one."
SHAPE_WORDS = ("shape", "one", "object", "thing", "figure")
_A_NOT_AN = ("uni", "use", "eu", "one")
_AN_NOT_A = ("hour", "honest")


def article(name):
    """`a red circle`, `an orange circle`."""
    word = name.lower()
    vowel = word[0] in "aeiou" and not word.startswith(_A_NOT_AN)
    return f"an {name}" if vowel or word.startswith(_AN_NOT_A) else f"a {name}"


def plural(name):
    """The plural of a name, by its last word."""
    head, _, last = name.rpartition(" ")
    if last in nouns.PLURALS:
        last = nouns.PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}" if head else last


def listing(parts):
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def sentence(text):
    """With a capital letter and a full stop."""
    return text[0].upper() + text[1:] + "."


class Reference(NamedTuple):
    """How a request calls one shape or several.

    said: the words (`violet circle`, `red one`); label: the same in an answer (`purple circle`,
    `red shape`); mention: (colour, kind), empty where it is not said.
    """

    said: str
    label: str
    mention: tuple[str, str]

    @property
    def a(self):
        """With its article."""
        return article(self.said)

    @property
    def many(self):
        """In the plural."""
        return plural(self.said)


def synonym(voice, word):
    """A known word, now and then another one for it."""
    if word in nouns.SYNONYMS and voice.chance(0.2):
        return voice.pick(nouns.SYNONYMS[word])
    return word


def refer(voice, colour, kind, counted=False):
    """A reference by colour and kind, by colour alone or by kind alone.

    counted: asked for in numbers, where `one` will not do.
    """
    if colour and kind:
        said = f"{synonym(voice, colour)} {synonym(voice, kind)}"
        return Reference(said, f"{colour} {kind}", (colour, kind))
    if colour:
        word = "shape" if voice.chance(0.5) else voice.pick(SHAPE_WORDS)
        if counted and word == "one":
            word = "shape"
        return Reference(f"{synonym(voice, colour)} {word}", f"{colour} shape", (colour, ""))
    return Reference(synonym(voice, kind), kind, ("", kind))


NOUNS = split("nouns", nouns.NOUNS)
SHAPES = split("shapes", nouns.SHAPES)
TINTS = split("colours", nouns.COLOURS)


def _is_clear_of(word, words_here):
    return word not in words_here and not words_here.intersection(nouns.NEAR.get(word, ()))


def unknown(voice, words_here, all_named):
    """(words, can be counted): a thing that the model does not know and that is not there, or None.

    words_here: the colours and kinds in the image, and what is written there; all_named: whether
    all shapes have a name.
    """
    held_out, roll = voice.held_out, voice.random()
    if roll < 0.6:
        noun = voice.pick(NOUNS[held_out])
        if not _is_clear_of(noun, words_here):
            return None
        if voice.chance(0.2) and noun not in nouns.UNCOUNTED:
            extra = voice.pick(nouns.ADJECTIVES if voice.chance(0.5) else tuple(COLOURS))
            return f"{extra} {noun}", True
        return noun, noun not in nouns.UNCOUNTED
    if not all_named:
        return None
    if roll < 0.78:
        shape = voice.pick(SHAPES[held_out])
        if not _is_clear_of(shape, words_here):
            return None
        return (f"{voice.pick(tuple(COLOURS))} {shape}" if voice.chance(0.25) else shape), True
    tint = voice.pick(TINTS[held_out])
    if not _is_clear_of(tint, words_here):
        return None
    kind = voice.pick(KINDS) if voice.chance(0.7) else "shape"
    if HELD_COLOUR.get(kind) in nouns.NEAR.get(tint, ()):
        return None  # a crimson star is nearly a red one, of which nothing must be said
    return f"{tint} {kind}", True
