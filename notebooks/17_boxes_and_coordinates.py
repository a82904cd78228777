# %% [markdown]
# # 17. Boxes and coordinates
#
# Ask for an object, and the answer is text with four numbers in it:
# `{"bbox_2d": [112, 144, 190, 222], "label": "blue cross"}`. **Pixels of which image are these,
# and how do they get onto yours?**
#
# Before this: [01](01_smart_resize.ipynb) (resizing), [11](11_greedy_decoding.ipynb) (answers).
# You need: nothing more. 13 minutes.

# %%
from tinyqwenvl.viz import here

here("answer.boxes")

# %%
import json

import numpy as np
from PIL import Image

import tinyqwenvl
from tinyqwenvl import grounding
from tinyqwenvl.grounding import Location
from tinyqwenvl.image import smart_resize
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle import mutants
from tinyqwenvl.viz import boxes, source

model = tinyqwenvl.load()

# %% [markdown]
# ## The idea
#
# The model never saw your image. It saw the **resized image**, whose sides `smart_resize` made
# multiples of 28 within the pixel limits. The two generations express positions in different
# units, and neither unit is a pixel of your file:
#
# | model | unit | x on your image | y on your image |
# |---|---|---|---|
# | Qwen2.5-VL | absolute pixels of the *resized* image | $x \cdot W / W'$ | $y \cdot H / H'$ |
# | Qwen2-VL | thousandths of the width and the height | $x \cdot W / 1000$ | $y \cdot H / 1000$ |
#
# Here $W \times H$ is your image and $W' \times H'$ the resized one. The Qwen2-VL paper defines
# its format in section 2.2.1. The Qwen2.5-VL report (section 2.1.2) drops the normalisation, so
# that the model learns real sizes. The price: **without the resized size an answer of Qwen2.5-VL
# means nothing**. You need not guess it. It is in the grid that belongs to the prompt,
# `image_grid_thw` = (time, rows, columns) of patches of 14 pixels:
#
# $$W' = 14 \cdot \text{columns}, \qquad H' = 14 \cdot \text{rows}.$$
#
# A box is (left, top, right, bottom), counted from the top left corner. A point is (x, y).

# %%
source(grounding.Location, grounding.locations)

# %% [markdown]
# ## By hand
#
# The example scene, enlarged to 900 x 600 pixels. The embedded checkpoint reads at most 75,264
# pixels, so the image is resized to 308 x 196. The factors back are $900 / 308 = 2.92$ across
# and $600 / 196 = 3.06$ down. They differ, because each side is rounded by itself.

# %%
photo = Image.open(EXAMPLE_IMAGE).convert("RGB").resize((900, 600), Image.Resampling.BICUBIC)
inputs = model.prepare(user_message(photo, "Locate the blue cross."))
_, rows, columns = inputs.image_grid_thw[0].tolist()
resized = (14 * columns, 14 * rows)
across, down = photo.width / resized[0], photo.height / resized[1]
print(f"read at {resized[0]} x {resized[1]}; times {across:.3f} across, {down:.3f} down")
assert resized == (308, 196) and (round(across, 2), round(down, 2)) == (2.92, 3.06)

# %%
answer = model.ask(photo, "Locate the blue cross.")
left, top, right, bottom = json.loads(answer)["bbox_2d"]
by_hand = (left * across, top * down, right * across, bottom * down)
(found,) = grounding.locations(answer, resized, photo.size)
print(answer)
print("on the photo:", np.round(by_hand))
assert np.allclose(found.place, by_hand) and found.label == "blue cross"

# %% [markdown]
# ## All three shapes
#
# We know where the shapes are: their bounding boxes can be read off the pixels, as in
# [16](16_attention_over_the_image.ipynb). Dotted lines are the truth. Notice how closely the
# answers follow it, although the model worked on a third of the pixels per side.

# %%
pixels = np.asarray(photo).astype(int)
colours = {
    "black square": (8, 12, 29),
    "blue cross": (55, 77, 235),
    "pink circle": (251, 133, 188),
}
truth = []
for name, colour in colours.items():
    ys, xs = np.nonzero(np.abs(pixels - colour).sum(axis=-1) < 60)
    truth.append(Location((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), name))


