"""Run the unit vectors against another program, in JSON lines over its stdin and stdout.

One question per line: ``{"id": ..., "family": ..., "input": ...}``; one answer per line, in any
order: ``{"id": ..., "output": ...}``, ``{"id": ..., "error": "why it is refused"}`` or
``{"id": ..., "skip": true}``. Stdin is closed after the last question. ``docs/vectors.md`` shows
how to write such a program.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ..errors import UserError
from .vectors import FAMILIES, Case, equal, family_of, judge, unit_cases

TIMEOUT = 10.0  # seconds to wait for the next answer
GIVE_UP = 3  # starts in a row without one answer
LONGEST_LINE = 10_000_000  # bytes
SHOWN = 200  # characters of a value in a report
FAILURES_SHOWN = 20


# ------------------------------------------------------------------ what comes of it


@dataclass(frozen=True)
class Failure:
    """A case that was answered wrongly, or not at all."""

    id: str
    pins: str
    expected: Any  # the output; None where it must be an error
    got: Any  # the output; None where there is none
    trouble: str = ""  # what was there instead: an error, or silence


@dataclass
class Count:
    """How the cases of a family went."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass
class Report:
    """The results of all cases."""

    families: dict[str, Count] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what else the program did, one line each
    answers: dict[str, Any] = field(default_factory=dict)  # id -> output, or an exception

    @property
    def passed(self) -> int:
        """Cases answered rightly."""
        return sum(count.passed for count in self.families.values())

    @property
    def failed(self) -> int:
        """Cases answered wrongly, or not at all."""
        return sum(count.failed for count in self.families.values())

    @property
    def skipped(self) -> int:
        """Cases that the program does not answer."""
        return sum(count.skipped for count in self.families.values())

    def note(self, line: str) -> None:
        """Add a note, once."""
        if line not in self.notes:
            self.notes.append(line)


