# %% [markdown]
# # 00. One image, all the way through
#
# **What happens between the pixels of an image and the words of an answer?**
#
# This notebook runs every stage of Qwen2.5-VL once, in the order of the data, with the small
# checkpoint embedded in the package. Later notebooks explain one stage each; this one is the map.
#
# Before this: nothing. You need: Python, and the basics of NumPy arrays. 16 minutes.

# %%
from tinyqwenvl.viz import here

here("model")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import chat, decoder, generate, image, nn, position, vision
from tinyqwenvl.model import EXAMPLE_IMAGE, Model, user_message
from tinyqwenvl.viz import (
    attention_over_image,
    image_row,
    mrope_timeline,
    patch_grid,
    source,
    span_cells,
    token_strip,
    window_order,
)

SEEN = "A white image with a black square, a blue cross below, and a pink circle on the right."
model = tinyqwenvl.load()
config, weights = model.config, model.weights
example = Image.open(EXAMPLE_IMAGE).convert("RGB")
image_row({"scene.png": example}, "The example image", SEEN)

# %% [markdown]
# ## The idea
#
# A language model continues a sequence of **tokens**: words or pieces of words, each with a number
# (its **id**) and a vector (its **embedding**). It reads all tokens so far and gives every token
# of its vocabulary a **logit**: a score for how likely that token is to come next. A
# vision-language model puts an *image* into that sequence. It cuts the image into small squares,
# the **patches**. The **vision encoder** turns every four neighbouring patches into one **image
# token**, a vector of the same size as a word's embedding. The language model treats both alike.
#
# So there are two halves: **pixels to image tokens**, and **tokens to words**. The answer is:

# %%
answer = model.ask(example, "Describe the picture.")
print(answer)
assert "black square" in answer and "blue cross" in answer and "pink circle" in answer

# %% [markdown]
# `ask` has three steps: it prepares the inputs, chooses one token after another, and turns the ids
# into text.

# %%
source(Model.ask)

# %% [markdown]
# ## Pixels to patches
#
# The image keeps about its own size ([01](01_smart_resize.ipynb)). Its sides become multiples of
# 28 pixels, because a patch is 14 pixels wide and each 2 x 2 group of patches becomes one token.
# How many tokens does an image of 336 x 224 pixels take? On paper:
#
# $$\frac{336}{14} \times \frac{224}{14} = 24 \times 16 = 384 \text{ patches},
# \qquad \frac{384}{4} = 96 \text{ tokens}.$$

# %%
least, most = config.processor.limits(None, None)
height, width = image.smart_resize(example.height, example.width, 28, least, most)
frames = image.normalise(image.resize(example, height, width)[None])
patches, grid = image.patchify(frames)

