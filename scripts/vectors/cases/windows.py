"""Cases of window_index and cu_seqlens: the order of tokens, and boundaries among patches."""

from __future__ import annotations

from typing import Any

from .registry import Grids, case

GRIDS: dict[str, tuple[str, str, Grids]] = {
    "2x2": ("The smallest picture is one token.", "small", [[1, 2, 2]]),
    "under-a-window": ("A picture within one window keeps its order.", "small", [[1, 4, 6]]),
    "one-window": ("Exactly one window, and no empty ones beside it.", "exact", [[1, 8, 8]]),
    "four-windows": ("Windows, not rows, come first.", "exact", [[1, 16, 16]]),
    "exact-non-square": ("Whole windows, two down and three across.", "exact", [[1, 16, 24]]),
    "ragged": ("Windows on the right and at the bottom are cut.", "ragged", [[1, 10, 18]]),
    "ragged-tall": ("The same picture on its side has another order.", "ragged", [[1, 18, 10]]),
    "ragged-right": ("Only the right edge is cut.", "ragged exact", [[1, 8, 20]]),
    "ragged-bottom": ("Only the bottom edge is cut.", "ragged exact", [[1, 20, 8]]),
    "thin": ("One row of tokens: order as it was.", "ragged", [[1, 2, 18]]),
    "two-frames": ("Windows do not reach over frames.", "video ragged", [[2, 8, 12]]),
    "three-frames-ragged": ("Frames of ragged windows.", "video ragged", [[3, 10, 12]]),
    "two-pictures": ("Windows do not reach over pictures.", "pictures", [[1, 8, 8], [1, 10, 6]]),
    "two-ragged-pictures": (
        "The second picture's order begins where the first ends.",
        "pictures ragged",
        [[1, 10, 14], [1, 6, 10]],
    ),
    "picture-and-clip": (
        "A still, a clip and a still, all ragged.",
        "pictures video ragged",
        [[1, 6, 10], [2, 10, 6], [1, 4, 14]],
    ),
    "large": ("756x476 pixels in at most 307,200.", "ragged", [[1, 30, 48]]),
}
EMPTY = (
    "Windows are padded by a whole window where the picture divides evenly; before repeated "
    "boundaries were removed from the list it held empty windows, which change nothing."
)


def encoders(family: str, name: str, pins: str, flags: str, grids: Grids, **more: Any) -> None:
    """A case of window_index or cu_seqlens."""
    given = {"patch_size": 14, "spatial_merge_size": 2, "window_size": 112, **more}
    case(family, name, pins, flags, grid_thw=grids, **given)


for _name, (_pins, _flags, _grids) in GRIDS.items():
    if _name != "thin":
        encoders("window_index", _name, _pins, _flags, _grids)
    encoders("cu_seqlens", _name, _pins, _flags, _grids)
for _pixels, _pins in (
    (56, "window_size is in pixels: 56 is 2x2 tokens."),
    (224, "window_size is in pixels: 224 is 8x8 tokens."),
    (130, "A window_size that is no multiple is rounded down, to 4x4 tokens."),
):
    for _family in ("window_index", "cu_seqlens"):
        encoders(
            _family, f"window-of-{_pixels}", _pins, "ragged", [[1, 10, 22]], window_size=_pixels
        )
