"""Questions about drawn scenes and their canonical answers.

Every `ask_*` function takes a random generator and a scene (or clip) and returns a `Question`, or
None when the scene gives no clear-cut case.  Answers have one canonical form, so that they can be
marked by comparing strings (boxes and points by their geometry).
"""

import json
import re
from itertools import pairwise
from typing import NamedTuple

from scripts.first_edition.scenes import (
    COLOURS,
    HELD_OUT,
    KINDS,
    LIKE,
    PAIRS,
    distances,
    has_hue,
)

NOT_THERE = "I don't see one."
SKILLS = (
    "describe", "count", "colour", "shape", "relation", "yes_no", "locate", "locate_all", "point",
    "absent", "when", "motion", "change", "read",
)  # fmt: skip


class Question(NamedTuple):
    """A skill, what is asked and the canonical answer."""

    skill: str
    text: str
    answer: str


PHRASES = {
    "describe": (
        "Describe the picture.", "Describe this image.", "Describe the image.", "Describe.",
        "Describe this picture.", "What do you see?", "What is in the picture?",
        "What is in this image?", "What's in the picture?", "What is this?", "What does it show?",
        "Tell me what you see.", "What can you see in the picture?", "Describe what you see.",
    ),
    "count": ("How many {} are there?", "How many {} do you see?", "Count the {}.",
              "How many {} are in the picture?", "How many {} can you see?"),
    "colour": ("What colour is the {}?", "What color is the {}?", "Which colour is the {}?",
               "Which color does the {} have?", "What is the colour of the {}?"),
    "shape": ("What shape is {}?", "What shape is the {} one?", "Which shape is {}?",
              "What is the {} shape?"),
    "yes_no": ("Is there a {}?", "Do you see a {}?", "Is there a {} in the picture?",
               "Can you see a {}?"),
    "locate": ("Locate the {}.", "Where is the {}?", "Find the {}.", "Detect the {}.",
               "Give the bounding box of the {}."),
    "locate_all": ("Locate every {}.", "Locate all {}s.", "Find every {}.", "Detect all {}s."),
    "point": ("Point at the {}.", "Point to the {}.", "Point out the {}."),
    "when": ("When does the {} appear?", "When does the {} come in?",
             "At what time does the {} appear?", "When can you first see the {}?"),
    "motion": ("Which way does the {} move?", "Where does the {} move?",
               "In which direction does the {} move?"),
    "change": ("What changed between the two pictures?", "What changed?", "What is different?",
               "What has changed?", "What is different in the second picture?",
               "What changed from the first picture to the second?"),
    "read": ("What does it say?", "What is written here?", "Read the text.", "Read the word.",
             "What does the picture say?", "What word is it?"),
}  # fmt: skip
SIDES = {  # relation: (axis, whether the smaller coordinate wins)
    "left": (0, True), "right": (0, False), "above": (1, True), "below": (1, False),
}  # fmt: skip
COMPARATIVES = {
    "left": ("Which is further left", "Which is more to the left", "Which one is on the left"),
    "right": ("Which is further right", "Which is more to the right", "Which one is on the right"),
    "above": ("Which is higher", "Which is further up", "Which one is on top"),
    "below": ("Which is lower", "Which is further down", "Which one is below"),
}
POSITIONS = {
    "left": "left of", "right": "right of", "above": "above", "below": "below",
}  # fmt: skip
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def pick(rng, options):
    """One of `options`."""
    return options[rng.integers(len(options))]


def casual(rng, text):
    """The question as typed by hand: now and then in lower case or without its full stop."""
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.15:
        text = text.rstrip(".?")
    return text


def phrase(rng, skill, thing=""):
    """A paraphrase of the question for `skill` about `thing`."""
    text = pick(rng, PHRASES[skill]).format(thing)
    return casual(rng, text.replace(" a orange", " an orange"))


def article(name):
    """`a red circle`, `an orange circle`."""
    return f"an {name}" if name.startswith("orange") else f"a {name}"


def unique(scene):
    """Shapes that no other shape of the scene shares both colour and kind with."""
    names = [s.name for s in scene.shapes]
    return [s for s in scene.shapes if names.count(s.name) == 1]


def missing(rng, scene):
    """A name not in the scene, often one that shares its colour or kind with a shape in it."""
    here = {(s.colour, s.kind) for s in scene.shapes}
    absent = [p for p in PAIRS if p not in here]
    roll = rng.random()
    if roll < 0.7 and here:
        part = 0 if roll < 0.35 else 1
        near = [p for p in absent if any(p[part] == h[part] for h in here)]
        absent = near or absent
    return " ".join(pick(rng, absent))


