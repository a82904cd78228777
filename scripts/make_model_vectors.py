"""Regenerate tinyqwenvl/vectors/v1/models: every stage of small models, by transformers.

    pip install -c constraints.txt ".[hf]" && python -m scripts.make_model_vectors [CASE ...]

Run it after scripts.make_vectors, then ``python -m scripts.make_kills``. Prompts come from the
published template (rendered by transformers), pixels from its image processor, all stages from its
modules in float32. Videos are run at our positions: those of the unit vectors, whose witness is
transformers 4.51.3, for 5.x is wrong after videos. Noise floors are measured with our float64.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import (
    random_image,
    random_weights,
    tiny_config,
    with_images,
    write_checkpoint,
)
from scripts.witness import VERSIONS, Witness
from tinyqwenvl.checkpoint import write_safetensors
from tinyqwenvl.model import EMBEDDED, Inputs, Model
from tinyqwenvl.oracle.dump import Dump, Writer
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import (
    MEASURED,
    Job,
    fingerprint,
    measure_floors,
    messages_as_json,
    record,
)
from tinyqwenvl.oracle.torch import instrument

FOLDER = Path(__file__).parents[1] / "tinyqwenvl" / "vectors" / "v1" / "models"
IMAGES = [[135, 148], [70, 84], [60, 50]]  # ragged windows; two and a half blocks; a square
CONTENT = [
    {"text": "a "}, {"image": 0}, {"text": " b "}, {"image": 1}, {"image": 2}, {"text": " c?"},
]  # fmt: skip
FRAMES, RATE = [9, 56, 84], 1.5  # 5 temporal grids, a fractional number of seconds each
LARGE = 2.0**17  # times the last block's MLP: beyond what float16 holds

CASES: dict[str, dict[str, Any]] = {
    "qwen2_5_vl-pictures": {
        "pins": "Three pictures between words, windows cut at edges, twelve steps of decoding.",
        "content": CONTENT, "pictures": IMAGES, "tokens": 12,
    },
    "qwen2_vl-pictures": {
        "pins": "The same for Qwen2-VL: LayerNorm, QuickGELU, no windows.",
        "content": CONTENT, "pictures": IMAGES, "tokens": 12,
    },
    "qwen2_5_vl-video": {
        "pins": "Nine frames (made ten) at 1.5 a second, then words: absolute time.",
        "content": [{"text": "a "}, {"video": 0}, {"text": " b c d e f?"}],
    },
    "qwen2_5_vl-mixed": {
        "pins": "A picture and a clip in one prompt: the tokens of both are inserted.",
        "content": [{"text": "a "}, {"image": 0}, {"text": " b "}, {"video": 0}, {"text": " c?"}],
        "pictures": [[50, 60]], "frames": 2,
    },
    "qwen2_vl-video": {
        "pins": "The same for Qwen2-VL: a temporal grid is one step.",
        "content": [{"text": "a "}, {"video": 0}, {"text": " b c d e f?"}],
    },
    "qwen2_5_vl_large-picture": {
        "pins": "The last vision block gives numbers beyond what float16 holds.",
        "content": [{"image": 0}, {"text": " what?"}], "pictures": [[60, 84]],
    },
}  # fmt: skip

# Every block in brief, the first of each kind with its norms and projections.
STAGES = re.compile(
    r"pixel_values(_videos)?|(image|video)_grid_thw|input_ids|generated|second_per_grid_ts|visual"
    r"|visual\.(patch_embed|window_index|cu_seqlens|cu_window_seqlens|rotary_angles)"
    r"|visual\.merger(\.ln_q|\.mlp\.[02])?"
    r"|visual\.blocks\.\d+(\.attn|\.mlp)?|visual\.blocks\.0\.(norm[12]|attn\.(qkv|proj))"
    r"|model\.(inputs_embeds|position_ids|norm|layers\.\d+(\.self_attn|\.mlp)?)"
    r"|model\.layers\.0\.(.*norm|self_attn\.[qkvo]_proj)"
    r"|model\.rope_delta|lm_head"
)
STEPS = re.compile(r"generated|lm_head|model\.(position_ids|inputs_embeds|layers\.\d+)")
BRIEF = re.compile(
    r"pixel_values|image_grid_thw|input_ids|visual|visual\.(window_index|merger|blocks\.3(\.mlp)?)"
)

MIXED = re.compile(
    r"pixel_values(_videos)?|(image|video)_grid_thw|input_ids|second_per_grid_ts|visual"
    r"|model\.(inputs_embeds|position_ids|layers\.2)"
)


def checkpoints() -> None:
    """A small checkpoint of each family, and one whose last vision block is large."""
    for name in ("qwen2_5_vl", "qwen2_vl", "qwen2_5_vl_large"):
        raw = tiny_config(name.removesuffix("_large"))
        directory = write_checkpoint(FOLDER / name, raw, seed=7)
        template = (EMBEDDED / "chat_template.json").read_text(encoding="utf-8")
        (directory / "chat_template.json").write_text(template, encoding="utf-8")
        if name.endswith("_large"):
            flat = random_weights(raw, 7)
            flat["visual.blocks.3.mlp.down_proj.weight"] *= LARGE
            write_safetensors(directory / "model.safetensors", flat, bfloat16=True)


def prompt_ids(directory: Path, messages: list[dict], counts: dict[str, list[int]]) -> np.ndarray:
    """The published template rendered by transformers, placeholders repeated, and encoded."""
    backend = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    text = backend.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    for pad, tokens in counts.items():
        parts = text.split(pad)
        repeated = [pad * count for count in tokens] + [""]
        text = "".join(a + b for a, b in zip(parts, repeated, strict=True))
    return np.array(backend(text)["input_ids"])


def job_of(case: dict[str, Any], model: Model) -> Job:
    """The case's prompt."""
    images = [random_image(30 + i, *size) for i, size in enumerate(case.get("pictures", ()))]
    content = with_images(case["content"], images)
    frames = [random_image(60 + i, *FRAMES[1:]) for i in range(case.get("frames", FRAMES[0]))]
    clip = {"video": frames, "fps": RATE, "min_pixels": 3136, "max_pixels": 16_000}
    content = [clip if "video" in item else item for item in content]
    content = [{"type": "text", **item} if "text" in item else item for item in content]
    return Job([{"role": "user", "content": content}], tokens=case.get("tokens", 0))


