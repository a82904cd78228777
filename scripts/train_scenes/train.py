"""Train the embedded checkpoint, in slices that may end and go on at any time.

    python -m scripts.train_scenes.train --state .train --seconds 3600

It goes on from the state folder, else from the run kept in the repository (`run/`), else it begins
from nothing.  The whole run in one command, which asks for nothing that exists but this code, its
tokenizer and its seed:

    python -m scripts.train_scenes.train --new --state .train/new --device cuda --workers 15 \
        --seconds 7200 --final

The state folder holds the whole run: weights, momenta, the running mean of the weights (which is
what is exported), counters and log.  Rates are constant after a short warm-up, so that no slice
needs to know how many follow; only the last one, with `--final`, lets them fall to nothing, over
the whole slice or, with `--final 0.25`, over its last quarter.
Ctrl-C ends a slice early and saves.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

import torch

from scripts.train_scenes import tokenizer as tokenizers
from scripts.train_scenes import world
from scripts.train_scenes.batches import SIZES, make_step, media_of
from scripts.train_scenes.keep import RUN, SEED, read_run
from scripts.train_scenes.learner import RATES, Learner, normalise, use_compiled_blocks
from scripts.train_scenes.packing import Encoder
from scripts.train_scenes.scene import TRAINING, generator
from scripts.train_scenes.state import (
    WHOLE,
    StateError,
    read_compact,
    read_whole,
    write_compact,
    write_whole,
)
from scripts.train_scenes.workers import Stream

DIVERGED = 3  # exit status
SAVE_EVERY, LOG_EVERY, SHOW_EVERY = 120.0, 30.0, 10.0  # seconds
DRAWN_ENOUGH = 0.15  # share of waiting for images under which a faster network is of use


class Stop:
    """Ctrl-C and SIGTERM ask for an end; a second Ctrl-C ends at once."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number, frame):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def sample_patches(seed=SEED, images=200, clips=40):
    """Patches of training images [N, 588], and what changes in patches of videos [M, 588]."""
    rng, stills, changes = generator(seed, TRAINING, 1 << 30), [], []
    for _ in range(images):
        medium = media_of(rng, [world.make_image(rng)])[0][0]
        stills.append(normalise(torch.from_numpy(medium.patches)))
    for _ in range(clips):
        medium = media_of(rng, [world.make_clip(rng)])[0][0]
        frames = normalise(torch.from_numpy(medium.patches)).view(-1, 3, 2, 196)
        difference = (frames[:, :, 1] - frames[:, :, 0]).flatten(1)
        changes.append(difference[difference.abs().mean(1) > 0.05])  # more than noise
    return torch.cat(stills), torch.cat(changes)


def find_state(options):
    """(parts, counters, tokenizer) to begin from, and where they are, in words.

    The state folder comes first, then a compact state, then the run kept in the repository, of
    which there are weights alone: {"weights": ...}.  The parts are None where a run begins anew.
    """
    folder, run = options.state, options.from_run
    if (folder / WHOLE).exists():
        if options.new:
            raise StateError(f"{folder} holds a state; --new needs a folder without one")
        return *read_whole(folder), f"the state in {folder}"
    if any(folder.glob("*.safetensors")):
        raise StateError(f"{folder} holds part of a state but no {WHOLE}")
    if options.new:
        return None, {"steps": 0}, tokenizers.load(), "nothing"
    if options.compact is not None:
        return *read_compact(options.compact), f"the compact state in {options.compact}"
    if run is None and not RUN.exists():
        return None, {"steps": 0}, tokenizers.load(), "nothing"
    weights, counters, tokenizer = read_run(run or RUN)
    return {"weights": weights}, counters, tokenizer, f"the weights in {run or RUN}"


