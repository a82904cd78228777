import base64
import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from tinyqwenvl import UserError, compat
from tinyqwenvl.media import open_picture, rgb

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
        opened = open_picture(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), PIXELS)


@pytest.mark.parametrize("mode", ["La", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr", "F"])
def test_modes_become_rgb(mode):
    image = Image.fromarray(PIXELS).convert("L" if mode in ("I;16", "LA") else "RGB")
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    image.info["transparency"] = None  # as some readers leave it
    assert open_picture(image).mode == "RGB"


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
        assert open_picture(source).size == (20, 30)
    assert open_picture(Image.open(tmp_path / "a.jpg")).size == (30, 20)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_picture(data))[0, 0].tolist() == [255, 0, 0]


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
        ("nowhere.png", "no such picture"),
        (".", "is a directory"),
        ("data:image/png;base64,!!!", "not base64"),
        ("data:image/png;base64,aaaa", "not a picture"),
        ("https://example.org/a.png", "not fetched"),
        (b"", "not a picture"),
        ("a" * 3000, "File name too long|no such picture|cannot read"),
        ("a\0b", "cannot read"),
        ("data:image/png;base64,é", "not base64"),
        ("/dev/zero", "is not a file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a drawing|not a picture"),
        (b"GIF89a", "not a picture"),
        (GOOD[:60], "cut or damaged|not a picture"),
        (GOOD[:-40], "cut or damaged"),
        (JPEG[: len(JPEG) // 2], "not a picture|cut or damaged"),
        (JPEG[:-50], "cut or damaged"),
        (bomb(), "too many pixels|million pixels"),
        (5, "cannot be made of int"),
        (None, "cannot be made of NoneType"),
        (np.zeros((2, 2, 5), np.uint8), "uint8"),
        (np.zeros((2, 2, 3)), "uint8"),
        (np.zeros((0, 2, 3), np.uint8), "uint8"),
    ],
)
def test_bad_pictures_are_one_line(source, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        open_picture(source)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(GOOD,))
    writer.start()
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "pipe")), PIXELS)
    writer.join()


def test_an_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="is empty"):
        open_picture(tmp_path / "a.png")
