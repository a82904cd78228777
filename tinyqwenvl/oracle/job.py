"""A prompt to run: messages or prepared inputs; and how to read one from a dump."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import chat
from ..config import Config
from ..errors import UserError
from ..messages import as_messages
from ..model import Inputs, Model
from ..tracing import record as show
from .dump import Dump

LARGEST_GRID = 100_000  # patches on a side, or pairs of frames
LIMITS = ("min_pixels", "max_pixels")
FLAGS = ("parse_special", "add_vision_id")
MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


@dataclass(frozen=True)
class Job:
    """A prompt: messages, or prepared ids and patches (or messages with the patches of their
    images).

    ``tokens`` ids are generated after it, or the ids of ``forced`` are used.
    """

    messages: Sequence[dict[str, Any]] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)  # with input_ids or messages
    tokens: int = 0
    forced: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of Model.prepare: LIMITS and FLAGS

    def inputs(self, model: Model) -> Inputs:
        """Ready for the model; every stage up to there is recorded."""
        if self.messages is not None and not self.media:
            return model.prepare(self.messages, **self.options)
        media = dict(self.media)
        media |= {name: show(name, media[name]) for name in MEDIA if name in media}
        if self.messages is not None:
            flags = {name: self.options[name] for name in FLAGS if name in self.options}
            return model.prompt(self.messages, media, **flags)
        ids = show("input_ids", np.asarray(media.pop("input_ids")))
        positions, delta = model.positions(ids, media)
        return Inputs(ids, positions, delta, **media)


def job_from_file(dump: Dump, config: Config) -> Job:
    """The job of a dump that holds what a run begins with: input_ids, pixel_values, grids.

    Raises UserError if they are missing or invalid.
    """
    try:
        return _job(dump, config)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{dump.source}: its prompt is damaged ({error}); record it again"
        ) from None


def _job(dump: Dump, config: Config) -> Job:
    if dump.get("input_ids") is None:
        raise UserError(f"{dump.source} holds no input_ids; they are needed to run the model")
    forced, messages = generated(dump, config), dump.about.get("messages")
    options = checked_options(dump.about.get("options", {}))
    if messages is not None:
        messages = _checked(messages, [e for e in dump if e.name == "image.rgb"])
    if messages is not None and not _has_video(messages):
        return Job(messages, tokens=len(forced), forced=forced, options=options)
    names = (*MEDIA, "input_ids")
    media: dict[str, Any] = {n: e.read() for n in names if (e := dump.get(n)) is not None}
    media["input_ids"] = np.reshape(media["input_ids"], -1)
    if (seconds := dump.get("second_per_grid_ts")) is not None:
        media["second_per_grid_ts"] = tuple(seconds.read().reshape(-1).tolist())
    _check(dump.source, media, config)
    if messages is not None:
        media.pop("input_ids")
        return Job(messages, media, len(forced), forced, options)
    return Job(None, media, tokens=len(forced), forced=forced)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a job. Raises UserError for one that a manifest cannot hold."""
    for name, value in options.items():
        kinds = (bool,) if name in FLAGS else (int, type(None)) if name in LIMITS else ()
        if type(value) not in kinds:
            known = ", ".join((*LIMITS, *FLAGS))
            raise UserError(
                f"a prompt with the option {name} cannot be recorded; known are {known}"
            )
    return dict(options)


def generated(dump: Dump, config: Config) -> list[int]:
    """The ids that were generated in a dump. Raises UserError if they are not ids."""
    rows = config.text.vocab_size
    ids = [np.reshape(e.read(), -1) for e in dump if e.name == "generated"]
    if not all(len(i) == 1 and i.dtype.kind in "iu" and 0 <= i[0] < rows for i in ids):
        raise UserError(f"{dump.source}: generated should be one id per step, from 0 to {rows - 1}")
    return [int(i[0]) for i in ids]


def following(reference: Dump, candidate: Dump, config: Config) -> Job:
    """The reference's job, with the ids that a candidate generated, where it holds them."""
    job, theirs = job_from_file(reference, config), generated(candidate, config)
    return replace(job, forced=theirs, tokens=min(job.tokens, len(theirs))) if theirs else job


def _has_video(messages: Sequence[dict[str, Any]]) -> bool:
    return any(chat.media_kind(item) == "video" for item in chat.all_items(messages))


def _check(source: str, media: dict[str, Any], config: Config) -> None:
    """Check the shapes of a porter's inputs: each error gets its own line."""
    vision = config.vision
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    ids = media["input_ids"]
    if ids.dtype.kind not in "iu" or not len(ids):
        raise UserError(f"{source}: input_ids should be integers, at least one")
    for pixels, grids in zip(MEDIA[::2], MEDIA[1::2], strict=True):
        if (pixels in media) != (grids in media):
            raise UserError(f"{source}: give both {pixels} and {grids}, or neither")
        if pixels not in media:
            continue
        grid = media[grids]
        if grid.dtype.kind not in "iu" or grid.size % 3 or grid.shape[-1:] != (3,):
            raise UserError(f"{source}: {grids} should be integers, [images, 3]")
        grid = media[grids] = np.reshape(grid, (-1, 3))
        if not len(grid) or np.any(grid < 1) or np.any(grid > LARGEST_GRID):
            raise UserError(f"{source}: {grids} should be from 1 to {LARGEST_GRID:,}")
        if np.any(grid[:, 1:] % vision.spatial_merge_size):
            raise UserError(f"{source}: rows and columns of {grids} should be even")
        found = media[pixels] = np.squeeze(media[pixels]).astype(np.float32, copy=False)
        patches = int(np.sum(np.prod(grid, axis=1)))
        if found.shape != (patches, width):
            raise UserError(
                f"{source}: {pixels} is {list(found.shape)}, but {grids} makes it "
                f"{[patches, width]}"
            )


def _checked(messages: Any, images: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages of a manifest, images instead of their numbers; nothing else is opened."""

    def item_of(item: dict[str, Any]) -> dict[str, Any]:
        if item.get("type") == "image":
            limits = {n: item[n] for n in LIMITS if n in item}
            number = item["picture"] if "picture" in item else item["image"]  # version 0.1; today
            return {"type": "image", "image": images[number].read()} | limits
        if item.get("type") == "video":
            return {"type": "video"}
        return {"type": "text", "text": str(item["text"])}

    found = [
        {"role": str(m["role"]), "content": [item_of(item) for item in m["content"]]}
        for m in messages
    ]
    if not found:
        raise ValueError("no messages")
    return found


def messages_as_json(messages: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Messages for a manifest, images by their number."""
    found: list[dict[str, Any]] = []
    count = 0
    for message in as_messages(messages or ()):
        items: list[dict[str, Any]] = []
        for item in chat.content_items(message):
            kind = chat.media_kind(item)
            if kind == "video":
                items.append({"type": "video"})
            elif kind == "image":
                limits = {n: item[n] for n in LIMITS if n in item}
                items.append({"type": "image", "image": count} | limits)
                count += 1
            else:
                items.append({"type": "text", "text": item["text"]})
        found.append({"role": message["role"], "content": items})
    return found if messages is not None else None
