# %% [markdown]
# # 13. Qwen2-VL and Qwen2.5-VL side by side
#
# **One name, one template, one vocabulary: what differs between the two, what is the same, and
# what does it cost?**
#
# Before this: [06](06_attention.ipynb) (windows), [07](07_merger.ipynb) (merger) and
# [12](12_video_and_time.ipynb) (time). You need: NumPy, and a checkout of the repository. 20
# minutes.

# %%
from tinyqwenvl.viz import here

here("editions")

# %%
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

here = Path.cwd()  # the repository's root is on the path too, for its scripts
sys.path.insert(0, str(next(p for p in (here, *here.parents) if (p / "scripts").is_dir())))
import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import image, nn, position, vision
from tinyqwenvl.checkpoint import weight_shapes
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle import mutants
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.presets import PRESETS, preset, preset_json
from tinyqwenvl.shapes import walk
from tinyqwenvl.viz import (
    attention_by_resolution,
    bytes_by_resolution,
    change_propagation,
    curves,
    flops_by_resolution,
    source,
    vectors_as_bars,
)

# %% [markdown]
# ## The idea
#
# Qwen2.5-VL keeps the plan of Qwen2-VL and makes its vision encoder resemble its decoder: the same
# norm, the same MLP. It then restricts most of the vision encoder's attention to windows, because
# full attention is what makes a large image expensive, and it lets time pass in seconds.
#
# | | Qwen2-VL | Qwen2.5-VL | section |
# |---|---|---|---|
# | norm in the vision encoder and its merger | LayerNorm: weight and bias | RMSNorm: weight | 1 |
# | MLP in the vision encoder | QuickGELU: 2 matrices | SwiGLU: 3 matrices | 2 |
# | blocks with full attention | all 32 | 4; the others have windows | 3 |
# | position in time | a count | seconds $\times$ 2 | 4 |
# | the vision encoder's hidden size is called | `embed_dim` | `hidden_size` | 5 |
# | sizes | 2B, 7B, 72B | 3B, 7B, 32B, 72B | 6 |
# | patches, 2-D RoPE, the rest of the merger, template, decoder | | the same | 7 |
#
# Two small random checkpoints stand in for the published ones: same layout, same names, few
# weights.

# %%
folder = tempfile.TemporaryDirectory()
models = {}
for name in ("qwen2_vl", "qwen2_5_vl"):
    directory = write_checkpoint(Path(folder.name) / name, tiny_config(name), seed=3)
    models[name] = tinyqwenvl.load(directory)
older, newer = models.values()
block = {name: model.weights.visual.blocks[0] for name, model in models.items()}
print({name: (m.config.model_type, m.config.vision.depth) for name, m in models.items()})

# %% [markdown]
# The whole choice is two small tables in `vision.py`, looked up by `model_type`. (Everything else
# that differs is a value of the config.)

# %%
assert {"qwen2_vl": nn.layer_norm, "qwen2_5_vl": nn.rms_norm} == vision.NORM
assert {"qwen2_vl": vision.quick_gelu_mlp, "qwen2_5_vl": nn.swiglu_mlp} == vision.MLP
source(vision.vision_block)

# %% [markdown]
# ## 1. The norm
#
# LayerNorm subtracts the mean and divides by the standard deviation. RMSNorm only divides, by the
# root mean square, and has no bias. (Ba et al. 2016; Zhang & Sennrich 2019.)

# %%
source(nn.layer_norm, nn.rms_norm)

# %% [markdown]
# By hand, on the vector $(1, 3, 5, 7)$: its mean is 4 and its variance 5, so LayerNorm gives $(-3,
# -1, 1, 3)/\sqrt 5$. The mean of its squares is 21, so RMSNorm gives $(1, 3, 5, 7)/\sqrt{21}$.

# %%
row = np.array([1.0, 3.0, 5.0, 7.0])
ones = tinyqwenvl.weights.Weights({"weight": lambda: np.ones(4), "bias": lambda: np.zeros(4)}, "")
centred = nn.layer_norm(row, ones, eps=0.0)
scaled = nn.rms_norm(row, ones, eps=0.0)
assert np.allclose(centred, np.array([-3, -1, 1, 3]) / 5**0.5)
assert np.allclose(scaled, row / 21**0.5)
vectors_as_bars({"the vector": row, "LayerNorm": centred, "RMSNorm": scaled})

