"""The shape walk: every stage's shape and cost for a prompt, without weights.

:func:`walk` calls the model's own functions on :class:`~.abstract.Abstract` arrays and collects
every stage that they record. Integers (grids, windows, positions) are real.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import decoder, vision
from ..checkpoint import assemble, weight_shapes
from ..config import Config
from ..errors import UserError
from ..image import normalise, patchify, size_to_read
from ..nn import ReferenceCache
from ..position import rope_index
from ..tracing import watching
from .abstract import Abstract, Meter

MOST_TOKENS = 1_000_000


@dataclass
class Row:
    """One stage. ``parameters`` and ``flops`` include all stages inside it."""

    name: str  # as in a trace
    shape: tuple[int, ...]  # of the stage's array
    dtype: str  # of the stage's array, by NumPy's name
    parameters: int = 0  # number of weight elements
    flops: int = 0  # floating-point operations


@dataclass
class Walk:
    """The result of :func:`walk`. Image sizes are [width, height] in pixels.

    ``flops``: the "vision" encoder, the "decoder" for the whole prompt, the "lm_head" for one
    token, and one "new_token" after the prompt. ``cache``: values in the KV cache for the whole
    "prompt", and per "token".
    """

    config: Config  # the model
    images: list[dict[str, Any]]  # sizes, grid, patches and tokens of each image
    tokens: dict[str, int]  # number of "image", "text" and "total" tokens
    rows: list[Row]  # the stages in order
    parameters: dict[str, int]  # of "vision", "decoder", "lm_head" and "total"
    flops: dict[str, int]  # of "vision", "decoder", "lm_head" and "new_token"
    cache: dict[str, int]  # values for the "prompt" and per "token"

    def row(self, name: str) -> Row:
        """The first stage of that name."""
        return next(row for row in self.rows if row.name == name)


def walk(
    config: Config,
    sizes: Sequence[tuple[int, int]],
    text_tokens: int = 49,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Walk:
    """All stages of a prompt with images of ``sizes`` (width, height) and ``text_tokens``.

    ``text_tokens`` counts all other tokens: template and question. Raises UserError for sizes that
    are not supported.
    """
    if text_tokens <= len(sizes):
        raise UserError(f"{text_tokens} text tokens: give at least {len(sizes) + 1}")
    if text_tokens > MOST_TOKENS:
        raise UserError(f"over {MOST_TOKENS:,} text tokens; request fewer")
    watch = _Watch(Meter())
    images, pixels, grids = _images(config, sizes, min_pixels, max_pixels, watch)
    text = next(i for i in range(3) if i not in (config.image_token_id, config.video_token_id))
    spans = [[text, *[config.image_token_id] * p["tokens"]] for p in images]
    ids = np.concatenate([*spans, [text] * (text_tokens - len(sizes))])
    if len(ids) > MOST_TOKENS:
        raise UserError(f"over {MOST_TOKENS:,} tokens; request fewer pixels or tokens")

    watch("input_ids", ids)
    shapes = weight_shapes(config)
    weights = assemble({n: Abstract(s, meter=watch.meter) for n, s in shapes.items()}, config)
    positions, delta = rope_index(ids, config, grids)
    cache = ReferenceCache()

    def run(new: np.ndarray, positions: np.ndarray) -> None:
        embeds = decoder.embed(new, weights.model.embed_tokens)
        if pixels is not None and len(new) > 1:
            visual = vision.vision_encoder(pixels, grids, weights.visual, config, watch.attend)
            embeds = decoder.scatter(embeds, new, config.image_token_id, visual)
        x = decoder.decode(embeds, positions, weights.model, config.text, cache, watch.attend)
        decoder.logits(x, weights.lm_head)

    with watching(watch):
        run(ids, positions)
    parameters = _inclusive((n, math.prod(s)) for n, s in shapes.items())
    flops = _inclusive((row.name, row.flops) for row in watch.rows)
    for row in watch.rows:
        row.parameters, row.flops = parameters[row.name], flops[row.name]
    held = sum(k.size + v.size for k, v in cache.layers.values())
    before = watch.meter.flops
    run(ids[-1:], np.full((3, 1), len(ids) + delta))
    new_token = watch.meter.flops - before

    image = sum(p["tokens"] for p in images)
    return Walk(
        config,
        images,
        {"image": image, "text": text_tokens, "total": len(ids)},
        watch.rows,
        {"vision": parameters["visual"], "decoder": parameters["model"],
         "lm_head": parameters["lm_head"], "total": sum(map(math.prod, shapes.values()))},
        {"vision": flops["visual"], "decoder": flops["model"],
         "lm_head": flops["lm_head"] // len(ids), "new_token": new_token},
        {"prompt": held, "token": held // len(ids)},
    )  # fmt: skip


def _images(
    config: Config,
    sizes: Sequence[tuple[int, int]],
    min_pixels: int | None,
    max_pixels: int | None,
    watch: _Watch,
) -> tuple[list[dict[str, Any]], Any, Any]:
    """Sizes and token counts per image; the patches of all images; their grids."""
    vision_config, processor = config.vision, config.processor
    patch, merge = vision_config.patch_size, vision_config.spatial_merge_size
    limits = processor.limits(min_pixels, max_pixels)
    images: list[dict[str, Any]] = []
    patches = []
    for width, height in sizes:
        high, wide = size_to_read(
            height, width, patch * merge, limits, asked=(min_pixels, max_pixels)
        )
        if high * wide > MOST_TOKENS * (patch * merge) ** 2:
            raise UserError(f"over {MOST_TOKENS:,} tokens; request fewer pixels or tokens")
        watch("image.rgb", Abstract((height, width, 3), np.uint8))
        resized: Any = Abstract((1, high, wide, 3), np.uint8, watch.meter)
        frames = normalise(resized, processor.image_mean, processor.image_std)
        watch("image.resize", resized)
        watch("image.normalise", frames)
        with watching(watch):
            rows, (t, h, w) = patchify(frames, patch, merge, vision_config.temporal_patch_size)
        patches.append(rows)
        about = {"size": [width, height], "resized": [wide, high], "grid_thw": [t, h, w]}
        images.append({**about, "patches": t * h * w, "tokens": t * h * w // merge**2})
    if not images:
        return [], None, None
    grids = np.array([p["grid_thw"] for p in images])
    pixels = np.concatenate(patches)
    watch("pixel_values", pixels)
    watch("image_grid_thw", grids)
    return images, pixels, grids


class _Watch:
    """Collects the stages as rows, each with the FLOPs since the previous row."""

    def __init__(self, meter: Meter):
        self.meter, self.rows, self.seen = meter, list[Row](), 0

    def __call__(self, name: str, value: Any, _: Any = None) -> None:
        done, self.seen = self.meter.flops - self.seen, self.meter.flops
        self.rows.append(Row(name, tuple(np.shape(value)), str(value.dtype), flops=done))

    def attend(self, q: Any, k: Any, v: Any, key_ranges: np.ndarray) -> Any:
        """Replaces ``nn.attention``: count each visible query-key pair twice.

        (Once for the attention score, once for the weighted mean of the values.)
        """
        pairs = int(np.sum(key_ranges[:, 1] - key_ranges[:, 0]))
        self.meter.add_product(2 * q.shape[0], 1, q.shape[2], pairs)
        return q.like(q.shape)


def _inclusive(parts: Iterable[tuple[str, int]]) -> Counter[str]:
    """(dotted name, amount) -> the sum under every prefix of the names."""
    sums: Counter[str] = Counter()
    for name, amount in parts:
        pieces = name.split(".")
        for end in range(1, len(pieces) + 1):
            sums[".".join(pieces[:end])] += amount
    return sums
