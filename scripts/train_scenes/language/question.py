"""A question with its canonical answer, and what training must not teach about held-out pairs."""

import re
from dataclasses import dataclass

from scripts.train_scenes.language.facts import HELD_COLOUR, HELD_KIND, LIKE, has_hue
from scripts.train_scenes.scene import COLOURS, HELD_OUT, KINDS, Clip, Pair, Refusal, Scene, Shape


@dataclass(frozen=True)
class Question:
    """A skill, what is asked and the canonical answer.

    mentions: the (colour, kind) pairs that the request names, "" where it leaves one out; instead:
    whole answers that would complete a held-out pair (see `unsaid`); focus: the one shape that the
    conversation is about afterwards; frame: the kind of question that `And the blue one?` repeats;
    names: {(colour, kind): words} of an answer in another language than English.
    """

    skill: str
    text: str
    answer: str
    mentions: tuple[tuple[str, str], ...] = ()
    instead: tuple[str, ...] = ()
    focus: Shape | None = None
    frame: str = ""
    names: dict | None = None


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    images: indices of the contents shown newly in this turn; about: index of the content that it
    asks about, or None; question: all there is to know about it.
    """

    images: tuple[int, ...]
    text: str
    answer: str
    skill: str
    question: Question
    about: int | None = None


def scenes_of(content):
    """All scenes of a Scene, Pair or Clip."""
    if isinstance(content, Scene):
        return (content,)
    if isinstance(content, Pair):
        return content.before, content.after
    return content.frames if isinstance(content, Clip) else ()


def denies(question, content):
    """True when a question, or turn, names a held-out pair or its answer denies one unfairly.

    `How many hearts are there?` beside a blue square: that the square does not count can be told by
    its blue alone, because blue hearts are never drawn.  Such a question teaches that rule.  The
    same beside a shape without a name, in a blue that has none or in a form like a heart's.
    """
    question = getattr(question, "question", question)
    colours, kinds = set(), set()
    for colour, kind in question.mentions:
        if colour and kind:
            if (colour, kind) in HELD_OUT:
                return True
        elif colour:
            colours.add(colour)
        elif kind:
            kinds.add(kind)
    unfair = [(c, k) for c, k in HELD_OUT if c in colours or k in kinds]
    if not unfair:
        return False
    if any(c in colours and k in kinds for c, k in unfair):
        return True
    if content is None or isinstance(content, Refusal):
        return False
    shapes = {s for scene in scenes_of(content) for s in scene.shapes}
    for colour, kind in unfair:
        for s in shapes:
            hued = s.colour == colour or (not s.colour and s.paint and has_hue(s.paint, colour))
            formed = s.kind == kind or (not s.kind and s.form in LIKE[kind])
            if (kind in kinds and hued) or (colour in colours and formed):
                return True
    return False


_COLOUR, _KIND = "|".join(COLOURS), "|".join(KINDS)
_NAME = re.compile(rf"\b({_COLOUR}) ({_KIND})\b(?: turned (?:({_COLOUR})\b|into an? ({_KIND})\b))?")


def unsaid(question):
    """The answers to a question, or turn, that would name a held-out pair in place of one word.

    To `What colour is the heart?` it is never `Blue.`, because blue hearts are never drawn.  The
    loss must not teach that rule: it leaves these words out of what the right one is compared with.
    """
    question = getattr(question, "question", question)
    if question.names is not None:
        return [*question.instead, *_foreign(question)]
    text, found = question.answer, []  # (start, end, the other word)
    for name in _NAME.finditer(text):
        colour, kind, turned, became = name.groups()
        found += [(*name.span(1), HELD_COLOUR.get(kind)), (*name.span(2), HELD_KIND.get(colour))]
        if turned:
            found.append((*name.span(3), HELD_COLOUR.get(kind)))
        if became:
            found.append((*name.span(4), HELD_KIND.get(colour)))
    swapped = [text[:start] + other + text[end:] for start, end, other in found if other]
    return [*question.instead, *(t for t in swapped if t != text)]


def _foreign(question):
    """The same for an answer in another language: every name replaced as a whole."""
    text, found = question.answer, []
    lower = text.lower()
    for (colour, kind), words in question.names.items():
        low = words.lower()
        if low not in lower:
            continue
        others = [(HELD_COLOUR.get(kind), kind), (colour, HELD_KIND.get(colour))]
        for start in (match.start() for match in re.finditer(re.escape(low), lower)):
            for other in others:
                if all(other):
                    new = question.names[other]
                    if text[start].isupper():
                        new = new[0].upper() + new[1:]
                    found.append(text[:start] + new + text[start + len(words) :])
    return found
