"""Dumps of any tree of PyTorch modules."""

import dataclasses

import numpy as np
import pytest
from support import rounding

from tinyqwenvl import UserError
from tinyqwenvl.oracle.readers import open_dump

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from tinyqwenvl.oracle.torch import instrument, instrument_tree  # noqa: E402


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
        x, w, b = (
            dump[made_of["input"]],
            toy.gate.inside[0].weight.detach().numpy(),
            toy.gate.inside[0].bias.detach().numpy(),
        )
        off = 2 * rounding(4, np.float32) * (np.abs(x) @ np.abs(w.T) + np.abs(b))
        assert np.all(np.abs(x @ w.T + b - linear) <= off)


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
        pytest.raises(UserError, match=r"no stage that ran matches gaet"),
        instrument_tree(toy, target, "gaet"),
    ):
        toy(torch.ones(1, 3))
    assert not target.exists()


def test_bugs_get_one_line(toy, tmp_path):
    target = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"a int is not a torch\.nn\.Module"), instrument(3, target):
        pass
    with pytest.raises(UserError, match=r"end in \.safetensors"), instrument(toy, tmp_path / "a"):
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
