# %% [markdown]
# # 05. Windows: the permutation and its inverse
#
# In most layers of Qwen2.5-VL's vision encoder a patch looks only at its **window**, 112 x 112
# pixels of the image: to compare all patches with all would cost too much. **How do the patches of
# a window come to stand next to each other, and how do they find their way back?**
#
# Before this: [02](02_nine_dimensions.ipynb), [04](04_two_dimensional_rope.ipynb); you need:
# indexing one array with another; 15 minutes.

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
assert config.window_size == 112

# %% [markdown]
# ## The idea
#
# Patches are 14 pixels square, and two by two of them will become one token
# ([07](07_merger.ipynb)), so a window is 4 x 4 tokens. (A *block* of the vision encoder is one of
# its layers here; in the name `reorder_groups` it is the 2 x 2 patches of a token.) In raster order
# the tokens of a window are scattered: four of its first row, then the rest of the image's row,
# then four of its second. If we sort the tokens by the number of their window, every window is a
# slice, and "look at your window" becomes "look at the rows from here to there"
# ([06](06_attention.ipynb)).
#
# The sorted order is a list of numbers, `index`. It is used twice: before the first block,
#
# $$\text{sorted}[i] = x[\text{index}[i]],$$
#
# and backwards after the merger, $\text{result}[\text{index}[i]] = \text{merged}[i]$. The second
# is the inverse permutation; as a list of numbers it is `np.argsort(index)`, for sorting `index`
# finds the place of 0, then that of 1, and so on.

# %%
source(vision.window_index, vision.reorder_groups, vision.restore_order)

# %% [markdown]
# `reorder_groups` moves four rows at a time, as the four patches of a token stay together.
# `restore_order` comes after the merger, when a token is one row.
#
# ## By hand
#
# An image of 140 x 56 pixels has 4 rows of 10 patches, 2 rows of 5 tokens. A window is 4 tokens
# wide: the second one is cut, with one column left.
#
#     0 1 2 3 | 4
#     5 6 7 8 | 9

# %%
index, boundaries = vision.window_index(np.array([[1, 4, 10]]), config)
assert index.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 4, 9]
assert np.argsort(index).tolist() == [0, 1, 2, 3, 8, 4, 5, 6, 7, 9]
assert boundaries.tolist() == [0, 32, 40]  # in patches: 8 tokens, then 2

# %% [markdown]
# Read `index` as "who stands here": `index[8]` is 4, so place 8 is taken by token 4. Read its
# inverse as "where did I go": its number 4 is 8, so token 4 went to place 8.

# %%
assert index[8] == 4 and np.argsort(index)[4] == 8
viz.window_order(np.array([[1, 4, 10]]), config)

# %% [markdown]
# An independent check, a loop that walks over windows and then over the tokens in each:


# %%
def slowly(h, w, side=4):
    order = []
    for top in range(0, h, side):
        for left in range(0, w, side):
            for row in range(top, min(top + side, h)):
                order += [row * w + column for column in range(left, min(left + side, w))]
    return order


for h, w in ((1, 1), (2, 5), (5, 9), (8, 8), (7, 13)):
    assert vision.window_index(np.array([[1, 2 * h, 2 * w]]), config)[0].tolist() == slowly(h, w)

# %% [markdown]
# ## On a real image
#
# A wide one, so that windows are cut on the right and at the bottom.

# %%
example = Image.open(ASSETS / "images" / "wide.png").convert("RGB")
inputs = model.prepare(user_message(example, "describe"))
grids = inputs.image_grid_thw
index, boundaries = vision.window_index(grids, config)
print(f"{example.size} pixels, grid {grids.tolist()}: windows of {np.diff(boundaries)} patches")
assert np.diff(boundaries).tolist() == [64, 64, 64, 32, 16, 16, 16, 8]
viz.window_order(grids, config)

# %% [markdown]
# The vision encoder puts two things into this order: the embedded patches and their rotary angles.
# There and back again, with the pixels themselves:

# %%
patches = inputs.pixel_values
sorted_patches = vision.reorder_groups(patches, index)
first = slice(boundaries[0], boundaries[1])
rows, columns = vision.patch_positions(grids, 2).T
places = vision.reorder_groups(np.stack([rows, columns], axis=1).astype(float), index)[first]
assert np.max(places, axis=0).tolist() == [7, 7]  # the first slice: rows and columns 0 to 7

tokens = np.reshape(sorted_patches, (len(index), -1))  # four patches side by side: one row a token
back = vision.restore_order(tokens, index)
assert np.array_equal(back, np.reshape(patches, tokens.shape))

# %% [markdown]
# ## Frames and images
#
# A window lies in one frame of one image or clip (in the vision encoder a frame is one pair of
# video frames, as in [02](02_nine_dimensions.ipynb)). The blocks without windows do not cross that
# border either: for them the boundaries are those of whole frames.

# %%
source(vision.frame_seqlens)

