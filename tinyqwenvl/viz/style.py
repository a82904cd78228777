"""The style that all figures share: colours, a title, and alt text.

Figures are ordinary matplotlib figures (``savefig``, ``axes`` work). They are drawn on white, so
that they read on dark pages too, in colours that the colour-blind can distinguish.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np

from ..errors import UserError

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise UserError(
        "figures are drawn by matplotlib, which is missing: pip install 'tinyqwenvl[notebooks]'"
    ) from error

# Okabe & Ito, "Color Universal Design": eight colours, distinct for every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
INK, PAPER, FAINT = "#222222", "#ffffff", "#bbbbbb"
SEQUENTIAL = "cividis"  # from low to high: even in brightness, for all eyes
OVERLAY = LinearSegmentedColormap.from_list(  # from nothing to red: an image stays visible under it
    "overlay", [(0.84, 0.05, 0.05, 0.0), (0.84, 0.05, 0.05, 0.45), (0.78, 0.0, 0.0, 0.9)]
)


class Drawing(Figure):
    """A matplotlib figure that carries its own ``alt`` text, and shows it in notebooks."""

    alt: str = ""

    def __repr__(self) -> str:
        return f"<Drawing: {self.alt}>"

    def _repr_html_(self) -> str:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=2 * self.dpi, facecolor=PAPER)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        return (
            f'<img alt="{html.escape(self.alt, quote=True)}" '
            f'width="{round(self.get_figwidth() * self.dpi)}" '
            f'style="max-width: 100%; height: auto; border-radius: 4px" '
            f'src="data:image/png;base64,{data}">'
        )


def drawing(
    title: str,
    alt: str,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (7.5, 4.0),
    **subplots: Any,
) -> tuple[Drawing, Any]:
    """An empty figure of ``size`` in inches with its title and alt text, and its axes.

    ``subplots`` goes to ``Figure.subplots``; as there, one axes, or an array of [rows, columns].
    """
    figure = Drawing(figsize=size, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.alt = alt
    figure.suptitle(title, color=INK, fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, **subplots)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=INK, labelsize=8)
    return figure, axes


def show_image(axes: Axes, image: Any, title: str = "") -> None:
    """An image, pixel for pixel, with no frame; its own (x, y) pixels are the coordinates."""
    pixels = np.asarray(image)
    axes.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, color=INK)


def draw_border(axes: Axes, width: int, height: int) -> None:
    """A thin border, so that the edge of a white image is visible."""
    axes.plot([0, width, width, 0, 0], [0, 0, height, height, 0], color=FAINT, linewidth=1)


def shades(values: Any, name: str = SEQUENTIAL) -> Any:
    """Numbers from 0 to 1 -> colours (r, g, b, a) of a colour map."""
    return colormaps[name](np.asarray(values))
