"""The unit vectors (an input with its correct output), and our own outputs.

The files lie in ``tinyqwenvl/vectors/v1`` and can be used without Python; ``docs/vectors.md`` shows
how. Other implementations gave the outputs. :func:`run_unit` calls every stage through its module,
so that a function that replaces it is noticed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import chat, image, model, video, vision
from ..config import Config, TextConfig, VisionConfig
from ..dims import Array, Int
from ..errors import UserError

FOLDER = Path(__file__).parents[1] / "vectors" / "v1"
CLOSE = 1e-6  # relative; for floats

Case = dict[str, Any]


# ------------------------------------------------------------------ reading


def unit_cases(family: str | None = None) -> Iterator[Case]:
    """The cases of one family, or of all. Raises UserError for a family that is not there."""
    for name in FAMILIES if family is None else (known(family),):
        path = FOLDER / "unit" / f"{name}.json"
        yield from json.loads(path.read_text(encoding="utf-8"))["cases"]


def known(family: str) -> str:
    """The name of a family. Raises UserError when there is none of that name."""
    if family not in RUNNERS:
        raise UserError(f"no family is called {family!r}; known are {', '.join(FAMILIES)}")
    return family


def family_of(case: Case) -> str:
    """The family of a case, with which its id begins."""
    return case["id"].partition("/")[0]


# ------------------------------------------------------------------ judging


def judge(case: Case, output: Any) -> bool:
    """Whether an answer is correct. An error is given as an exception, such as a UserError."""
    answers = [case, *case.get("also", ())]
    if isinstance(output, Exception):
        return any(answer.get("error") for answer in answers)
    known = [answer["output"] for answer in answers if "output" in answer]
    if family_of(case) == "mrope_positions":
        output = _as_ours(case["input"], output)
        known += [{**right, "rope_delta": right["rope_delta"] - _pads(case)} for right in known]
        known = [_as_ours(case["input"], right) for right in known]
    return any(equal(right, output) for right in known)


def _pads(case: Case) -> int:
    """How many of a prompt's ids are padding."""
    return list(case["input"]["attention_mask"]).count(0)


def _as_ours(given: dict[str, Any], output: Any) -> Any:
    """Positions in our convention: three rows, also of text alone, and 0 where there is padding."""
    if not isinstance(output, dict) or not isinstance(output.get("position_ids"), list):
        return output
    rows, mask = output["position_ids"], given["attention_mask"]
    if not given["image_grid_thw"] and not given["video_grid_thw"]:
        rows = [rows] if rows and not isinstance(rows[0], list) else rows
        rows = rows * 3 if len(rows) == 1 else rows
    if all(isinstance(row, list) and len(row) == len(mask) for row in rows):
        rows = [[p if real else 0 for p, real in zip(row, mask, strict=True)] for row in rows]
    return {**output, "position_ids": rows}


def equal(expected: Any, found: Any) -> bool:
    """The same JSON value; a float may differ by one part in a million."""
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, float) and isinstance(found, (int, float)):
        near, far = sorted((expected * (1 - CLOSE), expected * (1 + CLOSE)))
        return near <= found <= far
    if isinstance(expected, int) and isinstance(found, (int, float)):
        return expected == found
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            equal(value, found[name]) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(found, (list, tuple)):
        pairs = zip(expected, found, strict=False)
        return len(expected) == len(found) and all(equal(a, b) for a, b in pairs)
    return type(expected) is type(found) and expected == found


# ------------------------------------------------------------------ answering