def in_hf(job: Job) -> list[dict[str, Any]]:
    """Messages whose images and videos are only named, for the template."""
    kinds = ("image", "video", "text")
    items = [
        {"type": "text", "text": item["text"]} if "text" in item else
        {"type": next(kind for kind in kinds if kind in item)}
        for item in job.messages[0]["content"]
    ]  # fmt: skip
    return [{"role": "user", "content": items}]


def witness_inputs(directory: Path, job: Job, inputs: Inputs, witness: Witness) -> Inputs:
    """The same prompt as transformers makes it; ours must be equal."""
    images = [Image.fromarray(i["image"]) for i in job.messages[0]["content"] if "image" in i]
    counts = {}
    if images:
        pixels, grids = witness.pixels(images)
        counts["<|image_pad|>"] = (np.prod(grids, axis=1) // 4).tolist()
        np.testing.assert_array_equal(pixels, inputs.pixel_values)
        np.testing.assert_array_equal(grids, inputs.image_grid_thw)
    if inputs.video_grid_thw is not None:
        counts["<|video_pad|>"] = (np.prod(inputs.video_grid_thw, axis=1) // 4).tolist()
    ids = prompt_ids(directory, in_hf(job), counts)
    np.testing.assert_array_equal(ids, inputs.input_ids)
    return inputs


@torch.no_grad()
def run_witness(
    witness: Witness, inputs: Inputs, tokens: int, scratch: Path
) -> tuple[Dump, Dump | None, list[int]]:
    """Dumps of the forward pass and of greedy decoding with the cache, and the ids."""
    prompt = (inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw)
    with instrument(witness.model, scratch / "forward.safetensors", inputs=False):
        if inputs.video_grid_thw is not None:
            witness.conversation(inputs)
        else:
            witness.model(**witness.inputs(*prompt))
    forward = open_dump(scratch / "forward.safetensors")
    if not tokens:
        return forward, None, []
    with instrument(witness.model, scratch / "steps.safetensors", inputs=False):
        ids = witness.generate(*prompt, n=tokens + 1)
    return forward, open_dump(scratch / "steps.safetensors"), ids


def write_case(name: str, case: dict[str, Any], scratch: Path) -> None:
    """One case: our order and names of stages, transformers' numbers."""
    checkpoint = name.partition("-")[0]
    directory = FOLDER / checkpoint
    model, witness = tinyqwenvl.load(directory), Witness(directory)
    job = job_of(case, model)
    inputs = witness_inputs(directory, job, model.prepare(job.messages), witness)
    theirs = run_witness(witness, inputs, job.tokens, scratch)
    ours = record(model, job, scratch / "ours.safetensors", floors=())
    path = FOLDER / f"{name}.safetensors"
    about = {
        "made_by": VERSIONS,
        "model_type": model.config.model_type,
        "model": {"source": None, "fingerprint": fingerprint(model.config)},
        "checkpoint": checkpoint,
        "pins": case["pins"],
        "messages": messages_as_json(job.messages),
        "options": {},
    }
    wanted = BRIEF if checkpoint.endswith("_large") else MIXED if "mixed" in name else STAGES
    with Writer(path, about) as writer:
        copy(ours, *theirs, wanted, writer)
    measure_floors(model, path, MEASURED)
    print(f"{path.name}: {len(writer.stages)} stages, {path.stat().st_size / 1e6:.2f} MB")


GIVEN = ("image.rgb", "second_per_grid_ts", "video_grid_thw", "pixel_values_videos")


def copy(
    ours: Dump,
    forward: Dump,
    steps: Dump | None,
    ids: list[int],
    wanted: re.Pattern,
    writer: Writer,
) -> None:
    """The stages of ours that are wanted, in our order, with transformers' numbers.

    Ours are only what a run begins with.
    """
    missing = []
    for entry in ours:
        dump = steps if entry.call and entry.name != "image.rgb" else forward
        other = dump.get(entry.name, entry.call) if dump else None
        if entry.name == "generated":
            writer.add("generated", np.array([ids[entry.call]]))
        elif entry.name == "image.rgb" or (entry.name in GIVEN and other is None):
            writer.add(entry.name, entry.read())
        elif (STEPS if dump is steps else wanted).fullmatch(entry.name):
            if other is None:
                missing.append(entry.key)
                continue
            array = np.reshape(other.read(), entry.shape)
            writer.add(entry.name, array.astype(entry.read().dtype))
    assert set(missing) <= {"model.rope_delta"}, missing  # not asked for at given positions


def main() -> None:
    """Write checkpoints and cases; of the names that are given, or all."""
    names = sys.argv[1:] or list(CASES)
    if not sys.argv[1:]:
        checkpoints()
    for name, case in CASES.items():
        if name not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            write_case(name, case, Path(scratch))


if __name__ == "__main__":
    main()
