"""Odd and bad input, one row each: images, checkpoints with one fault, command lines."""

import io
import json
import zlib

import numpy as np
from PIL import Image, features
from tokenizers import Tokenizer

from scripts.odd_images import TURNS, odd_images, turned_file

PIXELS = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
GOOD = Image.fromarray(PIXELS)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG that claims a size and holds almost nothing."""
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


FRAMES = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue", "green")]
PNG = encoded(GOOD, "PNG")
ODD_FILES = {
    "an image.png": PNG,
    "ünï çødé 图.png": PNG,
    "no_suffix": PNG,
    "wrong_suffix.txt": PNG,
    "photo.jpg": encoded(GOOD, "JPEG"),
    "progressive.jpg": encoded(GOOD, "JPEG", progressive=True),
    "grey.jpg": encoded(GOOD.convert("L"), "JPEG"),
    "cmyk.jpg": encoded(GOOD.convert("CMYK"), "JPEG"),
    "photo.bmp": encoded(GOOD, "BMP"),
    "photo.tiff": encoded(GOOD, "TIFF"),
    "deep.tiff": encoded(odd_images()["I;16"], "TIFF"),
    "float.tiff": encoded(odd_images()["F"], "TIFF"),
    "photo.ppm": encoded(GOOD, "PPM"),
    "photo.ico": encoded(GOOD, "ICO"),
    "animated.gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "animated.png": encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "trailing.png": PNG + b"rubbish behind the end",
    "bad_exif.jpg": encoded(GOOD, "JPEG", exif=b"Exif\0\0rubbish"),
}
if features.check("webp"):
    ODD_FILES["photo.webp"] = encoded(GOOD, "WEBP")
    ODD_FILES["animated.webp"] = encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])
if features.check("avif"):
    ODD_FILES["photo.avif"] = encoded(GOOD, "AVIF")
ODD_FILES |= {f"turned {o}.png": turned_file(o) for o in TURNS}
for _name, _image in odd_images().items():
    if _image.mode in ("1", "L", "I;16", "RGB", "RGBA", "LA", "P"):
        ODD_FILES[f"odd {_name}.png"] = encoded(_image, "PNG")

BAD_FILES = {
    "empty.png": b"",
    "words.png": b"these are words",
    "cut.png": PNG[:2000],
    "header_only.png": PNG[:33],
    "cut.jpg": encoded(GOOD, "JPEG")[:600],
    "flipped.png": PNG[:300] + bytes(255 - b for b in PNG[300:400]) + PNG[400:],
    "bomb.png": bomb(60000, 60000),
    "small_bomb.png": bomb(11000, 11000),
    "long.png": encoded(Image.new("L", (201, 1)), "PNG"),
    "tall.png": encoded(Image.new("L", (3, 700)), "PNG"),
    "drawing.eps": encoded(GOOD, "EPS"),
    "nothing.gif": b"GIF89a",
    "archive.zip": b"PK\x03\x04" + bytes(100),
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


# ------------------------------------------------------------------ checkpoints with one fault


def edit(name, **changes):
    """Change settings of a JSON file; None takes a setting out."""

    def spoil(directory):
        path = directory / name
        values = json.loads(path.read_text()) if path.exists() else {}
        for key, value in changes.items():
            inner, _, last = key.rpartition("__")
            place = values[inner] if inner else values
            place.pop(last, None) if value is None else place.update({last: value})
        path.write_text(json.dumps(values))

    return spoil


def config(**changes):
    return edit("config.json", **changes)


def write(name, data):
    return lambda directory: (directory / name).write_bytes(data)


def header(change):
    """Rewrite the header of the weights; the data stay."""

    def spoil(directory):
        path = directory / "model.safetensors"
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        values = json.loads(data[8:start])
        change(values)
        text = json.dumps(values).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])

    return spoil


def entry(name, **changes):
    return header(lambda values: values[name].update(changes))


def weights(change):
    """Rewrite the bytes of the weights' file."""

    def spoil(directory):
        path = directory / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def without(name):
    return lambda directory: (directory / name).unlink()


def sharded(places):
    def spoil(directory):
        (directory / "model.safetensors").unlink()
        index = directory / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": places}))

    return spoil


def more_tokens(directory):
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens([f"<more {i}>" for i in range(50)])
    tokenizer.save(path)


