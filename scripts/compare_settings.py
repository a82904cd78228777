"""Compare random settings of images and videos with transformers.

Part of scripts.compare_with_transformers; needs no weights. Each draw puts a random subset of the
settings, usual and odd, into the files where they may stand, and reads two random images. Pixels
and grids must be bit-equal, or both must refuse. Where only we refuse, it must be for one of the
``REFUSED`` reasons, which docs/differences.md lists. Where torchvision is installed the grids of a
video are compared as well (without it transformers has no video processor).
"""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from scripts.random_checkpoint import random_image, tiny_config
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD, Config, load_config
from tinyqwenvl.errors import UserError
from tinyqwenvl.image import preprocess
from tinyqwenvl.processor_settings import IMAGE_FILE, NESTED, VIDEO_FILE
from tinyqwenvl.video import read_video

REFUSED = re.compile(  # by us alone
    r"(do_(resize|rescale|normalize|convert_rgb)|resample|rescale_factor) of the"
    r"|(patch_size|merge_size|temporal_patch_size) of the|allow no size"
    r"|has no video_processor|videos and images have different image_"
)
ODD = 0.35  # of the draws have values that are not usual
FRAMES = np.stack([random_image(7 + i, 300, 420) for i in range(5)])
VIDEOS = importlib.util.find_spec("torchvision") is not None


def draw_settings(rng: np.random.Generator, medium: str) -> dict[str, Any]:
    """A random subset of the keys of one processor; some values are odd."""
    odd = rng.random() < ODD

    def maybe(share: float) -> bool:
        return bool(rng.random() < share)

    def pick(usual: Any, *unusual: Any) -> Any:
        """The first of them; of an odd draw any."""
        return unusual[int(rng.integers(len(unusual)))] if odd and maybe(0.6) else usual

    least, most = int(rng.integers(784, 40_000)), int(rng.integers(40_000, 400_000))
    settings: dict[str, Any] = {}
    if maybe(0.5):
        name = {"image": "Qwen2VLImageProcessor", "video": "Qwen2VLVideoProcessor"}[medium]
        fast = "Fast" * (medium == "image" and maybe(0.3))
        settings[f"{medium}_processor_type"] = name + fast
    for key, value in (("min_pixels", least), ("max_pixels", most)):
        if maybe(0.4):
            settings[key] = pick(value, None)
    if maybe(0.5):
        other = int(least * 0.7), int(most * 1.3)
        edges = {"shortest_edge": other[0], "longest_edge": other[1]}
        settings["size"] = pick(
            edges, None, {}, {"shortest_edge": other[0]}, {"longest_edge": other[1]},
            {"min_pixels": other[0], "max_pixels": other[1]}, {"height": 56, "width": 56},
            {**edges, "min_pixels": 5000}, other[1],
        )  # fmt: skip
    for key, value in (("patch_size", 14), ("merge_size", 2), ("temporal_patch_size", 2)):
        if maybe(0.4):
            settings[key] = pick(value, value, value, value, 1, 3)
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if maybe(0.3):
            settings[key] = pick(True, True, True, False, None)
    if maybe(0.3):
        settings["resample"] = pick(3, 3, 2)
    if maybe(0.3):
        settings["rescale_factor"] = pick(1 / 255, 0.003921569, 1 / 127.5)
    for key, clip in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
        if maybe(0.3):
            settings[key] = pick(list(clip), [0.5, 0.4, 0.3], 0.5)
    return settings


