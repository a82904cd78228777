"""Cases of the evaluation: what is shown, what is asked, and how an answer is scored."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts.train_scenes import drawing, language, world
from scripts.train_scenes.batches import clip_seconds, images_of
from scripts.train_scenes.language.honesty import BYE, HELLO, THANKS
from scripts.train_scenes.scene import EVALUATION, PAIRS, Clip, Limits, Refusal, Scene, generator

STYLES = ("training", "held-out", "outside")
PHRASINGS = ("training", "held-out", "newcomers")
NEWCOMERS = Path(__file__).parents[2] / "tests" / "train_scenes" / "newcomers.json"
TALK = tuple(f"turn_{number}" for number in range(1, 7))  # any skill, so far into a conversation
SKILLS = (*language.SKILLS, *TALK)
WITH_CLIP, WITHOUT = ("when", "motion", "happens"), ("no_image", "chat", "other")
WITHIN = 0.5  # seconds
TIME = re.compile(r"(\d+(?:\.\d+)?) seconds?")
LETTERS, FAREWELLS = {"Y": "Yes.", "N": "No."}, (THANKS, BYE)
TRIES = 400


class Seen(NamedTuple):
    """One image, or the frames of a video: uint8 [F, H, W, 3]; seconds that two frames last."""

    frames: np.ndarray
    seconds: float | None = None


class Case(NamedTuple):
    """Turns (media, text) with the answers of all but the last; what the last one is about."""

    turns: tuple[tuple[tuple[Seen, ...], str], ...]
    answers: tuple[str, ...]
    answer: str
    content: object


def draw_contents(rng, contents, style):
    """For each content, the images or the video that show it."""
    named = {"training": None, "held-out": "held-out"}
    if style == "outside":
        from scripts.train_scenes import outside_renderer

        def draw(scenes):
            return outside_renderer.draw(rng, scenes)
    else:

        def draw(scenes):
            return drawing.draw(rng, scenes, named[style])

    found = []
    for content in contents:
        if isinstance(content, Clip):
            frames = np.stack(draw(list(content.frames)))
            found.append((Seen(frames, clip_seconds(content)),))
        else:
            scenes = list(images_of(content))
            found.append(tuple(Seen(image[None]) for image in (draw(scenes) if scenes else ())))
    return found


def make_content(rng, skill, style, limits, pairs):
    """Contents that a skill can be asked about."""
    if skill in WITHOUT:
        return None
    if skill == "change":
        return world.make_pair(rng, limits, False, pairs)
    if skill in WITH_CLIP:
        return world.make_clip(rng, limits, False, pairs)
    if skill == "refuse":
        return world.make_image(rng, limits, False, ("photograph", "noise")[rng.integers(2)])
    if skill in ("blank", "read"):
        return world.make_image(rng, limits, False, {"read": "word"}.get(skill, skill), pairs)
    while True:
        content = world.make_image(rng, limits, False, None, pairs)
        if isinstance(content, Scene) and content.shapes:
            return content


def newcomers():
    """{key: texts} that people typed who knew nothing of the templates."""
    return json.loads(NEWCOMERS.read_text())


def make_case(seed, skill, index, style="training", phrasing="training", pairs=PAIRS):
    """Case number `index` of a skill, or None when nothing can be asked in this phrasing."""
    rng = generator(seed, EVALUATION, SKILLS.index(skill), index)
    limits = Limits()
    held_out = phrasing == "held-out"
    if skill in TALK:
        return talk_case(rng, TALK.index(skill) + 1, style, held_out, limits, pairs)
    own = newcomers() if phrasing == "newcomers" else None
    for _ in range(TRIES):
        content = make_content(rng, skill, style, limits, pairs)
        if style == "outside" and isinstance(content, Refusal):
            return None
        asked = language.ask(rng, content, held_out, False, {skill}, own)
        question = next(asked, None)
        if question:
            media = draw_contents(rng, [content], style)[0]
            return Case(((media, question.text),), (), question.answer, content)
        if own is not None and _ > 20:
            return None
    return None


def talk_case(rng, number, style, held_out, limits, pairs):
    """Turn `number` of a conversation about one or two images."""
    for _ in range(TRIES):
        contents = []
        while len(contents) < 1 + (number > 1 and rng.random() < 0.4):
            content = world.make_image(rng, limits, False, None, pairs)
            if isinstance(content, Scene):
                contents.append(content)
        turns = language.conversation(rng, contents, held_out, False, number)
        if len(turns) == number:
            drawn = draw_contents(rng, contents, style)
            shown = tuple((tuple(m for i in t.images for m in drawn[i]), t.text) for t in turns)
            about = turns[-1].about
            return Case(
                shown, tuple(t.answer for t in turns[:-1]), turns[-1].answer,
                None if about is None else contents[about],
            )  # fmt: skip
    return None


# ---------------------------------------------------------------------------------------- scoring


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common) if common else 0.0


def parse(reply):
    """The JSON in a reply as a list of objects; an empty list when there is none."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", reply, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else reply)
    except ValueError:
        return []
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def numbers_of(item, key, count):
    """The `count` numbers of an object under `key`, else an empty list."""
    values = item.get(key)
    if not isinstance(values, list) or len(values) != count:
        return []
    return values if all(isinstance(value, int | float) for value in values) else []


def score(case, skill, reply, scale=(1.0, 1.0)):
    """A figure between 0 and 1; scale: of the reply's x and y to pixels of the contents.

    Boxes count by their overlap, points by whether they lie in the right shape's box, times by
    whether they are within half a second, all else by being the canonical answer (`agree`).
    """
    wanted = parse(case.answer)
    if wanted and "bbox_2d" in wanted[0]:
        found = [numbers_of(item, "bbox_2d", 4) for item in parse(reply)]
        found = [
            [v * s for v, s in zip(box, (*scale, *scale), strict=True)] for box in found if box
        ]
        pairs = zip((item["bbox_2d"] for item in wanted), found, strict=False)
        return sum(overlap(*pair) for pair in pairs) / max(len(wanted), len(parse(reply)))
    if wanted and "point_2d" in wanted[0]:
        found = [numbers_of(item, "point_2d", 2) for item in parse(reply)]
        inside = 0
        for item, point in zip(wanted, found, strict=False):
            x, y = item["point_2d"]
            shape = min(case.content.shapes, key=lambda s: _far(s.centre, (x, y)))
            x1, y1, x2, y2 = shape.box
            at = [v * s for v, s in zip(point, scale, strict=True)] if point else (-1, -1)
            inside += x1 <= at[0] <= x2 and y1 <= at[1] <= y2
        return inside / max(len(wanted), len(found))
    if skill in ("when", "happens"):
        return float(same_times(case.answer, reply))
    return float(agree(case.turns[-1][1], case.answer, reply))


def same_times(answer, reply):
    """Whether two texts are the same but for seconds, which may be WITHIN apart."""
    texts = [TIME.sub("#", text) for text in (answer, reply)]
    times = [[float(time[1]) for time in TIME.finditer(text)] for text in (answer, reply)]
    return texts[0] == texts[1] and all(abs(a - b) <= WITHIN for a, b in zip(*times, strict=True))


def agree(text, answer, reply):
    """Whether a reply is the canonical answer, or one as good.

    To a mere `(y/n)` that is a whole word; to thanks and goodbyes, what the model says of itself.
    """
    if reply == answer:
        return True
    if answer in LETTERS and re.search(r"\by/n\b", text, re.IGNORECASE):
        return reply == LETTERS[answer]
    return answer in FAREWELLS and reply == HELLO


def _far(a, b):
    return abs(a[0] - b[0]) + abs(a[1] - b[1])
