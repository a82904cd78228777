"""Questions about one scene that compare shapes or are answered with yes or no."""

from scripts.train_scenes.language.names import NOT_THERE, article, plural, refer, synonym
from scripts.train_scenes.language.places import PLACES, within
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.scene import COLOURS, KINDS, PAIRS

SIDES = {  # relation: (axis, whether the smaller coordinate wins, words)
    "left": (0, True, ("left of", "to the left of", "on the left of", "further left than")),
    "right": (0, False, ("right of", "to the right of", "on the right of", "further right than")),
    "above": (1, True, ("above", "over", "higher than", "further up than")),
    "below": (1, False, ("below", "under", "lower than", "further down than", "beneath")),
}  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def answered(voice, key, truth, **slots):
    """(request, answer): yes or no, or its letter when asked for one."""
    roll = voice.random()
    if roll < 0.3 and not voice.typed:
        return voice.say(key, "LETTERS", **slots), "Y" if truth else "N"
    ending = "YES_NO" if roll < 0.38 else None
    return voice.say(key, ending, **slots), "Yes." if truth else "No."


def yes_no(voice, key, truth, mentions, focus=None, frame="", skill="yes_no", **slots):
    """A question of a skill that is answered with yes or no."""
    text, answer = answered(voice, key, truth, **slots)
    return Question(skill, text, answer, mentions, focus=focus, frame=frame)


# ------------------------------------------------------------------------------ relations


def two_single(voice, facts):
    """Two different shapes, each with a mention that fits no other: mostly by full name."""
    known = facts.single
    if len(known) < 2:
        return None
    if voice.chance(0.6):
        known = [k for k in known if all(k[0])]
        if len(known) < 2:
            return None
    first, second = voice.pick(known), voice.pick(known)
    return None if first[1] is second[1] else (first, second)


def _words(shape, mention):
    """How an answer calls a shape that was asked about by `mention`."""
    colour, kind = mention
    return f"The {colour} {kind}." if all(mention) else f"The {kind or colour + ' shape'}."


def ask_relation(voice, facts):
    """Which of two shapes is further left (right, up, down, bigger), or whether one is."""
    pair = two_single(voice, facts)
    if not pair:
        return None
    (m1, first), (m2, second) = pair
    if voice.chance(0.2):
        return _by_size(voice, facts, pair)
    side = voice.pick(tuple(SIDES))
    axis, smaller, words = SIDES[side]
    before = facts.beside(first, second, axis)
    if before is None:
        return None
    wins = (before < 0) == smaller
    r1, r2 = refer(voice, *m1), refer(voice, *m2)
    if voice.chance(0.5):
        text = voice.say(f"relation.{side}", two=f"the {r1.said} or the {r2.said}")
        winner = (first, m1) if wins else (second, m2)
        return Question("relation", text, _words(*winner), (m1, m2), focus=winner[0])
    slots = {"first": r1.said, "second": r2.said, "side": voice.pick(words)}
    return yes_no(voice, "relation.is", wins, (m1, m2), skill="relation", **slots)


def _by_size(voice, facts, pair):
    (m1, first), (m2, second) = pair
    bigger = facts.bigger(first, second)
    if bigger is None:
        return None
    r1, r2 = refer(voice, *m1), refer(voice, *m2)
    which = voice.pick(("bigger", "smaller"))
    wins = bigger == (which == "bigger")
    if voice.chance(0.6):
        text = voice.say(f"relation.{which}", two=f"the {r1.said} or the {r2.said}")
        winner = (first, m1) if wins else (second, m2)
        return Question("relation", text, _words(*winner), (m1, m2), focus=winner[0])
    word = voice.pick(
        {"bigger": ("bigger than", "larger than"), "smaller": ("smaller than",)}[which]
    )
    slots = {"first": r1.said, "second": r2.said, "side": word}
    return yes_no(voice, "relation.is", wins, (m1, m2), skill="relation", **slots)


# ------------------------------------------------------------------------------ yes or no


def missing(voice, facts):
    """A mention that fits nothing in the scene, often one that shares its colour or kind."""
    roll = voice.random()
    if roll < 0.2:
        mention = ("", voice.pick(KINDS))
    elif roll < 0.35:
        mention = (voice.pick(tuple(COLOURS)), "")
    elif roll < 0.75 and facts.shapes:
        shape, (colour, kind) = voice.pick(facts.shapes), voice.pick(PAIRS)
        mention = (shape.colour, kind) if voice.chance(0.5) else (colour, shape.kind)
        if mention not in PAIRS:
            return None
    else:
        mention = voice.pick(PAIRS)
    return mention if facts.is_certain(mention) and not facts.fitting(mention) else None


def present(voice, facts):
    """A mention that fits something in the scene."""
    if not facts.shapes:
        return None
    shape, roll = voice.pick(facts.shapes), voice.random()
    if roll < 0.65:
        mention = (shape.colour, shape.kind)
    else:
        mention = (shape.colour, "") if roll < 0.8 else ("", shape.kind)
    whole = all(mention) or (roll >= 0.65 and any(mention))
    return mention if whole and facts.is_certain(mention) else None


def ask_there(voice, facts):
    """Whether a shape is there."""
    truth = voice.chance(0.5)
    mention = (present if truth else missing)(voice, facts)
    return there(voice, mention, truth) if mention else None


def there(voice, mention, truth, key=None, focus=None):
    """Whether there is what a mention says."""
    thing = refer(voice, *mention, counted=True)
    key = key or ("yes_no.any" if voice.chance(0.25) else "yes_no.there")
    slots = {"thing": thing.said, "a_thing": thing.a, "things": thing.many}
    return yes_no(voice, key, truth, (mention,), focus=focus, frame="yes_no", **slots)


