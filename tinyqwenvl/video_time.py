"""Video timing: when each frame is shown, with even or uneven time stamps.

A video with evenly spaced frames is described by its rate and sampled by frame index, as in
qwen_vl_utils. With uneven time stamps an index does not tell the time, so frames are sampled by
their time stamps.
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
    """Problems found while decoding frames; reset at the start of every decoding."""

    shown: int = 0  # frames so far
    gaps: int = 0  # frames that the decoder did not return; the previous frame is repeated
    lost: int = 0  # of these gaps, those after a packet that the decoder rejected
    corrupt: int = 0  # frames that the decoder reports as damaged
    notes: list[str] = field(default_factory=list)  # other problems, one line each

    def clear(self) -> None:
        """Reset all counts and notes."""
        self.shown = self.gaps = self.lost = self.corrupt = 0
        self.notes.clear()

    def skip(self, refused: bool) -> None:
        """Count a frame that is replaced by the previous one."""
        self.shown, self.gaps, self.lost = self.shown + 1, self.gaps + 1, self.lost + refused

    def messages(self) -> list[str]:
        """The warnings to show, one line each.

        If every other packet gives no frame and none is rejected, the packets are fields of
        interlaced video; this is not damage.
        """
        said, lost = [], self.lost if self.gaps * 3 > self.shown else self.gaps
        if lost:
            said.append(f"{lost} of its frames cannot be decoded; the previous frame replaces each")
        if self.corrupt:
            said.append(f"{self.corrupt} of its frames are damaged; they may show artefacts")
        return [*said, *self.notes]

    def note(self, text: str) -> None:
        """Add a note unless it is already there."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class VideoSource:
    """A video that is not decoded yet. Every call of ``frames`` restarts at the first frame."""

    name: str  # its path or description, for messages
    total: int  # number of frames shown
    rate: float | None  # mean frames per second; None for a list of frames
    frames: Callable[[], Iterator[Image.Image]]  # decodes the frames one by one, as RGB images
    uneven: str = ""  # describes uneven timing, if it matters
    times: tuple[float, ...] | None = None  # start of each frame and end of the last, in seconds;
    #                                         None if evenly spaced
    notes: tuple[str, ...] = ()  # warnings found when opening
    decoding: Decoding = field(default_factory=Decoding, compare=False)  # problems of decoding

    def begins(self, index: int, fps: float = 1.0) -> float:
        """Start of a frame in seconds after the first; ``fps`` is the rate of a list of frames."""
        return self.times[index] if self.times else index / (self.rate or fps)

    def shown_instead(self, indices: Int[Array, "F"]) -> Int[Array, "F"]:
        """Convert indices that assume even timing to the frames shown at those instants.

        Evenly spaced frames keep their indices. The first and the last index always give the first
        and the last frame. A long frame covers several instants and is then used several times.
        """
        if not self.times or self.total < 2:
            return indices
        instants = indices * (self.times[-1] / (self.total - 1)) + ROUNDING
        return np.searchsorted(np.array(self.times[1:-1]), instants, side="right")

    def cut_to(self, held: int) -> VideoSource:
        """The source truncated to its first ``held`` frames, if the others are missing."""
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
    """A source whose frames start at ``starts`` (seconds, rising from 0) and end at ``end``.

    The timing counts as even if no frame is more than half a mean duration off an even pace.
    Raises UserError for implausible time stamps.
    """
    mean = end / len(starts)
    if not 1e-6 <= mean <= 1e6:
        raise UserError(f"{name}: time stamps of {float(mean):.3g} s per frame are implausible")
    rate, begins = float(1 / mean), np.array([float(start) for start in starts])
    off = float(np.max(np.abs(begins - float(mean) * np.arange(len(begins)))))
    if off <= mean / 2:
        return VideoSource(name, len(starts), rate, frames, **more)  # type: ignore[arg-type]
    times = (*begins.tolist(), float(end))
    lasts = 1000 * np.diff(times)
    uneven = (
        f"frames last {lasts.min():.4g} to {lasts.max():.4g} ms; with the mean of "
        f"{float(mean) * 1000:.0f} ms for each, times would be off by {off:.2g} s"
    )
    return VideoSource(name, len(starts), rate, frames, uneven, times, **more)  # type: ignore[arg-type]


def declared_rate(
    starts: Sequence[Fraction], end: Fraction | None, rates: Sequence[Fraction | None], tick: float
) -> Fraction | None:
    """The first rate declared by the header that the time stamps confirm, or None.

    Time stamps are rounded to a ``tick`` of the container or a millisecond; a larger deviation
    from an even pace rejects the rate. A declared rate is exact, and the reference
    implementations use it.
    """
    begins, allowed = np.array([float(start) for start in starts]), max(2 * tick, ROUNDING)
    for rate in rates:
        if not rate or not 0 < rate < math.inf:
            continue
        off = np.max(np.abs(begins - np.arange(len(begins)) / float(rate)))
        if off <= allowed and (end is None or abs(len(starts) / rate - end) <= allowed):
            return Fraction(rate)
    return None
