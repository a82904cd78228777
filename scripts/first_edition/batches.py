"""Training batches: images of one size with several separate questions each.

An image costs most, so each is shared by many questions.  One row holds

    [system prompt, image] [question, answer] [question, answer] ...

where every bracket after the first is a branch: it continues the first and sees no other branch,
exactly as if it were asked alone.  A few branches hold two turns.
"""

import multiprocessing
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from scripts.first_edition import questions, scenes, words
from scripts.first_edition.hints import cell_labels
from scripts.first_edition.network import vision_text_positions
from scripts.first_edition.scenes import TRAINING, generator

BUDGET = 128  # tokens for questions and answers in a row
WEIGHTS = {  # how often each skill is drawn to fill a row
    "locate": 2.0, "locate_all": 0.7, "point": 1.5, "count": 2.0, "colour": 1.0, "shape": 1.0,
    "relation": 3.0, "yes_no": 2.4, "absent": 0.8,
}  # fmt: skip
EASY_STEPS = 240
FIRST_HARD_STEP = 800  # clips, pairs of images and words come after single scenes
UNNAMED_SHARE = 0.5  # of the scenes: some colours and kinds have no name
PART_SHARE = 0.2  # of the questions about other scenes: by colour or by kind alone
MERGE, TOKENS_PER_SECOND = 2, 2


NO_TOKEN, NO_SKILL = -1, -1


class Branch(NamedTuple):
    """A question and its answer, or two turns of them: a number for each token.

    weights: of the token in the loss, 0 where the model does not speak; unsaid: a token that the
    loss does not compare this one with (`questions.unsaid`), or NO_TOKEN.
    """

    ids: list
    weights: list
    skills: list
    unsaid: list
    turns: int = 1

    def then(self, other):
        """The same and another turn."""
        joined = [mine + more for mine, more in zip(self[:4], other[:4], strict=True)]
        return Branch(*joined, self.turns + other.turns)

    @classmethod
    def asking(cls, ids):
        """Tokens of which none is learnt from."""
        return cls(ids, [0.0] * len(ids), [NO_SKILL] * len(ids), [NO_TOKEN] * len(ids))


class Encoder:
    """Tokenised pieces of conversations, cached."""

    def __init__(self, tokenizer):
        self.text = lru_cache(maxsize=50_000)(lambda text: tokenizer.encode(text).ids)
        self.special = tokenizer.token_to_id
        first = [self.text(colour.capitalize())[0] for colour in scenes.COLOURS]
        self.ambiguous = {token for token in first if first.count(token) > 1}

    def prefix(self, pad, count, images=1):
        """Everything before the first question: system prompt and images, or one clip."""
        image = [
            self.special("<|vision_start|>"),
            *[self.special(pad)] * count,
            self.special("<|vision_end|>"),
        ]
        return [
            self.special("<|im_start|>"),
            *self.text("system\nYou are a helpful assistant."),
            self.special("<|im_end|>"),
            *self.next_turn(),
            *image * images,
        ]

    def question(self, text):
        """A question up to where the answer begins."""
        return [
            *self.text(text),
            self.special("<|im_end|>"),
            *self.text("\n"),
            self.special("<|im_start|>"),
            *self.text("assistant\n"),
        ]

    def answer(self, text):
        """An answer and its end."""
        return [*self.text(text), self.special("<|im_end|>")]

    def unsaid(self, question, reply):
        """For each token of a reply, the one that `questions.unsaid` would have in its place.

        Not the first piece of a word where another colour begins with it too: P, of Purple, Pink.
        """
        tokens = [NO_TOKEN] * len(reply)
        for text in questions.unsaid(question):
            other = self.answer(text)
            at = next(
                i for i, pair in enumerate(zip(reply, other, strict=False)) if len({*pair}) > 1
            )
            if other[at] not in self.ambiguous:
                tokens[at] = other[at]
        return tokens

    def next_turn(self):
        """What stands between the end of a message and the next question."""
        return [*self.text("\n"), self.special("<|im_start|>"), *self.text("user\n")]


def part_questions(rng, scene):
    """Endless questions by colour or by kind alone: the only ones for shapes without a name."""
    while True:
        question = questions.ask_part(rng, scene)
        if question and not questions.denies(question, scene):
            yield question


