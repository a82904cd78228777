"""Dumps, distances, precision, recording and comparing."""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support import rounding

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.model import user_message
from tinyqwenvl.oracle import diff, page, readers, report
from tinyqwenvl.oracle.__main__ import COMMANDS, main
from tinyqwenvl.oracle.check import check, inputs_of
from tinyqwenvl.oracle.diff import compare, single
from tinyqwenvl.oracle.dump import Writer, split_key
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.mutants import MUTANTS, apply
from tinyqwenvl.oracle.precision import Rounded, in_precision, quantise, rounded, to_bf16
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import MEASURED, Job, job_from_file, record
from tinyqwenvl.oracle.stages import about, canonical, position_in_run

IMAGES = [random_image(1, 150, 210), random_image(2, 70, 240)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("oracle")


@pytest.fixture(scope="module")
def job():
    return Job(user_message(IMAGES, "what is different?"), tokens=2)


@pytest.fixture(scope="module")
def reference(model, job, place, family):
    return record(model, job, place / f"{family}.safetensors")


def broken(model, job, path, name, **options):
    with apply(name), np.errstate(all="ignore"):
        return record(model, job, path, floors=(), **options)


# ------------------------------------------------------------------ distances


def bound_of_cosine_errors(a, b):
    """How far 1 - cosine may be off, [rows]: as the metric computes it, and as written down.

    The metric has |a|^2 = b.b + 2 e.b + e.e, off by g (|e| + |b|)^2: relatively by g r, with
    r = ((|e| + |b|) / |a|)^2 >= 1. |a| - |b| = (e.e + 2 e.b) / (|a| + |b|) is off by g |e| (3 + r)
    as |e| <= |a| + |b|. So e.e - (|a| - |b|)^2 is off by 2 g e.e (4 + r) <= 10 g r e.e, and the
    quotient by 2 |a| |b| by g r (itself at most e.e / 2 |a| |b|) more. Written down, it is a sum
    of products, two roots of sums, and a difference from 1.
    """
    width = b.shape[-1]
    size_a, size_b, size_e = (np.linalg.norm(x, axis=-1) for x in (a, b, a - b))
    ratio = ((size_e + size_b) / size_a) ** 2
    metric = 11 * rounding(width + 4) * ratio * size_e**2 / (2 * size_a * size_b)
    return 2 * metric + rounding(2 * width + 6)  # twice: g^2 is left out above


@given(st.integers(0, 2**31), st.sampled_from([1e-7, 1e-3, 1.0]), st.integers(1, 5))
@example(seed=44559, size=1.0, width=1)  # a row of one small number: 2.6e-14 in the place of 0
def test_distances_by_their_definitions(seed, size, width):
    """Each bound is the rounding of n terms in both ways of computing, times what they add up to.

    Variances are differences of mean squares and squared means: ``worse`` is how much larger these
    are.
    """
    rng = np.random.default_rng(seed)
    b = rng.normal(1, 2, (7, width))
    a = b + size * rng.normal(size=b.shape)
    e = a - b
    far = distance(a, b)
    off = rounding(b.size + 4)
    assert far.nmse == pytest.approx(np.sum(e**2) / np.sum(b**2), rel=4 * off)
    worse = np.mean(b**2) / np.var(b)
    assert far.max_error == pytest.approx(np.max(np.abs(e)) / np.std(b), rel=4 * off * worse)
    worse += (np.sqrt(np.mean(e**2)) + np.sqrt(np.mean(b**2))) ** 2 / np.var(a)
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert far.pearson == pytest.approx(expected, abs=4 * off * worse)
    bound = bound_of_cosine_errors(a, b)
    cosines = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    rows = [distance(a[i : i + 1], b[i : i + 1]).cosine_error for i in range(7)]
    assert np.all(np.abs(rows - (1 - cosines)) <= bound)
    assert far.cosine_error == pytest.approx(np.max(rows), abs=np.max(bound))


def test_distances_see_what_one_number_hides():
    b = np.ones((1000, 8), np.float32)
    b[:, 0] = 500  # a massive channel, the same in both: correlation likes it
    a = b.copy()
    a[7, 1:] = -1
    far = distance(a, b)
    assert far.pearson > 0.99999 and far.nmse < 1e-5 and far.max_error < 0.02
    assert far.cosine_error > 1e-5
    assert distance(b, b) == (0, 0, 0, 1, 0, 0)
    a[3, 3] = np.nan
    assert distance(a, b).not_finite == 1 and not distance(a, b).within(1, -1, 1e9)


def test_ulp_counts_representable_numbers():
    b = np.linspace(-3, 3, 101, dtype=np.float32)[None]
    assert distance(np.nextafter(b, np.float32(9)), b).ulp == 1


# ------------------------------------------------------------------ other number formats


def test_bfloat16_is_rounded_as_others_round_it():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(to_bf16(x), expected)
    assert np.isinf(to_bf16(np.array([np.inf], np.float32)))[0]


def test_every_operation_rounds():
    x = rounded(np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8), to_bf16)
    results = [
        x + x / 3, x @ x, np.mean(x, axis=-1), np.where(x > 1.5, x / 7, 0.1),
        np.concatenate([x, x / 3]), np.exp(x), np.max(x * 1.01, axis=0), x.T * 0.3,
        np.take(x, [0, 1], axis=0) / 3, np.sqrt(np.mean(x * x, axis=-1, keepdims=True)),
    ]  # fmt: skip
    for i, result in enumerate(results):
        assert isinstance(result, Rounded), i
        plain = np.asarray(result)
        np.testing.assert_array_equal(plain, to_bf16(plain), err_msg=str(i))
    assert not np.array_equal(np.asarray(x @ x), np.asarray(x) @ np.asarray(x))


