"""The API reference: one page per public module, ``docs/reference/NAME.md``.

    python -m scripts.reference_pages    # write them; ``build_docs`` does so too

A page names its module and its source file; Sphinx fills in the docstrings, and ``class_fields``
the fields of dataclasses. ``docs/reference.md`` is the index: it groups the modules by stage. A new
module gets its line there below those of its package; move it to where it belongs.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinyqwenvl"
PAGES = ROOT / "docs" / "reference"
INDEX = ROOT / "docs" / "reference.md"

LINE = re.compile(r"- \[`tinyqwenvl\.([\w.]+)`\]\(reference/.*\)")

# No pages of their own: doors to commands, which docs/command_line.md describes; the two packages
# whose names are read from the package itself have one page for all their files.
WITHOUT = ("__init__", "__main__", "run", "cli", "oracle/commands")
WHOLE = {
    "oracle/mutants": """\
.. automodule:: tinyqwenvl.oracle.mutants
   :no-members:

.. autofunction:: tinyqwenvl.oracle.mutants.apply
.. autofunction:: tinyqwenvl.oracle.mutants.mutant
.. autoclass:: tinyqwenvl.oracle.mutants.Mutant
""",
    "viz": """\
.. automodule:: tinyqwenvl.viz
   :imported-members:
   :exclude-members: Drawing
""",
}


def public_modules():
    """{"oracle.diff": its file}, sorted by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
        inside = any(name.startswith(f"{folder}/") for folder in (*WITHOUT, *WHOLE))
        door = name in WITHOUT or name.endswith("/__main__")
        package = path.name == "__init__.py" and name not in WHOLE
        if not (inside or door or package):
            found[name.replace("/", ".")] = path
    return found


def page(name, path):
    """The text of a module's page."""
    file = path.relative_to(ROOT).as_posix()
    module = f".. automodule:: tinyqwenvl.{name}\n   :ignore-module-all:\n"  # no names of others
    body = WHOLE.get(name.replace(".", "/"), module)
    return (
        f"# tinyqwenvl.{name}\n\nSource: [`{file}`](../../{file}). All modules: "
        f"[API reference](../reference.md).\n\n```{{eval-rst}}\n{body}```\n"
    )


def pages():
    """{file: text} of all pages."""
    return {PAGES / f"{name}.md": page(name, path) for name, path in public_modules().items()}


def summary(name):
    """The first paragraph of a module's docstring; roles (``:func:``) as code."""
    docstring = ast.get_docstring(ast.parse(public_modules()[name].read_text(encoding="utf-8")))
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r":\w+:`~?\.*([^`]+)`", r"`\1`", text)


def listed(line):
    """The module that a line of the index lists, or None."""
    match = LINE.fullmatch(line)
    return match and match[1]


def completed(index, names):
    """The text of the index with a line for every module, and none for those that are gone."""
    lines = [line for line in index.splitlines() if listed(line) in {None, *names}]
    for name in sorted({*names} - {*map(listed, lines)}):
        lines.insert(_after_its_kin(lines, name), f"- [`tinyqwenvl.{name}`](reference/{name}.md)")
    return "\n".join(lines) + "\n"


def _after_its_kin(lines, name):
    """The index after the last line of the nearest package that holds ``name`` and has a line."""
    package = name
    while package:
        package = package.rpartition(".")[0]
        kin = [n for n, line in enumerate(lines) if (listed(line) or "").startswith(package)]
        kin = [n for n in kin if listed(lines[n])]
        if kin:
            return kin[-1] + 1
    return len(lines)


def write():
    """Write every page and the lines of the index; remove those of modules that are gone."""
    wanted = pages()
    PAGES.mkdir(exist_ok=True)
    for path in set(PAGES.glob("*.md")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    index = INDEX.read_text(encoding="utf-8")
    INDEX.write_text(completed(index, public_modules()), encoding="utf-8")
    return wanted


if __name__ == "__main__":
    print(f"{len(write())} pages in {PAGES.relative_to(ROOT)}")
    sys.exit()
