"""What the site is built from: pages of modules, fields, landing page, search terms, notebooks."""

import importlib
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from scripts import reference_pages, search_terms, site_notebooks
from scripts.class_fields import described, escaped, fields
from scripts.landing import landing
from tinyqwenvl.config import VisionConfig

ROOT = Path(__file__).parents[1]
MODULES = reference_pages.public_modules()
LISTED = re.findall(r"\]\(reference/([\w.]+)\.md\)", reference_pages.INDEX.read_text("utf-8"))


def test_every_public_module_has_its_page_and_its_line_in_the_index():
    """`python -m scripts.reference_pages` writes the pages; the index is written by hand."""
    pages = {path: path.read_text("utf-8") for path in reference_pages.PAGES.glob("*.md")}
    assert pages == reference_pages.pages()
    assert sorted(LISTED) == sorted(MODULES)
    needed = "oracle.job oracle.recorder video_time video_file media_source media_kinds checks"
    needed += " video_request messages template template_env typed_tokens batching finetuned"
    assert {*needed.split(), "training_messages", "answer_forms", "processor_settings"} <= {
        *MODULES
    }


def test_the_index_is_completed():
    """A new module's line stands below those of its package; a module that is gone has none."""
    index = reference_pages.INDEX.read_text("utf-8")
    assert reference_pages.completed(index, MODULES) == index
    line = "- [`tinyqwenvl.{0}`](reference/{0}.md)\n".format
    more = reference_pages.completed(index, [*MODULES, "oracle.new", "new"])
    assert f"{line('oracle.new')}\n## Figures" in more
    assert more.endswith(line("viz") + line("new"))
    more = reference_pages.completed(index, [*MODULES, "oracle.new.part"])
    assert f"{line('oracle.new.part')}\n## Figures" in more
    fewer = reference_pages.completed(index, set(MODULES) - {"model"})
    assert fewer == index.replace(line("model"), "")


