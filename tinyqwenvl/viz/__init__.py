"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .merger import four_to_one, gelu_forms, token_map, two_groupings
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture
from .timeline import block_cells, mrope_sections, mrope_timeline, positions_compared
from .tokens import id_map, token_strip

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "block_cells",
    "drawing",
    "four_to_one",
    "gelu_forms",
    "id_map",
    "mrope_sections",
    "mrope_timeline",
    "positions_compared",
    "show_picture",
    "source",
    "token_map",
    "token_strip",
    "two_groupings",
]
