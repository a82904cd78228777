"""Estimate a candidate's image preprocessing from its pixels: normalisation, borders, resizing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..config import ProcessorConfig, VisionConfig
from ..image import unpatchify
from .diff import Comparison
from .metrics import distance
from .tolerance import Limits, band, within

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR,
    "Lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
}  # fmt: skip
NEAR = 6.0  # mean difference in bytes up to which two images count as the same


def describe(numbers: Sequence[float]) -> str:
    """Values with four digits: (0.481, 0.457, 0.408)."""
    return "(" + ", ".join(f"{value:.4g}" for value in numbers) + ")"


# ------------------------------------------------------------------ normalisation


def normalisation(
    candidate: np.ndarray, ours: np.ndarray, limits: Limits, processor: ProcessorConfig
) -> str | None:
    """The mean and standard deviation per channel with which patches [N, P] were normalised."""
    x, y = (np.reshape(v, (len(v), 3, -1)).astype(np.float64) for v in (ours, candidate))
    fitted, mean, std = np.empty_like(y), [], []
    for channel in range(3):
        here, there = x[:, channel].ravel(), y[:, channel].ravel()
        centred = here - here.mean()
        if not np.any(centred):
            return None
        times = float(np.sum(centred * there) / np.sum(centred**2))
        plus = float(there.mean() - times * here.mean())
        if abs(times) < 1e-9:
            return None
        std.append(processor.image_std[channel] / times)
        mean.append(processor.image_mean[channel] - plus * std[-1])
        fitted[:, channel] = times * x[:, channel] + plus
    same = np.allclose(mean, processor.image_mean, atol=1e-6)
    same = same and np.allclose(std, processor.image_std, rtol=1e-6)
    fit = np.reshape(fitted, ours.shape).astype(np.float32)
    if same or not within(distance(candidate.astype(np.float32), fit), limits):
        return None
    factors = np.divide(processor.image_std, std)
    words = f"normalised with mean {describe(mean)} and standard deviation {describe(std)}, where "
    words += f"ours are {describe(processor.image_mean)} and {describe(processor.image_std)}"
    if np.ptp(factors) < 1e-5 * abs(factors[0]):
        words += f" (all channels are {factors[0]:.6g} times ours, plus a constant)"
    return words


# ------------------------------------------------------------------ frames of bytes


def frames_of(
    patches: np.ndarray, grids: np.ndarray, processor: ProcessorConfig, vision: VisionConfig
) -> Iterator[np.ndarray]:
    """The bytes [H, W, 3] behind patches [N, P] of still images; none for others."""
    start = 0
    for t, h, w in np.reshape(grids, (-1, 3)).tolist():
        rows = patches[start : start + t * h * w]
        start += t * h * w
        if len(rows) != t * h * w:
            return
        sizes = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        frame = unpatchify(rows, (t, h, w), *sizes)[0].astype(np.float64)
        values = (frame * processor.image_std + np.asarray(processor.image_mean)) * 255
        if np.max(np.abs(values - np.round(values))) > 0.05:
            return
        yield np.clip(np.round(values), 0, 255).astype(np.uint8)


class Border(NamedTuple):
    """A frame's constant border: its colour and widths."""

    colour: tuple[int, ...]
    left: int
    top: int
    right: int
    bottom: int


def border(frame: np.ndarray) -> Border | None:
    """The border of one colour around a frame [H, W, 3], or None."""
    corners = (frame[0, 0], frame[-1, -1])
    for colour in corners:
        same = np.all(frame == colour, axis=2)
        rows, columns = np.flatnonzero(~same.all(axis=1)), np.flatnonzero(~same.all(axis=0))
        if not len(rows):
            return None
        h, w = same.shape
        top, bottom = int(rows[0]), int(h - 1 - rows[-1])
        left, right = int(columns[0]), int(w - 1 - columns[-1])
        if top or bottom or left or right:
            return Border(tuple(map(int, colour)), left, top, right, bottom)
    return None


