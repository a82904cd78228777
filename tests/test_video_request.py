"""An item's keys: frames and sizes as qwen_vl_utils and transformers choose them."""

import base64
import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.random_checkpoint import random_image, tiny_config
from tests.test_video_sources import write_video
from tinyqwenvl import UserError, video
from tinyqwenvl.config import parse_config
from tinyqwenvl.image import size_to_read
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.model import EXAMPLE_VIDEO
from tinyqwenvl.video import FrameLimits, choose_frames, frame_size, read_video
from tinyqwenvl.video_request import (
    Wanted,
    pixel_limits,
    pixels,
    resized_size,
    video_options,
)
from tinyqwenvl.video_source import VideoSource

CONFIG = parse_config(tiny_config("qwen2_5_vl"))
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "video_requests.json").read_text())
SMALL = {"min_pixels": 3136, "max_pixels": 12544}


def ours(clip, keys, policy):
    """(indices, rate of the frames used, size) of a golden's clip and keys."""
    source = VideoSource("a.mp4", clip["total"], clip["rate"], lambda: iter(()))
    options = video_options(keys)
    fps, least = options.get("fps"), options.get("least", video.MIN_FRAMES)
    at = video.FPS if fps is None else fps
    names = ("nframes", "start", "end", "do_sample_frames")
    wanted = Wanted.checked(fps, *(options.get(name) for name in names))
    most = options.get("most", video.MAX_FRAMES)
    indices, between = choose_frames(
        source, wanted.rate_of(source, at, None), least, most, policy, wanted
    )
    asked = pixel_limits(keys)
    limits = video.SAMPLING_POLICIES[policy].limits(
        len(indices), CONFIG, *asked, pixels(keys.get("total_pixels"))
    )
    height, width = clip["size"]
    frame = Image.new("L", (width, height))
    size = frame_size(frame, 28, FrameLimits(*limits, *asked, options.get("resized")))
    return indices, 1 / between, list(size)


def matches(indices, golden):
    if isinstance(golden, list):
        return indices == golden
    found = {"count": len(indices), "ends": [indices[0], indices[-1]]}
    found["sum"] = sum((i + 1) * index for i, index in enumerate(indices))
    return found == golden


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_requests_as_qwen_vl_utils_reads_them():
    assert GOLDEN["versions"]["qwen-vl-utils"] == "0.0.14"
    read = 0
    for draw in GOLDEN["videos"]:
        clip, keys, golden = draw["clip"], draw["keys"], draw["qwen-vl-utils"]
        if "error" in golden:
            with contextlib.suppress(UserError):  # or it is read where that is a single frame
                lenient = keys.get("max_pixels", 10**9) < keys.get("min_pixels", 100_352)
                indices, _, _ = ours(clip, keys, "qwen-vl-utils")
                assert len(indices) == 1 or lenient, draw
            continue
        read += 1
        indices, rate, size = ours(clip, keys, "qwen-vl-utils")
        assert matches(indices, golden["indices"]), draw
        assert rate == pytest.approx(golden["rate"], rel=1e-12), draw
        assert size == golden["size"], draw
    assert read > 300 and len(GOLDEN["videos"]) == 500


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_requests_as_transformers_samples_them():
    read = 0
    for draw in GOLDEN["videos"]:
        keys = {k: v for k, v in draw["keys"].items() if not k.startswith("video_")}
        golden = draw["hf"]
        if "error" in golden:
            with contextlib.suppress(UserError):
                assert len(ours(draw["clip"], keys, "hf")[0]) == 1, draw
            continue
        indices, _, _ = ours(draw["clip"], keys, "hf")
        read += 1
        more = [*indices, draw["clip"]["total"]]  # one index past the end, docs/differences.md
        assert matches(indices, golden["indices"]) or matches(more, golden["indices"]), draw
    assert read > 300


@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_500_sizes_of_images_as_qwen_vl_utils_has_them():
    for draw in GOLDEN["images"]:
        width, height = draw["size"]
        keys, golden = draw["keys"], draw["qwen-vl-utils"]
        limits = CONFIG.processor.limits(*pixel_limits(keys))
        if "error" in golden:
            with pytest.raises(UserError):
                size_to_read(height, width, 28, limits, resized_size(keys))
        else:
            size = list(size_to_read(height, width, 28, limits, resized_size(keys)))
            assert size == golden["size"], draw


# ------------------------------------------------------------------ keys, one by one


def grid_of(item, **options):
    return read_video(item.pop("video"), CONFIG, **SMALL, **video_options(item), **options)


