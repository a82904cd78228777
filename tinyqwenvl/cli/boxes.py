"""``--boxes OUT``: draw the boxes and points of an answer on the original image."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image

from .. import grounding
from ..errors import UserError
from ..model import Inputs, Model
from .report import grids_of
from .shared import note

ICONS = ("ICO", "ICNS")  # written at a few sizes only


def check_boxes(args: argparse.Namespace, images: list[str]) -> None:
    """Check the option before the slow part begins. Raises UserError if no output is possible."""
    if args.chat or args.video or len(images) != 1:
        raise UserError("--boxes draws on one image: no --chat, no --video, not several images")
    target = Path(args.boxes)
    if target.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"--boxes {args.boxes}: give the name of an image, such as boxes.png")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--boxes {args.boxes}: there is no such directory")
    if target.exists() and not target.is_file():
        raise UserError(f"--boxes {args.boxes}: that is not a file; give another name")
    image = Path(images[0])  # opened later, which checks that it exists
    if images[0] != "-" and target.exists() and image.exists() and target.samefile(image):
        raise UserError(f"--boxes {args.boxes}: that is the image itself; give another name")
    in_format(Image.new("RGB", (8, 8)), args.boxes)


def find_locations(
    model: Model, inputs: Inputs, size: tuple[int, int], token_ids: list[int]
) -> list[grounding.Location]:
    """The boxes and points of an answer about one image of ``size``, in pixels of that image."""
    ((_, rows, columns),) = grids_of(inputs.image_grid_thw)
    patch = model.config.vision.patch_size
    answer = model.tokenizer.decode(token_ids, skip_special=False)
    reading = grounding.read_answer(answer, (columns * patch, rows * patch), size)
    if reading.cut:
        note("the answer ends in the middle of a location; --boxes draws the complete ones")
    return reading.locations


def in_format(image: Image.Image, path: str) -> bytes:
    """Encode an image in the format that the suffix of ``path`` names. Raises UserError."""
    file, form = io.BytesIO(), Image.registered_extensions()[Path(path).suffix.lower()]
    try:
        if form in ICONS:
            raise ValueError
        image.save(file, form)
    except (OSError, KeyError, ValueError, OverflowError):
        size = f"{image.width}x{image.height} pixels"
        raise UserError(
            f"--boxes {path}: Pillow cannot write {size} as {form}; give a .png"
        ) from None
    return file.getvalue()
