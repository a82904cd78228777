"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each takes what the stages take and give, and returns a matplotlib figure with ``alt`` text that
says in words what there is to see.
"""

from ..deprecated import old_names
from . import style  # first: it says what to install where matplotlib is missing
from .attention import (
    attention_over_image,
    box_cover,
    heads_inside,
    lens,
    logit_lens,
    share_inside,
)
from .boxes import boxes, gallery
from .cache import cache_bytes, cache_growth, errors_by_step, keys_computed, shared_heads
from .choice import certainty, next_token
from .cost import attention_by_resolution, bytes_by_resolution, flops_by_resolution
from .families import curves, rows_as_bars, standard_deviations
from .image import (
    as_bytes,
    image_row,
    kernel_images,
    matrix_product,
    merge_groups,
    nine_axes,
    patch_apart,
    patch_grid,
    resized_areas,
    responses,
    rounding_steps,
    tokens_by_size,
)
from .learning import branch_mask, branches, component_shares, learning_curves, skills, spectrum
from .merger import four_to_one, gelu_forms, token_map, two_groupings
from .oracle import distance_profile, error_map
from .rotary import angle_maps, distance_scores, frequency_bands, score_by_distance
from .source import Source, source
from .style import COLOURS, Drawing, drawing, show_image
from .timeline import mrope_sections, mrope_timeline, positions_compared, span_cells
from .tokens import id_map, token_strip
from .video import temporal_grids, time_lines, video_strip
from .windows import attention_from_patch, block_mask, pairs_by_size, tiles_in_order, window_order

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "angle_maps",
    "as_bytes",
    "attention_by_resolution",
    "attention_from_patch",
    "attention_over_image",
    "block_mask",
    "box_cover",
    "boxes",
    "branch_mask",
    "branches",
    "bytes_by_resolution",
    "cache_bytes",
    "cache_growth",
    "certainty",
    "component_shares",
    "curves",
    "distance_profile",
    "distance_scores",
    "drawing",
    "error_map",
    "errors_by_step",
    "flops_by_resolution",
    "four_to_one",
    "frequency_bands",
    "gallery",
    "gelu_forms",
    "heads_inside",
    "id_map",
    "image_row",
    "kernel_images",
    "keys_computed",
    "learning_curves",
    "lens",
    "logit_lens",
    "matrix_product",
    "merge_groups",
    "mrope_sections",
    "mrope_timeline",
    "next_token",
    "nine_axes",
    "pairs_by_size",
    "patch_apart",
    "patch_grid",
    "positions_compared",
    "resized_areas",
    "responses",
    "rounding_steps",
    "rows_as_bars",
    "score_by_distance",
    "share_inside",
    "shared_heads",
    "show_image",
    "skills",
    "source",
    "span_cells",
    "spectrum",
    "standard_deviations",
    "style",
    "temporal_grids",
    "tiles_in_order",
    "time_lines",
    "token_map",
    "token_strip",
    "tokens_by_size",
    "two_groupings",
    "video_strip",
    "window_order",
]

old_names(globals())
