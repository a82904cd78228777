"""Measure the embedded checkpoint on scenes it has never seen.

    python -m scripts.first_edition.evaluate --seed 1 --n 200 --json

Images and clips go through the `tinyqwenvl` package.  `--torch` uses the training network, which
answers in batches and so sooner.
"""

import argparse
import json
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.first_edition import (
    CHECKPOINT,
    LARGEST,
    LONGEST,
    folder_with,
    questions,
    scenes,
    words,
)
from scripts.first_edition.renderer import draw_other
from scripts.first_edition.scenes import EVALUATION, generator

NEW_GRIDS = (  # (rows, columns) of cells never used in training
    (4, 7), (7, 4), (5, 8), (8, 5), (5, 9), (9, 5), (6, 7), (7, 6), (6, 9), (9, 6), (7, 8), (8, 9),
    (4, 9), (9, 4), (4, 10), (10, 4), (9, 9),
)  # fmt: skip
HELD_OUT = tuple(sorted(scenes.HELD_OUT))
KNOWN_GRIDS = tuple(grid for grid in scenes.GRIDS if grid[0] * grid[1] <= 100)
FIGURES = {"locate": "locate_iou", "locate_all": "locate_all_iou", "point": "point_inside",
           "when": "when_within_half_second"}  # fmt: skip


class Case(NamedTuple):
    """One question put to the model: the images (or frames at `fps`), what is in them.

    scene: what the last image holds.
    """

    images: list
    fps: float | None
    scene: scenes.Scene | words.Word
    question: questions.Question


# ------------------------------------------------------------------------------------------ cases


def make_case(seed, skill, index, renderer="train", pairs=scenes.PAIRS):
    """Case number `index` of a skill.

    The renderer, and the (colour, kind) pairs to draw, are for skills of one image of shapes.
    """
    rng = generator(seed, EVALUATION, questions.SKILLS.index(skill), index)
    if skill in ("when", "motion"):
        while True:
            clip = scenes.make_clip(rng)
            asked = [q for q in questions.clip_questions(rng, clip) if q.skill == skill]
            if asked:
                frames = scenes.draw_frames(rng, clip.frames)
                return Case(frames, clip.fps, clip.frames[-1], asked[0])
    while True:
        roll = rng.random()
        options = ((4, 4),) if roll < 0.3 else KNOWN_GRIDS if roll < 0.6 else NEW_GRIDS
        rows, columns = options[rng.integers(len(options))]
        if skill in ("change", "read"):
            scene, images, question = _draw_and_ask(rng, skill, rows, columns)
            break
        scene = scenes.make_scene(rng, rows, columns, pairs)
        question = questions.ASK[skill](rng, scene)
        if question:
            images = [(draw_other if renderer == "other" else scenes.draw_scene)(rng, scene)]
            break
    if rng.random() < 0.5:  # a size that the pipeline must bring back to whole cells
        odd = scene.width + int(rng.integers(14)), scene.height + int(rng.integers(14))
        images = [image.resize(odd, Image.Resampling.BICUBIC) for image in images]
    return Case(images, None, scene, question)


def _draw_and_ask(rng, skill, rows, columns):
    """(contents of the last image, the images, the question) of a change or a word."""
    if skill == "change":
        if (rows, columns) != (4, 4):
            rows, columns = questions.pick(rng, scenes.TWO_GRIDS)
        change = scenes.make_change(rng, rows, columns)
        images = scenes.draw_frames(rng, (change.before, change.after))
        return change.after, images, questions.ask_change(rng, change)
    word = words.make_word(rng, rows, columns)
    return word, [words.draw_word(rng, word)], questions.ask_read(rng, word)


# ---------------------------------------------------------------------------------------- marking


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common) if common else 0.0


