"""The commands of the oracle."""

import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl.oracle import page, readers
from tinyqwenvl.oracle.__main__ import COMMANDS, main
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.mutants import MUTANTS
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record

IMAGES = [random_image(1, 150, 210), random_image(2, 70, 240)]


@pytest.fixture(scope="module")
def dumps(place, tmp_path_factory):
    """A small checkpoint, a reference and a candidate with a bug, by the command line."""
    directory = write_checkpoint(tmp_path_factory.mktemp("cli"), tiny_config("qwen2_5_vl"), seed=3)
    paths = [place / n for n in ("cli-ref.safetensors", "cli-bad.safetensors")]
    image = str(tinyqwenvl.model.EXAMPLE_IMAGE)
    base = ["record", image, "describe", "-m", str(directory), "--max-pixels", "20000"]
    assert main([*base, "-o", str(paths[0])]) == 0
    assert main([*base, "-o", str(paths[1]), "--mutant", "mrope_interleaved"]) == 0
    return directory, *map(str, paths)


def test_the_command_line(dumps, capsys, tmp_path):
    directory, good, bad = dumps
    assert main(["diff", good, good]) == 0
    assert "all" in capsys.readouterr().out
    assert main(["diff", good, bad, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == "model.layers.0.self_attn.q"
    assert found["explanation"][0]["mutant"] == "mrope_interleaved"
    assert main(["diff", good, bad, "--html", str(tmp_path / "d.html"), "--no-explain"]) == 1
    html = (tmp_path / "d.html").read_text()
    assert "first: model.layers.0.self_attn.q" in html and "http" not in html
    assert html.count("<img") >= 4
    capsys.readouterr()
    assert main(["diff", good, bad, "--single", "-m", str(directory)]) == 1
    assert "differ" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["explain", good, bad]) == 0
    assert "explained by mrope_interleaved [100%]" in capsys.readouterr().out
    assert main(["explain", good, good]) == 0
    assert "nothing to explain" in capsys.readouterr().out
    assert main(["explain", good, bad, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["mutant"] == "mrope_interleaved"
    assert main(["mutants"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS) >= 30


def test_a_bare_reference_is_compared_all_the_same(dumps, tmp_path, capsys):
    directory, good, bad = dumps
    some = {n: np.array(open_dump(good)[n]) for n in ("visual", "model.layers.0", "lm_head")}
    path = tmp_path / "bare.safetensors"
    safetensors.numpy.save_file(some, path)
    assert main(["diff", str(path), bad, "-m", str(directory), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == "model.layers.0" and found["explanation"] == []
    assert any("could not be tried" in line for line in found["notes"])


def test_videos_are_recorded_too(dumps, tmp_path, capsys):
    directory = dumps[0]
    for i in range(4):
        Image.fromarray(random_image(i, 40, 60)).save(tmp_path / f"{i}.png")
    out = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    words = ["record", "--video", str(tmp_path), "--fps", "1", "-m", str(directory), "what?"]
    limits = ["--min-pixels", "3136", "--max-pixels", "6000"]
    assert main([*words, *limits, "-o", out[0]]) == 0
    assert main([*words, *limits, "-o", out[1], "--mutant", "seconds_ignored"]) == 0
    capsys.readouterr()
    assert main(["diff", *out, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["explanation"][0]["mutant"] == "seconds_ignored"
    assert main(["record", "--fps", "1", "-o", out[0]]) == 2


def test_check_by_the_command_line(dumps, capsys, tmp_path):
    _, good, _ = dumps
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import numpy as np\n"
        "def silu_mlp(x): return np.zeros_like(x)\n"
        "def attention(q, k, v, spans):\n"
        "    from tinyqwenvl.nn import attention\n"
        "    return attention(q, k, v, spans)\n"
    )
    stage = "visual.blocks.0.attn.context"
    assert main(["check", stage, f"{mine}:attention", good]) == 0
    assert main(["check", "visual.blocks.0.mlp", f"{mine}:silu_mlp", good]) == 1
    assert main(["check", stage, "--show", good]) == 0
    assert "key_ranges: int64" in capsys.readouterr().out
    mine.write_text(mine.read_text() + "def leave(*given): raise SystemExit(0)\n")
    for words in (
        [stage, f"{mine}:leave", good],
        [stage, "--call", "9", f"{mine}:attention", good],
        [stage, f"{mine}:nothing", good],
        [stage, "nowhere.py:f", good],
        [stage, f"{mine}:silu_mlp", good],  # takes one argument, gets four
        [stage],
    ):
        assert main(["check", *words]) == 2


@pytest.mark.parametrize("name", [*COMMANDS, None])
def test_help_fits_a_screen(name, capsys):
    with pytest.raises(SystemExit):
        main(["--help"] if name is None else [name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: tinyqwenvl oracle")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff", "a"], "required"),
        (["nothing"], "is no command"),
        (["record", "x", "-o", "a.npz"], "end in .safetensors"),
        (["record", "x", "-o", "nowhere/a.safetensors"], "no such folder"),
        (["record", "x", "-o", "a.safetensors", "--floors", "fp4"], "known are float32"),
        (["record", "x", "-o", "a.safetensors", "--tokens", "-1"], "from 0"),
        (["record", "x", "-o", "a.safetensors", "--mutant", "no"], "no mutant"),
        (["record", "x.png", "y", "-o", "a.safetensors"], "no such image"),
        (["record", "x", "-o", "a.safetensors", "--inputs", "no.npz"], "not both"),
        (["record", "-o", "a.safetensors", "--inputs", "no.npz"], "no such dump"),
    ],
)
def test_bad_command_lines(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dump_as_inputs_keeps_its_limits(dumps, tmp_path, capsys):
    directory, good, _ = dumps
    out = tmp_path / "again.safetensors"
    words = ["record", "--inputs", good, "-m", str(directory), "--floors", "none"]
    assert main([*words, "-o", str(out)]) == 0
    assert compare(open_dump(good), open_dump(out)).first is None


def test_ids_that_cannot_be_are_one_line(dumps, tmp_path, capsys):
    directory, good, _ = dumps
    arrays = {n: np.array(open_dump(good)[n]) for n in ("visual", "lm_head")}
    path = tmp_path / "ids.safetensors"
    safetensors.numpy.save_file({**arrays, "generated": np.array([10**9])}, path)
    out = tmp_path / "steps.safetensors"
    words = ["record", "describe", "-m", str(directory), "--tokens", "2", "--floors", "none"]
    assert main([*words, "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["diff", str(out), str(path), "--single", "-m", str(directory)]) == 2
    err = capsys.readouterr().err
    assert "generated" in err and err.count("\n") == 1


def test_strange_names_and_images_are_no_traceback(tmp_path, capsys):
    names = ["visual.blocks.\u00b2.attn", "visual.blocks.1a", "visual.blocks." + "9" * 5000]
    arrays = {name: np.ones((4, 4), np.float32) for name in names}
    arrays |= {"picture": np.ones(3, np.uint8), "image_grid_thw": np.array([[1, 1, 4]])}
    wrong = {name: x * 2 if x.dtype.kind == "f" else x for name, x in arrays.items()}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, held in zip(paths, (arrays, wrong), strict=True):
        safetensors.numpy.save_file(held | {"visual.merger": held[names[0]]}, path)
    page_of = tmp_path / "page.html"
    assert main(["diff", *map(str, paths), "--html", str(page_of)]) == 1
    assert page_of.exists() and "Traceback" not in capsys.readouterr().err


def test_errors_of_videos_lie_in_the_videos(model, place, family):
    """A prompt with an image and a clip: the vision encoder runs twice, each with its own grids."""
    frames = [random_image(i, 56, 84) for i in range(4)]
    items = [{"type": "image", "image": IMAGES[1]}, {"type": "text", "text": "and"}]
    items += [{"type": "video", "video": frames, "max_pixels": 6000, "min_pixels": 3136}]
    job = Job([{"role": "user", "content": items}])
    dump = record(model, job, place / f"both-{family}.safetensors", floors=())
    for call, grids in enumerate((dump["image_grid_thw"], dump["video_grid_thw"])):
        entry = dump.get("visual.blocks.0", call)
        drawn = list(page.draw(entry, np.ones(entry.shape[0]), dump))
        assert len(drawn) == grids[:, 0].sum()
        assert [d.width / d.height for d in drawn] == [w / h for t, h, w in grids for _ in range(t)]


def test_an_unlike_model_is_refused(dumps, capsys, tmp_path):
    _, good, bad = dumps
    assert main(["diff", good, bad, "-m", str(tinyqwenvl.model.EMBEDDED)]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(["diff", good, bad, "--map", str(tmp_path / "no.json")]) == 2
    assert readers.open_dump(good).get("visual") is not None and page.as_html