def answer_to(case: Case) -> Any:
    """Our answer to a case: an output, or the exception that was raised."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return run_unit(family_of(case), case["input"])
    except Exception as error:
        return error


def run_unit(family: str, given: dict[str, Any]) -> Any:
    """Our answer to the ``input`` of a case, as JSON. Raises UserError for invalid input."""
    return RUNNERS[known(family)](**given)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: float, max_pixels: float
) -> dict[str, int]:
    """Pixels -> pixels."""
    h, w = image.smart_resize(height, width, factor, min_pixels, max_pixels)
    return {"height": h, "width": w}


def frame_sampling(
    recipe: str, total_frames: int, video_fps: float, fps: float, min_frames: int, max_frames: int
) -> dict[str, Any]:
    """Which frames of a video, and the seconds of one temporal patch."""
    samplers = {"qwen-vl-utils": video.sample_qwen_vl_utils, "hf": video.sample_hf}
    indices = samplers[recipe](total_frames, video_fps, fps, min_frames, max_frames)
    source = video.VideoSource("the video", total_frames, video_fps, lambda: iter(()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that not all frames are used
        _, between = video.choose_frames(source, fps, min_frames, max_frames, recipe)
    return {"indices": indices.tolist(), "second_per_grid": 2 * between}


def window_index(
    grid_thw: list[list[int]], patch_size: int, spatial_merge_size: int, window_size: int
) -> dict[str, list[int]]:
    """The window order of the tokens, and its inverse."""
    settings = _vision(patch_size, spatial_merge_size, window_size)
    index, _ = vision.window_index(np.array(grid_thw), settings)
    positions = np.arange(len(index), dtype=np.float64)[:, None]
    back = vision.restore_order(positions, index)[:, 0]
    return {"window_index": index.tolist(), "reverse_index": back.astype(int).tolist()}


def cu_seqlens(
    grid_thw: list[list[int]], patch_size: int, spatial_merge_size: int, window_size: int
) -> dict[str, list[int]]:
    """Boundaries of frames and of windows among the patches."""
    grids = np.array(grid_thw)
    settings = _vision(patch_size, spatial_merge_size, window_size)
    _, windows = vision.window_index(grids, settings)
    return {"frames": vision.frame_seqlens(grids).tolist(), "windows": windows.tolist()}


def vision_positions(grid_thw: list[list[int]], spatial_merge_size: int) -> list[list[int]]:
    """[row, column] of every patch, in merge order."""
    return vision.patch_positions(np.array(grid_thw), spatial_merge_size).tolist()


def mrope_positions(
    model_type: str,
    input_ids: list[int],
    attention_mask: list[int],
    image_grid_thw: list[list[int]],
    video_grid_thw: list[list[int]],
    second_per_grid_ts: list[float] | None,
    tokens_per_second: int | None,
    spatial_merge_size: int,
    image_token_id: int,
    video_token_id: int,
    vision_start_token_id: int,
) -> dict[str, Any]:
    """Positions [3][S], 0 where there is padding, and the rope delta of the unpadded prompt."""
    config = _config(model_type, spatial_merge_size, image_token_id, video_token_id)
    config = replace(
        config, vision=replace(config.vision, tokens_per_second=tokens_per_second or 1)
    )
    real = np.array(attention_mask, bool)
    media: dict[str, Any] = {"second_per_grid_ts": second_per_grid_ts}
    for name, grids in (("image_grid_thw", image_grid_thw), ("video_grid_thw", video_grid_thw)):
        if grids:
            media[name] = np.array(grids)
    itself: Any = SimpleNamespace(config=config)
    found, delta = model.Model.positions(itself, np.array(input_ids)[real], media)
    positions = np.zeros((3, len(input_ids)), np.int64)
    positions[:, real] = found
    return {"position_ids": positions.tolist(), "rope_delta": delta}


def chat_template(
    messages: list[dict[str, Any]], add_generation_prompt: bool, add_vision_id: bool
) -> str:
    """The text of the prompt."""
    return "".join(chat.render(messages, add_generation_prompt, add_vision_id))


class _Ids:
    """Instead of a tokenizer: pieces that are ids already, and two placeholders."""

    def __init__(self, image_token_id: int, video_token_id: int):
        self.pads: dict[str, int] = {chat.IMAGE_PAD: image_token_id, chat.VIDEO_PAD: video_token_id}

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids -> pieces of a prompt."""
        names = {number: piece for piece, number in self.pads.items()}
        return [names.get(number, str(number)) for number in ids]

    def encode(self, pieces: Sequence[str]) -> Int[Array, "S"]:
        """Pieces -> ids."""
        return np.array([self.pads[p] if p in self.pads else int(p) for p in pieces], np.int64)


def placeholder_expansion(
    text: str,
    input_ids: list[int],
    image_token_id: int,
    video_token_id: int,
    image_grid_thw: list[list[int]],
    video_grid_thw: list[list[int]],
    spatial_merge_size: int,
) -> dict[str, Any]:
    """How often each placeholder is repeated, and the ids. ``text`` is for readers only."""
    config = _config("qwen2_5_vl", spatial_merge_size, image_token_id, video_token_id)
    tokenizer = _Ids(image_token_id, video_token_id)
    media = {
        name: np.array(grids)
        for name, grids in (("image_grid_thw", image_grid_thw), ("video_grid_thw", video_grid_thw))
        if grids
    }
    itself: Any = SimpleNamespace(config=config, tokenizer=tokenizer)
    ids = model.Model.encode(itself, tokenizer.pieces(input_ids), media).tolist()
    return {
        "image_counts": _runs(ids, image_token_id),
        "video_counts": _runs(ids, video_token_id),
        "input_ids": ids,
    }


def _runs(ids: list[int], pad: int) -> list[int]:
    """Lengths of the runs of ``pad``; there are markers between any two images."""
    return [len([*run]) for number, run in groupby(ids) if number == pad]


def _vision(patch: int = 14, merge: int = 2, window: int = 112) -> VisionConfig:
    """A vision encoder of which only the geometry matters."""
    return VisionConfig(
        1, 4, 1, 4, 4, patch_size=patch, spatial_merge_size=merge, window_size=window
    )


def _config(model_type: str, merge: int, image_token_id: int, video_token_id: int) -> Config:
    """A model of which only the geometry matters."""
    text = TextConfig(4, 1, 1, 1, 4, 1, 1e-6, 1e6, (0, 1, 1))
    return Config(model_type, _vision(merge=merge), text, image_token_id, video_token_id, False)


RUNNERS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        smart_resize, frame_sampling, window_index, cu_seqlens, vision_positions,
        mrope_positions, chat_template, placeholder_expansion,
    )
}  # fmt: skip
FAMILIES = tuple(RUNNERS)
