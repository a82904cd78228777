"""Written words: their text, font and place."""

import math
from itertools import pairwise

import numpy as np

from scripts.train_scenes.drawing import fonts
from scripts.train_scenes.scene import Word

ALIKE = set("cCoOsSuUvVwWxXzZkKpP")  # capitals that only their size tells apart
WORDS = (
    "cat dog sun moon tree car bus cup hat box ball fish bird star red blue green door book home "
    "hello yes no ok stop go left right start end open menu file save play exit hi test draw note "
    "apple water music paper house table river cloud north south east west king queen one two "
    "three four five six seven ten map key top fox owl bee ant egg jam pie tea zoo toy rain snow "
    "wind fire rock sand leaf seed root farm barn gate wall path bridge garden school friend"
).split()


SYLLABLES = ("bcdfghjkmnprstvwyz", "aeiou", "nrstmkdp")  # begins, middles, ends
CAPITAL_SYLLABLES = ("BCDFGHJKLMNPRSTVWYZ", "AEU", "NRSTMKDPL")


def make_training_text(rng):
    """As `make_text`, but a quarter are made-up words of syllables, which end in no certain way."""
    if rng.random() >= 0.25:
        return make_text(rng)
    while True:
        capitals = rng.random() < 0.4
        begins, middles, ends = CAPITAL_SYLLABLES if capitals else SYLLABLES
        text, length = "", int(rng.integers(3, 9))
        while len(text) < length:
            text += begins[rng.integers(len(begins))] + middles[rng.integers(len(middles))]
            if rng.random() < 0.3:
                text += ends[rng.integers(len(ends))]
        text = text[:length]
        if not capitals and rng.random() < 0.2 and text[0] not in "io":
            text = text[0].upper() + text[1:]
        if set(text) - ALIKE:
            return text


def make_text(rng):
    """One to eight characters: a word, letters, or letters and digits (no two digits in a row).

    Characters that look like another one are left out unless a word tells which it is: in capitals
    I and O, in lower case l, 0 and 1, and letters alone whose capitals look the same.
    """
    while True:
        roll = rng.random()
        if roll < 0.35:
            text = WORDS[rng.integers(len(WORDS))]
            return text.upper() if roll < 0.12 else text.capitalize() if roll < 0.17 else text
        capitals = rng.random() < 0.5
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ" if capitals else "abcdefghijkmnopqrstuvwxyz"
        digits = "0123456789" if capitals else "23456789"
        share, text = 0.8 if roll < 0.6 else 1.0, ""
        for _ in range(int(rng.integers(1, 9 if roll < 0.8 else 5))):
            options = letters if text[-1:].isdigit() or rng.random() < share else digits
            text += options[rng.integers(len(options))]
        if not capitals and len(text) > 1 and rng.random() < 0.15 and text[0] not in "io":
            text = text[0].upper() + text[1:]
        if set(text) - ALIKE:
            return text


def place_word(rng, area, low=14, high=90, training=False):
    """A word somewhere in a free area, its ink between `low` and `high` pixels high."""
    x1, y1, x2, y2 = area
    make = make_training_text if training else make_text
    text, font = make(rng), int(rng.integers(len(fonts.FONTS)))
    while 8 * len(text) > x2 - x1 - 4:  # too narrow to be read
        text = make(rng)
    width, height = fonts.measure(text, font)
    most = min((x2 - x1 - 4) / width, (y2 - y1 - 4) / height, high / height)
    least = min(most, max(low / height, 9 * len(text) / width))
    scale = math.exp(rng.uniform(math.log(least), math.log(most)))
    w, h = 2 * max(2, round(scale * width / 2)), 2 * max(2, round(scale * height / 2))
    x = x1 + 2 * int(rng.integers(0, (x2 - x1 - w) // 2 + 1))
    y = y1 + 2 * int(rng.integers(0, (y2 - y1 - h) // 2 + 1))
    return Word(text, (x, y, x + w, y + h), font)


def place_labels(rng, area, training=False):
    """(words in a band at one side, what is left to shapes)."""
    x1, y1, x2, y2 = area
    band = 2 * round(rng.uniform(20, 36) / 2)
    if y2 - y1 < band + 40:
        return (), area
    below = rng.random() < 0.5
    strip = (x1, y2 - band, x2, y2) if below else (x1, y1, x2, y1 + band)
    rest = (x1, y1, x2, y2 - band - 2) if below else (x1, y1 + band + 2, x2, y2)
    count = int(rng.integers(1, 1 + min(3, max(1, (x2 - x1) // 90))))
    edges = np.linspace(x1, x2, count + 1)
    cells = [(2 * int(a / 2), strip[1], 2 * int(b / 2) - 6, strip[3])
             for a, b in pairwise(edges)]  # fmt: skip
    return tuple(place_word(rng, cell, 10, band - 4, training) for cell in cells), rest
