"""The commands as tests run them: in a process, or in this one."""

import json
import os
import subprocess
import sys

from scripts.random_checkpoint import random_weights, tiny_config, write_checkpoint
from tinyqwenvl import run
from tinyqwenvl.checkpoint import write_safetensors
from tinyqwenvl.model import EXAMPLE_IMAGE

TRUTH = EXAMPLE_IMAGE.with_suffix(".txt").read_text()  # what was drawn, not what was answered

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tinyqwenvl_run(*words, cwd=None, stdin=b"", module="tinyqwenvl.run"):
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": HERE, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, cwd=cwd, env=environment, input=stdin)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def endless_checkpoint(directory):
    """A checkpoint that never ends an answer: the score of the stop token is always 0."""
    raw = tiny_config("qwen2_vl")
    weights = random_weights(raw, seed=0)
    weights["lm_head.weight"][raw["eos_token_id"]] = 0
    write_checkpoint(directory, raw)
    write_safetensors(directory / "model.safetensors", weights)
    return directory


def ask(capsys, *words):
    """Exit code, the JSON answer, stderr."""
    code = run.main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def text_of(model, answer):
    return model.tokenizer.decode(answer["prompt_token_ids"], skip_special=False)
