# %% [markdown]
# # 16. What the model attended to
#
# The model writes "blue cross". **Did it attend to the blue cross when it wrote these words, and
# did it need to?**
#
# Before this: [11](11_greedy_decoding.ipynb) (greedy decoding), [06](06_attention.ipynb)
# (attention). You need: softmax and probabilities. 17 minutes.

# %%
from tinyqwenvl.viz import here

here("answer.decoding")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import decoder, nn, viz
from tinyqwenvl.model import EXAMPLE_IMAGE, Model, user_message
from tinyqwenvl.viz import source

model = tinyqwenvl.load()
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "Describe the picture."))
ids = list(model.generate(inputs))


def word(number):
    """The text of one token; a special token by its name."""
    return model.tokenizer.decode([number], skip_special=False)


words, prompt, new = [word(i) for i in ids], len(inputs.input_ids), len(ids)
print(model.tokenizer.decode(ids))

# %% [markdown]
# ## The idea
#
# The decoder reads the image through attention alone. In every layer and head, the position that
# is about to write a word distributes a total weight of 1 over itself and all tokens before it.
# The part that falls on image tokens can be drawn over the image. This chapter does three things
# with it: it draws it at the right position, it tests whether a head that seems to follow the
# shapes really does, and it asks whether the answer depends on it at all.

# %%
source(Model.attention_weights)

# %% [markdown]
# We feed the prompt **and** the answer at once, as in [11](11_greedy_decoding.ipynb). One pass
# then gives the attention behind every word, and the probability of each.

# %%
later = np.tile(np.arange(prompt, prompt + new) + inputs.rope_delta, (3, 1))
whole = replace(
    inputs,
    input_ids=np.append(inputs.input_ids, ids),
    position_ids=np.append(inputs.position_ids, later, axis=1),
)
chances = nn.softmax(model.forward(whole)[prompt - 1 :])  # index i chooses word i of the answer
chosen = chances[np.arange(new), ids]
print(f"every word again; the least likely had {chosen.min():.0%}")
assert np.argmax(chances, axis=1)[:-1].tolist() == ids

# %% [markdown]
# ## Attention over the image
#
# Mind **which position**: word $i$ is chosen at the position before it. So the query that writes
# "cross" is the one that reads "blue". We label each map with the word that it *writes*.

# %%
image_keys = np.flatnonzero(inputs.input_ids == model.config.image_token_id)
layers = model.config.text.num_hidden_layers
attended = np.stack(
    [
        model.attention_weights(whole, f"model.layers.{i}.self_attn", rows=slice(prompt - 1, -1))
        for i in range(layers)
    ]
)  # [layers, heads, words, keys]
assert attended.shape[2] == new and np.allclose(attended.sum(axis=-1), 1, atol=1e-5)
on_image = attended[..., image_keys]
print("of all attention, on the image:", np.mean(np.sum(on_image, axis=-1)).round(2))

# %% [markdown]
# We read the bounding boxes of the shapes off the pixels: everything near a colour makes a box.

# %%
grid = inputs.image_grid_thw[0].tolist()
assert (image.height, image.width) == (14 * grid[1], 14 * grid[2])  # it was not resized
pixels = np.asarray(image).astype(int)
colours = {"square": (8, 12, 29), "cross": (55, 77, 235), "circle": (251, 133, 188)}
boxes = {}
for name, colour in colours.items():
    rows, columns = np.nonzero(np.abs(pixels - colour).sum(axis=-1) < 60)
    ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    boxes[name] = tuple(int(n) for n in ends)  # left, top, right, bottom
print(boxes)

# %% [markdown]
# By hand: an image of 2 x 2 tokens is 56 pixels wide, and a box covers the left half of its top
# left token. That is half a token, an eighth of the area. A query with 0.3 of its attention on
# that token, of 0.6 on the whole image, has half of its image attention there, and so a quarter
# inside the box.

# %%
cover = viz.box_coverage((0, 0, 14, 28), (1, 4, 4))
inside = viz.attention_in_box(np.array([0.3, 0.1, 0.1, 0.1]), cover)
print(f"covered: {cover.tolist()}, attention inside the box: {inside:.2f}")
assert cover.tolist() == [0.5, 0, 0, 0] and cover.mean() == 1 / 8 and np.isclose(inside, 0.25)