# %% [markdown]
# A vector whose mean is 0 is the same to both. So RMSNorm is LayerNorm for vectors that need no
# centring, with one pass over the values less.

# %%
level = row - row.mean()
print(nn.layer_norm(level, ones, 0.0), nn.rms_norm(level, ones, 0.0))
assert np.allclose(nn.layer_norm(level, ones, 0.0), nn.rms_norm(level, ones, 0.0))
for name, has_bias in (("qwen2_vl", True), ("qwen2_5_vl", False)):
    assert ("bias" in block[name].norm1) == ("bias" in block[name].norm2) == has_bias

# %% [markdown]
# ### Exercise 1
#
# An input of the norms is multiplied by 10. What does that do to the output of LayerNorm and of
# RMSNorm? And if 10 is added to all of its values?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: neither responds to the factor. LayerNorm ignores the sum too, RMSNorm does not.
print("times 10:", nn.layer_norm(10 * row, ones, 0.0), nn.rms_norm(10 * row, ones, 0.0))
print("plus 10: ", nn.layer_norm(row + 10, ones, 0.0), nn.rms_norm(row + 10, ones, 0.0))
assert np.allclose(nn.layer_norm(10 * row, ones, 0.0), centred)
assert np.allclose(nn.rms_norm(10 * row, ones, 0.0), scaled)
assert np.allclose(nn.layer_norm(row + 10, ones, 0.0), centred)
assert not np.allclose(nn.rms_norm(row + 10, ones, 0.0), scaled, atol=0.1)

# %% [markdown]
# ## 2. The MLP
#
# Qwen2-VL expands 1280 values to 5120, applies an activation function, and projects them back.
# Qwen2.5-VL computes two expanded vectors, applies the activation to one of them and multiplies: a
# gate for each value (Shazeer 2020). Its decoder has always done so.

# %%
source(nn.quick_gelu, nn.swiglu_mlp)

# %%
source(vision.quick_gelu_mlp)

# %% [markdown]
# GELU is $x \cdot \Phi(x)$, with $\Phi$ the cumulative distribution function of the normal
# distribution. QuickGELU is $x \cdot \sigma(1.702 x)$, nearly the same and cheaper, with $\sigma$
# the sigmoid. SiLU, the activation of SwiGLU, is $x \cdot \sigma(x)$. At $x = 1$ QuickGELU, GELU
# and SiLU give $0.846$, $0.841$ and $0.731$.

# %%
at_one = [float(f(np.array([1.0]))[0]) for f in (nn.quick_gelu, nn.gelu, nn.silu)]
assert np.round(at_one, 3).tolist() == [0.846, 0.841, 0.731]
curves({"GELU": nn.gelu, "QuickGELU": nn.quick_gelu, "SiLU": nn.silu})

# %% [markdown]
# Three matrices instead of two: for the same size together, each must be narrower. $2 \times 5120
# = 10240$ and $3 \times 3420 = 10260$: the two MLPs have nearly the same number of weights.

# %%
seven = {name: preset(name).vision for name in ("qwen2-vl-7b", "qwen2.5-vl-7b")}
wide = [v.intermediate_size for v in seven.values()]
print("sizes of the MLPs:", wide, "->", 2 * wide[0], 3 * wide[1])
assert wide == [5120, 3420] and (2 * wide[0], 3 * wide[1]) == (10240, 10260)

# %% [markdown]
# ## 3. The attention mask
#
# In Qwen2-VL every block of the vision encoder has full attention. In Qwen2.5-VL 28 of 32 blocks
# attend within windows of 112 pixels: 8 x 8 patches.

# %%
full = {name: v.fullatt_block_indexes for name, v in seven.items()}
print({name: len(blocks) for name, blocks in full.items()}, full["qwen2.5-vl-7b"])
assert full["qwen2-vl-7b"] == tuple(range(32))
assert full["qwen2.5-vl-7b"] == (7, 15, 23, 31) and seven["qwen2.5-vl-7b"].window_size // 14 == 8

# %% [markdown]
# On a real image: change one patch, and see after each block which patches have changed with it.
# Blocks 1 and 3 of the four in our small Qwen2.5-VL have full attention.

