# %% [markdown]
# # 11. Greedy decoding and sampling
#
# The decoder ends in one value for every token it knows. **How do these become a sentence, what
# ends it, and what changes when tokens are drawn at random?**
#
# Before this: [10](10_decoder_and_cache.ipynb) (the decoder and its cache). You need: softmax and
# probabilities. 23 minutes.

# %%
from tinyqwenvl.viz import here

here("answer.decoding")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import decoder, generate, nn, sampling, viz
from tinyqwenvl.conversation import Conversation
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.sampling import Sampling
from tinyqwenvl.viz import source

# %% [markdown]
# ## The idea
#
# The **LM head** (`lm_head`; not one of the attention heads) is a matrix with one vector per token
# of the vocabulary. The **logit** of a token is the dot product of its vector with the last hidden
# state of the sequence. **Greedy decoding** appends the token with the largest logit to the
# sequence and repeats, until the chosen token is one that means *stop*.

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
# Every position of the prompt has logits, but only those of the **last** position choose the first
# token of the answer. The checkpoint ties the head to the embedding: the matrix that turned ids
# into vectors is also the one that hidden states are compared with.

# %%
tied = np.array_equal(model.weights.lm_head.weight, model.weights.model.embed_tokens.weight)
print("LM head and embedding are the same matrix:", tied)
assert tied


def word(number):
    """The text of one token; a special token by its name."""
    return model.tokenizer.decode([number], skip_special=False)


viz.next_token({"first word of the answer": scores[-1]}, word, most=4)

# %% [markdown]
# ## The largest logit
#
# One rule is needed even here: if several logits are equal, the lowest id wins.

# %%
source(sampling.greedy)

# %%
print("of logits 1, 3, 3, 2 it takes index", sampling.greedy(np.array([1.0, 3, 3, 2])))
assert sampling.greedy(np.array([1.0, 3, 3, 2])) == 1

# %% [markdown]
# ## The generation loop

# %%
source(generate.Past, generate.Generation)

# %% [markdown]
# Nothing is computed until you iterate over a `Generation`. Each step of its loop chooses a token,
# yields it, and feeds it back at position *tokens in the cache + rope delta*
# ([10](10_decoder_and_cache.ipynb)). The last allowed token is not fed back, because nothing
# follows it. A `Past` holds the cache and its ids for a second question about the same image.

# %%
generation = model.generate(inputs)
ids = list(generation)
words = [word(i) for i in ids]
print(model.tokenizer.decode(ids))
print(generation.finish_reason, {k: f"{v:.3f} s" for k, v in generation.timings.items()})
for thing in ("black square", "blue cross", "pink circle"):
    assert thing in model.tokenizer.decode(ids)

# %% [markdown]
# ### Exercise 1
#
# A second question is asked about the same image, and the cache of the first is kept. How many
# tokens go through the decoder?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: only the new ones: the end of the last turn, and the question. The image's 96 tokens are
# in the cache. (`Past` exists for this: the cache, and the ids in it.)
prompt = len(inputs.input_ids)
talk = Conversation(model)
shown = {"type": "image", "image": image}
list(talk.say([shown, {"type": "text", "text": "Describe the picture."}]))
held = talk.cache.length
with tinyqwenvl.trace("model.layers.0") as seen:
    list(talk.say("What shape is blue?"))
print("held:", held, "then computed:", [len(rows) for rows in seen["model.layers.0"]])
assert held > prompt and len(seen["model.layers.0"][0]) < 30 < prompt

# %% [markdown]
# ### What ended the answer?
#
# Feed the prompt **and** the answer at once: the logits at position $n$ then belong to token $n +
# 1$. So one pass reproduces every choice, and shows the one after the last word.

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
# A limit ends it too, and `finish_reason` says so:

# %%
short = model.generate(inputs, max_tokens=3)
assert list(short) == ids[:3] and short.finish_reason == "length"
print("with at most 3 tokens:", short.finish_reason)

# %% [markdown]
# ### How sure was it?
#
# The softmax of the logits gives probabilities. A bar is the probability of the token chosen, a
# diamond that of the runner-up. Where a diamond is high, the sentence nearly went another way. A
# `Generation` keeps the probability of each token that it chose:

# %%
source(sampling.probability)

# %%
chances = nn.softmax(scores)
assert np.allclose(generation.probabilities, chances[np.arange(new), ids], rtol=1e-3)
ranked = np.sort(chances[:-1], axis=1)
viz.token_probabilities(words, ranked[:, -1], ranked[:, -2])

# %% [markdown]
# Greedy decoding is only as stable as the gap between the two largest logits. Rounding moves each
# logit a little. Where the gap is smaller than that, two correct programs may choose different
# tokens, and every later word can differ. A run in float64 measures the rounding. Here the
# narrowest gap is over a hundred times as large:

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
# You may want to stop at a *text*, such as a line break. Tokens do not end where texts do, and
# printed text cannot be taken back. So `until` holds back whatever may still become a stop text.

