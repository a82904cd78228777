"""Steps of training: drawn contents, questions about them, packed.

Step number n is always the same: its random numbers come from the seed and n alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from scripts.train_scenes import drawing, language, world
from scripts.train_scenes.hints import cell_labels
from scripts.train_scenes.packing import Tree, Turn, image_medium, pack, video_medium
from scripts.train_scenes.scene import TRAINING, Clip, Limits, Pair, generator
from scripts.train_scenes.steering import JOINED, KINDS_OF_ITEM, MOST_JOINED

EASY_STEPS = 240  # at the beginning: single images with one or two shapes on plain paper


@dataclass(frozen=True)
class Size:
    """How much a step holds.

    patches: of all images together; questions: tokens of branches in a tree; granule: what
    patches of an image are padded to.
    """

    patches: int
    questions: int
    granule: int


SIZES = {
    "cpu": Size(patches=5_000, questions=144, granule=4),
    "cuda": Size(patches=40_000, questions=224, granule=32),
}
SKILL = {name: index for index, name in enumerate(language.SKILLS)}


# --------------------------------------------------------------------------------------- contents


def images_of(content):
    """The scenes that one content shows as images; none for a clip."""
    if isinstance(content, Clip) or content is None:
        return ()
    return (content.before, content.after) if isinstance(content, Pair) else (content,)


def clip_seconds(clip):
    """Seconds that one pair of frames lasts, if the frames were even."""
    return 2 * (clip.times[-1] - clip.times[0]) / max(1, len(clip.times) - 1)


def media_of(rng, contents, style=None, labelled=True):
    """Drawn contents of one style: for each of `contents` a tuple of media."""
    scenes = [scene for content in contents for scene in images_of(content)]
    images = iter(drawing.draw(rng, scenes, style) if scenes else ())
    found = []
    for content in contents:
        if isinstance(content, Clip):
            frames = drawing.draw(rng, list(content.frames), style)
            frames += frames[-1:] * (len(frames) % 2)
            found.append((video_medium(np.stack(frames), clip_seconds(content)),))
        else:
            found.append(
                tuple(
                    image_medium(next(images), cell_labels(scene) if labelled else None)
                    for scene in images_of(content)
                )
            )
    return found


def easy_image(rng, limits):
    """A small image of one or two shapes."""
    limits = replace(limits, image_area=25_088)
    for _ in range(200):
        scene = world.make_image(rng, limits, family="easy")
        if len(scene.shapes) <= 2 and scene.ground == "plain":
            return scene
    return scene


# -------------------------------------------------------------------------------------- questions


def turn_of(question, media=()):
    """A language's question, or turn, as a turn of a tree."""
    unsaid = tuple(language.unsaid(question))
    return Turn(question.text, question.answer, SKILL[question.skill], media, unsaid)


def fill(rng, tree, asked, budget):
    """Branches of questions until their tokens fill `budget`; some continue the branch before."""
    texts, held, tries = set(), [], 0
    for question in asked:
        tries += 1
        if tries > 40:
            break
        if question.text in texts:
            continue
        texts.add(question.text)
        turn = turn_of(question)
        budget -= tree.length([turn])
        if budget < 0:
            break
        if held and (len(held) >= MOST_JOINED or rng.random() >= JOINED):
            tree.add(held)
            held = []
        held.append(turn)
    if held:
        tree.add(held)


def talk_tree(rng, encoder, contents, media, budget):
    """The tree of a conversation about one or more contents, and further questions beside it."""
    turns = language.conversation(rng, contents)
    if not turns:
        return None
    shown = [tuple(m for i in turn.images for m in media[i]) for turn in turns]
    tree = Tree(encoder, shown[0])
    asked = [turn_of(t.question, new) for t, new in zip(turns, ((), *shown[1:]), strict=True)]
    tree.add(asked)
    first = [contents[i] for i in turns[0].images]
    if len(contents) == 1:  # another conversation about the same image costs no image
        more = [turn_of(turn.question) for turn in language.conversation(rng, contents)]
        if more:
            tree.add(more)
    if len(first) <= 1:
        about = first[0] if first else None
        fill(rng, tree, language.ask(rng, about), budget - sum(tree.runs[1:]))
    return tree


def talked_about(rng, limits):
    """Contents of a conversation: one to three images, a pair or a video; now and then none yet."""
    roll = rng.random()
    if roll < 0.08:
        return [world.make_clip(rng, limits)]
    if roll < 0.16:
        return [world.make_pair(rng, limits)]
    count = int(rng.choice((1, 2, 3), p=(0.5, 0.35, 0.15)))
    contents = [world.make_image(rng, limits) for _ in range(count)]
    return [None, *contents] if roll > 0.92 else contents


def make_tree(rng, encoder, kind, limits, budget, easy=False):
    """One tree with drawn images, or None; the number of its images."""
    if kind == "talk":
        contents = talked_about(rng, limits)
        return talk_tree(rng, encoder, contents, media_of(rng, contents), budget)
    if kind == "nothing":
        content, media = None, ()
    else:
        if kind == "image":
            content = (easy_image if easy else world.make_image)(rng, limits)
        else:
            content = (world.make_pair if kind == "pair" else world.make_clip)(rng, limits)
        media = media_of(rng, [content])[0]
    tree = Tree(encoder, media)
    fill(rng, tree, language.ask(rng, content), budget)
    return tree if tree.lessons else None


def make_step(encoder, seed, step, size, limits=None):
    """(arrays, layout) of one step; `layout["images"]` counts its images and videos."""
    rng, limits = generator(seed, TRAINING, step), limits or Limits()
    easy = step < EASY_STEPS
    names, shares = list(KINDS_OF_ITEM), np.cumsum(list(KINDS_OF_ITEM.values()))
    trees, patches, images = [], 0, 0
    while patches < size.patches:
        kind = "image" if easy else names[int(np.searchsorted(shares, rng.random() * shares[-1]))]
        tree = make_tree(rng, encoder, kind, limits, size.questions, easy)
        if tree:
            trees.append(tree)
            patches += sum(4 * medium.tokens for _, medium, _ in tree.media)
            images += len(tree.media)
    arrays, layout = pack(trees, size.granule)
    return arrays, {**layout, "images": images, "step": step}
