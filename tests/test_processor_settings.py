"""Settings of images and videos: which file holds them, and what each means.

What transformers makes of them is compared live in scripts.compare_settings.
"""

import json

import numpy as np
import pytest
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.config import CLIP_MEAN, CLIP_STD, VIDEO_LIMITS, load_config
from tinyqwenvl.processor_settings import CLASS_LIMITS, IMAGE_FILE, NESTED, VIDEO_FILE
from tinyqwenvl.video import read_video
from tinyqwenvl.video_source import VideoSource

RAW = tiny_config("qwen2_5_vl")
SHARED = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "merge_size": 2, "patch_size": 14,
    "resample": 3, "rescale_factor": 0.00392156862745098, "temporal_patch_size": 2,
}  # fmt: skip
SAVED = {  # processor_config.json as transformers 5.24 writes it, of the embedded checkpoint
    "image_processor": {
        **SHARED,
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"longest_edge": 100352, "shortest_edge": 12544},
    },
    "processor_class": "Qwen2_5_VLProcessor",
    "video_processor": {
        **SHARED,
        "do_sample_frames": False,
        "max_frames": 768,
        "max_video_tokens": 128000,
        "min_frames": 4,
        "return_metadata": False,
        "size": {"longest_edge": 12544, "shortest_edge": 12544},
        "video_processor_type": "Qwen2VLVideoProcessor",
    },
}


@pytest.fixture
def read(tmp_path):
    """Write the files given, no others, and read the config."""
    directory = write_checkpoint(tmp_path / "model", RAW, seed=5)

    def write_and_read(files):
        for name in (IMAGE_FILE, VIDEO_FILE, NESTED):
            (directory / name).unlink(missing_ok=True)
            if name in files:
                (directory / name).write_text(json.dumps(files[name]))
        return load_config(directory)

    write_and_read.directory = directory
    return write_and_read


def limits(config):
    return config.processor.min_pixels, config.processor.max_pixels


def test_what_transformers_5_saves_holds_images_and_videos(read):
    config = read({NESTED: SAVED})
    assert limits(config) == (12544, 100352)
    assert config.video_limits == config.video.hf_limits == (12544, 12544)
    frames = np.zeros((8, 224, 224, 3), np.uint8)
    for policy in ("qwen-vl-utils", "hf"):
        assert read_video(frames, config, policy=policy).grid == (4, 8, 8)


def test_which_file_goes_first(read):
    one, two, three = ({"min_pixels": n, "max_pixels": 10 * n} for n in (4000, 5000, 6000))
    nested = {"image_processor": one, "video_processor": one}
    for files, image, video in (
        ({IMAGE_FILE: two}, 5000, 5000),  # videos too, in transformers
        ({IMAGE_FILE: two, VIDEO_FILE: three}, 5000, 6000),
        ({IMAGE_FILE: two, VIDEO_FILE: three, NESTED: nested}, 4000, 4000),
        ({IMAGE_FILE: two, VIDEO_FILE: three, NESTED: {"processor_class": "x"}}, 5000, 6000),
        ({IMAGE_FILE: two, VIDEO_FILE: three, NESTED: {"image_processor": one}}, 4000, 6000),
        ({IMAGE_FILE: two, VIDEO_FILE: three, NESTED: {"video_processor": one}}, 5000, 4000),
        ({IMAGE_FILE: two, NESTED: {"image_processor": one}}, 4000, 5000),
        ({IMAGE_FILE: two, NESTED: {"image_processor": None, "video_processor": one}}, 5000, 4000),
    ):
        config = read(files)
        assert (config.processor.min_pixels, config.video.hf_limits[0]) == (image, video), files
        own = VIDEO_FILE in files or "video_processor" in files.get(NESTED, {})
        assert config.video_limits == (config.video.hf_limits if own else VIDEO_LIMITS), files


