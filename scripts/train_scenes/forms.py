"""Forms of shapes, with and without names.

Ranges of forms within which a name is beyond doubt (`pick_form`):

- A square is never rotated by 22 to 68 degrees (at 45 it is a diamond), and never stretched; a
  rectangle's sides are as 1.5 to 3.2, a line's length is at least nine times its thickness.
- A diamond as wide as high is rotated by at most 12 degrees, a slim one (as 1.4 to 2), upright or
  lying, by at most 22: else it would be a square or a parallelogram.
- A circle and a ring are never stretched; an oval's axes are as 1.4 to 2.2.
- A ring's band is 0.17 to 0.30 of its diameter; a circle's outline at most 0.09 of it (`pens`).
- Triangles, stars, hearts, crosses and arrows keep their names at every angle and when stretched
  by up to 1.6, 1.25, 1.2, 1.3 and 1.5.
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from scripts.train_scenes.drawing import outlines
from scripts.train_scenes.scene import COLOURS, HELD_OUT, PAIRS, SHADES, Shape


@dataclass(frozen=True)
class Form:
    """What a shape's outline is like, as in `Shape`, and the width over height of its box."""

    kind: str = ""
    angle: float = 0.0
    stretch: float = 1.0
    proportion: float = 0.0
    form: str = ""
    outline: tuple[tuple[float, float], ...] | None = None
    aspect: float = 1.0

    def shape(self, colour, box, paint=None):
        """The shape of this form in a box."""
        return Shape(
            colour, self.kind, box, self.angle, self.stretch, self.proportion, paint, self.form,
            self.outline,
        )  # fmt: skip


def _either(rng, low, high):
    """A ratio from low to high, or its inverse; spread evenly in its logarithm."""
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return value if rng.random() < 0.5 else 1 / value


def _any_angle(rng):
    return float(rng.integers(0, 360))


def _triangle(rng):
    lean = rng.random()
    apex = 0.0 if lean < 0.5 else 0.5 if lean < 0.65 else rng.uniform(-0.45, 0.45)
    return _any_angle(rng), _either(rng, 1, 1.6), apex


def _diamond(rng):
    if rng.random() < 0.5:
        return rng.uniform(-12, 12), 1.0, 0.0
    return 90.0 * int(rng.integers(2)) + rng.uniform(-22, 22), 1 / rng.uniform(1.4, 2.0), 0.0


VARIED = {  # kind: (angle, stretch, proportion)
    "circle": lambda rng: (0.0, 1.0, 0.0),
    "ring": lambda rng: (0.0, 1.0, rng.uniform(0.17, 0.30)),
    "square": lambda rng: (rng.uniform(-22, 22), 1.0, 0.0),
    "triangle": _triangle,
    "star": lambda rng: (
        _any_angle(rng), _either(rng, 1, 1.25),
        rng.uniform(0.36, 0.5) + (rng.random() < 0.15) * 1.1,
    ),
    "cross": lambda rng: (_any_angle(rng), _either(rng, 1, 1.3), rng.uniform(0.12, 0.42)),
    "diamond": _diamond,
    "heart": lambda rng: (
        rng.uniform(-40, 40) if rng.random() < 0.7 else _any_angle(rng), _either(rng, 1, 1.2), 0.0,
    ),
    "rectangle": lambda rng: (_any_angle(rng), rng.uniform(1.5, 3.2), 0.0),
    "oval": lambda rng: (_any_angle(rng), rng.uniform(1.4, 2.2), 0.0),
    "line": lambda rng: (_any_angle(rng), rng.uniform(9, 24), 0.0),
    "arrow": lambda rng: (_any_angle(rng), rng.uniform(0.75, 1.5), rng.uniform(0.2, 0.55)),
}  # fmt: skip
QUARTERS = {"rectangle", "oval", "line", "arrow"}


def pick_form(rng, kind, upright=False):
    """A form of a kind; `upright`: neither rotated nor stretched beyond what the kind needs."""
    angle, stretch, proportion = VARIED[kind](rng)
    if upright:
        angle = 90.0 * int(rng.integers(4)) if kind in QUARTERS else 0.0
        stretch = stretch if kind in QUARTERS else 1.0
        proportion = proportion if kind == "line" else 0.0
    angle, stretch, proportion = (round(float(v), 2) for v in (angle, stretch, proportion))
    aspect = outlines.form(kind, stretch, angle, proportion)[1]
    return Form(kind, angle, stretch, proportion, aspect=aspect)


