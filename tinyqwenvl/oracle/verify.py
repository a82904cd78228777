"""A published checkpoint, here against transformers: the same images, ids, stages and answers.

Needs torch and transformers (the extra ``hf``), and for a checkpoint on the hub a network.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import __version__
from ..checkpoint import parameter_count
from ..cli import note
from ..config import load_config, read_json
from ..errors import UserError
from ..model import ASSETS, FILES, Inputs, Model, find, load, user_message
from .diff import Verdict, compare
from .readers import open_dump
from .record import SMALL, Job, record

IMAGES = tuple(f"{name}.png" for name in ("scene", "pair", "many", "tall", "wide"))
PROMPT = "describe"
STAGES = (  # whole blocks: all stages of a large model would fill a disk
    "visual", "visual.patch_embed", "visual.blocks.[0-9]", "visual.blocks.[0-9][0-9]",
    "visual.merger", "visual.window_index", "model.position_ids", "model.inputs_embeds",
    "model.layers.[0-9]", "model.layers.[0-9][0-9]", "model.norm", "lm_head",
)  # fmt: skip
MOST_PIXELS = 200_000


@dataclass
class ComparedImage:
    """What was found for one image."""

    name: str
    tokens: int
    pixels_equal: bool
    ids_equal: bool
    stages: int  # compared
    worst: Verdict  # the one that uses most of its tolerance
    first: str | None  # the first stage that differs
    answers: tuple[list[int], list[int]]  # ours, theirs

    @property
    def good(self) -> bool:
        """Whether all of it is equal, or agrees."""
        same = self.answers[0] == self.answers[1]
        return self.pixels_equal and self.ids_equal and self.first is None and same


@dataclass
class Verification:
    """A shareable report."""

    model: str
    revision: str
    files: dict[str, str]  # name -> SHA-256
    versions: dict[str, str]
    images: list[ComparedImage]

    @property
    def good(self) -> bool:
        """Whether every image is."""
        return all(image.good for image in self.images)

    def as_text(self) -> str:
        """In Markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [
            f"# {self.model} in tinyqwenvl and in transformers",
            "",
            f"Revision {self.revision}. {versions}. float32, at most {MOST_PIXELS:,} pixels.",
            "",
            "| image | tokens | pixels | ids | stages | worst stage | NMSE | first wrong "
            "| answers |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for p in self.images:
            far = f"{p.worst.distance.nmse:.1e}" if p.worst.distance else "-"
            words = ["equal" if same else "DIFFER" for same in (p.pixels_equal, p.ids_equal)]
            same = sum(1 for a, b in zip(*p.answers, strict=True) if a == b)
            lines.append(
                f"| {p.name} | {p.tokens} | {words[0]} | {words[1]} | {p.stages} | {p.worst.name} "
                f"| {far} | {p.first or 'none'} | {same} of {len(p.answers[1])} ids equal |"
            )
        lines += ["", "| file | SHA-256 |", "|---|---|"]
        lines += [f"| {name} | {digest} |" for name, digest in self.files.items()]
        verdict = "all agree" if self.good else "NOT all agree"
        return "\n".join([*lines, "", f"{len(self.images)} images: {verdict}", ""])


def verify(model_id: str, revision: str | None = None, tokens: int = 16) -> Verification:
    """Compare a checkpoint's directory or hub id, at a revision, on the five bundled images."""
    if not 1 <= tokens <= 1000:
        raise UserError(f"{tokens} tokens: give a number from 1 to 1,000")
    directory, pinned = _fetch(model_id, revision)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        prepared = _prepare(directory)
        theirs = _run_transformers(directory, prepared, scratch, tokens)
        images = _run_ours(directory, theirs, scratch, tokens)
    versions = {"tinyqwenvl": __version__, **_versions()}
    return Verification(model_id, pinned, _digests(directory), versions, images)


def _fetch(name: str, revision: str | None) -> tuple[Path, str]:
    """The directory, and the revision it is of."""
    if os.path.isdir(os.path.expanduser(name)):
        if revision:
            raise UserError("a directory has no --revision")
        return find(name), "of a directory"
    try:
        from huggingface_hub import HfApi, snapshot_download

        pinned = HfApi().model_info(name, revision=revision).sha or "unknown"
        local = snapshot_download(name, revision=pinned, allow_patterns=list(FILES))
        return Path(local), pinned
    except Exception as error:  # network, permission, unknown id: the library has many
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"cannot get {name} ({reason}); give a directory, or try later") from None


