"""Measure a checkpoint under all conditions of its card: `figures.json` and the card's table.

    python -m scripts.first_edition.measure --write

Prints the table; with `--write` it also goes into `figures.json` and the card of the checkpoint in
the package.  One process a core.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tinyqwenvl
from scripts.first_edition import evaluate, folder_with, questions

SINGLE = ("describe", "count", "colour", "shape", "yes_no", "locate")
KNOWN = (  # as many colours and kinds as the held-out pairs have, and the same ones
    ("red", "heart"), ("blue", "ring"), ("green", "cross"), ("yellow", "triangle"),
    ("purple", "star"),
)  # fmt: skip
CONDITIONS = {  # column: skills, other settings of `evaluate`, and its options that say the same
    "unseen scenes": (questions.SKILLS, {}, []),
    "held-out pairs": (SINGLE, {"pairs": evaluate.HELD_OUT}, ["--kept-out"]),
    "seen combinations": (SINGLE, {"pairs": KNOWN}, ["--pairs", *map(" ".join, KNOWN)]),
    "other renderer": (SINGLE, {"renderer": "other"}, ["--renderer", "other"]),
}
ABOUT = {
    "describe": "the whole sentence right", "relation": "chance is about 50",
    "yes_no": "chance is 50", "locate_iou": "mean overlap of the box",
    "locate_all_iou": "mean overlap of the boxes", "point_inside": "the point is inside",
    "absent": "says that it is not there",
    "when_within_half_second": "clips; within half a second", "motion": "clips",
    "change": "two images", "read": "one to four characters",
}  # fmt: skip
FILE = Path(__file__).with_name("figures.json")


def command(column, seed, n):
    """The command that prints the figures of a column."""
    skills, _, options = CONDITIONS[column]
    words = ["--seed", str(seed), "--n", str(n), "--json", *options]
    if skills != questions.SKILLS:
        words += ["--skills", *skills]
    return shlex.join(["python", "-m", "scripts.first_edition.evaluate", *words])


def measure_one(folder, column, skill, seed, n):
    """{name: figure} of one skill under one condition."""
    model = tinyqwenvl.load(folder)

    def answers(cases):
        return evaluate.package_answers(model, cases)

    return evaluate.evaluate(answers, seed, n, [skill], **CONDITIONS[column][1])


def measure(folder, seed, n):
    """{column: {"command": text, "figures": {name: figure}}}"""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by the processes when they start
    jobs = [(column, skill) for column, (skills, *_) in CONDITIONS.items() for skill in skills]
    columns = {c: {"command": command(c, seed, n), "figures": {}} for c in CONDITIONS}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = [pool.submit(measure_one, folder, *job, seed, n) for job in jobs]
        for (column, _), figure in zip(jobs, found, strict=True):
            columns[column]["figures"] |= figure.result()
            print(f"{column}: {figure.result()}", file=sys.stderr)
    return columns


def table(columns):
    """The figures in percent as a Markdown table, a row for each skill."""
    rows = [["skill", *columns]]
    for name in columns["unseen scenes"]["figures"]:
        figures = [column["figures"].get(name) for column in columns.values()]
        about = f": {ABOUT[name]}" if name in ABOUT else ""
        rows.append([f"`{name}`{about}", *("" if f is None else f"{100 * f:.1f}" for f in figures)])
    first, *lines = (f"| {' | '.join(row)} |\n" for row in rows)
    return first + "|---" * len(rows[0]) + "|\n" + "".join(lines)


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=1000, help="scenes for each skill")
    parser.add_argument(
        "--model",
        type=folder_with("model.safetensors"),
        default=evaluate.CHECKPOINT,
        help="checkpoint folder",
    )
    parser.add_argument("--write", action="store_true", help="figures.json and the card's table")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error("--n must be 1 or more")
    if options.write and options.model != evaluate.CHECKPOINT:
        parser.error("the card is of the checkpoint in the package: --write goes without --model")
    card = evaluate.CHECKPOINT / "README.md"
    before = table(json.loads(FILE.read_text()))
    if options.write and before not in card.read_text(encoding="utf-8"):
        parser.error(f"{card} has another table than {FILE}")
    columns = measure(options.model, options.seed, options.n)
    print(table(columns), end="")
    if options.write:
        text = card.read_text(encoding="utf-8")
        card.write_text(text.replace(before, table(columns)), encoding="utf-8")
        FILE.write_text(json.dumps(columns, indent=2) + "\n")


if __name__ == "__main__":
    main()
