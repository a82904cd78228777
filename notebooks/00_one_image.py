# %% [markdown]
# # 00. One image, all the way through
#
# **What happens between the pixels of an image and the words of an answer?**
#
# Here is every stage of Qwen2.5-VL once, in the order of the data, on the small checkpoint inside
# the package. Each has a notebook of its own later on; this one is the map.
#
# Before this: nothing. You need: Python, and what a NumPy array is. 15 minutes.

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
image_row({"scene.png": example}, "The image that all of this is about", SEEN)

# %% [markdown]
# ## The idea in words
#
# A language model continues a row of **tokens**, words or pieces of words, each of which has a
# number (its id) and a vector. It looks at all that stand there and gives every token of its
# vocabulary a score: how well would this one come next? A vision-language model lets a *image*
# stand in that row. The image is cut into small squares, its **patches**. A stack of layers turns
# every four neighbouring patches into one **image token**, a vector as wide as that of a word, and
# from there on the language model makes no difference between the two.
#
# So there are two halves: **pixels to image tokens**, and **tokens to words**. This is what comes
# out:

# %%
answer = model.ask(example, "Describe the picture.")
print(answer)
assert "black square" in answer and "blue cross" in answer and "pink circle" in answer

# %% [markdown]
# And this is all that `ask` does, from the outside: prepare the numbers, choose token after
# token, write them out.

# %%
source(Model.ask)

# %% [markdown]
# ## Pixels to patches
#
# An image is read near its own size ([01](01_smart_resize.ipynb)). Both sides become multiples of
# 28 pixels, because patches are 14 pixels wide and two by two of them make a token. How many tokens
# will an image of 336 x 224 pixels take? On paper:
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
# Thin lines are patches, thick ones tokens. A patch is a row of $3 \times 2 \times 14 \times 14 =
# 1176$ numbers: three colours, two frames, 14 x 14 pixels. Two frames, because the same vision
# encoder reads videos; a still image is seen twice. Cutting loses nothing: the patches are the
# pixels in another order ([02](02_nine_dimensions.ipynb)).

# %%
back = image.unpatchify(patches, grid)
assert len(back) == 2 and np.array_equal(back[0], back[1])
assert np.array_equal(back[0], frames[0])

# %% [markdown]
# ## Patches to image tokens
#
# First each patch becomes a vector ([03](03_patch_embedding.ipynb)). Then, layer after layer, the
# patches look at each other; rotations tell them where they stand
# ([04](04_two_dimensional_rope.ipynb)). If all looked at all, a large image would cost far too
# much. So in most layers they look only within **windows** of 4 x 4 tokens, and only in some at the
# whole image ([06](06_attention.ipynb)). Windows are easiest when their tokens stand together:
# the vision encoder puts them in window order first, and undoes it at the end
# ([05](05_windows.ipynb)). Here are the tokens where they stand in the image, numbered in both
# orders:

# %%
grids = np.array([grid])
order, boundaries = vision.window_index(grids, config.vision)
assert sorted(order) == list(range(96)) and len(boundaries) - 1 == 6
assert set(np.diff(boundaries)) == {64}  # patches in a window: here all are whole
window_order(grids, config.vision)

# %% [markdown]
# The vision encoder itself: make vectors of the patches, run the layers (called blocks in the
# code), merge four patches into one token ([07](07_merger.ipynb)), restore the order.

# %%
image_tokens = vision.vision_encoder(patches, grids, weights.visual, config)
assert image_tokens.shape == (96, config.text.hidden_size)
source(vision.vision_encoder)

# %% [markdown]
# ## Messages to token ids
#
# The question is put into the chat template that the model was trained with, which marks who
# speaks ([08](08_chat_and_tokens.ipynb)). The template writes *one* placeholder for an image; it
# is repeated until there are as many as image tokens. Below, every cell is a token, its id under
# it.

# %%
pieces = chat.render(user_message(example, "Describe the picture."))
expanded = chat.expand(pieces, chat.IMAGE_PAD, [len(image_tokens)])
ids = model.tokenizer.encode(expanded)
assert np.count_nonzero(ids == config.image_token_id) == len(image_tokens)
token_strip(expanded, model.tokenizer)

