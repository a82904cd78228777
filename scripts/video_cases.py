"""The videos and the conversation of the video goldens, shared by the witness and the tests."""

from __future__ import annotations

from scripts.random_checkpoint import TOKEN_IDS

LENGTHS, RATES = (*range(2, 10), 22), (0.5, 1.5, 2.0, 3.0, 24.0)
GRID = (4, 6)  # rows and columns of patches in a video whose positions are computed
FRAMES, FPS = 5, 3.0  # of the video in the conversation
SIZES = {"first": (90, 140), "second": (130, 60), "video": (80, 120)}  # height, width


def pad(name: str, count: int) -> list[int]:
    """An image or video span of ``count`` placeholders."""
    start, end = TOKEN_IDS["<|vision_start|>"], TOKEN_IDS["<|vision_end|>"]
    return [start, *[TOKEN_IDS[f"<|{name}_pad|>"]] * count, end]
