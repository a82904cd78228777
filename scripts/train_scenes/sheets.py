"""Sheets of 64 drawn examples of everything that is drawn, to be looked at.

python -m scripts.train_scenes.sheets -o DIR [--only NAME ...] [--seed N] [--boxes]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from scripts.train_scenes import drawing, world
from scripts.train_scenes.drawing import fonts, grounds, pens
from scripts.train_scenes.scene import KINDS, PAIRS, TRAINING, Refusal, Scene, generator

TILE, COLUMNS, COUNT = 168, 8, 64
CAPTION = 22


def contents_text(content):
    """A caption: the names of the shapes and the words."""
    if isinstance(content, Refusal):
        return content.what
    names = [s.name if s.colour and s.kind else s.colour or s.kind or "?" for s in content.shapes]
    text = f"{len(names)}: " if len(names) > 3 else ""
    return text + ", ".join(names + [f'"{w.text}"' for w in content.words])


def tile(pixels, content, boxes=False):
    """One example with its caption as an RGB image of TILE pixels and the caption."""
    image = Image.fromarray(pixels)
    if boxes and isinstance(content, Scene):
        draw = ImageDraw.Draw(image)
        for thing in (*content.shapes, *content.words):
            x1, y1, x2, y2 = thing.box
            draw.rectangle((x1 - 1, y1 - 1, x2, y2), outline=(255, 0, 255))
    image.thumbnail((TILE, TILE))
    framed = Image.new("RGB", (TILE, TILE + CAPTION), "grey")
    framed.paste(image, (0, 0))
    draw = ImageDraw.Draw(framed)
    text = contents_text(content)
    for i, part in enumerate((text[:34], text[34:68])):
        draw.text((2, TILE + 1 + 10 * i), part, fill="white", font=fonts.font(0, 9))
    return framed


def sheet(tiles, columns=COLUMNS):
    """Tiles of one size in rows."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (width + 4), rows * (height + 4)), "black")
    for i, one in enumerate(tiles):
        page.paste(one, (i % columns * (width + 4), i // columns * (height + 4)))
    return page


def _images(make, style=None):
    """A function (seed, boxes) -> sheet of COUNT examples that `make(rng)` gives."""

    def draw_sheet(seed, boxes):
        tiles = []
        for i in range(COUNT):
            rng = generator(seed, TRAINING, i)
            content = make(rng)
            tiles.append(tile(drawing.draw(rng, [content], style)[0], content, boxes))
        return sheet(tiles)

    return draw_sheet


def _on(ground):
    """An image of named shapes on one family of grounds."""

    def make(rng):
        while True:
            content = world.make_image(rng)
            if isinstance(content, Scene) and content.ground == ground and content.shapes:
                return content

    return make


def _kind(kind):
    """An image of one to six shapes of one kind."""
    pairs = [p for p in PAIRS if p[1] == kind]
    return lambda rng: world.make_image(rng, family="free", pairs=pairs)


def _strip(seed, boxes, make, most):
    """Rows of several images each: the frames of clips, or the two images of pairs."""
    tiles = []
    for i in range(COUNT // most):
        rng = generator(seed, TRAINING, i)
        scenes = make(rng)
        images = drawing.draw(rng, scenes)
        chosen = np.unique(np.linspace(0, len(scenes) - 1, most).round().astype(int))
        blank = Image.new("RGB", (TILE, TILE + CAPTION))
        row = [tile(images[j], scenes[j], boxes) for j in chosen]
        tiles += row + [blank] * (most - len(row))
    return sheet(tiles)


def _pair(rng):
    pair = world.make_pair(rng)
    return [pair.before, pair.after]


def outside(seed, boxes):
    """The outside renderer's images."""
    from scripts.train_scenes import outside_renderer

    tiles = []
    for i in range(COUNT):
        rng = generator(seed, TRAINING, i)
        scene = world.make_image(rng, family=("easy", "free", "labelled")[i % 3])
        tiles.append(tile(outside_renderer.draw(rng, [scene])[0], scene, boxes))
    return sheet(tiles)


def all_sheets():
    """{name: function (seed, boxes) -> image}."""
    sheets = {"mixture": _images(world.make_image)}
    for family in world.FAMILIES:
        sheets[f"family-{family}"] = _images(lambda rng, f=family: world.make_image(rng, family=f))
    for ground in grounds.GROUNDS:
        sheets[f"ground-{ground}"] = _images(_on(ground))
    for pen in pens.PENS:
        sheets[f"pen-{pen}"] = _images(
            lambda rng: world.make_image(rng, family="free"), f"plain/{pen}"
        )
    for kind in KINDS:
        sheets[f"kind-{kind}"] = _images(_kind(kind))
    sheets["held-out"] = _images(lambda rng: world.make_image(rng, family="free"), "held-out")
    sheets["held-out-photographs"] = _images(
        lambda rng: world.make_image(rng, training=False, family="photograph")
    )
    sheets["pairs"] = lambda seed, boxes: _strip(seed, boxes, _pair, 2)
    sheets["clips"] = lambda seed, boxes: _strip(
        seed, boxes, lambda rng: list(world.make_clip(rng).frames), 8
    )
    sheets["outside"] = outside
    return sheets


def main(arguments=None):
    """Draw the sheets that are asked for, or all."""
    sheets = all_sheets()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the PNG files")
    parser.add_argument("--only", nargs="+", choices=sheets, metavar="NAME", help="these sheets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", action="store_true", help="draw the boxes, too")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only or sheets:
        file = options.output / f"{name}.png"
        sheets[name](options.seed, options.boxes).save(file)
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
