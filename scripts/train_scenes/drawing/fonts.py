"""Free fonts that come with matplotlib and Pillow, and words as masks of their ink."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageFont

FONTS = (  # "" is Pillow's own
    "", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10",
    "cmtt10",
)  # fmt: skip
HELD_OUT_FONTS = ("STIXGeneralItalic", "DejaVuSerif-Italic", "cmb10")  # never drawn in training
ALL = FONTS + HELD_OUT_FONTS
REFERENCE = 48  # font size in pixels at which words are measured


def _file(name):
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@lru_cache(maxsize=512)
def font(index, size):
    """A Pillow font; index: into ALL; size: in pixels."""
    name = ALL[index]
    return ImageFont.truetype(_file(name), size) if name else ImageFont.load_default(size=size)


@lru_cache(maxsize=4096)
def measure(text, index):
    """(width, height) in pixels of a word's ink at the size REFERENCE."""
    return _ink(text, index, REFERENCE).size


@lru_cache(maxsize=256)
def _ink(text, index, size):
    """A word's ink as an "L" image, cropped to what is inked."""
    x1, y1, x2, y2 = font(index, size).getbbox(text)
    mask = Image.new("L", (int(x2 - x1) + 4, int(y2 - y1) + 4))
    core = font(index, size).getmask(text, "L")
    ink = Image.frombytes("L", core.size, bytes(core))
    mask.paste(ink, (2, 2))
    rows, columns = np.asarray(mask).max(1) > 100, np.asarray(mask).max(0) > 100
    if not rows.any():
        return ink
    top, left = int(rows.argmax()), int(columns.argmax())
    bottom, right = len(rows) - int(rows[::-1].argmax()), len(columns) - int(columns[::-1].argmax())
    return mask.crop((left, top, right, bottom))


def word_mask(text, index, width, height):
    """A word's ink as an "L" image of width x height pixels, filled to every side."""
    reference = measure(text, index)
    size = max(6, round(REFERENCE * min(width / reference[0], height / reference[1])))
    return _ink(text, index, size).resize((width, height), Image.Resampling.BILINEAR)
