"""Answers of the training network in PyTorch, in batches: the other back end of the evaluation."""

from collections import defaultdict

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from scripts.first_edition import CHECKPOINT, LONGEST
from scripts.first_edition.batches import Branch, Encoder, make_row, stack_rows
from scripts.first_edition.network import Config, Network
from scripts.first_edition.train import branch_mask, patchify


def load_network(folder=CHECKPOINT):
    """The training network with the weights of a checkpoint folder, and its tokenizer."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    network = Network(Config(vocab_size=tokenizer.get_vocab_size()))
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network.eval(), tokenizer


def network_answers(network, tokenizer, cases, batch=64):
    """Replies of the training network, in batches of equal shape."""
    groups = defaultdict(list)
    for index, case in enumerate(cases):
        size = (case.scene.width, case.scene.height)  # what smart_resize gives for these sizes
        frames = [np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in case.images]
        groups[len(frames), size, LONGEST.get(case.question.skill, 12)].append((index, frames))
    replies = [""] * len(cases)
    for (_, _, longest), members in groups.items():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            found = _generate(network, tokenizer, [cases[i] for i, _ in part], part, longest)
            for (index, _), text in zip(part, found, strict=True):
                replies[index] = text
    return replies


@torch.no_grad()
def _generate(network, tokenizer, cases, members, longest):
    encoder, end = Encoder(tokenizer), tokenizer.token_to_id("<|im_end|>")
    pixels = [np.stack(frames) for _, frames in members]
    pad, images = "<|video_pad|>", 1
    if not cases[0].fps:  # every image stands for itself
        pad, images = "<|image_pad|>", len(pixels[0])
        pixels = [image[None] for group in pixels for image in group]
    count, height, width, _ = pixels[0].shape
    grid = (max(1, count // 2), height // 14, width // 14)
    features = network.visual(patchify(torch.from_numpy(np.stack(pixels))), grid)
    replies, open_rows = [[] for _ in cases], set(range(len(cases)))
    for _ in range(longest):
        rows = []
        for case, reply in zip(cases, replies, strict=True):
            ids = encoder.question(case.question.text) + reply
            branches = [Branch.asking(ids)]
            rows.append(make_row(encoder, pad, grid, 2 / (case.fps or 2), branches, images))
        arrays = stack_rows(rows, pixels, grid)
        ids, positions = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["positions"])
        vectors = network.model.embed_tokens(ids)
        slots = (ids == tokenizer.token_to_id(pad))[..., None]
        vectors = vectors.masked_scatter(slots, features)
        hidden = network.model(vectors, positions, branch_mask(torch.from_numpy(arrays["branch"])))
        last = torch.tensor([len(row.ids) - 1 for row in rows])
        chosen = network.logits(hidden[torch.arange(len(rows)), last]).argmax(-1).tolist()
        for index in list(open_rows):
            if chosen[index] == end:
                open_rows.remove(index)
            else:
                replies[index].append(chosen[index])
        if not open_rows:
            break
    return [tokenizer.decode(reply) for reply in replies]