# %%
source(generate.until)

# %% [markdown]
# By hand, with the stop text `"cd"`. The `c` is held back. In the first line it turns out
# harmless; in the second it begins the stop text.

# %%
for pieces in (["abc", "x", "y"], ["abc", "de", "f"]):
    print(pieces, "->", list(generate.until(pieces, ["cd"])))
assert list(generate.until(["abc", "x", "y"], ["cd"])) == ["ab", "cx", "y", ""]
assert "".join(generate.until(["abc", "de", "f"], ["cd"])) == "ab"

# %% [markdown]
# With the model, `stream` turns tokens into pieces of text as they come:

# %%
parts = model.tokenizer.stream(iter(model.generate(inputs)))
until_comma = "".join(generate.until(parts, [", a blue"]))
print(until_comma)
assert until_comma == model.tokenizer.decode(ids).split(", a blue")[0]

# %% [markdown]
# ### Exercise 2
#
# What does `until` do with two stop texts, if one is the beginning of the other?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: the text ends where the first of them begins, so the shorter decides.
print(list(generate.until(["one t", "wo three"], ["two three", "two"])))
assert "".join(generate.until(["one t", "wo three"], ["two three", "two"])) == "one "
assert "".join(generate.until(["one t", "wi"], ["two three", "two"])) == "one twi"

# %% [markdown]
# ## Sampling
#
# Drawing the next token at random makes answers more varied. Four settings control it, always in
# this order: a penalty on earlier tokens, the temperature, and two ways to cut off unlikely
# tokens.

# %%
source(sampling.penalise, sampling.keep_top_k, sampling.keep_top_p, sampling.draw)

# %% [markdown]
# Four tokens have probabilities 1/2, 1/4, 1/8 and 1/8. Dividing the logits by a temperature of 2
# takes the square root of each probability and renormalises:

# %%
logits = np.log(np.array([8.0, 4, 2, 2], np.float32) / 16)
print("temperature 2:", nn.softmax(logits / 2).round(3))
assert np.allclose(nn.softmax(logits / 2), np.sqrt([8, 4, 2, 2]) / np.sum(np.sqrt([8, 4, 2, 2])))

kept = {k: np.isfinite(sampling.keep_top_k(logits, k)).tolist() for k in (2, 3)}
print("top_k keeps:  ", kept)  # 3 keeps four: equals of the third stay
assert kept == {2: [True, True, False, False], 3: [True] * 4}
kept = {p: np.isfinite(sampling.keep_top_p(logits, p)).tolist() for p in (0.6, 0.01)}
print("top_p keeps:  ", kept)
assert kept == {0.6: [True, True, False, False], 0.01: [True, False, False, False]}

drawn_at = [sampling.draw(logits, r) for r in (0.0, 0.49, 0.6, 0.8, 0.9)]
print("draws at 0, 0.49, 0.6, 0.8, 0.9:", drawn_at)  # 0.5 + 0.25 = 0.75: the third begins there
assert drawn_at == [0, 0, 1, 2, 3]

# %% [markdown]
# The penalty divides a positive logit and multiplies a negative one, so both get smaller. It
# applies once per token, however often the token occurred.

# %%
said_before = np.array([0, 0, 2])
penalised = sampling.penalise(np.array([3.0, 1, -1, -2]), said_before, 1.5)
print("[3, 1, -1, -2] becomes", penalised.tolist())
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
# With a **seed**, the same answer can be drawn again. Without one, each run differs.


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
# ### Exercise 3
#
# Does a repetition penalty change an answer at temperature 0? Why is a description of three shapes
# a bad place for one?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: it does, when the penalty is large. Words such as " a" and " at" must come again, and
# the penalty makes every repetition less likely.
for penalty in (1.05, 1.3, 3.0, 30.0):
    way = Sampling(repetition_penalty=penalty)
    other = list(model.generate(inputs, 30, way))
    print(penalty, model.tokenizer.decode(other))
assert other != ids

# %% [markdown]
# A published checkpoint brings its recommended settings in `generation_config.json`. Settings that
# this library does not implement are listed by name.

# %%
source(sampling.published, sampling.not_followed)

# %%
file = {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05}
print(sampling.published(file))
assert sampling.published(file, temperature=0.0).temperature == 0.0  # your own setting wins
assert sampling.published(file).top_k == 50  # what Transformers fills in
assert sampling.published(file | {"do_sample": False}) == Sampling(repetition_penalty=1.05)
assert sampling.not_followed({"min_p": 0.1, "num_beams": 1}) == ["min_p"]

# %% [markdown]
# Next: videos, and what a second is to the model: [12](12_video_and_time.ipynb). What the model
# attended to while it wrote this sentence is measured in [16](16_attention_over_the_image.ipynb).
