# %% [markdown]
# # 11. Greedy decoding, and what the model looked at
#
# The decoder ends in one score for every word it knows. How do these become a sentence, what ends
# it, and did the model look at the blue cross when it wrote "blue cross"?
#
# Before this: [10](10_decoder_and_cache.ipynb) (the decoder and its cache); you need: softmax and
# probabilities; 20 minutes. *Other ways to choose* takes five more, and can be skipped.

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import decoder, generate, nn, sampling, viz
from tinyqwenvl.conversation import Conversation
from tinyqwenvl.model import EXAMPLE_IMAGE, Model, user_message
from tinyqwenvl.sampling import Sampling
from tinyqwenvl.viz import source

# %% [markdown]
# ## The idea
#
# A table, the *language head* (`lm_head`; not one of the heads of attention), has a row for every
# token of the vocabulary. The score of a token, its *logit*, is the dot product of its row with
# the last vector of the sequence. The token with the largest score is added to the sequence
# (*greedy decoding*), and all of it happens again, until the token chosen is one that means
# *stop*.

# %%
source(decoder.logits)

# %%
model = tinyqwenvl.load()
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "Describe the picture."))
scores = model.forward(inputs)
print(scores.shape)
assert scores.shape == (len(inputs.input_ids), model.config.text.vocab_size)

# %% [markdown]
# Every token of the prompt gets scores; only the **last** row says how the answer begins. The
# checkpoint ties the head to the embedding: the table that turned ids into vectors is the same as
# the one that vectors are compared with.

# %%
assert np.array_equal(model.weights.lm_head.weight, model.weights.model.embed_tokens.weight)


def word(number):
    """The text of one token; a special token by its name."""
    return model.tokenizer.decode([number], skip_special=False)


viz.next_token({"first word of the answer": scores[-1]}, word, most=4)

# %% [markdown]
# ## The largest score
#
# One rule is needed even here: of equals, the first (the lowest id) wins.

# %%
source(sampling.greedy)

# %%
assert sampling.greedy(np.array([1.0, 3, 3, 2])) == 1

# %% [markdown]
# ## Token after token

# %%
source(generate.Past, generate.Generation)

# %% [markdown]
# Nothing is computed until you iterate over a `Generation`. Then each turn of its loop chooses a
# token, yields it, and feeds it back at position *tokens in the cache + rope delta*
# ([10](10_decoder_and_cache.ipynb)). The last token allowed is not fed back, as nothing follows.
# A `Past` is for a second question about the same image: exercise 2.

# %%
generation = model.generate(inputs)
ids = list(generation)
words = [word(i) for i in ids]
print(model.tokenizer.decode(ids))
print(generation.finish_reason, {k: f"{v:.3f} s" for k, v in generation.timings.items()})
for thing in ("black square", "blue cross", "pink circle"):
    assert thing in model.tokenizer.decode(ids)

# %% [markdown]
# What ended it? Feed the prompt **and** the answer at once: row $n$ then scores what comes after
# token $n$. So one pass gives every choice again, and the one after the last word.

# %%
prompt, new = len(inputs.input_ids), len(ids)
places = np.tile(np.arange(prompt, prompt + new) + inputs.rope_delta, (3, 1))
whole = replace(
    inputs,
    input_ids=np.append(inputs.input_ids, ids),
    position_ids=np.append(inputs.position_ids, places, axis=1),
)
scores = model.forward(whole)[prompt - 1 :]  # row i chooses word i of the answer
choices = np.argmax(scores, axis=1)
print("stop tokens:", [word(i) for i in model.config.eos_token_ids])
print("after the last word:", word(choices[-1]))
assert choices[:-1].tolist() == ids
assert choices[-1] in model.config.eos_token_ids and generation.finish_reason == "stop"
assert choices[-1] not in ids  # the stop token is no part of the answer

# %% [markdown]
# A limit ends it too, and the reason says so:

# %%
short = model.generate(inputs, max_tokens=3)
assert list(short) == ids[:3] and short.finish_reason == "length"

# %% [markdown]
# How sure was it? The softmax of the scores are probabilities. A bar is that of the token chosen,
# a diamond that of the next best. Where a diamond rises, the sentence might have gone another
# way. A `Generation` keeps the probability of each token that it chose:

# %%
source(sampling.probability)

# %%
chances = nn.softmax(scores)
assert np.allclose(generation.probabilities, chances[np.arange(new), ids], rtol=1e-3)
ranked = np.sort(chances[:-1], axis=1)
viz.token_probabilities(words, ranked[:, -1], ranked[:, -2])

