"""Sphinx: README, docs and notebooks as one site; the repository itself is the source folder.

Built by ``python -m scripts.build_docs``, which runs the notebooks first; pages keep the places and
the links that they have in the repository.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import tinyqwenvl  # noqa: E402
from tinyqwenvl import dims  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PYPROJECT["project"].get("urls", {}).get("Repository", "")  # "": not known yet

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

# Notebooks arrive executed (see `put_in_executed_notebooks`).
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4

highlight_language = "text"  # of fences that name none
html_theme = "furo"
html_title = "tinyqwenvl"
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
autodoc_default_options = {"members": True, "undoc-members": False}

# The parts of the site, as they stand in the side bar: a title, and its pages.
CONTENTS = {
    "Start": ["docs/guide", "docs/command_line", "docs/published", "docs/concepts"],
    "Notebooks": [f"notebooks/{p.stem}" for p in sorted((ROOT / "notebooks").glob("*.ipynb"))],
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


def put_in_executed_notebooks(app, docname, text):
    """In place of a notebook's source, what it was when it had run."""
    executed = ROOT / "docs" / "executed" / f"{Path(docname).name}.ipynb"
    if docname.startswith("notebooks/"):
        text[0] = executed.read_text(encoding="utf-8")
    if docname == root_doc:
        for title, pages in CONTENTS.items():
            pages = "\n".join(pages)
            text[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def shape_as_written(array_type, item):
    """Shapes as they stand in the source: an empty class of the name ``Float[Array, "N D"]``."""
    names = {"f": "Float", "iu": "Int", "u": "UInt8", "b": "Bool"}
    name = f'{names[array_type.kinds]}[Array, "{item[1]}"]'
    return type(name, (), {"__module__": "builtins"})


def copy_root_page(app, error):
    """The first page under the name that web servers look for."""
    if not error:
        out = Path(app.outdir)
        (out / "index.html").write_bytes((out / f"{root_doc}.html").read_bytes())


def setup(app):
    """Sphinx calls this."""
    type(dims.Float).__getitem__ = shape_as_written
    app.connect("source-read", put_in_executed_notebooks)
    app.connect("build-finished", copy_root_page)
