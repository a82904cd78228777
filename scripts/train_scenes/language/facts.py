"""What can be said for certain about a scene: order, places, sizes, and which names are unique."""

import colorsys
import math
from functools import cached_property
from itertools import pairwise

from scripts.train_scenes.scene import COLOURS, HELD_OUT, KINDS

PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
BORDER = 0.03  # of a side: a centre nearer to a border between places is doubtful
APART, SAME = 0.06, 0.025  # of the width: certainly different columns, certainly the same one
BESIDE = 0.09  # of a side: a certain left or right, above or below
MOST = 6  # shapes that are named or located one by one
LIKE = {  # forms without a name that come near a kind
    "star": ("polygon",), "heart": ("polygon",), "triangle": ("polygon",),
    "ring": ("frame", "arc"), "cross": ("bars",),
}  # fmt: skip


def has_hue(paint, name):
    """True when an RGB colour is not grey and its hue is within 60 degrees of a named colour's."""
    hues = [colorsys.rgb_to_hsv(*colour)[0] * 360 for colour in (paint, COLOURS[name])]
    apart = abs(hues[0] - hues[1])
    return max(paint) - min(paint) >= 24 and min(apart, 360 - apart) <= 60


def may_be_called(shape, colour):
    """True when a shape's colour has no name, but someone might call it `colour`."""
    if not shape.paint or shape.colour:
        return False
    gaps = {name: math.dist(shape.paint, table) for name, table in COLOURS.items()}
    return has_hue(shape.paint, colour) or colour == min(gaps, key=gaps.get)


class Facts:
    """A scene and what follows from it; every answer that is in doubt is None."""

    def __init__(self, scene):
        self.scene, self.shapes, self.words = scene, scene.shapes, scene.words
        self.width, self.height = scene.width, scene.height

    @cached_property
    def named(self):
        """Whether every shape has a colour and a kind with a name."""
        return all(s.colour and s.kind for s in self.shapes)

    @cached_property
    def words_here(self):
        """All colours and kinds in the scene, and what is written there."""
        written = {word.text.lower() for word in self.words}
        return written | {w for s in self.shapes for w in (s.colour, s.kind) if w}

    @cached_property
    def doubtful(self):
        """Colours that a shape without a colour's name may be called."""
        return {c for c in COLOURS if any(may_be_called(s, c) for s in self.shapes)}

    def fitting(self, mention):
        """The shapes of a (colour, kind), either of them empty."""
        colour, kind = mention
        return [
            s
            for s in self.shapes
            if (not colour or s.colour == colour) and (not kind or s.kind == kind)
        ]

    @cached_property
    def single(self):
        """[(mention, shape)] of all mentions that fit one shape only: full, by colour, by kind."""
        found = []
        for s in self.shapes:
            full = (s.colour, s.kind) if s.colour and s.kind else None
            for mention in (
                full,
                (s.colour, "") if s.colour else None,
                ("", s.kind) if s.kind else None,
            ):
                if mention and self.is_certain(mention) and self.fitting(mention) == [s]:
                    found.append((mention, s))
        return found

    def is_certain(self, mention):
        """Whether it is beyond doubt which shapes a mention fits."""
        colour, kind = mention
        if colour in self.doubtful:
            return False
        return not (kind and any(s.form in LIKE.get(kind, ()) for s in self.shapes if s.form))

    # ------------------------------------------------------------------------------- places

    def cell(self, shape):
        """(row, column) of the 3 x 3 grid, or None near a border."""
        x, y = shape.centre
        x, y = x / self.width, y / self.height
        if min(abs(x - 1 / 3), abs(x - 2 / 3), abs(y - 1 / 3), abs(y - 2 / 3)) <= BORDER:
            return None
        return min(2, int(3 * y)), min(2, int(3 * x))

    def place(self, shape):
        """`at the top left`, or None near a border."""
        cell = self.cell(shape)
        return cell and PLACES[cell[0]][cell[1]]

    @cached_property
    def places(self):
        """The place of every shape in order, or None when one is in doubt."""
        places = [self.place(s) for s in self.ordered or ()]
        return places if all(places) else None

    @cached_property
    def ordered(self):
        """The shapes from left to right, or None when in doubt."""
        return self.order(self.shapes)

    def order(self, shapes):
        """Shapes from left to right, those in one column from top to bottom; None when in doubt."""
        shapes = sorted(shapes, key=lambda s: s.centre)
        columns = []
        for s in shapes:
            gap = (s.centre[0] - columns[-1][-1].centre[0]) / self.width if columns else 1.0
            if gap >= APART:
                columns.append([s])
            elif gap <= SAME and s.centre[0] - columns[-1][0].centre[0] <= SAME * self.width:
                columns[-1].append(s)
            else:
                return None
        for column in columns:
            column.sort(key=lambda s: s.centre[1])
            if any(b.centre[1] - a.centre[1] < APART * self.height for a, b in pairwise(column)):
                return None
        return [s for column in columns for s in column]

    # -------------------------------------------------------------------------- comparisons

    def beside(self, first, second, axis):
        """-1, 1 or None: whether the first comes before the second along an axis."""
        gap = (first.centre[axis] - second.centre[axis]) / (self.width, self.height)[axis]
        return None if abs(gap) < BESIDE else (-1 if gap < 0 else 1)

    @staticmethod
    def bigger(first, second):
        """True, False or None: by the longer side and by the area, clearly."""
        ratio = first.size / second.size
        area = _area(first) / _area(second)
        if ratio >= 1.15 and area >= 1.4:
            return True
        return False if ratio <= 1 / 1.15 and area <= 1 / 1.4 else None

    def extreme(self, axis, last):
        """The shape furthest to one side, or None."""
        ranked = sorted(self.shapes, key=lambda s: s.centre[axis], reverse=last)
        if len(ranked) < 2 or self.beside(ranked[0], ranked[1], axis) is None:
            return None
        return ranked[0]

    def outsized(self, biggest):
        """The biggest shape, or the smallest one, or None."""
        ranked = sorted(self.shapes, key=_area, reverse=biggest)
        if len(ranked) < 2 or any(self.bigger(ranked[0], s) is not biggest for s in ranked[1:]):
            return None
        return ranked[0]

    def between(self, first, second):
        """The only shape clearly between two others, or None."""
        (ax, ay), (bx, by) = first.centre, second.centre
        dx, dy = bx - ax, by - ay
        length = math.hypot(dx, dy)
        found = None
        for s in self.shapes:
            if s is first or s is second:
                continue
            x, y = s.centre[0] - ax, s.centre[1] - ay
            along, aside = (x * dx + y * dy) / length**2, abs(x * dy - y * dx) / length**2
            if 0.25 <= along <= 0.75 and aside <= 0.2 and not found:
                found = s
            elif -0.05 < along < 1.05 and aside < 0.5:
                return None
        return found


def _area(shape):
    x1, y1, x2, y2 = shape.box
    return (x2 - x1) * (y2 - y1)


HELD_COLOUR = {kind: colour for colour, kind in HELD_OUT}
HELD_KIND = dict(HELD_OUT)
assert len(HELD_COLOUR) == len(HELD_KIND) == len(HELD_OUT) and set(HELD_COLOUR) <= set(KINDS)
