"""Cases of placeholder_expansion: how often each placeholder is repeated."""

from __future__ import annotations

from typing import Any

from .registry import END, IMAGE, START, VIDEO, Grids, case

WORDS = {
    "<|im_start|>": 1, "<|im_end|>": 2, "<|vision_start|>": START, "<|vision_end|>": END,
    "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "\n": 3, "user\n": 4, "assistant\n": 5,
    "system\nYou are a helpful assistant.": 6, "describe": 7, "First ": 8, " then ": 9, "?": 10,
}  # fmt: skip
MARKED = {
    kind: ["<|vision_start|>", f"<|{kind}_pad|>", "<|vision_end|>"] for kind in ("image", "video")
}


def expansion(
    name: str, pins: str, flags: str, parts: list[str], pictures: Grids, videos: Grids, **more: Any
) -> None:
    """A case of placeholder_expansion: parts are words, "image" or "video"."""
    inner = [word for part in parts for word in MARKED.get(part, [part])]
    words = ["<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n"]
    words += ["<|im_start|>", "user\n", *inner, "<|im_end|>", "\n", "<|im_start|>", "assistant\n"]
    given = {
        "text": "".join(words),
        "input_ids": [WORDS[word] for word in words],
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "image_grid_thw": pictures,
        "video_grid_thw": videos,
        "spatial_merge_size": more.pop("merge", 2),
    }
    case("placeholder_expansion", name, pins, flags, **more, **given)


expansion("no-picture", "Nothing to repeat.", "text", ["describe"], [], [])
expansion("one-token", "A picture of 2x2 patches is one placeholder.", "picture",
          ["image", "describe"], [[1, 2, 2]], [])  # fmt: skip
expansion("merged", "One placeholder for four patches: 4 x 6 / 4.", "picture",
          ["image", "describe"], [[1, 4, 6]], [])  # fmt: skip
expansion("two-pictures", "The first placeholder gets the first picture's count.", "pictures",
          ["First ", "image", " then ", "image", "?"], [[1, 4, 10], [1, 6, 2]], [])  # fmt: skip
expansion("side-by-side", "Two pictures without words between stay two runs.", "pictures",
          ["image", "image", "?"], [[1, 2, 6], [1, 4, 4]], [])  # fmt: skip
expansion("clip", "Grids of time count too: 3 x 4 x 4 / 4.", "video", ["video", "describe"],
          [], [[3, 4, 4]])  # fmt: skip
expansion("picture-clip-picture", "Pictures and videos are counted apart, whatever their order.",
          "pictures video", ["image", " then ", "video", " then ", "image", "?"],
          [[1, 4, 4], [1, 2, 4]], [[2, 4, 6]])  # fmt: skip
expansion("clip-first", "The clip stands before the picture in the prompt.", "pictures video",
          ["video", " then ", "image", "?"], [[1, 6, 6]], [[2, 2, 4]])  # fmt: skip
expansion("blocks-of-3", "One placeholder for spatial_merge_size squared patches.", "picture",
          ["image", "describe"], [[1, 6, 9]], [], merge=3)  # fmt: skip
expansion("too-few-pictures", "Two placeholders and one picture are refused.", "mismatch",
          ["image", "image"], [[1, 4, 4]], [])  # fmt: skip
expansion("too-many-pictures", "One placeholder and two pictures are refused.", "mismatch",
          ["image"], [[1, 4, 4], [1, 4, 4]], [])  # fmt: skip
expansion("no-clip", "A video's placeholder without a video is refused.", "mismatch",
          ["video"], [], [])  # fmt: skip
