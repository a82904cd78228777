"""Tensors of transformers' Qwen2-VL and Qwen2.5-VL that hooks miss: geometry, positions, masks.

Each tensor is taken where the installed version computes or uses it, and passed to the recorder of
:mod:`.torch` under our name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .stages import BEGINNINGS, canonical

try:
    import torch
except ImportError:  # nothing here runs without it
    torch = None  # type: ignore[assignment]

VISION_ENCODERS = (
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
)
TEXTS = ("Qwen2VLTextModel", "Qwen2_5_VLTextModel")
MODELS = ("Qwen2VLModel", "Qwen2_5_VLModel")  # with the vision encoder; up to 4.51 the text model
WHOLES = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
# From 5.24 on, the output of a whole model holds that of its vision encoder once more.
ENCODER_FIELDS = ("image_outputs", "video_outputs", "audio_outputs")
CACHES = ("cache", "past_key_values")  # the KV cache as an argument: from 5.24 on, and before


def is_a(module: Any, names: Sequence[str]) -> bool:
    """Whether a module's class is one of these, or derived from one."""
    return any(kind.__name__ in names for kind in type(module).__mro__)


def watch_family(recorder: Any, model: Any, names: Sequence[tuple[str, Any]]) -> None:
    """Record the vision encoders and language models of transformers anywhere in a module tree.

    Written for 4.51 to 5.24. Between these, each tensor was last seen where it is taken below.
    """
    whole = next((m for _, m in names if is_a(m, WHOLES + MODELS)), None)
    prompt = _Prompt(recorder, whole) if whole is not None else None
    for name, module in names:
        if is_a(module, VISION_ENCODERS):
            _Encoder(recorder, module, name, alone=whole is None)
        elif is_a(module, TEXTS + MODELS) and hasattr(module, "layers"):
            _Text(recorder, module, name, prompt)
        if is_a(module, WHOLES + MODELS) and hasattr(module, "get_rope_index"):
            observe = functools.partial(_observe_delta, recorder)
            recorder.stack.enter_context(_wrapped(vars(module), "get_rope_index", module, observe))


