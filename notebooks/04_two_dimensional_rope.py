# %% [markdown]
# # 04. Two-dimensional RoPE in the vision encoder
#
# In the vision encoder, patches attend to each other, but the values of a patch do not say where
# it was. **How does attention distinguish a patch on the left from one below?**
#
# Before this: [02](02_nine_dimensions.ipynb), [03](03_patch_embedding.ipynb). You need: sine and
# cosine, the dot product. 14 minutes.

# %%
from tinyqwenvl.viz import here

here("vision.rope")

# %%
import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import nn, vision, viz
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle import mutants
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import source

model = tinyqwenvl.load()
small, published = model.config.vision, preset("qwen2.5-vl-3b").vision

# %% [markdown]
# ## The idea
#
# In **attention** (the subject of [06](06_attention.ipynb)), every patch has a **query** and a
# **key**, two vectors computed from its values. How much patch $i$ attends to patch $j$ is decided
# by a **score**, the dot product of the query of $i$ with the key of $j$. This is done several
# times in parallel, in **heads** with queries and keys of their own. So far an image is a bag of
# patches: shuffle them, and every score stays the same.
#
# Now take two elements of the query as a 2-D pair, and rotate it by an angle that grows with the
# position of $i$. Do the same with the key and the position of $j$. A dot product does not change
# when both pairs rotate by the same angle, so only the *difference* of the two angles remains.
# With $R_a$ for the rotation by the angle $a$:
#
# $$(R_{a}\,q) \cdot (R_{b}\,k) = q \cdot (R_{b-a}\,k).$$
#
# Positions go in, a distance comes out. This is the **rotary position embedding** (RoPE; Su et al.
# 2021, written for text, which has one axis). An image has two axes, so half of the pairs rotate
# with the row and the other half with the column. Nothing is trained here, and nothing is added to
# the patches: queries and keys are rotated in every block anew.
#
# How fast should a pair rotate? A fast one separates neighbours, but it repeats after a full turn.
# A slow one separates far from near. So every pair has its own **frequency**, from one radian per
# patch down to almost nothing.

# %%
source(nn.rotary_frequencies, nn.rotate)

# %% [markdown]
# `rotate` processes all pairs at once: element `x[i]` and its partner `x[i + d/2]` form one pair,
# which becomes `(x[i] cos - x[i + d/2] sin, x[i + d/2] cos + x[i] sin)`.
#
# The angles are computed from the position of each patch. Patches come in merge order, the four of
# a merge group together ([02](02_nine_dimensions.ipynb)), and the positions must come in that
# order too.

# %%
source(vision.patch_positions, vision.rotary_angles)

# %% [markdown]
# ## By hand
#
# The smallest head that knows two axes has four elements: two pairs. `x[0]` and `x[2]` are the
# pair of the row, `x[1]` and `x[3]` the pair of the column. Both rotate by one radian per patch.

# %%
frequencies = nn.rotary_frequencies(2, 10000.0)
assert frequencies.tolist() == [1.0]

row, column = 1, 2
angles = np.array([row * 1.0, column * 1.0])
cos, sin = np.cos(np.tile(angles, 2)), np.sin(np.tile(angles, 2))
x = np.array([[[1.0, 0.0, 0.0, 0.0]]])  # the arrow of the row points along its first axis
turned = nn.rotate(x, cos[None], sin[None])[0, 0]
assert np.allclose(turned, [np.cos(1), 0, np.sin(1), 0])
print(turned.round(3))

# %% [markdown]
# The row is 1, so its pair rotated by one radian. The pair of the column is zero and stays zero.
# Now the promise: two patches three rows and two columns apart have the same score wherever they
# are.

# %%
rng = np.random.default_rng(4)
q, k = rng.standard_normal((2, 1, 1, 4))


def turn(x, row, column):
    angles = np.tile([row, column], 2)[None].astype(float)
    return nn.rotate(x, np.cos(angles), np.sin(angles))[0, 0]


scores = [turn(q, r, c) @ turn(k, r + 3, c - 2) for r, c in ((0, 2), (7, 5), (40, 31))]
print(np.round(scores, 6))
assert np.allclose(scores, scores[0])
assert not np.isclose(turn(q, 0, 2) @ turn(k, 2, 0), scores[0])  # another distance

