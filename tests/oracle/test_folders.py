"""Folders of recorded calls; bfloat16 in our own writer."""

import json
import os
import pickle
import re

import numpy as np
import pytest

from tinyqwenvl import UserError
from tinyqwenvl.oracle.dump import Writer
from tinyqwenvl.oracle.readers import open_dump

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from tinyqwenvl.oracle.folders import read_folder, record_calls, write_folder  # noqa: E402
from tinyqwenvl.oracle.torch import instrument_tree  # noqa: E402


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.eps = 1e-6

    @record_calls("Qwen2RMSNorm")
    def forward(self, x, scale=None, pair=None, flag=True):
        return (x + self.eps, None, scale) if pair is None else x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty calls, recorded as fast as they come."""
    monkeypatch.chdir(tmp_path)
    norm = Norm()
    for i in range(18):
        norm(torch.full((2, 3), float(i)), scale=torch.ones(3, dtype=torch.bfloat16))
    norm(torch.ones(8, 3)[:2], pair=(torch.zeros(2), torch.ones(2)), flag=None)
    norm(torch.ones(1), None, pair=[])
    return tmp_path / "module_io_data"


def test_the_layout_of_a_call(folder):
    places = sorted(folder.iterdir())
    assert len(places) == 20
    assert all(re.fullmatch(r"Qwen2RMSNorm_\d{8}_\d{6}_\d{6}", p.name) for p in places)

    def files(place):
        return sorted(str(f.relative_to(place)) for f in place.rglob("*") if f.is_file())

    assert files(places[0]) == [
        *("inputs/arg_0.pt", "inputs/kwarg_scale.pt", "metadata.json"),
        *("outputs/output_0.pt", "outputs/output_2.pt"),
    ]
    assert files(places[18]) == [
        *("inputs/arg_0.pt", "inputs/kwarg_pair_0.pt", "inputs/kwarg_pair_1.pt"),
        *("metadata.json", "outputs/output.pt"),
    ]
    metadata = json.loads((places[18] / "metadata.json").read_text())
    assert metadata["module"] == "Qwen2RMSNorm" and metadata["class"] == "Norm"
    assert metadata["settings"] == {"eps": 1e-6, "class": "Norm"}
    assert metadata["inputs"]["kwargs"]["flag"] is None
    (told,) = metadata["inputs"]["args"]
    assert told["shape"] == [2, 3] and told["path"].startswith("module_io_data/Qwen2RMSNorm_")
    found = torch.load(folder.parent / told["path"], weights_only=True)
    assert found.shape == (2, 3) and found.untyped_storage().nbytes() == 24  # not all of the view's


def test_reading_a_folder(folder):
    dump = open_dump(folder)
    assert [e.key for e in dump][:4] == [
        *("Qwen2RMSNorm", "Qwen2RMSNorm.2", "Qwen2RMSNorm#1", "Qwen2RMSNorm.2#1"),
    ]
    assert [e.call for e in dump if e.name == "Qwen2RMSNorm"] == list(range(20))
    for i in range(18):  # in the order of time
        np.testing.assert_array_equal(
            dump.get("Qwen2RMSNorm", i).read()[0, 0], np.float32(i + 1e-6)
        )
    assert dump.get("Qwen2RMSNorm.2", 5).dtype == "bfloat16"
    info = dump.get("Qwen2RMSNorm", 18).info
    assert info["settings"]["eps"] == 1e-6
    assert info["inputs"] == {
        "arg_0": "inputs/Qwen2RMSNorm#18/arg_0",
        "pair.0": "inputs/Qwen2RMSNorm#18/pair.0",
        "pair.1": "inputs/Qwen2RMSNorm#18/pair.1",
    }
    assert dump[info["inputs"]["pair.1"]].tolist() == [1, 1]


def test_a_folder_goes_there_and_back(toy, folder, tmp_path):
    with instrument_tree(toy.bfloat16(), tmp_path / "a.safetensors"):
        toy(torch.randn(1, 3, dtype=torch.bfloat16))
    for source in (tmp_path / "a.safetensors", folder):
        dump = open_dump(source)
        again = open_dump(write_folder(dump, tmp_path / f"again_{source.name}"))
        assert [e.key for e in again] == [e.key for e in dump]
        for entry, other in zip(dump, again, strict=True):
            assert (other.dtype, other.shape) == (entry.dtype, entry.shape)
            np.testing.assert_array_equal(other.read(), entry.read())
            assert other.info["settings"] == entry.info.get("settings", {})
            assert set(other.info["inputs"]) == set(entry.info["inputs"])
            for argument, key in entry.info["inputs"].items():
                np.testing.assert_array_equal(again[other.info["inputs"][argument]], dump[key])


def test_a_folder_that_others_wrote(tmp_path):
    """Seconds only in the name, all settings as text, no argument told."""
    for i, name in enumerate(
        ["Mlp_20250304_101500", "Attn_20250304_101501", "Mlp_20250304_101502"]
    ):
        for part in ("inputs", "outputs"):
            (tmp_path / name / part).mkdir(parents=True)
        torch.save(torch.full((2,), i), tmp_path / name / "inputs" / "arg_0.pt")
        torch.save((torch.ones(1), torch.zeros(1)), tmp_path / name / "inputs" / "kwarg_pair.pt")
        torch.save(torch.full((2,), i + 1), tmp_path / name / "outputs" / "output.pt")
        metadata = {"module": name[:-16], "settings": {"eps": "1e-06"}}
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
    dump = read_folder(tmp_path)
    assert [e.key for e in dump] == ["Mlp", "Attn", "Mlp#1"]
    assert dump["Mlp#1"].tolist() == [3, 3]
    assert set(dump.get("Attn").info["inputs"]) == {"arg_0", "pair.0", "pair.1"}


def test_a_call_that_fails_leaves_nothing(tmp_path):
    class Bad(torch.nn.Module):
        @record_calls("Bad", tmp_path / "calls")
        def forward(self, x):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Bad()(torch.ones(2))
    assert list((tmp_path / "calls").iterdir()) == []
    blocked = tmp_path / "file"
    blocked.write_text("")

    class Blocked(torch.nn.Module):
        @record_calls("Blocked", blocked)
        def forward(self, x):
            return x

    with pytest.raises(UserError, match="cannot write"):
        Blocked()(torch.ones(2))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_pickle_is_never_run(folder, tmp_path):
    place = sorted(folder.iterdir())[3]
    for file in (place / "outputs" / "output_0.pt", tmp_path / "evil.pt"):
        torch.save({"x": Evil()}, file)
        with pytest.raises(UserError, match="holds more than tensors") as caught:
            open_dump(folder if folder in file.parents else file)
        assert "\n" not in str(caught.value)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="holds more than tensors"):
        open_dump(plain)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "metadata",
    ["", "[]", '{"module": 3, "inputs": 4, "outputs": [[[]]], "settings": []}', "[" * 100_000],
)
def test_damaged_metadata(folder, metadata):
    for place in folder.iterdir():
        (place / "metadata.json").write_text(metadata)
    try:
        assert open_dump(folder).get("Qwen2RMSNorm") is not None
    except UserError as error:
        assert "\n" not in str(error)


def test_paths_in_metadata_are_not_followed(folder, tmp_path):
    torch.save(torch.zeros(7), tmp_path / "secret.pt")
    place = sorted(folder.iterdir())[18]
    metadata = json.loads((place / "metadata.json").read_text())
    metadata["outputs"]["path"] = str(tmp_path / "secret.pt")
    (place / "metadata.json").write_text(json.dumps(metadata))
    assert open_dump(folder).get("Qwen2RMSNorm", 18).shape == (2, 3)


# ------------------------------------------------------------------ the writer


def test_a_writer_stores_bfloat16(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, np.inf, np.nan, 1e-39], np.float32)
    with Writer(tmp_path / "a.safetensors") as writer:
        writer.add("a", values, dtype="bfloat16")
        writer.add_input("a", "x", values, "bfloat16")
        with pytest.raises(UserError, match="float8"):
            writer.add("b", values, dtype="float8")
    dump = open_dump(tmp_path / "a.safetensors")
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    for entry in (dump.get("a"), dump.inputs["inputs/a/x"]):
        assert entry.dtype == "bfloat16"
        np.testing.assert_array_equal(entry.read(), expected)
