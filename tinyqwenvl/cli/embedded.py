"""The limits of the embedded checkpoint, and the notes printed outside them.

The limits below are those of its training (``scripts/first_edition``) and of its model card.
"""

from __future__ import annotations

import argparse
from typing import Any

from .. import media
from ..chat import media_kind
from ..image import smart_resize
from ..model import Model
from .request import TO_RGB
from .shared import note

SCENES = (
    "the embedded checkpoint only knows drawn scenes; for photographs use a published one: "
    "-m Qwen/Qwen2.5-VL-3B-Instruct (downloaded once), or -m DIRECTORY"
)
TURNS = 2  # per conversation
PAIR_PIXELS = 28_224  # per image if there are several: 168 x 168
LIKELY = 0.5  # below this probability, an answer in words is hardly ever correct
LIKELY_PLACE = 0.1  # for boxes and points: neighbouring coordinates share the probability


def note_what_is_shown(items: list[dict[str, Any]], lowered: bool) -> None:
    """Note that there is no image, or that several images have a lower limit (``lowered``)."""
    if lowered:
        note(
            f"several images are resized to at most {PAIR_PIXELS:,} pixels each, the limit that "
            "the embedded checkpoint was trained with; --max-pixels sets another limit"
        )
    if all(media_kind(item) == "text" for item in items):
        note("no image was given; without one the embedded checkpoint guesses")


def note_turn(turn: int) -> None:
    """Note the first turn (from 1) that exceeds the length of training conversations."""
    if turn == TURNS + 1:
        note(
            f"turn {turn}: the embedded checkpoint was trained on conversations of {TURNS} turns, "
            "and answers get worse from here; /clear starts again"
        )


def is_improbable(text: str, probability: dict[str, float] | None) -> bool:
    """Whether an answer with this :func:`report.confidence` is hardly ever correct.

    ``scripts/first_edition/confidence.py`` measures how well this works.
    """
    least = LIKELY_PLACE if "_2d" in text else LIKELY
    return probability is not None and probability["answer"] < least


def note_probability(text: str, probability: dict[str, float] | None) -> None:
    """Note that the answer as a whole is improbable."""
    if probability is not None and is_improbable(text, probability):
        note(
            f"the answer's probability is {probability['answer']:.2f}: the embedded checkpoint "
            "probably guesses"
        )


def pair_limit(
    args: argparse.Namespace, model: Model, items: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int | None]:
    """The items, and the pixel limit per image: lower if there are several large images.

    ``--max-pixels`` or ``--min-pixels`` wins. Several images are opened, because their sizes
    decide; if all are small, nothing changes. Raises UserError.
    """
    kinds = [media_kind(item) for item in items]
    if kinds.count("image") < 2 or args.max_pixels or args.min_pixels:
        return items, args.max_pixels
    opened = [
        item | {"image": media.open_image(item["image"], TO_RGB[args.alpha])}
        if kind == "image"
        else item
        for item, kind in zip(items, kinds, strict=True)
    ]
    side = model.config.vision.patch_size * model.config.vision.spatial_merge_size
    limits = model.config.processor.limits(None, None)
    images = [item["image"] for item, kind in zip(opened, kinds, strict=True) if kind == "image"]
    sizes = [smart_resize(image.height, image.width, side, *limits) for image in images]
    if all(height * width <= PAIR_PIXELS for height, width in sizes):
        return opened, None
    return opened, PAIR_PIXELS
