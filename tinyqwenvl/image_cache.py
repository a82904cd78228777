"""Many prompts in a loop: an image that was seen before is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from .dims import Array, Float, Int
from .errors import UserError


class Memory:
    """The vision encoder with a memory of the last ``most`` images and videos.

    Each is told by its patches and its grid, and encoded by itself; what comes out is, up to
    rounding, what the vision encoder gives, since images never see each other there.
    """

    def __init__(self, see: Callable[..., np.ndarray], most: int = 64):
        if most < 1:
            raise UserError(f"a memory of {most} images; it must hold at least 1")
        self.see, self.most = see, most
        self.known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __call__(
        self, pixel_values: Float[Array, "N P"], grid_thw: Int[Array, "I 3"]
    ) -> Float[Array, "M E"]:
        """Patches of all images -> their tokens, from memory where they are known."""
        ends = np.cumsum(np.prod(grid_thw, axis=1))
        images = np.split(pixel_values, ends[:-1])
        return np.concatenate([self._one(p, g) for p, g in zip(images, grid_thw, strict=True)])

    def _one(self, pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(grid.tobytes() + np.ascontiguousarray(pixels).tobytes()).digest()
        tokens = self.known.pop(key, None)
        self.known[key] = self.see(pixels, grid[None]) if tokens is None else tokens
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        return self.known[key]
