"""What the commands share: one line for what is wrong, exit codes, notes, a file written whole."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError

BAD_INPUT, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """argparse with a help text of our own, and one line for what is wrong."""

    def __init__(self, prog: str, text: str):
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)
        self.text = text
        self.add_argument("-h", "--help", action="help")
        self.add_argument("--version", action="version", version=f"tinyqwenvl {version()}")

    def format_help(self) -> str:
        """The text as it was written."""
        return self.text

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UserError(f"{message}; see --help (after -- a word may begin with a dash)")


def version() -> str:
    """The version of the package."""
    from . import __version__

    return __version__


def note(message: Any) -> None:
    """A line for people, on stderr."""
    print(f"note: {message}", file=sys.stderr, flush=True)


MOST_TEXT, MOST_PICTURE = 1_000_000, 1_000_000_000  # bytes on stdin
PATIENCE = 1.0  # seconds until the first byte of piped text


class Piped:
    """Text that another program sends on stdin, read while the model loads.

    A program that never writes nor closes its end (many leave stdin so) must not stop us: when
    nothing has come after ``PATIENCE`` seconds, nothing is waited for.
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
        """All of it, without the line end at its end. Raises UserError when it is not text."""
        if not self.first.wait(max(0.0, self.began + PATIENCE - time.monotonic())):
            if sys.stderr.isatty():
                note("nothing came on stdin; going on without it")
            return ""
        while not self.end.wait(0.1):  # a wait without end could not be interrupted everywhere
            pass
        if len(self.data) > MOST_TEXT:
            raise UserError(f"more than {MOST_TEXT:,} bytes of text on stdin; send less")
        try:
            return self.data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError("what came on stdin is not text; give - for a picture") from None


def _stdin_is_piped() -> bool:
    """Whether stdin is a pipe, a socket or a file, as opposed to a terminal or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def picture_on_stdin() -> bytes:
    """The bytes of a picture on stdin. Raises UserError when nothing comes."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("- is a picture on stdin; send one: ... - < photo.jpg")
    data = sys.stdin.buffer.read(MOST_PICTURE)
    if not data:
        raise UserError("no picture came on stdin; - may be given once")
    return data


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all. Raises UserError when it cannot be written."""
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from None


def command(run: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    """Run a command; what goes wrong becomes a line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an answer that the terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: note(message)
            code = run(argv) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our answer went away
        _discard_output()
        return 0
    except MemoryError:
        print("error: not enough memory; try a smaller --max-pixels", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        _discard_output()
        print(f"error: {error.filename or 'cannot write the answer'}: {error.strerror}",
              file=sys.stderr)  # fmt: skip
        return BAD_INPUT


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