assert (example.width, example.height) == (width, height) == (336, 224)
assert grid == (1, 224 // 14, 336 // 14)  # (time, rows, columns)
assert patches.shape == (384, 3 * 2 * 14 * 14)
patch_grid(example, least, most)

# %% [markdown]
# Thin lines separate patches, thick lines tokens. A patch has $3 \times 2 \times 14 \times 14 =
# 1176$ values: three channels, two frames, 14 x 14 pixels. It has two frames because the same
# vision encoder reads videos; a still image is used for both. Cutting loses nothing: the patches
# hold the pixels in another order ([02](02_nine_dimensions.ipynb)).

# %%
back = image.unpatchify(patches, grid)
print("patches put back give the image again:", np.array_equal(back[0], frames[0]))
assert len(back) == 2 and np.array_equal(back[0], back[1])
assert np.array_equal(back[0], frames[0])

# %% [markdown]
# ### Exercise 1
#
# How many image tokens does an image of 100 x 300 pixels take with this checkpoint? Work it out on
# paper, then check with `smart_resize`.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: 100 is nearest to 4 x 28 = 112, and 300 to 11 x 28 = 308: 4 x 11 = 44 tokens.
# 112 x 308 = 34,496 pixels lie within the limits, so nothing else happens.
print(image.smart_resize(300, 100, 28, least, most))
assert image.smart_resize(300, 100, 28, least, most) == (308, 112)
assert least <= 112 * 308 <= most and (308 // 28) * (112 // 28) == 44

# %% [markdown]
# ## Patches to image tokens
#
# First each patch becomes a vector ([03](03_patch_embedding.ipynb)). In every layer, patches then
# **attend** to each other: each receives a weighted mean of their values. A **rotary
# position embedding** (RoPE) encodes their positions ([04](04_two_dimensional_rope.ipynb)).
# Attention cost is quadratic in the number of patches, so most layers attend only within
# **windows** of 4 x 4 tokens. Only a few attend to the whole image ([06](06_attention.ipynb)). To
# make each window contiguous in memory, the encoder first permutes the tokens into **window
# order**. At the end it restores their order ([05](05_windows.ipynb)). The figure numbers the
# tokens in both orders:

# %%
grids = np.array([grid])
order, boundaries = vision.window_index(grids, config.vision)
assert sorted(order) == list(range(96)) and len(boundaries) - 1 == 6
assert set(np.diff(boundaries)) == {64}  # patches in a window: here all are whole
window_order(grids, config.vision)

# %% [markdown]
# The vision encoder has four steps. It turns patches into vectors, runs the layers (called
# **blocks**), merges every four patches into one token ([07](07_merger.ipynb)), and restores the
# order.

# %%
image_tokens = vision.vision_encoder(patches, grids, weights.visual, config)
assert image_tokens.shape == (96, config.text.hidden_size)
source(vision.vision_encoder)

# %% [markdown]
# ## Messages to token ids
#
# The **chat template** wraps the question in the text that the model was trained with, which marks
# who speaks ([08](08_chat_and_tokens.ipynb)). The template writes *one* **placeholder** token for
# an image, and the code repeats it: one per image token. In the figure every cell is a token, with
# its id below. A long run of placeholders is one cell.

# %%
pieces = chat.render(user_message(example, "Describe the picture."))
expanded = chat.expand(pieces, chat.IMAGE_PAD, [len(image_tokens)])
ids = model.tokenizer.encode(expanded)
assert np.count_nonzero(ids == config.image_token_id) == len(image_tokens)
token_strip(expanded, model.tokenizer)

# %% [markdown]
# ## Positions: time, height, width
#
# Embeddings do not encode the order of tokens; positions do. Text tokens have positions 0, 1, 2,
# .... An image token also needs its row and column, so every token has *three* positions
# ([09](09_mrope.ipynb)). Text after the image continues after the largest of them. So positions
# grow more slowly than the number of tokens. `delta` (the **rope delta**) is the difference, which
# gives the tokens of the answer their positions.

# %%
positions, delta = position.rope_index(ids, config, grids)
assert positions.shape == (3, len(ids))
assert positions.max() + 1 == len(ids) + delta
is_image = ids == config.image_token_id
mrope_timeline(positions, is_image)

# %% [markdown]
# The same positions, drawn on the image: time above, height and width below it. The image is 12
# tokens wide, so its 96 tokens take up only 12 positions.

# %%
assert np.ptp(positions[:, is_image]) + 1 == 12 and delta == 12 - 96
span_cells(positions[:, is_image], grid, image=example)

# %% [markdown]
# ## Token ids to words
#
# Image tokens replace the embeddings of their placeholders. The language model, also called the
# **decoder**, runs over the whole sequence once. The token with the largest logit at the last
# position is the first token of the answer. Then the decoder runs once per new token. A **KV
# cache** keeps what attention needs of earlier tokens, their keys and values
# ([10](10_decoder_and_cache.ipynb)), so only the new token is computed.

# %%
embeds = decoder.embed(ids, weights.model.embed_tokens)
embeds = decoder.scatter(embeds, ids, config.image_token_id, image_tokens)
cache, chosen = nn.KVCache(), []
x = decoder.decode(embeds, positions, weights.model, config.text, cache)
while True:
    token = int(np.argmax(decoder.logits(x[-1:], weights.lm_head)))
    if token in config.eos_token_ids:
        break
    chosen.append(token)
    place = np.full((3, 1), cache.length + delta)
    embeds = decoder.embed(np.array([token]), weights.model.embed_tokens)
    x = decoder.decode(embeds, place, weights.model, config.text, cache)

assert model.tokenizer.decode(chosen) == answer
print(len(chosen), "tokens:", answer)

# %% [markdown]
# The library's own loop does the same, and adds a token limit, sampling and timing:

# %%
source(generate.Generation)

# %% [markdown]
# ### Exercise 2
#
# Leave out the image. What does the model answer to "Describe the picture." alone, and why should
# you expect that?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: it describes an image that does not exist. A language model always continues the
# sequence, and this one was trained to describe images. Without one, it invents the description.
alone = model.ask(None, "Describe the picture.")
print(alone)
assert alone and alone != answer

# %% [markdown]
# ### Exercise 3
#
# Mirror the image (`example.transpose(Image.Transpose.FLIP_LEFT_RIGHT)`). Which words of the
# answer must change?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: left and right are exchanged. The cross is in the middle and stays at the bottom.
mirrored = model.ask(example.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "Describe the picture.")
print(mirrored)
assert "black square at the top right" in mirrored and "pink circle on the left" in mirrored

# %% [markdown]
# ## What the model attended to
#
# The logits at one position choose the next token, and that position attends to all earlier ones.
# We can draw its attention weights over the image. A layer computes attention several times in
# parallel, in several **heads**. The figure shows one head of the last layer, at the three
# positions just before the model names a shape. We choose the head that attends most to the shapes
# (all that is not white). [16](16_attention_over_the_image.ipynb) measures attention with care.

# %%
asked = model.prepare(user_message(example, "Describe the picture."))
all_ids = np.append(ids, chosen)
all_positions, _ = position.rope_index(all_ids, config, grids)
whole = replace(asked, input_ids=all_ids, position_ids=all_positions)

words = [model.tokenizer.decode([token]).strip() for token in chosen]
rows = [len(ids) + words.index(word) - 1 for word in ("square", "cross", "circle")]
last = f"model.layers.{config.text.num_hidden_layers - 1}.self_attn"
attended = model.attention_weights(whole, last, rows=rows)[:, :, np.flatnonzero(is_image)]

# %%
drawn = np.any(np.asarray(example) < 200, axis=2).reshape(8, 28, 12, 28).mean(axis=(1, 3)).ravel()
on_shapes = np.sum(attended @ drawn, axis=1) / np.sum(attended, axis=(1, 2))  # of each head
head = int(np.argmax(on_shapes))
assert on_shapes[head] > 2 * np.mean(drawn)  # twice as much as uniform attention
labels = [f"before “{word}”" for word in ("square", "cross", "circle")]
attention_over_image(example, attended[head], grid, labels, columns=2)

# %% [markdown]
# Next: how an image is resized, and what its size costs: [01](01_smart_resize.ipynb).