# %%
example = Image.open(EXAMPLE_IMAGE).convert("RGB")
size = image.smart_resize(example.height, example.width, 28, 12544, 50176)
frames = image.normalise(image.resize(example, *size)[None])
patches, grid = image.patchify(frames)
grids, touched = np.array([grid]), patches.copy()
touched[0] += 1.0  # the patch at the top left
print(f"{size[1]}x{size[0]} pixels, {grid[1]}x{grid[2]} patches")


def after_each_block(model, patches):
    """What the vision encoder's blocks return, in the order in which patches come."""
    with tinyqwenvl.trace("visual.blocks.?", "visual.window_index") as stages:
        model.image_features(patches, grids)
    windows = stages.get("visual.window_index", [np.arange(len(patches) // 4)])[0]
    blocks = [stages[f"visual.blocks.{i}"][0] for i in range(model.config.vision.depth)]
    return [vision.reorder_groups(x, np.argsort(windows)) for x in blocks]


changes = {}
for name, model in models.items():
    pairs = zip(after_each_block(model, patches), after_each_block(model, touched), strict=True)
    changes[name] = [np.max(np.abs(a - b), axis=1) for a, b in pairs]

# %%
noticed = {name: [int(np.count_nonzero(c)) for c in each] for name, each in changes.items()}
print(noticed)
assert noticed["qwen2_5_vl"][0] <= 64  # its window of 8 x 8 only
assert noticed["qwen2_vl"][0] > 64 and noticed["qwen2_5_vl"][1] > 64
change_propagation(
    {"Qwen2-VL": changes["qwen2_vl"], "Qwen2.5-VL": changes["qwen2_5_vl"]}, grids, window=8
)

# %% [markdown]
# White patches have not changed; the number over a panel counts those that have. Lines are the
# borders of windows. In Qwen2.5-VL the change stays in its window until the first block with full
# attention.

# %% [markdown]
# ## 4. Time in positions
#
# An image has the same positions in both. Of a video, Qwen2-VL counts the frame pairs; Qwen2.5-VL
# encodes when they came, at two positions per second ([12](12_video_and_time.ipynb) draws both).
# Here are an image, and three frame pairs that last 2 s each, of 1 x 2 tokens.

# %%
image_ids = np.array([1, *[newer.config.image_token_id] * 6, 2])
video_ids = np.array([1, *[newer.config.video_token_id] * 6, 2])
of_image, of_video = [], []
for model in models.values():
    of_image.append(position.rope_index(image_ids, model.config, np.array([[1, 4, 6]]))[0])
    clip = None, np.array([[3, 2, 4]]), [2.0]
    of_video.append(position.rope_index(video_ids, model.config, *clip)[0])
    print("time of the video's tokens:", of_video[-1][0, 1:-1].tolist())
assert np.array_equal(*of_image)
assert of_video[0][0, 1:-1].tolist() == [1, 1, 2, 2, 3, 3]  # 1 + the count
assert of_video[1][0, 1:-1].tolist() == [1, 1, 5, 5, 9, 9]  # 1 + 2 x the seconds

# %% [markdown]
# ## 5. Names in the config
#
# A trap for everyone who reads both: in the `vision_config` of Qwen2-VL, `hidden_size` is the
# hidden size of the *decoder*, and that of the vision encoder is called `embed_dim`. Our
# `VisionConfig` has one set of names.

# %%
for name in seven:
    raw, ours = preset_json(name)["vision_config"], preset(name).vision
    print(name, {k: raw[k] for k in ("embed_dim", "hidden_size", "out_hidden_size") if k in raw})
    assert (ours.hidden_size, ours.out_hidden_size) == (1280, 3584)
assert preset_json("qwen2-vl-7b")["vision_config"]["hidden_size"] == 3584  # not 1280

# %% [markdown]
# ## 6. Sizes
#
# The published sizes, counted from their configs, without weights ([shapes](../docs/shapes.md)
# says how well each is known). M is a million weights.

# %%
print(f"{'preset':15} vision MLP  vision (M)  decoder: layers x width   all (M)")
encoders = {}
for name in PRESETS:
    c, held = preset(name), {n: math.prod(s) for n, s in weight_shapes(preset(name)).items()}
    encoders[name] = sum(count for n, count in held.items() if n.startswith("visual."))
    deep, all_of_it = f"{c.text.num_hidden_layers} x {c.text.hidden_size}", sum(held.values()) / 1e6
    vision_encoder = f"{c.vision.intermediate_size:9} {encoders[name] / 1e6:10.1f}"
    print(f"{name:15} {vision_encoder} {deep:>24} {all_of_it:9,.0f}")
    assert (c.vision.depth, c.vision.hidden_size, c.vision.num_heads) == (32, 1280, 16)
assert (
    abs(encoders["qwen2-vl-7b"] / encoders["qwen2.5-vl-7b"] - 1) < 0.002
)  # as large as each other

# %% [markdown]
# ## 7. What is the same
#
# Without the vision encoder's norms and MLPs, the two 7B models have the same weights, name by
# name and shape by shape. The decoder has the same architecture.

# %%
shapes = [weight_shapes(preset(name)) for name in seven]
common = [n for n in shapes[0] if shapes[1].get(n) == shapes[0][n]]
apart = sorted({n for s in shapes for n in s} - set(common))
kinds = {n.split(".", 3)[-1] if ".blocks." in n else n for n in apart}
print(f"{len(common)} weights are the same; different are", *sorted(kinds), sep="\n  ")
assert all(".mlp." in n or "norm" in n or "ln_q" in n for n in apart)
assert not any(n.startswith(("model.", "lm_head")) for n in apart)
assert "visual.merger.mlp.0.weight" in common and "visual.patch_embed.proj.weight" in common

# %% [markdown]
# Patches, token ids and the vision encoder's rotary angles have no weights; they are equal too.

# %%
a, b = (model.prepare(user_message(example, "Hello")) for model in models.values())
assert np.array_equal(a.input_ids, b.input_ids) and np.array_equal(a.pixel_values, b.pixel_values)
a, b = (vision.rotary_angles(grids, model.config.vision) for model in models.values())
print("ids, patches and angles are equal:", np.array_equal(a, b))
assert np.array_equal(a, b)

# %% [markdown]
# ### Exercise 2
#
# The MLPs of the two 7B vision encoders: which has more weights, biases included?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: Qwen2.5-VL's, by a fifth of a percent: 3 x 3420 is a little more than 2 x 5120.
count = [sum(int(np.prod(shape)) for n, shape in s.items() if "blocks.0.mlp" in n) for s in shapes]
print(count, f"{count[1] / count[0] - 1:.2%}")
assert count == [2 * 1280 * 5120 + 5120 + 1280, 3 * 1280 * 3420 + 2 * 3420 + 1280]
assert 0 < count[1] / count[0] - 1 < 0.0025

# %% [markdown]
# ## What it costs
#
# Full attention costs in proportion to the square of the number of patches; windowed attention, to
# the number itself. Four blocks of 32 with full attention keep the square, at an eighth of its
# size. Costs are counted in FLOPs, single additions and multiplications of floating-point values.
# Both axes are logarithmic: slope 2 is a square.

# %%
squares = [(side, side) for side in (224, 672, 1344, 2688)]
seven_b = preset("qwen2.5-vl-7b")


def with_full(*blocks):
    """Qwen2.5-VL-7B, with these blocks looking at whole frames."""
    return replace(seven_b, vision=replace(seven_b.vision, fullatt_block_indexes=blocks))


attention_by_resolution(
    {
        "all 32 blocks full (Qwen2-VL)": with_full(*range(32)),
        "4 full, 28 in windows (Qwen2.5-VL)": seven_b,
        "windows only": with_full(),
    },
    squares,
)

# %% [markdown]
# By hand, for 896 x 896 pixels, $n = 64 \times 64 = 4096$ patches: each attends to 4096 with full
# attention and to 64 in a window. A pair of patches costs $4 \times 1280$: $2 \times 1280$ for the
# score and as much for the weighted mean of the values.

# %%
n, pair = 64 * 64, 4 * 1280
pairs = {"full": 32 * n * n * pair, "both": (4 * n * n + 28 * n * 64) * pair}
for kind, config in (("full", with_full(*range(32))), ("both", seven_b)):
    rows = walk(config, [(896, 896)]).rows
    counted = sum(r.flops for r in rows if r.name.startswith("visual.") and "context" in r.name)
    assert counted == pairs[kind]
print(f"{pairs['full']:.3g} FLOPs against {pairs['both']:.3g}")
assert round(pairs["full"] / pairs["both"], 1) == 7.2

# %% [markdown]
# ### Exercise 3
#
# For which images do windows save nothing at all?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: for those of one window, up to 112 x 112 pixels: attention is full already.
tiny = {
    kind: walk(c, [(112, 112)]).flops["vision"]
    for kind, c in (("windows", with_full()), ("full", with_full(*range(32))))
}
print(tiny)
assert tiny["windows"] == tiny["full"]

# %% [markdown]
# The figure shows all of the computation up to the first word of the answer, by stage. For a small
# image four fifths of it are the decoder's, whatever the vision encoder does. For a large one
# Qwen2-VL's vision encoder takes more than the decoder with its seven billion weights;
# Qwen2.5-VL's does not.

# %%
both = {"Qwen2-VL-7B": preset("qwen2-vl-7b"), "Qwen2.5-VL-7B": seven_b}
large = {name: walk(config, [(2688, 2688)]).flops for name, config in both.items()}
small = {name: walk(config, [(224, 224)]).flops for name, config in both.items()}
assert large["Qwen2-VL-7B"]["vision"] > large["Qwen2-VL-7B"]["decoder"]
assert large["Qwen2.5-VL-7B"]["vision"] < large["Qwen2.5-VL-7B"]["decoder"]
assert all(f["vision"] < f["decoder"] / 4 for f in small.values())
assert round(walk(seven_b, [(224, 224)]).parameters["decoder"] / 1e9) == 7
flops_by_resolution(both, squares)

# %% [markdown]
# The windows save computation in the vision encoder only. Both make the same number of image
# tokens, so the KV cache of the decoder has the same size in both.

# %%
caches = [walk(config, [(1792, 1792)]).cache for config in both.values()]
assert caches[0] == caches[1]
bytes_by_resolution({"Qwen2.5-VL-3B": preset("qwen2.5-vl-3b"), "Qwen2.5-VL-7B": seven_b}, squares)

# %% [markdown]
# ### Exercise 4
#
# How many tokens, and how many bytes of KV cache in bfloat16, does an image of 1792 x 1792 pixels
# take in Qwen2.5-VL-7B?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 4: 64 x 64 tokens, each with 28 layers x 4 heads x 128 keys and as many values:
# 57,344 bytes.
found = walk(seven_b, [(1792, 1792)])
print(f"{found.tokens['image']:,} tokens of {2 * found.cache['token']:,} bytes")
assert found.tokens["image"] == 64 * 64 == 4096
assert 2 * found.cache["token"] == 2 * 2 * 28 * 4 * 128 == 57_344
assert 4096 * 57_344 == 234_881_024  # 235 megabytes, beside 16.6 gigabytes of weights

# %% [markdown]
# ## What goes wrong
#
# **Close is not equal.** QuickGELU and GELU look alike, and a port takes the one that its runtime
# has. Here this bug is injected ([14](14_be_an_oracle.ipynb) is about finding such bugs). Two
# measures: the cosine between right and wrong vector, for the token where it is lowest, and the
# **NMSE** (normalised mean squared error: squared error divided by the squared reference). The
# cosine reports no problem; the NMSE is over a thousand times that of rounding.

# %%
truth = tinyqwenvl.load(Path(folder.name) / "qwen2_vl", dtype="float64")
right = truth.image_features(patches.astype(np.float64), grids)
rounding = distance(older.image_features(patches, grids), right)
with mutants.apply("gelu_for_quick_gelu"):
    off = distance(older.image_features(patches, grids), right)
print(f"rounding: NMSE {rounding.nmse:.1e}")
print(f"GELU:     NMSE {off.nmse:.1e}, worst cosine {off.cosine:.6f}")
assert off.cosine > 0.9999 and off.nmse > 1000 * rounding.nmse > 0

# %% [markdown]
# **Qwen2-VL's attention with Qwen2.5-VL's weights.** A runtime that reads the newer model with the
# older one's vision encoder gives every block full attention. It costs more, and is wrong besides:

# %%
trained = tinyqwenvl.load()  # the embedded checkpoint: windows in 4 of its 6 blocks
for name, model in (("random", newer), ("trained", trained)):
    right = model.image_features(patches, grids)
    with mutants.apply("window_mask_missing"):
        off = distance(model.image_features(patches, grids), right)
    print(f"{name}: NMSE {off.nmse:.3f}, worst cosine {off.cosine:.3f}")
    assert off.nmse > 0.003  # float32 runs that should be equal are under 1e-10 apart

# %%
folder.cleanup()

# %% [markdown]
# You now know both models well enough to say, from tensors alone, where a port of them goes wrong:
# [14](14_be_an_oracle.ipynb).
