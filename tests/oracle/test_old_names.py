"""Dumps, maps, globs and commands with the stage names of version 0.1: ``picture``, ``spans``."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from scripts.random_checkpoint import random_image
from tinyqwenvl.model import user_message
from tinyqwenvl.nn import attention
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.check import check, inputs_of
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.mutants import MUTANTS, RENAMED, apply, find_mutant
from tinyqwenvl.oracle.page import as_html
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, job_from_file, measure_floors, record
from tinyqwenvl.oracle.single import single

CONTEXT = "visual.blocks.0.attn.context"
OLD, NEW = "visual.blocks.0.attn.spans", "visual.blocks.0.attn.key_ranges"


def old_key(key):
    """What version 0.1 called a key of today."""
    if key.startswith("inputs/"):
        return re.sub(r"/key_ranges$", "/spans", re.sub(r"\bkey_ranges\b", "spans", key))
    return re.sub(r"^image\.rgb\b", "picture", re.sub(r"\bkey_ranges\b", "spans", key))


def as_version_0_1(dump, path):
    """The same dump as version 0.1 would have written it."""
    arrays = safetensors.numpy.load_file(dump.source)
    safetensors.numpy.save_file({old_key(k): x for k, x in arrays.items()}, path)
    with open(dump.source.replace(".safetensors", ".json"), encoding="utf-8") as file:
        manifest = json.load(file)
    for line in manifest["stages"]:
        line["name"], line["key"] = old_key(line["name"]), old_key(line["key"])
        names = {"key_ranges": "spans"}
        line["inputs"] = {names.get(n, n): old_key(k) for n, k in line["inputs"].items()}
    for message in manifest["messages"]:
        for item in message["content"]:
            if item["type"] == "image":
                item["picture"] = item.pop("image")
    path.with_suffix(".json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("old")


@pytest.fixture(scope="module")
def new(model, family, folder):
    images = [random_image(1, 70, 140), random_image(2, 84, 56)]
    job = Job(user_message(images, "what is different?"), tokens=1)
    return record(model, job, folder / f"{family}.safetensors", floors=["float32"])


@pytest.fixture(scope="module")
def old(new, family, folder):
    """The path of the dump as version 0.1 wrote it."""
    return as_version_0_1(new, folder / f"{family}-old.safetensors")


def test_the_old_dump_is_one(old):
    keys = set(safetensors.numpy.load_file(old))
    assert {"picture", "picture#1", OLD} <= keys
    assert not any("key_ranges" in key or key.startswith("image.rgb") for key in keys)
    assert "key_ranges" not in old.with_suffix(".json").read_text(encoding="utf-8")


def test_an_old_dump_is_read_under_the_names_of_today(old, new):
    dump = open_dump(old)
    assert {(e.name, e.call) for e in dump} == {(e.name, e.call) for e in new}
    assert set(dump.inputs) == set(new.inputs)
    for entry in new:
        assert dump.get(entry.name, entry.call).info["inputs"] == entry.info["inputs"]
        assert dump.get(entry.name, entry.call).info["order"] == entry.info["order"]
        np.testing.assert_array_equal(dump[entry.key], entry.read())


@pytest.mark.parametrize("which", ["old", "new"])
def test_both_names_find_a_stage_in_both_dumps(which, old, new):
    dump = open_dump(old) if which == "old" else new
    for names in ((OLD, NEW), ("picture", "image.rgb"), ("picture#1", "image.rgb#1")):
        first, second = (dump[name] for name in names)
        np.testing.assert_array_equal(first, second)
    assert dump.get(OLD) is dump.get(NEW) is not None
    assert dump.get("picture", 1) is dump.get("image.rgb", 1) is not None


def test_an_input_of_an_old_dump_has_both_names(model, new, folder, family):
    """Where no stage gave the key ranges, they are written under inputs/."""
    images = [random_image(1, 70, 140)]
    path = folder / f"{family}-part.safetensors"
    part = record(model, Job(user_message(images, "?")), path, [CONTEXT], floors=())
    key = f"inputs/{CONTEXT}/key_ranges"
    assert key in part.inputs
    dump = open_dump(as_version_0_1(part, folder / f"{family}-part-old.safetensors"))
    np.testing.assert_array_equal(dump[key], dump[old_key(key)])
    assert old_key(key) != key and list(inputs_of(CONTEXT, dump)) == list(inputs_of(CONTEXT, part))
    np.testing.assert_array_equal(inputs_of(CONTEXT, dump)["key_ranges"], part[key])


def test_old_and_new_dumps_are_compared(model, old, new):
    for pair in ((new, open_dump(old)), (open_dump(old), new)):
        found = compare(*pair)
        assert {v.verdict for v in found.verdicts} == {"equal"} and found.extra == []
        assert as_html(found)
    with apply("vision_no_rope"):
        assert single(model, open_dump(old), open_dump(old)).first is not None


def test_an_old_prompt_is_run_again(model, old, new, folder, family):
    job = job_from_file(open_dump(old), model.config)
    assert [len(m["content"]) for m in job.messages] == [3] and not job.media
    again = record(model, job, folder / f"{family}-again.safetensors", floors=())
    np.testing.assert_array_equal(again["lm_head"], new["lm_head"])


def test_floors_are_added_to_an_old_dump(model, new, folder, family):
    path = as_version_0_1(new, folder / f"{family}-floors.safetensors")
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    for line in manifest["stages"]:
        del line["floor"]
    path.with_suffix(".json").write_text(json.dumps(manifest), encoding="utf-8")
    measure_floors(model, path, ["float32"])
    assert open_dump(path).get(CONTEXT).info["floor"] == new.get(CONTEXT).info["floor"] != {}


def test_check_takes_both_names(old, new):
    dump = open_dump(old)
    assert check(CONTEXT, attention, dump).verdict in ("equal", "agrees")
    assert check(CONTEXT, lambda q, k, v, key_ranges: v, dump).bad
    for name in (OLD, NEW):
        for held in (dump, new):
            with pytest.raises(ValueError, match="has no inputs of"):
                inputs_of(name, held)
            with pytest.raises(ValueError, match=r"holds 1 calls|holds 2 calls"):
                inputs_of(name, held, 9)


def test_the_commands_take_old_names(old, new, model, checkpoint, folder, family, capsys):
    assert main(["diff", new.source, str(old), "--no-explain"]) == 0
    assert main(["check", CONTEXT, str(old), "--show"]) == 0
    assert "key_ranges: int64" in capsys.readouterr().out
    out = folder / f"{family}-globs.safetensors"
    image = folder / "image.png"
    Image.fromarray(random_image(3, 70, 84)).save(image)
    words = ["record", str(image), "?", "-m", str(checkpoint), "-o", str(out), "--floors", "none"]
    assert main([*words, "--stages", "visual.blocks.*.spans", "--stages", "picture"]) == 0
    assert capsys.readouterr().err.count("no stage is called") == 0
    names = {e.name for e in open_dump(out)}
    assert {f"visual.blocks.{i}.attn.key_ranges" for i in range(4)} | {"image.rgb"} <= names
    assert main(["record", "--inputs", str(old), "-m", str(checkpoint), "-o", str(out)]) == 0


def test_a_map_may_name_old_and_new(new, folder, family, tmp_path):
    for theirs, ours in (("mask", OLD), ("mask", NEW), (OLD, NEW), (NEW, OLD), (OLD, OLD)):
        path = tmp_path / "port.npz"
        np.savez(path, **{theirs: new[NEW], "visual": new["visual"]})
        dump = open_dump(path, {theirs: ours})
        assert {e.name for e in dump} == {NEW, "visual"}
        assert compare(new, dump).first is None


@pytest.mark.parametrize("kind", ["npz", "npy", "safetensors"])
def test_dumps_of_ports_may_hold_old_names(kind, new, tmp_path):
    arrays = {"picture": new["image.rgb"], OLD: new[NEW], "visual": new["visual"]}
    arrays = {name: np.array(x) for name, x in arrays.items()}
    path = tmp_path / f"port.{kind}" if kind != "npy" else tmp_path
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    found = compare(new, open_dump(path))
    assert [v.name for v in found.compared] == ["image.rgb", NEW, "visual"] and not found.extra
    assert found.first is None


def test_a_tree_may_hold_both_names(tmp_path):
    """Somebody's modules may be called so: then each keeps its own name."""
    from tinyqwenvl.oracle.dump import Writer

    with Writer(tmp_path / "tree.safetensors") as writer:
        writer.add("a.spans", np.zeros(3))
        writer.add("a.key_ranges", np.ones(3))
        writer.add("b.spans", np.full(3, 2.0))
    dump = open_dump(tmp_path / "tree.safetensors")
    assert [dump.get(n).read()[0] for n in ("a.spans", "a.key_ranges", "b.spans")] == [0, 1, 2]


