"""Measure which answers of the embedded checkpoint the note on low probability points out.

    python -m scripts.first_edition.confidence --seed 7 --n 40

Right and wrong answers to the evaluation's questions, and descriptions of what lies outside its
world: photographs, and squared and ruled paper without a shape.  Prints a table: how many answers,
and the percentage that gets the note.
"""

import argparse
from collections import defaultdict

import numpy as np

import tinyqwenvl
from scripts.first_edition import CHECKPOINT, LARGEST, LONGEST, folder_with, questions
from scripts.first_edition.evaluate import make_case, mark
from scripts.first_edition.scenes import COLOURS, EVALUATION, generator
from scripts.train_scenes.drawing.grounds import Ground
from scripts.train_scenes.photographs import photograph
from tinyqwenvl.cli.embedded import is_improbable
from tinyqwenvl.cli.report import confidence

SIZES = ((336, 224), (224, 224), (168, 280))  # width, height
RIGHT = {"locate": 0.8, "locate_all": 0.8}  # least overlap of boxes; else 1


def ask(model, shown, text, longest, **limits):
    """(reply, whether it gets the note)."""
    inputs = model.prepare([{"role": "user", "content": [*shown, {"text": text}]}], **limits)
    generation = model.generate(inputs, longest)
    reply = model.tokenizer.decode(list(generation))
    return reply, is_improbable(reply, confidence(generation.probabilities))


def inside(model, seed, index):
    """(group, noted) of one question of each skill."""
    for skill in questions.SKILLS:
        case = make_case(seed, skill, index)
        shown = [{"image": image} for image in case.images]
        if case.fps:
            shown = [{"video": case.images, "fps": case.fps}]
        limits = {} if case.fps else {"max_pixels": LARGEST}
        reply, noted = ask(model, shown, case.question.text, LONGEST.get(skill, 12), **limits)
        right = mark(case, reply) >= RIGHT.get(skill, 1)
        kind = "boxes and points" if "_2d" in reply else "words"
        yield f"{'right' if right else 'wrong'}, {kind}", noted


def outside(model, seed, index):
    """(group, noted) of a description of each thing that is no drawn scene."""
    rng = generator(seed, EVALUATION, len(questions.SKILLS), index)
    width, height = SIZES[index % len(SIZES)]
    images = {"photograph": photograph(rng, width, height, held_out=bool(index % 2))}
    for name in ("squared", "ruled"):
        ground = Ground(rng, name, [COLOURS["red"]])
        images[f"{name} paper"] = ground.paint(width, height, 1.0, name)
    for name, image in images.items():
        text = questions.phrase(rng, "describe")
        yield name, ask(model, [{"image": image}], text, LONGEST["describe"])[1]


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--n", type=int, default=40, help="questions for each skill and thing")
    parser.add_argument("--model", type=folder_with("model.safetensors"), default=CHECKPOINT)
    options = parser.parse_args(arguments)
    model = tinyqwenvl.load(options.model)
    found = defaultdict(list)
    for index in range(options.n):
        for part in (inside, outside):
            for group, noted in part(model, options.seed, index):
                found[group].append(noted)
    print("| answers | number | with the note, percent |\n|---|---|---|")
    for group, noted in sorted(found.items()):
        print(f"| {group} | {len(noted)} | {100 * np.mean(noted):.1f} |")


if __name__ == "__main__":
    main()
