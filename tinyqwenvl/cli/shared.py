"""Code that all commands share: one-line errors, exit codes, notes, atomic file output."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError

BAD_INPUT, INTERRUPTED = 2, 130
_noted: list[str] = []  # by the current command


class Parser(argparse.ArgumentParser):
    """argparse with a hand-written help text and one-line errors."""

    def __init__(self, prog: str, text: str):
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)
        self.text = text
        self.add_argument("-h", "--help", action="help")
        self.add_argument("--version", action="version", version=f"tinyqwenvl {version()}")

    def format_help(self) -> str:
        """The hand-written help text."""
        return self.text

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UserError(
            f"{one_line(message, 300)}; see --help (a text that begins with a dash: "
            "--option=-text, or a prompt after --)"
        )


def version() -> str:
    """The version of the package."""
    from .. import __version__

    return __version__


def note(message: Any) -> None:
    """Print a note on stderr, and keep it for :func:`noted`."""
    _noted.append(one_line(message))
    with contextlib.suppress(OSError):
        print(f"note: {one_line(message)}", file=sys.stderr, flush=True)


def noted() -> list[str]:
    """The notes of the current command so far."""
    return list(_noted)


def write_text(path: str, text: str) -> None:
    """Write a text file atomically; ``-`` is stdout. Raises UserError if that fails."""
    if path == "-":
        print(text, end="")
    else:
        write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, data: bytes) -> None:
    """Write a file atomically. Raises UserError if that fails."""
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
    """Run a command; an error becomes one line on stderr and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as we run)
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # characters that the terminal cannot show
    _noted.clear()
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
    except BrokenPipeError:  # the reader of the output closed the pipe
        _discard_output()
        return 0
    except MemoryError:
        complain("not enough memory; try a smaller --max-pixels")
    except OSError as error:
        _discard_output()
        complain(f"{error.filename or 'cannot write the answer'}: {error.strerror}")
    return BAD_INPUT


def complain(error: Any) -> None:
    """Print an error as one line on stderr; an empty line for None."""
    with contextlib.suppress(OSError):
        print("" if error is None else f"error: {one_line(error)}", file=sys.stderr, flush=True)


def one_line(message: Any, most: int = 500) -> str:
    """A message without line breaks and terminal escapes, and of bounded length."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message))
    return text if len(text) <= most else text[:most] + "..."


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
