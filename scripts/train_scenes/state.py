"""The state of training in files: whole (float32) in one, or compact (bfloat16) in parts.

A compact state is for a run on another machine: at most 48 MB in six files, each under 16 MB.

    python -m scripts.train_scenes.state --state .train --write DIR    # compact state of .train
    python -m scripts.train_scenes.state --state .train --read DIR     # .train from a compact one
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tokenizers import Tokenizer

PARTS = ("weights", "mean", "momentum", "rest")
LARGEST_PART, LARGEST_STATE = 16_000_000, 48_000_000  # bytes
WHOLE, MANIFEST, TOKENIZER = "state.safetensors", "state.json", "tokenizer.json"


class StateError(Exception):
    """A state that cannot be read; the message is one line."""


def put(path, contents):
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(contents)
    return temporary, path


def rename(pairs):
    """Put files in place that were written whole."""
    for temporary, path in pairs:
        temporary.replace(path)


def write_whole(folder, parts, counters, tokenizer):
    """The state of a folder in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {f"{part}/{n}": v.cpu().contiguous() for part in PARTS for n, v in parts[part].items()}
    contents = save(flat, metadata={"counters": json.dumps(counters)})
    pairs = [put(folder / TOKENIZER, tokenizer.to_str().encode())]
    rename([*pairs, put(folder / WHOLE, contents)])


def read_whole(folder):
    """(parts, counters, tokenizer) of a folder; StateError when there is none that is whole."""
    path = folder / WHOLE
    if not path.is_file():
        raise StateError(f"{folder} holds no {WHOLE}")
    try:
        contents = path.read_bytes()
        flat = load(contents)
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
        counters = json.loads(header["__metadata__"]["counters"])
        parts = {part: {} for part in PARTS}
        for name, value in flat.items():
            part, _, name = name.partition("/")
            parts[part][name] = value
    except (SafetensorError, ValueError, KeyError) as error:
        raise StateError(f"{path} is not a state of training: {error}") from None
    return parts, counters, read_tokenizer(folder)


def read_tokenizer(folder):
    """The tokenizer beside a state."""
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises bare Exception
        raise StateError(f"cannot read {folder / TOKENIZER}: {error}") from None


def write_compact(folder, parts, counters, tokenizer):
    """The state in bfloat16 parts and a manifest; returns the bytes of all files."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs, sums = [], {}
    for part in PARTS:
        values = {n: v.to(torch.bfloat16).cpu().contiguous() for n, v in parts[part].items()}
        contents = save(values)
        if len(contents) >= LARGEST_PART:
            raise StateError(f"part {part} takes {len(contents)} bytes, over {LARGEST_PART}")
        sums[part] = hashlib.sha256(contents).hexdigest()
        pairs.append(put(folder / f"{part}.safetensors", contents))
    pairs.append(put(folder / TOKENIZER, tokenizer.to_str().encode()))
    manifest = json.dumps({"counters": counters, "sha256": sums}, indent=2) + "\n"
    pairs.append(put(folder / MANIFEST, manifest.encode()))
    total = sum(temporary.stat().st_size for temporary, _ in pairs)
    if total > LARGEST_STATE:
        raise StateError(f"the compact state takes {total} bytes, over {LARGEST_STATE}")
    rename(pairs)
    return total


def read_compact(folder):
    """(parts, counters, tokenizer) of a compact state; StateError when a part is amiss."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        parts = {}
        for part in PARTS:
            contents = (folder / f"{part}.safetensors").read_bytes()
            if hashlib.sha256(contents).hexdigest() != manifest["sha256"][part]:
                raise StateError(f"{folder / part}.safetensors is not the one of {MANIFEST}")
            parts[part] = {n: v.float() for n, v in load(contents).items()}
        return parts, manifest["counters"], read_tokenizer(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StateError(f"{folder} holds no compact state: {error}") from None


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".train"), help="folder of the run")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", type=Path, metavar="DIR", help="write a compact state there")
    way.add_argument("--read", type=Path, metavar="DIR", help="take over the compact state there")
    options = parser.parse_args(arguments)
    try:
        if options.write:
            total = write_compact(options.write, *read_whole(options.state))
            print(f"{total} bytes in {options.write}")
        else:
            write_whole(options.state, *read_compact(options.read))
            print(f"{options.state / WHOLE} written")
    except StateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
