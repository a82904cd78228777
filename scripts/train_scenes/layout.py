"""Where shapes are and what form they have: sizes of images, forms, places.

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
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from scripts.train_scenes.drawing import outlines
from scripts.train_scenes.scene import CELL, COLOURS, HELD_OUT, PAIRS, SHADES, Scene, Shape

SMALLEST = 16  # pixels of a shape's longer side

# ------------------------------------------------------------------------------- sizes of images


@lru_cache(maxsize=16)
def _grids(area, least_side, aspect):
    """All (rows, columns) of cells within limits, [N, 2]."""
    least, most = math.ceil(least_side / CELL), int(area / CELL / least_side)
    grids = [
        (r, c)
        for r in range(least, most + 1)
        for c in range(least, most + 1)
        if r * c * CELL * CELL <= area and max(r, c) <= aspect * min(r, c)
    ]
    return np.array(grids)


@lru_cache(maxsize=64)
def _grid_weights(area, least_side, aspect, family):
    grids = _grids(area, least_side, aspect)
    cells, ratio = grids.prod(1), grids.max(1) / grids.min(1)
    if family == "small":
        weights = ((grids >= 4) & (grids <= 8)).all(1) / cells
    elif family == "large":
        weights = (cells >= 0.75 * cells.max()) & (ratio <= 2)
    else:
        weights = np.ones(len(grids))
    if not weights.sum():
        weights = np.ones(len(grids))
    return np.cumsum(weights / weights.sum())


def image_size(rng, area, limits, family=None):
    """(width, height) in pixels; mostly small, some as large as the area permits, some any."""
    roll = rng.random()
    family = family or ("small" if roll < 0.62 else "large" if roll < 0.78 else "any")
    key = (area, limits.least_side, limits.aspect)
    index = int(np.searchsorted(_grid_weights(*key, family), rng.random()))
    rows, columns = _grids(*key)[min(index, len(_grids(*key)) - 1)]
    return int(columns) * CELL, int(rows) * CELL


def similar_size(rng, size, area, limits):
    """Another (width, height) with the aspect of `size` within 8 %, or `size` if there is none."""
    grids = _grids(area, limits.least_side, limits.aspect)
    ratio = np.abs(np.log(grids[:, 1] / grids[:, 0] / (size[0] / size[1])))
    rows, columns = grids[rng.choice(np.flatnonzero(ratio < 0.08))] if (ratio < 0.08).any() else (
        size[1] // CELL, size[0] // CELL)  # fmt: skip
    return int(columns) * CELL, int(rows) * CELL


# ----------------------------------------------------------------------------------------- forms


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


# ---------------------------------------------------------------------------------------- places


def free_area(ground, width, height):
    """The box (x1, y1, x2, y2) that a ground leaves to shapes."""
    if ground == "toolbar":
        return 0, 2 * round(min(28, 0.17 * height) / 2), width, height
    if ground == "frame":
        margin = 2 * round(min(14, 0.08 * min(width, height)) / 2)
        return margin, margin, width - margin, height - margin
    return 0, 0, width, height


def box_sides(size, aspect):
    """Even (width, height) of a box whose longer side is `size`, at least 4 pixels each."""
    width, height = (size, size / aspect) if aspect >= 1 else (size * aspect, size)
    return max(4, 2 * round(width / 2)), max(4, 2 * round(height / 2))


def fits(box, others, gaps):
    """True when a box keeps each of `gaps` pixels from each of `others`."""
    x1, y1, x2, y2 = box
    return all(
        x2 + g <= ox1 or ox2 + g <= x1 or y2 + g <= oy1 or oy2 + g <= y1
        for (ox1, oy1, ox2, oy2), g in zip(others, gaps, strict=True)
    )


def _off_borders(fraction):
    """True when a centre at `fraction` of a side is well inside one third of that side."""
    return min(abs(fraction - 1 / 3), abs(fraction - 2 / 3)) > 0.035


def least_step(count):
    """The least distance in widths between centres of a clear scene of `count` shapes."""
    return 0.085 if count <= 3 else 0.07


def is_clear(scene):
    """True when at most six shapes stand in a clear order, none near a border between places."""
    xs = [s.centre[0] / scene.width for s in scene.shapes]
    ys = [s.centre[1] / scene.height for s in scene.shapes]
    step = least_step(len(xs))
    return (
        len(xs) <= 6
        and all(b - a >= step for a, b in pairwise(xs))
        and all(_off_borders(f) for f in xs + ys)
    )


def in_order(shapes):
    """Shapes sorted by the x, then the y of their centres."""
    return tuple(sorted(shapes, key=lambda s: s.centre))


def close_scene(width, height, shapes, words=(), ground="plain"):
    """A scene with its shapes in order and an honest `clear`."""
    scene = Scene(width, height, in_order(shapes), tuple(words), ground)
    return replace(scene, clear=is_clear(scene))


def place(rng, size, area, sizes, aspects, gaps, clear=False):
    """Boxes for forms that keep apart, or None when they do not fit after some tries.

    size: (width, height) of the image; area: the box to keep to; sizes: the longer side of each,
    shrunk a little on each new try; gaps: [N, N] least distance in pixels.
    """
    width, height = size
    ax1, ay1, ax2, ay2 = area
    room = 2 * ((ax2 - ax1) // 2), 2 * ((ay2 - ay1) // 2)
    step = least_step(len(sizes)) * width
    for attempt in range(6):
        boxes = []
        for i, aspect in enumerate(aspects):
            most = min(room[0], room[1] * aspect) * max(1, 1 / aspect)  # of the longer side
            w, h = box_sides(min(most, max(SMALLEST, sizes[i] * 0.88**attempt)), aspect)
            # a tenth of the spots lie at an edge exactly
            spots = np.clip(rng.uniform(-0.05, 1.05, (40, 2)), 0, 0.9999)
            spots = spots * ((room[0] - w) / 2 + 1, (room[1] - h) / 2 + 1)
            for sx, sy in (2 * spots.astype(int) + (ax1, ay1)).tolist():
                box = (sx, sy, sx + w, sy + h)
                cx, cy = sx + w / 2, sy + h / 2
                if clear and not (_off_borders(cx / width) and _off_borders(cy / height)):
                    continue
                if clear and any(abs(cx - (b[0] + b[2]) / 2) < step for b in boxes):
                    continue
                if fits(box, boxes, gaps[i][:i]):
                    boxes.append(box)
                    break
            else:
                break
        if len(boxes) == len(aspects):
            return boxes
    return None


def arrange(rng, area, sizes, aspects):
    """Boxes in a row, a column or a grid of equal cells, now and then all in one line exactly."""
    ax1, ay1, ax2, ay2 = area
    width, height, count = ax2 - ax1, ay2 - ay1, len(sizes)
    options = [
        (rows, math.ceil(count / rows))
        for rows in range(1, count + 1)
        if min(width / math.ceil(count / rows), height / rows) >= SMALLEST + 4
    ]
    if not options:
        return None
    rows, columns = options[rng.integers(len(options))]
    cells = rng.permutation(rows * columns)[:count] if rng.random() < 0.3 else np.arange(count)
    loose = rng.random() * (rng.random() < 0.6)
    cell_width, cell_height = width / columns, height / rows
    boxes = []
    for cell, size, aspect in zip(cells.tolist(), sizes, aspects, strict=True):
        room = 0.94 * min(cell_width, cell_height)
        w, h = box_sides(max(SMALLEST, min(size, room)), aspect)
        dx, dy = loose * rng.uniform(-0.5, 0.5, 2) * (cell_width - w, cell_height - h)
        x = ax1 + (cell % columns + 0.5) * cell_width - w / 2 + dx
        y = ay1 + (cell // columns + 0.5) * cell_height - h / 2 + dy
        x, y = 2 * round(x / 2), 2 * round(y / 2)
        boxes.append((x, y, x + w, y + h))
    return boxes


def chain(rng, area, sizes, aspects):
    """Boxes that touch one another in a row or a column: each begins where the last one ends."""
    ax1, ay1, ax2, ay2 = area
    sides = [box_sides(s, a) for s, a in zip(sizes, aspects, strict=True)]
    along = int(rng.integers(2))
    room = (ax2 - ax1, ay2 - ay1)
    total, across = sum(s[along] for s in sides), max(s[1 - along] for s in sides)
    shrink = min(1.0, room[along] / total, room[1 - along] / across)
    sides = [tuple(2 * max(1, int(v * shrink / 2)) for v in s) for s in sides]
    if min(max(s) for s in sides) < SMALLEST:
        return None
    total, across = sum(s[along] for s in sides), max(s[1 - along] for s in sides)
    start = [2 * int(rng.integers(0, (room[i] - (total, across)[i != along]) // 2 + 1))
             for i in (0, 1)]  # fmt: skip
    boxes, at = [], start[along]
    for side in sides:
        shift = 2 * ((across - side[1 - along]) // 4)
        x, y = (at, start[1] + shift) if along == 0 else (start[0] + shift, at)
        boxes.append((ax1 + x, ay1 + y, ax1 + x + side[0], ay1 + y + side[1]))
        at += side[along]
    return boxes
