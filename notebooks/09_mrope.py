# %% [markdown]
# # 09. mRoPE: time, height, width
#
# In the prompt an image is 96 equal placeholders in a row. **How does the language model know
# which image token is above which? And does a large image push the question far away from it?**
#
# Before this: [08](08_chat_and_tokens.ipynb), and [04](04_two_dimensional_rope.ipynb) for rotary
# embedding. You need: sines and cosines; 20 minutes.

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
# Rotary embedding turns pairs of numbers of every query and key by an angle: position times a
# frequency. What two tokens see of each other's place is the difference of their positions. One
# number a token is enough for text, but in an image a neighbour to the right and one below are
# both near, in two ways.
#
# So every token gets **three** positions (Qwen2-VL paper, section 2.1):
#
# - a text token has the same number on all three axes, and they count up as they always did;
# - an image or a clip is a *block* that starts at the next number $s$: the token in row $i$ and
#   column $j$ of temporal grid $k$ (pair of frames) is at time $s + T(k)$, height $s + i$, width
#   $s + j$. An image has one grid, and $T(0) = 0$; what $T$ is for clips comes below;
# - after a block, text goes on at **the largest position in it, on any axis, plus one**.

# %%
source(position.text_positions, position.span_positions, position.after_span)

# %% [markdown]
# ## By hand
#
# Two words, an image of 4 x 6 patches (2 x 3 tokens), two words. Try it on paper first.

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
# Along a row only the width grows, down a column only the height. And the whole prompt, token after
# token; the dashed line is ordinary RoPE, with one position a token:

# %%
mrope_timeline(positions, ids == image_token, "Two words, six image tokens, two words")

# %% [markdown]
# The **rope delta** is how far the line has fallen behind at the end: largest position + 1 - number
# of tokens. A new token's position is its index in the sequence plus this delta; that is all that
# the loop in [11](11_greedy_decoding.ipynb) has to know of the images before.
#
# ## A real image
#
# The whole function goes through a prompt from left to right, run after run:

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
# 96 tokens take up 12 positions, the longer side of 8 x 12: what comes after the image is no
# further from what came before it than if twelve words stood between. This matters for large
# images, and for a model that has to go beyond the lengths that it was trained on: positions grow
# with the *side* of an image, tokens with its *area*. The image of 756 x 476 pixels in the
# README makes 360 of the 409 tokens of its prompt in Qwen2.5-VL-3B:

# %%
published = preset("qwen2.5-vl-3b")
ids = np.concatenate([np.zeros(15, int), np.full(360, published.image_token_id), np.zeros(34, int)])
positions, delta = position.rope_index(ids, published, np.array([[1, 30, 48]]))
assert len(ids) == 409 and delta == 24 - 360 and positions.max() + 1 == 409 - 336
print(f"{len(ids)} tokens at {positions.max() + 1} positions")

# %% [markdown]
# The same numbers on the image itself: time on the first line of a cell, height and width below.

# %%
block = inputs.position_ids[:, media]
assert np.all(block[0] == 15) and np.all(block[:, 0] == 15)
span_cells(block, inputs.image_grid_thw[0].tolist(), 2, image)

# %% [markdown]
# With two images the second block starts after the first, so no two tokens have the same three
# positions. The second is tall: here the height is the longest axis, and text goes on after it.

