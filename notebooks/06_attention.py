# %% [markdown]
# # 06. Full and windowed attention
#
# A patch alone is only a bit of colour. **How does it learn what it is part of, without the cost
# of comparing every patch with every other?**
#
# Before this: [04](04_two_dimensional_rope.ipynb), [05](05_windows.ipynb). You need: matrix
# products, the exponential function. 20 minutes.

# %%
from tinyqwenvl.viz import here

here("vision.attention")

# %%
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import image, nn, vision, viz
from tinyqwenvl.model import ASSETS, user_message
from tinyqwenvl.oracle import mutants
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import source

model = tinyqwenvl.load()
config, published = model.config.vision, preset("qwen2.5-vl-3b").vision

# %% [markdown]
# ## The idea
#
# Every patch has a **query** $q_i$, a **key** $k_j$ and a **value** $v_j$: three vectors of
# dimension $d$, computed from its own vector by trained matrices. **Attention** weights each patch
# by how well query and key match, and returns the weighted mean of the values:
#
# $$w_{ij} = \mathrm{softmax}_j\left(\frac{q_i \cdot k_j}{\sqrt{d}}\right), \qquad
# \text{out}_i = \sum_j w_{ij}\, v_j.$$
#
# (Vaswani et al. 2017.) The softmax runs over the patches that the **attention mask** allows, and
# here the two kinds of blocks differ. In a block with **windowed attention** they are the patches
# of the window, in one with **full attention** all patches of the frame pair.
# [05](05_windows.ipynb) has made windows contiguous, so the attention mask is two integers per
# patch: the first key that it attends to, and the one after the last. We call these its **key
# range**.
#
# A block does this several times in parallel, each time with other matrices. Each is a **head**,
# and $d$ is the head dimension.

# %%
source(nn.softmax, nn.segment_key_ranges, nn.visible_keys, nn.attention_weights, nn.attention)

# %% [markdown]
# ## By hand
#
# Four patches in two windows of two, and one head of dimension 1. Patch 0 has a score of $\ln 3$
# with itself and 0 with its neighbour. Softmax turns that into 3 : 1, so 3/4 and 1/4.

# %%
key_ranges = nn.segment_key_ranges(np.array([0, 2, 4]))
assert key_ranges.tolist() == [[0, 2], [0, 2], [2, 4], [2, 4]]
q = np.log([3.0, 1.0, 3.0, 9.0]).reshape(1, 4, 1)
k = np.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 4, 1)
v = np.array([4.0, 8.0, 0.0, 20.0]).reshape(1, 4, 1)

weights = nn.attention_weights(q, k, key_ranges)[0]
print(weights)
assert np.allclose(
    weights,
    [[3 / 4, 1 / 4, 0, 0], [1 / 2, 1 / 2, 0, 0], [0, 0, 1 / 4, 3 / 4], [0, 0, 1 / 10, 9 / 10]],
)
assert np.allclose(nn.attention(q, k, v, key_ranges).ravel(), [5, 6, 15, 18])

# %% [markdown]
# The zeros are exact: a masked score is minus infinity, and $e^{-\infty} = 0$. The weights of
# every query sum to one. Nothing in the other window can reach a patch:

# %%
other = v + np.array([0, 0, 100, -100]).reshape(1, 4, 1)
before, after = (nn.attention(q, k, each, key_ranges)[0, :2].ravel() for each in (v, other))
print("first window before and after the other changes:", before, after)
assert np.array_equal(before, after)

# %% [markdown]
# ### Exercise 1
#
# Why is the score divided by $\sqrt{d}$? Measure how large $q \cdot k$ is for random vectors, and
# what softmax makes of such scores with and without the division.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: q . k of random vectors has a standard deviation of sqrt(d), so the quotient has one of
# 1. The larger d, the nearer the undivided softmax comes to one patch that takes all.
rng = np.random.default_rng(6)
for d in (16, 80, 256):
    products = np.sum(rng.standard_normal((2, 200, 64, d)).prod(axis=0), axis=-1)  # of 64 patches
    assert 0.95 < np.std(products / np.sqrt(d)) < 1.05
    divided = np.mean(np.max(nn.softmax(products / np.sqrt(d)), axis=-1))
    undivided = np.mean(np.max(nn.softmax(products), axis=-1))
    print(f"d = {d:3}: the most that one patch gets is {divided:.2f}, undivided {undivided:.2f}")
    assert divided < 0.15 and undivided > 0.5