def test_what_has_no_page_is_a_door_a_command_or_part_of_a_page():
    package = ROOT / "tinyqwenvl"
    without = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path not in MODULES.values()
    }
    parts = r"(cli|oracle/commands|oracle/mutants|viz)/\w+\.py|(.*/)?(__init__|__main__|run)\.py"
    assert [name for name in without if not re.fullmatch(parts, name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_page_belongs_to_a_module_that_says_what_it_is_for(name):
    importlib.import_module(f"tinyqwenvl.{name}")
    summary = reference_pages.summary(name)
    assert len(summary) > 15 and ":func:" not in summary
    assert f"(../../{MODULES[name].relative_to(ROOT).as_posix()})" in reference_pages.page(
        name, MODULES[name]
    )


@dataclass
class Example:
    """One of each kind."""

    size: int  # patches on a side,
    #            as published
    # not about the size
    names: list[str] = field(default_factory=list)
    kind: str = "a # b"  # *exact* or ``exact_``
    _secret: int = 0  # of nobody


class Pair(NamedTuple):
    """A named tuple."""

    row: int = 0  # from the top


def test_fields_have_the_comments_beside_them():
    assert list(fields(Example)) == [
        ("size", "int", "", "patches on a side, as published"),
        ("names", "list[str]", "list()", ""),
        ("kind", "str", "'a # b'", "*exact* or ``exact_``"),
    ]
    assert list(fields(Pair)) == [("row", "int", "0", "from the top")]
    assert list(fields(dict)) == list(fields(tuple)) == []
    said = {name: text for name, *_, text in fields(VisionConfig)}
    assert said["window_size"] == "pixels per side of an attention window"
    assert ".. py:attribute:: row" in list(described(Pair))
    assert escaped("*a_ | ``b*`` :class:`c*` d_e") == r"\*a\_ \| ``b*`` :class:`c*` d_e"


def undescribed(cls):
    """The fields without a comment beside them and without ``name`` in the class's docstring."""
    return [
        name
        for name, *_, text in fields(cls)
        if not text and f"``{name}``" not in (cls.__doc__ or "")
    ]


def test_every_field_of_a_public_class_is_described():
    assert undescribed(Example) == ["names"]
    package, found = ROOT / "tinyqwenvl", {}
    for path in package.rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        name = name.removesuffix(".__init__")
        if path.name == "__main__.py" or (package / "oracle") in path.parents:
            continue
        for cls in vars(importlib.import_module(name)).values():
            own = isinstance(cls, type) and cls.__module__ == name
            if own and not cls.__name__.startswith("_") and any(fields(cls)):
                found[f"{name}.{cls.__name__}"] = undescribed(cls)
    assert {"tinyqwenvl.config.Config", "tinyqwenvl.shapes.walk.Row"} <= {*found}
    assert {cls: names for cls, names in found.items() if names} == {}


def test_the_landing_page_says_what_the_readme_says():
    readme = (ROOT / "README.md").read_text("utf-8")
    page = landing(readme)
    words = set(re.findall(r"\w+", page))
    left_out = [line for line in readme.splitlines() if set(re.findall(r"\w+", line)) - words]
    assert all("](docs/static/badge-" in line for line in left_out)
    top = page.partition("\n:::::\n")[0]
    for part in ("docs/figures/model.png", "pip install .", "**Learn**", "**Teach**", "**Port**"):
        assert part in top
    with pytest.raises(ValueError, match="0 paragraphs of README hold '- \\*\\*Learn\\*\\*'"):
        landing(readme.replace("- **Learn**", "- **Read**"))


def test_search_terms_are_put_in_and_pages_read_the_same():
    concepts = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    words = search_terms.glossary(concepts)
    rows = concepts.partition(search_terms.HEAD)[2].strip().splitlines()
    assert len(words) == len(rows) > 30
    assert {"attention mask", "bounding box", "residual stream", "held-out", "rope delta"} <= {
        *words
    }
    changed = search_terms.with_entries("docs/concepts", concepts)
    assert re.sub(r"\{index\}`!(.*?)`", r"\1", changed) == concepts
    for page, headings in search_terms.BELOW.items():
        text = (ROOT / f"{page}.md").read_text("utf-8")
        changed = search_terms.with_entries(page, text)
        terms = re.findall(r"\n\n```\{index\} ! (.*)\n```", changed)
        assert sorted(terms) == sorted(sum(headings.values(), ()))
        assert re.sub(r"\n\n```\{index\} ! .*\n```", "", changed) == text


def test_notebooks_and_their_pages_link_to_each_other(tmp_path):
    (tmp_path / "notebooks").mkdir()
    name = "05_windows"
    first = json.loads(site_notebooks.as_page(name))["cells"][0]["source"]
    assert f'href="{name}.ipynb"' in first
    assert f'href="../notebooks-with-outputs/{name}.ipynb"' in first
    for address, link in (("", ".."), ("https://a.b/c/", "https://a.b/c")):
        site_notebooks.publish(tmp_path, [name], address)
        for folder in ("notebooks", site_notebooks.OUTPUTS):
            notebook = nbformat.read(tmp_path / folder / f"{name}.ipynb", as_version=4)
            nbformat.validate(notebook)
            assert f"]({link}/notebooks/{name}.html)" in notebook.cells[0].source
    with zipfile.ZipFile(tmp_path / "notebooks-with-outputs.zip") as whole:
        assert whole.namelist() == [f"notebooks-with-outputs/{name}.ipynb"]


def test_figures_of_notebooks_with_outputs_are_png():
    text = '<img alt="3 &lt; 4" width="50" style="height: auto" src="data:image/png;base64,iVBO">'
    figure = {"data": {"text/html": [text], "text/plain": ["<Figure>"]}, "metadata": {}}
    table = {"data": {"text/html": "<table></table>"}, "metadata": {}}
    cells = [{"outputs": [figure, table]}, {"source": "text"}]
    changed, kept = json.loads(site_notebooks.with_png(json.dumps({"cells": cells})))["cells"][0][
        "outputs"
    ]
    assert changed["data"] == {"image/png": "iVBO", "text/plain": "3 < 4"}
    assert changed["metadata"] == {"image/png": {"alt": "3 < 4", "width": 50}}
    assert kept == table
