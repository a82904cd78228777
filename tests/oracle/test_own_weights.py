"""A port's own weights: quantised files of MLX and GGUF, read back into our model."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import tinyqwenvl
from tinyqwenvl import UserError
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.own_weights import dequantised, with_weights
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.weights import flatten

GROUP = 4


def packed(matrix, bits):
    """As MLX quantises: words, scales, offsets; and the values that they stand for."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = np.maximum((high - low) / (2**bits - 1), 1e-8).astype(np.float32)
    values = np.round((groups - low) / scale).astype(np.uint8)
    stream = (values[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    words = np.packbits(stream.reshape(len(matrix), -1), axis=-1, bitorder="little")
    exact = (values * scale + low).reshape(matrix.shape).astype(np.float32)
    return words.view(np.uint32), scale[..., 0], low[..., 0].astype(np.float32), exact


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_words_of_any_width(bits):
    matrix = np.random.default_rng(bits).normal(size=(5, 64)).astype(np.float32)
    words, scales, offsets, exact = packed(matrix, bits)
    np.testing.assert_array_equal(dequantised(words, scales, offsets, GROUP), exact)


def test_words_that_do_not_fit():
    with pytest.raises(UserError, match="are not 2 groups of 64 values"):
        dequantised(np.zeros((1, 3), np.uint32), np.ones((1, 2)), np.ones((1, 2)), 64)


def mlx_folder(model, folder):
    """mlx-vlm's layout: its names, kernels with the channels last, 4-bit matrices of the layers."""
    folder.mkdir()
    stored, values = {}, {}
    for name, array in flatten(model.weights).items():
        theirs = name.replace("visual.", "vision_tower.")
        theirs = theirs.replace("model.", "language_model.model.", 1)
        values[name] = array
        if name.startswith("model.layers.") and name.endswith(("q_proj.weight", "up_proj.weight")):
            words, scales, offsets, values[name] = packed(array, 4)
            stem = theirs.removesuffix(".weight")
            stored |= {theirs: words, f"{stem}.scales": scales, f"{stem}.biases": offsets}
        elif array.ndim == 5:
            stored[theirs] = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            stored[theirs] = array.astype(ml_dtypes.bfloat16)
            values[name] = stored[theirs].astype(np.float32)
    safetensors.numpy.save_file(stored, folder / "model.safetensors")
    quantization = {"quantization": {"group_size": GROUP, "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantization))
    if model.config.tie_word_embeddings:
        values["lm_head.weight"] = values["model.embed_tokens.weight"]
    return values


def test_a_folder_of_mlx(model, tmp_path):
    values = mlx_folder(model, tmp_path / "mlx")
    ours = flatten(with_weights(model, [tmp_path / "mlx"]).weights)
    assert set(ours) == set(values)
    for name, array in ours.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, values[name], err_msg=name)


def test_files_of_gguf(model, family, tmp_path):
    gguf = pytest.importorskip("gguf")
    text = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 99)
    vision = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 99)
    files = {"text.gguf": {}, "mmproj.gguf": {}}
    values = flatten(model.weights)
    for name, array in values.items():
        part = "mmproj.gguf" if name.startswith("visual") else "text.gguf"
        known = vision if name.startswith("visual") else text
        theirs = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if array.ndim == 5:
            files[part] |= {theirs: array[:, :, 0], f"{theirs}.1": array[:, :, 1]}
        elif "attn_qkv" in theirs and "blk.0" in theirs:
            for letter, third in zip("qkv", np.split(array, 3), strict=True):
                files[part][theirs.replace("attn_qkv", f"attn_{letter}")] = third
        else:
            files[part][theirs] = array
    if model.config.tie_word_embeddings:
        files["text.gguf"].pop("output.weight")
    for name, tensors in files.items():
        writer = gguf.GGUFWriter(tmp_path / name, "qwen2vl")
        for key, array in tensors.items():
            kind = gguf.GGMLQuantizationType.Q8_0
            if key == "blk.0.attn_q.weight":
                rough = gguf.quantize(array, kind)
                values["model.layers.0.self_attn.q_proj.weight"] = gguf.dequantize(rough, kind)
                writer.add_tensor(key, rough, raw_dtype=kind)
            else:
                writer.add_tensor(key, np.ascontiguousarray(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    ours = flatten(with_weights(model, [tmp_path / n for n in files]).weights)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, values[name], err_msg=name)
    changed = values["model.layers.0.self_attn.q_proj.weight"]
    before = flatten(model.weights)["model.layers.0.self_attn.q_proj.weight"]
    assert 0 < np.abs(changed - before).max() < 0.05
    alone = with_weights(model, [tmp_path / "text.gguf"])  # the rest stays the checkpoint's
    np.testing.assert_array_equal(
        alone.weights.visual.patch_embed.proj.weight, model.weights.visual.patch_embed.proj.weight
    )


def test_a_reference_on_the_ports_weights(model, checkpoint, tmp_path, capsys):
    """The model's own 4 bits: far from the checkpoint, equal to what it was quantised to."""
    mlx_folder(model, tmp_path / "mlx")
    quantised = with_weights(model, [tmp_path / "mlx"])
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in ("plain", "own")}
    words = ["record", "-m", str(checkpoint), "--floors", "float32", "-o"]
    assert main([*words, paths["plain"]]) == 0
    assert main([*words, paths["own"], "--weights-from", str(tmp_path / "mlx")]) == 0
    own = open_dump(paths["own"])
    assert own.about["model"]["source"] == str(checkpoint.resolve())
    with tinyqwenvl.trace() as stages:
        quantised.ask(str(tinyqwenvl.model.EXAMPLE_IMAGE), "describe", max_tokens=1)
    np.testing.assert_array_equal(own["model.layers.0"], stages["model.layers.0"][0])
    assert main(["diff", paths["own"], paths["own"]]) == 0
    assert main(["diff", paths["plain"], paths["own"], "--no-explain"]) == 1
    capsys.readouterr()
    assert main(["diff", paths["own"], paths["plain"]]) == 1  # explains on the port's weights
    assert "give the checkpoint" not in capsys.readouterr().out


def bad_sources(place):
    yield place / "none.safetensors", "is missing"
    (place / "cut.gguf").write_bytes(b"GGUF")
    yield place / "cut.gguf", "is not a GGUF file"
    (place / "empty").mkdir()
    yield place / "empty", "holds no .safetensors"
    (place / "weights.bin").write_bytes(b"")
    yield place / "weights.bin", "weights are read from"
    safetensors.numpy.save_file({"a.weight": np.ones(2)}, place / "other.safetensors")
    yield place / "other.safetensors", "holds none of the model's weights; it holds a.weight"
    size = {"model.norm.weight": np.ones(7, np.float32)}
    safetensors.numpy.save_file(size, place / "size.safetensors")
    yield place / "size.safetensors", "is it another size?"
    ints = {"model.norm.weight": np.ones(64, np.int8)}
    safetensors.numpy.save_file(ints, place / "ints.safetensors")
    yield place / "ints.safetensors", "an unknown quantisation"


def test_bad_weights_are_one_line(checkpoint, tmp_path, capsys):
    pytest.importorskip("gguf")
    target = str(tmp_path / "ref.safetensors")
    for path, words in bad_sources(tmp_path):
        argv = ["record", "-m", str(checkpoint), "-o", target, "--weights-from", str(path)]
        assert main(argv) == 2, path
        err = [e for e in capsys.readouterr().err.splitlines() if not e.startswith("note:")]
        assert len(err) == 1 and words in err[0], (path, err)