# %% [markdown]
# ## Windows, frames, images
#
# A prompt with a video of two frame pairs and a small image. Not even full attention crosses from
# one of them to another; comparing them is left to the decoder.

# %%
grids = np.array([[2, 4, 10], [1, 4, 4]])
_, windows = vision.window_index(grids, config)
frames = vision.frame_seqlens(grids)
assert windows.tolist() == [0, 32, 40, 72, 80, 96] and frames.tolist() == [0, 40, 80, 96]
masks = {
    "windowed block": nn.segment_key_ranges(windows),
    "full block": nn.segment_key_ranges(frames),
    "everything (wrong)": nn.segment_key_ranges(frames[[0, -1]]),
}
viz.attention_mask(masks, 96, "Three attention masks")

# %% [markdown]
# ## On a real image
#
# 280 patches in eight windows, of which five are cut off at an edge.

# %%
example = Image.open(ASSETS / "images" / "wide.png").convert("RGB")
inputs = model.prepare(user_message(example, "describe"))
grids = inputs.image_grid_thw
_, windows = vision.window_index(grids, config)
frames = vision.frame_seqlens(grids)
patches = len(inputs.pixel_values)
assert patches == 280 and len(windows) - 1 == 8 and np.sum(np.diff(windows) < 64) == 5
viz.attention_mask(
    {"windowed block": nn.segment_key_ranges(windows), "full block": nn.segment_key_ranges(frames)},
    patches,
    "On a real image: which patch attends to which",
)

# %% [markdown]
# ### Exercise 2
#
# How many blocks with windowed attention does it take until the left edge of the image can
# influence the right edge? How many with full attention?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: no number is enough, because windows do not overlap. One block with full attention is.
step = nn.visible_keys(nn.segment_key_ranges(windows), patches).astype(int)
places = vision.reorder_groups(
    vision.patch_positions(grids, 2).astype(float), vision.window_index(grids, config)[0]
)
last = places[:, 1].max()
left, right = (int(np.flatnonzero((places == (0, c)).all(axis=1))[0]) for c in (0, last))
print("paths after 32 windowed blocks:", np.linalg.matrix_power(step, 32)[right, left])
assert np.linalg.matrix_power(step, 32)[right, left] == 0
assert nn.visible_keys(nn.segment_key_ranges(frames), patches)[right, left]

# %% [markdown]
# ## What windows save
#
# Full attention compares every patch with every other, which grows with the fourth power of the
# side of the image. With windows, the number of comparisons grows with the number of patches. Take
# an image resized to 672 x 420 pixels, 48 x 30 patches, in Qwen2.5-VL-3B: 32 blocks, of which four
# have full attention.

# %%
assert published.depth == 32 and published.fullatt_block_indexes == (7, 15, 23, 31)
grid = np.array([[1, 30, 48]])
full, windowed = (
    int(np.sum(np.diff(boundaries) ** 2))
    for boundaries in (vision.frame_seqlens(grid), vision.window_index(grid, published)[1])
)
assert (full, windowed) == (2_073_600, 87_552)
print(f"a windowed block compares {full / windowed:.1f}x fewer pairs")
saved = 32 * full / (4 * full + 28 * windowed)
print(f"the vision encoder: {saved:.1f}x fewer than with 32 full blocks")
assert 5 < saved < 6.5

# %%
viz.pairs_by_size(np.array([112, 224, 448, 896, 1792]), published)

# %% [markdown]
# Four blocks with full attention, evenly spaced, carry information from each window to all others
# (Qwen2.5-VL report, section 2.1.1). The blocks in between work locally. The embedded checkpoint
# has six blocks, two of them with full attention.

# %%
print(f"full blocks: {config.fullatt_block_indexes} of {config.depth}")
assert config.fullatt_block_indexes == (2, 5) and config.depth == 6

