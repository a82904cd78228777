"""The model: :func:`load` a checkpoint, ask a question, or run the stages one by one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from . import chat, checks, decoder, nn, vision
from .checkpoint import load_weights
from .config import Config, load_config
from .deprecated import old_names, warn
from .dims import Array, Float, Int
from .errors import UserError, note
from .generate import Generation, Past
from .image import preprocess
from .image_cache import ImageCache
from .media import IMAGE_KEYS, open_image, rgb
from .media_source import shown
from .messages import as_messages, warn_unread, warn_unwritten
from .nn import ReferenceCache
from .position import rope_index
from .sampling import GREEDY, Sampling
from .template import Template, load_template
from .tokenizer import Tokenizer, load_tokenizer
from .tracing import record, trace
from .video import read_video
from .video_request import VIDEO_SOURCES, media_of, pixel_limits, resized_size, video_options
from .weights import Weights

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = ASSETS / "checkpoint"
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")  # files of a checkpoint on the hub
EXAMPLE_IMAGE = ASSETS / "images" / "scene.png"
EXAMPLE_VIDEO = ASSETS / "images" / "clip.gif"


@dataclass(frozen=True)
class Inputs:
    """A prompt, ready for the model."""

    input_ids: Int[Array, "S"]  # one placeholder per image token
    position_ids: Int[Array, "3 S"]  # time, height, width
    rope_delta: int  # a later token's position = its index in the sequence + this
    pixel_values: Float[Array, "N P"] | None = None  # patches of all images
    image_grid_thw: Int[Array, "I 3"] | None = None  # (t, h, w) in patches
    pixel_values_videos: Float[Array, "Q P"] | None = None  # patches of all videos
    video_grid_thw: Int[Array, "J 3"] | None = None  # (t, h, w) in patches
    second_per_grid_ts: tuple[float, ...] = ()  # seconds per temporal patch of each video


@dataclass(frozen=True)
class Model:
    """A checkpoint in memory; ``reference`` selects the reference implementations of :mod:`nn`."""

    config: Config  # settings of the checkpoint
    weights: Weights  # nested by their published names
    tokenizer: Tokenizer  # text to token ids and back
    template: Template | None = None  # for a chat template other than the published one
    dtype: Any = np.float32  # of weights and patches: float32 or float64
    reference: bool = False  # True: reference, False: optimised implementations
    image_cache: ImageCache | None = None  # used first if set

    @cached_property
    def _attend(self) -> nn.Attend:
        return nn.attention if self.reference else nn.optimised_attention

    # -------------------------------------------------------------- the main interface

    def ask(self, images: Any, prompt: str, max_tokens: int = 256) -> str:
        """Answer ``prompt`` about one image, a list of images, or None. Raises UserError."""
        if not isinstance(prompt, str):
            raise UserError(f"a prompt is a text, not {type(prompt).__name__}")
        if not prompt.strip():
            raise UserError(chat.EMPTY_PROMPT)
        inputs = self.prepare(user_message(images, prompt))
        return self.tokenizer.decode(list(self.generate(inputs, max_tokens)))

    def prepare(
        self,
        messages: Sequence[dict[str, Any]],
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        parse_special: bool = False,
        to_rgb: Callable[[Image], Image] = rgb,
        add_vision_id: bool = False,
        **variables: Any,
    ) -> Inputs:
        """Turn HF messages into inputs for the model.

        The key "image" holds a path, PIL image, array or data: URI. The key "video" holds a path,
        a folder or a list of frames; "fps" and the other keys of
        :data:`video_request.VIDEO_KEYS` may stand beside it.

        Pixel limits come from the item (``{"image": ..., "max_pixels": ...}``), else from the
        arguments, else from the checkpoint; "resized_height" and "resized_width" request a size.
        ``parse_special`` parses special tokens written inside text. ``to_rgb`` is that of
        :func:`media.open_image`, ``add_vision_id`` that of :func:`chat.render`; ``variables``
        (tools, documents) go to :meth:`Template.render`.
        """
        media = self.read_media(messages, min_pixels, max_pixels, to_rgb)
        return self.prompt(messages, media, parse_special, add_vision_id, **variables)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        media: dict[str, Any],
        parse_special: bool = False,
        add_vision_id: bool = False,
        **variables: Any,
    ) -> Inputs:
        """Turn HF messages and their loaded ``media`` into inputs; flags as in :meth:`prepare`."""
        if self.template is not None:
            variables |= {"add_vision_id": True} if add_vision_id else {}
            pieces = self.template.render(messages, self.tokenizer, parse_special, **variables)
        else:
            warn_unread(as_messages(messages), variables)
            pieces = chat.render(messages, add_vision_id=add_vision_id)
            pieces = chat.obey(pieces, self.tokenizer) if parse_special else pieces
        ids = self.encode(pieces, media)
        ids = record("input_ids", ids)
        positions, delta = self.positions(ids, media)
        return Inputs(ids, positions, delta, **media)

    def read_media(
        self,
        messages: Sequence[dict[str, Any]],
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        to_rgb: Callable[[Image], Image] = rgb,
    ) -> dict[str, Any]:
        """Load the images and videos of messages: these fields of :class:`Inputs`."""
        processor = self.config.processor
        images, resized, wishes, videos = [], [], [], []
        for item in chat.all_items(messages):
            kind = chat.media_kind(item)
            warn_unwritten(item, kind)
            asked = pixel_limits(item, min_pixels, max_pixels)
            if kind == "image":
                image = open_image(media_of(item, IMAGE_KEYS), to_rgb)
                images.append((image, *processor.limits(*asked)))
                resized.append(resized_size(item))
                wishes.append(asked)
            elif kind == "video":
                source = media_of(item, VIDEO_SOURCES)
                videos.append(read_video(source, self.config, *asked, **video_options(item)))
        media: dict[str, Any] = {}
        if images:
            pixels, grids = preprocess(images, processor, self.config.vision, resized, wishes)
            pixels = record("pixel_values", pixels.astype(self.dtype, copy=False))
            grids = record("image_grid_thw", grids)
            media |= {"pixel_values": pixels, "image_grid_thw": grids}
        if videos:
            patches = np.concatenate([video.patches for video in videos])
            patches = record("pixel_values_videos", patches.astype(self.dtype, copy=False))
            media |= {
                "pixel_values_videos": patches,
                "video_grid_thw": record("video_grid_thw", np.array([v.grid for v in videos])),
                "second_per_grid_ts": tuple(video.seconds for video in videos),
            }
        return media

    def encode(self, pieces: Sequence[str], media: dict[str, Any]) -> Int[Array, "S"]:
        """Encode the pieces of a prompt, with one placeholder per token of ``media``."""
        none = np.zeros((0, 3), int)
        for pad, name in ((chat.IMAGE_PAD, "image_grid_thw"), (chat.VIDEO_PAD, "video_grid_thw")):
            counts = np.prod(media.get(name, none), axis=1) // self.config.vision.merged_patches
            pieces = chat.expand(pieces, pad, counts.tolist())
        return self.tokenizer.encode(pieces)

    def positions(
        self, ids: Int[Array, "S"], media: dict[str, Any]
    ) -> tuple[Int[Array, "3 S"], int]:
        """Positions of a whole prompt that contains ``media``, and its rope delta."""
        ids = checks.array_of(ids, "input_ids", "i", "S")
        media = checks.media_of_positions(media, self.config)
        grids = media.get("image_grid_thw"), media.get("video_grid_thw")
        return rope_index(ids, self.config, *grids, media.get("second_per_grid_ts"))

    def generate(
        self,
        inputs: Inputs,
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        past: Past | None = None,
    ) -> Generation:
        """Generate the ids of the answer one by one, without the stop token.

        With a ``past``, ``inputs`` are only what follows it. Raises UserError.
        """
        inputs = checks.prompt(inputs, self.config)
        checks.generation(max_tokens, inputs.rope_delta, sampling)
        if past is not None:
            ids = checks.past_ids(past)
            past = Past(past[0], ids)
        return Generation(self, inputs, self.config.eos_token_ids, max_tokens, sampling, past)

    def caching_images(self, most: int = 64) -> Model:
        """The same model with a cache of image features, for images that recur."""
        return replace(self, image_cache=ImageCache(self.image_features, most))

    def remembering(self, most: int = 64) -> Model:
        """Deprecated name (version 0.1) of :meth:`caching_images`."""
        warn("Model.remembering", "Model.caching_images")
        return self.caching_images(most)

    # -------------------------------------------------------------- stage by stage

    def forward(self, inputs: Inputs) -> Float[Array, "S V"]:
        """Logits of every token of the prompt. Raises UserError if the fields do not match."""
        x = self.decode(self.embed(inputs), inputs.position_ids)
        return decoder.logits(x, self.weights.lm_head)

    def image_features(
        self, pixel_values: Float[Array, "N P"], image_grid_thw: Int[Array, "I 3"]
    ) -> Float[Array, "M E"]:
        """The vision encoder: patches of all images -> image tokens."""
        image_grid_thw = checks.grids(image_grid_thw, self.config, "image_grid_thw")
        if len(image_grid_thw) == 0:
            raise UserError("there is no image to encode: image_grid_thw is empty")
        pixel_values = checks.patches(pixel_values, image_grid_thw, self.config, "pixel_values")
        gelu = nn.gelu if self.reference else nn.gelu_in_chunks
        visual = self.weights.visual
        return vision.vision_encoder(
            pixel_values, image_grid_thw, visual, self.config, self._attend, gelu
        )

    def see(self, pixel_values: Any, image_grid_thw: Any) -> Any:
        """Deprecated name (version 0.1) of :meth:`image_features`."""
        warn("Model.see", "Model.image_features")
        return self.image_features(pixel_values, image_grid_thw)

    def embed_tokens(self, input_ids: Int[Array, "S"]) -> Float[Array, "S D"]:
        """Look up the embedding of every token."""
        input_ids = checks.token_ids(input_ids, self.config.text.vocab_size)
        return decoder.embed(input_ids, self.weights.model.embed_tokens)

    def embed(self, inputs: Inputs) -> Float[Array, "S D"]:
        """Embeddings of the prompt, with the image tokens inserted at their placeholders."""
        inputs = checks.prompt(inputs, self.config)
        ids = inputs.input_ids
        embeds = self.embed_tokens(ids)
        for pixels, grids, placeholder in (
            (inputs.pixel_values, inputs.image_grid_thw, self.config.image_token_id),
            (inputs.pixel_values_videos, inputs.video_grid_thw, self.config.video_token_id),
        ):
            if pixels is None or grids is None:
                continue
            tokens = (self.image_cache or self.image_features)(pixels, grids)
            embeds = decoder.scatter(embeds, ids, placeholder, tokens)
        return embeds

    def decode(
        self,
        embeds: Float[Array, "S D"],
        position_ids: Int[Array, "3 S"],
        cache: ReferenceCache | None = None,
    ) -> Float[Array, "S D"]:
        """The decoder's layers and final norm. Raises UserError if the shapes do not match."""
        embeds = checks.embeddings(embeds, self.config)
        position_ids = checks.positions(position_ids, len(embeds))
        checks.key_value_cache(cache, self.config)
        text, model = self.config.text, self.weights.model
        return decoder.decode(embeds, position_ids, model, text, cache, self._attend)

    def attention_weights(
        self, inputs: Inputs, stage: str, heads: Any = slice(None), rows: Any = slice(None)
    ) -> Float[Array, "A S K"]:
        """Attention weights of one attention stage of a prompt: [heads, queries, keys].

        ``stage`` is ``visual.blocks.N.attn`` (queries and keys are patches, in window order) or
        ``model.layers.N.self_attn`` (tokens). ``heads`` and ``rows`` (query positions) are indices
        or slices. Raises UserError for a stage, head or query that does not exist.
        """
        with trace(*(f"{glob.escape(stage)}.{name}" for name in ("q", "k", "key_ranges"))) as seen:
            self.forward(inputs)
        if not seen:
            raise UserError(f"no attention stage is called {stage}")
        (q,), (k,), (key_ranges,) = (seen[f"{stage}.{name}"] for name in ("q", "k", "key_ranges"))
        k = np.repeat(k, len(q) // len(k), axis=0)
        heads = checks.chosen(heads, len(q), "heads")
        rows = checks.chosen(rows, len(key_ranges), "rows")
        return nn.attention_weights(q[heads][:, rows], k[heads], key_ranges[rows])

    def next_logits(
        self, embeds: Float[Array, "S D"], position_ids: Int[Array, "3 S"], cache: ReferenceCache
    ) -> Float[Array, "V"]:
        """Add tokens to the cache; return the logits of the last, which predict the next token."""
        x = self.decode(embeds, position_ids, cache)
        return decoder.logits(x[-1:], self.weights.lm_head)[0]


def user_message(images: Any, prompt: str) -> list[dict[str, Any]]:
    """One user turn: the images, then the prompt."""
    if images is None:
        images = []
    elif not isinstance(images, (list, tuple)):
        images = [images]
    items: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*items, {"type": "text", "text": prompt}]}]


