"""The network with all that training adds: hint head, optimisers, running mean, and one step."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F

from scripts.train_scenes import network as networks
from scripts.train_scenes.beginnings import initialise
from scripts.train_scenes.hints import HintHead
from scripts.train_scenes.language import SKILLS
from scripts.train_scenes.network import Config, Network
from scripts.train_scenes.optimisers import RunningMean, make_optimisers
from scripts.train_scenes.packing import NO_TOKEN
from scripts.train_scenes.tokenizer import even_tokens, number_tokens
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD

RATES = {  # constant after the warm-up; larger steps, of more images, bear larger rates
    "cpu": {"inner": 0.005, "embedding": 2e-3, "wide": 1e-3},
    "cuda": {"inner": 0.01, "embedding": 3e-3, "wide": 1.5e-3},
}
WARM_UP = 100  # steps
HINT_IMAGES = 2_000_000  # after so many the hints weigh their least
LEAST_HINT = 0.1


def normalise(patches):
    """uint8 patches [N, 3 * n], channel by channel -> float, normalised as published."""
    mean = torch.tensor(CLIP_MEAN, device=patches.device)[:, None]
    std = torch.tensor(CLIP_STD, device=patches.device)[:, None]
    x = patches.view(len(patches), 3, patches.shape[1] // 3).float() / 255
    return ((x - mean) / std).view(patches.shape)


def encode(network, batch, layout):
    """Vectors of all patches of a step."""
    return network.visual(
        normalise(batch["stills"]), normalise(batch["videos"]), batch["places"].int(),
        layout["patches"], layout["padded"],
    )  # fmt: skip


def run_text(network, batch, layout, features):
    """The residual stream of all tokens of a step."""
    slots = (batch["slot_at"].long(), batch["slot_of"].long())
    return network(
        batch["ids"].int(), features, slots, batch["positions"], batch["branch"], layout["tokens"]
    )


def answer_losses(logits, targets, unsaid):
    """Cross-entropy [N] of logits [N, vocabulary] with tokens [N].

    The token `unsaid` of an answer token, unless it is NO_TOKEN, is not compared with the right
    one: its logit gets no gradient.
    """
    at = unsaid.clamp(min=0)[:, None]
    left_out = torch.where(unsaid[:, None] != NO_TOKEN, -torch.inf, logits.gather(1, at))
    return F.cross_entropy(logits.scatter(1, at, left_out), targets, reduction="none")


def use_compiled_blocks():
    """Compile what stands before and after attention; where that fails, it runs as it is."""
    torch._dynamo.config.suppress_errors = True
    for kind in (networks.VisionBlock, networks.TextLayer):
        for name in ("before", "after"):
            setattr(kind, name, torch.compile(getattr(kind, name), dynamic=True))


class Learner:
    """A network in training."""

    def __init__(self, tokenizer, device, patches=None, config=None):
        """patches: samples for the filters of a new network (`beginnings.whitening_filters`)."""
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape
        self.tokenizer = tokenizer
        self.network = Network(config or Config(vocab_size=tokenizer.get_vocab_size()))
        initialise(self.network, number_tokens(tokenizer), patches)
        self.network.visual.patch_embed.proj.weight.requires_grad = False
        self.network.to(self.device)
        self.head = HintHead(self.network.config.hidden_size).to(self.device)
        self.mean = RunningMean(self.network)
        self.optimisers = make_optimisers(self.network, self.head, RATES[self.device.type])
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.even = torch.tensor(even_tokens(tokenizer), device=self.device)
        self.counters = {"steps": 0, "images": 0, "seconds": 0.0}
        self.bf16 = self.device.type == "cuda"
        self.sums = torch.zeros(3, len(SKILLS), device=self.device)  # loss, tokens, hint and steps

    def autocast(self):
        """bfloat16 where it pays."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def losses(self, batch, layout):
        """Loss of every answer token [A], and of the hints."""
        network = self.network
        features = encode(network, batch, layout) if layout["patches"] else None
        hint = torch.zeros((), device=self.device)
        if "labels" in batch:
            numbers = network.model.embed_tokens(self.even)
            seen = features[batch["hint_at"].long()]
            if self.is_warming_up():  # a fresh head must not pull at a trained network
                seen, numbers = seen.detach(), numbers.detach()
            hint = self.head.loss(
                seen, numbers, batch["labels"].long(),
                batch["cells"], batch["boxed"].long(),
            )  # fmt: skip
        hidden = run_text(network, batch, layout, features)
        logits = network.logits(hidden[batch["before"].long()]).float()
        losses = answer_losses(logits, batch["targets"].long(), batch["unsaid"].long())
        return losses, hint

    def since_restart(self):
        """Steps since the optimisers were fresh."""
        return self.counters["steps"] - self.counters.get("restarted", 0)

    def is_warming_up(self):
        """Whether the head, fresh beside trained weights, learns alone."""
        return "restarted" in self.counters and self.since_restart() < WARM_UP

    def hint_weight(self):
        """Falls with the images seen."""
        return max(LEAST_HINT, 1 - self.counters["images"] / HINT_IMAGES)

    def step(self, batch, layout, rate=1.0):
        """One update with a share `rate` of the constant rates."""
        given = rate
        alone = rate if self.is_warming_up() else 0.0  # the head needs no warm-up of its own
        rate *= min(1.0, (self.since_restart() + 1) / WARM_UP)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * (alone if alone and "head" in group else rate)
        with self.autocast():
            losses, hint = self.losses(batch, layout)
        weights, skills = batch["weights"], batch["skills"].long()
        total = (losses * weights).sum() / weights.sum() + self.hint_weight() * hint
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.counters["steps"] += 1
        self.counters["images"] += layout["images"]
        self.mean.update(self.counters["steps"], given)
        with torch.no_grad():
            self.sums[0].index_add_(0, skills, losses.detach())
            self.sums[1].index_add_(0, skills, torch.ones_like(losses))
            self.sums[2, 0] += hint.detach()
            self.sums[2, 1] += 1

    def take_sums(self):
        """{skill: mean loss} and the mean hint loss since the last call."""
        loss, count, (hint, steps, *_) = self.sums.tolist()
        self.sums.zero_()
        means = {s: round(a / n, 4) for s, a, n in zip(SKILLS, loss, count, strict=True) if n}
        return means, round(hint / max(1, steps), 4)

    def parts(self):
        """All tensors of the state: {part: {name: tensor}}."""
        names = {id(w): name for name, w in self.network.named_parameters()}
        names |= {id(w): f"head.{name}" for name, w in self.head.named_parameters()}
        weights = {n: w.detach() for n, w in self.network.named_parameters()}
        first, second = {}, {}
        for optimiser in self.optimisers:
            for weight, values in optimiser.state.items():
                name = names[id(weight)]
                first[name] = values["velocity" if "velocity" in values else "exp_avg"]
                if "exp_avg_sq" in values:
                    second[name] = values["exp_avg_sq"]
        rest = {f"head.{n}": w.detach() for n, w in self.head.named_parameters()}
        rest |= {f"second.{n}": v for n, v in second.items()}
        return {"weights": weights, "mean": self.mean.state(), "momentum": first, "rest": rest}

    @torch.no_grad()
    def start_from(self, weights, counters):
        """Begin with trained weights {name: value}: optimisers and head stay fresh."""
        self.counters |= {**counters, "restarted": counters["steps"]}
        for name, weight in self.network.named_parameters():
            weight.copy_(weights[name])
        self.mean.load(weights)

    @torch.no_grad()
    def load(self, parts, counters):
        """Take over a state of `parts` and its counters."""
        self.counters |= counters
        for name, weight in self.network.named_parameters():
            weight.copy_(parts["weights"][name])
        for name, weight in self.head.named_parameters():
            weight.copy_(parts["rest"][f"head.{name}"])
        self.mean.load(parts["mean"])
        named = {n: w for n, w in self.network.named_parameters() if w.requires_grad}
        named |= {f"head.{n}": w for n, w in self.head.named_parameters()}
        muon, adam = self.optimisers
        inner = {id(w) for group in muon.param_groups for w in group["params"]}
        for name, weight in named.items():
            if name not in parts["momentum"]:
                continue
            first = parts["momentum"][name].to(weight)
            if id(weight) in inner:
                muon.state[weight] = {"velocity": first.clone()}
                continue
            second = parts["rest"][f"second.{name}"].to(weight)
            steps = torch.tensor(float(self.since_restart()))
            if adam.param_groups[0]["fused"]:
                steps = steps.to(self.device)
            adam.state[weight] = {"step": steps, "exp_avg": first.clone(),
                                  "exp_avg_sq": second.clone()}  # fmt: skip
