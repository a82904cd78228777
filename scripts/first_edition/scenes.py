"""Drawn scenes: a seeded generator of images and short clips with known contents.

A scene is a list of shapes with exact boxes in absolute pixels.  Layout (where the shapes are) and
drawing (what the pixels look like) are separate steps, so that another renderer can draw the same
scene (see `evaluate.py`).
"""

import colorsys
import io
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 40),
    "green": (40, 165, 70),
    "blue": (40, 80, 220),
    "purple": (140, 50, 180),
    "pink": (245, 130, 185),
    "black": (20, 20, 20),
}
KINDS = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")

# Pairs never drawn and never mentioned in training: seeing them needs colour and shape apart.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("blue", "heart"),
        ("green", "ring"),
        ("yellow", "cross"),
        ("purple", "triangle"),
    }
)
PAIRS = tuple((c, k) for c in COLOURS for k in KINDS if (c, k) not in HELD_OUT)

TRAINING, EVALUATION = 0, 1  # first element of a seed's spawn key

CELL = 28  # one language-model token covers 28 x 28 pixels
GRIDS = (  # (rows, columns) of cells, besides the most common 4 x 4
    (4, 5), (5, 4), (5, 5), (4, 6), (6, 4), (5, 6), (6, 5), (6, 6), (4, 8), (8, 4), (5, 7), (7, 5),
    (6, 8), (8, 6), (7, 7), (8, 8), (7, 10), (10, 7), (9, 11), (11, 9), (10, 12), (8, 16), (11, 11),
)  # fmt: skip


def generator(seed, *key):
    """An independent stream of random numbers for (seed, key)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True)
class Shape:
    """One drawn shape; `box` is (x1, y1, x2, y2) in pixels, even integers.

    An empty `colour` stands for one without a name, given as RGB in `paint`; an empty `kind` for
    one without a name: a `form` of `unnamed_outline`, and its corners in fractions of the box.
    """

    colour: str
    kind: str
    box: tuple[int, int, int, int]
    paint: tuple[int, int, int] | None = None
    form: str = ""
    outline: tuple[tuple[float, float], ...] | None = None

    @property
    def name(self):
        """`red circle`."""
        return f"{self.colour} {self.kind}"

    @property
    def centre(self):
        """(x, y) in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Scene:
    """An image's contents: its size in pixels and its shapes from left to right."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Clip:
    """A short video's contents.

    frames: one Scene per sampled frame; fps: frames a second; appears: {shape name: seconds of the
    first frame that shows it}; moves: {shape name: "left", "right", "up" or "down"}.
    """

    frames: tuple[Scene, ...]
    fps: float
    appears: dict[str, float]
    moves: dict[str, str]


# ---------------------------------------------------------------------------------------- layout


def _is_clear(fraction):
    """True when a centre at `fraction` of a side is well inside one third of that side."""
    return min(abs(fraction - 1 / 3), abs(fraction - 2 / 3)) > 0.035


def _fits(box, others, gap):
    x1, y1, x2, y2 = box
    return all(
        x2 + gap <= ox1 or ox2 + gap <= x1 or y2 + gap <= oy1 or oy2 + gap <= y1
        for ox1, oy1, ox2, oy2 in others
    )


def place_boxes(rng, width, height, count, clear=True):
    """`count` square boxes that keep a gap from one another, from left to right.

    With `clear`, centres keep apart horizontally and stay away from the borders between thirds,
    so that the order and the nine place names are beyond doubt.
    """
    side = min(width, height)
    low, high = {1: (0.20, 0.48), 2: (0.18, 0.42), 3: (0.17, 0.36)}.get(count, (0.15, 0.27))
    while True:
        boxes = []
        for _ in range(40 * count):
            size = 2 * round(rng.uniform(low, high) * side / 2)
            x = 2 * int(rng.integers(0, (width - size) // 2 + 1))
            y = 2 * int(rng.integers(0, (height - size) // 2 + 1))
            box = (x, y, x + size, y + size)
            cx, cy = x + size / 2, y + size / 2
            if clear and not (_is_clear(cx / width) and _is_clear(cy / height)):
                continue
            if clear and any(abs(cx - (b[0] + b[2]) / 2) < 0.09 * width for b in boxes):
                continue
            if _fits(box, boxes, gap=4):
                boxes.append(box)
            if len(boxes) == count:
                return sorted(boxes, key=lambda b: b[0] + b[2])


def pick_pairs(rng, count, pairs=PAIRS, repeat=0.0):
    """`count` (colour, kind) pairs; with probability `repeat` a shape shares colour or kind."""
    chosen = []
    while len(chosen) < count:
        pair = pairs[rng.integers(len(pairs))]
        if chosen and rng.random() < repeat:
            colour, kind = chosen[rng.integers(len(chosen))]
            pair = (colour, pair[1]) if rng.random() < 0.4 else (pair[0], kind)
            if pair not in pairs:
                continue
        chosen.append(pair)
    return chosen


def make_scene(rng, rows, columns, pairs=PAIRS, most=6):
    """A scene of `rows` x `columns` cells: mostly 1-3 clearly placed shapes, else up to `most`."""
    width, height = columns * CELL, rows * CELL
    clear = rng.random() < 0.8
    count = int(rng.choice((1, 2, 3), p=(0.2, 0.35, 0.45)) if clear else rng.integers(1, 7))
    count = min(count, most)
    boxes = place_boxes(rng, width, height, count, clear)
    names = pick_pairs(rng, count, pairs, repeat=0.3 if clear else 0.5)
    return Scene(
        width, height, tuple(Shape(c, k, b) for (c, k), b in zip(names, boxes, strict=True))
    )


def distances(paint):
    """{colour name: distance of its RGB to an RGB colour}."""
    return {n: math.dist(paint, table) for n, table in COLOURS.items()}


def has_hue(paint, name):
    """True when an RGB colour is not grey and its hue is within 60 degrees of a named colour's."""
    hues = [colorsys.rgb_to_hsv(*colour)[0] * 360 for colour in (paint, COLOURS[name])]
    apart = abs(hues[0] - hues[1])
    return max(paint) - min(paint) >= 24 and min(apart, 360 - apart) <= 60


