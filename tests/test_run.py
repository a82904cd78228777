"""The command line as a newcomer meets it: a process, its output, its exit code."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from commands import HERE, TRUTH, endless_checkpoint, tinyqwenvl_run
from support import can_be_interrupted

import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import run
from tinyqwenvl.model import EXAMPLE_IMAGE
from tinyqwenvl.shapes.__main__ import parser as shapes_parser


def test_no_arguments_describes_the_example_truly():
    done = tinyqwenvl_run()
    assert done.returncode == 0
    assert done.stdout == TRUTH
    assert done.stderr.count("\n") == 1 and "only knows drawn scenes" in done.stderr


def test_a_sole_image_means_describe():
    assert tinyqwenvl_run(EXAMPLE_IMAGE).stdout == tinyqwenvl_run(EXAMPLE_IMAGE, "describe").stdout


def test_json():
    done = tinyqwenvl_run(EXAMPLE_IMAGE, "describe", "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {
        "text",
        "token_ids",
        "prompt_token_ids",
        "image_grid_thw",
        "video_grid_thw",
        "second_per_grid_ts",
        "finish_reason",
        "probability",
        "notes",
        "sampling",
        "timings",
    }
    assert set(answer["timings"]) == {"load", "prepare", "vision", "prefill", "decode", "total"}
    assert answer["finish_reason"] == "stop"
    assert answer["text"] + "\n" == TRUTH
    few = json.loads(tinyqwenvl_run(EXAMPLE_IMAGE, "describe", "--json", "-n", 3).stdout)
    assert few["token_ids"] == answer["token_ids"][:3]
    assert few["finish_reason"] == "length"
    small = json.loads(tinyqwenvl_run(EXAMPLE_IMAGE, "--max-pixels", 20000, "--json").stdout)
    (grid,) = small["image_grid_thw"]
    assert grid[1] * grid[2] * 196 <= 20000


def test_another_checkpoint(tmp_path):
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_vl"))
    done = tinyqwenvl_run(EXAMPLE_IMAGE, "hello", "-m", directory, "-n", 5)
    assert done.returncode == 0
    assert done.stderr == ""


def test_options_may_stand_anywhere():
    few = tinyqwenvl_run(EXAMPLE_IMAGE, "-n", "2", "describe", "--json")
    assert len(json.loads(few.stdout)["token_ids"]) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ([str(EXAMPLE_IMAGE)], None)),
        (["a.png"], (["a.png"], None)),  # and then: no such image
        (["here.png"], (["here.png"], None)),
        (["noted"], (["noted"], None)),
        (["-"], (["-"], None)),
        (["a.png", "-"], (["a.png", "-"], None)),
        (["-", "what?"], (["-"], "what?")),
        (["what?"], ([], "what?")),
        (["a.png", "what?"], (["a.png"], "what?")),
        (["a.png", "noted"], (["a.png", "noted"], None)),  # a file, not a prompt
        (["a.png", "folder"], (["a.png"], "folder")),
        (["a.png", "./folder"], (["a.png", "./folder"], None)),
        (["a.png", "photo.heic"], (["a.png", "photo.heic"], None)),
        (["a.png", "yes/no?"], (["a.png"], "yes/no?")),
        (["a.png", "folder/gone"], (["a.png", "folder/gone"], None)),
        (["a.png", "here.png"], (["a.png", "here.png"], None)),
        (["a.png", "gone.png"], (["a.png", "gone.png"], None)),  # and then: no such image
        (["a.png", "b.png", "what is in b.png"], (["a.png", "b.png"], "what is in b.png")),
    ],
)
def test_which_words_are_images(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here.png", "noted"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert run.images_and_prompt(words) == expected


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
    directory = endless_checkpoint(tmp_path / "model")
    command = [sys.executable, "-m", "tinyqwenvl.run", "hello", "-m", str(directory), "-n", "99999"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    with subprocess.Popen(
        command, stdout=-1, stderr=-1, env=environment, preexec_fn=can_be_interrupted
    ) as process:
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


# ------------------------------------------------------------------ commands, help, terminals


def test_commands():
    version = f"tinyqwenvl {tinyqwenvl.__version__}\n"
    for words in (["--version"], ["run", "--version"], ["shapes", "--version"]):
        assert tinyqwenvl_run(*words, module="tinyqwenvl").stdout == version
    assert tinyqwenvl_run("run", EXAMPLE_IMAGE, module="tinyqwenvl").stdout == TRUTH
    shapes = tinyqwenvl_run("shapes", "756x476", module="tinyqwenvl").stdout
    assert shapes == tinyqwenvl_run("756x476", module="tinyqwenvl.shapes").stdout != ""
    overview = tinyqwenvl_run(module="tinyqwenvl")
    assert overview.returncode == 0 and "shapes" in overview.stdout


@pytest.mark.parametrize(
    ("parser", "module"),
    [(run.parser(), "tinyqwenvl.run"), (shapes_parser(), "tinyqwenvl.shapes")],
    ids=["run", "shapes"],
)
def test_help_fits_on_one_screen_and_names_every_option(parser, module):
    text = tinyqwenvl_run("--help", module=module).stdout
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    options = {o for action in parser._actions for o in action.option_strings}
    assert options == set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal_when_it_takes_long(tmp_path):
    """On a terminal there is a bar, cleared before the answer; its steps are the layers."""
    import fcntl
    import pty
    import struct
    import termios

    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = (
        "import sys, tqdm; from tinyqwenvl import run; bar = tqdm.tqdm;"
        "tqdm.tqdm = lambda **options: bar(**{**options, 'delay': 0, 'mininterval': 0});"
        "sys.exit(run.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, cwd=HERE, check=True
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that it was all
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    shown = shown.decode()
    assert done.stdout.decode() == TRUTH
    layers = tinyqwenvl.load().config
    total = layers.vision.depth + layers.text.num_hidden_layers
    assert "encoding the images" in shown and f"{total}/{total}" in shown
    assert shown.endswith("\r") and shown.split("\r")[-2].isspace()  # wiped away


INTERRUPT = """
import os, signal, sys
from tinyqwenvl import run, tracing
seen = []
def interrupt(name, *_):
    seen.append(name)
    if seen.count("lm_head") == 5:
        os.kill(os.getpid(), signal.SIGINT)
with tracing.watching(interrupt):
    sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_with_json_is_still_json(tmp_path):
    """The signal comes while the fifth token is computed, however busy the machine is."""
    directory = endless_checkpoint(tmp_path / "model")
    words = ["hello", "-m", str(directory), "-n", "99999", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, *words],
        capture_output=True, stdin=subprocess.DEVNULL, cwd=HERE, preexec_fn=can_be_interrupted,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    answer = json.loads(done.stdout)
    assert answer["finish_reason"] == "interrupt" and done.stderr == b""
    assert len(answer["token_ids"]) == 4
