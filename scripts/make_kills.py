"""Record in the vectors which injected bugs (mutants) each of them detects.

    python -m scripts.make_kills

Run it after scripts.make_vectors and scripts.make_model_vectors, and whenever mutants change. The
tests hold the files to it. Nothing else in them is touched.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scripts.vectors.files import dumps
from tinyqwenvl.oracle.mutants import MUTANTS
from tinyqwenvl.oracle.selftest import MODELS, ModelCase, model_cases, model_kills, unit_kills
from tinyqwenvl.oracle.vectors import FOLDER


def flags(case: ModelCase) -> list[str]:
    """What a model case has in it."""
    names = {entry.name: entry for entry in case.reference}
    found = ["float32", case.model.config.model_type]
    found += ["video"] if "video_grid_thw" in names else ["pictures"]
    found += ["windows"] if "visual.window_index" in names else []
    return found + (["decoding"] if "generated" in names else [])


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Find the kills, and write them."""
    kills: dict[str, list[str]] = {}
    for name in MUTANTS:
        for case in (*unit_kills(name), *model_kills(name)):
            kills.setdefault(case, []).append(name)
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for line in manifest["files"]:
        path = FOLDER / line["path"]
        unit = json.loads(path.read_text(encoding="utf-8"))
        for case in unit["cases"]:
            case["kills"] = kills.get(case["id"], [])
        path.write_text(dumps(unit), encoding="utf-8")
        line["sha256"] = digest(path)
    manifest["models"] = []
    for case in model_cases():
        name = case.id.partition("/")[2]
        about = {"id": case.id, "pins": case.reference.about["pins"], "result": "valid"}
        about |= {"path": f"models/{name}.safetensors", "manifest": f"models/{name}.json"}
        about |= {"checkpoint": f"models/{case.reference.about['checkpoint']}"}
        about |= {"flags": flags(case)}
        about |= {"sha256": digest(MODELS / f"{name}.safetensors")}
        manifest["models"].append(about | {"kills": kills.get(case.id, [])})
    (FOLDER / "manifest.json").write_text(dumps(manifest), encoding="utf-8")
    print(
        f"{len(kills)} cases detect {len(set().union(*kills.values()))} of {len(MUTANTS)} mutants"
    )


if __name__ == "__main__":
    main()
