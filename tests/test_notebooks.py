"""Notebooks: paired without drift, run from a clean kernel, and what the project says they hold."""

import ast
import importlib
import inspect
import itertools
import json
import re

import pytest
from nbclient.exceptions import CellExecutionError

from scripts.notebooks import LONGEST, NOTEBOOKS, execute, paired, reading_minutes, sources
from tinyqwenvl import nn

CORE = "media image video chat vision position decoder sampling generate nn".split()
every_notebook = pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
QUICK = {"01", "09"}  # run in every run of the tests; the others take two minutes together
run_of_each = pytest.mark.parametrize(
    "source",
    [
        pytest.param(path, id=path.stem, marks=() if path.name[:2] in QUICK else pytest.mark.slow)
        for path in sources()
    ],
)


def cells(source, kind):
    return [c for c in json.loads(paired(source))["cells"] if c["cell_type"] == kind]


def text(cell):
    return "".join(cell["source"])


def code(source):
    return "\n".join(text(cell) for cell in cells(source, "code"))


def test_there_are_eighteen_in_reading_order():
    assert [path.name[:2] for path in sources()] == [f"{n:02}" for n in range(18)]
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in sources()}


@every_notebook
def test_a_notebook_is_the_pair_of_its_source(source):
    """`python -m scripts.notebooks` writes them."""
    assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == paired(source)
    assert not any(cell["outputs"] for cell in cells(source, "code"))


@run_of_each
def test_a_notebook_runs_and_its_figures_say_what_they_show(source):
    path, seconds = execute(source)
    assert seconds < LONGEST
    notebook, figures = json.loads(path.read_text(encoding="utf-8")), []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
            assert "image/png" not in output.get("data", {}), "a figure without alt text"
            page = "".join(output.get("data", {}).get("text/html", []))
            figures += re.findall(r'<img alt="([^"]*)"', page)
    assert len(figures) >= 2 and min(map(len, figures)) > 40
    assert len(set(figures)) == len(figures)


def test_a_notebook_is_run_again_only_when_it_has_changed(tmp_path):
    source = tmp_path / "99_small.py"
    source.write_text("# %%\nprint(6 * 7)\n")
    path, seconds = execute(source, tmp_path / "out")
    (cell,) = json.loads(path.read_text())["cells"]
    assert "".join(cell["outputs"][0]["text"]) == "42\n"
    written = path.stat().st_mtime_ns
    assert execute(source, tmp_path / "out") == (path, seconds)
    assert path.stat().st_mtime_ns == written
    source.write_text("# %%\nassert 6 * 7 == 41, 'not so'\n")
    with pytest.raises(CellExecutionError, match="not so"):
        execute(source, tmp_path / "out")
    assert path.stat().st_mtime_ns == written  # and nothing is half-written


@every_notebook
def test_a_notebook_has_what_every_notebook_has(source):
    number, written = source.name[:2], code(source)
    first = text(json.loads(paired(source))["cells"][0])
    assert first.startswith(f"# {number}. ") and "?" in first and "Before this" in first
    assert "source(" in written and written.count("assert ") >= 5
    folded = [c for c in cells(source, "code") if "hide-cell" in c["metadata"].get("tags", [])]
    answers = [c for c in folded if text(c).startswith("# Answer")]
    assert len(answers) >= 2 and all("assert " in text(cell) for cell in answers)
    assert all(cell["metadata"]["jupyter"]["source_hidden"] for cell in folded)
    for cell in cells(source, "markdown"):
        for link in re.findall(r"\]\(([^)#:]+)\)", text(cell)):
            assert (NOTEBOOKS / link).exists(), link


@every_notebook
def test_a_notebook_states_its_own_minutes(source):
    """Within a minute of 200 words or 15 lines of code a minute, and never over 30."""
    first = " ".join(text(json.loads(paired(source))["cells"][0]).split())
    stated = re.findall(r"\b(\d+) minutes\b", first)
    assert len(stated) == 1, first
    assert abs(int(stated[0]) - reading_minutes(source)) <= 1 and int(stated[0]) <= 30


def test_reading_minutes_count_words_code_and_shown_source(tmp_path):
    path = tmp_path / "98_a.py"
    path.write_text(f"# %% [markdown]\n# {'word ' * 200}\n\n# %%\n" + "x = 1\n\n" * 30)
    assert reading_minutes(path) == 3
    more = "\n# %%\nfrom tinyqwenvl import nn\n\nsource(nn.silu)\n"
    path.write_text(path.read_text() + more)
    shown = [line for line in inspect.getsource(nn.silu).splitlines() if line.strip()]
    assert reading_minutes(path) == pytest.approx(3 + (2 + len(shown)) / 15)
    hidden = '\n# %% tags=["hide-cell"]\n' + "x = 1\n" * 99
    path.write_text(f"{path.read_text()}{hidden}\n# %% [markdown]\n# ## Appendix: more\n# a b\n")
    assert reading_minutes(path) == pytest.approx(3 + (2 + len(shown)) / 15)


@every_notebook
def test_a_notebook_has_its_exercises_where_their_solutions_are(source):
    """A folded answer follows right after its exercise, and has the exercise's number."""
    all_cells = json.loads(paired(source))["cells"]
    for before, cell in itertools.pairwise(all_cells):
        answer = re.match(r"# Answer (\d+)", text(cell))
        if answer:
            assert before["cell_type"] == "markdown", text(cell)
            assert f"### Exercise {answer[1]}\n" in text(before), text(cell)


@every_notebook
def test_a_cell_that_checks_prints_or_draws_what_it_found(source):
    for cell in cells(source, "code"):
        tree = ast.parse(text(cell))
        kinds = {type(node) for node in ast.walk(tree)}
        prints = any(isinstance(n, ast.Name) and n.id == "print" for n in ast.walk(tree))
        folded = "hide-cell" in cell["metadata"].get("tags", [])
        shows = prints or isinstance(tree.body[-1], ast.Expr) or folded
        assert ast.Assert not in kinds or shows, text(cell)


@every_notebook
def test_a_notebook_needs_neither_torch_nor_transformers(source):
    imported = set()
    for node in ast.walk(ast.parse(code(source))):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert not imported & {"torch", "transformers", "safetensors", "huggingface_hub"}


def shown():
    """`module.name` of everything that a notebook shows with `source(...)`."""
    calls = (n for s in sources() for n in ast.walk(ast.parse(code(s))) if isinstance(n, ast.Call))
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "source":
            yield from (".".join(ast.unparse(argument).split(".")[:2]) for argument in call.args)


@pytest.mark.parametrize("stage", CORE)
def test_every_public_function_of_a_core_stage_is_shown(stage):
    module = importlib.import_module(f"tinyqwenvl.{stage}")
    public = {
        f"{stage}.{name}"
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
        if not name.startswith("_")
    }
    assert public and public <= set(shown()), sorted(public - set(shown()))