def make_learner(device, parts, counters, tokenizer):
    """A learner with a state or with weights, or a new one where there are no parts."""
    if parts is None:
        return Learner(tokenizer, device, sample_patches())
    learner = Learner(tokenizer, device)
    try:
        if "momentum" in parts:
            learner.load(parts, counters)
        else:
            learner.start_from(parts["weights"], counters)
    except (KeyError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        raise StateError(f"the state is of another network: {message}") from None
    return learner


class Meter:
    """Throughput of the last seconds, and whether drawing or the network held it up."""

    def __init__(self, learner, stream, began):
        self.learner, self.stream, self.began = learner, stream, began
        self.cuda = learner.device.type == "cuda"
        self.pending = deque()
        self.reset()

    def reset(self):
        """Begin to count anew."""
        self.since, self.images = time.monotonic(), self.learner.counters["images"]
        self.waited, self.drawing, self.busy = self.stream.waited, 0.0, 0.0

    def step(self, layout, events):
        """After a step was given to the device; wait for the one before the last."""
        self.drawing += layout["drawing"]
        if self.cuda:
            self.pending.append(events)
            while len(self.pending) > 2:
                first, last = self.pending.popleft()
                last.synchronize()
                self.busy += first.elapsed_time(last) / 1000

    def waiting(self):
        """Share of the time since the last reset that the network waited for images."""
        return (self.stream.waited - self.waited) / (time.monotonic() - self.since)

    def show(self):
        """One line."""
        passed = time.monotonic() - self.since
        images = self.learner.counters["images"] - self.images
        cores = len(self.stream.workers)
        text = (
            f"{time.monotonic() - self.began:6.0f} s  step {self.learner.counters['steps']}  "
            f"{images / passed:6.0f} images/s  waited for images "
            f"{100 * self.waiting():3.0f} %  "
            f"workers busy {100 * self.drawing / passed / cores:3.0f} %"
        )
        if self.cuda:
            text += f"  GPU in steps {100 * self.busy / passed:3.0f} %"
            try:
                text += f"  utilised {torch.cuda.utilization()} %"
            except Exception as error:  # an optional package reads it
                text += f"  ({type(error).__name__})"
        print(text, flush=True)
        self.reset()


def diverged():
    """End a slice of which nothing can be used."""
    print("error: the loss is no longer a number; the state saved last stands", file=sys.stderr)
    sys.exit(DIVERGED)


class Slice:
    """One slice of training."""

    def __init__(self, options):
        self.options, self.began = options, time.monotonic()
        self.stop = Stop()
        device = options.device
        *found, where = find_state(options)
        _, counters, tokenizer = found
        images = counters.get("images", 0)
        print(f"begins from {where}: step {counters['steps']}, {images:,} images", flush=True)
        self.size = SIZES[device]
        make = partial(make_step, Encoder(tokenizer), SEED, size=self.size)
        room = 3 * self.size.patches * 588 + (8 << 20)
        self.stream = Stream(make, counters["steps"], options.workers, room, device)
        self.learner = make_learner(device, *found)

    def progress(self):
        """Share of the slice's time that has passed."""
        return (time.monotonic() - self.began) / self.options.seconds

    def rate(self):
        """Share of the constant rates: 1, and in the end of a final slice a straight line to 0."""
        final = self.options.final
        return min(1.0, max(0.0, 1 - self.progress()) / final) if final else 1.0

    def save(self):
        """The whole state, and the compact one where it is asked for."""
        learner = self.learner
        if not torch.isfinite(learner.network.model.embed_tokens.weight).all():
            diverged()
        contents = learner.parts(), dict(learner.counters), learner.tokenizer
        write_whole(self.options.state, *contents)
        if self.options.write_compact:
            write_compact(self.options.write_compact, *contents)

    def log(self):
        """One line of the log; False when the loss is no longer a number."""
        learner = self.learner
        means, hint = learner.take_sums()
        if not means:
            return True
        counters = {**learner.counters, "seconds": round(learner.counters["seconds"], 1)}
        line = {**counters, "device": learner.device.type, "loss": means, "hint": hint}
        passed, images = time.monotonic() - self.logged[0], learner.counters["images"]
        line["images_per_second"] = round((images - self.logged[1]) / passed, 1)
        self.logged = time.monotonic(), images
        with (self.options.log or self.options.state / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        return all(math.isfinite(value) for value in (hint, *means.values()))

    def run(self):
        """Train until the time is over or an end is asked for."""
        learner, options = self.learner, self.options
        options.state.mkdir(parents=True, exist_ok=True)
        meter = Meter(learner, self.stream, self.began)
        saved = shown = time.monotonic()
        last, self.logged = saved, (saved, learner.counters["images"])
        shows, cuda = 0, learner.device.type == "cuda"
        begun = learner.counters["steps"]
        while not self.stop.asked and (self.progress() < 1 or learner.counters["steps"] == begun):
            batch, layout = next(self.stream)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else None
            if cuda:
                events[0].record()
            learner.step(batch, layout, self.rate())
            if cuda:
                events[1].record()
            meter.step(layout, events)
            now = time.monotonic()
            learner.counters["seconds"] += now - last
            last = now
            if now - self.logged[0] > LOG_EVERY and not self.log():
                diverged()
            if now - shown > SHOW_EVERY:
                shows += 1
                if shows == 2 and options.compile and meter.waiting() < DRAWN_ENOUGH:
                    print("compiling the blocks", flush=True)
                    use_compiled_blocks()
                meter.show()
                shown = now
            if now - saved > options.save_every:
                self.save()
                saved = now
        self.log()
        self.save()
        self.stream.close()


def parse(arguments=None):
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".train"), help="folder of the run")
    parser.add_argument("--seconds", type=float, default=3600, help="length of this slice")
    parser.add_argument("--device", choices=tuple(RATES), help="default: the GPU if there is one")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw images")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument(
        "--final", type=float, nargs="?", const=1.0, metavar="SHARE",
        help="let the rates fall to nothing over this share of the slice (default: all of it)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks, if images come fast enough"
    )
    parser.add_argument("--save-every", type=float, default=SAVE_EVERY, metavar="SECONDS")
    parser.add_argument("--log", type=Path, help="default: log.jsonl in the state folder")
    parser.add_argument("--compact", type=Path, metavar="DIR", help="begin from this compact state")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--from-run",
        type=Path,
        metavar="DIR",
        help="where there is no other state, begin from this kept run (default: run/ here)",
    )
    start.add_argument("--new", action="store_true", help="begin from nothing")
    parser.add_argument(
        "--write-compact", type=Path, metavar="DIR", help="write a compact state at every saving"
    )
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or options.workers < 1 or (options.threads or 1) < 1:
        parser.error("--seconds, --workers and --threads must be above 0")
    if options.final is not None and not 0 < options.final <= 1:
        parser.error("--final must be above 0 and at most 1")
    return options


def main(arguments=None):
    """Command line."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device is None:
        options.device = "cuda" if torch.backends.cuda.is_built() and has_gpu() else "cpu"
    try:
        Slice(options).run()
    except StateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def has_gpu():
    """Whether there is a GPU, without touching it: worker processes must fork first."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


if __name__ == "__main__":
    main()
