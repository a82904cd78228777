"""Muon for the inner matrices, AdamW for the rest, and a running mean of the weights.

Muon: momentum whose matrix updates are made orthogonal (Jordan et al., 2024).  It needs far fewer
images than AdamW.  Matrices of equal shape are handled as one batch.
"""

from collections import defaultdict

import torch


def orthogonalise(matrices, steps=5):
    """The nearest orthogonal matrices, approximately: Newton-Schulz iteration on [N, m, n]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised.  Stacked projections (qkv) are handled one by one."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """Update every matrix."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            weights = [w for w in group["params"] if w.grad is not None]
            grads = [w.grad for w in weights]
            for w in weights:
                if "velocity" not in self.state[w]:
                    self.state[w]["velocity"] = torch.zeros_like(w)
            velocities = [self.state[w]["velocity"] for w in weights]
            torch._foreach_lerp_(velocities, grads, 1 - momentum)
            updates = torch._foreach_lerp(grads, velocities, momentum)
            by_shape = defaultdict(list)
            for weight, update in zip(weights, updates, strict=True):
                stacked = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
                for pair in zip(weight.chunk(stacked), update.chunk(stacked), strict=True):
                    by_shape[pair[1].shape].append(pair)
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            for (rows, columns), pairs in by_shape.items():
                found = orthogonalise(torch.stack([part for _, part in pairs]))
                scale = rate * max(1, rows / columns) ** 0.5
                torch._foreach_add_([target for target, _ in pairs], list(found), alpha=-scale)


def make_optimisers(network, head, rates):
    """(Muon, AdamW); each group keeps its `peak` rate.

    rates: of the inner matrices, of the embeddings and vectors, and of the widest matrix.
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
    outer = [{"params": groups[name], "peak": rates[name]} for name in ("embedding", "wide")]
    outer.append({"params": [*head.parameters()], "peak": rates["embedding"], "head": True})
    fused = next(network.parameters()).is_cuda
    return (
        Muon([{"params": groups["inner"], "peak": rates["inner"]}], rates["inner"]),
        torch.optim.AdamW(outer, rates["embedding"], (0.9, 0.95), weight_decay=0.01, fused=fused),
    )


class RunningMean:
    """An exponential mean of a network's weights; it looks back some thousand steps."""

    def __init__(self, network, decay=0.999):
        self.weights = list(network.parameters())
        self.names = [name for name, _ in network.named_parameters()]
        self.values = [w.detach().clone() for w in self.weights]
        self.decay = decay

    @torch.no_grad()
    def update(self, steps, rate=1.0):
        """Take in the present weights after so many steps; the first ones are soon forgotten.

        rate: share of the constant rates.  Where they fall, the mean looks back less far, so that
        it ends with the weights of small rates: over a tenth of its steps in the end.
        """
        decay = 1 - (1 - self.decay) / max(rate, 0.1)
        decay = min(decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 - decay)

    def state(self):
        """{name: value}."""
        return dict(zip(self.names, self.values, strict=True))

    @torch.no_grad()
    def load(self, state):
        """Take over values by name."""
        for name, value in zip(self.names, self.values, strict=True):
            value.copy_(state[name])
