"""Reading docs/spec.md: its marked blocks, tables and cells."""

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np

SPEC = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")


def blocks(mark):
    """(argument of the marker, the block after it) for every ``<!-- mark: argument -->``."""
    pattern = rf"<!-- {mark}(?:: (\w+))? -->\n(```json\n.*?\n```|(?:\|[^\n]*\n)+)"
    return re.findall(pattern, SPEC, re.DOTALL)


def table(block):
    """A Markdown table as a list of {column: cell}."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def parsed(cell):
    """A cell as JSON, tuples in round brackets, numbers with a fraction as Decimal; or its text."""
    text = cell.strip("`")
    try:
        return json.loads(
            text.replace("(", "[").replace(")", "]").replace(" / ", "/"), parse_float=Decimal
        )
    except ValueError:
        return text


def cases(block):
    """The rows of a checked block, as {name: value}."""
    if block.startswith("```"):
        found = json.loads(block[8:-4], parse_float=Decimal)
        return found if isinstance(found, list) else [found]
    return [{name: parsed(cell) for name, cell in row.items()} for row in table(block)]


def plain(value):
    """Decimals as floats, all the way down."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def same(written, computed):
    """Whether the page's value is the computed one, as exactly as its digits say."""
    if isinstance(computed, np.ndarray | np.generic):
        computed = computed.tolist()
    if isinstance(written, dict) and isinstance(computed, dict):
        return written.keys() == computed.keys() and all(
            same(v, computed[n]) for n, v in written.items()
        )
    if isinstance(written, list) and isinstance(computed, list | tuple):
        return len(written) == len(computed) and all(map(same, written, computed))
    if isinstance(written, Decimal):
        if isinstance(computed, bool) or not isinstance(computed, int | float):
            return False
        last = Decimal(1).scaleb(written.as_tuple().exponent)
        return abs(written - Decimal(computed)) <= last * Decimal("0.5000001")
    if isinstance(computed, float) and isinstance(written, int):
        return written == computed
    return type(written) is type(computed) and written == computed
