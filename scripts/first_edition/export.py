"""Write the trained network as a checkpoint folder in the published file layout.

python -m scripts.first_edition.export --state .train --out tinyqwenvl/assets/checkpoint
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.optim.swa_utils import AveragedModel

from scripts.first_edition.batches import TOKENS_PER_SECOND
from scripts.first_edition.network import Config, Network
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD

MIN_PIXELS, MAX_PIXELS = 12_544, 75_264  # 4 x 4 to 96 cells of 28 x 28: see `sizes`
MAX_FRAME_PIXELS = 28_224  # of a frame of a clip: 36 cells; training drew clips of 16
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


def export(network, tokenizer, folder):
    """Write every file of the checkpoint but the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    special = tokenizer.token_to_id
    files = {
        "config.json": config_json(network.config, special),
        "preprocessor_config.json": preprocessor_json(),
        "video_preprocessor_config.json": {
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_FRAME_PIXELS,
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
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--state", type=Path, nargs="+", default=[Path(".train")],
        help="state folder; of several, the mean",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("tinyqwenvl/assets/checkpoint"))
    options = parser.parse_args()
    for folder in options.state:
        if not (folder / "state.pt").is_file():
            parser.error(f"{folder} has no state.pt; train first, or give --state")
    tokenizer = Tokenizer.from_file(str(options.state[0] / "tokenizer.json"))
    mean = AveragedModel(Network(Config(vocab_size=tokenizer.get_vocab_size())))
    ends = [
        torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        for folder in options.state
    ]
    ends = [end["mean"] for end in ends]
    mean.load_state_dict({name: sum(end[name] for end in ends) / len(ends) for name in ends[0]})
    export(mean.module, tokenizer, options.out)


if __name__ == "__main__":
    main()
