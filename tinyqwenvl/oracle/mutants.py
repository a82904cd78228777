"""Named mutants: the mistakes that ports really make, each as a patch of our functions.

``apply("vision_no_rope")`` makes the model wrong in just that way while a ``with`` block runs. They
name the fault in a port (``explain``), and prove that the vectors would catch it (``selftest``).
A mutant's ``report`` is where the mistake was seen; "class of mistake" where no public report is
known to us. (transformers#N and the like are issues or pull requests on GitHub.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from .. import chat, compat, config, decoder, image, model, nn, position, sampling, video, vision
from ..errors import UserError
from ..position import rope_index
from ..tracing import stage
from ..weights import Weights
from .precision import to_bf16, to_float16

MODULES = {
    m.__name__.rpartition(".")[2]: m
    for m in (chat, config, decoder, image, model, nn, position, sampling, video, vision)
}


@dataclass(frozen=True)
class Mutant:
    """A mistake: ``make()`` gives {"module.name": what stands there instead}."""

    name: str
    what: str  # one line
    report: str
    make: Callable[[], dict[str, Any]]


MUTANTS: dict[str, Mutant] = {}
RENAMED = {  # names of version 0.1
    "pictures_before_text": "images_before_text",
    "windows_across_pictures": "windows_across_images",
}


def mutant(report: str) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Register a function under its name; its docstring says what is wrong."""

    def register(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        what = " ".join((make.__doc__ or "").split()).rstrip(".")
        MUTANTS[make.__name__] = Mutant(make.__name__, what, report, make)
        return make

    return register


@contextmanager
def apply(name: str | None) -> Iterator[None]:
    """The mistake called ``name``, while the block runs; None for none at all."""
    if name is None:
        yield
        return
    name = RENAMED.get(name, name)
    if name not in MUTANTS:
        raise UserError(f"no mutant is called {name}; known are {', '.join(MUTANTS)}")
    nothing = object()
    before: list[tuple[Any, str, Any]] = []
    try:
        for path, value in MUTANTS[name].make().items():
            module, _, attribute = path.partition(".")
            holder = MODULES[module]
            before.append((holder, attribute, vars(holder).get(attribute, nothing)))
            setattr(holder, attribute, value)
        yield
    finally:
        for holder, attribute, value in reversed(before):
            if value is nothing:
                delattr(holder, attribute)
            else:
                setattr(holder, attribute, value)


def variant(module: Any, **changed: Any) -> Any:
    """A module with some functions changed, for one of those that use it."""
    return SimpleNamespace(**{**vars(module), **changed})


def for_images_and_videos(**changed: Any) -> dict[str, Any]:
    """Functions of image.py, where video.py has them too."""
    found = {f"image.{name}": value for name, value in changed.items()}
    return found | {f"video.{n}": v for n, v in changed.items() if n in vars(video)}


# ------------------------------------------------------------------ prompt


@mutant("lmdeploy#3475; llama-cpp-python#2040")
def wrong_system_prompt():
    """Qwen2.5's system prompt in the place of "You are a helpful assistant."."""
    prompt = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    return {"chat.SYSTEM_PROMPT": prompt}


@mutant("vllm#15125; mlx-swift-lm#242")
def images_before_text():
    """All images of a message are put before its text, whatever their order."""

    def content_items(message: dict[str, Any]) -> list[dict[str, Any]]:
        return sorted(items(message), key=lambda item: chat.media_kind(item) == "text")

    items = chat.content_items
    return {"chat.content_items": content_items}


@mutant("class of mistake; ports that render the template by hand")
def no_vision_markers():
    """Placeholders without <|vision_start|> and <|vision_end|> around them."""

    def render(*args: Any, **kwargs: Any) -> list[str]:
        markers = (chat.VISION_START, chat.VISION_END)
        return [p for p in whole(*args, **kwargs) if p not in markers]

    whole = chat.render
    return {"chat.render": render}


@mutant("transformers 4.57 get_num_of_video_patches; class of mistake")
def placeholders_not_merged():
    """A placeholder for every patch, not for every 2x2 block of patches."""

    def expand(pieces: Sequence[str], placeholder: Any, counts: Sequence[int]) -> list[str]:
        return whole(pieces, placeholder, [4 * count for count in counts])

    whole = chat.expand
    return {"chat.expand": expand}


# ------------------------------------------------------------------ pixels


@mutant("TensorRT-Edge-LLM#81; llama.cpp calc_size_preserved_ratio")
def resize_rounds_half_up():
    """smart_resize rounds 2.5 to 3, as C does, not to the even 2."""
    return for_images_and_videos(round=lambda x: math.floor(x + 0.5))


@mutant("transformers#41955; the class default of transformers")
def class_default_pixel_limit():
    """At most 1,003,520 pixels, the class default, where the checkpoint says 12,845,056."""

    def limited(h: int, w: int, factor: int = 28, least: float = 3136, most: float = 12845056):
        return whole(h, w, factor, least, min(most, 1_003_520))

    whole = image.smart_resize
    return {"image.smart_resize": limited}


@mutant("transformers 4.46 to 4.52; qwen_vl_utils 0.0.14")
def long_sides_shrink_to_nothing():
    """smart_resize without the lower bound of one block: a side may become 0."""
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
    """Bilinear in the place of bicubic."""
    return _pillow(Image.Resampling.BILINEAR)


@mutant("class of mistake; image libraries' defaults")
def resize_lanczos():
    """Lanczos in the place of bicubic."""
    return _pillow(Image.Resampling.LANCZOS)


@mutant("torch.nn.functional.interpolate without antialias")
def resize_without_antialias():
    """Bicubic with a = -0.75 and a fixed support of four pixels, also when shrinking."""

    def matrix(new: int, old: int) -> np.ndarray:
        centre = (np.arange(new) + 0.5) * old / new - 0.5
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


@mutant("llama.cpp#24629, #27594")
def resize_letterbox():
    """The aspect ratio is kept and the rest filled with black."""

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        scale = min(height / pil_image.height, width / pil_image.width)
        size = max(1, int(pil_image.width * scale)), max(1, int(pil_image.height * scale))
        page = Image.new("RGB", (width, height))
        page.paste(pil_image.resize(size, Image.Resampling.BICUBIC))
        return np.asarray(page)

    return for_images_and_videos(resize=resize)


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


@mutant("class of mistake; OpenCV reads BGR")
def blue_green_red():
    """Colours in the order blue, green, red."""

    def resize(pil_image: Image.Image, height: int, width: int) -> np.ndarray:
        return whole(pil_image, height, width)[..., ::-1]

    whole = image.resize
    return for_images_and_videos(resize=resize)


def _normalised(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    whole = image.normalise
    return for_images_and_videos(normalise=lambda frames, *_: whole(frames, mean, std))


@mutant("class of mistake; image libraries' defaults")
def imagenet_mean_and_std():
    """ImageNet's mean and standard deviation in the place of CLIP's."""
    return _normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@mutant("class of mistake; SigLIP's and Qwen3-VL's preprocessing")
def half_mean_and_std():
    """Mean and standard deviation 0.5 in the place of CLIP's."""
    return _normalised((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _patches(rows: str | None = None, numbers: str | None = None) -> dict[str, Any]:
    """Patchify with rows or the numbers of a row in another order of the nine axes."""

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


@mutant("class of mistake; other vision transformers' order")
def patches_in_raster_order():
    """Patches row by row; the four of a 2x2 block are not neighbours."""
    return _patches(rows="tiajb")


@mutant("class of mistake; channel-last runtimes")
def patch_channels_last():
    """The numbers of a patch are ordered frame, row, column, channel."""
    return _patches(numbers="fyxc")


@mutant("class of mistake; the axes of a video are frame, channel")
def patch_frame_before_channel():
    """The numbers of a patch are ordered frame, channel, row, column."""
    return _patches(numbers="fcyx")


# ------------------------------------------------------------------ vision: geometry


@mutant("candle#2995; mlx-node#80")
def first_temporal_slice_only():
    """The patch embedding uses the first of its kernel's two frames."""

    @stage
    def embed_patches(pixel_values: Any, patch_embed: Weights) -> Any:
        kernel = np.array(patch_embed.proj.weight)
        kernel[:, :, 1:] = 0
        return pixel_values @ np.transpose(kernel.reshape(len(kernel), -1))

    return {"vision.embed_patches": embed_patches}


@mutant("class of mistake; correlation does not see it at small weights")
def vision_no_rope():
    """No rotary embedding in the vision encoder."""
    return {"vision.nn": variant(nn, rotate=lambda x, cos, sin: x)}


@mutant("class of mistake; correlation does not see it at small weights")
def vision_rope_not_permuted():
    """Patches are put in window order, their rotary angles are not."""

    def rotary_angles(grid_thw: Any, settings: Any, dtype: Any = np.float32) -> Any:
        index, _ = vision.window_index(grid_thw, settings)
        return vision.reorder_groups(whole(grid_thw, settings, dtype), np.argsort(index))

    whole = vision.rotary_angles
    return {"vision.rotary_angles": rotary_angles}


def rotate_neighbours(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding that pairs x[2i] with x[2i + 1] (GPT-J), not x[i] with x[i + d/2]."""
    half = cos.shape[-1] // 2
    cos, sin = np.repeat(cos[..., :half], 2, axis=-1), np.repeat(sin[..., :half], 2, axis=-1)
    turned = np.reshape(np.stack([-x[..., 1::2], x[..., ::2]], axis=-1), x.shape)
    return x * cos + turned * sin


@mutant("class of mistake; GPT-J's pairing")
def vision_rope_interleaved():
    """Neighbouring numbers are turned together in the vision encoder."""
    return {"vision.nn": variant(nn, rotate=rotate_neighbours)}


@mutant("class of mistake")
def vision_rope_height_and_width_swapped():
    """Column first, then row."""
    whole = vision.patch_positions
    return {"vision.patch_positions": lambda *args: whole(*args)[:, ::-1]}


@mutant("class of mistake; other vision transformers' order")
def vision_rope_in_raster_order():
    """(row, column) in raster order on patches that are in merge order."""

    def patch_positions(grid_thw: Any, merge: int) -> Any:
        frames = [
            np.tile(np.indices((h, w)).reshape(2, -1).T, (t, 1)) for t, h, w in grid_thw.tolist()
        ]
        return np.concatenate(frames)

    return {"vision.patch_positions": patch_positions}


@mutant("divergences of runtimes that keep tables in half precision")
def vision_rope_in_bfloat16():
    """Rotary angles rounded to bfloat16."""
    whole = vision.rotary_angles
    return {"vision.rotary_angles": lambda *args: to_bf16(whole(*args))}


def _encoder_with(settings: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """The vision encoder with other vision settings."""

    def vision_encoder(pixels: Any, grid_thw: Any, visual: Any, whole: Any, *rest: Any) -> Any:
        changed = replace(whole, vision=replace(whole.vision, **settings(whole)))
        return original(pixels, grid_thw, visual, changed, *rest)

    original = vision.vision_encoder
    return {"vision.vision_encoder": vision_encoder}


@mutant("llama.cpp#12402; ollama#16868")
def window_mask_missing():
    """Every block looks at the whole frame."""
    return _encoder_with(lambda c: {"fullatt_block_indexes": tuple(range(c.vision.depth))})


@mutant("cosmos-rl#171: the layer's number compared as text")
def full_attention_missing():
    """Every block looks within windows."""

    def settings(c: Any) -> dict[str, Any]:
        blocks = c.vision.fullatt_block_indexes
        return {"fullatt_block_indexes": () if c.model_type == "qwen2_5_vl" else blocks}

    return _encoder_with(settings)


@mutant("vllm#15122, #15200")
def windows_and_full_swapped():
    """Blocks that should look at the whole frame look within windows, and the other way round."""

    def settings(c: Any) -> dict[str, Any]:
        full = set(range(c.vision.depth)) - set(c.vision.fullatt_block_indexes)
        old = c.vision.fullatt_block_indexes
        return {"fullatt_block_indexes": tuple(full) if c.model_type == "qwen2_5_vl" else old}

    return _encoder_with(settings)


@mutant("VeOmni#1024")
def window_size_in_tokens():
    """Windows of window_size / patch_size tokens a side, where that counts patches."""

    def window_index(grid_thw: Any, settings: Any) -> Any:
        return whole(grid_thw, replace(settings, window_size=2 * settings.window_size))

    whole = vision.window_index
    return {"vision.window_index": window_index}


@mutant("mlx-vlm#704")
def window_mask_of_ones():
    """The mask is added to the scores as ones, not as minus infinity."""

    def attend(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
        scores = q @ np.swapaxes(k, 1, 2) * q.shape[-1] ** -0.5
        return nn.softmax(scores + nn.visible_keys(key_ranges, k.shape[1])) @ v

    def attend_to(_: Any, *rest: Any) -> Any:
        return nn.attend_to(attend, *rest)

    return {"vision.nn": variant(nn, attend_to=attend_to)}


@mutant("class of mistake; images joined into one sequence")
def windows_across_images():
    """The last window of an image and the first of the next are one."""

    def window_index(grid_thw: Any, settings: Any) -> Any:
        index, windows = whole(grid_thw, settings)
        borders = np.cumsum(np.prod(grid_thw, axis=1))[:-1]
        return index, windows[~np.isin(windows, borders)]

    whole = vision.window_index
    return {"vision.window_index": window_index}


@mutant("mlxcel#1601")
def permutation_applied_twice():
    """The window order is undone by applying it once more."""
    return {"vision.restore_order": lambda merged, index: np.take(merged, index, axis=0)}


@mutant("class of mistake")
def window_order_never_undone():
    """Image tokens stay in window order."""
    return {"vision.restore_order": lambda merged, index: merged}


@mutant("class of mistake; a full attention over all frames")
def attention_over_the_whole_video():
    """Blocks with full attention look at all frames of a video, not at their own pair."""

    def frame_seqlens(grid_thw: Any) -> Any:
        return np.concatenate([[0], np.cumsum(np.prod(grid_thw, axis=1))])

    return {"vision.frame_seqlens": frame_seqlens}


# ------------------------------------------------------------------ vision: arithmetic


def _norms(**changed: Any) -> dict[str, Any]:
    return {"vision.NORM": {**vision.NORM, **changed}}


@mutant("class of mistake")
def layer_norm_for_rms_norm():
    """Qwen2.5-VL's vision norms take off the mean."""

    @stage
    def norm(x: Any, weights: Weights, eps: float) -> Any:
        centred = x - np.mean(x, axis=-1, keepdims=True)
        return weights.weight * (
            centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
        )

    return _norms(qwen2_5_vl=norm)


@mutant("class of mistake")
def rms_norm_for_layer_norm():
    """Qwen2-VL's vision norms do not take off the mean."""

    @stage
    def norm(x: Any, weights: Weights, eps: float) -> Any:
        scaled = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return weights.weight * scaled + weights.bias

    return _norms(qwen2_vl=norm)


@stage
def _eps_outside(x: Any, weights: Weights, eps: float) -> Any:
    """RMSNorm with eps added to the root, not in it."""
    return weights.weight * (x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps))


@mutant("class of mistake")
def eps_outside_the_root():
    """RMSNorm of the decoder divides by sqrt(mean square) + eps."""
    return {"decoder.nn": variant(nn, rms_norm=_eps_outside)}


@mutant("vLLM qwen2_5_vl.py; llama.cpp's converter")
def vision_eps_of_the_text():
    """The vision norms have the text config's eps, where 1e-6 is fixed."""
    return _encoder_with(lambda c: {"rms_norm_eps": c.text.rms_norm_eps})


@mutant("Gemma's convention")
def norm_weight_plus_one():
    """RMSNorm scales by 1 + weight."""

    @stage
    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return (1 + weights.weight) * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)} | _norms(qwen2_5_vl=rms_norm)


@mutant("class of mistake; a fused qkv split head by head")
def qkv_split_by_heads():
    """The 3 * D outputs of qkv are read as [heads, 3, d], not [3, heads, d]."""

    def linear(x: Any, weights: Weights) -> Any:
        y = nn.linear(x, weights)
        if not weights.path.endswith(".attn.qkv"):
            return y
        heads = np.reshape(y, (len(y), heads_of[0], 3, -1))
        return np.reshape(np.swapaxes(heads, 1, 2), y.shape)

    def attention(x: Any, attn: Weights, heads: int, *rest: Any) -> Any:
        heads_of[0] = heads
        return original(x, attn, heads, *rest)

    original, heads_of = vision.attention, [1]
    return {"vision.attention": attention, "vision.nn": variant(nn, linear=linear)}


@stage
def _linear_without_bias(x: Any, weights: Weights) -> Any:
    return x @ np.transpose(weights.weight)


def _without_bias(*ends: str) -> Any:
    def linear(x: Any, weights: Weights) -> Any:
        return (_linear_without_bias if weights.path.endswith(ends) else nn.linear)(x, weights)

    return variant(nn, linear=linear)


@mutant("class of mistake; Llama's layers have no bias")
def vision_qkv_bias_missing():
    """The bias of the vision encoder's qkv is left out."""
    return {"vision.nn": _without_bias(".attn.qkv")}


@mutant("class of mistake")
def vision_attention_not_scaled():
    """Scores of the vision encoder are not divided by sqrt(d)."""

    def attend_to(attend: Any, weights: Any, *given: Any) -> Any:
        def unscaled(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
            return attend(q * q.shape[-1] ** 0.5, k, v, key_ranges)

        return nn.attend_to(unscaled, weights, *given)

    return {"vision.nn": variant(nn, attend_to=attend_to)}


@stage
def _swapped_mlp(x: Any, mlp: Weights) -> Any:
    gate, up = nn.linear(x, mlp.gate_proj), nn.linear(x, mlp.up_proj)
    return nn.linear(gate * nn.silu(up), mlp.down_proj)


@mutant("class of mistake; a fused gate_up split the wrong way round")
def gate_and_up_swapped():
    """silu(up) * gate in the place of silu(gate) * up, in the decoder."""
    return {"decoder.nn": variant(nn, swiglu_mlp=_swapped_mlp)}


@mutant("class of mistake; a fused gate_up split the wrong way round")
def vision_gate_and_up_swapped():
    """silu(up) * gate in the place of silu(gate) * up, in the vision encoder."""
    return {"vision.MLP": {**vision.MLP, "qwen2_5_vl": _swapped_mlp}}


@mutant("class of mistake; QuickGELU is an approximation of GELU")
def gelu_for_quick_gelu():
    """Qwen2-VL's vision MLP has the exact GELU, not QuickGELU."""
    return {"nn.quick_gelu": nn.gelu}


def gelu_tanh(x: Any) -> Any:
    """GELU's tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@mutant("llama.cpp ggml_gelu")
def merger_gelu_tanh():
    """The merger has GELU's tanh approximation."""
    return {"nn.gelu": gelu_tanh}


@mutant("class of mistake; passes Pearson > 0.9999")
def merger_quick_gelu():
    """The merger has QuickGELU, not the exact GELU."""
    return {"nn.gelu": nn.quick_gelu}


@mutant("class of mistake; the merger run on patches in raster order")
def merger_groups_rows_of_four():
    """Undone to raster order before the merger, which then joins four patches of one row."""
    seen: dict[str, Any] = {}

    def vision_encoder(pixels: Any, grid_thw: Any, *rest: Any) -> Any:
        seen["grid"] = grid_thw
        return original(pixels, grid_thw, *rest)

    def merge(x: Any, merger: Any, whole: Any, *rest: Any) -> Any:
        settings = whole.vision
        index = np.arange(len(x) // settings.merged_patches)
        if whole.model_type == "qwen2_5_vl":
            index, _ = vision.window_index(seen["grid"], settings)
        x = vision.reorder_groups(x, np.argsort(index))
        side, start, raster = settings.spatial_merge_size, 0, []
        for t, h, w in seen["grid"].tolist():
            blocks = np.arange(t * h * w).reshape(t, h // side, w // side, side, side)
            raster.append(start + np.transpose(blocks, (0, 1, 3, 2, 4)).reshape(-1))
            start += t * h * w
        return original_merge(np.take(x, np.concatenate(raster), axis=0), merger, whole, *rest)

    original, original_merge = vision.vision_encoder, vision.merge
    undone = {"vision.restore_order": lambda merged, index: merged}
    return {"vision.vision_encoder": vision_encoder, "vision.merge": merge} | undone


@mutant("rknn-toolkit2#425: Gather in float16")
def permutation_in_float16():
    """Reordering patches, and their rotary angles, rounds them to float16."""
    whole = vision.reorder_groups
    return {"vision.reorder_groups": lambda x, index: to_float16(whole(x, index))}


@mutant("llama.cpp#17534; ollama#18070; transformers#33294")
def float16_overflow():
    """The output of the vision MLPs is float16: beyond 65,504 it is infinite."""

    def narrow(mlp: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, weights: Weights) -> Any:
            return to_float16(mlp(x, weights))

        return call

    return {"vision.MLP": {family: narrow(mlp) for family, mlp in vision.MLP.items()}}


# ------------------------------------------------------------------ positions


def _rope_index(after: Callable[..., int]) -> dict[str, Any]:
    return {"model.rope_index": partial(rope_index, after=after)}


@mutant("transformers 5.x without mm_token_type_ids; mlx-lm#1768; gLLM#115")
def positions_in_one_dimension():
    """Image tokens are counted like text, on all three axes."""

    def one_dimension(input_ids: Any, *_: Any, **__: Any) -> tuple[Any, int]:
        return position.text_positions(0, len(input_ids)), 0

    return {"model.rope_index": one_dimension}


def _blocks(change: Callable[..., Any]) -> dict[str, Any]:
    whole = position.span_positions
    return {"position.span_positions": lambda *args: change(whole, *args)}


@mutant("transformers#45325, #45381 (5.3 to 5.5)")
def image_time_scaled():
    """The time of an image's tokens is multiplied by tokens per second."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        block = whole(start, grid, merge, *pace)
        rate = int(pace[1]) if len(pace) > 1 else 1
        return np.stack([np.full_like(block[0], start * rate), block[1], block[2]])

    return _blocks(change)


@mutant("transformers 5.3 to 5.5")
def video_height_slowest():
    """Tokens of a video are placed row by row with the frames inside a row."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        t, h, w = grid[0], grid[1] // merge, grid[2] // merge
        block = whole(start, grid, merge, *pace).reshape(3, t, h, w)
        return np.reshape(np.swapaxes(block, 1, 2), (3, -1))

    return _blocks(change)


@mutant("class of mistake")
def image_height_and_width_swapped():
    """The second axis of mRoPE counts columns, the third rows."""

    def change(whole: Any, *args: Any) -> Any:
        return whole(*args)[[0, 2, 1]]

    return _blocks(change)


@mutant("mlx-vlm qwen2_5_vl; sglang#3674")
def seconds_ignored():
    """Time in a video moves one step a temporal grid, as in Qwen2-VL."""
    return _blocks(lambda whole, start, grid, merge, *_: whole(start, grid, merge))


@mutant("transformers 4.52.4 to 5.17; #48669")
def seconds_truncated():
    """The seconds of a temporal grid are cut to a whole number first."""
    return {"model.rope_index": compat.rope_index_hf_4_52}


@mutant("the class default of transformers")
def four_tokens_per_second():
    """tokens_per_second is twice the checkpoint's: 4, the class default, for the published 2."""

    def change(whole: Any, start: int, grid: Any, merge: int, *pace: float) -> Any:
        return whole(start, grid, merge, *(pace and (pace[0], 2 * pace[1])))

    return _blocks(change)


@mutant("transformers 5.3 to 5.23")
def text_after_video_at_its_side():
    """Text goes on at start + max(height, width), however long the video."""
    return _rope_index(compat.after_span_hf_5)


@mutant("llama.cpp before mtmd counted positions")
def text_one_after_the_image():
    """An image takes one position."""
    return _rope_index(lambda start, block, grid, merge: start + 1)


@mutant("class of mistake")
def text_after_all_image_tokens():
    """An image takes as many positions as it has tokens."""
    return _rope_index(lambda start, block, grid, merge: start + block.shape[1])


@mutant("mlx-vlm#319, #1527; transformers rope_deltas kept on the module")
def rope_delta_lost():
    """New tokens are at their index in the sequence."""

    def without(*args: Any, **kwargs: Any) -> tuple[Any, int]:
        return rope_index(*args, **kwargs)[0], 0

    return {"model.rope_index": without}


# ------------------------------------------------------------------ decoder


def _cos_sin(axes: Callable[[Any], Any]) -> dict[str, Any]:
    """mRoPE in which ``axes(sections)`` says which axis each frequency turns with."""

    def cos_sin(position_ids: Any, text: Any, dtype: Any = np.float32) -> Any:
        frequencies = nn.rotary_frequencies(text.head_dim, text.rope_theta, dtype)
        which = np.asarray(axes(text.mrope_section))
        angles = np.transpose(np.take(position_ids, which, axis=0)).astype(dtype) * frequencies
        angles = np.concatenate([angles, angles], axis=-1)
        return np.cos(angles), np.sin(angles)

    return {"decoder.mrope_cos_sin": cos_sin}


@mutant("mlx-vlm#564, #576: Qwen3-VL's layout")
def mrope_interleaved():
    """Frequencies turn with time, height, width in turn, not in three chunks."""
    return _cos_sin(lambda sections: np.arange(sum(sections)) % 3)


@mutant("mlx-swift-lm#239")
def mrope_sections_reversed():
    """The sections stand for width, height, time."""
    return _cos_sin(lambda sections: np.repeat([2, 1, 0], sections))


@mutant("transformers#33401; sglang#3605: rope_type mrope not known")
def mrope_time_only():
    """All frequencies turn with time: plain RoPE on the first axis."""
    return _cos_sin(lambda sections: np.zeros(sum(sections), int))


@mutant("class of mistake; GPT-J's pairing")
def text_rope_interleaved():
    """Neighbouring numbers are turned together in the decoder."""
    return {"decoder.nn": variant(nn, rotate=rotate_neighbours)}


@mutant("the class default of transformers")
def text_eps_class_default():
    """The decoder's norms have eps 1e-5, whatever the config says."""

    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return nn.rms_norm(x, weights, 1e-5)

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)}


@mutant("class of mistake; Llama's attention has no bias")
def qkv_bias_missing():
    """The decoder's q, k and v have no bias."""
    return {"decoder.nn": _without_bias(".q_proj", ".k_proj", ".v_proj")}


@mutant("class of mistake; tile for repeat")
def gqa_heads_in_turn():
    """Query head i uses key head i modulo B, not i // (A / B)."""

    def attend_to(attend: Any, weights: Any, *given: Any) -> Any:
        def tiled(q: Any, k: Any, v: Any, key_ranges: Any) -> Any:
            times = (len(q) // len(k), 1, 1)
            return attend(q, np.tile(k, times), np.tile(v, times), key_ranges)

        return nn.attend_to(tiled, weights, *given)

    return {"decoder.nn": variant(nn, attend_to=attend_to)}


@mutant("llama.cpp#13694, #15474, #16825")
def causal_mask_from_time():
    """A token sees every token whose time is not later: image tokens see each other."""
    seen: dict[str, Any] = {"time": np.zeros(0, int)}

    def cos_sin(position_ids: Any, *rest: Any) -> Any:
        seen["new"] = np.asarray(position_ids)[0]
        return original(position_ids, *rest)

    def causal_key_ranges(new: int, past: int = 0) -> Any:
        time = np.concatenate([seen["time"][:past], seen["new"]])
        seen["time"] = time
        last = np.array([np.flatnonzero(time <= t)[-1] + 1 for t in seen["new"]])
        return np.stack([np.zeros_like(last), last], axis=1)

    original = decoder.mrope_cos_sin
    return {
        "decoder.mrope_cos_sin": cos_sin,
        "decoder.nn": variant(nn, causal_key_ranges=causal_key_ranges),
    }


@mutant("class of mistake")
def no_causal_mask():
    """Every token of the prompt sees all others."""

    def causal_key_ranges(new: int, past: int = 0) -> Any:
        return np.tile([0, past + new], (new, 1))

    return {"decoder.nn": variant(nn, causal_key_ranges=causal_key_ranges)}


@mutant("class of mistake")
def image_tokens_shifted():
    """Each placeholder gets the image token before its own."""

    def scatter(embeds: Any, input_ids: Any, token_id: int, visual: Any) -> Any:
        return original(embeds, input_ids, token_id, np.roll(visual, 1, axis=0))

    original = decoder.scatter
    return {"decoder.scatter": scatter}


@mutant("class of mistake; tie_word_embeddings read from the wrong place")
def head_tied_by_mistake():
    """The embedding is the head of a checkpoint that has a head of its own."""
    seen: dict[str, Any] = {}

    def embed(input_ids: Any, embed_tokens: Weights) -> Any:
        seen["weight"] = embed_tokens.weight
        return original(input_ids, embed_tokens)

    def logits(x: Any, lm_head: Weights) -> Any:
        return nn.linear(x, Weights({"weight": seen["weight"]}, lm_head.path))

    original = decoder.embed
    return {"decoder.embed": embed, "decoder.logits": logits}


@mutant("class of mistake")
def last_norm_missing():
    """The decoder's last norm is left out."""

    def rms_norm(x: Any, weights: Weights, eps: float) -> Any:
        return x if weights.path == "model.norm" else nn.rms_norm(x, weights, eps)

    return {"decoder.nn": variant(nn, rms_norm=rms_norm)}


@mutant("vLLM and transformers read it from generation_config.json")
def repetition_penalty_on():
    """Greedy decoding with a repetition penalty."""
    return {"sampling.GREEDY": sampling.Sampling(repetition_penalty=1.3)}
