"""Regenerate tinyqwenvl/vectors/v1/unit: the witnesses' answers to the cases in scripts/vectors.

    pip install -c constraints.txt ".[hf]"
    pip install --no-deps qwen_vl_utils==0.0.14
    python -m scripts.make_vectors --older PYTHON

PYTHON is an interpreter that has transformers==4.51.3 and torch: that version says what positions
text has after a video (docs/differences.md), and what others accepted. It runs
scripts/vectors/witnesses/older.py, which reads [family, input] lists as JSON from stdin and writes
its answers to stdout.

Nothing expected comes from our own code. Each family has a list of witnesses; the first one that
agrees with us gives the output, and it must be the very first unless the case has a reason. Where
another witness disagrees, the case must have a reason too, and unless it says who alone is right
its result is "acceptable", with every answer in ``also``. A second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch

from scripts.vectors.cases import CASES, EMPTY
from scripts.vectors.files import FOLDER, core, dumps, known_kills, write_manifest
from scripts.vectors.witnesses import ABOUT, witnesses
from scripts.vectors.witnesses.common import HF, OLDER, QVU, Answer
from scripts.vectors.witnesses.older import ask_older
from scripts.vectors.witnesses.qvu import stub
from tinyqwenvl.errors import UserError
from tinyqwenvl.oracle import vectors

NOBODY = "nobody: see the reason"


def judged(family: str, case: dict[str, Any], older: dict[str, Answer]) -> dict[str, Any]:
    """The whole case: output, result, who said so. Fails where nobody agrees with us."""
    try:
        ours: Answer = {"output": vectors.run_unit(family, case["input"])}
    except UserError:
        ours = {"error": True}
    said = witnesses(family, case, older)
    agree = [name for name, theirs in said.items() if same(theirs, ours)]
    others = {name: theirs for name, theirs in said.items() if name not in agree}
    reason = case["reason"] or (EMPTY if others and family == "cu_seqlens" else "")
    first = next(iter(said))
    assert (agree and agree[0] == first and not others) or reason, (case["id"], ours, said)
    assert agree or case["result"] == "acceptable", (case["id"], ours, said)
    result = case["result"] or (
        "acceptable" if others else "invalid" if "error" in ours else "valid"
    )
    made = {name: case[name] for name in ("id", "flags", "pins", "input")}
    made |= said[agree[0]] if agree else ours
    made |= {"result": result, "witness": " and ".join(agree) or NOBODY}
    if reason and (others or case["reason"]):
        made["reason"] = reason
    if result == "acceptable":
        assert others, case["id"]
        made["also"] = [
            {**theirs, "by": " and ".join(name for name in others if others[name] == theirs)}
            for i, theirs in enumerate(others.values())
            if theirs not in [*others.values()][:i]
        ]
    return made


def same(a: Any, b: Any) -> bool:
    """Equal answers; fractions within the last digits."""
    return vectors.equal(a, b)


def main() -> None:
    """Write a file for each family, and the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--older", help="a Python with transformers 4.51.3")
    options = parser.parse_args()
    if not options.older:
        parser.error("--older is needed: see the top of scripts/make_vectors.py")
    stub("requests", "torchvision", "torchvision.io", "torchvision.transforms")
    stub("torchvision.transforms.functional", "torchvision.transforms.v2")
    stub("torchvision.transforms.v2.functional")
    logging.disable(logging.WARNING)
    older = ask_older(options.older)
    (FOLDER / "unit").mkdir(parents=True, exist_ok=True)
    for family, cases in CASES.items():
        path = FOLDER / "unit" / f"{family}.json"
        kills = known_kills(path)
        made = [judged(family, case, older) for case in cases]
        made = [
            case | {"kills": kills[key]} if (key := dumps(core(case))) in kills else case
            for case in made
        ]
        about = {"format": 1, "family": family, "about": ABOUT[family][0], "cases": made}
        path.write_text(dumps(about), encoding="utf-8")
        print(f"{path.name}: {len(made)} cases, {path.stat().st_size:,} bytes")
    names = (HF, OLDER, QVU)
    versions = dict(name.split() for name in names if name != OLDER)
    versions |= {"transformers (older)": OLDER.split()[1], "torch": torch.__version__}
    write_manifest(versions)


if __name__ == "__main__":
    main()
