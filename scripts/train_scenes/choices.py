"""Choices that images, pairs and videos share: grounds, forms, sizes and palettes."""

import math
from functools import lru_cache

from scripts.train_scenes import forms
from scripts.train_scenes.drawing import grounds
from scripts.train_scenes.scene import Limits

LIMITS = Limits()
UPRIGHT = {"easy": 0.65}  # probability that all shapes of a scene are upright; else 0.2


def pick_ground(rng, words=False):
    """A family of grounds: plain ones are the commonest; beside words there are no toolbars."""
    if rng.random() < 0.28:
        return "plain"
    name = grounds.GROUNDS[rng.integers(1, len(grounds.GROUNDS))]
    return "plain" if words and name == "toolbar" else name


def pick_sizes(rng, family, count, area):
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


def pick_forms(rng, family, names):
    """A form for each (colour, kind), all upright or all free."""
    upright = rng.random() < UPRIGHT.get(family, 0.2)
    return [forms.pick_form(rng, kind, upright) for _, kind in names]


@lru_cache(maxsize=64)
def _without(pairs, colour):
    return tuple(p for p in pairs if p[0] != colour) or pairs


def palette(rng, pairs):
    """The pairs of one image: mostly without white, so that the paper may be white."""
    roll = rng.random()
    return _without(tuple(pairs), "white" if roll < 0.65 else "black" if roll < 0.75 else "")
