"""What the documents say exists, and their code runs."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from scripts.build_docs import faults
from scripts.draw_badges import FOLDER, badges
from scripts.draw_figures import figures
from scripts.first_edition import measure
from scripts.refresh_figures import model_map
from tinyqwenvl.model import ASSETS, EXAMPLE_IMAGE
from tinyqwenvl.oracle.diff import BANDS, MULTIPLE
from tinyqwenvl.oracle.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
MODULES = {p.stem for p in (ROOT / "tinyqwenvl").glob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_functions_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for module, name in re.findall(r"`(?:tinyqwenvl\.)?([a-z_]+)\.([A-Za-z_]+)`", text):
        stage = module == "model" or name in ("rgb", "nine_dimensions")
        if module in MODULES and not stage and name not in ("py", "json"):
            assert hasattr(importlib.import_module(f"tinyqwenvl.{module}"), name), (module, name)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for file in re.findall(r"`([a-z_]+\.py)`", text):
        assert (ROOT / "tinyqwenvl" / file).exists(), file


def python_blocks():
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if blocks:
            yield pytest.param("\n".join(blocks), id=page.name)


@pytest.mark.parametrize("code", list(python_blocks()))
def test_code_runs(code, monkeypatch, tmp_path):
    shutil.copy(EXAMPLE_IMAGE, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "page", "exec"), {})


def test_the_example_in_the_readme_is_true():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert EXAMPLE_IMAGE.with_suffix(".txt").read_text(encoding="utf-8") in readme


def test_the_figures_of_the_pipeline_show_what_it_says():
    """Each is there, with the alt text of what the package draws today."""
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    for name, figure in figures().items():
        assert f"![{figure.alt}](figures/{name}.png)" in page
        assert (ROOT / "docs" / "figures" / f"{name}.png").stat().st_size < 100_000


def test_the_map_of_the_model_in_the_readme_is_up_to_date():
    """`python -m scripts.refresh_figures` writes its alt text, with the shapes of a run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"![{model_map().alt}](docs/figures/model.png)" in readme


def test_the_badges_state_what_pyproject_states():
    """`python -m scripts.draw_badges` draws them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, svg in badges().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == svg
        assert f"](docs/static/{name})" in readme


def test_the_model_card_holds_the_measured_figures():
    """The card's table and the JSON that the evaluation printed are the same numbers."""
    card = (ASSETS / "checkpoint" / "README.md").read_text(encoding="utf-8")
    columns = json.loads(measure.FILE.read_text())
    assert measure.table(columns) in card
    for name, column in columns.items():
        assert column["command"] == measure.command(name, seed=1, n=1000)


def test_the_page_of_the_oracle_has_its_numbers():
    page = (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8")
    for name, band in BANDS.items():
        row = re.search(rf"^\| {name} \|(.*)\|$", page, re.MULTILINE)[1].split("|")
        assert [float(cell) for cell in row] == list(band)
    assert MULTIPLE["float32"] == 100 and {m for n, m in MULTIPLE.items() if n != "float32"} == {16}
    assert "multiples are 100 in float32 and 16 elsewhere" in page
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"explains it by {len(MUTANTS)} known bugs" in " ".join(changes.split())


def test_what_leads_nowhere_in_a_site_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<p id="here">text</p>')
    good = """
        <a href="sub/other.html#here"></a> <a href="#me" name="me"></a> <a href="https://a.b/c"></a>
        <link rel="canonical" href="https://a.b/"> <img src="data:image/png;base64,AA">
    """
    page = tmp_path / "index.html"
    page.write_text(good)
    assert list(faults(tmp_path)) == []
    page.write_text(
        f"""{good} <a href="gone.html"></a> <a href="sub/other.html#gone"></a> <a href="#gone"></a>
        <img src="gone.png"> <script src="https://a.b/c.js"></script> <img src="//a.b/c.png">"""
    )
    assert sorted(faults(tmp_path)) == [
        "index.html links to #gone: no such place on that page",
        "index.html links to gone.html, which is not there",
        "index.html links to gone.png, which is not there",
        "index.html links to sub/other.html#gone: no such place on that page",
        "index.html loads //a.b/c.png from elsewhere",
        "index.html loads https://a.b/c.js from elsewhere",
    ]
