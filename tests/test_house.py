"""The structure of the code: CONTRIBUTING's picture of it, imports without circles, file sizes."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 400  # lines of a file
LONGER = {  # and the reason
    "scripts/first_edition": "as it made the checkpoint in the package; goes with that",
}


def module_of(path):
    """``tinyqwenvl/oracle/diff.py`` -> ``tinyqwenvl.oracle.diff``; a package is its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path, modules):
    """The modules of ours that a file imports anywhere in it, functions included."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inside = f"{source}.{alias.name}"
                if inside in modules or source in modules:
                    yield inside if inside in modules else source


def graph(folder):
    """module -> the modules of the same folder that it imports; a package's own parts left out."""
    files = {module_of(path): path for path in (ROOT / folder).rglob("*.py")}
    return {
        name: {m for m in imports(path, files) if m != name and not name.startswith(m + ".")}
        for name, path in files.items()
    }


@pytest.mark.parametrize("folder", ["tinyqwenvl", "scripts"])
def test_imports_have_no_circles(folder):
    try:
        TopologicalSorter(graph(folder)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def rows():
    """The table of CONTRIBUTING: rows of units, a module or a folder each."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("<!-- house -->")[2]
    table = re.match(r"\n(\|.*\n)+", text)[0].splitlines()[3:]
    return [re.findall(r"`(\w+)/?`", line.split("|")[2].split("(")[0]) for line in table]


def test_the_picture_of_the_house_names_every_module():
    package = ROOT / "tinyqwenvl"
    there = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/*.py")}
    units = [unit for row in rows() for unit in row]
    assert sorted(units) == sorted(there - {"__init__", package.name})


def test_nothing_imports_what_stands_above_it():
    order = {unit: (i, j) for i, row in enumerate(rows()) for j, unit in enumerate(row)}
    for name, used in graph("tinyqwenvl").items():
        unit = name.split(".")[1] if "." in name else None
        if unit is None:  # the package itself offers what courses import
            continue
        for other in used:
            if "." in other and (target := other.split(".")[1]) != unit:
                assert order[target] < order[unit], f"{name} imports {other}"


def test_the_package_imports_no_script():
    for path in (ROOT / "tinyqwenvl").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (scripts|tests)\b", path.read_text(), re.M), path


def test_no_file_is_longer_than_400_lines():
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("tinyqwenvl/", "scripts/", "tests/")) and not name.startswith(
            tuple(LONGER)
        ):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= LONGEST, f"{name} has {lines} lines"


@pytest.mark.parametrize("folder", ["tinyqwenvl", "scripts"])
def test_every_file_says_in_its_first_lines_what_it_is_for(folder):
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), path
