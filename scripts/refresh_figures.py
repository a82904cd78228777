"""Draw every committed figure again: run it whenever the embedded checkpoint or a figure changes.

    python -m scripts.refresh_figures                # all of them
    python -m scripts.refresh_figures model shapes   # some of them

- ``readme``: the four small figures of ``scripts.draw_figures``, and all alt texts in README.md and
  docs/pipeline.md;
- ``model``: the map of the whole model, ``docs/figures/model.png`` and ``.svg``;
- ``cheat_sheet``: ``docs/figures/cheat_sheet.pdf``, ``cheat_sheet-1.svg`` and ``-2.svg``;
- ``shapes``: ``docs/shapes.svg``, the stages of Qwen2.5-VL-3B (of no checkpoint).

The same code, fonts and versions make the same bytes. At the end it names the texts that quote the
embedded checkpoint and are written by hand; their tests say which of them are no longer true.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from PIL import Image

import tinyqwenvl
from tinyqwenvl import viz
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.shapes.__main__ import main as shapes

from . import draw_figures
from .cheat_sheet import pages

ROOT = Path(__file__).parents[1]
DOCS, FIGURES = ROOT / "docs", ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", DOCS / "pipeline.md")
PROMPT = draw_figures.PROMPT
SHAPES = ["756x476", "--preset", "qwen2.5-vl-3b", "--max-pixels", "307200"]
SETTINGS = {"svg.hashsalt": "tinyqwenvl", "pdf.fonttype": 42}
BY_HAND = """\
Written by hand, of the embedded checkpoint (each command names what is no longer true):
  pytest -n 0 tests/test_docs.py tests/test_guides.py tests/test_facts.py  README, docs, card
  python -m scripts.notebooks --run                                          notebooks"""


def recorded(model, image):
    """The stages of a run, and the texts of the tokens that were generated."""
    with tinyqwenvl.trace() as stages:
        ids = list(model.generate(model.prepare(user_message(image, PROMPT))))
    return stages, [model.tokenizer.decode([token]) for token in ids]


def model_map():
    """The figure of the whole model, on the example image."""
    model, image = tinyqwenvl.load(), Image.open(EXAMPLE_IMAGE).convert("RGB")
    stages, words = recorded(model, image)
    return viz.model_map(stages, model.config, image, words, PROMPT)


def save_svg(figure, path: Path, fonttype: str = "path") -> None:
    """One SVG, the same bytes each time; with ``fonttype`` "none" its text can be searched."""
    with matplotlib.rc_context({**SETTINGS, "svg.fonttype": fonttype}):
        figure.savefig(path, metadata={"Date": None, "Title": path.stem, "Creator": None})
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"'(DejaVu Sans(?: Mono)?)',[^;\"]*, (sans-serif|monospace)", r"'\1', \2", text)
    path.write_text(re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE), encoding="utf-8")


def save_png(figure, path: Path, dpi: int = 173, colours: int = 256) -> None:
    """One PNG with a palette, small enough for a repository."""
    figure.savefig(path, dpi=dpi)
    Image.open(path).convert("RGB").quantize(colours).save(path, optimize=True)


def readme(out: Path = FIGURES, texts: Sequence[Path] = PAGES) -> list[Path]:
    """The small figures, and the alt texts of all figures in the README and docs/pipeline.md."""
    drawn = draw_figures.figures()
    for name, figure in drawn.items():
        draw_figures.save(figure, out / f"{name}.png")
    for page in texts:
        text = page.read_text(encoding="utf-8")
        for name, figure in {**drawn, "model": model_map()}.items():
            text = re.sub(
                rf"!\[[^]]*\]\(((?:docs/)?figures/{name}\.png)\)",
                lambda found, f=figure: f"![{f.alt}]({found[1]})",
                text,
            )
        page.write_text(text, encoding="utf-8")
    return [*(out / f"{name}.png" for name in drawn), *texts]


def model(out: Path = FIGURES) -> list[Path]:
    """The map of the whole model."""
    figure = model_map()
    save_png(figure, out / "model.png")
    save_svg(figure, out / "model.svg")
    print(f"![{figure.alt}](docs/figures/model.png)")
    return [out / "model.png", out / "model.svg"]


def cheat_sheet(out: Path = FIGURES) -> list[Path]:
    """Both pages as one PDF, and as an SVG each."""
    figures, files = pages(), [out / "cheat_sheet.pdf"]
    with matplotlib.rc_context(SETTINGS):
        metadata = {"CreationDate": None, "Title": "tinyqwenvl: cheat sheet", "Producer": None}
        with PdfPages(files[0], metadata=metadata) as pdf:
            for figure in figures:
                pdf.savefig(figure)
    for number, figure in enumerate(figures, 1):
        files.append(out / f"cheat_sheet-{number}.svg")
        save_svg(figure, files[-1], "none")
        print(f"![{figure.alt}](docs/figures/{files[-1].name})")
    return files


def stages(out: Path = DOCS) -> list[Path]:
    """The drawing of the command ``shapes``."""
    shapes([*SHAPES, "--svg", str(out / "shapes.svg")])
    return [out / "shapes.svg"]


PARTS = {"readme": readme, "model": model, "cheat_sheet": cheat_sheet, "shapes": stages}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)"
    )
    options = parser.parse_args(argv)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]}: known are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        for path in PARTS[name]():
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")
    print(BY_HAND)
    return 0


if __name__ == "__main__":
    sys.exit(main())
