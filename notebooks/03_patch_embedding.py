# %% [markdown]
# # 03. A 3-D convolution is a matrix product
#
# **The published weights begin with a 3-D convolution. Why is there no convolution in the code, and
# what do its kernels look at?**
#
# Before this: [02](02_nine_dimensions.ipynb); you need: matrix products; 11 minutes.

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
# The first layer of the vision encoder, the **patch embedding**, makes of the 1,176 numbers of each
# patch a vector as wide as the vision encoder. The files hold its weights as those of a
# convolution.
#
# A convolution slides a **kernel**, a small array of weights, over an image. At every stop it
# multiplies what lies under it with the kernel, number by number, and adds it all up. How far it
# moves between stops is its stride. Every kernel gives one number a stop; many of them give a
# vector.
#
# Here a kernel is 2 frames x 14 x 14 pixels, and so is the stride. So stops never overlap, and
# each number of the image lies under a kernel **once**. Cut the image into patches
# beforehand, and a stop is a patch: multiply and add is the dot product of two rows of 1,176
# numbers,
#
# $$y_{n,d} = \sum_{p=1}^{1176} x_{n,p} \, K_{d,p}, \qquad\text{or}\quad Y = X K^\mathsf{T}.$$
#
# It only takes that a patch and a kernel have their numbers in the same order. That is why patches
# are ordered colour, frame, y, x: a kernel `[D, 3, 2, 14, 14]` flattened is in that order already.

# %%
source(vision.embed_patches)

# %% [markdown]
# It is the arithmetic of all linear layers of the model. The others go through one function:

# %%
source(nn.linear)

# %% [markdown]
# ## By hand
#
# An image of 4 x 4 numbers, patches of 2 x 2, one colour, one frame, and one kernel that subtracts
# the lower right number from the upper left one. Slide it by two: four stops.

# %%
example = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6], [5, 4, 3, 2]], float)
kernel = np.array([[1, 0], [0, -1]], float)
slid = [
    np.sum(example[y : y + 2, x : x + 2] * kernel)  # one stop
    for y in (0, 2)
    for x in (0, 2)
]
assert slid == [1 - 6, 3 - 8, 9 - 4, 7 - 2]

# %% [markdown]
# And as one product. The rows of `patches` are the four squares, the kernel a row like them.

# %%
patches, _ = image.patchify(example.reshape(1, 4, 4, 1), patch=2, temporal=1)
assert patches.astype(int).tolist() == [[1, 2, 5, 6], [3, 4, 7, 8], [9, 8, 5, 4], [7, 6, 3, 2]]
assert (patches @ kernel.ravel()).tolist() == slid
weights = Weights({"proj": Weights({"weight": kernel.reshape(1, 1, 1, 2, 2)})})
assert vision.embed_patches(patches, weights)[:, 0].tolist() == slid

# %% [markdown]
# ## On a real image
#
# The kernels of the checkpoint inside the package: 160 of them, and no bias. (The published models
# have 1,280.) The embedding of the example image is [384, 1176] by [1176, 160]:

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
# Purple is above 0 and brown below it: purple rows are patches on the white ground, brown ones on
# the black square. The kernels look like noise; more of that in a moment.
#
# First the check: a convolution in slow motion, which knows nothing of patches. It takes the
# frames, stops every 14 pixels, and multiplies and adds what lies under each kernel. The results
# come row by row, so they are put in merge order before the comparison.

# %%
frames = np.repeat(image.normalise(np.asarray(scene)[None]), 2, axis=0)  # 2 equal frames
assert frames.shape == (2, 224, 336, 3)
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
# ## What the kernels see
#
# Each kernel is as long as a patch, so it can be looked at as one, in colour:

# %%
kernel_images(flat, range(10))

# %% [markdown]
# Nobody would call these edge detectors. This checkpoint's kernels were not learned but computed
# from drawn images ([15](15_how_it_learned.ipynb)): take the 160 patterns that patches are mostly
# made of, their **directions**; scale each down by how strong it is in patches, so that no one
# drowns the others (this is called **whitening**); and make every kernel a random mixture of all of
# them. A singular value decomposition takes the mixing away again. The directions come out
# sorted by scale, so here they are with the one first that was scaled down most:

# %%
_, strengths, directions = np.linalg.svd(flat, full_matrices=False)
assert strengths[-1] < 0.2 * strengths[0]
plain = directions[-3:].reshape(3, 3, -1)  # the first three below: colour, all pixels
assert np.std(plain, axis=2).max() < 0.25 * np.abs(plain).max()
kernel_images(directions[::-1], range(20), "The directions that the kernels are mixed of")

