# %% [markdown]
# # 02. Nine dimensions: patches
#
# **An image is rows and columns of pixels; the model wants a list of patches. How does one line of
# reshaping cut it up, and why does the list come in such an odd order?**
#
# Before this: [01](01_smart_resize.ipynb); you need: `np.reshape`, `np.transpose`; 15 minutes.

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
# First, bytes become numbers around zero: take off the mean of each colour and divide by its spread
# (both are fixed numbers, taken over from CLIP, an older vision model). Then the image is cut.
# Three sizes meet:
#
# - a **patch** is 14 x 14 pixels, and two frames deep: the unit of the vision encoder;
# - a **block** is 2 x 2 patches: what becomes one token of the language model (the layers of the
#   vision encoder are called blocks too, but there are none in this notebook);
# - a **pair of frames** makes one step in time; a still image counts as two equal frames.
#
# So a row index of pixels is really three numbers: which block, which patch in it, which pixel in
# that:
#
# $$\text{row} = 28 \cdot \text{block} + 14 \cdot \text{patch in block} + y.$$
#
# It is the same for columns, and a frame is a pair and a place in it. Three numbers for the row,
# three for the column, two for the frame and one for the colour make **nine**. A reshape gives each
# an axis of its own, a transpose puts them in the wanted order, and a second reshape joins them
# again: five into "which patch", four into "what is in it".

# %%
source(image.normalise, image.patchify)

# %% [markdown]
# ## By hand
#
# Bytes first. Red has mean 0.4815 and spread 0.2686, so black is a little under -1.79 and white a
# little over 1.93.

# %%
red = image.normalise(np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8))[0, 0, :, 0]
assert np.allclose(red, [(0 - 0.48145466) / 0.26862954, (1 - 0.48145466) / 0.26862954])
assert np.allclose(red, [-1.7923, 1.9303], atol=1e-4)

# %% [markdown]
# Now the order. Take a frame of 4 x 6 numbers, one colour, and patches of a single pixel, so that
# only the blocks remain. Follow the first four: 0 and 1, then 6 and 7 **under** them, and only then
# on to the right.

# %%
frame = np.arange(24.0).reshape(1, 4, 6, 1)
patches, grid = image.patchify(frame, patch=1, merge=2, temporal=1)
print(frame[0, :, :, 0].astype(int))
print(patches[:, 0].astype(int))
assert patches[:8, 0].tolist() == [0, 1, 6, 7, 2, 3, 8, 9]
assert grid == (1, 4, 6)

# %% [markdown]
# In an image, each patch with its number in the list; the four patches of a block have one colour.
# This is **merge order**.

# %%
merge_groups(np.array([grid]))

# %% [markdown]
# The places of the patches in the list are needed later on, for rotary embedding. They are computed
# by the same reshape and transpose, of rows and columns in place of pixels.

# %%
source(vision.patch_positions)

