# %% [markdown]
# # 03. A 3-D convolution is a matrix product
#
# **The published weights begin with a 3-D convolution. Why is there no convolution in the code,
# and what do its kernels respond to?**
#
# Before this: [02](02_nine_dimensions.ipynb). You need: matrix products. 11 minutes.

# %%
from tinyqwenvl.viz import here

here("vision.patch_embed")

# %%
import numpy as np

import tinyqwenvl
from tinyqwenvl import image, media, nn, vision
from tinyqwenvl.model import EXAMPLE_IMAGE, EXAMPLE_VIDEO
from tinyqwenvl.oracle import mutants
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import (
    component_shares,
    kernel_images,
    matrix_product,
    responses,
    source,
    spectrum,
)
from tinyqwenvl.weights import Weights

model = tinyqwenvl.load()
config, patch_embed = model.config, model.weights.visual.patch_embed
limits = config.processor.min_pixels, config.processor.max_pixels

# %% [markdown]
# ## The idea
#
# The first layer of the vision encoder, the **patch embedding**, turns the 1,176 values of each
# patch into a vector of the encoder's hidden size. The files store its weights as those of a
# convolution.
#
# A convolution slides a **kernel**, a small array of weights, over an image. At every step it
# multiplies the kernel with the values below it, elementwise, and adds up the products. The
# distance between steps is its **stride**. Every kernel gives one value per step; many kernels
# give a vector.
#
# Here a kernel is 2 frames x 14 x 14 pixels, and so is the stride. So steps never overlap, and
# each value of the image is covered **once**. Cut the image into patches beforehand, and a step is
# a patch. Multiplying and adding is the dot product of two vectors of 1,176 values:
#
# $$y_{n,d} = \sum_{p=1}^{1176} x_{n,p} \, K_{d,p}, \qquad\text{or}\quad Y = X K^\mathsf{T}.$$
#
# Patch and kernel only need the same order of values. That is why patches are ordered channel,
# frame, y, x: a kernel `[D, 3, 2, 14, 14]` flattens in exactly that order.

# %%
source(vision.embed_patches)

# %% [markdown]
# All linear layers of the model use the same arithmetic. The others call one function:

# %%
source(nn.linear)

# %% [markdown]
# ## By hand
#
# An image of 4 x 4 values, patches of 2 x 2, one channel, one frame, and one kernel that subtracts
# the lower right value from the upper left one. A stride of two gives four steps.

# %%
example = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6], [5, 4, 3, 2]], float)
kernel = np.array([[1, 0], [0, -1]], float)
slid = [
    np.sum(example[y : y + 2, x : x + 2] * kernel)  # one step
    for y in (0, 2)
    for x in (0, 2)
]
print("a convolution:", slid)
assert slid == [1 - 6, 3 - 8, 9 - 4, 7 - 2]

# %% [markdown]
# And as one product. `patches` holds the four squares, one per line; the kernel is a vector of the
# same length.

# %%
patches, _ = image.patchify(example.reshape(1, 4, 4, 1), patch=2, temporal=1)
weights = Weights({"proj": Weights({"weight": kernel.reshape(1, 1, 1, 2, 2)})})
print("a product:    ", vision.embed_patches(patches, weights)[:, 0].tolist())
assert patches.astype(int).tolist() == [[1, 2, 5, 6], [3, 4, 7, 8], [9, 8, 5, 4], [7, 6, 3, 2]]
assert (patches @ kernel.ravel()).tolist() == slid
assert vision.embed_patches(patches, weights)[:, 0].tolist() == slid

# %% [markdown]
# ## On a real image
#
# The embedded checkpoint has 160 kernels and no bias. (The published models have 1,280 kernels.)
# The embedding of the example image is [384, 1176] times [1176, 160]:

# %%
kernels = patch_embed.proj.weight
assert kernels.shape == (160, 3, 2, 14, 14) and "bias" not in patch_embed.proj
assert preset("qwen2.5-vl-3b").vision.hidden_size == 1280
flat = np.reshape(kernels, (160, -1))
scene = media.open_image(EXAMPLE_IMAGE)
patches, grids = image.preprocess([(scene, *limits)], config.processor, config.vision)
embedded = vision.embed_patches(patches, patch_embed)
assert embedded.shape == (384, 160)
assert np.array_equal(embedded, nn.linear(patches, Weights({"weight": flat})))
matrix_product(patches, flat)