def scene_questions(rng, scene):
    """Endless questions about a scene, the most telling skills first."""
    names = list(WEIGHTS)
    shares = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    first = [name for name in ("describe", "locate") if rng.random() < 0.6]
    while True:
        if first:
            ask = questions.ASK[first.pop(0)]
        elif rng.random() < PART_SHARE:
            ask = questions.ask_part
        else:
            ask = questions.ASK[names[rng.choice(len(names), p=shares)]]
        question = ask(rng, scene)
        if question and not questions.denies(question, scene):
            yield question


def pack(rng, encoder, asked, budget=BUDGET):
    """Branches that together fill `budget` tokens.

    An answer of n tokens weighs sqrt(n), so that long boxes do not drown single words.
    """
    branches, used, texts = [], 0, set()
    for question in asked:
        ask, reply = encoder.question(question.text), encoder.answer(question.answer)
        joined = bool(branches) and rng.random() < 0.15 and branches[-1].turns == 1
        if joined:
            ask = encoder.next_turn() + ask
        if used + len(ask) + len(reply) > budget:
            break
        if question.text in texts:
            continue
        texts.add(question.text)
        skills = [questions.SKILLS.index(question.skill)] * len(ask + reply)
        weights = [0.0] * len(ask) + [len(reply) ** -0.5] * len(reply)
        unsaid = [NO_TOKEN] * len(ask) + encoder.unsaid(question, reply)
        branch = Branch(ask + reply, weights, skills, unsaid)
        branches.append(branches.pop().then(branch) if joined else branch)
        used += len(ask + reply)
    return branches


class Row(NamedTuple):
    """One row of a batch: arrays [L]; positions [3, L]."""

    ids: np.ndarray
    branch: np.ndarray  # 0 for what all branches share
    weights: np.ndarray
    skills: np.ndarray
    unsaid: np.ndarray
    positions: np.ndarray


