"""Options of `run`, and what is piped into it."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import HERE, TRUTH, ask, endless_checkpoint, text_of, tinyqwenvl_run
from PIL import Image

from scripts.random_checkpoint import tiny_config, write_checkpoint
from tests.test_video_sources import write_video
from tinyqwenvl import run
from tinyqwenvl.checkpoint import read_safetensors, write_safetensors
from tinyqwenvl.cli import run as cli_run
from tinyqwenvl.media import open_image
from tinyqwenvl.model import EMBEDDED, EXAMPLE_IMAGE, EXAMPLE_VIDEO


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
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_5_vl"))
    words = [tmp_path / "large.png", "?", "-m", directory, "-n", 1, "--max-pixels", 9_000_000]
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
    for part in ("4,000,544 parameters", "336x224 pixels", "greedy, repetition_penalty",
                 "ended by stop", "vision ", "prefill ", "decode ", "tokens/s"):  # fmt: skip
        assert part in err, part
    if sys.platform != "win32":
        assert "MB peak" in err


def test_no_stream_is_the_same_text(capsys):
    assert run.main([str(EXAMPLE_IMAGE), "--no-stream"]) == 0
    assert capsys.readouterr().out == TRUTH


# ------------------------------------------------------------------ stdin


def test_an_image_on_stdin():
    data = EXAMPLE_IMAGE.read_bytes()
    assert tinyqwenvl_run("-", stdin=data).stdout == TRUTH
    assert tinyqwenvl_run("-", "describe", stdin=data).stdout == TRUTH
    nothing = tinyqwenvl_run("-", "describe")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "stdin has no image" in nothing.stderr


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
    assert b"nothing arrived on stdin for 1 s" in done.stderr


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


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_chat_without_stdin_ends_at_once():
    command = f'"{sys.executable}" -m tinyqwenvl.run --chat <&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=HERE)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_a_prompt_that_is_the_name_of_a_folder_is_a_note(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    assert run.main([str(EXAMPLE_IMAGE), "frames", "-n", "1"]) == 0
    assert "note: frames is taken as the prompt, though a folder" in capsys.readouterr().err


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


# ------------------------------------------------------------------ videos among the words


def seen_as(capsys, *words):
    """How many images and frames of videos an answer is about, and stderr."""
    code, answer, err = ask(capsys, *words, "-n", 1)
    assert code == 0
    return len(answer["image_grid_thw"]), [t for t, _, _ in answer["video_grid_thw"]], err


def test_a_video_among_the_words_is_taken_as_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.3gp", "clip.ts", "clip.bin", "my clip.mkv"):
        write_video(tmp_path / name, 20, 10, container="mpegts" if name == "clip.ts" else "mp4")
        images, grids, err = seen_as(capsys, name, "describe")
        assert (images, grids) == (0, [2]) and f"{name} is used as a video, like --video" in err
    images, grids, err = seen_as(capsys, EXAMPLE_IMAGE, "clip.bin", "--fps", 4, "what is it?")
    assert (images, grids) == (1, [4])
    assert seen_as(capsys, "clip.bin")[:2] == (0, [2])
    images, grids, err = seen_as(capsys, EXAMPLE_VIDEO, "describe")
    assert (images, grids) == (1, []) and "only the first is read (as a video, all are)" in err


def test_a_video_on_stdin(tmp_path):
    data = write_video(tmp_path / "clip.mp4", 20, 10).read_bytes()
    done = tinyqwenvl_run("-", "describe", "--json", "-n", 1, stdin=data)
    answer = json.loads(done.stdout)
    assert answer["image_grid_thw"] == [] and [g[0] for g in answer["video_grid_thw"]] == [2]


def test_a_limit_that_cannot_be_met_is_a_note(capsys):
    _, answer, err = ask(capsys, EXAMPLE_IMAGE, "?", "-n", 1, "--max-pixels", 10)
    assert "is resized to 28x28, which is 784 pixels, over max_pixels 10" in err
    assert any("over max_pixels 10" in note for note in answer["notes"])
