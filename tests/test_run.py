"""The command line as a newcomer meets it: a process, its output, its exit code."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import random_weights, tiny_config, write_checkpoint
from tinyqwenvl import run
from tinyqwenvl.checkpoint import read_safetensors, write_safetensors
from tinyqwenvl.cli import run as cli_run
from tinyqwenvl.media import open_image
from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE
from tinyqwenvl.shapes.__main__ import parser as shapes_parser

TRUTH = EXAMPLE_IMAGE.with_suffix(".txt").read_text()  # what was drawn, not what was answered

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
        (["a.png", "noted"], (["a.png"], "noted")),
        (["a.png", "here.png"], (["a.png", "here.png"], None)),
        (["a.png", "gone.png"], (["a.png", "gone.png"], None)),  # and then: no such image
        (["a.png", "b.png", "what is in b.png"], (["a.png", "b.png"], "what is in b.png")),
    ],
)
def test_which_words_are_images(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here.png", "noted"):
        (tmp_path / name).touch()
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


def endless_checkpoint(directory):
    """A checkpoint that never ends an answer: the score of the stop token is always 0."""
    raw = tiny_config("qwen2_vl")
    weights = random_weights(raw, seed=0)
    weights["lm_head.weight"][raw["eos_token_id"]] = 0
    write_checkpoint(directory, raw)
    write_safetensors(directory / "model.safetensors", weights)
    return directory


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_keeps_what_was_said_and_exits_with_130(tmp_path):
    directory = endless_checkpoint(tmp_path / "model")
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


# ------------------------------------------------------------------ in this process


def ask(capsys, *words):
    """Exit code, the JSON answer, stderr."""
    code = run.main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def text_of(model, answer):
    return model.tokenizer.decode(answer["prompt_token_ids"], skip_special=False)


@pytest.fixture(scope="module")
def embedded():
    return tinyqwenvl.load()


def test_a_system_prompt(embedded, capsys):
    _, answer, _ = ask(capsys, "hello", "-s", "Speak up.", "-n", 1)
    assert text_of(embedded, answer).startswith("<|im_start|>system\nSpeak up.<|im_end|>\n")


def test_special_tokens_are_text_unless_asked(embedded, capsys):
    words = ["a<|im_end|>b", "-n", 1]
    end = embedded.tokenizer.token_id("<|im_end|>")
    _, typed, _ = ask(capsys, *words)
    _, obeyed, _ = ask(capsys, *words, "--parse-special")
    assert typed["prompt_token_ids"].count(end) == 2
    assert obeyed["prompt_token_ids"].count(end) == 3
    assert text_of(embedded, typed) == text_of(embedded, obeyed)


def test_a_placeholder_that_is_obeyed_is_where_the_image_goes(embedded, capsys):
    """The image's own placeholder first, then the typed one: two images are needed."""
    words = ["-m", EMBEDDED, "see <|image_pad|>!", "--parse-special"]
    assert run.main([str(EXAMPLE_IMAGE), *map(str, words)]) == 2
    assert "2 image placeholders for 1 images" in capsys.readouterr().err


def test_stop_texts(capsys):
    _, whole, _ = ask(capsys, EXAMPLE_IMAGE)
    _, cut, _ = ask(capsys, EXAMPLE_IMAGE, "--stop", "never said", "--stop", "blue")
    assert cut["text"] == whole["text"][: whole["text"].index("blue")]
    assert cut["finish_reason"] == "stop"
    assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])]


def test_sampling_options(capsys):
    words = [EXAMPLE_IMAGE, "Tell me what you see.", "--temperature", 3]
    code, first, _ = ask(capsys, *words, "--seed", 5)
    assert code == 0 and first["sampling"]["seed"] == 5
    assert first["token_ids"] == ask(capsys, *words, "--seed", 5)[1]["token_ids"]
    _, unseeded, _ = ask(capsys, *words)
    assert unseeded["sampling"]["seed"] != ask(capsys, *words)[1]["sampling"]["seed"]
    again = ask(capsys, *words, "--seed", unseeded["sampling"]["seed"])[1]
    assert unseeded["token_ids"] == again["token_ids"]
    _, narrow, _ = ask(capsys, *words, "--top-k", 1)
    assert narrow["token_ids"] == ask(capsys, *words[:2])[1]["token_ids"]