# %% [markdown]
# ### Exercise 1
#
# Does a rotation change the length of a query? Why does that matter?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: no. A rotation keeps lengths, so no position attracts attention because of where it is.
long_q = rng.standard_normal((1, 24, 80))
angles = np.tile(vision.rotary_angles(np.array([[1, 4, 6]]), published), 2)
turned = nn.rotate(long_q, np.cos(angles), np.sin(angles))
change = np.linalg.norm(turned, axis=-1) - np.linalg.norm(long_q, axis=-1)
print(f"lengths change by at most {np.abs(change).max():.0e}")
assert np.allclose(change, 0, atol=1e-6)

# %% [markdown]
# ## Which elements rotate with which axis
#
# A head of the published models has a dimension of 80: 40 pairs, 20 that rotate with the row and
# 20 with the column. The row takes the first quarter of the elements and the third, where their
# partners are.

# %%
assert published.hidden_size // published.num_heads == 80
turns = 2 * np.pi / nn.rotary_frequencies(40, published.rope_theta)
assert len(turns) == 20 and round(turns[0], 1) == 6.3 and turns[-1] > 39_000
viz.frequency_bands(published)

# %% [markdown]
# The fastest pair makes a full turn in 6.3 patches, the slowest in more than 39,000, which is
# wider than any image. Only six of the twenty make a full turn within 64 patches (896 pixels).
#
# How do all pairs together respond to distance? Take a query and a key that are equal, all ones,
# and move the key. (As in attention, the score is divided by $\sqrt{80}$, the root of the
# dimension.)

# %%
assert np.sum(turns <= 64) == 6 and 64 * 14 == 896
ones = np.ones(80, np.float32)
scores = viz.distance_scores(ones, ones, published, 16)
assert np.argmax(scores) == scores.size // 2  # the middle: no distance
viz.score_by_distance(ones, ones, published)

# %% [markdown]
# Near patches have high scores. A patch in the same row or in the same column keeps the half of
# the score that comes from that axis, however far away it is: the bright cross. Row and column are
# two separate sums over the frequencies $f_j$: at $\Delta r$ rows and $\Delta c$ columns the score
# is proportional to $\sum_j \cos(f_j \Delta r) + \sum_j \cos(f_j \Delta c)$.

# %%
steps = np.arange(-16, 17)
one_axis = np.sum(np.cos(steps[:, None] * nn.rotary_frequencies(40, 10000.0)), axis=1)
by_hand = 2 * (one_axis[:, None] + one_axis) / np.sqrt(80)
print(f"formula and figure differ by at most {np.abs(scores - by_hand).max():.0e}")
assert np.allclose(scores, by_hand, atol=1e-4)
assert np.min(scores[16]) > scores[16, 16] / 2 > 4

# %% [markdown]
# ## On a real image
#
# The embedded checkpoint has a head dimension of 32, so 16 angles for each patch: its row times
# each of eight frequencies, then its column times the same eight.

# %%
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "describe"))
grids = inputs.image_grid_thw
angles = vision.rotary_angles(grids, small)
assert angles.shape == (len(inputs.pixel_values), 16)
print(f"grid {grids.tolist()}, angles {angles.shape}")
viz.angle_maps(grids, small)

# %% [markdown]
# Angles 0 and 2 are horizontal stripes (they depend on the row), 8 and 10 vertical stripes (the
# column). A fast angle repeats and so stands for several rows; a slow one hardly differs between
# neighbours. All sixteen together are different for every patch.

# %%
signatures = np.round(np.concatenate([np.cos(angles), np.sin(angles)], axis=1), 4)
print(len(np.unique(signatures, axis=0)), "different signatures of", len(angles), "patches")
assert len(np.unique(signatures, axis=0)) == len(angles)

# %% [markdown]
# ### Exercise 2
#
# What do the angles of a video of two frame pairs say about time?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: nothing. Both have the same angles; the vision encoder never compares their patches.
of_video = vision.rotary_angles(np.array([[2, 4, 6]]), published)
print("both frame pairs have equal angles:", np.array_equal(of_video[:24], of_video[24:]))
assert np.array_equal(of_video[:24], of_video[24:])

# %% [markdown]
# A trained head can use this, because the mean query and the mean key of a head need not be equal:
# then the score may be highest at some *other* distance. The output of `visual.blocks.3.attn.qkv`
# holds queries and keys before the rotation; `.q` and `.k` are recorded after it.

# %%
with tinyqwenvl.trace("visual.blocks.3.attn.*", "visual.rotary_angles") as stages:
    model.forward(inputs)
