# %% [markdown]
# # 01. `smart_resize` and native resolution
#
# **Images come in every size, and a model has one set of weights. At what size does it read an
# image, and how many tokens does that cost?**
#
# Before this: [00](00_one_image.ipynb). You need: nothing more. 24 minutes.

# %%
from tinyqwenvl.viz import here

here("image.resize")

# %%
import io
import warnings

import numpy as np
from PIL import Image, ImageDraw

import tinyqwenvl
from tinyqwenvl import UserError, compat, image, media
from tinyqwenvl.model import EXAMPLE_IMAGE, EXAMPLE_VIDEO, user_message
from tinyqwenvl.viz import (
    image_row,
    patch_grid,
    resized_areas,
    rounding_steps,
    source,
    tokens_by_size,
)

model = tinyqwenvl.load()
limits = model.config.processor.min_pixels, model.config.processor.max_pixels

# %% [markdown]
# ## The idea
#
# Earlier vision models shrink every image to one square, 224 by 224 pixels for example. A page of
# text becomes unreadable, a wide image is squashed, and an icon is enlarged for nothing. Qwen2-VL
# instead reads an image **near its own size and aspect ratio**, and the number of tokens follows
# (the Qwen2-VL paper calls this naive dynamic resolution). Attention takes any number of tokens.
# Rotary embedding ([04](04_two_dimensional_rope.ipynb)) encodes positions without a table of a
# fixed size.
#
# One thing must fit. The image is cut into patches of 14 pixels, and each 2 x 2 group of patches
# (a **merge group**) becomes one token for the language model. So both sides must be multiples of
# $2 \cdot 14 = 28$, and an image read at $H \times W$ becomes
#
# $$\text{tokens} = \frac{H}{28} \cdot \frac{W}{28}.$$
#
# Tokens cost time and memory, so the area has a lower and an upper limit, `min_pixels` and
# `max_pixels`. These are the two settings of every Qwen-VL program. The published ones allow 4 to
# 16,384 tokens:

