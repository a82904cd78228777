"""Images and videos in prompt order, for runtimes that encode them one by one.

Our vision encoder runs once for all images and once for all videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from .dump import Dump, grids_of


def media_in_prompt(dump: Dump) -> list[tuple[int, int]]:
    """(call of our vision encoder, patches) of each image and video, in the order of the prompt.

    [] if the dump does not show it. Which id stands for images follows from the lengths of the runs
    of equal ids: a quarter of the patches.
    """
    ids = dump.get("input_ids")
    grids = [grids_of(dump.get(name)) for name in ("image_grid_thw", "video_grid_thw")]
    if ids is None or grids[0] is None or grids[1] is None:
        return []
    sizes = [np.prod(g, axis=1).tolist() for g in grids if g is not None]
    runs = [(i, sum(1 for _ in g)) for i, g in groupby(np.reshape(ids.read(), -1).tolist())]
    candidates = {i for i, n in runs if 4 * n in (*sizes[0], *sizes[1])}
    found = {
        tuple(order)
        for image in candidates
        for video in candidates - {image}
        if (order := _walk(runs, {image: 0, video: 1}, sizes)) is not None
    }
    return list(found.pop()) if len(found) == 1 else []


def _walk(
    runs: Sequence[tuple[int, int]], kinds: dict[int, int], sizes: list[list[int]]
) -> list[tuple[int, int]] | None:
    """The order, if the two ids of ``kinds`` are those of images and videos; else None."""
    order: list[tuple[int, int]] = []
    left = [list(reversed(s)) for s in sizes]
    for number, length in runs:
        if number in kinds:
            queue = left[kinds[number]]
            if not queue or queue.pop() != 4 * length:
                return None
            order.append((kinds[number], 4 * length))
    return None if any(left) else order


def groups_by_medium(
    rows: Sequence[int], order: Sequence[tuple[int, int]], unit: int | None
) -> list[list[int]] | None:
    """Which calls belong to which call of ours, if each is one image or video of the prompt.

    ``unit``: patches per row; None where rows do not count patches (bounds, grids).
    """
    if not order or len(rows) != len(order):
        return None
    if unit and any(n * unit != size for n, (_, size) in zip(rows, order, strict=True)):
        return None
    return [[i for i, (call, _) in enumerate(order) if call == wanted] for wanted in (0, 1)]
