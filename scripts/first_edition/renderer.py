"""A second renderer, used only for evaluation: the same scenes drawn by other means.

Shapes are signed-distance fields in NumPy with smooth edges, on striped or chequered backgrounds,
after a JPEG round trip at quality 60.  Nothing here is shared with the training images but the
outlines and the colours.
"""

import numpy as np
from PIL import Image

from scripts.first_edition.scenes import OUTLINES, compress, jitter_colours, pick_background


def polygon_distance(points, corners):
    """Signed distance (negative inside) of points [H, W, 2] to a polygon [N, 2]."""
    edges = np.roll(corners, -1, axis=0) - corners
    nearest = np.full(points.shape[:2], np.inf)
    inside = np.zeros(points.shape[:2], dtype=bool)
    for corner, edge in zip(corners, edges, strict=True):
        offset = points - corner
        along = np.clip(offset @ edge / (edge @ edge), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(offset - along[..., None] * edge, axis=-1))
        rises = (corner[1] > points[..., 1]) != ((corner + edge)[1] > points[..., 1])
        slope = edge[0] / edge[1] if edge[1] else 0.0
        inside ^= rises & (points[..., 0] < corner[0] + (points[..., 1] - corner[1]) * slope)
    return np.where(inside, -nearest, nearest)


def shape_distance(points, shape):
    """Signed distance in pixels of points [H, W, 2] to a shape's edge."""
    x1, y1, x2, _ = shape.box
    size, centre = x2 - x1, np.array(shape.centre)
    if shape.kind == "square":
        return np.abs(points - centre).max(-1) - size / 2
    if shape.kind == "circle":
        return np.linalg.norm(points - centre, axis=-1) - size / 2
    if shape.kind == "ring":
        return np.abs(np.linalg.norm(points - centre, axis=-1) - 0.38 * size) - 0.12 * size
    return polygon_distance(points, OUTLINES[shape.kind] * size + (x1, y1))


def draw_other(rng, scene):
    """One scene -> one RGB image."""
    colours = jitter_colours(rng, sorted({s.colour for s in scene.shapes}))
    base = pick_background(rng, colours.values())[0]
    rows, columns = np.mgrid[: scene.height, : scene.width]
    points = np.stack([columns, rows], -1) + 0.5
    period = int(rng.integers(8, 24))
    pattern = columns // period + (rows // period if rng.random() < 0.5 else 0)
    tint = rng.uniform(-14, 14, 3)
    pixels = base + np.where(pattern[..., None] % 2 == 0, tint, -tint)
    for shape in scene.shapes:
        cover = np.clip(0.5 - shape_distance(points, shape), 0, 1)[..., None]
        pixels = pixels + cover * (np.array(colours[shape.colour]) - pixels)
    return compress(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), 60)
