"""Damaged files, a few of every kind; a minute under --slow; `python -m scripts.fuzz`: ten."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("seconds", "seed", "least"),
    [
        pytest.param(6, 1, 80, id="seconds"),  # 80: Hypothesis tries up to 100 at a time
        pytest.param(60, 2026, 200, id="minute", marks=pytest.mark.slow),
    ],
)
def test_damaged_files(seconds, seed, least):
    command = [sys.executable, "-m", "scripts.fuzz", "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = done.stdout.splitlines()[1:]
    kinds = [line.split(":")[0] for line in lines]
    assert kinds[:3] == ["header", "config", "tokenizer"] and kinds[4:] == ["video", "request"]
    for line in lines:
        files, refused = (int(word) for word in line.split() if word.isdigit())
        assert files >= least and 0 < refused < files, line
