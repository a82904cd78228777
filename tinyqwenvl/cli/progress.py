"""A progress bar on stderr until the first token."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model import Inputs, Model
from ..tracing import watching


@contextmanager
def progress(model: Model, inputs: Inputs) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr until the first token, on a terminal and after a second.

    Yields a function to call at the first token.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    media = (inputs.pixel_values, inputs.pixel_values_videos)
    blocks = model.config.vision.depth * sum(pixels is not None for pixels in media)
    layers = model.config.text.num_hidden_layers
    shape = "{desc} {bar} {n}/{total}"
    bar = tqdm(total=blocks + layers, delay=1, leave=False, bar_format=shape, file=sys.stderr)

    def watch(name: str, _: Any, __: Any) -> None:
        if re.fullmatch(r"(visual\.blocks|model\.layers)\.\d+", name):
            what = "encoding the images" if name.startswith("visual") else "prefill of the prompt"
            bar.set_description_str(what, refresh=False)  # shown by the next update
            bar.update()

    with bar, watching(watch):
        yield bar.close
