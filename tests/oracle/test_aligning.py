"""Dumps as runtimes make them: chunks, one call per image, padding, other rows and orders."""

from collections import Counter

import numpy as np
import pytest
import safetensors.numpy

from scripts.random_checkpoint import random_image
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.dump import Entry, make_dump
from tinyqwenvl.oracle.mutants import apply
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record
from tinyqwenvl.oracle.row_order import orders, undone
from tinyqwenvl.oracle.rows import spread
from tinyqwenvl.oracle.single import single
from tinyqwenvl.oracle.stages import about


def remade(dump, change):
    """The dump of a runtime: ``change(entry, array, axes)`` gives the calls that one becomes."""
    calls, entries = Counter(), []
    for entry in dump:
        for array in change(entry, entry.read(), about(entry.name).axes):
            number = calls[entry.name]
            calls[entry.name] += 1
            load = lambda array=array: array  # noqa: E731
            entries.append(Entry(entry.name, number, array.shape, str(array.dtype), load))
    return make_dump("theirs", entries)


def chunks(dump, at, last=("model.norm", "lm_head")):
    """A prefill cut at the tokens ``at``; keys and values are those of the whole cache."""

    def change(entry, array, axes):
        letter = next((a for a in axes if a in "SK"), None)
        text = entry.name.startswith(("model.", "lm_head")) and entry.name != "model.rope_delta"
        if entry.call or not text or letter is None:
            return [array]
        axis = axes.index(letter)
        if entry.name in last:
            return [array[-1:]]
        if letter == "K":
            return [array[:, :stop] for stop in (*at, array.shape[1])]
        return [part[None] for part in np.split(array, at, axis=axis)]

    return remade(dump, change)


