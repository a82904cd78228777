"""A second renderer, for evaluation only: scenes drawn by Skia, nothing shared with `drawing`.

It has its own outlines, papers, strokes and light, all smooth-edged: filled shapes, outlines,
filled shapes with an edge; plain, squared, ruled and dotted paper; the light of a photograph.
Needs skia-python.
"""

import math
from pathlib import Path

import matplotlib
import numpy as np
import skia

from scripts.train_scenes.scene import COLOURS, Scene

PENS = ("filled", "outline", "edged")
PAPERS = ("plain", "squared", "ruled", "dotted", "two-coloured")


# ----------------------------------------------------------------------------------------- paths


def _polygon(points):
    path = skia.Path()
    path.addPoly([skia.Point(float(x), float(y)) for x, y in points], True)
    return path


def _regular(points, inner=None):
    """A regular polygon, or a star with an inner radius, its first corner above."""
    count = points if inner is None else 2 * points
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(count)]
    turns = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    return _polygon([(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)])


def _heart():
    path = skia.Path()
    path.moveTo(0, 1)
    path.cubicTo(-0.35, 0.65, -1, 0.3, -1, -0.3)
    path.cubicTo(-1, -0.95, -0.2, -1.05, 0, -0.45)
    path.cubicTo(0.2, -1.05, 1, -0.95, 1, -0.3)
    path.cubicTo(1, 0.3, 0.35, 0.65, 0, 1)
    path.close()
    return path


def _ring(thickness):
    path = skia.Path()
    path.addCircle(0, 0, 1)
    path.addCircle(0, 0, 1 - 2 * thickness)
    path.setFillType(skia.PathFillType.kEvenOdd)
    return path


def _cross(arm):
    path = skia.Path()
    path.addRect(skia.Rect(-arm, -1, arm, 1))
    upright = skia.Path()
    upright.addRect(skia.Rect(-1, -arm, 1, arm))
    return skia.Op(path, upright, skia.PathOp.kUnion_PathOp)


def upright_path(shape):
    """A skia.Path of a shape's kind before it is stretched and rotated."""
    kind, proportion = shape.kind, shape.proportion
    if shape.outline is not None:
        return _polygon(shape.outline)
    if kind in ("circle", "oval"):
        path = skia.Path()
        path.addCircle(0, 0, 1)
        return path
    if kind in ("square", "rectangle", "line"):
        return _polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    if kind == "diamond":
        return _regular(4)
    if kind == "triangle":
        return _polygon([(2 * proportion, -1), (1, 1), (-1, 1)])
    if kind == "star":
        return _regular(5 + int(proportion), proportion % 1 or 0.4)
    if kind == "heart":
        return _heart()
    if kind == "ring":
        return _ring(proportion or 0.24)
    if kind == "cross":
        return _cross(proportion or 0.36)
    shaft = proportion or 0.4
    return _polygon(
        [(-2, -shaft), (0.5, -shaft), (0.5, -1), (2, 0), (0.5, 1), (0.5, shaft), (-2, shaft)]
    )


def placed_path(path, shape, margin):
    """A path stretched, rotated and fitted into a shape's box, `margin` pixels inside."""
    matrix = skia.Matrix()
    matrix.setScale(shape.stretch, 1)
    matrix.postRotate(shape.angle)
    path.transform(matrix)
    x1, y1, x2, y2 = shape.box
    return fitted(path, skia.Rect(x1 + margin, y1 + margin, x2 - margin, y2 - margin))


def fitted(path, target):
    """A path scaled and moved so that its bounds are the target's."""
    bounds = path.computeTightBounds()
    matrix = skia.Matrix()
    matrix.setTranslate(-bounds.left(), -bounds.top())
    matrix.postScale(target.width() / bounds.width(), target.height() / bounds.height())
    matrix.postTranslate(target.left(), target.top())
    path.transform(matrix)
    return path


def word_path(text):
    """A word as a skia.Path of its glyphs on one base line."""
    file = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    font = skia.Font(skia.Typeface.MakeFromFile(str(file)), 64)
    glyphs = font.textToGlyphs(text)
    whole, x = skia.Path(), 0.0
    for glyph, width in zip(glyphs, font.getWidths(glyphs), strict=True):
        outline = font.getPath(glyph)
        if outline is not None:
            whole.addPath(outline, x, 0)
        x += width
    return whole


# ----------------------------------------------------------------------------------------- style


def _paper_colour(rng, inks):
    """A light or any RGB colour, the farthest from the inks of some."""
    bright = rng.uniform(215, 256, (12, 1)) * np.ones(3) + rng.normal(0, 3, (12, 3))
    others = rng.uniform(0, 256, (30, 3))
    tries = np.clip(np.concatenate([bright, others]), 0, 255)
    if not len(inks):
        return tries[0]
    distance = np.linalg.norm(tries[:, None] - np.array(inks, dtype=float)[None], axis=-1).min(1)
    return tries[np.argmax(np.minimum(distance, 130))]


