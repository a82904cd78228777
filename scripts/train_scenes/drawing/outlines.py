"""Outlines of every kind of shape: closed paths, rotated and stretched, that fill the unit square.

Names stay beyond doubt because of the ranges that `forms.pick_form` draws from; `proportion` is
each kind's inner measure (0: the usual one):

    triangle   how far the apex is off the middle, in widths of the base
    star       inner over outer radius; + 1 for six points instead of five
    cross      width of an arm over the length of a side
    ring       thickness of the band over the outer diameter
    arrow      width of the shaft over the width of the head
    line       nothing: `stretch` is its length over its thickness
"""

import math
from functools import lru_cache

import numpy as np


def unit(points, low=None, high=None):
    """Points scaled to fill the unit square exactly, [N, 2]; or what is between low and high."""
    points = np.asarray(points, dtype=np.float64)
    low = points.min(0) if low is None else low
    high = points.max(0) if high is None else high
    return (points - low) / np.maximum(high - low, 1e-9)


def _circle(radius=1.0, count=48):
    t = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return radius * np.stack([np.cos(t), np.sin(t)], 1)


def _star(proportion):
    points = 5 + int(proportion)
    inner = proportion % 1 or 0.42
    angles = -math.pi / 2 + np.arange(2 * points) * math.pi / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _heart():
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], 1)


def _cross(proportion):
    a = 0.5 * (proportion or 0.36)
    quarter = [(-a, -0.5), (a, -0.5), (a, -a)]
    corners = []
    for turn in range(4):
        c, s = round(math.cos(turn * math.pi / 2)), round(math.sin(turn * math.pi / 2))
        corners += [(x * c - y * s, x * s + y * c) for x, y in quarter]
    return np.array(corners)


def _arrow(proportion):
    """Points right; 2 long and 1 wide before it is stretched."""
    a = 0.5 * (proportion or 0.4)
    head = 0.25  # the head begins at x = 0.25 of -1..1
    return np.array([(-1, -a), (head, -a), (head, -0.5), (1, 0), (head, 0.5), (head, a), (-1, a)])


_SQUARE = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


def _base(kind, proportion):
    """Closed paths of the upright form, each [N, 2]; the ring has an outer and an inner one."""
    if kind in ("circle", "oval"):
        return [_circle()]
    if kind in ("square", "rectangle", "line"):
        return [np.array(_SQUARE)]
    if kind == "ring":
        return [_circle(), _circle(1 - 2 * (proportion or 0.24))]
    if kind == "triangle":
        return [unit([(0.5 + proportion, 0), (1, 1), (0, 1)], np.zeros(2), np.ones(2))]
    if kind == "diamond":
        return [np.array([(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)])]
    if kind == "star":
        return [_star(proportion)]
    if kind == "heart":
        return [unit(_heart())]
    if kind == "cross":
        return [_cross(proportion)]
    if kind == "arrow":
        return [_arrow(proportion)]
    raise ValueError(f"no outline for a {kind}")


def transformed(paths, stretch, angle):
    """Paths stretched in x, then rotated clockwise (y points down) by `angle` degrees."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = np.array([[c * stretch, s * stretch], [-s, c]])  # rows: x, y of the upright form
    return [path @ matrix for path in paths]


@lru_cache(maxsize=4096)
def form(kind, stretch=1.0, angle=0.0, proportion=0.0):
    """(paths that fill the unit square together, width over height of what they fill)."""
    paths = transformed(_base(kind, proportion), stretch, angle)
    every = np.concatenate(paths)
    low, high = every.min(0), every.max(0)
    width, height = high - low
    return tuple(unit(path, low, high) for path in paths), float(width / height)


def shape_paths(shape):
    """The closed paths of a shape in fractions of its box."""
    if shape.outline is not None:
        return (np.array(shape.outline),)
    return form(shape.kind, shape.stretch, shape.angle, shape.proportion)[0]


def hand_strokes(shape):
    """The lines by which a hand draws an arrow, a cross or a star, not normalised; else None.

    An arrow is a shaft and two barbs, a cross two lines, a star of five points one crossing line.
    """
    if shape.kind == "arrow":
        lines = [np.array([(-1.0, 0), (1, 0)]), np.array([(0.45, -0.5), (1.0, 0), (0.45, 0.5)])]
    elif shape.kind == "cross":
        lines = [np.array([(0, -0.5), (0, 0.5)]), np.array([(-0.5, 0), (0.5, 0)])]
    elif shape.kind == "star" and shape.proportion < 1:
        lines = [_star(0)[[0, 4, 8, 2, 6, 0]]]
    else:
        return None
    return transformed(lines, shape.stretch, shape.angle)
