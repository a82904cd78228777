"""Images of one short word, to be read: capital letters and digits in Pillow's own font."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import ImageFont

from scripts.first_edition.scenes import CELL, paint_images

LETTERS, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789"  # no I and O: they look like 1 and 0
CHARACTERS = LETTERS + DIGITS
SMALLEST = 28  # font size in pixels; capitals are 0.7 of it high


@dataclass(frozen=True)
class Word:
    """An image's contents: its size in pixels, the text and the font size.

    boxes: (x1, y1, x2, y2) in pixels of each character; starts: (x, y) of each one's left end on
    the base line.
    """

    width: int
    height: int
    text: str
    size: int
    boxes: tuple[tuple[float, float, float, float], ...]
    starts: tuple[tuple[float, float], ...]


@lru_cache(maxsize=512)
def _font(size):
    return ImageFont.load_default(size=size)


def make_text(rng):
    """One to four characters, no two digits side by side.

    (The tokenizer has one token for 42: neighbouring digits would be hundreds of words to learn.)
    """
    text = ""
    for _ in range(rng.choice((1, 2, 3, 4), p=(0.2, 0.25, 0.3, 0.25))):
        options = LETTERS if text[-1:].isdigit() or rng.random() < 0.65 else DIGITS
        text += options[rng.integers(len(options))]
    return text


def _lay_out(text, size, gap):
    """Boxes and starts of the characters, the first at x = 0 on the base line y = 0."""
    x, boxes, starts = 0.0, [], []
    for character in text:
        x1, y1, x2, y2 = _font(size).getbbox(character, anchor="ls")
        starts.append((x - x1, 0.0))
        boxes.append((x, y1, x + x2 - x1, y2))
        x += x2 - x1 + gap
    return np.array(boxes), np.array(starts)


def make_word(rng, rows, columns, text=None):
    """A word somewhere in an image of `rows` x `columns` cells, as large as fits or smaller."""
    width, height = columns * CELL, rows * CELL
    text, spacing = text or make_text(rng), rng.uniform(0.06, 0.2)
    boxes = _lay_out(text, 100, 100 * spacing)[0]
    room = min((width - 8) / boxes[-1, 2], (height - 8) / np.ptp(boxes[:, 1::2]))
    largest = min(100 * room, 84)
    size = int(rng.uniform(min(SMALLEST, largest), largest))
    boxes, starts = _lay_out(text, size, size * spacing)
    low, high = boxes.min(0)[:2], boxes.max(0)[2:]
    shift = rng.uniform(1 - low, (width - 1, height - 1) - high)
    boxes, starts = boxes + np.tile(shift, 2), starts + shift
    boxes, starts = (tuple(map(tuple, a.tolist())) for a in (boxes, starts))
    return Word(width, height, text, size, boxes, starts)


def draw_word(rng, word, plain=False):
    """One word -> one RGB image of its size, in a random colour; `plain` on light paper."""
    ink = tuple(rng.integers(0, 256, 3).tolist())
    bold = rng.random() < 0.3

    def paint(draw, scale):
        size = round(word.size * scale)
        stroke = round(0.02 * size) if bold else 0
        for character, (x, y) in zip(word.text, word.starts, strict=True):
            start = x * scale, y * scale
            draw.text(start, character, ink, _font(size), "ls", stroke_width=stroke)

    return paint_images(rng, word.width, word.height, [ink], [paint], plain)[0]
