"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .attention import (
    attention_over_picture,
    box_cover,
    heads_inside,
    lens,
    logit_lens,
    share_inside,
)
from .cache import cache_bytes, cache_growth, errors_by_step, keys_computed, shared_heads
from .choice import certainty, next_token
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "attention_over_picture",
    "box_cover",
    "cache_bytes",
    "cache_growth",
    "certainty",
    "drawing",
    "errors_by_step",
    "heads_inside",
    "keys_computed",
    "lens",
    "logit_lens",
    "next_token",
    "share_inside",
    "shared_heads",
    "show_picture",
    "source",
]
