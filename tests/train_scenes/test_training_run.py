# ruff: noqa: E402
"""The run kept in the repository: written, gone on from, refused."""

import json

import pytest

torch = pytest.importorskip("torch", reason="the training needs PyTorch")

from scripts.train_scenes import curves, export, gpu_slice, keep, state, tokenizer, train
from scripts.train_scenes.batches import EASY_STEPS
from scripts.train_scenes.learner import WARM_UP, Learner
from scripts.train_scenes.network import Config, Network, VisionConfig

TOKENIZER = tokenizer.load()
VISION = VisionConfig(depth=1, hidden_size=64, intermediate_size=64, num_heads=2,
                      fullatt_block_indexes=(0,))  # fmt: skip
SMALL = Config(TOKENIZER.get_vocab_size(), 64, 64, 1, 2, 1, vision=VISION)
COUNTERS = {"steps": 500, "images": 9000, "seconds": 30.26}
LOG = [{"images": 4000, "loss": {}}, {"images": 9000, "loss": {}}]


@pytest.fixture(scope="module")
def learner():
    """A learner whose running mean is not its weights."""
    found = Learner(TOKENIZER, "cpu", config=SMALL)
    with torch.no_grad():
        for value in found.mean.values:
            value.add_(0.125)
    return found


@pytest.fixture
def kept(learner, tmp_path):
    folder = tmp_path / "run"
    mean = learner.mean.state()
    keep.write_run(folder, mean, COUNTERS, TOKENIZER, "a GPU", LOG, {"training": {}}, "first")
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "RUN", tmp_path / "run")
    monkeypatch.setattr("scripts.train_scenes.learner.Config", lambda vocab_size: SMALL)


def options(tmp_path, *words):
    return train.parse(["--state", str(tmp_path / "state"), *map(str, words)])


