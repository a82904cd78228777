"""Draw the learning curves of a run: the loss of every skill against the images seen.

python -m scripts.train_scenes.curves --out curves.png                      # of the kept run
python -m scripts.train_scenes.curves --log .train/log.jsonl --out curves.png
"""

import argparse
import sys
from pathlib import Path

from scripts.train_scenes.keep import LOG, RUN, read_lines
from scripts.train_scenes.state import StateError


def draw(log, out, smooth=5):
    """Draw the lines of a log (a file) into a figure (a file); the figure's alternative text."""
    from tinyqwenvl.viz import learning_curves

    lines = [line for line in read_lines(log) if line.get("loss")]
    if not lines:
        raise StateError(f"{log} holds no losses")
    figure = learning_curves(lines, smooth=smooth, columns=6, title="Loss by skill")
    figure.savefig(out, dpi=130)
    return figure.alt


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default=RUN / LOG, help="log of training")
    parser.add_argument("--out", type=Path, required=True, help="PNG or SVG file")
    options = parser.parse_args(arguments)
    try:
        print(draw(options.log, options.out))
    except (StateError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
