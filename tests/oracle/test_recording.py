"""What a dump holds, what its manifest says, and running it again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from support import assert_same_but_for_rounding, rounding

import tinyqwenvl
from scripts.random_checkpoint import random_image
from tinyqwenvl import UserError
from tinyqwenvl.model import user_message
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.check import inputs_of
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import MEASURED, Job, job_from_file, record
from tinyqwenvl.template import Template

IMAGES = [random_image(1, 150, 210), random_image(2, 70, 240)]


def test_a_dump_holds_every_stage(model, job, reference):
    with tinyqwenvl.trace() as stages:
        inputs = model.prepare(job.messages)
        model.forward(inputs)
    assert set(stages) <= {e.name for e in reference}
    for name, calls in stages.items():
        for call, value in enumerate(calls):
            np.testing.assert_array_equal(reference.get(name, call).read(), value)
    assert [e.read().shape for e in reference if e.name == "lm_head"][1:] == [(1, 300)] * 2
    assert sum(e.name == "generated" for e in reference) == 2


def test_the_manifest_says_what_a_stage_is(reference, family):
    line = reference.get("visual.blocks.1.attn").info
    assert line["axes"] == ["N", "D"] and line["kind"] == "float"
    assert line["order"] == ("window" if family == "qwen2_5_vl" else "merge")
    assert line["inputs"]["x"] == "visual.blocks.1.norm1"
    assert line["statistics"]["non_finite"] == 0
    array = reference["visual.blocks.1.attn"]
    assert line["statistics"]["max"] == array.max()
    off = rounding(array.size + 4)  # both are sums in float64
    assert line["statistics"]["std"] == pytest.approx(array.std(dtype=float), rel=2 * off)
    floors = line["floor"]
    assert set(floors) == set(MEASURED)
    assert 0 < floors["float32"]["entire"]["nmse"] < 1e-10 < floors["float16"]["entire"]["nmse"]
    assert floors["float16"]["entire"]["nmse"] < floors["bfloat16"]["entire"]["nmse"] < 0.1
    assert floors["bfloat16"]["single"]["nmse"] < floors["bfloat16"]["entire"]["nmse"]
    every = [e.info["sequence"] for e in reference]
    assert every == sorted(every) and reference.get("image.rgb").info["kind"] == "exact"


def test_what_a_stage_was_made_of_gives_it_again(model, reference):
    entry = reference.get("model.layers.1.self_attn.context")
    given = inputs_of(entry.name, reference)
    assert list(given) == ["q", "k", "v", "key_ranges"]
    again = tinyqwenvl.nn.attention(*given.values())
    exact = tinyqwenvl.nn.attention(
        *(x.astype(float) for x in (given["q"], given["k"], given["v"])), given["key_ranges"]
    )
    assert_same_but_for_rounding(again, entry.read(), exact)
    assert any(key.startswith("inputs/visual.blocks.0.norm2/") for key in reference.inputs)


def test_a_run_is_done_again_with_its_limits(model, place):
    item = {"type": "image", "image": IMAGES[0], "max_pixels": 9000}
    job = Job([{"role": "user", "content": [item, {"type": "text", "text": "?"}]}])
    first = record(model, job, place / "limits.safetensors", floors=())
    again = record(model, job_from_file(first, model.config), place / "x.safetensors", floors=())
    assert compare(first, again).first is None
    assert first["image_grid_thw"].prod() < 9000 / 14**2


def test_the_options_of_a_prompt_are_kept(model, place):
    """Those of a special token in a text, too; what a manifest cannot hold is refused."""
    messages = user_message(IMAGES[:1], "a <|im_end|> b")
    job = Job(messages, options={"parse_special": True, "max_pixels": 9000})
    first = record(model, job, place / "options.safetensors", floors=["float32"])
    assert first.get("lm_head").info["floor"]["float32"]["entire"]["nmse"] > 0
    again = record(model, job_from_file(first, model.config), place / "y.safetensors", floors=())
    assert compare(first, again).first is None
    with pytest.raises(UserError, match="to_rgb"):
        record(model, Job(messages, options={"to_rgb": lambda x: x}), place / "z.safetensors")
    assert not (place / "z.safetensors").exists()


def test_a_video_under_another_template_is_run_again(model, place):
    frames = [random_image(i, 56, 84) for i in range(4)]
    items = [{"type": "video", "video": frames, "max_pixels": 6000, "min_pixels": 3136}]
    job = Job([{"role": "user", "content": [*items, {"type": "text", "text": "what?"}]}])
    template = "<|im_start|>" + json.loads(
        (tinyqwenvl.model.EMBEDDED / "chat_template.json").read_text()
    )["chat_template"].replace("You are a helpful assistant.", "Be brief.")
    other = replace(model, template=Template({"default": template}))
    first = record(other, job, place / "template.safetensors", floors=["float32"])
    assert first.get("lm_head").info["floor"]["float32"]["entire"]["nmse"] > 0


def damaged(manifest, **changes):
    """A manifest with some lines of its first stage, or of itself, changed."""
    stage = {n: v for n, v in changes.items() if n in ("key", "inputs", "floor", "order")}
    rest = {n: v for n, v in changes.items() if n not in stage}
    first = {**manifest["stages"][0], **stage}
    return {**manifest, "stages": [first, *manifest["stages"][1:]], **rest}


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": 3}, {"stages": [1]}, {"key": 3}, {"inputs": "x"}, {"inputs": {"x": 1}},
        {"floor": "x"}, {"floor": {"float32": 1}}, {"floor": {"float32": {"entire": {"nmse": 1}}}},
        {"floor": {"float32": {"entire": {"nmse": -1, "cosine_error": 0, "max_error": 0}}}},
        {"order": 1}, {"model": 3}, {"options": []}, {"version": 99},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_manifests(changes, model, job, place, capsys):
    path = place / "damaged.safetensors"
    if not path.exists():
        record(model, job, path, floors=())
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(damaged(manifest, **changes)))
    try:
        assert main(["diff", str(path), str(path)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    finally:
        path.with_suffix(".json").write_text(json.dumps(manifest))
    assert main(["diff", str(path), str(path)]) == 0


@pytest.mark.parametrize(
    "messages",
    [[3], [{"role": "user"}], [{"role": "user", "content": [{"picture": 99}]}], [{"role": 1}]],
    ids=str,
)
def test_damaged_prompts(messages, model, job, place):
    path = place / "prompt.safetensors"
    dump = record(model, job, path, floors=())
    dump.about = {**dump.about, "messages": messages}
    with pytest.raises(UserError):
        job_from_file(dump, model.config)


def test_globs_choose(model, job, place):
    dump = record(model, job, place / "some.safetensors", ["visual.blocks.?"], floors=())
    names = {e.name for e in dump}
    assert {f"visual.blocks.{i}" for i in range(4)} | {"input_ids", "pixel_values"} <= names
    assert not any(n.startswith("model.layers") or n.endswith("attn") for n in names)


def test_a_run_that_fails_leaves_nothing(model, job, tmp_path):
    with pytest.raises(ZeroDivisionError), tinyqwenvl.tracing.watching(_fail_at("visual.merger")):
        record(model, job, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"end in \.safetensors"):
        record(model, job, tmp_path / "x.npz")


def _fail_at(where):
    def watch(name, value, _):
        return 1 / 0 if name == where else None

    return watch


def test_a_dump_is_a_plain_safetensors_file(reference):
    arrays = safetensors.numpy.load_file(reference.source)
    np.testing.assert_array_equal(arrays["visual.blocks.0"], reference["visual.blocks.0"])
    assert arrays["input_ids"].dtype == np.int64


def test_a_porters_own_inputs(model, reference, place, family):
    names = ("input_ids", "pixel_values", "image_grid_thw")
    arrays = {n: np.array(reference[n]) for n in names}
    arrays["input_ids"] = arrays["input_ids"][None]  # with a batch axis
    path = place / f"own-{family}.safetensors"
    safetensors.numpy.save_file(arrays, path)
    job = job_from_file(open_dump(path), model.config)
    again = record(model, job, place / f"own-{family}-ref.safetensors", floors=())
    np.testing.assert_array_equal(again["lm_head"], reference["lm_head"])
    for change, words in (
        ({"pixel_values": arrays["pixel_values"][:-4]}, "but image_grid_thw makes it"),
        ({"image_grid_thw": np.array([[1, 3, 4]])}, "should be even"),
        ({"image_grid_thw": np.array([[1.0, 4, 4]])}, "should be integers"),
        ({"image_grid_thw": np.ones((2, 2), int)}, "should be integers"),
        ({"image_grid_thw": np.array([[2**40] * 3])}, "should be from 1"),
        ({"input_ids": arrays["input_ids"].astype(np.float32)}, "input_ids should be integers"),
        ({"input_ids": np.zeros(0, np.int64)}, "at least one"),
    ):
        bad = place / "bad.safetensors"
        safetensors.numpy.save_file({**arrays, **change}, bad)
        with pytest.raises(UserError, match=words):
            job_from_file(open_dump(bad), model.config)
    safetensors.numpy.save_file({"pixel_values": arrays["pixel_values"]}, bad)
    with pytest.raises(UserError, match="holds no input_ids"):
        job_from_file(open_dump(bad), model.config)


def test_a_json_of_somebody_else_is_not_overwritten(model, job, tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="is not a manifest"):
        record(model, job, tmp_path / "config.safetensors", floors=())
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_manifest_opens_no_files(model, job, place):
    dump = record(model, job, place / "files.safetensors", floors=())
    path = str(tinyqwenvl.model.EXAMPLE_IMAGE)
    items = [{"type": "image", "image": path}, {"type": "text", "text": "?"}]
    dump.about = {**dump.about, "messages": [{"role": "user", "content": items}]}
    with pytest.raises(UserError, match="its prompt is damaged"):
        job_from_file(dump, model.config)