def draw_files(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """File name -> content: settings in one place, in several, or in none."""
    files: dict[str, dict[str, Any]] = {}
    if rng.random() < 0.8:
        files[IMAGE_FILE] = draw_settings(rng, "image")
    if rng.random() < 0.3:
        files[VIDEO_FILE] = draw_settings(rng, "video")
    if rng.random() < 0.5:
        nested: dict[str, Any] = {"processor_class": "Qwen2_5_VLProcessor"}
        for medium in ("image", "video"):
            if rng.random() < 0.6:
                empty = rng.random() < 0.1
                nested[f"{medium}_processor"] = None if empty else draw_settings(rng, medium)
        files[NESTED] = nested
    return files


Result = tuple[np.ndarray, np.ndarray]


def theirs_of(directory: Path, images: list[Image.Image]) -> Result | Exception:
    """What transformers' PIL processor makes of images, or why it makes nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor = transformers.AutoImageProcessor.from_pretrained(directory, backend="pil")
            batch = processor(images=images, return_tensors="np")
        return batch["pixel_values"], batch["image_grid_thw"]
    except Exception as error:  # whatever it raises is a refusal
        return error


def ours_of(directory: Path, images: list[Image.Image]) -> tuple[Config, Result] | UserError:
    """What we make of the same."""
    try:
        config = load_config(directory)
        limits = config.processor.limits(None, None)
        pixels = preprocess([(i, *limits) for i in images], config.processor, config.vision)
        return config, pixels
    except UserError as error:
        return error


def same_video(directory: Path, config: Config | None) -> str:
    """What differs where transformers and our policy hf give a video another grid, or "".

    Without a ``config``: "" where transformers reads the video at all.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor = transformers.AutoVideoProcessor.from_pretrained(directory)
            batch = processor(videos=[FRAMES], do_sample_frames=False, return_tensors="pt")
        theirs = batch["video_grid_thw"][0].tolist()
    except Exception as error:
        return f"a video: only transformers refuses ({type(error).__name__})"
    if config is None:
        return ""
    try:
        ours = list(read_video(FRAMES, config, policy="hf").grid)
    except UserError as error:
        return "" if REFUSED.search(str(error)) else f"a video: only we refuse: {error}"
    return "" if ours == theirs else f"a video: {ours} here, {theirs} there"


def compare_settings(rng: np.random.Generator, directory: Path) -> tuple[str, str]:
    """One draw -> (its outcome in a word, what differs or "")."""
    files = draw_files(rng)
    (directory / "config.json").write_text(json.dumps(tiny_config("qwen2_5_vl")))
    for name in (IMAGE_FILE, VIDEO_FILE, NESTED):
        (directory / name).unlink(missing_ok=True)
        if name in files:
            (directory / name).write_text(json.dumps(files[name]))
    seeds = rng.integers(2**31, size=2)
    images = [Image.fromarray(random_image(int(s), *rng.integers(30, 500, 2))) for s in seeds]
    theirs, ours = theirs_of(directory, images), ours_of(directory, images)
    if isinstance(ours, UserError) and "video settings" in str(ours):
        refused = same_video(directory, None) if VIDEOS else "not compared"
        known = refused or REFUSED.search(str(ours))
        return "video settings refused", "" if known else f"only we refuse: {ours}"
    if isinstance(ours, UserError):
        known = isinstance(theirs, Exception) or REFUSED.search(str(ours))
        why = "both refuse" if isinstance(theirs, Exception) else "refused here alone"
        return why, "" if known else f"only we refuse: {ours}; {json.dumps(files)}"
    if isinstance(theirs, Exception):
        return "only transformers refuses", f"{theirs!r:.200}; {json.dumps(files)}"
    config, (pixels, grids) = ours
    if not (np.array_equal(pixels, theirs[0]) and np.array_equal(grids, theirs[1])):
        return "differs", f"{grids.tolist()} here, {theirs[1].tolist()} there; {json.dumps(files)}"
    if VIDEOS and (differs := same_video(directory, config)):
        return "differs", f"{differs}; {json.dumps(files)}"
    return "equal", ""


def compare_all_settings(seed: int, draws: int, directory: Path) -> int:
    """``draws`` random draws, a line for each that differs and one in all; how many differ."""
    transformers.utils.logging.set_verbosity_error()
    outcomes: Counter[str] = Counter()
    failed = 0
    for draw in range(draws):
        outcome, differs = compare_settings(np.random.default_rng([seed, 17, draw]), directory)
        outcomes[outcome] += 1
        if differs:
            failed += 1
            print(f"settings {draw}: NOT EQUAL: {differs}", flush=True)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    videos = "and of a video" if VIDEOS else "(videos not compared: there is no torchvision)"
    print(f"{draws} random settings of images {videos}: {told}", flush=True)
    return failed
