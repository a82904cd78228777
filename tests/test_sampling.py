from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import rounding

from scripts.sampling_cases import LARGE, large_logits
from tests.test_goldens import FILES, read
from tinyqwenvl import UserError
from tinyqwenvl.generate import until
from tinyqwenvl.nn import softmax
from tinyqwenvl.sampling import (
    Sampling,
    draw,
    greedy,
    keep_top_k,
    keep_top_p,
    not_followed,
    penalise,
    published,
)

_, GOLDEN = read(FILES[0].with_name("sampling.safetensors"))
STEPS = {
    "repetition_penalty": lambda logits, value: penalise(logits, GOLDEN["ids"], value),
    "temperature": lambda logits, value: logits / value,
    "top_k": lambda logits, value: keep_top_k(logits, int(value)),
    "top_p": keep_top_p,
}
CASES = [name for name in GOLDEN if " " in name and not name.startswith("large")]
SPREAD = np.array([0.1, -2.0, 3.0, 0.5, 2.9, -0.1], np.float32)


@pytest.mark.parametrize("name", CASES)
def test_each_step_equals_transformers(name):
    kind, value = name.split()
    for logits, expected in zip(GOLDEN["logits"], GOLDEN[name], strict=True):
        ours = STEPS[kind](logits, float(value))
        if kind == "top_p" and len(set(logits)) < len(logits):
            # which of equals at the border stay is up to the sort: as many, and of the same values
            np.testing.assert_array_equal(np.sort(ours), np.sort(expected))
            continue
        np.testing.assert_array_equal(ours, expected)
        if kind != "temperature":
            alone = Sampling(**{kind: int(value) if kind == "top_k" else float(value)})
            with_heat = Sampling(**{**vars(alone), "temperature": 1.0})
            np.testing.assert_array_equal(with_heat.scores(logits, GOLDEN["ids"]), expected)


def test_the_order_is_penalty_temperature_top_k_top_p():
    logits, ids = GOLDEN["logits"][0], GOLDEN["ids"]
    step = penalise(logits, ids, 1.3) / 0.7
    expected = keep_top_p(keep_top_k(step, 40), 0.8)
    asked = Sampling(temperature=0.7, top_k=40, top_p=0.8, repetition_penalty=1.3)
    np.testing.assert_array_equal(asked.scores(logits, ids), expected)


def test_the_penalty_counts_prompt_and_output_each_once():
    once = penalise(SPREAD, np.array([2, 1]), 2.0)
    twice = penalise(SPREAD, np.array([2, 1, 2, 2]), 2.0)
    assert once.tolist() == twice.tolist() == [*SPREAD[:1], -4.0, 1.5, *SPREAD[3:]]


@given(st.floats(0, 1, exclude_max=True))
def test_a_draw_is_where_the_sum_passes(random):
    drawn = draw(SPREAD, random)
    probabilities = softmax(SPREAD.astype(np.float64))
    edges = [sum(probabilities[:i]) for i in range(len(SPREAD) + 1)]
    off = rounding(2 * len(SPREAD) + 2)  # a sum of six, in two orders, and products
    assert edges[drawn] - off <= random * edges[-1] <= edges[drawn + 1] + off


def test_a_draw_of_nothing_is_the_first_that_may_be_drawn():
    assert draw(np.array([-np.inf, 0.0, 1.0]), 0.0) == 1


def test_draws_are_as_frequent_as_they_are_likely():
    choose = Sampling(temperature=1.0, seed=1).chooser()
    counts = np.bincount([choose(SPREAD, np.array([0])) for _ in range(20000)], minlength=6)
    likely = softmax(SPREAD)
    deviations = np.sqrt(likely * (1 - likely) / 20000)  # of a share of so many draws
    assert np.all(np.abs(counts / 20000 - likely) < 5 * deviations)


def test_what_is_cut_off_is_never_drawn():
    choose = Sampling(temperature=5.0, top_k=2, seed=0).chooser()
    assert {choose(SPREAD, np.array([0])) for _ in range(200)} == {2, 4}
    assert draw(keep_top_k(SPREAD, 1), 0.999999) == 2


