"""Cases of frame_sampling: the frames of a video under both sampling policies."""

from __future__ import annotations

from .registry import case


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
