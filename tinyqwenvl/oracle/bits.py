"""The number format in which a dump was computed, from the bits of its values.

A runtime may compute in bfloat16 and write float32: then the low 16 bits of every value are zero.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from .dump import Dump

TELLING = 32  # different values with a fraction, enough for their bits to show a format
SAMPLED = 24  # stages that are sampled
COPIES = (  # of weights, of 8-bit images, or computed in float32 in any case: they show nothing
    "model.embed_tokens", "model.inputs_embeds", "pixel_values", "pixel_values_videos",
    "image.normalise", "image.nine_dimensions", "visual.rotary_angles", "second_per_grid_ts",
)  # fmt: skip


def format_of(array: np.ndarray) -> str:
    """The narrowest floating-point format that holds every value of ``array`` exactly.

    "" if too few values show it: zeros, powers of two and small fractions are exact in all.
    """
    flat = np.reshape(array, -1)[: 1 << 20]
    if flat.dtype.itemsize < 4:
        return str(flat.dtype)
    with np.errstate(all="ignore"):
        single = flat.astype(np.float32)
        half = single.astype(np.float16).astype(np.float32)
    if not np.array_equal(single, flat, equal_nan=True):
        return str(flat.dtype)
    bits = single.view(np.uint32)
    telling = np.isfinite(single) & (bits & 0x007FFFFF != 0)
    if np.unique(bits[telling][:4096]).size < TELLING:
        return ""
    if not np.any(bits[telling] & 0xFFFF):
        return "bfloat16"
    return "float16" if np.array_equal(half[telling], single[telling]) else "float32"


def format_of_dump(dump: Dump, names: Container[str]) -> str:
    """The format of most of a dump's computed stages among ``names``; "" if none shows it."""
    entries = [e for e in dump if e.name in names and not e.exact and e.name not in COPIES]
    step = max(1, len(entries) // SAMPLED)
    kinds = [kind for e in entries[::step] if (kind := format_of(e.read()))]
    most = max(set(kinds), key=kinds.count, default="")
    if 2 * kinds.count(most) <= len(kinds):
        return ""
    if most in ("bfloat16", "float16"):
        note = f"stored in a wider format, but its values are those of {most}"
        dump.notes += [note] * (note not in dump.notes)
    return most
