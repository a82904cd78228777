# %% [markdown]
# # 02. Nine dimensions: patches
#
# **An image is rows and columns of pixels; the model wants a sequence of patches. How does one
# reshape cut it up, and why do the patches come in such an unusual order?**
#
# Before this: [01](01_smart_resize.ipynb). You need: `np.reshape`, `np.transpose`. 17 minutes.

# %%
from tinyqwenvl.viz import here

here("image.patches")

# %%
import numpy as np

import tinyqwenvl
from tinyqwenvl import image, media, vision
from tinyqwenvl.model import EXAMPLE_IMAGE
from tinyqwenvl.oracle import mutants
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.viz import (
    as_bytes,
    image_row,
    merge_groups,
    nine_axes,
    patch_layout,
    source,
)

model = tinyqwenvl.load()
config = model.config
scene = media.open_image(EXAMPLE_IMAGE)
limits = config.processor.min_pixels, config.processor.max_pixels

# %% [markdown]
# ## The idea
#
# First, bytes become values around zero: subtract each channel's mean and divide by its standard
# deviation (both are constants, taken from CLIP, an older vision model). Then the image is cut.
# Three units meet:
#
# - a **patch** is 14 x 14 pixels, and two frames deep: the unit of the vision encoder;
# - a **merge group** is 2 x 2 patches: it becomes one token of the language model;
# - a **frame pair** makes one step in time; a still image counts as two equal frames.
#
# So the row of a pixel is really three indices: which merge group, which patch in it, which pixel
# in that:
#
# $$\text{row} = 28 \cdot \text{group} + 14 \cdot \text{patch in group} + y.$$
#
# Columns work the same way, and a frame is a pair and an index in it. Three for the row, three for
# the column, two for the frame and one for the channel make **nine** dimensions. A reshape gives
# each its own axis, a transpose puts them in the wanted order, and a second reshape joins them
# again: five into "which patch", four into "what is in it".

# %%
source(image.normalise, image.patchify)

# %% [markdown]
# ## By hand
#
# Bytes first. The red channel has mean 0.4815 and standard deviation 0.2686, so black becomes
# -1.79 and white 1.93.

# %%
red = image.normalise(np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8))[0, 0, :, 0]
print(red)
assert np.allclose(red, [(0 - 0.48145466) / 0.26862954, (1 - 0.48145466) / 0.26862954])
assert np.allclose(red, [-1.7923, 1.9303], atol=1e-4)

# %% [markdown]
# Now the order. Take a frame of 4 x 6 values, one channel, and patches of a single pixel, so that
# only the merge groups remain. Follow the first four: 0 and 1, then 6 and 7 **below** them, and
# only then on to the right.

# %%
frame = np.arange(24.0).reshape(1, 4, 6, 1)
patches, grid = image.patchify(frame, patch=1, merge=2, temporal=1)
print(frame[0, :, :, 0].astype(int))
print(patches[:, 0].astype(int))
assert patches[:8, 0].tolist() == [0, 1, 6, 7, 2, 3, 8, 9]
assert grid == (1, 4, 6)

# %% [markdown]
# The same on an image: each patch with its index in the sequence; the four patches of a merge
# group have one colour. This is **merge order**. Row by row, as you read, would be **raster
# order**.

# %%
merge_groups(np.array([grid]))

# %% [markdown]
# Rotary embedding will need the row and the column of each patch in the sequence. The same reshape
# and transpose compute them, from rows and columns instead of pixels.

# %%
source(vision.patch_positions)

