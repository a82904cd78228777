# %% [markdown]
# # 07. The merger
#
# The vision encoder works on patches of 14 x 14 pixels, but the language model gets one token per
# 28 x 28 pixels. **How do four patches become one token, and is anything lost?**
#
# Before this: [06](06_attention.ipynb), and the patch order of [02](02_nine_dimensions.ipynb). You
# need: matrix products. 11 minutes.

# %%
from tinyqwenvl.viz import here

here("vision.merger")

# %%
import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import nn, oracle, vision
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import gelu_variants, merge_group_to_token, patch_groupings, source, token_map
from tinyqwenvl.weights import flatten, nest

model = tinyqwenvl.load()
config, merger = model.config, model.weights.visual.merger

# %% [markdown]
# ## The idea
#
# Attention in the language model costs more the longer the prompt is. Four times fewer tokens are
# therefore worth a lot, and neighbouring patches have much in common. One could average four of
# them, but an average forgets which was where. The **merger** **concatenates** them instead, to
# one vector of $4D$ values, and a small network is trained to keep what matters:
#
# $$\text{token} = W_2\,\mathrm{gelu}\big(W_1 [n(x_0), n(x_1), n(x_2), n(x_3)] + b_1\big) + b_2$$
#
# $x_0$ to $x_3$ are the four patches of a merge group, vectors of dimension $D$. $n$ is the norm
# of the family (RMSNorm in Qwen2.5-VL, LayerNorm in Qwen2-VL), applied to each patch separately.
# GELU is an activation function with a section of its own below. $W_1$ is $[4D, 4D]$. $W_2$ is
# $[E, 4D]$, which also changes the hidden size from $D$, that of the vision encoder, to $E$, that
# of the language model. This is all of it:

# %%
source(vision.merge)

# %% [markdown]
# Nothing in it searches for neighbours. The one `reshape` takes *the next four patches in memory*.
# That they form a square of the image was arranged long before, when the patches were cut.
#
# ## By hand
#
# Two merge groups of four patches, each patch two values wide. We set the norm's weight to 1,
# $W_1$ to the identity and $W_2$ to a sum over all values, so that every step can be checked on
# paper.

# %%
patches = np.array([[3, 3], [-3, 3], [2, -2], [5, 5], [1, 1], [1, 1], [-1, 1], [4, 4]], np.float64)
by_hand = nest(  # weights under the names that a checkpoint gives them
    {
        "ln_q.weight": np.ones(2),
        "mlp.0.weight": np.eye(8),
        "mlp.0.bias": np.zeros(8),
        "mlp.2.weight": np.ones((1, 8)),
        "mlp.2.bias": np.zeros(1),
    }
)
tokens = vision.merge(patches, by_hand, config)
print(tokens)
# RMSNorm makes every number here +1 or -1; gelu(1) = 0.8413 and gelu(-1) = -0.1587.
assert np.allclose(tokens, [[6 * 0.8413 - 2 * 0.1587], [7 * 0.8413 - 0.1587]], atol=1e-3)

# %% [markdown]
# The patch of fives and the patch of ones count the same. The norm is applied **before** the
# patches are concatenated, so no patch can dominate its neighbours by being larger.
#
# Which four? In *merge order* four consecutive patches are a square. If the patches were in raster
# order, row by row as you read, the same `reshape` would join four patches of one row, and most
# patches would go to the wrong token:

# %%
down, across = vision.patch_positions(np.array([[1, 4, 8]]), 2).T  # in merge order
misplaced = np.count_nonzero(np.arange(32) // 4 != (8 * down + across) // 4)
print(f"in raster order {misplaced} of 32 patches would go to the wrong token")
assert misplaced == 24
patch_groupings((1, 4, 8))

# %% [markdown]
# ### Exercise 1
#
# Norm first, then concatenate; or concatenate, then one norm over all $4D$ values? Show with a
# merge group that has one large patch that the two differ.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: with one norm for all, a large patch makes the others small.
group = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [100.0, 100.0]])
unit, eps = nest({"weight": np.ones(2)}), config.vision.rms_norm_eps
each = np.reshape(nn.rms_norm(group, unit, eps), (1, -1))
together = nn.rms_norm(np.reshape(group, (1, -1)), nest({"weight": np.ones(8)}), eps)
print("each:", each.round(2), "together:", together.round(2))
assert np.allclose(np.abs(each), 1, atol=1e-5) and np.max(np.abs(together[0, :6])) < 0.03