def make_row(encoder, pad, grid, seconds, branches, images=1):
    """The row of a prefix with images, or a clip, and of branches that continue it."""
    t, h, w = grid
    prefix = encoder.prefix(pad, t * h * w // MERGE**2, images)
    start = prefix.index(encoder.special(pad))
    positions = [np.broadcast_to(np.arange(start), (3, start))]
    for image in range(images):
        if image:  # the start-of-vision token
            positions.append(np.full((3, 1), start - 1))
        seen = vision_text_positions(start, grid, seconds, TOKENS_PER_SECOND, MERGE)
        after = int(seen.max()) + 1  # the end-of-vision token, then each branch
        positions += [seen, np.full((3, 1), after)]
        start = after + 2
    parts = [Branch.asking(prefix), *branches]
    numbers = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
    for branch in branches:
        count = len(branch.ids)
        positions.append(np.broadcast_to(after + 1 + np.arange(count), (3, count)))
    ids, weights, skills, unsaid = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return Row(ids, numbers, weights, skills, unsaid, np.hstack(positions))


def stack_rows(rows, pixels, grid):
    """Rows padded on the right to one length (a multiple of 16) as a batch of arrays."""
    length = -(-max(len(row.ids) for row in rows) // 16) * 16

    def padded(name, fill):
        arrays = [getattr(row, name) for row in rows]
        return np.stack([np.pad(a, (0, length - len(a)), constant_values=fill) for a in arrays])

    positions = [np.pad(r.positions, ((0, 0), (0, length - len(r.ids)))) for r in rows]
    return {
        "pixels": np.stack(pixels),  # uint8 [images or clips, frames, H, W, 3]
        "grid": grid,  # (t, h, w) in patches
        "ids": padded("ids", 0),  # [B, L]
        "branch": padded("branch", -1),
        "weights": padded("weights", 0.0).astype(np.float32),
        "skills": padded("skills", NO_SKILL),
        "unsaid": padded("unsaid", NO_TOKEN),
        "positions": np.stack(positions, 1),  # [3, B, L]
    }


def image_batch(rng, encoder, rows, columns, count, most=6, plain=False, unnamed=0.0):
    """`count` images of rows x columns cells with at most `most` shapes.

    A share `unnamed` of them has shapes without a name.
    """
    grid = (1, rows * MERGE, columns * MERGE)
    table, pixels, labels = [], [], []
    for _ in range(count):
        scene, ask = scenes.make_scene(rng, rows, columns, most=most), scene_questions
        if rng.random() < unnamed:
            scene, ask = scenes.with_unnamed(rng, scene), part_questions
        pixels.append(np.asarray(scenes.draw_scene(rng, scene, plain))[None])
        branches = pack(rng, encoder, ask(rng, scene))
        table.append(make_row(encoder, "<|image_pad|>", grid, 1.0, branches))
        labels.append(cell_labels(scene))
    return {**stack_rows(table, pixels, grid), **hints(labels)}


def hints(labels):
    """`cell_labels` of all images, in their order."""
    labels, cells = map(np.concatenate, zip(*labels, strict=True))
    return {"labels": labels, "cells": cells}


def word_batch(rng, encoder, rows, columns, count):
    """`count` images of rows x columns cells with one word each."""
    grid = (1, rows * MERGE, columns * MERGE)
    table, pixels, labels = [], [], []
    for _ in range(count):
        word = words.make_word(rng, rows, columns)
        pixels.append(np.asarray(words.draw_word(rng, word))[None])
        branches = pack(rng, encoder, [questions.ask_read(rng, word) for _ in range(2)])
        table.append(make_row(encoder, "<|image_pad|>", grid, 1.0, branches))
        labels.append(cell_labels(word))
    return {**stack_rows(table, pixels, grid), **hints(labels)}


def change_batch(rng, encoder, rows, columns, count):
    """`count` pairs of images of rows x columns cells, a pair in a row."""
    grid = (1, rows * MERGE, columns * MERGE)
    table, pixels, labels = [], [], []
    for _ in range(count):
        change = scenes.make_change(rng, rows, columns)
        pair = change.before, change.after
        pixels += [np.asarray(p)[None] for p in scenes.draw_frames(rng, pair)]
        branches = pack(rng, encoder, [questions.ask_change(rng, change) for _ in range(2)])
        table.append(make_row(encoder, "<|image_pad|>", grid, 1.0, branches, images=2))
        labels += map(cell_labels, pair)
    return {**stack_rows(table, pixels, grid), **hints(labels)}


def clip_batch(rng, encoder, count, rows=4, columns=4):
    """`count` clips of one length, at mixed frame rates."""
    lengths = sorted({n for options in scenes.CLIP_LENGTHS.values() for n in options})
    length = int(lengths[rng.integers(len(lengths))])
    rates = [fps for fps, options in scenes.CLIP_LENGTHS.items() if length in options]
    grid = (length // 2, rows * MERGE, columns * MERGE)
    table, pixels = [], []
    for _ in range(count):
        fps = rates[rng.integers(len(rates))]
        clip = scenes.make_clip(rng, rows, columns, fps, length)
        pixels.append(np.stack([np.asarray(p) for p in scenes.draw_frames(rng, clip.frames)]))
        branches = pack(rng, encoder, questions.clip_questions(rng, clip))
        table.append(make_row(encoder, "<|video_pad|>", grid, 2 / fps, branches))
    return stack_rows(table, pixels, grid)


def make_step(encoder, seed, step):
    """The batches of one optimiser step: small squares, another size, pairs, and clips or words.

    The first steps are easy: one shape, then two, on plain paper.
    """
    rng = generator(seed, TRAINING, step)
    if step < EASY_STEPS:
        return [image_batch(rng, encoder, 4, 4, 28, 1 if step < EASY_STEPS // 2 else 2, True)]
    rows, columns = scenes.GRIDS[rng.integers(len(scenes.GRIDS))]
    count = int(np.clip(256 // (rows * columns), 3, 12))
    most = int(rng.choice((1, 2, 6), p=(0.2, 0.2, 0.6)))
    batches = [
        image_batch(rng, encoder, 4, 4, 16, most, unnamed=UNNAMED_SHARE),
        image_batch(rng, encoder, rows, columns, count, unnamed=UNNAMED_SHARE),
    ]
    if step < FIRST_HARD_STEP:
        return batches
    two = (4, 4) if rng.random() < 0.4 else questions.pick(rng, scenes.TWO_GRIDS)
    batches.append(change_batch(rng, encoder, *two, 10))
    if step % 2:
        batches.append(clip_batch(rng, encoder, 4))
    else:
        batches.append(word_batch(rng, encoder, 4, 4, 24))
        batches.append(word_batch(rng, encoder, rows, columns, count))
    return batches


def _produce(tokenizer, seed, first, stride, queue):
    encoder = Encoder(tokenizer)
    step = first
    while True:
        queue.put(make_step(encoder, seed, step))
        step += stride


def stream(tokenizer, seed, first, workers=1):
    """Batches of step `first`, `first + 1`, ... made by worker processes."""
    queues = [multiprocessing.Queue(maxsize=4) for _ in range(workers)]
    for index, queue in enumerate(queues):
        arguments = (tokenizer, seed, first + index, workers, queue)
        multiprocessing.Process(target=_produce, args=arguments, daemon=True).start()
    while True:
        for queue in queues:
            yield queue.get()
