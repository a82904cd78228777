"""Which known bug explains a difference; checking one function."""

import numpy as np
import pytest
import safetensors.numpy

import tinyqwenvl
from tinyqwenvl import UserError
from tinyqwenvl.oracle.bug_runs import BugRuns
from tinyqwenvl.oracle.check import check
from tinyqwenvl.oracle.diff import compare
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