# ------------------------------------------------------------------ load a checkpoint


def load(
    source: str | os.PathLike | None = None,
    dtype: Any = "float32",
    reference: bool = False,
    plain: bool | None = None,
) -> Model:
    """Load a checkpoint: None for the embedded one, a directory, or a model id on the hub.

    All comparisons use ``dtype`` "float32"; "float64" makes rounding errors negligible.
    ``reference`` selects the reference implementations. Raises UserError if the checkpoint is
    missing, damaged or not supported.
    """
    if plain is not None:
        warn("load(plain=...)", "load(reference=...)")
        reference = plain
    if dtype not in ("float32", "float64", np.float32, np.float64):
        raise UserError(f"dtype {dtype} is not float32 or float64")
    directory = find(source)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory)
    weights = load_weights(directory, config, dtype)
    if len(tokenizer) > config.text.vocab_size:
        raise UserError(f"{directory}: the tokenizer has more tokens than config.json's vocab_size")
    named = {chat.IMAGE_PAD: config.image_token_id, chat.VIDEO_PAD: config.video_token_id}
    for token, number in named.items():
        if tokenizer.token_id(token) != number:
            raise UserError(f"{directory}: tokenizer and config.json disagree on {token}")
    if max(config.eos_token_ids, default=0) >= len(tokenizer):
        raise UserError(
            f"{directory}: the tokenizer has {len(tokenizer)} tokens, fewer than the stop tokens "
            f"{list(config.eos_token_ids)} of the config need; use this checkpoint's own tokenizer"
        )
    if not config.eos_token_ids:
        note(f"{directory}: no file names a stop token; {chat.IM_END} ends an answer")
        config = replace(config, eos_token_ids=(tokenizer.token_id(chat.IM_END),))
    template = load_template(directory)
    return Model(config, weights, tokenizer, template, np.dtype(dtype).type, reference)


def find(source: str | os.PathLike | None, files: Sequence[str] = FILES) -> Path:
    """The directory of a checkpoint; huggingface_hub downloads its ``files`` if needed."""
    if source is None:
        return EMBEDDED
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise UserError(f"a checkpoint is a directory or a hub id, not {kind}")
    name = str(os.fspath(source))
    if os.path.isdir(os.path.expanduser(name)):
        return Path(os.path.expanduser(name)).resolve()
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or os.path.exists(name):
        raise UserError(
            f"{shown(name)} is not a directory; give a checkpoint's directory or hub id"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # network, permission, unknown id: many types
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot download {name} ({reason}); on a machine with network run "
            f"`hf download {name} --local-dir DIR`, then give -m DIR"
        ) from None


old_names(globals())
