"""The prompts of tests/goldens/batches.json, for the script that generates it and its test."""

from __future__ import annotations

from typing import Any

from scripts.random_checkpoint import TOKEN_IDS

PAD = 0
IMAGE, VIDEO = TOKEN_IDS["<|image_pad|>"], TOKEN_IDS["<|video_pad|>"]
# Runs of text as their lengths; images as [t, h, w]; videos as [t, h, w, seconds per grid].
BATCHES = {
    "one image and text": [[3, [1, 4, 6], 5], [7]],
    "several images": [[1, [1, 8, 4], 2, [1, 2, 2], 4], [5, [1, 4, 4], 1], [2, [1, 6, 10], 9]],
    "a video": [[2, [2, 8, 8, 0.5], 3], [4, [1, 4, 4], 2], [1, [1, 4, 6], 1, [2, 6, 6, 1.0], 2]],
    "equal lengths": [[2, [1, 4, 4], 3], [9]],
}


def sample(parts: list[Any]) -> dict[str, list]:
    """Ids, grids and seconds of one prompt."""
    made: dict[str, list] = {"ids": [], "images": [], "videos": [], "seconds": []}
    for part in parts:
        if isinstance(part, int):
            made["ids"] += [5] * part
            continue
        video = len(part) == 4
        made["videos" if video else "images"].append(part[:3])
        made["seconds"] += part[3:]
        made["ids"] += [VIDEO if video else IMAGE] * (part[0] * part[1] * part[2] // 4)
    return made
