"""Read stdin: piped text for the prompt, or the bytes of an image."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time

from ..errors import UserError
from ..media_kinds import HEAD, kind_of
from .shared import note

MOST_TEXT, MOST_IMAGE = 1_000_000, 1_000_000_000  # bytes on stdin
PATIENCE = 1.0  # seconds until the first byte of piped text


class Piped:
    """Piped text on stdin, read while the model loads.

    Some programs leave stdin open and never write to it. Therefore we stop waiting if nothing
    arrives within ``PATIENCE`` seconds.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first, self.end = threading.Event(), threading.Event()
        self.data = b""
        if _stdin_is_piped():
            threading.Thread(target=self._read, daemon=True).start()
        else:
            self.first.set()
            self.end.set()

    def _read(self) -> None:
        try:
            while len(self.data) <= MOST_TEXT and (part := os.read(sys.stdin.fileno(), 65536)):
                self.data += part
                self.first.set()
        except (OSError, ValueError):
            pass
        self.end.set()
        self.first.set()

    def text(self) -> str:
        """The whole text without its final line break. Raises UserError if it is not text."""
        if not self.first.wait(max(0.0, self.began + PATIENCE - time.monotonic())):
            note(f"nothing arrived on stdin for {PATIENCE:g} s; continuing without it")
            return ""
        while not self.end.wait(0.1):  # an unbounded wait cannot be interrupted on every system
            pass
        if len(self.data) > MOST_TEXT:
            raise UserError(f"more than {MOST_TEXT:,} bytes of text on stdin; send less")
        try:
            text = self.data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError("stdin is not text; give - for an image") from None
        return text if text.strip() else ""


def _stdin_is_piped() -> bool:
    """Whether stdin is a pipe, a socket or a file, and not a terminal or closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def is_video(data: bytes) -> bool:
    """Whether the bytes from stdin are a video file."""
    kind = kind_of(data[:HEAD])
    return kind is not None and kind.medium == "video"


def image_on_stdin() -> bytes:
    """The bytes of an image or video on stdin. Raises UserError if there are none."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("- means an image on stdin; redirect one: ... - < photo.jpg")
    data = sys.stdin.buffer.read(MOST_IMAGE)
    if not data:
        raise UserError("stdin has no image; - may be given once")
    return data
