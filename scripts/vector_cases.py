"""The cases of tinyqwenvl/vectors: what goes in, and why. What comes out is the witnesses' affair.

A case is (name, what it pins, flags, input), and a ``reason`` where published implementations do
not agree about it; ``result`` is then "acceptable", unless it says that only one of them is right.
"""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]

CASES: dict[str, list[Case]] = {}


def case(
    family: str, name: str, pins: str, flags: str, reason: str = "", result: str = "", **given: Any
) -> None:
    """Add a case; ``flags`` are words. ``result`` is "" where the maker can tell."""
    made = {"id": f"{family}/{name}", "pins": pins, "flags": flags.split(), "input": given}
    CASES.setdefault(family, []).append(made | {"reason": reason, "result": result})


# ------------------------------------------------------------------ smart_resize

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


# ------------------------------------------------------------------ frame_sampling


def frames(
    name: str,
    pins: str,
    total: int,
    rate: float,
    fps: float = 2.0,
    recipe: str = "",
    flags="",
    **more,
):
    """A case of frame_sampling for one recipe, or one each for both."""
    limits = {"min_frames": more.pop("least", 4), "max_frames": more.pop("most", 768)}
    for one in (recipe,) if recipe else ("qwen-vl-utils", "hf"):
        ending = "" if recipe else f"-{one}"
        case("frame_sampling", name + ending, pins, f"{one} {flags}", recipe=one, **more,
             total_frames=total, video_fps=rate, fps=fps, **limits)  # fmt: skip


frames("two-a-second", "100 frames at 25 a second are 8 at 2 a second.", 100, 25.0)
frames("floor-to-even", "7.5 wanted frames become 6, not 8.", 90, 30.0, 2.5, flags="floor")
frames("broadcast-rate", "20.02 wanted frames become 20.", 300, 29.97, flags="floor")
frames("least", "A clip of one second gets 4 frames, not 2.", 30, 30.0, flags="least")
frames("fewer-than-least", "3 frames are all there is: 2 are taken.", 3, 30.0, flags="least short")
frames("more-than-there-are", "No frame is taken twice.", 22, 24.0, 30.0, flags="short")
frames("odd-total", "All 21 frames are wanted: 20 are taken.", 21, 10.0, 24.0, flags="short")
frames("most", "The limit on frames, where it is asked for.", 1000, 25.0, most=16, flags="most")
frames("odd-most", "A limit of 15 frames is one of 14.", 1000, 25.0, most=15, flags="most")
frames("seconds", "The time between frames is that of the frames used, not 1 / fps.", 50, 7.0, 1.3)
frames("odd-least", "A least number of 5 is one of 6.", 100, 25.0, 0.5, "qwen-vl-utils", least=5)
frames("odd-least-hf", "A least number of 7 is one of 6.", 318, 29.97, 0.5, "hf", least=7)
frames(
    "past-the-end",
    "The last index that float32 yields, 17 of 17 frames, is left out.",
    17,
    7.0,
    6.0,
    "hf",
    flags="float32",
    reason="transformers returns one index more than it counted, past the last frame.",
    result="valid",
)
for recipe in ("qwen-vl-utils", "hf"):
    frames("one-frame-" + recipe, "A single frame is a clip too.", 1, 30.0, recipe=recipe,
           flags="short", reason="The witness refuses a clip of one frame; we read it as a still.",
           result="acceptable")  # fmt: skip


# ------------------------------------------------------------------ the vision tower's geometry

Grids = list[list[int]]

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


def rows_and_columns(name: str, pins: str, flags: str, grids: Grids, merge: int = 2) -> None:
    """A case of vision_positions."""
    case("vision_positions", name, pins, flags, grid_thw=grids, spatial_merge_size=merge)


rows_and_columns("2x2", "One block: (0,0) (0,1) (1,0) (1,1).", "small", [[1, 2, 2]])
rows_and_columns("4x4", "The four patches of a block are neighbours.", "", [[1, 4, 4]])
rows_and_columns("wide", "Row first, then column.", "non-square", [[1, 4, 10]])
rows_and_columns("tall", "Row first, then column.", "non-square", [[1, 10, 4]])
rows_and_columns("one-row-of-blocks", "Columns run over the whole width.", "", [[1, 2, 12]])
rows_and_columns("one-column-of-blocks", "Rows run over the whole height.", "", [[1, 12, 2]])
rows_and_columns("clip", "Every frame begins at (0, 0); time does not count.", "video", [[3, 4, 6]])
rows_and_columns(
    "two-pictures", "Every picture begins at (0, 0).", "pictures", [[1, 4, 6], [1, 6, 2]]
)
rows_and_columns(
    "picture-and-clip", "A still and a clip.", "pictures video", [[1, 6, 4], [2, 2, 8]]
)
rows_and_columns("ragged-windows", "Merge order, not window order.", "ragged", [[1, 10, 18]])
rows_and_columns("blocks-of-3", "Blocks of spatial_merge_size patches a side.", "", [[1, 6, 9]], 3)
rows_and_columns("blocks-of-1", "Blocks of one patch: row by row.", "", [[1, 3, 4]], 1)