NORM, PATCH = "model.norm.weight", "visual.patch_embed.proj.weight"
TEXT_MODEL = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}

CHECKPOINTS = {
    "config missing": (without("config.json"), "no config.json"),
    "config not JSON": (write("config.json", b"{'a': 1}"), "not JSON"),
    "config cut": (write("config.json", b'{"model_type": "qwen2_vl",'), "not JSON"),
    "config not text": (write("config.json", b"\xff\xfe\x00\x01"), "cannot read"),
    "config a list": (write("config.json", b"[1]"), "one JSON object"),
    "config deep": (write("config.json", b'{"a":' * 100_000), "not JSON"),
    "another model": (config(model_type="llava"), "supported are qwen2_vl"),
    "no model type": (config(model_type=None), "supported are qwen2_vl"),
    "no width": (config(hidden_size=None), "lacks 'hidden_size'"),
    "no vision": (config(vision_config=None), "lacks 'vision_config'"),
    "width of words": (config(hidden_size="wide"), "hidden_size"),
    "width 0": (config(hidden_size=0), "hidden_size"),
    "width negative": (config(hidden_size=-64), "hidden_size"),
    "width huge": (config(hidden_size=10**18), "hidden_size"),
    "patch huge": (config(vision_config__patch_size=2**31), "patch_size"),
    "frames in a patch": (config(vision_config__temporal_patch_size=2**31), "temporal_patch_size"),
    "layers huge": (config(num_hidden_layers=10**9), "num_hidden_layers"),
    "heads do not divide": (config(num_attention_heads=5), "num_attention_heads"),
    "key heads do not divide": (config(num_key_value_heads=3), "num_key_value_heads"),
    "sections do not sum": (config(rope_scaling={"mrope_section": [2, 3, 4]}), "mrope_section"),
    "window too small": (config(vision_config__window_size=20), "window_size"),
    "vision heads": (config(vision_config__num_heads=5), "num_heads"),
    "eps 0": (config(rms_norm_eps=0), "rms_norm_eps"),
    "theta nan": (config(rope_theta=float("nan")), "rope_theta"),
    "theta huge": (config(rope_theta=1e308), "rope_theta"),
    "rope of words": (config(rope_scaling="mrope"), "rope_scaling is 'mrope'"),
    "quantised how": (config(quantization_config="awq"), "quantization_config is 'awq'"),
    "size of a number": (
        edit("preprocessor_config.json", size=5),
        "image settings is 5",
    ),
    "yarn": (config(rope_scaling={"type": "yarn", "mrope_section": [2, 3, 3]}), "yarn"),
    "limits of words": (edit("preprocessor_config.json", min_pixels="few"), "min_pixels"),
    "limits crossed": (edit("preprocessor_config.json", max_pixels=100), "allow no size"),
    "deviation 0": (edit("preprocessor_config.json", image_std=[1, 0, 1]), "image_std"),
    "weights missing": (without("model.safetensors"), "is missing"),
    "weights empty": (weights(lambda data: b""), "truncated or not"),
    "weights cut": (weights(lambda data: data[:-1000]), "truncated or not"),
    "weights cut in the header": (weights(lambda data: data[:200]), "truncated or not"),
    "weights longer": (weights(lambda data: data + b"more"), "truncated or not"),
    "weights garbage": (weights(lambda data: bytes(range(256)) * 99), "truncated or not"),
    "header of 2^60": (
        weights(lambda d: (2**60).to_bytes(8, "little") + d[8:]),
        "truncated or not",
    ),
    "header of 2^63": (weights(lambda d: b"\xff" * 8 + d[8:]), "truncated or not"),
    "header no JSON": (weights(lambda d: d[:8] + b"!" + d[9:]), "truncated or not"),
    "header a list": (weights(lambda d: (2).to_bytes(8, "little") + b"[]"), "truncated or not"),
    "offsets outside": (entry(NORM, data_offsets=[10**12, 10**12 + 128]), "truncated or not"),
    "offsets overlap": (entry(NORM, data_offsets=[0, 128]), "truncated or not"),
    "offsets negative": (entry(NORM, data_offsets=[-128, 0]), "truncated or not"),
    "offsets of words": (entry(NORM, data_offsets="ab"), "truncated or not"),
    "shape does not fit": (entry(NORM, shape=[63]), "truncated or not"),
    "shape huge": (entry(NORM, shape=[2**62, 2**62]), "truncated or not"),
    "dtype": (entry(NORM, dtype="I16"), "stored as I16"),
    "wrong shape": (config(intermediate_size=100), "config.json requires"),
    "missing tensor": (header(lambda h: h.update(a=h.pop(NORM))), f"lack {NORM}"),
    "extra tensor": (config(tie_word_embeddings=False, num_hidden_layers=2), "unknown weight"),
    "shard outside": (sharded({NORM: "../../etc/passwd"}), "inside its directory"),
    "shard absolute": (sharded({NORM: "/etc/passwd"}), "inside its directory"),
    "shard missing": (sharded({NORM: "model-00001-of-00002.safetensors"}), "is missing"),
    "index empty": (sharded({}), "inside its directory"),
    "tokenizer missing": (without("tokenizer.json"), "no tokenizer.json"),
    "tokenizer no JSON": (write("tokenizer.json", b"{"), "cannot read the tokenizer"),
    "tokenizer of another": (
        write("tokenizer.json", json.dumps(TEXT_MODEL).encode()),
        "is it the tokenizer of this model",
    ),
    "too few ids": (config(eos_token_id=299), "fewer than the stop tokens"),
    "too many ids": (more_tokens, "more tokens than"),
    "placeholders disagree": (config(image_token_id=7), "disagree on <|image_pad|>"),
    "template no text": (write("chat_template.json", b'{"chat_template": 5}'), "neither a text"),
    "template of two lines": (
        write("chat_template.jinja", b"{{ raise_exception('a\nb') }}"),
        r"fails: a\nb",
    ),
    "template empty": (write("chat_template.jinja", b""), "0 image placeholders for 1"),
    "template fails": (write("chat_template.jinja", b"{{ 1 / 0 }}"), "template of this"),
}