def _digests(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _versions() -> dict[str, str]:
    import PIL
    import torch
    import transformers

    return {
        "transformers": transformers.__version__, "torch": torch.__version__,
        "numpy": np.__version__, "pillow": PIL.__version__,
    }  # fmt: skip


# ------------------------------------------------------------------ one side after the other


def _job(name: str, tokens: int = 0) -> Job:
    path = str(ASSETS / "images" / name)
    return Job(user_message(path, PROMPT), tokens=tokens, options={"max_pixels": MOST_PIXELS})


def _prepare(directory: Path) -> dict[str, Inputs]:
    """Our inputs of every image."""
    model = load(directory)
    jobs = {name: _job(name) for name in IMAGES}
    return {n: model.prepare(job.messages or [], **job.options) for n, job in jobs.items()}


def _run_transformers(
    directory: Path, prepared: dict[str, Inputs], scratch: Path, tokens: int
) -> dict[str, tuple[bool, bool, list[int]]]:
    """Dumps of transformers; name -> (pixels equal, ids equal, greedy ids)."""
    try:
        import torch
        import transformers
        from transformers import AutoModelForImageTextToText
    except ImportError:
        raise UserError(
            'verify needs torch and transformers: pip install "tinyqwenvl[hf]"'
        ) from None
    from .torch import instrument

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    note("reading the checkpoint in transformers")
    load_model = AutoModelForImageTextToText.from_pretrained
    model = load_model(directory, **_dtype(transformers.__version__, torch.float32)).eval()
    found = {}
    for name, inputs in prepared.items():
        note(f"{name} in transformers")
        arguments, equal = _arguments(directory, name, inputs, model)
        kept = list(STAGES)
        with torch.no_grad():
            with instrument(model, scratch / f"{name}.hf.safetensors", kept, inputs=False):
                model(**arguments)
            out = model.generate(
                **arguments, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                repetition_penalty=1.0, eos_token_id=None,
            )  # fmt: skip
        found[name] = (*equal, out[0, len(inputs.input_ids) :].tolist())
    del model
    gc.collect()
    return found


def _dtype(version: str, dtype: Any) -> dict[str, Any]:
    """transformers calls it torch_dtype before 4.56."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    return {"dtype": dtype} if numbers >= (4, 56) else {"torch_dtype": dtype}


def _arguments(
    directory: Path, name: str, inputs: Inputs, model: Any
) -> tuple[dict[str, Any], tuple[bool, bool]]:
    """The arguments of transformers' model, from its own processor and tokenizer."""
    import torch

    pixels, grids = _their_pixels(directory, name)
    ids = _their_ids(directory, int(np.prod(grids)) // 4)
    ours, grid = np.asarray(inputs.pixel_values), np.asarray(inputs.image_grid_thw)
    same = np.array_equal(pixels, ours) and np.array_equal(grids, grid)
    equal = same, ids == inputs.input_ids.tolist()
    tensor = torch.tensor(inputs.input_ids)[None]
    arguments: dict[str, Any] = {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}
    arguments |= {"pixel_values": torch.tensor(ours), "image_grid_thw": torch.tensor(grid)}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        # without these, 5.x silently counts image tokens like text
        arguments["mm_token_type_ids"] = (tensor == model.config.image_token_id).int()
    return arguments, equal


def _their_pixels(directory: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Patches and grid by the image processor that works on Pillow's images."""
    import transformers

    module: Any = transformers.models.qwen2_vl
    if hasattr(module, "image_processing_pil_qwen2_vl"):
        processor = module.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil
    else:  # before 5.x
        processor = transformers.Qwen2VLImageProcessor
    limits = load_config(directory).processor.limits(None, MOST_PIXELS)
    image = Image.open(ASSETS / "images" / name).convert("RGB")
    made: Any = processor(min_pixels=limits[0], max_pixels=limits[1])
    batch = made(images=[image], return_tensors="np")
    return np.asarray(batch["pixel_values"]), np.asarray(batch["image_grid_thw"])


def _their_ids(directory: Path, count: int) -> list[int]:
    """The prompt by their tokenizer and the checkpoint's template."""
    from transformers import AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    settings, _ = ProcessorMixin.get_processor_dict(directory)  # chooses among the files
    template = settings.get("chat_template")
    if isinstance(template, dict):
        template = template["default"]
    if template is None:  # without one, ours is the published template
        template = read_json(ASSETS / "checkpoint" / "chat_template.json")["chat_template"]
    items = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": items}], chat_template=template, tokenize=False,
        add_generation_prompt=True,
    )  # fmt: skip
    return tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count))["input_ids"]


def _run_ours(
    directory: Path, theirs: dict[str, tuple[bool, bool, list[int]]], scratch: Path, tokens: int
) -> list[ComparedImage]:
    """Our dumps and answers, compared."""
    model = load(directory)
    floors = ("float32",) if parameter_count(model.config) <= SMALL else ()
    images = []
    for name, (pixels_equal, ids_equal, their_ids) in theirs.items():
        note(f"{name} here")
        job = _job(name)
        path = scratch / "ours.safetensors"
        reference = record(model, job, path, STAGES, inputs=False, floors=floors)
        found = compare(reference, open_dump(scratch / f"{name}.hf.safetensors"), "float32")
        prepared = model.prepare(job.messages or [], **job.options)
        endless = _without_end(model)
        images.append(
            ComparedImage(
                name,
                len(prepared.input_ids),
                pixels_equal,
                ids_equal,
                len(found.compared),
                max(found.compared, key=_strain),
                found.first.name if found.first else None,
                (list(endless.generate(prepared, tokens)), their_ids),
            )
        )
    return images


def _without_end(model: Model) -> Model:
    return replace(model, config=replace(model.config, eos_token_ids=()))


def _strain(verdict: Verdict) -> float:
    """How much of its tolerance a stage uses."""
    if verdict.distance is None or verdict.band is None:
        return 0.0
    return verdict.distance.nmse / max(verdict.band[0], 1e-300)