def refused(capsys, main, words):
    """The one line of an error with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_kept_run_is_the_running_mean_in_bfloat16(learner, kept):
    weights, counters, _ = keep.read_run(kept)
    assert counters == {"steps": 500, "images": 9000, "seconds": 30.3}
    for name, value in learner.mean.state().items():
        assert torch.equal(weights[name], value.bfloat16().float())
    assert sorted(p.name for p in kept.iterdir()) == [
        "evaluation.json", "log.jsonl", "run.json", "weights.safetensors"
    ]  # fmt: skip


def test_slices_and_logs_are_joined(learner, kept):
    new = [*LOG, {"images": 12000, "loss": {}}]
    counters = {"steps": 700, "images": 12000, "seconds": 50.0}
    keep.write_run(kept, learner.mean.state(), counters, TOKENIZER, "a CPU", new, note="second")
    said = json.loads((kept / "run.json").read_text())
    assert said["slices"] == [
        {"device": "a GPU", "steps": 500, "images": 9000, "seconds": 30.3},
        {"device": "a CPU", "steps": 200, "images": 3000, "seconds": 19.7},
    ]
    assert said["notes"] == ["first", "second"] and said["counters"] == counters
    images = [json.loads(line)["images"] for line in (kept / "log.jsonl").open()]
    assert images == [4000, 9000, 12000]
    assert json.loads((kept / "evaluation.json").read_text()) == {"training": {}}
    with pytest.raises(state.StateError, match="nothing was trained"):
        keep.write_run(kept, learner.mean.state(), counters, TOKENIZER, "a CPU")


def test_a_run_over_the_limit_is_not_written(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "LARGEST_RUN", 100_000)
    with pytest.raises(state.StateError, match="over 100000"):
        keep.write_run(tmp_path / "new", learner.mean.state(), COUNTERS, TOKENIZER, "a GPU")
    assert not (tmp_path / "new").exists()


def test_where_a_slice_begins(learner, kept, tmp_path):
    *_, where = train.find_state(options(tmp_path, "--new"))
    assert where == "nothing"
    parts, counters, _, where = train.find_state(options(tmp_path))
    assert set(parts) == {"weights"} and counters["steps"] == 500 and str(kept) in where
    moved = kept.rename(tmp_path / "elsewhere")
    assert train.find_state(options(tmp_path))[-1] == "nothing"
    assert train.find_state(options(tmp_path, "--from-run", moved))[1]["images"] == 9000
    contents = {**learner.parts(), "momentum": {}}, {**COUNTERS, "steps": 3}, TOKENIZER
    state.write_compact(tmp_path / "compact", *contents)
    found = train.find_state(options(tmp_path, "--compact", tmp_path / "compact"))
    assert found[1]["steps"] == 3 and "compact" in found[-1]
    state.write_whole(tmp_path / "state", *contents[:1], {**COUNTERS, "steps": 4}, TOKENIZER)
    found = train.find_state(options(tmp_path, "--from-run", moved))
    assert found[1]["steps"] == 4 and "state in" in found[-1]
    with pytest.raises(state.StateError, match="--new"):
        train.find_state(options(tmp_path, "--new"))


def test_training_goes_on_from_a_kept_run(kept, tmp_path):
    *found, _ = train.find_state(options(tmp_path))
    learner = train.make_learner("cpu", *found)
    weights = keep.read_run(kept)[0]
    for name, value in learner.network.named_parameters():
        assert torch.equal(value, weights[name])
        assert torch.equal(learner.mean.state()[name], weights[name])
    assert learner.counters["steps"] == 500 > EASY_STEPS
    assert learner.counters["images"] == 9000
    assert learner.since_restart() == 0 and learner.is_warming_up()
    assert not any(optimiser.state for optimiser in learner.optimisers)
    learner.counters["steps"] += WARM_UP
    assert not learner.is_warming_up()


def test_a_restart_is_warmed_up_and_outlives_a_state(kept, tmp_path):
    *found, _ = train.find_state(options(tmp_path))
    learner = train.make_learner("cpu", *found)
    batch, layout = small_step(learner)
    learner.step(batch, layout)
    rates = [g["lr"] / g["peak"] for o in learner.optimisers for g in o.param_groups]
    assert rates == pytest.approx([1 / WARM_UP] * len(rates))
    state.write_whole(tmp_path / "state", learner.parts(), learner.counters, TOKENIZER)
    *found, where = train.find_state(options(tmp_path))
    again = train.make_learner("cpu", *found)
    assert "state in" in where and again.since_restart() == 1
    steps = {float(values["step"]) for values in again.optimisers[1].state.values()}
    assert steps == {1.0}


def small_step(learner):
    """One step with a single easy image."""
    from scripts.train_scenes.batches import Size, make_step
    from scripts.train_scenes.packing import Encoder

    arrays, layout = make_step(Encoder(TOKENIZER), 7, 0, Size(40, 60, 4))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, layout


def test_a_fresh_head_does_not_pull_at_trained_weights(kept, tmp_path):
    *found, _ = train.find_state(options(tmp_path))
    learner = train.make_learner("cpu", *found)
    batch, layout = small_step(learner)
    filters = learner.network.visual.blocks[0].attn.qkv.weight
    for warming in (True, False):
        learner.counters["steps"] = 500 if warming else 500 + WARM_UP
        learner.network.zero_grad(), learner.head.zero_grad()
        learner.losses(batch, layout)[1].backward()
        assert (filters.grad is None or not filters.grad.any()) == warming
        assert learner.head.read.weight.grad.any()


@pytest.mark.parametrize("name", ["weights.safetensors", "run.json"])
@pytest.mark.parametrize("contents", [None, b"", b"nonsense" * 100, b"{}"])
def test_a_missing_or_corrupt_run_is_refused(kept, tmp_path, capsys, name, contents):
    (kept / name).unlink()
    if contents is not None:
        (kept / name).write_bytes(contents)
    words = ["--state", tmp_path / "state", "--seconds", 1, "--device", "cpu"]
    refused(capsys, train.main, words)
    refused(capsys, train.main, [*words, "--from-run", kept])
    assert not (tmp_path / "state").exists()


def test_weights_with_another_value_are_refused(kept):
    contents = bytearray((kept / "weights.safetensors").read_bytes())
    contents[-1] ^= 1
    (kept / "weights.safetensors").write_bytes(contents)
    with pytest.raises(state.StateError, match="not the one"):
        keep.read_run(kept)


def test_a_run_of_another_tokenizer_is_refused(kept):
    said = json.loads((kept / "run.json").read_text())
    (kept / "run.json").write_text(json.dumps({**said, "tokenizer": "0" * 64}))
    with pytest.raises(state.StateError, match="tokenizer"):
        keep.read_run(kept)


def test_a_missing_folder_is_refused(tmp_path, capsys):
    words = ["--state", tmp_path / "state", "--device", "cpu"]
    assert "none" in refused(capsys, train.main, [*words, "--from-run", tmp_path / "none"])
    words = ["--state", tmp_path / "none", "--out", tmp_path / "run", "--device", "a CPU"]
    refused(capsys, keep.main, words)
    assert not (tmp_path / "run").exists()


def test_a_slice_on_a_gpu_passes_a_refusal_on(kept, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(gpu_slice, "start", lambda *words: started.append(words))
    monkeypatch.setattr(gpu_slice, "finish", lambda process, seconds: 2)
    words = ["100", "--out", tmp_path / "out", "--work", tmp_path / "work", "--from-run", kept]
    with pytest.raises(SystemExit) as ended:
        gpu_slice.main(list(map(str, words)))
    assert ended.value.code == 2 and len(started) == 1
    assert str(started[0][started[0].index("--from-run") + 1]) == str(kept)


def test_a_second_attempt_does_not_begin_anew(tmp_path, monkeypatch):
    started = []

    def finish(process, seconds):
        (tmp_path / "work" / "state").mkdir(exist_ok=True)
        (tmp_path / "work" / "state" / state.WHOLE).touch()
        return 1 if len(started) < 2 else 0

    monkeypatch.setattr(gpu_slice, "start", lambda *words: started.append(words))
    monkeypatch.setattr(gpu_slice, "finish", finish)
    words = ["100", "--out", tmp_path / "out", "--work", tmp_path / "work", "--new"]
    gpu_slice.main([*map(str, words), "--no-evaluation"])
    assert ["--new" in words for words in started] == [True, False]


def test_learning_curves_are_drawn_from_the_log(tmp_path, capsys):
    log, out = tmp_path / "log.jsonl", tmp_path / "curves.png"
    log.write_text("".join(json.dumps({**line, "loss": {"count": 0.5}}) + "\n" for line in LOG))
    curves.main(["--log", str(log), "--out", str(out)])
    assert out.stat().st_size > 5_000 and "9,000 images" in capsys.readouterr().out
    for contents in ("", "nonsense", '{"images": 3}'):
        log.write_text(contents)
        words = ["--log", log, "--out", tmp_path / "none.png"]
        assert "log.jsonl" in refused(capsys, curves.main, words)
    assert not (tmp_path / "none.png").exists()


def test_the_run_in_the_repository_can_be_gone_on_from(tmp_path):
    weights, counters, found = keep.read_run()
    assert sum(path.stat().st_size for path in keep.RUN.iterdir()) <= keep.LARGEST_RUN
    said = json.loads((keep.RUN / "run.json").read_text())
    for key in ("steps", "images"):
        assert sum(part[key] for part in said["slices"]) == counters[key]
    last = json.loads((keep.RUN / "log.jsonl").read_text().splitlines()[-1])
    assert last["images"] == counters["images"]
    network = Network(Config(found.get_vocab_size()))
    assert {n: v.shape for n, v in network.named_parameters()} == {
        n: v.shape for n, v in weights.items()
    }
    assert export.read_weights(keep.RUN)[0].keys() == weights.keys()
