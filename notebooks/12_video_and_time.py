# %% [markdown]
# # 12. Video and absolute time
#
# **A model gets only a few frames of a video. How can it say *when* something happens, in seconds,
# however many frames it was given?**
#
# Before this: [02](02_nine_dimensions.ipynb) (patches) and [09](09_mrope.ipynb) (positions). You
# need: NumPy. 28 minutes.

# %%
from tinyqwenvl.viz import here

here("video")

# %%
from dataclasses import replace

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import compat, image, position, video, vision
from tinyqwenvl.errors import UserError
from tinyqwenvl.model import EXAMPLE_VIDEO
from tinyqwenvl.viz import frame_pairs, source, temporal_positions, video_strip

model = tinyqwenvl.load()
config = model.config

# %% [markdown]
# ## The idea
#
# A video is a stack of images. Three steps decide what the model knows of time:
#
# 1. **Sampling.** A video of an hour has 90,000 frames at 25 per second. A **sampling policy**
#    takes a few of them, 2 per second by default.
# 2. **Pairs.** A patch is two frames deep, so two consecutive frames become one **frame pair**. It
#    lasts $s = 2 / \text{fps}$ seconds.
# 3. **A position in time.** Frame pair $k$ begins $k \cdot s$ seconds into the video. Qwen2.5-VL
#    puts it at
#
# $$T(k) = \lfloor k \cdot s \cdot r \rfloor$$
#
# where $r$ is `tokens_per_second`, 2 in the published models. Qwen2-VL uses $T(k) = k$: it counts.
# A count says how many pairs came before; a time says how many seconds (*absolute time*:
# Qwen2.5-VL report, section 2.1.3).
#
# ## The video
#
# Four seconds at four frames per second. An orange ring appears at 2 s; a black heart moves right.
# `open_video` reads a file's metadata, and decodes nothing yet. The figure uses all frames.
# Brackets are frame pairs, and below each is its position in time, $T(k)$.

# %%
clip = video.open_video(EXAMPLE_VIDEO)
assert (clip.total, clip.rate) == (16, 4.0)
video_strip(EXAMPLE_VIDEO, config, fps=(4,), events={"the ring appears": 2.0})

# %% [markdown]
# ## Which frames
#
# Two sampling policies are in use, and they do not take the same frames. The one of
# `qwen_vl_utils`, the package of the models' authors, spaces frames evenly from the first to the
# last. The one of Transformers (`hf`) cuts the video into equal parts and takes the frame where
# each begins.

# %%
source(video.sample_qwen_vl_utils, video.sample_hf)

# %%
evenly_spaced = video.sample_qwen_vl_utils(16, 4.0, fps=2.0)
parts = video.sample_hf(16, 4.0, fps=2.0)
print("evenly, first to last:", evenly_spaced)
print("where parts begin:    ", parts)
assert evenly_spaced.tolist() == [0, 2, 4, 6, 9, 11, 13, 15]  # a step of 15 / 7, rounded
assert parts.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]  # a step of 16 / 8

# %% [markdown]
# Both make the number of frames even (two of them are a patch), take at least 4 and at most 768,
# and never more than there are. A video with uneven frame times is sampled by time instead: an
# index stands for an instant, and the frame that is shown then is used.

# %%
for sample in (video.sample_qwen_vl_utils, video.sample_hf):
    counts = [
        len(sample(16, 4.0, fps=1.75)),  # 7 frames would be odd
        len(sample(16, 4.0, fps=0.1)),
        len(sample(90_000, 90_000 / 3600)),
        len(sample(3, 4.0)),
    ]
    print(f"{sample.__name__:22}", counts)
    assert counts == [6, video.MIN_FRAMES, video.MAX_FRAMES, 2] == [6, 4, 768, 2]

# %% [markdown]
# ### Exercise 1
#
# Five frames were taken in 2.5 seconds, and they are sampled at 2 per second. How long does a
# frame pair last? (It is not 1 s.)

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: seconds * fps = 5 is made even: 4 frames are used in 2.5 s, 1.6 per second, and
# 2 / 1.6 = 1.25.
used = video.sample_qwen_vl_utils(total=5, rate=2.0, fps=2.0)
print(used, 2 * (5 / len(used)) / 2.0, "s")
assert len(used) == 4
assert 2 * (5 / len(used)) / 2.0 == 1.25

