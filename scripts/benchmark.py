"""Benchmark: run the same job with us and with transformers, alternately; print seconds and ratio.

    python -m scripts.benchmark [--runs 5] [--model DIR] [--image FILE] [--tokens N]

Both load the checkpoint, prepare the image, and greedily answer "describe". Quote the ratio: the
seconds are those of one machine on one day.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE

THEIRS = """
import sys
from PIL import Image
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
directory, image, tokens = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(directory)
processor = Qwen2VLImageProcessorPil.from_pretrained(directory)
batch = processor(images=[Image.open(image)], return_tensors="pt")
count = int(batch["image_grid_thw"].prod()) // 4
text = ("<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n<|im_start|>user\\n"
        "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>describe<|im_end|>\\n"
        "<|im_start|>assistant\\n")
ids = tokenizer(text, return_tensors="pt")["input_ids"]
types = (ids == model.config.image_token_id).int()
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types,
                     max_new_tokens=int(tokens), do_sample=False, **batch)
print(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
"""


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds from start to end of a process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    return time.perf_counter() - start, done.stdout.strip()


def main() -> None:
    """Run the two in turn after one warm-up each; print seconds, ratio and whether they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default=str(EMBEDDED))
    parser.add_argument("--image", "--picture", default=str(EXAMPLE_IMAGE))
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    ours = [sys.executable, "-m", "tinyqwenvl.run", args.image, "describe"]
    ours += ["-m", args.model, "-n", str(args.tokens)]
    theirs = [sys.executable, "-c", THEIRS, args.model, args.image, str(args.tokens)]
    pairs = []
    for run in range(args.runs + 1):
        (a, said), (b, heard) = timed(ours), timed(theirs)
        if run:
            pairs.append((a, b))
    report = {
        "ours_seconds": round(statistics.median(a for a, _ in pairs), 3),
        "transformers_seconds": round(statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "runs": args.runs,
        "same_answer": said == heard,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
