"""What CI installs as the lowest versions is what pyproject.toml declares."""

import tomllib

import pytest

from scripts import lowest_versions


def test_every_dependency_declares_its_lowest_version(capsys):
    project = tomllib.loads(lowest_versions.PYPROJECT.read_text(encoding="utf-8"))["project"]
    lowest_versions.main()
    pins = dict(line.split("==") for line in capsys.readouterr().out.split())
    assert [f"{name}>={version}" for name, version in pins.items()] == project["dependencies"]
    assert pins["tokenizers"] == "0.21.1"  # 0.21.0 panics with a traceback
    for wanted in project["optional-dependencies"]["video"]:
        assert lowest_versions.lowest([wanted])


def test_a_dependency_without_a_floor_is_refused():
    assert lowest_versions.lowest(["a>=1.2,<3", "b-c >= 0.4"]) == ["a==1.2", "b-c==0.4"]
    for bad in ("a", "a==1", "a<2", "a~=1.0"):
        with pytest.raises(SystemExit, match="names no lowest version"):
            lowest_versions.lowest([bad])