# ------------------------------------------------------------------------------ answers in words


def place(scene, shape):
    """The place name of a shape in the 3 x 3 grid of the scene."""
    x, y = shape.centre
    return PLACES[min(2, int(3 * y / scene.height))][min(2, int(3 * x / scene.width))]


def description(scene):
    """`A red circle at the top left, a blue square in the middle and a star on the right.`"""
    parts = [f"{article(s.name)} {place(scene, s)}" for s in scene.shapes]
    text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return text[0].upper() + text[1:] + "."


def is_describable(scene):
    """Up to three shapes in a clear left-to-right order, none near a border between places."""
    xs = [s.centre[0] / scene.width for s in scene.shapes]
    marks = xs + [s.centre[1] / scene.height for s in scene.shapes]
    return (
        1 <= len(xs) <= 3
        and all(b - a >= 0.085 for a, b in pairwise(xs))
        and all(min(abs(f - 1 / 3), abs(f - 2 / 3)) > 0.03 for f in marks)
    )


def ask_describe(rng, scene):
    """The whole scene in one sentence."""
    if not is_describable(scene):
        return None
    return Question("describe", phrase(rng, "describe"), description(scene))


def ask_count(rng, scene):
    """How many shapes there are, of all, of one colour or of one kind."""
    roll = rng.random()
    if roll < 0.4:
        thing, count = "shapes", len(scene.shapes)
    elif roll < 0.7:
        colours = list(COLOURS) if rng.random() < 0.2 else [s.colour for s in scene.shapes]
        colour = pick(rng, colours)
        thing, count = f"{colour} shapes", sum(s.colour == colour for s in scene.shapes)
    else:
        kinds = list(KINDS) if rng.random() < 0.2 else [s.kind for s in scene.shapes]
        kind = pick(rng, kinds)
        plural = "crosses" if kind == "cross" else f"{kind}s"
        thing, count = plural, sum(s.kind == kind for s in scene.shapes)
    return Question("count", phrase(rng, "count", thing), str(count))


def ask_colour(rng, scene):
    """The colour of the only shape of its kind, or of the only shape if its kind has no name."""
    kinds = [s.kind for s in scene.shapes]
    known = [s for s in scene.shapes if kinds.count(s.kind) == 1 and s.colour]
    if len(kinds) > 1:
        known = [s for s in known if s.kind]
    if not known:
        return None
    shape = pick(rng, known)
    text = phrase(rng, "colour", shape.kind or "shape")
    return Question("colour", text, f"{shape.colour.capitalize()}.")


def ask_shape(rng, scene):
    """The kind of the only shape of its colour."""
    colours = [s.colour for s in scene.shapes]
    known = [s for s in scene.shapes if colours.count(s.colour) == 1]
    if not known:
        return None
    shape = pick(rng, known)
    return Question("shape", phrase(rng, "shape", shape.colour), f"A {shape.kind}.")


def ask_relation(rng, scene):
    """Which of two shapes is further left (right, up, down), or whether one is."""
    known = unique(scene)
    if len(known) < 2:
        return None
    first, second = (known[i] for i in rng.permutation(len(known))[:2])
    return relation(rng, scene, (first, second), (first.name, second.name))


def relation(rng, scene, shapes, names):
    """How two shapes of the scene, asked about by `names`, lie to one another."""
    first, second = shapes
    side = pick(rng, tuple(SIDES))
    axis, smaller = SIDES[side]
    gap = first.centre[axis] - second.centre[axis]
    if abs(gap) < 0.09 * (scene.width, scene.height)[axis]:
        return None
    first_wins = (gap < 0) == smaller
    if rng.random() < 0.5:
        text = f"{pick(rng, COMPARATIVES[side])}, the {names[0]} or the {names[1]}?"
        answer = f"The {names[0] if first_wins else names[1]}."
    else:
        text = f"Is the {names[0]} {POSITIONS[side]} the {names[1]}?"
        answer = "Yes." if first_wins else "No."
    return Question("relation", casual(rng, text), answer)


def ask_yes_no(rng, scene):
    """Whether a shape is there."""
    present = bool(scene.shapes) and rng.random() < 0.5
    name = pick(rng, scene.shapes).name if present else missing(rng, scene)
    return yes_no(rng, name, present)


