"""Questions about one scene that are answered in words: all of it, counts, colours, places."""

import re

from scripts.train_scenes.language.facts import HELD_COLOUR, HELD_KIND, MOST
from scripts.train_scenes.language.names import article, listing, refer, sentence, synonym
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.scene import COLOURS, KINDS

NOTHING, NO_TEXT = "Nothing.", "I don't see any text."
ALL_SHAPES = (
    "shapes",
    "shapes",
    "shapes",
    "objects",
    "figures",
    "things",
    "items",
    "geometric shapes",
)


def too_many(count, things="shapes"):
    """What is said instead of a list of more than six."""
    return f"I see {count if count <= 10 else 'more than ten'} {things}, too many to list."


def number(count):
    """`3`; above ten `More than ten.`"""
    return str(count) if count <= 10 else "More than ten."


def written(facts):
    """`the word "K7"`, or nothing; None when there are several words in no certain order."""
    texts = in_order(facts)
    if texts is None:
        return None
    if len(texts) > 1:
        return "the words " + listing([f'"{text}"' for text in texts])
    return f'the word "{texts[0]}"' if texts else ""


def in_order(facts):
    """The words' texts in reading order, or None when it is in doubt: lines must not overlap."""
    words = sorted(facts.words, key=lambda w: (w.box[1], w.box[0]))
    lines = []
    for word in words:
        if lines and _same_line(lines[-1][0], word) is None:
            return None
        if lines and _same_line(lines[-1][0], word):
            lines[-1].append(word)
        else:
            lines.append([word])
    for line in lines:
        line.sort(key=lambda w: w.box[0])
    return [w.text for line in lines for w in line]


def _same_line(first, second):
    """True, False or None: by how much of the lower word's height the upper one shares."""
    common = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    share = common / min(first.box[3] - first.box[1], second.box[3] - second.box[1])
    return True if share > 0.6 else (False if share < 0.1 else None)


# ------------------------------------------------------------------------------ all of it


def description(facts):
    """`A red circle at the top left and a blue square on the right.`; None when in doubt."""
    words = written(facts)
    if words is None or not facts.named:
        return None
    if len(facts.shapes) > MOST:
        return too_many(len(facts.shapes))
    if not facts.shapes:
        return sentence(words) if words else NOTHING
    if not facts.places:
        return None
    parts = [
        f"{article(s.name)} {place}" for s, place in zip(facts.ordered, facts.places, strict=True)
    ]
    return sentence(listing([*parts, words] if words else parts))


def enumeration(facts):
    """`A red circle, a star and a blue square.`, from left to right; None when in doubt."""
    words = written(facts)
    if words is None or not facts.named:
        return None
    if len(facts.shapes) > MOST:
        return too_many(len(facts.shapes))
    if not facts.shapes:
        return sentence(words) if words else NOTHING
    if not facts.ordered:
        return None
    parts = [article(s.name) for s in facts.ordered]
    return sentence(listing([*parts, words] if words else parts))


def _focus(facts):
    return facts.shapes[0] if len(facts.shapes) == 1 else None


_LISTED = re.compile(r"what(?: i|'?)s my drawing", re.IGNORECASE)  # asks for a list, see `ask_list`


def ask_describe(voice, facts):
    """The whole scene in one sentence, with places."""
    answer = description(facts)
    if answer is None:
        return None
    text = voice.say("describe")
    if text and _LISTED.search(text):
        return None
    return Question("describe", text, answer, focus=_focus(facts), frame="describe")


def ask_list(voice, facts):
    """The whole scene in one sentence, without places."""
    answer = enumeration(facts)
    if answer is None:
        return None
    return Question("list", voice.say("list"), answer, focus=_focus(facts), frame="list")


def ask_read(voice, facts):
    """The words in the image."""
    texts = in_order(facts)
    if texts is None:
        return None
    return Question("read", voice.say("read"), " ".join(texts) or NO_TEXT, frame="read")


