"""Dumps in every format that is read, right and broken."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from tinyqwenvl import UserError
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.readers import open_dump


def formats(place, arrays):
    """The same tensors in every format that is read."""
    np.savez(place / "a.npz", **arrays)
    np.savez_compressed(place / "b.npz", **arrays)
    safetensors.numpy.save_file(arrays, place / "c.safetensors")
    for kind in ("npy", "bin", "shape"):
        (place / kind).mkdir()
    shapes = {}
    for name, array in arrays.items():
        np.save(place / "npy" / f"{name}.npy", array)
        array.tofile(place / "bin" / f"{name}.bin")
        array.tofile(place / "shape" / f"{name}.bin")
        shapes[name] = {"shape": list(array.shape), "dtype": str(array.dtype)}
        words = " ".join(map(str, array.shape)) + f" {array.dtype}"
        (place / "shape" / f"{name}.shape").write_text(words)
    (place / "bin" / "shapes.json").write_text(json.dumps(shapes))
    return [place / n for n in ("a.npz", "b.npz", "c.safetensors", "npy", "bin", "shape")]


def test_every_format(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "visual.merger": rng.normal(size=(4, 6)).astype(np.float32),
        "visual": np.asfortranarray(rng.normal(size=(3, 5)).astype(np.float16)).copy(),
        "input_ids": np.arange(7),
    }
    for path in formats(tmp_path, arrays):
        dump = open_dump(path)
        assert {e.name for e in dump} == set(arrays), path
        for name, array in arrays.items():
            np.testing.assert_array_equal(dump[name], array)
            assert dump.get(name).dtype == str(array.dtype)
    np.savez(tmp_path / "f.npz", visual=np.asfortranarray(arrays["visual.merger"]))
    np.testing.assert_array_equal(open_dump(tmp_path / "f.npz")["visual"], arrays["visual.merger"])


def test_bfloat16_in_npy_and_bin(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.linspace(-2, 2, 12).astype(ml_dtypes.bfloat16).reshape(3, 4)
    np.save(tmp_path / "visual.npy", x)
    x.tofile(tmp_path / "visual.bin")
    (tmp_path / "visual.json").write_text('{"shape": [3, 4], "dtype": "bfloat16"}')
    for name in ("visual.npy", "visual.bin"):
        dump = open_dump(tmp_path / name)
        assert dump.get("visual").dtype == "bfloat16"
        np.testing.assert_array_equal(dump["visual"], x.astype(np.float32))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def broken_dumps(place):
    """(path, words of the one line)."""
    good = io.BytesIO()
    np.save(good, np.ones((4, 4), np.float32))

    def write(name, data):
        (place / name).write_bytes(data)
        return place / name

    objects = io.BytesIO()
    np.save(objects, np.array([Evil()], dtype=object), allow_pickle=True)
    yield write("object.npy", objects.getvalue()), "never loaded"
    np.savez(place / "object.npz", a=np.array([Evil()], dtype=object))
    yield place / "object.npz", "never loaded"
    yield write("pickle.npy", pickle.dumps({"a": 1})), "cannot be read"
    yield write("cut.npy", good.getvalue()[:-5]), "is cut"
    yield write("cut.npz", b"PK\x03\x04" + bytes(50)), "cannot be read"
    yield write("text.npy", b"hello"), "cannot be read"
    yield write("cut.safetensors", struct.pack("<Q", 100) + b'{"a":'), "truncated or not"
    yield write("x.bin", bytes(16)), "needs its shape"
    write("y.json", b'{"shape": [3], "dtype": "float32"}')
    yield write("y.bin", bytes(16)), "16 bytes"
    write("z.json", b'{"shape": [4], "dtype": "object"}')
    yield write("z.bin", bytes(16)), "is not one of"
    yield write("what.txt", b"1 2 3"), "is not a dump"
    yield place / "nowhere.npz", "no such dump"
    (place / "empty").mkdir()
    yield place / "empty", "no .npy"
    np.savez(place / "none.npz")
    yield place / "none.npz", "no tensors"
    np.savez(place / "words.npz", a=np.array(["a", "b"]))
    yield place / "words.npz", "of dtype"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    yield write("huge.npy", huge), "over 64 GB"
    strange = b"{'descr': (".ljust(117) + b"\n"
    yield write("strange.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + strange), "cannot be"
    truth = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }".ljust(117) + b"\n"
    lie = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + truth + bytes(16)
    yield write("truth.npy", lie), "an invalid shape"
    np.savez_compressed(place / "flipped.npz", visual=np.zeros((64, 64), np.float32))
    data = bytearray((place / "flipped.npz").read_bytes())
    data[60:64] = b"\xff\xff\xff\xff"
    yield write("flipped.npz", bytes(data)), "cannot be read"
    with zipfile.ZipFile(place / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        small = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }"
        small += b" " * (118 - len(small) - 1) + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(small)) + small
        archive.writestr("visual.npy", start + bytes(200_000_000))
    yield place / "bomb.npz", "is cut off: its data does not fill its shape"
    np.savez(place / "twice.npz", **{"model.visual": np.ones(2), "visual": np.ones(2)})
    yield place / "twice.npz", "twice, under two names"


def test_broken_dumps_get_one_line(tmp_path, capsys):
    cases = list(broken_dumps(tmp_path))
    for path, words in cases:
        with pytest.raises(UserError) as error:
            open_dump(path)
        assert words in str(error.value), (path, str(error.value))
        assert main(["diff", str(path), str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    assert len(cases) >= 18


def test_a_member_that_lies_is_not_unpacked_beyond_its_shape(tmp_path):
    """The size in the directory of the archive fits the shape, what is packed does not."""
    path = tmp_path / "lie.npz"
    np.savez_compressed(path, visual=np.zeros((512, 512), np.float32))
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")
    damaged = data[: at + 16] + b"\0\0\0\0" + data[at + 20 :]  # another checksum
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged|can no longer be read|cannot be read"):
        open_dump(path)["visual"]


def test_pt_goes_through_the_restricted_loader(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"visual": {"merger": torch.ones(2, 3, dtype=torch.bfloat16)}}, tmp_path / "a.pt")
    dump = open_dump(tmp_path / "a.pt")
    assert dump.get("visual.merger").dtype == "bfloat16" and dump["visual.merger"].sum() == 6
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        open_dump(tmp_path / "evil.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_dump(tmp_path / "pipe.safetensors")