def test_int8_is_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(quantise(matrix) - matrix) <= step / 2 * 1.0001)
    assert quantise(np.zeros((2, 3))).tolist() == [[0] * 3] * 2


def test_a_model_in_another_precision_leaves_the_first_alone(model, job):
    def logits(m):
        return m.forward(m.prepare(job.messages))

    before = logits(model)
    far = distance(np.asarray(logits(in_precision(model, "bfloat16"))), before)
    assert 1e-5 < far.nmse < 1e-1
    np.testing.assert_array_equal(logits(model), before)
    with pytest.raises(UserError, match="no precision is called fp8"):
        in_precision(model, "fp8")


# ------------------------------------------------------------------ recording


def test_a_dump_holds_every_stage(model, job, reference):
    with tinyqwenvl.trace() as stages:
        inputs = model.prepare(job.messages)
        model.forward(inputs)
    assert set(stages) <= {e.name for e in reference}
    for name, calls in stages.items():
        for call, value in enumerate(calls):
            np.testing.assert_array_equal(reference.get(name, call).read(), value)
    assert [e.read().shape for e in reference if e.name == "lm_head"][1:] == [(1, 300)] * 2
    assert sum(e.name == "generated" for e in reference) == 2


def test_the_manifest_says_what_a_stage_is(reference, family):
    line = reference.get("visual.blocks.1.attn").info
    assert line["axes"] == ["N", "D"] and line["kind"] == "float"
    assert line["order"] == ("window" if family == "qwen2_5_vl" else "merge")
    assert line["inputs"]["x"] == "visual.blocks.1.norm1"
    assert line["statistics"]["non_finite"] == 0
    array = reference["visual.blocks.1.attn"]
    assert line["statistics"]["max"] == array.max()
    off = rounding(array.size + 4)  # both are sums in float64
    assert line["statistics"]["std"] == pytest.approx(array.std(dtype=float), rel=2 * off)
    floors = line["floor"]
    assert set(floors) == set(MEASURED)
    assert 0 < floors["float32"]["entire"]["nmse"] < 1e-10 < floors["float16"]["entire"]["nmse"]
    assert floors["float16"]["entire"]["nmse"] < floors["bfloat16"]["entire"]["nmse"] < 0.1
    assert floors["bfloat16"]["single"]["nmse"] < floors["bfloat16"]["entire"]["nmse"]
    every = [e.info["sequence"] for e in reference]
    assert every == sorted(every) and reference.get("image.rgb").info["kind"] == "exact"


def test_what_a_stage_was_made_of_gives_it_again(model, reference):
    entry = reference.get("model.layers.1.self_attn.context")
    given = inputs_of(entry.name, reference)
    assert list(given) == ["q", "k", "v", "key_ranges"]
    again = tinyqwenvl.nn.attention(*given.values())
    assert distance(again, entry.read()).nmse < 1e-12
    assert any(key.startswith("inputs/visual.blocks.0.norm2/") for key in reference.inputs)


def test_a_run_is_done_again_with_its_limits(model, place):
    item = {"type": "image", "image": IMAGES[0], "max_pixels": 9000}
    job = Job([{"role": "user", "content": [item, {"type": "text", "text": "?"}]}])
    first = record(model, job, place / "limits.safetensors", floors=())
    again = record(model, job_from_file(first, model.config), place / "x.safetensors", floors=())
    assert compare(first, again).first is None
    assert first["image_grid_thw"].prod() < 9000 / 14**2


def test_the_options_of_a_prompt_are_kept(model, place):
    """Those of a special token in a text, too; what a manifest cannot hold is refused."""
    messages = user_message(IMAGES[:1], "a <|im_end|> b")
    job = Job(messages, options={"parse_special": True, "max_pixels": 9000})
    first = record(model, job, place / "options.safetensors", floors=["float32"])
    assert first.get("lm_head").info["floor"]["float32"]["entire"]["nmse"] > 0
    again = record(model, job_from_file(first, model.config), place / "y.safetensors", floors=())
    assert compare(first, again).first is None
    with pytest.raises(UserError, match="to_rgb"):
        record(model, Job(messages, options={"to_rgb": lambda x: x}), place / "z.safetensors")
    assert not (place / "z.safetensors").exists()


def test_a_video_under_another_template_is_run_again(model, place):
    frames = [random_image(i, 56, 84) for i in range(4)]
    items = [{"type": "video", "video": frames, "max_pixels": 6000, "min_pixels": 3136}]
    job = Job([{"role": "user", "content": [*items, {"type": "text", "text": "what?"}]}])
    template = "<|im_start|>" + json.loads(
        (tinyqwenvl.model.EMBEDDED / "chat_template.json").read_text()
    )["chat_template"].replace("You are a helpful assistant.", "Be brief.")
    other = replace(model, template=template)
    first = record(other, job, place / "template.safetensors", floors=["float32"])
    assert first.get("lm_head").info["floor"]["float32"]["entire"]["nmse"] > 0


