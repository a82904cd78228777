"""Prepare training samples: images -> patches, conversations -> tokens and a loss mask.

The interface is that of a TorchTune transform, with NumPy arrays instead of torch. ``mask`` is True
where a token is EXCLUDED from the loss (TorchTune's convention). ``docs/training.md`` compares the
loss masks of common training code. :mod:`batching` pads and packs the samples.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from . import chat, training_messages
from .config import CLIP_MEAN, CLIP_STD, ProcessorConfig, VisionConfig
from .errors import UserError
from .image import preprocess
from .media import open_image, warn
from .tokenizer import Tokenizer, load_tokenizer_files
from .training_messages import items_of, kind_of, plain, role_of, value_of, with_tools
from .video_request import pixel_limits, resized_size

EOS = "<|endoftext|>"
PACKAGINGS = ("published", "torchtune")
TRAIN_ON_EOS = ("turn", "all", "last", "none")  # axolotl's names
SIZE_KEYS = ("min_pixels", "max_pixels", "resized_height", "resized_width")  # of an image item
TORCHTUNE_LIMITS = (
    56 * 56,
    28 * 28 * 1280,
)  # defaults of transformers' class, not the published limits
PUBLISHED_LIMITS = (56 * 56, 28 * 28 * 16384)


@dataclass(frozen=True)
class ImageTransform:
    """Add pixel_values and image_grid_thw to ``{"image": PIL image, array or path}``.

    pixel_values [N, 1176] in ``dtype`` ("float32" or "bfloat16") and image_grid_thw [1, 3],
    bit-equal to HF's ``Qwen2VLImageProcessor`` in float32. A sample's own "min_pixels",
    "max_pixels", "resized_height" and "resized_width" override the transform's limits.
    """

    patch_size: int = 14  # pixels per side of a patch
    merge_size: int = 2  # patches per side of a merge group
    temporal_patch_size: int = 2  # frames per patch
    min_pixels: int = TORCHTUNE_LIMITS[0]  # fewest pixels of a resized image
    max_pixels: int = TORCHTUNE_LIMITS[1]  # most pixels of a resized image
    dtype: str = "float32"  # of pixel_values: "float32" or "bfloat16"
    image_mean: tuple[float, ...] = CLIP_MEAN  # per channel (R, G, B), of values in 0..1
    image_std: tuple[float, ...] = CLIP_STD  # per channel, of the same values

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"{name} is {value!r}; it must be an integer, at least 1")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if len(values) != 3 or (name == "image_std" and 0 in values):
                raise UserError(f"{name} is {values!r}; it must be three numbers, none zero in std")
        _dtype(self.dtype)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new dict; ``sample`` is not modified. Raises UserError."""
        if not isinstance(sample, Mapping) or "image" not in sample:
            raise UserError(
                'an image sample must be a dict with "image": a PIL image, array or path'
            )
        vision = VisionConfig(
            1, 1, 1, 1, 1, self.patch_size, self.merge_size, self.temporal_patch_size
        )
        own = self.min_pixels, self.max_pixels
        processor = ProcessorConfig(*own, self.image_mean, self.image_std)
        asked = pixel_limits(sample)
        within = own if asked == (None, None) else processor.limits(*asked)
        limited = [(open_image(sample["image"]), *within)]
        wishes = [own if asked == (None, None) else asked]
        pixels, grid = preprocess(limited, processor, vision, [resized_size(sample)], wishes)
        return {**sample, "pixel_values": pixels.astype(_dtype(self.dtype)), "image_grid_thw": grid}


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    if name != "float32":
        raise UserError(f"dtype is {name!r}; it must be float32 or bfloat16")
    return np.dtype(np.float32)


