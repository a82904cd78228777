"""Regenerate tests/goldens: every stage of small random checkpoints, computed by transformers.

    pip install -c constraints.txt ".[hf]" && python -m scripts.make_goldens

Weights and images are drawn from seeds and so need no storing. Each file's metadata holds its
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
import transformers
from PIL import Image
from transformers.generation import logits_process
from transformers.image_utils import load_image

from scripts.odd_images import TURNS, odd_images, turned_file
from scripts.random_checkpoint import random_image, tiny_config, with_images, write_checkpoint
from scripts.sampling_cases import LARGE, SAMPLING_CASES, large_logits
from scripts.witness import VERSIONS, Qwen2VLImageProcessorPil, Witness
from tinyqwenvl import chat
from tinyqwenvl.image import normalise, patchify
from tinyqwenvl.model import EMBEDDED
from tinyqwenvl.tokenizer import load_tokenizer

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
COMMAND = "python -m scripts.make_goldens"

# Non-square, ragged windows (5x7 and 6x2 merged tokens), two sizes, text before, between and after.
IMAGES = {
    "pictures": [[141, 200], [170, 55]],
    "content": [{"text": "First "}, {"image": 0}, {"text": " then "}, {"image": 1}, {"text": "?"}],
}
TEXT = {"pictures": [], "content": [{"text": "No image here, only words: 1, 2, 3."}]}
CASES = {
    "pictures": IMAGES,
    "text": TEXT,
    "video": {"frames": [5, 84, 140], "grid": [[3, 6, 10]]},
}

PROCESSORS = {
    "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
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
        frames = np.stack([random_image(50 + i, *case["frames"][1:]) for i in range(5)])
        pixels, _ = patchify(normalise(frames))
        return witness.vision_encoder(pixels, np.array(case["grid"])), {}
    images = [Image.fromarray(random_image(10 + i, *s)) for i, s in enumerate(case["pictures"])]
    pixels, grids = witness.pixels(images) if images else (None, None)
    counts = [] if grids is None else (np.prod(grids, axis=1) // 4).tolist()
    pieces = chat.render([{"role": "user", "content": with_images(case["content"], images)}])
    ids = load_tokenizer(directory).encode(chat.expand(pieces, chat.IMAGE_PAD, counts))
    arrays = witness.stages(ids, pixels, grids)
    arrays |= {"input_ids": ids, "generated": np.array(witness.generate(ids, pixels, grids))}
    facts = {}
    if images:
        arrays |= {"image_grid_thw": grids, "pixel_values.last48": pixels[-48:]}
        facts["pixel_values.sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    return arrays, facts


def odd_image_arrays() -> dict[str, np.ndarray]:
    """What transformers makes of each odd image: its grid, and the SHA-256 of its patches.

    And how it turns files upright.
    """
    processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)
    arrays = {}
    for name, image in odd_images().items():
        batch = processor(images=[image], return_tensors="np")
        digest = hashlib.sha256(np.ascontiguousarray(batch["pixel_values"]).tobytes()).digest()
        arrays[f"{name}: grid"] = np.asarray(batch["image_grid_thw"])
        arrays[f"{name}: sha256"] = np.frombuffer(digest, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turned.png"
        for orientation in TURNS:
            path.write_bytes(turned_file(orientation))
            arrays[f"orientation {orientation}"] = np.asarray(load_image(str(path)))
    return arrays


def sampling_arrays() -> dict[str, np.ndarray]:
    """Logits [4, V], ids, and what transformers' processors make of the logits."""
    rng = np.random.RandomState(4)
    logits = rng.normal(0, 3, (4, 500)).astype(np.float32)
    logits[1] = np.round(logits[1])  # many equals
    logits[2] *= 20
    ids = rng.randint(0, 500, 40)
    ids[20:] = ids[:20]  # each twice: the penalty counts once
    arrays = {"logits": logits, "ids": ids}
    scores, seen = torch.from_numpy(logits), torch.from_numpy(np.tile(ids, (4, 1)))
    for kind, values in SAMPLING_CASES.items():
        for value in values:
            arrays[f"{kind} {value}"] = PROCESSORS[kind](value)(seen, scores.clone()).numpy()
    kept = []
    for row, (std, p) in enumerate(LARGE):
        large = torch.from_numpy(large_logits(row, std)[None])
        kept.append(int(PROCESSORS["top_p"](p)(None, large).isfinite().sum()))
    return {**arrays, "large: tokens kept": np.array(kept)}


TEXTS = (
    "Hello, how are you?", "What do you see in this image?", "Compare these two images.",
    "1234 apples, it's   fine.\n\n  Done", "图片和\"a cat\"是否相关？", "naïve café – ünïcødé 🙂",
)  # fmt: skip
REAL_TOKENIZER = Path(__file__).parents[2] / "shared" / "qwen2-tokenizer" / "tokenizer.json"


def token_vectors() -> dict[str, dict[str, list[int]]]:
    """Ids that transformers gives some texts: the embedded tokenizer's, and the real one's."""
    files = {"embedded": EMBEDDED / "tokenizer.json", "real": REAL_TOKENIZER}
    found = {}
    for name, file in files.items():
        if file.exists():
            fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
            found[name] = {text: fast(text)["input_ids"] for text in TEXTS}
    return found


def write(name: str, arrays: dict[str, np.ndarray], about: dict) -> None:
    """One golden file, with what made it."""
    about = {**about, "versions": VERSIONS, "command": COMMAND}
    path = GOLDENS / f"{name}.safetensors"
    whole = {n: np.ascontiguousarray(a) for n, a in arrays.items()}
    safetensors.numpy.save_file(whole, path, {"case": json.dumps(about)})
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Write a file for each family and case, one of odd images, and one of sampling."""
    GOLDENS.mkdir(exist_ok=True)
    write("odd_images", odd_image_arrays(), {})
    write("sampling", sampling_arrays(), {})
    vectors = json.dumps(token_vectors(), ensure_ascii=False, indent=1)
    (GOLDENS / "tokens.json").write_text(vectors + "\n", encoding="utf-8")
    for model_type in ("qwen2_vl", "qwen2_5_vl"):
        for name, case in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                directory = write_checkpoint(Path(folder), tiny_config(model_type), seed=7)
                witness = Witness(directory, torch.float32)
                arrays, facts = arrays_of(case, witness, directory)
            keep = {"input_ids", "generated", "image_grid_thw", "pixel_values.last48"}
            arrays = {
                n: a
                for n, a in arrays.items()
                if n in keep or (re.fullmatch(STAGES, n) and not n.endswith(("act", "act_fn")))
            }
            about = {"model_type": model_type, "weights_seed": 7, **case, **facts}
            write(f"{model_type}-{name}", arrays, about)


if __name__ == "__main__":
    main()