def ask_is_colour(voice, facts):
    """Whether the only shape of a kind has a colour."""
    known = [(m, s) for m, s in facts.single if not m[0] and s.colour]
    if not known:
        return None
    mention, shape = voice.pick(known)
    colour = shape.colour if voice.chance(0.5) else voice.pick(tuple(COLOURS))
    slots = {"thing": refer(voice, *mention).said, "colour_word": colour}
    mentions = (mention, (colour, ""))
    return yes_no(voice, "yes_no.colour", colour == shape.colour, mentions, shape, **slots)


def ask_is_kind(voice, facts):
    """Whether the only shape of a colour is of a kind."""
    known = [(m, s) for m, s in facts.single if not m[1] and s.kind]
    if not known:
        return None
    mention, shape = voice.pick(known)
    kind = shape.kind if voice.chance(0.5) else voice.pick(KINDS)
    slots = {"colour_word": mention[0], "a_kind": article(kind)}
    mentions = (mention, ("", kind))
    return yes_no(voice, "yes_no.kind", kind == shape.kind, mentions, shape, **slots)


def ask_number(voice, facts):
    """Whether there are two circles."""
    shape = voice.pick(facts.shapes) if facts.shapes else None
    if not shape:
        return None
    mention = voice.pick(((shape.colour, ""), ("", shape.kind), ("", "")))
    if any(mention) and not facts.is_certain(mention):
        return None
    if mention == ("", ""):
        name, count, mentions = "shape", len(facts.shapes), ()
    else:
        name, mentions = refer(voice, *mention, counted=True).said, (mention,)
        count = len(facts.fitting(mention))
    if count > 6:
        return None
    claimed = count if voice.chance(0.5) else count + voice.pick((-1, 1))
    if not 1 <= claimed <= 6:
        return None
    text_number = NUMBERS[claimed] if voice.chance(0.7) else str(claimed)
    slots = {"number": text_number, "things": name if claimed == 1 else plural(name)}
    if claimed == 1:
        return None  # "are there one circle": left to `there`
    return yes_no(voice, "yes_no.number", claimed == count, mentions, **slots)


def ask_more(voice, facts):
    """Whether there are more circles than squares."""
    kinds = [k for k in {s.kind for s in facts.shapes} if k]
    if len(kinds) < 2:
        return None
    kinds.sort()
    first, second = voice.pick(kinds), voice.pick(kinds)
    if first == second or not (facts.is_certain(("", first)) and facts.is_certain(("", second))):
        return None
    counts = [len(facts.fitting(("", k))) for k in (first, second)]
    slots = {"things": plural(first), "others": plural(second)}
    mentions = (("", first), ("", second))
    return yes_no(voice, "yes_no.more", counts[0] > counts[1], mentions, **slots)


def ask_is_place(voice, facts):
    """Whether there is a circle on the left."""
    place, there_is = voice.pick(PLACES), voice.chance(0.6)
    mention = (present if there_is else missing)(voice, facts)
    if not mention:
        return None
    shapes = within(facts, place)
    if shapes is None:
        return None
    truth = any(s in shapes for s in facts.fitting(mention))
    if not truth and voice.chance(0.6):
        return None
    thing = refer(voice, *mention, counted=True)
    slots = {"thing": thing.said, "a_thing": thing.a, "place": place}
    return yes_no(voice, "yes_no.place", truth, (mention,), **slots)


def ask_this(voice, facts):
    """Whether the only shape is a circle."""
    if len(facts.shapes) != 1 or facts.words:
        return None
    truth = voice.chance(0.5)
    mention = (present if truth else missing)(voice, facts)
    return there(voice, mention, truth, "yes_no.this", facts.shapes[0]) if mention else None


def ask_text(voice, facts):
    """Whether there is anything to read."""
    if not facts.words and voice.chance(0.5):
        return None
    return yes_no(voice, "yes_no.text", bool(facts.words), ())


def ask_anything(voice, facts):
    """Whether there is anything at all."""
    if facts.words:
        return None
    key = voice.pick(("yes_no.anything", "yes_no.empty"))
    return yes_no(voice, key, bool(facts.shapes) == (key == "yes_no.anything"), ())


YES_NO = {
    ask_there: 0.52, ask_is_colour: 0.1, ask_is_kind: 0.08, ask_number: 0.08,
    ask_more: 0.06, ask_is_place: 0.1, ask_anything: 0.06, ask_this: 0.1, ask_text: 0.05,
}  # fmt: skip


def ask_yes_no(voice, facts):
    """A yes-or-no question of one kind or another."""
    return voice.weighted(YES_NO)(voice, facts)


# --------------------------------------------------------------------------------- absent


def ask_absent(voice, facts):
    """Something asked for that is not there."""
    mention = missing(voice, facts)
    if not mention:
        return None
    key = voice.pick(("locate", "locate", "point", "locate_all", "place", "colour", "shape"))
    if key == "colour":
        mention = ("", mention[1])
        if not mention[1] or facts.fitting(mention) or not facts.is_certain(mention):
            return None
    if key == "shape":
        mention = (mention[0], "")
        if not mention[0] or facts.fitting(mention) or not facts.is_certain(mention):
            return None
    thing = refer(voice, *mention, counted=key == "locate_all")
    slots = {"thing": thing.said, "things": thing.many, "colour_word": synonym(voice, mention[0])}
    return Question("absent", voice.say(key, **slots), NOT_THERE, (mention,))