# %% [markdown]
# Greedy decoding is only as stable as the gap between the best two scores. Rounding moves a score
# a little; where the gap is smaller than that, two correct programs may part, and from then on
# every word can differ. How much rounding moves them, a run in float64 tells. Here the narrowest
# gap is over a hundred times as large:

# %%
exact = tinyqwenvl.load(dtype="float64")
exact_scores = exact.forward(replace(whole, pixel_values=whole.pixel_values.astype(np.float64)))
rounding = np.max(np.abs(exact_scores[prompt - 1 :] - scores))
ordered = np.sort(scores, axis=1)
gap = np.min(ordered[:, -1] - ordered[:, -2])
print(f"narrowest gap {gap:.2f}, rounding {rounding:.1e}")
assert gap > 100 * rounding

# %% [markdown]
# ## Stop texts
#
# A user may want to stop at a *text*, such as a line break. Tokens do not end where texts do, and
# what was printed cannot be taken back. So whatever may yet become a stop is held back.

# %%
source(generate.until)

# %% [markdown]
# By hand, with the stop `"cd"`. The `c` waits: in the first row it turns out harmless, in the
# second it was the beginning of the stop.

# %%
assert list(generate.until(["abc", "x", "y"], ["cd"])) == ["ab", "cx", "y", ""]
assert "".join(generate.until(["abc", "de", "f"], ["cd"])) == "ab"

# %% [markdown]
# And with the model, whose tokens `stream` turns into pieces of text as they come:

# %%
parts = model.tokenizer.stream(iter(model.generate(inputs)))
until_comma = "".join(generate.until(parts, [", a blue"]))
print(until_comma)
assert until_comma == model.tokenizer.decode(ids).split(", a blue")[0]

# %% [markdown]
# ## Other ways to choose
#
# Drawing the next token at random makes answers less alike. Four numbers say how, always in
# this order: a penalty on what was said before, the temperature, and two ways to cut off the
# unlikely.

# %%
source(sampling.penalise, sampling.keep_top_k, sampling.keep_top_p, sampling.draw)

# %% [markdown]
# Four tokens with probabilities 1/2, 1/4, 1/8, 1/8. Dividing the logits by a temperature of 2
# takes the square root of each probability (and scales them to sum to one again):

# %%
logits = np.log(np.array([8.0, 4, 2, 2], np.float32) / 16)
assert np.allclose(nn.softmax(logits / 2), np.sqrt([8, 4, 2, 2]) / np.sum(np.sqrt([8, 4, 2, 2])))

assert np.isfinite(sampling.keep_top_k(logits, 2)).tolist() == [True, True, False, False]
assert np.isfinite(sampling.keep_top_k(logits, 3)).all()  # equals of the third stay
assert np.isfinite(sampling.keep_top_p(logits, 0.6)).tolist() == [True, True, False, False]
assert np.isfinite(sampling.keep_top_p(logits, 0.01)).tolist() == [True, False, False, False]

# 0.5 + 0.25 = 0.75: the third token begins there
assert [sampling.draw(logits, r) for r in (0.0, 0.49, 0.6, 0.8, 0.9)] == [0, 0, 1, 2, 3]

# %% [markdown]
# The penalty divides a score over zero and multiplies one under zero, so that both get smaller;
# once for each token, however often it stood there.

# %%
said_before = np.array([0, 0, 2])
penalised = sampling.penalise(np.array([3.0, 1, -1, -2]), said_before, 1.5)
assert penalised.tolist() == [2, 1, -1.5, -2]

# %%
source(sampling.Sampling)

# %%
settings = {
    "as it is": Sampling(temperature=1.0),
    "temperature 2": Sampling(temperature=2.0),
    "top_k 2": Sampling(temperature=1.0, top_k=2),
}
nothing = np.array([], dtype=int)
tiny = {name: s.scores(logits, nothing) for name, s in settings.items()}
viz.next_token(tiny, "ABCD".__getitem__, title="Four tokens, three ways")

# %% [markdown]
# The same on the word that the model was least sure of:

# %%
least = int(np.argmin(ranked[:, -1]))
ways = {
    "as it is": Sampling(temperature=1.0),
    "temperature 2.5": Sampling(temperature=2.5),
    "2.5, and top_p 0.9": Sampling(temperature=2.5, top_p=0.9),
}
before = whole.input_ids[: prompt + least]
chosen_from = {name: way.scores(scores[least], before) for name, way in ways.items()}
best = [np.max(nn.softmax(each)) for each in chosen_from.values()]
assert best[1] < best[0] and best[1] <= best[2]
just_said = "".join(words[max(0, least - 4) : least]).strip()
viz.next_token(chosen_from, word, title=f"What comes after “{just_said}”")

