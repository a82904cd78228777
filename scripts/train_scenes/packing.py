"""Conversations as trees of tokens, and steps of many of them as packed arrays.

An image costs most, so many questions share it.  One tree holds

    [system prompt, first images] [question, answer] [question, answer, question, answer] ...

where every bracket after the first is a branch: it continues the first, the trunk, and attends to
no other branch, exactly as if it were asked alone.  Later turns of a branch may bring images.
"""

from typing import NamedTuple

import numpy as np

MERGE, PATCH, TOKENS_PER_SECOND = 2, 14, 2
NO_TOKEN = -1
SYSTEM = "system\nYou are a helpful assistant."


class Medium(NamedTuple):
    """An image or a video in patches.

    patches: uint8 [t*h*w, 588] of an image, whose one frame counts twice, or [t*h*w, 1176];
    grid: (t, h, w) in patches; seconds: that one frame pair lasts; labels: of `hints`, or None.
    """

    patches: np.ndarray
    grid: tuple[int, int, int]
    seconds: float = 1.0
    labels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def tokens(self):
        """The number of its pad tokens."""
        return self.grid[0] * self.grid[1] * self.grid[2] // MERGE**2

    @property
    def is_video(self):
        """Whether its patches hold two frames."""
        return self.patches.shape[1] == 2 * 3 * PATCH**2


