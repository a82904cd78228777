"""Requests as people type them: templates, a quarter of them held out, and how they are typed.

A `Voice` turns a key (`locate`, `yes_no.there`) and what is asked about into one request.  Its
templates are those of training, or the held-out quarter, or lists of somebody else's.
"""

import re
import zlib
from functools import cache

from scripts.train_scenes.language import (
    english,
    english_compare,
    english_later_more,
    english_more,
    manners,
    rewordings,
)

REQUESTS = {**english.REQUESTS, **english_compare.REQUESTS, **english_more.REQUESTS}
_PART = re.compile(r"\[([^]]*)\]|\{(\w+)\}")
_IMAGE = re.compile(r"\b(?:this|the) (?:image|picture)\b")
_BARE = re.compile(r"\b(?:is|are|is something)$")  # `what is` asks for more words
_DIGRAPHS = re.compile(r"[a-z]{5,}")
SHORT = {"count": manners.NUMBER, "colour": manners.ONE_WORD, "shape": manners.ONE_WORD}
CASUAL, TYPO = 0.3, 0.05  # shares of requests typed carelessly, with a misspelt word


def split(key, options):
    """(training, held out): a quarter of the options, the same in every run.

    One of three, none of fewer.
    """
    distinct = tuple(dict.fromkeys(options))
    count = 0 if len(distinct) < 3 else max(1, round(len(distinct) / 4))
    order = sorted(distinct, key=lambda option: zlib.crc32(f"{key}:{option}".encode()))
    held_out = frozenset(order[:count])
    return tuple(o for o in options if o not in held_out), tuple(o for o in order[:count])


class Slot(str):
    """The name of something to be filled in."""


def compile_template(text):
    """Parts of a template: literal strings, slots, and tuples of choices, themselves templates."""
    parts, end = [], 0
    for match in _PART.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        options, name = match.groups()
        if name is None:
            parts.append(tuple(map(compile_template, options.split("|"))))
        else:
            parts.append(Slot(name))
        end = match.end()
    if end < len(text):
        parts.append(text[end:])
    return parts


@cache
def split_requests():
    """({key: training texts}, {key: held-out texts}): a text held out for one key is for all."""
    halves = {key: split(key, texts) for key, texts in REQUESTS.items()}
    held_out = {text for half in halves.values() for text in half[1]}
    training = {key: tuple(t for t in half[0] if t not in held_out) for key, half in halves.items()}
    return training, {key: half[1] for key, half in halves.items()}


@cache
def forbidden():
    """What training must not say: the wordings of the held-out requests."""
    return rewordings.wordings(text for lines in split_requests()[1].values() for text in lines)


def training_texts(key):
    """[texts]: for each training template of a key, itself twice and the same in other words.

    The first lists and, after them, the later ones.
    """
    found = []
    for text in split_requests()[0][key]:
        others = [rewordings.without(other, forbidden()) for other in rewordings.exchanged(text)]
        found.append((text, text, *(line for lines in others for line in lines[:2])))
    later = (rewordings.without(text, forbidden()) for text in rewordings.LATER.get(key, ()))
    return [*found, *filter(None, later)]


def compile_choice(texts):
    """Parts of a template that is one of some texts."""
    return [tuple(map(compile_template, texts))]


@cache
def pools(held_out=False):
    """{key: compiled templates} of training, or of the held-out quarter."""
    if held_out:
        return {k: tuple(map(compile_template, texts)) for k, texts in split_requests()[1].items()}
    return {key: tuple(map(compile_choice, training_texts(key))) for key in REQUESTS}


@cache
def decorations(held_out=False):
    """{name: wordings} of `manners.py`, of training or held out."""
    names = ("COMMANDS", "QUESTIONS", "LETTERS", "YES_NO", "ONE_WORD", "NUMBER")
    halves = {name: split(name, getattr(manners, name)) for name in names}
    if held_out:
        return {name: half[1] for name, half in halves.items()}
    later = english_later_more.MANNERS
    return {
        name: (*half[0], *(t for t in later.get(name, ()) if t not in half[1]))
        for name, half in halves.items()
    }