# %%
least, most = 56 * 56, 12845056
print(f"{least // 28**2} to {most // 28**2:,} tokens")
assert (least // 28**2, most // 28**2) == (4, 16384)
assert most == (128 * 28) ** 2  # a square of 3584 pixels

# %% [markdown]
# ## The code

# %%
source(image.smart_resize)

# %% [markdown]
# There are three cases. Round each side by itself. If the result is too large, divide both sides
# of the **original** by one factor and round down. If it is too small, multiply both and round up.
# Rounding inwards keeps the area within the limits.
#
# ## By hand
#
# An image of 100 rows by 200 columns: $100 / 28 = 3.57$, so 4 tokens; $200 / 28 = 7.14$, so 7.

# %%
print(image.smart_resize(100, 200))
assert (round(100 / 28, 2), round(200 / 28, 2)) == (3.57, 7.14)
assert image.smart_resize(100, 200) == (4 * 28, 7 * 28)

# %% [markdown]
# Now with room for only 20 tokens. $4 \cdot 7 = 28$ are too many, so we go back to 100 x 200 and
# divide both sides by $s = \sqrt{100 \cdot 200 / (20 \cdot 784)}$, about 1.13. That leaves 88.5
# and 177.1 pixels, which hold 3 and 6 whole tokens.

# %%
s = np.sqrt(100 * 200 / (20 * 784))
print(f"s = {s:.2f}:", image.smart_resize(100, 200, max_pixels=20 * 784))
assert np.round([s, 100 / s, 200 / s], 2).tolist() == [1.13, 88.54, 177.09]
assert image.smart_resize(100, 200, max_pixels=20 * 784) == (3 * 28, 6 * 28)

# %% [markdown]
# And an icon of 16 x 16. Rounded it would be one token, and four is the minimum. It grows by $s =
# \sqrt{56 \cdot 56 / (16 \cdot 16)} = 3.5$ to exactly 56.

# %%
print(image.smart_resize(16, 16))
assert round(16 / 28) == 1 and 56 / 16 == 3.5
assert image.smart_resize(16, 16) == (56, 56)

# %% [markdown]
# ### Exercise 1
#
# How many tokens does an image of 1000 x 1000 take? And if at most 1,000 tokens are allowed? Why
# not exactly 1,000?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: the aspect ratio is kept and sides are rounded down: 31 x 31; 32 x 32 would be too many.
print(np.prod(image.smart_resize(1000, 1000)) // 784, "tokens;", end=" ")
print(np.prod(image.smart_resize(1000, 1000, max_pixels=1000 * 784)) // 784, "with the limit")
assert np.prod(image.smart_resize(1000, 1000)) // 784 == 36 * 36
assert np.prod(image.smart_resize(1000, 1000, max_pixels=1000 * 784)) // 784 == 31 * 31 == 961
assert 32 * 32 > 1000

# %% [markdown]
# ## Ties go to the even multiple
#
# A side of 70 is halfway between 56 and 84. Python's `round(2.5)` is 2, because halves go to the
# even neighbour. The `round` of C gives 3. A port in another language meets this at sides of 14,
# 70, 126 and so on.

# %%
assert [round(side / 28) for side in (14, 42, 70, 98, 126)] == [0, 2, 2, 4, 4]
rounding_steps()

# %% [markdown]
# A side of 14 or less is rounded to 0. That does no harm: an area of 0 lies below the lower limit,
# so the third case applies. It scales the original to the area of the limit. A long strip has more
# area than that, so it *shrinks*, and only its short side is rounded up to 28.

# %%
print(image.smart_resize(14, 2800))
assert image.smart_resize(14, 2800) == (28, 812)

# %% [markdown]
# ## All sizes at once
#
# Five everyday images, with the published limits. On the dashed line an area stays the same; only
# the icon and the scan meet a limit.

# %%
daily = {
    "icon": (16, 16),
    "button": (60, 90),
    "screen": (1080, 1920),
    "photograph": (3024, 4032),
    "scan": (7016, 4960),
}
tokens = {name: np.prod(image.smart_resize(*size)) // 784 for name, size in daily.items()}
assert list(tokens.values()) == [4, 6, 2691, 15552, 16264]
rounded = {name: np.prod(np.round(np.divide(size, 28))) for name, size in daily.items()}
assert [name for name in daily if tokens[name] != rounded[name]] == ["icon", "scan"]
resized_areas(daily)

# %% [markdown]
# A screenshot costs 2,691 tokens, and a phone photo 15,552. The next figure shows images of every
# width and height. Between the two lines the number of tokens follows the area. Outside them it
# hardly changes, except for very thin images, because no side can be under 28 pixels.

# %%
tokens_by_size(marked=daily)

# %% [markdown]
# The hatched corners are refused: images with an aspect ratio over 200. Exactly 200 passes.

# %%
assert image.smart_resize(28, 5600) == (28, 5600)
try:
    image.smart_resize(28, 5601)
except UserError as error:
    assert "over 200 times as long as wide" in str(error)
    print(error)

# %% [markdown]
# ## On a real image
#
# The checkpoint inside the package was trained on small drawings, and its own limits are 16 to 96
# tokens. One of its images is 403 x 146; it is read at nearly its own size.

# %%
assert limits == (16 * 784, 96 * 784)
wide = media.open_image(EXAMPLE_IMAGE.with_name("wide.png"))
assert wide.size == (403, 146) and image.smart_resize(146, 403, 28, *limits) == (140, 392)
patch_grid(wide, *limits)

# %% [markdown]
# 392 x 140 is 14 by 5 tokens: 70, and the prompt has that many placeholders. With a smaller limit
# the same image is cheaper and coarser.

# %%
asked = user_message(wide, "Describe the picture.")
for budget, expected in ((limits[1], 70), (30 * 784, 27)):
    inputs = model.prepare(asked, max_pixels=budget)
    placeholders = np.count_nonzero(inputs.input_ids == model.config.image_token_id)
    assert placeholders == expected
    print(f"at most {budget:,} pixels: {placeholders} tokens, grid {inputs.image_grid_thw[0]}")

# %% [markdown]
# This is what a square of fixed size would have made of it:

# %%
height, width = image.smart_resize(wide.height, wide.width, 28, *limits)
native = image.resize(wide, height, width)
square = image.resize(wide, 224, 224)
assert abs((width / height) / (wide.width / wide.height) - 1) < 0.02  # the shape is kept
assert (224 / 224) / (wide.width / wide.height) < 0.4  # here it is not
image_row(
    {"as it came": wide, "native": native, "a fixed square": square},
    "Native resolution keeps the shape of the image",
    "A wide image, the same a little smaller, and the same squashed into a square: there its "
    "circle and ring are upright ellipses.",
)

# %% [markdown]
# The image processor calls `smart_resize` through a small function, which also warns where no size
# keeps the limits:

# %%
source(image.size_to_read)

# %% [markdown]
# The pixels themselves come from Pillow's bicubic filter:

# %%
source(image.resize)

# %% [markdown]
# ## What goes wrong
#
# The same function exists in several libraries, and not all agree. Two of them are kept here by
# name for comparison:

# %%
source(compat.smart_resize_qwen_vl_utils, compat.smart_resize_hf_4_49)

# %% [markdown]
# They differ for thin images. Both let a side shrink to 0, so that no image is left. The first
# never rounds a side to 0, so a thin image keeps its length; the second refuses sides under 28.


# %%
def attempt(function, *arguments):
    try:
        return function(*arguments)
    except UserError:
        return "refused"


thin = [(28, 5600, 28, 3136, 12544), (1, 200), (10, 1000)]  # the first with at most 16 tokens
rules = {
    "ours": image.smart_resize,
    "qwen_vl_utils": compat.smart_resize_qwen_vl_utils,
    "hf 4.49": compat.smart_resize_hf_4_49,
}
results = {name: [attempt(rule, *size) for size in thin] for name, rule in rules.items()}
for name, sizes in results.items():
    print(f"{name:14}", *sizes)
assert results["ours"] == [(28, 1568), (28, 812), (28, 560)]
assert results["qwen_vl_utils"] == [(0, 1568), (28, 196), (28, 1008)]
assert results["hf 4.49"] == [(0, 1568), "refused", "refused"]

# %% [markdown]
# ### Exercise 2
#
# Find an image whose area is **over** `max_pixels` after resizing.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: a very thin one. Shrinking would make its short side 0, and `max(factor, ...)` lifts it
# to 28; nothing is checked again after that.
h, w = image.smart_resize(28, 5600, max_pixels=12544)
print((h, w), f"{h * w:,} pixels")
assert (h, w) == (28, 1568) and h * w > 12544

# %% [markdown]
# ### Exercise 3
#
# Some programs resize an image before they pass it to the processor, which resizes it again with
# the same limits. Is that harmless? Try some thousand sizes between 28 and 4,000, then very thin
# ones.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: for ordinary images the second time changes nothing; for that of answer 2 it does.
sizes = np.random.default_rng(0).integers(28, 4001, (5000, 2)).tolist()
once = [image.smart_resize(*size) for size in sizes]
print("changed again:", sum(image.smart_resize(*size) != size for size in once), "of", len(once))
assert all(image.smart_resize(*size) == size for size in once)
assert image.smart_resize(28, 1568, max_pixels=12544) != (28, 1568)

# %% [markdown]
# A common bug is to round halves up. It shows at one side in 56, and then loudly: 70 x 70 becomes
# 9 tokens where the reference has 4. If one program counts the placeholders and another makes the
# patches, their numbers no longer agree.
#
# Another resampling filter is a quiet bug: nothing fails, yet pixels differ along the edges of
# shapes, and the model sees images unlike those it was trained on.

# %%
assert np.prod(image.smart_resize(70, 70)) // 784 == 4
half_up = [int(side / 28 + 0.5) for side in range(5600)]
assert half_up[70] ** 2 == 9
assert sum(half_up[side] != round(side / 28) for side in range(5600)) == 5600 / 56
nearest = np.asarray(wide.resize((width, height), Image.Resampling.NEAREST))
differ = np.any(native != nearest, axis=-1)
largest = np.abs(native.astype(int) - nearest).max()
assert 0 < differ.mean() < 0.1 and largest > 50
print(f"{differ.mean():.1%} of the pixels differ, by up to {largest} of 255")

# %% [markdown]
# Next: how the resized image is cut into patches, and why in that order:
# [02](02_nine_dimensions.ipynb). The appendix shows what happens before all this.
#
# ## Appendix: opening the file
#
# "An image" may be a path, bytes, a `data:` URI, an image in memory or an array. How they are
# opened is policy rather than mathematics, and implementations differ. So the policy is one file,
# and its first lines state it.

# %%
source(media.open_image, media.open_file, media.rgb)

# %%
source(media.warn)

# %% [markdown]
# **Transparency** is composited onto white. A black drawing on a transparent background is the
# classic trap: transparent pixels have a colour too, most often black, and code that drops the
# alpha channel shows it. `compat.drop_alpha` is what Transformers did before 5.21.

# %%
drawn = Image.new("RGBA", (112, 112), (0, 0, 0, 0))
ImageDraw.Draw(drawn).ellipse((20, 20, 92, 92), fill=(0, 0, 0, 255))
on_white = media.open_image(drawn)
dropped = media.open_image(drawn, to_rgb=compat.drop_alpha)
assert len(on_white.getcolors()) == 2 and len(dropped.getcolors()) == 1  # nothing is left to see
image_row(
    {"laid on white": on_white, "alpha dropped": dropped},
    "One transparent image, two policies",
    "On the left a black disc on white; on the right a square that is black all over.",
)

# %% [markdown]
# **Orientation.** A phone held upright may store the image sideways, with an EXIF tag to rotate
# it. Files are rotated. Images that are already in memory are taken as they are, because the
# caller may have rotated them. So one file can have two sizes, and two grids. A port that ignores
# the tag sees everything sideways.

# %%
exif, file = Image.Exif(), io.BytesIO()
exif[274] = 6  # orientation: turn a quarter clockwise before you look
lying = Image.open(EXAMPLE_IMAGE).convert("RGB").transpose(Image.Transpose.ROTATE_90)
lying.save(file, "JPEG", exif=exif)
upright = media.open_image(file.getvalue())
as_stored = media.open_image(Image.open(file))
assert upright.size == (336, 224) and as_stored.size == (224, 336)
image_row(
    {"in memory: as stored": as_stored, "a file: turned upright": upright},
    "One file with a note to turn it",
    "The example scene lying on its side, as stored, and upright, as its EXIF orientation asks.",
)

# %% [markdown]
# **Anything dropped is reported.** Only the first frame of an animation is read, and an
# `ImageWarning` says so. What is no image at all raises a `UserError` of one line.

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", media.ImageWarning)
    media.open_image(EXAMPLE_VIDEO)
print("warning:", said[0].message)
assert [w.category for w in said] == [media.ImageWarning]
assert "only the first is read" in str(said[0].message)
try:
    media.open_image(b"not an image")
except UserError as error:
    print("error:", error)
    assert "is not an image" in str(error)
