# %% [markdown]
# # 09. mRoPE: time, height, width
#
# In the prompt, the example image is a run of 96 identical placeholders. **How does the language
# model know which image token is above which? And does a large image push the question far away
# from the text before it?**
#
# Before this: [08](08_chat_and_tokens.ipynb), and [04](04_two_dimensional_rope.ipynb) for rotary
# embeddings. You need: sines and cosines. 21 minutes.

# %%
from tinyqwenvl.viz import here

here("decoder.mrope")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import compat, nn, position
from tinyqwenvl.model import ASSETS, EXAMPLE_IMAGE, EXAMPLE_VIDEO, user_message
from tinyqwenvl.presets import preset
from tinyqwenvl.viz import mrope_sections, mrope_timeline, positions_compared, source, span_cells

# %%
model = tinyqwenvl.load()
config = model.config
pads = (config.image_token_id, config.video_token_id)

# %% [markdown]
# ## The idea
#
# A rotary embedding rotates pairs of elements of every query and key by an angle: the token's
# **position** times a frequency. Attention between two tokens then depends only on the difference
# of their positions. One position per token is enough for text. In an image, the neighbour on the
# right and the neighbour below are both near, but in different directions.
#
# So **multimodal RoPE** (mRoPE) gives every token **three** positions (Qwen2-VL paper, section
# 2.1):
#
# - A text token has the same position on all three axes: one more than the text token before it.
# - The tokens of an image or a video are an **image span**, which starts at the next position $s$.
#   The token in row $i$ and column $j$ of frame pair $k$ has time $s + T(k)$, height $s + i$ and
#   width $s + j$. An image has one frame pair, and $T(0) = 0$. Below we define $T$ for videos.
# - After the span, text continues at **the largest position in it, on any axis, plus one**.

# %%
source(position.text_positions, position.span_positions, position.after_span)

# %% [markdown]
# ## By hand
#
# A prompt has two words, an image of 4 x 6 patches (2 x 3 tokens), and two more words. Which
# positions do they have? Try it on paper first.

# %%
words, image_token = [5, 6], config.image_token_id
ids = np.array([*words, *[image_token] * 6, *words])
positions, delta = position.rope_index(ids, config, np.array([[1, 4, 6]]))
print(positions)
assert positions[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]  # time
assert positions[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]  # height
assert positions[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]  # width
assert delta == 6 + 1 - 10

# %%
span_cells(positions[:, 2:8], (1, 4, 6))

# %% [markdown]
# Along a row only the width grows; down a column only the height grows. The next figure shows the
# whole prompt, token by token. The dashed line is ordinary RoPE, with one position per token:

# %%
mrope_timeline(positions, ids == image_token, "Two words, six image tokens, two words")

# %% [markdown]
# The **rope delta** is the largest position + 1 - the number of tokens. The position of a new
# token is its index in the sequence plus this delta. The generation loop
# ([11](11_greedy_decoding.ipynb)) needs to know nothing else about the images before it.
#
# ### Exercise 1
#
# An image of one token, 28 x 28 pixels, gives a rope delta of 0. Why? Which other images do?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: it takes up one position, like a word. Every strip that is one token wide or high also
# takes up as many positions as tokens.
for h, w in ((1, 1), (1, 7), (7, 1), (2, 2)):
    ids = np.array([5, *[image_token] * (h * w), 5])
    _, delta = position.rope_index(ids, config, np.array([[1, 2 * h, 2 * w]]))
    print(f"{h} x {w} tokens: rope delta {delta}")
    assert (delta == 0) == (min(h, w) == 1)

# %% [markdown]
# ## A real image
#
# `rope_index` computes the positions of a whole prompt. It goes from left to right, one run of
# text or image tokens after another:

# %%
source(position.rope_index)

# %%
image = Image.open(EXAMPLE_IMAGE).convert("RGB")
inputs = model.prepare(user_message(image, "describe"))
media = np.isin(inputs.input_ids, pads)
tokens, largest = len(inputs.input_ids), int(inputs.position_ids.max())
assert (tokens, np.count_nonzero(media), largest, inputs.rope_delta) == (119, 96, 34, -84)
assert np.all(inputs.position_ids[:, -1] + 1 == tokens + inputs.rope_delta)
assert np.ptp(inputs.position_ids[:, media]) + 1 == 12
mrope_timeline(inputs.position_ids, media, "One image and one word")

