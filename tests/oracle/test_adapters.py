"""Names of other runtimes, on small samples of what these wrote; and nodes of ONNX graphs."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tinyqwenvl import UserError
from tinyqwenvl.oracle.adapters.names import outputs_of_modules, scope_of, torch_node
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


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_nodes_of_genai_of_one_name(kind, tmp_path):
    stem = "/model/layers.0/attn/q_proj"
    nodes = (f"{stem}/MatMul/output_0", f"{stem}/Add/output_0")
    arrays = {n: np.full((2, 3), i, np.float32) for i, n in enumerate(nodes)}
    if kind == "npz":
        np.savez(tmp_path / "a.npz", **arrays)
    else:
        safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    dump = open_dump(tmp_path / f"a.{kind}")
    assert len(dump) == 1 and dump["model.layers.0.self_attn.q_proj"].sum() == 6  # Add's


def test_what_ends_in_an_output_of_the_graph_is_not_guessed(tmp_path):
    """The last node of the merger is called as the graph's output: what is before it is not it."""
    nodes = ("/visual/merger/mlp/mlp.0/Add_output_0", "/visual/merger/mlp/mlp.1/Mul_1_output_0")
    np.savez(tmp_path / "a.npz", **{n: np.ones((2, 3)) for n in (*nodes, "image_embeds")})
    dump = open_dump(tmp_path / "a.npz")
    assert {e.name for e in dump} == {"visual", "visual.merger.mlp.0", "visual.merger.mlp.1"}


def test_a_graph_run_node_by_node(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tinyqwenvl.oracle.adapters.onnx import run_nodes

    make = onnx.helper
    nodes = [
        make.make_node("Add", ["x", "x"], ["/m/norm/Add_output_0"], "/m/norm/Add"),
        make.make_node("Mul", ["/m/norm/Add_output_0", "x"], ["/m/up/Mul_output_0"], "/m/up/Mul"),
        make.make_node("Relu", ["/m/up/Mul_output_0"], ["out"], "/m/mlp/Relu"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes, "g", [make.make_tensor_value_info("x", kind, [2, 3])],
        [make.make_tensor_value_info("out", kind, [2, 3])],
    )  # fmt: skip
    onnx.save(
        make.make_model(graph, opset_imports=[make.make_opsetid("", 18)]), tmp_path / "g.onnx"
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    run_nodes(tmp_path / "g.onnx", {"x": x}, tmp_path / "g.safetensors")
    dump = open_dump(tmp_path / "g.safetensors")
    np.testing.assert_array_equal(dump["m.norm"], 2 * x)
    np.testing.assert_array_equal(dump["m.up"], 2 * x * x)
    np.testing.assert_array_equal(dump["m.mlp"], 2 * x * x)
    with pytest.raises(UserError, match="needs the input x, which is not given"):
        run_nodes(tmp_path / "g.onnx", {}, tmp_path / "b.safetensors")
    pytest.importorskip("openvino")
    from tinyqwenvl.oracle.adapters import openvino

    openvino.run_nodes(tmp_path / "g.onnx", {"x": x}, tmp_path / "ov.safetensors")
    # What ends in an output of the graph has lost its module's name here.
    assert [e.name for e in open_dump(tmp_path / "ov.safetensors")] == ["m.norm"]
    with pytest.raises(UserError, match="no such file"):
        run_nodes(tmp_path / "none.onnx", {}, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("theirs", "scope"),
    [
        ("__module.visual.blocks.0.attn.qkv/aten::linear/Add", "visual.blocks.0.attn.qkv"),
        ("__module.visual.merger.mlp.0/aten::linear/MatMul_2", "visual.merger.mlp.0"),
        ("/visual/blocks.0/Add", "visual.blocks.0"),
        ("Constant_12", None),
    ],
)
def test_nodes_of_openvino(theirs, scope):
    node = torch_node(theirs)
    assert (node and scope_of(f"{node}_output_0")) == scope


@pytest.mark.parametrize("number", [0, 1])  # of either family
def test_mlx_vlm_agrees(number, tmp_path):
    pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed", exc_type=ImportError)
    from scripts.run_mlx_port import case

    for _, found in case(number, 2026, tmp_path, 3):
        assert found.first is None and len(found.compared) > 100
        assert any("calls joined into one" in note for note in found.notes)


def test_empty_files_of_a_folder(reference, tmp_path):
    for name in ("visual.merger", "model.norm"):
        np.save(tmp_path / f"{name}.npy", reference[name])
    (tmp_path / "lm_head.npy").write_bytes(b"")
    (tmp_path / "visual.bin").write_bytes(b"")
    found = compare(reference, open_dump(tmp_path))
    assert found.first is None and len(found.compared) == 2
    assert any("2 empty files left out, including lm_head.npy" in note for note in found.notes)
    for name in ("visual.merger", "model.norm"):
        (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(UserError, match="only empty ones"):
        open_dump(tmp_path)


def test_a_folder_of_llama_cpp(reference, family, tmp_path):
    """As its callback gives them: one encoder call per image, chunks, a last layer of one row."""
    ours = {
        **{
            f"v.{n}": f"visual.blocks.1{x}" for n, x in (("ffn_out-1", ".mlp"), ("layer_out-1", ""))
        },
        "v.Qcur_rope-1": "visual.blocks.1.attn.q",
        **{f"t.{n}": f"model.layers.1{x}" for n, x in (("ffn_out-1", ".mlp"), ("l_out-1", ""))},
        **{"t.kqv_out-1": "model.layers.1.self_attn.context", "t.result_output": "lm_head"},
    }
    images = np.cumsum(np.prod(reference["image_grid_thw"], axis=1))[:-1]
    for theirs, name in ours.items():
        calls = []
        for entry in (e for e in reference if e.name == name):
            array = entry.read()
            if array.ndim == 3:  # merged heads
                array = np.reshape(np.swapaxes(array, 0, 1), (array.shape[1], -1))
            if theirs[0] == "v":
                calls += np.split(array, images)
            elif entry.call == 0 and name == "lm_head":
                calls += [array[:0], array[-1:]]
            else:
                calls += np.split(array, [40]) if entry.call == 0 else [array]
        for number, array in enumerate(calls):
            stem = f"{theirs}#{number}" if number else theirs
            array.tofile(tmp_path / f"{stem}.bin")
            (tmp_path / f"{stem}.shape").write_text(f"{array.shape[0]} {array.shape[1]} float32")
    found = compare(reference, open_dump(tmp_path))
    assert found.first is None and not found.extra
    assert {v.name.partition("#")[0] for v in found.compared} == set(ours.values())
    last = next(v for v in found.compared if v.name == "lm_head")
    assert last.shape[0] == 1 and last.verdict == "equal"


def test_heads_in_one_row(reference):
    from test_aligning import remade

    def change(entry, array, _):
        if not entry.name.endswith("context"):
            return [array]
        return [np.reshape(np.swapaxes(array, 0, 1), (array.shape[1], -1))]

    found = compare(reference, remade(reference, change))
    assert found.first is None and any("merged heads" in note for note in found.notes)