# %% [markdown]
# A list of frames, or a folder of them, has no frame rate of its own: all are taken, up to 768.
# The second value that `choose_frames` returns is the mean time from one frame to the next, and
# the positions below are computed from it.

# %%
source(video.choose_frames)

# %% [markdown]
# ## How large
#
# Each frame costs tokens, so a frame of a long video is read at fewer pixels. The policy of
# `qwen_vl_utils` distributes a budget over all frames; the `hf` policy has one limit, however many
# frames there are.

# %%
source(video.limits_qwen_vl_utils, video.limits_hf, video.SamplingPolicy)

# %%
published = replace(config, video_limits=(100_352, 602_112))  # as qwen_vl_utils has them
for frames in (8, 400, 768):
    least, most = video.limits_qwen_vl_utils(frames, published)
    size = image.smart_resize(720, 1280, 28, least, most)
    print(
        f"{frames:3} frames of 720x1280 are read at {size[0]}x{size[1]}, at most {most:,.0f} pixels"
    )
assert video.limits_qwen_vl_utils(768, published)[1] == 2 * video.ALL_PIXELS / 768 == 235_200
assert video.limits_hf(8, published) == video.limits_hf(768, published)

# %% [markdown]
# ## Two frames per patch
#
# `read_video` does all of it: opens, samples, resizes, cuts into patches. It returns what the
# model needs: patches, their grid $(t, h, w)$, and the seconds that a frame pair lasts.

# %%
source(video.read_video, video.Video)

# %%
seen = video.read_video(EXAMPLE_VIDEO, config, fps=2.0)
assert seen.grid == (4, 8, 8)  # 8 frames in pairs; 112 / 14 = 8 patches on a side
assert seen.patches.shape == (4 * 8 * 8, 3 * 2 * 14 * 14)
assert seen.seconds == 2 / 2.0
frame_pairs(seen, config)

# %% [markdown]
# The columns are what the vision encoder gets: both frames of a column lie in the same patches,
# and the patch embedding mixes them. Frames of different columns never attend to each other in the
# vision encoder. They meet in the decoder, where their positions distinguish them.

# %%
borders = vision.frame_seqlens(np.array([seen.grid]))
print("boundaries of the frame pairs, in patches:", borders)
assert borders.tolist() == [0, 64, 128, 192, 256]  # a patch attends to the 64 of its own pair

# %% [markdown]
# An odd number of frames is made even by repeating the last:

# %%
three = [np.full((112, 112, 3), level, np.uint8) for level in (0, 120, 240)]
odd = video.read_video(three, config, fps=2.0)
frames = image.unpatchify(odd.patches, odd.grid)
assert odd.grid[0] == 2
assert np.array_equal(frames[2], frames[3]) and not np.array_equal(frames[0], frames[1])
frame_pairs(odd, config)

# %% [markdown]
# ### Exercise 2
#
# Make a video of your own with Pillow: one second of red, then one second of blue, at 4 frames per
# second, without a file. What do `open_video` and `read_video` make of it, and what if its frames
# have two sizes?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: a list of frames has no rate of its own (`fps` sets it), and all of them are used.
mine = [Image.new("RGB", (112, 112), "red")] * 4 + [Image.new("RGB", (112, 112), "blue")] * 4
read = video.read_video(mine, config, fps=4.0)
print("rate", video.open_video(mine).rate, "grid", read.grid, "seconds", read.seconds)
assert video.open_video(mine).rate is None and read.grid == (4, 8, 8) and read.seconds == 0.5
try:
    video.read_video([*mine, Image.new("RGB", (56, 112))], config)
except UserError as error:
    print(error)
    assert "all frames of a video need the same size" in str(error)
else:
    raise AssertionError("two sizes should be refused")

# %% [markdown]
# ## Positions: seconds, or a count
#
# The rule is two lines of `span_positions`: multiply by the seconds and by the positions per
# second, both in float32, and truncate to an integer once, at the end.

# %%
source(position.span_positions)

# %% [markdown]
# By hand, for a grid of $3 \times 2 \times 4$ patches, that is 3 frame pairs of $1 \times 2$
# tokens. At 3 frames per second a pair lasts $2/3$ s, with 2 positions per second: $0, 4/3, 8/3$
# are truncated to 0, 1, 2.