def report_text(report: Report) -> str:
    """The report as text."""
    wide = max(map(len, report.families), default=0)
    lines = []
    for failure in report.failures[:FAILURES_SHOWN]:
        lines.append(f"{failure.id}: {failure.pins}")
        lines += [f"    {line}" for line in _both(failure)]
    if more := len(report.failures) - FAILURES_SHOWN:
        lines += [f"... and {more} more"] if more > 0 else []
    for family, count in report.families.items():
        numbers = f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped"
        lines.append(f"{family:{wide}}  {numbers}")
    lines += [f"note: {note}" for note in report.notes]
    if not report.passed + report.failed:
        lines.append("nothing was tested: every case was skipped")
    else:
        lines.append(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return "\n".join(lines)


def _both(failure: Failure) -> list[str]:
    """The expected and the given value; long values from their first difference on."""
    if failure.expected is None or failure.trouble:
        expected = "an error" if failure.expected is None else _brief(failure.expected)
        return [f"expected {expected}", f"got      {failure.trouble or _brief(failure.got)}"]
    where, expected, got = first_difference(failure.expected, failure.got)
    lines = [f"expected {_brief(expected)}", f"got      {_brief(got)}"]
    return [f"first difference at {where}", *lines] if where else lines


def first_difference(expected: Any, got: Any, where: str = "") -> tuple[str, Any, Any]:
    """(path, value there, value there) of the first difference of two JSON values.

    Of texts the path has the index of the character, and the values begin there. A path of "" is
    the whole.
    """
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in expected:
            if name not in got:
                return _inside(where, name), expected[name], None
            if not equal(expected[name], got[name]):
                return first_difference(expected[name], got[name], _inside(where, name))
        extra = next((name for name in got if name not in expected), None)
        return (
            (where, expected, got) if extra is None else (_inside(where, extra), None, got[extra])
        )
    if isinstance(expected, (list, str)) and type(expected) is type(got):
        pairs = enumerate(zip(expected, got, strict=False))
        same = min(len(expected), len(got))
        i = next((i for i, (a, b) in pairs if not equal(a, b)), same)
        if i == same and len(expected) == len(got):
            return where, expected, got
        path = f"{where}[{i}]"
        if isinstance(expected, str) or i == same:
            return path, expected[i:], got[i:]
        return first_difference(expected[i], got[i], path)
    return where, expected, got


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else str(name)


def _brief(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    """One line of another program's output."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


# ------------------------------------------------------------------ asking


def harness(
    command: Sequence[str], families: Sequence[str] | None = None, timeout: float = TIMEOUT
) -> Report:
    """Start a program, ask it the cases of these families (default all), and judge its answers.

    A program that ends, or gives no answer for ``timeout`` seconds, has failed the first case that
    it left unanswered, and is started again for the rest; after three such starts without a single
    answer the rest has failed too. Raises UserError when the program cannot be started.
    """
    if not timeout > 0:
        raise UserError(f"a timeout of {timeout!r} seconds; it must be greater than 0")
    cases = [case for family in families or FAMILIES for case in unit_cases(family)]
    report = Report({family_of(case): Count() for case in cases})
    waiting = {case["id"]: case for case in cases}
    fruitless = 0
    while waiting:
        before = len(waiting)
        trouble = _ask(command, waiting, timeout, report)
        if not waiting:
            break
        fruitless = fruitless + 1 if len(waiting) == before else 0
        _fail(report, waiting.pop(next(iter(waiting))), trouble)
        if fruitless >= GIVE_UP:
            for case in waiting.values():
                _fail(report, case, f"not asked again: {trouble}")
            break
    return report


def _ask(command: Sequence[str], waiting: dict[str, Case], timeout: float, report: Report) -> str:
    """Ask the pending cases and remove the answered ones. Returns the error if any remain."""
    process = _start(command)
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=10)
    errors: list[str] = []
    stop = threading.Event()
    _thread(_write, process.stdin, _questions(waiting))
    _thread(_read, process.stdout, lines, stop)
    listening = _thread(_read_errors, process.stderr, errors)
    deadline = time.monotonic() + timeout
    trouble = f"no answer in {timeout:g} seconds"
    try:
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                line = lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                listening.join(1)
                trouble = _ended(process, errors)
                break
            if _take(line, waiting, report):
                deadline = time.monotonic() + timeout
    finally:
        stop.set()
        _end(process)
    return trouble


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    if not command:
        raise UserError("which program? give a command, such as: node example.mjs")
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot start {command[0]!r}: {reason}") from None


def _questions(waiting: dict[str, Case]) -> bytes:
    """All lines at once; a program takes them one by one."""
    lines = [
        json.dumps({"id": name, "family": family_of(case), "input": case["input"]}) + "\n"
        for name, case in waiting.items()
    ]
    return "".join(lines).encode()


def _write(stdin: IO[bytes], text: bytes) -> None:
    try:
        stdin.write(text)
        stdin.close()
    except (OSError, ValueError):
        pass  # it has ended, which the reader sees


def _read(stdout: IO[bytes], lines: queue.Queue[bytes | None], stop: threading.Event) -> None:
    """Put lines into the queue, and None at the end; waits while nobody takes them."""
    line: bytes | None = b""
    while line is not None and not stop.is_set():
        line = stdout.readline(LONGEST_LINE) or None
        while not stop.is_set():
            try:
                lines.put(line, timeout=0.1)
                break
            except queue.Full:
                continue
    stdout.close()


def _read_errors(stderr: IO[bytes], errors: list[str]) -> None:
    """Keep the last lines of stderr, for the report."""
    while line := stderr.readline(10_000):
        errors.append(line.decode("utf-8", "replace").strip())
        del errors[:-5]
    stderr.close()


def _ended(process: subprocess.Popen[bytes], errors: list[str]) -> str:
    """How the program ended, in words: its exit code and its last line on stderr."""
    try:
        how = f"the program ended with code {process.wait(1)}"
    except subprocess.TimeoutExpired:
        how = "the program closed its stdout"
    last = next((line for line in reversed(errors) if line), "")
    return f"{how}: {_short(last)}" if last else how


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it has started, and leave no pipe open."""
    try:
        if process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
    except OSError:
        pass  # it has already ended
    process.wait()


# ------------------------------------------------------------------ judging


def _take(line: bytes, waiting: dict[str, Case], report: Report) -> bool:
    """Handle one line of the program; whether it answered a pending case."""
    try:
        answer = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("id"), str):
        if line.strip():
            report.note("lines on stdout that are not answers were ignored")
        return False
    if answer["id"] not in waiting:
        report.note("answers with an unknown id, or given twice, were ignored")
        return False
    case = waiting.pop(answer["id"])
    count = report.families[family_of(case)]
    if answer.get("skip") is True:
        count.skipped += 1
    elif answer.get("error") is not None:
        why = _short(str(answer["error"]))
        report.answers[case["id"]] = UserError(why)
        if judge(case, UserError(why)):
            count.passed += 1
        else:
            _fail(report, case, f"an error: {why}")
    elif "output" not in answer:
        _fail(report, case, "an answer without output, error or skip")
    else:
        report.answers[case["id"]] = answer["output"]
        if judge(case, answer["output"]):
            count.passed += 1
        else:
            _fail(report, case, "", answer["output"])
    return True


def _fail(report: Report, case: Case, trouble: str, got: Any = None) -> None:
    report.families[family_of(case)].failed += 1
    failure = Failure(case["id"], case["pins"], case.get("output"), got, trouble)
    report.failures.append(failure)
