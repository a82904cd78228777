"""Cases of mrope_positions: text, images, videos and their seconds, padding, mismatches."""

from __future__ import annotations

from typing import Any

from .registry import END, IMAGE, PAD, START, VIDEO, Grids, case


def ids_of(parts: list[Any], merged: int = 4) -> tuple[list[int], Grids, Grids]:
    """Ids and grids: a number is a run of text, (h, w) a picture, (t, h, w) a video."""
    ids: list[int] = []
    pictures: Grids = []
    videos: Grids = []
    for part in parts:
        if isinstance(part, int):
            ids += range(len(ids) % 7 + 1, len(ids) % 7 + 1 + part)
            continue
        grid = [1, *part] if len(part) == 2 else [*part]
        (pictures if len(part) == 2 else videos).append(grid)
        count = grid[0] * grid[1] * grid[2] // merged
        ids += [START, *[IMAGE if len(part) == 2 else VIDEO] * count, END]
    return ids, pictures, videos


NEW, OLD = "qwen2_5_vl", "qwen2_vl"
LATER = (
    "transformers 5.3 to 5.23 puts text after a video at start + max(h, w) / 2, among the "
    "positions of a long video's own frames."
)
PADDED = (
    "Padding is never looked at. transformers 4.x writes 1 there and counts the padding in the "
    "delta; 5.x writes 0 and does not."
)


