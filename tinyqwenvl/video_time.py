"""When a video's frames are shown: even and uneven time stamps, and what a source says of itself.

A video whose frames follow evenly is described by its rate alone, and sampled by the indices of
its frames, as qwen_vl_utils does. Where time stamps are uneven an index says little about time, so
the frames are sampled by the instants at which they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from PIL import Image

from .dims import Array, Int
from .errors import UserError

ROUNDING = 1e-3  # seconds by which containers round time stamps (Matroska, FLV: milliseconds)


@dataclass
class Decoding:
    """What came up while frames were decoded; it starts anew with every decoding."""

    shown: int = 0  # frames so far
    gaps: int = 0  # of these, those that the decoder did not give, shown as the frame before them
    lost: int = 0  # of these, those after a packet that the decoder refused
    corrupt: int = 0  # frames of which the decoder says that they are damaged
    notes: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget the last decoding."""
        self.shown = self.gaps = self.lost = self.corrupt = 0
        self.notes.clear()

    def skip(self, refused: bool) -> None:
        """Count a frame that is shown as the one before it."""
        self.shown, self.gaps, self.lost = self.shown + 1, self.gaps + 1, self.lost + refused

    def messages(self) -> list[str]:
        """What to tell, one line each.

        Where every other packet gives no frame and none is refused, packets are fields: no damage.
        """
        said, lost = [], self.lost if self.gaps * 3 > self.shown else self.gaps
        if lost:
            said.append(f"{lost} of its frames cannot be decoded; the frame before is read instead")
        if self.corrupt:
            said.append(f"{self.corrupt} of its frames are damaged; what decodes of them is read")
        return [*said, *self.notes]

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class VideoSource:
    """A video that is not decoded yet. Every call of ``frames`` begins at the first again."""

    name: str
    total: int  # frames that are shown
    rate: float | None  # frames a second, the mean; None for a list, which does not know
    frames: Callable[[], Iterator[Image.Image]]
    uneven: str = ""  # how unevenly the frames follow, where that counts
    times: tuple[float, ...] | None = None  # seconds at which each begins, and the last ends;
    #                                         None where they follow evenly
    notes: tuple[str, ...] = ()  # what is missing or left out, as far as opening tells
    decoding: Decoding = field(default_factory=Decoding, compare=False)

    def begins(self, index: int, fps: float = 1.0) -> float:
        """Seconds at which a frame is shown, counted from the first; ``fps`` is that of a list."""
        return self.times[index] if self.times else index / (self.rate or fps)

    def shown_instead(self, indices: Int[Array, "F"]) -> Int[Array, "F"]:
        """Indices as if all frames lasted equally long -> the frames shown at those instants.

        The same indices where the frames do follow evenly. The first index is the first frame, the
        last the last one. A long frame is shown at several instants, and then comes several times.
        """
        if not self.times or self.total < 2:
            return indices
        instants = indices * (self.times[-1] / (self.total - 1)) + ROUNDING
        return np.searchsorted(np.array(self.times[1:-1]), instants, side="right")

    def cut_to(self, held: int) -> VideoSource:
        """The first ``held`` frames, where the others turn out not to be there."""
        if not self.times:
            return replace(self, total=held)
        times = self.times[: held + 1]
        return replace(self, total=held, times=times, rate=held / times[-1])


def timed(
    name: str,
    starts: Sequence[Fraction],
    end: Fraction,
    frames: Callable[[], Iterator[Image.Image]],
    **more: object,
) -> VideoSource:
    """A source whose frames begin at these seconds (rising, the first at 0), and end at ``end``.

    It counts as even while no frame is half a mean duration from where an even pace would put it.
    Raises UserError for time stamps that cannot be meant.
    """
    mean = end / len(starts)
    if not 1e-6 <= mean <= 1e6:
        raise UserError(f"{name}: time stamps of {float(mean):.3g} s a frame cannot be right")
    rate, begins = float(1 / mean), np.array([float(start) for start in starts])
    off = float(np.max(np.abs(begins - float(mean) * np.arange(len(begins)))))
    if off <= mean / 2:
        return VideoSource(name, len(starts), rate, frames, **more)  # type: ignore[arg-type]
    times = (*begins.tolist(), float(end))
    lasts = 1000 * np.diff(times)
    uneven = (
        f"frames last {lasts.min():.4g} to {lasts.max():.4g} ms; as if each lasted the mean of "
        f"{float(mean) * 1000:.0f} ms, times would be off by {off:.2g} s"
    )
    return VideoSource(name, len(starts), rate, frames, uneven, times, **more)  # type: ignore[arg-type]


def declared_rate(
    starts: Sequence[Fraction], end: Fraction | None, rates: Sequence[Fraction | None], tick: float
) -> Fraction | None:
    """The first of the ``rates`` that a header declares which the time stamps confirm, or None.

    Time stamps are rounded, to a ``tick`` of the container or a millisecond; nothing more may be
    between them and an even pace. A declared rate is exact, and is what the references read.
    """
    begins, allowed = np.array([float(start) for start in starts]), max(2 * tick, ROUNDING)
    for rate in rates:
        if not rate or not 0 < rate < math.inf:
            continue
        off = np.max(np.abs(begins - np.arange(len(begins)) / float(rate)))
        if off <= allowed and (end is None or abs(len(starts) / rate - end) <= allowed):
            return Fraction(rate)
    return None