def frames(number, height=56, width=84):
    return [Image.fromarray(random_image(70 + i, height, width)) for i in range(number)]


@pytest.fixture
def clip(tmp_path):
    return str(write_video(tmp_path / "a b.mp4", 40, 10))


def test_a_number_of_frames_by_either_name(clip):
    for key in ("nframes", "num_frames"):
        for number in (6, 6.0, np.int64(6), np.float32(6)):
            assert grid_of({"video": clip, key: number}).grid[0] == 3
    assert grid_of({"video": clip, "nframes": 3}).grid[0] == 2  # 3 / 2 is read as 2, so 4 frames
    found = grid_of({"video": clip, "nframes": 8})
    assert found.seconds == pytest.approx(2 * 40 / 8 / 10)


def test_a_part_of_a_video(clip):
    found = grid_of({"video": clip, "video_start": 1, "video_end": 3, "fps": 4})
    source = VideoSource("a", 40, 10.0, lambda: iter(()))
    indices, _ = choose_frames(source, 4, 4, 768, wanted=Wanted(start=1, end=3))
    assert indices[0] == 10 and indices[-1] == 30 and len(indices) == 8
    assert found.grid[0] == 4 and found.seconds == pytest.approx(2 * 21 / 8 / 10)
    before = grid_of({"video": clip, "video_start": -5, "video_end": 99})
    whole = grid_of({"video": clip})
    np.testing.assert_array_equal(before.patches, whole.patches)


@pytest.mark.parametrize("policy", ["hf", "qwen-vl-utils"])
def test_all_frames(clip, policy):
    item = {"video": clip, "do_sample_frames": False, "sampling_policy": policy}
    found = grid_of(item)
    assert found.grid[0] == 20 and found.seconds == pytest.approx(0.2)
    part = grid_of({**item, "video": clip, "video_start": 1.0, "video_end": 2.0})
    assert part.grid[0] == 6  # 11 frames, the last one twice
    with pytest.warns(ImageWarning, match="fps is ignored: do_sample_frames is false"):
        assert grid_of({**item, "video": clip, "fps": 2}).grid[0] == 20
    assert grid_of({**item, "video": clip, "do_sample_frames": True}).grid[0] == 4


def test_resized_sides(clip):
    found = read_video(clip, CONFIG, **video_options({"resized_height": 60, "resized_width": 150}))
    assert found.grid[1:] == (4, 10)
    with pytest.warns(ImageWarning, match="resized_height 60 without resized_width is ignored"):
        assert resized_size({"resized_height": 60}) is None


def test_the_rate_of_a_list(clip):
    for key in ("fps", "sample_fps"):
        assert grid_of({"video": frames(6), key: 4, "raw_fps": 30}).seconds == 0.5
    with pytest.warns(
        ImageWarning, match="sample_fps 4 is the rate of the frames; fps 2 is ignored"
    ):
        assert grid_of({"video": frames(6), "sample_fps": 4, "fps": 2}).seconds == 0.5
    with pytest.warns(ImageWarning, match="sample_fps is for lists of frames .*its own"):
        assert grid_of({"video": clip, "sample_fps": 4}).grid[0] == 4
    with pytest.warns(
        ImageWarning, match="nframes and video_start ignored: all frames of a list are used"
    ):
        assert grid_of({"video": frames(6), "nframes": 4, "video_start": 1}).grid[0] == 3


