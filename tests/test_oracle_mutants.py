"""The registry of injected bugs, and runs that are recorded once and compared many times."""

import numpy as np
import pytest
from PIL import Image

from tinyqwenvl import UserError, image, nn
from tinyqwenvl.oracle import mutants, selftest
from tinyqwenvl.oracle.bug_runs import BugRuns, parts_of
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.explain import explain
from tinyqwenvl.oracle.mutants import MODULES, MUTANTS, Mutant, apply, variant


def inject(monkeypatch, **replaced):
    """A mutant of its own that replaces "module.name"; dots are written as two underscores."""
    made = {name.replace("__", "."): value for name, value in replaced.items()}
    monkeypatch.setitem(MUTANTS, "mine", Mutant("mine", "mine", "", lambda: made))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_replaces_and_puts_back(name):
    before = {module: dict(vars(module)) for module in MODULES.values()}
    with apply(name):
        changed = [m for m, names in before.items() if vars(m) != names]
        assert changed
    assert all(vars(module) == names for module, names in before.items())


@pytest.mark.parametrize(
    "path", ["vision__no_such_function", "nothing__rotate", "vision__sorted_by_nobody"]
)
def test_a_mutant_of_what_does_not_exist_is_refused(path, monkeypatch):
    inject(monkeypatch, image__resize=None, **{path: None})
    before = image.resize
    message = f"{path.replace('__', '.')}, which does not exist"
    with pytest.raises(UserError, match=message), apply("mine"):
        pytest.fail("applied")
    assert image.resize is before


def test_a_builtin_may_be_replaced_where_it_is_called(monkeypatch):
    inject(monkeypatch, image__round=lambda x: 0)
    with apply("mine"):
        assert vars(image)["round"](3.7) == 0
    assert "round" not in vars(image)
    inject(monkeypatch, image__input=lambda: "")  # a builtin that nothing there calls
    with pytest.raises(UserError, match=r"image\.input, which does not exist"), apply("mine"):
        pass


def test_a_variant_of_what_does_not_exist_is_refused():
    assert variant(nn, rotate=None).rotate is None and nn.rotate is not None
    with pytest.raises(UserError, match="has no rotation"):
        variant(nn, rotation=None)


@pytest.mark.parametrize("size", [(140, 196), (84, 112), (280, 84), (150, 112)])
def test_the_resize_of_torchvision_is_its_own_to_the_byte(size):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    pixels = np.random.default_rng(1).integers(0, 256, (150, 210, 3), dtype=np.uint8)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(
        channels_first, size=size, mode="bicubic", antialias=True
    )[0].permute(1, 2, 0)
    right = image.resize(Image.fromarray(pixels), *size)
    with apply("resize_in_torchvision"):
        ours = image.resize(Image.fromarray(pixels), *size)
    np.testing.assert_array_equal(ours, theirs.numpy())
    apart = np.abs(ours.astype(int) - right)
    assert apart.max() == 1 and apart.mean() < 0.01


def test_a_bug_changes_only_its_parts():
    """Explanations rely on it: what cannot move a stage is not run."""
    for name, bug in MUTANTS.items():
        file = bug.make.__module__.rpartition(".")[2]
        expected = {"chat": "prompt", "image": "prompt", "position": "text", "decoder": "text",
                    "sampling": "text"}.get(file, "vision")  # fmt: skip
        also = {"text"} if name == "norm_weight_plus_one" else set()
        assert parts_of(name) == {expected} | also, name


def test_every_mutant_stands_in_the_file_of_a_stage():
    files = {name.rpartition(".")[2] for m in MUTANTS.values() for name in [m.make.__module__]}
    assert files == {stage.__name__.rpartition(".")[2] for stage in mutants.STAGES}
    order = [m.make.__module__ for m in MUTANTS.values()]
    assert order == sorted(order, key=[s.__name__ for s in mutants.STAGES].index)
    for bug in MUTANTS.values():
        assert bug.what and bug.report and bug.make.__name__ == bug.name


# ------------------------------------------------------------------ recorded runs


@pytest.fixture(scope="module")
def case():
    """The smallest model case, which has no decoding."""
    return next(c for c in selftest.model_cases() if c.id.endswith("large-picture"))


@pytest.fixture(scope="module")
def runs(case):
    return BugRuns(case.model, case.job, case.reference.entries)


def test_what_a_bug_leaves_alone_is_the_same_array(case, runs):
    right = {(name, call): value for name, call, value in runs.of(None).stages}
    assert set(right) == set(case.reference.entries)
    same = [name for name, call, x in runs.of("merger_gelu_tanh").stages if x is right[name, call]]
    different = {name for name, *_ in runs.of("merger_gelu_tanh").stages} - set(same)
    assert different == {"visual.merger", "visual"}
    assert runs.of("merger_gelu_tanh") is runs.of("merger_gelu_tanh")


def test_signs_of_zeros_are_kept():
    from tinyqwenvl.oracle.bug_runs import _same_bits

    zero = np.zeros(2, np.float32)
    assert _same_bits(zero, zero.copy()) and not _same_bits(zero, -zero)
    assert not _same_bits(zero, zero.astype(np.float64))


def test_recorded_runs_explain_as_live_ones_do(case, runs, tmp_path):
    candidate = selftest._record_port(case, "vision_no_rope", tmp_path / "candidate.safetensors")
    found = compare(case.reference, candidate, "float32")
    live = explain(found, case.model)
    assert live and live == explain(found, case.model, runs=runs)
    assert live[0]["mutant"] == "vision_no_rope"


def test_a_trial_judges_as_single_runs_do(case):
    trial = selftest.Trial()
    decoding = next(c for c in trial.cases if c.id == "models/qwen2_vl-pictures")
    for mutant in ("vision_no_rope", "repetition_penalty_on", "seconds_ignored"):
        for each in (next(c for c in trial.cases if c.id == case.id), decoding):
            assert trial.wrong_stage(each, mutant) == selftest.wrong_stage(each, mutant)
    assert selftest.wrong_stage(decoding, "repetition_penalty_on").startswith("generated")
    assert selftest.wrong_stage(decoding, "seconds_ignored") is None


def test_results_come_in_order_from_several_processes():
    names = ["images_before_text", *["wrong_system_prompt"] * selftest.PER_WORKER]
    results = list(selftest.selftest(names, workers=2))
    assert [(r.mutant, r.named) for r in results] == list(zip(names, names, strict=True))
    for result in results[:2]:
        kills = selftest.unit_kills(result.mutant) + selftest.model_kills(result.mutant)
        assert result.killed_by == kills != []