# Words of the command line, "{}" for the directory of the checkpoint, and the complaint.
BAD_WORDS = {
    "no such image": (["run", "nowhere.png"], "no such image"),
    "the last image": (["run", "good.png", "nowhere.png"], "no such image"),
    "an address at the end": (["run", "good.png", "https://a.org/b.png"], "download the image"),
    "no such video file": (["run", "clip.mp4", "?"], "clip.mp4: no such video"),
    "a video at the end": (["run", "good.png", "b.MKV"], "b.MKV: no such video"),
    "a video with a space": (["run", "my clip.mp4", "?"], "my clip.mp4: no such video"),
    "a video elsewhere": (["run", "https://a.org/b.mp4", "?"], "download the video"),
    "a sole video": (["run", "clip.webm"], "clip.webm: no such video"),
    "no such HEIC": (["run", "good.png", "photo.heic"], "photo.heic: no such image"),
    "no such document": (["run", "good.png", "paper.pdf"], "paper.pdf: no such image"),
    "no such path": (["run", "good.png", "./photo"], "./photo: no such image"),
    "a file of words": (["run", "good.png", "words.png"], "words.png is not an image but text"),
    "an archive": (["run", "good.png", "archive.zip"], "is a ZIP archive or an Office document"),
    "a drawing": (["run", "good.png", "drawing.svg"], "is an SVG drawing; convert it to PNG"),
    "a folder as a path": (
        ["run", "good.png", "./folder"],
        "is a directory, not an image; for fra",
    ),
    "line end in a name": (["run", "a\nb.png", "?"], r"a\nb.png: no such image"),
    "escape in a name": (["run", "\x1b[31mred.png", "?"], r"\x1b[31mred.png"),
    "a long option": (["run", "--" + "x" * 5000], "..."),
    "limit of many digits": (["run", "good.png", "?", "--min-pixels", "9" * 4000], "fewer pixels"),
    "a directory": (["run", "folder", "?"], "is a directory"),
    "an address": (["run", "https://example.org/a.png", "?"], "download the image"),
    "a very long name": (["run", "a" * 5000 + ".png", "?"], "cannot read"),
    "a null in the name": (["run", "a\0b", "?"], "cannot read"),
    "empty prompt": (["run", "good.png", ""], "prompt is empty"),
    "blank prompt": (["run", "good.png", "  \n"], "prompt is empty"),
    "-n 0": (["run", "good.png", "?", "-n", "0"], "at least 1"),
    "-n -5": (["run", "good.png", "?", "-n", "-5"], "at least 1"),
    "-n many": (["run", "good.png", "?", "-n", "many"], "invalid int"),
    "max 0": (["run", "good.png", "?", "--max-pixels", "0"], "integer, at least 1"),
    "max -1": (["run", "good.png", "?", "--max-pixels", "-1"], "integer, at least 1"),
    "min over max": (
        ["run", "good.png", "?", "--min-pixels", "900", "--max-pixels", "800"],
        "allow no size",
    ),
    "min huge": (["run", "good.png", "?", "--min-pixels", str(10**12)], "fewer pixels"),
    "unknown option": (["run", "good.png", "--colour"], "unrecognized"),
    "alpha": (["run", "good.png", "?", "--alpha", "black"], "invalid choice"),
    "temperature": (["run", "good.png", "?", "--temperature", "-1"], "temperature"),
    "temperature nan": (["run", "good.png", "?", "--temperature", "nan"], "temperature"),
    "top p": (["run", "good.png", "?", "--top-p", "1.5"], "top_p"),
    "top k": (["run", "good.png", "?", "--top-k", "-3"], "top_k"),
    "penalty": (["run", "good.png", "?", "--repetition-penalty", "0"], "repetition_penalty"),
    "seed": (["run", "good.png", "?", "--seed", "-1"], "seed"),
    "empty stop": (["run", "good.png", "?", "--stop", ""], "--stop needs"),
    "no model": (["run", "good.png", "?", "-m", "nowhere"], "not a directory"),
    "model a file": (["run", "good.png", "?", "-m", "good.png"], "not a directory"),
    "model a long name": (["run", "good.png", "?", "-m", "m" * 5000], "not a directory"),
    "model empty": (["run", "good.png", "?", "-m", "folder"], "no config.json"),
    "surrogates": (["run", "good.png", "\udcff?"], "not Unicode"),
    "placeholder without image": (
        ["run", "see <|image_pad|>", "--parse-special"],
        "1 image placeholders for 0 images",
    ),
    "one placeholder too many": (
        ["run", "good.png", "see <|image_pad|>", "--parse-special"],
        "2 image placeholders for 1 images",
    ),
    "no command": (["walk"], "use one of run, shapes"),
    "an image for a command": (["good.png", "describe"], "use one of run, shapes"),
    "shapes: preset": (["shapes", "9x9", "--preset", "gpt"], "use one of qwen2-vl-2b"),
    "shapes: both": (["shapes", "9x9", "--preset", "qwen2-vl-2b", "-m", "x"], "not both"),
    "shapes: 0": (["shapes", "0x9"], "is empty"),
    "shapes: long": (["shapes", "900x1"], "200 times"),
    "shapes: no size": (["shapes", "9by9"], "a size is written like 756x476"),
    "shapes: text tokens": (["shapes", "9x9", "--text-tokens", "-5"], "text tokens"),
    "shapes: text tokens huge": (["shapes", "9x9", "--text-tokens", str(10**15)], "over 1,000,000"),
    "shapes: limits": (["shapes", "9x9", "--max-pixels", "-1"], "integer, at least 1"),
    "shapes: huge": (["shapes", "9x9", "--min-pixels", str(10**15)], "fewer pixels"),
    "shapes: svg nowhere": (["shapes", "9x9", "--svg", "nowhere/a.svg"], "cannot write"),
    "shapes: svg a folder": (["shapes", "9x9", "--svg", "folder"], "not a file"),
    "shapes: svg empty": (["shapes", "9x9", "--svg", ""], "not a file"),
    "shapes: presets and svg": (["shapes", "--presets", "--svg", "a.svg"], "--json only"),
    "shapes: many digits": (["shapes", "9x9", "--min-pixels", "9" * 400], "fewer pixels"),
    "fps without video": (["run", "?", "--fps", "2"], "--fps needs a --video"),
    "fps 0": (["run", "?", "--video", "animated.gif", "--fps", "0"], "over 0"),
    "no such video": (["run", "?", "--video", "nowhere.mp4"], "no such"),
    "video of words": (["run", "?", "--video", "words.png"], "words.png is"),
    "video of nothing": (["run", "?", "--video", "folder"], "no frames"),
    "chat and json": (["run", "--chat", "--json"], "--chat excludes"),
}