# %% [markdown]
# With a **seed** a drawn answer can be drawn again. Without one, each run differs.


# %%
def drawn(seed, temperature=2.0):
    """An answer drawn at random."""
    way = Sampling(temperature=temperature, seed=seed)
    return model.tokenizer.decode(list(model.generate(inputs, 24, way)))


answers = [drawn(seed) for seed in range(4)]
print("\n".join(answers))
assert drawn(1) == answers[1]
assert len(set(answers)) > 1

# %% [markdown]
# A published checkpoint brings its own recommendation, `generation_config.json`. Some of its
# settings would change an answer and are not followed here; these are listed by name.

# %%
source(sampling.published, sampling.not_followed)

# %%
file = {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05}
print(sampling.published(file))
assert sampling.published(file, temperature=0.0).temperature == 0.0  # what is asked for wins
assert sampling.published(file).top_k == 50  # what transformers fills in
assert sampling.published(file | {"do_sample": False}) == Sampling(repetition_penalty=1.05)
assert sampling.not_followed({"min_p": 0.1, "num_beams": 1}) == ["min_p"]

# %% [markdown]
# ## What it looked at
#
# In every layer and head, the row that is about to write a word spreads a total of 1 over itself
# and all tokens before it. The part that falls on image tokens can be laid over the image.

# %%
source(Model.attention_weights)

# %% [markdown]
# Mind **which row**: word $i$ is chosen by the row before it. So the row that writes "cross" is
# the one that reads "blue". We write its attention under the word that it *writes*.

# %%
image_keys = np.flatnonzero(inputs.input_ids == model.config.image_token_id)
layers = model.config.text.num_hidden_layers
looks = np.stack(
    [
        model.attention_weights(whole, f"model.layers.{i}.self_attn", rows=slice(prompt - 1, -1))
        for i in range(layers)
    ]
)  # [layers, heads, words, keys]
assert looks.shape[2] == new and np.allclose(looks.sum(axis=-1), 1, atol=1e-5)
on_image = looks[..., image_keys]
print("of all attention, on the image:", np.mean(np.sum(on_image, axis=-1)).round(2))

# %% [markdown]
# Where the shapes are we read off the pixels: everything near a colour makes a box.

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
# By hand: an image of 2 x 2 tokens, 56 pixels wide, and a box over the left half of the top
# left one. It covers half a token, an eighth of the area; a row with 0.3 of its attention
# there, of 0.6 on the image, has half of it in that token, and so a quarter in the box.

# %%
cover = viz.box_coverage((0, 0, 14, 28), (1, 4, 4))
assert cover.tolist() == [0.5, 0, 0, 0] and cover.mean() == 1 / 8
assert np.isclose(viz.attention_in_box(np.array([0.3, 0.1, 0.1, 0.1]), cover), 0.25)

# %%
source(viz.box_coverage, viz.attention_in_box)

# %% [markdown]
# Now each head, when it writes the noun of a shape: how much of what it spends on the image
# falls in the box of that shape?

# %%
covers = {name: viz.box_coverage(box, grid) for name, box in boxes.items()}
at = {name: words.index(" " + name) for name in boxes}
shares = {n: viz.attention_in_box(on_image[:, :, at[n]], covers[n]) for n in boxes}
picked_on = (shares["square"] + shares["circle"]) / 2
level = float(np.mean([covers["square"], covers["circle"]]))
viz.attention_in_box_by_head(picked_on, level, "Attention inside the box of the noun being written")

# %% [markdown]
# Some heads look at the thing, most do not. We take the best one. Note what this means: it was
# **picked**, as the largest of many, and the largest of many is large by luck too. So it was
# picked on the square and the circle, and is tested on the cross, which had no part in it.

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
# ## What goes wrong: the row beside
#
# The classic mistake of such figures is off by one: the row that *reads* a word, in place of the
# row that writes it. A plausible heat map comes out all the same, but it shows something else:
# less than half as much of the attention lies in the boxes.

# %%
reads = on_image[layer, head][[at[name] + 1 for name in boxes]]
for (name, cover), row in zip(covers.items(), reads, strict=True):
    print(f"the row that reads {name:6}: {viz.attention_in_box(row, cover):.0%} inside its box")
wrong = np.mean([viz.attention_in_box(r, c) for r, c in zip(reads, covers.values(), strict=True)])
right_rows = np.mean([shares[name][layer, head] for name in boxes])
assert wrong < right_rows / 2

# %%
viz.attention_over_image(
    image,
    rows[[at["cross"], at["cross"] + 1]],
    grid,
    ["writes “cross”", "reads “cross”"],
    boxes=[boxes["cross"]],
    title="The right row, and the one after it",
)

