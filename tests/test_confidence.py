"""The probability of an answer: in Python, in ``--json``, with ``-v`` and as a note."""

import json
import math

import numpy as np
import pytest
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint
from tinyqwenvl import nn, run
from tinyqwenvl.cli import embedded as cli_embedded
from tinyqwenvl.cli.report import confidence
from tinyqwenvl.conversation import Conversation
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.sampling import Sampling, probability

PHOTOGRAPH = np.random.default_rng(3).integers(0, 256, (12, 18, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def embedded():
    return tinyqwenvl.load()


@pytest.fixture
def noise(tmp_path):
    """An image unlike any that the embedded checkpoint was trained on."""
    path = tmp_path / "noise.png"
    Image.fromarray(PHOTOGRAPH).resize((336, 224), Image.Resampling.BICUBIC).save(path)
    return str(path)


def ask(capsys, *words):
    code = run.main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0
    return json.loads(out), err


def test_a_probability_is_the_softmax_of_the_raw_logits():
    logits = np.array([1, 3, -2, 0], np.float32)
    expected = nn.softmax(logits)
    for token in range(4):
        assert probability(logits, token) == pytest.approx(expected[token], rel=1e-6)
    far = np.array([0, 1000], np.float32)
    with np.errstate(over="raise", under="ignore"):
        assert probability(far, 1) == 1
        assert probability(far, 0) == 0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(2.0, 5, 0.9, 1.3, seed=1)])
def test_a_generation_keeps_the_probability_of_each_token(embedded, sampling):
    """Against one forward pass over prompt and answer, for drawn tokens too."""
    inputs = embedded.prepare(user_message(str(EXAMPLE_IMAGE), "describe"))
    generation = embedded.generate(inputs, 12, sampling)
    assert generation.probabilities == []
    ids = list(generation)
    cache = nn.KVCache()
    logits = embedded.next_logits(embedded.embed(inputs), inputs.position_ids, cache)
    expected = []
    for token in ids:
        expected.append(nn.softmax(logits)[token])
        position = np.full((3, 1), cache.length + inputs.rope_delta)
        logits = embedded.next_logits(embedded.embed_tokens(np.array([token])), position, cache)
    np.testing.assert_allclose(generation.probabilities, expected, rtol=1e-4)
    assert list(generation) and len(generation.probabilities) == len(ids)  # afresh, not appended


def test_mean_least_and_the_whole_answer():
    assert confidence([0.5, 0.25, 0.75]) == {"mean": 0.5, "least": 0.25, "answer": 0.09375}
    assert confidence([]) is None


def test_json_has_the_probability_of_any_checkpoint(tmp_path, capsys, embedded):
    answer, err = ask(capsys, EXAMPLE_IMAGE)
    inputs = embedded.prepare(user_message(str(EXAMPLE_IMAGE), "describe"))
    generation = embedded.generate(inputs)
    list(generation)
    assert answer["probability"]["mean"] == pytest.approx(np.mean(generation.probabilities))
    assert answer["probability"]["least"] == pytest.approx(min(generation.probabilities))
    assert answer["probability"]["answer"] == pytest.approx(math.prod(generation.probabilities))
    assert answer["probability"]["answer"] > 0.5 and "probability" not in err
    directory = write_checkpoint(tmp_path / "model", tiny_config("qwen2_vl"))
    other, err = ask(capsys, EXAMPLE_IMAGE, "hello", "-m", directory, "-n", 5)
    assert 0 < other["probability"]["least"] < other["probability"]["mean"] < 0.5
    assert err == "" and other["notes"] == []  # the note is the embedded checkpoint's alone


def test_tokens_after_a_stop_text_do_not_count(capsys):
    cut, _ = ask(capsys, EXAMPLE_IMAGE, "--stop", "black")
    whole, _ = ask(capsys, EXAMPLE_IMAGE)
    assert cut["probability"]["mean"] != whole["probability"]["mean"]


def test_a_note_says_that_an_answer_is_improbable(noise, capsys):
    answer, err = ask(capsys, noise, "describe")
    said = f"the answer's probability is {answer['probability']['answer']:.2f}"
    assert answer["probability"]["answer"] < cli_embedded.LIKELY
    assert said in err and any(note.startswith(said) for note in answer["notes"])


def test_the_coordinates_of_a_box_share_the_probability(capsys):
    """A box that is right is not called improbable, as its neighbours are nearly as good."""
    for value, text, noted in (
        (0.3, "A red circle.", True),
        (0.3, '{"bbox_2d": [0, 2, 4, 6], "label": "red circle"}', False),
        (0.05, '{"point_2d": [3, 4], "label": "red circle"}', True),
        (0.6, "A red circle.", False),
    ):
        cli_embedded.note_probability(text, {"mean": 0.9, "least": value, "answer": value})
        assert (f"probability is {value:.2f}: the" in capsys.readouterr().err) == noted
    cli_embedded.note_probability("", None)
    assert capsys.readouterr().err == ""


def test_verbose_says_how_probable(capsys):
    assert run.main([str(EXAMPLE_IMAGE), "-v"]) == 0
    answer = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("answer"))
    assert "token probability mean 1.00, least " in answer and "; of the answer " in answer


def test_a_conversation_keeps_them_too(embedded):
    talk = Conversation(embedded)
    ids = list(talk.say([{"image": str(EXAMPLE_IMAGE)}, {"text": "describe"}]))
    assert len(talk.generation.probabilities) == len(ids) > 5