# %%
block = position.span_positions(10, (3, 2, 4), merge=2, seconds=2 / 3, per_second=2)
print(block)
assert block[0].tolist() == [10, 10, 11, 11, 12, 12]  # time
assert block[1].tolist() == [10] * 6  # height: one row of tokens
assert block[2].tolist() == [10, 11, 10, 11, 10, 11]  # width: two columns

# %% [markdown]
# ### Exercise 3
#
# At 8 frames per second, which positions in time do the first five frame pairs get in Qwen2.5-VL?
# Is anything lost?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: a pair lasts 1/4 s, half a position: two pairs share one. Their order is still known
# from the sequence, but not from their positions.
times = position.span_positions(0, (5, 2, 2), 2, seconds=2 / 8, per_second=2)[0]
print(times)
assert times.tolist() == [0, 0, 1, 1, 2]

# %% [markdown]
# ### Exercise 4
#
# Why is the product computed in float32? Find a $k$ for which float64 gives another position when
# a pair lasts $2 / 0.12$ s.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: 16.666666 * 2 * 15 falls short of 500 in float32, and truncation makes it 499. The
# models were trained with float32's positions, so these are the right ones.
k = np.arange(16)
in_float32 = position.span_positions(0, (16, 2, 2), 2, 2 / 0.12, 2)[0]
in_float64 = (k * (2 / 0.12) * 2).astype(int)
print(np.flatnonzero(in_float32 != in_float64), in_float32[15], in_float64[15])
assert np.flatnonzero(in_float32 != in_float64).tolist() == [15]
assert (in_float32[15], in_float64[15]) == (499, 500)

# %% [markdown]
# Now the same video at 1, 2 and 4 frames per second, first with Qwen2.5-VL's positions:

# %%
video_strip(EXAMPLE_VIDEO, config, fps=(1, 2, 4), events={"the ring appears": 2.0})

# %% [markdown]
# The pair in which the ring appears is at time 4 in all three strips: $2\,\text{s} \times 2$ per
# second. (At 1 per second its frames are those at 2.5 and 3.75 s, because this policy spaces four
# frames from the first to the last. The rule does not ask when a frame was taken: all pairs last
# the same time, so pair 1 of 2 begins half-way, at 2 s.)
#
# Qwen2-VL numbers the same pairs 0, 1, 2, .... There the ring comes at 1, at 2 or at 4:

# %%
older = replace(config, model_type="qwen2_vl")
video_strip(EXAMPLE_VIDEO, older, fps=(1, 2, 4), events={"the ring appears": 2.0})

# %%
for fps in (1, 2, 4):
    read = video.read_video(EXAMPLE_VIDEO, config, fps=fps)
    with_ring = int(2.0 / read.seconds)  # the number of the grid that begins at 2 s
    times = position.span_positions(0, read.grid, 2, read.seconds, 2)[0]
    counts = position.span_positions(0, read.grid, 2)[0]
    first = with_ring * 4 * 4  # 16 tokens a grid
    print(f"{fps} a second: the ring is at time {times[first]}; counted, at {counts[first]}")
    assert times[first] == 4 and counts[first] == with_ring == fps
assert (video.sample_qwen_vl_utils(16, 4.0, fps=1.0) / 4.0).tolist() == [0, 1.25, 2.5, 3.75]

# %% [markdown]
# For any video: when positions are times, the points of all rates lie on one line. When they are
# counts, every rate has a line of its own, and a model would have to be told the rate.

# %%
temporal_positions(
    {"Qwen2.5-VL": (config, position.rope_index), "Qwen2-VL": (older, position.rope_index)}
)

# %% [markdown]
# ## The same, with the model
#
# "When does the orange ring appear?" at three rates: 60, 92 and 156 tokens, and one answer.

# %%
QUESTION = "When does the orange ring appear?"


def prompt(source, **options):
    """A question about a clip, ready for the model."""
    item = {"type": "video", "video": source, **options}
    content = [item, {"type": "text", "text": QUESTION}]
    return model.prepare([{"role": "user", "content": content}])


def answer(inputs):
    """The model's answer, as text."""
    return model.tokenizer.decode(list(model.generate(inputs)))


