"""All texts use the field's words: no home-made word stands where the field has its own.

Checked are README, docs, the notebooks' text cells, and every docstring and string literal of the
package (its messages and command-line help among them). Only unambiguous words are listed: "row",
"block" or "look" may be right, and are matched only inside phrases that never are.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {  # home-made word -> the field's
    r"pictures?": "image",
    r"towers?": "vision encoder",
    r"may look at|(patch|token|row|query|block|head)e?s? (that )?looks? at": "attends to",
    r"sees? each other|who (sees|looks at) whom": "attend to each other; attention mask",
    r"kept-out|known pairs?": "held-out; seen combinations",
    r"mistakes?|wrong ports?": "bug, error; faulty port",
    r"temporal grids?": "frame pair, temporal patch",
    r"rows? of the vocabulary": "vocabulary entry",
    r"width of the (residual )?stream": "hidden size",
    r"numbers in (a|one) (patch|row)": "values in a patch",
    r"likeliest": "most probable; argmax, greedy decoding",
    r"take[ns]? off|took off": "subtract",
    r"(laid|lay|lie) (side by side|end to end)": "concatenated",
    r"control tokens?": "special token",
    r"learnt": "trained, learned",
    r"(fast|plain|speed) forms?|twins?": "reference / optimised implementation",
    r"how near|near enough": "tolerance",
    r"handed on": "propagated",
    r"told apart|says of itself": "distinguished; reports",
    r"whole numbers?|thousand million": "integer; billion",
    r"recipes?": "sampling policy",
    r"(laid|lay|lays) on white": "composited onto white",
}
PATTERN = re.compile(rf"\b(?:{'|'.join(f'(?:{word})' for word in WORDS)})\b", re.IGNORECASE)
OLD_NAME = "names of version 0.1, which a user may still type"
PROMPT = "the embedded checkpoint is asked in these words"
EXCEPTIONS = {  # (file, part of the line): the reason
    ("*", "escribe the picture"): PROMPT,
    ("*", "Picture 1"): "the published template writes it",
    ("*", "-picture"): "names of published vectors, which ports may load",
    ("CHANGELOG.md", "`"): OLD_NAME,
    ("tinyqwenvl/tracing.py", "``picture``"): OLD_NAME,
    ("tinyqwenvl/viz/oracle.py", "image|picture"): OLD_NAME,
    ("tinyqwenvl/viz/learning.py", 'older logs say "pictures"'): "a key of published logs",
    ("tinyqwenvl/vision.py", "(vision tower)"): "the synonym, once",
    ("docs/concepts.md", "known as the vision tower"): "the synonym, once",
    ("notebooks/08_chat_and_tokens.py", "no known pair is"): "pairs of byte-pair encoding",
    ("notebooks/14_be_an_oracle.py", "is a whole number of"): "a multiple is meant",
}


def strings(path):
    """(line number, line) of every docstring and string of a Python file, but for mere names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and not re.fullmatch(r"[\w.-]*", value):  # a key, an option
            for i, line in enumerate(value.splitlines()):
                yield node.lineno + i, line


def prose(path):
    """(line number, line) of the text of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".md":
        return enumerate(lines, start=1)
    if path.parent.name == "notebooks":  # their text cells are comments
        return ((i, line) for i, line in enumerate(lines, start=1) if line.startswith("# "))
    return strings(path)


def texts():
    """All files that are checked; docs/reference.md is made of the docstrings."""
    yield from (ROOT / "README.md", ROOT / "CHANGELOG.md")
    yield from (path for path in (ROOT / "docs").glob("*.md"))
    yield from (ROOT / "notebooks").glob("*.py")
    yield from (ROOT / "tinyqwenvl").rglob("*.py")
    yield from (ROOT / "tinyqwenvl").rglob("*.md")


def faults(name, lines):
    """The home-made words of a file, but for the exceptions."""
    for number, line in lines:
        for found in PATTERN.finditer(line):
            if not any(f in ("*", name) and part in line for f, part in EXCEPTIONS):
                yield f"{name}:{number}: {found[0]!r} in {line.strip()[:100]!r}"


@pytest.mark.parametrize("path", sorted(texts()), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_words_are_the_fields(path):
    name = path.relative_to(ROOT).as_posix()
    found = list(faults(name, prose(path)))
    assert not found, "\n".join(found)


def test_the_exceptions_are_few_and_needed():
    assert len(EXCEPTIONS) < 30
    for name, part in EXCEPTIONS:
        lines = (
            line
            for path in texts()
            if name in ("*", path.relative_to(ROOT).as_posix())
            for _, line in prose(path)
        )
        assert any(part in line and PATTERN.search(line) for line in lines), (name, part)


def test_a_home_made_word_is_found():
    assert list(faults("a.md", [(1, "The tower reads a picture.")])) == [
        "a.md:1: 'tower' in 'The tower reads a picture.'",
        "a.md:1: 'picture' in 'The tower reads a picture.'",
    ]
    assert not list(faults("a.md", [(1, "The encoder reads a pictured image.")]))
