"""Deprecated names of version 0.1: they still work, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from typing import Any

OLD_MODULES = {"tinyqwenvl.memory": "tinyqwenvl.image_cache"}

OLD_NAMES: dict[str, dict[str, str]] = {  # module: old name -> current name
    "tinyqwenvl.media": {
        "open_picture": "open_image",
        "PictureWarning": "ImageWarning",
    },
    "tinyqwenvl.model": {
        "EXAMPLE_PICTURE": "EXAMPLE_IMAGE",
        "EXAMPLE_CLIP": "EXAMPLE_VIDEO",
    },
    "tinyqwenvl.image": {
        "LARGEST_PICTURE": "MAX_IMAGE_PIXELS",
    },
    "tinyqwenvl.video": {
        "Clip": "VideoSource",
        "open_clip": "open_video",
        "Recipe": "SamplingPolicy",
        "RECIPES": "SAMPLING_POLICIES",
        "LEAST_FRAMES": "MIN_FRAMES",
        "MOST_FRAMES": "MAX_FRAMES",
    },
    "tinyqwenvl.tokenizer": {
        "Control": "SpecialToken",
    },
    "tinyqwenvl.vision": {
        "tower": "vision_encoder",
        "reorder_blocks": "reorder_groups",
    },
    "tinyqwenvl.position": {
        "block_positions": "span_positions",
        "after_block": "after_span",
    },
    "tinyqwenvl.nn": {
        "segment_spans": "segment_key_ranges",
        "causal_spans": "causal_key_ranges",
        "fast_attention": "optimised_attention",
        "gelu_in_blocks": "gelu_in_chunks",
        "PlainCache": "ReferenceCache",
    },
    "tinyqwenvl.image_cache": {"Memory": "ImageCache"},
    "tinyqwenvl.grounding": {
        "Mark": "Location",
        "marks": "locations",
    },
    "tinyqwenvl.compat": {
        "after_block_hf_5": "after_span_hf_5",
    },
    "tinyqwenvl.oracle.record": {
        "tell": "messages_as_json",
    },
    "tinyqwenvl.viz": {
        "attention_over_picture": "attention_over_image",
        "block_cells": "span_cells",
        "block_mask": "attention_mask",
        "box_cover": "box_coverage",
        "branches": "branch_attention_mask",
        "certainty": "token_probabilities",
        "clip_strip": "video_strip",
        "four_to_one": "merge_group_to_token",
        "gelu_forms": "gelu_variants",
        "heads_inside": "attention_in_box_by_head",
        "kernel_pictures": "kernel_images",
        "looking_from_patch": "attention_from_patch",
        "patch_apart": "patch_layout",
        "pictures_beside": "image_row",
        "rows_as_bars": "vectors_as_bars",
        "share_inside": "attention_in_box",
        "shared_heads": "grouped_query_heads",
        "show_picture": "show_image",
        "spread": "change_propagation",
        "temporal_grids": "frame_pairs",
        "time_lines": "temporal_positions",
        "two_groupings": "patch_groupings",
    },
}


def old_names(namespace: dict[str, Any]) -> None:
    """Add a module's :data:`OLD_NAMES` (PEP 562); call it at the end of the module."""
    module = namespace["__name__"]

    def find(name: str) -> Any:
        if name not in OLD_NAMES[module]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", OLD_NAMES[module][name])
        return namespace[OLD_NAMES[module][name]]

    namespace["__getattr__"] = find


def warn(old: str, new: str) -> None:
    """Issue the DeprecationWarning that ``old`` is now called ``new``."""
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=4)


def old_modules() -> None:
    """Make :data:`OLD_MODULES` importable under their old names."""
    for old, new in OLD_MODULES.items():
        sys.modules[old] = sys.modules[new]