# %% [markdown]
# ## GELU, exactly
#
# $\mathrm{gelu}(x) = x\,\Phi(x)$, where $\Phi$ is the cumulative distribution function of the
# normal distribution (Hendrycks & Gimpel 2016). $\Phi$ has no elementary formula; it is written
# with the error function, erf. NumPy has none, so the reference implementation calls Python's for
# every value. The optimised one does the same in chunks, because each of these calls makes a
# Python object, and objects take memory.

# %%
source(nn.gelu, nn.gelu_in_chunks)

# %% [markdown]
# Two cheaper formulas are in use elsewhere: the tanh form, and QuickGELU, $x\,\sigma(1.702x)$,
# which the *blocks* of Qwen2-VL do use. Drawn together the three look like one curve; only the
# lower panel shows how far apart they are. In grey: the distribution of the values that reach the
# GELU for one image.

# %%
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "describe"))
with tinyqwenvl.trace("visual*") as seen:
    tokens = model.image_features(inputs.pixel_values, inputs.image_grid_thw)
(before_gelu,) = seen["visual.merger.mlp.0"]

x = np.linspace(-6, 6, 2401)
tanh_gap = np.max(np.abs(oracle.mutants.gelu_tanh(x) - nn.gelu(x)))
quick_gap = np.max(np.abs(nn.quick_gelu(x) - nn.gelu(x)))
assert 4e-4 < tanh_gap < 5e-4 and 0.020 < quick_gap < 0.021
assert np.array_equal(nn.gelu_in_chunks(before_gelu), nn.gelu(before_gelu))
gelu_variants(before_gelu)

# %% [markdown]
# ## On a real image
#
# The example image has 16 x 24 patches, so 8 x 12 = 96 tokens. The merger is the end of the vision
# encoder ([00](00_one_image.ipynb) shows all of it). It still works in window order
# ([05](05_windows.ipynb)); only its tokens, four times fewer, are put back into raster order.

