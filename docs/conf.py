"""Sphinx: README, docs and notebooks as one site; the repository itself is the source folder.

Built by ``python -m scripts.build_docs``, which runs the notebooks first. Pages keep the paths and
the links that they have in the repository.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import tinyqwenvl  # noqa: E402
from scripts import (  # noqa: E402
    class_fields,
    landing,
    reference_pages,
    search_terms,
    site_notebooks,
)
from tinyqwenvl import dims  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PYPROJECT["project"].get("urls", {}).get("Repository", "")  # "": not known yet
ON_GITHUB = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)(?:\.git)?/?", REPOSITORY)
NOTEBOOKS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]

project = "tinyqwenvl"
version = release = tinyqwenvl.__version__
author = "the tinyqwenvl contributors"
html_show_copyright = False

root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/reference/*.md",
    "notebooks/*.ipynb",
    "tinyqwenvl/assets/checkpoint/README.md",
]
exclude_patterns = [".*", "docs/executed", "docs/_build"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
]

# Notebooks arrive executed (see `change_source`). Folded cells are the solutions of exercises.
nb_execution_mode = "off"
nb_code_prompt_show = "Solution"
nb_code_prompt_hide = "Solution"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 4

highlight_language = "text"  # of fences that name none
html_theme = "furo"
html_title = "tinyqwenvl"
html_baseurl = f"https://{ON_GITHUB[1]}.github.io/{ON_GITHUB[2]}/" if ON_GITHUB else ""
html_theme_options = (
    {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": ""}
    if REPOSITORY
    else {}
)
html_favicon = "static/favicon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
autodoc_default_options = {"members": True}

# The parts of the site, as they stand in the side bar: a title, and its pages.
CONTENTS = {
    "Start": ["docs/guide", "docs/command_line", "docs/published", "docs/concepts"],
    "Notebooks": [f"notebooks/{name}" for name in NOTEBOOKS],
    "The model": [
        "docs/pipeline",
        "docs/stages",
        "docs/shapes",
        "docs/video",
        "docs/papers",
        "docs/differences",
    ],
    "Teaching and training": [
        "docs/teaching",
        "docs/training",
        "tinyqwenvl/assets/checkpoint/README",
    ],
    "Porting": ["docs/porting", "docs/oracle", "docs/ports", "docs/vectors", "docs/spec"],
    "Reference": ["docs/reference", "docs/comparison", "CONTRIBUTING", "CHANGELOG"],
}


SOURCE_LINK = re.compile(r"\[([^\]]+)\]\(\s*((?:\.\./)*)(tinyqwenvl/[\w/]+)\.py\)")
INDEX_LINE = re.compile(r"^- \[`tinyqwenvl\.([\w.]+)`\]\(reference/.*\)$", re.MULTILINE)


def table_of_contents(pages, caption=""):
    """A toctree that only the side bar shows."""
    caption = f":caption: {caption}\n" if caption else ""
    pages = "\n".join(pages)
    return f"\n```{{toctree}}\n:hidden:\n{caption}\n{pages}\n```\n"


def index_of_modules(text):
    """The page ``docs/reference`` with each module's summary, and its pages in the side bar."""
    names = INDEX_LINE.findall(text)
    text = INDEX_LINE.sub(lambda m: f"{m[0]}: {reference_pages.summary(m[1])}", text)
    return text + table_of_contents([f"reference/{name}" for name in names])


def to_highlighted_source(text):
    """Links to a module's file lead to its page of ``sphinx.ext.viewcode``."""
    return SOURCE_LINK.sub(
        lambda m: m[0] if m[3].endswith("__init__")
        else f'<a href="{m[2]}_modules/{m[3]}.html">{m[1]}</a>',
        text,
    )  # fmt: skip


def change_source(app, docname, text):
    """What the site shows in place of a file's text: executed notebooks, landing page, indexes."""
    if docname.startswith("notebooks/"):
        text[0] = site_notebooks.as_page(Path(docname).name)
        return
    if docname == "docs/reference":
        text[0] = index_of_modules(text[0])
    if docname == root_doc:
        text[0] = landing.landing(text[0])
        for title, pages in CONTENTS.items():
            text[0] += table_of_contents(pages, title)
    text[0] = to_highlighted_source(search_terms.with_entries(docname, text[0]))


def shape_as_written(array_type, item):
    """Shapes as they stand in the source: an empty class of the name ``Float[Array, "N D"]``."""
    names = {"f": "Float", "iu": "Int", "u": "UInt8", "b": "Bool"}
    name = f'{names[array_type.kinds]}[Array, "{item[1]}"]'
    return type(name, (), {"__module__": "builtins"})


def add_files(app, error):
    """The first page under the name that web servers look for, and the notebooks' files."""
    if not error:
        out = Path(app.outdir)
        (out / "index.html").write_bytes((out / f"{root_doc}.html").read_bytes())
        site_notebooks.publish(out, NOTEBOOKS, html_baseurl)


def setup(app):
    """Sphinx calls this."""
    type(dims.Float).__getitem__ = shape_as_written
    app.connect("source-read", change_source)
    app.connect("autodoc-process-docstring", class_fields.add_to_docstring)
    app.connect("autodoc-process-signature", class_fields.readable_signature)
    app.connect("autodoc-skip-member", class_fields.skip_fields)
    app.connect("build-finished", add_files)
