"""Count lines of code in Python files, without blank lines, comments and docstrings.

python -m scripts.count_code FILE...

For each file, and in all: lines of code, lines altogether. The README's comparison is counted so.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

PIXELS_TO_WORDS = [  # of this package: from an RGB image and a prompt to the next token
    Path("tinyqwenvl", name)
    for name in "chat.py image.py vision.py nn.py position.py decoder.py sampling.py generate.py "
    "model.py".split()
]
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def docstrings(text: str) -> set[int]:
    """The lines of all docstrings."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            lines |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def code_lines(text: str) -> int:
    """How many lines hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings(text))


def main() -> None:
    """Command line."""
    total = [0, 0]
    for name in sys.argv[1:] or PIXELS_TO_WORDS:
        text = Path(name).read_text(encoding="utf-8")
        counts = code_lines(text), len(text.splitlines())
        total = [a + b for a, b in zip(total, counts, strict=True)]
        print(f"{counts[0]:6,} {counts[1]:6,}  {name}")
    print(f"{total[0]:6,} {total[1]:6,}  in all")


if __name__ == "__main__":
    main()
