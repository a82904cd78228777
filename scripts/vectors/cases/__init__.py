"""The cases of tinyqwenvl/vectors: what goes in, and why; one file per family.

What comes out is what the witnesses say (scripts.vectors.witnesses).
"""

from . import (
    chat_template,
    frame_sampling,
    mrope_positions,
    placeholder_expansion,
    smart_resize,
    vision_positions,
    windows,
)
from .registry import REGISTRY

FAMILIES = (  # in the order of the data, and of the manifest
    "smart_resize",
    "frame_sampling",
    "window_index",
    "cu_seqlens",
    "vision_positions",
    "mrope_positions",
    "chat_template",
    "placeholder_expansion",
)
CASES = {family: REGISTRY[family] for family in FAMILIES}
EMPTY, WORDS = windows.EMPTY, placeholder_expansion.WORDS

__all__ = [
    "CASES",
    "EMPTY",
    "FAMILIES",
    "WORDS",
    "chat_template",
    "frame_sampling",
    "mrope_positions",
    "placeholder_expansion",
    "smart_resize",
    "vision_positions",
    "windows",
]
