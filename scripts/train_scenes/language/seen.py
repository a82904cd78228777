"""Questions about one scene that are answered in words: all of it, counts, colours, places."""

from scripts.train_scenes.language.facts import HELD_COLOUR, HELD_KIND, MOST
from scripts.train_scenes.language.names import article, listing, refer, sentence
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
EXTREMES = {  # words: (axis, whether the larger coordinate wins)
    "leftmost": (0, False), "furthest left": (0, False), "farthest left": (0, False),
    "rightmost": (0, True), "furthest right": (0, True), "farthest right": (0, True),
    "highest": (1, False), "topmost": (1, False), "furthest up": (1, False),
    "uppermost": (1, False), "lowest": (1, True), "bottommost": (1, True),
    "furthest down": (1, True), "undermost": (1, True),
}  # fmt: skip
LEFT, RIGHT, TOP, BOTTOM = "left", "right", "top", "bottom"
SIDES = {  # words: (rows, columns) of the 3 x 3 grid
    "on the left": (None, 0), "on the left side": (None, 0), "on the left-hand side": (None, 0),
    "to the left": (None, 0), "at the left": (None, 0), "on the right": (None, 2),
    "on the right side": (None, 2), "on the right-hand side": (None, 2), "to the right": (None, 2),
    "at the right": (None, 2), "at the top": (0, None), "on top": (0, None),
    "in the upper part": (0, None), "at the bottom": (2, None), "in the lower part": (2, None),
    "on the bottom": (2, None), "in the middle": (1, 1), "in the centre": (1, 1),
    "in the center": (1, 1), "at the centre": (1, 1), "at the top left": (0, 0),
    "in the top left corner": (0, 0), "in the upper left corner": (0, 0),
    "in the top left": (0, 0), "in the upper left": (0, 0), "top left": (0, 0),
    "at the top right": (0, 2), "in the top right corner": (0, 2),
    "in the upper right corner": (0, 2), "in the top right": (0, 2), "in the upper right": (0, 2),
    "top right": (0, 2), "at the bottom left": (2, 0), "in the bottom left corner": (2, 0),
    "in the lower left corner": (2, 0), "in the bottom left": (2, 0), "in the lower left": (2, 0),
    "bottom left": (2, 0), "at the bottom right": (2, 2), "in the bottom right corner": (2, 2),
    "in the lower right corner": (2, 2), "in the bottom right": (2, 2), "bottom right": (2, 2),
}  # fmt: skip
PLACES = tuple(SIDES)


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


def ask_describe(voice, facts):
    """The whole scene in one sentence, with places."""
    answer = description(facts)
    if answer is None:
        return None
    return Question(
        "describe", voice.say("describe"), answer, focus=_focus(facts), frame="describe"
    )


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
    if not known:
        return None
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
    return Question("colour", text, sentence(shape.colour), mentions, focus=shape)


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
    if not known:
        return None
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
    return Question("shape", text, sentence(article(shape.kind)), mentions, focus=shape)


# --------------------------------------------------------------------------------- places


def ask_place(voice, facts):
    """In which part of the image a shape is, in words."""
    known = [(m, s) for m, s in facts.single if facts.cell(s)]
    return place_of(voice, facts, *voice.pick(known)) if known else None


def place_of(voice, facts, mention, shape, key="place"):
    """The place of one shape."""
    place = facts.place(shape)
    if not place:
        return None
    text = voice.say(key, thing=refer(voice, *mention).said)
    return Question("place", text, sentence(place), (mention,), focus=shape, frame="place")


def within(facts, side):
    """The shapes in a side or corner from left to right, or None when in doubt."""
    row, column = SIDES[side]
    inside = []
    for s in facts.shapes:
        x, y = s.centre[0] / facts.width, s.centre[1] / facts.height
        held = [_held(y, row), _held(x, column)]
        if False in held:
            continue
        if None in held:
            return None
        inside.append(s)
    return facts.order(inside)


def _held(fraction, third):
    """True, False or None: whether a fraction of a side is in a third of it (None: in any)."""
    if third is None:
        return True
    depth = min(fraction - third / 3, (third + 1) / 3 - fraction)
    if (third == 0 and fraction < 1 / 6) or (third == 2 and fraction > 5 / 6):
        return True
    return True if depth > 0.035 else (False if depth < -0.035 else None)


def ask_side(voice, facts):
    """What is on one side, in the middle or in a corner; or which shape is the outermost."""
    if not facts.named or len(facts.shapes) > 10:
        return None
    if voice.knows("extreme") and voice.chance(0.3):
        return ask_extreme(voice, facts)
    place = voice.pick(PLACES)
    shapes = within(facts, place)
    if shapes is None or len(shapes) > MOST or (not shapes and voice.chance(0.6)):
        return None
    answer = sentence(listing([article(s.name) for s in shapes])) if shapes else NOTHING
    focus = shapes[0] if len(shapes) == 1 else None
    return Question("side", voice.say("side", place=place), answer, focus=focus)


def the(shape):
    """`The red circle.`"""
    return f"The {shape.name}."


def ask_extreme(voice, facts):
    """The leftmost shape, the highest one, ..."""
    words = voice.pick(tuple(EXTREMES))
    shape = facts.extreme(*EXTREMES[words])
    if not shape:
        return None
    return Question("side", voice.say("extreme", extreme=words), the(shape), focus=shape)


def ask_size(voice, facts):
    """The biggest or the smallest shape."""
    if not facts.named:
        return None
    which = voice.pick(("biggest", "smallest"))
    shape = facts.outsized(which == "biggest")
    if not shape:
        return None
    return Question("size", voice.say(f"size.{which}"), the(shape), focus=shape)


def ask_between(voice, facts):
    """The shape between two others."""
    if len(facts.single) < 2 or len(facts.shapes) < 3 or not facts.named:
        return None
    (m1, first), (m2, second) = voice.pick(facts.single), voice.pick(facts.single)
    if first is second:
        return None
    shape = facts.between(first, second)
    if not shape:
        return None
    text = voice.say("between", first=refer(voice, *m1).said, second=refer(voice, *m2).said)
    return Question("between", text, sentence(article(shape.name)), (m1, m2), focus=shape)
