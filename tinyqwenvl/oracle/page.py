"""A comparison as one self-contained HTML page: the table, and a map of the error."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape

import numpy as np
from PIL import Image

from ..cli import one_line
from .diff import Comparison, Verdict
from .dump import Dump, Entry, geometry
from .report import conclusion, explanation

DRAWN = 12  # wrong stages with an image
SIDE = 12  # screen pixels of a patch, or of a token in the strip
DECADES = 8  # from an error as large as the value itself (dark) down to 1e-8 of it (light)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem;
  padding: 0 1rem; color: #1b1b1b; background: #fff }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2), td:last-child { text-align: left }
code, td:first-child { font-family: ui-monospace, monospace }
.bad td:nth-child(2) { color: #fff; background: #a02c00 } .ok td:nth-child(2) { color: #00513f }
.missing { color: #777 }
.figures { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 } figcaption { font-size: 13px }
img { image-rendering: pixelated; border: 1px solid #bbb; max-width: 100% }
.wide { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181b }
  td, th { border-color: #3a3d42 } .ok td:nth-child(2) { color: #6fd6b4 } .missing { color: #999 } }
"""


def as_html(comparison: Comparison) -> str:
    """The whole page; nothing in it is loaded from elsewhere."""
    first = comparison.first
    title = f"first: {first.name}" if first else "all stages agree"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>{escape(one_line(title))}</title><style>{STYLE}</style>",
        f"<h1>{escape(one_line(title))}</h1>",
        f"<p>{escape(one_line(comparison.candidate.source))} against "
        f"{escape(one_line(comparison.reference.source))}, judged as {comparison.precision}.</p>",
    ]
    lines = (*conclusion(comparison), *explanation(comparison), *comparison.notes)
    parts += [f"<p>{escape(one_line(line))}</p>" for line in lines]
    parts += list(_figures(comparison))
    parts += ["<h2>Every stage</h2><div class=wide><table><tr><th>stage<th>verdict<th>NMSE"]
    parts += ["<th>1 - cosine<th>max / std<th>Pearson<th>ULP<th>"]
    parts += [_row(verdict) for verdict in comparison.verdicts]
    return "\n".join([*parts, "</table></div></html>", ""])


def _row(verdict: Verdict) -> str:
    kind = "bad" if verdict.bad else "missing" if verdict.verdict == "missing" else "ok"
    cells = [escape(one_line(verdict.name)), verdict.verdict]
    far = verdict.distance
    if far is None:
        cells += [""] * 5
    else:
        cells += [f"{v:.1e}" for v in (far.nmse, far.cosine_error, far.max_error)]
        cells += [f"{far.pearson:.5f}", f"{far.ulp:.3g}"]
    cells.append(escape(one_line(verdict.note)))
    return f"<tr class={kind}>" + "".join(f"<td>{cell}" for cell in cells)


# ------------------------------------------------------------------ where the error is


def _given(comparison: Comparison) -> Iterator[str]:
    """The images of the prompt, to lay beside the errors."""
    for number, entry in enumerate(e for e in comparison.reference if e.name == "image.rgb"):
        array = np.asarray(entry.read(), np.uint8)
        if array.ndim != 3 or array.shape[2] != 3:
            continue  # not an image as we know it
        image = Image.fromarray(array)
        image.thumbnail((480, 480))
        what = f"image {number + 1}"
        yield f"<figure><img alt='{what}' src='{_data(image)}'><figcaption>{what}</figure>"


