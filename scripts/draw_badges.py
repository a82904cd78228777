"""Draw the badges of the README: licence, Python and version, as pyproject.toml states them.

python -m scripts.draw_badges
"""

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "static"
PER_LETTER = 7  # pixels, at a font size of 11


def badges():
    """File name -> SVG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = {
        "licence": project["license"],
        "python": project["requires-python"].removeprefix(">=") + " or later",
        "version": project["version"],
    }
    return {f"badge-{name}.svg": badge(name, fact) for name, fact in facts.items()}


def badge(name, fact):
    """A badge: a name on grey, followed by a value on blue."""
    left, right = (PER_LETTER * len(text) + 12 for text in (name, fact))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{left + right}' height='20' role='img' "
        f"font-family='Verdana, DejaVu Sans, sans-serif' font-size='11' fill='#fff'>"
        f"<title>{name}: {escape(fact)}</title>"
        f"<rect width='{left + right}' height='20' rx='3' fill='#0072b2'/>"
        f"<path d='M3 0h{left - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z' fill='#555'/>"
        f"<text x='6' y='14'>{name}</text><text x='{left + 6}' y='14'>{escape(fact)}</text></svg>\n"
    )


if __name__ == "__main__":
    for file, svg in badges().items():
        (FOLDER / file).write_text(svg, encoding="utf-8")
