"""Dumps of PyTorch modules. What needs transformers 5.23 is skipped without it."""

import collections
import copy
import dataclasses
import json
import os
import pickle
import re
import sys

import numpy as np
import pytest

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, with_images, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.oracle import mutants
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.dump import Writer
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record
from tinyqwenvl.oracle.vectors import FOLDER

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from tinyqwenvl.oracle import torch as oracle_torch  # noqa: E402
from tinyqwenvl.oracle.folders import read_folder, record_calls, write_folder  # noqa: E402
from tinyqwenvl.oracle.torch import instrument, instrument_tree  # noqa: E402

SIZES = (140, 84), (56, 196), (84, 84)
CONTENT = [
    {"text": "one "},
    {"image": 0},
    {"text": " two "},
    {"image": 1},
    {"image": 2},
    {"text": " what?"},
]
HIDDEN = {"pixel_values", "image_grid_thw", "input_ids", "model.rope_delta"}
HIDDEN |= {"model.position_ids", "model.inputs_embeds", "visual.cu_seqlens", "visual.rotary_angles"}
WINDOWS = {"visual.window_index", "visual.cu_window_seqlens"}


# ------------------------------------------------------------------ Hugging Face's models


@pytest.fixture(scope="module")
def hf():
    """The module that loads checkpoints in transformers."""
    return pytest.importorskip(
        "scripts.witness", reason="transformers 5.23 is not installed", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def case(family, hf, tmp_path_factory):
    """A model of transformers, the arguments of a call, and our stages of the same prompt."""
    directory = tmp_path_factory.mktemp(family)
    write_checkpoint(directory, tiny_config(family), seed=8)
    ours = tinyqwenvl.load(directory)
    images = [random_image(30 + i, *size) for i, size in enumerate(SIZES)]
    with tinyqwenvl.trace() as stages:
        inputs = ours.prepare([{"role": "user", "content": with_images(CONTENT, images)}])
        ours.forward(inputs)
    stages["model.rope_delta"] = [np.array(inputs.rope_delta)]
    witness = hf.Witness(directory)
    given = witness.inputs(inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw)
    return witness, given, stages, inputs


@pytest.fixture(scope="module")
def dumped(case, tmp_path_factory):
    witness, given, _, _ = case
    target = tmp_path_factory.mktemp("dump") / "hf.safetensors"
    with torch.no_grad(), instrument(witness.model, target):
        witness.model(**given)
    return open_dump(target)


def same(ours, entry):
    assert entry.shape == np.shape(ours), entry.key
    if entry.exact:
        np.testing.assert_array_equal(entry.read(), ours, err_msg=entry.key)
    else:
        far = distance(np.asarray(ours), entry.read())
        assert far.nmse <= 1e-9 and not far.not_finite, (entry.key, far)


def test_every_call_of_every_module_is_there(case, dumped):
    witness, given, _, _ = case
    called = collections.Counter()
    hooks = [
        m.register_forward_hook(lambda *_, n=n: called.update([n]))
        for n, m in witness.model.named_modules()
        if n
    ]
    with torch.no_grad():
        witness.model(**given)
    for hook in hooks:
        hook.remove()
    found = collections.Counter(entry.name for entry in dumped)
    for name, count in called.items():
        assert found[oracle_torch.canonical(name)] == count, name
    newer = WINDOWS if witness.config.model_type == "qwen2_5_vl" else set()
    further = {n for n in found if n not in map(oracle_torch.canonical, called)}
    assert further - HIDDEN - newer <= {"visual.rotary_pos_emb.1", "model.rotary_emb.1"}
    assert dumped.notes == [] and dumped.about["made_by"]["transformers"]


def test_every_stage_is_near_ours(case, dumped):
    _, _, stages, _ = case
    alone = r".*\.(q|k|v|key_ranges|context)|image\..*"
    compared = {name for name in stages if not re.fullmatch(alone, name)}
    for name in compared:
        same(stages[name][0], dumped.get(name))
    assert compared >= HIDDEN and len(compared) > 80


def test_what_a_stage_was_made_of_is_found_by_name(case, dumped):
    last = dumped.get("visual.blocks.1")
    assert last.info["inputs"]["hidden_states"] == "visual.blocks.0"
    assert last.info["inputs"]["cu_seqlens"] == "visual.cu_seqlens"
    assert dumped.get("model.layers.0").info["inputs"]["hidden_states"] == "model.inputs_embeds"
    cosines = last.info["inputs"]["position_embeddings.0"]
    assert cosines == dumped.get("visual.blocks.3").info["inputs"]["position_embeddings.0"]
    angles = dumped["visual.rotary_angles"]
    np.testing.assert_allclose(dumped[cosines][:, : angles.shape[1]], np.cos(angles), atol=1e-5)
    for entry in dumped:
        for key in entry.info["inputs"].values():
            assert dumped[key] is not None


def test_settings_are_kept(case, dumped):
    assert dumped.get("visual.blocks.0.attn").info["settings"]["num_heads"] == 3
    norm = dumped.get("model.layers.0.input_layernorm").info["settings"]
    assert norm["variance_epsilon"] == 1e-2 and "RMSNorm" in norm["class"]
    linear = dumped.get("model.layers.0.mlp.up_proj").info["settings"]
    assert linear["in_features"] == 64 and "bias=False" in linear["repr"]


def test_the_encoder_alone(case, tmp_path):
    witness, given, stages, _ = case
    vision_encoder = witness.model.model.visual
    pixels, grids = given["pixel_values"], given["image_grid_thw"]
    with torch.no_grad(), instrument(vision_encoder, tmp_path / "a.safetensors", inputs=False):
        vision_encoder(pixels, grid_thw=grids)
        vision_encoder(pixels[: 10 * 6], grid_thw=grids[:1])
    dump = open_dump(tmp_path / "a.safetensors")
    for name in (n for n in stages if n == "visual" or n.startswith("visual.")):
        if not re.fullmatch(r".*\.(q|k|v|key_ranges|context)", name):
            same(stages[name][0], dump.get(name))
    assert dump.get("visual", 1).shape == (15, 64)  # the second call, beside the first
    assert dump.get("visual.cu_seqlens", 1).read().tolist() == [0, 60]
    assert {"pixel_values", "image_grid_thw"} <= {entry.name for entry in dump}
    assert not dump.inputs


def test_part_of_a_encoder_gets_the_name_that_is_told(case, tmp_path):
    witness, _, _, _ = case
    norm = witness.model.model.visual.blocks[2].norm1
    with instrument(norm, tmp_path / "a.safetensors", prefix="visual.blocks.2.norm1"):
        norm(torch.ones(4, 48))
    assert [e.key for e in open_dump(tmp_path / "a.safetensors")] == ["visual.blocks.2.norm1"]


def test_generating_gives_a_call_a_step(case, tmp_path):
    witness, given, _, inputs = case
    stages = ["model.position_ids", "model.layers.1.*", "lm_head", "model.rope_delta"]
    with instrument(witness.model, tmp_path / "a.safetensors", stages):
        out = witness.model.generate(
            **given, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None
        )
    dump = open_dump(tmp_path / "a.safetensors")
    length = len(inputs.input_ids)
    assert dump.get("model.layers.1.self_attn").shape == (length, 64)
    for step in (1, 2, 3):
        assert dump.get("model.layers.1.self_attn", step).shape == (1, 64)
        assert dump.get("lm_head", step).shape == (1, 300)
        place = length + step - 1 + inputs.rope_delta
        assert dump[f"model.position_ids#{step}"].tolist() == [[place]] * 3
    generated = [int(e.read()[0]) for e in dump if e.name == "generated"]
    assert generated == out[0, length:-1].tolist()
    assert dump.get("input_ids", 1) is None and dump.get("pixel_values", 1) is None
    np.testing.assert_array_equal(dump["model.position_ids"], inputs.position_ids)


def test_one_dimensional_positions_are_noted(case, tmp_path):
    witness, given, _, inputs = case
    without = {n: v for n, v in given.items() if n != "mm_token_type_ids"}
    if witness.config.model_type == "qwen2_vl":
        pytest.skip("Qwen2-VL in transformers 5.23 refuses such a call")
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.*"):
        witness.model.model.rope_deltas = None
        witness.model(**without)
    dump = open_dump(tmp_path / "a.safetensors")
    (note,) = dump.notes
    assert "1-D" in note and "mm_token_type_ids was not given" in note
    line = np.arange(len(inputs.input_ids))
    np.testing.assert_array_equal(dump["model.position_ids"], np.stack([line] * 3))


def test_a_mask_is_written_once_if_there_is_one(case, tmp_path):
    witness, given, _, inputs = case
    padded = given | {"attention_mask": given["attention_mask"].clone()}
    padded["attention_mask"][0, 0] = 0
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.layers.*"):
        witness.model(**padded)
    dump = open_dump(tmp_path / "a.safetensors")
    assert [e.key for e in dump if e.name.endswith("mask")] == ["model.layers.0.self_attn.mask"]
    assert dump.get("model.layers.0.self_attn.mask").shape == (len(inputs.input_ids),) * 2
    for i in range(3):
        made_of = dump.get(f"model.layers.{i}.self_attn").info["inputs"]
        assert made_of["attention_mask"] == "model.layers.0.self_attn.mask"


def test_one_row_of_positions_is_three(case, tmp_path):
    witness, _, _, _ = case
    text = witness.model.model.language_model
    line = torch.arange(3, 8)[None, None]
    with torch.no_grad(), instrument(text, tmp_path / "a.safetensors"):
        text(inputs_embeds=torch.ones(1, 5, 64), position_ids=line)
    dump = open_dump(tmp_path / "a.safetensors")
    assert dump["model.position_ids"].tolist() == [[3, 4, 5, 6, 7]] * 3
    assert dump.get("model.layers.2").shape == (5, 64) and dump.get("model").shape == (5, 64)


def test_another_model_is_not_watched(case, tmp_path):
    witness, given, _, _ = case
    vision_encoder = witness.model.model.visual
    other = copy.deepcopy(vision_encoder)
    pixels, grids = given["pixel_values"], given["image_grid_thw"]
    with torch.no_grad(), instrument(vision_encoder, tmp_path / "a.safetensors"):
        for each in (other, vision_encoder, other):
            each(pixels, grid_thw=grids)
    assert all(entry.call == 0 for entry in open_dump(tmp_path / "a.safetensors"))


def test_a_larger_batch_is_kept(case, tmp_path):
    witness, _, _, _ = case
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors", "model.*"):
        witness.model(input_ids=ids)
    dump = open_dump(tmp_path / "a.safetensors")
    assert dump.get("model.layers.0").shape == (2, 6, 64)
    assert dump.get("input_ids").shape == (2, 6)


def test_bfloat16_is_stored_as_such(case, hf, tmp_path, family):
    _, given, stages, _ = case
    directory = tmp_path / "checkpoint"
    write_checkpoint(directory, tiny_config(family), seed=8)
    witness = hf.Witness(directory, torch.bfloat16)
    with torch.no_grad(), instrument(witness.model, tmp_path / "a.safetensors"):
        out = witness.model(**given | {"pixel_values": given["pixel_values"].bfloat16()})
    dump = open_dump(tmp_path / "a.safetensors")
    entry = dump.get("lm_head")
    assert entry.dtype == "bfloat16" and not entry.exact and entry.info["dtype"] == "bfloat16"
    np.testing.assert_array_equal(entry.read(), out.logits[0].float().numpy())
    np.testing.assert_array_equal(dump["visual.cu_seqlens"], stages["visual.cu_seqlens"][0])
    assert dump.notes == []


def test_a_failure_leaves_no_file_and_no_hook(case, tmp_path):
    witness, given, _, _ = case
    model = witness.model
    vision_encoder = model.model.visual
    around = __import__("sys").modules[type(vision_encoder).__module__]

    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        functions = [getattr(around, "get_vision_window_index", None)]
        return hooks, [sorted(vars(m)) for m in (model, model.model, vision_encoder)], functions

    before = state()
    with pytest.raises(ZeroDivisionError), instrument(model, tmp_path / "a.safetensors"):
        assert state() != before
        with torch.no_grad():
            model(**given)
        raise ZeroDivisionError
    assert state() == before and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ any tree


class Gate(torch.nn.Module):
    """Gives two tensors and a number, and has a child whose name is that of the second."""

    def __init__(self):
        super().__init__()
        self.scaling, self.infinite, self.mode = 0.5, float("inf"), "soft"
        self.inside = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(inplace=True))

    def forward(self, x, *more, bias=None, **further):
        y = self.inside(x)
        return None, y * self.scaling + sum(more), 3, further["extra"] + bias


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Linear(3, 3)  # a name that means something in the family
        self.gate = Gate()

    def forward(self, x):
        x = self.logits(x)
        x = x + self.logits(x)
        return self.gate(x, x, bias=x, extra=torch.ones(3))[1]


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().eval()


