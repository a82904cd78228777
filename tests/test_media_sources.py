"""What may hold an image: base64, bytes, dicts, arrays and tensors, as the references take it."""

import base64
import io
import sys
import urllib.parse
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.odd_input import encoded
from tinyqwenvl import UserError
from tinyqwenvl.media import ImageWarning, open_image
from tinyqwenvl.media_kinds import kind_of, named_like_a_file

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GOOD = encoded(Image.fromarray(PIXELS), "PNG")
TEXT = base64.b64encode(GOOD).decode()
assert "+" in TEXT and "/" in TEXT


def same(source):
    np.testing.assert_array_equal(np.asarray(open_image(source)), PIXELS)


# ------------------------------------------------------------------ base64 and URIs


def wrapped(text, width=76):
    return "\n".join(text[i : i + width] for i in range(0, len(text), width)) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        wrapped(TEXT),  # as base64.encodebytes and `base64 FILE` write it
        wrapped(TEXT).replace("\n", "\r\n"),
        TEXT.rstrip("="),
        TEXT.replace("+", "-").replace("/", "_"),
        f"data:image/png;base64,{TEXT}",
        f"data:image/png;base64, {TEXT}",
        f"data:image/png;base64,\n{wrapped(TEXT)}",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        f"DATA:image/png;BASE64,{TEXT}",
        f"data:image/png;base64,{urllib.parse.quote(TEXT, safe='')}",
        f"data:image/png,{TEXT}",  # transformers reads what is behind the comma as base64
        "data:image/png," + urllib.parse.quote_from_bytes(GOOD),
    ],
)
def test_base64_however_it_was_written(text):
    same(text)


def test_base64_of_a_jpeg_begins_like_a_path():
    data = encoded(Image.fromarray(PIXELS), "JPEG")
    text = base64.b64encode(data).decode()
    assert text.startswith("/9j/")
    np.testing.assert_array_equal(np.asarray(open_image(text)), np.asarray(open_image(data)))


def test_base64_is_as_transformers_reads_it():
    load_image = pytest.importorskip("transformers.image_utils").load_image
    for text in (TEXT, wrapped(TEXT), f"data:image/png;base64, {wrapped(TEXT)}"):
        np.testing.assert_array_equal(np.asarray(load_image(text)), np.asarray(open_image(text)))


def test_file_uris(tmp_path):
    path = tmp_path / "a photo 100%41.png"
    path.write_bytes(GOOD)
    quoted = urllib.parse.quote(str(path))
    for uri in (
        f"file://{path}",
        f"file://{quoted}",
        f"file://localhost{quoted}",
        f"file:{quoted}",
        f"FILE://{quoted}",
    ):
        same(uri)


# ------------------------------------------------------------------ bytes, file objects, dicts