def unnamed_colour(rng, kind):
    """An RGB colour far from every named one, for a shape of `kind`.

    It does not have the hue of a colour that is kept out with this kind.
    """
    held_out = [c for c, k in HELD_OUT if k == kind]
    while True:
        paint = tuple(rng.integers(0, 256, 3).tolist())
        if min(distances(paint).values()) >= 90 and not any(has_hue(paint, c) for c in held_out):
            return paint


LIKE = {  # the forms of `unnamed_outline` that come near a kind
    "star": ("polygon",), "heart": ("polygon",), "triangle": ("polygon",),
    "ring": ("frame", "arc"), "cross": ("bars",),
}  # fmt: skip


def unnamed_form(rng, colour):
    """A form of `unnamed_outline` that is not like the kind that is kept out with a colour.

    Else "like a ring, and green" would be taught to have no name.
    """
    unlike = [form for kept, kind in HELD_OUT if kept == colour for form in LIKE[kind]]
    while True:
        form = rng.choice(("polygon", "frame", "arc", "bars"), p=(0.35, 0.25, 0.25, 0.15))
        if form not in unlike:
            return form


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
        corners = _turned(BARS[rng.integers(len(BARS))], int(rng.integers(4)))
    return tuple(map(tuple, _unit(corners).tolist()))


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


def _turned(corners, quarters):
    """Corners of the unit square after quarter turns."""
    corners = np.array(corners, dtype=np.float64)
    for _ in range(quarters):
        corners = np.stack([corners[:, 1], 1 - corners[:, 0]], 1)
    return corners


def with_unnamed(rng, scene):
    """The scene with four in ten shapes in colours, and four in ten of kinds, that have no name.

    So colour and kind must be seen apart: these shapes can only be asked about by the other half.
    """
    shapes = []
    for shape in scene.shapes:
        roll = rng.random()
        if roll < 0.4:
            kind = KINDS[rng.integers(len(KINDS))]
            shape = replace(shape, colour="", kind=kind, paint=unnamed_colour(rng, kind))
        elif roll < 0.8:
            form = unnamed_form(rng, shape.colour)
            shape = replace(shape, kind="", form=form, outline=unnamed_outline(rng, form))
        shapes.append(shape)
    return replace(scene, shapes=tuple(shapes))


TWO_GRIDS = (  # (rows, columns) of cells of each of two images, besides the commonest 4 x 4
    (4, 5), (5, 4), (5, 5), (4, 6), (6, 4), (5, 6), (6, 5), (6, 6),
)  # fmt: skip
CHANGES = ("removed", "added", "coloured", "moved", "nothing")


@dataclass(frozen=True)
class Change:
    """Two images' contents that differ in one thing or in nothing.

    what: one of CHANGES; shape: the one that changed, as it was before (added: as it is after);
    colour: the colour that a coloured one has after.
    """

    before: Scene
    after: Scene
    what: str
    shape: Shape | None = None
    colour: str = ""


