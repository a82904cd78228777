"""Questions about two images (what changed?) and about videos (when, which way, what happens?)."""

from itertools import pairwise

from scripts.train_scenes.language.compared import yes_no
from scripts.train_scenes.language.facts import MOST, Facts
from scripts.train_scenes.language.names import article, listing, refer, sentence
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.language.seen import number

NO_CHANGE, NOTHING_HAPPENS = "Nothing changed.", "Nothing happens."
ORDER = ("removed", "added", "coloured", "kind", "resized", "moved")


def change_words(change):
    """`the red circle is gone`."""
    before, after = change.before, change.after
    if change.what == "added":
        return f"{article(after.name)} was added"
    name = f"the {before.name}"
    if change.what == "removed":
        return f"{name} is gone"
    if change.what == "coloured":
        return f"{name} turned {after.colour}"
    if change.what == "kind":
        return f"{name} turned into {article(after.kind)}"
    if change.what == "resized":
        return f"{name} got {'bigger' if after.size > before.size else 'smaller'}"
    return f"{name} moved"


def _position(change):
    return ORDER.index(change.what), (change.before or change.after).centre


def difference(pair):
    """All changes in one sentence, by their kind, then from left to right; None when in doubt."""
    if not pair.changes:
        return NO_CHANGE
    for scene in (pair.before, pair.after):
        names = [s.name for s in scene.shapes]
        changed = {s.name for c in pair.changes for s in (c.before, c.after) if s}
        if any(names.count(name) > 1 for name in changed):
            return None
    kinds = [c.what for c in pair.changes]
    if len(set(kinds)) < len(kinds):
        order = Facts(pair.before if kinds[0] != "added" else pair.after)
        if not order.order([c.before or c.after for c in pair.changes]):
            return None
    return sentence(listing([change_words(c) for c in sorted(pair.changes, key=_position)]))


def ask_change(voice, pair):
    """What is different in the second of two images, or whether anything is."""
    roll = voice.random()
    if roll < 0.1 and voice.knows("change.any"):
        return yes_no(voice, "change.any", bool(pair.changes), (), skill="change")
    if roll < 0.2 and voice.knows("change.same"):
        return yes_no(voice, "change.same", not pair.changes, (), skill="change")
    answer = difference(pair)
    return Question("change", voice.say("change"), answer) if answer else None


# -------------------------------------------------------------------------------- videos


def seconds(value):
    """`3.5 seconds`, to the nearest half, but never none."""
    value = max(0.5, round(2 * value) / 2)
    return f"{value:g} second{'' if value == 1 else 's'}"


def visible(clip, name):
    """The second at which a shape appears, or None when the model cannot know it.

    The model sees one rate, the mean one, and no rate at all in a single pair of frames.
    """
    value, last = clip.appears[name], len(clip.times) - 1
    if last < 2:
        return None
    even = clip.times[-1] * clip.times.index(value) / last
    return value if abs(even - value) <= 0.25 else None


def _mention(name):
    colour, kind = name.split(" ")
    return colour, kind


def ask_when(voice, clip):
    """When a shape appears, or which one appears first."""
    if not clip.appears:
        return None
    if len(clip.appears) > 1 and voice.knows("when.first") and voice.chance(0.2):
        (t1, name), (t2, _) = sorted((t, n) for n, t in clip.appears.items())[:2]
        if t2 - t1 < 0.9:
            return None
        return Question("when", voice.say("when.first"), f"The {name}.")
    name = voice.pick(tuple(clip.appears))
    value = visible(clip, name)
    if value is None:
        return None
    text = voice.say("when", thing=refer(voice, *_mention(name)).said)
    return Question("when", text, f"At {seconds(value)}.", (_mention(name),))


def _names(clip):
    """All names of shapes, those of the last frame first."""
    return list(dict.fromkeys(s.name for f in reversed(clip.frames) for s in f.shapes))


def ask_motion(voice, clip):
    """Which way a shape moves, what moves, or whether a shape does."""
    roll = voice.random()
    if roll < 0.15 and voice.knows("motion.what"):
        answer = (
            f"{sentence(listing([f'the {n}' for n in sorted(clip.moves)]))}"
            if clip.moves
            else "Nothing."
        )
        return Question("motion", voice.say("motion.what"), answer) if len(clip.moves) < 2 else None
    names = _names(clip)
    if roll < 0.3 and voice.knows("motion.does") and names:
        name = voice.pick(names)
        thing = refer(voice, *_mention(name)).said
        mentions = (_mention(name),)
        return yes_no(
            voice, "motion.does", name in clip.moves, mentions, skill="motion", thing=thing
        )
    if not clip.moves:
        return None
    name = voice.pick(tuple(clip.moves))
    text = voice.say("motion", thing=refer(voice, *_mention(name)).said)
    return Question("motion", text, sentence(clip.moves[name]), (_mention(name),))


def happenings(clip):
    """`The red circle moves left and the blue square appears at 2 seconds.`; None when in doubt.

    Two frames show that a shape appears and not when.
    """
    times = sorted(clip.appears.values())
    if any(b - a < 0.9 for a, b in pairwise(times)) or len(clip.moves) > 1:
        return None
    parts = [f"the {name} moves {way}" for name, way in clip.moves.items()]
    ordered = sorted(clip.appears.items(), key=lambda item: item[1])
    for name, _ in ordered:
        value = visible(clip, name)
        if value is None and len(clip.times) > 2:
            return None
        parts.append(f"the {name} appears" + ("" if value is None else f" at {seconds(value)}"))
    return sentence(listing(parts)) if parts else NOTHING_HAPPENS


def ask_happens(voice, clip):
    """What happens in the video."""
    answer = happenings(clip)
    return Question("happens", voice.say("happens"), answer) if answer else None


def ask_ends(voice, clip):
    """How many shapes the first or the last frame shows."""
    which, frame = voice.pick((("clip.start", clip.frames[0]), ("clip.end", clip.frames[-1])))
    if len(frame.shapes) > MOST:
        return None
    return Question("count", voice.say(which), number(len(frame.shapes)))