def test_limits_in_every_place(read):
    edges = {"shortest_edge": 4000, "longest_edge": 9000}
    for settings, expected in (
        ({}, CLASS_LIMITS),  # of transformers' class, not those of the published files
        ({"size": None}, CLASS_LIMITS),
        ({"min_pixels": 5000}, (5000, CLASS_LIMITS[1])),
        ({"max_pixels": 5000}, (CLASS_LIMITS[0], 5000)),
        ({"size": edges}, (4000, 9000)),
        ({"size": edges, "min_pixels": 5000}, (5000, 9000)),
        ({"size": {"longest_edge": 9000}, "min_pixels": 5000}, (5000, 9000)),
        (
            {"size": {"min_pixels": 1, "max_pixels": 2}, "min_pixels": 50, "max_pixels": 99},
            (50, 99),
        ),
        ({"size": {}, "min_pixels": 50, "max_pixels": 99}, (50, 99)),
        ({"size": edges, "min_pixels": None}, (4000, 9000)),
    ):
        assert limits(read({IMAGE_FILE: settings})) == expected, settings
    one = read({IMAGE_FILE: {"image_mean": 0.5, "image_std": 0.25}})
    assert one.processor.image_mean == (0.5,) * 3 and one.processor.image_std == (0.25,) * 3