# %%
tall = ASSETS / "images" / "tall.png"
two = model.prepare(user_message([image, tall], "What changed?"))
blocks = np.isin(two.input_ids, pads)
saved = [h * w // 4 - max(h, w) // 2 for _, h, w in two.image_grid_thw.tolist()]
assert two.rope_delta == -sum(saved) == -(84 + 48)
assert np.unique(two.position_ids, axis=1).shape[1] == len(two.input_ids)  # all are different
mrope_timeline(two.position_ids, blocks, "Two images")

# %% [markdown]
# ## Which frequency turns with which axis
#
# A head of $d$ numbers has $d/2$ frequencies, from fast to slow. `mrope_section` cuts them into
# three consecutive chunks: the first turn with time, the next with height, the last with width.
# Published models have heads of 128 numbers and sections of 16, 24 and 24.
#
# $$\text{angle}_i = p_{\text{axis}(i)} \cdot \theta^{-2i/d}$$

# %%
source(position.mrope_cos_sin)

# %%
mrope_sections(published.text, "Qwen2.5-VL-3B: heads of 128, theta 1,000,000")

# %% [markdown]
# Time has the fast frequencies, width the slow ones: the slowest needs five million positions for a
# turn. The embedded checkpoint has the same order in a smaller head:

# %%
assert published.text.mrope_section == (16, 24, 24) and config.text.mrope_section == (4, 6, 6)
assert (published.text.head_dim, published.text.rope_theta) == (128, 1e6)
assert (config.text.head_dim, config.text.rope_theta) == (32, 100)
slowest = 2 * np.pi / nn.rotary_frequencies(128, published.text.rope_theta)[-1]
assert 5.0e6 < slowest < 5.1e6
mrope_sections(config.text, "The embedded checkpoint: heads of 32, theta 100")

# %% [markdown]
# A check by a slow loop, for one token at time 22, height 5, width 3. And for text, whose three
# positions are equal, the sections make no difference: it is the plain rotary embedding.

# %%
cos, _ = position.mrope_cos_sin(np.array([[22], [5], [3]]), published.text)
for i in range(64):
    p = 22 if i < 16 else 5 if i < 40 else 3
    angle = p * published.text.rope_theta ** (-2 * i / 128)
    assert np.isclose(cos[0, i], np.cos(angle), atol=1e-5) and cos[0, i] == cos[0, i + 64]

text = position.text_positions(0, 40)
angles = np.outer(text[0], nn.rotary_frequencies(128, published.text.rope_theta))
of_text = position.mrope_cos_sin(text, published.text)[0][:, :64]
assert np.allclose(of_text, np.cos(angles), atol=1e-5)

# %% [markdown]
# ## A clip: time is time
#
# The bundled clip lasts four seconds. It is looked at twice a second, so there are eight frames,
# two of which make a temporal grid: four grids of one second each. Qwen2.5-VL moves time by two
# positions a second (`tokens_per_second`; Qwen2.5-VL report, section 2.1.3):
#
# $$T(k) = \mathrm{int}(k \cdot \text{seconds of a grid} \cdot 2).$$

# %%
question = {"type": "text", "text": "When does the blue square appear?"}


def ask_clip(**options):
    """A prompt with the bundled clip, ready for the model."""
    item = {"type": "video", "video": str(EXAMPLE_VIDEO), **options}
    return model.prepare([{"role": "user", "content": [item, question]}])


clip = ask_clip()
shown = np.isin(clip.input_ids, pads)
assert clip.video_grid_thw.tolist() == [[4, 8, 8]] and clip.second_per_grid_ts == (1.0,)
assert np.unique(clip.position_ids[0, shown]).tolist() == [15, 17, 19, 21]
mrope_timeline(clip.position_ids, shown, "A clip of four seconds")

# %%
span_cells(clip.position_ids[:, shown], clip.video_grid_thw[0].tolist())

# %% [markdown]
# Time is now the longest axis, 15 to 21, and text goes on at 22. Qwen2-VL counts grids instead, 0,
# 1, 2, 3, and cannot tell a fast clip from a slow one; more in [12](12_video_and_time.ipynb).
#
# ## What goes wrong, and where versions differ
#
# Positions are whole numbers, and a wrong one gives no error. Versions of transformers have had
# several rules for clips; two that we do not follow are kept by name:

# %%
source(compat.after_span_hf_5, compat.rope_index_hf_4_52)

# %% [markdown]
# The first lets text go on after the larger *side* of the clip, however long it is in time. Even
# our short clip reaches further in time than in width, so the first tokens after it stand at
# positions that the end of the clip has too. (5.3 to 5.23 do so; from 5.6 on the block itself is as
# here.) In the figure a bar is what a run of text or a block takes up, and a stroke the time of a
# grid:

# %%
given = {"video_grid_thw": clip.video_grid_thw, "second_per_grid_ts": clip.second_per_grid_ts}
hf_5, delta_5 = compat.rope_index_hf_5(clip.input_ids, config, **given)
after = int(np.flatnonzero(shown)[-1]) + 1
assert clip.position_ids[0, after] == 22 and hf_5[0, after] == 19
positions_compared(
    {
        "this library, transformers 4.49 to 4.51": clip.position_ids,
        "transformers 5.6 to 5.23": hf_5,
    },
    shown,
    "Text after a clip of four seconds",
)

# %% [markdown]
# The second cuts the seconds of a grid to whole ones *before* it multiplies. At two frames a second
# a grid lasts one second and nothing happens. At four frames a second it lasts half a second, which
# is cut to 0, and all of the clip happens at once:

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
rules["transformers 5.18 to 5.23"] = fast_5
positions_compared(rules, in_clip, "The same clip at four frames a second")

# %% [markdown]
# And the numbers? We let the model read the same prompts with these positions, and with a mistake
# that needs no version: positions that count every token, as if all were text. The error is that of
# the scores of the next token, squared, as a share of their squares. The reference and the
# optimised form of the library, which differ by rounding alone, show how small it can be.


# %%
def error(prompt, positions):
    """Share of squared error in the last scores when ``prompt`` is read at other positions."""
    right = model.forward(prompt)[-1]
    wrong = model.forward(replace(prompt, position_ids=positions))[-1]
    return float(np.sum((wrong - right) ** 2) / np.sum(right**2))


# %%
counted = position.text_positions(0, len(inputs.input_ids))
errors = {
    "text collides with the clip": error(clip, hf_5),
    "all grids at one time": error(fast, hf_4),
    "an image counted like text": error(inputs, counted),
}
print("\n".join(f"{name:28} {share:.1e}" for name, share in errors.items()))
right, reference = model.forward(inputs)[-1], replace(model, reference=True).forward(inputs)[-1]
rounding = float(np.sum((reference - right) ** 2) / np.sum(right**2))
print(f"{'rounding alone':28} {rounding:.1e}")
assert rounding < 1e-12 and min(errors.values()) > 1e-8

# %% [markdown]
# The first rule also makes the answer jump. After a long clip it lets the question go on at a low
# number, but the delta is still taken from the largest position of all, that of the clip's end. So
# there is a gap between the last token of the question and the first of the answer. Three words, a
# clip of ten grids, four words:

# %%
ids = np.array([5] * 3 + [config.video_token_id] * 40 + [5] * 4)
long = {"video_grid_thw": np.array([[10, 4, 4]]), "second_per_grid_ts": [1.0]}
ours, our_delta = position.rope_index(ids, config, **long)
theirs, their_delta = compat.rope_index_hf_5(ids, config, **long)
assert ours[0, -4:].tolist() == [22, 23, 24, 25] and len(ids) + our_delta == 26
assert theirs[0, -4:].tolist() == [5, 6, 7, 8] and len(ids) + their_delta == 22  # from 8 to 22
is_clip = ids == config.video_token_id
named = {"this library": ours, "transformers 5.6 to 5.23": theirs}
positions_compared(named, is_clip, "Ten seconds, then four words")

# %% [markdown]
# Who is right? The Qwen2-VL paper starts each run one past the largest position before it (section
# 2.1), and so did transformers when it first had Qwen2.5-VL (4.49).
# [Differences](../docs/differences.md) lists versions and rules.
#
# ## Try it
#
# **1.** Of all images with 360 image tokens, which shape takes up the fewest positions, and which
# the most?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: the nearest to a square, 18 x 20, takes 20 positions; a single line takes 360.
shapes = [(h, 360 // h) for h in range(1, 361) if 360 % h == 0]
taken = {}
for h, w in shapes:
    part = position.span_positions(0, (1, 2 * h, 2 * w), 2)
    taken[h, w] = position.after_span(0, part, (1, 2 * h, 2 * w), 2)
assert taken[18, 20] == min(taken.values()) == 20 and max(taken.values()) == taken[1, 360] == 360

# %% [markdown]
# **2.** Show that what two image tokens see of each other depends only on the differences of their
# positions on the three axes: turn a random query and key, move both by the same amounts, and
# compare their product.


# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: the angles of q and k are subtracted in the product, frequency by frequency.
def product(q_at, k_at):
    """The score of a query and a key at two (time, height, width) positions."""
    cos, sin = position.mrope_cos_sin(np.transpose([q_at, k_at]), config.text, np.float64)
    q, k = nn.rotate(pair, cos, sin)[0]
    return q @ k


pair = np.random.default_rng(9).normal(size=(1, 2, config.text.head_dim))
moved = product((9 + 4, 3 + 7, 8 + 1), (2 + 4, 6 + 7, 5 + 1))
assert np.isclose(product((9, 3, 8), (2, 6, 5)), moved)
assert not np.isclose(product((9, 3, 8), (2, 6, 5)), product((9, 3, 8), (2, 5, 6)))

# %% [markdown]
# **3.** An image of one token, 28 x 28 pixels, has no rope delta. Why? Which other images have
# none?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: it takes one position, like a word. So does every strip that is one token wide or high:
# as many positions as tokens.
for h, w in ((1, 1), (1, 7), (7, 1), (2, 2)):
    ids = np.array([5, *[image_token] * (h * w), 5])
    _, delta = position.rope_index(ids, config, np.array([[1, 2 * h, 2 * w]]))
    assert (delta == 0) == (min(h, w) == 1)

# %% [markdown]
# **4.** A film of two hours, looked at once every ten seconds: up to which position in time does
# it go, in how many tokens, when a frame is 4 x 4 tokens? Is the rope delta still negative?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: 720 frames make 360 grids of 20 seconds, 40 positions each: 359 * 40 = 14,360, in 5,760
# tokens. Here positions run ahead of the tokens, and the delta is positive.
part = position.span_positions(0, (360, 8, 8), 2, 20.0, 2)
assert part[0].max() == 14_360 and part.shape[1] == 5_760
assert position.after_span(0, part, (360, 8, 8), 2) - part.shape[1] == 8_601

# %% [markdown]
# Every token now has its id, its vector and its place. The language model can read:
# [10](10_decoder_and_cache.ipynb).
