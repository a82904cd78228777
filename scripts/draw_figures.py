"""Draw the figures of the README: one image passing through the embedded checkpoint.

python -m scripts.draw_figures --out docs/figures

``scripts.refresh_figures`` draws these and all others that are committed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import position, viz
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message

PROMPT = "Describe the picture."
NAMES = ("square", "cross", "circle")  # what the image holds


def figures():
    """Name -> figure, in the order of the data."""
    model = tinyqwenvl.load()
    image = Image.open(EXAMPLE_IMAGE).convert("RGB")
    asked = model.prepare(user_message(image, PROMPT))
    grid, media = asked.image_grid_thw, asked.input_ids == model.config.image_token_id
    return {
        "patches": viz.patch_grid(image, *model.config.processor.limits(None, None)),
        "windows": viz.window_order(grid, model.config.vision),
        "positions": viz.mrope_timeline(asked.position_ids, media),
        "attention": attention(model, image, asked, media),
    }


def attention(model, image, asked, media):
    """Attention, before each name, of the last layer's head that attends to shapes most."""
    ids = list(model.generate(asked))
    words = [model.tokenizer.decode([token]).strip() for token in ids]
    all_ids, grid = np.append(asked.input_ids, ids), asked.image_grid_thw
    positions, _ = position.rope_index(all_ids, model.config, grid)
    rows = [len(asked.input_ids) + words.index(name) - 1 for name in NAMES]
    last = f"model.layers.{model.config.text.num_hidden_layers - 1}.self_attn"
    whole = replace(asked, input_ids=all_ids, position_ids=positions)
    weights = model.attention_weights(whole, last, rows=rows)[:, :, np.flatnonzero(media)]
    paper = np.asarray(image)[0, 0].astype(int)
    drawn = np.any(np.abs(np.asarray(image) - paper) > 64, axis=2)
    _, h, w = (grid[0] // (1, 2, 2)).tolist()
    cover = drawn.reshape(h, drawn.shape[0] // h, w, -1).mean(axis=(1, 3)).ravel()
    head = int(np.argmax(np.sum(weights @ cover, axis=1) / np.sum(weights, axis=(1, 2))))
    labels = [f"before “{name}”" for name in NAMES]
    return viz.attention_over_image(image, weights[head], grid[0], labels, columns=2)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures().items():
        path = options.out / f"{name}.png"
        save(figure, path)
        print(f"![{figure.alt}]({path})")


def save(figure, path):
    """A figure as a small PNG."""
    figure.savefig(path, dpi=130)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