def make_change(rng, rows, columns):
    """A change among one to three shapes with different names.

    A shape that moves keeps its size and goes to a place that was free, clear of where it was.
    """
    width, height = columns * CELL, rows * CELL
    what = CHANGES[rng.integers(len(CHANGES))]
    count = int(rng.integers(1, 4))
    boxes = place_boxes(rng, width, height, count + (what == "moved"))
    boxes = [boxes[i] for i in rng.permutation(len(boxes))]
    names = []
    while len(set(names)) < count:
        names = pick_pairs(rng, count, repeat=0.3)
    if what == "moved":
        size = min(boxes[0][2] - boxes[0][0], boxes[-1][2] - boxes[-1][0])
        boxes[0], boxes[-1] = ((x, y, x + size, y + size) for x, y, *_ in (boxes[0], boxes[-1]))
    shapes = [Shape(*name, box) for name, box in zip(names, boxes, strict=False)]
    first, rest = shapes[0], shapes[1:]

    def scene(*changed):
        return Scene(width, height, tuple(sorted([*changed, *rest], key=lambda s: s.centre[0])))

    if what == "nothing":
        return Change(scene(first), scene(first), what)
    if what == "removed":
        return Change(scene(first), scene(), what, first)
    if what == "added":
        return Change(scene(), scene(first), what, first)
    if what == "moved":
        return Change(scene(first), scene(replace(first, box=boxes[-1])), what, first)
    free = [c for c, k in PAIRS if k == first.kind and (c, k) not in names]
    colour = free[rng.integers(len(free))]
    return Change(scene(first), scene(replace(first, colour=colour)), what, first, colour)


CLIP_LENGTHS = {1.0: (4, 6, 8), 2.0: (4, 6, 8, 10, 12, 16), 4.0: (8, 10, 12, 16)}  # frames by fps


def make_clip(rng, rows=4, columns=4, fps=None, length=None, pairs=PAIRS):
    """A clip: one or two shapes appear at times on a 0.5 s grid; another may move."""
    fps = fps or float(rng.choice((1.0, 2.0, 4.0)))
    length = length or int(rng.choice(CLIP_LENGTHS[fps]))
    width, height = columns * CELL, rows * CELL
    names = []
    while len(set(names)) < 3:
        names = pick_pairs(rng, 3, pairs)
    boxes = place_boxes(rng, width, height, 3)
    order = rng.permutation(3)
    shapes = [Shape(*names[i], boxes[i]) for i in order]
    comer, mover, other = shapes
    steps = int((length - 1) / fps * 2)  # half seconds up to the last frame
    first, second = (math.ceil(rng.integers(1, steps + 1) / 2 * fps) for _ in range(2))
    direction, path = _path(rng, mover.box, width, height, length)
    moving, other_comes, other_stays = rng.random(3) < (0.5, 0.4, 0.5)
    frames = []
    for index in range(length):
        seen = [comer] if index >= first else []
        if moving:
            seen.append(replace(mover, box=path[index]))
        if index >= second if other_comes else other_stays:
            seen.append(other)
        seen.sort(key=lambda s: s.centre[0])
        frames.append(Scene(width, height, tuple(seen)))
    appears = {comer.name: first / fps}
    if other_comes:
        appears[other.name] = second / fps
    return Clip(tuple(frames), fps, appears, {mover.name: direction} if moving else {})


def _path(rng, box, width, height, length):
    """(direction, boxes): a straight walk of a third of the side or more, in `length` frames."""
    size = box[2] - box[0]
    horizontal = rng.random() < 0.5
    room = (width if horizontal else height) - size
    travel = rng.uniform(0.5, 1.0) * room
    start = rng.uniform(0, room - travel)
    stops = np.linspace(start, start + travel, length)
    backwards = rng.random() < 0.5
    if backwards:
        stops = stops[::-1]
    boxes = []
    for stop in stops:
        at = 2 * round(stop / 2)
        x, y = (at, box[1]) if horizontal else (box[0], at)
        boxes.append((x, y, x + size, y + size))
    names = ("left", "right") if horizontal else ("up", "down")
    return names[0] if backwards else names[1], boxes


# --------------------------------------------------------------------------------------- drawing


def _unit(points):
    """Points scaled to fill the unit square exactly, [N, 2]."""
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(0), points.max(0)
    return (points - low) / (high - low)


def _star():
    angles = -math.pi / 2 + np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _heart():
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], 1)


