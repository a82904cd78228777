"""Numbers read off a difference; every fault here is made in values that no injected bug holds."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyqwenvl.image import normalise, patchify, resize
from tinyqwenvl.oracle.diagnose import diagnose
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.dump import Entry
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.precision import in_precision, to_float16
from tinyqwenvl.oracle.record import job_from_file, record, run
from tinyqwenvl.oracle.report import as_text
from tinyqwenvl.tracing import watching


def with_stages(dump, **arrays):
    """A candidate that holds some stages with other values, and what comes before nothing."""
    entries = {}
    for name, array in arrays.items():
        key = name.replace("__", "."), 0
        entries[key] = Entry(*key, array.shape, str(array.dtype), lambda x=array: x)
    return replace(dump, source="mine", entries=entries)


def said(reference, candidate, model=None, precision=None):
    """The one thing that is said of a candidate."""
    found = compare(reference, candidate, precision)
    lines = diagnose(found, model)
    assert len(lines) == 1, lines
    assert lines[0]["stage"] == found.first.name
    return lines[0]["what"]


# ------------------------------------------------------------------ norms, biases, scales, formats


@pytest.mark.parametrize("eps", [0.0, 3.7e-4, 0.021])
@pytest.mark.parametrize("part", ["vision", "text"])
def test_the_eps_of_a_norm(part, eps, model, job, reference, place, family):
    settings = replace(getattr(model.config, part), rms_norm_eps=eps)
    port = replace(model, config=replace(model.config, **{part: settings}), reference=True)
    few = ["visual.blocks.*", "model.layers.*"]
    bad = record(port, job, place / f"eps-{family}.safetensors", few, floors=())
    found = compare(reference, bad)
    if part == "vision" and eps == 0.0 and found.first is None:
        pytest.skip("an eps of 1e-6 is within rounding here")
    ours = getattr(model.config, part).rms_norm_eps
    assert (
        said(reference, bad, model)
        == f"the {part} norms have eps {eps:g}, where ours have {ours:g}"
    )


@pytest.mark.parametrize("elements", [slice(48, 96), slice(None)])
def test_a_missing_bias(elements, model, reference):
    name = "visual.blocks.1.attn.qkv"
    bias = np.array(model.weights.visual.blocks[1].attn.qkv.bias)
    missing = np.array(reference[name])
    missing[:, elements] -= bias[elements]
    bad = with_stages(reference, visual__blocks__1__attn__qkv=missing)
    part = " in elements 48 to 95" if elements.start else ""
    assert said(reference, bad, model) == f"the bias of {name} is missing{part}"
    assert "differs from ours by the same vector, of norm" in said(reference, bad)
    one_row = np.array(reference[name])
    one_row[3] -= bias
    bad = with_stages(reference, visual__blocks__1__attn__qkv=one_row)
    assert diagnose(compare(reference, bad), None) == []


def test_a_scale(reference):
    context = np.array(reference["model.layers.0.self_attn.context"])
    bad = with_stages(reference, model__layers__0__self_attn__context=context * np.float32(0.37))
    assert said(reference, bad) == "every value is 0.37 times ours"
    bad = with_stages(reference, model__layers__0__self_attn__context=context * np.float32(4))
    assert said(reference, bad) == "every value is 4 times ours, the square root of 16"
    context[0] *= np.float32(0.37)  # one head alone
    bad = with_stages(reference, model__layers__0__self_attn__context=context)
    assert diagnose(compare(reference, bad)) == []


def test_as_far_as_float16_alone(model, reference):
    rough, found = in_precision(model, "float16"), {}

    def keep(name, value, _):
        if name.startswith(("visual.blocks", "model.layers")):
            found.setdefault(name, np.array(value, np.float32))

    with watching(keep), np.errstate(all="ignore"):
        run(rough, replace(job_from_file(reference, model.config), tokens=0), "float16")
    floats = {n.replace(".", "__"): x for n, x in found.items() if "key_ranges" not in n}
    bad = with_stages(reference, **floats)
    what = said(reference, bad, precision="float32")  # its bits would say float16
    assert what.startswith("all ") and "within the rounding noise of float16" in what
    floats["model__layers__2"] = floats["model__layers__2"] * np.float32(1.2)
    assert diagnose(compare(reference, with_stages(reference, **floats), "float32")) == []


def test_a_stage_that_was_rounded_before(model, reference):
    """As ggml's convolution does with the pixels."""
    pixels = to_float16(np.array(reference["pixel_values"]))
    kernel = np.array(model.weights.visual.patch_embed.proj.weight)
    embedded = pixels @ kernel.reshape(len(kernel), -1).T
    bad = with_stages(reference, visual__patch_embed=embedded)
    assert said(reference, bad, model) == "it agrees when pixel_values is rounded to float16 first"


# ------------------------------------------------------------------ pixels


def images_of(reference):
    return [Image.fromarray(e.read()) for e in reference if e.name == "image.rgb"]