def mrope(
    name: str,
    pins: str,
    flags: str,
    parts: list[Any],
    seconds: list[float] | None = None,
    family: str = NEW,
    left: int = 0,
    right: int = 0,
    change: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """A case of mrope_positions; ``left`` and ``right`` are tokens of padding."""
    ids, pictures, videos = ids_of(parts)
    given = {
        "model_type": family,
        "input_ids": [PAD] * left + ids + [PAD] * right,
        "attention_mask": [0] * left + [1] * len(ids) + [0] * right,
        "image_grid_thw": pictures,
        "video_grid_thw": videos,
        "second_per_grid_ts": seconds,
        "tokens_per_second": 2 if family == NEW else None,
        "spatial_merge_size": 2,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
    }
    case("mrope_positions", name, pins, flags, **more, **{**given, **(change or {})})


mrope("text", "Text counts 0, 1, 2 on all three axes; the delta is 0.", "text", [6])
mrope("text-older", "The same in Qwen2-VL.", "text", [6], family=OLD)
mrope("picture", "A picture's time stands still; rows, then columns.", "picture", [3, (4, 6), 4])
mrope("picture-older", "The same in Qwen2-VL.", "picture", [3, (4, 6), 4], family=OLD)
mrope("tall-picture", "Text goes on after the larger side: the height.", "picture", [2, (10, 4), 2])
mrope("picture-first", "A picture at the very start, nothing before its marker.", "picture",
      [(4, 10), 3])  # fmt: skip
mrope("picture-last", "The prompt ends with a picture; the delta follows from it.", "picture",
      [5, (6, 4)])  # fmt: skip
mrope("two-pictures", "The time of a picture is its start, never multiplied.", "pictures",
      [4, (4, 4), 3, (6, 8), 2])  # fmt: skip
mrope("two-pictures-older", "The same in Qwen2-VL.", "pictures", [4, (4, 4), 3, (6, 8), 2],
      family=OLD)  # fmt: skip
mrope("two-pictures-side-by-side", "No text between two pictures, only their markers.", "pictures",
      [2, (4, 8), (8, 4), 2])  # fmt: skip
mrope("clip", "Two steps a second: frames are two apart; rows and columns begin anew in each.",
      "video", [2, (3, 6, 12), 2], [1.0])  # fmt: skip
mrope("clip-older", "In Qwen2-VL frames are one apart, whatever the seconds.", "video",
      [2, (3, 6, 8), 2], family=OLD)  # fmt: skip
mrope("clip-half-second", "0.5 s a grid: one step.", "video seconds", [1, (4, 4, 8), 2], [0.5])
mrope("clip-third", "0.333 s a grid: 0, 0.67, 1.33, 2 cut to 0, 0, 1, 1.", "video seconds",
      [1, (4, 4, 8), 2], [0.333])  # fmt: skip
mrope("clip-two-thirds", "3 frames a second: 2/3 s a grid; seconds are not cut to 0.",
      "video seconds text-after-video", [1, (5, 4, 4), 3], [2 / 3],
      reason=LATER, result="valid")  # fmt: skip
mrope("clip-one-and-a-half", "1.5 s a grid: three steps, not two.",
      "video seconds text-after-video", [3, (4, 4, 6), 3], [1.5],
      reason=LATER, result="valid")  # fmt: skip
mrope("clip-float32", "0.12 frames a second: float64 gives 500 at the fifteenth grid.",
      "video seconds float32 text-after-video", [1, (16, 2, 2), 2], [2 / 0.12],
      reason=LATER, result="valid")  # fmt: skip
mrope("clip-without-seconds", "Without seconds a grid lasts 1 s.", "video seconds text-after-video",
      [2, (3, 4, 4), 2], reason=LATER, result="valid")  # fmt: skip
mrope("text-after-a-long-video", "Text goes on after the largest position over all axes.",
      "video text-after-video", [3, (10, 4, 4), 4], [1.0],
      reason=LATER, result="valid")  # fmt: skip
mrope("text-after-a-long-video-older", "The same in Qwen2-VL.", "video text-after-video",
      [3, (10, 4, 4), 4], family=OLD, reason=LATER, result="valid")  # fmt: skip
mrope("tokens-per-second",
      "25 steps a second; time * seconds * steps in float32, in this order: 9 at the sixth grid.",
      "video seconds float32 text-after-video", [1, (6, 4, 4), 2], [0.08],
      change={"tokens_per_second": 25}, result="valid",
      reason=LATER + " It also multiplies seconds and steps first, which gives 10.")  # fmt: skip
mrope("clip-between-pictures",
      "Pictures and videos have each their own grids, and only videos have seconds.",
      "pictures video text-after-video", [2, (4, 6), 1, (3, 4, 2), 2, (2, 6), 3], [2.5],
      reason=LATER, result="valid")  # fmt: skip
mrope("two-clips", "Each video has its own seconds.", "video seconds text-after-video",
      [1, (3, 4, 4), 2, (3, 2, 6), 2], [0.5, 2.0], reason=LATER, result="valid")  # fmt: skip
mrope("left-padded-picture",
      "Padding on the left moves nothing; the delta is largest + 1 - the number of real tokens.",
      "padding picture", [2, (4, 8), 3], left=4, reason=PADDED)  # fmt: skip
mrope("left-padded-clip", "The same with a clip, in Qwen2-VL.", "padding video",
      [2, (2, 4, 8), 3], left=3, family=OLD, reason=PADDED)  # fmt: skip
mrope("left-padded-text", "The same without a picture.", "padding text", [5], left=3, reason=PADDED)
mrope("right-padded-picture", "Padding on the right does not count either.", "padding picture",
      [2, (4, 8), 3], right=3, reason=PADDED)  # fmt: skip
mrope("grid-missing", "Placeholders without a picture are refused.", "mismatch",
      [2, (4, 4), 1, (4, 4), 2], change={"image_grid_thw": [[1, 4, 4]]})  # fmt: skip
mrope("grid-too-large", "A picture of more tokens than it has placeholders is refused.",
      "mismatch", [2, (4, 4)], change={"image_grid_thw": [[1, 8, 8]]})  # fmt: skip
mrope("grid-too-many", "A picture without placeholders is refused.", "mismatch", [2, (4, 4), 2],
      change={"image_grid_thw": [[1, 4, 4], [1, 4, 4]]},
      reason="transformers does not look at grids that it does not need.",
      result="acceptable")  # fmt: skip
