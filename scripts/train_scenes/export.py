"""Write the running mean of the weights as a checkpoint folder in the published file layout.

python -m scripts.train_scenes.export --state .train --out .train/checkpoint
python -m scripts.train_scenes.export --state scripts/train_scenes/run   # of the kept run
python -m scripts.train_scenes.export --check .train/checkpoint    # the same ids as transformers
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from scripts.train_scenes.keep import MANIFEST, read_run
from scripts.train_scenes.network import Config
from scripts.train_scenes.packing import TOKENS_PER_SECOND
from scripts.train_scenes.scene import Limits
from scripts.train_scenes.state import WHOLE, StateError, read_compact, read_whole
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD

MIN_PIXELS, MAX_PIXELS = Limits().least_side ** 2, Limits().image_area
VIDEO_PIXELS = Limits().frame_area
CONTEXT = 32_768
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def config_json(config, special):
    """`config.json`; `special` maps a special token to its id."""
    vision = config.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": special("<|endoftext|>"),
        "eos_token_id": special("<|im_end|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
        "vision_token_id": special("<|vision_pad|>"),
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": CONTEXT,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": CONTEXT,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": vision.depth,
            "hidden_act": "silu",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "in_chans": 3,
            "out_hidden_size": config.hidden_size,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "spatial_patch_size": vision.patch_size,
            "window_size": vision.window_size,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes),
            "tokens_per_second": TOKENS_PER_SECOND,
            "temporal_patch_size": vision.temporal_patch_size,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "vocab_size": config.vocab_size,
    }


def preprocessor_json():
    """`preprocessor_config.json`."""
    return {
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def tokenizer_json(tokenizer):
    """`tokenizer_config.json`; the generic class keeps our way of splitting numbers."""
    added = tokenizer.get_added_tokens_decoder()
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {
                "content": t.content,
                "lstrip": t.lstrip,
                "normalized": t.normalized,
                "rstrip": t.rstrip,
                "single_word": t.single_word,
                "special": t.special,
            }
            for i, t in sorted(added.items())
        },
        "additional_special_tokens": [
            t.content
            for _, t in sorted(added.items())
            if t.special and t.content not in ("<|endoftext|>",)
        ],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": CONTEXT,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
    }


def export(parts, config, tokenizer, folder):
    """Write every file of the checkpoint but the model card; the weights are {name: tensor}."""
    folder.mkdir(parents=True, exist_ok=True)
    special = tokenizer.token_to_id
    files = {
        "config.json": config_json(config, special),
        "preprocessor_config.json": preprocessor_json(),
        "video_preprocessor_config.json": {
            "min_pixels": MIN_PIXELS,
            "max_pixels": VIDEO_PIXELS,
            "video_processor_type": "Qwen2VLVideoProcessor",
        },
        "tokenizer_config.json": tokenizer_json(tokenizer),
        "chat_template.json": {"chat_template": TEMPLATE},
        "generation_config.json": {
            "bos_token_id": special("<|endoftext|>"),
            "pad_token_id": special("<|endoftext|>"),
            "eos_token_id": [special("<|im_end|>"), special("<|endoftext|>")],
            "do_sample": False,
        },
    }
    for name, contents in files.items():
        text = json.dumps(contents, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in parts.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def check(folder, count=6, tokens=48):
    """Greedy ids of transformers and of tinyqwenvl on drawn images: [(ids, ids)]."""
    import tinyqwenvl
    from scripts.train_scenes import drawing, world
    from scripts.train_scenes.scene import EVALUATION, generator
    from scripts.witness import Witness

    model, witness, found = tinyqwenvl.load(folder), Witness(folder), []
    limits = model.config.processor
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    for index in range(count):
        rng = generator(0, EVALUATION, index)
        images = drawing.draw(rng, [world.make_image(rng) for _ in range(1 + index % 2)])
        images = [image_of(pixels) for pixels in images]
        text = ("Describe the image.", "What changed?", "Locate every shape.")[index % 3]
        content = [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]
        inputs = model.prepare([{"role": "user", "content": content}])
        theirs = witness.generate(inputs.input_ids, *witness.pixels(images, **size), tokens)
        ends = [i for i, token in enumerate(theirs) if token in model.config.eos_token_ids]
        theirs = [int(i) for i in theirs[: min(ends, default=tokens)]]
        found.append((theirs, [int(i) for i in model.generate(inputs, tokens)]))
    return found


def image_of(pixels):
    """A Pillow image of uint8 pixels."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def read_weights(folder, compact=False):
    """(weights, tokenizer) of a kept run, a compact state or a whole one."""
    if (folder / MANIFEST).is_file():
        weights, _, tokenizer = read_run(folder)
        return weights, tokenizer
    compact = compact or not (folder / WHOLE).is_file()
    parts, _, tokenizer = (read_compact if compact else read_whole)(folder)
    return parts["mean"], tokenizer


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".train"), help="state or kept run")
    parser.add_argument("--compact", action="store_true", help="the folder holds a compact state")
    parser.add_argument("--out", type=Path, default=Path(".train/checkpoint"))
    parser.add_argument("--check", type=Path, metavar="DIR", help="compare with transformers")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            if not (options.check / "model.safetensors").is_file():
                raise StateError(f"{options.check} has no model.safetensors")
            pairs = check(options.check)
            same = sum(a == b for a, b in pairs)
            print(f"the same greedy ids in {same} of {len(pairs)} prompts")
            sys.exit(same != len(pairs))
        weights, tokenizer = read_weights(options.state, options.compact)
    except StateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    export(weights, Config(tokenizer.get_vocab_size()), tokenizer, options.out)
    print(f"{options.out} written")


if __name__ == "__main__":
    main()
