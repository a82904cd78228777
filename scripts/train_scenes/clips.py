"""Videos: scenes in which shapes appear and move."""

from dataclasses import replace

import numpy as np

from scripts.train_scenes import forms, layout
from scripts.train_scenes.choices import LIMITS, palette, pick_forms, pick_ground, pick_sizes
from scripts.train_scenes.scene import PAIRS, Clip

LEAST_WALK = 8  # pixels
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
        made = _clip(rng, limits, pairs, times, training)
        if made is not None:
            return made


def _clip(rng, limits, pairs, times, training):
    area = limits.frame_area
    if rng.random() < 0.75:  # long videos are mostly of small frames, for speed
        area = min(area, 160_000 // len(times))
    size, ground = layout.image_size(rng, area, limits), pick_ground(rng)
    free = layout.free_area(ground, *size)
    count = int(rng.choice((3, 4), p=(0.75, 0.25)))
    names = forms.pick_pairs(rng, count, palette(rng, pairs), distinct=True)
    shaped = pick_forms(rng, "easy", names)
    sizes = pick_sizes(rng, "easy", 3, free) + [0.2 * min(size)] * (count - 3)
    gaps = [[4] * count] * count
    boxes = layout.place(rng, size, free, sizes, [f.aspect for f in shaped], gaps, count == 3)
    if boxes is None:
        return None
    shapes = [f.shape(c, b) for (c, _), f, b in zip(names, shaped, boxes, strict=True)]
    comer, mover, other, *rest = shapes
    length = len(times)
    first, second = rng.integers(1, length, 2).tolist()
    direction, path = _path(rng, mover.box, free, length)
    moving, other_comes, other_stays, rest_stay = rng.random(4) < (0.55, 0.4, 0.5, 0.7)
    swept = (*np.min(path, 0)[:2].tolist(), *np.max(path, 0)[2:].tolist())
    others = [s.box for s in shapes if s is not mover]
    comers = [comer.box] + [other.box] * bool(other_comes)
    if moving and rng.random() < 0.9 and not layout.fits(swept, others, [0] * len(others)):
        return None
    if moving and training and not is_seen(path, comers, swept):
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


def is_seen(path, comers, swept):
    """Whether a walk is wide enough to be seen, and hides no shape that appears."""
    first, last = path[0], path[-1]
    far = max(abs(b - a) for a, b in zip(first, last, strict=True)) >= LEAST_WALK
    return far and layout.fits(swept, comers, [0] * len(comers))


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
