"""Recognise directories of fine-tuning that cannot be loaded: what each is, and what to do.

The names of files and tensors identify each kind. transformers (with peft) applies adapters. If
tensor names do not match, it keeps random weights and only logs a warning.
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
PREFIXES = {  # prefix of all names -> the tool that adds it
    "base_model.model.": "peft",
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel, DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module.": "FSDP",
    "thinker.": "Qwen2.5-Omni, another model,",
}


def refuse_adapter(directory: Path) -> None:
    """Raise UserError for a PEFT adapter, alone or next to a model."""
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
            f"{directory} has an adapter ({kind}){more} next to a model, and adapters are not "
            f"supported: {MERGE}, or move adapter_config.json away to load the model without it"
        )
    raise UserError(
        f"{directory} is an adapter ({kind}){more} of {base}, and adapters are not supported: "
        f"{MERGE}, and load that directory"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def other_directory(directory: Path) -> str | None:
    """The kind of a directory without config.json or without weights; None if unknown.

    Examples are weights of other programs, and training states that are not checkpoints yet.
    """

    def first(*patterns: str) -> str | None:
        found = sorted(p.name for pattern in patterns for p in directory.glob(pattern))
        return found[0] if found else None

    if name := first("*.gguf"):
        return f"{name} is GGUF, for llama.cpp; use the safetensors checkpoint it was made from"
    if name := first("zero_to_fp32.py", "global_step*", "mp_rank_*", "*zero_pp_rank_*"):
        return (
            f"{name} comes from DeepSpeed training: run `python zero_to_fp32.py . NEW "
            "--safe_serialization` there, and copy the other files to NEW"
        )
    if name := first("*.distcp", "pytorch_model_fsdp*", "__*_0.distcp"):
        return (
            f"{name} is a shard of FSDP training: run `accelerate merge-weights {directory} "
            "NEW`, and copy the other files to NEW"
        )
    if name := first("pytorch_model*.bin", "*.bin", "*.pt", "*.pth"):
        return f"{name} is a torch pickle, which is never loaded; " + CONVERT.format(directory)
    if name := first("model-*-of-*.safetensors"):
        return f"it has {name}, but not model.safetensors.index.json; fetch that too"
    if name := first("checkpoint-*"):
        return f"it contains training checkpoints; load one of them, such as {name}"
    return None


def explain_names(directory: Path, found: Collection[str], quantised: str = "") -> None:
    """Raise UserError if the tensor names show that a file is not a plain model."""
    inside = next((n for n in found if any(part in n for part in ADAPTER_PARTS)), None)
    if inside:
        raise UserError(
            f"{directory}: {inside} belongs to an adapter that was saved inside the model; {MERGE}"
        )
    for prefix, who in PREFIXES.items():
        if found and all(name.startswith(prefix) for name in found):
            raise UserError(
                f"{directory}: all tensor names begin with {prefix} which {who} adds; save the "
                "inner model, or rewrite the file without that prefix"
            )
    if name := next((n for n in found if n.endswith(QUANTISED_PARTS)), None):
        raise quantised_error(directory, name, "belongs to quantised weights", quantised)
    visual = {name for name in found if name.startswith("visual.")}
    if found and not visual:
        raise UserError(
            f"{directory}: the weights contain only the text model, without the vision encoder; "
            "use the whole model"
        )
    if found and len(visual) == len(found):
        raise UserError(
            f"{directory}: the weights contain only the vision encoder, without the text model; "
            "use the whole model"
        )


def quantised_error(directory: Path, name: str, how: str, method: str) -> UserError:
    """The error for a quantised tensor."""
    kind = f" ({method})" if method else ""
    return UserError(
        f"{directory}: the checkpoint is quantised{kind}: {name} {how}; take the unquantised one"
    )
