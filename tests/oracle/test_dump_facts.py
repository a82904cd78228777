"""What a dump says of itself: its number format, its model, and geometry that cannot be."""

import numpy as np
import pytest
from test_aligning import remade, saved

from tinyqwenvl import UserError
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.bits import format_of
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.precision import to_bf16, to_float16


def test_a_format_is_known_by_its_bits(reference, place):
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    assert format_of(x) == "float32" and format_of(to_bf16(x)) == "bfloat16"
    assert format_of(to_float16(x)) == "float16" and format_of(np.float64(to_bf16(x))) == "bfloat16"
    assert format_of(np.zeros((40, 8), np.float32)) == ""
    assert format_of(np.repeat([0.5, 0.25, 1.5], 60).astype(np.float32)) == ""
    assert format_of(np.full(3, np.nan, np.float32)) == ""

    def rounded(entry, array, _):
        return [to_bf16(array) if array.dtype == np.float32 else array]

    found = compare(reference, remade(reference, rounded))
    assert found.precision == "bfloat16" and found.first is None
    assert any("its values are those of bfloat16" in note for note in found.notes)

    def embeddings(entry, array, _):
        return [to_bf16(array) if entry.name == "model.embed_tokens" else array]

    assert compare(reference, remade(reference, embeddings)).precision == "float32"


def test_another_family_or_size_is_refused(reference, family):
    other = {"qwen2_vl": "qwen2_5_vl", "qwen2_5_vl": "qwen2_vl"}[family]
    theirs = remade(reference, lambda _, array, __: [array])
    theirs.about = {"model_type": other}
    with pytest.raises(UserError, match=f"theirs is from a {other}, .* from a {family}"):
        compare(reference, theirs)

    def narrower(entry, array, axes):
        return [array[..., :-8] if axes[-1:] == ("D",) else array]

    with pytest.raises(
        UserError, match=r"another size: model\.embed_tokens has hidden size 56, .* 64"
    ):
        compare(reference, remade(reference, narrower))

    def one(entry, array, _):  # one stage alone is a bug of the port
        return [array[..., :-8] if entry.name == "visual.merger" else array]

    found = compare(reference, remade(reference, one))
    assert next(v for v in found.compared if v.name == "visual.merger").verdict != "equal"


def test_steps_after_another_token_are_left_out(reference):
    def change(entry, array, axes):
        if entry.key == "generated":
            return [(array + 1) % 300]
        later = entry.call and entry.name.startswith(("model.", "lm_head"))
        return [-array if later and array.dtype == np.float32 else array]

    found = compare(reference, remade(reference, change))
    assert [v.name for v in found.compared if v.bad] == ["generated"]
    assert any("generated is a different token: later steps" in n for n in found.notes)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("image_grid_thw", np.array([[1, 0, 4]])),
        ("image_grid_thw", np.array([1.5, 2])),
        ("image_grid_thw", np.array([[1 << 40, 1 << 20, 1 << 20]])),
        ("visual.window_index", np.array([0, 0, 7, -3])),
        ("visual.window_index", np.array([[0.5]])),
        ("visual.cu_window_seqlens", np.array([0, 9, 4])),
        ("visual.cu_window_seqlens", np.array([], np.int64)),
        ("input_ids", np.array(3)),
        ("generated", np.array([[1.5, 2.0]])),
    ],
)
def test_damaged_geometry_is_no_traceback(reference, place, capsys, name, array):
    """Short rows all over, so that every way to match them is tried."""

    def change(entry, values, axes):
        if entry.key == name:
            return [array]
        cut = "N" in axes or "S" in axes
        return [values[..., :-1, :] if cut and values.ndim > 1 else values]

    paths = [saved(reference, place / "plain.safetensors")]
    paths.append(saved(remade(reference, change), place / "damaged.safetensors"))
    for one, other in (paths, paths[::-1]):
        assert main(["diff", one, other]) in (1, 2)
        assert "Traceback" not in capsys.readouterr().err
