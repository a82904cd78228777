"""The command ``run``: ask a model about images.

The answer goes to stdout as it is generated, everything else to stderr. Exit code 2: bad input;
130: interrupted, with the answer so far.
"""

from __future__ import annotations

import json
from contextlib import ExitStack

from .. import grounding, media
from ..errors import UserError
from ..model import load
from ..tracing import check_finite
from .answer import say
from .boxes import check_boxes, find_locations, in_format
from .chat import chat
from .embedded import SCENES, note_probability, note_what_is_shown, pair_limit
from .progress import progress
from .report import Clock, as_json, confidence, hints, report
from .request import (
    TO_RGB,
    asked_sampling,
    choose_sampling,
    images_and_prompt,
    parser,
    take_videos,
    user_items,
)
from .shared import INTERRUPTED, command, note, write_bytes
from .stdin import Piped


def answer(argv: list[str] | None) -> int:
    """Load the model, prepare the inputs, generate and print the answer."""
    args = parser().parse_intermixed_args(argv)
    take_videos(args)
    asked = asked_sampling(args)
    images, _ = images_and_prompt(args.words)
    if args.chat and (args.json or args.no_stream or args.parse_special or "-" in images):
        raise UserError(
            "--chat excludes an image on stdin, --json, --no-stream and --parse-special"
        )
    if args.boxes is not None:
        check_boxes(args, images)
    piped = None if "-" in images or args.chat else Piped()
    clock = Clock()
    with ExitStack() as stack:
        if args.check_finite:
            stack.enter_context(check_finite())
        model = load(args.model)
        clock.lap("load")
        sampling = choose_sampling(args, asked, model)
        items = user_items(args, piped.text() if piped else "")
        if args.boxes is not None:  # opened here, because the boxes are drawn on it later
            items[0]["image"] = media.open_image(items[0]["image"], TO_RGB[args.alpha])
        if args.chat:
            chat(args, model, sampling, items)
            return 0
        most = args.max_pixels
        if args.model is None:
            items, most = pair_limit(args, model, items)
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        messages = [*system, {"role": "user", "content": items}]
        inputs = model.prepare(
            messages, args.min_pixels, most, args.parse_special, TO_RGB[args.alpha]
        )
        clock.lap("prepare")
        if args.model is None:
            note(SCENES)
            note_what_is_shown(items, lowered=most != args.max_pixels)
        hints(args, model, inputs)
        generation = model.generate(inputs, args.max_tokens, sampling)
        drawing = stack.enter_context(progress(model, inputs))
        stream = not (args.json or args.no_stream)
        said = say(model, generation, lambda: generation.finish_reason, args.stop, drawing, stream)
    said["probability"] = confidence(generation.probabilities[: len(said["token_ids"])])
    if args.model is None:
        note_probability(said["text"], said["probability"])
    timings = {**clock.laps, **generation.timings, "total": clock.total()}
    locations = []
    if args.boxes is not None:
        locations = find_locations(model, inputs, items[0]["image"].size, said["token_ids"])
        said["boxes"] = [{m.kind: m.place, "label": m.label} for m in locations]
        if not locations:
            note(f"the answer has no box and no point; {args.boxes} is not written")
    if args.json:
        print(json.dumps(as_json(said, inputs, sampling, timings), ensure_ascii=False))
    elif args.no_stream:
        print(said["text"])
    if args.verbose:
        report(args, model, inputs, sampling, said, timings)
    if locations:
        write_bytes(args.boxes, in_format(grounding.draw(items[0]["image"], locations), args.boxes))
    return INTERRUPTED if said["finish_reason"] == "interrupt" else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    return command(answer, argv)