# %% [markdown]
# 96 tokens take up 12 positions, the longer side of 8 x 12. So the text after the image is as
# close to the text before it as if only twelve words were between them. Positions grow with the
# *side* of an image, but tokens with its *area*. This matters for large images, and for sequences
# longer than those of training. In Qwen2.5-VL-3B, an image of 672 x 420 pixels gives
# 360 of the 409 tokens of this prompt:

# %%
published = preset("qwen2.5-vl-3b")
ids = np.concatenate([np.zeros(15, int), np.full(360, published.image_token_id), np.zeros(34, int)])
positions, delta = position.rope_index(ids, published, np.array([[1, 30, 48]]))
assert len(ids) == 409 and delta == 24 - 360 and positions.max() + 1 == 409 - 336
print(f"{len(ids)} tokens at {positions.max() + 1} positions")

# %% [markdown]
# Back to the example image, with its positions drawn on it. Each cell shows time on its first
# line, and height and width below.

# %%
block = inputs.position_ids[:, media]
assert np.all(block[0] == 15) and np.all(block[:, 0] == 15)
span_cells(block, inputs.image_grid_thw[0].tolist(), 2, image)

# %% [markdown]
# With two images, the second span starts after the first, so no two tokens have the same three
# positions. The second image is tall. Height is its longest axis, so the largest height decides
# where text continues.