# --------------------------------------------------------------------------------- counts


def mention_to_count(voice, facts):
    """A (colour, kind) worth counting, often one that is there."""
    roll = voice.random()
    there = bool(facts.shapes) and voice.chance(0.8)
    shape = voice.pick(facts.shapes) if there else None
    colour = shape.colour if shape else voice.pick(tuple(COLOURS))
    kind = shape.kind if shape else voice.pick(KINDS)
    if roll < 0.4:
        return (colour, "")
    return ("", kind) if roll < 0.8 else (colour, kind)


def ask_count(voice, facts):
    """How many shapes there are, of all, of one colour, of one kind or of both."""
    if voice.chance(0.45):
        text = voice.say("count", thing="shape", things=voice.pick(ALL_SHAPES))
        return Question("count", text, number(len(facts.shapes)), frame="count")
    return count_of(voice, facts, mention_to_count(voice, facts))


def count_of(voice, facts, mention, key="count"):
    """How many shapes a mention fits."""
    if not any(mention) or not facts.is_certain(mention):
        return None
    thing = refer(voice, *mention, counted=True)
    text = voice.say(key, thing=thing.said, things=thing.many)
    return Question("count", text, number(len(facts.fitting(mention))), (mention,), frame="count")


def ask_count_colours(voice, facts):
    """How many different colours the shapes have."""
    if not facts.named or any(_held_by_colour(s, facts) for s in facts.shapes):
        return None
    count = len({s.colour for s in facts.shapes})
    return Question("count", voice.say("count.colours"), number(count))


def _held_by_colour(shape, facts):
    """Whether denying a held-out colour of this shape could be what the answer teaches."""
    colour = HELD_COLOUR.get(shape.kind)
    return colour is not None and any(s.colour == colour for s in facts.shapes)


# ----------------------------------------------------------------------------- attributes


def held_colours(shape):
    """The answers that would name the colour held out with a shape's kind."""
    colour = HELD_COLOUR.get(shape.kind)
    return (sentence(colour),) if colour and colour != shape.colour else ()


def held_kinds(shape):
    """The answers that would name the kind held out with a shape's colour."""
    kind = HELD_KIND.get(shape.colour)
    return (sentence(article(kind)),) if kind and kind != shape.kind else ()


def by_kind(facts):
    """[(mention, shape)] with a colour's name, to be called by kind alone, or as the only shape."""
    found = [(m, s) for m, s in facts.single if not m[0] and s.colour]
    if len(facts.shapes) == 1 and facts.shapes[0].colour:
        found.append((("", ""), facts.shapes[0]))
    return found


def by_colour(facts):
    """[(mention, shape)] with a kind's name, to be called by colour alone."""
    return [(m, s) for m, s in facts.single if not m[1] and s.kind]


def ask_colour(voice, facts):
    """The colour of the only shape of its kind, or of the only shape."""
    known = by_kind(facts)
    if not known or voice.chance(0.1):
        return _colour_many(voice, facts)
    mention, shape = voice.pick(known)
    if voice.knows("colour.options") and voice.chance(0.1):
        return _colour_options(voice, mention, shape)
    return colour_of(voice, mention, shape)


def _thing(voice, mention):
    return refer(voice, *mention).said if any(mention) else voice.pick(("shape", "shape", "object"))


def colour_of(voice, mention, shape, key="colour"):
    """What colour one shape has."""
    text = voice.say(key, thing=_thing(voice, mention))
    answer = sentence(shape.colour)
    mentions = (mention,) if any(mention) else ()
    return Question("colour", text, answer, mentions, held_colours(shape), shape, "colour")


def _colour_options(voice, mention, shape):
    """One colour or another."""
    other = voice.pick([c for c in COLOURS if c != shape.colour])
    first, second = (shape.colour, other) if voice.chance(0.5) else (other, shape.colour)
    text = voice.say("colour.options", thing=_thing(voice, mention), first=first, second=second)
    mentions = (*((mention,) if any(mention) else ()), (first, ""), (second, ""), ("", shape.kind))
    return Question("colour", text, sentence(shape.colour), mentions, held_colours(shape), shape)