def _colour(rgb):
    return skia.Color(*(int(np.clip(v, 0, 255)) for v in rgb))


def _paint(rgb, width=None):
    paint = skia.Paint(AntiAlias=True, Color=_colour(rgb))
    if width is not None:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
    return paint


class Style:
    """One paper, one pen, one light for some scenes."""

    def __init__(self, rng, scenes):
        names = sorted({s.colour for scene in scenes for s in scene.shapes if s.colour})
        self.tints = {n: np.clip(COLOURS[n] + rng.normal(0, 5, 3), 0, 255) for n in names}
        inks = [*self.tints.values()]
        inks += [np.array(s.paint) for scene in scenes for s in scene.shapes if s.paint]
        self.base = _paper_colour(rng, inks)
        self.dark = self.base.sum() < 380
        self.paper = PAPERS[rng.integers(len(PAPERS))]
        self.pen = PENS[rng.integers(len(PENS))]
        self.width = rng.uniform(0.03, 0.09)
        self.period, self.strength = rng.uniform(9, 30), rng.uniform(0.15, 0.7)
        self.light = rng.uniform(0.2, 0.5) if rng.random() < 0.5 else 0.0
        self.corner = rng.random(2)

    def _paper(self, canvas, width, height):
        canvas.clear(_colour(self.base))
        ruled = self.base + self.strength * ((90 if self.dark else -90) - np.array((15, 5, 0)))
        line = _paint(ruled, 1.0)
        ys = np.arange(self.period / 2, height, self.period)
        xs = np.arange(self.period / 2, width, self.period)
        if self.paper in ("squared", "ruled"):
            for y in ys:
                canvas.drawLine(0, y, width, y, line)
        if self.paper == "squared":
            for x in xs:
                canvas.drawLine(x, 0, x, height, line)
        if self.paper == "dotted":
            for x in xs:
                for y in ys:
                    canvas.drawCircle(x, y, 0.8, _paint(ruled))
        if self.paper == "two-coloured":
            below = self.base + (14 if self.dark else -14)
            canvas.drawRect(skia.Rect(0, 0.6 * height, width, height), _paint(below))

    def _shape(self, canvas, shape):
        rgb = np.array(shape.paint) if shape.paint else self.tints[shape.colour]
        size = min(shape.box[2] - shape.box[0], shape.box[3] - shape.box[1])
        path = upright_path(shape)
        width = max(1.6, self.width * size)
        if self.pen == "filled" or shape.kind == "line" or (shape.kind == "ring" or shape.form):
            canvas.drawPath(placed_path(path, shape, 0), _paint(rgb))
            return
        path = placed_path(path, shape, width / 2)
        if self.pen == "edged":
            canvas.drawPath(path, _paint(rgb))
            light = rgb.sum() < 150 and self.dark
            canvas.drawPath(path, _paint(np.full(3, 235.0) if light else 0.45 * rgb, 0.6 * width))
        else:
            canvas.drawPath(path, _paint(rgb, width))

    def _light(self, canvas, width, height):
        """Light that falls off from one corner, as in a photograph of a sheet."""
        centre = skia.Point(
            *(float(c * s) for c, s in zip(self.corner, (width, height), strict=True))
        )
        shade = int(255 * (1 - self.light))
        paint = skia.Paint(
            Shader=skia.GradientShader.MakeRadial(
                center=centre, radius=1.1 * math.hypot(width, height),
                colors=[skia.ColorWHITE, skia.Color(shade, shade, shade)],
            ),
            BlendMode=skia.BlendMode.kMultiply,
        )  # fmt: skip
        canvas.drawRect(skia.Rect(0, 0, width, height), paint)

    def draw(self, scene):
        """One Scene -> uint8 array [H, W, 3]."""
        surface = skia.Surface(scene.width, scene.height)
        with surface as canvas:
            self._paper(canvas, scene.width, scene.height)
            for shape in scene.shapes:
                self._shape(canvas, shape)
            for word in scene.words:
                path = fitted(word_path(word.text), skia.Rect(*word.box))
                canvas.drawPath(path, _paint(np.full(3, 235.0 if self.dark else 25.0)))
            if self.light:
                self._light(canvas, scene.width, scene.height)
        image = surface.makeImageSnapshot()
        return np.ascontiguousarray(image.toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3])


def draw(rng, scenes):
    """Scenes, all in one style -> list of uint8 arrays [H, W, 3]."""
    if not all(isinstance(scene, Scene) for scene in scenes):
        raise TypeError("the outside renderer draws scenes only")
    style = Style(rng, scenes)
    return [style.draw(scene) for scene in scenes]
