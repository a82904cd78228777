"""The harness that asks other programs; the example in JavaScript."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from scripts.vectors.cases import CASES
from tinyqwenvl import UserError
from tinyqwenvl.oracle import vectors
from tinyqwenvl.oracle.harness import Failure, Report, first_difference, harness, report_text
from tinyqwenvl.oracle.vectors import FAMILIES, FOLDER, judge

BY_ID = {case["id"]: case for case in vectors.unit_cases()}
EXAMPLE = FOLDER.parent / "example.mjs"

# ------------------------------------------------------------------ the harness

PRELUDE = """
import json, os, sys, time
cases = {c["id"]: c for c in json.load(open(sys.argv[1], encoding="utf-8"))["cases"]}
def right(q):
    c = cases[q["id"]]
    return {"id": q["id"], **({"error": "no"} if "error" in c else {"output": c["output"]})}
def say(a):
    print(json.dumps(a), flush=True)
questions = (json.loads(line) for line in sys.stdin)
"""
FAMILY = "vision_positions"
NAMES = [case["id"] for case in vectors.unit_cases(FAMILY)]


def program(body, family=FAMILY):
    return [sys.executable, "-c", PRELUDE + body, str(FOLDER / "unit" / f"{family}.json")]


def ask(body, **more):
    return harness(program(body), [FAMILY], **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_program(family):
    report = harness(program("for q in questions: say(right(q))", family), [family])
    assert (report.passed, report.failed) == (len(CASES[family]), 0), report_text(report)
    assert not report.notes and not report.failures
    assert report_text(report).endswith(f"{report.passed} passed, 0 failed, 0 skipped")


@pytest.mark.parametrize(
    "body",
    [
        "for q in reversed(list(questions)): say(right(q))",  # after all was asked, last first
        "time.sleep(1)\nfor q in questions: say(right(q))",
        "for q in questions:\n    sys.stderr.write('x' * 100_000 + '\\n')\n    say(right(q))",
        "sys.stdout.write(''.join(json.dumps(right(q)) + '\\n' for q in questions))",
        "for q in questions: say(right(q))\ntime.sleep(60)",
        "for q in questions: say(right(q))\nos._exit(3)",
    ],
)
def test_answers_in_any_order_and_time(body):
    begin = time.monotonic()
    report = ask(body)
    assert (report.passed, report.failed) == (len(NAMES), 0), report_text(report)
    assert time.monotonic() - begin < 30


def test_a_wrong_answer_is_shown_from_where_it_differs():
    """Two long answers with one beginning: not the same 200 characters twice."""
    report = ask("for q in questions:\n    a = right(q)\n    a['output'][-1][1] += 7\n    say(a)")
    right = BY_ID[NAMES[-1]]["output"]
    failure = next(f for f in report.failures if f.id == NAMES[-1])
    assert first_difference(failure.expected, failure.got) == (
        f"[{len(right) - 1}][1]", right[-1][1], right[-1][1] + 7
    )  # fmt: skip
    text = report_text(Report(report.families, [failure]))
    assert f"first difference at [{len(right) - 1}][1]\n    expected {right[-1][1]}\n" in text


@pytest.mark.parametrize(
    ("expected", "got", "where"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, ("a[1]", 2, 3)),
        ({"a": 1}, {"b": 1}, ("a", 1, None)),
        ({"a": 1}, {"a": 1, "b": 2}, ("b", None, 2)),
        ([1, 2], [1, 2, 3], ("[2]", [], [3])),
        ("one two", "one six", ("[4]", "two", "six")),
        ("one", "one two", ("[3]", "", " two")),
        ({"a": 1}, [1], ("", {"a": 1}, [1])),
        (1, None, ("", 1, None)),
        ({"a": {"b": [[0], [1.5]]}}, {"a": {"b": [[0], [2.5]]}}, ("a.b[1][0]", 1.5, 2.5)),
    ],
)
def test_the_first_difference(expected, got, where):
    assert first_difference(expected, got) == where


def answer_to(name, change):
    case = BY_ID[f"mrope_positions/{name}"]
    rows = [list(row) for row in case["output"]["position_ids"]]
    return case, change(rows, case["input"]["attention_mask"], case["output"]["rope_delta"])


@pytest.mark.parametrize(
    "name", ["left-padded-picture", "left-padded-clip", "right-padded-picture"]
)
@pytest.mark.parametrize("padding", [0, 1, -1, 999])
@pytest.mark.parametrize("padded", [False, True])
def test_padding_may_be_anything_and_the_delta_may_count_it(name, padding, padded):
    """As docs/vectors.md promises."""

    def change(rows, mask, delta):
        rows = [[p if m else padding for p, m in zip(row, mask, strict=True)] for row in rows]
        return {"position_ids": rows, "rope_delta": delta - padded * mask.count(0)}

    case, output = answer_to(name, change)
    assert judge(case, output)
    assert not judge(case, {**output, "rope_delta": output["rope_delta"] + 1})
    real = case["input"]["attention_mask"].index(1)
    output["position_ids"][1][real + 2] += 1
    assert not judge(case, output)


def test_text_alone_may_have_one_row_of_positions():
    case, one = answer_to(
        "text", lambda rows, _, delta: {"position_ids": rows[:1], "rope_delta": delta}
    )
    assert judge(case, one) and judge(case, {**one, "position_ids": one["position_ids"][0]})
    one["position_ids"][0][3] += 1
    assert not judge(case, one)
    case, one = answer_to(
        "picture", lambda rows, _, delta: {"position_ids": rows[:1], "rope_delta": delta}
    )
    assert not judge(case, one)
    for odd in ({"position_ids": [], "rope_delta": 0}, {"position_ids": [[]] * 3}, {}, [], None, 5):
        assert not judge(case, odd)


def test_lines_that_are_no_answers():
    noise = """
    print("reading", q["id"])
    for line in (b"\\xff\\xfe\\n", b"[1]\\n", b'{"id": 5}\\n', b'{"id": []}\\n', b"\\n",
                 b"[" * 100_000 + b"\\n",
                 b'{"id": "nobody/asked", "output": 1}\\n', b"NaN\\n"):
        sys.stdout.flush(); sys.stdout.buffer.write(line); sys.stdout.buffer.flush()
    say(right(q)); say(right(q)); say({"id": q["id"], "output": 0})
