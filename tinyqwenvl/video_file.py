"""Read video files with PyAV (the extra ``video``): time stamps by demuxing, frames one by one.

Opening a file reads its packets and decodes nothing. Frames take the presentation time stamps of
their packets, so edit lists, hidden frames and uneven durations have the same effect as in a
player. Decoding continues after damage: the previous frame replaces a frame that cannot be
decoded, as in players, and all other frames keep their times.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import Any, NamedTuple

from PIL import Image

from .errors import UserError
from .image import MAX_IMAGE_PIXELS
from .media_source import head_of
from .video_time import Decoding, VideoSource, declared_rate, timed

COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: the cover image of an audio file
DISCONTINUOUS = ("mpegts", "mpeg")  # formats whose files may be joined by concatenation
JUMP = 10  # seconds between two packets that FFmpeg treats as a new time base
LATE = 0.05  # seconds by which a header's duration may be off without truncation
QUARTER_TURNS = {  # signs of a display matrix (a, b, c, d) -> transpose that makes it upright
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,  # Pillow rotates counterclockwise
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Packet(NamedTuple):
    """The time stamps of one video packet, in ticks of the stream's time base."""

    pts: int | None  # when its frame is shown; None if unknown
    dts: int | None  # when it is decoded; None if unknown
    duration: int  # of its frame; 0 if unknown
    shown: bool  # False if an edit list hides it


class Timing(NamedTuple):
    """When the frames of a stream are shown, in ticks from the first of them."""

    starts: list[int]  # of each frame, in the order shown
    last: int  # duration of the last frame; 0 if unknown
    stamps: list[int] | None  # the frames' own time stamps; None if only their order is known
    untimed: bool = False  # the stream has no time stamps