def test_any_tree(toy, tmp_path):
    x = torch.randn(1, 2, 3)
    with instrument_tree(toy, tmp_path / "a.safetensors", about={"who": "me"}) as dump:
        y = toy(x)
        dump.add("mine", np.arange(3))
    dump = open_dump(tmp_path / "a.safetensors")
    assert [entry.key for entry in dump] == [
        *("logits", "logits#1", "gate.inside.0", "gate.inside.1", "gate.inside"),
        *("gate", "gate.3", "Toy", "mine"),
    ]
    np.testing.assert_array_equal(dump["Toy"], y.detach().numpy())
    np.testing.assert_array_equal(dump["logits"], toy.logits(x).detach().numpy())
    np.testing.assert_array_equal(dump["logits#1"], toy.logits(toy.logits(x)).detach().numpy())
    assert dump.get("logits", 1).info["inputs"] == {"input": "logits"}
    gate = dump.get("gate").info
    assert gate["settings"] == {
        "class": "Gate",
        "scaling": 0.5,
        "infinite": "inf",
        "mode": "soft",
    }
    assert gate["inputs"]["x"] == gate["inputs"]["more.0"] == gate["inputs"]["bias"]
    assert dump[gate["inputs"]["extra"]].tolist() == [1, 1, 1]
    assert dump.about["who"] == "me"