def _figures(comparison: Comparison) -> Iterator[str]:
    wrong = [v for v in comparison.compared if v.bad and v.kind == "float"]
    drawn = 0
    entries = {e.key: e for e in comparison.reference}
    for verdict in wrong:
        entry = entries[verdict.name]
        theirs = comparison.candidate.get(entry.name, entry.call)
        if drawn == DRAWN or theirs is None or verdict.verdict == "shape":
            continue
        errors = row_errors(entry.read(), np.reshape(theirs.read(), entry.shape))
        try:
            images = list(draw(entry, errors, comparison.reference))
        except (ValueError, IndexError):  # grids and orders that do not belong to these rows
            images = []
        if not images:
            continue
        if not drawn:
            yield "<h2>Where the error is</h2>"
            yield (
                "<p>Dark: the error is as large as the values; each lighter shade is ten times "
                f"less, down to 10<sup>-{DECADES}</sup>. Patches are at their position in the "
                "image, tokens in lines of 64.</p><div class=figures>"
            )
            yield from _given(comparison)
        drawn += 1
        name = escape(one_line(verdict.name))
        for number, image in enumerate(images):
            what = f"{name}, frame or image {number + 1}" if len(images) > 1 else name
            alt = f"error of {what}, one square per patch or token"
            yield f"<figure><img alt='{alt}' src='{_data(image)}'><figcaption>{what}</figure>"
    if drawn:
        yield "</div>"


def row_errors(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Norm of the error of each patch or token, divided by the norm of its values, [rows]."""
    if reference.ndim == 3:  # heads, rows, d
        reference, candidate = (np.concatenate(list(x), axis=-1) for x in (reference, candidate))
    reference, candidate = (np.reshape(x, (-1, x.shape[-1])) for x in (reference, candidate))
    with np.errstate(all="ignore"):
        error = np.linalg.norm(candidate.astype(np.float64) - reference, axis=1)
        error = error / np.maximum(np.linalg.norm(reference.astype(np.float64), axis=1), 1e-300)
    return np.nan_to_num(error, nan=1.0, posinf=1.0)


def draw(entry: Entry, errors: np.ndarray, reference: Dump) -> Iterator[Image.Image]:
    """An image per frame if rows are patches or image tokens, else one strip."""
    order, (grids, window) = entry.info.get("order", ""), geometry(entry, reference)
    if order in ("raster", "merge", "window") and grids is not None:
        yield from _frames(errors, order, grids, window)
    elif order == "sequence":
        strip = np.full(-(-len(errors) // 64) * 64, np.nan)
        strip[: len(errors)] = errors
        yield _shade(np.reshape(strip, (-1, 64)))


def _frames(
    errors: np.ndarray, order: str, grids: np.ndarray, window: np.ndarray | None
) -> Iterator[Image.Image]:
    """Errors of rows at the positions of the patches or merge groups."""
    patches = int(np.sum(np.prod(grids, axis=1)))
    side = 1 if len(errors) == patches else 2
    if len(errors) * side * side != patches:
        return
    block = 1 if side == 2 else 4
    if order == "window" and window is not None:
        errors = np.reshape(np.reshape(errors, (-1, block))[np.argsort(window)], -1)
    start = 0
    for t, h, w in grids.tolist():
        count = t * h * w // (side * side)
        here = errors[start : start + count]
        start += count
        if side == 1 and order != "raster":  # the four of a merge group are adjacent
            blocks = np.reshape(here, (t, h // 2, w // 2, 2, 2))
            here = np.transpose(blocks, (0, 1, 3, 2, 4))
        for frame in np.reshape(here, (t, h // side, w // side)):
            yield _shade(frame)


def _shade(errors: np.ndarray) -> Image.Image:
    """Relative errors [rows, columns] -> squares from light (1e-8) to dark (1), grey for none."""
    with np.errstate(all="ignore"):
        level = np.clip(1 + np.log10(np.maximum(errors, 1e-300)) / DECADES, 0, 1)[..., None]
    light, dark = np.array([255.0, 247.0, 230.0]), np.array([110.0, 10.0, 60.0])
    pixels = np.where(np.isnan(errors)[..., None], 200.0, light + level * (dark - light))
    image = Image.fromarray(pixels.astype(np.uint8))
    side = max(2, min(SIDE, 1200 // max(image.size)))
    return image.resize((image.width * side, image.height * side), Image.Resampling.NEAREST)


def _data(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