def yes_no(rng, name, present):
    """Whether there is a `name`; asked for one letter, the answer is Y or N."""
    text = phrase(rng, "yes_no", name)
    if rng.random() < 0.5:
        text = text.rstrip("?") + "? " + pick(rng, ("Reply Y or N.", "Answer Y or N.", "Y or N?"))
        return Question("yes_no", text, "Y" if present else "N")
    return Question("yes_no", text, "Yes." if present else "No.")


def ask_absent(rng, scene):
    """Something asked for that is not there."""
    skill = pick(rng, ("locate", "point", "colour"))
    if skill != "colour":
        return Question("absent", phrase(rng, skill, missing(rng, scene)), NOT_THERE)
    kinds = [k for k in KINDS if all(s.kind != k for s in scene.shapes)]
    return Question("absent", phrase(rng, skill, pick(rng, kinds)), NOT_THERE)


# ---------------------------------------------------------------------------- answers as geometry


def even(value):
    """The nearest even integer."""
    return 2 * round(value / 2)


def box_json(shape, label=None):
    """Qwen2.5-VL's form of a box in absolute pixels; the label is the shape's name or as given."""
    return {"bbox_2d": list(shape.box), "label": label or shape.name}


def point_json(shape, label):
    """Qwen2.5-VL's form of a point in absolute pixels: the centre of the shape."""
    return {"point_2d": [even(v) for v in shape.centre], "label": label}


def ask_locate(rng, scene):
    """The box of one shape."""
    known = unique(scene)
    if not known:
        return None
    shape = pick(rng, known)
    return Question("locate", phrase(rng, "locate", shape.name), json.dumps(box_json(shape)))


def ask_locate_all(rng, scene):
    """The boxes of all shapes, or of all shapes of one kind, from left to right; at most four."""
    if not scene.shapes:
        return None
    kind = pick(rng, scene.shapes).kind if rng.random() < 0.6 else "shape"
    known = [s for s in scene.shapes if kind in (s.kind, "shape")]
    gaps = [b.centre[0] - a.centre[0] for a, b in pairwise(known)]
    if len(known) > 4 or any(gap < 0.06 * scene.width for gap in gaps):
        return None
    text = phrase(rng, "locate_all", kind).replace("crosss", "crosses")
    return Question("locate_all", text, json.dumps([box_json(s) for s in known]))


def ask_point(rng, scene):
    """The centre of one shape."""
    known = unique(scene)
    if not known:
        return None
    shape = pick(rng, known)
    answer = json.dumps(point_json(shape, shape.name))
    return Question("point", phrase(rng, "point", shape.name), answer)


ASK = {
    "describe": ask_describe,
    "count": ask_count,
    "colour": ask_colour,
    "shape": ask_shape,
    "relation": ask_relation,
    "yes_no": ask_yes_no,
    "locate": ask_locate,
    "locate_all": ask_locate_all,
    "point": ask_point,
    "absent": ask_absent,
}


# ------------------------------------------------------------------- by colour or by kind alone

PARTS = (*(f"{colour} shape" for colour in COLOURS), *KINDS)
PART_SKILLS = ("locate", "locate", "point", "count", "yes_no", "relation", "colour", "absent")


def fitting(scene, part):
    """The shapes that a name without colour or without kind fits: `red shape`, `star`."""
    return [s for s in scene.shapes if part in (f"{s.colour} shape", s.kind)]


def may_be_called(shape, colour):
    """True when a shape's colour has no name, but someone might call it `colour`."""
    if not shape.paint:
        return False
    gaps = distances(shape.paint)
    return has_hue(shape.paint, colour) or colour == min(gaps, key=gaps.get)


