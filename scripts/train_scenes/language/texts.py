"""Many training texts for the tokenizer: all that is asked and answered, about made-up scenes."""

from itertools import chain, islice

from scripts.train_scenes.language.asking import LANGUAGES, ask
from scripts.train_scenes.language.turns import conversation
from scripts.train_scenes.scene import (
    COLOURS,
    PAIRS,
    Change,
    Clip,
    Pair,
    Refusal,
    Scene,
    Shape,
    Word,
    generator,
)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def made_up_scene(rng, most=6, words=0.2):
    """A scene of a few shapes anywhere; nobody draws it, so they may overlap."""
    width, height = (28 * int(n) for n in rng.integers(4, 10, 2))
    shapes = []
    for _ in range(int(rng.integers(0, most + 1))):
        colour, kind = PAIRS[rng.integers(len(PAIRS))]
        w, h = (2 * int(n) for n in rng.integers(8, 20, 2))
        x, y = (
            2 * int(rng.integers(0, (width - w) // 2)),
            2 * int(rng.integers(0, (height - h) // 2)),
        )
        shapes.append(Shape(colour, kind, (x, y, x + w, y + h)))
    shapes.sort(key=lambda s: s.centre)
    written = ()
    if rng.random() < words:
        text = "".join(LETTERS[i] for i in rng.integers(0, len(LETTERS), rng.integers(1, 9)))
        written = (Word(text, (0, 0, 28, 28)),)
    return Scene(width, height, tuple(shapes), written)


def made_up_pair(rng):
    """Two images with up to one change."""
    scene = made_up_scene(rng, 3, 0)
    names = [s.name for s in scene.shapes]
    if not names or len(set(names)) < len(names) or rng.random() < 0.2:
        return Pair(scene, scene)
    first, *rest = scene.shapes
    other = Shape(*PAIRS[rng.integers(len(PAIRS))], first.box)
    x1, y1, x2, y2 = first.box
    options = [
        Change("removed", first, None), Change("added", None, first),
        Change("moved", first, Shape(first.colour, first.kind, (x1 + 2, y1, x2 + 2, y2))),
        Change("resized", first, Shape(first.colour, first.kind, (x1, y1, x2 + 20, y2 + 20))),
    ]  # fmt: skip
    if (other.colour, first.kind) in PAIRS and other.colour != first.colour:
        options.append(Change("coloured", first, Shape(other.colour, first.kind, first.box)))
    if (first.colour, other.kind) in PAIRS and other.kind != first.kind:
        options.append(Change("kind", first, Shape(first.colour, other.kind, first.box)))
    change = options[rng.integers(len(options))]

    def scene_with(shape):
        return Scene(scene.width, scene.height, tuple(s for s in (shape, *rest) if s))

    return Pair(scene_with(change.before), scene_with(change.after), (change,))


def made_up_clip(rng):
    """A video of one frame in which one shape appears and one moves."""
    first, second = (" ".join(PAIRS[i]) for i in rng.choice(len(PAIRS), 2, replace=False))
    way = ("left", "right", "up", "down")[rng.integers(4)]
    scene = made_up_scene(rng, 3, 0)
    return Clip(
        (scene,),
        tuple(i / 2 for i in range(33)),
        {first: int(rng.integers(1, 32)) / 2},
        {second: way},
    )


def contents(rng):
    """One of each kind of content."""
    yield made_up_scene(rng)
    yield made_up_scene(rng)
    yield made_up_scene(rng, 12, 0)
    yield made_up_pair(rng)
    yield made_up_clip(rng)
    yield Refusal(112, 112, ("photograph", "noise", "blank")[rng.integers(3)])
    yield None


def corpus(seed=0, count=1500):
    """Questions and answers of training, `count` times some of every kind and in every language."""
    rng = generator(seed)
    yield from (colour.capitalize() + "." for colour in COLOURS)
    for index in range(count):
        asked = [islice(ask(rng, content), 10) for content in contents(rng)]
        easy, language = made_up_scene(rng, 3, 0), LANGUAGES[index % len(LANGUAGES)]
        asked.append(islice(ask(rng, easy, skills=(language,)), 8))
        asked.append(turn for turn in conversation(rng, list(contents(rng))[:2]))
        for question in chain(*asked):
            yield question.text
            yield question.answer