def test_folders_and_globs_of_pytorch(new, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    from tinyqwenvl.oracle.folders import read_folder, write_folder
    from tinyqwenvl.oracle.torch import instrument_tree

    folder = write_folder(new, tmp_path / "calls")
    for metadata in folder.glob("*/metadata.json"):
        known = json.loads(metadata.read_text(encoding="utf-8"))
        known["stage"] = old_key(known["stage"])
        kwargs = known["inputs"]["kwargs"]
        if "key_ranges" in kwargs:
            kwargs["spans"] = kwargs.pop("key_ranges")
        metadata.write_text(json.dumps(known), encoding="utf-8")
    again = read_folder(folder)
    assert {(e.name, e.call) for e in again} == {(e.name, e.call) for e in new}
    assert "key_ranges" in inputs_of(CONTEXT, again)

    tree = torch.nn.ModuleDict({"spans": torch.nn.Linear(2, 2), "other": torch.nn.ReLU()})
    with instrument_tree(tree, tmp_path / "t.safetensors", "*spans"), torch.no_grad():
        tree["other"](tree["spans"](torch.ones(1, 2)))
    held = open_dump(tmp_path / "t.safetensors")
    assert len(held) == 1 and held.get("spans") is not None


@pytest.mark.parametrize("name", RENAMED)
def test_mutants_keep_their_old_names(name, capsys):
    with pytest.warns(DeprecationWarning, match=RENAMED[name]), apply(name):
        pass
    with pytest.warns(DeprecationWarning, match=RENAMED[name]):
        assert find_mutant(name) is MUTANTS[RENAMED[name]]
    assert main(["selftest", "nothing"]) == 2
    assert "no mutant is called nothing" in capsys.readouterr().err
