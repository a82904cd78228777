"""Measure a checkpoint on drawn scenes that it has never seen: one JSON object.

    python -m scripts.train_scenes.evaluate --model DIR --n 100 --style held-out

Skills are those of the language, and `turn_1` to `turn_6`: any question, so far into a
conversation.  By default the NumPy package answers; `--torch` uses the training network, which
answers in batches and so sooner, and knows only sizes that need no resizing.
"""

import argparse
import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from scripts.train_scenes.cases import PHRASINGS, SKILLS, STYLES, make_case, score
from scripts.train_scenes.scene import HELD_OUT, PAIRS

CHECKPOINT = Path(__file__).parents[2] / "tinyqwenvl" / "assets" / "checkpoint"


def find_answers(folder, use_torch=False, device="cpu"):
    """A function from cases to (reply, scale) of each."""
    from scripts.train_scenes import answers

    if not use_torch:
        return lambda cases: answers.package_answers(folder, cases)
    network, tokenizer = answers.load_network(folder, device)
    return lambda cases: answers.network_answers(network, tokenizer, cases, device=device)


def measure(answer, skill, n, seed=1, style="training", phrasing="training", pairs=PAIRS, show=0,
            pool=None):  # fmt: skip
    """(mean score, number of cases) of a skill; None where nothing can be asked so.

    pool: processes that draw the cases.
    """
    make = partial(make_case, seed, skill, style=style, phrasing=phrasing, pairs=pairs)
    cases = [case for case in (pool.map if pool else map)(make, range(n)) if case]
    if not cases:
        return None, 0
    replies = answer(cases)
    scores = [score(c, skill, *reply) for c, reply in zip(cases, replies, strict=True)]
    for case, (reply, _), value in zip(cases, replies, scores, strict=True):
        if value < 0.5 and show > 0:
            show -= 1
            print(skill, case.turns[-1][1], case.answer, reply, sep="\n  ", file=sys.stderr)
    return round(float(np.mean(scores)), 4), len(cases)


def evaluate(answer, skills, n, seconds=None, keep=None, **options):
    """{skill: mean score}; stops before a skill when so many seconds are over.

    keep: called with all that is known after each skill.
    """
    figures, counts, began = {}, {}, time.monotonic()
    found = {"figures": figures, "cases": counts, "seconds": 0.0}
    for skill in skills:
        if seconds is not None and time.monotonic() - began > seconds:
            break
        figures[skill], counts[skill] = measure(answer, skill, n, **options)
        found["seconds"] = round(time.monotonic() - began, 1)
        if keep:
            keep(found)
    return found


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS, metavar="SKILL")
    parser.add_argument("--n", type=int, default=100, help="cases of each skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--style", choices=STYLES, default="training")
    parser.add_argument("--phrasing", choices=PHRASINGS, default="training")
    parser.add_argument("--held-out-pairs", action="store_true", help="only pairs never drawn")
    parser.add_argument("--torch", action="store_true", help="use the training network")
    parser.add_argument("--device", default="cpu", help="of the training network")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the cases")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument("--out", type=Path, help="also write the JSON object there")
    parser.add_argument("--seconds", type=float, help="begin no further skill after so long")
    parser.add_argument("--show", type=int, default=0, help="errors to print for each skill")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error("--n must be 1 or more")
    if not (options.model / "model.safetensors").is_file():
        parser.error(f"{options.model} has no model.safetensors")
    pool = None
    if options.workers:  # forks, before PyTorch computes anything
        pool = multiprocessing.get_context("fork").Pool(options.workers)
    settings = {"model": str(options.model), "seed": options.seed, "n": options.n}
    settings |= {"style": options.style, "phrasing": options.phrasing}
    settings |= {"held_out_pairs": options.held_out_pairs}

    def keep(found):
        if options.out:
            options.out.write_text(json.dumps({**settings, **found}) + "\n")

    found = evaluate(
        find_answers(options.model, options.torch, options.device), options.skills, options.n,
        options.seconds, keep, seed=options.seed, style=options.style, phrasing=options.phrasing,
        pairs=tuple(sorted(HELD_OUT)) if options.held_out_pairs else PAIRS, show=options.show,
        pool=pool,
    )  # fmt: skip
    if not options.quiet:
        print(json.dumps({**settings, **found}))


if __name__ == "__main__":
    main()