_A, _B = 0.32, 0.68  # the arms of a cross
OUTLINES = {
    "triangle": _unit([(0.5, 0), (1, 1), (0, 1)]),
    "diamond": _unit([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "star": _unit(_star()),
    "heart": _unit(_heart()),
    "cross": _unit(
        [(_A, 0), (_B, 0), (_B, _A), (1, _A), (1, _B), (_B, _B),
         (_B, 1), (_A, 1), (_A, _B), (0, _B), (0, _A), (_A, _A)]
    ),
}  # fmt: skip
BARS = (  # an L, a T and a U
    ((0, 0), (_A, 0), (_A, _B), (1, _B), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (1, _A), (_B, _A), (_B, 1), (_A, 1), (_A, _A), (0, _A)),
    ((0, 0), (_A, 0), (_A, _B), (_B, _B), (_B, 0), (1, 0), (1, 1), (0, 1)),
)


def draw_shape(draw, kind, box, colour, outline=None):
    """Fill one shape; `box` may hold fractions; a kind without a name has its own outline."""
    x1, y1, x2, y2 = box
    x2, y2 = x2 - 1, y2 - 1  # Pillow's far edge is inclusive
    if kind == "square":
        draw.rectangle((x1, y1, x2, y2), fill=colour)
    elif kind == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=colour)
    elif kind == "ring":
        draw.ellipse((x1, y1, x2, y2), outline=colour, width=max(2, round(0.24 * (x2 - x1))))
    else:
        corners = OUTLINES[kind] if outline is None else np.array(outline)
        corners = corners * (x2 - x1, y2 - y1) + (x1, y1)
        draw.polygon([tuple(p) for p in corners], fill=colour)


def jitter_colours(rng, names):
    """{colour name: slightly varied RGB}."""
    return {n: tuple(np.clip(rng.integers(-16, 17, 3) + COLOURS[n], 0, 255)) for n in names}


def pick_background(rng, colours):
    """Two RGB ends of a gradient (often equal), far from every colour in use."""
    colours = np.array(list(colours)).reshape(-1, 3)
    while True:
        light = rng.random() < 0.6
        ends = rng.integers(205 if light else 0, 256, (2, 3)).astype(np.float64)
        if rng.random() < 0.65:
            ends[1] = ends[0]
        between = ends[0] + np.linspace(0, 1, 5)[:, None] * (ends[1] - ends[0])
        if len(colours) == 0 or np.linalg.norm(between[:, None] - colours, axis=-1).min() > 105:
            return ends


def _paint_background(rng, ends, width, height):
    ramp = np.linspace(0, 1, width if rng.random() < 0.5 else height)
    ramp = ramp[None, :, None] if len(ramp) == width else ramp[:, None, None]
    pixels = np.broadcast_to(ends[0] + ramp * (ends[1] - ends[0]), (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def compress(image, quality):
    """The image after a JPEG round trip."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def paint_images(rng, width, height, inks, painters, plain=False):
    """One RGB image of width x height pixels for each painter, all in one style.

    inks: the RGB colours that the background must keep away from; a painter is called with a
    Pillow drawing and the scale that it is drawn at.  The style (scale, background, noise,
    compression) is drawn once for all.  Drawing at another scale and resizing gives every degree
    of edge smoothing.  A `plain` image has a light, even background.
    """
    ends = pick_background(rng, inks)
    if plain:
        ends[:] = rng.uniform(235, 255)
    scale = 1.0 if rng.random() < 0.3 else float(rng.uniform(0.9, 2.5))
    size = round(width * scale), round(height * scale)
    backdrop = _paint_background(rng, ends, *size)
    sigma = rng.uniform(2, 10) if rng.random() < 0.2 and not plain else 0
    quality = int(rng.integers(50, 96)) if rng.random() < 0.25 else None
    images = []
    for paint in painters:
        image = backdrop.copy()
        paint(ImageDraw.Draw(image), scale)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        if sigma:
            noise = rng.normal(0, sigma, (height, width, 3)).astype(np.float32)
            image = Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8))
        images.append(compress(image, quality) if quality else image)
    return images


def draw_frames(rng, scenes, plain=False):
    """Scenes of one size drawn in one style, tints included -> list of RGB images."""
    shapes = [s for scene in scenes for s in scene.shapes]
    colours = jitter_colours(rng, sorted({s.colour for s in shapes if s.colour}))
    inks = [*colours.values(), *(s.paint for s in shapes if s.paint)]

    def painter(scene):
        def paint(draw, scale):
            for shape in scene.shapes:
                colour = shape.paint or colours[shape.colour]
                draw_shape(draw, shape.kind, np.array(shape.box) * scale, colour, shape.outline)

        return paint

    painters = [painter(scene) for scene in scenes]
    return paint_images(rng, scenes[0].width, scenes[0].height, inks, painters, plain)


def draw_scene(rng, scene, plain=False):
    """One scene -> one RGB image of its size."""
    return draw_frames(rng, [scene], plain)[0]