def test_an_option_that_does_nothing_is_pointed_out(capsys):
    _, _, err = ask(capsys, "hello", "--top-p", 0.5, "--seed", 3, "-n", 1)
    assert "--seed, --top-p without --temperature" in err


def test_the_penalty_makes_other_words_likelier(capsys):
    _, plain, _ = ask(capsys, EXAMPLE_IMAGE)
    _, other, _ = ask(capsys, EXAMPLE_IMAGE, "--repetition-penalty", 100)
    assert plain["text"] != other["text"]


def test_the_published_settings_are_used_only_when_asked(tmp_path, capsys):
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_vl"))
    settings = {"do_sample": True, "temperature": 0.5, "repetition_penalty": 1.05}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    words = ["hello", "-m", directory, "-n", 2]
    _, plain, _ = ask(capsys, *words)
    assert plain["sampling"]["repetition_penalty"] == 1
    _, used, err = ask(capsys, *words, "--use-generation-config", "--top-k", 7, "-v")
    assert used["sampling"].items() >= {**settings, "top_k": 7}.items() - {("do_sample", True)}
    assert "top_k 7" in err and "(generation_config.json)" in err
    (directory / "generation_config.json").write_text('{"num_beams": 3, "min_p": 0.1}')
    _, _, err = ask(capsys, *words, "--use-generation-config", "--top-p", 0.5)
    assert "also sets min_p, num_beams" in err and "--top-p without --temperature" in err
    (directory / "generation_config.json").unlink()
    _, _, err = ask(capsys, *words, "--use-generation-config", "-v")
    assert "(there is no generation_config.json)" in err
    _, _, err = ask(capsys, *words, "-v")
    assert "generation_config.json" not in err


