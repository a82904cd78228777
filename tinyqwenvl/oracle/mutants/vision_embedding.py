"""The patch embedding of the vision encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...tracing import stage
from ...weights import Weights
from .registry import mutant


@mutant("candle#2995; mlx-node#80")
def first_temporal_slice_only():
    """The patch embedding uses the first of its kernel's two frames."""

    @stage
    def embed_patches(pixel_values: Any, patch_embed: Weights) -> Any:
        kernel = np.array(patch_embed.proj.weight)
        kernel[:, :, 1:] = 0
        return pixel_values @ np.transpose(kernel.reshape(len(kernel), -1))

    return {"vision.embed_patches": embed_patches}