def test_bytes_and_file_objects(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(GOOD)
    read = io.BytesIO(GOOD)
    read.read()  # at its end, as after another reader
    with open(path, "rb") as file:
        for source in (GOOD, bytearray(GOOD), memoryview(GOOD), read, io.BytesIO(GOOD), file):
            same(source)
    same(path)


@pytest.mark.parametrize(
    "row",
    [
        {"bytes": GOOD, "path": None},
        {"bytes": GOOD, "path": "elsewhere.png"},
        {"bytes": None, "path": "{}"},
        {"path": "{}"},
        {"url": "file://{}", "detail": "low"},
        {"url": f"data:image/png;base64,{TEXT}"},
        {"base64": TEXT},
    ],
)
def test_dicts_of_datasets_and_of_messages(row, tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    path = str(tmp_path / "a.png")
    same({k: v.replace("{}", path) if isinstance(v, str) else v for k, v in row.items()})


# ------------------------------------------------------------------ arrays and tensors


class Tensor:
    """What a torch tensor offers, without torch."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


CHANNELS_FIRST = np.moveaxis(PIXELS, 2, 0)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        CHANNELS_FIRST,
        PIXELS[None],
        CHANNELS_FIRST[None],
        PIXELS[..., ::-1][..., ::-1],  # negative strides
        PIXELS.astype(np.int64),
        PIXELS.astype(np.uint16),
        PIXELS.astype(np.float32),
        (PIXELS / 255).astype(np.float32),
        (PIXELS / 255).astype(np.float64),
        CHANNELS_FIRST.astype(np.float32) / np.float32(255),  # torchvision's ToTensor
        np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)]),
    ],
)
def test_arrays_and_tensors(array):
    same(array)
    same(Tensor(array))


def test_a_half_precision_unit_range_image_is_off_by_rounding_only():
    found = np.asarray(open_image((PIXELS / 255).astype(np.float16))).astype(int)
    assert np.abs(found - PIXELS).max() <= 1


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(PIXELS.copy())
    same(tensor)
    same(tensor.permute(2, 0, 1))
    same((tensor / 255).requires_grad_())
    same(tensor.float())
    found = np.asarray(open_image((tensor / 255).bfloat16())).astype(int)
    assert np.abs(found - PIXELS).max() <= 1


def test_grey_arrays():
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for array in (grey, grey[..., None], grey[None], grey / 255, (grey / 255)[..., None]):
        np.testing.assert_array_equal(np.asarray(open_image(array)), expected)
    mask = grey > 128
    np.testing.assert_array_equal(np.asarray(open_image(mask))[..., 0], mask * 255)


def test_channels_at_either_end_are_first_as_transformers_has_it():
    array = np.arange(3 * 8 * 4, dtype=np.uint8).reshape(3, 8, 4)
    with pytest.warns(ImageWarning, match="channels first or last"):
        found = open_image(array)
    np.testing.assert_array_equal(np.asarray(found), np.moveaxis(array, 0, 2))
    utils = pytest.importorskip("transformers.image_utils")
    assert utils.infer_channel_dimension_format(array, (1, 3, 4)).value == "channels_first"


def test_dark_images_in_floats_of_0_to_255_need_one_value_over_1():
    """The rule is of the values, as no array says what its range is."""
    dark = np.zeros((5, 6, 3), np.float32)
    dark[0, 0] = 2.0
    assert np.asarray(open_image(dark)).max() == 2
    dark[0, 0] = 1.0
    assert np.asarray(open_image(dark)).max() == 255


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (np.zeros((5, 6, 3)) - 1.5, r"values from -1.5 to -1.5; give 0..255, or floats in 0..1"),
        (np.full((5, 6, 3), 300), "values from 300 to 300"),
        (np.full((5, 6, 3), 1000, np.uint16), "values from 1000"),
        (np.full((5, 6, 3), np.nan), "contains NaN"),
        (np.zeros((5, 6, 3), complex), "must be uint8 or float, not complex128"),
        (np.full((5, 6, 3), "a"), "must be uint8 or float, not <U1"),
        (np.zeros((5, 6, 3), object), "must be uint8 or float, not object"),
        (np.zeros((2, 5, 6, 3), np.uint8), "has 2 images; give them one by one"),
        (np.zeros((5, 6, 2), np.uint8), r"not uint8 \[5, 6, 2\]"),
        (np.zeros(7), r"not float64 \[7\]"),
        (np.float32(3), r"not float32 \[\]"),
        (np.zeros((5, 0, 3)), r"not float64 \[5, 0, 3\]"),
        ([GOOD], "from list"),
        ("", "^an empty name: no such image"),
        ({}, "needs bytes, path or url; this one has no key"),
        ({"bytes": None, "path": None}, "this one has bytes, path"),
        ({"image": "a.png"}, "this one has image"),
        (io.StringIO("text"), "open it in binary mode"),
        ("data:image/png;base64", "no comma"),
        (f"data:image/png;base64,{TEXT[:-3]}", "truncated or damaged|not base64|not an image"),
        (TEXT[: len(TEXT) // 2], "truncated or damaged|not an image"),
        ("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU2Nzg5", "no such image"),
    ],
)
def test_what_holds_no_image_is_one_line(source, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)


def test_a_closed_file_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    with open(tmp_path / "a.png", "rb") as file:
        pass
    with pytest.raises(UserError, match=r"cannot read .*closed file"):
        open_image(file)


# ------------------------------------------------------------------ text over Pillow's limits


def with_chunks(*chunks, after=False):
    made = b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    )
    place = GOOD.index(b"IEND") - 4 if after else 33
    return GOOD[:place] + made + GOOD[place:]


MUCH = zlib.compress(b"a" * 2_000_000)
LONG = {
    "zTXt": with_chunks((b"zTXt", b"key\0\0" + MUCH)),
    "iTXt": with_chunks((b"iTXt", b"key\0\1\0\0\0" + MUCH)),
    "iCCP": with_chunks((b"iCCP", b"name\0\0" + MUCH)),
    "after": with_chunks((b"zTXt", b"key\0\0" + MUCH), after=True),
    "memory": with_chunks(*[(b"zTXt", b"key\0\0" + zlib.compress(b"a" * 1_000_000))] * 70),
}


@pytest.mark.parametrize("name", LONG)
def test_a_png_with_text_over_the_limit_is_read_without_it(name, tmp_path):
    (tmp_path / "a.png").write_bytes(LONG[name])
    for source in (LONG[name], tmp_path / "a.png"):
        with pytest.warns(ImageWarning, match="over Pillow's limit; it is ignored"):
            same(source)


def test_a_png_with_long_text_that_is_damaged_too_is_one_line():
    data = LONG["zTXt"]
    for cut in (data[:-40], data[: len(data) - len(GOOD) // 2], data[:2000]):
        with pytest.raises(UserError, match=r"damaged|not an image"):
            open_image(cut)


# ------------------------------------------------------------------ files that are no images


def ftyp(brand, *more):
    brands = b"".join(b.ljust(4).encode() if isinstance(b, str) else b for b in (brand, *more))
    return (16 + 4 * len(more)).to_bytes(4, "big") + b"ftyp" + brands[:4] + bytes(4) + brands[4:]


TIFF = encoded(Image.fromarray(PIXELS), "TIFF")


def tiff_with(tag, value):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "TIFF", tiffinfo={tag: value})
    return buffer.getvalue()


KINDS = {
    "photo.heic": (ftyp("heic", "mif1", "heic") + bytes(80), "a HEIC image"),
    "burst.jpg": (ftyp("mif1", "mif1", "heic") + bytes(80), "a HEIC image"),
    "photo.avif": (ftyp("avif", "mif1") + bytes(80), "an AVIF image"),
    "photo.jxl": (b"\xff\x0a" + bytes(80), "a JPEG XL image; convert it"),
    "box.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(80), "a JPEG XL image"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing; convert it"),
    "header.svg": (b"<?xml version='1.0'?>\n<!-- a -->\n<svg >", "an SVG drawing"),
    "page.pdf": (b"%PDF-1.7\n" + bytes(80), "a PDF document; save its page"),
    "download.jpg": (b"\n<!DOCTYPE html>\n<html><body>404", "an HTML page .of a download"),
    "bom.jpg": (b"\xef\xbb\xbf<html>", "an HTML page"),
    "denied.png": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML document"),
    "error.png": (b'{"error": {"code": 404}}', "JSON"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "slides.jpg": (b"PK\x03\x04" + bytes(80), "a ZIP archive or an Office document"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(80), "an Office document"),
    "layers.png": (b"8BPS\0\x02" + bytes(80), "a Photoshop document"),
    "shot.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(80), "a RAW photograph"),
    "shot.cr3": (ftyp("crx ", "isom") + bytes(80), "a RAW photograph"),
    "shot.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(80), "a RAW photograph"),
    "shot.nef": (tiff_with(254, 1), "a RAW photograph"),
    "shot.dng": (tiff_with(50706, b"\1\4\0\0"), "a RAW photograph"),
    "clip.jpg": (ftyp("isom", "mp42") + bytes(80), "an MP4 video; give it as a video .--video"),
    "phone.png": (ftyp("3gp5", "isom") + bytes(80), "a 3GP video"),
    "clip.webp": (b"\x1aE\xdf\xa3" + bytes(80), "a Matroska or WebM video"),
    "old.bmp": (b"\0\0\x01\xba" + bytes(80), "an MPEG video"),
    "stream.tif": ((b"G" + bytes(187)) * 5, "an MPEG transport stream"),
    "song.png": (b"ID3\x04" + bytes(80), "an MP3 sound; the model reads images"),
    "song.jpg": (b"OggS" + bytes(24) + b"\x01vorbis", "an Ogg sound"),
    "array.png": (b"\x93NUMPY\x01\0" + bytes(80), "a NumPy array file"),
    "words.png": (b"these are words", "not an image but text"),
    "zeros.jpg": (bytes(5000), "only zeros"),
    "noise.png": (bytes(range(128, 256)) * 9, "not an image that Pillow can read, or is damaged"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_image_is_named_by_its_bytes(name, tmp_path):
    data, complaint = KINDS[name]
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, data):
        with pytest.raises(UserError, match=complaint) as caught:
            open_image(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
def test_images_are_not_named_something_else(kind):
    assert kind_of(encoded(Image.fromarray(PIXELS), kind)) is None


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(tmp_path / "a.heic")
    for source in (tmp_path / "a.heic", (tmp_path / "a.heic").read_bytes()):
        image = open_image(source)
        assert image.size == (64, 48)
        assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() < 12
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        open_image(tmp_path / "cut.heic")


def test_without_pillow_heif_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.EXTENSION, ".heic", raising=False)  # as an earlier test may have it
    with pytest.raises(UserError, match=r"pip install pillow-heif \(the extra heif\), or"):
        open_image(KINDS["photo.heic"][0])


# ------------------------------------------------------------------ words


@pytest.mark.parametrize(
    "word",
    ["photo.heic", "IMG_1.HEIC", "a.jxl", "x.dng", "page.pdf", "a.3gp", "b.TS", "c.m2ts", "d.ogv",
     "./photo", "../x", "/tmp/x", "~/x", "file:///a", "https://a.org/b", "s3://bucket/key",
     "data:image/png;base64,AAAA", "a.svg", "notes.docx", "tests/nowhere"],
)  # fmt: skip
def test_words_that_name_a_file(word, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert named_like_a_file(word)


@pytest.mark.parametrize(
    "word",
    ["describe", "What is this?", "3.5", "e.g. this", "yes/no?", "e.g.", "and/or", "1/2", "", " ",
     "what is in b.png", "is it a .heic", "U.S.A.", "left/right", "what.", "a.b", "No. 5",
     "data: what is it?", "Node.js", "it's 50%/50%", "?", "/", "图", "v1.2.3"],
)  # fmt: skip
def test_words_that_are_a_prompt(word, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert word == "/" or not named_like_a_file(word)
