import base64
import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from scripts.odd_images import TURNS, odd_images, turned_file
from tests.test_goldens import FILES, read
from tinyqwenvl import UserError, compat
from tinyqwenvl.config import ProcessorConfig
from tinyqwenvl.image import preprocess
from tinyqwenvl.media import ImageWarning, open_image, rgb
from tinyqwenvl.presets import preset

_, GOLDEN = read(FILES[0].with_name("odd_images.safetensors"))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_source_gives_the_same_pixels(tmp_path):
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.png")
    uri = "data:image/png;base64," + base64.b64encode(encoded(image)).decode()
    path = tmp_path / "a.png"
    for source in (image, PIXELS, path, str(path), f"file://{path}", uri, encoded(image)):
        opened = open_image(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), PIXELS)


@pytest.mark.parametrize("mode", ["La", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr", "F"])
def test_modes_become_rgb(mode):
    image = Image.fromarray(PIXELS).convert("L" if mode in ("I;16", "LA") else "RGB")
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    image.info["transparency"] = None  # as some readers leave it
    assert open_image(image).mode == "RGB"


def test_transparency_is_laid_on_white_or_dropped_by_name():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    assert np.asarray(rgb(image))[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    assert np.asarray(compat.drop_alpha(image))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 0])
    palette.info["transparency"] = 0
    assert np.asarray(rgb(palette))[0].tolist() == [[255, 255, 255]]


def test_files_are_turned_upright_and_images_are_not(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    for source in (tmp_path / "a.jpg", data, "data:;base64," + base64.b64encode(data).decode()):
        assert open_image(source).size == (20, 30)
    assert open_image(Image.open(tmp_path / "a.jpg")).size == (30, 20)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_of_an_animation_and_that_it_is_said(kind):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(ImageWarning, match="several frames"):
        assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("error")
def test_one_frame_needs_no_word():
    previews = [Image.fromarray(PIXELS)] * 2  # what a camera adds to a photograph
    photograph = encoded(previews[0], "MPO", save_all=True, append_images=previews[1:])
    for data in (encoded(Image.fromarray(PIXELS), "GIF"), photograph, GOOD):
        open_image(data)


def test_a_float_image_from_0_to_1_is_pointed_out():
    with pytest.warns(ImageWarning, match="becomes black"):
        open_image(Image.fromarray(np.ones((4, 4), np.float32)))


# ------------------------------------------------------------------ as transformers has them


@pytest.mark.parametrize("name", odd_images())
def test_odd_images_are_bit_equal_to_transformers(name):
    image = odd_images()[name]
    deep = image.mode in ("I;16", "I", "F")
    with pytest.warns(ImageWarning, match="over 255") if deep else contextlib.nullcontext():
        opened = open_image(image)
    vision = preset("qwen2.5-vl-3b").vision
    pixels, grids = preprocess([(opened, 3136, 12845056)], ProcessorConfig(), vision)
    assert grids.tolist() == GOLDEN[f"{name}: grid"].tolist()
    assert hashlib.sha256(pixels.tobytes()).digest() == GOLDEN[f"{name}: sha256"].tobytes()


@pytest.mark.parametrize("orientation", TURNS)
def test_files_are_turned_as_transformers_turns_them(orientation):
    opened = open_image(turned_file(orientation))
    np.testing.assert_array_equal(np.asarray(opened), GOLDEN[f"orientation {orientation}"])


def bomb():
    """A PNG that says it is 60,000 x 60,000."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


GOOD = encoded(Image.fromarray(PIXELS))
JPEG = encoded(Image.fromarray(PIXELS), "JPEG")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.png", "no such image"),
        (".", "is a directory"),
        ("data:image/png;base64,!!!", "not base64"),
        ("data:image/png;base64,aaaa", "not an image"),
        ("https://example.org/a.png", "not fetched"),
        (b"", "is empty"),
        ("a" * 3000, "File name too long|no such image|cannot read"),
        ("a\0b", "cannot read"),
        ("data:image/png;base64,é", "not base64"),
        ("/dev/zero", "is not a file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a drawing|not an image"),
        (b"GIF89a", "not an image"),
        (GOOD[:60], "truncated or damaged|not an image"),
        (GOOD[:-40], "truncated or damaged"),
        (JPEG[: len(JPEG) // 2], "not an image|truncated or damaged"),
        (JPEG[:-50], "truncated or damaged"),
        (bomb(), "too many pixels|million pixels"),
        (5, "from int"),
        (None, "from NoneType"),
        (np.zeros((2, 2, 5), np.uint8), "uint8"),
        (np.zeros((2, 2, 3)) - 1, "values from -1"),
        (np.zeros((0, 2, 3), np.uint8), "uint8"),
    ],
)
def test_bad_images_are_one_line(source, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)


def test_exif_that_cannot_be_read_is_said_once(recwarn):
    """A description that is said to be numbers: Pillow cannot write it again, nor turn."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    damaged = exif.tobytes().replace(b"\x01\x0e\x00\x02", b"\x01\x09\x00\x02")
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=damaged)
    assert open_image(buffer.getvalue()).size == (30, 20)
    said = [str(w.message) for w in recwarn]
    assert said == ["the image has EXIF that cannot be read; it is not rotated"]


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes")
def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(GOOD,))
    writer.start()
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "pipe")), PIXELS)
    writer.join()


def test_an_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="is empty"):
        open_image(tmp_path / "a.png")


def test_no_file_is_left_open():
    """An image with several frames keeps its file open until it is closed: both ways to read."""
    code = (
        "import gc, warnings\n"
        "from tinyqwenvl import media, video\n"
        "from tinyqwenvl.model import EXAMPLE_VIDEO as clip\n"
        "warnings.simplefilter('ignore', media.ImageWarning)\n"
        "assert media.open_image(clip).size == (112, 112)\n"
        "assert len(list(video.open_video(clip).frames())) == 16\n"
        "gc.collect()\n"
    )
    run = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and "ResourceWarning" not in run.stderr, run.stderr