def read_file(path: str) -> VideoSource:
    """Open a video file without decoding it. Raises UserError, in one line."""
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path} is not an animation that Pillow can read; for other videos pip install av, "
            "or give a folder of frames"
        ) from None
    if head_of(path)[4:8] in (b"ftyp", b"wide", b"mdat") and b"moov" not in _boxes(path):
        raise UserError(
            f"{path} is truncated: its index (moov), which may stand at the end of the file, is "
            "missing; fetch it again"
        )
    try:
        with _opened(path) as container:
            stream = _video_stream(container, path)
            packets, notes = list(_packets(container, stream)), []
            if (across := stream.sample_aspect_ratio) not in (None, 0, 1):
                notes.append(
                    f"its pixels are not square ({across.numerator}:{across.denominator}); frames "
                    "are used as stored"
                )
            rates = (stream.average_rate, stream.guessed_rate)
            tick = Fraction(stream.time_base or Fraction(1, 90_000))
            form = container.format.name
            seconds = _duration(container, stream)
    except UserError:
        raise
    except (av.FFmpegError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise _not_read(path, error) from None
    if not (timing := _timing(packets, form, tick)):
        raise UserError(f"{path} has no frames; a video needs at least one")
    starts, end = _in_seconds(path, timing, rates, tick, seconds)
    mean = float(end) / len(starts)
    if timing.untimed:
        notes.append(f"it has no time stamps; {1 / mean:g} frames per second are assumed")
    elif seconds - float(end) > 1.5 * mean + LATE:
        notes.append(
            f"its header says {seconds:.3g} s, but its frames end after {float(end):.3g} s"
        )
    decoding = Decoding()

    def frames() -> Iterator[Image.Image]:
        decoding.clear()
        return _frames(path, timing, decoding)

    return timed(path, starts, end, frames, notes=tuple(notes), decoding=decoding)


def _not_read(path: str, error: Exception) -> UserError:
    """The error for a file that cannot be opened, without FFmpeg's own numbers and quotes."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return UserError(f"{path} is not a readable video: {reason}")


def _boxes(path: str) -> set[bytes]:
    """The names of the complete top-level boxes of an MP4 or QuickTime file."""
    found, at, end = set(), 0, os.path.getsize(path)
    with open(path, "rb") as file:
        for _ in range(1000):  # more than any file has; each box declares its size
            file.seek(at)
            head = file.read(16)
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:16], "big") if size == 1 else size or end - at
            if size < 8 or at + size > end:
                break
            found.add(head[4:8])
            at += size
    return found


# ------------------------------------------------------------------ timing, without decoding


def _opened(path: str) -> Any:
    """Open a PyAV container, whatever the encoding of its metadata.

    FFmpeg does not recognise a transport stream of only a few packets.
    """
    import av

    try:
        return av.open(path, metadata_errors="replace")
    except av.FFmpegError:
        if os.path.splitext(path)[1].lower() in (".ts", ".mts", ".m2ts"):
            return av.open(path, format="mpegts", metadata_errors="replace")
        raise


def _video_stream(container: Any, path: str) -> Any:
    """The stream that a player shows: FFmpeg's best stream, never a cover image."""
    streams = container.streams.video
    moving = [stream for stream in streams if not _is_cover(stream)]
    if streams and not moving:
        raise UserError(f"{path} has a cover image but no video")
    best = container.streams.best("video")
    stream = best if best in moving else next(iter(moving), None)
    if stream is None or stream.codec_context is None:
        raise UserError(f"{path} has no video stream that can be decoded")
    if stream.width * stream.height > MAX_IMAGE_PIXELS:
        raise UserError(f"{path} has frames of over {MAX_IMAGE_PIXELS:,} pixels")
    return stream


def _is_cover(stream: Any) -> bool:
    """Whether a stream is one attached image. PyAV 13 has no dispositions: check the rate."""
    if (disposition := getattr(stream, "disposition", None)) is not None:
        return bool(disposition & COVER)
    return not stream.average_rate and stream.codec_context.name in ("mjpeg", "png")


def _packets(container: Any, stream: Any) -> Iterator[Packet]:
    """All non-empty packets of a stream, up to where the file is truncated."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size:
            shown = not packet.is_discard
            yield Packet(packet.pts, packet.dts, packet.duration or 0, shown)


def _timing(packets: list[Packet], form: str, tick: Fraction) -> Timing | None:
    """When the frames of these packets are shown; None if there are none.

    AVI stores only decoding times; they have the order of the frames. If the stream restarts its
    time (concatenated recordings), the new part continues where the last one ended.
    """
    shown = [packet for packet in packets if packet.shown]
    if not shown:
        return None
    own = form != "avi" and all(packet.pts is not None for packet in shown)
    if not own and any(packet.dts is None for packet in shown):
        each = shown[0].duration
        return Timing([each * i for i in range(len(shown))], each, None, untimed=True)
    stamps = [(packet.pts if own else packet.dts) or 0 for packet in shown]
    joined = _joined(stamps, shown, JUMP / tick) if form in DISCONTINUOUS else stamps
    order = sorted(range(len(joined)), key=joined.__getitem__)
    starts = [joined[i] - joined[order[0]] for i in order]
    last = shown[order[-1]].duration
    if last <= 0 and len(starts) > 1:
        last = median_low([b - a for a, b in pairwise(starts)])
    return Timing(starts, max(last, 0), sorted(stamps) if own and joined == stamps else None)


def _joined(stamps: list[int], packets: list[Packet], jump: Fraction) -> list[int]:
    """Make time stamps continuous where the decoding times jump back or far ahead."""
    joined, offset, before, latest = [], 0, None, stamps[0]
    for stamp, packet in zip(stamps, packets, strict=True):
        if packet.dts is not None:
            if before is not None and not 0 <= packet.dts - before <= jump:
                step = (latest - joined[0]) // max(len(joined) - 1, 1)
                offset = latest + max(packet.duration, step, 1) - stamp
            before = packet.dts
        joined.append(stamp + offset)
        latest = max(latest, joined[-1])
    return joined


def _in_seconds(
    path: str, timing: Timing, rates: tuple[Any, ...], tick: Fraction, seconds: float
) -> tuple[list[Fraction], Fraction]:
    """Seconds at which the frames start, and at which the last one ends.

    The rate that the header declares is used if the time stamps confirm it, or if there are none.
    A single frame without a duration lasts the ``seconds`` of the header, or 0.1.
    """
    starts, count = [start * tick for start in timing.starts], len(timing.starts)
    known = starts[-1] + timing.last * tick if timing.last > 0 else None
    timed_frames = count > 1 and not timing.untimed
    if timed_frames and (rate := declared_rate(starts, known, rates, float(tick))):
        return starts, count / rate
    if known is not None:
        return starts, known
    if count == 1:
        return starts, Fraction(seconds) if seconds > 0 else Fraction(1, 10)
    rate = next((Fraction(rate) for rate in reversed(rates) if rate and rate > 0), None)
    if rate is None:
        raise UserError(f"{path} has no frame times; give its frames as a list")
    return [index / rate for index in range(count)], count / rate


def _duration(container: Any, stream: Any) -> float:
    """Seconds from the first frame to the end, from the header; 0 if unknown.

    If the file has audio too, and one duration for both, the duration of the video is unknown.
    """
    form, late = container.format.name, 0.0
    if stream.start_time is not None and stream.time_base:
        late = float(max(stream.start_time, 0) * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")  # Matroska
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - late
    except (KeyError, ValueError):
        pass
    if form in DISCONTINUOUS:
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 - late if len(container.streams) == 1 else 0.0


# ------------------------------------------------------------------ frames


def _frames(path: str, timing: Timing, decoding: Decoding) -> Iterator[Image.Image]:
    """The frames shown, upright, in order; the previous frame replaces a lost one."""
    stamps, failed, missing, last = timing.stamps, 0, 0, None
    for frame in _decoded(path):
        if decoding.shown == len(timing.starts):
            return
        if frame is None:
            failed, missing = failed + 1, missing + (not stamps)
            continue
        if stamps and frame.pts is not None:
            if frame.pts < stamps[decoding.shown]:
                continue  # its time has passed
            at = bisect.bisect_left(stamps, frame.pts, decoding.shown)
            there = at < len(stamps) and stamps[at] == frame.pts
            missing = at - decoding.shown if there else 0
        missing = min(missing, len(timing.starts) - decoding.shown - 1)
        image = _image(path, frame, decoding)
        for _ in range(missing):
            decoding.skip(refused=bool(failed) or last is None)
            yield last or image
        last, missing = image, 0
        decoding.shown += 1
        yield image
    if failed and not decoding.shown:
        raise UserError(f"{path} is truncated or damaged: none of its frames can be decoded")


def _decoded(path: str) -> Iterator[Any]:
    """The frames in the order of decoding; None for a packet that the decoder rejects."""
    import av

    try:
        with _opened(path) as container:
            stream = _video_stream(container, path)
            packets = container.demux(stream)
            ended = False
            while not ended:
                try:
                    packet = next(packets, None)
                except av.FFmpegError:
                    packet = None
                if packet is not None and not packet.size and packet.dts is not None:
                    continue  # AVI: repeats the previous frame; a decoder would take it as the end
                ended = packet is None or not packet.size
                try:
                    yield from stream.codec_context.decode(None if ended else packet)
                except (av.FFmpegError, ValueError):
                    yield None
    except UserError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from None


def _image(path: str, frame: Any, decoding: Decoding) -> Image.Image:
    """The frame in RGB, rotated and mirrored by the display matrix."""
    if frame.width * frame.height > MAX_IMAGE_PIXELS:
        raise UserError(f"{path} has frames of over {MAX_IMAGE_PIXELS:,} pixels")
    decoding.corrupt += bool(frame.is_corrupt)
    image = frame.to_image()
    matrix = next((bytes(s) for s in frame.side_data if s.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return image
    values = [int.from_bytes(matrix[i : i + 4], "little", signed=True) for i in (0, 4, 12, 16)]
    most = max(map(abs, values)) or 1
    signs = tuple(round(value / most) for value in values)
    if signs not in QUARTER_TURNS or any(
        abs(value / most - sign) > 0.02 for value, sign in zip(values, signs, strict=True)
    ):
        decoding.note("its rotation is not a multiple of 90 degrees; frames are used as stored")
        return image
    rotation = QUARTER_TURNS[signs]
    return image if rotation is None else image.transpose(rotation)