# %% [markdown]
# ## A block
#
# Attention is one half of a block. The other is the MLP, a small network applied to each patch
# separately ([10](10_decoder_and_cache.ipynb) shows it). Each half reads a normalised copy of the
# patches' vectors and *adds* its result to them. Nothing is overwritten: the running sum is the
# **residual stream**.

# %%
source(vision.attention, vision.vision_block)

# %% [markdown]
# One matrix product makes the queries, keys and values of all heads. Queries and keys are rotated
# ([04](04_two_dimensional_rope.ipynb)), values are not. `attend_to` calls the attention from above
# (`attend`, or an optimised implementation: see below) and records what goes in and comes out. The
# norm divides each vector by its root mean square:

# %%
source(nn.rms_norm, nn.attend_to)

# %% [markdown]
# The first block, taken out of the vision encoder and run alone:

# %%
with tinyqwenvl.trace("visual.patch_embed", "visual.rotary_angles", "visual.blocks.0") as stages:
    model.image_features(inputs.pixel_values, grids)
index, _ = vision.window_index(grids, config)
x = vision.reorder_groups(stages["visual.patch_embed"][0], index)
angles = np.tile(stages["visual.rotary_angles"][0], 2)
key_ranges = nn.segment_key_ranges(windows)
block = model.weights.visual.blocks[0]
y = vision.vision_block(x, block, model.config, np.cos(angles), np.sin(angles), key_ranges)
print(f"alone and in the encoder: {np.abs(y - stages['visual.blocks.0'][0]).max():.0e} apart")
assert np.allclose(y, stages["visual.blocks.0"][0], atol=1e-4)

unscaled = SimpleNamespace(weight=np.ones(config.hidden_size))
normed = nn.rms_norm(x, unscaled, config.rms_norm_eps)
assert np.allclose(np.sqrt(np.mean(normed**2, axis=-1)), 1, atol=1e-3)  # all of one size

# %% [markdown]
# ## What one patch attends to
#
# Take a patch on the upper left edge of the orange disc. Each panel shows the attention weights of
# this one query, drawn on the image, on a scale of its own from 0 to its largest weight. With
# windowed attention the weights end at the window (hatched: masked); with full attention they may
# be anywhere. For each of the first five blocks we take the head that attends furthest on average.

# %%
order = np.repeat(index * 4, 4) + np.tile(np.arange(4), len(index))  # of patches
at = vision.patch_positions(grids, 2)[order]  # (row, column) in window order
patch = int(np.flatnonzero((at == (3, 2)).all(axis=1))[0])


def furthest(block, patch):
    """The weights of that head of a block, what it may see, and a name."""
    stage = f"visual.blocks.{block}.attn"
    rows = model.attention_weights(inputs, stage, rows=patch)[:, 0]
    head = int(np.argmax(rows @ np.linalg.norm(at - at[patch], axis=1)))
    full = block in config.fullatt_block_indexes
    seen = nn.segment_key_ranges(frames if full else windows)[patch]
    return rows[head], seen, f"block {block} ({'full' if full else 'windowed'}), head {head}"


rows, seen, names = zip(*(furthest(block, patch) for block in range(5)), strict=True)
rows, seen = np.stack(rows), np.stack(seen)

# %%
_, h, w = grids[0]
pixels = image.resize(example, 14 * h, 14 * w)
inside = pixels[3 * 14 : 4 * 14, 2 * 14 : 3 * 14]
assert np.ptp(inside, axis=(0, 1)).max() > 50  # more than one colour: the edge of the disc
title = "Attention of one patch, block by block"
viz.attention_from_patch(rows, seen, grids, config, patch, names, pixels, title)

# %% [markdown]
# With windowed attention none of the weight lies outside the window; with full attention part of
# it does.

# %%
outside = np.ones(patches, bool)
outside[windows[0] : windows[1]] = False
assert seen[0].tolist() == [0, 64]
share = rows[:, outside].sum(axis=1)
print([f"{name}: {100 * each:.0f} % outside" for name, each in zip(names, share, strict=True)])
assert share[2] > 0.01 and not np.any(share[[0, 1, 3, 4]])

