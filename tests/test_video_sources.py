"""Videos from lists, folders, animations and files, right and bad."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.odd_images import turned_file
from scripts.random_checkpoint import random_image, tiny_config
from tinyqwenvl import UserError, run, video, video_file
from tinyqwenvl.config import parse_config
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.video import (
    VideoSource,
    open_video,
    read_video,
    sample_qwen_vl_utils,
)

CONFIG = parse_config(tiny_config("qwen2_5_vl"))
SMALL = {"min_pixels": 3136, "max_pixels": 12544}


def frames(count, height=80, width=120):
    return [Image.fromarray(random_image(70 + i, height, width)) for i in range(count)]


def test_lists_folders_and_arrays_are_used_whole(tmp_path):
    clip = frames(5)
    for i, frame in enumerate(clip):
        frame.save(tmp_path / f"frame{8 + i}.png")  # 8, 9, 10: not in the order of letters
    for other in ("notes.txt", "paper.pdf", "._frame8.png", "clip.mpg", "²1.txt"):
        (tmp_path / other).touch()
    (tmp_path / "sub.png").mkdir()
    expected = read_video(clip, CONFIG, fps=np.int64(4), **SMALL)
    assert expected.grid == (3, 6, 8) and expected.seconds == 0.5
    for source in (tmp_path, str(tmp_path), np.stack(clip), [str(p) for p in named(tmp_path)]):
        found = read_video(source, CONFIG, fps=4, **SMALL)
        np.testing.assert_array_equal(found.patches, expected.patches)
    odd = np.concatenate([*map(np.asarray, [clip[4], clip[4]])]).reshape(2, 80, 120, 3)
    last = read_video(odd, CONFIG, fps=4, **SMALL)
    np.testing.assert_array_equal(expected.patches[-48:], last.patches)  # the last one twice


def named(folder):
    return sorted(folder.glob("frame*.png"), key=lambda p: int(p.stem.removeprefix("frame")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations(kind, tmp_path):
    colours = [(20 * i, 0, 250 - 20 * i) for i in range(12)]
    clip = [Image.new("RGB", (60, 60), c) for c in colours]
    path = tmp_path / f"clip.{kind.lower()}"
    options = {"lossless": True} if kind == "WEBP" else {}
    clip[0].save(path, kind, save_all=True, append_images=clip[1:], duration=250, **options)
    found = read_video(path, CONFIG, fps=2, **SMALL)
    assert found.grid[0] == 3 and found.seconds == 1.0
    whole = read_video([clip[i] for i in (0, 2, 4, 7, 9, 11)], CONFIG, fps=2, **SMALL)
    level = 1 / 255 / min(CONFIG.processor.image_std)  # that the palette of a GIF may be off
    off = 1.01 * level if kind == "GIF" else 0
    np.testing.assert_allclose(found.patches, whole.patches, rtol=0, atol=off)


def write_video(path, count, rate, size=(64, 48), codec="mpeg4", container=None):
    """A clip whose frames are grey of a level that says which they are."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(count):
            image = Image.new("RGB", size, (level(i),) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def level(i):
    return 16 + i % 20 * 11


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_video_files(name, tmp_path):
    path = write_video(tmp_path / name, 20, 10)
    clip = open_video(path)
    assert (clip.total, clip.rate) == (20, 10)
    found = read_video(path, CONFIG, fps=3, **SMALL)
    assert found.grid[0] == 3 and found.seconds == pytest.approx(2 / 3)
    expected = [level(i) for i in sample_qwen_vl_utils(20, 10, 3)]
    firsts = [np.asarray(f)[0, 0, 0] for i, f in enumerate(clip.frames()) if level(i) in expected]
    # levels are 11 apart: the codec is free to be off by less than half of that
    np.testing.assert_allclose(firsts, expected, rtol=0, atol=5)


MEASURE = """
import resource, sys, warnings
from tinyqwenvl.video import read_video
from scripts.random_checkpoint import tiny_config
from tinyqwenvl.config import parse_config
warnings.simplefilter("ignore")
config = parse_config(tiny_config("qwen2_5_vl"))
found = read_video(sys.argv[1], config, fps=2, min_pixels=784, max_pixels=784)
print(found.grid[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process as Linux gives it")
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path):
    """Two minutes and twenty, at 2 a second: what is decoded is not kept (it would be 415 MB)."""
    peaks = []
    for minutes, grids in ((2, 120), (20, 384)):
        path = write_video(tmp_path / f"{minutes}.mp4", minutes * 60 * 2, 2, (320, 180))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        count, peak = map(int, done.stdout.split())
        assert count == grids
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 100_000  # kB


# ------------------------------------------------------------------ bad input


def test_bad_videos_are_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_text("these are words")
    whole = write_video(tmp_path / "whole.avi", 20, 10).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    whole = write_video(tmp_path / "whole.mp4", 20, 10).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    sound = b"RIFF" + (44).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    sound += b"\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data" + (8).to_bytes(4, "little")
    (tmp_path / "sound.wav").write_bytes(sound + bytes(8))
    for source, options, complaint in (
        (tmp_path / "nowhere.mp4", {}, "no such"),
        (tmp_path / "folder", {}, "has no frames"),
        (tmp_path / "empty.mp4", {}, "is empty"),
        (tmp_path / "words.mp4", {}, "words.mp4 is text, not a video$"),
        (tmp_path / "cut.avi", {}, "not a readable video"),
        ([], {}, "has no frames"),
        (5, {}, "from int"),
        (frames(2), {"fps": 0}, "fps is 0"),
        (frames(2), {"fps": -1.0}, "fps is -1.0"),
        (frames(2), {"fps": float("nan")}, "fps is nan"),
        (frames(2), {"fps": "fast"}, "fps is 'fast'"),
        (frames(2), {"fps": 1e-320}, "fps is 1e-320"),
        (frames(2), {"fps": True}, "fps is True"),
        (frames(2), {"fps": 10**400}, "fps is 1000"),
        (frames(2), {"most": "8"}, "max_frames is '8'"),
        (frames(2), {"most": 0}, "max_frames is 0"),
        (frames(2), {"least": "4"}, "min_frames is '4'"),
        (frames(2), {"min_pixels": "x"}, "a limit of 'x' pixels"),
        (frames(2), {"policy": []}, "use one of qwen-vl-utils, hf"),
        (np.zeros((4, 4), np.uint8), {}, r"not \[4, 4\]"),
        (tmp_path / "sound.wav", {}, "has no video stream"),
        (tmp_path / "cut.mp4", {}, "cut.mp4 is truncated: its index"),
        ("", {}, "an empty name"),
        (" ", {}, "an empty name"),
        (frames(2), {"policy": "mine"}, "use one of qwen-vl-utils, hf"),
        ([*frames(2), *frames(1, 60, 60)], {}, "one frame is 60x60 pixels, the first 120x80"),
        (frames(2, 300, 1), {}, "200 times"),
        ([PIXELS, "nowhere.png"], {}, "no such image"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            read_video(source, CONFIG, **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("page.jpg", b"<!DOCTYPE html><html>404</html>", "is not a video but an HTML page"),
        ("paper.pdf", b"%PDF-1.4 and so on", "is not a video but a PDF document"),
        ("answer.mp4", b'{"error": "not found"}', "is not a video but JSON"),
        ("drawing.png", b'<svg xmlns="x"></svg>', "is not a video but an SVG drawing"),
        ("pointer.mkv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("zeros.png", bytes(5000), "is only zeros"),
        ("photo.jxl", b"\xff\x0a" + bytes(50), "is a JPEG XL image"),
        (
            "noise.mp4",
            bytes(range(1, 256)) * 9,
            "is not a readable video: Invalid data found when processing",
        ),
    ],
)
def test_files_of_other_kinds_are_named(name, data, complaint, tmp_path):
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, data):
        with pytest.raises(UserError, match=complaint) as caught:
            read_video(source, CONFIG)
        assert "Errno" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_links_to_nothing(tmp_path):
    for name, target in (("gone.mp4", "nowhere.mp4"), ("loop.mp4", "loop.mp4")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name} is a link to what is not there"):
            read_video(tmp_path / name, CONFIG)


PIXELS = random_image(1, 40, 40)


def test_a_video_that_holds_fewer_frames_than_it_says(monkeypatch):
    """As a stream copy leaves them: the frames that are there are sampled, and it is said."""
    short = VideoSource("a.mp4", 10, 10.0, lambda: iter(frames(7)))
    monkeypatch.setattr(video, "open_video", lambda source: short)
    with pytest.warns(ImageWarning, match="declares 10 frames, but contains 7"):
        found = read_video("a.mp4", CONFIG, fps=10, **SMALL)
    assert found.grid[0] == 3 and found.seconds == pytest.approx(2 / (6 / 7 * 10))
    with pytest.warns(ImageWarning) as caught:
        read_video("a.mp4", CONFIG, fps=10, max_pixels=10)
    assert ["is resized to 28x28" in str(w.message) for w in caught] == [True, False]
    nothing = VideoSource("a.mp4", 10, 10.0, lambda: iter([]))
    monkeypatch.setattr(video, "open_video", lambda source: nothing)
    with pytest.raises(UserError, match="has no frames"):
        read_video("a.mp4", CONFIG)


def test_a_grid_lasts_as_long_as_its_frames():
    """Three frames in a patch, as no published model has: a grid is three frames long."""
    config = replace(CONFIG, vision=replace(CONFIG.vision, temporal_patch_size=3))
    found = read_video(frames(6), config, fps=2, **SMALL)
    assert found.grid[0] == 2 and found.seconds == 1.5


def test_without_pyav_a_video_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        read_video(tmp_path / "a.mp4", CONFIG)


def test_an_animation_without_durations_runs_at_ten_a_second(tmp_path):
    clip = [Image.new("RGB", (30, 30), (40 * i, 0, 0)) for i in range(6)]
    clip[0].save(tmp_path / "a.gif", save_all=True, append_images=clip[1:])
    assert open_video(tmp_path / "a.gif").rate == 10


def test_a_still_is_a_video_of_one_frame_by_the_policy_of_images(tmp_path):
    (tmp_path / "turned.png").write_bytes(turned_file(6))
    found = read_video(tmp_path / "turned.png", CONFIG, **SMALL)
    listed = read_video([tmp_path / "turned.png"], CONFIG, **SMALL)
    np.testing.assert_array_equal(found.patches, listed.patches)


def test_frames_of_too_many_pixels_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "large.mp4", 2, 10)
    monkeypatch.setattr(video_file, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(UserError, match="frames of over 3,071 pixels"):
        open_video(path)
    monkeypatch.setattr(video_file, "MAX_IMAGE_PIXELS", 64 * 48)
    assert open_video(path).total == 2


def test_a_frame_that_would_become_too_large_is_refused(monkeypatch):
    wide = [Image.new("RGB", (112, 56))]
    limits = {"min_pixels": 112 * 56, "max_pixels": 112 * 56}
    monkeypatch.setattr(video, "MAX_IMAGE_PIXELS", 112 * 56)
    assert read_video(wide, CONFIG, **limits).grid == (1, 4, 8)
    monkeypatch.setattr(video, "MAX_IMAGE_PIXELS", 112 * 56 - 1)
    with pytest.raises(UserError, match="a frame would be 112x56 pixels; request fewer"):
        read_video(wide, CONFIG, **limits)


def test_one_frame_may_be_asked_for(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 8, 4)
    with pytest.warns(ImageWarning, match="1 are used"):
        assert read_video(path, CONFIG, least=1, most=1, **SMALL).grid[0] == 1


@pytest.mark.parametrize("form", ["bmp", "jpg", "ppm"])
def test_a_still_whose_format_knows_no_frames_is_a_video_of_one(tmp_path, form):
    Image.new("RGB", (60, 60), "red").save(tmp_path / f"still.{form}")
    source = video.open_video(tmp_path / f"still.{form}")
    assert source.total == len(list(source.frames())) == 1


def test_too_many_frames_in_a_video_say_how_many_are_used(tmp_path):
    path = tmp_path / "clip.gif"
    clip = [Image.new("RGB", (30, 30), (9 * i, 0, 0)) for i in range(24)]
    clip[0].save(path, save_all=True, append_images=clip[1:], duration=250)
    with pytest.warns(ImageWarning, match="has 24 frames at 4 per second; 8 are used"):
        assert read_video(path, CONFIG, fps=4, most=8, **SMALL).grid[0] == 4


def test_too_many_frames_in_a_list_say_how_many_are_used():
    with pytest.warns(ImageWarning, match="has 30 frames; 8 of them are used"):
        found = read_video(frames(30, 28, 28), CONFIG, fps=10, most=8, **SMALL)
    assert found.grid[0] == 4 and found.seconds == pytest.approx(2 / (8 / 30 * 10))


def test_the_command_line(tmp_path, capsys):
    for i, frame in enumerate(frames(4, 112, 112)):
        frame.save(tmp_path / f"{i}.png")
    words = ["--video", str(tmp_path), "--fps", "4", "When does it appear?", "-n", "3", "--json"]
    assert run.main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["video_grid_thw"][0][0] == 2 and answer["second_per_grid_ts"] == [0.5]
    assert run.main(["hello", "--fps", "2"]) == 2
    assert "--fps needs a --video" in capsys.readouterr().err
    assert run.main(["hello", "--video", str(tmp_path), "--fps", "0"]) == 2
    assert "fps is 0" in capsys.readouterr().err
