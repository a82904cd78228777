"""Measure the embedded checkpoint on large images, read at several limits on their pixels.

    python -m scripts.first_edition.sizes --seed 1 --n 50

Scenes are drawn larger than any in training.  The package shrinks them to the limit; boxes are
compared in pixels of the resized image.  Prints a table, a row for each size, skill and limit.
"""

import argparse
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from scripts.first_edition import CHECKPOINT, folder_with, questions, scenes
from scripts.first_edition.evaluate import FIGURES, Case, mark, package_answers
from scripts.first_edition.scenes import CELL, EVALUATION, generator
from tinyqwenvl.image import smart_resize

SIZES = {"640x480": (17, 23), "300x900": (32, 11)}  # width x height: (rows, columns) drawn
IMAGE_LIMITS = (100_352, 75_264, 50_176)
PAIR_LIMITS = (*IMAGE_LIMITS, 28_224)
CLIP_LIMITS = (28_224, 12_544)
LEAST = 12_544
STREAM = 1000  # first element of the seed's key: other scenes than those of `evaluate`


def _scaled(scene, width, height):
    """The scene in pixels of an image resized to width x height."""
    factors = np.tile((width / scene.width, height / scene.height), 2)

    def moved(shape):
        return replace(shape, box=tuple(np.round(shape.box * factors).astype(int).tolist()))

    return replace(scene, width=width, height=height, shapes=tuple(map(moved, scene.shapes)))


def answers(model, made, limit):
    """Replies to the cases of one row, images or frames read at `limit` pixels at most."""
    config = replace(model.config, video_limits=(LEAST, limit))
    return package_answers(replace(model, config=config), made, limit)


def _read_size(size, limit):
    """(width, height) at which the package reads an image of `size`."""
    height, width = smart_resize(size[1], size[0], CELL, LEAST, limit)
    return width, height


def make_image_case(seed, skill, size, grid, index, limit):
    """One image: the same for every limit; the true box is in pixels of the resized image."""
    rng = generator(seed, EVALUATION, STREAM, questions.SKILLS.index(skill), *grid, index)
    while True:
        drawn = scenes.make_scene(rng, *grid)
        scene = _scaled(drawn, *_read_size(size, limit))
        again = generator(seed, EVALUATION, STREAM + 1, int(rng.integers(1 << 30)))
        question = questions.ASK[skill](again, scene)
        if question:
            image = scenes.draw_scene(rng, drawn).resize(size, Image.Resampling.BICUBIC)
            return Case([image], None, scene, question)


def make_change_case(seed, size, grid, index):
    """Two images of one size."""
    rng = generator(seed, EVALUATION, STREAM, questions.SKILLS.index("change"), *grid, index)
    change = scenes.make_change(rng, *grid)
    images = scenes.draw_frames(rng, (change.before, change.after))
    images = [image.resize(size, Image.Resampling.BICUBIC) for image in images]
    return Case(images, None, change.after, questions.ask_change(rng, change))


def make_clip_case(seed, skill, size, grid, index):
    """A clip of frames of one size."""
    rng = generator(seed, EVALUATION, STREAM, questions.SKILLS.index(skill), *grid, index)
    while True:
        clip = scenes.make_clip(rng, *grid)
        asked = [q for q in questions.clip_questions(rng, clip) if q.skill == skill]
        if asked:
            frames = scenes.draw_frames(rng, clip.frames)
            frames = [frame.resize(size, Image.Resampling.BICUBIC) for frame in frames]
            return Case(frames, clip.fps, clip.frames[-1], asked[0])


def conditions():
    """(label of the size, size, grid, skill, limit) of every row."""
    for label, grid in SIZES.items():
        for skill in ("describe", "locate"):
            yield from ((label, grid, skill, limit) for limit in IMAGE_LIMITS)
    size = "640x480", SIZES["640x480"]
    yield from ((*size, "change", limit) for limit in PAIR_LIMITS)
    for clip in (size, ("448x448", (16, 16))):
        for skill in ("when", "motion"):
            yield from ((*clip, skill, limit) for limit in CLIP_LIMITS)


def cases(label, grid, skill, limit, seed, n):
    """The cases of one row."""
    size = tuple(map(int, label.split("x")))
    if skill == "change":
        return [make_change_case(seed, size, grid, i) for i in range(n)]
    if skill in ("when", "motion"):
        return [make_clip_case(seed, skill, size, grid, i) for i in range(n)]
    return [make_image_case(seed, skill, size, grid, i, limit) for i in range(n)]


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=50, help="scenes for each row")
    parser.add_argument("--skills", nargs="+", choices=questions.SKILLS)
    parser.add_argument("--model", type=folder_with("model.safetensors"), default=CHECKPOINT)
    options = parser.parse_args(arguments)
    model = tinyqwenvl.load(options.model)
    print("| size | skill | limit, pixels | read at | percent |\n|---|---|---|---|---|")
    for label, grid, skill, limit in conditions():
        if options.skills and skill not in options.skills:
            continue
        made = cases(label, grid, skill, limit, options.seed, options.n)
        replies = answers(model, made, limit)
        marks = [mark(case, reply) for case, reply in zip(made, replies, strict=True)]
        read = "x".join(map(str, _read_size(tuple(map(int, label.split("x"))), limit)))
        name = FIGURES.get(skill, skill)
        percent = f"{100 * np.mean(marks):.1f}"
        print(f"| {label} | `{name}` | {limit:,} | {read} | {percent} |", flush=True)


if __name__ == "__main__":
    main()
