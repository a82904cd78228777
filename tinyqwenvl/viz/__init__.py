"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .clips import clip_strip, temporal_grids, time_lines
from .cost import attention_by_resolution, bytes_by_resolution, flops_by_resolution
from .families import curves, rows_as_bars, spread
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "attention_by_resolution",
    "bytes_by_resolution",
    "clip_strip",
    "curves",
    "drawing",
    "flops_by_resolution",
    "rows_as_bars",
    "show_picture",
    "source",
    "spread",
    "temporal_grids",
    "time_lines",
]