# %% [markdown]
# Purple is above 0 and brown below it: purple lines are patches on the white background, brown
# ones on the black square. The kernels look like noise; more of that in a moment.
#
# First, an independent check: a slow convolution that knows nothing of patches. It takes the
# frames, steps by 14 pixels, and multiplies and adds. The results come in raster order, so they
# are put in merge order before the comparison.

# %%
frames = np.repeat(image.normalise(np.asarray(scene)[None]), 2, axis=0)  # 2 equal frames
print("frames:", frames.shape)
laid = np.zeros((16, 24, 160))
for row in range(16):
    for column in range(24):
        y, x = 14 * row, 14 * column
        under = np.transpose(frames[:, y : y + 14, x : x + 14], (3, 0, 1, 2))  # colour, frame, y, x
        laid[row, column] = np.sum(under.astype(np.float64) * kernels, axis=(1, 2, 3, 4))

# %%
rows, columns = np.transpose(vision.patch_positions(grids, merge=2))
slow = laid[rows, columns]
assert distance(embedded, slow).nmse < 1e-11  # the sums of float32 are rounded
print(f"largest difference: {np.abs(embedded - slow).max():.1e}")

# %% [markdown]
# ### Exercise 1
#
# For still images only: make a 2-D kernel of [160, 3, 14, 14] that gives the same result from half
# of the values.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: add the two frames of the kernel.
flat_kernel = np.sum(kernels, axis=2).reshape(160, -1)
one_frame = patches.reshape(384, 3, 2, 14, 14)[:, :, 0].reshape(384, -1)
print(one_frame.shape, f"NMSE {distance(one_frame @ flat_kernel.T, embedded).nmse:.0e}")
assert one_frame.shape == (384, 588)
assert distance(one_frame @ flat_kernel.T, embedded).nmse < 1e-11

# %% [markdown]
# ### Exercise 2
#
# How many multiplications does this stage need for 1,440 patches in a published model (1,280
# kernels)? How many weights does it have?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: one for each patch, value and kernel: about 2.2 billion; 1.5 million weights.
print(f"{1440 * 1176 * 1280:,} multiplications, {1176 * 1280:,} weights")
assert 1440 * 1176 * 1280 == 2_167_603_200
assert 1176 * 1280 == 1_505_280

# %% [markdown]
# ### Exercise 3
#
# With a stride of 7 the steps overlap. Is it still a matrix product?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: yes, of a longer array of patches, in which pixels occur several times ("im2col").
view = np.lib.stride_tricks.sliding_window_view(frames, (14, 14), axis=(1, 2))[:, ::7, ::7]
rows = np.transpose(view, (1, 2, 3, 0, 4, 5)).reshape(-1, 1176)  # channel, frame, y, x again
stops = (rows @ flat.T).reshape(31, 47, 160)
print(f"{len(rows)} patches instead of {len(patches)}")
assert len(rows) == 31 * 47 and rows.size > 3 * patches.size
assert distance(stops[::2, ::2], laid).nmse < 1e-11  # every second step is one of before

# %% [markdown]
# ## What the kernels respond to
#
# Each kernel has as many values as a patch, so it can be drawn as one, in colour:

# %%
kernel_images(flat, range(10))

# %% [markdown]
# Nobody would call these edge detectors. This checkpoint's kernels were not trained but computed
# from drawn images ([15](15_how_it_learned.ipynb)). Take the 160 patterns that make up most of a
# patch, the **principal directions**. Scale each down by its strength, so that no one dominates
# the others (**whitening**). Then make every kernel a random mixture of all of them. A singular
# value decomposition undoes the mixing. The directions come out sorted by scale, so here they are
# with the one first that was scaled down most:

# %%
_, strengths, directions = np.linalg.svd(flat, full_matrices=False)
assert strengths[-1] < 0.2 * strengths[0]
plain = directions[-3:].reshape(3, 3, -1)  # the first three below: colour, all pixels
assert np.std(plain, axis=2).max() < 0.25 * np.abs(plain).max()
kernel_images(directions[::-1], range(20), "The directions that the kernels are mixed of")