qkv = np.reshape(stages["visual.blocks.3.attn.qkv"][0], (len(angles), 3, small.num_heads, -1))
q, k, _ = np.transpose(qkv, (1, 2, 0, 3))
angles = np.tile(stages["visual.rotary_angles"][0], 2)
rotated, recorded = nn.rotate(q, np.cos(angles), np.sin(angles)), stages["visual.blocks.3.attn.q"]
print(f"rotated by hand and recorded: {np.abs(rotated - recorded[0]).max():.0e} apart")
assert np.allclose(rotated, recorded[0], atol=1e-5)

# %%
means = list(zip(np.mean(q, axis=1), np.mean(k, axis=1), strict=True))
maps = [viz.distance_scores(*mean, small, 7) for mean in means]
gains = [np.max(each) - each[7, 7] for each in maps]  # over the score at no distance
head = int(np.argmax(gains))
print([f"head {i}: {gain:.1f}" for i, gain in enumerate(gains)])
assert gains[head] > 1
viz.score_by_distance(*means[head], small, reach=7)

# %% [markdown]
# That is one head of block 3, with the mean query and the mean key of all patches of the image: its
# score is highest for keys to the left of the query, not at no distance. Seven patches is as far as
# a patch can attend there: this block attends within windows of eight by eight
# ([05](05_windows.ipynb)).

# %%
row, column = np.unravel_index(np.argmax(maps[head]), maps[head].shape)
print(f"highest at {7 - column} columns to the left, {row - 7} rows below")
assert 3 not in small.fullatt_block_indexes and small.window_size == 8 * 14
assert column < 7

# %% [markdown]
# ## What goes wrong
#
# Four bugs that are easily made here. None of them crashes, none changes a shape. `mutants`
# injects each into the running model, and we compare the image tokens with the right ones. (The
# error is the length of the difference divided by the length of the right ones; 1 is as bad as
# answering 0.)

# %%
names = "interleaved not_permuted in_raster_order height_and_width_swapped".split()
right = model.image_features(inputs.pixel_values, grids)
for name in names:
    with mutants.apply(f"vision_rope_{name}"):
        wrong = model.image_features(inputs.pixel_values, grids)
    error = np.linalg.norm(wrong - right) / np.linalg.norm(right)
    print(f"{name:25} relative error {error:.2f}: {mutants.MUTANTS['vision_rope_' + name].what}")
    assert wrong.shape == right.shape and error > 0.1

# %% [markdown]
# The first is the hardest to see: `x[i]` is paired with its neighbour instead of `x[i + d/2]`.
# Both pairings are in use, and each is right for the weights that were trained with it. No test of
# the rotation alone can find it: the wrong pairing, too, depends only on distances.

# %%
q, k = rng.standard_normal((2, 1, 1, 80))


def score(pairing, place, other):
    f = nn.rotary_frequencies(40, 10000.0, np.float64)
    angles = [np.concatenate([p[0] * f, p[1] * f] * 2)[None] for p in (place, other)]
    left, right = (pairing(x, np.cos(a), np.sin(a)) for x, a in zip((q, k), angles, strict=True))
    return np.sum(left * right)


for pairing in (nn.rotate, mutants.rotate_neighbours):
    near, moved = score(pairing, (0, 2), (3, 0)), score(pairing, (40, 31), (43, 29))
    print(f"{pairing.__name__:18} {near:.4f}, and 40 rows further down {moved:.4f}")
    assert np.isclose(near, moved)
assert not np.isclose(*(score(p, (0, 2), (3, 0)) for p in (nn.rotate, mutants.rotate_neighbours)))

# %% [markdown]
# So compare with a recorded run: [14](14_be_an_oracle.ipynb) does.
#
# ### Exercise 3
#
# Move all patches of an image five rows down and seven columns to the right: what happens to the
# attention weights?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: nothing, distances are the same. (In float64, because sines of large angles round.)
f = nn.rotary_frequencies(40, 10000.0, np.float64)
places = vision.patch_positions(np.array([[1, 4, 6]]), 2)
(q, k), seen = rng.standard_normal((2, 1, 24, 80)), nn.segment_key_ranges(np.array([0, 24]))
weights = []
for moved in (places, np.add(places, [5, 7])):
    angles = np.tile(np.reshape(moved[:, :, None] * f, (24, 40)), 2)
    turned = [nn.rotate(x, np.cos(angles), np.sin(angles)) for x in (q, k)]
    weights.append(nn.attention_weights(*turned, seen))
print(f"largest difference: {np.abs(weights[0] - weights[1]).max():.0e}")
assert np.allclose(*weights)

# %% [markdown]
# Next: most blocks attend only within windows, whose patches are made contiguous:
# [05](05_windows.ipynb).
