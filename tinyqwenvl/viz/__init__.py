"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from .pictures import (
    as_bytes,
    kernel_pictures,
    matrix_product,
    merge_groups,
    nine_axes,
    patch_apart,
    patch_grid,
    pictures_beside,
    resized_areas,
    responses,
    rounding_steps,
    spectrum,
    token_map,
)
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_picture

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "as_bytes",
    "drawing",
    "kernel_pictures",
    "matrix_product",
    "merge_groups",
    "nine_axes",
    "patch_apart",
    "patch_grid",
    "pictures_beside",
    "resized_areas",
    "responses",
    "rounding_steps",
    "show_picture",
    "source",
    "spectrum",
    "token_map",
]
