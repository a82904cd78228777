"""Pairs of images and videos: changes are what they say, times and moves too."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
from drawn_world import LIMITS, clips, pairs

from scripts.train_scenes import drawing, world
from scripts.train_scenes.scene import TRAINING, generator


def test_changes_are_what_they_say():
    numbers = Counter(len(pair.changes) for pair in pairs())
    assert min(numbers[n] for n in (0, 1, 2)) >= 30
    kinds = Counter(change.what for pair in pairs() for change in pair.changes)
    assert min(kinds[what] for what in world.CHANGES) >= 12
    moves = []
    for pair in pairs():
        same_size = (pair.before.width, pair.before.height) == (pair.after.width, pair.after.height)
        names = [s.name for s in pair.before.shapes]
        assert len(set(names)) == len(names)
        left = [s.name for s in pair.before.shapes if s not in {c.before for c in pair.changes}]
        kept = [s.name for s in pair.after.shapes if s not in {c.after for c in pair.changes}]
        assert sorted(left) == sorted(kept)
        for change in pair.changes:
            before, after, what = change.before, change.after, change.what
            assert (before in pair.before.shapes) == (what != "added")
            assert (after in pair.after.shapes) == (what != "removed")
            if what == "coloured":
                assert before.kind == after.kind and before.colour != after.colour
            if what == "kind":
                assert before.kind != after.kind and before.colour == after.colour
            if what == "moved":
                assert same_size and replace(before, box=after.box) == after
                moves.append(math.dist(before.centre, after.centre))
                assert moves[-1] >= 12
            if what == "resized":
                assert same_size and before.name == after.name
                ratio = after.size / before.size
                assert max(ratio, 1 / ratio) >= 1.2
                assert math.dist(before.centre, after.centre) <= 3
    assert min(moves) < 20
    sizes = [(p.before.width, p.before.height) != (p.after.width, p.after.height) for p in pairs()]
    assert 0.02 <= np.mean(sizes) <= 0.3


def test_what_did_not_change_looks_the_same():
    """Without damage, pixels outside the changed boxes are equal."""
    checked = 0
    for i, pair in enumerate(pairs()[:150]):
        if (pair.before.width, pair.before.height) != (pair.after.width, pair.after.height):
            continue
        contents = [pair.before, pair.after]
        first, second = drawing.draw(generator(5, TRAINING, i), contents, damage=False)
        for change in pair.changes:
            for shape in (change.before, change.after):
                if shape:
                    x1, y1, x2, y2 = shape.box
                    area = slice(max(0, y1 - 5), y2 + 5), slice(max(0, x1 - 5), x2 + 5)
                    first[area] = second[area] = 0
        np.testing.assert_array_equal(first, second)
        checked += 1
    assert checked >= 100


def test_clips():
    lengths, uneven, directions = set(), 0, Counter()
    for clip in clips():
        assert len(clip.frames) == len(clip.times)
        assert LIMITS.least_frames <= len(clip.frames) <= LIMITS.most_frames
        assert clip.times[0] == 0 and clip.times[-1] <= LIMITS.seconds
        assert all(a < b for a, b in pairwise(clip.times))
        lengths.add(len(clip.frames))
        steps = np.diff(clip.times)
        uneven += np.ptp(steps) > 0.02
        for name, seconds in clip.appears.items():
            seen = [any(s.name == name for s in frame.shapes) for frame in clip.frames]
            first = seen.index(True)
            assert first > 0 and all(seen[first:]) and clip.times[first] == seconds
        for name, direction in clip.moves.items():
            path = [next(s.box for s in f.shapes if s.name == name) for f in clip.frames]
            axis = 0 if direction in ("left", "right") else 1
            sign = 1 if direction in ("right", "down") else -1
            way = np.diff([box[axis] for box in path]) * sign
            assert way.min() >= 0 and way.sum() >= 4
            assert np.ptp([box[1 - axis] for box in path]) == 0
            directions[direction] += 1
    assert {2, 32} <= lengths and len(lengths) >= 20
    assert 0.04 <= uneven / len(clips()) <= 0.3
    assert len(directions) == 4
