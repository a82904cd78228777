"""What the commands share: one line for what is wrong, exit codes, notes, a file written whole."""

from __future__ import annotations

import argparse
import contextlib
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
        raise UserError(
            f"{one_line(message, 300)}; see --help (a text that begins with a dash: "
            "--option=-text, or a prompt after --)"
        )


def version() -> str:
    """The version of the package."""
    from . import __version__

    return __version__


def note(message: Any) -> None:
    """A line for people, on stderr."""
    with contextlib.suppress(OSError):
        print(f"note: {one_line(message)}", file=sys.stderr, flush=True)


MOST_TEXT, MOST_IMAGE = 1_000_000, 1_000_000_000  # bytes on stdin
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
            note(f"nothing came on stdin for {PATIENCE:g} s; going on without it")
            return ""
        while not self.end.wait(0.1):  # a wait without end could not be interrupted everywhere
            pass
        if len(self.data) > MOST_TEXT:
            raise UserError(f"more than {MOST_TEXT:,} bytes of text on stdin; send less")
        try:
            text = self.data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError("what came on stdin is not text; give - for an image") from None
        return text if text.strip() else ""


def _stdin_is_piped() -> bool:
    """Whether stdin is a pipe, a socket or a file, as opposed to a terminal or nothing."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def image_on_stdin() -> bytes:
    """The bytes of an image on stdin. Raises UserError when nothing comes."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("- is an image on stdin; send one: ... - < photo.jpg")
    data = sys.stdin.buffer.read(MOST_IMAGE)
    if not data:
        raise UserError("no image came on stdin; - may be given once")
    return data


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all; ``-`` is stdout. Raises UserError when it cannot be."""
    if path == "-":
        print(text, end="")
    else:
        write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, data: bytes) -> None:
    """Write a file whole or not at all. Raises UserError when it cannot be."""
    try:
        target = Path(path).resolve()
        if not path or (target.exists() and not target.is_file()):
            raise UserError(f"cannot write {path!r}: it is not a file; give another name")
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from None


def command(run: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    """Run a command; what goes wrong becomes a line on stderr and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as we run)
        stream = getattr(sys, name)
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
        complain(error)
    except KeyboardInterrupt:
        complain(None)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our answer went away
        _discard_output()
        return 0
    except MemoryError:
        complain("not enough memory; try a smaller --max-pixels")
    except OSError as error:
        _discard_output()
        complain(f"{error.filename or 'cannot write the answer'}: {error.strerror}")
    return BAD_INPUT


def complain(error: Any) -> None:
    """One line on stderr that says what is wrong; an empty one for None."""
    with contextlib.suppress(OSError):
        print("" if error is None else f"error: {one_line(error)}", file=sys.stderr, flush=True)


def one_line(message: Any, most: int = 500) -> str:
    """A message without line ends, terminal escapes and the like, and of bounded length."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message))
    return text if len(text) <= most else text[:most] + "..."


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