# %%
tall = ASSETS / "images" / "tall.png"
two = model.prepare(user_message([image, tall], "What changed?"))
blocks = np.isin(two.input_ids, pads)
saved = [h * w // 4 - max(h, w) // 2 for _, h, w in two.image_grid_thw.tolist()]
assert two.rope_delta == -sum(saved) == -(84 + 48)
assert np.unique(two.position_ids, axis=1).shape[1] == len(two.input_ids)  # all are different
mrope_timeline(two.position_ids, blocks, "Two images")

# %% [markdown]
# ### Exercise 2
#
# Of all images with 360 tokens, which shape takes up the fewest positions, and which takes up the
# most?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: the shape closest to a square, 18 x 20, takes up 20 positions; one line takes up 360.
shapes = [(h, 360 // h) for h in range(1, 361) if 360 % h == 0]
taken = {}
for h, w in shapes:
    part = position.span_positions(0, (1, 2 * h, 2 * w), 2)
    taken[h, w] = position.after_span(0, part, (1, 2 * h, 2 * w), 2)
print({shape: taken[shape] for shape in ((18, 20), (15, 24), (1, 360))})
assert taken[18, 20] == min(taken.values()) == 20 and max(taken.values()) == taken[1, 360] == 360

# %% [markdown]
# ## Which frequency rotates with which axis
#
# A head of dimension $d$ has $d/2$ frequencies, from fast to slow. `mrope_section` cuts them into
# three consecutive chunks: the first rotates with time, the next with height, the last with width.
# Published models have a head dimension of 128 and chunks of 16, 24 and 24. **Theta** ($\theta$,
# `rope_theta`) is the base of the frequencies. At position $p$:
#
# $$\text{angle}_i = p_{\text{axis}(i)} \cdot \theta^{-2i/d}$$

# %%
source(position.mrope_cos_sin)

# %%
mrope_sections(published.text, "Qwen2.5-VL-3B: heads of 128, theta 1,000,000")

# %% [markdown]
# Time has the fast frequencies, width the slow ones. The slowest pair completes a full turn after
# five million positions. The embedded checkpoint has the same order in a smaller head:

# %%
assert published.text.mrope_section == (16, 24, 24) and config.text.mrope_section == (4, 6, 6)
assert (published.text.head_dim, published.text.rope_theta) == (128, 1e6)
assert (config.text.head_dim, config.text.rope_theta) == (32, 100)
slowest = 2 * np.pi / nn.rotary_frequencies(128, published.text.rope_theta)[-1]
assert 5.0e6 < slowest < 5.1e6
mrope_sections(config.text, "The embedded checkpoint: heads of 32, theta 100")

# %% [markdown]
# A slow loop checks this independently, for one token at time 22, height 5 and width 3. The three
# positions of a text token are equal, so for text this is ordinary rotary embedding.

# %%
cos, _ = position.mrope_cos_sin(np.array([[22], [5], [3]]), published.text)
for i in range(64):
    p = 22 if i < 16 else 5 if i < 40 else 3
    angle = p * published.text.rope_theta ** (-2 * i / 128)
    assert np.isclose(cos[0, i], np.cos(angle), atol=1e-5) and cos[0, i] == cos[0, i + 64]

text = position.text_positions(0, 40)
angles = np.outer(text[0], nn.rotary_frequencies(128, published.text.rope_theta))
of_text = position.mrope_cos_sin(text, published.text)[0][:, :64]
print(
    f"the loop agrees on 64 frequencies; for text the error is "
    f"{np.abs(of_text - np.cos(angles)).max():.0e}"
)
assert np.allclose(of_text, np.cos(angles), atol=1e-5)

# %% [markdown]
# ### Exercise 3
#
# Show that attention between two image tokens depends only on the differences of their positions
# on the three axes. Rotate a random query and key, shift the positions of both by the same
# amounts, and compare the dot products.


# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: the dot product depends only on the difference of the two angles, at each frequency.
def product(q_at, k_at):
    """The attention score of a query and a key at two (time, height, width) positions."""
    cos, sin = position.mrope_cos_sin(np.transpose([q_at, k_at]), config.text, np.float64)
    q, k = nn.rotate(pair, cos, sin)[0]
    return q @ k


pair = np.random.default_rng(9).normal(size=(1, 2, config.text.head_dim))
moved = product((9 + 4, 3 + 7, 8 + 1), (2 + 4, 6 + 7, 5 + 1))
print(product((9, 3, 8), (2, 6, 5)), moved)
assert np.isclose(product((9, 3, 8), (2, 6, 5)), moved)
assert not np.isclose(product((9, 3, 8), (2, 6, 5)), product((9, 3, 8), (2, 5, 6)))

# %% [markdown]
# ## Videos: time is measured in seconds
#
# The bundled video lasts four seconds. Sampled at 2 frames per second, it has eight frames, which
# make four frame pairs of one second each. In Qwen2.5-VL, time grows by two positions per second
# (`tokens_per_second`; Qwen2.5-VL report, section 2.1.3):
#
# $$T(k) = \mathrm{int}(k \cdot \text{seconds per frame pair} \cdot 2).$$

# %%
question = {"type": "text", "text": "When does the orange ring appear?"}


def ask_clip(**options):
    """A prompt with the bundled clip, ready for the model."""
    item = {"type": "video", "video": str(EXAMPLE_VIDEO), **options}
    return model.prepare([{"role": "user", "content": [item, question]}])


clip = ask_clip()
shown = np.isin(clip.input_ids, pads)
assert clip.video_grid_thw.tolist() == [[4, 8, 8]] and clip.second_per_grid_ts == (1.0,)
assert np.unique(clip.position_ids[0, shown]).tolist() == [15, 17, 19, 21]
mrope_timeline(clip.position_ids, shown, "A video of four seconds")

# %%
span_cells(clip.position_ids[:, shown], clip.video_grid_thw[0].tolist())

# %% [markdown]
# Time is now the longest axis, 15 to 21, and text continues at 22. Qwen2-VL instead counts the
# frame pairs: 0, 1, 2, 3. So it gives a fast video and a slow one the same positions
# ([12](12_video_and_time.ipynb)).
#
# ### Exercise 4
#
# A film of two hours is sampled once every ten seconds, and a frame is 4 x 4 tokens. What is the
# largest position on the time axis? How many tokens are there? Is the rope delta still negative?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: 720 frames make 360 frame pairs of 20 seconds, 40 positions each. The largest position
# is 359 * 40 = 14,360, with only 5,760 tokens. So the delta is positive.
part = position.span_positions(0, (360, 8, 8), 2, 20.0, 2)
delta = position.after_span(0, part, (360, 8, 8), 2) - part.shape[1]
print(f"time goes up to {part[0].max():,} in {part.shape[1]:,} tokens: rope delta {delta:+,}")
assert (part[0].max(), part.shape[1], delta) == (14_360, 5_760, 8_601)

# %% [markdown]
# ## What goes wrong
#
# A wrong position raises no error. The classic bug is to count every token as if all were text. We
# measure it by the **NMSE** (normalised mean squared error) of the next token's logits: the sum of
# squared errors divided by the sum of squared logits. For comparison we also measure rounding: the
# reference and the optimised implementation of this library differ by nothing else.


# %%
def error(prompt, positions):
    """NMSE of the next token's logits when ``prompt`` is read at other positions."""
    right = model.forward(prompt)[-1]
    wrong = model.forward(replace(prompt, position_ids=positions))[-1]
    return float(np.sum((wrong - right) ** 2) / np.sum(right**2))


counted = error(inputs, position.text_positions(0, len(inputs.input_ids)))
right, reference = model.forward(inputs)[-1], replace(model, reference=True).forward(inputs)[-1]
rounding = float(np.sum((reference - right) ** 2) / np.sum(right**2))
print(f"an image counted like text: {counted:.1e}; rounding alone: {rounding:.1e}")
assert rounding < 1e-12 and counted > 1e-8

# %% [markdown]
# Every token now has its id, its embedding and its position. Next: how the language model reads
# them, [10](10_decoder_and_cache.ipynb). The appendix below is for those who write a port.
#
# ## Appendix: rules of other versions
#
# Transformers has changed its position rule for videos several times. This library keeps two of
# the other rules as named functions, so that you can compare a port with them:

# %%
source(compat.after_span_hf_5, compat.rope_index_hf_4_52)

# %% [markdown]
# Under the first rule (5.3 to 5.24), text continues after the larger *side* of the video, however
# long the video lasts. Even our short video is longer in time than in width. So the first tokens
# after it share positions with the end of the video. (From 5.6 on, the positions inside the span
# are the same as here.) In the figure, a bar is the range of a run of text or of a span, and a
# tick is the time of a frame pair:

# %%
given = {"video_grid_thw": clip.video_grid_thw, "second_per_grid_ts": clip.second_per_grid_ts}
hf_5, delta_5 = compat.rope_index_hf_5(clip.input_ids, config, **given)
after = int(np.flatnonzero(shown)[-1]) + 1
assert clip.position_ids[0, after] == 22 and hf_5[0, after] == 19
positions_compared(
    {
        "this library, transformers 4.49 to 4.51": clip.position_ids,
        "transformers 5.6 to 5.24": hf_5,
    },
    shown,
    "Text after a video of four seconds",
)

# %% [markdown]
# The second rule truncates the seconds of a frame pair to an integer *before* it multiplies. At
# two frames per second a frame pair lasts one second, and nothing changes. At four frames per
# second it lasts half a second, which becomes 0. So all frame pairs have the same time:

# %%
fast = ask_clip(fps=4)
assert fast.video_grid_thw[0, 0] == 8 and fast.second_per_grid_ts == (0.5,)
given = {"video_grid_thw": fast.video_grid_thw, "second_per_grid_ts": fast.second_per_grid_ts}
hf_4, _ = compat.rope_index_hf_4_52(fast.input_ids, config, **given)
fast_5, _ = compat.rope_index_hf_5(fast.input_ids, config, **given)
in_clip = np.isin(fast.input_ids, pads)
assert np.unique(fast.position_ids[0, in_clip]).tolist() == list(range(15, 23))
assert np.unique(hf_4[0, in_clip]).tolist() == [15]
rules = {"this library": fast.position_ids, "transformers 4.52.4 to 5.2": hf_4}
rules["transformers 5.18 to 5.24"] = fast_5
positions_compared(rules, in_clip, "The same video at four frames per second")

# %% [markdown]
# These two rules cause the following errors (NMSE of the logits):

# %%
errors = {"text collides with the video": error(clip, hf_5), "one time": error(fast, hf_4)}
print("\n".join(f"{name:28} {nmse:.1e}" for name, nmse in errors.items()))
assert min(errors.values()) > 1e-8

# %% [markdown]
# The first rule also makes the position of the answer jump. After a long video, the question
# continues at a low position. But the delta is still computed from the largest position, at the
# end of the video. So there is a gap between the last token of the question and the first of the
# answer. The next prompt has three words, a video of ten frame pairs, and four words:

# %%
ids = np.array([5] * 3 + [config.video_token_id] * 40 + [5] * 4)
long = {"video_grid_thw": np.array([[10, 4, 4]]), "second_per_grid_ts": [1.0]}
ours, our_delta = position.rope_index(ids, config, **long)
theirs, their_delta = compat.rope_index_hf_5(ids, config, **long)
assert ours[0, -4:].tolist() == [22, 23, 24, 25] and len(ids) + our_delta == 26
assert theirs[0, -4:].tolist() == [5, 6, 7, 8] and len(ids) + their_delta == 22  # from 8 to 22
is_clip = ids == config.video_token_id
named = {"this library": ours, "transformers 5.6 to 5.24": theirs}
positions_compared(named, is_clip, "Ten seconds, then four words")

# %% [markdown]
# Which rule is right? The Qwen2-VL paper starts each run one past the largest position before it
# (section 2.1). So did the first Transformers version with Qwen2.5-VL (4.49).
# [Differences](../docs/differences.md) lists versions and rules.