def test_the_same_seed_draws_the_same():
    ids = np.array([0])
    first, again, other = (Sampling(temperature=2.0, seed=s).chooser() for s in (7, 7, 8))
    draws = [[choose(SPREAD, ids) for _ in range(30)] for choose in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]


def test_greedy_takes_the_first_of_equals():
    assert greedy(np.array([1.0, 3.0, 3.0])) == 1
    assert Sampling().chooser()(np.array([1.0, 3.0, 3.0]), np.array([1])) == 1
    assert Sampling(repetition_penalty=2.0).chooser()(SPREAD, np.array([2])) == 4


def test_logits_that_are_not_numbers():
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="check-finite"):
            Sampling().chooser()(np.array([1.0, wrong]), np.array([0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": 1e-9},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"top_k": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        Sampling(**wrong)


def test_published_settings():
    """In transformers do_sample decides on drawing; the penalty applies in any case."""
    file = {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.01}
    assert published(file) == Sampling(temperature=0.01, top_k=1, top_p=0.001)
    assert published({"do_sample": True}) == Sampling(temperature=1.0, top_k=50)
    assert published({"temperature": 0.5, "repetition_penalty": 1.05}) == Sampling(
        repetition_penalty=1.05
    )
    assert published({}) == Sampling()
    assert published(file, temperature=0.0, top_p=None).temperature == 0
    with pytest.raises(UserError, match=r"generation_config\.json"):
        published({"do_sample": True, "temperature": "hot"})
    assert published({"do_sample": True, "top_k": -1}, top_k=3).top_k == 3
    assert not_followed({"min_p": 0.1, "num_beams": 4, "typical_p": 1.0, "top_p": 0.5}) == [
        "min_p",
        "num_beams",
    ]


def test_top_p_with_a_vocabulary_of_the_published_size():
    """How many tokens stay, counted by transformers; sums in float32 would keep fewer."""
    for row, (std, p) in enumerate(LARGE):
        logits = large_logits(row, std)
        kept = np.isfinite(keep_top_p(logits, p)).sum()
        assert kept == GOLDEN["large: tokens kept"][row]


def test_an_answer_at_a_penalty_is_penalised_for_its_own_words(model):
    """transformers' ids at a repetition penalty: see also scripts/compare_with_transformers.py."""
    inputs = model.prepare([{"role": "user", "content": "abc"}])
    asked = Sampling(repetition_penalty=1.7)
    ids = list(
        replace(model, config=replace(model.config, eos_token_ids=())).generate(inputs, 12, asked)
    )
    context = inputs.input_ids
    for token in ids:
        fresh = replace(
            inputs, input_ids=context, position_ids=np.tile(np.arange(len(context)), (3, 1))
        )
        scores = penalise(model.forward(fresh)[-1], context, 1.7)
        assert token == greedy(scores)
        context = np.append(context, token)


# ------------------------------------------------------------------ stop texts


@given(st.text("ab<>", max_size=20), st.lists(st.text("ab<", min_size=1, max_size=4)), st.data())
def test_text_ends_before_the_first_stop_however_it_is_cut_up(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [text.find(stop) for stop in stops if stop in text]
    assert "".join(until(parts, stops)) == text[: min(ends, default=len(text))]


def test_an_open_stop_comes_before_a_later_one_that_is_complete():
    assert "".join(until(["a<", "<"], ["<", "a<<"])) == ""
    assert "".join(until(["a<", "b"], ["<", "a<<"])) == "a"


def test_an_interrupt_gives_what_was_held_back():
    def parts():
        yield "abc"
        raise KeyboardInterrupt

    kept = []
    with pytest.raises(KeyboardInterrupt):
        for part in until(parts(), ["bcX"]):
            kept.append(part)
    assert "".join(kept) == "abc"


def test_text_is_not_held_back_longer_than_needed():
    assert list(until(["a", "b<", "c", "</x", "d"], ["</"])) == ["a", "b", "<c", ""]