# %%
places = vision.patch_positions(np.array([grid]), merge=2)
print("(row, column) of the first five patches:", places[:5].tolist())
assert places[:5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
assert np.array_equal(places @ [6, 1], patches[:, 0])  # row * 6 + column is the value there

# %% [markdown]
# ## Where each axis goes
#
# All nine for the example image, with their lengths. The colour of a box shows which of the four
# old axes it was cut from: frames, channels, height or width.

# %%
nine_axes(1, 224, 336)

# %% [markdown]
# Notice two things. "Row in group" and "column in group" come **last** among the five that say
# which patch, so the four patches of a merge group are neighbours in memory. And the values of a
# patch are ordered channel, frame, y, x, the order in which the weights of the next stage are
# stored ([03](03_patch_embedding.ipynb)).
#
# ### Why are the four patches of a merge group neighbours?
#
# Because at the end of the vision encoder four patches become one token, and for neighbours that
# is a reshape: no gather, no index. For the same reason, windows can later move whole merge
# groups.
#
# ### Exercise 1
#
# At which index of the sequence is the patch of row 7, column 10 of a grid of 16 x 24? Work it out
# on paper, then ask `patch_positions`.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: group row 3, group column 5: group 3 * 12 + 5 = 41; in it row 1, column 0: patch 2.
places = vision.patch_positions(np.array([[1, 16, 24]]), 2)
print(np.flatnonzero(np.all(places == [7, 10], axis=1)))
assert np.flatnonzero(np.all(places == [7, 10], axis=1)) == [4 * 41 + 2] == [166]

# %% [markdown]
# ## On a real image
#
# All of the steps together, as the model runs them, with the shapes on the way. (`trace` records
# what the stages return while they run.)

# %%
source(image.preprocess)

# %%
with tinyqwenvl.trace("picture", "image.*") as stages:
    patches, grids = image.preprocess([(scene, *limits)], config.processor, config.vision)
for name, values in stages.items():
    print(f"{name:22} {values[0].dtype!s:8} {list(values[0].shape)}")
assert stages["image.nine_dimensions"][0].shape == (1, 8, 12, 2, 2, 3, 2, 14, 14)
assert patches.shape == (16 * 24, 3 * 2 * 14 * 14) == (384, 1176)

# %% [markdown]
# The indices drawn over the image:

# %%
frames = stages["image.normalise"][0]
merge_groups(grids, images=[as_bytes(frames[0])])

# %% [markdown]
# Four consecutive patches of the sequence are a square of 28 pixels of the image. `unpatchify`,
# the inverse, shows it:

# %%
source(image.unpatchify)

# %%
token = 13  # second row of merge groups, second group
group = image.unpatchify(patches[4 * token : 4 * token + 4], (1, 2, 2))
back = image.unpatchify(patches, tuple(grids[0].tolist()))
print("group 13 is at row and column", divmod(token, 336 // 28), end="; ")
print("the whole image comes back:", np.array_equal(back[0], frames[0]))
assert divmod(token, 336 // 28) == (1, 1)
assert np.array_equal(group[0], frames[0, 28:56, 28:56])
assert np.array_equal(back[0], frames[0])  # nothing is lost: it is the image in another order

# %% [markdown]
# ### Exercise 2
#
# `unpatchify` transposes by (0, 6, 5, 1, 3, 7, 2, 4, 8). Where does that come from?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: the inverse of a permutation is its argsort.
print(np.argsort((0, 3, 6, 4, 7, 2, 1, 5, 8)))
assert np.argsort((0, 3, 6, 4, 7, 2, 1, 5, 8)).tolist() == [0, 6, 5, 1, 3, 7, 2, 4, 8]

# %% [markdown]
# This is one patch taken apart, the one with the highest contrast: half of it lies on the black
# square. Its 1,176 values are six small images.

# %%
number = int(np.argmax(np.std(patches, axis=1)))
assert patches.shape[1] == 6 * 14 * 14 and 0.3 < np.mean(patches[number] < 0) < 0.7
patch_layout(patches, number)

# %% [markdown]
# ### Why is a still image used twice?
#
# A patch is two frames deep, so that in a video it can show motion. Images and videos share one
# set of weights: a still image is a video in which nothing moves. `patchify` repeats the last
# frame until the number of frames is even, and there is no other difference.

# %%
squares = patches.reshape(-1, 3, 2, 14, 14)
print("both frames are equal:", np.array_equal(squares[:, :, 0], squares[:, :, 1]))
assert np.array_equal(squares[:, :, 0], squares[:, :, 1])
assert np.array_equal(back[1], back[0])

# %% [markdown]
# ### Exercise 3
#
# A video of 3 frames: how many frame pairs are there, and what is in the last one?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: two; the second holds frame 2 twice.
three = np.random.default_rng(0).random((3, 28, 28, 3))
rows, grid = image.patchify(three)
print("grid (frame pairs, rows, columns):", grid)
assert grid == (2, 2, 2)
assert np.array_equal(image.unpatchify(rows, grid), three[[0, 1, 2, 2]])

# %% [markdown]
# An independent check shares nothing with the library. The published order says that value $p$ of
# a patch has channel $\lfloor p / 392 \rfloor$, $y = \lfloor p / 14 \rfloor \bmod 14$ and $x = p
# \bmod 14$. A slow loop over random values agrees.

# %%
chance = np.random.default_rng(0)
for row, p in zip(chance.integers(0, 384, 500), chance.integers(0, 1176, 500), strict=True):
    group_row, group_column = divmod(row // 4, 12)
    y = 28 * group_row + 14 * (row % 4 // 2) + p // 14 % 14
    x = 28 * group_column + 14 * (row % 2) + p % 14
    assert patches[row, p] == frames[0, y, x, p // 392]
print("500 of 500 values agree")

# %% [markdown]
# ## What goes wrong
#
# A wrong transpose gives an array of the right shape with the right values in it. Its mean, its
# standard deviation and its maximum are all right. The library can inject known bugs of ports
# (**mutants**). Here are three wrong transposes: patches in raster order (as in most other vision
# transformers), channels last (as pixels come out of a file), and frame before channel (as the
# axes of a video come).

# %%
wrong = {"right": patches}
for name in ("patches_in_raster_order", "patch_channels_last", "patch_frame_before_channel"):
    with mutants.apply(name):
        wrong[name], _ = image.preprocess([(scene, *limits)], config.processor, config.vision)
for name, mistaken in wrong.items():
    same = np.array_equal(np.sort(mistaken, axis=None), np.sort(patches, axis=None))
    print(f"{name:28} shape {mistaken.shape}, same values: {same}")
    assert mistaken.shape == patches.shape and same
    assert np.array_equal(mistaken, patches) == (name == "right")

# %% [markdown]
# To see the difference, read each back in the right order:

# %%
grid = tuple(grids[0].tolist())
read_back = {name: as_bytes(image.unpatchify(x, grid)[0]) for name, x in wrong.items()}
names = ("right", "raster order", "colours last", "frame before colour")
image_row(
    dict(zip(names, read_back.values(), strict=True)),
    "The same image with wrong transposes, read back in the right order",
    "The scene; the same with patches shuffled, so that shapes are in pieces and twice; with "
    "shapes in place but blurred into grey with fringes; with sharp shapes in false colours.",
)

# %% [markdown]
# The last is the hardest to notice in the image: with two equal frames only the colours change,
# and shapes and positions stay. No error is raised for any of them. Here is how far their image
# tokens are from the right ones, as **NMSE** (normalised mean squared error: squared error divided
# by the squared reference), and what the model answers:

# %%
tokens = {
    name: vision.vision_encoder(x, grids, model.weights.visual, config) for name, x in wrong.items()
}
answers = {"right": model.ask(scene, "Describe the picture.")}
for name in list(wrong)[1:]:
    error = distance(tokens[name], tokens["right"])
    with mutants.apply(name):
        answers[name] = model.ask(scene, "Describe the picture.")
    print(f"{name:28} NMSE {error.nmse:.2f}: {answers[name][:80]}")
    assert error.nmse > 0.05
assert len(set(answers.values())) == 4

# %% [markdown]
# The answers differ in kind. Some still read like descriptions, of a scene that is not there;
# others break down into fragments. An answer that looks fine proves nothing, and a broken one does
# not say where the bug is. So compare arrays.
#
# ### Exercise 4
#
# Put the 384 patches in raster order with one reshape, one transpose and one reshape.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: swap "group column" and "row in group".
groups = patches.reshape(8, 12, 2, 2, -1)  # group row, group column, row in it, column in it
raster = groups.transpose(0, 2, 1, 3, 4).reshape(384, -1)
places = vision.patch_positions(grids, 2)
print("equal to the mutant:", np.array_equal(raster, wrong["patches_in_raster_order"]))
assert np.array_equal(raster, patches[np.lexsort(places.T[::-1])])
assert np.array_equal(raster, wrong["patches_in_raster_order"])

# %% [markdown]
# Next: the 1,176 values of a patch become a vector of the encoder's hidden size, by a matrix
# product that the published files call a 3-D convolution: [03](03_patch_embedding.ipynb).
