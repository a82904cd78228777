"""The checkpoint that a dump was made with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ...checkpoint import parameter_count
from ...config import load_config
from ...errors import UserError
from ...model import Model, find, load
from ..dump import Dump
from ..own_weights import with_weights
from ..record import SMALL, fingerprint


def model_of(reference: Dump, asked: str | None) -> Model | None:
    """The requested checkpoint, or the one that a dump was made with if it is small."""
    about: Any = reference.about.get("model") or {}
    known = about.get("fingerprint")
    if asked is not None:
        model = _as_recorded(load(asked), about)
        if known not in (None, fingerprint(model.config)):
            raise UserError(f"{reference.source} was made with another model than {asked}")
        return model
    source = about.get("source")
    if not isinstance(source, str):
        return None
    directory = None if source == "embedded" else _directory(source, Path(reference.source))
    if directory is None and source != "embedded":
        return None
    config = load_config(find(directory))
    small = parameter_count(config) <= SMALL
    if not small or (fingerprint(config) != known and not about.get("weights_from")):
        return None
    return _as_recorded(load(directory), about)


def _directory(source: str, dump: Path) -> Path | None:
    """The folder of a checkpoint; a relative one may be meant from the dump's folder."""
    with suppress(OSError, ValueError):  # a name that no folder can have
        places = (Path(source), dump.parent / source)
        return next((place for place in places if place.is_dir()), None)
    return None


def _as_recorded(model: Model, about: Any) -> Model:
    """The model with the port's own weights, where the dump was made with them."""
    files = about.get("weights_from")
    if not isinstance(files, list) or not all(isinstance(f, str) for f in files) or not files:
        return model
    return with_weights(model, files)