# %% [markdown]
# ## Looking is not needing
#
# Attention says where a head took its values from, not that the answer depends on it. That can be
# measured too: put a token of the empty background in the place of each of a shape's tokens, and
# see which words lose their probability. The vision encoder has mixed neighbours, so the tokens
# around the shape are replaced as well.

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
    ranked[:, -1],
    "The same sentence, the cross's tokens erased",
    ("erased", "before"),
)

# %% [markdown]
# Here both agree: the noun of a shape needs the tokens of that shape, and not those of the
# others. (The sentence is fed as it was, with the cross in it. So words after "cross" may have
# been read off the words before them.)

# %% [markdown]
# ## Words before the last layer
#
# One more way to look inside: stop after some layer, and apply the language head there, as if no
# layer came after it. This is the *logit lens* (nostalgebraist 2020). Neo et al. 2024 used it on
# the image tokens of large models, and found tokens that name the object that they cover.

# %%
source(viz.lens)

# %% [markdown]
# After the last layer it is no lens but the model itself:

# %%
names = [f"model.layers.{i}" for i in range(layers)]
with tinyqwenvl.trace(*names) as seen:
    model.forward(inputs)
last = viz.lens(seen[names[-1]][0][-1:], model.weights, model.config)
assert np.allclose(last[0], chances[0], atol=1e-5)

# %%
middle = seen[names[1]][0][image_keys]
viz.logit_lens(image, {names[1]: middle}, grid, model.weights, model.config, word)

# %% [markdown]
# Do these words name what their tokens cover? Of the tokens in the box of a shape, fewer than
# half name its colour or its kind:

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
# reads these tokens in a language of their own. Yet the difference between two words can mean
# something. Does the score of "bottom", less that of "top", grow with the row of the token? One
# image could show it by chance, so here are five of the package.


# %%
def grows_downwards(shown):
    """Correlation of a token's row with its score of "bottom" less that of "top"."""
    asked = model.prepare(user_message(shown, "Describe the picture."))
    with tinyqwenvl.trace(names[1]) as seen:
        model.forward(asked)
    tokens = seen[names[1]][0][asked.input_ids == model.config.image_token_id]
    row = np.indices(asked.image_grid_thw[0, 1:] // 2)[0].ravel()
    top, bottom = (model.tokenizer.encode(f" {name}")[0] for name in ("top", "bottom"))
    chance = viz.lens(tokens, model.weights, model.config)
    return np.corrcoef(row, np.log(chance[:, bottom]) - np.log(chance[:, top]))[0, 1]


for name in ("scene", "many", "pair", "tall", "wide"):
    path = EXAMPLE_IMAGE.with_name(f"{name}.png")
    correlation = grows_downwards(Image.open(path).convert("RGB"))
    print(f"{name:5}: {correlation:+.2f}")
    assert correlation > 0.3

# %% [markdown]
# It does, on all five. Is it the same for "right" less "left", and the column? Try it before you
# believe it.

# %% [markdown]
# ## Try it
#
# 1. Does a repetition penalty change an answer at temperature 0, and why is a description of
#    three shapes a bad place for one?
# 2. A second question is asked about the same image, and the cache of the first is kept. How
#    many tokens go through the decoder?
# 3. What does `until` do with two stops, one of which is the beginning of the other?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: it does, when the penalty is large. Words such as " a" and " at" must come again, and
# the penalty holds every repetition back.
for penalty in (1.05, 1.3, 3.0, 30.0):
    way = Sampling(repetition_penalty=penalty)
    other = list(model.generate(inputs, 30, way))
    print(penalty, model.tokenizer.decode(other))
assert other != ids

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: only those that are new: the end of the last turn, and the question. The image's 96
# tokens are in the cache. (This is what Past is for: the cache, and the ids in it.)
talk = Conversation(model)
shown = {"type": "image", "image": image}
list(talk.say([shown, {"type": "text", "text": "Describe the picture."}]))
held = talk.cache.length
with tinyqwenvl.trace("model.layers.0") as seen:
    list(talk.say("What shape is blue?"))
print("held:", held, "then computed:", [len(rows) for rows in seen["model.layers.0"]])
assert held > prompt and len(seen["model.layers.0"][0]) < 30 < prompt

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: the text ends where the first of them begins, so the shorter decides.
assert "".join(generate.until(["one t", "wo three"], ["two three", "two"])) == "one "
assert "".join(generate.until(["one t", "wi"], ["two three", "two"])) == "one twi"

# %% [markdown]
# Next: images that move, and what a second is to the model: [12](12_video_and_time.ipynb).
