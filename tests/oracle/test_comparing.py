"""Comparing dumps: verdicts, tolerances, and the names of stages."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

import tinyqwenvl
from tinyqwenvl import UserError
from tinyqwenvl.oracle import diff, report
from tinyqwenvl.oracle.diff import compare, single
from tinyqwenvl.oracle.dump import Writer, split_key
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.mutants import apply
from tinyqwenvl.oracle.precision import in_precision
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import job_from_file, record
from tinyqwenvl.oracle.stages import about, canonical, position_in_run


def broken(model, job, path, name, **options):
    with apply(name), np.errstate(all="ignore"):
        return record(model, job, path, floors=(), **options)


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
    """Bugs that do not touch a prompt are no explanation of a wrong reference."""
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
    images = {"image.rgb", "image.resize", "image.normalise", "image.nine_dimensions"}
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
