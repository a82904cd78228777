"""Train the embedded checkpoint, in one go or in slices.

    python -m scripts.first_edition.train --state .train --seconds 3600 --of 3600

Learning rates follow progress = seconds trained / `--of`, so that a run may be cut into slices:
each continues from the state folder.  With `--start-from tinyqwenvl/assets/checkpoint` a checkpoint
that was trained before is trained further.

What is exported is a mean of the weights along the way.  What the loss says nothing about, such as
pairs that are kept out, differs by chance from step to step; the mean has less of that.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.first_edition import tokenizer as tokenizers
from scripts.first_edition.batches import (
    NO_TOKEN,
    Encoder,
    clip_batch,
    image_batch,
    stream,
)
from scripts.first_edition.hints import HintHead
from scripts.first_edition.muon import Muon
from scripts.first_edition.network import Config, Network, initialise
from scripts.first_edition.questions import SKILLS
from scripts.first_edition.scenes import TRAINING, generator
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD

MUON_RATE, ADAM_RATE, WIDE_RATE = 0.005, 2e-3, 1e-3
HINT_WEIGHT = 1.0  # at the beginning; falls to nothing with progress
MEAN_DECAY = 0.999  # a step: the mean looks back some thousand steps
SEED = 20250
LOG = Path(__file__).with_name("log.jsonl")  # of the checkpoint in the package


class Ids(NamedTuple):
    """Token ids that training needs: the two pads, and the numbers 0, 2, 4, ... 448."""

    pads: list[int]
    even: torch.Tensor

    @classmethod
    def of(cls, tokenizer):
        """The ids of a tokenizer."""
        find = tokenizer.token_to_id
        pads = [find("<|image_pad|>"), find("<|video_pad|>")]
        return cls(pads, torch.tensor([find(str(n)) for n in range(0, 449, 2)]))


def patchify(pixels, patch=14, merge=2, temporal=2):
    """uint8 [B, frames, H, W, 3] -> normalised patches [B, t*h*w, 1176] in the published order."""
    x = pixels.float() / 255
    x = (x - torch.tensor(CLIP_MEAN, device=x.device)) / torch.tensor(CLIP_STD, device=x.device)
    if x.shape[1] == 1:
        x = x.expand(-1, temporal, -1, -1, -1)
    b, frames, height, width, _ = x.shape
    x = x.reshape(
        b, frames // temporal, temporal,
        height // (patch * merge), merge, patch, width // (patch * merge), merge, patch, 3,
    )  # fmt: skip
    x = x.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return x.reshape(b, -1, 3 * temporal * patch * patch)


def branch_mask(branch):
    """[B, L] branch numbers -> [B, 1, L, L]: earlier tokens of the trunk or of the own branch."""
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    same = branch[:, :, None] == branch[:, None, :]
    return (causal & (same | (branch == 0)[:, None, :]))[:, None]


def answer_losses(logits, targets, unsaid):
    """Cross-entropy [N] of scores [N, vocabulary] with tokens [N].

    The token `unsaid` of a row, unless it is NO_TOKEN, is not compared with the right one: its
    score gets no gradient.
    """
    some = torch.nonzero(unsaid != NO_TOKEN)[:, 0]
    left_out = torch.zeros_like(logits, dtype=torch.bool)
    left_out[some, unsaid[some]] = True
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), targets, reduction="none")


def token_losses(network, head, batch, ids, device):
    """Loss, weight and skill of every answer token, each [answer tokens]; the loss of the hints."""
    tensors = {k: torch.from_numpy(v).to(device) for k, v in batch.items() if k != "grid"}
    features = network.visual(patchify(tensors["pixels"]), batch["grid"])
    hint = 0.0
    if "labels" in tensors:
        numbers = network.model.embed_tokens(ids.even.to(device))
        hint = head.loss(features.float(), numbers, tensors["labels"], tensors["cells"])
    x = network.embed(tensors["ids"], features, ids.pads)
    hidden = network.model(x, tensors["positions"], branch_mask(tensors["branch"]))
    answers = tensors["weights"][:, 1:] > 0
    logits = network.logits(hidden[:, :-1][answers]).float()
    targets, unsaid = (tensors[name][:, 1:][answers] for name in ("ids", "unsaid"))
    losses = answer_losses(logits, targets, unsaid)
    return losses, tensors["weights"][:, 1:][answers], tensors["skills"][:, 1:][answers], hint


def learning_rate(progress):
    """Share of the peak: 2 % warm-up, flat, over the last 30 % linearly to nothing."""
    return max(0.0, min(1.0, progress / 0.02, (1 - progress) / 0.3))


def make_optimisers(network, head):
    """Muon for the inner matrices; AdamW for the embeddings, the widest matrix and all vectors.

    Each group keeps its `peak` rate.
    """
    groups = {"inner": [], "embedding": [], "wide": []}
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        if name.endswith("merger.mlp.0.weight"):
            groups["wide"].append(weight)
        elif weight.ndim < 2 or name.endswith("embed_tokens.weight"):
            groups["embedding"].append(weight)
        else:
            groups["inner"].append(weight)
    groups["embedding"] += head.parameters()
    outer = [
        {"params": groups["embedding"], "peak": ADAM_RATE},
        {"params": groups["wide"], "peak": WIDE_RATE},
    ]
    return {
        "muon": Muon([{"params": groups["inner"], "peak": MUON_RATE}], MUON_RATE),
        "adam": torch.optim.AdamW(outer, ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01),
    }


def save(path, **contents):
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(contents, temporary)
    temporary.replace(path)


def number_tokens(tokenizer):
    """{token id: value} of the tokens that are numbers."""
    return {i: int(t) for t, i in tokenizer.get_vocab().items() if t.isascii() and t.isdigit()}


def sample_patches(tokenizer, seed=SEED):
    """Patches of some training images and clips, [N, 1176]."""
    encoder, rng = Encoder(tokenizer), generator(seed, TRAINING)
    batches = [image_batch(rng, encoder, 4, 4, 200)]
    batches += [clip_batch(rng, encoder, 4) for _ in range(6)]
    return torch.cat([patchify(torch.from_numpy(b["pixels"])).flatten(0, 1) for b in batches])


def load_or_start(folder, tokenizer, device, start_from=None):
    """Network, its mean, hint head, optimisers and counters, from the state folder if it has any.

    Else from the weights of the checkpoint folder `start_from`: drawing goes on where its log ends.
    """
    network = Network(Config(vocab_size=tokenizer.get_vocab_size()))
    initialise(network, number_tokens(tokenizer), sample_patches(tokenizer))
    counters = {"seconds": 0.0, "steps": 0, "pictures": 0}
    if start_from:
        network.load_state_dict(load_file(start_from / "model.safetensors"))
        last = json.loads(LOG.read_text().splitlines()[-1])
        counters |= {"steps": last["steps"], "pictures": last["pictures"]}
    head = HintHead(network.config.hidden_size).to(device)
    network.to(device)
    mean = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(MEAN_DECAY))
    optimisers = make_optimisers(network, head)
    path = folder / "state.pt"
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        mean.load_state_dict(state["mean"])
        head.load_state_dict(state["head"])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        counters = state["counters"]
    return network, mean, head, optimisers, counters


def save_all(folder, network, mean, head, optimisers, counters):
    """The whole state of training."""
    states = {name: o.state_dict() for name, o in optimisers.items()}
    save(
        folder / "state.pt",
        network=network.state_dict(),
        mean=mean.state_dict(),
        head=head.state_dict(),
        optimisers=states,
        counters=counters,
    )


def write_log(path, counters, means, hint):
    """One line: counters and the mean loss of every skill seen."""
    loss = {s: round(m, 4) for s, m in zip(SKILLS, means.tolist(), strict=True) if m == m}
    line = {
        **counters,
        "seconds": round(counters["seconds"], 1),
        "loss": loss,
        "hint": round(hint, 4),
    }
    with path.open("a") as log:
        log.write(json.dumps(line) + "\n")


def train(
    folder,
    seconds,
    of,
    workers=1,
    save_every=120.0,
    log_every=25,
    compiled=False,
    start_from=None,
):
    """One slice of `seconds`, of a run of `of` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not (folder / "tokenizer.json").exists():
        tokenizers.build().save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    started = load_or_start(folder, tokenizer, device, start_from)
    network, mean, head, optimisers, counters = started
    batches = stream(tokenizer, SEED, counters["steps"], workers)
    ids = Ids.of(tokenizer)
    if compiled:
        for block in [*network.visual.blocks, *network.model.layers]:
            block.compile(dynamic=True)
    began = last = time.monotonic()
    saved, before = began, counters["seconds"]
    hints, sums, counts = 0.0, torch.zeros(len(SKILLS)), torch.zeros(len(SKILLS))
    while counters["seconds"] < min(of, before + seconds):
        rate = learning_rate(counters["seconds"] / of)
        for optimiser in optimisers.values():
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
        step = next(batches)
        total = sum(float(batch["weights"].sum()) for batch in step)
        for batch in step:
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                losses, weights, skills, hint = token_losses(network, head, batch, ids, device)
            share = batch["pixels"].shape[0] / sum(b["pixels"].shape[0] for b in step)
            answer = (losses * weights).sum() / total
            (answer + HINT_WEIGHT * (1 - counters["seconds"] / of) * share * hint).backward()
            hints += share * float(torch.as_tensor(hint).detach())
            sums.index_add_(0, skills.cpu(), losses.detach().cpu())
            counts.index_add_(0, skills.cpu(), torch.ones(len(skills)))
            counters["pictures"] += batch["pixels"].shape[0]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        mean.update_parameters(network)
        counters["steps"] += 1
        now = time.monotonic()
        counters["seconds"] += now - last
        last = now
        if counters["steps"] % log_every == 0:
            write_log(folder / "log.jsonl", counters, sums / counts, hints / log_every)
            hints = 0.0
            sums.zero_()
            counts.zero_()
        if now - saved > save_every:
            save_all(folder, *started)
            saved = now
    save_all(folder, *started)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".train"), help="folder to continue in")
    parser.add_argument("--start-from", type=Path, help="checkpoint folder to train further")
    parser.add_argument("--seconds", type=float, default=3600, help="length of this slice")
    parser.add_argument("--of", type=float, default=3600, help="length of the whole run")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(
        options.state,
        options.seconds,
        options.of,
        options.workers,
        compiled=options.compile,
        start_from=options.start_from,
    )


if __name__ == "__main__":
    main()
