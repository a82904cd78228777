"""Answers to cases: by the NumPy package, one at a time, or by the training network, in batches.

The network finds the greedy answer by Jacobi iteration.  It reads a whole guess at once and
replaces every token by the one that it would choose after those before it.  When nothing changes
any more, the guess is the greedy answer, wherever it began.
"""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from scripts.train_scenes.learner import encode, run_text
from scripts.train_scenes.network import Config, Network
from scripts.train_scenes.packing import Encoder, Tree, Turn, image_medium, pack, video_medium
from scripts.train_scenes.tokenizer import load as load_tokenizer
from scripts.train_scenes.workers import TYPES

LONGEST = 224  # tokens of an answer
LONGER = 72  # tokens that the network's may have more than the right one, two boxes: others are cut
AHEAD = 6  # tokens that a guess may grow by at a time
ROUNDS = 32  # of the iteration; an answer that still changes then is not the right one


# ---------------------------------------------------------------------------------------- package


def items_of(media):
    """Content items of a message."""
    items = []
    for seen in media:
        images = [Image.fromarray(frame) for frame in seen.frames]
        if seen.seconds is None:
            items.append({"type": "image", "image": images[0]})
        else:
            items.append({"type": "video", "video": images, "fps": 2 / seen.seconds})
    return items


def messages_of(case):
    """A case as messages."""
    messages = []
    for (media, text), answer in zip(case.turns, (*case.answers, None), strict=True):
        content = [*items_of(media), {"type": "text", "text": text}]
        messages.append({"role": "user", "content": content})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def scale_of(case, inputs):
    """Pixels of the contents per pixel of the last image as the model sees it, (x, y)."""
    shown = [seen for media, _ in case.turns for seen in media if seen.seconds is None]
    if not shown or inputs.image_grid_thw is None:
        return 1.0, 1.0
    height, width = shown[-1].frames.shape[1:3]
    _, h, w = (int(n) for n in inputs.image_grid_thw[-1])
    return width / (14 * w), height / (14 * h)


def package_answers(folder, cases):
    """(reply, scale) of every case by `tinyqwenvl`."""
    import tinyqwenvl

    model, found = tinyqwenvl.load(folder), []
    for case in cases:
        inputs = model.prepare(messages_of(case))
        ids = list(model.generate(inputs, LONGEST))
        found.append((model.tokenizer.decode(ids), scale_of(case, inputs)))
    return found


# ---------------------------------------------------------------------------------------- network


def load_network(folder, device="cpu"):
    """(network, tokenizer) of a checkpoint folder."""
    network = Network(Config.of(json.loads((folder / "config.json").read_text())))
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network.to(device).eval(), load_tokenizer(folder / "tokenizer.json")


def medium_of(seen):
    """What was seen, in patches."""
    if seen.seconds is None:
        return image_medium(seen.frames[0])
    frames = seen.frames
    if len(frames) % 2:
        frames = np.concatenate([frames, frames[-1:]])
    return video_medium(frames, seen.seconds)


def tree_of(encoder, case, media, guess, number):
    """The tree of one case with a guessed answer (ids); its lesson has skill `number`."""
    turns = []
    for index, ((_, text), answer) in enumerate(
        zip(case.turns, (*case.answers, tuple(guess)), strict=True)
    ):
        last = index == len(case.turns) - 1
        new = media[index] if index else ()
        turns.append(Turn(text, answer, number if last else -1, new))
    tree = Tree(encoder, media[0])
    tree.add(turns)
    return tree


def choose(network, trees, device):
    """For each lesson of a skill >= 0, in order of skill: the ids chosen at its tokens."""
    arrays, layout = pack(trees)
    batch = {
        name: torch.from_numpy(array).to(TYPES[array.dtype.str]).to(device)
        for name, array in arrays.items()
    }
    features = encode(network, batch, layout) if layout["patches"] else None
    hidden = run_text(network, batch, layout, features)
    chosen = network.logits(hidden[batch["before"].long()]).argmax(-1).cpu().numpy()
    return {
        n: chosen[arrays["skills"] == n].tolist() for n in np.unique(arrays["skills"]) if n >= 0
    }


@torch.no_grad()
def network_answers(network, tokenizer, cases, batch=64, device="cpu"):
    """(reply, scale) of every case."""
    encoder, found = Encoder(tokenizer), []
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        media = [[tuple(medium_of(s) for s in shown) for shown, _ in case.turns] for case in part]
        guesses = [list(encoder.text(case.answer)) for case in part]
        limits = [len(guess) + LONGER for guess in guesses]
        open_cases = set(range(len(part)))
        for _ in range(ROUNDS):
            numbers = sorted(open_cases)
            trees = [tree_of(encoder, part[i], media[i], guesses[i], i) for i in numbers]
            for number, chosen in choose(network, trees, device).items():
                guess, done = advance(guesses[number], chosen, encoder.end, limits[number])
                guesses[number] = guess
                if done:
                    open_cases.discard(number)
            if not open_cases:
                break
        found += [(tokenizer.decode(guess), (1.0, 1.0)) for guess in guesses]
    return found


def advance(guess, chosen, end, longest=LONGEST):
    """The next guess, and whether it is the greedy answer.

    chosen: what the network would say in place of each token of the guess and of its end.
    """
    until = chosen.index(end) if end in chosen else len(chosen)
    if until <= len(guess) and chosen[:until] == guess[:until]:
        return guess[:until], True
    new = chosen[:until]
    if until == len(chosen):  # no end yet: leave room to go on
        new = new + new[-1:] * AHEAD
    return new[:longest], new[:longest] == guess