def image_medium(image, labels=None):
    """A uint8 image [H, W, 3] in patches."""
    height, width, _ = image.shape
    h, w = height // PATCH, width // PATCH
    x = image.reshape(h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    patches = x.transpose(0, 3, 1, 4, 6, 2, 5).reshape(h * w, -1)
    return Medium(patches, (1, h, w), 1.0, labels)


def video_medium(frames, seconds):
    """uint8 frames [F, H, W, 3], F even, in patches; a pair of frames lasts `seconds`."""
    count, height, width, _ = frames.shape
    t, h, w = count // 2, height // PATCH, width // PATCH
    x = frames.reshape(t, 2, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    patches = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * h * w, -1)
    return Medium(patches, (t, h, w), seconds)


def medium_positions(start, medium):
    """mRoPE positions of a medium whose first token stands at `start`, [3, tokens]."""
    t, h, w = medium.grid[0], medium.grid[1] // MERGE, medium.grid[2] // MERGE
    passed = np.arange(t, dtype=np.float32) * np.float32(medium.seconds)
    times = (passed * np.float32(TOKENS_PER_SECOND)).astype(np.int64)
    found = np.empty((3, t, h, w), np.int64)
    found[0], found[1] = times[:, None, None], np.arange(h)[:, None]
    found[2] = np.arange(w)
    return start + found.reshape(3, -1)


class Encoder:
    """Token ids of the pieces of conversations, cached."""

    def __init__(self, tokenizer):
        self.tokenizer, self.cache = tokenizer, {}
        names = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
        special = {name: tokenizer.token_to_id(f"<|{name}|>") for name in names}
        self.special = special
        start, self.end = special["im_start"], special["im_end"]
        line = self.text("\n")
        self.next_turn = [*line, start, *self.text("user\n")]
        self.opening = [start, *self.text(SYSTEM), self.end, *self.next_turn]
        self.reply = [self.end, *line, start, *self.text("assistant\n")]

    def text(self, text):
        """Ids of a text, or of a tuple of ids; the list must not be changed."""
        if isinstance(text, tuple):
            return list(text)
        ids = self.cache.get(text)
        if ids is None:
            if len(self.cache) > 50_000:
                self.cache.clear()
            ids = self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def shown(self, medium):
        """Ids of a medium with its start and end."""
        pad = self.special["video_pad" if medium.is_video else "image_pad"]
        return [self.special["vision_start"], *[pad] * medium.tokens, self.special["vision_end"]]


class Turn(NamedTuple):
    """A user's turn and the answer.

    media: shown in it, before the text; skill: its number; unsaid: texts that the loss does not
    compare the answer with, where they differ first.
    """

    text: str
    answer: str
    skill: int = 0
    media: tuple[Medium, ...] = ()
    unsaid: tuple[str, ...] = ()


class Lesson(NamedTuple):
    """An answer inside a tree: first index, ids, skill, and for each the unsaid id or NO_TOKEN."""

    start: int
    ids: list
    skill: int
    unsaid: list


class Tree:
    """A trunk and its branches: token ids, branch numbers, positions, media and answers."""

    def __init__(self, encoder, media=()):
        self.encoder = encoder
        self.ids, self.runs, self.lessons = [], [], []
        self.media = []  # (index of the first pad token, Medium, its positions)
        self.text_positions = []  # of all tokens; 0 where a medium's own stand
        self.next = 0
        self._say(encoder.opening)
        for medium in media:
            self._show(medium)
        self.trunk, self.after_trunk = len(self.ids), self.next
        self.runs.append(self.trunk)  # lengths of the trunk and of each branch

    def _say(self, ids):
        self.ids += ids
        start = self.next
        self.next += len(ids)
        self.text_positions += range(start, self.next)

    def _show(self, medium):
        start, *pads, end = self.encoder.shown(medium)
        self._say([start])
        positions = medium_positions(self.next, medium)
        self.media.append((len(self.ids), medium, positions))
        self.ids += pads
        self.text_positions += [0] * len(pads)
        self.next = int(positions.max()) + 1
        self._say([end])

    def positions(self):
        """mRoPE positions of all tokens, [3, tokens]."""
        found = np.empty((3, len(self.ids)), np.int32)
        found[:] = self.text_positions
        for index, medium, positions in self.media:
            found[:, index : index + medium.tokens] = positions
        return found

    def length(self, turns):
        """Tokens that a branch would take."""
        e, count = self.encoder, 0
        for index, turn in enumerate(turns):
            count += (len(e.next_turn) if index else 0) + len(e.text(turn.text)) + len(e.reply)
            count += sum(medium.tokens + 2 for medium in turn.media)
            count += len(e.text(turn.answer)) + 1
        return count

    def add(self, turns):
        """A new branch."""
        e, before = self.encoder, len(self.ids)
        self.next = self.after_trunk
        for index, turn in enumerate(turns):
            if index:
                self._say(e.next_turn)
            for medium in turn.media:
                self._show(medium)
            self._say(e.text(turn.text))
            self._say(e.reply)
            reply = [*e.text(turn.answer), e.end]
            self.lessons.append(Lesson(len(self.ids), reply, turn.skill, self._unsaid(turn, reply)))
            self._say(reply)
        self.runs.append(len(self.ids) - before)

    def _unsaid(self, turn, reply):
        """For each token of a reply, the one that an unsaid text would have in its place.

        Not where the two go on alike for a while: the first piece of a longer word is that of
        other words, too.
        """
        tokens = [NO_TOKEN] * len(reply)
        for text in turn.unsaid:
            other = [*self.encoder.text(text), self.encoder.end]
            at = next((i for i, (a, b) in enumerate(zip(reply, other, strict=False)) if a != b), -1)
            if at >= 0:
                tokens[at] = other[at]
        return tokens


# ------------------------------------------------------------------------------------------ steps


def cut(lengths, ratio):
    """Groups of like lengths: [(first, last + 1, longest)] over lengths in rising order."""
    groups, first = [], 0
    for index, length in enumerate(lengths):
        if lengths[first] < ratio * length:
            groups.append((first, index, lengths[index - 1]))
            first = index
    return [*groups, (first, len(lengths), lengths[-1])] if len(lengths) else []


def pack_media(media, granule):
    """Frame pairs of equal size side by side.

    Returns arrays and, for each medium, the index of its first vector and the vectors from one
    frame pair to the next.  Each frame pair is padded to a multiple of `granule` patches.
    """
    frames = {False: [], True: []}  # (patches with padding, medium number, temporal patch)
    for number, medium in enumerate(media):
        size = -(-(medium.grid[1] * medium.grid[2]) // granule) * granule
        frames[medium.is_video] += [(size, number, t) for t in range(medium.grid[0])]
    groups, offset, first = [], 0, {}
    places = np.full((sum(f[0] for part in frames.values() for f in part), 2), -1, np.int16)
    pixels = []
    for video, part in frames.items():
        part.sort()
        begin = offset
        packed = np.zeros((sum(f[0] for f in part), 588 * (1 + video)), np.uint8)
        for size, number, t in part:
            medium = media[number]
            count = medium.grid[1] * medium.grid[2]
            at = offset - begin
            packed[at : at + count] = medium.patches[t * count : (t + 1) * count]
            places[offset : offset + count] = patch_places(*medium.grid[1:])
            first.setdefault(number, (offset // MERGE**2, size // MERGE**2))
            if groups and groups[-1][1] == size and offset != begin:
                groups[-1] = (groups[-1][0] + 1, size)
            else:
                groups.append((1, size))
            offset += size
        pixels.append(packed)
    padded = any(m.grid[1] * m.grid[2] % granule for m in media)
    arrays = {"stills": pixels[0], "videos": pixels[1], "places": places}
    return arrays, tuple(groups), padded, first


_places = {}


def patch_places(h, w):
    """(row, column) of every patch of one frame in merge-group order, [h*w, 2]."""
    if (h, w) not in _places:
        both = np.stack(np.mgrid[:h, :w], -1).astype(np.int16)
        both = both.reshape(h // MERGE, MERGE, w // MERGE, MERGE, 2)
        _places[h, w] = both.transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    return _places[h, w]


def pack(trees, granule=4, ratio=0.86, multiple=8):
    """All arrays of a step, and its layout: groups of patches and of tokens.

    An answer of n tokens weighs sqrt(n), so that long boxes do not drown single words.
    """
    trees = sorted(trees, key=lambda tree: len(tree.ids))
    media = [medium for tree in trees for _, medium, _ in tree.media]
    arrays, patch_groups, padded, first = pack_media(media, granule)
    lengths = [len(tree.ids) for tree in trees]
    rows, groups, total = [], [], 0  # rows: (tree, index of its first token)
    for begin, end, longest in cut(lengths, ratio):
        longest = -(-longest // multiple) * multiple
        groups.append((end - begin, longest))
        rows += [(trees[i], total + (i - begin) * longest) for i in range(begin, end)]
        total += (end - begin) * longest
    ids, branch = np.zeros(total, np.int32), np.full(total, -1, np.int16)
    positions = np.zeros((3, total), np.int32)
    slot_at, slot_of, hint_at, labels, cells = [], [], [], [], []
    number = 0
    for tree, start in rows:
        count = len(tree.ids)
        ids[start : start + count] = tree.ids
        branch[start : start + count] = np.repeat(np.arange(len(tree.runs)), tree.runs)
        positions[:, start : start + count] = tree.positions()
        for index, medium, _ in tree.media:
            begin, stride = first[number]
            area = medium.grid[1] * medium.grid[2] // MERGE**2
            of = np.arange(medium.grid[0])[:, None] * stride + np.arange(area) + begin
            slot_of.append(of.ravel())
            slot_at.append(np.arange(start + index, start + index + medium.tokens))
            if medium.labels is not None:
                hint_at.append(slot_of[-1])
                labels.append(medium.labels[0])
                cells.append(medium.labels[1])
            number += 1
    arrays |= {"ids": ids, "branch": branch, "positions": positions}
    arrays["slot_at"], arrays["slot_of"] = (joined(x, np.int32) for x in (slot_at, slot_of))
    if labels:
        arrays["hint_at"], arrays["labels"] = joined(hint_at, np.int32), joined(labels, np.int16)
        arrays["cells"] = joined(cells, np.float32)
        arrays["boxed"] = np.flatnonzero(arrays["labels"][:, 3] >= 0).astype(np.int32)
    arrays |= pack_lessons(rows)
    layout = {"patches": patch_groups, "tokens": tuple(groups), "padded": padded}
    return arrays, layout


def joined(parts, dtype):
    """One array of them all."""
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def pack_lessons(rows):
    """Of every answer token: the index before it, its id, weight, skill and unsaid id."""
    before, targets, weights, skills, unsaid = [], [], [], [], []
    for tree, start in rows:
        for lesson in tree.lessons:
            count = len(lesson.ids)
            before += range(start + lesson.start - 1, start + lesson.start - 1 + count)
            targets += lesson.ids
            weights += [count**-0.5] * count
            skills += [lesson.skill] * count
            unsaid += lesson.unsaid
    return {
        "before": np.array(before, np.int32), "targets": np.array(targets, np.int32),
        "weights": np.array(weights, np.float32), "skills": np.array(skills, np.int16),
        "unsaid": np.array(unsaid, np.int32),
    }  # fmt: skip