# %% [markdown]
# With several heads, a patch can attend for several purposes at once. All five heads of the last
# block, for a patch in the middle of the disc:

# %%
middle = int(np.flatnonzero((at == (4, 3)).all(axis=1))[0])
heads = model.attention_weights(inputs, "visual.blocks.5.attn", rows=middle)[:, 0]
assert len(heads) == 5 and len(set(np.argmax(heads, axis=1))) > 1  # they attend to several patches
key_ranges = nn.segment_key_ranges(frames)[np.repeat(middle, len(heads))]
names = [f"block 5 (full), head {head}" for head in range(len(heads))]
title = "Attention of one patch, head by head"
viz.attention_from_patch(heads, key_ranges, grids, config, middle, names, pixels, title)

# %% [markdown]
# ## Reference and optimised attention
#
# The reference implementation computes the whole matrix of scores, patches x patches for every
# head, and discards what is masked. The optimised one never computes it: windows of equal size are
# processed together, and full attention some queries at a time. Both give the same values up to
# rounding.

# %%
source(nn.optimised_attention)

# %%
rng = np.random.default_rng(6)
for boundaries in (windows, frames):
    q, k, v = rng.standard_normal((3, config.num_heads, patches, 32))
    key_ranges = nn.segment_key_ranges(boundaries)
    reference, optimised = (
        nn.attention(q, k, v, key_ranges),
        nn.optimised_attention(q, k, v, key_ranges),
    )
    assert np.allclose(reference, optimised, rtol=1e-12, atol=1e-12)

whole = replace(model, reference=True).image_features(inputs.pixel_values, grids)
difference = np.max(np.abs(whole - model.image_features(inputs.pixel_values, grids)))
print(f"image tokens, reference against optimised: at most {difference:.1e} apart")
assert difference < 1e-3 * np.max(np.abs(whole))

# %% [markdown]
# ## What goes wrong
#
# Each of these bugs has happened in a port. The mask is missing, and every block has full
# attention. No block has full attention, because a block index was compared as text. The two kinds
# are exchanged. Or the mask is there, but as ones that are added to the allowed scores instead of
# minus infinity to the others. `mutants.apply` injects a bug into the library while the indented
# code runs, and `report` says where it was seen.

# %%
names = "window_mask_missing full_attention_missing windows_and_full_swapped window_mask_of_ones"


def errors(inputs):
    right = model.image_features(inputs.pixel_values, inputs.image_grid_thw)
    for name in names.split():
        with mutants.apply(name):
            wrong = model.image_features(inputs.pixel_values, inputs.image_grid_thw)
        yield name, float(np.linalg.norm(wrong - right) / np.linalg.norm(right))


for name, error in errors(inputs):
    print(f"{name:26} relative error {error:.2f}   ({mutants.MUTANTS[name].report})")
    assert error > 0.05

# %% [markdown]
# A test image of 112 x 112 pixels finds none of them, because its only window is the whole image.

# %%
tiny = model.prepare(user_message(example.resize((112, 112)), "describe"))
found = {name: error for name, error in errors(tiny)}
print(tiny.image_grid_thw.tolist(), {name: f"{error:.0e}" for name, error in found.items()})
assert tiny.image_grid_thw.tolist() == [[1, 8, 8]]
assert all(error < 1e-5 for error in found.values())

# %% [markdown]
# ### Exercise 3
#
# On paper: with the mask of ones, and all scores equal, what share of its attention does a patch
# of the first window spend outside it?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: each of the 64 patches inside counts e times, each of the 216 outside once, so
# 216 / (64 e + 216), more than half. A mask of ones hardly masks.
mask = nn.visible_keys(nn.segment_key_ranges(windows), patches)[0]
leaked = np.sum(nn.softmax(np.zeros(patches) + mask)[~mask])
print(f"{leaked:.0%} outside the window")
assert np.isclose(leaked, 216 / (64 * np.e + 216)) and leaked > 0.5

# %% [markdown]
# Next: four patches become one token: [07](07_merger.ipynb).
