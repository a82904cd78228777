"""What is drawn: seeded images, pairs of images and videos with known contents.

`make_image` mixes the families of FAMILIES in the shares of SHARES; each can be asked for by name.
"""

import math
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from scripts.train_scenes import layout
from scripts.train_scenes.drawing import fonts, grounds
from scripts.train_scenes.scene import (
    KINDS,
    PAIRS,
    Change,
    Clip,
    Limits,
    Pair,
    Refusal,
    Word,
)

LIMITS = Limits()
SHARES = {  # family: share of images
    "easy": 0.25,  # one to three shapes, mostly upright: the first edition's world
    "free": 0.19,  # one to six shapes of any form, size and place
    "crowd": 0.14,  # four to fourteen shapes, random or in rows, columns and grids
    "big": 0.06,  # one shape of up to 90 % of the image
    "small": 0.04,  # shapes of 16 to 30 pixels
    "touching": 0.03,
    "unnamed": 0.12,  # some colours or kinds have no name
    "word": 0.06,  # a word alone
    "labelled": 0.05,  # shapes beside one to three words
    "photograph": 0.02,
    "noise": 0.015,
    "blank": 0.025,
}
FAMILIES = tuple(SHARES)
_STEPS = np.cumsum(list(SHARES.values()))
UPRIGHT = {"easy": 0.65}  # probability that all shapes of a scene are upright; else 0.2
CROWDED = np.arange(4, 15)
CROWDED_SHARES = np.array([5, 5, 5, 5, 5, 5, 5, 3.5, 2.5, 1.5, 1.5]) / 44
ALIKE = set("cCoOsSuUvVwWxXzZkKpP")  # capitals that only their size tells apart
WORDS = (
    "cat dog sun moon tree car bus cup hat box ball fish bird star red blue green door book home "
    "hello yes no ok stop go left right start end open menu file save play exit hi test draw note "
    "apple water music paper house table river cloud north south east west king queen one two "
    "three four five six seven ten map key top fox owl bee ant egg jam pie tea zoo toy rain snow "
    "wind fire rock sand leaf seed root farm barn gate wall path bridge garden school friend"
).split()


def make_image(rng, limits=LIMITS, training=True, family=None, pairs=PAIRS):
    """A Scene or a Refusal; family: one of FAMILIES, or None for their mixture.

    With `training` false, photographs are those held out; pairs: the (colour, kind) that occur.
    """
    if family is None:
        family = FAMILIES[min(int(np.searchsorted(_STEPS, rng.random())), len(FAMILIES) - 1)]
    size = layout.image_size(rng, limits.image_area, limits)
    if family in ("photograph", "noise", "blank"):
        return Refusal(*size, family, held_out=not training)
    if family == "word":
        return _word_image(rng, size)
    count = _count(rng, family)
    while True:
        scene = _shapes_image(rng, size, family, count, pairs)
        if scene is not None:
            return scene
        size = layout.image_size(rng, limits.image_area, limits)


def pick_ground(rng, words=False):
    """A family of grounds: plain ones are the commonest; beside words there are no toolbars."""
    if rng.random() < 0.28:
        return "plain"
    name = grounds.GROUNDS[rng.integers(1, len(grounds.GROUNDS))]
    return "plain" if words and name == "toolbar" else name


# ----------------------------------------------------------------------------------------- shapes


def _count(rng, family):
    if family == "easy":
        return int(rng.choice((1, 2, 3), p=(0.2, 0.35, 0.45)))
    if family == "big":
        return 1
    if family == "crowd":
        return int(rng.choice(CROWDED, p=CROWDED_SHARES))
    if family == "small":
        return int(rng.integers(1, 8))
    if family == "touching":
        return int(rng.integers(2, 6))
    if family == "labelled":
        return int(rng.integers(1, 4))
    return int(rng.choice((1, 2, 3, 4, 5, 6), p=(0.15, 0.2, 0.25, 0.17, 0.13, 0.10)))


