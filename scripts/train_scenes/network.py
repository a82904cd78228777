"""Qwen2.5-VL in PyTorch on packed batches, with the published weight names.

All patches of a step lie in one array [T, 1176] and all tokens in another [N], whatever the sizes
of the images and the lengths of the rows; the linear layers see nothing else.  Attention works on
groups of equal length, slices of these arrays: (n, length) stands for n sequences of `length`.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision encoder."""

    depth: int = 6
    hidden_size: int = 192
    intermediate_size: int = 384
    num_heads: int = 6
    fullatt_block_indexes: tuple[int, ...] = (2, 5)
    window_size: int = 112
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    tokens_per_second: int = 2

    @property
    def head_dim(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class Config:
    """Sizes of the language model.

    `rope_theta` is small because positions are few: the slowest of the 16 frequencies turns once
    in 690 positions, and the six that turn with the column still resolve columns.
    """

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 150.0
    mrope_section: tuple[int, int, int] = (4, 6, 6)
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def head_dim(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def of(cls, values):
        """From the contents of a `config.json`."""
        vision = {k: values["vision_config"][k] for k in VisionConfig.__dataclass_fields__}
        vision["fullatt_block_indexes"] = tuple(vision["fullatt_block_indexes"])
        fields = {k: values[k] for k in cls.__dataclass_fields__ if k in values}
        section = tuple(values["rope_scaling"]["mrope_section"])
        return cls(**fields, mrope_section=section, vision=VisionConfig(**vision))


def rotate(x, cos, sin):
    """Rotary embedding in the half-split pairing."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def attend(q, k, v, groups, masks):
    """Attention inside groups of equal length: q [N, heads, d], k and v [N, kv heads, d].

    masks: for each group [n, 1, length, length], true where a query attends to a key, or None.
    Returns [N, heads * d].
    """
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    sizes = [n * length for n, length in groups]
    found = []
    for (n, length), mask, *parts in zip(
        groups, masks, q.split(sizes), k.split(sizes), v.split(sizes), strict=True
    ):
        a, b, c = (part.reshape(n, length, *part.shape[1:]).transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(a, b, c, attn_mask=mask)
        found.append(out.transpose(1, 2).reshape(n * length, -1))
    return found[0] if len(found) == 1 else torch.cat(found)


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        """Any shape whose last axis is the normalised one."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


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
    """The weights of multi-head attention."""

    def __init__(self, size):
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.norm1 = RMSNorm(config.hidden_size)
        self.norm2 = RMSNorm(config.hidden_size)
        self.attn = VisionAttention(config.hidden_size)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=True)

    def before(self, x, cos, sin):
        """x [T, D]; cos, sin [T, 1, head_dim] -> q, k, v [T, heads, head_dim]."""
        qkv = self.attn.qkv(self.norm1(x)).view(len(x), 3, -1, self.head_dim)
        q, k, v = qkv.unbind(1)
        return rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v

    def after(self, x, attended):
        """The residual stream after attention and MLP."""
        x = x + self.attn.proj(attended)
        return x + self.mlp(self.norm2(x))

    def forward(self, x, cos, sin, groups, masks):
        """[T, D] -> [T, D]."""
        return self.after(x, attend(*self.before(x, cos, sin), groups, masks))


class PatchEmbed(nn.Module):
    """One vector per patch of 2 frames x 14 x 14 pixels."""

    def __init__(self, config):
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, size, stride=size, bias=False)

    def forward(self, stills, videos):
        """Normalised stills [S, 588] (one frame, seen twice) and videos [V, 1176] -> [S + V, D]."""
        weight = self.proj.weight
        with torch.autocast(stills.device.type, enabled=False):
            found = [stills @ weight.sum(2).flatten(1).T]
            if len(videos):
                found.append(videos @ weight.flatten(1).T)
        return torch.cat(found)


class Merger(nn.Module):
    """Four neighbouring patches become one vector of the language model."""

    def __init__(self, config, out_size):
        super().__init__()
        wide = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm(config.hidden_size)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, out_size))

    def forward(self, x):
        """[T, D] -> [T/4, out_size]."""
        return self.mlp(self.ln_q(x).view(-1, self.mlp[0].in_features))


