"""Print a comparison on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..cli import one_line
from .diff import Comparison, Verdict

COLOURS = {"equal": "32", "agrees": "32", "differs": "31", "shape": "31", "not finite": "31",
           "missing": "2", "not judged": "33", "not that stage": "33"}  # fmt: skip
UNSURE = ("not judged", "not that stage")
SHOWN = 40  # rows, unless all are asked for
MISNAMED = 5  # stages under a wrong name that the conclusion lists
AROUND = 3  # agreeing stages shown before and after a wrong one
HEAD = (
    f"{'stage':44} {'verdict':10} {'NMSE':>8} {'1-cos':>8} {'max/std':>8} {'Pearson':>8} {'ULP':>7}"
)


def as_text(comparison: Comparison, colour: bool = False, everything: bool = False) -> str:
    """The table, the first wrong stage, and what explains it."""
    lines = [HEAD, *_rows(comparison, colour, everything), ""]
    lines += [f"note: {one_line(note)}" for note in comparison.notes]
    if comparison.extra:
        some = ", ".join(one_line(name, 80) for name in comparison.extra[:5])
        count = len(comparison.extra)
        lines.append(
            f"note: {count} stages or calls of the candidate are not in the reference: {some}"
        )
    lines += [*conclusion(comparison), *explanation(comparison)]
    return "\n".join(lines) + "\n"


def _rows(comparison: Comparison, colour: bool, everything: bool) -> Iterator[str]:
    verdicts = comparison.verdicts
    wanted = {i for i in range(len(verdicts)) if everything or len(verdicts) <= SHOWN}
    for i, verdict in enumerate(verdicts):
        if verdict.bad or verdict.verdict in UNSURE:
            wanted |= set(range(i - AROUND, i + 2))
            if len(wanted) > SHOWN and not everything:
                break
    skipped: list[Verdict] = []
    for i, verdict in enumerate(verdicts):
        if i in wanted:
            yield from _summary(skipped)
            skipped = []
            yield row(verdict, colour)
        else:
            skipped.append(verdict)
    yield from _summary(skipped)


def _summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """One line for stages that are not shown."""
    if verdicts:
        counts = {v.verdict: 0 for v in verdicts}
        for verdict in verdicts:
            counts[verdict.verdict] += 1
        summary = ", ".join(f"{count} {word}" for word, count in counts.items())
        yield f"  ... {len(verdicts)} stages: {summary}"


def row(verdict: Verdict, colour: bool) -> str:
    """One line of the table."""
    word = f"{verdict.verdict:10}"
    if colour:
        word = f"\x1b[{COLOURS[verdict.verdict]}m{word}\x1b[0m"
    name = one_line(verdict.name)
    far = verdict.distance
    if far is None:
        return f"{name:44} {word} {verdict.note}".rstrip()
    numbers = f"{far.nmse:8.1e} {far.cosine_error:8.1e} {far.max_error:8.1e} {far.pearson:8.5f}"
    return f"{name:44} {word} {numbers} {far.ulp:7.3g} {verdict.note}".rstrip()


def conclusion(comparison: Comparison) -> Iterator[str]:
    """How many stages differ, and the first one, or the two stages around it."""
    compared, first, between = comparison.compared, comparison.first, comparison.between
    known = len(comparison.verdicts)
    others = [v for v in compared if v.verdict == "not that stage"]
    for verdict in others[:MISNAMED]:
        yield f"{one_line(verdict.name)}: {one_line(verdict.note, 400)}"
    if len(others) > MISNAMED:
        yield f"... and {len(others) - MISNAMED} more names that are not that stage"
    if first is None or between is None:
        unjudged = sum(v.verdict == "not judged" for v in compared)
        agreeing = len(compared) - unjudged - len(others)
        agree = f"all {agreeing} stages agree (of {known} in the reference)"
        yield agree + (f"; {unjudged} cannot be judged in {comparison.precision}" * bool(unjudged))
        return
    wrong = sum(v.bad for v in compared)
    yield f"{wrong} of {len(compared)} stages differ (of {known} in the reference)"
    name = one_line(first.name)
    if first.verdict == "differs" and first.distance is not None and first.band is not None:
        which, value, allowed = max(
            zip(("NMSE", "1-cos", "max/std"), first.distance[:3], first.band, strict=True),
            key=lambda line: line[1] / max(line[2], 1e-300),
        )
        over = value / max(allowed, 1e-300)
        yield (
            f"first: {name}, {which} {value:.1e}: {over:.3g} times its tolerance in "
            f"{comparison.precision}"
        )
    else:
        yield f"first: {name}: {one_line(first.note or first.verdict)}"
    last, _ = between
    skipped = _skipped(comparison, last, first)
    if last is not None and skipped:
        between_them = f"{one_line(last)} and {name} ({skipped} stages not given)"
        yield f"the first difference lies between {between_them}"


def _skipped(comparison: Comparison, last: str | None, first: Verdict) -> int:
    """How many stages between the two the candidate does not hold."""
    start = next((v.sequence for v in comparison.verdicts if v.name == last), -1)
    return sum(
        v.verdict == "missing" and start < v.sequence < first.sequence for v in comparison.verdicts
    )


def explanation(comparison: Comparison) -> Iterator[str]:
    """One line for each bug that explains it, one for each diagnosis; or that there is none."""
    yield from reasons(comparison.explanation)
    for line in comparison.diagnosis:
        yield f"diagnosis: {one_line(line['what'], 400)}"
    if comparison.searched and not comparison.explanation:
        yield f"no known bug explains it (tried: {comparison.searched})"


def reasons(explanation: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each bug of an explanation."""
    for line in explanation:
        seen = f" ({line['report']})" if line["report"] else ""
        what = "" if line["what"] in line["mutant"] else f" {line['what']}{seen}"
        also = f" together with {line['with']}" if line.get("with") else ""
        share = f"[{percent(line['score'])}]"
        yield f"explained by {line['mutant']}{also} {share}:{what}".rstrip(":")


def percent(score: float) -> str:
    """100% only if nothing is left to explain."""
    return f"{min(round(100 * score), 99 if score < 1 else 100)}%"
