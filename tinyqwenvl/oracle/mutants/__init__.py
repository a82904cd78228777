"""Injected bugs (mutants): bugs seen in ports, each as a patch of our functions.

``apply("vision_no_rope")`` injects that bug into the model while a ``with`` block runs. They
identify the bug of a port (``explain``), and show that the vectors catch it (``selftest``).
One file per stage, in the order of the data: chat, image (and the frames of a video), vision
encoder, positions, decoder, sampling. ``registry`` holds what they share.

A mutant's ``report`` is where the bug was seen, or "class of bug" if we know no public report.
(transformers#N and the like are issues or pull requests on GitHub.)
"""

from . import (  # noqa: I001 (importing them registers their mutants, in the order of the data)
    chat,
    image,
    vision_embedding,
    vision_rotary,
    vision_windows,
    vision_blocks,
    vision_merger,
    position,
    decoder,
    sampling,
)
from .faulty_parts import gelu_tanh, rotate_neighbours
from .registry import (
    MODULES,
    MUTANTS,
    RENAMED,
    Mutant,
    apply,
    find_mutant,
    mutant,
    of_the_prompt,
    variant,
)

STAGES = (
    chat, image, vision_embedding, vision_rotary, vision_windows, vision_blocks, vision_merger,
    position, decoder, sampling,
)  # fmt: skip

__all__ = [
    "MODULES", "MUTANTS", "RENAMED", "STAGES", "Mutant", "apply", "find_mutant", "gelu_tanh",
    "mutant", "of_the_prompt", "rotate_neighbours", "variant",
]  # fmt: skip
