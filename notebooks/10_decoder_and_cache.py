# %% [markdown]
# # 10. The decoder and its KV cache
#
# The image is now 96 vectors between the words of a prompt. **How does a language model read them,
# and why does the second word of its answer take so much less work than the first?**
#
# Before this: [09](09_mrope.ipynb) (positions), [06](06_attention.ipynb) (attention). You need:
# matrix products and softmax. 26 minutes.

# %%
from tinyqwenvl.viz import here

here("decoder.layers")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import decoder, nn, viz
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import source
from tinyqwenvl.weights import nest

# %% [markdown]
# ## The idea
#
# The **decoder** is a language model with the architecture of Qwen2. Its input is a sequence of
# vectors, so an image enters as vectors too: every id is looked up in an embedding table, and the
# embeddings of the placeholders are replaced by image tokens. Then come layers, all alike and
# built like the blocks of the vision encoder. With $x$ for the residual stream and $\bar x$ for
# the same after a norm,
#
# $$x \leftarrow x + \mathrm{attention}(\bar x), \qquad x \leftarrow x + \mathrm{mlp}(\bar x).$$
#
# Two things distinguish it from the vision encoder. A token attends only to itself and to the
# tokens **before** it (**causal attention**). And several query heads **share** one head of keys
# and values (**grouped-query attention**). Both help to generate text token by token: the first
# lets the decoder reuse what it has computed, the second shrinks what it must keep.
#
# ## Words and image in one sequence

# %%
source(decoder.embed, decoder.scatter)

# %% [markdown]
# By hand: a table of four words with two values each. Id 3 is the placeholder, and two image
# tokens replace it, in order.

# %%
table = nest({"weight": np.array([[0.0, 0], [1, 1], [2, 2], [9, 9]])})
ids = np.array([1, 3, 3, 2])
words = decoder.embed(ids, table)
image_tokens = np.array([[5.0, 6], [7, 8]])
mixed = decoder.scatter(words, ids, 3, image_tokens)
print(words.tolist(), "->", mixed.tolist())
assert words.tolist() == [[1, 1], [9, 9], [9, 9], [2, 2]]
assert mixed.tolist() == [[1, 1], [5, 6], [7, 8], [2, 2]]

# %% [markdown]
# The placeholder's own embedding (here 9, 9) never matters. `scatter` needs no loop: `cumsum(here)
# - 1` is the number of the image token that comes next.
#
# ## The causal attention mask
#
# As in the vision encoder, the attention mask is an array of key ranges: query $i$ attends to the
# keys from `key_ranges[i, 0]` up to, but without, `key_ranges[i, 1]`.

# %%
source(nn.causal_key_ranges)

# %% [markdown]
# Three tokens at the start, and two more after four earlier ones:

# %%
assert nn.causal_key_ranges(3).tolist() == [[0, 1], [0, 2], [0, 3]]
assert nn.causal_key_ranges(2, past=4).tolist() == [[0, 5], [0, 6]]
print(np.where(nn.visible_keys(nn.causal_key_ranges(2, past=4), 6), "attends", "-"))

# %% [markdown]
# "Before" means before in the **sequence**. The positions of [09](09_mrope.ipynb) rotate queries
# and keys; they do not change the attention mask. All tokens of an image have the same time, yet
# each attends only to those before it.
#
# ### Exercise 1
#
# An attention mask made from the *time* positions lets a token attend to every key whose time is
# at most its own. Which tokens of a prompt with an image would attend to too much?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: those of the image, all of which have one time: every image token would attend to the
# whole image, even to what comes after it. Text is masked correctly.
small = tinyqwenvl.load()
asked = small.prepare(user_message(Image.open(EXAMPLE_IMAGE).convert("RGB"), "describe"))
time, length = asked.position_ids[0], len(asked.input_ids)
by_time = time[None, :] <= time[:, None]
too_much = np.any(by_time & ~nn.visible_keys(nn.causal_key_ranges(length), length), axis=1)
is_image = asked.input_ids == small.config.image_token_id
print(np.count_nonzero(too_much), "of", np.count_nonzero(is_image), "image tokens, and no text")
assert np.array_equal(np.flatnonzero(too_much), np.flatnonzero(is_image)[:-1])  # the last may

