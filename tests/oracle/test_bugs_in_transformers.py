"""Bugs made in transformers, not by our own mutants, are named; a checkpoint is verified."""

import sys

import pytest

import tinyqwenvl
from tinyqwenvl.oracle import mutants
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.bug_runs import BugRuns
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record
from tinyqwenvl.oracle.vectors import FOLDER

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from tinyqwenvl.oracle.torch import instrument  # noqa: E402


def tanh_gelu(witness, monkeypatch):
    witness.model.model.visual.merger.mlp[1].approximate = "tanh"


def no_rope(witness, monkeypatch):
    module = sys.modules[type(witness.model.model.visual).__module__]
    monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", lambda q, k, *_, **__: (q, k))


def no_bias(witness, monkeypatch):
    for layer in witness.model.model.language_model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).bias = None


def wrong_eps(witness, monkeypatch):
    for module in witness.model.model.language_model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-5


BUGS = {
    "merger_gelu_tanh": tanh_gelu,
    "vision_no_rope": no_rope,
    "qkv_bias_missing": no_bias,
    "text_eps_class_default": wrong_eps,
}


@pytest.fixture(scope="module")
def ours(case, tmp_path_factory):
    """Our model, its dump of the prompt, and its runs with each bug."""
    witness, _, _, inputs = case
    model = tinyqwenvl.load(witness.config._name_or_path)
    names = ("input_ids", "pixel_values", "image_grid_thw")
    job = Job(None, {name: getattr(inputs, name) for name in names})
    target = tmp_path_factory.mktemp("ours") / "ref.safetensors"
    reference = record(model, job, target, floors=["float32"])
    return model, reference, BugRuns(model, job, reference.entries)


def named(path, ours):
    """The first stage that differs, and the bug that explains it."""
    model, reference, runs = ours
    found = compare(reference, open_dump(path))
    return found.first.name, explain(found, model, runs=runs)[0]["mutant"]


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_made_in_transformers_is_named(name, case, ours, hf, tmp_path, monkeypatch):
    """Not our own mutant, but the same bug in another implementation."""
    whole, given, _, _ = case
    witness = hf.Witness(whole.config._name_or_path)
    BUGS[name](witness, monkeypatch)
    with torch.no_grad(), instrument(witness.model, tmp_path / "bad.safetensors"):
        witness.model(**given)
    assert named(tmp_path / "bad.safetensors", ours)[1] == name


def test_token_types_forgotten(case, ours, tmp_path):
    """transformers 5.23 then counts image tokens like text, without a word (Qwen2.5-VL), or refuses
    (Qwen2-VL).
    """
    witness, given, _, _ = case
    given = {n: v for n, v in given.items() if n != "mm_token_type_ids"}
    if witness.config.model_type == "qwen2_vl":
        with pytest.raises(ValueError, match="mm_token_type_ids"):
            witness.model(**given)
        return
    with torch.no_grad(), instrument(witness.model, tmp_path / "bad.safetensors"):
        witness.model(**given)
    found = named(tmp_path / "bad.safetensors", ours)
    assert found == ("model.position_ids", "positions_in_one_dimension")


# ------------------------------------------------------------------ a whole checkpoint


def test_verify(hf, tmp_path, capsys):
    directory = str(FOLDER / "models" / "qwen2_5_vl")
    assert main(["verify", directory, "--tokens", "2", "-o", str(tmp_path / "v.md")]) == 0
    report = (tmp_path / "v.md").read_text(encoding="utf-8")
    assert "5 images: all agree" in report and "model.safetensors" in report
    with mutants.apply("merger_quick_gelu"):
        assert main(["verify", directory, "--tokens", "2"]) == 1
    out = capsys.readouterr().out
    assert "NOT all agree" in out and "| visual.merger |" in out
    assert main(["verify", directory, "--revision", "x"]) == 2
    assert main(["verify", directory, "--tokens", "0"]) == 2
