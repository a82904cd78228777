# %% [markdown]
# # 06. Full and windowed attention
#
# A patch that sees only itself knows a bit of colour. How does it learn what it is part of,
# without the cost of comparing every patch with every other?
#
# Before this: [04](04_two_dimensional_rope.ipynb), [05](05_windows.ipynb); you need: matrix
# products, the exponential function; 20 minutes.

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
# Every patch asks a question (its query $q_i$), carries a label (its key $k_j$) and something to
# tell (its value $v_j$): three vectors of $d$ numbers, made from its own vector by learned
# matrices. It looks at each patch as much as label and question agree, and takes home the mean of
# what it was told, weighted by how much it looked:
#
# $$w_{ij} = \mathrm{softmax}_j\left(\frac{q_i \cdot k_j}{\sqrt{d}}\right), \qquad
# \text{out}_i = \sum_j w_{ij}\, v_j.$$
#
# (Vaswani et al. 2017.) The softmax runs over the patches that $i$ *may* look at, and this is
# where the two kinds of blocks differ. In a windowed block they are the patches of its window, in
# a full block all patches of its frame. Since [05](05_windows.ipynb) has put windows together,
# "who may look at whom" is two numbers a patch: the first key that it sees, and the one after the
# last.
#
# A block does this several times side by side, each time with other matrices. Each time is called
# a *head*, and $d$ is its size.

# %%
source(nn.softmax, nn.segment_key_ranges, nn.visible_keys, nn.attention_weights, nn.attention)

# %% [markdown]
# ## By hand
#
# Four patches in two windows of two, and one head of size 1. Patch 0 scores $\ln 3$ with itself and
# 0 with its neighbour; softmax makes of that 3 : 1, so 3/4 and 1/4.

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
# The zeros are exact: what may not be seen has a score of minus infinity, and $e^{-\infty} = 0$.
# Every row sums to one. Nothing that happens in the other window can reach a patch:

# %%
other = v + np.array([0, 0, 100, -100]).reshape(1, 4, 1)
assert np.array_equal(
    nn.attention(q, k, other, key_ranges)[0, :2], nn.attention(q, k, v, key_ranges)[0, :2]
)

# %% [markdown]
# ## Windows, frames, images
#
# A prompt with a clip of two temporal grids (pairs of frames, looked at as one) and a small
# image. Not even a full block looks from one of them at another: to compare them is left to the
# decoder.

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
# 280 patches in eight windows, of which five are cut at an edge.

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
    "On a real image: who may look at whom",
)

# %% [markdown]
# ## What windows save
#
# Full attention compares every patch with every other: that grows with the fourth power of the
# side of the image. With windows the number of comparisons grows with the number of patches. Take
# the image that the README follows, resized to 672 x 420 pixels, 48 x 30 patches, in
# Qwen2.5-VL-3B: 32 blocks, of which four are full.

# %%
assert published.depth == 32 and published.fullatt_block_indexes == (7, 15, 23, 31)
grid = np.array([[1, 30, 48]])
full, windowed = (
    int(np.sum(np.diff(boundaries) ** 2))
    for boundaries in (vision.frame_seqlens(grid), vision.window_index(grid, published)[1])
)
assert (full, windowed) == (2_073_600, 87_552)
print(f"windowed blocks compare {full / windowed:.1f} times fewer pairs")
print(
    f"the vision encoder: {32 * full / (4 * full + 28 * windowed):.1f} times fewer than "
    "with 32 full blocks"
)
assert 5 < 32 * full / (4 * full + 28 * windowed) < 6.5

# %%
viz.pairs_by_size(np.array([112, 224, 448, 896, 1792]), published)

# %% [markdown]
# Four full blocks in 32, evenly spread, carry what is known in one window to all others
# (Qwen2.5-VL report, section 2.1.1). The blocks in between work on what is near. The small
# checkpoint has six blocks, two of them full.

# %%
print(f"full blocks: {config.fullatt_block_indexes} of {config.depth}")
assert config.fullatt_block_indexes == (2, 5) and config.depth == 6

# %% [markdown]
# ## A block
#
# Attention is one half of a block. The other is the MLP, a small network for each patch on its own
# ([10](10_decoder_and_cache.ipynb) shows it). Each half reads a normalised copy of the patches'
# vectors and *adds* to the vectors: what a patch was is never overwritten.

# %%
source(vision.attention, vision.vision_block)

# %% [markdown]
# One matrix product makes queries, keys and values of all heads; queries and keys are turned
# ([04](04_two_dimensional_rope.ipynb)), values are not. `attend_to` calls the attention from above
# (`attend`, or a fast twin of it: see below) and records what goes in and comes out. The norm
# divides each vector by its root mean square:

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
assert np.allclose(y, stages["visual.blocks.0"][0], atol=1e-4)

