"""The patch embedding of the vision encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import vision
from ...tracing import stage
from ...weights import Weights
from ..precision import to_float16
from .registry import mutant


@mutant("candle#2995; mlx-node#80")
def first_temporal_slice_only():
    """The patch embedding uses only the first of its kernel's two frames."""

    @stage
    def embed_patches(pixel_values: Any, patch_embed: Weights) -> Any:
        kernel = np.array(patch_embed.proj.weight)
        kernel[:, :, 1:] = 0
        return pixel_values @ np.transpose(kernel.reshape(len(kernel), -1))

    return {"vision.embed_patches": embed_patches}


@mutant("llama.cpp: ggml_conv_2d, also in a float32 projector")
def pixels_in_float16():
    """Pixels are rounded to float16 before the patch embedding."""
    whole = vision.embed_patches
    return {"vision.embed_patches": lambda x, *rest: whole(to_float16(x), *rest)}
