"""Names of other runtimes, on small samples of what these wrote; and nodes of ONNX graphs."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tinyqwenvl import UserError
from tinyqwenvl.oracle.adapters.names import outputs_of_modules
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.stages import canonical

SAMPLES = Path(__file__).parent / "names"


def samples():
    for path in sorted(SAMPLES.glob("*.json")):
        for theirs, ours in json.loads(path.read_text(encoding="utf-8")).items():
            yield pytest.param(theirs, ours, id=f"{path.stem}-{theirs}")


@pytest.mark.parametrize(("theirs", "ours"), list(samples()))
def test_names_of_a_runtime(theirs, ours):
    assert canonical(theirs) == (ours or theirs)


def test_every_runtime_has_its_sample():
    assert {p.stem for p in SAMPLES.glob("*.json")} == {
        *("genai", "llama_cpp", "mlx_vlm", "onnx", "wrappers"),
    }


NODES = (
    "/visual/blocks.0/norm1/Mul_1_output_0",
    "/visual/blocks.0/attn/qkv/MatMul_output_0",
    "/visual/blocks.0/attn/qkv/Add_output_0",
    "/visual/blocks.0/attn/Reshape_output_0",
    "/visual/blocks.0/attn/proj/MatMul_output_0",
    "/visual/blocks.0/attn/proj/Add_output_0",
    "/visual/blocks.0/Add_output_0",
    "/visual/blocks.0/mlp/act_fn/Mul_output_0",
    "/visual/blocks.0/mlp/Mul_output_0",
    "/visual/blocks.0/mlp/down_proj/MatMul_output_0",
    "/visual/blocks.0/mlp/down_proj/Add_output_0",
    "/visual/blocks.0/Add_1_output_0",
    "/visual/merger/mlp/mlp.0/MatMul_output_0",
    "/visual/merger/mlp/mlp.0/Add_output_0",
)


def test_the_last_node_of_a_module_is_its_output():
    found = outputs_of_modules(NODES)
    assert found["visual.blocks.0.attn.qkv"] == "/visual/blocks.0/attn/qkv/Add_output_0"
    assert found["visual.blocks.0.attn"] == "/visual/blocks.0/attn/proj/Add_output_0"
    assert found["visual.blocks.0.mlp"] == "/visual/blocks.0/mlp/down_proj/Add_output_0"
    assert found["visual.blocks.0"] == "/visual/blocks.0/Add_1_output_0"
    assert found["visual.merger.mlp.0"] == "/visual/merger/mlp/mlp.0/Add_output_0"


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_dump_of_all_nodes(kind, tmp_path):
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(NODES)}
    path = tmp_path / f"all.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    dump = open_dump(path)
    at = {name: int(dump[name][0, 0]) for name in ("visual.blocks.0", "visual.merger.mlp.0")}
    assert at == {"visual.blocks.0": 11, "visual.merger.mlp.0": 13}
    assert int(dump["visual.blocks.0.attn.qkv"][0, 0]) == 2
    assert any("14 nodes of a graph" in note for note in dump.notes)
    # Sorted by name, nothing tells what a module with parts gives: it is left out, not guessed.
    assert (dump.get("visual.blocks.0.mlp") is None) == (kind == "safetensors")


def test_empty_files_of_a_folder(reference, tmp_path):
    for name in ("visual.merger", "model.norm"):
        np.save(tmp_path / f"{name}.npy", reference[name])
    (tmp_path / "lm_head.npy").write_bytes(b"")
    (tmp_path / "visual.bin").write_bytes(b"")
    found = compare(reference, open_dump(tmp_path))
    assert found.first is None and len(found.compared) == 2
    assert any("2 empty files left out, lm_head.npy" in note for note in found.notes)
    for name in ("visual.merger", "model.norm"):
        (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(UserError, match="only empty ones"):
        open_dump(tmp_path)


def test_heads_in_one_row(reference):
    from test_aligning import remade

    def change(entry, array, _):
        if not entry.name.endswith("context"):
            return [array]
        return [np.reshape(np.swapaxes(array, 0, 1), (array.shape[1], -1))]

    found = compare(reference, remade(reference, change))
    assert found.first is None and any("heads in one row" in note for note in found.notes)
