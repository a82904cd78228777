"""Figures of the oracle: where along a run a candidate diverges, and on which tokens.

See ``docs/oracle.md``: the distances are those of ``oracle.metrics``, the tolerances (bands) and
noise floors those of ``oracle.diff``.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from ..dims import Array, Float
from ..oracle.diff import Comparison, Verdict
from ..oracle.metrics import distance
from .style import COLOURS, FAINT, INK, SEQUENTIAL, Axes, Drawing, drawing, show_image

MEASURES = {
    "nmse": "NMSE",
    "cosine_error": "1 - cosine of the worst token",
    "max_error": "largest error / std",
}
_PARTS = (  # the first that fits; a group stands for its number
    (r"(?:image|picture)(?:\..*)?|pixel_values.*|(image|video)_grid_thw", "pixels"),
    (r"input_ids|second_per_grid_ts|model\.(rope_delta|embed_tokens)", "prompt"),
    (r"visual\.blocks\.(\d+)(\..*)?", "block {}"),
    (r"visual\.merger.*|visual", "merger"),
    (r"visual\..*", "patches"),
    (r"model\.layers\.(\d+)(\..*)?", "layer {}"),
    (r"model\.norm|lm_head|generated", "logits"),
    (r"model\..*", "tokens"),
)
_NEAR = 0.024  # of the axis: labels nearer than this would overlap
_ROOM = 0.16  # of the height: for the name of the first wrong stage
_LOWEST = 1e-30  # of an axis of errors


def part_of_run(name: str) -> str:
    """The part of a run that a stage is in: "block 3", "merger", "layer 0"; its name if unknown."""
    for pattern, part in _PARTS:
        if match := re.fullmatch(pattern, name.partition("#")[0]):
            return part.format(*[g for g in match.groups() if g])
    return name


def distance_profile(
    found: Comparison,
    measure: str = "nmse",
    scope: str = "entire",
    pearson: bool = False,
    title: str = "Distance of each stage from the reference",
) -> Drawing:
    """Distance of every floating-point stage from the reference, in run order, on a log axis.

    ``measure``: "nmse", "cosine_error" or "max_error"; ``scope``: "entire" for
    ``oracle.diff.compare`` and "single" for ``oracle.single.single`` (which noise floor is drawn).
    Filled marks are wrong, hollow ones agree; a stage that is equal to the last bit has no
    distance and stands on the lowest line. The grey area is the tolerance (the band), the dotted
    line the noise floor where the reference has one. Integers that differ are crosses at the top.
    Look for the first filled mark: what comes after it may have only inherited its error. With
    ``pearson``, Pearson's correlation of the same stages stands below.
    """
    if measure not in MEASURES:
        raise ValueError(f"no measure is called {measure}; known are {', '.join(MEASURES)}")
    rows = [v for v in found.compared if v.distance is not None]
    broken = [v for v in found.compared if v.bad and v.distance is None]
    alt = _profile_alt(found, rows, broken, measure)
    ratios = {"height_ratios": (3, 1)} if pearson else {}
    size = (7.5, 5.0 if pearson else 4.0)
    figure, axes = drawing(
        title, alt, 1 + pearson, size=size, sharex=True, gridspec_kw=ratios, squeeze=False
    )
    top = axes[0, 0]
    numbers = {id(v): i for i, v in enumerate(found.compared)}
    places = [numbers[id(v)] for v in rows]
    _draw_distances(top, found, rows, places, measure, scope)
    _draw_broken(top, [numbers[id(v)] for v in broken])
    top.set_ylabel(MEASURES[measure], fontsize=9, color=INK)
    if pearson:
        _draw_pearson(axes[1, 0], rows, places)
    _draw_parts(axes[:, 0], found.compared)
    if found.first is not None:
        _annotate_first(top, found, numbers[id(found.first)], measure)
    top.legend(loc="upper left", bbox_to_anchor=(0, 1.14), ncols=4, fontsize=7.5, frameon=False)
    return figure


def _draw_distances(
    axes: Axes, found: Comparison, rows: list[Verdict], places: list[int], measure: str, scope: str
) -> None:
    values = np.array([getattr(v.distance, measure) for v in rows], float)
    bands = np.array([_limit(v, measure) for v in rows], float)
    floors = np.array([_floor(found, v, measure, scope) for v in rows], float)
    seen = np.concatenate([values, bands, floors])
    seen = seen[np.isfinite(seen) & (seen > _LOWEST)]
    low, high = (seen.min(), seen.max()) if len(seen) else (1e-16, 1.0)
    bottom = 10.0 ** (np.floor(np.log10(low)) - 1)
    axes.set_yscale("log")
    room = (1 - _ROOM) / _ROOM  # for the name of the first
    axes.set_ylim(bottom, bottom * (10 * high / bottom) ** (1 + 1 / room))
    axes.set_yticks([tick for tick in _decades(bottom, 10 * high) if tick > 50 * bottom])
    axes.text(-0.008, 0, "equal", transform=axes.transAxes, ha="right", va="center", fontsize=8)
    axes.fill_between(places, bottom, bands, color=FAINT, alpha=0.7, label="tolerance", linewidth=0)
    if np.any(floors > 0):
        floors[floors <= 0] = np.nan
        axes.plot(places, floors, ":", color=INK, linewidth=1, label="rounding alone")
    bad = np.array([v.bad for v in rows], bool)
    shown = np.clip(np.where(values > 0, values, bottom), bottom, None)
    at = np.array(places)
    axes.plot(
        at[~bad], shown[~bad], "o", color=COLOURS[0], markersize=4, markerfacecolor="none",
        label="agrees", clip_on=False,
    )  # fmt: skip
    axes.plot(at[bad], shown[bad], "o", color=COLOURS[5], markersize=4, label="differs")


def _decades(low: float, high: float) -> list[float]:
    """About seven powers of ten."""
    first, last = int(np.ceil(np.log10(low))), int(np.floor(np.log10(high)))
    step = max(1, round((last - first) / 7))
    return [10.0**n for n in range(last, first - 1, -step)]


def _limit(verdict: Verdict, measure: str) -> float:
    return verdict.band[list(MEASURES).index(measure)] if verdict.band else np.nan


def _floor(found: Comparison, verdict: Verdict, measure: str, scope: str) -> float:
    name, _, call = verdict.name.partition("#")
    entry = found.reference.get(name, int(call or 0))
    floors = (entry.info.get("floor") or {}) if entry else {}
    return floors.get(found.precision, {}).get(scope, {}).get(measure) or np.nan


def _draw_broken(axes: Axes, places: list[int]) -> None:
    if places:
        high = np.full(len(places), 1 - _ROOM)
        axes.plot(
            places, high, "X", transform=axes.get_xaxis_transform(), color=INK, markersize=6,
            label="integers or shapes differ",
        )  # fmt: skip


def _draw_pearson(axes: Axes, rows: list[Verdict], places: list[int]) -> None:
    values = [v.distance.pearson if v.distance else np.nan for v in rows]
    axes.plot(places, values, "o", color=COLOURS[0], markersize=2.5)
    axes.axhline(0.999, color=INK, linestyle="--", linewidth=0.8)
    low = float(np.nanmin([*values, 0.99]))
    axes.set_ylim(low - 0.1 * (1 - low), 1 + 0.1 * (1 - low))
    axes.set_ylabel("Pearson\n(line: 0.999)", fontsize=8, color=INK)


def _draw_parts(axes: Any, verdicts: list[Verdict]) -> None:
    """Name the parts of the run below, every other one shaded."""
    ticks, last, start = [], -1.0, 0
    for number, (part, group) in enumerate(groupby(verdicts, lambda v: part_of_run(v.name))):
        end = start + len(list(group))
        for each in axes:
            if number % 2:
                each.axvspan(start - 0.5, end - 0.5, color=FAINT, alpha=0.18, linewidth=0, zorder=0)
        middle = (start + end - 1) / 2
        if last < 0 or (middle - last) / len(verdicts) >= _NEAR:
            ticks.append((middle, part))
            last = middle
        start = end
    axes[-1].set_xticks([m for m, _ in ticks], [p for _, p in ticks], rotation=60, fontsize=7.5)
    axes[-1].set_xlim(-1, len(verdicts))
    axes[-1].set_xlabel("stages, in the order of the run", fontsize=8, color=INK)


def _annotate_first(axes: Axes, found: Comparison, place: int, measure: str) -> None:
    assert found.first is not None
    count, first = len(found.compared), found.first
    left = place > count / 2
    axes.axvline(place, color=INK, linewidth=1)
    axes.annotate(
        f"first: {first.name}",
        (place, 1 - _ROOM / 2.5),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-8 if left else 8, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": INK, "boxstyle": "round,pad=0.25"},
    )


def _profile_alt(
    found: Comparison, rows: list[Verdict], broken: list[Verdict], measure: str
) -> str:
    wrong = [v for v in rows if v.bad]
    said = f"{len(rows)} floating-point stages in run order"
    if found.first is None:
        return f"{said}: all within tolerance."
    text = f"{said}, {len(wrong)} of them out of tolerance; first: {found.first.name}"
    if found.first.distance is not None:
        text += f", {MEASURES[measure]} {getattr(found.first.distance, measure):.1e}"
    if broken:
        many = "1 stage differs" if len(broken) == 1 else f"{len(broken)} stages differ"
        text += f". {many} in integers or shape"
    return text + "."


def error_map(
    candidate: Float[Array, "M D"],
    reference: Float[Array, "M D"],
    grid: Any,
    merge: int = 2,
    image: Any = None,
    title: str = "Error of each image token",
) -> Drawing:
    """1 - cosine of every image token, in its place in the image, on a log scale.

    Both arrays are in reading order (the stage ``visual``); ``grid`` is (t, h, w) in patches, one
    panel for each t. Numbers are 1 - cosine, or powers of ten where errors differ by more than a
    hundred; ``=`` is equal to the last bit; the worst token has a frame. Look for a shape: a bug of
    the windows has edges where windows have them, one of the arithmetic has none.
    """
    t, h, w = (int(n) for n in grid)
    rows, columns = h // merge, w // merge
    pairs = zip(candidate, reference, strict=True)
    errors = np.array([distance(a[None], b[None]).cosine_error for a, b in pairs])
    errors = np.reshape(errors, (t, rows, columns))
    worst = np.unravel_index(int(np.argmax(errors)), errors.shape)
    same = int(np.count_nonzero(errors == 0))
    alt = (
        f"{errors.size} image tokens as {t} x {rows} x {columns}; {same} are equal. Largest "
        f"1 - cosine: {errors.max():.1e}, in row {worst[1]} and column {worst[2]}."
    )
    panels = t + (image is not None)
    figure, axes = drawing(title, alt, 1, panels, size=(7.5, _height(panels, rows, columns)))
    axes = np.ravel(axes)
    if image is not None:
        show_image(axes[0], image, "the image")
    scale = _scale(errors)
    unit = "log10 of 1 - cosine" if isinstance(scale, LogNorm) else "1 - cosine"
    for number, each in enumerate(axes[panels - t :]):
        shown = each.imshow(np.clip(errors[number], scale.vmin, None), cmap=SEQUENTIAL, norm=scale)
        each.set_title(unit if t == 1 else f"{unit}, t = {number}", fontsize=9)
        each.set_xticks([]), each.set_yticks([])
        _write_errors(each, errors[number], scale, columns * panels)
        if number == worst[0]:
            corner = (worst[2] - 0.5, worst[1] - 0.5)
            each.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[5], linewidth=2))
    bar = figure.colorbar(shown, ax=axes[panels - t :], shrink=0.8)
    bar.ax.tick_params(which="both", labelsize=7.5)
    return figure


def _height(panels: int, rows: int, columns: int) -> float:
    return float(np.clip(6.2 / panels * rows / columns + 0.7, 1.8, 7.0))


def _scale(errors: Any) -> Normalize:
    """Linear, or logarithmic when the errors that are not nothing differ by more than a hundred."""
    some = errors[errors > 0]
    low = max(float(some.min()), 1e-16) if len(some) else 1e-16
    high = max(float(errors.max()), low)
    return LogNorm(low, high) if high > 100 * low else Normalize(0, high)


def _write_errors(axes: Axes, errors: Any, scale: Normalize, across: int) -> None:
    """The error in each cell, where cells are wide enough."""
    if across > 26:
        return
    powers = isinstance(scale, LogNorm)
    for (row, column), error in np.ndenumerate(errors):
        number = f"{np.floor(np.log10(error)):.0f}" if powers and error else f"{error:.1g}"
        axes.text(
            column, row, number if error else "=", ha="center", va="center", fontsize=7,
            color="black" if error and scale(error) > 0.5 else "white",
        )  # fmt: skip
