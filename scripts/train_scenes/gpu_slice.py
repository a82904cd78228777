"""One slice of training on a machine with a GPU, inside a time limit.

    python3 -m scripts.train_scenes.gpu_slice 540 --compact compact_state --out "$OUT"

It goes on from the compact state in the folder `--compact` if there is one, else from the run kept
in the repository; it draws on all cores but one, trains, and measures briefly.  The folder `--out`
gets the compact state (`state/`, six files), `log.jsonl` and `evaluation.json`: eight files, each
under 16 MB.  The state is written every minute, so that a slice that is killed leaves a whole one.
With `--final 0.3` the rates fall to nothing over the last three tenths of the training.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from scripts.train_scenes.state import WHOLE

EVALUATION, MARGIN = 45, 12  # seconds
REFUSED = 2  # exit status
LEAST = 20  # seconds that are worth another attempt
MEASURED = {  # name: style, phrasing
    "training": ("training", "training"), "held-out": ("held-out", "held-out"),
    "newcomers": ("training", "newcomers"),
}  # fmt: skip


def start(module, *words):
    """A module of this package as a process."""
    command = [sys.executable, "-u", "-m", f"scripts.train_scenes.{module}", *map(str, words)]
    print("$", *command[3:], flush=True)
    settings = {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}
    settings |= {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    return subprocess.Popen(command, env={**os.environ, **settings})


def finish(process, seconds):
    """The exit status of a process, or None when it took longer and was ended."""
    try:
        return process.wait(max(1, seconds))
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
    return None


def train(options, end):
    """Train until `end`; after a failure, again from what was saved, in the plainest way.

    Returns the last exit status, None where training was cut off.
    """
    state = options.work / "state"
    words = ["--state", state, "--write-compact", options.out / "state", "--save-every", 60]
    words += ["--log", options.out / "log.jsonl", "--workers", options.workers]
    words += ["--device", options.device, "--threads", 2]
    if (options.compact / "state.json").is_file():
        words += ["--compact", options.compact]
    if options.final is not None:
        words += ["--final", options.final]
    if options.from_run:
        words += ["--from-run", options.from_run]
    status, new = None, ["--new"] if options.new else []
    for extra in (["--compile"] if options.compile else [], []):
        left = end - time.monotonic()
        if left < LEAST:
            break
        if (state / WHOLE).exists():  # of the first attempt
            new = []
        status = finish(start("train", *words, *new, *extra, "--seconds", left), left + 8)
        print(f"training ended with status {status}", flush=True)
        if status in (0, REFUSED):
            break
    return status


def measure(options, end):
    """A short evaluation in styles and phrasings of training and held out, all at once."""
    checkpoint = options.work / "checkpoint"
    words = ("--state", options.work / "state", "--out", checkpoint)
    if finish(start("export", *words), end - time.monotonic()):
        return
    processes, workers = {}, max(1, options.workers // len(MEASURED))
    for name, (style, phrasing) in MEASURED.items():
        words = ["--model", checkpoint, "--torch", "--device", options.device, "--n", options.n]
        words += ["--style", style, "--phrasing", phrasing, "--out", options.work / f"{name}.json"]
        words += ["--workers", workers, "--quiet", "--seconds", end - time.monotonic() - 12]
        processes[name] = start("evaluate", *words)
    figures = {}
    for name, process in processes.items():
        finish(process, end - time.monotonic())
        if (options.work / f"{name}.json").is_file():
            figures[name] = json.loads((options.work / f"{name}.json").read_text())
    (options.out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")
    skills = list(dict.fromkeys(skill for found in figures.values() for skill in found["figures"]))
    print(f"{'':<12}", *(f"{name:>12}" for name in figures))
    for skill in skills:
        row = [found["figures"].get(skill) for found in figures.values()]
        print(f"{skill:<12}", *(f"{'-' if x is None else f'{x:.3f}':>12}" for x in row), flush=True)


def main(arguments=None):
    """Command line."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, help="for everything")
    parser.add_argument("--compact", type=Path, default=Path("compact_state"), help="begin here")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--from-run", type=Path, metavar="DIR", help="else from this kept run")
    begin.add_argument("--new", action="store_true", help="begin from nothing")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that comes back")
    parser.add_argument("--work", type=Path, default=Path("/tmp/train_scenes"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--n", type=int, default=64, help="cases of each skill in the evaluation")
    parser.add_argument(
        "--final", type=float, metavar="SHARE", help="let the rates fall over this last share"
    )
    parser.add_argument("--no-evaluation", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    end = began + options.seconds - MARGIN
    status = train(options, end if options.no_evaluation else end - EVALUATION)
    if status == REFUSED:
        sys.exit(REFUSED)
    if not options.no_evaluation and (options.work / "state").is_dir():
        measure(options, end)
    for path in sorted(p for p in options.out.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:>10} {path.relative_to(options.out)}", flush=True)
    print(f"{time.monotonic() - began:.0f} s of {options.seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
