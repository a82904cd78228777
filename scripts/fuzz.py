"""Fuzz every file reader with damaged files: headers, configs, tokenizers, images, videos.

    python -m scripts.fuzz [--seconds 600] [--seed N] [--only header|config|tokenizer|picture|video]

Whatever a file holds, reading it either works or raises one UserError of one line: no other
exception, no crash, no hang (one file may take 20 s) and no more memory than the limit. A failure
prints the file that caused it, made small by Hypothesis, and ends with exit code 1. The tests run
this for a minute.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from scripts import fuzz_requests, odd_videos
from scripts.odd_images import odd_images
from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import UserError
from tinyqwenvl.checkpoint import load_weights, read_safetensors
from tinyqwenvl.config import load_config
from tinyqwenvl.image import preprocess
from tinyqwenvl.media import open_image
from tinyqwenvl.shapes import walk
from tinyqwenvl.tokenizer import load_tokenizer
from tinyqwenvl.video import read_video

MEMORY, LONGEST = 6 * 2**30, 20  # bytes; seconds for one file
FEW = 12  # tensors in a small file
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308]
ODD_VALUES = st.sampled_from([*ODD_NUMBERS, None, True, "", "a", [], [1], {}, [[]], {"a": 1}])


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them changed, cut out, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        kind = draw(st.sampled_from(["change", "cut", "end", "insert", "number", "double"]))
        if kind == "change":
            changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del changed[at : at + draw(st.integers(1, 200))]
        elif kind == "end":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(max_size=40))
        elif kind == "double":
            changed[at:at] = changed[at : at + draw(st.integers(1, 200))]
        else:
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 2**60, 2**63]))
            changed[at : at + 8] = value.to_bytes(8, draw(st.sampled_from(["little", "big"])))
    return bytes(changed)


@st.composite
def spoilt(draw: st.DrawFn, value: object) -> object:
    """JSON with one setting replaced by an odd value, taken out, or a number moved a little."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 5)):
            return {n: v for n, v in value.items() if n != name}
        return {**value, name: draw(spoilt(value[name]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(spoilt(value[at])), *value[at + 1 :]]
    if isinstance(value, int) and draw(st.booleans()):
        return value + draw(st.integers(-3, 3))
    return draw(ODD_VALUES)


class Targets:
    """What is read, each against files made from good ones."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = load_config(write_checkpoint(folder / "good", tiny_config("qwen2_5_vl")))
        self.counts: Counter[str] = Counter()

    def header(self) -> tuple[st.SearchStrategy, Callable]:
        """A safetensors file: its bytes, and its header as JSON."""
        data = (self.folder / "good" / "model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        table = dict(list(json.loads(data[8 : 8 + length]).items())[:FEW])
        path = self.folder / "weights" / "model.safetensors"
        path.parent.mkdir()

        end = max(entry["data_offsets"][1] for entry in table.values() if "shape" in entry)

        def framed(table: object) -> bytes:
            text = json.dumps(table).encode()
            return len(text).to_bytes(8, "little") + text + data[8 + length :][:end]

        def read(contents: bytes) -> None:
            path.write_bytes(contents)
            stored = read_safetensors(path)
            for leaf in stored.values():
                leaf()
            if len(stored) > FEW:
                load_weights(path.parent, self.config)

        small = framed(table)
        return st.one_of(damaged(small), damaged(data), spoilt(table).map(framed)), read

    def setting(self) -> tuple[st.SearchStrategy, Callable]:
        """config.json and its companions, and the whole geometry that follows from them."""
        good = self.folder / "good"
        files = {
            "config.json": json.loads((good / "config.json").read_text()),
            "preprocessor_config.json": {
                **json.loads((good / "preprocessor_config.json").read_text()),
                "image_mean": [0.5, 0.5, 0.5], "size": {"shortest_edge": 1, "longest_edge": 10**5},
            },
            "generation_config.json": {"eos_token_id": [258, 256], "do_sample": True},
        }  # fmt: skip
        directory = self.folder / "configs"
        directory.mkdir()

        def read(case: tuple[str, bytes]) -> None:
            for name, values in files.items():
                (directory / name).write_text(json.dumps(values))
            (directory / case[0]).write_bytes(case[1])
            walk(load_config(directory), [(60, 90)], 9, max_pixels=10**5)

        cases = [
            st.tuples(
                st.just(name),
                st.one_of(
                    damaged(json.dumps(values).encode()),
                    spoilt(values).map(lambda v: json.dumps(v).encode()),
                ),
            )
            for name, values in files.items()
        ]
        return st.one_of(cases), read

    def tokenizer(self) -> tuple[st.SearchStrategy, Callable]:
        """tokenizer.json."""
        text = (self.folder / "good" / "tokenizer.json").read_text()
        directory = self.folder / "tokenizers"
        directory.mkdir()

        def read(contents: bytes) -> None:
            (directory / "tokenizer.json").write_bytes(contents)
            load_tokenizer(directory).encode("a b <|im_end|> é")

        whole = spoilt(json.loads(text)).map(lambda v: json.dumps(v).encode())
        return st.one_of(damaged(text.encode()), whole), read

    def image(self) -> tuple[st.SearchStrategy, Callable]:
        """Images of every kind that Pillow writes without loss of size."""
        files = []
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "ICO", "TGA"):
            for name in ("L", "RGB, transparent colour", "P", "CMYK", "I;16", "RGBA"):
                buffer = io.BytesIO()
                try:
                    odd_images()[name].save(buffer, kind)
                except (OSError, KeyError, ValueError):
                    continue  # a mode that this kind does not have
                files.append(buffer.getvalue())

        path = self.folder / "clip"
        clip = [image.convert("RGB") for image in list(odd_images().values())[3:7]]
        for kind in ("GIF", "PNG", "WEBP"):
            buffer = io.BytesIO()
            clip[0].save(buffer, kind, save_all=True, append_images=clip[1:], duration=300)
            files.append(buffer.getvalue())

        def read(contents: bytes) -> None:
            image = open_image(contents)
            preprocess([(image, 3136, 10**6)], self.config.processor, self.config.vision)
            path.write_bytes(contents)  # and once more, as a video of one or more frames
            read_video(path, self.config, max_pixels=10**5, most=4)

        return st.sampled_from(files).flatmap(damaged), read

    def video(self) -> tuple[st.SearchStrategy, Callable]:
        """Video files of every container that PyAV writes here; not without PyAV."""
        folder = self.folder / "videos"
        folder.mkdir()
        files = [
            (kind, odd_videos.write(folder / f"{pace.__name__}.{kind}", pace(9)).read_bytes())
            for kind in odd_videos.CODECS
            for pace in (odd_videos.even, odd_videos.uneven)
        ]
        whole = odd_videos.write(folder / "trimmed.mp4", odd_videos.even(9))
        trimmed = odd_videos.turned(odd_videos.trimmed(whole, 80, 280), (0, 1, -1, 0))
        files.append(("mp4", trimmed.read_bytes()))

        def read(case: tuple[str, bytes]) -> None:
            path = folder / f"damaged.{case[0]}"
            path.write_bytes(case[1])
            read_video(path, self.config, max_pixels=10**5, most=8)

        each = [st.tuples(st.just(kind), damaged(data)) for kind, data in files]
        return st.one_of(each), read


def fuzz(name: str, target: tuple[st.SearchStrategy, Callable], seconds: float, start: int) -> int:
    """Read damaged files for a while; returns how many. What goes wrong is raised."""
    strategy, read = target
    count = refused = 0

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(strategy)
    def attempt(case: object) -> None:
        nonlocal count, refused
        count += 1
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            read(case)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), error
        finally:
            faulthandler.cancel_dump_traceback_later()

    end, number = time.monotonic() + seconds, start
    while time.monotonic() < end:
        seed(number)(attempt)()
        number += 1
    print(f"{name}: {count} files, {refused} refused in one line, the others read", flush=True)
    return count


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ("header", "config", "tokenizer", "picture", "video", "request")
    parser.add_argument("--seconds", type=float, default=600, help="total time")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=kinds)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except ImportError:  # Windows has no such limit
        pass
    faulthandler.enable()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    Image.init()
    chosen = [args.only] if args.only else kinds
    with tempfile.TemporaryDirectory() as folder:
        targets = Targets(Path(folder))
        makers = {"header": targets.header, "config": targets.setting}
        makers |= {"tokenizer": targets.tokenizer, "picture": targets.image}
        makers |= {"video": targets.video}
        makers |= {"request": lambda: fuzz_requests.target(targets.config, targets.folder)}
        for name in chosen:
            fuzz(name, makers[name](), args.seconds / len(chosen), args.seed)


if __name__ == "__main__":
    sys.exit(main())