def test_what_was_written_into_is_another_tensor(toy, tmp_path):
    """ReLU(inplace=True) changes what the linear layer gave, after it was written."""
    for inference in (False, True):
        with instrument_tree(toy, tmp_path / "a.safetensors"), torch.inference_mode(inference):
            toy(torch.randn(4, 3))
        dump = open_dump(tmp_path / "a.safetensors")
        linear, relu = dump["gate.inside.0"], dump["gate.inside.1"]
        assert np.min(linear) < 0
        np.testing.assert_array_equal(relu, np.maximum(linear, 0))
        assert dump.get("gate.inside.1").info["inputs"] == {"input": "gate.inside.0"}
        made_of = dump.get("gate.inside.0").info["inputs"]
        np.testing.assert_allclose(
            dump[made_of["input"]] @ toy.gate.inside[0].weight.detach().numpy().T
            + toy.gate.inside[0].bias.detach().numpy(),
            linear,
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("inference", [False, True])
def test_a_tensor_is_known_again_until_somebody_writes_into_it(inference, tmp_path):
    class View(torch.nn.Module):
        def forward(self, x):
            return x.view_as(x)

    class Tree(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (torch.nn.Linear(3, 3) for _ in range(4))
            self.view = View()

        def forward(self, x):
            y = self.view(self.a(x))  # in the place of what a gave, which is gone
            z = self.b(y)
            w = self.c(z)
            z.add_(1)
            return w + self.d(z)

    mode, tree = torch.inference_mode() if inference else torch.no_grad(), Tree().eval()
    with instrument_tree(tree, tmp_path / "a.safetensors"), mode:
        tree(torch.ones(1, 2, 3))
    dump = open_dump(tmp_path / "a.safetensors")
    made_of = {entry.key: entry.info["inputs"] for entry in dump}
    assert made_of["b"] == {"input": "view"} and made_of["c"] == {"input": "b"}
    assert made_of["d"] == {"input": "inputs/d/input"}
    np.testing.assert_array_equal(dump["inputs/d/input"], dump["b"] + 1)


def test_a_call_that_fails_and_is_caught_does_not_confuse_the_next(tmp_path):
    class Careful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 3), torch.nn.Linear(2, 3)

        def forward(self, x):
            try:
                return self.a(x)
            except RuntimeError:
                return self.b(x)

    model, x = Careful().eval(), torch.ones(1, 2)
    with instrument_tree(model, tmp_path / "a.safetensors"):
        model(x)
    dump = open_dump(tmp_path / "a.safetensors")
    assert [entry.key for entry in dump] == ["b", "Careful"]
    assert dump[dump.get("Careful").info["inputs"]["x"]].tolist() == [[1, 1]]


def test_names_that_clash_and_dataclasses(tmp_path):
    @dataclasses.dataclass
    class Out:
        last_hidden_state: object
        extra: object

    class Clash(torch.nn.ModuleList):
        def forward(self, x):
            a, b = self[0](x), self[1](x)
            return a + b, a * b, a, Out(a - b, {"deep": [b + 1]})

    tree = Clash([torch.nn.Identity(), torch.nn.Linear(2, 2)]).eval()
    wrapper = torch.nn.ModuleDict({"m": tree})
    with instrument_tree(wrapper, tmp_path / "a.safetensors"):
        tree(torch.ones(2, 2))
    names = [entry.key for entry in open_dump(tmp_path / "a.safetensors")]
    assert names == [
        *("m.0", "m.1", "m", "m.output.1", "m.3.last_hidden_state", "m.3.extra.deep.0"),
    ]


def test_globs_choose_and_must_fit(toy, tmp_path):
    with instrument_tree(toy, tmp_path / "a.safetensors", ["gate.inside.*"]):
        toy(torch.ones(1, 3))
    names = [entry.key for entry in open_dump(tmp_path / "a.safetensors")]
    assert names == ["gate.inside.0", "gate.inside.1"]
    target = tmp_path / "b.safetensors"
    with (
        pytest.raises(UserError, match=r"no stage ran that fits gaet"),
        instrument_tree(toy, target, "gaet"),
    ):
        toy(torch.ones(1, 3))
    assert not target.exists()


def test_bugs_get_one_line(toy, tmp_path):
    target = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"a int is not a torch\.nn\.Module"), instrument(3, target):
        pass
    with pytest.raises(UserError, match=r"ends in \.safetensors"), instrument(toy, tmp_path / "a"):
        pass
    named = torch.nn.ModuleDict({"a#1": torch.nn.Identity()})
    with pytest.raises(UserError, match=r"called a#1"), instrument(named, target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_training_and_strange_tensors_are_noted(tmp_path):
    class Complex(torch.nn.Module):
        def forward(self, x):
            return x, torch.view_as_complex(x)

    model = Complex()
    with instrument_tree(model, tmp_path / "a.safetensors"):
        model(torch.ones(3, 2))
    dump = open_dump(tmp_path / "a.safetensors")
    assert len(dump) == 1 and len(dump.notes) == 2
    assert "training mode" in dump.notes[0] and "complex64" in dump.notes[1]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_every_dtype(dtype, tmp_path):
    model = torch.nn.Identity().eval()
    x = torch.tensor([[0.0, 1.0], [3.0, 2.0]]).to(getattr(torch, dtype))
    with instrument_tree(model, tmp_path / "a.safetensors"):
        model(x)
        model(x[0, 0])
        model(x[:0])
    dump = open_dump(tmp_path / "a.safetensors")
    assert {entry.dtype for entry in dump} == {dtype}
    np.testing.assert_array_equal(dump["Identity"], x.float().numpy())
    assert dump["Identity#1"].shape == () and dump["Identity#2"].shape == (0, 2)
    safetensors = pytest.importorskip("safetensors.torch")
    found = safetensors.load_file(tmp_path / "a.safetensors")
    assert found["Identity"].dtype == x.dtype and bool((found["Identity"] == x).all())


# ------------------------------------------------------------------ folders of calls


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
        with pytest.raises(UserError, match="is not tensors alone") as caught:
            open_dump(folder if folder in file.parents else file)
        assert "\n" not in str(caught.value)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="is not tensors alone"):
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