def parse(reply):
    """The JSON in a reply as a list of objects; an empty list when there is none."""
    try:
        value = json.loads(reply)
    except ValueError:
        return []
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def mark(case, reply):
    """A figure between 0 and 1."""
    question = case.question
    if question.skill in ("locate", "locate_all"):
        wanted = [item["bbox_2d"] for item in parse(question.answer)]
        found = [item.get("bbox_2d") for item in parse(reply)]
        pairs = [(w, f) for w, f in zip(wanted, found, strict=False) if f and len(f) == 4]
        return sum(overlap(*pair) for pair in pairs) / max(len(wanted), len(found))
    if question.skill == "point":
        label = parse(question.answer)[0]["label"]
        x1, y1, x2, y2 = next(s.box for s in case.scene.shapes if s.name == label)
        points = [item.get("point_2d") for item in parse(reply)]
        inside = [p and len(p) == 2 and x1 <= p[0] <= x2 and y1 <= p[1] <= y2 for p in points]
        return float(inside == [True])
    if question.skill == "when":
        numbers = [re.findall(r"\d+(?:\.\d+)?", text) for text in (question.answer, reply)]
        return float(bool(numbers[1]) and abs(float(numbers[0][0]) - float(numbers[1][0])) <= 0.5)
    return float(reply == question.answer)


# --------------------------------------------------------------------------------------- answers


def package_answers(model, cases, max_pixels=LARGEST):
    """Replies of the NumPy package, one case at a time.

    max_pixels: of an image; by default the largest area in training, so that no scene here is
    shrunk and boxes are in pixels of the scene; the checkpoint's own limit is lower (`sizes`).
    """
    replies = []
    for case in cases:
        seen = [{"image": image} for image in case.images]
        if case.fps:
            seen = [{"video": case.images, "fps": case.fps}]
        content = [*seen, {"text": case.question.text}]
        asked = [{"role": "user", "content": content}]
        inputs = model.prepare(asked, max_pixels=None if case.fps else max_pixels)
        ids = model.generate(inputs, LONGEST.get(case.question.skill, 12))
        replies.append(model.tokenizer.decode(list(ids)))
    return replies


# ------------------------------------------------------------------------------------------- main


def evaluate(answers, seed, n, skills, renderer="train", pairs=scenes.PAIRS, show=0):
    """{skill: mean figure}; `answers` turns a list of cases into a list of replies."""
    figures = {}
    for skill in skills:
        cases = [make_case(seed, skill, index, renderer, pairs) for index in range(n)]
        replies = answers(cases)
        marks = [mark(case, reply) for case, reply in zip(cases, replies, strict=True)]
        figures[FIGURES.get(skill, skill)] = round(float(np.mean(marks)), 4)
        wrong = [i for i, value in enumerate(marks) if value < 0.5][:show]
        for i in wrong:
            print(skill, cases[i].question.text, cases[i].question.answer, replies[i], sep="\n  ")
    return figures


def pair(name):
    """(colour, kind) of `red star`; ValueError for another word."""
    colour, _, kind = name.partition(" ")
    if colour not in scenes.COLOURS or kind not in scenes.KINDS:
        raise ValueError(name)
    return colour, kind


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=200, help="scenes for each skill")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument(
        "--model",
        type=folder_with("model.safetensors"),
        default=CHECKPOINT,
        help="checkpoint folder",
    )
    parser.add_argument("--skills", nargs="+", choices=questions.SKILLS)
    parser.add_argument("--renderer", choices=("train", "other"), default="train")
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument("--pairs", type=pair, nargs="+", metavar='"COLOUR KIND"', help="draw these")
    drawn.add_argument(
        "--kept-out", dest="pairs", action="store_const", const=HELD_OUT,
        help="draw only the pairs never seen in training",
    )  # fmt: skip
    parser.add_argument("--torch", action="store_true", help="use the training network")
    parser.add_argument("--show", type=int, default=0, help="mistakes to print for each skill")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error("--n must be 1 or more")
    skills = questions.SKILLS
    if options.pairs or options.renderer != "train":
        skills = tuple(questions.ASK)
    if options.skills and not set(options.skills) <= set(skills):
        parser.error(f"with pairs or another renderer, only these skills: {' '.join(skills)}")
    skills = options.skills or skills
    if "relation" in skills and len(set(options.pairs or scenes.PAIRS)) == 1:
        parser.error("relation needs two pairs or more")
    if options.torch:
        from scripts.first_edition.network_answers import load_network, network_answers

        network, tokenizer = load_network(options.model)

        def answers(cases):
            return network_answers(network, tokenizer, cases)
    else:
        import tinyqwenvl

        model = tinyqwenvl.load(options.model)

        def answers(cases):
            return package_answers(model, cases)

    pairs = tuple(options.pairs or scenes.PAIRS)
    figures = evaluate(
        answers, options.seed, options.n, skills, options.renderer, pairs, options.show
    )
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<26}{value:.3f}")


if __name__ == "__main__":
    main()
