"""Shapes are checked at every call; what is slow runs with ``--slow``; profiles of Hypothesis.

``pytest --hypothesis-profile=thorough --hypothesis-seed=N`` tries ten times as many examples.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small models: two threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from checked_shapes import CHECKED_FUNCTIONS

import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint

assert CHECKED_FUNCTIONS  # importing it has wrapped them

# No example has a deadline: on a busy machine it would measure the other programs.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("tests")

# ------------------------------------------------------------------ what is slow


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    getattr(config, "workeroutput", {})["slow"] = config.slow = len(slow)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A worker of pytest-xdist has ended: each has collected the same tests."""
    node.config.slow = getattr(node, "workeroutput", {}).get("slow", 0)


def pytest_terminal_summary(terminalreporter, config):
    if left_out := getattr(config, "slow", 0):
        terminalreporter.write_line(f"{left_out} slow tests left out: pytest --slow runs them, too")


# ------------------------------------------------------------------ models


@pytest.fixture(scope="session", params=["qwen2_vl", "qwen2_5_vl"])
def family(request):
    return request.param


@pytest.fixture(scope="session")
def checkpoint(family, tmp_path_factory):
    """A small random checkpoint of the family, in the published layout."""
    return write_checkpoint(tmp_path_factory.mktemp(family), tiny_config(family), seed=3)


@pytest.fixture(scope="session")
def model(checkpoint):
    return tinyqwenvl.load(checkpoint)


@pytest.fixture(scope="session")
def exact_model(checkpoint):
    """The same in float64: against it the noise of float32 is measured."""
    return tinyqwenvl.load(checkpoint, dtype="float64")


@pytest.fixture(scope="session")
def embedded():
    return tinyqwenvl.load()