def test_keys_without_a_value_are_absent(clip):
    keys = (
        *video.SAMPLING_POLICIES,
        "fps",
        "nframes",
        "num_frames",
        "video_start",
        "resized_width",
    )
    found = grid_of({"video": clip, **dict.fromkeys(keys)})
    np.testing.assert_array_equal(found.patches, grid_of({"video": clip}).patches)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"fps": 2, "nframes": 4}, "fps and nframes are both given; give one"),
        ({"nframes": 4, "num_frames": 4}, "are synonyms"),
        (
            {"nframes": 4, "do_sample_frames": False},
            "nframes contradicts do_sample_frames false; give one",
        ),
        ({"nframes": 1}, "nframes is 1, which is rounded to 0"),
        ({"nframes": 42}, "nframes is 42, .* has 40 frames"),
        ({"nframes": 0}, "nframes is 0; it must be an integer, at least 1"),
        ({"nframes": -4}, "nframes is -4"),
        ({"nframes": 4.5}, "nframes is 4.5"),
        ({"nframes": "4"}, "nframes is '4'"),
        ({"nframes": True}, "nframes is True"),
        ({"nframes": float("nan")}, "nframes is nan"),
        ({"nframes": float("inf")}, "nframes is inf"),
        ({"video_start": 3, "video_end": 2}, "there are fewer than two frames; it lasts 4.00 s"),
        ({"video_start": 9}, "there are fewer than two frames"),
        ({"video_end": -1}, "there are fewer than two frames"),
        ({"video_start": "1"}, "video_start is '1'; it must be a number of seconds"),
        ({"video_end": float("nan")}, "video_end is nan"),
        ({"total_pixels": 0}, "total_pixels is 0"),
        ({"total_pixels": "many"}, "total_pixels is 'many'"),
        ({"resized_height": 0, "resized_width": 5}, "resized_height is 0"),
        ({"resized_height": 9000, "resized_width": 5}, "200 times"),
        ({"do_sample_frames": "no"}, "do_sample_frames is 'no'; it must be true or false"),
        ({"sample_fps": 0}, "sample_fps is 0"),
        ({"raw_fps": "x"}, "raw_fps is 'x'"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(keys, complaint, clip):
    with pytest.raises(UserError, match=complaint) as caught:
        read_video(clip, CONFIG, **video_options(keys))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ limits


def test_limits_of_any_type_of_number(clip):
    expected = read_video(clip, CONFIG, max_pixels=12544).patches
    for limit in (np.int64(12544), np.uint16(12544), 12544.0, np.float64(12544)):
        np.testing.assert_array_equal(read_video(clip, CONFIG, max_pixels=limit).patches, expected)
    for limit in (True, "12544", 12544.5, -3, 0, float("nan"), [1]):
        with pytest.raises(UserError, match="a limit of "):
            read_video(clip, CONFIG, max_pixels=limit)


@pytest.mark.parametrize(
    ("size", "limits", "said"),
    [
        ((336, 224), {"max_pixels": 10}, "28x28, which is 784 pixels, over max_pixels 10"),
        ((336, 224), {"max_pixels": 783}, "over max_pixels 783"),
        ((2000, 10), {"max_pixels": 5000}, "over max_pixels 5,000"),
        ((336, 224), {"min_pixels": 1000, "max_pixels": 1000}, "over max_pixels 1,000|under min"),
        ((100, 104), {"min_pixels": 10_000, "max_pixels": 10_500}, "under min_pixels 10,000"),
        ((336, 224), {"max_pixels": 784}, None),
        ((336, 224), {"min_pixels": 10**6}, None),
        ((2000, 10), {}, None),
        ((1, 1), {}, None),
    ],
)
def test_a_limit_that_cannot_be_met_is_said(size, limits, said, model):
    image = Image.new("RGB", size)
    for item, arguments in (({"image": image, **limits}, {}), ({"image": image}, limits)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.prepare([{"role": "user", "content": [item]}], **arguments)
        told = [str(w.message) for w in caught if w.category is ImageWarning]
        assert len(told) == (said is not None)
        assert not told or any(part in told[0] for part in said.split("|"))


def test_a_limit_of_a_video_that_cannot_be_met_is_said(clip, recwarn):
    read_video(clip, CONFIG, max_pixels=10)
    assert "a frame of 64x48 pixels is resized to 28x28" in str(recwarn.pop(ImageWarning).message)
    read_video(clip, CONFIG, max_pixels=10**6)
    assert "at most 602,112 pixels per frame" in str(recwarn.pop(ImageWarning).message)
    read_video(clip, CONFIG, policy="hf", total_pixels=10**6)
    assert "total_pixels is not used by the sampling policy hf" in str(recwarn.pop().message)
    read_video(clip, CONFIG, total_pixels=10)
    assert "a frame has at least 100,352 pixels" in str(recwarn.pop(ImageWarning).message)
    read_video(clip, CONFIG, total_pixels=10, max_pixels=784)
    assert "a frame has at least 784 pixels" in str(recwarn.pop(ImageWarning).message)
    read_video(clip, CONFIG, total_pixels=10**7)
    read_video(frames(4, 300, 400), CONFIG, max_pixels=20_000)  # under the minimum that gave way
    read_video(clip, CONFIG)
    assert not recwarn.list


# ------------------------------------------------------------------ what holds a video


def test_every_source_of_a_video_gives_the_same(clip, tmp_path):
    expected = read_video(clip, CONFIG, **SMALL)
    data = Path(clip).read_bytes()
    text = base64.b64encode(data).decode()
    quoted = clip.replace(" ", "%20")
    for source in (
        data,
        io.BytesIO(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": clip},
        {"url": f"file://{quoted}"},
        f"data:video/mp4;base64,{text}",
        text,
        f"file://localhost{quoted}",
        Path(clip),
    ):
        found = read_video(source, CONFIG, **SMALL)
        np.testing.assert_array_equal(found.patches, expected.patches)
        assert found.seconds == expected.seconds
    gif = read_video(EXAMPLE_VIDEO.read_bytes(), CONFIG, **SMALL)
    np.testing.assert_array_equal(gif.patches, read_video(EXAMPLE_VIDEO, CONFIG, **SMALL).patches)


def test_frames_of_every_kind_in_one_list(tmp_path):
    clip = frames(8)
    expected = read_video(clip, CONFIG, **SMALL).patches
    whole = np.stack(clip)
    clip[0].save(tmp_path / "a b.png")
    buffer = io.BytesIO()
    clip[1].save(buffer, "PNG")
    mixed = [
        f"file://{tmp_path}/a%20b.png",
        buffer.getvalue(),
        clip[2].convert("RGBA"),
        np.moveaxis(np.asarray(clip[3]), 2, 0),
        (np.asarray(clip[4]) / 255).astype(np.float32),
        clip[5],
        {"bytes": None, "path": str(tmp_path / "a b.png")},
        np.asarray(clip[7]),
    ]
    clip[6] = clip[0]
    same = read_video(clip, CONFIG, **SMALL).patches
    np.testing.assert_array_equal(read_video(mixed, CONFIG, **SMALL).patches, same)
    for array in (whole, np.moveaxis(whole, 3, 1), whole / 255, whole.astype(np.float32)):
        np.testing.assert_array_equal(read_video(array, CONFIG, **SMALL).patches, expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr", "F", "I"])
@pytest.mark.filterwarnings("ignore::tinyqwenvl.media.ImageWarning")
def test_frames_of_any_mode(mode):
    frame = Image.fromarray(random_image(7, 56, 84))
    frame = frame.convert("L" if mode in ("LA", "I;16", "F", "I") else "RGB").convert(mode)
    alone = read_video([frame.convert("RGB")] * 2, CONFIG, **SMALL).patches
    np.testing.assert_array_equal(read_video([frame] * 2, CONFIG, **SMALL).patches, alone)


def test_a_dark_frame_is_not_taken_for_one_of_another_range():
    bright, dark = np.full((56, 56, 3), 200.0), np.full((56, 56, 3), 1.0)
    expected = read_video([bright.astype(np.uint8), dark.astype(np.uint8)], CONFIG, **SMALL)
    for source in ([bright, dark], np.stack([bright, dark])):
        found = read_video(source, CONFIG, **SMALL)
        np.testing.assert_array_equal(found.patches, expected.patches)


def test_torch_videos():
    torch = pytest.importorskip("torch")
    whole = np.stack(frames(4))
    expected = read_video(whole, CONFIG, **SMALL).patches
    tensor = torch.from_numpy(whole).permute(0, 3, 1, 2)
    for source in (tensor, tensor / 255, list(tensor), list(tensor.float())):
        np.testing.assert_array_equal(read_video(source, CONFIG, **SMALL).patches, expected)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (b"", "the video is empty"),
        (b"these are words", "^the video is"),
        ("data:video/mp4;base64,AAAAIGZ0eXBpc29t", "^the data: URI "),
        ("https://a.org/b.mp4", "addresses are not fetched; download the video"),
        ({}, "a dict of a video needs bytes, path or url"),
        (np.zeros((2, 5, 6, 2)), "a video array must be uint8"),
        (np.full((2, 5, 6, 3), -1.0), "a video array has values from -1 to -1"),
        (None, "cannot read a video from NoneType"),
    ],
)
def test_what_holds_no_video_is_one_line(source, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        read_video(source, CONFIG)
    assert "/tmp" not in str(caught.value) and "\n" not in str(caught.value)


def test_messages_with_urls(model, clip):
    data = base64.b64encode(Path(clip).read_bytes()).decode()
    expected = model.prepare([{"role": "user", "content": [{"video": clip}, {"text": "?"}]}])
    for item in (
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}},
        {"type": "video_url", "video_url": f"file://{clip.replace(' ', '%20')}"},
        {"type": "video", "video": {"url": clip}, "image": None, "text": None},
    ):
        found = model.prepare([{"role": "user", "content": [item, {"text": "?"}]}])
        np.testing.assert_array_equal(found.input_ids, expected.input_ids)
        np.testing.assert_array_equal(found.pixel_values_videos, expected.pixel_values_videos)