prompts = {fps: prompt(EXAMPLE_VIDEO, fps=fps) for fps in (1, 2, 4)}
for fps, inputs in prompts.items():
    print(f"{fps} a second, {len(inputs.input_ids)} tokens: {answer(inputs)}")
    assert answer(inputs) == "At 2 seconds."
assert [len(inputs.input_ids) for inputs in prompts.values()] == [60, 92, 156]

# %% [markdown]
# The model reads time from positions alone: nothing else in the prompt states how fast the frames
# came. Give it the same eight frames with another stated rate. Not one pixel changes, and the
# answer does: slower frames make it later, faster ones earlier.

# %%
every_second = list(clip.frames())[::2]  # 8 frames, really 2 a second
told = {}
for fps in (1, 2, 4):
    inputs = prompt(every_second, fps=fps)
    told[fps] = answer(inputs)
    assert np.array_equal(inputs.pixel_values_videos, prompt(every_second).pixel_values_videos)
    print(f"told {fps} a second: {told[fps]}")
seconds = {fps: float(text.split()[1]) for fps, text in told.items()}  # "At 2 seconds."
assert seconds[1] > seconds[2] == 2 > seconds[4]  # slower frames: later; faster: earlier

# %% [markdown]
# ## What goes wrong
#
# Both of these bugs were in released versions of Transformers, and are kept by name in `compat.py`
# ([differences](../docs/differences.md) has the versions).
#
# **The seconds are truncated first.** `int(seconds)` before the products looks harmless: a pair of
# 2 or 1 seconds stays the same. But above 2 frames per second a pair lasts less than a second,
# which becomes 0: all pairs have the same time.

# %%
source(compat.rope_index_hf_4_52, compat.after_span_hf_5)

# %%
temporal_positions(
    {
        "as trained": (config, position.rope_index),
        "seconds cut first": (config, compat.rope_index_hf_4_52),
    }
)

# %% [markdown]
# **Text continues too early.** `rope_index_hf_5` is `rope_index` with `after_span_hf_5`: text
# after a video continues at start + max(h, w) / 2, as if the video had no length in time. When it
# is longer in time than in rows and columns, the question gets positions that its frames already
# have.

# %%
inputs = prompts[4]
grids = None, inputs.video_grid_thw, inputs.second_per_grid_ts
is_video = inputs.input_ids == config.video_token_id
last = np.flatnonzero(is_video)[-1]
for name, rule in (("ours", position.rope_index), ("hf 5", compat.rope_index_hf_5)):
    positions, _ = rule(inputs.input_ids, config, *grids)
    after, top = positions[0, last + 1], positions[:, is_video].max()
    print(f"{name}: the video reaches position {top}, text goes on at {after}")
    assert after == top + 1 if name == "ours" else after <= top

# %% [markdown]
# What each of them does to the answers:

# %%
rules = {
    "ours": (config, position.rope_index),
    "counting": (older, position.rope_index),
    "seconds cut first": (config, compat.rope_index_hf_4_52),
    "text too early": (config, compat.rope_index_hf_5),
}
answers = {}
for name, (its_config, rule) in rules.items():
    for fps, inputs in prompts.items():
        grids = None, inputs.video_grid_thw, inputs.second_per_grid_ts
        positions, delta = rule(inputs.input_ids, its_config, *grids)
        moved = replace(inputs, position_ids=positions, rope_delta=delta)
        answers[name, fps] = answer(moved)
    print(f"{name:18}", *(f"{fps}: {answers[name, fps]:16}" for fps in prompts))
assert len({answers["ours", fps] for fps in prompts}) == 1
assert len({answers["counting", fps] for fps in prompts}) > 1

# %% [markdown]
# With counts the answer depends on the sampling rate. None of these bugs ends in an error message:
# an answer always comes, and it may be wrong. That is why a port's positions must be compared as
# integers, before any weights are involved.

# %% [markdown]
# Time is one of the things in which Qwen2.5-VL differs from Qwen2-VL. All of them are compared in
# [13](13_two_generations.ipynb).

# %% [markdown]
# ## Appendix: opening a video and sizing a frame
#
# What `open_video` returns, and how the size of a frame follows from its limits:

# %%
source(video.open_video)

# %%
source(video.VideoSource)

# %%
source(video.frame_size)
