# %% [markdown]
# # 05. Windows: the permutation and its inverse
#
# Attention between all pairs of patches is expensive. So in most blocks of Qwen2.5-VL's vision
# encoder, a patch attends only within its **window** of 112 x 112 pixels. **How do the patches of
# a window become neighbours in memory, and how is the order restored?**
#
# Before this: [02](02_nine_dimensions.ipynb), [04](04_two_dimensional_rope.ipynb). You need:
# indexing one array with another. 12 minutes.

# %%
from tinyqwenvl.viz import here

here("vision.windows")

# %%
import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import image, vision, viz
from tinyqwenvl.model import ASSETS, EXAMPLE_VIDEO, user_message
from tinyqwenvl.oracle import mutants
from tinyqwenvl.viz import source

model = tinyqwenvl.load()
config = model.config.vision
print(f"a window is {config.window_size} x {config.window_size} pixels")

# %% [markdown]
# ## The idea
#
# A patch is 14 pixels square, and each **merge group** of 2 x 2 patches will become one token
# ([07](07_merger.ipynb)). So a window is 4 x 4 tokens. **Raster order** numbers tokens row by row,
# from left to right, as you read. In raster order the tokens of a window are scattered: four in
# its first row, then the rest of the image's row, then four in its second row. **Window order**
# sorts the tokens by window. Then every window is a slice, and "attend within the window" becomes
# "attend to the positions from start to end" ([06](06_attention.ipynb)).
#
# Window order is an array of integers, `index`. The encoder uses it twice. Before the first block
# it gathers:
#
# $$\text{sorted}[i] = x[\text{index}[i]].$$
#
# After the merger it undoes that: $\text{result}[\text{index}[i]] = \text{merged}[i]$. This is the
# **inverse permutation**. As an array of integers it is `np.argsort(index)`: its first element is
# the position of 0 in `index`, its second the position of 1, and so on.

# %%
source(vision.window_index, vision.reorder_groups, vision.restore_order)

# %% [markdown]
# `reorder_groups` moves four patches at a time, because the patches of a merge group stay
# together. `restore_order` runs after the merger, when each token is one vector.
#
# ## By hand
#
# An image of 140 x 56 pixels has 4 rows of 10 patches, or 2 rows of 5 tokens. A window is 4 tokens
# wide, so the second window is cut off and has only one column.
#
#     0 1 2 3 | 4
#     5 6 7 8 | 9

# %%
index, boundaries = vision.window_index(np.array([[1, 4, 10]]), config)
print("window order:", index, "  inverse:", np.argsort(index), "  boundaries:", boundaries)
assert index.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 4, 9]
assert np.argsort(index).tolist() == [0, 1, 2, 3, 8, 4, 5, 6, 7, 9]
assert boundaries.tolist() == [0, 32, 40]  # in patches: 8 tokens, then 2

# %% [markdown]
# `index` answers "which token is at this position?": `index[8]` is 4, so position 8 holds token 4.
# Its inverse answers "where did this token go?": the inverse at 4 is 8, so token 4 moved to 8.

# %%
assert index[8] == 4 and np.argsort(index)[4] == 8
viz.window_order(np.array([[1, 4, 10]]), config)

# %% [markdown]
# A slow loop over windows, and over the tokens in each, checks this independently:


# %%
def slowly(h, w, side=4):
    order = []
    for top in range(0, h, side):
        for left in range(0, w, side):
            for row in range(top, min(top + side, h)):
                order += [row * w + column for column in range(left, min(left + side, w))]
    return order


sizes = ((1, 1), (2, 5), (5, 9), (8, 8), (7, 13))
for h, w in sizes:
    assert vision.window_index(np.array([[1, 2 * h, 2 * w]]), config)[0].tolist() == slowly(h, w)
print(f"the loop agrees on {len(sizes)} sizes")