# %%
places = vision.patch_positions(np.array([grid]), merge=2)
assert places[:5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
assert np.array_equal(places @ [6, 1], patches[:, 0])  # row * 6 + column is the number there

# %% [markdown]
# ## Where each axis goes
#
# All nine for the example image, with their lengths. The colour of a box says which of the four
# old axes it was cut from: frames, colours, height or width.

# %%
nine_axes(1, 224, 336)

# %% [markdown]
# Two things to notice. "Row in block" and "column in block" stand **last** among the five of the
# patch, so the four patches of a block are neighbours. And what is in a patch goes colour, frame,
# y, x, the order in which the weights of the next stage are stored
# ([03](03_patch_embedding.ipynb)).
#
# ### Why are the four patches of a block neighbours?
#
# Because at the end of the vision encoder four patches become one token, and with neighbours that
# is a reshape: no gathering, no index. Windows can later move whole blocks about for the same
# reason.

# %% [markdown]
# ## On a real image
#
# All of the stages together, as the model does it, and then the shapes that go by. (`trace` keeps
# what the stages make while they run.)

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
# The numbers over the image, to be read like a street map:

# %%
frames = stages["image.normalise"][0]
merge_groups(grids, images=[as_bytes(frames[0])])

# %% [markdown]
# Four neighbouring rows of the list are a square of 28 pixels of the image. `unpatchify`, the
# inverse, shows it:

# %%
source(image.unpatchify)

# %%
token = 13  # second row of blocks, second block
block = image.unpatchify(patches[4 * token : 4 * token + 4], (1, 2, 2))
assert divmod(token, 336 // 28) == (1, 1)
assert np.array_equal(block[0], frames[0, 28:56, 28:56])
back = image.unpatchify(patches, tuple(grids[0].tolist()))
assert np.array_equal(back[0], frames[0])  # nothing is lost: it is the image in another order

# %% [markdown]
# One patch taken apart, that with the most contrast: half of it lies on the black square. Its 1,176
# numbers are six little images.

# %%
number = int(np.argmax(np.std(patches, axis=1)))
assert patches.shape[1] == 6 * 14 * 14 and 0.3 < np.mean(patches[number] < 0) < 0.7
patch_layout(patches, number)

# %% [markdown]
# ### Why is a still image seen twice?
#
# A patch is two frames deep, so that in a clip it can show what moved. Images and clips share one
# set of weights: a still image is a clip in which nothing moves. `patchify` repeats the last
# frame until the frames come out even, and there is no other difference.

# %%
squares = patches.reshape(-1, 3, 2, 14, 14)
assert np.array_equal(squares[:, :, 0], squares[:, :, 1])
assert np.array_equal(back[1], back[0])

# %% [markdown]
# A check that shares nothing with the library: the published order says that number $p$ of a row is
# colour $\lfloor p / 392 \rfloor$, $y = \lfloor p / 14 \rfloor \bmod 14$ and $x = p \bmod 14$. A
# slow loop over places chosen at random agrees.

# %%
chance = np.random.default_rng(0)
for row, p in zip(chance.integers(0, 384, 500), chance.integers(0, 1176, 500), strict=True):
    block_row, block_column = divmod(row // 4, 12)
    y = 28 * block_row + 14 * (row % 4 // 2) + p // 14 % 14
    x = 28 * block_column + 14 * (row % 2) + p % 14
    assert patches[row, p] == frames[0, y, x, p // 392]

# %% [markdown]
# ## What goes wrong
#
# A wrong transpose gives an array of the right shape with the right numbers in it. Its mean, its
# spread, its largest number: all are right. Here are three that ports make, kept in the library to
# test with: patches in raster order (as in most other vision transformers), colours last (as pixels
# come out of a file), and frame before colour (as the axes of a video come).

# %%
wrong = {"right": patches}
for name in ("patches_in_raster_order", "patch_channels_last", "patch_frame_before_channel"):
    with mutants.apply(name):
        wrong[name], _ = image.preprocess([(scene, *limits)], config.processor, config.vision)
for name, mistaken in wrong.items():
    assert mistaken.shape == patches.shape
    assert np.array_equal(np.sort(mistaken, axis=None), np.sort(patches, axis=None))
    assert np.array_equal(mistaken, patches) == (name == "right")

# %% [markdown]
# To tell them apart, read them back in the right order, and look:

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
# The last is the hardest to notice: with two equal frames only the colours change, shapes and
# places stay. And nothing fails: the model goes on answering. Here is how far its image tokens are
# from the right ones, and what it says of the image:

# %%
tokens = {
    name: vision.vision_encoder(x, grids, model.weights.visual, config) for name, x in wrong.items()
}
for name in list(wrong)[1:]:
    error = distance(tokens[name], tokens["right"])
    print(f"{name:28} squared error / squared reference: {error.nmse:.2f}")
    assert error.nmse > 0.05
    with mutants.apply(name):
        print("   ", model.ask(scene, "Describe the picture."))

# %% [markdown]
# ## Try it
#
# 1. In which row of the list is the patch of row 7, column 10 of a grid of 16 x 24? Work it out on
#    paper, then ask `patch_positions`.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: block row 3, block column 5: block 3 * 12 + 5 = 41; in it row 1, column 0: place 2.
places = vision.patch_positions(np.array([[1, 16, 24]]), 2)
assert np.flatnonzero(np.all(places == [7, 10], axis=1)) == [4 * 41 + 2] == [166]

# %% [markdown]
# 2. Put the 384 patches in raster order with one reshape, one transpose, one reshape.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: swap "block column" and "row in block".
blocks = patches.reshape(8, 12, 2, 2, -1)  # block row, block column, row in it, column in it
raster = blocks.transpose(0, 2, 1, 3, 4).reshape(384, -1)
assert np.array_equal(raster, patches[np.lexsort(places.T[::-1])])
assert np.array_equal(raster, wrong["patches_in_raster_order"])

# %% [markdown]
# 3. A clip of 3 frames: how many steps in time are there, and what is in the last one?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: two; the second holds frame 2 twice.
three = np.random.default_rng(0).random((3, 28, 28, 3))
rows, grid = image.patchify(three)
assert grid == (2, 2, 2)
assert np.array_equal(image.unpatchify(rows, grid), three[[0, 1, 2, 2]])

# %% [markdown]
# 4. `unpatchify` transposes by (0, 6, 5, 1, 3, 7, 2, 4, 8). Where does that come from?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: the inverse of a permutation is its argsort.
assert np.argsort((0, 3, 6, 4, 7, 2, 1, 5, 8)).tolist() == [0, 6, 5, 1, 3, 7, 2, 4, 8]

# %% [markdown]
# Next: the 1,176 numbers of a patch become a vector as wide as the vision encoder, by a matrix
# product that the published files call a 3-D convolution: [03](03_patch_embedding.ipynb).