"""
    report = ask("for q in questions:" + noise)
    assert (report.passed, report.failed) == (len(NAMES), 0), report_text(report)
    assert len(report.notes) == 2
    assert "note: lines on stdout that are not answers" in report_text(report)


def test_a_wrong_program():
    report = ask("for q in questions: say({**right(q), 'output': [[0, 0]]})")
    assert (report.passed, report.failed) == (0, len(NAMES))
    first = report.failures[0]
    case = BY_ID[NAMES[0]]
    assert first == Failure(NAMES[0], case["pins"], case["output"], [[0, 0]])
    text = report_text(report)
    assert f"{NAMES[0]}: {case['pins']}\n    first difference at [1]\n" in text
    assert "got      []" in text  # nothing there


def test_the_time_is_for_each_answer_not_for_all():
    report = ask("for q in questions: time.sleep(0.4); say(right(q))", timeout=3)
    assert (report.passed, report.failed) == (len(NAMES), 0), report_text(report)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"error": "I\ncannot"}, "an error: I cannot"),
        ({"error": ""}, "an error:"),
        ({}, "an answer without output, error or skip"),
        ({"skip": False}, "an answer without output, error or skip"),
        ({"output": None}, "null"),
        ({"output": "\ud800" * 1000}, "(1002 characters)"),
    ],
)
def test_other_answers(reply, told):
    report = ask(f"for q in questions: say({{'id': q['id'], **{reply!r}}})")
    assert report.failed == len(NAMES)
    assert told in report_text(report)
    report_text(report).encode()


def test_errors_are_right_where_the_input_is_wrong():
    body = "for q in questions: say({'id': q['id'], 'error': 'no'})"
    report = harness(program(body, "smart_resize"), ["smart_resize"])
    refused = [c for c in vectors.unit_cases("smart_resize") if judge(c, UserError("no"))]
    assert report.passed == len(refused) >= 3


def test_a_program_that_skips_all_has_passed_nothing():
    report = ask("for q in questions: say({'id': q['id'], 'skip': True})")
    assert (report.passed, report.failed, report.skipped) == (0, 0, len(NAMES))
    assert report_text(report).endswith("nothing was tested: every case was skipped")


def test_a_program_that_dies_at_one_question():
    body = f"""
