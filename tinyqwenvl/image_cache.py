"""Many prompts in a loop: the features of an image that comes again are taken from a cache."""

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

    The key of each is a hash of its patches and its grid. Images are encoded one by one, which is
    equal up to rounding: no image attends to another.
    """

    def __init__(self, encode: Callable[..., np.ndarray], most: int = 64):
        if most < 1:
            raise UserError(f"a cache of {most} images; it must hold at least 1")
        self.encode, self.most = encode, most
        self.features: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __call__(
        self, pixel_values: Float[Array, "N P"], grid_thw: Int[Array, "I 3"]
    ) -> Float[Array, "M E"]:
        """Patches of all images -> their tokens, from the cache where they are in it."""
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
