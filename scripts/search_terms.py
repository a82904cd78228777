"""What the site's search puts first: Sphinx's index entries, which rank above words of a text.

Every word of the glossary in ``docs/concepts.md`` is one. ``BELOW`` has others, by the page and the
heading that answers whoever searches for them.
"""

import re

GLOSSARY = "docs/concepts"
ROW = re.compile(r"^\| ([\w -]+) \|", re.MULTILINE)
HEAD = "| word | meaning |\n|---|---|\n"
BELOW = {
    "docs/teaching": {"## The notebooks": ("exercises",), "## Four weeks": ("homework",)},
    "docs/published": {"# ": ("licence of the weights", "float32")},
    "docs/oracle": {"# ": ("bug", "oracle")},
    "docs/shapes": {"# ": ("FLOPs", "memory")},
    "docs/training": {"# ": ("fine-tuning", "labels", "loss mask")},
    "tinyqwenvl/assets/checkpoint/README": {"## Accuracy": ("evaluation", "accuracy")},
}


def glossary(text):
    """The words of the glossary: its first column."""
    return ROW.findall(text.partition(HEAD)[2])


def with_entries(page, text):
    """The text of a page, with the index entries that belong to it; it reads the same."""
    if page == GLOSSARY:
        before, head, table = text.partition(HEAD)
        text = before + head + ROW.sub(r"| {index}`!\1` |", table)
    for heading, terms in BELOW.get(page, {}).items():
        (line,) = re.findall(rf"^{re.escape(heading)}.*$", text, re.MULTILINE)
        entries = "".join(f"\n\n```{{index}} ! {term}\n```" for term in terms)
        text = text.replace(f"{line}\n", f"{line}{entries}\n", 1)
    return text
