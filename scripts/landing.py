"""The site's landing page: README, with its first screen laid out in panels.

The text is README's own. ``landing`` puts the figure, the commands with their answer, and the
three ways in side by side (``docs/static/site.css``); what follows stays as it is.
"""

import json
import re
from pathlib import Path

FIGURE, WAYS, SECTION = "](docs/figures/model.png)", "- **Learn**", "## Install and run"
EXAMPLE = "![the example image]"
AFTER = "## The embedded checkpoint"  # heads what README says in the same section, after the answer
BADGE = "](docs/static/badge-"
PANELS = """\
:::::{{container}} landing

::::{{container}} landing-figure
{figure}
::::

::::{{container}} landing-run
:::{{rubric}} Install and run
:::

{run}
::::

::::{{container}} landing-ways
{ways}
::::

:::::"""


def enlarged(figure):
    """The figure with a link to itself, as it is shown smaller than it was drawn."""
    alt, file = re.fullmatch(r"!\[(.*)\]\((.*)\)", figure, re.DOTALL).groups()
    options = f":alt: {json.dumps(alt, ensure_ascii=False)}\n:target: _images/{Path(file).name}"
    return f":::{{image}} {file}\n{options}\n:::"


def as_titles(ways):
    """``**Learn**: notebooks`` as a title, and the sentence below it."""
    return re.sub(r"\*\*: (\[?\w)", lambda m: f"** {m[1].upper()}", ways.strip())


def one(paragraphs, mark):
    """The index of the only paragraph that holds a mark; ValueError where README has changed."""
    found = [number for number, text in enumerate(paragraphs) if mark in text]
    if len(found) != 1:
        raise ValueError(f"{len(found)} paragraphs of README hold {mark!r} instead of one")
    return found[0]


def landing(readme):
    """README as the site's first page, with the side bar of its own headings hidden."""
    paragraphs = readme.split("\n\n")
    section, example = one(paragraphs, SECTION), one(paragraphs, EXAMPLE)
    end = example + 2  # the image, then the answer
    head = paragraphs[:section]
    figure, ways = head.pop(one(head, FIGURE)), head.pop(one(head, WAYS))
    head = [text for text in head if BADGE not in text]
    run = "\n\n".join(paragraphs[section + 1 : end])
    panels = PANELS.format(figure=enlarged(figure), run=run, ways=as_titles(ways))
    return "\n\n".join(["---\nhide-toc: true\n---", *head, panels, AFTER, *paragraphs[end:]])