# %%
source(viz.box_coverage, viz.attention_in_box)

# %% [markdown]
# Now each head, when it writes the noun of a shape: what share of its image attention falls inside
# the box of that shape?

# %%
covers = {name: viz.box_coverage(box, grid) for name, box in boxes.items()}
at = {name: words.index(" " + name) for name in boxes}
shares = {n: viz.attention_in_box(on_image[:, :, at[n]], covers[n]) for n in boxes}
picked_on = (shares["square"] + shares["circle"]) / 2
level = float(np.mean([covers["square"], covers["circle"]]))
viz.attention_in_box_by_head(picked_on, level, "Attention inside the box of the noun being written")

# %% [markdown]
# Some heads attend to the shape, most do not. We pick the best one. It was **picked** as the
# largest of many, and the largest of many is partly luck. So it was picked on the square and the
# circle, and is tested on the cross, which played no part in the choice.

# %%
layer, head = (int(n) for n in np.unravel_index(np.argmax(picked_on), picked_on.shape))
print(f"picked: layer {layer}, head {head}, of {picked_on.size} heads")
for name in boxes:
    share, area = shares[name][layer, head], np.mean(covers[name])
    print(f"{name:6}: {share:.0%} of its attention inside the box, which is {area:.0%} of the area")
    assert share > 3 * area

# %%
rows = on_image[layer, head]
named = [at[name] for name in boxes]
viz.attention_over_image(
    image,
    rows[named],
    grid,
    [f"writes “{words[i].strip()}”" for i in named],
    boxes=list(boxes.values()),
    columns=2,
    title=f"Layer {layer}, head {head}",
)

# %% [markdown]
# ## What goes wrong: off by one
#
# The classic bug of such figures is off by one: the position that *reads* a word instead of the
# one that writes it. A plausible heat map comes out all the same, but it shows something else.
# Less than half as much of the attention lies inside the boxes.

# %%
reads = on_image[layer, head][[at[name] + 1 for name in boxes]]
for (name, cover), row in zip(covers.items(), reads, strict=True):
    print(f"the query that reads {name:6}: {viz.attention_in_box(row, cover):.0%} inside its box")
wrong = np.mean([viz.attention_in_box(r, c) for r, c in zip(reads, covers.values(), strict=True)])
right_queries = np.mean([shares[name][layer, head] for name in boxes])
assert wrong < right_queries / 2

# %%
viz.attention_over_image(
    image,
    rows[[at["cross"], at["cross"] + 1]],
    grid,
    ["writes “cross”", "reads “cross”"],
    boxes=[boxes["cross"]],
    title="The right position, and the one after it",
)

# %% [markdown]
# ## Attention is not importance
#
# Attention says where a head took its values from, not that the answer depends on it. That can be
# measured too: replace each of a shape's tokens by a token of the empty background, and see which
# words lose their probability. The vision encoder has mixed neighbours, so we also replace the
# tokens around the shape.

# %%
down, across = grid[1] // 2, grid[2] // 2


def around(cover):
    """The tokens that a cover touches, and their neighbours."""
    wide = np.pad(np.reshape(cover > 0, (down, across)), 1)
    both = wide[:-2] | wide[1:-1] | wide[2:]
    return np.ravel(both[:, :-2] | both[:, 1:-1] | both[:, 2:])


areas = {name: around(cover) for name, cover in covers.items()}
paper = image_keys[~np.any(list(areas.values()), axis=0)]
embeds = model.embed(whole)
erased = {}
for name, area in areas.items():
    changed = embeds.copy()
    changed[image_keys[area]] = embeds[paper[0]]
    x = model.decode(changed, whole.position_ids)
    after = nn.softmax(decoder.logits(x[prompt - 1 : -1], model.weights.lm_head))
    erased[name] = after[np.arange(new), ids]

# %%
for name in boxes:
    print(f"without the {name:6}:", {n: f"{erased[name][at[n]]:.3f}" for n in boxes})
    assert all((erased[name][at[n]] < 0.5) == (n == name) for n in boxes)
viz.token_probabilities(
    words,
    erased["cross"],
    chosen,
    "The same sentence, the cross's tokens erased",
    ("erased", "before"),
)

