"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .rotary import angle_maps, distance_scores, frequency_bands, score_by_distance
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture
from .windows import (
    block_mask,
    looking_from_patch,
    pairs_by_size,
    tiles_in_order,
    window_order,
)

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "angle_maps",
    "block_mask",
    "distance_scores",
    "drawing",
    "frequency_bands",
    "looking_from_patch",
    "pairs_by_size",
    "score_by_distance",
    "show_picture",
    "source",
    "tiles_in_order",
    "window_order",
]