def letterbox(frame: np.ndarray, original: np.ndarray) -> str | None:
    """How an image was letterboxed, in words, or None."""
    found = border(frame)
    if found is None:
        return None
    h, w = frame.shape[:2]
    inner = frame[found.top : h - found.bottom, found.left : w - found.right]
    size = inner.shape[1], inner.shape[0]
    image = Image.fromarray(np.asarray(original, np.uint8))
    apart = {
        name: np.abs(np.asarray(image.resize(size, f), np.int32) - inner)
        for name, f in FILTERS.items()
    }
    name = min(apart, key=lambda n: float(apart[n].mean()))
    if apart[name].mean() > NEAR:
        return None
    exact = "to the byte" if not apart[name].any() else f"within {apart[name].max()}"
    return (
        f"the image of {image.width}x{image.height} pixels is resized to {size[0]}x{size[1]} "
        f"({name}, {exact}) and placed at x {found.left}, y {found.top} of {w}x{h}; the rest is "
        f"filled with {found.colour}"
    )


def resizer(frame: np.ndarray, ours: np.ndarray, original: np.ndarray) -> str | None:
    """Which other resampling gave a frame of the same size, in words, or None."""
    if frame.shape != ours.shape or np.array_equal(frame, ours):
        return None
    apart = np.abs(frame.astype(np.int32) - ours)
    share = f"{100 * np.mean(apart > 0):.2g}% of the bytes differ"
    if apart.max() <= 1:
        return f"all bytes are within 1 of ours, {share}: another antialiased bicubic resizer"
    size = frame.shape[1], frame.shape[0]
    image = Image.fromarray(np.asarray(original, np.uint8))
    for name, f in FILTERS.items():
        if np.max(np.abs(np.asarray(image.resize(size, f), np.int32) - frame)) <= 1:
            return f"resized with the {name} filter, {share}"
    return None


def from_pixels(
    comparison: Comparison, processor: ProcessorConfig, vision: VisionConfig
) -> Iterator[str]:
    """The preprocessing that the candidate's pixels show, one line per image."""
    ours, theirs = comparison.reference, comparison.candidate
    originals = [e.read() for e in ours if e.name == "image.rgb"]
    frames = list(_frames(comparison, processor, vision))
    right = [np.squeeze(e.read(), 0) for e in ours if e.name == "image.resize"]
    if not right and (e := ours.get("pixel_values")) and (g := ours.get("image_grid_thw")):
        right = list(frames_of(e.read(), g.read(), processor, vision))
    lines = []
    for i, (frame, original) in enumerate(zip(frames, originals, strict=False)):
        mine = right[i] if i < len(right) else np.zeros((0, 0, 3), np.uint8)
        here = border(mine) if mine.size else None
        line = None if here and here == border(frame) else letterbox(frame, original)
        line = line or resizer(frame, mine, original)
        lines += [f"image {i + 1}: {line}"] if line else []
    yield from lines
    given = theirs.get("pixel_values")
    entry = ours.get("pixel_values")
    if not lines and given and entry and np.squeeze(given.read()).shape == entry.shape:
        limits = band(entry, comparison.precision, reference=ours)
        line = normalisation(np.squeeze(given.read()), entry.read(), limits, processor)
        if line:
            yield line


def _frames(
    comparison: Comparison, processor: ProcessorConfig, vision: VisionConfig
) -> Iterator[np.ndarray]:
    """The candidate's resized images as bytes."""
    theirs = comparison.candidate
    resized = [np.squeeze(e.read()) for e in theirs if e.name == "image.resize"]
    if resized:
        yield from (x for x in resized if x.ndim == 3 and x.dtype == np.uint8)
        return
    pixels, grids = theirs.get("pixel_values"), theirs.get("image_grid_thw")
    grids = grids or comparison.reference.get("image_grid_thw")
    if pixels is not None and grids is not None:
        rows, width = np.squeeze(pixels.read()), 3 * vision.temporal_patch_size
        if rows.ndim == 2 and rows.shape[1] == width * vision.patch_size**2:
            yield from frames_of(rows, grids.read(), processor, vision)