# %%
several = np.array([[2, 8, 12], [1, 4, 6]])  # a clip of two temporal grids, and a small image
assert vision.frame_seqlens(several).tolist() == [0, 96, 192, 216]
assert vision.window_index(several, config)[1].tolist() == [0, 64, 96, 160, 192, 216]
viz.window_order(several, config)

# %%
item = {"type": "video", "video": str(EXAMPLE_VIDEO)}
clip = model.prepare([{"role": "user", "content": [item]}]).video_grid_thw
print(f"the example clip: grid {clip.tolist()}, frames {vision.frame_seqlens(clip).tolist()}")
assert len(vision.frame_seqlens(clip)) == clip[0, 0] + 1

# %% [markdown]
# ## What goes wrong: the inverse that is not
#
# The classic mistake of ports is to undo `index` by applying it once more: the `argsort` is
# forgotten. A square image may hide it. 448 pixels are four windows side by side, each of four
# rows of tokens. In such a strip, reordering exchanges "which window" with "which row in it", four
# against four, as a transpose does, and to exchange twice is to do nothing.

# %%
square, _ = vision.window_index(np.array([[1, 32, 32]]), config)
assert np.array_equal(square[square], np.arange(256))  # its own inverse
assert not np.array_equal(square, np.arange(256))  # though it does move tokens
assert np.sum(index[index] != np.arange(70)) == 50  # of the wide image: 50 of 70 tokens astray

# %% [markdown]
# What the language model would be told about the places of things, if it believed the order of
# the tokens: the image cut into tokens, put down in the right order and in those that two
# mistakes leave.

# %%
_, h, w = grids[0]
pixels = image.resize(example, 14 * h, 14 * w)
places = np.arange(len(index))[:, None].astype(float)
merged = places[index]  # what leaves the merger: token index[i] at place i
right = vision.restore_order(merged, index)[:, 0].astype(int)
twice = np.take(merged, index, axis=0)[:, 0].astype(int)
viz.tiles_in_order(pixels, {"argsort": right, "applied twice": twice, "never undone": index})

# %% [markdown]
# And the same on an image of 448 x 448, where applying `index` twice cannot be seen:

# %%
big = image.resize(Image.open(ASSETS / "images" / "pair.png").convert("RGB"), 448, 448)
viz.tiles_in_order(
    big, {"argsort": np.arange(256), "applied twice": square[square], "never undone": square}
)

# %% [markdown]
# Measured on the image tokens that leave the vision encoder: bit by bit equal for the square image,
# far off for the wide one.


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
# Do not expect the words to give it away. The vision encoder has told every token what is around it
# and where ([04](04_two_dimensional_rope.ipynb)), so a decoder may answer well even when its tokens
# come in the wrong order:

# %%
print("right:        ", model.ask(example, "Describe the picture."))
with mutants.apply("permutation_applied_twice"):
    print("applied twice:", model.ask(example, "Describe the picture."))

# %% [markdown]
# So test with ragged shapes, and compare tensors, not sentences. Grids such as (1, 4, 10) and (1,
# 10, 18) show the mistake; 448 x 448 does not.
#
# ## Try it
#
# 1. Which sizes of up to 24 x 24 tokens hide a forgotten `argsort`, although they move tokens?
# 2. And which hide it when the order is *never* undone?
# 3. A port made windows of 8 x 8 tokens, because it took a number of patches for a number of
#    tokens. How many windows has the wide image then?
# 4. Is a window ever empty?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: those with as many windows across as a strip of windows has rows, mostly 16 tokens wide
# (448 pixels); a last strip of one row is at rest.
hidden, at_rest = set(), set()
for h in range(1, 25):
    for w in range(1, 25):
        order, _ = vision.window_index(np.array([[1, 2 * h, 2 * w]]), config)
        if np.array_equal(order, np.arange(h * w)):
            at_rest.add((h, w))
        elif np.array_equal(order[order], np.arange(h * w)):
            hidden.add((h, w))
assert hidden == {(h, 16) for h in range(4, 25) if h % 4 < 2} | {(2, 8), (3, 12)}

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: images of one window across (112 pixels wide or less), or of a single row of tokens.
assert at_rest == {(h, w) for h in range(1, 25) for w in range(1, 25) if w <= 4 or h == 1}

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: windows of 8 x 8 tokens: two across and one down, where there should be eight.
with mutants.apply("window_size_in_tokens"):
    _, larger = vision.window_index(grids, config)
assert len(larger) - 1 == 2 and len(boundaries) - 1 == 8

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: no; the number of windows is rounded up, and the last has at least one token: 4 patches.
sizes = [np.diff(vision.window_index(np.array([[1, 2 * h, 18]]), config)[1]) for h in range(1, 20)]
assert min(np.min(each) for each in sizes) == 4

# %% [markdown]
# Next: what the blocks do with these slices, [06](06_attention.ipynb).