# ------------------------------------------------------------------ mrope_positions

START, END, IMAGE, VIDEO, PAD = 90, 91, 92, 93, 99  # ids of control tokens in these cases


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


# ------------------------------------------------------------------ chat_template

IMAGE_ITEM, VIDEO_ITEM = {"type": "image"}, {"type": "video"}


def text(words: str) -> dict[str, str]:
    """A text item."""
    return {"type": "text", "text": words}


def user(*content: Any) -> dict[str, Any]:
    """A user's message; one string is the content itself."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else [*content]}


def said(role: str, content: Any) -> dict[str, Any]:
    """A message of another role."""
    return {"role": role, "content": content}


def chat(name: str, pins: str, flags: str, *messages: Any, **more: Any) -> None:
    """A case of chat_template."""
    given = {"add_generation_prompt": True, "add_vision_id": False}
    given = {key: more.pop(key, value) for key, value in given.items()}
    case("chat_template", name, pins, flags, **more, messages=[*messages], **given)


chat("words", "The default system message comes first.", "text", user("What is red?"))
chat("a-picture", "One placeholder between its markers, no line end after it.", "picture",
     user(IMAGE_ITEM, text("describe")))  # fmt: skip
chat("text-first", "Items keep the order in which they are written.", "picture order",
     user(text("Look at "), IMAGE_ITEM, text(" and say what it is.")))  # fmt: skip
chat("text-before-pictures", "Pictures are not moved before the text.", "pictures order",
     user(text("First"), IMAGE_ITEM, text("second"), IMAGE_ITEM, text("same?")))  # fmt: skip
chat("own-system-message", "A system message takes the place of the default one.", "system",
     said("system", "Answer in one word."), user(IMAGE_ITEM, text("What is it?")))  # fmt: skip
chat("system-as-items", "A system message may be a list of items.", "system",
     said("system", [text("Be "), text("brief.")]), user("Hello"))  # fmt: skip
chat("empty-system-message", "An empty system message is a system message.", "system",
     said("system", ""), user("Hello"))  # fmt: skip
chat("late-system-message", "Only the first message decides about the default.", "system",
     user("Hello"), said("system", "Answer in French."), user("And now?"))  # fmt: skip
chat("three-turns", "Every turn ends with its marker and a line end.", "turns",
     user(IMAGE_ITEM, text("What is it?")), said("assistant", "A square."),
     user("Its colour?"), said("assistant", [text("Red.")]), user("Sure?"))  # fmt: skip
chat("without-generation-prompt", "The assistant's turn is not begun.", "turns",
     user("Hello"), said("assistant", "Hi."), add_generation_prompt=False)  # fmt: skip
chat("picture-numbers", "Pictures and videos are counted apart, from 1.", "add-vision-id",
     user(IMAGE_ITEM, VIDEO_ITEM, IMAGE_ITEM, text("Compare."), VIDEO_ITEM),
     add_vision_id=True)  # fmt: skip
chat("picture-numbers-over-turns", "Numbers go on over the turns.", "add-vision-id turns",
     user(IMAGE_ITEM, text("What is it?")), said("assistant", "A dog."),
     user(IMAGE_ITEM, text("And this?")), add_vision_id=True)  # fmt: skip
chat("a-clip", "A video has its own placeholder.", "video", user(VIDEO_ITEM, text("What happens?")))
chat("keys-without-types", "An item is what its keys say: image, image_url, video.", "pictures",
     user({"image": "a.png"}, {"image_url": "b.png"}, {"video": "c.mp4"},
          {"text": "?"}))  # fmt: skip
chat("key-over-type", "An item with an image is a picture, even if it calls itself a text.",
     "picture", user({"type": "text", "text": "unread", "image": "a.png"}, text("!")))  # fmt: skip
chat("spaces-are-kept", "Spaces and line ends at the ends of a text stay.", "text",
     user("  two spaces before, a line end after\n"))  # fmt: skip
chat("beyond-ascii", "Text is passed on as it is.", "text", user('图片和 "naïve" <b> & 🙂 {{ x }}'))
chat("other-role", "Any role is written down.", "text", user("1 + 1?"), said("tool", "2"))
chat("nothing-said", "A message without items is a message.", "text", said("user", []))
chat("content-a-number", "A content that is no text and no list is refused.", "mistake",
     said("user", 5))  # fmt: skip
chat("unknown-item", "An item that is no text, picture or video is refused.", "mistake",
     user({"type": "audio", "audio": "a.wav"}, text("What is said?")),
     reason="The published template leaves out what it does not know, without a word.",
      result="acceptable")  # fmt: skip
chat("no-role", "A message without a role is refused.", "mistake", {"content": "Hello"},
     reason="The published template writes an empty role.",
      result="acceptable")  # fmt: skip


# ------------------------------------------------------------------ placeholder_expansion

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
