"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .boxes import boxes, gallery, read_answer
from .learning import branch_mask, branches, learning_curves, skills, spectra
from .oracle import distance_profile, error_map
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "boxes",
    "branch_mask",
    "branches",
    "distance_profile",
    "drawing",
    "error_map",
    "gallery",
    "learning_curves",
    "read_answer",
    "show_picture",
    "skills",
    "source",
    "spectra",
]
