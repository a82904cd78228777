# ruff: noqa: E402
"""States of training: written, read, gone on with, refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training needs PyTorch")

from scripts.train_scenes import state, tokenizer, train
from scripts.train_scenes.batches import Size, make_step
from scripts.train_scenes.learner import Learner
from scripts.train_scenes.network import Config, VisionConfig
from scripts.train_scenes.packing import Encoder
from scripts.train_scenes.workers import views, write

ROOT = Path(__file__).parents[2]
TOKENIZER = tokenizer.load()
VISION = VisionConfig(depth=2, hidden_size=64, intermediate_size=64, num_heads=2,
                      fullatt_block_indexes=(1,))  # fmt: skip
SMALL = Config(TOKENIZER.get_vocab_size(), 64, 64, 2, 2, 1, vision=VISION)
SIZE = Size(400, 80, 4)


def batches(first, count):
    encoder = Encoder(TOKENIZER)
    for step in range(first, first + count):
        arrays, layout = make_step(encoder, 7, step, SIZE)
        yield {name: torch.from_numpy(array) for name, array in arrays.items()}, layout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learner, two states of it after 30 steps, and its mean losses in five steps more."""
    found, folder = Learner(TOKENIZER, "cpu", config=SMALL), tmp_path_factory.mktemp("states")
    for batch, layout in batches(0, 30):
        found.step(batch, layout)
    first = mean_loss(found)
    contents = found.parts(), dict(found.counters), TOKENIZER
    state.write_whole(folder / "whole", *contents)
    state.write_compact(folder / "compact", *contents)
    return found, folder, first, losses_of(found)


def mean_loss(learner):
    """The mean loss of all answer tokens since the last call."""
    sums = learner.sums.clone()
    learner.take_sums()
    return float(sums[0].sum() / sums[1].sum())


def losses_of(learner):
    """Mean losses of steps 30 to 34."""
    losses = []
    for batch, layout in batches(30, 5):
        learner.step(batch, layout)
        losses.append(mean_loss(learner))
    return losses


@pytest.mark.parametrize("form", ["whole", "compact"])
def test_training_goes_on_from_a_state_without_a_jump(trained, form):
    _, folder, first, expected = trained
    parts, counters, found = getattr(state, f"read_{form}")(folder / form)
    assert counters["steps"] == 30 and found.get_vocab() == TOKENIZER.get_vocab()
    again = Learner(found, "cpu", config=SMALL)
    again.load(parts, counters)
    losses = losses_of(again)
    assert max(losses) < first  # the mean of the first thirty
    tolerance = 1e-4 if form == "whole" else 0.02
    assert losses == pytest.approx(expected, rel=tolerance)


def test_a_compact_state_with_a_wrong_part_is_refused(trained, tmp_path):
    state.write_compact(tmp_path, trained[0].parts(), trained[0].counters, TOKENIZER)
    assert len(list(tmp_path.iterdir())) == 6
    path = tmp_path / "mean.safetensors"
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(state.StateError, match="mean"):
        state.read_compact(tmp_path)
    path.unlink()
    with pytest.raises(state.StateError, match="mean"):
        state.read_compact(tmp_path)


def test_the_whole_network_fits_a_compact_state(tmp_path):
    learner = Learner(TOKENIZER, "cpu")
    for optimiser in learner.optimisers:
        for group in optimiser.param_groups:
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimiser.step()
    total = state.write_compact(tmp_path, learner.parts(), learner.counters, TOKENIZER)
    assert total <= 48_000_000
    assert all(path.stat().st_size < 16_000_000 for path in tmp_path.iterdir())
    count = sum(weight.numel() for weight in learner.network.parameters())
    assert 4e6 <= count <= 8e6


@pytest.mark.parametrize("contents", [b"", b"\x08\0\0\0\0\0\0\0{}", b"nonsense" * 100])
def test_a_corrupt_state_is_one_line_and_exit_code_2(tmp_path, capsys, contents):
    (tmp_path / state.WHOLE).write_bytes(contents)
    with pytest.raises(SystemExit) as ended:
        train.main(["--state", str(tmp_path), "--seconds", "1", "--device", "cpu"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("words", [["--write"], ["--read"]])
def test_a_missing_state_is_one_line_and_exit_code_2(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as ended:
        state.main(["--state", str(tmp_path / "none"), *words, str(tmp_path / "other")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_diverged_network_is_not_saved(tmp_path, capsys):
    learner = Learner(TOKENIZER, "cpu", config=SMALL)
    with torch.no_grad():
        learner.network.model.embed_tokens.weight[3, 0] = torch.nan
    part = object.__new__(train.Slice)
    part.learner, part.options = learner, train.parse(["--state", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        part.save()
    assert ended.value.code == train.DIVERGED and not list(tmp_path.iterdir())


def test_arrays_pass_through_a_buffer():
    arrays, _ = make_step(Encoder(TOKENIZER), 7, 5000, SIZE)
    buffer = bytearray(10_000_000)
    listed, used = write(buffer, arrays)
    found = views(torch.frombuffer(buffer, dtype=torch.uint8, count=used), listed)
    for name, array in arrays.items():
        assert (found[name].numpy() == array).all() and found[name].shape == array.shape
    with pytest.raises(ValueError, match="slot"):
        write(bytearray(100), arrays)


SLICE = """
from scripts.train_scenes import batches, learner, train
from scripts.train_scenes.network import Config, VisionConfig
vision = VisionConfig(depth=2, hidden_size=64, intermediate_size=64, num_heads=2,
                      fullatt_block_indexes=(1,))
learner.Config = lambda vocab_size: Config(vocab_size, 64, 64, 2, 2, 1, vision=vision)
train.SIZES["cpu"] = batches.Size(400, 80, 4)
train.main()
"""


@pytest.mark.slow
def test_slices_go_on_where_the_last_one_ended(tmp_path):
    words = ["--state", tmp_path / "run", "--seconds", "2", "--device", "cpu", "--workers", "2"]
    words += ["--threads", "1", "--write-compact", tmp_path / "compact"]
    counters = []
    for more in (["--new"], ["--final"]):
        subprocess.run(
            [sys.executable, "-c", SLICE, *map(str, words), *more],
            cwd=ROOT, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        counters.append(state.read_whole(tmp_path / "run")[1])
        assert state.read_compact(tmp_path / "compact")[1] == counters[-1]
    assert 0 < counters[0]["steps"] < counters[1]["steps"]
    assert counters[0]["images"] < counters[1]["images"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert len(lines) == 2 and lines[-1]["steps"] == counters[1]["steps"]
    assert lines[0]["loss"] and lines[0]["device"] == "cpu"
