"""A minute of damaged files; `python -m scripts.fuzz` goes on for ten."""

import subprocess
import sys
from pathlib import Path


def test_a_minute_of_damaged_files():
    command = [sys.executable, "-m", "scripts.fuzz", "--seconds", "60", "--seed", "2026"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = done.stdout.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["header", "config", "tokenizer", "picture"]
    for line in lines:
        files, refused = (int(word) for word in line.split() if word.isdigit())
        assert files >= 200 and 0 < refused < files, line
