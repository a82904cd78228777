"""Odd and bad input at the front door, one row each.

Odd input is answered. Bad input gets one line that names the fault, exit code 2, nothing on stdout,
and no file.
"""

import json
import os
import shutil

import numpy as np
import pytest
from odd_input import BAD_FILES, BAD_WORDS, CHECKPOINTS, ODD_FILES, PNG

from scripts.random_checkpoint import TOKEN_IDS, tiny_config, write_checkpoint
from tinyqwenvl.__main__ import main
from tinyqwenvl.checkpoint import read_safetensors, write_safetensors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images, odd and bad, and of a good checkpoint."""
    folder = tmp_path_factory.mktemp("front")
    for name, data in {**ODD_FILES, **BAD_FILES, "good.png": PNG}.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    write_checkpoint(folder / "checkpoint", tiny_config("qwen2_5_vl"), seed=3)
    return folder


def bad(capsys, words, complaint):
    """Run; check the code, the one line, and the silence elsewhere."""
    before = sorted(os.listdir())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *notes, last = err.splitlines()
    assert all(line.startswith("note: ") for line in notes)
    assert last.startswith("error: ") and complaint in last, last
    assert len(last) < 600 and sorted(os.listdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="needs links and named pipes")
def test_a_drawing_goes_where_a_link_points_and_never_over_a_pipe(tmp_path, capsys):
    target, link = tmp_path / "a.svg", tmp_path / "link.svg"
    target.write_text("old")
    link.symlink_to(target)
    assert main(["shapes", "9x9", "--svg", str(link)]) == 0
    assert link.is_symlink() and target.read_text().startswith("<svg")
    os.mkfifo(tmp_path / "pipe")
    assert main(["shapes", "9x9", "--svg", str(tmp_path / "pipe")]) == 2
    assert "not a file" in capsys.readouterr().err
    assert main(["shapes", "9x9", "--svg", "-"]) == 0
    assert capsys.readouterr().out == target.read_text()


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_images_are_answered(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["run", name, "what?", "-m", "checkpoint", "-n", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    (grid,) = answer["image_grid_thw"]
    pads = answer["prompt_token_ids"].count(TOKEN_IDS["<|image_pad|>"])
    assert 4 * pads == np.prod(grid) > 0
    assert ("several frames" in err) == name.startswith("animated")
    assert ("values over 255" in err) == ("16" in name or name in ("deep.tiff", "float.tiff"))
    assert err.count("\n") == err.count("note: ") <= 1


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_images(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    complaint = {"long.png": "201x1 pixels is over 200", "tall.png": "3x700 pixels is over 200"}
    bad(capsys, ["run", name, "what?"], complaint.get(name, name))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bad_checkpoints(name, place, tmp_path, monkeypatch, capsys):
    spoil, complaint = CHECKPOINTS[name]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "checkpoint", tmp_path / "model")
    shutil.copy(place / "good.png", tmp_path)
    spoil(tmp_path / "model")
    bad(capsys, ["run", "good.png", "what?", "-m", "model"], complaint)


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words(name, place, monkeypatch, capsys):
    words, complaint = BAD_WORDS[name]
    monkeypatch.chdir(place)
    bad(capsys, words, complaint)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_stage_that_is_not_finite_is_named(value, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_5_vl"), bfloat16=False)
    path = directory / "model.safetensors"
    weights = {name: np.array(read()) for name, read in read_safetensors(path).items()}
    weights["visual.blocks.2.mlp.up_proj.weight"][0, 0] = value
    write_safetensors(path, weights)
    words = ["run", str(place / "good.png"), "what?", "-m", "model"]
    bad(capsys, words, "NaN or infinity")
    bad(capsys, [*words, "--check-finite"], "visual.blocks.2.mlp.up_proj is the first stage")
    assert main([*words[:-1], str(place / "checkpoint"), "--check-finite", "-n", "2"]) == 0
