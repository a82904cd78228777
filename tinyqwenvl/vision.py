"""The vision encoder (vision tower): patches -> image tokens.

Qwen2-VL: LayerNorm, QuickGELU MLP, full attention in every block.
Qwen2.5-VL: RMSNorm, SwiGLU MLP, most blocks attend within windows of 8x8 patches.
Neither model lets frame pairs attend to each other (a frame pair is one step of t in the grid).

Patches arrive in merge order: the four patches of a 2x2 **merge group** are adjacent. Windowing
reorders whole merge groups, so all activations from the patch embedding to the merger are in window
order.
"""

from __future__ import annotations

import numpy as np

from . import nn
from .config import Config, VisionConfig
from .deprecated import old_names
from .dims import Array, Float, Int
from .nn import Attend
from .tracing import record, stage
from .weights import Weights

# ------------------------------------------------------------------ geometry: integers only


def patch_positions(grid_thw: Int[Array, "I 3"], merge: int) -> Int[Array, "N 2"]:
    """(row, column) of every patch in its frame pair, in merge order, repeated for each pair.

    HF: ``get_vision_position_ids``.
    """
    images = []
    for t, h, w in grid_thw.tolist():
        row_column = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1)
        groups = np.reshape(row_column, (h // merge, merge, w // merge, merge, 2))
        in_merge_order = np.reshape(np.transpose(groups, (0, 2, 1, 3, 4)), (h * w, 2))
        images.append(np.tile(in_merge_order, (t, 1)))
    return np.concatenate(images)


def frame_seqlens(grid_thw: Int[Array, "I 3"]) -> Int[Array, "G"]:
    """Boundaries of the frame pairs in the patch sequence, from 0. HF: cu_seqlens."""
    t, h, w = np.transpose(grid_thw)
    return np.concatenate([[0], np.cumsum(np.repeat(h * w, t))])


def window_index(
    grid_thw: Int[Array, "I 3"], config: VisionConfig
) -> tuple[Int[Array, "M"], Int[Array, "G"]]:
    """The permutation that makes each window contiguous, and the windows' boundaries.

    A window is ``window_size`` pixels square: 4x4 merged tokens, fewer at the right and bottom
    edges. A stable sort of the tokens by window number gives the permutation: token i in window
    order is token ``index[i]`` in raster order. Its inverse is ``np.argsort(index)``. Boundaries
    count patches. HF: ``get_vision_window_index``, without its padding to whole windows and the
    empty windows that result.
    """
    merge = config.spatial_merge_size
    side = config.window_size // merge // config.patch_size
    indices, lengths, offset = [], [], 0
    for t, h, w in (grid_thw // (1, merge, merge)).tolist():
        frame, row, column = np.reshape(np.indices((t, h, w)), (3, -1))
        windows_down, windows_across = -(-h // side), -(-w // side)
        window = (frame * windows_down + row // side) * windows_across + column // side
        indices.append(offset + np.argsort(window, kind="stable"))
        lengths.append(np.bincount(window) * merge**2)
        offset += t * h * w
    return np.concatenate(indices), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def rotary_angles(
    grid_thw: Int[Array, "I 3"], config: VisionConfig, dtype=np.float32
) -> Float[Array, "N D"]:
    """2-D RoPE angles [N, d / 2]: row * frequencies, concatenated with column * frequencies."""
    spatial = config.hidden_size // config.num_heads // 2
    frequencies = nn.rotary_frequencies(spatial, config.rope_theta, dtype)
    positions = np.astype(patch_positions(grid_thw, config.spatial_merge_size), dtype)
    return np.reshape(positions[:, :, None] * frequencies, (len(positions), spatial))


def reorder_groups(x: Float[Array, "N D"], index: Int[Array, "M"]) -> Float[Array, "N D"]:
    """Reorder whole 2x2 merge groups: group i of the result is group ``index[i]`` of ``x``."""
    groups = np.reshape(x, (len(index), -1, x.shape[-1]))
    return np.reshape(np.take(groups, index, axis=0), x.shape)


def restore_order(merged: Float[Array, "M E"], index: Int[Array, "M"]) -> Float[Array, "M E"]:
    """Undo ``index``: token ``index[i]`` of the result is token i of ``merged``."""
    return np.take(merged, np.argsort(index), axis=0)


# ------------------------------------------------------------------ the stages


@stage
def embed_patches(pixel_values: Float[Array, "N P"], patch_embed: Weights) -> Float[Array, "N D"]:
    """Patch embedding: a 3-D convolution with stride = kernel size, as one matrix product; no bias.

    The kernel [D, 3, 2, 14, 14] flattens in the same order as the values of a patch.
    """
    kernel = patch_embed.proj.weight
    return pixel_values @ np.transpose(np.reshape(kernel, (kernel.shape[0], -1)))


@stage
def attention(
    x: Float[Array, "N D"],
    attn: Weights,
    heads: int,
    cos: Float[Array, "N d"],
    sin: Float[Array, "N d"],
    key_ranges: Int[Array, "N 2"],
    attend: Attend = nn.attention,
) -> Float[Array, "N D"]:
    """Self-attention; patch i attends to the patches key_ranges[i, 0] <= j < key_ranges[i, 1]."""
    qkv = np.reshape(nn.linear(x, attn.qkv), (x.shape[0], 3, heads, -1))
    q, k, v = np.transpose(qkv, (1, 2, 0, 3))  # each [A, N, d]
    q, k = nn.rotate(q, cos, sin), nn.rotate(k, cos, sin)
    out = nn.attend_to(attend, attn, q, k, v, key_ranges)
    return nn.linear(np.reshape(np.swapaxes(out, 0, 1), x.shape), attn.proj)


@stage
def quick_gelu_mlp(x: Float[Array, "N D"], mlp: Weights) -> Float[Array, "N D"]:
    """The MLP of Qwen2-VL's vision blocks: fc1, QuickGELU, fc2."""
    return nn.linear(nn.quick_gelu(nn.linear(x, mlp.fc1)), mlp.fc2)


NORM = {"qwen2_vl": nn.layer_norm, "qwen2_5_vl": nn.rms_norm}
MLP = {"qwen2_vl": quick_gelu_mlp, "qwen2_5_vl": nn.swiglu_mlp}


@stage
def vision_block(
    x: Float[Array, "N D"],
    block: Weights,
    config: Config,
    cos: Float[Array, "N d"],
    sin: Float[Array, "N d"],
    key_ranges: Int[Array, "N 2"],
    attend: Attend = nn.attention,
) -> Float[Array, "N D"]:
    """Pre-norm residual block: x = x + attention(norm(x)), then x = x + mlp(norm(x))."""
    norm, mlp = NORM[config.model_type], MLP[config.model_type]
    heads, eps = config.vision.num_heads, config.vision.rms_norm_eps
    x = x + attention(norm(x, block.norm1, eps), block.attn, heads, cos, sin, key_ranges, attend)
    return x + mlp(norm(x, block.norm2, eps), block.mlp)


@stage
def merge(
    x: Float[Array, "N D"], merger: Weights, config: Config, gelu=nn.gelu
) -> Float[Array, "M E"]:
    """The merger: normalise each patch, concatenate each 2x2 merge group, map it to one token."""
    x = NORM[config.model_type](x, merger.ln_q, config.vision.rms_norm_eps)
    x = np.reshape(x, (-1, x.shape[-1] * config.vision.spatial_merge_size**2))
    return nn.linear(gelu(nn.linear(x, merger.mlp[0])), merger.mlp[2])


def vision_encoder(
    pixel_values: Float[Array, "N P"],
    grid_thw: Int[Array, "I 3"],
    visual: Weights,
    config: Config,
    attend: Attend = nn.attention,
    gelu=nn.gelu,
) -> Float[Array, "M E"]:
    """Patches of all images -> one token per 2x2 merge group, in raster order.

    ``attend`` and ``gelu`` select the reference implementation (the default) or the optimised one.
    """
    frames = windows = record("visual.cu_seqlens", frame_seqlens(grid_thw))
    index = np.arange(pixel_values.shape[0] // config.vision.spatial_merge_size**2)
    if config.model_type == "qwen2_5_vl":
        index, windows = window_index(grid_thw, config.vision)
        index = record("visual.window_index", index)
        windows = record("visual.cu_window_seqlens", windows)

    x = reorder_groups(embed_patches(pixel_values, visual.patch_embed), index)
    angles = reorder_groups(rotary_angles(grid_thw, config.vision, pixel_values.dtype.type), index)
    angles = record("visual.rotary_angles", angles)
    angles = np.concatenate([angles, angles], axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)

    frame_key_ranges, window_key_ranges = (
        nn.segment_key_ranges(frames),
        nn.segment_key_ranges(windows),
    )
    for i in range(config.vision.depth):
        key_ranges = (
            frame_key_ranges if i in config.vision.fullatt_block_indexes else window_key_ranges
        )
        x = vision_block(x, visual.blocks[i], config, cos, sin, key_ranges, attend)
    merged = merge(x, visual.merger, config, gelu)
    return record("visual", restore_order(merged, index), merged=merged, index=index)


old_names(globals())