def _several(facts, index):
    """[(word, shapes from left to right)] of colours (0) or kinds (1) that two to six share."""
    if not facts.named:
        return []
    words = dict.fromkeys((s.colour, s.kind)[index] for s in facts.shapes)
    groups = [(w, facts.fitting(("", w) if index else (w, ""))) for w in words]
    groups = [(w, facts.order(shapes)) for w, shapes in groups if 1 < len(shapes) <= MOST]
    return [(w, shapes) for w, shapes in groups if shapes]


def _one_by_one(shapes, word_of, other_of):
    """(answer, its versions with one word of a held-out pair): `Red and blue.`"""
    words = list(dict.fromkeys(word_of(s) for s in shapes))
    instead = [
        sentence(listing([*words[:i], other_of(s), *words[i + 1 :]]))
        for i, word in enumerate(words)
        for s in shapes
        if word_of(s) == word and other_of(s) not in (None, word)
    ]
    return sentence(listing(words)), tuple(dict.fromkeys(instead))


def _colour_many(voice, facts):
    """The colours of several shapes of one kind, each once."""
    found = _several(facts, 1)
    if not found:
        return None
    kind, shapes = voice.pick(found)
    thing = refer(voice, "", kind)
    answer, instead = _one_by_one(shapes, lambda s: s.colour, lambda s: HELD_COLOUR.get(s.kind))
    text = voice.say("colour.many", thing=thing.said, things=thing.many)
    return Question("colour", text, answer, (thing.mention,), instead)


def _shape_many(voice, facts):
    """The kinds of several shapes of one colour, each once."""
    found = _several(facts, 0)
    if not found:
        return None
    colour, shapes = voice.pick(found)
    answer, instead = _one_by_one(
        shapes,
        lambda s: article(s.kind),
        lambda s: HELD_KIND.get(s.colour) and article(HELD_KIND[s.colour]),
    )
    text = voice.say("shape.many", colour_word=synonym(voice, colour))
    return Question("shape", text, answer, ((colour, ""),), instead)


def ask_colours(voice, facts):
    """All colours, each once, in the order of their first shape from left to right."""
    if not facts.named or not facts.ordered or len(facts.shapes) > MOST:
        return None
    colours = list(dict.fromkeys(s.colour for s in facts.ordered))
    if any(HELD_COLOUR.get(s.kind, s.colour) != s.colour for s in facts.shapes):
        return None  # the list would deny a held-out colour
    return Question("colour", voice.say("colour.all"), sentence(listing(colours)))


def ask_shape(voice, facts):
    """The kind of the only shape of its colour."""
    known = by_colour(facts)
    if not known or voice.chance(0.1):
        return _shape_many(voice, facts)
    mention, shape = voice.pick(known)
    if voice.knows("shape.options") and voice.chance(0.1):
        return _shape_options(voice, mention, shape)
    return shape_of(voice, mention, shape)


def shape_of(voice, mention, shape, key="shape"):
    """What kind one shape is of."""
    text = voice.say(key, colour_word=refer(voice, *mention).said.partition(" ")[0])
    answer = sentence(article(shape.kind))
    return Question("shape", text, answer, (mention,), held_kinds(shape), shape, "shape")


def _shape_options(voice, mention, shape):
    """One kind or another."""
    other = voice.pick([k for k in KINDS if k != shape.kind])
    first, second = (shape.kind, other) if voice.chance(0.5) else (other, shape.kind)
    text = voice.say(
        "shape.options", colour_word=mention[0], first=first, second=second,
        a_first=article(first), a_second=article(second),
    )  # fmt: skip
    mentions = (mention, ("", first), ("", second))
    answer = sentence(article(shape.kind))
    return Question("shape", text, answer, mentions, held_kinds(shape), shape)