# %% [markdown]
# ### Exercise 1
#
# Can a window be empty?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: no. The number of windows is rounded up only if tokens are left over, so the last window
# has at least one token: 4 patches.
sizes = [np.diff(vision.window_index(np.array([[1, 2 * h, 18]]), config)[1]) for h in range(1, 20)]
print("smallest window:", min(np.min(each) for each in sizes), "patches")
assert min(np.min(each) for each in sizes) == 4

# %% [markdown]
# ## On a real image
#
# The windows of this wide image are cut off on the right and at the bottom.

# %%
example = Image.open(ASSETS / "images" / "wide.png").convert("RGB")
inputs = model.prepare(user_message(example, "describe"))
grids = inputs.image_grid_thw
index, boundaries = vision.window_index(grids, config)
print(f"{example.size} pixels, grid {grids.tolist()}: windows of {np.diff(boundaries)} patches")
assert np.diff(boundaries).tolist() == [64, 64, 64, 32, 16, 16, 16, 8]
viz.window_order(grids, config)

# %% [markdown]
# ### Exercise 2
#
# A faulty port makes windows of 8 x 8 tokens, because it confuses patches with tokens. How many
# windows does the wide image have then?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: two across and one down, where there should be eight.
with mutants.apply("window_size_in_tokens"):
    _, larger = vision.window_index(grids, config)
print(f"{len(larger) - 1} windows instead of {len(boundaries) - 1}")
assert len(larger) - 1 == 2 and len(boundaries) - 1 == 8

# %% [markdown]
# ### Reorder and restore
#
# The vision encoder puts two arrays into window order: the embedded patches and their rotary
# angles. Here we reorder and restore the pixel values themselves:

# %%
patches = inputs.pixel_values
sorted_patches = vision.reorder_groups(patches, index)
first = slice(boundaries[0], boundaries[1])
rows, columns = vision.patch_positions(grids, 2).T
places = vision.reorder_groups(np.stack([rows, columns], axis=1).astype(float), index)[first]
print("the first slice goes up to row and column", np.max(places, axis=0))
assert np.max(places, axis=0).tolist() == [7, 7]

tokens = np.reshape(sorted_patches, (len(index), -1))  # four patches concatenated per token
back = vision.restore_order(tokens, index)
print("restored exactly:", np.array_equal(back, np.reshape(patches, tokens.shape)))
assert np.array_equal(back, np.reshape(patches, tokens.shape))

# %% [markdown]
# ## Frames and images
#
# A patch is two frames deep ([02](02_nine_dimensions.ipynb)), so the encoder works on frame pairs.
# A window lies within one frame pair of one image or video. Blocks with full attention do not
# cross frame pairs either: their boundaries are those of whole frame pairs.

# %%
source(vision.frame_seqlens)

# %%
several = np.array([[2, 8, 12], [1, 4, 6]])  # a video of two frame pairs, and a small image
print("windows:    ", vision.window_index(several, config)[1])
print("frame pairs:", vision.frame_seqlens(several))
assert vision.frame_seqlens(several).tolist() == [0, 96, 192, 216]
assert vision.window_index(several, config)[1].tolist() == [0, 64, 96, 160, 192, 216]
viz.window_order(several, config)

# %%
item = {"type": "video", "video": str(EXAMPLE_VIDEO)}
clip = model.prepare([{"role": "user", "content": [item]}]).video_grid_thw
print(f"the example clip: grid {clip.tolist()}, frames {vision.frame_seqlens(clip).tolist()}")
assert len(vision.frame_seqlens(clip)) == clip[0, 0] + 1

# %% [markdown]
# ## What goes wrong: applying the order twice
#
# The classic bug of ports is to apply `index` a second time instead of its inverse. Some images
# hide it. An image 448 pixels wide has four windows across, and each has four rows of tokens. So a
# strip of windows is a 4 x 4 table: which window, and which row in it. Reordering transposes this
# table, and transposing twice changes nothing.

# %%
square, _ = vision.window_index(np.array([[1, 32, 32]]), config)
astray = np.sum(index[index] != np.arange(70))
print(
    "448 x 448 is restored by applying the order twice:", np.array_equal(square[square], range(256))
)
print(f"the wide image is not: {astray} of 70 tokens astray")
assert np.array_equal(square[square], np.arange(256))  # its own inverse
assert not np.array_equal(square, np.arange(256))  # though it does move tokens
assert astray == 50

