"""Figures of every stage, for notebooks, slides and courses (matplotlib: extra ``notebooks``).

Each figure takes what the stage takes and returns, and gives a matplotlib figure with ``alt`` text
that says in words what there is to see. One file per stage, in the order of the data:

=====================  =======================================================================
``strip``              you are here: the pipeline, with one stage highlighted
``model_map``          the whole model in one figure, with the shapes of a run
``image``              sizes: what ``smart_resize`` chooses, how many tokens follow
``image_patches``      the nine axes of patchify, merge groups, the values of one patch
``video``              the frames that are sampled, frame pairs, their temporal positions
``chat``               the tokens of a prompt, the ids of a vocabulary
``vision_embedding``   kernels of the patch embedding and their responses
``vision_rotary``      2-D rotary embedding: frequencies, angles, scores by distance
``vision_windows``     window order, and the attention pairs that windows save
``vision_attention``   attention masks of key ranges, attention of one patch
``vision_layers``      activations and norms of both generations, how far a change propagates
``vision_merger``      four patches become a token; GELU and its approximations
``position``           mRoPE: positions of a prompt, of an image span, sections of a head
``decoder_attention``  attention to image tokens, over the image and inside a bounding box
``decoder_cache``      grouped-query heads, the KV cache and its growth
``decoder_lens``       the logit lens
``sampling``           probabilities of the next token, and of an answer's tokens
``grounding``          bounding boxes and points of an answer; a gallery of images
``cost``               FLOPs and bytes by image size
``oracle``             distances of a candidate from the reference
``learning``           training curves, skills, the spectrum of a layer's outputs
=====================  =======================================================================

Shared by all: ``style`` (colours, titles, alt text), ``words`` (tokens as labels), ``icons``
(small drawings of stages), ``source`` (the library's own source in a notebook).
"""

from ..deprecated import old_names
from . import style  # first: it says what to install where matplotlib is missing
from .chat import id_map, token_strip
from .cost import attention_by_resolution, bytes_by_resolution, flops_by_resolution
from .decoder_attention import (
    attention_in_box,
    attention_in_box_by_head,
    attention_over_image,
    box_coverage,
)
from .decoder_cache import (
    cache_bytes,
    cache_growth,
    errors_by_step,
    grouped_query_heads,
    keys_computed,
)
from .decoder_lens import lens, logit_lens
from .grounding import boxes, gallery
from .image import image_row, patch_grid, resized_areas, rounding_steps, tokens_by_size
from .image_patches import as_bytes, merge_groups, nine_axes, patch_layout
from .learning import (
    branch_attention_mask,
    branch_mask,
    component_shares,
    learning_curves,
    skills,
    spectrum,
)
from .model_map import model_map
from .oracle import distance_profile, error_map
from .position import mrope_sections, mrope_timeline, positions_compared, span_cells
from .sampling import next_token, token_probabilities
from .source import Source, source
from .strip import here
from .style import COLOURS, Drawing, drawing, show_image
from .video import frame_pairs, temporal_positions, video_strip
from .vision_attention import attention_from_patch, attention_mask, window_masks
from .vision_embedding import kernel_images, matrix_product, responses
from .vision_layers import change_propagation, curves, vectors_as_bars
from .vision_merger import gelu_variants, merge_group_to_token, patch_groupings, token_map
from .vision_rotary import angle_maps, distance_scores, frequency_bands, score_by_distance
from .vision_windows import pairs_by_size, tiles_in_order, window_order

__all__ = [
    "COLOURS",
    "Drawing",
    "Source",
    "angle_maps",
    "as_bytes",
    "attention_by_resolution",
    "attention_from_patch",
    "attention_in_box",
    "attention_in_box_by_head",
    "attention_mask",
    "attention_over_image",
    "box_coverage",
    "boxes",
    "branch_attention_mask",
    "branch_mask",
    "bytes_by_resolution",
    "cache_bytes",
    "cache_growth",
    "change_propagation",
    "component_shares",
    "curves",
    "distance_profile",
    "distance_scores",
    "drawing",
    "error_map",
    "errors_by_step",
    "flops_by_resolution",
    "frame_pairs",
    "frequency_bands",
    "gallery",
    "gelu_variants",
    "grouped_query_heads",
    "here",
    "id_map",
    "image_row",
    "kernel_images",
    "keys_computed",
    "learning_curves",
    "lens",
    "logit_lens",
    "matrix_product",
    "merge_group_to_token",
    "merge_groups",
    "model_map",
    "mrope_sections",
    "mrope_timeline",
    "next_token",
    "nine_axes",
    "pairs_by_size",
    "patch_grid",
    "patch_groupings",
    "patch_layout",
    "positions_compared",
    "resized_areas",
    "responses",
    "rounding_steps",
    "score_by_distance",
    "show_image",
    "skills",
    "source",
    "span_cells",
    "spectrum",
    "style",
    "temporal_positions",
    "tiles_in_order",
    "token_map",
    "token_probabilities",
    "token_strip",
    "tokens_by_size",
    "vectors_as_bars",
    "video_strip",
    "window_masks",
    "window_order",
]

old_names(globals())
