"""Weights at the beginning of the run."""

import math

import torch
from torch import nn

DIFFERENCES = 8  # one filter in so many is of what differs between the two frames
LEAST = 2e-4  # of the largest variance, added to all: small ones are noise


def whitening(samples, count, generator):
    """`count` filters [count, D] whose outputs on samples [N, D] are uncorrelated, of unit size."""
    sizes, directions = torch.linalg.eigh(samples.T @ samples / len(samples))
    sizes, directions = sizes[-count:], directions[:, -count:]
    mix = torch.linalg.qr(torch.randn(count, count, generator=generator)).Q
    return mix @ (directions / torch.sqrt(sizes + LEAST * sizes[-1])).T


def whitening_filters(stills, changes, count, generator):
    """Filters [count, 3 * 2 * 196] of the mean of two frames, and of their difference.

    stills [N, 588]: patches of images; changes [M, 588]: second frame minus first, of patches of
    videos that change.  Random filters mostly measure the mean colour of a patch, by far its
    largest component; these measure edges just as well.  The patches of a video that change are
    so few that a common whitening would drop what differs.
    """
    some = count // DIFFERENCES
    mean = whitening(stills, count - some, generator).view(-1, 3, 1, 196) / 2
    difference = whitening(changes, some, generator).view(-1, 3, 1, 196)
    found = torch.cat([mean.expand(-1, -1, 2, -1), torch.cat([-difference, difference], 2)])
    return found.reshape(count, -1)


def initialise(network, numbers, patches, seed=0):
    """Fan-in initialisation; residual outputs scaled down; whitening filters, which stay fixed.

    numbers: {token id: value}.  Number tokens start as smooth curves: neighbours get similar
    vectors, so that a box edge a pixel off is a small error from the beginning.
    patches: samples for `whitening_filters`; None leaves the filters random.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = {"visual": network.config.vision.depth, "model": network.config.num_hidden_layers}
    for name, weight in network.named_parameters():
        if weight.ndim < 2:
            nn.init.zeros_(weight) if name.endswith("bias") else nn.init.ones_(weight)
            continue
        std = weight[0].numel() ** -0.5
        if name.endswith(("attn.proj.weight", "o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(2 * depth[name.split(".")[0]])
        nn.init.normal_(weight, std=std, generator=generator)
    filters = network.visual.patch_embed.proj.weight
    if patches is not None:
        filters.data = whitening_filters(*patches, len(filters), generator).view_as(filters)
    filters.data = filters.data.to(torch.bfloat16).float()  # as the checkpoint will hold them
    size = network.config.hidden_size
    waves = torch.tensor([2 * math.pi / 8 * 1.35**-k for k in range(17)])  # periods 8 ... 970
    turns = torch.randn(2 * len(waves), size, generator=generator) / math.sqrt(len(waves) * size)
    with torch.no_grad():
        for token, value in numbers.items():
            curve = torch.cat([torch.cos(waves * value), torch.sin(waves * value)]) @ turns
            network.model.embed_tokens.weight[token].mul_(0.5).add_(curve)
    return network
