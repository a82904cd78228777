"""Every known bug is caught by a vector, and named; the vectors claim just what they catch."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinyqwenvl.oracle import selftest
from tinyqwenvl.oracle.__main__ import main
from tinyqwenvl.oracle.mutants import MUTANTS
from tinyqwenvl.oracle.vectors import FOLDER

ROOT = Path(__file__).parents[1]


# Of every stage one or two; all of them are named under --slow.
NAMED = """resize_rounds_half_up patches_in_raster_order vision_rope_interleaved
    windows_across_images
    merger_gelu_tanh text_after_all_image_tokens mrope_interleaved no_causal_mask""".split()


@pytest.fixture(scope="module")
def kills():
    """Mutant -> the cases that catch it, of all vectors."""
    return {name: selftest.unit_kills(name) + selftest.model_kills(name) for name in MUTANTS}


@pytest.fixture(scope="module")
def trial():
    """What the command does in a process: the runs with each bug are made once."""
    return selftest.Trial()


def test_ours_are_right():
    cases = selftest.model_cases()
    assert len(cases) == 6
    assert [selftest.wrong_stage(case) for case in cases] == [None] * 6
    assert {case.model.config.model_type for case in cases} == {"qwen2_vl", "qwen2_5_vl"}


def test_every_mutant_is_killed(kills):
    assert len(kills) == len(MUTANTS) >= 90
    assert [name for name, cases in kills.items() if not cases] == []


def test_the_vectors_claim_what_they_catch(kills):
    """If this fails: python -m scripts.make_kills."""
    found = {}
    for mutant, cases in kills.items():
        for case in cases:
            found.setdefault(case, set()).add(mutant)
    claims = selftest.claimed_kills()
    assert {case: set(names) for case, names in claims.items() if names} == found


@pytest.mark.parametrize("mutant", NAMED)
def test_a_mutant_is_named(mutant, trial, kills):
    assert trial.result(mutant) == selftest.Result(mutant, kills[mutant], mutant)


@pytest.mark.slow
def test_every_mutant_is_killed_and_most_are_named_by_the_command(kills):
    command = [sys.executable, "-m", "tinyqwenvl.oracle", "selftest", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = [selftest.Result(**line) for line in json.loads(done.stdout)]
    assert {r.mutant: r.killed_by for r in results} == kills
    wrong = {r.mutant: r.named for r in results if r.named != r.mutant}
    assert len(wrong) <= 0.05 * len(results), wrong
    count, named = len(MUTANTS), len(MUTANTS) - len(wrong)
    assert (
        selftest.conclusion(results)
        == f"{count} of {count} mutants killed, {named} named right first"
    )


def test_the_manifest_knows_the_model_files():
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    assert {line["id"] for line in manifest["models"]} == {c.id for c in selftest.model_cases()}
    for line in manifest["models"]:
        data = (FOLDER / line["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        assert (FOLDER / line["manifest"]).exists()
        assert (FOLDER / line["checkpoint"] / "config.json").exists()
    size = sum(path.stat().st_size for path in FOLDER.parent.rglob("*") if path.is_file())
    assert size < 10_200_000


def test_the_model_cases_are_sharp():
    """Ragged windows, an order that does not undo itself, several images, t > 1, decoding."""
    by_name = {case.id: case.reference for case in selftest.model_cases()}
    images, video = by_name["models/qwen2_5_vl-pictures"], by_name["models/qwen2_5_vl-video"]
    index = images["visual.window_index"]
    assert (index[index] != range(len(index))).any()
    assert len(images["image_grid_thw"]) == 3 and video["video_grid_thw"][0, 0] == 5
    assert images.get("generated", 11) is not None
    assert video["second_per_grid_ts"][0] % 1
    large = by_name["models/qwen2_5_vl_large-picture"]["visual.blocks.3.mlp"]
    assert abs(large).max() > 65504


def test_the_command(capsys):
    assert main(["selftest", "vision_no_rope", "rope_delta_lost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 of 2 mutants killed, 2 named right first"
    assert main(["selftest", "nothing"]) == 2
    assert main(["vectors"]) == 0
    assert "models/qwen2_vl-video" in capsys.readouterr().out


def test_vectors_are_copied_once(tmp_path, capsys):
    assert main(["vectors", str(tmp_path / "v")]) == 0
    assert (tmp_path / "v" / "v1" / "manifest.json").exists()
    assert main(["vectors", str(tmp_path / "v")]) == 2
    assert "exists already" in capsys.readouterr().err


WRONG = """
import json, sys
for line in sys.stdin:
    q = json.loads(line)
    if q["family"] != "smart_resize":
        print(json.dumps({"id": q["id"], "skip": True}), flush=True)
        continue
    from tinyqwenvl.oracle import mutants, vectors
    with mutants.apply("resize_rounds_half_up"):
        answer = vectors.answer_to({"id": q["id"], "input": q["input"]})
    said = {"error": str(answer)} if isinstance(answer, Exception) else {"output": answer}
    print(json.dumps({"id": q["id"], **said}), flush=True)
"""


def test_the_harness_names_the_bug_of_another_program(tmp_path, capsys):
    program = tmp_path / "port.py"
    program.write_text(WRONG)
    words = ["harness", "--timeout", "60", "--json", "--", sys.executable, str(program)]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["explanation"][0]["mutant"] == "resize_rounds_half_up"
    assert found["failed"] and found["families"]["window_index"]["passed"] == 0
    assert main(["harness"]) == 2
    assert main(["harness", "--", str(tmp_path / "nowhere")]) == 2
    assert main(["harness", "--families", "no", "--", "true"]) == 2