@contextmanager
def _wrapped(
    space: dict[str, Any], name: str, holder: Any, observe: Callable[[Any], None]
) -> Iterator[None]:
    """Pass the results of the function ``name`` to ``observe``; ``space`` gets its wrapper.

    ``holder`` has the function if ``space`` does not: an object whose class defines it.
    """
    there = name in space
    original = space[name] if there else getattr(holder, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        observe(result)
        return result

    space[name] = call
    try:
        yield
    finally:
        if there:
            space[name] = original
        else:
            del space[name]


def _observe_delta(recorder: Any, result: Any) -> None:
    delta = result[1]
    recorder.observe("model.rope_delta", delta, delta.reshape(()) if delta.numel() == 1 else delta)


class _Prompt:
    """The inputs of a whole model's run, and whether its positions account for images."""

    def __init__(self, recorder: Any, model: Any):
        self.recorder, self.model = recorder, model
        self.images = False  # whether this call has images
        self.wants_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        self.lacks_types = False
        recorder.before(model, self.begin)

    def begin(self, given: dict[str, Any]) -> None:
        """The arguments of the whole model."""
        images = [given.get(name) for name in ("image_grid_thw", "video_grid_thw")]
        pixels = [given.get(name) for name in ("pixel_values", "pixel_values_videos")]
        self.images = any(
            p is not None and g is not None and bool((g[:, 1:] > 2).any())
            for p, g in zip(pixels, images, strict=True)
        )
        self.lacks_types = self.wants_types and given.get("mm_token_type_ids") is None
        for name in BEGINNINGS:
            if isinstance(tensor := given.get(name), torch.Tensor) and name != "input_ids":
                self.recorder.observe(name, tensor, once=True)
        if isinstance(ids := given.get("input_ids"), torch.Tensor):
            cache = next((c for name in CACHES if (c := given.get(name)) is not None), None)
            past = cache.get_seq_length() if cache is not None else 0
            name = "generated" if past and ids.shape == (1, 1) else "input_ids"
            self.recorder.observe(name, ids, ids[0] if len(ids) == 1 else ids, once=True)

    def check(self, positions: Any) -> None:
        """Positions [3, ...]: with images, the three rows differ."""
        if self.images and bool((positions == positions[:1]).all()):
            why = "mm_token_type_ids was not given, " if self.lacks_types else ""
            self.recorder.note(
                f"model.position_ids are 1-D although there are images: {why}so the model did not "
                "locate them; do not use this dump as a reference for a prompt with images"
            )


class _Text:
    """A language model: positions, embeddings and masks, where its parts receive them."""

    def __init__(self, recorder: Any, text: Any, stage: str, prompt: _Prompt | None):
        self.recorder, self.prompt = recorder, prompt
        self.stage = canonical(f"{stage}.position_ids").removesuffix(".position_ids")
        recorder.before(text.rotary_emb, self.rotary)
        for i, layer in enumerate(text.layers):
            recorder.before(layer, functools.partial(self.layer, i))

    def rotary(self, given: dict[str, Any]) -> None:
        """``rotary_emb(inputs_embeds, position_ids)``, positions being [3 or 1, B, S]."""
        positions, embeds = given.get("position_ids"), given.get("x")
        self.recorder.observe(f"{self.stage}.inputs_embeds", embeds)
        if not isinstance(positions, torch.Tensor) or positions.dim() != 3:
            return
        three = positions[-3:].expand(3, -1, -1)  # a fourth row would come first, for masks
        if self.prompt is not None:
            self.prompt.check(three)
        shown = three[:, 0] if three.shape[1] == 1 else three
        self.recorder.observe(f"{self.stage}.position_ids", positions, shown)

    def layer(self, number: int, given: dict[str, Any]) -> None:
        """The input of a layer: a mask [B, 1, S, K], if there is one."""
        mask = given.get("attention_mask")
        if isinstance(mask, torch.Tensor):
            shown = mask[0, 0] if mask.dim() == 4 and mask.shape[:2] == (1, 1) else mask
            name = f"{self.stage}.layers.{number}.self_attn.mask"
            self.recorder.observe(name, mask, shown, once=True)


class _Encoder:
    """A vision encoder: window order, sequence boundaries and angles.

    A method computes the order up to 4.57, a function of the vision encoder's module in 5.24. The
    angles come from a method up to 4.57. 5.24 computes only their cosines and sines, so we compute
    the angles from the same positions and frequencies. The boundaries are those of the blocks.
    """

    def __init__(self, recorder: Any, vision_encoder: Any, stage: str, alone: bool):
        self.recorder, self.vision_encoder, self.stage, self.alone = (
            recorder,
            vision_encoder,
            stage,
            alone,
        )
        self.begun = False
        self.index: Any = None
        self.angles: Any = None
        self.seen: set[str] = set()
        recorder.before(vision_encoder, self.begin)
        enter = recorder.stack.enter_context
        own, around = vars(vision_encoder), inspect.unwrap(type(vision_encoder).forward).__globals__
        if hasattr(vision_encoder, "get_window_index"):
            enter(_wrapped(own, "get_window_index", vision_encoder, self.window))
        elif "get_vision_window_index" in around:
            enter(_wrapped(around, "get_vision_window_index", vision_encoder, self.window))
        if hasattr(vision_encoder, "rot_pos_emb"):
            enter(_wrapped(own, "rot_pos_emb", vision_encoder, self.keep_angles))
        else:
            recorder.before(vision_encoder.rotary_pos_emb, self.rotary)
        for i, block in enumerate(vision_encoder.blocks):
            recorder.before(block, functools.partial(self.block, i))

    def begin(self, given: dict[str, Any]) -> None:
        """A call of the vision encoder."""
        self.begun, self.index, self.angles, self.seen = True, None, None, set()
        if self.alone:
            self.recorder.observe("pixel_values", given.get("hidden_states"), once=True)
            self.recorder.observe("image_grid_thw", given.get("grid_thw"), once=True)

    def window(self, result: Any) -> None:
        """(order of the tokens, boundaries of the windows)."""
        if self.begun and self.index is None:
            self.index = result[0]
            self.recorder.observe(f"{self.stage}.window_index", self.index)

    def keep_angles(self, angles: Any) -> None:
        """[N, d / 2], in merge order."""
        self.angles = angles

    def rotary(self, given: dict[str, Any]) -> None:
        """(row, column) of every patch: angles are their products with the frequencies."""
        if isinstance(positions := given.get("position_ids"), torch.Tensor):
            frequencies = self.vision_encoder.rotary_pos_emb.inv_freq.to(
                positions.device, torch.float32
            )
            self.angles = (positions[..., None].float() * frequencies).flatten(1)

    def block(self, number: int, given: dict[str, Any]) -> None:
        """The inputs of a block; each kind of boundaries is written once per encoder call."""
        if self.angles is not None:
            self.show_angles(given.get("position_embeddings"))
        everywhere = getattr(
            self.vision_encoder, "fullatt_block_indexes", range(len(self.vision_encoder.blocks))
        )
        name = "cu_seqlens" if number in everywhere else "cu_window_seqlens"
        if name not in self.seen:
            self.seen.add(name)
            self.recorder.observe(f"{self.stage}.{name}", given.get("cu_seqlens"))

    def show_angles(self, used: Any) -> None:
        """The angles in the order of the blocks; ``used`` are the cosines and sines [N, d]."""
        angles, self.angles = self.angles, None
        if self.index is not None:
            blocks = angles.reshape(len(self.index), -1, angles.shape[-1])
            angles = blocks[self.index.to(angles.device)].reshape(angles.shape)
        self.recorder.observe(f"{self.stage}.rotary_angles", angles)
        if isinstance(used, tuple):
            cosines = used[0][..., : angles.shape[-1]].float()
            if not torch.allclose(cosines, angles.float().cos(), atol=1e-2):
                self.recorder.note(f"{self.stage}.rotary_angles differ from the blocks' own")