# %% [markdown]
# Here both agree: the noun of a shape needs the tokens of that shape, and not those of the others.
# (The sentence is fed as it was, with the cross in it. So words after "cross" may have been read
# off the words before them.)
#
# ### Exercise 1
#
# A control: replace as many tokens as the cross has, but of the background. Do any words lose
# their probability?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: no. So it is not the replacing as such that removes the cross from the sentence.
control = embeds.copy()
control[paper[: np.count_nonzero(areas["cross"])]] = embeds[paper[-1]]
x = model.decode(control, whole.position_ids)
after = nn.softmax(decoder.logits(x[prompt - 1 : -1], model.weights.lm_head))
kept = after[np.arange(new), ids]
print(f"the word that lost most has still {np.min(kept / chosen):.0%} of its probability")
assert np.min(kept / chosen) > 0.5

# %% [markdown]
# ## Logit lens
#
# One more way to look inside: stop after some layer and apply the final norm and the LM head
# there, as if no layer came after it. This is the **logit lens** (nostalgebraist 2020). Neo et al.
# (2024) used it on the image tokens of large models, and found tokens that name the object that
# they cover.

# %%
source(viz.lens)

# %% [markdown]
# After the last layer it is no lens but the model itself:

# %%
names = [f"model.layers.{i}" for i in range(layers)]
with tinyqwenvl.trace(*names) as seen:
    model.forward(inputs)
last = viz.lens(seen[names[-1]][0][-1:], model.weights, model.config)
print(f"lens and model differ by at most {np.max(np.abs(last[0] - chances[0])):.0e}")
assert np.allclose(last[0], chances[0], atol=1e-5)

# %%
middle = seen[names[1]][0][image_keys]
viz.logit_lens(image, {names[1]: middle}, grid, model.weights, model.config, word)

# %% [markdown]
# Do these words name what their tokens cover? Of the tokens in the box of a shape, fewer than half
# name its colour or its kind:

# %%
best = np.argmax(viz.lens(middle, model.weights, model.config), axis=1)
fits = [
    word(int(i)).strip() in (words[at[name] - 1].strip(), name)
    for name, cover in covers.items()
    for i in best[cover > 0.5]
]
print(f"{sum(fits)} of {len(fits)} tokens inside a shape's box read as its colour or its kind")
assert np.mean(fits) < 0.5

# %% [markdown]
# Nothing in training asked an image token to predict a word, so this is no failure: attention
# reads these tokens through weights of its own. Yet the difference of two logits can mean
# something. Does the logit of "bottom" minus that of "top" grow with the row of the token? One
# image could show it by chance, so here are five.


# %%
def grows(shown, axis, towards, away):
    """Correlation of a token's row or column with the logit of one word minus another's."""
    asked = model.prepare(user_message(shown, "Describe the picture."))
    with tinyqwenvl.trace(names[1]) as seen:
        model.forward(asked)
    tokens = seen[names[1]][0][asked.input_ids == model.config.image_token_id]
    index = np.indices(asked.image_grid_thw[0, 1:] // 2)[axis].ravel()
    plus, minus = (model.tokenizer.encode(f" {name}")[0] for name in (towards, away))
    chance = viz.lens(tokens, model.weights, model.config)
    return np.corrcoef(index, np.log(chance[:, plus]) - np.log(chance[:, minus]))[0, 1]


FIVE = [EXAMPLE_IMAGE.with_name(f"{n}.png") for n in ("scene", "many", "pair", "tall", "wide")]
for path in FIVE:
    correlation = grows(Image.open(path).convert("RGB"), 0, "bottom", "top")
    print(f"{path.name:9}: {correlation:+.2f}")
    assert correlation > 0.3

# %% [markdown]
# It does, on all five.
#
# ### Exercise 2
#
# Is it the same for "right" minus "left", and the column? Guess first, then measure it.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: it is not. Some images go one way and some the other, so nothing of the kind is shown.
across = [grows(Image.open(path).convert("RGB"), 1, "right", "left") for path in FIVE]
print(np.round(across, 2))
assert min(across) < 0 < max(across)

# %% [markdown]
# Next: the answers that are boxes and points, and whose pixels they count:
# [17](17_boxes_and_coordinates.ipynb).