def _sizes(rng, family, count, area):
    """The longer sides in pixels of `count` boxes."""
    x1, y1, x2, y2 = area
    side = min(x2 - x1, y2 - y1)
    if family == "big":
        return [rng.uniform(0.5, 0.92) * side * (1.0 if rng.random() < 0.8 else 1.6)]
    if family == "small":
        return rng.uniform(16, 30, count).tolist()
    if family == "easy":
        low, high = {1: (0.20, 0.60), 2: (0.18, 0.46), 3: (0.17, 0.38)}[count]
        return [max(18.0, rng.uniform(low, high) * side) for _ in range(count)]
    most = {1: 0.9, 2: 0.62, 3: 0.5, 4: 0.42, 5: 0.36, 6: 0.32}.get(count, 0.95 / count**0.62)
    most = max(20.0, most * math.sqrt(side * max(x2 - x1, y2 - y1)))
    least = max(16.0, 0.3 * most if rng.random() < 0.7 else 16.0)
    if rng.random() < 0.25:  # all of one size
        return [rng.uniform(least, most)] * count
    return [math.exp(rng.uniform(math.log(least), math.log(most))) for _ in range(count)]


def _forms(rng, family, names):
    upright = rng.random() < UPRIGHT.get(family, 0.2)
    return [layout.pick_form(rng, kind, upright) for _, kind in names]


def _unnamed(rng, names, forms):
    """(names, forms, paints) of which four in ten colours, and four in ten kinds, have no name.

    So colour and kind must be seen apart: these shapes can only be asked about by the other half.
    """
    names, forms, paints = list(names), list(forms), [None] * len(names)
    for i, (colour, kind) in enumerate(names):
        roll = rng.random()
        if roll < 0.4:
            kind = KINDS[rng.integers(len(KINDS))]
            names[i], forms[i] = ("", kind), layout.pick_form(rng, kind, rng.random() < 0.5)
            paints[i] = layout.unnamed_colour(rng, kind)
        elif roll < 0.8:
            names[i], forms[i] = (colour, ""), layout.unnamed_form(rng, colour)
    return names, forms, paints


def _gaps(rng, family, names):
    """[N, N] least distances between boxes: none between touching ones, which differ in colour."""
    least = 0 if family == "touching" else int(rng.choice((2, 4, 6), p=(0.3, 0.5, 0.2)))
    return [[4 if a[0] == b[0] else least for b in names] for a in names]


def _boxes(rng, size, area, family, sizes, aspects, gaps, clear):
    if family == "touching":
        return layout.chain(rng, area, sizes, aspects)
    if family in ("crowd", "free") and not clear and rng.random() < 0.4:
        return layout.arrange(rng, area, sizes, aspects)
    return layout.place(rng, size, area, sizes, aspects, gaps, clear)


def _shapes_image(rng, size, family, count, pairs):
    """A scene of a family, or None when its shapes do not fit."""
    ground = pick_ground(rng, words=family == "labelled")
    area = layout.free_area(ground, *size)
    clear = family == "easy" or (count <= 6 and rng.random() < 0.6)
    repeat = 0.3 if clear else 0.5
    pairs = _palette(rng, pairs)
    names = layout.pick_pairs(rng, count, pairs, repeat)
    if family == "touching":
        names = _unlike_neighbours(rng, names, pairs)
    forms, paints = _forms(rng, family, names), [None] * count
    if family == "unnamed":
        names, forms, paints = _unnamed(rng, names, forms)
    words, area = _labels(rng, area) if family == "labelled" else ((), area)
    sizes, aspects = _sizes(rng, family, count, area), [f.aspect for f in forms]
    boxes = _boxes(
        rng, size, area, family, sizes, aspects, _gaps(rng, family, names), clear
    )  # fmt: skip
    if boxes is None:
        return None
    things = zip(names, forms, boxes, paints, strict=True)
    shapes = [form.shape(colour, box, paint) for (colour, _), form, box, paint in things]
    return layout.close_scene(*size, shapes, words, ground)


@lru_cache(maxsize=64)
def _without(pairs, colour):
    return tuple(p for p in pairs if p[0] != colour) or pairs


def _palette(rng, pairs):
    """The pairs of one image: mostly without white, so that the paper may be white."""
    roll = rng.random()
    return _without(tuple(pairs), "white" if roll < 0.65 else "black" if roll < 0.75 else "")


def _unlike_neighbours(rng, names, pairs):
    """Names of which no two in a row share a colour."""
    names = list(names)
    for i in range(1, len(names)):
        while names[i][0] == names[i - 1][0]:
            names[i] = pairs[rng.integers(len(pairs))] if len({c for c, _ in pairs}) > 1 else None
            if names[i] is None:
                raise ValueError("touching shapes need two colours")
    return names


# ------------------------------------------------------------------------------------------ words


