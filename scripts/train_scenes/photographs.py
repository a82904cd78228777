"""Photographs for refusals, from the files that scikit-image, scikit-learn and matplotlib ship.

Nothing is downloaded.  Files are split into training and held-out ones; every use is a random
crop, flipped and changed in colour.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

TRAINING_FILES = (
    ("skimage.data", "astronaut.png"), ("skimage.data", "brick.png"),
    ("skimage.data", "camera.png"), ("skimage.data", "coffee.png"),
    ("skimage.data", "grass.png"), ("skimage.data", "ihc.png"), ("skimage.data", "moon.png"),
    ("skimage.data", "motorcycle_left.png"), ("skimage.data", "rocket.jpg"),
    ("skimage.data", "page.png"), ("sklearn.datasets.images", "china.jpg"),
)  # fmt: skip
HELD_OUT_FILES = (  # left out altogether: coins, cells and a retina pass for circles
    ("skimage.data", "chelsea.png"), ("skimage.data", "gravel.png"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)  # fmt: skip
LONGEST = 640  # pixels of the longer side that a file is kept at


@lru_cache(maxsize=64)
def load(package, name):
    """One file of an installed package as an RGB image; the package is not imported."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"photographs need {top}: pip install scikit-image scikit-learn")
    with Image.open(Path(spec.submodule_search_locations[0], *rest, name)) as image:
        image.draft("RGB", (LONGEST, LONGEST))
        image = image.convert("RGB")
    image.thumbnail((LONGEST, LONGEST))
    return image


def _part(rng, image, width, height):
    """A random part of an image, resized."""
    share = rng.uniform(0.35, 1.0)
    reach = min(image.width / width, image.height / height) * share
    w, h = max(8.0, reach * width), max(8.0, reach * height)
    w, h = min(w, image.width), min(h, image.height)
    x, y = rng.random(2) * (image.width - w, image.height - h)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))


def _telling_part(rng, files, width, height):
    """A random part of a random file that shows something."""
    image = load(*files[rng.integers(len(files))])
    for _ in range(6):  # a part of the sky alone would pass for a blank page
        part = _part(rng, image, width, height)
        if np.asarray(part.convert("L").resize((16, 16))).std() > 18:
            break
    return part


def photograph(rng, width, height, held_out=False):
    """A random part of a photograph as an RGB image of width x height pixels."""
    files = HELD_OUT_FILES if held_out else TRAINING_FILES
    image = _telling_part(rng, files, width, height)
    if rng.random() < 0.2:  # two exposures
        image = Image.blend(image, _telling_part(rng, files, width, height), rng.uniform(0.2, 0.5))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.15:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    pixels = np.asarray(image, dtype=np.float32)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.2:
        pixels = pixels.mean(-1, keepdims=True) * np.ones(3, dtype=np.float32)
    gains = rng.normal(1, 0.12, 3).astype(np.float32)
    contrast, light = np.float32(rng.uniform(0.6, 1.3)), np.float32(128 + rng.normal(0, 18))
    pixels = (pixels - 128) * contrast + light
    return Image.fromarray(np.clip(pixels * gains, 0, 255).astype(np.uint8))


def noise(rng, width, height):
    """Noise as an RGB image: white, coarse, in streaks, of few colours, smooth blobs or clouds."""
    family = rng.integers(6)
    cell = 1 if family == 0 else int(rng.integers(2, 9))
    w, h = max(2, -(-width // cell)), max(2, -(-height // cell))
    channels = 1 if rng.random() < 0.3 else 3
    if family == 5:
        return _clouds(rng, width, height, channels)
    if family == 2:
        values = rng.normal(0, 1, (h, 1, channels)) + 0.3 * rng.normal(0, 1, (h, w, channels))
        values = values.transpose(1, 0, 2) if w == h and rng.random() < 0.5 else values
    elif family == 3:
        values = 2.0 * (rng.random((h, w, channels)) < rng.uniform(0.3, 0.7)) - 1
    else:
        values = rng.normal(0, 1, (h, w, channels))
    pixels = rng.uniform(90, 165) + rng.uniform(35, 80) * values * np.ones(3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    smooth = Image.Resampling.NEAREST if family in (1, 3) else Image.Resampling.BICUBIC
    return image.resize((width, height), smooth)


def _clouds(rng, width, height, channels):
    """Noise of every scale, rough as clouds, stone or leaves are."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    fade = rng.uniform(0.55, 0.95)
    for octave in range(5):
        side = 4 << octave
        size = max(2, width * side // 64), max(2, height * side // 64)
        values = rng.normal(0, 1, (size[1], size[0], channels)) * np.ones(3)
        image = Image.fromarray(np.clip(128 + 45 * values, 0, 255).astype(np.uint8))
        layer = image.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer, dtype=np.float32) - 128) * fade**octave
    pixels = rng.uniform(90, 165, 3) + total * rng.uniform(0.8, 1.6) / (1 + fade + fade**2) ** 0.5
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
