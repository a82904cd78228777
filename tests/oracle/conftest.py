"""A dump of each family, models of transformers and of PyTorch: made once, for all files here."""

import numpy as np
import pytest

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, with_images, write_checkpoint
from tinyqwenvl.model import user_message
from tinyqwenvl.oracle.readers import open_dump
from tinyqwenvl.oracle.record import Job, record

IMAGES = [random_image(1, 150, 210), random_image(2, 70, 240)]
SIZES = (140, 84), (56, 196), (84, 84)
CONTENT = [
    {"text": "one "},
    {"image": 0},
    {"text": " two "},
    {"image": 1},
    {"image": 2},
    {"text": " what?"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the dumps of a file's tests."""
    return tmp_path_factory.mktemp("oracle")


@pytest.fixture(scope="session")
def job():
    return Job(user_message(IMAGES, "what is different?"), tokens=2)


@pytest.fixture(scope="session")
def reference(model, job, family, tmp_path_factory):
    return record(model, job, tmp_path_factory.mktemp("reference") / f"{family}.safetensors")


# ------------------------------------------------------------------ Hugging Face's models


@pytest.fixture(scope="session")
def hf():
    """The module that loads checkpoints in transformers."""
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    return pytest.importorskip(
        "scripts.witness", reason="transformers 5.23 is not installed", exc_type=ImportError
    )


@pytest.fixture(scope="session")
def case(family, hf, tmp_path_factory):
    """A model of transformers, the arguments of a call, and our stages of the same prompt."""
    directory = tmp_path_factory.mktemp(family)
    write_checkpoint(directory, tiny_config(family), seed=8)
    ours = tinyqwenvl.load(directory)
    images = [random_image(30 + i, *size) for i, size in enumerate(SIZES)]
    with tinyqwenvl.trace() as stages:
        inputs = ours.prepare([{"role": "user", "content": with_images(CONTENT, images)}])
        ours.forward(inputs)
    stages["model.rope_delta"] = [np.array(inputs.rope_delta)]
    witness = hf.Witness(directory)
    given = witness.inputs(inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw)
    return witness, given, stages, inputs


@pytest.fixture(scope="session")
def dumped(case, tmp_path_factory):
    import torch

    from tinyqwenvl.oracle.torch import instrument

    witness, given, _, _ = case
    target = tmp_path_factory.mktemp("dump") / "hf.safetensors"
    with torch.no_grad(), instrument(witness.model, target):
        witness.model(**given)
    return open_dump(target)


@pytest.fixture
def toy():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    from torch_modules import Toy

    torch.manual_seed(0)
    return Toy().eval()
