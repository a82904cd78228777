"""Where shapes are: sizes of images, boxes of shapes, and whether a scene is clear."""

import math
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from scripts.train_scenes.scene import CELL, Scene

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
