"""Run transformers as a witness: same checkpoint, same images, every stage recorded by hooks."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import PIL
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_window_index

VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "pillow": PIL.__version__,
    "numpy": np.__version__,
}


def published_stage(module: str) -> str:
    """Transformers' name of a module in memory -> its path in a published checkpoint."""
    for there, here in (("model.visual", "visual"), ("model.language_model", "model")):
        if module == there or module.startswith(there + "."):
            return here + module[len(there) :]
    return module


class Witness:
    """A checkpoint directory in transformers."""

    def __init__(
        self,
        directory: Path,
        dtype: torch.dtype = torch.float32,
        allowed_names: Collection[str] = (),
    ):
        kind = transformers.AutoModelForImageTextToText
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model, info = kind.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        unexpected = set(info["unexpected_keys"]) - set(allowed_names)
        assert not info["missing_keys"] and not unexpected, info
        self.model.eval()
        self.config = self.model.config

    def pixels(self, images: Sequence[Image.Image], **limits: int) -> tuple[np.ndarray, np.ndarray]:
        """pixel_values [N, P] and image_grid_thw [I, 3] of the PIL path."""
        size = {"shortest_edge": 3136, "longest_edge": 12845056} | limits
        processor = Qwen2VLImageProcessorPil(size=size)
        batch = processor(images=list(images), return_tensors="np")
        return batch["pixel_values"], batch["image_grid_thw"]

    def inputs(self, ids: np.ndarray, pixels: Any = None, grids: Any = None) -> dict[str, Any]:
        """The arguments of a call; without the token types 5.x silently uses 1-D positions."""
        ids = torch.as_tensor(ids)[None]
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pixels is not None:
            arguments["pixel_values"] = torch.as_tensor(pixels).to(self.model.dtype)
            arguments["image_grid_thw"] = torch.as_tensor(grids)
            arguments["mm_token_type_ids"] = (ids == self.config.image_token_id).int()
        return arguments

    @torch.no_grad()
    def conversation(self, inputs: Any) -> np.ndarray:
        """Logits of prepared inputs with images and videos, at the positions given in them."""
        arguments = self.inputs(inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw)
        if inputs.pixel_values_videos is not None:
            videos = torch.as_tensor(inputs.pixel_values_videos).to(self.model.dtype)
            types = 2 * (arguments["input_ids"] == self.config.video_token_id).int()
            arguments["mm_token_type_ids"] = arguments.get("mm_token_type_ids", 0) + types
            arguments["pixel_values_videos"] = videos
            arguments["video_grid_thw"] = torch.as_tensor(inputs.video_grid_thw)
        arguments["position_ids"] = torch.as_tensor(inputs.position_ids)[:, None]
        return self.model(**arguments).logits[0].numpy()

    @contextmanager
    def _recording(self) -> Iterator[dict[str, np.ndarray]]:
        """Hooks on every module: published stage name -> its last output."""
        found: dict[str, np.ndarray] = {}

        def hook(name: str):
            def keep(_module, _arguments, output):
                output = getattr(output, "pooler_output", output)
                output = output[0] if isinstance(output, tuple) else output
                if isinstance(output, torch.Tensor):
                    batched = output.dim() == 3 and output.shape[0] == 1
                    found[published_stage(name)] = output[0].numpy() if batched else output.numpy()

            return keep

        hooks = [m.register_forward_hook(hook(n)) for n, m in self.model.named_modules() if n]
        try:
            yield found
        finally:
            for handle in hooks:
                handle.remove()

    @torch.no_grad()
    def stages(
        self, ids: np.ndarray, pixels: Any = None, grids: Any = None
    ) -> dict[str, np.ndarray]:
        """One forward pass: the output of every module, and the tensors that no module owns."""
        arguments = self.inputs(ids, pixels, grids)
        with self._recording() as found:
            found["logits"] = self.model(**arguments).logits[0].numpy()
        if pixels is not None:
            found["model.position_ids"] = self.position_ids(arguments)
            found.update(self.geometry(grids))
        return found

    @torch.no_grad()
    def vision_encoder(self, pixels: np.ndarray, grids: np.ndarray) -> dict[str, np.ndarray]:
        """The vision encoder alone, whatever the grid."""
        pixels = torch.as_tensor(pixels).to(self.model.dtype)
        with self._recording() as found:
            self.model.model.visual(pixels, grid_thw=torch.as_tensor(grids))
        return {**found, **self.geometry(grids)}

    def geometry(self, grids: np.ndarray) -> dict[str, np.ndarray]:
        """Window order and boundaries; nothing in Qwen2-VL."""
        if self.config.model_type != "qwen2_5_vl":
            return {}
        vision = self.config.vision_config
        sizes = vision.spatial_merge_size, vision.window_size, vision.patch_size
        index, boundaries = get_vision_window_index(torch.as_tensor(grids), *sizes)
        return {
            "visual.window_index": index.numpy(),
            "visual.cu_window_seqlens": boundaries.numpy(),
        }

    def position_ids(self, arguments: dict[str, Any]) -> np.ndarray:
        """[3, S] of ``get_rope_index``."""
        names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
        positions, _ = self.model.model.get_rope_index(**{n: arguments[n] for n in names})
        return positions[:, 0].numpy()

    @torch.no_grad()
    def generate(
        self,
        ids: np.ndarray,
        pixels: Any = None,
        grids: Any = None,
        n: int = 32,
        penalty: float = 1.0,
    ) -> list[int]:
        """``n`` greedy ids, going on past any stop token."""
        out = self.model.generate(
            **self.inputs(ids, pixels, grids),
            max_new_tokens=n,
            min_new_tokens=n,
            do_sample=False,
            eos_token_id=None,
            repetition_penalty=penalty,
        )
        return out[0, len(ids) :].tolist()
