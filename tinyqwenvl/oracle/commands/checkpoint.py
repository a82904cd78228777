"""The checkpoint that a dump was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...checkpoint import parameter_count
from ...config import load_config
from ...errors import UserError
from ...model import Model, find, load
from ..dump import Dump
from ..record import SMALL, fingerprint


def model_of(reference: Dump, asked: str | None) -> Model | None:
    """The checkpoint that is asked for, or the one that a dump was made with, when it is small."""
    about: Any = reference.about.get("model") or {}
    known = about.get("fingerprint")
    if asked is not None:
        model = load(asked)
        if known not in (None, fingerprint(model.config)):
            raise UserError(f"{reference.source} was made with another model than {asked}")
        return model
    source = about.get("source")
    if not isinstance(source, str) or not (source == "embedded" or Path(source).is_dir()):
        return None
    directory = None if source == "embedded" else source
    config = load_config(find(directory))
    small = parameter_count(config) <= SMALL and fingerprint(config) == known
    return load(directory) if small else None
