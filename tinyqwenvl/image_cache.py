"""A cache of image features, for many prompts about the same images."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from .deprecated import old_names
from .dims import Array, Float, Int
from .errors import UserError


class ImageCache:
    """The vision encoder with a cache of the last ``most`` images and videos.

    The key is a hash of the patches and the grid. Images are encoded one by one. The result is the
    same up to rounding, because images do not attend to each other.
    """

    def __init__(self, encode: Callable[..., np.ndarray], most: int = 64):
        if most < 1:
            raise UserError(f"a cache for {most} images; it must hold at least 1")
        self.encode, self.most = encode, most
        self.features: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __call__(
        self, pixel_values: Float[Array, "N P"], grid_thw: Int[Array, "I 3"]
    ) -> Float[Array, "M E"]:
        """Patches of all images -> image tokens, from the cache if possible."""
        ends = np.cumsum(np.prod(grid_thw, axis=1))
        images = np.split(pixel_values, ends[:-1])
        return np.concatenate([self._one(p, g) for p, g in zip(images, grid_thw, strict=True)])

    def _one(self, pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(grid.tobytes() + np.ascontiguousarray(pixels).tobytes()).digest()
        tokens = self.features.pop(key, None)
        self.features[key] = self.encode(pixels, grid[None]) if tokens is None else tokens
        while len(self.features) > self.most:
            self.features.popitem(last=False)
        return self.features[key]


old_names(globals())
