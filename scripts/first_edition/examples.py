"""Draw the example images and the clip of the embedded checkpoint from fixed seeds.

python -m scripts.first_edition.examples --out tinyqwenvl/assets/images
"""

import argparse
from pathlib import Path

from scripts.first_edition import scenes, words

EXAMPLES = {  # name: (rows, columns, number of shapes, seed)
    "scene": (8, 12, 3, 16),
    "many": (12, 9, 5, 13),
    "pair": (5, 9, 2, 15),
}
CHANGE_SEED, WORD_SEED, WORD = 23, 25, "QWEN"
CLIP_SEED, CLIP_FPS, CLIP_FRAMES = 20, 4.0, 16


def draw_example(name):
    """(scene, image) of one example."""
    rows, columns, count, seed = EXAMPLES[name]
    rng = scenes.generator(seed)
    while True:
        scene = scenes.make_scene(rng, rows, columns)
        if len({shape.name for shape in scene.shapes}) == len(scene.shapes) == count:
            return scene, scenes.draw_scene(rng, scene, plain=True)


def draw_change():
    """(change, [before, after]): one of three shapes has another colour afterwards."""
    rng = scenes.generator(CHANGE_SEED)
    while True:
        change = scenes.make_change(rng, 5, 6)
        if change.what == "coloured" and len(change.before.shapes) == 3:
            pair = change.before, change.after
            return change, scenes.draw_frames(rng, pair, plain=True)


def draw_sign():
    """(word, image)."""
    rng = scenes.generator(WORD_SEED)
    word = words.make_word(rng, 4, 6, WORD)
    return word, words.draw_word(rng, word, plain=True)


def draw_clip():
    """(clip, frames): four seconds in which one shape appears at 2 s and another moves."""
    rng = scenes.generator(CLIP_SEED)
    while True:
        clip = scenes.make_clip(rng, fps=CLIP_FPS, length=CLIP_FRAMES)
        if clip.moves and list(clip.appears.values()) == [2.0]:
            return clip, scenes.draw_frames(rng, clip.frames, plain=True)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tinyqwenvl/assets/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = {name: draw_example(name)[1] for name in EXAMPLES}
    images |= dict(zip(("before", "after"), draw_change()[1], strict=True))
    images["word"] = draw_sign()[1]
    for name, image in images.items():
        image.save(options.out / f"{name}.png", optimize=True)
    first, *others = draw_clip()[1]
    duration = round(1000 / CLIP_FPS)
    first.save(options.out / "clip.gif", append_images=others, save_all=True, duration=duration)


if __name__ == "__main__":
    main()
