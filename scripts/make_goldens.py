"""Remake tests/goldens: what transformers computes at every stage of small random checkpoints.

    pip install -c constraints.txt ".[hf]" && python -m scripts.make_goldens

Weights and pictures are drawn from seeds and so need no storing. Each file's metadata holds its
case and the versions that made it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from PIL import Image

from scripts.random_checkpoint import random_picture, tiny_config, with_pictures, write_checkpoint
from scripts.witness import VERSIONS, Witness
from tinyqwenvl import chat
from tinyqwenvl.image import normalise, patchify
from tinyqwenvl.tokenizer import load_tokenizer

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
COMMAND = "python -m scripts.make_goldens"

# Non-square, ragged windows (5x7 and 6x2 merged tokens), two sizes, text before, between and after.
PICTURES = {
    "pictures": [[141, 200], [170, 55]],
    "content": [{"text": "First "}, {"image": 0}, {"text": " then "}, {"image": 1}, {"text": "?"}],
}
TEXT = {"pictures": [], "content": [{"text": "No picture here, only words: 1, 2, 3."}]}
CASES = {
    "pictures": PICTURES,
    "text": TEXT,
    "video": {"frames": [5, 84, 140], "grid": [[3, 6, 10]]},
}

# Every block's parts in brief, the first block's in full, and whatever has a name outside blocks.
STAGES = (
    r"visual\.(patch_embed|window_index|cu_window_seqlens|merger(\.ln_q|\.mlp\.[02])?)|visual"
    r"|visual\.blocks\.\d+(\.attn|\.mlp)?|visual\.blocks\.0\..*"
    r"|model\.(embed_tokens|position_ids|norm|layers\.\d+(\.self_attn|\.mlp)?|layers\.0\..*)|logits"
)


def arrays_of(case: dict, witness: Witness, directory: Path) -> tuple[dict[str, np.ndarray], dict]:
    """All the witness says of one case, and facts for the metadata."""
    if "frames" in case:
        frames = np.stack([random_picture(50 + i, *case["frames"][1:]) for i in range(5)])
        pixels, _ = patchify(normalise(frames))
        return witness.tower(pixels, np.array(case["grid"])), {}
    images = [Image.fromarray(random_picture(10 + i, *s)) for i, s in enumerate(case["pictures"])]
    pixels, grids = witness.pixels(images) if images else (None, None)
    counts = [] if grids is None else (np.prod(grids, axis=1) // 4).tolist()
    pieces = chat.render([{"role": "user", "content": with_pictures(case["content"], images)}])
    ids = load_tokenizer(directory).encode(chat.expand(pieces, chat.IMAGE_PAD, counts))
    arrays = witness.stages(ids, pixels, grids)
    arrays |= {"input_ids": ids, "generated": np.array(witness.generate(ids, pixels, grids))}
    facts = {}
    if images:
        arrays |= {"image_grid_thw": grids, "pixel_values.last48": pixels[-48:]}
        facts["pixel_values.sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    return arrays, facts


def main() -> None:
    """Write a file for each family and case."""
    GOLDENS.mkdir(exist_ok=True)
    for model_type in ("qwen2_vl", "qwen2_5_vl"):
        for name, case in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                directory = write_checkpoint(Path(folder), tiny_config(model_type), seed=7)
                witness = Witness(directory, torch.float32)
                arrays, facts = arrays_of(case, witness, directory)
            keep = {"input_ids", "generated", "image_grid_thw", "pixel_values.last48"}
            arrays = {
                n: np.ascontiguousarray(a)
                for n, a in arrays.items()
                if n in keep or (re.fullmatch(STAGES, n) and not n.endswith(("act", "act_fn")))
            }
            about = {"model_type": model_type, "weights_seed": 7, **case, **facts}
            about |= {"versions": VERSIONS, "command": COMMAND}
            path = GOLDENS / f"{model_type}-{name}.safetensors"
            safetensors.numpy.save_file(arrays, path, {"case": json.dumps(about)})
            print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
