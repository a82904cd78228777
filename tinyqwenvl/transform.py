"""Samples for training pipelines: images -> patches, conversations -> tokens and a loss mask.

In the form of a TorchTune transform, without torch: arrays are NumPy's. ``mask`` is True where a
token is left OUT of the loss (TorchTune's polarity).
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import chat
from .config import CLIP_MEAN, CLIP_STD, ProcessorConfig, VisionConfig
from .errors import UserError
from .image import preprocess
from .media import IMAGE_KEYS, open_image, warn
from .tokenizer import Tokenizer, load_tokenizer_files

EOS = "<|endoftext|>"
TORCHTUNE_LIMITS = (56 * 56, 28 * 28 * 1280)  # transformers' class defaults; not the published ones
PUBLISHED_LIMITS = (56 * 56, 28 * 28 * 16384)


@dataclass(frozen=True)
class ImageTransform:
    """``{"image": PIL image, array or path}`` -> the same with pixel_values and image_grid_thw.

    pixel_values [N, 1176] in ``dtype`` ("float32", or "bfloat16" where ml_dtypes is installed) and
    image_grid_thw [1, 3], bit-equal to HF's ``Qwen2VLImageProcessor`` in float32.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = TORCHTUNE_LIMITS[0]
    max_pixels: int = TORCHTUNE_LIMITS[1]
    dtype: str = "float32"
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"{name} is {value!r}; it must be a whole number, at least 1")
        _dtype(self.dtype)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a new dict; ``sample`` stays as it is. Raises UserError."""
        if not isinstance(sample, Mapping) or "image" not in sample:
            raise UserError('an image sample is a dict with "image": a PIL image, array or path')
        vision = VisionConfig(
            1, 1, 1, 1, 1, self.patch_size, self.merge_size, self.temporal_patch_size
        )
        processor = ProcessorConfig(image_mean=self.image_mean, image_std=self.image_std)
        image = open_image(sample["image"])
        limited = [(image, self.min_pixels, self.max_pixels)]
        pixels, grid = preprocess(limited, processor, vision)
        return {**sample, "pixel_values": pixels.astype(_dtype(self.dtype)), "image_grid_thw": grid}


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise UserError("bfloat16 needs a package: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    if name != "float32":
        raise UserError(f"dtype is {name!r}; it must be float32 or bfloat16")
    return np.dtype(np.float32)


@dataclass
class Transform:
    """Conversations -> tokens, loss mask and images, in the published chat template.

    ``path`` is a tokenizer.json, or a vocab.json that goes with ``merges_file`` (and
    ``special_tokens_path``, a JSON of the added tokens: a list in the order of their ids, or a dict
    from token to id; default: Qwen2.5's 22). ``max_seq_len`` cuts; an image that would be cut is
    left out whole, and a warning says so. ``prompt_template`` changes the messages before anything
    else (a function of the list), or puts text around their content: {role: (before, after)}.
    """

    path: str | os.PathLike
    merges_file: str | os.PathLike | None = None
    special_tokens_path: str | os.PathLike | None = None
    max_seq_len: int | None = None
    prompt_template: Callable[[list], list] | Mapping[str, tuple[str, str]] | None = None
    add_eos: bool = True
    image_transform: ImageTransform = field(default_factory=ImageTransform)

    def __post_init__(self) -> None:
        most, template = self.max_seq_len, self.prompt_template
        if most is not None and (not isinstance(most, numbers.Integral) or most < 1):
            raise UserError(f"max_seq_len is {self.max_seq_len!r}; it must be at least 1, or None")
        if template is not None and not callable(template) and not _is_around(template):
            raise UserError("prompt_template is a function, or {role: (before, after)}")
        added = None if self.special_tokens_path is None else Path(self.special_tokens_path)
        self.tokenizer: Tokenizer = load_tokenizer_files(Path(self.path), self.merges_file, added)
        self.eos_id, self.pad_id = self.tokenizer.token_id(EOS), self.tokenizer.token_id(EOS)
        self.stop_tokens = [self.eos_id, self.tokenizer.token_id(chat.IM_END)]

    @property
    def vocab_size(self) -> int:
        """All tokens: 151,665 of Qwen2.5."""
        return len(self.tokenizer)

    @property
    def base_vocab_size(self) -> int:
        """Tokens that are not added ones: 151,643."""
        return self.tokenizer.backend.get_vocab_size(with_added_tokens=False)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The added tokens and their ids: 22."""
        added = self.tokenizer.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    # -------------------------------------------------------------- text

    def encode(self, text: str, add_eos: bool = False) -> list[int]:
        """Text -> ids. Special tokens inside it are text."""
        return [*self.tokenizer.encode(text).tolist(), *[self.eos_id] * add_eos]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids -> text."""
        return self.tokenizer.decode(ids, skip_special_tokens)

    def tokenize_message(self, message: Any) -> list[int]:
        """One message with its start and end; its images must have their image_grid_thw."""
        return [number for number, _, _ in self._tokens(message)]

    def tokenize_messages(
        self, messages: Sequence[Any], add_eos: bool | None = None
    ) -> tuple[list[int], list[bool]]:
        """(tokens, mask) of a conversation, cut to ``max_seq_len``."""
        messages = self._templated(messages)
        tokens, mask, _ = self._cut(messages, self.add_eos if add_eos is None else add_eos)
        return tokens, mask

    # -------------------------------------------------------------- whole samples

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> dict[str, Any]:
        """``{"messages": [...]}`` -> the same with tokens, mask and encoder_input.

        Messages are dicts or objects with ``role`` and ``content``: a text, or items
        ``{"type": "text", "text" or "content": ...}`` and ``{"type": "image", "image" or
        "content": ...}``. ``encoder_input["vision"]["images"]`` holds the patches of every image,
        and its item is given its ``image_grid_thw``. A message that says ``masked`` is left out of
        the loss whole, or not at all; else what the assistant says is learnt, with its
        ``<|im_end|>``. ``inference`` ends with the beginning of an answer. Raises UserError.
        """
        if not isinstance(sample, Mapping) or not isinstance(sample.get("messages"), (list, tuple)):
            raise UserError('a sample is a dict with "messages": a list')
        messages = self._templated(sample["messages"])
        images = []
        for message in messages:
            for item in _items(message):
                if _kind(item) == "image":
                    seen = self.image_transform({"image": _value(item, "image")})
                    item["image_grid_thw"] = seen["image_grid_thw"]
                    images.append(seen["pixel_values"])
        tokens, mask, kept = self._cut(messages, self.add_eos and not inference, inference)
        vision = {"vision": {"images": images[:kept]}}
        return {**sample, "tokens": tokens, "mask": mask, "encoder_input": vision}

    def _templated(self, messages: Sequence[Any]) -> list[Any]:
        """The messages as the template changes them, with a system prompt at their beginning."""
        changed = list(messages)
        if callable(self.prompt_template):
            changed = self.prompt_template(changed)
            if not isinstance(changed, list):
                raise UserError("prompt_template must return a list of messages")
        if changed and _get(changed[0], "role") != "system":
            changed = [{"role": "system", "content": chat.SYSTEM_PROMPT}, *changed]
        return changed

    def _tokens(self, message: Any) -> list[tuple[int, bool, int]]:
        """(id, left out of the loss, image) of a message; image is -1 outside of any."""
        role, masked = _get(message, "role"), _get(message, "masked", None)
        before, after = ("", "")
        if isinstance(self.prompt_template, Mapping):
            before, after = self.prompt_template.get(role, ("", ""))
        learnt = role == "assistant"
        # pieces of the prompt, each left out of the loss or not, and of which image it is
        pieces: list[tuple[str, bool, int]] = [(chat.IM_START, True, -1), (f"{role}\n", True, -1)]
        pieces.append((before, True, -1))
        image = 0
        for item in _items(message):
            if _kind(item) == "text":
                pieces.append((str(_value(item, "text")), not learnt, -1))
                continue
            if "image_grid_thw" not in item:
                raise UserError("an image has no image_grid_thw yet; pass the sample to Transform")
            merged = int(np.prod(item["image_grid_thw"])) // self.image_transform.merge_size**2
            block = [chat.VISION_START, *[chat.IMAGE_PAD] * merged, chat.VISION_END]
            pieces += [(control, True, image) for control in block]
            image += 1
        pieces += [(after, True, -1), (chat.IM_END, not learnt, -1), ("\n", True, -1)]
        ids, parts = self.tokenizer.encode_parts([text for text, _, _ in pieces])
        tokens = []
        for number, part in zip(ids.tolist(), parts.tolist(), strict=True):
            _, left_out, of_image = pieces[part]
            tokens.append((number, left_out if masked is None else bool(masked), of_image))
        return tokens

    def _cut(
        self, messages: Sequence[Any], add_eos: bool, inference: bool = False
    ) -> tuple[list[int], list[bool], int]:
        """(tokens, mask, images that stayed whole)."""
        tokens: list[tuple[int, bool, int]] = []
        image_count = 0
        for message in messages:
            new = self._tokens(message)
            tokens += [(i, out, n + image_count if n >= 0 else -1) for i, out, n in new]
            image_count += max((n for _, _, n in new), default=-1) + 1
        if inference:
            start = self.tokenizer.encode([chat.IM_START, "assistant\n"]).tolist()
            tokens += [(i, True, -1) for i in start]
        room = len(tokens) if self.max_seq_len is None else self.max_seq_len - add_eos
        if len(tokens) > room:
            whole = len(tokens)
            cut = tokens[room][2]  # the image that the cut goes through
            tokens = tokens[:room]
            while tokens and cut >= 0 and tokens[-1][2] == cut:
                tokens.pop()
            kept = max((n for _, _, n in tokens), default=-1) + 1
            warn(
                f"cut from {whole} tokens to {len(tokens) + add_eos} (max_seq_len "
                f"{self.max_seq_len}); {image_count - kept} of {image_count} images left out whole"
            )
            image_count = kept
        if add_eos:
            tokens.append((self.eos_id, tokens[-1][1] if tokens else True, -1))
        return [i for i, _, _ in tokens], [out for _, out, _ in tokens], image_count


# ------------------------------------------------------------------ messages of two kinds


def _is_around(template: Any) -> bool:
    """Whether it is {role: (text before, text after)}."""
    return isinstance(template, Mapping) and all(
        isinstance(pair, (list, tuple)) and [type(text) for text in pair] == [str, str]
        for pair in template.values()
    )


def _get(message: Any, name: str, *default: Any) -> Any:
    """A field of a message, which is a dict or an object."""
    if isinstance(message, Mapping) and name in message:
        return message[name]
    if not isinstance(message, Mapping) and hasattr(message, name):
        return getattr(message, name)
    if default:
        return default[0]
    raise UserError(f"a message has a role and a content; this one has no {name}")


def _items(message: Any) -> list[dict[str, Any]]:
    content = _get(message, "content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)) or not all(isinstance(i, dict) for i in content):
        raise UserError("the content of a message is a text or a list of items (dicts)")
    return list(content)


def _kind(item: Mapping[str, Any]) -> str:
    kind = item.get("type") or next((k for k in ("image", "text") if k in item), None)
    if kind not in ("image", "text"):
        raise UserError(f"an item is of type text or image, not {kind!r}")
    return kind


def _value(item: Mapping[str, Any], kind: str) -> Any:
    """What an item holds: HF says ``text`` or ``image``, TorchTune ``content`` for both."""
    names = (*IMAGE_KEYS, "content") if kind == "image" else (kind, "content")
    value = next((item[name] for name in names if name in item), None)
    if value is None:
        raise UserError(f"an item of type {kind} has neither {kind!r} nor 'content'")
    return value.get("url") if isinstance(value, dict) else value