# %% [markdown]
# ## Positions: time, height, width
#
# The order of tokens is not in their vectors; it is in their positions. Text counts 0, 1, 2, ...
# The tokens of an image keep the row and the column they have in it, so each token has *three*
# positions ([09](09_mrope.ipynb)). Text goes on after the largest of them. So positions fall behind
# the count of tokens; `delta` says by how much, and the tokens of the answer will need it.

# %%
positions, delta = position.rope_index(ids, config, grids)
assert positions.shape == (3, len(ids))
assert positions.max() + 1 == len(ids) + delta
is_image = ids == config.image_token_id
mrope_timeline(positions, is_image)

# %% [markdown]
# The same positions, laid where the tokens lie: time above, height and width below it. The image
# is 12 tokens wide, so its 96 tokens take up only 12 positions of the row.

# %%
assert np.ptp(positions[:, is_image]) + 1 == 12 and delta == 12 - 96
span_cells(positions[:, is_image], grid, image=example)

# %% [markdown]
# ## Token ids to words
#
# Image tokens take the place of their placeholders. The language model, here called the decoder,
# runs over the whole row once; the scores after the last token choose the first token of the
# answer. Then it runs once more for each new token. What it needs of the tokens before (their keys
# and values, see [10](10_decoder_and_cache.ipynb)) was kept in a cache, so only the new one has to
# be computed.

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
# The library's own loop is the same, with a limit, a way to sample, and a clock:

# %%
source(generate.Generation)

# %% [markdown]
# ## Where it looked
#
# A token is chosen by the one before it, and that one has looked at all that stand before. How
# much, and where, are numbers that we can draw over the image. A layer looks several times at
# once, with several **heads**. Of those of the last layer, here is the one that looks most at what
# is not white while the model is about to name the three shapes.
# ([11](11_greedy_decoding.ipynb) measures this with care.)

# %%
asked = model.prepare(user_message(example, "Describe the picture."))
all_ids = np.append(ids, chosen)
all_positions, _ = position.rope_index(all_ids, config, grids)
whole = replace(asked, input_ids=all_ids, position_ids=all_positions)

words = [model.tokenizer.decode([token]).strip() for token in chosen]
rows = [len(ids) + words.index(word) - 1 for word in ("square", "cross", "circle")]
last = f"model.layers.{config.text.num_hidden_layers - 1}.self_attn"
looks = model.attention_weights(whole, last, rows=rows)[:, :, np.flatnonzero(is_image)]

# %%
drawn = np.any(np.asarray(example) < 200, axis=2).reshape(8, 28, 12, 28).mean(axis=(1, 3)).ravel()
on_shapes = np.sum(looks @ drawn, axis=1) / np.sum(looks, axis=(1, 2))  # of each head
head = int(np.argmax(on_shapes))
assert on_shapes[head] > 2 * np.mean(drawn)  # twice as much as if it looked everywhere alike
labels = [f"before “{word}”" for word in ("square", "cross", "circle")]
attention_over_image(example, looks[head], grid, labels, columns=2)

# %% [markdown]
# ## Try it
#
# 1. How many image tokens does an image of 100 x 300 pixels take with this checkpoint? First on
#    paper, then with `smart_resize`.
# 2. Leave out the image: what does the model answer to "Describe the picture." alone, and why
#    is that no surprise?
# 3. Mirror the image (`image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)`). Which words of the
#    answer must change?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: 100 is nearest to 4 x 28 = 112, and 300 to 11 x 28 = 308: 4 x 11 = 44 tokens.
# 112 x 308 = 34,496 pixels lie within the limits, so nothing else happens.
assert image.smart_resize(300, 100, 28, least, most) == (308, 112)
assert least <= 112 * 308 <= most and (308 // 28) * (112 // 28) == 44

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: it answers something, for a language model always continues the row. It was trained to
# describe images, so it describes one; with none in the row, what it says is made up.
alone = model.ask(None, "Describe the picture.")
print(alone)
assert alone and alone != answer

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: left and right change places. The cross is in the middle and stays at the bottom.
mirrored = model.ask(example.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "Describe the picture.")
print(mirrored)
assert "black square at the top right" in mirrored and "pink circle on the left" in mirrored

# %% [markdown]
# Next: at what size an image is read, and what it costs: [01](01_smart_resize.ipynb).