# ------------------------------------------------------------------ faults made in transformers


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


FAULTS = {
    "merger_gelu_tanh": tanh_gelu,
    "vision_no_rope": no_rope,
    "qkv_bias_missing": no_bias,
    "text_eps_class_default": wrong_eps,
}


def compared(witness, inputs, place):
    """Our model, and its dump of the prompt against ``bad.safetensors``."""
    ours = tinyqwenvl.load(witness.config._name_or_path)
    media = {"input_ids": inputs.input_ids, "pixel_values": inputs.pixel_values}
    media |= {"image_grid_thw": inputs.image_grid_thw}
    reference = record(ours, Job(None, media), place / "ref.safetensors", floors=["float32"])
    found = compare(reference, open_dump(place / "bad.safetensors"))
    return ours, found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_made_in_transformers_is_named(name, case, hf, tmp_path, monkeypatch):
    """Not our own mutant, but the same mistake in another implementation."""
    whole, given, _, inputs = case
    witness = hf.Witness(whole.config._name_or_path)
    FAULTS[name](witness, monkeypatch)
    with torch.no_grad(), instrument(witness.model, tmp_path / "bad.safetensors"):
        witness.model(**given)
    ours, found = compared(witness, inputs, tmp_path)
    assert found.first is not None
    assert explain(found, ours)[0]["mutant"] == name


def test_token_types_forgotten(case, tmp_path):
    """transformers 5.23 then counts image tokens like text, without a word (Qwen2.5-VL)."""
    witness, given, _, inputs = case
    if witness.config.model_type != "qwen2_5_vl":
        pytest.skip("Qwen2-VL refuses")
    given = {n: v for n, v in given.items() if n != "mm_token_type_ids"}
    with torch.no_grad(), instrument(witness.model, tmp_path / "bad.safetensors"):
        witness.model(**given)
    ours, found = compared(witness, inputs, tmp_path)
    assert found.first.name == "model.position_ids"
    assert explain(found, ours)[0]["mutant"] == "positions_in_one_dimension"


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
