"""Pairs of images: two scenes with up to two differences."""

import math
from dataclasses import replace

from scripts.train_scenes import forms, layout
from scripts.train_scenes.choices import LIMITS, palette, pick_forms, pick_ground, pick_sizes
from scripts.train_scenes.scene import PAIRS, Change, Pair

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
    pairs = palette(rng, pairs)
    names = forms.pick_pairs(rng, count, pairs, 0.3, distinct=True)
    shaped = pick_forms(rng, "easy" if rng.random() < 0.5 else "free", names)
    sizes = pick_sizes(rng, "easy" if count <= 3 else "free", count, area)
    gaps = [[4] * count] * count
    clear = rng.random() < 0.8
    boxes = layout.place(rng, size, area, sizes, [f.aspect for f in shaped], gaps, clear)
    if boxes is None:
        return None
    shapes = [f.shape(c, b) for (c, _), f, b in zip(names, shaped, boxes, strict=True)]
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
        form = forms.pick_form(rng, kind, rng.random() < 0.6)
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