class Voice:
    """Somebody who asks: a random generator and a set of templates.

    own: {key: texts} of whoever typed them, said as they are; else the templates of training or
    the held-out ones.  subject: how the image is called (`the first image`), or nothing.
    """

    def __init__(self, rng, held_out=False, own=None, subject=""):
        self.rng, self.random = rng, rng.random
        self.typed = own is not None
        self.held_out = held_out or self.typed  # also: asks for nouns that training never hears
        self.pools = pools(held_out) if own is None else _own(own)
        self.manners = decorations(held_out)
        self.subject = subject

    def about(self, subject):
        """The same voice, asking about an image by what it is called."""
        other = object.__new__(Voice)
        other.__dict__.update(self.__dict__, subject=subject)
        return other

    def pick(self, options):
        """One of `options`."""
        return options[int(self.random() * len(options))]

    def chance(self, share):
        """True in that share of the calls."""
        return self.random() < share

    def weighted(self, shares):
        """One of the keys of {key: share}."""
        roll = self.random() * sum(shares.values())
        for key, share in shares.items():  # noqa: B007
            roll -= share
            if roll < 0:
                break
        return key

    def knows(self, key):
        """Whether there is a template for `key`."""
        return key in self.pools

    def say(self, key, ending=None, **slots):
        """A request for `key`; `ending` is LETTERS or YES_NO.  None when it has no template."""
        templates = self.pools.get(key)
        if not templates:
            return None
        text, named = self._fill(self.pick(templates), slots)
        if self.typed:
            return text
        if self.subject and not named and _IMAGE.search(text):
            text, named = _IMAGE.sub(self.subject, text), True
        text = self._decorate(key.split(".")[0], text, ending)
        if self.subject and not named:
            text = (
                f"{self.subject}: {text}" if text[-1:] not in ".?" else f"in {self.subject}, {text}"
            )
        return self._type(text)

    def _fill(self, template, slots):
        """(the text of a template, whether it names the image)."""
        pieces = []
        named = self._pieces(template, slots, pieces)
        return "".join(pieces).replace("  ", " ").strip(), named

    def _pieces(self, template, slots, pieces):
        """Append a template's text piece by piece; whether it names the image."""
        named = False
        for part in template:
            if isinstance(part, Slot):
                if part == "in" and not self.subject and _BARE.search("".join(pieces)):
                    part = Slot("where")
                piece, says = self._slot(part, slots)
                pieces.append(piece)
                named = named or says
            elif isinstance(part, str):
                pieces.append(part)
            else:
                named = self._pieces(self.pick(part), slots, pieces) or named
        return named

    def _slot(self, name, slots):
        if name in slots:
            return slots[name], False
        if self.subject and name == "image":
            return self.subject, True
        if self.subject and name == "in":
            return f" in {self.subject}", True
        if name == "where":
            return self.pick([words for words in english.CLASSES["in"] if words]), False
        return self.pick(english.CLASSES[name]), False

    def _decorate(self, skill, text, ending):
        """Politeness and endings."""
        if ending:
            asked = text if text[-1] in "?." else text + "?"
            return self.pick(self.manners[ending]).format(asked)
        command, question = text[-1] == ".", text[-1] == "?"
        polite = skill not in ("chat", "follow", "other")
        roll = self.random()
        if polite and command and roll < 0.35 and "{" not in text:
            text = self.pick(self.manners["COMMANDS"]).format(text[:-1])
            return re.sub(r"\.([.?])$", r"\1", text)
        if polite and question and roll < 0.15 and "{" not in text:
            return self.pick(self.manners["QUESTIONS"]).format(text)
        if question and roll > 0.95 and skill in SHORT and "{" not in text:
            name = "NUMBER" if skill == "count" else "ONE_WORD"
            return self.pick(self.manners[name]).format(text)
        return text

    def _type(self, text):
        """Capitals and full stops, or as typed in haste."""
        roll = self.random()
        if roll >= CASUAL:
            text = text[0].upper() + text[1:]
            return text if text[-1] in ".?!)]:}" or roll < 0.5 else text + "."
        if roll < 0.01:
            return text.upper() if "{" not in text else text
        if roll < TYPO and "{" not in text:
            text = self._misspell(text)
        if self.chance(0.25):
            old, new = self.pick(manners.CONTRACTIONS)
            text = text.replace(old, new, 1)
        if self.chance(0.7):
            text = text.rstrip(".?! ") if len(text) > 3 else text
        elif self.chance(0.2):
            text = text.rstrip(".?!") + self.pick((" ?", "??", "!", "...", "?!"))
        if self.chance(0.35):
            text = text[0].upper() + text[1:]
        return text if self.chance(0.85) else text.lower()

    def _misspell(self, text):
        """One word of five letters or more with letters swapped, one left out or one doubled."""
        words = list(_DIGRAPHS.finditer(text))
        if not words:
            return text
        word = self.pick(words)
        at = word.start() + 1 + int(self.random() * (len(word[0]) - 2))
        how = self.random()
        if how < 0.4:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text[:at] + text[at + 1 :] if how < 0.75 else text[:at] + text[at] + text[at:]


def _own(texts):
    """{key: compiled templates} of lists that somebody else wrote."""
    return {key: tuple(map(compile_template, lines)) for key, lines in texts.items()}
