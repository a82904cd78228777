"""Qwen2.5-VL in PyTorch, batched over images of one size, with the published weight names.

Every image (or clip) of a batch has the same grid, so the vision encoder works on a plain batch
and its windows become a mask.  The text model takes any attention mask, which lets several
separate questions share one image.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision encoder."""

    depth: int = 6
    hidden_size: int = 160
    intermediate_size: int = 320
    num_heads: int = 5
    fullatt_block_indexes: tuple[int, ...] = (2, 5)
    window_size: int = 112
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    tokens_per_second: int = 2


@dataclass(frozen=True)
class Config:
    """Sizes of the language model; `rope_theta` is small because positions are few.

    With 16 frequencies, of which the last six turn with the column, the published 1e6 would leave
    columns without any resolution.
    """

    vocab_size: int
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 100.0
    mrope_section: tuple[int, int, int] = (4, 6, 6)
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def head_dim(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


# -------------------------------------------------------------------------------------- positions


def block_positions(grid, merge):
    """(row, column) of every patch of one frame pair in merge-block order, [h*w, 2]."""
    _, h, w = grid
    rows, columns = np.mgrid[:h, :w]
    both = np.stack([rows, columns], -1).reshape(h // merge, merge, w // merge, merge, 2)
    return both.transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def vision_text_positions(start, grid, seconds, tokens_per_second, merge):
    """M-RoPE ids of one vision block that begins at `start`, [3, t*h*w/merge^2]."""
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    times = (np.arange(t, dtype=np.float32) * np.float32(seconds)) * np.float32(tokens_per_second)
    ids = np.stack(np.meshgrid(times.astype(np.int64), np.arange(h), np.arange(w), indexing="ij"))
    return start + ids.reshape(3, -1)


def rotate(x, cos, sin):
    """Rotary embedding in the half-split pairing."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        """Any shape whose last axis is the normalised one."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, size, hidden, bias):
        super().__init__()
        self.gate_proj = nn.Linear(size, hidden, bias=bias)
        self.up_proj = nn.Linear(size, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, size, bias=bias)

    def forward(self, x):
        """[..., size] -> [..., size]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


# ----------------------------------------------------------------------------------------- vision


class VisionAttention(nn.Module):
    """Multi-head attention inside segments given by a mask."""

    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)

    def forward(self, x, cos, sin, mask):
        """From x [B, N, D]; cos, sin [N, D/heads]; mask [N, N] or None."""
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size)
        self.norm2 = RMSNorm(config.hidden_size)
        self.attn = VisionAttention(config.hidden_size, config.num_heads)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x, cos, sin, mask):
        """From x [B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x), cos, sin, mask)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """One vector per patch of 2 frames x 14 x 14 pixels."""

    def __init__(self, config):
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, size, stride=size, bias=False)

    def forward(self, patches):
        """[..., 1176] -> [..., D]; the convolution sees each patch once, so it is a product."""
        return patches @ self.proj.weight.flatten(1).T


class Merger(nn.Module):
    """Four neighbouring patches become one language-model vector."""

    def __init__(self, config, out_size):
        super().__init__()
        self.group = config.spatial_merge_size**2
        wide = config.hidden_size * self.group
        self.ln_q = RMSNorm(config.hidden_size)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, out_size))

    def forward(self, x):
        """[B, N, D] -> [B, N/4, out_size]."""
        b, n, d = x.shape
        return self.mlp(self.ln_q(x).view(b, n // self.group, d * self.group))


@lru_cache(maxsize=256)
def vision_tables(h, w, config, device):
    """Rotary cos and sin [h*w, head_dim] and the window mask [h*w, h*w] of one frame pair."""
    head_dim = config.hidden_size // config.num_heads
    places = torch.from_numpy(block_positions((1, h, w), config.spatial_merge_size)).to(device)
    steps = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / 10000.0 ** (steps / (head_dim // 2))
    angles = (places[:, :, None].float() * frequencies).flatten(1).repeat(1, 2)
    window = places // (config.window_size // config.patch_size)
    mask = (window[:, None] == window[None]).all(-1)
    return angles.cos(), angles.sin(), None if bool(mask.all()) else mask


class VisionTower(nn.Module):
    """Patches of equal grids -> language-model vectors."""

    def __init__(self, config, out_size):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config, out_size)

    def forward(self, patches, grid):
        """[B, t*h*w, 1176] -> [B*t*h*w/4, out_size]; frame pairs never see one another."""
        _, h, w = grid
        x = self.patch_embed(patches.view(-1, h * w, patches.shape[-1]))
        cos, sin, mask = vision_tables(h, w, self.config, patches.device)
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if index in self.config.fullatt_block_indexes else mask)
        return self.merger(x).flatten(0, 1)


# ------------------------------------------------------------------------------------------- text


class TextAttention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x, cos, sin, mask):
        """From x [B, L, D]; cos, sin [B, 1, L, head_dim]; mask [B, 1, L, L]."""
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(b, n, -1))


class TextLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = TextAttention(config)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, x, cos, sin, mask):
        """From x [B, L, D] -> [B, L, D]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rope(self, positions):
        """[3, B, L] ids -> cos, sin [B, 1, L, head_dim]: each frequency turns with one axis."""
        half = self.config.head_dim // 2
        steps = torch.arange(half, dtype=torch.float32, device=positions.device)
        frequencies = self.config.rope_theta ** (-steps / half)
        sections = torch.tensor(self.config.mrope_section, device=positions.device)
        axis = torch.arange(3, device=positions.device).repeat_interleave(sections)
        angles = positions.float()[axis].permute(1, 2, 0) * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def forward(self, x, positions, mask):
        """From x [B, L, D]; positions [3, B, L]; mask [B, 1, L, L], true where seen: [B, L, D]."""
        cos, sin = self.rope(positions)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)


class Network(nn.Module):
    """The whole model; the output layer is tied to the embedding."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.visual = VisionTower(config.vision, config.hidden_size)
        self.model = TextModel(config)

    def embed(self, ids, features, pad_ids):
        """Token vectors with every pad token replaced by a vision vector, [B, L, D]."""
        vectors = self.model.embed_tokens(ids)
        slots = torch.isin(ids, torch.tensor(pad_ids, device=ids.device))
        return vectors.masked_scatter(slots[..., None], features.to(vectors.dtype))

    def logits(self, hidden):
        """[..., D] -> [..., vocabulary]."""
        return hidden @ self.model.embed_tokens.weight.T


def whitening_filters(patches, count, generator):
    """`count` filters [count, D] whose outputs on patches [N, D] are uncorrelated, of unit size.

    Random filters mostly see the mean colour of a patch, by far its largest component; these see
    edges just as well.
    """
    second_moment = patches.T @ patches / len(patches)
    sizes, directions = torch.linalg.eigh(second_moment)
    sizes, directions = sizes[-count:], directions[:, -count:]
    mix = torch.linalg.qr(torch.randn(count, count, generator=generator)).Q
    return mix @ (directions / torch.sqrt(sizes + 1e-3 * sizes[-1])).T


def initialise(network, numbers, patches, seed=0):
    """Fan-in initialisation; residual outputs scaled down; whitening filters, which stay fixed.

    numbers: {token id: value}.  Number tokens start as smooth curves: neighbours get similar
    vectors, so that a box edge a pixel off is a small mistake from the beginning.
    patches: a sample of [N, 1176] for the filters.
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
    filters.data = whitening_filters(patches, len(filters), generator).view_as(filters)
    filters.requires_grad = False
    size = network.config.hidden_size
    waves = torch.tensor([2 * math.pi / 8 * 1.35**-k for k in range(16)])  # periods 8 ... 720
    turns = torch.randn(2 * len(waves), size, generator=generator) / math.sqrt(len(waves) * size)
    with torch.no_grad():
        for token, value in numbers.items():
            curve = torch.cat([torch.cos(waves * value), torch.sin(waves * value)]) @ turns
            network.model.embed_tokens.weight[token].mul_(0.5).add_(curve)
    return network