# %% [markdown]
# The decoder expects the tokens in raster order. The figure shows the image that this assumption
# gives: cut into tokens, and put together in the correct order and in the orders that two bugs
# produce.

# %%
_, h, w = grids[0]
pixels = image.resize(example, 14 * h, 14 * w)
places = np.arange(len(index))[:, None].astype(float)
merged = places[index]  # what leaves the merger: token index[i] at place i
right = vision.restore_order(merged, index)[:, 0].astype(int)
twice = np.take(merged, index, axis=0)[:, 0].astype(int)
viz.tiles_in_order(pixels, {"argsort": right, "applied twice": twice, "never undone": index})

# %% [markdown]
# With an image of 448 x 448, applying `index` twice changes nothing:

# %%
big = image.resize(Image.open(ASSETS / "images" / "pair.png").convert("RGB"), 448, 448)
viz.tiles_in_order(
    big, {"argsort": np.arange(256), "applied twice": square[square], "never undone": square}
)

# %% [markdown]
# Now we measure the error of the image tokens, the output of the vision encoder. Applying the
# order twice gives bit-equal tokens for the square image, and a large error for the wide one.


# %%
def error(inputs, mistake):
    right = model.image_features(inputs.pixel_values, inputs.image_grid_thw)
    with mutants.apply(mistake):
        wrong = model.image_features(inputs.pixel_values, inputs.image_grid_thw)
    return float(np.linalg.norm(wrong - right) / np.linalg.norm(right))


squared = model.prepare(user_message(Image.fromarray(big), "describe"), max_pixels=448 * 448)
assert squared.image_grid_thw.tolist() == [[1, 32, 32]]
assert error(squared, "permutation_applied_twice") == 0
for mistake in ("permutation_applied_twice", "window_order_never_undone"):
    print(f"wide image, {mistake}: relative error {error(inputs, mistake):.2f}")
    assert error(inputs, mistake) > 0.3

# %% [markdown]
# The answer may not reveal this bug. Attention has already mixed into every token what
# surrounds it, and where ([04](04_two_dimensional_rope.ipynb)). So a decoder may answer well even
# when its tokens are in the wrong order:

# %%
print("right:        ", model.ask(example, "Describe the picture."))
with mutants.apply("permutation_applied_twice"):
    print("applied twice:", model.ask(example, "Describe the picture."))

# %% [markdown]
# So test with sizes that windows do not divide, and compare tensors instead of answers. Grids such
# as (1, 4, 10) and (1, 10, 18) show the bug; 448 x 448 does not.
#
# ### Exercise 3
#
# Which sizes of up to 24 x 24 tokens hide a missing `argsort`, although window order moves their
# tokens?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: those with as many windows across as a strip of windows has rows. Most are 16 tokens
# wide (448 pixels). A last strip of one row does not move, so it hides the bug too.
hidden, at_rest = set(), set()
for h in range(1, 25):
    for w in range(1, 25):
        order, _ = vision.window_index(np.array([[1, 2 * h, 2 * w]]), config)
        if np.array_equal(order, np.arange(h * w)):
            at_rest.add((h, w))
        elif np.array_equal(order[order], np.arange(h * w)):
            hidden.add((h, w))
print(f"{len(hidden)} sizes (rows, columns):", sorted(hidden))
assert hidden == {(h, 16) for h in range(4, 25) if h % 4 < 2} | {(2, 8), (3, 12)}

# %% [markdown]
# ### Exercise 4
#
# Another faulty port *never* undoes the order. Which sizes hide this bug?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: images one window wide (112 pixels or less), or with a single row of tokens.
print(len(at_rest), "sizes that the order does not move")
assert at_rest == {(h, w) for h in range(1, 25) for w in range(1, 25) if w <= 4 or h == 1}

# %% [markdown]
# Next: how the blocks attend within these slices: [06](06_attention.ipynb).
