import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tinyqwenvl
from scripts.odd_images import turned_file
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from scripts.video_cases import FPS, FRAMES, GRID, LENGTHS, RATES, SIZES, pad
from tests.test_goldens import BOUND, FILES, read
from tinyqwenvl import UserError, compat, run, video
from tinyqwenvl.config import parse_config
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.model import Inputs
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.position import rope_index
from tinyqwenvl.video import (
    SAMPLING_POLICIES,
    VideoSource,
    limits_hf,
    limits_qwen_vl_utils,
    open_video,
    read_video,
    sample_hf,
    sample_qwen_vl_utils,
)

_, GOLDEN = read(FILES[0].with_name("video.safetensors"))
CONFIG = parse_config(tiny_config("qwen2_5_vl"))
SMALL = {"min_pixels": 3136, "max_pixels": 12544}


def frames(count, height=80, width=120):
    return [Image.fromarray(random_image(70 + i, height, width)) for i in range(count)]


# ------------------------------------------------------------------ transformers 4.51.3


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("fps", RATES)
def test_positions_of_videos(family, length, fps):
    """Every length at every rate; Qwen2-VL has no seconds, so one rate stands for all."""
    name = f"{family}: {length} frames at {fps if family == 'qwen2_5_vl' else RATES[0]}"
    grid = np.array([[-(-length // 2), *GRID]])
    ids = np.array([1, 2, 3, *pad("video", int(grid.prod()) // 4), 4, 5])
    config = parse_config(tiny_config(family))
    positions, delta = rope_index(ids, config, None, grid, [2 / fps])
    np.testing.assert_array_equal(positions, GOLDEN[name])
    assert delta == GOLDEN[name].max() + 1 - len(ids)


@pytest.mark.parametrize("reference", [False, True])
def test_a_conversation_with_images_and_a_video(family, reference, tmp_path):
    golden = {n.partition(": ")[2]: a for n, a in GOLDEN.items() if n.startswith(f"{family}:")}
    directory = write_checkpoint(tmp_path, tiny_config(family), seed=7)
    model = tinyqwenvl.load(directory, reference=reference)
    images = [Image.fromarray(random_image(i, *SIZES[n])) for i, n in enumerate(SIZES) if i < 2]
    limits = model.config.processor.limits(None, None)
    clip = {"video": frames(FRAMES, *SIZES["video"]), "fps": FPS}
    clip |= {"min_pixels": limits[0], "max_pixels": limits[1]}
    content = [{"image": images[0]}, clip, {"image": images[1]}, {"text": "?"}]
    prepared = model.prepare([{"role": "user", "content": content}])
    assert prepared.video_grid_thw.tolist() == golden["video_grid_thw"].tolist()
    digest = hashlib.sha256(prepared.pixel_values_videos.tobytes()).digest()
    assert digest == golden["pixel_values_videos.sha256"].tobytes()
    assert prepared.second_per_grid_ts == (2 / FPS,)
    grids = prepared.image_grid_thw, prepared.video_grid_thw, prepared.second_per_grid_ts
    ids = golden["input_ids"]
    positions, delta = rope_index(ids, model.config, *grids)
    np.testing.assert_array_equal(positions, golden["position_ids"])
    inputs = replace(prepared, input_ids=ids, position_ids=positions, rope_delta=delta)
    assert isinstance(inputs, Inputs)
    apart = distance(model.forward(inputs), golden["logits"])
    assert apart.within(**BOUND), apart


# ------------------------------------------------------------------ time


def test_the_same_frames_in_four_seconds_and_in_one():
    """Qwen2.5-VL tells them apart; in Qwen2-VL both count 0, 1, 2, 3."""
    grid = np.array([[4, 2, 2]])
    ids = np.array([CONFIG.video_token_id] * 4)
    slow, fast = (rope_index(ids, CONFIG, None, grid, [2 / fps])[0][0] for fps in (2, 8))
    assert slow.tolist() == [0, 2, 4, 6]
    assert fast.tolist() == [0, 0, 1, 1]
    older = parse_config(tiny_config("qwen2_vl"))
    both = [rope_index(ids, older, None, grid, [2 / fps])[0][0].tolist() for fps in (2, 8)]
    assert both == [[0, 1, 2, 3]] * 2


def test_text_after_a_video_and_what_transformers_5_does():
    """Grid (10, 4, 4), 1 s, 2 a second, 3 tokens before: the vectors of docs/differences.md."""
    grid = np.array([[10, 4, 4]])
    ids = np.array([1, 2, 3, *[CONFIG.video_token_id] * 40, 4, 5, 6, 7])
    ours, delta = rope_index(ids, CONFIG, None, grid, [1.0])
    assert ours[0, 3:43:4].tolist() == list(range(3, 22, 2))
    assert ours[:, 43].tolist() == [22] * 3 and ours[0, -1] == 25
    assert len(ids) + delta == 26
    theirs, delta = compat.rope_index_hf_5(ids, CONFIG, None, grid, [1.0])
    assert theirs[:, 43].tolist() == [5] * 3 and theirs[0, -1] == 8
    assert len(ids) + delta == 22


def test_seconds_cut_first_as_transformers_4_52_did():
    ids, grid = np.array([CONFIG.video_token_id] * 4), np.array([[4, 2, 2]])

    def times(fps):
        return compat.rope_index_hf_4_52(ids, CONFIG, None, grid, [2 / fps])[0][0].tolist()

    for fps in (3, 4, 5, 6, 8):
        assert times(fps) == [0, 0, 0, 0]
    assert times(1.5) == [0, 2, 4, 6]
    for fps in (0.5, 1, 2):
        assert times(fps) == rope_index(ids, CONFIG, None, grid, [2 / fps])[0][0].tolist()


@pytest.mark.parametrize(
    ("fps", "per_second", "t", "expected"),
    [  # transformers 4.51.3; in float64, or with the products in another order, each is one off
        (0.12, 2, 15, 499),
        (0.3, 2, 3, 40),
        (1.2, 2, 3, 10),
        (2.4, 2, 3, 5),
        (25, 25, 5, 9),
        (50, 25, 5, 4),
        (25, 5, 25, 10),
        (25, 10, 25, 20),
    ],
)
def test_time_is_cut_once_and_in_float32(fps, per_second, t, expected):
    vision = replace(CONFIG.vision, tokens_per_second=per_second)
    grid, ids = np.array([[t + 1, 2, 2]]), np.array([CONFIG.video_token_id] * (t + 1))
    positions, _ = rope_index(ids, replace(CONFIG, vision=vision), None, grid, [2 / fps])
    assert positions[0, t] == expected


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize(
    ("total", "rate", "fps", "expected"),
    [  # torch.linspace(0, total - 1, n).round() and torch.arange(0, total, total / n).int()
        (100, 25, 2, ([0, 14, 28, 42, 57, 71, 85, 99], [0, 12, 25, 37, 50, 62, 75, 87])),
        (8, 8, 2, ([0, 2, 5, 7], [0, 2, 4, 6])),
        (3, 30, 2, ([0, 2], [0, 1])),
        (1, 30, 2, ([0], [0])),
        (22, 24, 24, (list(range(22)), list(range(22)))),
    ],
)
def test_sampling(total, rate, fps, expected):
    for sample, indices in zip((sample_qwen_vl_utils, sample_hf), expected, strict=True):
        assert sample(total, rate, fps).tolist() == indices


@given(
    st.integers(1, 100_000),
    st.floats(0.1, 240),
    st.floats(0.01, 240),
    st.sampled_from([*SAMPLING_POLICIES]),
)
def test_samples_are_rising_even_and_within_the_video(total, rate, fps, policy):
    indices = SAMPLING_POLICIES[policy].sample(total, rate, fps)
    assert len(indices) == 1 or len(indices) % 2 == 0
    assert len(indices) <= 768 and indices[0] == 0 and indices[-1] < total
    assert (np.diff(indices) > 0).all()
    wanted = total / rate * fps
    if 4 <= wanted <= 768 and wanted <= total:
        assert len(indices) == math.floor(wanted / 2) * 2


def test_pixel_budgets():
    assert limits_qwen_vl_utils(4, CONFIG) == (100_352, 602_112)
    assert limits_qwen_vl_utils(768, CONFIG) == (100_352, 90_316_800 / 384)
    assert limits_qwen_vl_utils(10_000, CONFIG) == (100_352, 105_369)
    assert limits_qwen_vl_utils(4, CONFIG, max_pixels=50_000) == (50_000, 50_000)
    assert limits_qwen_vl_utils(4, CONFIG, max_pixels=10**7) == (100_352, 602_112)
    assert limits_hf(768, CONFIG) == (3136, 12_845_056)


# ------------------------------------------------------------------ sources


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


def write_video(path, count, rate, size=(64, 48), codec="mpeg4"):
    """A clip whose frames are grey of a level that says which they are."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
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
from tests.test_video import CONFIG
warnings.simplefilter("ignore")
found = read_video(sys.argv[1], CONFIG, fps=2, min_pixels=784, max_pixels=784)
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
        (tmp_path / "folder", {}, "holds no frames"),
        (tmp_path / "empty.mp4", {}, "is empty"),
        (tmp_path / "words.mp4", {}, "not a video that can be read"),
        (tmp_path / "cut.avi", {}, "not a video that can be read"),
        ([], {}, "holds no frames"),
        (5, {}, "cannot be made of int"),
        (frames(2), {"fps": 0}, "fps is 0"),
        (frames(2), {"fps": -1.0}, "fps is -1.0"),
        (frames(2), {"fps": float("nan")}, "fps is nan"),
        (frames(2), {"fps": "fast"}, "fps is 'fast'"),
        (frames(2), {"fps": 1e-320}, "fps is 1e-320"),
        (frames(2), {"fps": True}, "fps is True"),
        (frames(2), {"fps": 10**400}, "fps is 1000"),
        (frames(2), {"most": "8"}, "max_frames is '8'"),
        (frames(2), {"most": 0}, "max_frames is 0"),
        (frames(2), {"least": None}, "min_frames is None"),
        (frames(2), {"min_pixels": "x"}, "a limit of 'x' pixels"),
        (frames(2), {"policy": []}, "known are qwen-vl-utils, hf"),
        (np.zeros((4, 4), np.uint8), {}, r"not \[4, 4\]"),
        (tmp_path / "sound.wav", {}, "holds no video"),
        (tmp_path / "cut.mp4", {}, "cut.mp4"),
        ("", {}, "an empty name"),
        (frames(2), {"policy": "mine"}, "known are qwen-vl-utils, hf"),
        ([*frames(2), *frames(1, 60, 60)], {}, "one frame is 60x60 pixels, the first 120x80"),
        (frames(2, 300, 1), {}, "200 times"),
        ([PIXELS, "nowhere.png"], {}, "no such image"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            read_video(source, CONFIG, **options)
        assert "\n" not in str(caught.value)


PIXELS = random_image(1, 40, 40)


def test_a_video_that_holds_fewer_frames_than_it_says(monkeypatch):
    """As a stream copy leaves them: the frames that are there are sampled, and it is said."""
    short = VideoSource("a.mp4", 10, 10.0, lambda: iter(frames(7)))
    monkeypatch.setattr(video, "open_video", lambda source: short)
    with pytest.warns(ImageWarning, match="says that it has 10 frames, but holds 7"):
        found = read_video("a.mp4", CONFIG, fps=10, **SMALL)
    assert found.grid[0] == 3 and found.seconds == pytest.approx(2 / (6 / 7 * 10))
    nothing = VideoSource("a.mp4", 10, 10.0, lambda: iter([]))
    monkeypatch.setattr(video, "open_video", lambda source: nothing)
    with pytest.raises(UserError, match="holds no frames"):
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


def test_too_many_frames_in_a_video_say_how_many_are_used(tmp_path):
    path = tmp_path / "clip.gif"
    clip = [Image.new("RGB", (30, 30), (9 * i, 0, 0)) for i in range(24)]
    clip[0].save(path, save_all=True, append_images=clip[1:], duration=250)
    with pytest.warns(ImageWarning, match="has 24 frames at 4 a second; 8 are used"):
        assert read_video(path, CONFIG, fps=4, most=8, **SMALL).grid[0] == 4


def test_too_many_frames_in_a_list_say_how_many_are_used():
    with pytest.warns(ImageWarning, match="holds 30 frames; 8 of them are used"):
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
    assert "--fps is of a --video" in capsys.readouterr().err
    assert run.main(["hello", "--video", str(tmp_path), "--fps", "0"]) == 2
    assert "fps is 0" in capsys.readouterr().err
