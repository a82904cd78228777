"""Drawn scenes, questions about them, and the training of the embedded checkpoint."""

import argparse
from pathlib import Path

CHECKPOINT = Path(__file__).parents[2] / "tinyqwenvl" / "assets" / "checkpoint"
LARGEST = 100_352  # pixels of the largest image in training: 128 cells of 28 x 28
LONGEST = {"describe": 48, "locate": 40, "locate_all": 128, "point": 32,
           "change": 24}  # tokens; else 12  # fmt: skip


def folder_with(file):
    """The type of a command line's folder: a Path, refused when it does not hold `file`."""

    def folder(text):
        if not (Path(text) / file).is_file():
            raise argparse.ArgumentTypeError(f"{text} has no {file}")
        return Path(text)

    return folder