REFUSED = {
    "no file": ({}, "no preprocessor_config.json, and no image_processor"),
    "no settings in it": ({NESTED: {"processor_class": "x"}}, "the pixel limits are unknown"),
    "videos of nowhere": ({NESTED: {"image_processor": {}}}, "has no video_processor"),
    "nested no object": ({IMAGE_FILE: {}, NESTED: {"image_processor": 5}}, "not a JSON object"),
    "pixels in size": ({"size": {"min_pixels": 9, "max_pixels": 99}}, "belong next to size"),
    "one edge": ({"size": {"shortest_edge": 3136}}, "needs shortest_edge and longest_edge"),
    "the other edge": ({"size": {"longest_edge": 3136}}, "needs shortest_edge and longest_edge"),
    "height and width": ({"size": {"height": 56, "width": 56}}, "needs shortest_edge"),
    "size of a number": ({"size": 3136}, "size of the image settings is 3136"),
    "no limit": ({"min_pixels": 0}, "min_pixels is 0"),
    "patch": ({"patch_size": 16}, "patch_size of the image settings is 16, but the vision"),
    "merge": ({"merge_size": 1}, "merge_size of the image settings is 1"),
    "temporal": ({"temporal_patch_size": 1}, "temporal_patch_size of the image settings is 1"),
    "patch null": ({"patch_size": None}, "patch_size of the image settings is None"),
    "not resized": ({"do_resize": False}, "do_resize of the image settings is False; only true"),
    "null is false": ({"do_normalize": None}, "do_normalize of the image settings is None"),
    "resample": ({"resample": 2}, "resample of the image settings is 2; only 3 is read"),
    "rescale": ({"rescale_factor": 0.0039}, "rescale_factor of the image settings is 0.0039"),
    "mean null": ({"image_mean": None}, "image_mean is None"),
    "mean of two": ({"image_mean": [0.5, 0.5]}, "not three numbers"),
    "another model's": ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
    "video patch": ({IMAGE_FILE: {}, VIDEO_FILE: {"patch_size": 16}}, "video settings is 16"),
    "video mean": ({IMAGE_FILE: {}, VIDEO_FILE: {"image_mean": 0.5}}, "have different image_mean"),
    "num_frames": ({IMAGE_FILE: {}, VIDEO_FILE: {"num_frames": "8"}}, "num_frames is '8', not a"),
    "num_frames 0": ({IMAGE_FILE: {}, VIDEO_FILE: {"num_frames": 0}}, "num_frames is 0, not a"),
    "fps of words": ({IMAGE_FILE: {}, VIDEO_FILE: {"fps": "two"}}, "fps is 'two'"),
    "min_frames 0": ({IMAGE_FILE: {}, VIDEO_FILE: {"min_frames": 0}}, "min_frames is 0"),
    "video type": (
        {IMAGE_FILE: {}, VIDEO_FILE: {"video_processor_type": "Qwen3VLVideoProcessor"}},
        "Qwen3VLVideoProcessor",
    ),
    "frames crossed": (
        {IMAGE_FILE: {}, VIDEO_FILE: {"min_pixels": 9, "max_pixels": 8}},
        "allow no size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_we_would_have_to_guess_is_refused_by_name(what, read):
    files, complaint = REFUSED[what]
    files = files if not files or set(files) & {IMAGE_FILE, NESTED} else {IMAGE_FILE: files}
    with pytest.raises(UserError, match=complaint) as caught:
        read(files)
    assert "\n" not in str(caught.value)


def test_frames_are_counted_as_the_video_settings_say(read):
    frames = [np.full((28, 28, 3), n, np.uint8) for n in range(16)]
    settings = {"min_frames": 2, "max_frames": 6, "min_pixels": 784, "max_pixels": 784}
    config = read({IMAGE_FILE: {}, VIDEO_FILE: settings})
    with pytest.warns(UserWarning, match="6 of them"):
        assert read_video(frames, config).grid == (3, 2, 2)
    assert read_video(frames, config, most=16).grid == (8, 2, 2)
    config = read({IMAGE_FILE: {}, VIDEO_FILE: {"fps": 4.0}})
    assert config.video.fps == 4.0 and read_video(frames, config).seconds == 0.5


def test_frames_share_one_bound_where_the_settings_ask_for_it(read):
    """transformers: ``cap_pixels_per_frame``; 0.9 * 1000 tokens, two frames counted as one."""
    frames = np.zeros((16, 300, 300, 3), np.uint8)
    settings = {"min_pixels": 784, "max_pixels": 784 * 200, "cap_pixels_per_frame": True}
    capped = read({IMAGE_FILE: {}, VIDEO_FILE: settings | {"max_video_tokens": 1000}})
    _, h, w = read_video(frames, capped, policy="hf").grid
    assert h * w // 4 <= 0.9 * 1000 * 2 / 16 < (h / 2 + 1) * (w / 2 + 1)
    free = read({IMAGE_FILE: {}, VIDEO_FILE: settings | {"cap_pixels_per_frame": False}})
    assert read_video(frames, free, policy="hf").grid == (8, 22, 22)


def test_a_checkpoint_without_a_stop_token_says_so(tmp_path):
    directory = write_checkpoint(tmp_path / "model", {**RAW, "eos_token_id": None}, seed=5)
    with pytest.warns(tinyqwenvl.errors.CheckpointWarning, match="no file names a stop token"):
        assert tinyqwenvl.load(directory).config.eos_token_ids == (258,)
    directory = write_checkpoint(tmp_path / "other", RAW, seed=5)
    (directory / "generation_config.json").write_text('{"do_sample": true}')
    with pytest.warns(tinyqwenvl.errors.CheckpointWarning, match="258 of config.json is used"):
        assert load_config(directory).eos_token_ids == (258,)


def test_a_number_of_frames_in_the_settings(read):
    """transformers: ``num_frames`` of the processor goes before its ``fps``; an item before both.

    Witness: ``sample_frames`` takes ``self.num_frames``, and rounds it to frame pairs.
    """
    clip = VideoSource("a clip", 16, 4.0, lambda: iter([Image.new("RGB", (28, 28))] * 16))
    settings = {"fps": 1.0, "num_frames": 6, "min_pixels": 784, "max_pixels": 784}
    for frames, pairs in ((6, 3), (5, 2), (16, 8)):
        config = read({IMAGE_FILE: {}, VIDEO_FILE: settings | {"num_frames": frames}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tinyqwenvl.video.open_video", lambda _: clip)
            for policy in ("qwen-vl-utils", "hf"):
                assert read_video("clip", config, policy=policy).grid == (pairs, 2, 2)
            assert read_video("clip", config, nframes=4).grid == (2, 2, 2)
            assert read_video("clip", config, fps=2.0).grid == (4, 2, 2)
            assert read_video("clip", config, do_sample_frames=False).grid == (8, 2, 2)
    listed = [np.zeros((28, 28, 3), np.uint8)] * 10
    assert read_video(listed, config).grid == (5, 2, 2)
