"""Directories that fine-tuning leaves and that are not read: what each is, and what to do about it.

Each is told by names of files or tensors alone. transformers (with peft) applies adapters; of
tensors under other names it makes a model of random numbers, and only says so in its log.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .errors import UserError

MERGE = "merge it into its model (peft: merge_and_unload, then save_pretrained)"
CONVERT = (
    'convert it: python -c "from transformers import AutoModelForImageTextToText as M; '
    "M.from_pretrained('{0}').save_pretrained('NEW')\", then copy the other files to NEW"
)
ADAPTER_PARTS = (".lora_", "lora_magnitude_vector", ".modules_to_save.", ".base_layer.")
QUANTISED_PARTS = (
    ".qweight", ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv",
    ".weight_packed", ".absmax", ".quant_map", ".quant_state", ".SCB", ".biases",
)  # fmt: skip
PREFIXES = {  # of all names, and who adds it
    "base_model.model.": "peft",
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel, DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
    "thinker.": "Qwen2.5-Omni, another model,",
}


def refuse_adapter(directory: Path) -> None:
    """Raises UserError for an adapter of PEFT, alone or beside a model."""
    path = directory / "adapter_config.json"
    if not path.exists():
        return
    about = _json(path)
    kind, base = about.get("peft_type", "PEFT"), about.get("base_model_name_or_path")
    kind, base = str(kind)[:40], str(base or "its model")[:200]
    saved = about.get("modules_to_save")
    more = f" (with its own {', '.join(map(str, saved))[:100]})" if isinstance(saved, list) else ""
    if any((directory / n).exists() for n in ("config.json", "model.safetensors")):
        raise UserError(
            f"{directory} holds an adapter ({kind}){more} beside a model, and adapters are not "
            f"applied here: {MERGE}, or move adapter_config.json away to load the model without it"
        )
    raise UserError(
        f"{directory} is an adapter ({kind}){more} of {base}, and adapters are not applied here: "
        f"{MERGE}, and give that directory"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def other_directory(directory: Path) -> str | None:
    """What a directory without config.json, or without weights, is; None where that is not known.

    The weights of other programs, and the states of a training that are no checkpoint yet.
    """

    def first(*patterns: str) -> str | None:
        found = sorted(p.name for pattern in patterns for p in directory.glob(pattern))
        return found[0] if found else None

    if name := first("*.gguf"):
        return f"{name} is GGUF, of llama.cpp; take the safetensors checkpoint it was made of"
    if name := first("zero_to_fp32.py", "global_step*", "mp_rank_*", "*zero_pp_rank_*"):
        return (
            f"{name} is of a DeepSpeed training: run `python zero_to_fp32.py . NEW "
            "--safe_serialization` there, and copy the other files to NEW"
        )
    if name := first("*.distcp", "pytorch_model_fsdp*", "__*_0.distcp"):
        return (
            f"{name} is of an FSDP training, in parts: run `accelerate merge-weights {directory} "
            "NEW`, and copy the other files to NEW"
        )
    if name := first("pytorch_model*.bin", "*.bin", "*.pt", "*.pth"):
        return f"{name} is a pickle of torch, which is never loaded; " + CONVERT.format(directory)
    if name := first("model-*-of-*.safetensors"):
        return f"it has {name}, but not model.safetensors.index.json; fetch that too"
    if name := first("checkpoint-*"):
        return f"it holds the checkpoints of a training; give one of them, such as {name}"
    return None


def explain_names(directory: Path, found: Collection[str], quantised: str = "") -> None:
    """Raises UserError where the names of the tensors show what a file is, if it is not a model."""
    inside = next((n for n in found if any(part in n for part in ADAPTER_PARTS)), None)
    if inside:
        raise UserError(
            f"{directory}: {inside} is of an adapter that was saved inside the model; {MERGE}"
        )
    for prefix, who in PREFIXES.items():
        if found and all(name.startswith(prefix) for name in found):
            raise UserError(
                f"{directory}: all names of tensors begin with {prefix} which {who} adds; save the "
                "model itself (the one inside), or write the file again without that prefix"
            )
    if name := next((n for n in found if n.endswith(QUANTISED_PARTS)), None):
        raise quantised_error(directory, name, "belongs to quantised weights", quantised)
    visual = {name for name in found if name.startswith("visual.")}
    if found and not visual:
        raise UserError(
            f"{directory}: the weights hold the text model alone, without the vision encoder; take "
            "the whole model"
        )
    if found and len(visual) == len(found):
        raise UserError(
            f"{directory}: the weights hold the vision encoder alone, without the text model; take "
            "the whole model"
        )


def quantised_error(directory: Path, name: str, how: str, method: str) -> UserError:
    """The error for a tensor that is not a plain weight."""
    kind = f" ({method})" if method else ""
    return UserError(
        f"{directory}: the checkpoint is quantised{kind}: {name} {how}; take the unquantised one"
    )
