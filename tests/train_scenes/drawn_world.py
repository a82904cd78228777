"""Contents of the drawn world that several tests read, made once."""

from functools import lru_cache

from scripts.train_scenes import world
from scripts.train_scenes.scene import TRAINING, Limits, Scene, generator

LIMITS = Limits()


@lru_cache(maxsize=1)
def images():
    """2,000 contents of the mixture."""
    return [world.make_image(generator(11, TRAINING, i)) for i in range(2000)]


def scenes():
    return [c for c in images() if isinstance(c, Scene)]


@lru_cache(maxsize=1)
def pairs():
    return [world.make_pair(generator(12, TRAINING, i)) for i in range(300)]


@lru_cache(maxsize=1)
def clips():
    return [world.make_clip(generator(13, TRAINING, i)) for i in range(160)]


def every_scene():
    """All scenes of images, pairs and clips."""
    yield from scenes()
    for pair in pairs():
        yield from (pair.before, pair.after)
    for clip in clips():
        yield from clip.frames
