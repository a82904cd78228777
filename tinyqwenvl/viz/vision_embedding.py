"""The patch embedding: its kernels, its matrix product, and what the kernels respond to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .. import vision
from ..dims import Array, Float
from .style import INK, PAPER, Drawing, draw_border, drawing, show_image

SIGNED = "PuOr"  # from brown (negative) over white (0) to purple, for all eyes


def kernel_images(
    kernels: Float[Array, "D P"],
    which: Sequence[int],
    title: str = "Kernels of the patch embedding",
    patch: int = 14,
    temporal: int = 2,
) -> Drawing:
    """Kernels as small colour images: frame 0 above, frame 1 below, the kernel's index over them.

    A kernel is as long as a patch, and its values have the same order. Grey is 0; each is
    scaled by its own largest value. Look for edges, spots and colours; a kernel whose two frames
    are equal responds to still content only, one whose frames differ responds to change.
    """
    many = len(which)
    columns = min(many, 10)
    rows = -(-many // columns)
    chosen = np.reshape(kernels[list(which)], (many, 3, temporal, patch, patch))
    change = np.abs(chosen - chosen[:, :, :1]).max() / np.abs(chosen).max()
    figure, axes = drawing(
        title,
        f"{title}: {many} images of {patch}x{patch} pixels, {temporal} frames each, kernels "
        f"{', '.join(map(str, which))}. Frames of one kernel differ by at most "
        f"{change:.2f} of the largest value.",
        size=(7.5, 0.6 + rows * (temporal * 7.3 / max(columns, 6) + 0.22)),
    )
    cell = temporal + 0.35
    for place, (number, kernel) in enumerate(zip(which, chosen, strict=True)):
        left, top = place % columns, place // columns * cell
        tinted = 0.5 + 0.5 * kernel / max(np.abs(kernel).max(), 1e-12)
        for k in range(temporal):
            _tile(axes, np.transpose(tinted[:, k], (1, 2, 0)), left, top + k, 0.92)
        axes.text(left + 0.46, top - 0.04, str(number), ha="center", va="bottom", fontsize=7.5)
    axes.set(xlim=(-0.1, max(columns, 6)), ylim=(rows * cell - 0.2, -0.4), aspect="equal")
    axes.set_axis_off()
    frames = " above ".join(f"frame {k}" for k in range(temporal))
    figure.supxlabel(f"{frames}; grey is 0", fontsize=8, color=INK)
    return figure


def _tile(axes: Axes, pixels: np.ndarray, left: float, top: float, side: float, **how: Any) -> Any:
    """A small square image at (left, top) of axes that count downwards."""
    extent = (left, left + side, top + side, top)
    return axes.imshow(pixels, extent=extent, interpolation="nearest", **how)


def matrix_product(
    rows: Float[Array, "N P"], kernels: Float[Array, "D P"], most: int = 160
) -> Drawing:
    """Patches times kernels, drawn as arrays: every value is one patch times one kernel.

    The kernels stand under the patches, value under value; at the right is ``rows @ kernels.T``.
    White is 0, each array has its own scale. Only the first ``most`` patches are drawn.
    """
    shown = rows[:most]
    result = shown @ np.transpose(kernels)
    n, p = shown.shape
    d = len(kernels)
    figure, axes = drawing(
        f"[{len(rows)}, {p}] patches by [{d}, {p}] kernels give [{len(rows)}, {d}]",
        f"Three arrays as heat maps: {n} patches of {p} values at the top, {d} kernels of {p} "
        f"values below, their products of {n} by {d} at the top right.",
        size=(7.5, 3.1),
    )
    x, y = p + 90, n + 110
    for array, left, top, name in (
        (shown, 0, 0, f"patches: {n} of {len(rows)}, {p} values each"),
        (kernels, 0, y, f"kernels: {d}, {p} values each"),
        (result, x, 0, f"result: {n} x {d}"),
    ):
        size = float(np.abs(array).max()) or 1.0
        extent = (left, left + array.shape[1], top + len(array), top)
        axes.imshow(array, cmap=SIGNED, vmin=-size, vmax=size, extent=extent, aspect="equal")
        axes.text(left, top - 10, name, ha="left", va="bottom", fontsize=8, color=INK)
    row, kernel = n // 2, d // 2
    for top, height in ((row, 1), (y + kernel, 1)):
        axes.fill([0, p, p, 0], [top, top, top + height, top + height], fill=False, edgecolor=INK)
    axes.plot([p, x + kernel], [row, row], color=INK, linewidth=1, linestyle=":")
    axes.plot(
        [p, x + kernel, x + kernel],
        [y + kernel, y + kernel, row],
        color=INK,
        linewidth=1,
        linestyle=":",
    )
    axes.plot(x + kernel, row, "o", color=PAPER, markeredgecolor=INK, markersize=5)
    axes.text(
        x + 6, y + kernel + 12, "one patch times one\nkernel: one value", va="top", fontsize=8
    )
    axes.set(xlim=(-10, x + max(d, 260)), ylim=(y + d + 10, -70))
    axes.set_axis_off()
    return figure


def responses(
    image: Any,
    embedded: Float[Array, "N D"],
    grid: tuple[int, int, int],
    which: Sequence[int],
    merge: int = 2,
) -> Drawing:
    """Responses of some kernels to each patch of an image, at the position of the patch.

    ``embedded`` is what ``vision.embed_patches`` returns for one image with its ``grid``
    (t, h, w); of several frame pairs the first is shown. One scale for all: white is 0.
    """
    _, h, w = grid
    places = vision.patch_positions(np.array([(1, h, w)]), merge)
    values = embedded[: h * w, list(which)]
    size = float(np.abs(values).max()) or 1.0
    columns = 3
    rows = -(-(len(which) + 1) // columns)
    strongest = [int(k) for k in np.argmax(np.abs(values), axis=0)]
    said = "; ".join(
        f"kernel {kernel} most at row {places[k, 0]}, column {places[k, 1]}"
        for kernel, k in zip(which, strongest, strict=True)
    )
    figure, axes = drawing(
        f"Responses of {len(which)} of {embedded.shape[1]} kernels to every patch",
        f"An image and {len(which)} maps of {h} by {w} patches. {said}.",
        rows,
        columns,
        (7.5, min(7.5, 0.7 + rows * (2.2 * h / w + 0.3))),
        squeeze=False,
    )
    flat = np.ravel(axes)
    show_image(flat[0], image, "the image")
    draw_border(flat[0], np.shape(image)[1], np.shape(image)[0])
    for each, kernel, column in zip(flat[1:], which, values.T, strict=False):
        laid = np.zeros((h, w), values.dtype)
        laid[places[:, 0], places[:, 1]] = column
        shown = each.imshow(laid, cmap=SIGNED, vmin=-size, vmax=size)
        each.set_title(f"kernel {kernel}", fontsize=9, color=INK)
    for each in flat:
        each.set_axis_off()
    bar = figure.colorbar(shown, ax=flat.tolist(), shrink=0.7)
    bar.set_label("response", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
