"""Which known bug explains a difference; checking one function."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

import tinyqwenvl
from tinyqwenvl import UserError
from tinyqwenvl.oracle import report
from tinyqwenvl.oracle.bug_runs import BugRuns
from tinyqwenvl.oracle.check import check
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.dump import Entry
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.mutants import MUTANTS, apply
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import record


def broken(model, job, path, name, **options):
    with apply(name), np.errstate(all="ignore"):
        return record(model, job, path, floors=(), **options)


@pytest.fixture(scope="module")
def runs(model, job, reference):
    """Of every bug, once for all that is explained; without it explain makes them itself."""
    return BugRuns(model, job, reference.entries)


@pytest.mark.parametrize(
    "name",
    ["vision_no_rope", "merger_quick_gelu", "gqa_heads_in_turn", "positions_in_one_dimension"],
)
def test_the_bug_is_named(name, model, job, reference, runs, place, family):
    bad = broken(model, job, place / f"{name}-{family}.safetensors", name)
    found = compare(reference, bad)
    best = explain(found, model, runs=runs)[0]
    assert (best["mutant"], best["score"]) == (name, 1.0)


FAULTS = ("merger_gelu_tanh", "gqa_heads_in_turn")


@pytest.mark.parametrize("order", [FAULTS, FAULTS[::-1]])
def test_two_faults_are_explained_one_after_the_other(order, model, job, reference, place, family):
    with apply(*order), np.errstate(all="ignore"):
        bad = record(model, job, place / f"two-{family}.safetensors", floors=())
    found = compare(reference, bad)
    found.explanation = explain(found, model)
    first, second = found.explanation[:2]
    assert (first["mutant"], "with" in first) == ("merger_gelu_tanh", False) and first["score"] < 1
    assert (second["mutant"], second["with"]) == ("gqa_heads_in_turn", "merger_gelu_tanh")
    assert second["score"] == 1.0
    text = report.as_text(found)
    assert "explained by gqa_heads_in_turn together with merger_gelu_tanh [100%]" in text
    assert len(explain(found, model, faults=1)) < len(found.explanation)


def test_two_faults_in_one_function_are_both_made(model, job, reference, place, family):
    """Two bugs that replace the same function, or variants of one module."""
    inputs = model.prepare(job.messages)
    for names in (("vision_qkv_bias_missing", "merger_biases_missing"),
                  ("vision_no_rope", "vision_attention_not_scaled")):  # fmt: skip
        outputs = []
        for applied in (names, names[::-1], names[:1], names[1:]):
            with apply(*applied):
                outputs.append(model.image_features(inputs.pixel_values, inputs.image_grid_thw))
        np.testing.assert_array_equal(*outputs[:2])
        assert not np.allclose(outputs[0], outputs[2]) and not np.allclose(outputs[0], outputs[3])


def test_the_score_does_not_depend_on_the_order_of_the_reference(
    model, job, reference, place, family
):
    """Hooks see stages in another order; a bug that reproduces all of them is 100%."""
    name = "positions_in_one_dimension"  # wrong integers, which come late in a run
    bad = broken(model, job, place / f"order-{family}.safetensors", name)
    late = sorted(reference.entries.items(), key=lambda item: "position_ids" in item[0][0])
    mixed = replace(reference, entries=dict(late))
    found = compare(mixed, bad)
    assert found.verdicts[-1].name.startswith("model.position_ids")
    best = explain(found, model)[0]
    assert (best["mutant"], best["score"]) == (name, 1.0)
    some = enumerate(bad.entries.items())
    half = {key: e for i, (key, e) in some if i % 2 == 0 or key[0] == "generated"}
    best = explain(compare(mixed, replace(bad, entries=half)), model)[0]
    assert (best["mutant"], best["score"]) == (name, 1.0)


def test_no_bug_is_tried_where_none_gives_the_shape(model, reference, monkeypatch):
    from tinyqwenvl.oracle import explain as module

    def never(*_):
        raise AssertionError("a run")

    merger = np.array(reference["visual.merger"])[:-1]
    entries = {
        ("visual.merger", 0): Entry("visual.merger", 0, merger.shape, "float32", lambda: merger)
    }
    found = compare(reference, replace(reference, source="mine", entries=entries))
    assert found.first.verdict == "shape"
    monkeypatch.setattr(module, "run", never)
    monkeypatch.setattr(module, "shown_by", never)
    found.explanation = explain(found, model)
    text = report.as_text(found)
    assert found.explanation == [] and "no known bug explains it" in text
    assert "first: visual.merger: [57, 64] instead of [58, 64]\n" in text


def test_a_bug_of_the_prompt_explains_another_shape(model, job, reference, place, family):
    name = "placeholders_not_merged"
    ids = np.repeat(reference["input_ids"], 1)
    with apply("no_vision_markers"):
        other = model.prepare(job.messages).input_ids
    assert other.shape != ids.shape
    entries = {("input_ids", 0): Entry("input_ids", 0, other.shape, "int64", lambda: other)}
    found = compare(reference, replace(reference, source="mine", entries=entries))
    names = [line["mutant"] for line in explain(found, model)]
    assert "no_vision_markers" in names and name not in names


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
    with pytest.raises(UserError, match="has no inputs of input_ids"):
        check("input_ids", mine, reference)
