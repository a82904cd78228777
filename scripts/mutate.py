"""Mutation testing: inject one-line bugs into the stage files, and count those the tests catch.

    python -m scripts.mutate --count 100 --seed 15 -o mutants.jsonl

Each fault changes one operator, number, truth value or name of a NumPy function in a copy of the
tree; the tests run there, those of the same stage first, and stop at the first failure. Finished
faults are kept in the output file: the same command goes on where it stopped. What survives is
printed at the end; some of it changes nothing that can be observed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
STAGES = (
    "media", "image", "video", "tokenizer", "chat", "vision", "position", "decoder", "sampling",
    "generate", "nn", "model",
)  # fmt: skip
NEXT = ("test_vectors", "test_goldens", "test_model", "tests/spec", "test_video", "test_run")
NOT_OF_THE_STAGES = ("first_edition", "train_scenes")  # tests of the checkpoint's training
OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*",
    ast.Pow: "*", ast.MatMult: "*", ast.BitAnd: "|", ast.BitOr: "&",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
    ast.And: "or", ast.Or: "and",
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "cos": "sin", "sin": "cos",
    "any": "all", "all": "any", "mean": "sum", "stack": "concatenate", "repeat": "tile",
    "argsort": "argmax", "float32": "float64", "round": "floor", "zeros_like": "ones_like",
}  # fmt: skip


class Fault(NamedTuple):
    """Characters ``begin`` to ``end`` of a line (from 1) of a file, and what stands there now."""

    file: str
    line: int
    begin: int
    end: int
    now: str

    def apply(self, source: str) -> str:
        """The source with the fault."""
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1].encode()  # ast counts bytes
        lines[self.line - 1] = (line[: self.begin] + self.now.encode() + line[self.end :]).decode()
        return "".join(lines)


def faults_of(path: Path) -> list[Fault]:
    """All one-line faults of a file, but for annotations, messages and docstrings."""
    source = path.read_text(encoding="utf-8")
    lines, found = [line.encode() for line in source.splitlines()], []
    name = path.relative_to(ROOT).as_posix()

    def between(left: ast.AST, right: ast.AST, now: str) -> None:
        if left.end_lineno == right.lineno:
            text = lines[right.lineno - 1][left.end_col_offset : right.col_offset].decode()
            operator = text.strip("() ")
            if operator and "#" not in text:
                begin = left.end_col_offset + text.index(operator)
                found.append(Fault(name, right.lineno, begin, begin + len(operator), now))

    def replace(node: ast.AST, now: str) -> None:
        begin, end = node.col_offset, node.end_col_offset
        if isinstance(node, ast.Attribute):
            begin = end - len(node.attr)
        found.append(Fault(name, node.end_lineno, begin, end, now))

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            between(node.left, node.right, OPERATORS[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                between(left, right, OPERATORS[type(node.op)])
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, right, operator in zip(sides, sides[1:], node.ops, strict=False):
                between(left, right, OPERATORS[type(operator)])
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            replace(node, repr(node.value + 1))
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            replace(node, repr(not node.value))
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            replace(node, NAMES[node.attr])
        for field, child in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_params"):
                continue
            for each in child if isinstance(child, list) else [child]:
                if isinstance(each, ast.AST):
                    visit(each)

    visit(ast.parse(source))
    return found


def sample(count: int, seed: int) -> list[Fault]:
    """``count`` faults, each stage file with its share of them."""
    every = [f for stage in STAGES for f in faults_of(ROOT / "tinyqwenvl" / f"{stage}.py")]
    return random.Random(seed).sample(every, count)


def tests_for(fault: Fault) -> list[str]:
    """All test files, those that say most about the fault's stage first."""
    stage = Path(fault.file).stem
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [file for file in files if file.parent.name not in NOT_OF_THE_STAGES]
    names = [file.relative_to(ROOT).as_posix() for file in files]
    order = [n for n in names if f"/test_{stage}" in n]
    order += [n for wanted in NEXT for n in names if wanted in n and n not in order]
    return [*order, *(n for n in names if n not in order)]


def caught(fault: Fault, tree: Path, seconds: float, first: int | None) -> str:
    """How the fault ended in a copy of the tree: "caught", "time" (caught too) or "survived"."""
    file = tree / fault.file
    source = file.read_text(encoding="utf-8")
    file.write_text(fault.apply(source), encoding="utf-8")
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    try:
        ended = subprocess.run(
            [sys.executable, *words, *tests_for(fault)[:first]],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            timeout=seconds,
        )
        return "survived" if ended.returncode == 0 else "caught"
    except subprocess.TimeoutExpired:
        return "time"
    finally:
        file.write_text(source, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=900, help="timeout per bug; a timeout counts as caught"
    )
    parser.add_argument("--first", type=int, help="run only the first N test files")
    parser.add_argument("-o", "--out", type=Path, default=Path("mutants.jsonl"))
    options = parser.parse_args()
    done = {}
    if options.out.exists():
        lines = map(json.loads, options.out.read_text().splitlines())
        done = {tuple(line["fault"]): line["ended"] for line in lines}
    chosen = sample(options.count, options.seed)
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as place, options.out.open("a") as out:
        for i in range(options.jobs):
            tree = Path(place) / str(i) / ROOT.name
            ignored = shutil.ignore_patterns(".git", "__pycache__", ".hypothesis", "_build", ".*")
            shutil.copytree(ROOT, tree, ignore=ignored)
            trees.put(tree)

        def judge(fault: Fault) -> None:
            tree = trees.get()
            ended = caught(fault, tree, options.seconds, options.first)
            trees.put(tree)
            done[fault] = ended
            out.write(json.dumps({"fault": list(fault), "ended": ended}) + "\n")
            out.flush()
            print(f"{ended:9}{fault.file}:{fault.line} -> {fault.now}", flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(judge, [fault for fault in chosen if tuple(fault) not in done]))
    survivors = [fault for fault in chosen if done[tuple(fault)] == "survived"]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    for fault in survivors:
        line = (ROOT / fault.file).read_text(encoding="utf-8").splitlines()[fault.line - 1]
        print(f"{fault.file}:{fault.line}: {fault.now!r} in {line.strip()}")


if __name__ == "__main__":
    main()