# %% [markdown]
# First plain ones, brightness (the black one: a direction may come out with its sign turned) and
# two colours, then light and dark halves, edges in colour, spots, and ever finer ones, much like
# the cosines of JPEG. Where frame 0 and frame 1 are opposite, a direction sees change over time.

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
# Neighbouring pixels are alike, so nearly all there is to a patch is its brightness. Random kernels
# would see little else. Below, how much of the output its strongest directions carry, on the
# images of the package: the flatter the line, the more is seen besides brightness.

# %%
images = [media.open_image(path) for path in sorted(EXAMPLE_IMAGE.parent.glob("*.png"))]
many, _ = image.preprocess([(p, *limits) for p in images], config.processor, config.vision)
random_kernels = np.random.default_rng(0).standard_normal(flat.shape).astype(np.float32)
outputs = {"random kernels": many @ random_kernels.T, "kernels of the checkpoint": many @ flat.T}
first = {name: component_shares(output)[0] for name, output in outputs.items()}
assert first["random kernels"] > 0.8 and first["kernels of the checkpoint"] < 0.4
spectrum(outputs)

# %% [markdown]
# And the same on the image: what five of the kernels answer to each patch. On the plain ground
# and inside shapes it is little; borders answer, and differently above, below, left and right.

# %%
plain = np.ptp(patches.reshape(384, 3, -1), axis=2).max(axis=1) < 0.05  # patches of one colour
assert np.abs(embedded[plain]).mean() < 0.25 * np.abs(embedded[~plain]).mean()
responses(scene, embedded, tuple(grids[0].tolist()), range(5))

# %% [markdown]
# ## What goes wrong
#
# A runtime without 3-D convolutions is tempted to take a 2-D one, with the first frame of the
# kernel, since an image has one frame. But a still image lies under both frames of the kernel,
# so the model was trained with their **sum**. Half the kernel is another kernel.

# %%
with mutants.apply("first_temporal_slice_only"):
    half = vision.embed_patches(patches, patch_embed)
channels_last = np.transpose(kernels, (0, 2, 3, 4, 1)).reshape(160, -1)
wrong = {"first frame only": half, "kernel with colours last": patches @ channels_last.T}
for name, mistaken in wrong.items():
    error = distance(mistaken, embedded)
    print(f"{name:26} squared error / squared reference: {error.nmse:.2f}")
    assert error.nmse > 0.1

# %% [markdown]
# The second is the mistake of [02](02_nine_dimensions.ipynb) from the other side: the patches are
# right, the kernel was stored with its colours last.
#
# ## Try it
#
# 1. For still images only: make a 2-D kernel of [160, 3, 14, 14] that gives the same result from
#    half of the numbers.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: add the two frames of the kernel.
flat_kernel = np.sum(kernels, axis=2).reshape(160, -1)
one_frame = patches.reshape(384, 3, 2, 14, 14)[:, :, 0].reshape(384, -1)
assert one_frame.shape == (384, 588)
assert distance(one_frame @ flat_kernel.T, embedded).nmse < 1e-11

# %% [markdown]
# 2. Build a kernel that sees change over time and nothing else: 0 for every still image, not 0
#    for the clip of the package.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: any kernel whose second frame is the first with the sign changed.
change = np.stack([kernels[0, :, 0], -kernels[0, :, 0]], axis=1).reshape(-1)
assert np.abs(patches @ change).max() < 1e-5
clip = tinyqwenvl.video.read_video(EXAMPLE_VIDEO, config)
assert np.abs(clip.patches @ change).max() > 0.1

# %% [markdown]
# 3. How many multiplications is this stage for 1,440 patches in a published model (1,280 kernels)?
#    And how many numbers are its weights?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: one for each patch, number and kernel: about 2.2 thousand million; 1.5 million weights.
assert 1440 * 1176 * 1280 == 2_167_603_200
assert 1176 * 1280 == 1_505_280

# %% [markdown]
# 4. With a stride of 7 the stops overlap. Is it still a matrix product?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: yes, of a longer list of rows, in which pixels occur several times (known as "im2col").
view = np.lib.stride_tricks.sliding_window_view(frames, (14, 14), axis=(1, 2))[:, ::7, ::7]
rows = np.transpose(view, (1, 2, 3, 0, 4, 5)).reshape(-1, 1176)  # colour, frame, y, x again
assert len(rows) == 31 * 47 and rows.size > 3 * patches.size
stops = (rows @ flat.T).reshape(31, 47, 160)
assert distance(stops[::2, ::2], laid).nmse < 1e-11  # every second stop is one of before

# %% [markdown]
# Next: nothing in a patch says where it stood. How the vision encoder is told:
# [04](04_two_dimensional_rope.ipynb).