# %% [markdown]
# ## Attention with shared keys

# %%
source(decoder.attention)

# %% [markdown]
# Compare the shapes: `q` has `num_attention_heads` heads, `k` and `v` only `num_key_value_heads`
# (grouped-query attention: Ainslie et al. 2023). In the embedded checkpoint three query heads
# share a key head:

# %%
model = tinyqwenvl.load()
text = model.config.text
assert (text.num_attention_heads, text.num_key_value_heads) == (6, 2)
viz.grouped_query_heads(text.num_attention_heads, text.num_key_value_heads)

# %% [markdown]
# Sharing is the same as giving each query head a copy of its group's keys and values. As a check,
# a slow loop over heads, each with the key head `a // 3`:

# %%
rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(heads, 5, 4)) for heads in (6, 2, 2))
key_ranges = nn.causal_key_ranges(5)
together = nn.attention(q, k, v, key_ranges)
for a in range(6):
    for i in range(5):
        scores = np.array([q[a, i] @ k[a // 3, j] / np.sqrt(4) for j in range(i + 1)])
        weights = np.exp(scores) / np.sum(np.exp(scores))
        assert np.allclose(together[a, i], weights @ v[a // 3, : i + 1])
print("the loop agrees on 6 heads and 5 tokens")

# %% [markdown]
# ## One layer, and all of them
#
# The second half of a layer is a gated MLP. One product computes candidates (`up_proj`), another a
# gate for each (`gate_proj`), and a third returns to the hidden size.

# %%
source(nn.swiglu_mlp, nn.silu, nn.sigmoid)

# %% [markdown]
# `silu` passes large positive values, turns large negative ones into almost zero, and is zero at
# zero:

# %%
print(nn.silu(np.array([0.0, 1, 20, -20])).round(3))
assert nn.silu(np.array([0.0, 20, -20])).round(6).tolist() == [0, 20, 0]
assert np.isclose(nn.silu(np.array([1.0]))[0], 1 / (1 + np.exp(-1)))

# %%
source(decoder.decoder_layer, decoder.decode)

# %% [markdown]
# That is the whole decoder. On the example image, with the output of every layer recorded by name:

# %%
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "Describe the picture."))
embeds = model.embed(inputs)
with tinyqwenvl.trace("model.inputs_embeds", "model.layers.[0-9]") as stages:
    whole = model.decode(embeds, inputs.position_ids)
for name, (value,) in stages.items():
    print(f"{name:20} {value.shape}  root mean square {np.sqrt(np.mean(value**2)):.2f}")
images = np.count_nonzero(inputs.input_ids == model.config.image_token_id)
assert whole.shape == (len(inputs.input_ids), text.hidden_size) and images == 96

# %% [markdown]
# The values grow because every layer **adds** to the residual stream. The norm in front of each
# half compensates: what a layer reads always has the same size.

# %%
sizes = [np.mean(value[0] ** 2) for value in stages.values()]
print(f"mean square: {sizes[0]:.2f} before the first layer, {sizes[-1]:.2f} after the last")
assert sizes[-1] > 2 * sizes[0]

# %% [markdown]
# ## The cache
#
# A token's key and value depend on nothing that comes after it. So when the next token arrives,
# all earlier keys and values are still right and can be kept: the **KV cache**. Queries need not
# be kept, because an old token never attends again. A small example with a prompt of five tokens
# and three new ones (c: computed, k: kept):

# %%
assert sum(5 + n for n in range(3 + 1)) == 26
viz.keys_computed(prompt=5, new=3)

# %% [markdown]
# With the cache every token is computed once: $5 + 3 = 8$. Without it every step starts again: $5
# + 6 + 7 + 8 = 26$.
#
# ### Exercise 2
#
# How many tokens are computed without a cache for an answer of $n$ tokens to a prompt of $p$? Is
# that proportional to $n$? When is it twice the prompt alone?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: (n + 1) p + n (n + 1) / 2: about (n + 1) p while n is small beside p, about n ** 2 / 2
# when it is large. A single new token already makes it more than twice, because the whole prompt is
# computed again.
for p, n in ((121, 1), (121, 22), (10, 500)):
    computed = sum(p + i for i in range(n + 1))
    print(f"prompt {p}, answer {n}: {computed:,}")
    assert computed == (n + 1) * p + n * (n + 1) // 2 > 2 * p
assert np.isclose(computed, n**2 / 2, rtol=0.1)  # an answer far longer than its prompt

# %%
source(nn.ReferenceCache)

# %% [markdown]
# Two keys, then one more (one head of dimension 1, one layer). `append` returns everything so far,
# and `attention` above continues with that.

# %%
cache = nn.ReferenceCache()
cache.append(0, np.array([[[1.0], [2]]]), np.array([[[10.0], [20]]]))
k, v = cache.append(0, np.array([[[3.0]]]), np.array([[[30.0]]]))
print("keys", k.ravel().tolist(), "values", v.ravel().tolist())
assert k.ravel().tolist() == [1, 2, 3] and v.ravel().tolist() == [10, 20, 30]
assert cache.length == cache.whole(layers=1) == 3
assert cache.whole(layers=2) == 0  # a second layer has none yet: the run was interrupted
cache.keep(1)
assert cache.length == 1 and cache.layers[0][0].ravel().tolist() == [1]

# %% [markdown]
# `concatenate` copies all old keys for each new token. The optimised implementation preallocates
# capacity, so appending copies only the new token:

# %%
source(nn.KVCache)

# %% [markdown]
# A hundred tokens, one by one: the same values, and memory is allocated once. (What grows is a
# *buffer*; `layers` are views of its filled part.)

# %%
reference, optimised, capacities = nn.ReferenceCache(), nn.KVCache(), set()
for _ in range(100):
    new = rng.normal(size=(2, 1, 4)), rng.normal(size=(2, 1, 4))
    assert all(map(np.array_equal, reference.append(0, *new), optimised.append(0, *new)))
    capacities.add(optimised.buffers[0][0].shape[1])
print(f"capacity for {max(capacities)} tokens, allocated once; {optimised.length} are held")
assert len(capacities) == 1 and optimised.length == 100

# %% [markdown]
# ## All at once equals one by one
#
# This property makes a cache right, and it is the first test to write in a port: feed the prompt
# whole, or one token at a time, or in pieces of any size. Every output must be the same, up to
# rounding.


# %%
def in_pieces(size, cache):
    """The decoder's output for the prompt, fed ``size`` tokens at a time."""
    starts = range(0, len(embeds), size)
    places = inputs.position_ids
    parts = [model.decode(embeds[i : i + size], places[:, i : i + size], cache) for i in starts]
    return np.concatenate(parts)


for size in (1, 7, 50):
    error = np.max(np.abs(in_pieces(size, nn.KVCache()) - whole))
    print(f"{size:2} at a time: largest error {error:.1e}, of {np.max(np.abs(whole)):.1f}")
    assert error < 1e-4

# %% [markdown]
# The error is that of float32, whose sums differ when they are added in another order. With
# float64 it is smaller by many orders of magnitude, which shows that nothing else is behind it.

# %%
exact = tinyqwenvl.load(dtype="float64")
inputs64 = exact.prepare(user_message(image, "Describe the picture."))
embeds64, cache64 = exact.embed(inputs64), nn.KVCache()
at_once = exact.decode(embeds64, inputs64.position_ids)
one_by_one = [
    exact.decode(embeds64[i : i + 1], inputs64.position_ids[:, i : i + 1], cache64)
    for i in range(len(embeds64))
]
error = np.max(np.abs(np.concatenate(one_by_one) - at_once))
print(f"float64, one at a time: largest error {error:.1e}")
assert error < 1e-11

# %% [markdown]
# ### Exercise 3
#
# Shift all positions of the prompt by 1000. What changes?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: nothing but rounding. Attention depends only on differences of positions.
moved = exact.decode(embeds64, inputs64.position_ids + 1000)
print(f"float64: {np.max(np.abs(moved - at_once)):.0e} apart", end="; ")
assert np.max(np.abs(moved - at_once)) < 1e-9
moved = model.decode(embeds, inputs.position_ids + 1000)
print(f"float32: {np.max(np.abs(moved - whole)):.0e}")
assert np.max(np.abs(moved - whole)) < 0.05

# %% [markdown]
# ## What the cache saves
#
# Now a whole answer, with the cache and without. Recording the first layer counts the tokens that
# go through it.


# %%
def answer(use_cache, limit=40):
    """(ids of the answer, tokens that went through each layer)"""
    ids, cache, new = [], nn.KVCache(), embeds
    with tinyqwenvl.trace("model.layers.0") as seen:
        while len(ids) < limit:
            start = cache.length if use_cache else 0
            later = np.tile(np.arange(len(inputs.input_ids), start + len(new)), (3, 1))
            places = np.append(inputs.position_ids, later + inputs.rope_delta, axis=1)[:, start:]
            x = model.decode(new, places, cache if use_cache else None)
            token = int(np.argmax(decoder.logits(x[-1:], model.weights.lm_head)))
            if token in model.config.eos_token_ids:
                break
            ids.append(token)
            last = model.embed_tokens(np.array([token]))
            new = last if use_cache else np.append(new, last, axis=0)
    return ids, sum(len(tokens) for tokens in seen["model.layers.0"])


# %%
(ids, with_cache), (same, without) = answer(True), answer(False)
prompt, new = len(inputs.input_ids), len(ids)
print(model.tokenizer.decode(ids))
print(f"{with_cache} tokens with the cache, {without} without: {without / with_cache:.0f}x as many")
assert ids == same == list(model.generate(inputs))
assert with_cache == prompt + new
assert without == sum(prompt + n for n in range(new + 1))

# %%
viz.keys_computed(prompt, new)

# %% [markdown]
# The cache costs memory. Each token leaves a key and a value in every layer,
#
# $$2 \times \text{layers} \times \text{key heads} \times \text{head dimension}$$
#
# values, which stay to the end of the conversation. With $A$ query heads and $B$ key heads,
# sharing divides this by $A / B$, here three. Notice how much of it belongs to the prompt, most of
# which is the image:

# %%
each = viz.cache_bytes(text, 1)
assert each == 2 * 4 * 2 * 32 * 4  # layers, key heads, head size, bytes of a float32
held = nn.KVCache()
model.decode(embeds, inputs.position_ids, held)
assert sum(k.nbytes + v.nbytes for k, v in held.layers.values()) == prompt * each
viz.cache_growth(text, prompt, new, image=images)

# %% [markdown]
# The same for a published size needs no weights: Qwen2.5-VL-3B in bfloat16 (2 bytes per value),
# with 360 tokens of an image, 49 of the template and a question, and 400 of an answer.

# %%
published = preset("qwen2.5-vl-3b").text
assert viz.cache_bytes(published, 1, bytes_each=2) == 36 * 2**10  # 36 KiB a token
viz.cache_growth(published, 409, 400, 2, 360, title="The cache of Qwen2.5-VL-3B grows")

# %% [markdown]
# ### Exercise 4
#
# After an answer, `keep` only the prompt in the cache, and ask for the first token's logits again
# with the prompt's last token. What must you take care of?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: the last token must not be in the cache when it is fed: keep prompt - 1 tokens, or the
# prompt would contain it twice. And it keeps its position.
held = nn.KVCache()
first = model.next_logits(embeds, inputs.position_ids, held)
held.keep(prompt - 1)
again = model.next_logits(embeds[-1:], inputs.position_ids[:, -1:], held)
twice = model.next_logits(embeds[-1:], inputs.position_ids[:, -1:], held)  # now it is there twice
print(
    f"once: {np.max(np.abs(again - first)):.0e} apart, twice: {np.max(np.abs(twice - first)):.0e}"
)
assert np.allclose(first, again, atol=1e-3)
assert np.max(np.abs(twice - first)) > 10 * np.max(np.abs(again - first))

# %% [markdown]
# ## What goes wrong: the position of the next token
#
# An image of 96 tokens takes up only 12 positions, so after it a token's position is smaller than
# its index, and the difference is the **rope delta** ([09](09_mrope.ipynb)). A new token has the
# position
#
# $$\text{number of tokens in the cache} + \text{rope delta}.$$

# %%
delta = inputs.rope_delta
assert delta == 12 - 96
assert inputs.position_ids.max() + 1 == prompt + delta
print(f"the first new token is token {prompt} (counted from 0), at position {prompt + delta}")

# %% [markdown]
# Two bugs are common. One is off by one: the cache's length is read *after* the new token was
# added (one too far), or the last position is used instead of the one after it (one too few). The
# other loses the delta and takes the index. Both begin at the first **new** token, so a test of
# the prompt alone finds nothing. Here the right answer is fed token by token, with the right
# position, with one too far, and without the delta.


# %%
def scores_with(delta):
    """Logits after every token of the right answer, fed with a rope delta of ``delta``."""
    cache = nn.KVCache()
    model.decode(embeds, inputs.position_ids, cache)
    rows = []
    for token in ids:
        place = np.full((3, 1), cache.length + delta)
        rows.append(model.next_logits(model.embed_tokens(np.array([token])), place, cache))
    return np.array(rows)


# %% [markdown]
# Beside them is a run without a cache, which differs by rounding alone. It shows how small a
# difference can be.

# %%
right = scores_with(delta)
everything = replace(
    inputs,
    input_ids=np.append(inputs.input_ids, ids),
    position_ids=np.append(
        inputs.position_ids, np.tile(np.arange(prompt, prompt + new) + delta, (3, 1)), axis=1
    ),
)
rounding = np.max(np.abs(model.forward(everything)[prompt:] - right), axis=1)
off_by_one = np.max(np.abs(scores_with(delta + 1) - right), axis=1)
lost = np.max(np.abs(scores_with(0) - right), axis=1)
print(f"rounding {rounding.max():.0e}, off by one {off_by_one.max():.2f}, lost {lost.max():.2f}")
assert rounding.max() < 1e-3 and 100 * rounding.max() < off_by_one.max() < lost.max()

# %%
tokens = [model.tokenizer.decode([i]) for i in ids]
errors = {"no cache (rounding)": rounding, "off by one": off_by_one, "delta lost": lost}
viz.errors_by_step(errors, tokens)

# %% [markdown]
# And the answers:

# %%
for name, wrong in (("right", delta), ("off by one", delta + 1), ("delta lost", 0)):
    said = list(model.generate(replace(inputs, rope_delta=wrong), max_tokens=30))
    print(f"{name:10}: {model.tokenizer.decode(said)}")
    if name == "right":
        assert said == ids
    if name == "delta lost":
        assert said != ids

# %% [markdown]
# A lost delta is obvious. Off by one is worse: errors of the logits far above rounding, in an
# answer that reads well and may be the very same words. Compare values, not words;
# [14](14_be_an_oracle.ipynb) is about that.

# %% [markdown]
# Next: from the last vector to a word, and what stops the answer: [11](11_greedy_decoding.ipynb).
