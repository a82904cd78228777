"""Generate the ``.ipynb`` files from their sources, and run them for tests and docs.

    python -m scripts.notebooks                 # write notebooks/*.ipynb from notebooks/*.py
    python -m scripts.notebooks --run 01 05     # and run some (or all) of them: docs/executed/
    python -m scripts.notebooks --minutes       # and print how long each takes to read

A source is a Python file in the percent format; its notebook holds no outputs, and the same source
always makes the same bytes. What was executed is executed again only when the notebook or the
package has changed.
"""

import argparse
import ast
import hashlib
import inspect
import json
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
NOTEBOOKS, EXECUTED = ROOT / "notebooks", ROOT / "docs" / "executed"
KINDS = ("children_user", "children_system")
SCENES = ROOT / "scripts" / "first_edition"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LONGEST = 60  # seconds that a notebook may take: of the processor, as machines may be busy


def sources():
    """All notebooks, in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def paired(source):
    """The text of the ``.ipynb`` of a percent-format file."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:03}"
    return nbformat.writes(notebook) + "\n"


def reading_minutes(source):
    """Minutes to read a notebook: 200 words, or 15 lines of code, a minute.

    Lines of the library that ``source(...)`` shows are read too. Folded answers, and what follows
    a heading that begins with "Appendix", are not counted.
    """
    words = lines = 0
    names = {}
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## Appendix"):
            break
        if cell.cell_type == "markdown":
            words += len(cell.source.split())
        elif "hide-cell" not in cell.metadata.get("tags", []):
            shown = "\n".join(text for text in library_shown(cell.source, names))
            lines += sum(bool(line.strip()) for line in f"{cell.source}\n{shown}".splitlines())
    return words / 200 + lines / 15


def library_shown(code, names):
    """The text that ``source(...)`` shows in a cell; ``names`` collects the cells' imports."""
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "imports", "exec"), names)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "source":
            for argument in call.args:
                value = eval(ast.unparse(argument), names)
                yield inspect.getsource(inspect.unwrap(value))


def stamp(source):
    """A digest of all that a run of the notebook depends on."""
    digest = hashlib.sha256(paired(source).encode())
    package = [p for p in (ROOT / "tinyqwenvl").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    for path in sorted([*package, *(ROOT / "scripts").rglob("*.py"), *SCENES.glob("*.json*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def execute(source, folder=EXECUTED):
    """Run a notebook in a clean kernel, unless that was done; returns (executed file, seconds).

    Seconds of the processor, in the run that was kept. Raises CellExecutionError at the first cell
    that fails.
    """
    path, mark = folder / f"{source.stem}.ipynb", stamp(source)
    if path.exists():
        before = json.loads(path.read_text())["metadata"].get("tinyqwenvl", {})
        if before.get("stamp") == mark:
            return path, before["seconds"]
    notebook = nbformat.reads(paired(source), as_version=4)
    began = os.times()
    client = NotebookClient(
        notebook,
        timeout=5 * LONGEST,
        resources={"metadata": {"path": NOTEBOOKS}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    ended = os.times()  # the kernel is a child that has ended
    used = [getattr(ended, kind) - getattr(began, kind) for kind in KINDS]
    seconds = round(sum(used), 1)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata["tinyqwenvl"] = {"stamp": mark, "seconds": seconds}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n")
    return path, seconds


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="*", metavar="NN", help="run these notebooks (default: all)")
    parser.add_argument("--minutes", action="store_true", help="print the minutes of each notebook")
    options = parser.parse_args()
    for source in sources() if options.minutes else ():
        print(f"{reading_minutes(source):4.1f} {source.name}")
    for source in sources():
        source.with_suffix(".ipynb").write_text(paired(source))
    if options.run is None:
        return 0
    for source in sources():
        if options.run and source.name[:2] not in options.run:
            continue
        try:
            _, seconds = execute(source)
        except CellExecutionError as error:
            print(f"{source.name}\n{error}", file=sys.stderr)
            return 1
        print(f"{source.name}: {seconds} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
