"""What is drawn: seeded images, pairs of images and videos with known contents.

`make_image` mixes the families of FAMILIES in the shares of SHARES; each can be asked for by name.
"""

import itertools
from dataclasses import replace

import numpy as np

from scripts.train_scenes import forms, layout
from scripts.train_scenes.choices import LIMITS, palette, pick_forms, pick_ground, pick_sizes
from scripts.train_scenes.clips import make_clip
from scripts.train_scenes.pairs import CHANGES, make_pair
from scripts.train_scenes.scene import KINDS, PAIRS, Refusal
from scripts.train_scenes.steering import COUNTS, FAMILY_SHARES
from scripts.train_scenes.words import place_labels, place_word

__all__ = ["CHANGES", "FAMILIES", "LIMITS", "make_clip", "make_image", "make_pair"]

SHARES = {  # family: share of images in the evaluation; FAMILY_SHARES holds those of training
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
_STEPS = {
    False: np.cumsum(list(SHARES.values())),
    True: np.cumsum([FAMILY_SHARES[family] for family in SHARES]),
}
CROWDED = np.arange(4, 15)
CROWDED_SHARES = np.array([5, 5, 5, 5, 5, 5, 5, 3.5, 2.5, 1.5, 1.5]) / 44


def make_image(rng, limits=LIMITS, training=True, family=None, pairs=PAIRS):
    """A Scene or a Refusal; family: one of FAMILIES, or None for their mixture.

    With `training` false, photographs are those held out; pairs: the (colour, kind) that occur.
    """
    if family is None:
        steps = _STEPS[training]
        family = FAMILIES[min(int(np.searchsorted(steps, rng.random())), len(FAMILIES) - 1)]
    size = layout.image_size(rng, limits.image_area, limits)
    if family in ("photograph", "noise", "blank"):
        return Refusal(*size, family, held_out=not training)
    if family == "word":
        return _word_image(rng, size, training)
    count = _count(rng, family, training)
    for attempt in itertools.count():
        scene = _shapes_image(rng, size, family, max(1, count - attempt // 20), pairs, training)
        if scene is not None:
            return scene
        size = layout.image_size(rng, limits.image_area, limits)


def _count(rng, family, training=False):
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
    return int(rng.choice((1, 2, 3, 4, 5, 6), p=COUNTS[training]))


def _unnamed(rng, names, shaped):
    """(names, shaped, paints) of which four in ten colours, and four in ten kinds, have no name.

    So colour and kind must be seen apart: these shapes can only be asked about by the other half.
    """
    names, shaped, paints = list(names), list(shaped), [None] * len(names)
    for i, (colour, kind) in enumerate(names):
        roll = rng.random()
        if roll < 0.4:
            kind = KINDS[rng.integers(len(KINDS))]
            names[i], shaped[i] = ("", kind), forms.pick_form(rng, kind, rng.random() < 0.5)
            paints[i] = forms.unnamed_colour(rng, kind)
        elif roll < 0.8:
            names[i], shaped[i] = (colour, ""), forms.unnamed_form(rng, colour)
    return names, shaped, paints


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


def _shapes_image(rng, size, family, count, pairs, training):
    """A scene of a family, or None when its shapes do not fit."""
    ground = pick_ground(rng, words=family == "labelled")
    area = layout.free_area(ground, *size)
    clear = family == "easy" or (count <= 6 and rng.random() < 0.6)
    repeat = 0.3 if clear else 0.5
    pairs = palette(rng, pairs)
    names = forms.pick_pairs(rng, count, pairs, repeat)
    if family == "touching":
        names = _unlike_neighbours(rng, names, pairs)
    shaped, paints = pick_forms(rng, family, names), [None] * count
    if family == "unnamed":
        names, shaped, paints = _unnamed(rng, names, shaped)
    words, area = place_labels(rng, area, training) if family == "labelled" else ((), area)
    sizes, aspects = pick_sizes(rng, family, count, area), [f.aspect for f in shaped]
    boxes = _boxes(
        rng, size, area, family, sizes, aspects, _gaps(rng, family, names), clear
    )  # fmt: skip
    if boxes is None:
        return None
    things = zip(names, shaped, boxes, paints, strict=True)
    shapes = [form.shape(colour, box, paint) for (colour, _), form, box, paint in things]
    return layout.close_scene(*size, shapes, words, ground)


def _unlike_neighbours(rng, names, pairs):
    """Names of which no two in a row share a colour."""
    names = list(names)
    for i in range(1, len(names)):
        while names[i][0] == names[i - 1][0]:
            names[i] = pairs[rng.integers(len(pairs))] if len({c for c, _ in pairs}) > 1 else None
            if names[i] is None:
                raise ValueError("touching shapes need two colours")
    return names


def _word_image(rng, size, training):
    ground = pick_ground(rng, words=True)
    word = place_word(rng, layout.free_area(ground, *size), training=training)
    return replace(layout.close_scene(*size, (), (word,), ground), clear=False)
