"""The vision encoder: patches -> image tokens.

Qwen2-VL: LayerNorm, QuickGELU MLP, every block looks at the whole frame.
Qwen2.5-VL: RMSNorm, SwiGLU MLP, most blocks look only within windows of 8x8 patches.
In both, frames of different times never see each other (one temporal grid = one pair of frames).

Patches come in merge order: the four of a 2x2 block are neighbours. Windows reorder whole blocks,
so everything between the patch embedding and the end of the merger is in window order.
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
    """(row, column) of every patch in its frame, in merge order, the same for every frame.

    HF: ``get_vision_position_ids``.
    """
    images = []
    for t, h, w in grid_thw.tolist():
        row_column = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1)
        blocks = np.reshape(row_column, (h // merge, merge, w // merge, merge, 2))
        in_merge_order = np.reshape(np.transpose(blocks, (0, 2, 1, 3, 4)), (h * w, 2))
        images.append(np.tile(in_merge_order, (t, 1)))
    return np.concatenate(images)


def frame_seqlens(grid_thw: Int[Array, "I 3"]) -> Int[Array, "G"]:
    """Boundaries of the frames (temporal grids) among the patches, from 0. HF: cu_seqlens."""
    t, h, w = np.transpose(grid_thw)
    return np.concatenate([[0], np.cumsum(np.repeat(h * w, t))])


def window_index(
    grid_thw: Int[Array, "I 3"], config: VisionConfig
) -> tuple[Int[Array, "M"], Int[Array, "G"]]:
    """The order that puts the tokens of each window together, and the windows' boundaries.

    A window is ``window_size`` pixels square: 4x4 merged tokens; those on the right and bottom edge
    are cut. Sorting the tokens by the number of their window, keeping the order within, gives the
    permutation; token i of the new order is token ``index[i]`` of the old. Its inverse is
    ``np.argsort(index)``. Boundaries count patches. HF: ``get_vision_window_index``, without its
    padding to whole windows and the empty windows that come of it.
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
    """Row * frequencies beside column * frequencies: a quarter of the head each, [N, d / 2]."""
    spatial = config.hidden_size // config.num_heads // 2
    frequencies = nn.rotary_frequencies(spatial, config.rope_theta, dtype)
    positions = np.astype(patch_positions(grid_thw, config.spatial_merge_size), dtype)
    return np.reshape(positions[:, :, None] * frequencies, (len(positions), spatial))


def reorder_groups(x: Float[Array, "N D"], index: Int[Array, "M"]) -> Float[Array, "N D"]:
    """Reorder whole 2x2 blocks: block i of the result is block ``index[i]`` of ``x``."""
    blocks = np.reshape(x, (len(index), -1, x.shape[-1]))
    return np.reshape(np.take(blocks, index, axis=0), x.shape)


def restore_order(merged: Float[Array, "M E"], index: Int[Array, "M"]) -> Float[Array, "M E"]:
    """Undo ``index``: token ``index[i]`` of the result is token i of ``merged``."""
    return np.take(merged, np.argsort(index), axis=0)


# ------------------------------------------------------------------ the stages


@stage
def embed_patches(pixel_values: Float[Array, "N P"], patch_embed: Weights) -> Float[Array, "N D"]:
    """A 3-D convolution whose stride is its kernel is one matrix product a patch; no bias.

    The kernel [D, 3, 2, 14, 14] flattens in the very order of the numbers in a patch.
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
    """Qwen2-VL: widen, QuickGELU, narrow."""
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
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""
    norm, mlp = NORM[config.model_type], MLP[config.model_type]
    heads, eps = config.vision.num_heads, config.vision.rms_norm_eps
    x = x + attention(norm(x, block.norm1, eps), block.attn, heads, cos, sin, key_ranges, attend)
    return x + mlp(norm(x, block.norm2, eps), block.mlp)


@stage
def merge(
    x: Float[Array, "N D"], merger: Weights, config: Config, gelu=nn.gelu
) -> Float[Array, "M E"]:
    """Normalise each patch, lay the four of a 2x2 block side by side, and map them to one token."""
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
    """Patches of all images -> one token for every 2x2 block of patches, in raster order.

    ``attend`` and ``gelu`` choose the reference form (as here) or the optimised form of the
    same function.
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
