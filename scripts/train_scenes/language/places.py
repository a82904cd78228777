"""Questions about where shapes of one scene are and which is the outermost or the biggest."""

from scripts.train_scenes.language.facts import MOST
from scripts.train_scenes.language.names import article, listing, refer, sentence
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.language.seen import NOTHING

EXTREMES = {  # words: (axis, whether the larger coordinate wins)
    "leftmost": (0, False), "furthest left": (0, False), "farthest left": (0, False),
    "rightmost": (0, True), "furthest right": (0, True), "farthest right": (0, True),
    "highest": (1, False), "topmost": (1, False), "furthest up": (1, False),
    "uppermost": (1, False), "lowest": (1, True), "bottommost": (1, True),
    "furthest down": (1, True), "undermost": (1, True),
}  # fmt: skip
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
TRIES = 12  # pairs of shapes


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
    for _ in range(1 if voice.held_out else TRIES):  # most pairs have nothing between them
        (m1, first), (m2, second) = voice.pick(facts.single), voice.pick(facts.single)
        shape = None if first is second else facts.between(first, second)
        if shape:
            break
    if not shape:
        return None
    text = voice.say("between", first=refer(voice, *m1).said, second=refer(voice, *m2).said)
    return Question("between", text, sentence(article(shape.name)), (m1, m2), focus=shape)
