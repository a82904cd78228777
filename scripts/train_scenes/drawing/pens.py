"""Strokes: how the outline of a shape becomes ink.

Every pen fills the shape's box with ink to within a pixel: strokes lie inside the outline, and a
wobbling path is scaled back to the box.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from scripts.train_scenes.drawing import outlines

PENS = ("filled", "edged", "outline", "pencil", "open", "crayon", "hatched")
HELD_OUT_PENS = ("dashed", "double", "shaded", "dotted")  # never drawn in training
MIN_HATCHED = 36  # pixels of a shape's shorter side, for patterns inside


@dataclass(frozen=True)
class Pen:
    """A stroke: its family, its width over the shape's size, and the seed of its irregularities.

    edge: the RGB of an edge; wobble: amplitude of irregularities over the shape's size.
    """

    family: str
    width: float = 0.06
    edge: tuple[int, int, int] | None = None
    wobble: float = 0.0
    seed: int = 0


def make_pen(rng, family, ink, ground):
    """A pen of a family for an RGB ink on a ground of RGB colours [N, 3].

    An edge that would not stand out from the ground is left away.
    """
    width = math.exp(rng.uniform(math.log(0.015), math.log(0.16)))
    wobble, edge = 0.0, None
    if family in ("pencil", "crayon"):
        wobble = rng.uniform(0.006, 0.022)
    elif family == "open" and rng.random() < 0.6:
        wobble = rng.uniform(0.004, 0.016)
    if family == "pencil":
        width = min(width, 0.07)
    if family == "edged":
        width, edge = min(width, 0.075), edge_colour(rng, np.array(ink), ground)
        family = "edged" if edge else "filled"
    if family == "shaded":
        edge = (255, 255, 255) if np.mean(ink) > ground.mean() else (0, 0, 0)
    return Pen(family, width, edge, wobble, int(rng.integers(1 << 31)))


def edge_colour(rng, ink, ground):
    """The RGB of an edge around an ink, far from both ink and ground, mostly dark; or None."""
    for _ in range(12):
        roll = rng.random()
        if roll < 0.5:
            edge = rng.integers(0, 50, 3)
        elif roll < 0.78:
            edge = (ink * rng.uniform(0.35, 0.6)).astype(int)
        elif roll < 0.95:
            edge = rng.integers(215, 256, 3)
        else:
            edge = rng.integers(0, 256, 3)
        if np.linalg.norm(ground - edge, axis=1).min() > 110 and np.linalg.norm(ink - edge) > 70:
            return tuple(edge.tolist())
    return None


def _wobbled(paths, pen):
    """Paths in the unit square displaced by a smooth field and scaled back to the unit square."""
    rng = np.random.default_rng(pen.seed)
    waves = (
        rng.normal(0, 1, (2, 5, 2))
        * (2 * math.pi / np.array([1.2, 0.7, 0.45, 0.3, 0.2]))[None, :, None]
    )
    phases = rng.uniform(0, 2 * math.pi, (2, 5))
    sizes = pen.wobble * np.array([1.0, 0.9, 0.7, 0.5, 0.35])
    moved = []
    for path in paths:
        dense = _dense(path)
        shift = [(np.sin(dense @ waves[i].T + phases[i]) * sizes).sum(1) for i in (0, 1)]
        moved.append(dense + np.stack(shift, 1))
    return _to_unit(moved)


def _to_unit(paths):
    every = np.concatenate(paths)
    low, high = every.min(0), every.max(0)
    return [outlines.unit(path, low, high) for path in paths]


def _dense(path, step=0.08, closed=True):
    """A path with points at most `step` apart, its corners kept."""
    if len(path) > 20:
        return path
    ends = np.concatenate([path, path[:1]]) if closed else path
    pieces = [] if closed else [path[-1:]]
    for a, b in reversed(list(pairwise(ends))):
        count = max(1, math.ceil(math.dist(a, b) / step))
        pieces.append(a + np.linspace(0, 1, count, endpoint=False)[:, None] * (b - a))
    return np.concatenate(pieces[::-1])


def inset(path, width):
    """A closed path in pixels moved inwards by `width`, with mitred corners."""
    path = path[np.abs(path - np.roll(path, 1, axis=0)).max(1) > 1e-6]
    edges = np.roll(path, -1, axis=0) - path
    area = (path[:, 0] * edges[:, 1] - path[:, 1] * edges[:, 0]).sum()
    normals = np.stack([-edges[:, 1], edges[:, 0]], 1)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True) * (1 if area > 0 else -1)
    before = np.roll(normals, 1, axis=0)
    sharpness = 1 + (normals * before).sum(1, keepdims=True)
    return path + width * (normals + before) / np.maximum(sharpness, 0.04)


def stroke(draw, points, width, fill, closed=False):
    """A line of `width` pixels through points [N, 2], round at its ends and corners."""
    points = np.concatenate([points, points[:1]]) if closed else points
    draw.line([tuple(p) for p in points.tolist()], fill=fill, width=max(1, round(width)))
    if width < 2.5:
        return
    steps = np.diff(points, axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((np.diff(angles) + math.pi) % (2 * math.pi) - math.pi)
    corners = points[1:-1][turns > 0.3]
    r = (width - 1) / 2
    for x, y in [*points[[0, -1]].tolist(), *corners.tolist()]:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _opened(path, seed):
    """A closed path with a gap somewhere, sometimes two: at most 0.6 of its shortest edge."""
    rng = np.random.default_rng(seed)
    edges = np.linalg.norm(np.roll(path, -1, axis=0) - path, axis=1)
    most = 0.11 if len(path) > 20 else max(0.04, 0.6 * edges.min() / edges.sum())
    share = rng.uniform(0.035, min(0.11, most) + 0.005)
    two = rng.random() < 0.3
    dense = _dense(path, 0.03)
    dense = np.roll(dense, -int(rng.integers(len(dense))), axis=0)
    count = len(dense)
    gap = max(1, round(count * (min(share, 0.06) if two else share)))
    if not two or count < 24:
        return [dense[: count - gap]]
    cut = int(rng.integers(count // 3, 2 * count // 3))
    return [dense[: cut - gap // 2], dense[cut + (gap + 1) // 2 : count - gap]]


def _edges(path):
    """A closed path as open ones from one sharp corner to the next."""
    steps = np.roll(path, -1, axis=0) - path
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((angles - np.roll(angles, 1) + math.pi) % (2 * math.pi) - math.pi)
    corners = np.flatnonzero(turns > 0.5).tolist() or [0]
    closed = np.concatenate([path, path[: corners[0] + 1]])
    return [closed[a : b + 1] for a, b in pairwise([*corners, len(path) + corners[0]])]


class Brush:
    """Draws shapes onto one image at a scale."""

    def __init__(self, image, scale):
        self.image, self.scale, self.draw = image, scale, ImageDraw.Draw(image)

    def shape(self, shape, ink, pen):
        """Draw one shape with a pen; ink: RGB."""
        family, paths = pen.family, outlines.shape_paths(shape)
        x1, y1, x2, y2 = shape.box
        size = max(x2 - x1, y2 - y1)
        least = min(x2 - x1, y2 - y1)
        if shape.kind == "line":
            family = "crayon" if pen.wobble else "filled"
        elif shape.form or (shape.kind == "ring" and (size < 48 or pen.seed % 2)):
            family = "crayon" if family == "crayon" else "filled"
        elif least < MIN_HATCHED and family in ("hatched", *HELD_OUT_PENS):
            family = "outline"
        elif family in ("outline", "pencil", "open") and pen.seed % 5 < 2 and least >= 20:
            lines = outlines.hand_strokes(shape)
            if lines is not None:
                self._hand_drawn(shape, lines, ink, pen, size)
                return
        getattr(self, f"_{family}")(shape, paths, ink, pen, self._width(shape, pen, size))

    def _width(self, shape, pen, size):
        """A stroke's width in drawn pixels, within what leaves the kind beyond doubt."""
        least = min(shape.box[2] - shape.box[0], shape.box[3] - shape.box[1])
        most = {"circle": 0.09, "oval": 0.08, "star": 0.075, "arrow": 0.045, "cross": 0.05}
        width = min(pen.width, most.get(shape.kind, 0.12)) * size
        return max(1.4, min(width, 0.14 * least)) * self.scale

    def _placed(self, paths, box, margin=0.0):
        """Unit paths in drawn pixels, `margin` inside the box."""
        x1, y1, x2, y2 = (v * self.scale for v in box)
        low = np.array((x1, y1)) + margin
        side = np.array((x2 - 1, y2 - 1)) - margin - low
        return [path * np.maximum(side, 0.5) + low for path in paths]

    def _polygon(self, paths, ink):
        if len(paths) == 1:
            self.draw.polygon([tuple(p) for p in paths[0].tolist()], fill=ink)
            return
        mask, corner = self._mask(paths[0])
        self._cut(mask, corner, paths)
        self.image.paste(ink, corner, mask)

    def _mask(self, path):
        """An empty "L" image around a path, and its corner in the image."""
        low = np.floor(path.min(0)).astype(int)
        width, height = np.ceil(path.max(0)).astype(int) - low + 1
        return Image.new("L", (int(width), int(height))), (int(low[0]), int(low[1]))

    @staticmethod
    def _cut(mask, corner, paths):
        draw = ImageDraw.Draw(mask)
        for path, value in zip(paths, (255, 0), strict=False):
            draw.polygon([tuple(p) for p in (path - corner).tolist()], fill=value)

    def _filled(self, shape, paths, ink, pen, width):
        self._polygon(self._placed(paths, shape.box), ink)

    def _crayon(self, shape, paths, ink, pen, width):
        self._polygon(self._placed(_wobbled(paths, pen), shape.box), ink)

    def _shaded(self, shape, paths, ink, pen, width):
        """Filled, one side less like the ground than the other (held out)."""
        placed = self._placed(paths, shape.box)
        mask, corner = self._mask(placed[0])
        self._cut(mask, corner, placed)
        ramp = np.linspace(0, 0.42, mask.size[pen.seed % 2])[:: 1 if pen.seed % 4 < 2 else -1]
        ramp = ramp[None, :, None] if pen.seed % 2 == 0 else ramp[:, None, None]
        pixels = np.array(ink) + ramp * (np.array(pen.edge) - ink) * np.ones((*mask.size[::-1], 1))
        self.image.paste(Image.fromarray(pixels.astype(np.uint8)), corner, mask)

    def _edged(self, shape, paths, ink, pen, width):
        placed = self._placed(paths, shape.box)
        if shape.kind == "heart":
            self._polygon(placed, ink)
            self._band(shape, placed[0], pen.edge, width)
            return
        self._polygon(placed, pen.edge)
        inner = [inset(placed[0], width)]
        if len(placed) > 1:
            inner.append(inset(placed[1], -width))
        self._polygon(inner, ink)

    def _outline(self, shape, paths, ink, pen, width):
        """Strokes of even width inside the outline, with sharp corners; a ring has two."""
        placed = self._placed(paths, shape.box)
        if len(placed) > 1:
            width = min(width, 0.05 * shape.size * self.scale)
            self._polygon([placed[0], inset(placed[0], width)], ink)
            self._polygon([inset(placed[1], -width), placed[1]], ink)
        else:
            self._band(shape, placed[0], ink, width)

    def _band(self, shape, path, ink, width):
        """What lies within a closed path and at most `width` from it."""
        if shape.kind != "heart":
            self._polygon([path, inset(path, width)], ink)
            return
        mask, corner = self._mask(path)
        self._cut(mask, corner, [path])
        line = Image.new("L", mask.size)
        stroke(ImageDraw.Draw(line), path - corner, 2 * width, 255, closed=True)
        self.image.paste(ink, corner, ImageChops.darker(mask, line))

    def _pencil(self, shape, paths, ink, pen, width):
        self._strokes(shape, _wobbled(paths, pen), ink, width, closed=True)

    def _open(self, shape, paths, ink, pen, width):
        paths = _wobbled(paths, pen) if pen.wobble else paths
        strokes = [piece for path in paths for piece in _opened(path, pen.seed)]
        self._strokes(shape, _to_unit(strokes), ink, width, closed=False)

    def _hand_drawn(self, shape, lines, ink, pen, size):
        """An arrow, a cross or a star as lines."""
        lines = [_dense(line, closed=False) for line in lines]
        lines = _wobbled(lines, pen) if pen.wobble else _to_unit(lines)
        most = {"arrow": 0.09, "cross": 0.15, "star": 0.04}[shape.kind]
        width = max(1.4, min(pen.width, most) * size) * self.scale
        self._strokes(shape, lines, ink, width, closed=False)

    def _strokes(self, shape, strokes, ink, width, closed):
        if len(strokes) > 1 and shape.kind == "ring":
            width = min(width, 0.05 * shape.size * self.scale)
        for points in self._placed(strokes, shape.box, (width - 1) / 2):
            stroke(self.draw, points, width, ink, closed)

    def _hatched(self, shape, paths, ink, pen, width):
        """An outline filled with parallel lines."""
        width = min(width, 0.04 * shape.size * self.scale)
        placed = self._placed(paths, shape.box)
        mask, corner = self._mask(placed[0])
        self._cut(mask, corner, placed)
        lines = Image.new("L", mask.size)
        draw = ImageDraw.Draw(lines)
        rng = np.random.default_rng(pen.seed)
        step = max(4.0 * self.scale, width * rng.uniform(1.8, 3.2))
        slope, (w, h) = rng.uniform(-1.5, 1.5), mask.size
        for x in np.arange(-abs(slope) * h, w + abs(slope) * h, step * math.hypot(1, slope)):
            draw.line((x, 0, x + slope * h, h), fill=255, width=max(1, round(0.7 * width)))
        empty = Image.new("L", mask.size)
        self.image.paste(ink, corner, Image.composite(lines, empty, mask))
        self._outline(shape, paths, ink, pen, max(width, 1.5 * self.scale))

    def _dashed(self, shape, paths, ink, pen, width):
        """An outline in dashes (held out)."""
        self._broken(shape, paths, ink, width, (2.6, 1.8))

    def _dotted(self, shape, paths, ink, pen, width):
        """An outline in dots (held out)."""
        self._broken(shape, paths, ink, width, (0.1, 2.0))

    def _broken(self, shape, paths, ink, width, dash):
        width = max(width, 2.5 * self.scale)
        for path in self._placed(paths, shape.box, (width - 1) / 2):
            for edge in _edges(path):
                self._dashes(edge, ink, width, dash)

    def _dashes(self, points, ink, width, dash):
        """Dashes along points [N, 2], one at either end."""
        along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
        length = dash[0] * width
        count = max(2, round((along[-1] - length) / (sum(dash) * width)) + 1)
        for start in np.linspace(0, max(0, along[-1] - length), count):
            stops = np.linspace(start, min(start + length, along[-1]), 4)
            xy = np.stack([np.interp(stops, along, points[:, i]) for i in (0, 1)], 1)
            stroke(self.draw, xy, width, ink)

    def _double(self, shape, paths, ink, pen, width):
        """Two thin outlines, one inside the other (held out)."""
        width = min(width, 0.03 * shape.size * self.scale)
        placed = self._placed(paths, shape.box)
        self._band(shape, placed[0], ink, width)
        if shape.kind == "heart":
            self._band(shape, 0.74 * placed[0] + 0.26 * placed[0].mean(0), ink, width)
        else:
            second = [inset(placed[0], 2.2 * width), inset(placed[0], 3.2 * width)]
            self._polygon(second, ink)
        for path in placed[1:]:
            self._polygon([inset(path, -width), path], ink)

    def word(self, word, ink, mask):
        """Draw a word; mask: its ink at the size of the box in drawn pixels."""
        x, y = round(word.box[0] * self.scale), round(word.box[1] * self.scale)
        self.image.paste(ink, (x, y), mask)
