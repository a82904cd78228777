"""Measure the time and memory of opening and reading a checkpoint (Linux).

    python -m scripts.measure_loading [DIR] [--keep]

Opens the checkpoint (none: the embedded one), then reads every tensor as float32: one after
another, or with ``--keep`` all into memory, as a run ends up doing. Prints seconds, and the peak of
resident memory (VmHWM) after each step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tinyqwenvl.checkpoint import load_weights
from tinyqwenvl.config import load_config
from tinyqwenvl.model import EMBEDDED
from tinyqwenvl.weights import Weights


def peak() -> int:
    """The peak of resident memory until now, in MB."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def leaves(weights: Weights) -> Iterator[Callable]:
    """The tensors of a tree that are still in their files."""
    for child in weights._children.values():
        if isinstance(child, Weights):
            yield from leaves(child)
        elif hasattr(child, "shape"):  # not the tied head, which is the embedding again
            yield child


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--keep", action="store_true", help="keep all tensors in memory")
    args = parser.parse_args()
    began = time.perf_counter()
    weights = load_weights(args.directory, load_config(args.directory))
    opened, at_open = time.perf_counter() - began, peak()
    kept, began = [], time.perf_counter()
    for read in leaves(weights):
        array = read()
        array.sum()  # touches every page, as use does
        if args.keep:
            kept.append(array)
    seconds = time.perf_counter() - began
    print(
        f"{args.directory.name}: opened in {1000 * opened:.0f} ms (peak {at_open} MB), "
        f"read in {seconds:.2f} s (peak {peak()} MB, {'all' if args.keep else 'one'} kept)"
    )


if __name__ == "__main__":
    main()
