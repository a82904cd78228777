"""Files of tinyqwenvl/vectors/v1: their JSON, the manifest, what other steps added to them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from .cases import CASES

FOLDER = Path(__file__).parents[2] / "tinyqwenvl" / "vectors" / "v1"


def dumps(value: Any) -> str:
    """JSON with sorted names, indent 1, and lists of numbers on one line each."""
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    short = re.compile(r'\[\n[^\[\]{}"]*\]')  # a text in JSON has no line end
    return short.sub(lambda m: re.sub(r"\s*\n\s*", "", m[0]).replace(",", ", "), text) + "\n"


def write_manifest(versions: dict[str, str] | None = None) -> None:
    """What the folder holds; without ``versions``, those of the manifest that is there."""
    path = FOLDER / "manifest.json"
    versions = versions or json.loads(path.read_text(encoding="utf-8"))["witnesses"]
    files = []
    for family in CASES:
        unit = FOLDER / "unit" / f"{family}.json"
        digest = hashlib.sha256(unit.read_bytes()).hexdigest()
        count = len(json.loads(unit.read_text(encoding="utf-8"))["cases"])
        entry = {"path": f"unit/{unit.name}", "family": family, "count": count, "sha256": digest}
        files.append(entry)
    about = {"format": 1, "witnesses": versions, "files": files}
    if path.exists():  # what scripts.make_kills says of the model cases stays
        about |= {"models": json.loads(path.read_text(encoding="utf-8")).get("models", [])}
    path.write_text(dumps(about), encoding="utf-8")


def known_kills(path: Path) -> dict[str, Any]:
    """Case -> its ``kills``, which another step adds; kept while input and output stay."""
    if not path.exists():
        return {}
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return {dumps(core(case)): case["kills"] for case in cases if "kills" in case}


def core(case: dict[str, Any]) -> list[Any]:
    """What a case must keep for its kills to stay."""
    return [case["id"], case["input"], case.get("output")]