# ---------------------------------------------------------------------- colours and kinds, unnamed


def distances(paint):
    """{colour name: least distance of its RGB values to an RGB colour}."""
    return {
        name: min(math.dist(paint, table) for table in (COLOURS[name], *SHADES[name]))
        for name in COLOURS
    }


def has_hue(paint, name):
    """True when an RGB colour is not grey and its hue is within 60 degrees of a named colour's."""
    hues = [colorsys.rgb_to_hsv(*colour)[0] * 360 for colour in (paint, COLOURS[name])]
    apart = abs(hues[0] - hues[1])
    return max(paint) - min(paint) >= 24 and min(apart, 360 - apart) <= 60


def unnamed_colour(rng, kind):
    """An RGB colour far from every named one, for a shape of `kind`.

    It does not have the hue of a colour that is held out with this kind.
    """
    held_out = [c for c, k in HELD_OUT if k == kind]
    while True:
        paint = tuple(rng.integers(0, 256, 3).tolist())
        if min(distances(paint).values()) >= 64 and not any(has_hue(paint, c) for c in held_out):
            return paint


LIKE = {  # the forms of `unnamed_outline` that come near a kind
    "star": ("polygon",), "heart": ("polygon",), "triangle": ("polygon",),
    "ring": ("frame", "arc"), "cross": ("bars",),
}  # fmt: skip


def unnamed_form(rng, colour):
    """A form without a name that is not like the kind that is held out with a colour.

    Else "like a ring, and green" would be taught to have no name.
    """
    unlike = [form for held, kind in HELD_OUT if held == colour for form in LIKE[kind]]
    while True:
        name = rng.choice(("polygon", "frame", "arc", "bars"), p=(0.35, 0.25, 0.25, 0.15))
        if name not in unlike:
            return Form(form=str(name), outline=unnamed_outline(rng, name))


def unnamed_outline(rng, form):
    """Corners in the unit square of a kind that has no name, as massive or as thin as the named.

    An uneven polygon, the frame of one, an arc of a ring, or bars: an L, T or U lying any way.
    """
    if form == "polygon":
        corners = _uneven_polygon(rng)
    elif form == "frame":
        outer = _uneven_polygon(rng)
        corners = _frame(outer, rng.uniform(0.45, 0.65) * outer)
    elif form == "arc":
        angles = rng.uniform(0, 2 * math.pi) + np.linspace(0, rng.uniform(2.8, 4.4), 24)
        outer = np.stack([np.cos(angles), np.sin(angles)], 1)
        corners = np.concatenate([outer, rng.uniform(0.45, 0.65) * outer[::-1]])
    else:
        corners = outlines.transformed(
            [np.array(BARS[rng.integers(len(BARS))], dtype=np.float64)],
            1.0, 90.0 * int(rng.integers(4)),
        )[0]  # fmt: skip
    return tuple(map(tuple, outlines.unit(corners).tolist()))


def _uneven_polygon(rng):
    """Six to eight corners around (0, 0), one in the lower half pulled in (a heart's is above)."""
    count = int(rng.integers(6, 9))
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * math.pi / count
    radii = rng.uniform(0.65, 1.0, count)
    radii[rng.choice(np.flatnonzero(np.sin(angles) > 0.1))] = 0.25
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _frame(outer, inner):
    """One path around what lies between two closed paths."""
    return np.concatenate([outer, outer[:1], inner[:1], inner[:0:-1], inner[:1]])


_A, _B = 0.32, 0.68
BARS = (  # an L, a T and a U
    ((0, 0), (_A, 0), (_A, _B), (1, _B), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (1, _A), (_B, _A), (_B, 1), (_A, 1), (_A, _A), (0, _A)),
    ((0, 0), (_A, 0), (_A, _B), (_B, _B), (_B, 0), (1, 0), (1, 1), (0, 1)),
)


def pick_pairs(rng, count, pairs=PAIRS, repeat=0.0, distinct=False):
    """`count` (colour, kind) pairs; with probability `repeat` a shape shares colour or kind."""
    chosen = []
    while len(chosen) < count:
        pair = pairs[rng.integers(len(pairs))]
        if chosen and rng.random() < repeat:
            colour, kind = chosen[rng.integers(len(chosen))]
            pair = (colour, pair[1]) if rng.random() < 0.4 else (pair[0], kind)
            if pair not in pairs:
                continue
        if not (distinct and pair in chosen):
            chosen.append(pair)
    return chosen
