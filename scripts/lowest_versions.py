"""Print the lowest declared version of every runtime dependency, for pip: ``numpy==2.0`` ....

    pip install $(python -m scripts.lowest_versions)

They are read from pyproject.toml, so that what is tested is what is declared. Runs without any
package installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9.]*)\s*(,.*)?")


def lowest(requirements: list[str]) -> list[str]:
    """``name>=version`` -> ``name==version``; every requirement must name its lowest version."""
    pins = []
    for requirement in requirements:
        found = REQUIREMENT.fullmatch(requirement.strip())
        if found is None:
            raise SystemExit(f"{requirement!r} in pyproject.toml names no lowest version (>=)")
        pins.append(f"{found[1]}=={found[2]}")
    return pins


def main(extras: list[str] | None = None) -> None:
    """Print the pins, and with names of extras those of the extras, too."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras or []:
        wanted += project["optional-dependencies"][extra]
    print("\n".join(lowest(wanted)))


if __name__ == "__main__":
    main(sys.argv[1:])