unscaled = SimpleNamespace(weight=np.ones(config.hidden_size))
normed = nn.rms_norm(x, unscaled, config.rms_norm_eps)
assert np.allclose(np.sqrt(np.mean(normed**2, axis=-1)), 1, atol=1e-3)  # all of one size

# %% [markdown]
# ## Where one patch looks
#
# Take a patch on the upper left edge of the orange disc. Below, each panel is one row of
# attention weights, laid back on the image, with a scale of its own from 0 to its largest weight.
# In a windowed block the row ends at the window (hatched: may not be seen); in a full block it may
# go anywhere. Of each of the first five blocks we take the head that looks furthest on average.


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
# In the windowed blocks none of the weight lies outside of the window; in the full block part of
# it does.

# %%
outside = np.ones(patches, bool)
outside[windows[0] : windows[1]] = False
assert seen[0].tolist() == [0, 64]
share = rows[:, outside].sum(axis=1)
print([f"{name}: {100 * each:.0f} % outside" for name, each in zip(names, share, strict=True)])
assert share[2] > 0.01 and not np.any(share[[0, 1, 3, 4]])

# %% [markdown]
# With several heads a patch can ask several questions at once. All five of the last block, for a
# patch in the middle of the disc:

# %%
middle = int(np.flatnonzero((at == (4, 3)).all(axis=1))[0])
heads = model.attention_weights(inputs, "visual.blocks.5.attn", rows=middle)[:, 0]
assert len(heads) == 5 and len(set(np.argmax(heads, axis=1))) > 1  # they look at several patches
key_ranges = nn.segment_key_ranges(frames)[np.repeat(middle, len(heads))]
names = [f"block 5 (full), head {head}" for head in range(len(heads))]
title = "Attention of one patch, head by head"
viz.attention_from_patch(heads, key_ranges, grids, config, middle, names, pixels, title)

# %% [markdown]
# ## Plain and fast
#
# The reference form makes the whole table of scores, patches x patches for every head, and throws
# away what may not be seen. The fast one never makes it: windows of equal size are computed
# together, and full blocks a few rows at a time. Both give the same numbers up to rounding.

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
# Each of these has happened in a port: the mask is missing and every block is full; no block is
# full, because the number of a block was compared as text; the two kinds are exchanged; the mask
# is there, but as ones that are added to the scores of what may be seen, in place of minus infinity
# for what may not. `mutants.apply` makes the library wrong in that way while a block of code runs,
# and `report` says where it was seen.

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
# And a test image of 112 x 112 pixels finds none of them: there the window is the whole frame.

# %%
tiny = model.prepare(user_message(example.resize((112, 112)), "describe"))
assert tiny.image_grid_thw.tolist() == [[1, 8, 8]]
assert all(error < 1e-5 for _, error in errors(tiny))

# %% [markdown]
# ## Try it
#
# 1. Why is the score divided by $\sqrt{d}$? Measure how large $q \cdot k$ is for random vectors,
#    and what softmax makes of such scores with and without the division.
# 2. How many windowed blocks does it take until something at the left edge of the image can be
#    known at the right edge? And how many blocks when they are full?
# 3. On paper: with the mask of ones, and all scores equal, how much of its attention does a patch
#    of the first window spend outside of it?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: q . k of random numbers has a spread of sqrt(d), so the quotient has a spread of 1. The
# larger d, the nearer the undivided scores come to one patch that takes all.
for d in (16, 80, 256):
    products = np.sum(rng.standard_normal((2, 200, 64, d)).prod(axis=0), axis=-1)  # of 64 patches
    assert 0.95 < np.std(products / np.sqrt(d)) < 1.05
    divided = np.mean(np.max(nn.softmax(products / np.sqrt(d)), axis=-1))
    undivided = np.mean(np.max(nn.softmax(products), axis=-1))
    print(f"d = {d:3}: the most that one patch gets is {divided:.2f}, undivided {undivided:.2f}")
    assert divided < 0.15 and undivided > 0.5

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: no number is enough: windows do not overlap. One full block is enough.
step = nn.visible_keys(nn.segment_key_ranges(windows), patches).astype(int)
left, right = (int(np.flatnonzero((at == (0, column)).all(axis=1))[0]) for column in (0, w - 1))
assert np.linalg.matrix_power(step, 32)[right, left] == 0
assert nn.visible_keys(nn.segment_key_ranges(frames), patches)[right, left]

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: each of the 64 patches inside counts e times, each of the 216 outside once, so
# 216 / (64 e + 216), more than half. A mask of ones hardly masks.
mask = nn.visible_keys(nn.segment_key_ranges(windows), patches)[0]
leaked = np.sum(nn.softmax(np.zeros(patches) + mask)[~mask])
assert np.isclose(leaked, 216 / (64 * np.e + 216)) and leaked > 0.5

# %% [markdown]
# Next: four patches become one token, [07](07_merger.ipynb).