def test_transparency(tmp_path, capsys, monkeypatch):
    Image.new("RGBA", (60, 60), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    seen = []
    monkeypatch.setattr(cli_run, "load", lambda source: Spy(seen))
    for choice in ("white", "drop"):
        with pytest.raises(StopIteration):
            run.main([str(tmp_path / "clear.png"), "?", "--alpha", choice])
    assert seen == [(255, 255, 255), (255, 0, 0)]


class Spy:
    """A model that looks at the image's first pixel and gives up."""

    def __init__(self, seen):
        self.seen = seen

    def prepare(self, messages, least, most, parse_special, to_rgb):
        path = messages[0]["content"][0]["image"]
        self.seen.append(open_image(path, to_rgb).getpixel((0, 0)))
        raise StopIteration


def test_many_tokens_get_a_hint(tmp_path, capsys):
    Image.new("RGB", (1480, 1400), "white").save(tmp_path / "large.png")
    words = [tmp_path / "large.png", "?", "-n", 1, "--max-pixels", 9_000_000]
    _, answer, err = ask(capsys, *words)
    assert len(answer["prompt_token_ids"]) > 2560
    hint = next(line for line in err.splitlines() if "--max-pixels 2007040" in line)
    assert "tokens" in hint
    _, _, err = ask(capsys, EXAMPLE_IMAGE, "?", "-n", 1, "--max-pixels", 100_000)
    assert "--max-pixels" not in err


def test_verbose_says_what_was_done(capsys):
    assert run.main([str(EXAMPLE_IMAGE), "-v"]) == 0
    out, err = capsys.readouterr()
    assert out == TRUTH
    for part in ("4,000,544 parameters", "336x224 pixels", "the likeliest token", "ended by stop",
                 "vision ", "prefill ", "decode ", "tokens/s"):  # fmt: skip
        assert part in err, part
    if sys.platform != "win32":
        assert "MB at most" in err


def test_no_stream_is_the_same_text(capsys):
    assert run.main([str(EXAMPLE_IMAGE), "--no-stream"]) == 0
    assert capsys.readouterr().out == TRUTH


# ------------------------------------------------------------------ stdin


def test_a_image_on_stdin():
    data = EXAMPLE_IMAGE.read_bytes()
    assert tinyqwenvl_run("-", stdin=data).stdout == TRUTH
    assert tinyqwenvl_run("-", "describe", stdin=data).stdout == TRUTH
    nothing = tinyqwenvl_run("-", "describe")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "no image came on stdin" in nothing.stderr


def test_piped_text_is_added_to_the_prompt(embedded):
    for words, expected in (
        ([EXAMPLE_IMAGE, "Count:"], "Count:\nall shapes<|im_end|>"),
        ([EXAMPLE_IMAGE], "<|vision_end|>all shapes<|im_end|>"),
    ):
        done = tinyqwenvl_run(*words, "--json", "-n", 1, stdin=b"all shapes\r\n")
        assert expected in text_of(embedded, json.loads(done.stdout))


def test_what_is_piped_must_be_text():
    done = tinyqwenvl_run("hello", stdin=b"\xff\xfe\x00")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not text" in done.stderr
    much = tinyqwenvl_run("hello", stdin=b"a" * 2_000_000)
    assert much.returncode == 2 and "send less" in much.stderr


def test_a_pipe_that_stays_open_does_not_stop_us():
    command = [sys.executable, "-m", "tinyqwenvl.run"]
    read, write = os.pipe()  # nobody writes and nobody closes
    try:
        done = subprocess.run(
            command, stdin=read, capture_output=True, timeout=60, cwd=HERE, check=True
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout.decode() == TRUTH
    assert b"nothing came on stdin for 1 s" in done.stderr


def test_text_that_comes_after_half_a_second_is_read(embedded):
    command = [sys.executable, "-m", "tinyqwenvl.run", "Count:", "--json", "-n", "1"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, cwd=HERE) as process:
        time.sleep(0.5)
        out, _ = process.communicate(b"\xef\xbb\xbf  all shapes \n", timeout=60)
    assert "Count:\n  all shapes <|im_end|>" in text_of(embedded, json.loads(out))


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        ("<&-", [], 0),
        ("2>&-", [], 0),
        (">&-", [], 0),
        ("2>&-", ["nowhere.png"], 2),
        ("2>/dev/full", ["nowhere.png"], 2),
    ],
)
def test_closed_standard_streams(closed, words, code):
    command = [sys.executable, "-m", "tinyqwenvl.run", *words]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, cwd=HERE
    )
    assert done.returncode == code
    expected = "" if code or closed == ">&-" else TRUTH
    assert done.stdout.decode() == expected and b"Traceback" not in done.stderr


def test_an_answer_that_breaks_off_is_ended_by_a_line_end(tmp_path, capsys):
    """A weight that is not a number, of a token that is chosen but was not in the prompt."""
    directory = endless_checkpoint(tmp_path / "model")
    _, plain, _ = ask(capsys, "hello", "-m", directory, "-n", 20)
    fresh = next(t for t in plain["token_ids"][:-1] if t not in plain["prompt_token_ids"])
    weights = {
        n: np.array(leaf()) for n, leaf in read_safetensors(directory / "model.safetensors").items()
    }
    weights["model.embed_tokens.weight"][fresh] = np.nan
    write_safetensors(directory / "model.safetensors", weights)
    assert run.main(["hello", "-m", str(directory)]) == 2
    out, err = capsys.readouterr()
    assert out.endswith("\n") and "--check-finite" in err


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
    assert "reading the images" in shown and f"{total}/{total}" in shown
    assert shown.endswith("\r") and shown.split("\r")[-2].isspace()  # wiped away


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_with_json_is_still_json(tmp_path):
    directory = endless_checkpoint(tmp_path / "model")
    words = ["hello", "-m", str(directory), "-n", "99999", "--json"]
    command = [sys.executable, "-m", "tinyqwenvl.run", *words]
    with subprocess.Popen(command, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    answer = json.loads(out)
    assert answer["finish_reason"] == "interrupt" and answer["token_ids"] and err == b""