def damaged(manifest, **changes):
    """A manifest with some lines of its first stage, or of itself, changed."""
    stage = {n: v for n, v in changes.items() if n in ("key", "inputs", "floor", "order")}
    rest = {n: v for n, v in changes.items() if n not in stage}
    first = {**manifest["stages"][0], **stage}
    return {**manifest, "stages": [first, *manifest["stages"][1:]], **rest}


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": 3}, {"stages": [1]}, {"key": 3}, {"inputs": "x"}, {"inputs": {"x": 1}},
        {"floor": "x"}, {"floor": {"float32": 1}}, {"floor": {"float32": {"entire": {"nmse": 1}}}},
        {"floor": {"float32": {"entire": {"nmse": -1, "cosine_error": 0, "max_error": 0}}}},
        {"order": 1}, {"model": 3}, {"options": []}, {"version": 99},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_manifests(changes, model, job, place, capsys):
    path = place / "damaged.safetensors"
    if not path.exists():
        record(model, job, path, floors=())
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(damaged(manifest, **changes)))
    try:
        assert main(["diff", str(path), str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    finally:
        path.with_suffix(".json").write_text(json.dumps(manifest))
    assert main(["diff", str(path), str(path)]) == 0


@pytest.mark.parametrize(
    "messages",
    [[3], [{"role": "user"}], [{"role": "user", "content": [{"picture": 99}]}], [{"role": 1}]],
    ids=str,
)
def test_damaged_prompts(messages, model, job, place):
    path = place / "prompt.safetensors"
    dump = record(model, job, path, floors=())
    dump.about = {**dump.about, "messages": messages}
    with pytest.raises(UserError):
        job_from_file(dump, model.config)


def test_globs_choose(model, job, place):
    dump = record(model, job, place / "some.safetensors", ["visual.blocks.?"], floors=())
    names = {e.name for e in dump}
    assert {f"visual.blocks.{i}" for i in range(4)} | {"input_ids", "pixel_values"} <= names
    assert not any(n.startswith("model.layers") or n.endswith("attn") for n in names)


def test_a_run_that_fails_leaves_nothing(model, job, tmp_path):
    with pytest.raises(ZeroDivisionError), tinyqwenvl.tracing.watching(_fail_at("visual.merger")):
        record(model, job, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        record(model, job, tmp_path / "x.npz")


def _fail_at(where):
    def watch(name, value, _):
        return 1 / 0 if name == where else None

    return watch


def test_a_dump_is_a_plain_safetensors_file(reference):
    arrays = safetensors.numpy.load_file(reference.source)
    np.testing.assert_array_equal(arrays["visual.blocks.0"], reference["visual.blocks.0"])
    assert arrays["input_ids"].dtype == np.int64


def test_a_porters_own_inputs(model, reference, place, family):
    names = ("input_ids", "pixel_values", "image_grid_thw")
    arrays = {n: np.array(reference[n]) for n in names}
    arrays["input_ids"] = arrays["input_ids"][None]  # with a batch axis
    path = place / f"own-{family}.safetensors"
    safetensors.numpy.save_file(arrays, path)
    job = job_from_file(open_dump(path), model.config)
    again = record(model, job, place / f"own-{family}-ref.safetensors", floors=())
    np.testing.assert_array_equal(again["lm_head"], reference["lm_head"])
    for change, words in (
        ({"pixel_values": arrays["pixel_values"][:-4]}, "but image_grid_thw makes it"),
        ({"image_grid_thw": np.array([[1, 3, 4]])}, "should be even"),
        ({"image_grid_thw": np.array([[1.0, 4, 4]])}, "whole numbers"),
        ({"image_grid_thw": np.ones((2, 2), int)}, "whole numbers"),
        ({"image_grid_thw": np.array([[2**40] * 3])}, "should be from 1"),
        ({"input_ids": arrays["input_ids"].astype(np.float32)}, "input_ids should be whole"),
        ({"input_ids": np.zeros(0, np.int64)}, "at least one"),
    ):
        bad = place / "bad.safetensors"
        safetensors.numpy.save_file({**arrays, **change}, bad)
        with pytest.raises(UserError, match=words):
            job_from_file(open_dump(bad), model.config)
    safetensors.numpy.save_file({"pixel_values": arrays["pixel_values"]}, bad)
    with pytest.raises(UserError, match="holds no input_ids"):
        job_from_file(open_dump(bad), model.config)


# ------------------------------------------------------------------ comparing


def test_the_reference_form_agrees(model, job, reference, checkpoint, place, family):
    slow = tinyqwenvl.load(checkpoint, reference=True)
    again = record(slow, job, place / f"reference-{family}.safetensors", floors=())
    found = compare(reference, again)
    assert found.first is None and len(found.compared) == len(reference)
    assert any(v.verdict == "agrees" for v in found.verdicts)
    assert "agree" in report.as_text(found) and found.as_json()["first"] is None


def test_the_first_stage_that_differs_is_named(model, job, reference, place):
    bad = broken(model, job, place / "bad1.safetensors", "no_causal_mask")
    found = compare(reference, bad)
    assert found.first.name == "model.layers.0.self_attn.key_ranges"
    floats = next(v for v in found.compared if v.bad and v.kind == "float")
    assert floats.name == "model.layers.0.self_attn.context"
    line = found.as_json()
    assert line["first"] == found.first.name and {"name", "verdict"} <= set(line["stages"][0])
    text = report.as_text(found)
    assert "first: model.layers.0.self_attn.key_ranges" in text and "\x1b" not in text
    assert "\x1b[31m" in report.as_text(found, colour=True)


def test_a_partial_dump_says_between_what(model, job, reference, place):
    some = ["visual.blocks.1", "visual.blocks.3", "visual.merger"]
    bad = broken(model, job, place / "bad2.safetensors", "merger_quick_gelu", stages=some)
    arrays = {n: np.array(bad[n]) for n in some}
    path = place / "partial.safetensors"
    safetensors.numpy.save_file(arrays, path)
    found = compare(reference, open_dump(path))
    assert found.first.name == "visual.merger" and found.between[0] == "visual.blocks.3"
    assert len(found.compared) == 3
    text = report.as_text(found)
    assert "the first difference lies between visual.blocks.3 and visual.merger" in text


def test_a_stage_on_its_own(model, job, reference, place):
    """A wrong stage is told from the error it hands on."""
    bad = broken(model, job, place / "bad3.safetensors", "last_norm_missing")
    bad_early = broken(model, job, place / "bad4.safetensors", "vision_qkv_bias_missing")
    alone = single(model, reference, bad_early)
    wrong = {v.name for v in alone.compared if v.bad}
    blocks = range(model.config.vision.depth)
    assert wrong == {f"visual.blocks.{i}.attn.qkv" for i in blocks}
    assert len({v.name for v in compare(reference, bad_early).compared if v.bad}) > 50
    wrong = {v.name for v in single(model, reference, bad).compared if v.bad}
    assert wrong == {"lm_head", "lm_head#1", "lm_head#2"}  # it holds no model.norm


def test_bands_follow_the_floors(model, job, reference, place):
    rough = in_precision(model, "bfloat16")
    path = place / "rough.safetensors"

    def inputs_of_rough():
        from tinyqwenvl.oracle.record import run

        with (
            Writer(path) as writer,
            tinyqwenvl.tracing.watching(
                lambda name, value, _: void(writer.add(name, np.asarray(value)))
            ),
        ):
            run(rough, job_from_file(reference, model.config), "bfloat16")

    inputs_of_rough()
    candidate = open_dump(path)
    assert compare(reference, candidate, "bfloat16").first is None
    assert compare(reference, candidate, "float32").first is not None
    assert compare(reference, candidate, "bfloat16", multiple=1.0).first is None  # the very floor
    assert any("float32 first" in n for n in compare(reference, candidate, "bfloat16").notes)


def void(_):
    return None


def test_without_floors_fixed_bands(model, job, place):
    bare = record(model, job, place / "bare.safetensors", floors=())
    found = compare(bare, bare)
    assert found.first is None and any("no noise floors" in n for n in found.notes)
    entry = bare.get("visual.merger")
    assert diff.band(entry, "float32") == diff.BANDS["float32"]


def test_what_rounding_hides_is_not_judged(reference, place):
    """A band that zeros would pass says nothing."""
    entry = reference.get("visual.merger")
    hopeless = {"entire": {"nmse": 0.2, "cosine_error": 0.1, "max_error": 3.0}}
    floors = {"float16": hopeless, "float32": hopeless}
    rough = replace(reference, entries={**reference.entries})
    rough.entries["visual.merger", 0] = replace(entry, info={**entry.info, "floor": floors})
    path = place / "zeros.safetensors"
    zeros = {"visual.merger": np.zeros(entry.shape, np.float16)}
    safetensors.numpy.save_file(zeros, path)
    with pytest.raises(UserError, match=r"no stage that .* can be judged in float16"):
        compare(rough, open_dump(path))
    zeros["model.norm"] = np.array(reference["model.norm"], np.float16)
    safetensors.numpy.save_file(zeros, path)
    found = compare(rough, open_dump(path))
    assert [v.verdict for v in found.compared] == ["not judged", "agrees"]
    assert "1 cannot be judged in float16" in report.as_text(found)
    assert compare(reference, open_dump(path)).first.name == "visual.merger"


def test_only_known_stages_say_how_the_candidate_was_computed(reference, place):
    path = place / "mixed.safetensors"
    wrong = np.array(reference["model.layers.0"]) * 1.01
    ids = np.array(reference["model.position_ids"]).astype(np.float16)
    extra = np.zeros(3, np.float16)
    arrays = {"model.layers.0": wrong, "model.position_ids": ids, "unrelated": extra}
    safetensors.numpy.save_file({n: np.array(a, a.dtype) for n, a in arrays.items()}, path)
    found = compare(reference, open_dump(path))
    assert found.precision == "float32" and found.first.name == "model.layers.0"
    half = {**arrays, "model.norm": np.array(reference["model.norm"], np.float16)}
    safetensors.numpy.save_file(half, path)
    found = compare(reference, open_dump(path))
    assert found.precision == "float16" and any("judged as float16" in n for n in found.notes)


def test_the_truth_is_a_reference_too(checkpoint, job, place, reference, family):
    wide = tinyqwenvl.load(checkpoint, dtype="float64")
    truth = record(wide, job, place / f"truth-{family}.safetensors", floors=["float32"])
    floats = {e.dtype for e in truth if not e.exact and not e.name.startswith("image.")}
    assert floats == {"float64", "float32"} and truth.get("visual.merger").dtype == "float64"
    assert [e.name for e in truth if e.dtype == "float32" and "image." not in e.name] == [
        "second_per_grid_ts"
    ]
    assert compare(truth, reference).first is None
    assert compare(reference, truth).first is None


def test_a_right_candidate_is_explained_by_nothing(model, job, reference, place):
    """Mistakes that do not touch a prompt are no explanation of a wrong reference."""
    bad = broken(model, job, place / "reference.safetensors", "vision_no_rope")
    found = compare(bad, reference)
    assert found.first is not None and explain(found, model) == []


def test_infinities_agree_with_themselves(place):
    x = np.ones((4, 4), np.float32)
    x[1, 1], x[2, 2] = np.inf, np.nan
    for value in (np.inf, np.nan):
        y = np.where(np.isfinite(x), x, value).astype(np.float32)
        assert distance(y, y.copy()).not_finite == 0
        assert distance(np.ones_like(y), y).not_finite == 2
    path = place / "infinite.safetensors"
    safetensors.numpy.save_file({"visual": x}, path)
    assert compare(open_dump(path), open_dump(path)).first is None


def test_the_conclusion_names_what_decided(reference, place):
    path = place / "one.safetensors"
    merger = np.array(reference["visual.merger"])
    merger[3, 3] += 1e-2 * merger.std()
    safetensors.numpy.save_file({"visual.merger": merger}, path)
    text = report.as_text(compare(reference, open_dump(path)))
    over = float(re.search(r": ([\d.e+]+) times what float32 allows", text)[1])
    assert over > 1


def test_a_json_of_somebody_else_is_not_overwritten(model, job, tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="no manifest"):
        record(model, job, tmp_path / "config.safetensors", floors=())
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_dump(tmp_path / "pipe.safetensors")


def test_a_manifest_opens_no_files(model, job, place):
    dump = record(model, job, place / "files.safetensors", floors=())
    path = str(tinyqwenvl.model.EXAMPLE_IMAGE)
    items = [{"type": "image", "image": path}, {"type": "text", "text": "?"}]
    dump.about = {**dump.about, "messages": [{"role": "user", "content": items}]}
    with pytest.raises(UserError, match="its prompt is damaged"):
        job_from_file(dump, model.config)


def test_shapes_and_not_numbers(reference, place):
    arrays = {"visual.merger": np.array(reference["visual.merger"])}
    path = place / "shape.safetensors"

    def verdict(array):
        safetensors.numpy.save_file({"visual.merger": np.ascontiguousarray(array)}, path)
        found = compare(reference, open_dump(path))
        return next(v for v in found.compared)

    good = arrays["visual.merger"]
    assert verdict(good).verdict == "equal"
    assert verdict(good[None]).verdict == "equal"  # a batch axis
    assert verdict(good[:-1]).verdict == "shape"
    bad = good.copy()
    bad[3, 3] = np.nan
    assert verdict(bad).verdict == "not finite"
    assert verdict(good * 1.001).verdict == "differs"
    assert verdict(np.round(good).astype(np.int32)).verdict == "differs"


def test_nothing_in_common(reference, place):
    path = place / "other.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(UserError, match="no stage in common"):
        compare(reference, open_dump(path))
    again = open_dump(path, {"a": "visual.merger"})
    assert compare(reference, again).first.verdict == "shape"
    with pytest.raises(UserError, match="holds no b"):
        open_dump(path, {"b": "visual.merger"})


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.visual.blocks.3.attn.qkv", "visual.blocks.3.attn.qkv"),
        ("model.language_model.layers.0", "model.layers.0"),
        ("/visual/blocks.0/attn/qkv/Add_output_0", "visual.blocks.0.attn.qkv"),
        ("/model/layers.1/mlp/down_proj/MatMul_1_output_0", "model.layers.1.mlp.down_proj"),
        ("vision_tower.merger.ln_q", "visual.merger.ln_q"),
        ("language_model.model.norm", "model.norm"),
        ("l_out-7", "model.layers.7"),
        ("logits", "lm_head"),
        ("thinker.visual.patch_embed", "visual.patch_embed"),
        ("something else", "something else"),
    ],
)
def test_names_of_others(theirs, ours):
    assert canonical(theirs) == ours
    assert split_key(f"{theirs}#2") == (ours, 2)


def test_the_order_of_a_run_is_known(reference):
    """For dumps without a manifest: our own, shuffled, comes out as it was."""
    first = [e.name for e in reference if e.call == 0 and e.name != "generated"]
    images = {"picture", "image.resize", "image.normalise", "image.nine_dimensions"}
    first = [n for n in first if n not in images]
    shuffled = [str(n) for n in np.random.default_rng(0).permutation(first)]
    assert sorted(shuffled, key=position_in_run) == first
    assert position_in_run("who knows") > position_in_run("generated")


def test_axes_are_letters_of_the_glossary(reference, family):
    from tinyqwenvl.dims import GLOSSARY

    for entry in reference:
        known = about(entry.name, family)
        if entry.name not in ("model.rope_delta", "second_per_grid_ts"):
            assert len(known.axes) == len(entry.shape), entry.name
        assert all(a in GLOSSARY or not a.isalpha() or a in "t" for a in known.axes)


# ------------------------------------------------------------------ what ports produce


def formats(place, arrays):
    """The same tensors in every format that is read."""
    np.savez(place / "a.npz", **arrays)
    np.savez_compressed(place / "b.npz", **arrays)
    safetensors.numpy.save_file(arrays, place / "c.safetensors")
    for kind in ("npy", "bin", "shape"):
        (place / kind).mkdir()
    shapes = {}
    for name, array in arrays.items():
        np.save(place / "npy" / f"{name}.npy", array)
        array.tofile(place / "bin" / f"{name}.bin")
        array.tofile(place / "shape" / f"{name}.bin")
        shapes[name] = {"shape": list(array.shape), "dtype": str(array.dtype)}
        words = " ".join(map(str, array.shape)) + f" {array.dtype}"
        (place / "shape" / f"{name}.shape").write_text(words)
    (place / "bin" / "shapes.json").write_text(json.dumps(shapes))
    return [place / n for n in ("a.npz", "b.npz", "c.safetensors", "npy", "bin", "shape")]


def test_every_format(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "visual.merger": rng.normal(size=(4, 6)).astype(np.float32),
        "visual": np.asfortranarray(rng.normal(size=(3, 5)).astype(np.float16)).copy(),
        "input_ids": np.arange(7),
    }
    for path in formats(tmp_path, arrays):
        dump = open_dump(path)
        assert {e.name for e in dump} == set(arrays), path
        for name, array in arrays.items():
            np.testing.assert_array_equal(dump[name], array)
            assert dump.get(name).dtype == str(array.dtype)
    np.savez(tmp_path / "f.npz", visual=np.asfortranarray(arrays["visual.merger"]))
    np.testing.assert_array_equal(open_dump(tmp_path / "f.npz")["visual"], arrays["visual.merger"])


def test_bfloat16_in_npy_and_bin(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.linspace(-2, 2, 12).astype(ml_dtypes.bfloat16).reshape(3, 4)
    np.save(tmp_path / "visual.npy", x)
    x.tofile(tmp_path / "visual.bin")
    (tmp_path / "visual.json").write_text('{"shape": [3, 4], "dtype": "bfloat16"}')
    for name in ("visual.npy", "visual.bin"):
        dump = open_dump(tmp_path / name)
        assert dump.get("visual").dtype == "bfloat16"
        np.testing.assert_array_equal(dump["visual"], x.astype(np.float32))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def broken_dumps(place):
    """(path, words of the one line)."""
    good = io.BytesIO()
    np.save(good, np.ones((4, 4), np.float32))

    def write(name, data):
        (place / name).write_bytes(data)
        return place / name

    objects = io.BytesIO()
    np.save(objects, np.array([Evil()], dtype=object), allow_pickle=True)
    yield write("object.npy", objects.getvalue()), "never loaded"
    np.savez(place / "object.npz", a=np.array([Evil()], dtype=object))
    yield place / "object.npz", "never loaded"
    yield write("pickle.npy", pickle.dumps({"a": 1})), "cannot be read"
    yield write("cut.npy", good.getvalue()[:-5]), "is cut"
    yield write("cut.npz", b"PK\x03\x04" + bytes(50)), "cannot be read"
    yield write("text.npy", b"hello"), "cannot be read"
    yield write("cut.safetensors", struct.pack("<Q", 100) + b'{"a":'), "cut or is not"
    yield write("x.bin", bytes(16)), "needs its shape"
    write("y.json", b'{"shape": [3], "dtype": "float32"}')
    yield write("y.bin", bytes(16)), "16 bytes"
    write("z.json", b'{"shape": [4], "dtype": "object"}')
    yield write("z.bin", bytes(16)), "is not one of"
    yield write("what.txt", b"1 2 3"), "is no dump"
    yield place / "nowhere.npz", "no such dump"
    (place / "empty").mkdir()
    yield place / "empty", "no .npy"
    np.savez(place / "none.npz")
    yield place / "none.npz", "no tensors"
    np.savez(place / "words.npz", a=np.array(["a", "b"]))
    yield place / "words.npz", "of dtype"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    yield write("huge.npy", huge), "over 64 GB"
    strange = b"{'descr': (".ljust(117) + b"\n"
    yield write("strange.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + strange), "cannot be"
    truth = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }".ljust(117) + b"\n"
    lie = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + truth + bytes(16)
    yield write("truth.npy", lie), "a shape that is none"
    np.savez_compressed(place / "flipped.npz", visual=np.zeros((64, 64), np.float32))
    data = bytearray((place / "flipped.npz").read_bytes())
    data[60:64] = b"\xff\xff\xff\xff"
    yield write("flipped.npz", bytes(data)), "cannot be read"
    with zipfile.ZipFile(place / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        small = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }"
        small += b" " * (118 - len(small) - 1) + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(small)) + small
        archive.writestr("visual.npy", start + bytes(200_000_000))
    yield place / "bomb.npz", "is cut: its data does not fill its shape"
    np.savez(place / "twice.npz", **{"model.visual": np.ones(2), "visual": np.ones(2)})
    yield place / "twice.npz", "stands twice"


def test_broken_dumps_get_one_line(tmp_path, capsys):
    cases = list(broken_dumps(tmp_path))
    for path, words in cases:
        with pytest.raises(UserError) as error:
            open_dump(path)
        assert words in str(error.value), (path, str(error.value))
        assert main(["diff", str(path), str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    assert len(cases) >= 18


def test_a_member_that_lies_is_not_unpacked_beyond_its_shape(tmp_path):
    """The size in the directory of the archive fits the shape, what is packed does not."""
    path = tmp_path / "lie.npz"
    np.savez_compressed(path, visual=np.zeros((512, 512), np.float32))
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    damaged = data[: at + 16] + b"\0\0\0\0" + data[at + 20 :]  # another checksum
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        open_dump(path)["visual"]


def test_pt_goes_through_the_restricted_loader(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"visual": {"merger": torch.ones(2, 3, dtype=torch.bfloat16)}}, tmp_path / "a.pt")
    dump = open_dump(tmp_path / "a.pt")
    assert dump.get("visual.merger").dtype == "bfloat16" and dump["visual.merger"].sum() == 6
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="not tensors alone"):
        open_dump(tmp_path / "evil.pt")


# ------------------------------------------------------------------ explaining


@pytest.mark.parametrize(
    "name",
    ["vision_no_rope", "merger_quick_gelu", "gqa_heads_in_turn", "positions_in_one_dimension"],
)
def test_the_fault_is_named(name, model, job, reference, place, family):
    bad = broken(model, job, place / f"{name}-{family}.safetensors", name)
    found = compare(reference, bad)
    best = explain(found, model)[0]
    assert (best["mutant"], best["score"]) == (name, 1.0)


def test_layouts_need_no_model(reference, place):
    path = place / "layout.safetensors"

    def names(key, array):
        safetensors.numpy.save_file({key: np.ascontiguousarray(array)}, path)
        return [e["mutant"] for e in explain(compare(reference, open_dump(path)))]

    q = np.array(reference["visual.blocks.0.attn.q"])
    assert names("visual.blocks.0.attn.q", np.swapaxes(q, 0, 1)) == ["layout: heads after tokens"]
    pixels = np.array(reference["pixel_values"])
    bgr = np.reshape(np.reshape(pixels, (len(pixels), 3, -1))[:, ::-1], pixels.shape)
    assert names("pixel_values", bgr) == ["layout: colours blue, green, red"]
    assert names("visual.merger", np.roll(reference["visual.merger"], 1, 0)) == [
        "layout: rows shifted by one"
    ]
    assert names("visual.merger", np.array(reference["visual.merger"]) * 1.5) == []


def test_mutants_leave_no_trace(model, job):
    inputs = model.prepare(job.messages)
    before = model.forward(inputs)
    for name in MUTANTS:
        with apply(name):
            pass
    np.testing.assert_array_equal(model.forward(model.prepare(job.messages)), before)
    assert not hasattr(tinyqwenvl.image, "round")
    with pytest.raises(UserError, match="no mutant is called x"), apply("x"):
        pass


# ------------------------------------------------------------------ my own function


def test_check(model, reference):
    layer = model.weights.model.layers[1]
    eps = model.config.text.rms_norm_eps

    def mine(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * layer.input_layernorm.weight

    def wrong(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True)) * layer.input_layernorm.weight

    stage = "model.layers.1.input_layernorm"
    assert not check(stage, mine, reference).bad
    assert check(stage, mine, reference, call=1).name == f"{stage}#1"
    assert check(stage, wrong, reference).verdict == "differs"
    assert check(stage, lambda x: x[1:], reference).verdict == "shape"
    with pytest.raises(UserError, match=r"holds no model\.layers\.99"):
        check("model.layers.99.input_layernorm", mine, reference)
    with pytest.raises(UserError, match="does not say what input_ids"):
        check("input_ids", mine, reference)


# ------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def dumps(place, tmp_path_factory):
    """A small checkpoint, a reference and a candidate with a mistake, by the command line."""
    directory = write_checkpoint(tmp_path_factory.mktemp("cli"), tiny_config("qwen2_5_vl"), seed=3)
    paths = [place / n for n in ("cli-ref.safetensors", "cli-bad.safetensors")]
    image = str(tinyqwenvl.model.EXAMPLE_IMAGE)
    base = ["record", image, "describe", "-m", str(directory), "--max-pixels", "20000"]
    assert main([*base, "-o", str(paths[0])]) == 0
    assert main([*base, "-o", str(paths[1]), "--mutant", "mrope_interleaved"]) == 0
    return directory, *map(str, paths)


def test_the_command_line(dumps, capsys, tmp_path):
    directory, good, bad = dumps
    assert main(["diff", good, good]) == 0
    assert "all" in capsys.readouterr().out
    assert main(["diff", good, bad, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == "model.layers.0.self_attn.q"
    assert found["explanation"][0]["mutant"] == "mrope_interleaved"
    assert main(["diff", good, bad, "--html", str(tmp_path / "d.html"), "--no-explain"]) == 1
    html = (tmp_path / "d.html").read_text()
    assert "first: model.layers.0.self_attn.q" in html and "http" not in html
    assert html.count("<img") >= 4
    capsys.readouterr()
    assert main(["diff", good, bad, "--single", "-m", str(directory)]) == 1
    assert "differ" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["explain", good, bad]) == 0
    assert "explained by mrope_interleaved [100 %]" in capsys.readouterr().out
    assert main(["explain", good, good]) == 0
    assert "nothing to explain" in capsys.readouterr().out
    assert main(["explain", good, bad, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["mutant"] == "mrope_interleaved"
    assert main(["mutants"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS) >= 30


def test_a_bare_reference_is_compared_all_the_same(dumps, tmp_path, capsys):
    directory, good, bad = dumps
    some = {n: np.array(open_dump(good)[n]) for n in ("visual", "model.layers.0", "lm_head")}
    path = tmp_path / "bare.safetensors"
    safetensors.numpy.save_file(some, path)
    assert main(["diff", str(path), bad, "-m", str(directory), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == "model.layers.0" and found["explanation"] == []
    assert any("could not be tried" in line for line in found["notes"])


def test_videos_are_recorded_too(dumps, tmp_path, capsys):
    directory = dumps[0]
    for i in range(4):
        Image.fromarray(random_image(i, 40, 60)).save(tmp_path / f"{i}.png")
    out = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    words = ["record", "--video", str(tmp_path), "--fps", "1", "-m", str(directory), "what?"]
    limits = ["--min-pixels", "3136", "--max-pixels", "6000"]
    assert main([*words, *limits, "-o", out[0]]) == 0
    assert main([*words, *limits, "-o", out[1], "--mutant", "seconds_ignored"]) == 0
    capsys.readouterr()
    assert main(["diff", *out, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["explanation"][0]["mutant"] == "seconds_ignored"
    assert main(["record", "--fps", "1", "-o", out[0]]) == 2


def test_check_by_the_command_line(dumps, capsys, tmp_path):
    _, good, _ = dumps
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import numpy as np\n"
        "def silu_mlp(x): return np.zeros_like(x)\n"
        "def attention(q, k, v, spans):\n"
        "    from tinyqwenvl.nn import attention\n"
        "    return attention(q, k, v, spans)\n"
    )
    stage = "visual.blocks.0.attn.context"
    assert main(["check", stage, f"{mine}:attention", good]) == 0
    assert main(["check", "visual.blocks.0.mlp", f"{mine}:silu_mlp", good]) == 1
    assert main(["check", stage, "--show", good]) == 0
    assert "key_ranges: int64" in capsys.readouterr().out
    mine.write_text(mine.read_text() + "def leave(*given): raise SystemExit(0)\n")
    for words in (
        [stage, f"{mine}:leave", good],
        [stage, "--call", "9", f"{mine}:attention", good],
        [stage, f"{mine}:nothing", good],
        [stage, "nowhere.py:f", good],
        [stage, f"{mine}:silu_mlp", good],  # takes one argument, gets four
        [stage],
    ):
        assert main(["check", *words]) == 2


@pytest.mark.parametrize("name", [*COMMANDS, None])
def test_help_fits_a_screen(name, capsys):
    with pytest.raises(SystemExit):
        main(["--help"] if name is None else [name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: tinyqwenvl oracle")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff", "a"], "required"),
        (["nothing"], "is no command"),
        (["record", "x", "-o", "a.npz"], "ends in .safetensors"),
        (["record", "x", "-o", "nowhere/a.safetensors"], "no such folder"),
        (["record", "x", "-o", "a.safetensors", "--floors", "fp4"], "known are float32"),
        (["record", "x", "-o", "a.safetensors", "--tokens", "-1"], "from 0"),
        (["record", "x", "-o", "a.safetensors", "--mutant", "no"], "no mutant"),
        (["record", "x.png", "y", "-o", "a.safetensors"], "no such image"),
        (["record", "x", "-o", "a.safetensors", "--inputs", "no.npz"], "not both"),
        (["record", "-o", "a.safetensors", "--inputs", "no.npz"], "no such dump"),
    ],
)
def test_bad_command_lines(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dump_as_inputs_keeps_its_limits(dumps, tmp_path, capsys):
    directory, good, _ = dumps
    out = tmp_path / "again.safetensors"
    words = ["record", "--inputs", good, "-m", str(directory), "--floors", "none"]
    assert main([*words, "-o", str(out)]) == 0
    assert compare(open_dump(good), open_dump(out)).first is None


def test_ids_that_cannot_be_are_one_line(dumps, tmp_path, capsys):
    directory, good, _ = dumps
    arrays = {n: np.array(open_dump(good)[n]) for n in ("visual", "lm_head")}
    path = tmp_path / "ids.safetensors"
    safetensors.numpy.save_file({**arrays, "generated": np.array([10**9])}, path)
    out = tmp_path / "steps.safetensors"
    words = ["record", "describe", "-m", str(directory), "--tokens", "2", "--floors", "none"]
    assert main([*words, "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["diff", str(out), str(path), "--single", "-m", str(directory)]) == 2
    err = capsys.readouterr().err
    assert "generated" in err and err.count("\n") == 1


def test_strange_names_and_images_are_no_traceback(tmp_path, capsys):
    names = ["visual.blocks.\u00b2.attn", "visual.blocks.1a", "visual.blocks." + "9" * 5000]
    arrays = {name: np.ones((4, 4), np.float32) for name in names}
    arrays |= {"picture": np.ones(3, np.uint8), "image_grid_thw": np.array([[1, 1, 4]])}
    wrong = {name: x * 2 if x.dtype.kind == "f" else x for name, x in arrays.items()}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, held in zip(paths, (arrays, wrong), strict=True):
        safetensors.numpy.save_file(held | {"visual.merger": held[names[0]]}, path)
    page_of = tmp_path / "page.html"
    assert main(["diff", *map(str, paths), "--html", str(page_of)]) == 1
    assert page_of.exists() and "Traceback" not in capsys.readouterr().err


def test_errors_of_videos_lie_in_the_videos(model, place, family):
    """A prompt with an image and a clip: the vision encoder runs twice, each with its own grids."""
    frames = [random_image(i, 56, 84) for i in range(4)]
    items = [{"type": "image", "image": IMAGES[1]}, {"type": "text", "text": "and"}]
    items += [{"type": "video", "video": frames, "max_pixels": 6000, "min_pixels": 3136}]
    job = Job([{"role": "user", "content": items}])
    dump = record(model, job, place / f"both-{family}.safetensors", floors=())
    for call, grids in enumerate((dump["image_grid_thw"], dump["video_grid_thw"])):
        entry = dump.get("visual.blocks.0", call)
        drawn = list(page.draw(entry, np.ones(entry.shape[0]), dump))
        assert len(drawn) == grids[:, 0].sum()
        assert [d.width / d.height for d in drawn] == [w / h for t, h, w in grids for _ in range(t)]


def test_an_unlike_model_is_refused(dumps, capsys, tmp_path):
    _, good, bad = dumps
    assert main(["diff", good, bad, "-m", str(tinyqwenvl.model.EMBEDDED)]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(["diff", good, bad, "--map", str(tmp_path / "no.json")]) == 2
    assert readers.open_dump(good).get("visual") is not None and page.as_html
