"""Cases of smart_resize: ties, limits, ratios, small sides."""

from __future__ import annotations

from typing import Any

from .registry import case

PUBLISHED = (3136, 12845056)  # min_pixels and max_pixels of published checkpoints
SMALL = (3136, 307200)
FRAMES = (100352, 602112)  # of a frame of a video, in qwen_vl_utils


def size(name: str, pins: str, flags: str, h: int, w: int, limits: tuple = PUBLISHED, **more: Any):
    """A case of smart_resize."""
    given = {"height": h, "width": w, "factor": 28, "min_pixels": limits[0]}
    case("smart_resize", name, pins, flags, **more, **given, max_pixels=limits[1])


UNDER = "transformers up to 4.52 refuses a side under 28 pixels."
CLAMPED = " qwen_vl_utils counts a side under 28 as 28 before the area is looked at."

size("ties-half-to-even-1", "2.5 blocks become 2, not 3.", "tie", 70, 70)
size("ties-half-to-even-2", "1.5 blocks become 2 and 3.5 become 4.", "tie", 42, 98)
size("ties-half-to-even-3", "4.5 blocks become 4 and 5.5 become 6.", "tie", 126, 154)
size("tie-on-one-side", "10.5 blocks become 10; the other side is no tie.", "tie", 294, 338)
size("next-to-a-tie", "One pixel under and one over a tie are no ties.", "", 69, 71)
size("nearest-not-floor", "Sides are rounded to the nearest multiple.", "", 297, 329)
size("unchanged", "A size that fits already is left alone.", "non-square", 476, 756)
size(
    "published-limit",
    "1,960,000 pixels are within the published limit (the class default of transformers is less).",
    "limit",
    1400,
    1400,
)
size("class-default-limit", "The limit that is given is used.", "max", 1400, 1400, (3136, 1003520))
size("max", "Shrunk from the original size and rounded down.", "max", 476, 756, SMALL)
size(
    "max-from-the-original",
    "The scale follows from the original area, not from the rounded one.",
    "max non-square",
    3056,
    744,
    SMALL,
)
size("max-floors", "After shrinking, sides are rounded down.", "max", 1148, 1515, SMALL)
size("max-float64", "In float32 the height is one block more.", "max float64", 1201, 3603, FRAMES)
size("max-published", "A square over the published limit.", "max", 3991, 3991)
size(
    "area-equal-to-max",
    "An area of exactly max_pixels is not shrunk.",
    "max",
    560,
    560,
    (1, 313600),
)
size("area-equal-to-min", "An area of exactly min_pixels is not enlarged.", "min", 56, 56)
size("min", "Enlarged and rounded up.", "min", 52, 37, FRAMES)
size("min-from-the-original", "The scale follows from the original area.", "min", 126, 399, FRAMES)
size(
    "min-may-pass-max",
    "The area after rounding up is not compared with max_pixels again.",
    "min",
    90,
    90,
    (10000, 10000),
)
size("max-a-fraction", "max_pixels may have a fraction (a share of a video's budget).", "max limit",
     720, 1280, (100352, 361267.2))  # fmt: skip
size(
    "no-side-of-nothing",
    "After shrinking, no side is under one block.",
    "max extreme-ratio",
    28,
    5600,
    (3136, 12544),
    reason="Earlier transformers and qwen_vl_utils give a height of 0, which no model can read.",
    result="valid",
)
size("ratio-of-200", "A ratio of exactly 200 is allowed.", "extreme-ratio", 28, 5600)
size("ratio-over-200", "A ratio over 200 is refused.", "extreme-ratio", 28, 5601)
size(
    "ratio-over-200-tall", "A ratio over 200 is refused, whichever side.", "extreme-ratio", 5601, 28
)
size("no-height", "A picture without pixels is refused.", "empty", 0, 100)
size("min-over-max", "Limits that leave no size are refused.", "limit", 100, 100, (10000, 5000),
     reason="transformers does not compare the limits with each other.")  # fmt: skip
size("side-under-14", "A side that rounds to 0 makes the area 0: the picture is enlarged.",
     "small extreme-ratio", 10, 1000, reason=UNDER + CLAMPED)  # fmt: skip
size("side-of-one", "One row of pixels.", "small extreme-ratio", 1, 200, reason=UNDER + CLAMPED)
size("side-of-14-is-a-tie", "Half a block rounds to 0.", "small tie extreme-ratio", 14, 2800,
     reason=UNDER + CLAMPED)  # fmt: skip
size("both-sides-small", "Two sides that round to 0.", "small min", 13, 13, reason=UNDER)