def overlap(a, b):
    """Intersection over union of two boxes: 1 for the same box, 0 for boxes apart."""
    w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(w, 0) * max(h, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def quality(places):
    """The overlap of each box with the truth."""
    return [round(float(overlap(p, t.place)), 2) for p, t in zip(places, truth, strict=True)]


answers = [model.ask(photo, f"Locate the {name}.") for name in colours]
mapped = [grounding.locations(a, resized, photo.size)[0].place for a in answers]
print("overlap with the truth:", dict(zip(colours, quality(mapped), strict=True)))
assert min(quality(mapped)) > 0.6
boxes(photo, ", ".join(answers), truth, (1, rows, columns), title="Mapped back to the photo")

# %% [markdown]
# ### Exercise 1
#
# Qwen2.5-VL-3B reads an image of 1000 x 500 pixels with `max_pixels` 307,200 and answers
# `[100, 100, 200, 200]`. Which box is that on your image?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 1: it is read at 756 x 364, so the factors are 1.32 and 1.37.
h, w = smart_resize(500, 1000, max_pixels=307_200)
text = '{"bbox_2d": [100, 100, 200, 200]}'
(box,) = grounding.locations(text, (w, h), (1000, 500))
print((w, h), np.round(box.place))
assert (w, h) == (756, 364) and np.round(box.place).tolist() == [132, 137, 265, 275]

# %% [markdown]
# ## The forms in which answers come
#
# Published models write JSON, bare or in a Markdown fence, one object or a list, and an answer
# that hits the token limit breaks off. Qwen2-VL writes special tokens around the coordinates, so
# decode its answers with `skip_special=False`. `locations` reads all of these; the label may come
# under other names, and text around the objects does no harm.

# %%
cross = '{"bbox_2d": [102, 126, 174, 194], "label": "blue cross"}'
forms = {
    "bare": cross,
    "fenced list": f"```json\n[{cross}]\n```",
    "in a sentence": f"Here it is: {cross}. Anything else?",
    "cut off": f'[{cross}, {{"bbox_2d": [226, 38',
    "a point": '{"point_2d": [138, 160], "label": "blue cross"}',
    "Qwen2-VL": "<|object_ref_start|>blue cross<|object_ref_end|>"
    "<|box_start|>(331,643),(565,990)<|box_end|>",
}
for name, text in forms.items():
    (read,) = grounding.locations(text, resized, photo.size)
    print(f"{name:14} {read.label}: {np.round(read.place).tolist()}")
    assert read.label == "blue cross" and read.is_point == (name == "a point")

# %% [markdown]
# The last line says nearly the same as the first, in thousandths. It does not depend on the
# resized size at all.
#
# ### Exercise 2
#
# Write the answer of Qwen2-VL for the box `[46, 22, 106, 82]` of the resized image. How precise
# can it be on a photo 4,000 pixels wide?

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 2: thousandths of 308 and 196. A step is 4 pixels on a photo of 4,000.
x1, y1, x2, y2 = (
    round(1000 * n / side) for n, side in zip([46, 22, 106, 82], resized * 2, strict=True)
)
text = f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
(old,), (new,) = (grounding.locations(t, resized, photo.size) for t in (text, answers[0]))
print(
    text, "differs by at most", np.abs(np.subtract(old.place, new.place)).max().round(2), "pixels"
)
assert np.abs(np.subtract(old.place, new.place)).max() < 900 / 1000 and 4000 / 1000 == 4

# %% [markdown]
# ## What goes wrong: boxes that are off
#
# "The boxes are wrong" is the most common question about these models, and nearly always the
# boxes are right and the mapping is not. Four wrong readings of the same three answers:
#
# 1. **No mapping**: the numbers taken as pixels of the photo. Boxes shrink towards the top left.
# 2. **Wrong generation**: pixels taken as thousandths.
# 3. **Sides swapped**: the grid is (time, *rows*, *columns*), image libraries say (width, height).
# 4. **Another resized size**: the program computes `smart_resize` again, with other limits than
#    the processor. Here it forgets the limits of the checkpoint.

# %%
raw = [grounding.locations(a, resized, resized)[0] for a in answers]
h, w = smart_resize(photo.height, photo.width)
readings = {
    "right": [m.scaled(across, down) for m in raw],
    "no mapping": raw,
    "as thousandths": [m.scaled(photo.width / 1000, photo.height / 1000) for m in raw],
    "sides swapped": [m.scaled(photo.width / resized[1], photo.height / resized[0]) for m in raw],
    "other limits": [m.scaled(photo.width / w, photo.height / h) for m in raw],
}
for name, marks in readings.items():
    print(f"{name:15} overlap {quality([m.place for m in marks])}")
    assert (np.mean(quality([m.place for m in marks])) > 0.6) == (name == "right")

# %%
boxes(photo, ", ".join(answers), truth, title="No mapping: boxes shrink towards the top left")

# %% [markdown]
# ### Letterboxing
#
# The fifth cause is in the port itself. Some runtimes keep the aspect ratio and fill the rest of
# the resized image with black bars (**letterboxing**). The reference stretches the image instead.
# A port that letterboxes shrinks both sides by one factor, so the ordinary mapping is off. We
# inject that bug ([14](14_be_an_oracle.ipynb) explains how) on a wide image; its bar is on the
# right. llama.cpp, for example, centres the image, so there half of the bar must be subtracted
# too.

# %%
wide = Image.open(EXAMPLE_IMAGE).convert("RGB").resize((336, 182), Image.Resampling.BICUBIC)
question = "Locate the blue cross."
_, rows, columns = model.prepare(user_message(wide, question)).image_grid_thw[0].tolist()
read_at = (14 * columns, 14 * rows)
scale = min(read_at[0] / wide.width, read_at[1] / wide.height)  # one factor for both sides
drawn = (scale * wide.width, scale * wide.height)  # the part that is not black
with mutants.apply("resize_letterbox"):
    letterboxed = model.ask(wide, question)

cases = {
    "stretched, as trained": (model.ask(wide, question), read_at),
    "letterboxed, ordinary mapping": (letterboxed, read_at),
    "letterboxed, its own mapping": (letterboxed, drawn),
}
target = truth[1].scaled(wide.width / photo.width, wide.height / photo.height)
print(f"{wide.size} read at {read_at}, of which letterboxing leaves {np.round(drawn)}")
gained = {}
for name, (text, size) in cases.items():
    (read,) = grounding.locations(text, size, wide.size)
    gained[name] = round(float(overlap(read.place, target.place)), 2)
print(gained)
plain, off, repaired = gained.values()
assert plain > 0.9 and repaired > 0.9 and off < 0.8

# %% [markdown]
# The last line repairs the boxes, but not the port: its image tokens still differ from those of
# the reference, and so may its words. Other resampling filters and other rounding shift boxes
# less, by a pixel or two. To find such a difference, compare `pixel_values` first
# ([the porting guide](../docs/porting.md)).
#
# ### Exercise 3
#
# A program crops a photo to (left, top, right, bottom) = (300, 150, 900, 600) before it asks. How
# does a box get from the answer to the whole photo? Try it with the blue cross.

# %% tags=["hide-cell"] jupyter={"source_hidden": true, "outputs_hidden": true}
# Answer 3: map to the crop as usual, then add its corner.
part = photo.crop((300, 150, 900, 600))
asked = user_message(part, "Locate the blue cross.")
_, rows, columns = model.prepare(asked).image_grid_thw[0].tolist()
text = model.ask(part, "Locate the blue cross.")
(box,) = grounding.locations(text, (14 * columns, 14 * rows), part.size)
whole = np.add(box.place, (300, 150, 300, 150))
print(text, "->", np.round(whole), f"overlap {overlap(whole, truth[1].place):.2f}")
assert overlap(whole, truth[1].place) > 0.5

# %% [markdown]
# ## A checklist for boxes that are off
#
# 1. Which generation? Pixels of the resized image, or thousandths.
# 2. Is the resized size that of *this* prompt, from `image_grid_thw`?
# 3. Two factors, x with widths and y with heights?
# 4. Does the port stretch (right) or letterbox (wrong)?
# 5. Was the image turned upright (EXIF, [01](01_smart_resize.ipynb)) before both steps, or
#    cropped before the first?
# 6. Still off? Compare `pixel_values`, then positions, with `tinyqwenvl oracle diff`.
#
# `tinyqwenvl run photo.png "Locate the cross." --boxes found.png` does all of this for you. This
# was the last notebook; [00](00_one_image.ipynb) reads differently now.
