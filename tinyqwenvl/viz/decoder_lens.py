"""The logit lens: the token that each image token is nearest to, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from .. import decoder, nn
from ..config import Config
from ..dims import Array, Float
from ..weights import Weights
from .decoder_attention import draw_token_grid, show_stretched
from .style import COLOURS, INK, Drawing, drawing
from .words import readable


def lens(stream: Float[Array, "S D"], weights: Weights, config: Config) -> Float[Array, "S V"]:
    """The logit lens: probabilities of the vocabulary, were the decoder to end at this layer.

    ``stream`` is what some layer gives (``model.layers.N``) or ``model.inputs_embeds``; it goes
    through the last norm and the head, as if no layer came after (nostalgebraist 2020).
    """
    x = nn.rms_norm(stream, weights.model.norm, config.text.rms_norm_eps)
    return nn.softmax(decoder.logits(x, weights.lm_head))


def logit_lens(
    image: Any,
    streams: Mapping[str, Float[Array, "M D"]],
    grid: Sequence[int],
    weights: Weights,
    config: Config,
    word: Callable[[int], str],
    among: Collection[int] | None = None,
    marked: Collection[str] = (),
    title: str = "Logit lens: the argmax of each image token",
) -> Drawing:
    """:func:`lens` on image tokens, one panel per layer: the argmax of each, over its square.

    ``streams`` are the image tokens' rows [M, D] of some layers, by name; ``grid`` is that of one
    image, (1, h, w) in patches; ``word`` names an id. With ``among``, only these ids may be
    named. Words that are ``marked`` get a frame. Paler words are less probable; the number
    over a panel is the mean. After Neo et al. 2024, "Towards Interpreting Visual Information
    Processing in Vision-Language Models": in a large model, squares of an object tend to name it
    in late layers.
    """
    merge = config.vision.spatial_merge_size
    down, across = grid[1] // merge, grid[2] // merge
    ids = np.arange(config.text.vocab_size) if among is None else np.array(sorted(among))
    panel = min(7.0 * down / across, 5.0)
    size = (7.5, 0.6 + len(streams) * (panel + 0.3))
    figure, axes = drawing(title, "", len(streams), 1, size, squeeze=False)
    room = max(2, int(72 * min(7.0, panel * across / down) / across / 4.6))  # characters in 7 pt
    summaries = []
    for axis, (name, stream) in zip(np.ravel(axes), streams.items(), strict=True):
        chances = lens(stream, weights, config)[:, ids]
        best = np.argmax(chances, axis=1)
        sure = np.max(chances, axis=1)
        words = [word(int(ids[i])) for i in best]
        framed = np.array([w.strip() in marked for w in words])
        extent = (0, across, down, 0)
        show_stretched(axis, image, extent, f"{name}: {np.mean(sure):.0%} mean probability")
        veil = np.zeros((down, across, 4))
        veil[..., :3], veil[..., 3] = 1.0, 0.8
        axis.imshow(veil, extent=extent)
        draw_token_grid(axis, down, across, 1)
        for place, (text, chance) in enumerate(zip(words, sure, strict=True)):
            y, x = divmod(place, across)
            ink = {"color": INK, "alpha": float(np.clip(0.45 + chance, 0.45, 1))}
            cut = (
                readable(text) if len(readable(text)) <= room else readable(text)[: room - 1] + "…"
            )
            axis.text(x + 0.5, y + 0.5, cut, ha="center", va="center", fontsize=7, **ink)
            if framed[place]:
                frame = ((x + 0.05, y + 0.05), 0.9, 0.9)
                axis.add_patch(Rectangle(*frame, fill=False, ec=COLOURS[5], lw=1.6))
        common = max(sorted(set(words)), key=words.count)
        summaries.append(
            f"{name}: {len(set(words))} different words, most often {readable(common)} "
            f"({words.count(common)} of {len(words)})"
            + (f", {np.count_nonzero(framed)} framed" if marked else "")
        )
    figure.alt = (
        f"A word over each of {down} x {across} image tokens. " + "; ".join(summaries) + "."
    )
    return figure