# %%
t, h, w = inputs.image_grid_thw[0].tolist()
widths = config.vision.hidden_size, config.vision.out_hidden_size
print("normalised patches:", seen["visual.merger.ln_q"][0].shape)
print("concatenated:      ", before_gelu.shape)
print("tokens:            ", tokens.shape)
assert (t, h, w) == (1, 16, 24) and widths == (160, 192)
assert seen["visual.merger.ln_q"][0].shape == (t * h * w, widths[0])
assert before_gelu.shape == (t * h * w // 4, 4 * widths[0])
assert tokens.shape == (t * h * w // 4, widths[1])
index = seen["visual.window_index"][0]
assert np.array_equal(tokens, vision.restore_order(seen["visual.merger"][0], index))

# %% [markdown]
# ### Exercise 2
#
# How many parameters has the merger of Qwen2.5-VL-3B? Write a formula in $D$ and $E$, and check it
# on the embedded checkpoint first.


# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: the norm has D, the first product (4D)^2 + 4D, the second E 4D + E.
def parameters(d, e):
    """Parameters of a Qwen2.5-VL merger that reads hidden size d and writes hidden size e."""
    return d + (4 * d) ** 2 + 4 * d + e * 4 * d + e


assert parameters(*widths) == sum(leaf.size for leaf in flatten(merger).values())
published = preset("qwen2.5-vl-3b").vision
print(f"{parameters(published.hidden_size, published.out_hidden_size):,}")
assert parameters(published.hidden_size, published.out_hidden_size) == 36_708_608

# %% [markdown]
# ### Exercise 3
#
# Does it matter whether merge groups are reordered before the merger or their tokens after it? Try
# it on random patches.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: no. Each merge group goes through the merger separately, so the order passes through.
groups = np.random.default_rng(7).normal(size=(96 * 4, 160)).astype(np.float32)
first_ordered = vision.merge(vision.reorder_groups(groups, index), merger, config)
then_ordered = vision.merge(groups, merger, config)[index]
print(f"largest difference: {np.abs(first_ordered - then_ordered).max():.0e}")
assert np.allclose(first_ordered, then_ordered, atol=1e-5)

# %% [markdown]
# Follow one merge group: row 1, column 2 of the tokens, the upper left part of the black square.
# The norm and the first product are found at its index in window order, the token at its index in
# raster order. In the figure every stroke is a value, from dark, the lowest of its strip, to
# light, the highest.

# %%
row, column = 1, 2
place = row * (w // 2) + column
in_windows = int(np.flatnonzero(index == place)[0])
four = np.reshape(seen["visual.merger.ln_q"][0], (len(tokens), 4, -1))[in_windows]
box = (28 * column, 28 * row, 28 * column + 28, 28 * row + 28)
block = image.crop(box)
assert max(high - low for low, high in block.getextrema()) == 0  # one colour
assert not np.allclose(four, four[0], atol=0.1)
merge_group_to_token(four, before_gelu[in_windows], tokens[place], block)

# %% [markdown]
# The patches have one colour, and yet their vectors differ: after six blocks of attention a patch
# holds more than its 14 x 14 pixels. The same shows when we compare this token with all the others
# by **cosine similarity**: the tokens around it are more like it than the rest.

# %%
directions = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
cosines = directions @ directions[place]
assert np.argmax(cosines) == place and np.isclose(cosines[place], 1)
around = np.delete(np.reshape(cosines, (8, 12))[0:3, 1:4].ravel(), 4)
assert np.mean(around) > np.mean(cosines)
token_map(cosines, (t, h, w), 2, image, "How like the framed token others are", place, "cosine")

# %% [markdown]
# ## What goes wrong
#
# Three bugs that ports have at this stage, injected by `oracle.mutants`. We compare the image
# tokens with the right ones by two measures: NMSE (squared error divided by the squared
# reference), and the correlation.

# %%
reference = tinyqwenvl.load(reference=True)
errors, correlations = {}, {}
for name in ("merger_gelu_tanh", "merger_quick_gelu", "merger_groups_rows_of_four"):
    with oracle.mutants.apply(name):
        wrong = reference.image_features(inputs.pixel_values, inputs.image_grid_thw)
        answer = reference.ask(image, "describe")
    errors[name] = float(np.sum((wrong - tokens) ** 2) / np.sum(tokens**2))
    correlations[name] = float(np.corrcoef(wrong.ravel(), tokens.ravel())[0, 1])
    print(f"{name:27} NMSE {errors[name]:.1e}  correlation {correlations[name]:.7f}  {answer}")
assert 1e-9 < errors["merger_gelu_tanh"] < 1e-5 < errors["merger_quick_gelu"] < 1e-2
assert correlations["merger_quick_gelu"] > 0.999 and errors["merger_groups_rows_of_four"] > 0.1

# %% [markdown]
# The wrong grouping is a large error. QuickGELU is a small one that a test of correlation passes.
# The tanh form is smaller still, yet far above the tolerance of 1e-9 that the
# [specification](../docs/spec.md) sets for float32. Read the answers too: an answer summarises
# what 96 tokens say together, and it can be right although the tokens are wrong. Test a port by
# its tensors, stage by stage.

# %% [markdown]
# The image is now 96 vectors of the same size as the embedding of a word. How do they get into the
# prompt? [08](08_chat_and_tokens.ipynb) shows it.
