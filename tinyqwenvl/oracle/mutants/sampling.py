"""Choosing the next token."""

from __future__ import annotations

from ... import sampling
from .registry import mutant


@mutant("vLLM and transformers read it from generation_config.json")
def repetition_penalty_on():
    """Greedy decoding with a repetition penalty."""
    return {"sampling.GREEDY": sampling.Sampling(repetition_penalty=1.3)}