@dataclass
class Transform:
    """Turn conversations into tokens, loss mask and images, with the published chat template.

    ``path`` is a tokenizer.json, or a vocab.json with ``merges_file`` (and ``special_tokens_path``,
    a JSON file of the added tokens: a list in the order of their ids, or a dict from token to id;
    default: Qwen2.5's 22). ``max_seq_len`` truncates; an image that would be cut is dropped whole,
    with a warning. ``prompt_template`` is a function that changes the list of messages first, or a
    dict {role: (before, after)} of texts around their content.

    The loss covers the content of ``train_on_roles``. ``train_on_eos`` selects the turns whose
    ``<|im_end|>`` is trained: "turn" (trained turns), "all", "last" (the last trained turn) or
    "none". With ``learn_newline``, the newline after it is trained too. ``packaging`` "torchtune"
    follows TorchTune: no default system turn, messages are trained with their header, and the last
    answer ends in ``<|im_end|>`` alone, which ``add_eos`` writes.
    """

    path: str | os.PathLike  # tokenizer.json or vocab.json
    merges_file: str | os.PathLike | None = None  # merges.txt of a vocab.json
    special_tokens_path: str | os.PathLike | None = None  # JSON file of the added tokens
    max_seq_len: int | None = None  # most tokens of a sample; None: no limit
    prompt_template: Callable[[list], list] | Mapping[str, tuple[str, str]] | None = None  # how
    #                   to change the messages first; or texts around the content of each role
    add_eos: bool = True  # append <|endoftext|> (torchtune: <|im_end|>)
    image_transform: ImageTransform = field(default_factory=ImageTransform)  # preprocesses images
    learn_newline: bool = True  # train the newline after a trained <|im_end|>
    train_on_roles: Sequence[str] = ("assistant",)  # roles whose content is trained
    train_on_eos: str = "turn"  # turns whose <|im_end|> is trained: one of TRAIN_ON_EOS
    packaging: str = "published"  # one of PACKAGINGS

    def __post_init__(self) -> None:
        most, template = self.max_seq_len, self.prompt_template
        if most is not None and (not isinstance(most, numbers.Integral) or most < 1):
            raise UserError(f"max_seq_len is {self.max_seq_len!r}; it must be at least 1, or None")
        if template is not None and not callable(template) and not _is_around(template):
            raise UserError("prompt_template must be a function or {role: (before, after)}")
        _one_of("train_on_eos", self.train_on_eos, TRAIN_ON_EOS)
        _one_of("packaging", self.packaging, PACKAGINGS)
        roles = self.train_on_roles
        if isinstance(roles, str) or not all(isinstance(role, str) for role in roles):
            raise UserError(f"train_on_roles is {roles!r}; it must be a list such as ['assistant']")
        if not isinstance(self.path, (str, os.PathLike)):
            raise UserError(f"path is {self.path!r}; it must be that of a tokenizer.json")
        added = None if self.special_tokens_path is None else Path(self.special_tokens_path)
        self.tokenizer: Tokenizer = load_tokenizer_files(Path(self.path), self.merges_file, added)
        end_of_text, end_of_turn = map(self.tokenizer.token_id, (EOS, chat.IM_END))
        self.eos_id = end_of_turn if self._torchtune else end_of_text
        self.pad_id = end_of_text
        self.stop_tokens = [end_of_text, end_of_turn]

    @property
    def _torchtune(self) -> bool:
        return self.packaging == "torchtune"

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary with added tokens: 151,665 for Qwen2.5."""
        return len(self.tokenizer)

    @property
    def base_vocab_size(self) -> int:
        """Size of the vocabulary without added tokens: 151,643."""
        return self.tokenizer.backend.get_vocab_size(with_added_tokens=False)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The added tokens and their ids: 22."""
        added = self.tokenizer.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in sorted(added.items())}

    # -------------------------------------------------------------- text

    def encode(self, text: str, add_eos: bool = False) -> list[int]:
        """Encode text. Special tokens inside it are text."""
        return [*self.tokenizer.encode(text).tolist(), *[self.eos_id] * add_eos]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids -> text."""
        return self.tokenizer.decode(ids, skip_special_tokens)

    def tokenize_message(self, message: Any) -> list[int]:
        """Encode one message with its start and end; its images need an image_grid_thw."""
        return [number for message in with_tools([message]) for number, *_ in self._tokens(message)]

    def tokenize_messages(
        self, messages: Sequence[Any], add_eos: bool | None = None, tools: Any = None
    ) -> tuple[list[int], list[bool]]:
        """(tokens, mask) of a conversation, truncated to ``max_seq_len``."""
        messages = self._templated(messages, tools)
        tokens, mask, _ = self._cut(messages, self.add_eos if add_eos is None else add_eos)
        return tokens, mask

    # -------------------------------------------------------------- whole samples

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> dict[str, Any]:
        """Add tokens, mask and encoder_input to ``{"messages": [...]}``.

        Messages are dicts or objects with ``role`` and ``content``: a text, or items
        ``{"type": "text", "text" or "content": ...}`` and ``{"type": "image", "image" or
        "content": ...}``. ``encoder_input["vision"]`` holds the patches of every image ("images")
        and their grids ("image_grid_thw" [I, 3]); each item gets its ``image_grid_thw``. The key
        ``masked`` of a message excludes all of it from the loss, or nothing. ``tools`` of the
        sample and ``tool_calls`` of messages: :func:`training_messages.with_tools`.
        ``inference`` appends the start of an answer. Raises UserError.
        """
        messages = sample.get("messages") if isinstance(sample, Mapping) else None
        if isinstance(messages, Mapping):
            messages = [messages]
        if not isinstance(messages, (list, tuple)):
            raise UserError('a sample must be a dict with "messages": a list')
        messages = self._templated(messages, sample.get("tools"))
        images, grids = [], []
        for message in messages:
            for item in items_of(message):
                if kind_of(item) == "image":
                    asked = {key: item[key] for key in SIZE_KEYS if key in item}
                    seen = self.image_transform({**asked, "image": value_of(item, "image")})
                    item["image_grid_thw"] = seen["image_grid_thw"]
                    images.append(seen["pixel_values"])
                    grids.append(seen["image_grid_thw"])
        tokens, mask, kept = self._cut(messages, self.add_eos and not inference, inference)
        none = np.zeros((0, 3), np.int64)
        vision = {"images": images[:kept], "image_grid_thw": np.concatenate([none, *grids[:kept]])}
        return {**sample, "tokens": tokens, "mask": mask, "encoder_input": {"vision": vision}}

    def _templated(self, messages: Sequence[Any], tools: Any = None) -> list[Any]:
        """Apply the prompt template, and start with a system prompt."""
        changed = list(messages)
        if callable(self.prompt_template):
            changed = self.prompt_template(changed)
            if not isinstance(changed, list):
                raise UserError("prompt_template must return a list of messages")
        changed = [plain(message) for message in changed]
        if changed and role_of(changed[0]) != "system" and not self._torchtune:
            changed = [{"role": "system", "content": chat.SYSTEM_PROMPT}, *changed]
        return with_tools(changed, tools)

    def _tokens(
        self, message: Any, last: bool = False, last_trained: bool = True
    ) -> list[tuple[int, bool, int]]:
        """(id, excluded from the loss, image index or -1) of each token of a message.

        ``last`` is true for the last message of a conversation, ``last_trained`` for the last
        trained message.
        """
        role, masked = role_of(message), training_messages.field(message, "masked", None)
        before, after = ("", "")
        if isinstance(self.prompt_template, Mapping):
            before, after = self.prompt_template.get(role, ("", ""))
        trained = role in self.train_on_roles
        if masked is None and self._torchtune:
            masked = not trained
        end_trained = {
            "turn": trained, "all": True, "last": last_trained, "none": False,
        }[self.train_on_eos]  # fmt: skip
        # (piece, excluded from the loss, image index)
        pieces: list[tuple[str, bool, int]] = [(chat.IM_START, True, -1), (f"{role}\n", True, -1)]
        pieces.append((before, True, -1))
        image = 0
        for item in items_of(message):
            if kind_of(item) == "text":
                pieces.append((str(value_of(item, "text")), not trained, -1))
                continue
            if "image_grid_thw" not in item:
                raise UserError("an image has no image_grid_thw yet; pass the sample to Transform")
            merged = int(np.prod(item["image_grid_thw"])) // self.image_transform.merge_size**2
            span = [chat.VISION_START, *[chat.IMAGE_PAD] * merged, chat.VISION_END]
            pieces += [(special, True, image) for special in span]
            image += 1
        pieces.append((after, True, -1))
        if not (last and self._torchtune and role == "assistant"):
            newline_trained = end_trained and self.learn_newline
            pieces += [(chat.IM_END, not end_trained, -1), ("\n", not newline_trained, -1)]
        ids, parts = self.tokenizer.encode_parts([text for text, _, _ in pieces])
        tokens = []
        for number, part in zip(ids.tolist(), parts.tolist(), strict=True):
            _, left_out, of_image = pieces[part]
            tokens.append((number, left_out if masked is None else bool(masked), of_image))
        return tokens

    def _cut(
        self, messages: Sequence[Any], add_eos: bool, inference: bool = False
    ) -> tuple[list[int], list[bool], int]:
        """(tokens, mask, number of images kept)."""
        tokens: list[tuple[int, bool, int]] = []
        image_count = 0
        trained = [i for i, m in enumerate(messages) if role_of(m) in self.train_on_roles]
        for index, message in enumerate(messages):
            last = index == len(messages) - 1 and not inference
            new = self._tokens(message, last, index == max(trained, default=-1))
            tokens += [(i, out, n + image_count if n >= 0 else -1) for i, out, n in new]
            image_count += max((n for _, _, n in new), default=-1) + 1
        if inference:
            start = self.tokenizer.encode([chat.IM_START, "assistant\n"]).tolist()
            tokens += [(i, True, -1) for i in start]
        room = len(tokens) if self.max_seq_len is None else self.max_seq_len - add_eos
        if len(tokens) > room:
            tokens, image_count = self._shortened(tokens, room, add_eos, image_count)
        if add_eos:
            left_out = tokens[-1][1] if tokens else True
            if self._torchtune and self.max_seq_len is not None:
                left_out = True  # its ``truncate`` masks the last token of every sample
            tokens.append((self.eos_id, left_out, -1))
        return [i for i, _, _ in tokens], [out for _, out, _ in tokens], image_count

    def _shortened(
        self, tokens: list[tuple[int, bool, int]], room: int, add_eos: bool, images: int
    ) -> tuple[list[tuple[int, bool, int]], int]:
        """The first ``room`` tokens without an image that would be cut; number of images left."""
        cut = tokens[room][2]  # the image that would be cut
        kept = tokens[:room]
        while kept and cut >= 0 and kept[-1][2] == cut:
            kept.pop()
        whole = max((n for _, _, n in kept), default=-1) + 1
        warn(
            f"truncated from {len(tokens)} tokens to {len(kept) + add_eos} (max_seq_len "
            f"{self.max_seq_len}); {images - whole} of {images} images dropped"
        )
        return kept, whole


def _one_of(name: str, value: Any, values: Sequence[str]) -> None:
    if value not in values:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(values)}")


def _is_around(template: Any) -> bool:
    """Whether the template is {role: (text before, text after)}."""
    return isinstance(template, Mapping) and all(
        isinstance(pair, (list, tuple)) and [type(text) for text in pair] == [str, str]
        for pair in template.values()
    )
