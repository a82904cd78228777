"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture

__all__ = ["COLOURS", "Drawing", "Source", "drawing", "show_picture", "source"]