def pixels_of(frames, **how):
    return np.concatenate([patchify(normalise(frame[None], **how))[0] for frame in frames])


def sizes_of(reference):
    return [(14 * h, 14 * w) for _, h, w in reference["image_grid_thw"].tolist()]


def resized(reference):
    return [
        resize(image, *size)
        for image, size in zip(images_of(reference), sizes_of(reference), strict=True)
    ]


def test_mean_and_standard_deviation(model, reference):
    mean, std = (0.31, 0.47, 0.52), (0.2, 0.33, 0.41)
    pixels = pixels_of(resized(reference), mean=mean, std=std)
    what = said(reference, with_stages(reference, pixel_values=pixels), model)
    assert what.startswith(
        "normalised with mean (0.31, 0.47, 0.52) and standard deviation (0.2, 0.33, 0.41), where "
    )
    times = pixels_of(resized(reference)) * np.float32(1.75)
    what = said(reference, with_stages(reference, pixel_values=times), model)
    assert what.endswith("(all channels are 1.75 times ours, plus a constant)")
    rows = np.random.default_rng(0).permutation(len(pixels))
    bad = with_stages(reference, pixel_values=pixels[rows])
    assert diagnose(compare(reference, bad), model) == []


@pytest.mark.parametrize("x, y", [(0, 0), (13, 0), (17, 31)])
def test_a_letterbox(x, y, model, reference):
    """The size, the place and the colour of a border, however it is anchored."""
    frames = []
    for image, (h, w) in zip(images_of(reference), sizes_of(reference), strict=True):
        page = Image.new("RGB", (w, h), (7, 8, 9))
        page.paste(image.resize((w - 22, h - 37), Image.Resampling.BICUBIC), (x, y))
        frames.append(np.asarray(page))
    bad = with_stages(reference, pixel_values=pixels_of(frames))
    lines = [line["what"] for line in diagnose(compare(reference, bad), model)]
    assert len(lines) == len(frames)
    (h, w), image = sizes_of(reference)[0], images_of(reference)[0]
    assert lines[0] == (
        f"image 1: the image of {image.width}x{image.height} pixels is resized to "
        f"{w - 22}x{h - 37} (bicubic, to the byte) and placed at x {x}, y {y} "
        f"of {w}x{h}; the rest is filled with "
        "(7, 8, 9)"
    )


def test_another_antialiased_resizer(model, reference):
    rng = np.random.default_rng(3)
    frames = []
    for frame in resized(reference):
        step = rng.choice([-1, 0, 1], frame.shape, p=[0.004, 0.992, 0.004])
        frames.append(np.clip(frame + step, 0, 255).astype(np.uint8))
    bad = with_stages(reference, pixel_values=pixels_of(frames))
    lines = [line["what"] for line in diagnose(compare(reference, bad), model)]
    assert len(lines) == len(frames)
    assert lines[0].startswith("image 1: all bytes are within 1 of ours, 0.")
    assert lines[0].endswith("% of the bytes differ: another antialiased bicubic resizer")
    hamming = [
        np.asarray(i.resize((w, h), Image.Resampling.BOX))
        for i, (h, w) in zip(images_of(reference), sizes_of(reference), strict=True)
    ]
    bad = with_stages(reference, pixel_values=pixels_of(hamming))
    assert "resized with the box filter" in diagnose(compare(reference, bad), model)[0]["what"]


# ------------------------------------------------------------------ ids


def test_ids_are_told_as_text(model, reference):
    ids = reference["input_ids"]
    text = model.tokenizer.encode(["#7#"])
    spot = 12
    longer = np.concatenate([ids[:spot], text, ids[spot:]])
    what = said(reference, with_stages(reference, input_ids=longer), model)
    assert what.endswith("'#7#' where ours has nothing") and "after '" in what
    pad = model.config.image_token_id
    fewer = np.delete(ids, np.flatnonzero(ids == pad)[:1])
    what = said(reference, with_stages(reference, input_ids=fewer), model)
    count = int(np.argmax(ids[np.argmax(ids == pad) :] != pad))
    assert f"x {count - 1} where ours has '<|image_pad|>' x {count}" in what
    assert str(pad) in said(reference, with_stages(reference, input_ids=fewer))


# ------------------------------------------------------------------ in the report


def test_the_report_has_it_and_says_when_no_bug_explains(reference):
    context = np.array(reference["model.layers.0.self_attn.context"]) * np.float32(0.37)
    found = compare(reference, with_stages(reference, model__layers__0__self_attn__context=context))
    found.explanation, found.diagnosis = explain(found), diagnose(found)
    text = as_text(found)
    assert "diagnosis: every value is 0.37 times ours\n" in text
    assert "no known bug explains it (tried: other orders of rows and values)" in text
    assert found.as_json()["diagnosis"][0]["what"] == "every value is 0.37 times ours"
    assert diagnose(compare(reference, reference)) == []