def per_image(dump):
    """The vision encoder called once for each image."""
    patches = np.prod(dump["image_grid_thw"], axis=1)
    stops = np.cumsum(patches)[:-1]

    def change(entry, array, axes):
        if entry.name == "image_grid_thw":
            return np.split(array, len(array))
        if entry.name in ("visual.cu_seqlens", "visual.cu_window_seqlens"):
            starts = [0, *stops]
            ends = np.cumsum(patches)
            return [
                array[(array >= a) & (array <= b)] - a for a, b in zip(starts, ends, strict=True)
            ]
        if not entry.name.startswith(("visual", "pixel_values")):
            return [array]
        if (entry.call or "videos" in entry.name) and not entry.name.endswith("key_ranges"):
            return [array]
        if entry.name == "visual.window_index":
            parts = np.split(array, stops // 4)
            return [p - s // 4 for p, s in zip(parts, [0, *stops], strict=True)]
        if entry.name.endswith("key_ranges"):
            return []
        letter = next((a for a in axes if a in "NM"), None)
        return np.split(array, stops if letter == "N" else stops // 4, axis=axes.index(letter))

    return remade(dump, change)


def test_calls_are_spread_over_ours():
    assert spread([118, 1, 1], [119, 1]) == [[0, 1], [2]]
    assert spread([40, 40, 39], [119, 1, 1]) == [[0, 1, 2], [], []]
    assert spread([40, 40], [79]) is None
    assert spread([119, 1, 1], [119]) == [[0]]


@pytest.mark.parametrize("cut", ["last", "forties"])
def test_a_prefill_in_chunks(reference, cut):
    length = reference.get("input_ids").shape[0]
    theirs = chunks(reference, [length - 1] if cut == "last" else list(range(40, length, 40)))
    found = compare(reference, theirs)
    assert found.first is None and not found.extra
    assert len(found.compared) == len(reference)
    parts = 2 if cut == "last" else len(range(40, length, 40)) + 1
    assert any(f"{parts} calls joined into one" in note for note in found.notes)
    assert any(
        "only the last positions compared in 2 stages (model.norm, lm_head)" in note
        for note in found.notes
    )


def test_a_wrong_row_of_a_chunk_is_found(reference):
    theirs = chunks(reference, [17])
    right = theirs.get("model.layers.1", 1)
    wrong = right.read().copy()
    wrong[:, 3] *= -1
    again = Entry(right.name, 1, right.shape, right.dtype, lambda: wrong)
    theirs.entries["model.layers.1", 1] = again
    verdicts = {v.name: v.verdict for v in compare(reference, theirs).compared}
    assert verdicts.pop("model.layers.1") in ("differs", "not that stage")
    assert set(verdicts.values()) == {"equal"}


def test_pruned_rows_in_the_last_layer(reference, model):
    layers = max(int(e.name.split(".")[2]) for e in reference if e.name.startswith("model.layers."))
    pruned = [
        e.name
        for e in reference
        if e.name.startswith((f"model.layers.{layers}.mlp", "model.norm", "lm_head")) and not e.call
    ]
    theirs = chunks(reference, [30], pruned)
    found = compare(reference, theirs)
    assert found.first is None and any(f"in {len(pruned)} stages" in n for n in found.notes)
    alone = single(model, reference, theirs)
    assert alone.first is None
    assert next(v for v in alone.verdicts if v.name == "lm_head").verdict == "equal"


def test_only_last_layers_lose_rows(reference):
    def change(entry, array, _):
        return [array[-1:]] if entry.key == "model.layers.0" else [array]

    found = compare(reference, remade(reference, change))
    verdict = next(v for v in found.compared if v.name == "model.layers.0")
    assert verdict.verdict in ("shape", "not that stage")
    assert "[1, 64] instead of [" in verdict.note


def test_one_call_per_image(reference, family):
    theirs = per_image(reference)
    found = compare(reference, theirs)
    assert found.first is None and not found.extra
    assert any("2 calls joined into one" in note for note in found.notes)
    if family == "qwen2_5_vl":
        assert "visual.window_index" in {v.name for v in found.compared}


def test_images_and_videos_in_the_order_of_the_prompt(model, place, family):
    """An image, a clip, an image: a runtime encodes them one by one, we the images first."""
    frames = [random_image(i, 56, 84) for i in range(4)]
    items = [{"type": "image", "image": random_image(7, 60, 90)}, {"type": "text", "text": "and"}]
    items += [{"type": "video", "video": frames, "max_pixels": 6000, "min_pixels": 3136}]
    items += [{"type": "image", "image": random_image(8, 120, 140)}]
    job = Job([{"role": "user", "content": items}])
    ours = record(model, job, place / f"mixed-{family}.safetensors", floors=["float32"])
    split = per_image(ours)  # of the first call: [image, image], and then the clip

    entries = []
    for name in dict.fromkeys(e.name for e in split):
        calls = [e for e in split if e.name == name]
        if name.startswith("visual") and len(calls) == 3:
            calls = [calls[0], calls[2], calls[1]]
        entries += [Entry(name, i, e.shape, e.dtype, e.load) for i, e in enumerate(calls)]
    found = compare(ours, make_dump("theirs", entries))
    assert found.first is None, found.first
    assert {v.verdict for v in found.compared} == {"equal"}
    assert any("2 calls joined into one" in note for note in found.notes)
    assert next(v for v in found.compared if v.name == "visual.blocks.1#1").shape[0] > 0


def padded(dump, beside=False, batch=False):
    """Every window filled up to 64 patches, after its rows or to the right and below."""
    windows = np.diff(dump["visual.cu_window_seqlens"])
    places = []
    for _, h, w in (dump["image_grid_thw"] // (1, 2, 2)).tolist():
        for top in range(0, h, 4):
            for left in range(0, w, 4):
                cells = [(r, c) for r in range(4) for c in range(4)]
                cells = [r * 4 + c for r, c in cells if top + r < h and left + c < w]
                places.append(np.concatenate([np.arange(4) + 4 * cell for cell in cells]))
    assert [len(p) for p in places] == windows.tolist()
    if not beside:
        places = [np.arange(n) for n in windows]
    at = np.concatenate([64 * i + place for i, place in enumerate(places)])

    def change(entry, array, axes):
        if not entry.name.startswith("visual.blocks") or entry.name.endswith("key_ranges"):
            return [array]
        axis = axes.index("N")
        shape = list(array.shape)
        shape[axis] = 64 * len(windows)
        filled = np.full(shape, 7, array.dtype)
        filled[(slice(None),) * axis + (at,)] = array
        if batch and axis == 0:
            filled = np.reshape(filled, (len(windows), 64, -1))
        return [filled]

    return remade(dump, change), 64 * len(windows) - int(np.sum(windows))


@pytest.mark.parametrize(("beside", "batch"), [(False, False), (True, False), (False, True)])
def test_padded_windows(reference, family, beside, batch):
    if family == "qwen2_vl":
        pytest.skip("no windows")
    theirs, rows = padded(reference, beside, batch)
    found = compare(reference, theirs)
    assert found.first is None
    how = "beside" if beside else "of"
    assert any(f"{rows} padding rows {how} windows left out" in note for note in found.notes)


def test_windows_without_rows_are_left_out_of_bounds(reference):
    def change(entry, array, _):
        if entry.name != "visual.cu_seqlens":
            return [array]
        return [np.repeat(array, [1, 3, *[1] * (len(array) - 2)])]

    found = compare(reference, remade(reference, change))
    assert found.first is None and any("2 empty windows" in n for n in found.notes)


@pytest.mark.parametrize("before", [False, True])
def test_a_padded_prompt(reference, before):
    def change(entry, array, axes):
        if entry.call or entry.name == "generated" or not (entry.name[0] in "ml" and "S" in axes):
            return [array]
        width = [(0, 0)] * array.ndim
        width[axes.index("S")] = (9, 0) if before else (0, 9)
        return [np.pad(array, width)]

    found = compare(reference, remade(reference, change))
    assert found.first is None
    where = "before" if before else "after"
    assert any(f"9 padding rows {where} the prompt left out" in note for note in found.notes)


def in_other_order(dump, reference, name):
    """All patches in the order ``name``, merge groups in that of the grid."""

    def change(entry, array, axes):
        letter = next((a for a in axes if a in "NM"), None)
        vision = entry.name.startswith(("visual.blocks", "visual.merger"))
        vision |= name == "raster" and entry.name in ("pixel_values", "visual.patch_embed")
        if not vision or letter is None or entry.name.endswith("key_ranges"):
            return [array]
        ours = reference.get(entry.name, entry.call)
        index = orders(ours, reference).get(name if letter == "N" else "merge")
        return [array if index is None else np.take(array, index, axis=axes.index(letter))]

    return remade(dump, change)


@pytest.mark.parametrize("name", ["raster", "merge"])
def test_the_order_of_rows_is_undone(reference, family, name):
    theirs = in_other_order(reference, reference, name)
    ordered = undone(reference, theirs)
    if (family, name) == ("qwen2_vl", "merge"):
        assert ordered is None
        return
    as_given = {v.verdict for v in compare(reference, theirs).compared}
    assert as_given & {"differs", "not that stage"}
    found = compare(reference, ordered)
    assert {v.verdict for v in found.compared} <= {"equal", "agrees"}
    assert any(f"blocks in {name} order" in note for note in found.notes)
    assert undone(reference, reference) is None


def _first_reason(out):
    return next(line for line in out.splitlines() if line.startswith("explained by"))


def saved(dump, path):
    safetensors.numpy.save_file({e.key: np.ascontiguousarray(e.read()) for e in dump}, path)
    return str(path)


@pytest.fixture
def directory(checkpoint):
    return str(checkpoint)


def test_a_bug_is_named_in_another_order_too(
    model, job, reference, place, family, capsys, directory
):
    if family == "qwen2_vl":
        pytest.skip("no windows")
    with apply("window_mask_missing"):
        wrong = record(model, job, place / "wrong.safetensors", floors=[])
    theirs = saved(in_other_order(wrong, reference, "merge"), place / "merge.safetensors")
    assert main(["diff", reference.source, theirs, "-m", directory]) == 1
    out = capsys.readouterr().out
    assert "explained by window_mask_missing" in _first_reason(out)
    assert "blocks in merge order instead of window" in out


def test_an_order_that_is_the_bug_stays_one(model, job, reference, place, capsys, directory):
    with apply("patches_in_raster_order"):
        wrong = record(model, job, place / "raster.safetensors", floors=[])
    assert main(["diff", reference.source, wrong.source, "-m", directory]) == 1
    out = capsys.readouterr().out
    assert "explained by patches_in_raster_order" in _first_reason(out)


def test_rows_that_cannot_be_matched_start_no_search(
    reference, place, capsys, directory, monkeypatch
):
    monkeypatch.setattr("tinyqwenvl.oracle.commands.diff.explain", None)

    whole = list(reference)
    cut = next(i for i, e in enumerate(whole) if e.name == "visual.blocks.1.mlp")
    before = {e.key for e in whole[:cut]}

    def change(entry, array, _):
        if entry.name in ("visual.blocks.1.mlp", "visual.blocks.1"):
            return [array[:-3]]
        return [array] if entry.key in before else []

    theirs = saved(remade(reference, change), place / "short.safetensors")
    assert main(["diff", reference.source, theirs, "-m", directory]) == 1
    out = capsys.readouterr().out
    assert "first: visual.blocks.1.mlp: [" in out and "no known bug is tried" in out


def test_empty_tensors_and_ids_in_one_array(reference):
    ids = np.concatenate([e.read() for e in reference if e.name == "generated"])

    def change(entry, array, _):
        if entry.name == "generated":
            return [] if entry.call else [ids]
        return [array, array[:0]] if entry.key == "model.norm#2" else [array]

    found = compare(reference, remade(reference, change))
    assert found.first is None
    assert {"generated", "generated#1"} <= {v.name for v in found.compared}
    assert any("2 ids in one array" in note for note in found.notes)


def test_a_dump_that_fits_is_left_alone(reference):
    theirs = open_dump(reference.source)
    found = compare(reference, theirs)
    assert found.reference is reference and found.candidate is theirs