def ask_part(rng, scene):
    """A question about shapes by colour alone or by kind alone, for scenes `with_unnamed` too.

    Not about a colour that a shape whose colour has no name may be called.
    """
    doubtful = [f"{c} shape" for c in COLOURS if any(may_be_called(s, c) for s in scene.shapes)]
    shapes = {part: fitting(scene, part) for part in PARTS if part not in doubtful}
    here = [part for part in shapes if shapes[part]]
    single = [part for part in here if len(shapes[part]) == 1]
    skill = pick(rng, PART_SKILLS)
    if skill == "count":
        part = pick(rng, here if here and rng.random() < 0.7 else list(shapes))
        plural = f"{part}s".replace("crosss", "crosses")
        return Question(skill, phrase(rng, skill, plural), str(len(shapes[part])))
    if skill in ("yes_no", "absent"):
        present = skill == "yes_no" and bool(here) and rng.random() < 0.5
        part = pick(rng, here if present else [p for p in shapes if p not in here])
        if skill == "yes_no":
            return yes_no(rng, part, present)
        return Question(skill, phrase(rng, pick(rng, ("locate", "point")), part), NOT_THERE)
    if skill == "colour":
        return ask_colour(rng, scene)
    if skill == "relation":
        names = [single[i] for i in rng.permutation(len(single))[:2]]
        pair = [shapes[name][0] for name in names]
        return relation(rng, scene, pair, names) if len({s.box for s in pair}) == 2 else None
    if not single:
        return None
    part = pick(rng, single)
    answer = (box_json if skill == "locate" else point_json)(shapes[part][0], part)
    return Question(skill, phrase(rng, skill, part), json.dumps(answer))


# ------------------------------------------------------------------------- two images, words


def ask_change(rng, change):
    """What is different in the second of two images."""
    name = change.shape.name if change.shape else ""
    answers = {
        "removed": f"The {name} is gone.",
        "added": f"{article(name).capitalize()} was added.",
        "coloured": f"The {name} turned {change.colour}.",
        "moved": f"The {name} moved.",
        "nothing": "Nothing changed.",
    }
    return Question("change", phrase(rng, "change"), answers[change.what])


def ask_read(rng, word):
    """The word in the image."""
    return Question("read", phrase(rng, "read"), word.text)


# -------------------------------------------------------------------------------------- clips


def clip_questions(rng, clip):
    """All questions about a clip: when a shape appears, which way a shape moves."""
    questions = []
    for name, seconds in clip.appears.items():
        answer = f"At {seconds:g} second{'' if seconds == 1 else 's'}."
        questions.append(Question("when", phrase(rng, "when", name), answer))
    for name, direction in clip.moves.items():
        questions.append(
            Question("motion", phrase(rng, "motion", name), f"{direction.capitalize()}.")
        )
    return questions


# ------------------------------------------------------------- what training must not say no to

_COLOUR, _KIND = "|".join(COLOURS), "|".join(KINDS)
_NAME = re.compile(rf"\b({_COLOUR}) ({_KIND})\b(?: turned ({_COLOUR})\b)?")
_MENTION = re.compile(rf"\b(?:(?:{_COLOUR}) (?:{_KIND})|({_COLOUR})|({_KIND}))(?:e?s)?\b")


def denies(question, scene):
    """True when the right answer would say of some shape that it is not of a held-out pair.

    `How many hearts are there?` beside a blue square: that it does not count can be told by its
    blue alone, because blue hearts are never drawn.  Such a question teaches that rule.  The same
    beside a shape without a name, in a blue that has none or in a form like a heart's.
    """
    mentions = _MENTION.finditer(question.text)
    alone = {word for mention in mentions for word in mention.groups() if word}
    for colour, kind in HELD_OUT:
        for s in scene.shapes:
            hued = s.colour == colour or (s.paint and has_hue(s.paint, colour))
            formed = s.kind == kind or s.form in LIKE[kind]
            if (kind in alone and hued) or (colour in alone and formed):
                return True
    return False


def unsaid(question):
    """The answers that would name a pair that is kept out of training, in place of one word.

    To `What colour is the heart?` it is never `Blue.`, because blue hearts are never drawn.  The
    loss must not teach that rule: it leaves these words out of what the right one is compared with.
    """
    colour_of = {kind: colour for colour, kind in HELD_OUT}
    kind_of = dict(HELD_OUT)
    found = []  # (start, end, the other word)
    for name in _NAME.finditer(question.answer):
        colour, kind, turned = name.groups()
        found += [(*name.span(1), colour_of.get(kind)), (*name.span(2), kind_of.get(colour))]
        if turned:
            found.append((*name.span(3), colour_of.get(kind)))
    if question.skill in ("colour", "shape"):
        options = colour_of if question.skill == "colour" else kind_of
        asked = [word for word in options if re.search(rf"\b{word}\b", question.text)]
        said = re.search(r"(\w+)\.", question.answer)
        for word in asked:
            other = options[word]
            found.append((*said.span(1), other if said[1].islower() else other.capitalize()))
    text = question.answer
    return [text[:start] + other + text[end:] for start, end, other in found if other]