class VisionEncoder(nn.Module):
    """Patches -> vectors of the language model; frame pairs never attend to each other."""

    def __init__(self, config, out_size):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config, out_size)

    def masks(self, places, groups):
        """Masks of windows and of whole frames, from places [T, 2] (-1 where there is no patch)."""
        windows = places // (self.config.window_size // self.config.patch_size)
        window = torch.where(places[:, 0] < 0, -1, windows[:, 0] * 1024 + windows[:, 1])
        windowed, whole = [], []
        for (n, length), numbers in zip(
            groups, window.split([n * length for n, length in groups]), strict=True
        ):
            numbers = numbers.view(n, length)
            windowed.append((numbers[:, :, None] == numbers[:, None])[:, None])
            valid = numbers >= 0
            whole.append((valid[:, :, None] == valid[:, None])[:, None])
        return windowed, whole

    def forward(self, stills, videos, places, groups, padded=True):
        """Packed patches with their (row, column) [T, 2] -> [T/4, out_size].

        padded: whether places may hold -1, padding inside the groups.
        """
        x = self.patch_embed(stills, videos)
        steps = torch.arange(0, self.config.head_dim // 2, 2, device=x.device)
        frequencies = 1.0 / 10000.0 ** (steps / (self.config.head_dim // 2))
        angles = (places[:, :, None].float() * frequencies).flatten(1).repeat(1, 2)[:, None]
        cos, sin = angles.cos(), angles.sin()
        windowed, whole = self.masks(places, groups)
        if not padded:
            whole = [None] * len(groups)
        for index, block in enumerate(self.blocks):
            full = index in self.config.fullatt_block_indexes
            x = block(x, cos, sin, groups, whole if full else windowed)
        return self.merger(x)


# ------------------------------------------------------------------------------------------- text


class TextAttention(nn.Module):
    """The weights of grouped-query attention."""

    def __init__(self, config):
        super().__init__()
        size, kv_size = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(size, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(size, kv_size)
        self.v_proj = nn.Linear(size, kv_size)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, size, bias=False)


class TextLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = TextAttention(config)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=False)

    def before(self, x, cos, sin):
        """x [N, D]; cos, sin [N, 1, head_dim] -> q [N, heads, d], k and v [N, kv heads, d]."""
        y, weights = self.input_layernorm(x), self.self_attn
        q, k, v = (p(y).view(len(y), -1, self.head_dim)
                   for p in (weights.q_proj, weights.k_proj, weights.v_proj))  # fmt: skip
        return rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v

    def after(self, x, attended):
        """The residual stream after attention and MLP."""
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward(self, x, cos, sin, groups, masks):
        """[N, D] -> [N, D]."""
        return self.after(x, attend(*self.before(x, cos, sin), groups, masks))


class TextModel(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rope(self, positions):
        """[3, N] ids -> cos, sin [N, 1, head_dim]: each frequency turns with one axis."""
        half = self.config.head_dim // 2
        frequencies = self.config.rope_theta ** (
            -torch.arange(half, dtype=torch.float32, device=positions.device) / half
        )
        axes = [axis for axis, n in enumerate(self.config.mrope_section) for _ in range(n)]
        angles = positions[axes].float().T * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def forward(self, x, positions, groups, masks):
        """x [N, D]; positions [3, N] -> [N, D], before the final norm."""
        cos, sin = self.rope(positions)
        for layer in self.layers:
            x = layer(x, cos, sin, groups, masks)
        return x


def branch_masks(branch, groups):
    """Masks of rows: a token attends to earlier tokens of the trunk and of its own branch.

    branch [N]: 0 for the trunk, -1 for padding.
    """
    masks = []
    for (n, length), numbers in zip(groups, branch.split([n * m for n, m in groups]), strict=True):
        numbers = numbers.view(n, length)
        causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
        same = numbers[:, :, None] == numbers[:, None]
        masks.append((causal & (same | (numbers == 0)[:, None]))[:, None])
    return masks


class Network(nn.Module):
    """The whole model; the output layer is tied to the embedding."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.visual = VisionEncoder(config.vision, config.hidden_size)
        self.model = TextModel(config)

    def forward(self, ids, features, slots, positions, branch, groups):
        """Packed tokens -> the residual stream [N, D].

        ids, branch [N]; positions [3, N]; features [M, D] of the vision encoder, of which
        slots = (token indices, feature indices) go into the place of pad tokens.
        """
        x = self.model.embed_tokens(ids)
        if features is not None:
            at, of = slots
            x = x.index_copy(0, at, features[of].to(x.dtype))
        return self.model(x, positions, groups, branch_masks(branch, groups))

    def logits(self, hidden):
        """Logits [..., vocabulary] of residual streams [..., D]."""
        return self.model.norm(hidden) @ self.model.embed_tokens.weight.T
