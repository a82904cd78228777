"""Notebooks on the site: as pages, and as files to download, without outputs and with them.

A page links to both files. Each file links back to its page, by the site's address where that is
known, otherwise by the path within the site. Figures in the files are plain PNG outputs, because
viewers such as GitHub's show those, and remove images from HTML.
"""

import html
import json
import re
import zipfile

from scripts.notebooks import EXECUTED, NOTEBOOKS

OUTPUTS = "notebooks-with-outputs"  # a folder of the site, and the name of its zip file
FILES = """\
<p class="notebook-files">Notebook: <a href="{name}.ipynb" download>{name}.ipynb</a> (without
outputs) · <a href="../{outputs}/{name}.ipynb" download>with outputs</a> ·
<a href="../{outputs}.zip" download>all with outputs (zip)</a></p>"""

FIGURE = re.compile(r'<img alt="([^"]*)" width="(\d+)" [^>]*src="data:image/png;base64,([^"]+)">')


def executed(name):
    """A notebook as it was executed; where it was not, as it is committed."""
    path = EXECUTED / f"{name}.ipynb"
    path = path if path.exists() else NOTEBOOKS / path.name
    return path.read_text(encoding="utf-8")


def below_title(text, line):
    """The JSON of a notebook, with a paragraph added below its title."""
    notebook = json.loads(text)
    source = "".join(notebook["cells"][0]["source"])
    title, _, rest = source.partition("\n")
    notebook["cells"][0]["source"] = f"{title}\n\n{line}\n{rest}"
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def as_page(name):
    """The source of a notebook's page."""
    return below_title(executed(name), FILES.format(name=name, outputs=OUTPUTS))


def as_png(output):
    """Change an output that is one figure as HTML to the same as PNG; the alt text is its text."""
    data = output.get("data", {})
    figure = FIGURE.fullmatch("".join(data.get("text/html", "")))
    if figure:
        alt, width = html.unescape(figure[1]), int(figure[2])
        output["data"] = {"image/png": figure[3], "text/plain": alt}
        output["metadata"] = {"image/png": {"alt": alt, "width": width}}


def with_png(text):
    """The JSON of a notebook, its figures as PNG."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            as_png(output)
    return json.dumps(notebook, indent=1, ensure_ascii=False)


def as_download(name, text, address=""):
    """The JSON of a notebook, with a link to its page on the site."""
    folder = address.rstrip("/") or ".."
    return below_title(text, f"[This notebook as a page]({folder}/notebooks/{name}.html)")


def publish(site, names, address=""):
    """Put the files of the notebooks into the built site."""
    (site / OUTPUTS).mkdir(exist_ok=True)
    with zipfile.ZipFile(site / f"{OUTPUTS}.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        for name in names:
            file = f"{name}.ipynb"
            committed = (NOTEBOOKS / file).read_text(encoding="utf-8")
            text = as_download(name, committed, address)
            (site / "notebooks" / file).write_text(text, encoding="utf-8")
            text = as_download(name, with_png(executed(name)), address)
            (site / OUTPUTS / file).write_text(text, encoding="utf-8")
            whole.writestr(f"{OUTPUTS}/{file}", text)
