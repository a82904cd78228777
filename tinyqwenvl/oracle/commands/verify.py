"""``oracle verify``: a published checkpoint here against transformers."""

from __future__ import annotations

from ...cli import Parser, write_text
from ..verify import verify

HELP = """\
usage: tinyqwenvl oracle verify [OPTIONS] DIR_OR_ID

Run a checkpoint here and in transformers (which must be installed) on five
images of the package. Print ids, distances and answers as Markdown.

  --revision R          of a hub id; default: the newest, which is reported
  --tokens N            greedy ids to compare; default 16
  -o, --output FILE     also write the report to FILE
"""


def run(argv: list[str]) -> int:
    """``oracle verify``."""
    p = Parser("tinyqwenvl oracle verify", HELP)
    p.add_argument("model")
    p.add_argument("--revision")
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("-o", "--output")
    args = p.parse_args(argv)
    found = verify(args.model, args.revision, args.tokens)
    print(found.as_text(), end="")
    if args.output is not None:
        write_text(args.output, found.as_text())
    return int(not found.good)
