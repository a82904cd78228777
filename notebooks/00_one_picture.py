# %% [markdown]
# # One picture, all the way through
#
# What happens between the pixels of a picture and the words of an answer? Here is every stage of
# Qwen2.5-VL once, in order, on the small checkpoint inside the package. Open this file as a
# notebook (jupytext, or an editor that knows `# %%` cells) or run it as a script.

# %%
import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import chat, decoder, image, nn, position, vision
from tinyqwenvl.model import EXAMPLE_PICTURE, user_message

model = tinyqwenvl.load()
config, weights = model.config, model.weights
picture = Image.open(EXAMPLE_PICTURE).convert("RGB")

# %% [markdown]
# ## Pixels to patches
#
# A picture is read near its own size, with sides that are multiples of 28: patches of 14 pixels,
# two by two to a token.

# %%
height, width = image.smart_resize(picture.height, picture.width, 28, 12544, 100352)
assert height % 28 == width % 28 == 0
frames = image.normalise(image.resize(picture, height, width)[None])
patches, grid = image.patchify(frames)
assert patches.shape == (grid[1] * grid[2], 3 * 2 * 14 * 14)
print(
    f"{picture.width}x{picture.height} -> {width}x{height} -> {len(patches)} patches, grid {grid}"
)

# %% [markdown]
# Nothing is lost on the way: the patches are the picture in another order, seen twice, because a
# patch is two frames deep and a still picture has only one.

# %%
back = image.unpatchify(patches, grid)
assert np.array_equal(back[0], frames[0]) and np.array_equal(back[1], frames[0])

# %% [markdown]
# ## Patches to image tokens
#
# Most blocks of the tower look only within windows of 8x8 patches, so tokens are first put in
# window order. The inverse of that order is its `argsort`.

# %%
grids = np.array([grid])
order, boundaries = vision.window_index(grids, config.vision)
assert sorted(order) == list(range(len(patches) // 4))
assert np.array_equal(order[np.argsort(order)], np.arange(len(order)))
print(f"{len(boundaries) - 1} windows of {sorted(set(np.diff(boundaries).tolist()))} patches")

image_tokens = vision.tower(patches, grids, weights.visual, config)
assert image_tokens.shape == (len(patches) // 4, config.text.hidden_size)

# %% [markdown]
# ## Messages to token ids
#
# The template writes one placeholder for the picture; it is repeated, once for every image token.

# %%
pieces = chat.render(user_message(picture, "describe"))
print("".join(pieces))
ids = model.tokenizer.encode(chat.expand(pieces, chat.IMAGE_PAD, [len(image_tokens)]))
assert np.count_nonzero(ids == config.image_token_id) == len(image_tokens)

# %% [markdown]
# ## Positions: time, height, width
#
# Text counts on all three axes at once; the picture's tokens keep their row and column; text goes
# on after the largest of them. So a picture of many tokens takes up few positions.

# %%
positions, delta = position.rope_index(ids, config, grids)
assert positions.shape == (3, len(ids))
assert positions.max() + 1 == len(ids) + delta
print(f"{len(ids)} tokens, but the next one stands at position {len(ids) + delta}")

# %% [markdown]
# ## Token ids to words
#
# Image tokens take the place of their placeholders, the decoder runs over all of it once, and then
# once more for each new token, which finds the keys and values of all before it in the cache.

# %%
embeds = decoder.embed(ids, weights.model.embed_tokens)
embeds = decoder.scatter(embeds, ids, config.image_token_id, image_tokens)
cache, answer = nn.KVCache(), []
x = decoder.decode(embeds, positions, weights.model, config.text, cache)
while True:
    token = int(np.argmax(decoder.logits(x[-1:], weights.lm_head)))
    if token in config.eos_token_ids:
        break
    answer.append(token)
    place = np.full((3, 1), cache.length + delta)
    embeds = decoder.embed(np.array([token]), weights.model.embed_tokens)
    x = decoder.decode(embeds, place, weights.model, config.text, cache)
print(model.tokenizer.decode(answer))

# %% [markdown]
# That is all that `model.ask` does.

# %%
assert model.ask(picture, "describe") == model.tokenizer.decode(answer)