# %% [markdown]
# First come uniform ones, brightness (the black one: the sign of a direction is arbitrary) and two
# colours. Then follow light and dark halves, edges in colour, spots, and ever finer patterns, much
# like the cosines of JPEG. Where frame 0 and frame 1 are opposite, a direction responds to change
# over time.

# %%
two = directions.reshape(160, 3, 2, 196)
kept, changing = two[:, :, 0] + two[:, :, 1], two[:, :, 0] - two[:, :, 1]
share = np.sum(changing**2, axis=(1, 2)) / np.sum(kept**2 + changing**2, axis=(1, 2))
assert np.any(share > 0.9) and np.any(share < 0.1)
changes = np.flatnonzero(share[::-1] > 0.5)  # numbered as in the image
print(f"{len(changes)} of 160 directions see mostly change; the first is number {changes[0]}")

# %% [markdown]
# ### Why whiten?
#
# Neighbouring pixels are alike, so brightness dominates a patch. Random kernels respond to little
# else. The figure shows how much of the output its strongest directions carry, on the images of
# the package: the flatter the curve, the more is represented besides brightness.

# %%
images = [media.open_image(path) for path in sorted(EXAMPLE_IMAGE.parent.glob("*.png"))]
many, _ = image.preprocess([(p, *limits) for p in images], config.processor, config.vision)
random_kernels = np.random.default_rng(0).standard_normal(flat.shape).astype(np.float32)
outputs = {"random kernels": many @ random_kernels.T, "kernels of the checkpoint": many @ flat.T}
first = {name: component_shares(output)[0] for name, output in outputs.items()}
assert first["random kernels"] > 0.8 and first["kernels of the checkpoint"] < 0.4
spectrum(outputs)

# %% [markdown]
# The same on the image: the output of five kernels for each patch. It is small on the uniform
# background and inside shapes. Borders give a large output, which differs above, below, left and
# right.

# %%
plain = np.ptp(patches.reshape(384, 3, -1), axis=2).max(axis=1) < 0.05  # patches of one colour
assert np.abs(embedded[plain]).mean() < 0.25 * np.abs(embedded[~plain]).mean()
responses(scene, embedded, tuple(grids[0].tolist()), range(5))

# %% [markdown]
# ### Exercise 4
#
# Build a kernel that responds to change over time and nothing else: 0 for every still image, not 0
# for the video of the package.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: any kernel whose second frame is the first with the sign changed.
change = np.stack([kernels[0, :, 0], -kernels[0, :, 0]], axis=1).reshape(-1)
clip = tinyqwenvl.video.read_video(EXAMPLE_VIDEO, config)
print(
    f"image: {np.abs(patches @ change).max():.0e}, video: {np.abs(clip.patches @ change).max():.1f}"
)
assert np.abs(patches @ change).max() < 1e-5
assert np.abs(clip.patches @ change).max() > 0.1

# %% [markdown]
# ## What goes wrong
#
# On a runtime without 3-D convolutions it is tempting to use a 2-D one with the first frame of the
# kernel, because an image has one frame. But a still image is used for both frames of the kernel,
# so the model was trained with their **sum**. The second bug is that of
# [02](02_nine_dimensions.ipynb) from the other side: the patches are right, and the kernel was
# stored with its channels last. **NMSE** is the squared error divided by the squared reference.

# %%
with mutants.apply("first_temporal_slice_only"):
    half = vision.embed_patches(patches, patch_embed)
channels_last = np.transpose(kernels, (0, 2, 3, 4, 1)).reshape(160, -1)
wrong = {"first frame only": half, "kernel with channels last": patches @ channels_last.T}
for name, mistaken in wrong.items():
    error = distance(mistaken, embedded)
    print(f"{name:26} NMSE {error.nmse:.2f}")
    assert error.nmse > 0.1

# %% [markdown]
# Next: nothing in a patch says where in the image it was. How the vision encoder encodes
# positions: [04](04_two_dimensional_rope.ipynb).
