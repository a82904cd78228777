"""The command line as a newcomer meets it: a process, its output, its exit code."""

import json
import os
import signal
import subprocess
import sys

import pytest

from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import run
from tinyqwenvl.model import EXAMPLE_PICTURE

TRUTH = EXAMPLE_PICTURE.with_suffix(".txt").read_text()  # what was drawn, not what was answered

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tinyqwenvl_run(*words, cwd=None, stdin=b"", module="tinyqwenvl.run"):
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": HERE, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, cwd=cwd, env=environment, input=stdin)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def test_no_arguments_describes_the_example_truly():
    done = tinyqwenvl_run()
    assert done.returncode == 0
    assert done.stdout == TRUTH
    assert done.stderr.count("\n") == 1 and "drawn scenes only" in done.stderr


def test_a_sole_picture_means_describe():
    assert (
        tinyqwenvl_run(EXAMPLE_PICTURE).stdout == tinyqwenvl_run(EXAMPLE_PICTURE, "describe").stdout
    )


def test_json():
    done = tinyqwenvl_run(EXAMPLE_PICTURE, "describe", "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {
        "text",
        "token_ids",
        "prompt_token_ids",
        "image_grid_thw",
        "finish_reason",
        "sampling",
        "timings",
    }
    assert set(answer["timings"]) == {"load", "prepare", "vision", "prefill", "decode", "total"}
    assert answer["finish_reason"] == "stop"
    assert answer["text"] + "\n" == TRUTH
    few = json.loads(tinyqwenvl_run(EXAMPLE_PICTURE, "describe", "--json", "-n", 3).stdout)
    assert few["token_ids"] == answer["token_ids"][:3]
    assert few["finish_reason"] == "length"
    small = json.loads(tinyqwenvl_run(EXAMPLE_PICTURE, "--max-pixels", 20000, "--json").stdout)
    (grid,) = small["image_grid_thw"]
    assert grid[1] * grid[2] * 196 <= 20000


def test_another_checkpoint(tmp_path):
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_vl"))
    done = tinyqwenvl_run(EXAMPLE_PICTURE, "hello", "-m", directory, "-n", 5)
    assert done.returncode == 0
    assert done.stderr == ""


def test_options_may_stand_anywhere():
    few = tinyqwenvl_run(EXAMPLE_PICTURE, "-n", "2", "describe", "--json")
    assert len(json.loads(few.stdout)["token_ids"]) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ([str(EXAMPLE_PICTURE)], None)),
        (["a.png"], (["a.png"], None)),  # and then: no such picture
        (["here.png"], (["here.png"], None)),
        (["noted"], (["noted"], None)),
        (["-"], (["-"], None)),
        (["a.png", "-"], (["a.png", "-"], None)),
        (["-", "what?"], (["-"], "what?")),
        (["what?"], ([], "what?")),
        (["a.png", "what?"], (["a.png"], "what?")),
        (["a.png", "noted"], (["a.png"], "noted")),
        (["a.png", "here.png"], (["a.png", "here.png"], None)),
        (["a.png", "b.png", "what is in b.png"], (["a.png", "b.png"], "what is in b.png")),
    ],
)
def test_which_words_are_pictures(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here.png", "noted"):
        (tmp_path / name).touch()
    assert run.pictures_and_prompt(words) == expected


def test_an_answer_that_the_terminal_cannot_show(tmp_path):
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_vl"))
    environment = {**os.environ, "PYTHONPATH": HERE, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tinyqwenvl.run", "hello", "-m", str(directory), "-n", "20"]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_full_disk_is_one_line():
    environment = {**os.environ, "PYTHONPATH": HERE}
    command = [sys.executable, "-m", "tinyqwenvl.run", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(b"error: cannot write the answer")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_keeps_what_was_said_and_exits_with_130(tmp_path):
    raw = {**tiny_config("qwen2_vl"), "eos_token_id": 277}  # a token that it does not choose
    directory = write_checkpoint(tmp_path / "model", raw)
    command = [sys.executable, "-m", "tinyqwenvl.run", "hello", "-m", str(directory), "-n", "99999"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environment) as process:
        said = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said + out and err.strip() == b""


def test_importing_the_package_is_quick_and_light():
    """No heavy library is imported before it is needed."""
    code = "import sys, tinyqwenvl; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "huggingface_hub", "jinja2"}
