"""Benchmark ``oracle diff`` on dumps of a vision encoder of the 3B's size: seconds and memory.

    python -m scripts.benchmark_diff [--folder DIR] [--blocks 32]

Two dumps of 1,440 patches and 32 blocks with every stage that record writes (about 5 GB each; the
numbers are random, the shapes the 3B's), compared by the command line in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tinyqwenvl.oracle.dump import Writer

N, D, E, HEADS = 1440, 1280, 3420, 16
PARTS = {
    "norm1": (N, D), "attn.qkv": (N, 3 * D), "attn.q": (HEADS, N, 80), "attn.k": (HEADS, N, 80),
    "attn.v": (HEADS, N, 80), "attn.context": (HEADS, N, 80), "attn.proj": (N, D), "attn": (N, D),
    "norm2": (N, D), "mlp.gate_proj": (N, E), "mlp.up_proj": (N, E), "mlp.down_proj": (N, D),
    "mlp": (N, D),
}  # fmt: skip


def write_dumps(paths: list[Path], blocks: int) -> float:
    """The same stages twice, the second a little off; returns the gigabytes of one."""
    rng = np.random.default_rng(0)
    random = rng.normal(size=N * 3 * D).astype(np.float32)
    noise = (1e-7 * rng.normal(size=N * 3 * D)).astype(np.float32)
    with Writer(paths[0]) as first, Writer(paths[1]) as second:
        for block in range(blocks):
            for part, shape in {**PARTS, "": (N, D)}.items():
                name = f"visual.blocks.{block}.{part}".rstrip(".")
                size = int(np.prod(shape))
                first.add(name, random[:size].reshape(shape))
                second.add(name, (random[:size] + noise[:size]).reshape(shape))
    return paths[0].stat().st_size / 1e9


def main() -> None:
    """Write, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder")
    parser.add_argument("--blocks", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = [Path(folder) / name for name in ("a.safetensors", "b.safetensors")]
        size = write_dumps(paths, args.blocks)
        start = time.perf_counter()
        command = [sys.executable, "-m", "tinyqwenvl.oracle", "diff", *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(done.stdout[-300:], done.stderr)
    print(f"two dumps of {size:.2f} GB: {seconds:.1f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
