"""Comparing dumps: verdicts, tolerances, and the names of stages."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

import tinyqwenvl
from tinyqwenvl import UserError
from tinyqwenvl.oracle import diff, report
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.dump import Entry, Writer, split_key
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.mutants import apply
from tinyqwenvl.oracle.precision import in_precision
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import job_from_file, record
from tinyqwenvl.oracle.single import single
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
    with pytest.raises(UserError, match=r"no stage of .* can be judged in float16"):
        compare(rough, open_dump(path))
    zeros["model.norm"] = np.array(reference["model.norm"], np.float16)
    safetensors.numpy.save_file(zeros, path)
    found = compare(rough, open_dump(path))
    assert [v.verdict for v in found.compared] == ["not judged", "agrees"]
    assert "1 cannot be judged in float16" in report.as_text(found)
    verdicts = [v.verdict for v in compare(reference, open_dump(path)).compared]
    assert verdicts == ["not that stage", "agrees"]  # the norm was made of the right image tokens
    safetensors.numpy.save_file({"visual.merger": zeros["visual.merger"]}, path)
    assert compare(reference, open_dump(path)).first.name == "visual.merger"


def test_a_name_that_is_not_that_stage(model, job, reference, place):
    """A stage that differs while all that depends on it agrees says nothing of the port."""
    wrong = {"model.layers.0.mlp": lambda x: x[::-1] * 2, "visual.merger": lambda x: x[:-1]}
    named = dump_without(reference, "nothing", wrong)
    found = compare(reference, named)
    odd = [v for v in found.compared if v.verdict == "not that stage"]
    assert {v.name.split("#")[0] for v in odd} == set(wrong) and found.first is None
    text = report.as_text(found)
    assert (
        "visual.merger: differs, but all stages that depend on it agree (visual is the first)"
        in text
    )
    assert "[57, 64] instead of [58, 64]" in text and f"all {len(reference) - 4} stages" in text
    assert explain(found, model) == []
    small = dump_without(reference, "nothing", {"model.layers.0.mlp": lambda x: x * 1.001})
    assert compare(reference, small).first.name == "model.layers.0.mlp"  # it might be hidden later
    last = dump_without(reference, "nothing", {"lm_head": lambda x: x * 2})
    assert compare(reference, last).first.name == "lm_head"  # nothing depends on it
    bad = broken(model, job, place / "odd.safetensors", "vision_no_rope")
    bad = dump_without(bad, "nothing", {"model.embed_tokens": lambda x: x * 2})
    found = compare(reference, bad)
    assert found.first.name == "model.embed_tokens"  # the embeddings that follow are wrong too


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
    over = float(re.search(r": ([\d.e+]+) times its tolerance in float32", text)[1])
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


def test_a_single_row_has_the_floor_of_the_prompt(reference):
    """The floor of one row is luck: a decode step is never held to less than the prompt."""
    lucky = {"nmse": 1e-18, "cosine_error": 1e-18, "max_error": 1e-9}
    usual = {"nmse": 4e-13, "cosine_error": 8e-13, "max_error": 3e-6}
    entries = {**reference.entries}
    for call, floor in ((0, usual), (1, lucky)):
        entry = entries["model.norm", call]
        floors = {"float32": {"entire": floor, "single": floor}}
        entries["model.norm", call] = replace(entry, info={**entry.info, "floor": floors})
    dump = replace(reference, entries=entries)
    step = dump.get("model.norm", 1)
    assert diff.band(step, "float32", reference=dump) == pytest.approx((4e-11, 8e-11, 3e-5))
    assert diff.band(step, "float32")[0] == pytest.approx(1e-12)  # by itself: the least of all
    far = np.array(step.read()) * (1 + 3e-6)  # an NMSE of 1e-11
    theirs = Entry("model.norm", 1, far.shape, "float32", lambda: far)
    candidate = replace(reference, source="mine", entries={("model.norm", 1): theirs})
    assert compare(dump, candidate).first is None
    assert compare(dump, candidate, multiple=1.0).first is not None


def test_no_format_is_held_to_less_than_float32(reference):
    """Where nothing is quantised the floor of int8 is 0, and its multiple the smaller one."""
    for entry in reference:
        if not entry.exact:
            limits = {p: diff.band(entry, p) for p in ("float32", "float16", "bfloat16", "int8")}
            assert all(wide >= fine for p in limits for wide, fine in
                       zip(limits[p], limits["float32"], strict=True)), entry.key  # fmt: skip


def dump_without(dump, gone, changed, call=None):
    """A candidate that lacks some stages, and holds others with other values."""
    entries = {k: e for k, e in dump.entries.items() if not re.fullmatch(gone, e.name)}
    for name, change in changed.items():
        for key in [k for k in entries if k[0] == name and call in (None, k[1])]:
            array = change(np.array(entries[key].read()))
            entries[key] = Entry(*key, array.shape, str(array.dtype), lambda x=array: x)
    return replace(dump, source="mine", entries=entries)


def test_noise_of_what_is_not_dumped_counts_for_all_that_is_made_of_it(
    model, reference, place, family
):
    """Without norm1, its noise is in q, in k and in v; ours alone is within no band of 1."""
    slow = tinyqwenvl.load(reference=True) if family is None else replace(model, reference=True)
    job = job_from_file(reference, model.config)
    again = record(slow, job, place / f"single-{family}.safetensors", floors=())
    full = single(model, reference, again)
    assert full.first is None
    partial = dump_without(
        again, r".*(norm1|norm2|layernorm|q_proj|k_proj|v_proj|qkv|attn|fc1|gate_proj)", {}
    )
    found = single(model, reference, partial)
    assert found.first is None
    bands = {v.name: v.band for v in found.compared}
    tight = {v.name: v.band for v in full.compared}
    for name in ("model.layers.0.self_attn.q", "model.layers.0.self_attn.v"):
        assert bands[name][0] > 2 * tight[name][0]  # the norm's and the projection's come on top
    block = "visual.blocks.1"
    assert bands[block][0] > tight[block][0]  # the attention's output is not dumped
    assert bands["visual.merger"] == tight["visual.merger"]


def test_wrong_integers_do_not_make_the_layers_wrong(model, job, reference, place):
    """Each layer is run at the candidate's own positions and key ranges."""
    for name, wrong in (
        ("positions_in_one_dimension", {r"model.position_ids(#\d)?", "model.rope_delta"}),
        ("no_causal_mask", {r"model.layers.\d+.self_attn.key_ranges"}),
        ("window_size_in_tokens", {"visual.window_index", "visual.cu_window_seqlens"}),
    ):
        bad = broken(model, job, place / f"integers-{name}.safetensors", name)
        alone = {v.name for v in single(model, reference, bad).compared if v.bad}
        named = {n for n in alone if any(re.fullmatch(w, n) for w in wrong)}
        if compare(reference, bad).first is not None:
            assert alone and alone == named, (name, alone - named)


def test_integers_that_would_break_the_run_are_not_used(model, reference):
    high = {"model.layers.0.self_attn.key_ranges": lambda x: x + 10**6}
    high |= {"visual.window_index": lambda x: x * 0, "visual.cu_window_seqlens": lambda x: x[::-1]}
    found = single(model, reference, dump_without(reference, "nothing", high, call=0))
    wrong = {v.name for v in found.compared if v.bad}
    held = {n for n in high if reference.get(n) is not None}
    assert wrong == held


def test_a_residual_sum_says_what_to_add(model, reference):
    name = "model.layers.1"
    bad = dump_without(reference, rf"{name}\.(self_attn|mlp)(\..*)?", {name: lambda x: x * 1.01}, 0)
    wrong = [v for v in single(model, reference, bad).compared if v.bad]
    verdict = wrong[0]
    assert verdict.name == name and all("residual" not in v.note for v in wrong[1:])
    assert verdict.note.endswith(
        f"add {name}.self_attn and {name}.mlp to the dump to see which part is wrong"
    )


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
