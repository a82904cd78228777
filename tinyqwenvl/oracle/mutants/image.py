"""Preprocessing of images, and of video frames where both share it: resize, normalise, patchify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ... import compat, image, model, video
from .registry import mutant, variant


def for_images_and_videos(**changed: Any) -> dict[str, Any]:
    """Functions of image.py that video.py uses too."""
    found = {f"image.{name}": value for name, value in changed.items()}
    return found | {f"video.{n}": v for n, v in changed.items() if n in vars(video)}


@mutant("TensorRT-Edge-LLM#81; llama.cpp calc_size_preserved_ratio")
def resize_rounds_half_up():
    """smart_resize rounds 2.5 to 3, as C does, not to the even 2."""
    return for_images_and_videos(round=lambda x: math.floor(x + 0.5))


@mutant("llama.cpp calc_size_preserved_ratio: float32 square root")
def smart_resize_in_float32():
    """smart_resize scales by a square root in float32."""
    return {"image.math": variant(math, sqrt=lambda x: np.sqrt(np.float32(x)))}


@mutant("transformers#41955; the class default of transformers")
def class_default_pixel_limit():
    """At most 1,003,520 pixels (the class default) instead of the checkpoint's 12,845,056."""

    def limited(h: int, w: int, factor: int = 28, least: float = 3136, most: float = 12845056):
        return whole(h, w, factor, least, min(most, 1_003_520))

    whole = image.smart_resize
    return {"image.smart_resize": limited}


@mutant("transformers 4.46 to 4.52; qwen_vl_utils 0.0.14")
def long_sides_shrink_to_nothing():
    """smart_resize without the minimum of one merge group per side: a side may become 0."""
    return {"image.smart_resize": compat.smart_resize_qwen_vl_utils}


@mutant("mistral.rs#1881")
def grid_height_and_width_swapped():
    """The grid of an image is (t, w, h)."""

    def preprocess(*args: Any) -> Any:
        pixels, grids = whole(*args)
        return pixels, grids[:, [0, 2, 1]]

    whole = model.preprocess
    return {"model.preprocess": preprocess}


def _pillow(resample: Image.Resampling) -> dict[str, Any]:
    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        return np.asarray(pil_image.resize((width, height), resample))

    return for_images_and_videos(resize=resize)


@mutant("llama.cpp#16842; openvino.genai#3172")
def resize_bilinear():
    """Bilinear instead of bicubic."""
    return _pillow(Image.Resampling.BILINEAR)


@mutant("class of bug; image libraries' defaults")
def resize_lanczos():
    """Lanczos instead of bicubic."""
    return _pillow(Image.Resampling.LANCZOS)


def _four_pixels(corners: bool) -> dict[str, Any]:
    """Bicubic with a = -0.75 and four pixels, corners on ``corners`` or edges on edges."""

    def matrix(new: int, old: int) -> np.ndarray:
        centre = (np.arange(new) + 0.5) * old / new - 0.5
        if corners:
            centre = np.arange(new) * (old - 1) / max(new - 1, 1)
        taps = np.floor(centre).astype(int)[:, None] + np.arange(-1, 3)
        x, a = np.abs(taps - centre[:, None]), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        weights = np.zeros((new, old))
        for tap, weight in zip(
            np.clip(taps, 0, old - 1).T, np.where(x <= 1, near, far).T, strict=True
        ):
            weights[np.arange(new), tap] += weight
        return weights

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        x = np.asarray(pil_image, np.float64)
        x = np.einsum("Hh,hwc->Hwc", matrix(height, x.shape[0]), x)
        x = np.einsum("Ww,hwc->hWc", matrix(width, x.shape[1]), x)
        return np.clip(np.round(x), 0, 255).astype(np.uint8)

    return for_images_and_videos(resize=resize)


@mutant("torch.nn.functional.interpolate without antialias")
def resize_without_antialias():
    """Bicubic with a = -0.75 and a fixed support of four pixels, also when shrinking."""
    return _four_pixels(corners=False)


@mutant("transformers.js 4.3.1")
def resize_corner_aligned():
    """Bicubic without antialias and with aligned corners (``align_corners``)."""
    return _four_pixels(corners=True)


@mutant("hf-processors-rs 0.1.0's torchvision backend; transformers' fast processors")
def resize_in_torchvision():
    """Torchvision's antialiased bicubic, which has 16-bit weights, instead of Pillow's."""

    def matrix(new: int, old: int) -> tuple[np.ndarray, int]:
        scale = old / new
        wide = max(scale, 1.0)
        centre = scale * (np.arange(new)[:, None] + 0.5)
        first = np.maximum((centre - 2 * wide + 0.5).astype(np.int64), 0)
        last = np.minimum((centre + 2 * wide + 0.5).astype(np.int64), old)
        pixels = np.arange(old)
        x, a = np.abs((pixels - centre + 0.5) / wide), -0.5
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        weights = np.where((pixels >= first) & (pixels < last), weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        bits = 0
        while bits < 22 and int(0.5 + weights.max() * (1 << (bits + 1))) < 1 << 15:
            bits += 1
        scaled = weights * (1 << bits)
        return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64), bits

    def along(x: np.ndarray, new: int, axis: int) -> np.ndarray:
        if x.shape[axis] == new:
            return x
        weights, bits = matrix(new, x.shape[axis])
        total = np.tensordot(weights, x.astype(np.int64), axes=(1, axis)) + (1 << (bits - 1))
        return np.moveaxis(np.clip(total >> bits, 0, 255), 0, axis)

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        x = np.asarray(pil_image)
        return along(along(x, width, 1), height, 0).astype(np.uint8)

    return for_images_and_videos(resize=resize)


