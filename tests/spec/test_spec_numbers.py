"""docs/spec.md: every worked number is computed again, every stage it names exists in a real trace.

A block of the page that follows ``<!-- check: NAME -->`` is a table or JSON. ``CHECKS[NAME]`` takes
a row (or case) and returns the columns that follow from the others; they must be those of the page.
A table that follows ``<!-- stages -->`` names stages with their shapes; one that follows
``<!-- witnesses -->`` or ``<!-- words -->`` holds nothing that could be computed here.
"""

import re
from decimal import Decimal

import pytest
from spec_checks import CHECKS, wrong
from spec_page import SPEC, blocks, cases, plain, same

ALL = [(name, block) for name, block in blocks("check")]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(ALL)]


@pytest.mark.parametrize(("name", "block"), ALL, ids=IDS)
def test_worked_numbers(name, block):
    for case in cases(block):
        assert not wrong(name, case), case


def altered(value):
    """The same value with one number in it changed in its last digit, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Decimal):
        return value + Decimal(2).scaleb(value.as_tuple().exponent)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "."
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in reversed(list(items)):
        if (other := altered(item)) is not None:
            changed = dict(value) if isinstance(value, dict) else list(value)
            changed[key] = other
            return changed
    return None


@pytest.mark.parametrize(("name", "block"), ALL, ids=IDS)
def test_a_changed_number_is_noticed(name, block):
    for case in cases(block):
        for column, computed in CHECKS[name](plain(case)).items():
            other = altered(case[column])
            assert other is None or not same(other, computed), (column, other)


def test_every_check_is_used_and_every_table_is_marked():
    assert {name for name, _ in ALL} == set(CHECKS)
    tables = re.findall(r"\n([^|\n]*)\n\|", SPEC)
    locations = re.compile(r"<!-- (check: \w+|stages|witnesses|words) -->")
    assert all(locations.fullmatch(line) for line in tables), tables
    fences = re.findall(r"\n([^\n]*)\n```json", SPEC)
    assert all(locations.fullmatch(line) for line in fences), fences
    assert len(tables) + len(fences) == sum(
        len(blocks(mark)) for mark in ("check", "stages", "witnesses", "words")
    )