for q in questions:
    if q["id"] == {NAMES[4]!r}:
        sys.stderr.write("Traceback\\nout of range\\n"); sys.stderr.flush(); os._exit(7)
    say(right(q))
"""
    report = ask(body)
    assert (report.passed, report.failed) == (len(NAMES) - 1, 1)
    assert report.failures[0].id == NAMES[4]
    assert report.failures[0].trouble == "the program ended with code 7: out of range"


def test_a_program_that_hangs_at_one_question():
    body = f"""
for q in questions:
    if q["id"] == {NAMES[4]!r}: time.sleep(60)
    say(right(q))
"""
    report = ask(body, timeout=2)
    assert (report.passed, report.failed) == (len(NAMES) - 1, 1), report_text(report)
    assert report.failures[0].id == NAMES[4]
    assert report.failures[0].trouble == "no answer in 2 seconds"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise SystemExit(5)", "the program ended with code 5"),
        ("import signal; os.kill(os.getpid(), 9)", "the program ended with code -9"),
        ("time.sleep(60)", "no answer in 0.5 seconds"),
        ("os.close(1); time.sleep(60)", "the program closed its stdout"),
        ("while True: sys.stdout.write('x' * 100_000)", "no answer in 0.5 seconds"),
        ("while True: print('not an answer')", "no answer in 0.5 seconds"),
        ("for q in questions: pass", "the program ended with code 0"),
    ],
)
def test_programs_that_never_answer(body, told, tmp_path):
    """Started three times, not once for each case; and nothing is left running."""
    starts = tmp_path / "starts"
    body = f"open({str(starts)!r}, 'a').write(f'{{os.getpid()}} ')\n" + body
    begin = time.monotonic()
    report = ask(body, timeout=0.5)
    assert (report.passed, report.failed) == (0, len(NAMES))
    assert report.failures[0].trouble == told
    assert report.failures[-1].trouble == f"not asked again: {told}"
    assert time.monotonic() - begin < 30
    if starts.exists():  # a busy machine may not have come so far
        for pid in starts.read_text().split():
            assert not Path(f"/proc/{pid}").exists(), pid


def test_programs_that_cannot_be_started(tmp_path):
    (tmp_path / "plain.txt").write_text("no program")
    for command, told in (
        (["no-such-program-at-all"], "cannot start 'no-such-program-at-all': No such file"),
        ([str(tmp_path / "plain.txt")], "Permission denied"),
        (["a\0b"], "cannot start"),
        ([], "which program"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            harness(command)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no family is called"):
        harness(["true"], ["resize"])
    with pytest.raises(UserError, match="timeout"):
        harness(["true"], timeout=0)


# ------------------------------------------------------------------ the example

node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


@node
def test_the_example_in_javascript():
    report = harness(["node", str(EXAMPLE)])
    known = {"smart_resize", "window_index", "mrope_positions"}
    assert report.failed == 0, report_text(report)
    for family, count in report.families.items():
        asked = len(CASES[family])
        assert (count.passed, count.skipped) == ((asked, 0) if family in known else (0, asked))


@node
@pytest.mark.parametrize(
    ("right", "wrong", "caught"),
    [
        ("roundHalfToEven(height", "Math.round(height", "smart_resize/ties-half-to-even-1"),
        ("order.push(offset + ", "order.push(", "window_index/two-ragged-pictures"),
        (
            "Math.fround(Math.fround(t * Math.fround(seconds)) * perSecond)",
            "t * seconds * perSecond",
            "mrope_positions/clip-float32",
        ),
        ("=> (back[from] = to)", "=> (back[to] = from)", "window_index/ragged"),
        (
            "next = 1 + found.flat().reduce((a, b) => Math.max(a, b))",
            "next += Math.max(grid[1], grid[2]) / 2",
            "mrope_positions/text-after-a-long-video",
        ),
    ],
)
def test_bugs_in_the_example_are_caught(right, wrong, caught, tmp_path):
    text = EXAMPLE.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "example.mjs").write_text(text.replace(right, wrong), encoding="utf-8")
    report = harness(["node", str(tmp_path / "example.mjs")])
    assert caught in {failure.id for failure in report.failures}
