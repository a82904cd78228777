"""``oracle vectors``: what there is of the conformance vectors, and a copy of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ...cli import Parser
from ...errors import UserError
from .. import vectors

HELP = """\
usage: tinyqwenvl oracle vectors [FOLDER]

Copy the conformance vectors to FOLDER; without FOLDER, list them. They are JSON
and safetensors, and need no Python (docs/vectors.md).
"""


def run(argv: list[str]) -> int:
    """``oracle vectors``."""
    p = Parser("tinyqwenvl oracle vectors", HELP)
    p.add_argument("folder", nargs="?")
    args = p.parse_args(argv)
    manifest = json.loads((vectors.FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for line in manifest["files"]:
        print(f"{line['family']:24} {line['count']:3} cases")
    for line in manifest["models"]:
        print(f"{line['id']:32} {line['pins']}")
    if args.folder is not None:
        target = Path(args.folder)
        if target.exists():
            raise UserError(f"{args.folder} exists already; give a new name")
        shutil.copytree(vectors.FOLDER.parent, target)
        print(f"copied to {target}")
    return 0