def make_text(rng):
    """One to eight characters: a word, letters, or letters and digits (no two digits in a row).

    Characters that look like another one are left out unless a word tells which it is: in capitals
    I and O, in lower case l, 0 and 1, and letters alone whose capitals look the same.
    """
    while True:
        roll = rng.random()
        if roll < 0.35:
            text = WORDS[rng.integers(len(WORDS))]
            return text.upper() if roll < 0.12 else text.capitalize() if roll < 0.17 else text
        capitals = rng.random() < 0.5
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ" if capitals else "abcdefghijkmnopqrstuvwxyz"
        digits = "0123456789" if capitals else "23456789"
        share, text = 0.8 if roll < 0.6 else 1.0, ""
        for _ in range(int(rng.integers(1, 9 if roll < 0.8 else 5))):
            options = letters if text[-1:].isdigit() or rng.random() < share else digits
            text += options[rng.integers(len(options))]
        if not capitals and len(text) > 1 and rng.random() < 0.15 and text[0] not in "io":
            text = text[0].upper() + text[1:]
        if set(text) - ALIKE:
            return text


def _word(rng, area, low=14, high=90):
    """A word somewhere in a free area, its ink between `low` and `high` pixels high."""
    x1, y1, x2, y2 = area
    text, font = make_text(rng), int(rng.integers(len(fonts.FONTS)))
    width, height = fonts.measure(text, font)
    most = min((x2 - x1 - 4) / width, (y2 - y1 - 4) / height, high / height)
    least = min(most, max(low / height, 9 * len(text) / width))
    scale = math.exp(rng.uniform(math.log(least), math.log(most)))
    w, h = 2 * max(2, round(scale * width / 2)), 2 * max(2, round(scale * height / 2))
    x = x1 + 2 * int(rng.integers(0, (x2 - x1 - w) // 2 + 1))
    y = y1 + 2 * int(rng.integers(0, (y2 - y1 - h) // 2 + 1))
    return Word(text, (x, y, x + w, y + h), font)


def _word_image(rng, size):
    ground = pick_ground(rng, words=True)
    word = _word(rng, layout.free_area(ground, *size))
    return replace(layout.close_scene(*size, (), (word,), ground), clear=False)


def _labels(rng, area):
    """(words in a band at one side, what is left to shapes)."""
    x1, y1, x2, y2 = area
    band = 2 * round(rng.uniform(20, 36) / 2)
    if y2 - y1 < band + 40:
        return (), area
    below = rng.random() < 0.5
    strip = (x1, y2 - band, x2, y2) if below else (x1, y1, x2, y1 + band)
    rest = (x1, y1, x2, y2 - band - 2) if below else (x1, y1 + band + 2, x2, y2)
    count = int(rng.integers(1, 1 + min(3, max(1, (x2 - x1) // 90))))
    edges = np.linspace(x1, x2, count + 1)
    cells = [(2 * int(a / 2), strip[1], 2 * int(b / 2) - 6, strip[3])
             for a, b in pairwise(edges)]  # fmt: skip
    return tuple(_word(rng, cell, 10, band - 4) for cell in cells), rest


# ------------------------------------------------------------------------------------------ pairs

CHANGES = ("removed", "added", "coloured", "moved", "resized", "kind")


def make_pair(rng, limits=LIMITS, training=True, pairs=PAIRS, changes=None):
    """Two scenes with 0, 1 or 2 differences among one to five shapes of different names.

    changes: the number of differences, or None for any.  The images have different sizes now and
    then (never when a shape moves or changes its size).
    """
    number = int(rng.choice(3, p=(0.2, 0.6, 0.2))) if changes is None else changes
    while True:
        made = _pair(rng, limits, pairs, number)
        if made is not None:
            return made


def _pair(rng, limits, pairs, number):
    size, ground = layout.image_size(rng, limits.pair_area, limits), pick_ground(rng)
    area = layout.free_area(ground, *size)
    count = max(number, int(rng.choice((1, 2, 3, 4, 5), p=(0.2, 0.25, 0.3, 0.15, 0.1))))
    if count > 3 and min(size) < 84:
        return None
    pairs = _palette(rng, pairs)
    names = layout.pick_pairs(rng, count, pairs, 0.3, distinct=True)
    forms = _forms(rng, "easy" if rng.random() < 0.5 else "free", names)
    sizes = _sizes(rng, "easy" if count <= 3 else "free", count, area)
    gaps = [[4] * count] * count
    clear = rng.random() < 0.8
    boxes = layout.place(rng, size, area, sizes, [f.aspect for f in forms], gaps, clear)
    if boxes is None:
        return None
    shapes = [f.shape(c, b) for (c, _), f, b in zip(names, forms, boxes, strict=True)]
    taken, made = list(shapes), []
    for i in rng.permutation(count)[:number]:
        change = _change(rng, size, area, taken, shapes[i], pairs)
        if change is None:
            return None
        taken += [s for s in (change.after,) if s]
        made.append(change)
    return _two_scenes(rng, limits, size, ground, shapes, made)


def _two_scenes(rng, limits, size, ground, shapes, changes):
    changed = {c.before or c.after: c for c in changes}
    before = [s for s in shapes if not (s in changed and changed[s].what == "added")]
    after = [changed[s].after if s in changed else s for s in shapes]
    after = [s for s in after if s is not None]
    first = layout.close_scene(*size, before, (), ground)
    second = layout.close_scene(*size, after, (), ground)
    if not {c.what for c in changes} & {"moved", "resized"} and rng.random() < 0.2:
        other = layout.similar_size(rng, size, limits.pair_area, limits)
        second, moved = _rescaled(second, other)
        changes = [replace(c, after=moved.get(c.after)) for c in changes]
    return Pair(first, second, tuple(changes))


def _rescaled(scene, size):
    """(the scene at another size, {shape: the shape at that size})."""
    fx, fy = size[0] / scene.width, size[1] / scene.height
    scale, moved = math.sqrt(fx * fy), {}
    for s in scene.shapes:
        sides = [max(2, 2 * round((s.box[i + 2] - s.box[i]) * scale / 2)) for i in (0, 1)]
        w, h = min(sides[0], size[0]), min(sides[1], size[1])
        x = 2 * round((s.centre[0] * fx - w / 2) / 2)
        y = 2 * round((s.centre[1] * fy - h / 2) / 2)
        x, y = min(max(x, 0), size[0] - w), min(max(y, 0), size[1] - h)
        moved[s] = replace(s, box=(x, y, x + w, y + h))
    return layout.close_scene(*size, moved.values(), (), scene.ground), moved


def _change(rng, size, area, taken, shape, pairs):
    """One difference that befalls a shape, or None when there is no room for it."""
    what = CHANGES[rng.integers(len(CHANGES))]
    others = [s.box for s in taken if s is not shape]
    names = {(s.colour, s.kind) for s in taken}
    if what == "removed":
        return Change(what, shape, None)
    if what == "added":
        return Change(what, None, shape)
    if what in ("coloured", "kind"):
        part = 1 if what == "coloured" else 0
        own = (shape.colour, shape.kind)
        free = [p for p in pairs if p[part] == own[part] and p not in names]
        if not free:
            return None
        colour, kind = free[rng.integers(len(free))]
        if what == "coloured":
            return Change(what, shape, replace(shape, colour=colour))
        form = layout.pick_form(rng, kind, rng.random() < 0.6)
        return _fitted(what, shape, form.shape(colour, shape.box), form.aspect, 1.0, area, others)
    if what == "resized":
        factor = rng.uniform(1.35, 2.2)
        factor = factor if rng.random() < 0.5 else 1 / factor
        width, height = shape.box[2] - shape.box[0], shape.box[3] - shape.box[1]
        return _fitted(what, shape, shape, width / height, factor, area, others)
    return _moved(rng, area, shape, others)


def _fitted(what, before, after, aspect, factor, area, others):
    """A change in size or kind around the same centre, if there is room."""
    w, h = layout.box_sides(before.size * factor, aspect)
    x = 2 * round((before.centre[0] - w / 2) / 2)
    y = 2 * round((before.centre[1] - h / 2) / 2)
    box = (x, y, x + w, y + h)
    if before.size * factor < layout.SMALLEST or not _inside(box, area, others):
        return None
    return Change(what, before, replace(after, box=box))


def _inside(box, area, others):
    x1, y1, x2, y2 = box
    inside = area[0] <= x1 and area[1] <= y1 and x2 <= area[2] and y2 <= area[3]
    return inside and layout.fits(box, others, [4] * len(others))


def _moved(rng, area, shape, others):
    """A move to a free spot: half of them small, 12 pixels or more."""
    x1, y1, x2, y2 = shape.box
    w, h = x2 - x1, y2 - y1
    least = max(12.0, 0.3 * min(w, h))
    for _ in range(30):
        if rng.random() < 0.5:
            angle, reach = rng.uniform(0, 2 * math.pi), least * rng.uniform(1, 2.5)
            x, y = x1 + reach * math.cos(angle), y1 + reach * math.sin(angle)
            x, y = 2 * round(x / 2), 2 * round(y / 2)
        else:
            x = area[0] + 2 * int(rng.integers(0, max(1, (area[2] - area[0] - w) // 2 + 1)))
            y = area[1] + 2 * int(rng.integers(0, max(1, (area[3] - area[1] - h) // 2 + 1)))
        far = math.dist((x, y), (x1, y1)) >= least
        if far and _inside((x, y, x + w, y + h), area, others):
            return Change("moved", shape, replace(shape, box=(x, y, x + w, y + h)))
    return None


# ----------------------------------------------------------------------------------------- videos

RATES = (0.5, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 8.0)  # frames a second


def make_times(rng, limits=LIMITS):
    """Seconds of each frame: an even rate, now and then uneven by up to a third of a step."""
    rate = RATES[rng.integers(len(RATES))] if rng.random() < 0.8 else rng.uniform(0.6, 8)
    most = int(min(limits.most_frames, limits.seconds * rate + 1))
    short = min(most, 8) if rng.random() < 0.5 else most
    count = int(rng.integers(limits.least_frames, max(limits.least_frames, short) + 1))
    times = np.arange(count) / rate
    if rng.random() < 0.12 and count > 2:
        times[1:-1] += rng.uniform(-0.33, 0.33, count - 2) / rate
    return tuple(round(float(t), 3) for t in times)


def make_clip(rng, limits=LIMITS, training=True, pairs=PAIRS, times=None):
    """A clip: one or two shapes appear, another may move; one or two more may stay."""
    times = times or make_times(rng, limits)
    while True:
        made = _clip(rng, limits, pairs, times)
        if made is not None:
            return made


def _clip(rng, limits, pairs, times):
    area = min(limits.frame_area, 160_000 // len(times))
    size, ground = layout.image_size(rng, area, limits), pick_ground(rng)
    free = layout.free_area(ground, *size)
    count = int(rng.choice((3, 4), p=(0.75, 0.25)))
    names = layout.pick_pairs(rng, count, _palette(rng, pairs), distinct=True)
    forms = _forms(rng, "easy", names)
    sizes = _sizes(rng, "easy", 3, free) + [0.2 * min(size)] * (count - 3)
    gaps = [[4] * count] * count
    boxes = layout.place(rng, size, free, sizes, [f.aspect for f in forms], gaps, count == 3)
    if boxes is None:
        return None
    shapes = [f.shape(c, b) for (c, _), f, b in zip(names, forms, boxes, strict=True)]
    comer, mover, other, *rest = shapes
    length = len(times)
    first, second = rng.integers(1, length, 2).tolist()
    direction, path = _path(rng, mover.box, free, length)
    moving, other_comes, other_stays, rest_stay = rng.random(4) < (0.55, 0.4, 0.5, 0.7)
    swept = (*np.min(path, 0)[:2].tolist(), *np.max(path, 0)[2:].tolist())
    others = [s.box for s in shapes if s is not mover]
    if moving and rng.random() < 0.9 and not layout.fits(swept, others, [0] * len(others)):
        return None
    frames = []
    for index in range(length):
        seen = list(rest) if rest_stay else []
        if index >= first:
            seen.append(comer)
        if moving:
            seen.append(replace(mover, box=path[index]))
        if index >= second if other_comes else other_stays:
            seen.append(other)
        frames.append(layout.close_scene(*size, seen, (), ground))
    appears = {comer.name: times[first]}
    if other_comes:
        appears[other.name] = times[second]
    return Clip(tuple(frames), times, appears, {mover.name: direction} if moving else {})


def _path(rng, box, area, length):
    """(direction, boxes): a straight walk over a quarter of the free way or more."""
    x1, y1, x2, y2 = box
    sides = (x2 - x1, y2 - y1)
    room = [area[2] - area[0] - sides[0], area[3] - area[1] - sides[1]]
    across = int(rng.random() < room[1] / max(1, sum(room)))
    travel = max(min(12, room[across]), rng.uniform(0.25, 1.0) * room[across])
    start = area[across] + rng.uniform(0, room[across] - travel)
    stops = 2 * np.round(np.linspace(start, start + travel, length) / 2)
    stops = np.clip(stops, area[across], area[across + 2] - sides[across]).astype(int)
    backwards = rng.random() < 0.5
    stops = stops[::-1].tolist() if backwards else stops.tolist()
    boxes = [(x1, s, x2, s + sides[1]) if across else (s, y1, s + sides[0], y2) for s in stops]
    names = ("up", "down") if across else ("left", "right")
    return names[0] if backwards else names[1], boxes