def _letterbox(centred: bool) -> dict[str, Any]:
    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        scale = min(height / pil_image.height, width / pil_image.width)
        size = max(1, int(pil_image.width * scale)), max(1, int(pil_image.height * scale))
        page = Image.new("RGB", (width, height))
        corner = ((width - size[0]) // 2, (height - size[1]) // 2) if centred else (0, 0)
        page.paste(pil_image.resize(size, Image.Resampling.BICUBIC), corner)
        return np.asarray(page)

    return for_images_and_videos(resize=resize)


@mutant("llama.cpp#24629, #27594")
def resize_letterbox():
    """The aspect ratio is kept and the rest filled with black."""
    return _letterbox(centred=False)


@mutant("llama.cpp in llama-cpp-python 0.3.36")
def resize_letterbox_centred():
    """The aspect ratio is kept, with the image centred between two black bars."""
    return _letterbox(centred=True)


@mutant("a TorchTune transform (docs/training.md)")
def rescale_before_resize():
    """Resized in floating point: never rounded to bytes."""

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        bands = [
            b.convert("F").resize((width, height), Image.Resampling.BICUBIC)
            for b in pil_image.split()
        ]
        return np.stack([np.asarray(band) for band in bands], axis=-1)

    return for_images_and_videos(resize=resize)


@mutant("class of bug; OpenCV reads BGR")
def blue_green_red():
    """Colours in the order blue, green, red."""

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        return whole(pil_image, height, width)[..., ::-1]

    whole = image.resize
    return for_images_and_videos(resize=resize)


def _normalised(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    whole = image.normalise
    return for_images_and_videos(normalise=lambda frames, *_: whole(frames, mean, std))


@mutant("class of bug; image libraries' defaults")
def imagenet_mean_and_std():
    """ImageNet's mean and standard deviation instead of CLIP's."""
    return _normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@mutant("class of bug; SigLIP's and Qwen3-VL's preprocessing")
def half_mean_and_std():
    """Mean and standard deviation 0.5 instead of CLIP's."""
    return _normalised((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@mutant("class of bug; do_rescale and a tensor of bytes")
def pixels_not_rescaled():
    """Bytes are normalised without dividing them by 255."""

    def normalise(frames: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
        return (frames.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(
            std, np.float32
        )

    return for_images_and_videos(normalise=normalise)


@mutant("class of bug; do_normalize left out")
def pixels_not_normalised():
    """Bytes are divided by 255 but not normalised."""
    return _normalised((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@mutant("class of bug; a still image given as one frame of two")
def second_frame_of_an_image_empty():
    """The second frame of a still image is zeros, not a copy of the image."""

    def patchify(frames: Any, *sizes: Any) -> Any:
        if len(frames) % 2:
            frames = np.concatenate([frames, np.zeros_like(frames[:1])])
        return whole(frames, *sizes)

    whole = image.patchify
    return for_images_and_videos(patchify=patchify)


def _patches(rows: str | None = None, numbers: str | None = None) -> dict[str, Any]:
    """Patchify with patches, or the values of a patch, in another order of the nine axes."""

    def patchify(frames, patch=14, merge=2, temporal=2):
        patches, (t, h, w) = whole(frames, patch, merge, temporal)
        nine = patches.reshape(t, h // merge, w // merge, merge, merge, -1, temporal, patch, patch)
        axes = "tijabcfyx"
        nine = np.transpose(
            nine, [axes.index(a) for a in (rows or axes[:5]) + (numbers or axes[5:])]
        )
        return nine.reshape(patches.shape), (t, h, w)

    whole = image.patchify
    return for_images_and_videos(patchify=patchify)


@mutant("class of bug; other vision transformers' order")
def patches_in_raster_order():
    """Patches in raster order: the four of a merge group are not adjacent."""
    return _patches(rows="tiajb")


@mutant("class of bug; channel-last runtimes")
def patch_channels_last():
    """The values of a patch are ordered frame, row, column, channel."""
    return _patches(numbers="fyxc")


@mutant("class of bug; the axes of a video are frame, channel")
def patch_frame_before_channel():
    """The values of a patch are ordered frame, channel, row, column."""
    return _patches(numbers="fcyx")
