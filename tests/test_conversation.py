"""Many turns with one cache, against computing the same ids at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import assert_same_but_for_rounding

import tinyqwenvl
from scripts.random_checkpoint import random_image, tiny_config, write_checkpoint
from tinyqwenvl import UserError, run
from tinyqwenvl.conversation import Conversation
from tinyqwenvl.model import EXAMPLE_IMAGE, Inputs
from tinyqwenvl.nn import KVCache

IMAGES = [random_image(1, 90, 140), random_image(2, 60, 120)]
CLIP = {"video": [random_image(70 + i, 60, 90) for i in range(3)], "fps": 3, "min_pixels": 3136}
TURNS = [
    [{"image": IMAGES[0]}, {"text": "one"}],
    "two",
    [{"text": "three"}, CLIP, {"text": "and"}, {"image": IMAGES[1]}, {"text": "?"}],
    "four",
]


def talk_through(model, **options):
    """A conversation of all turns, and the logits that chose each first token of an answer."""
    talk = Conversation(model, **options)
    for turn in TURNS:
        list(talk.say(turn, max_tokens=5))
    return talk


def whole(model, talk):
    """Inputs that hold all ids of a conversation at once."""
    media = [model.read_media([m]) for m in talk.messages if m["role"] == "user"]
    names = {name for part in media for name in part}
    fields = {}
    for name in names:
        parts = [part[name] for part in media if name in part]
        fields[name] = sum(parts, ()) if isinstance(parts[0], tuple) else np.concatenate(parts)
    positions, delta = model.positions(talk.ids, fields)
    return Inputs(talk.ids, positions, delta, **fields)


def computed_at_once(model, inputs):
    """Keys and values of every layer."""
    cache = KVCache()
    model.next_logits(model.embed(inputs), inputs.position_ids, cache)
    return cache.layers


def test_the_cache_holds_what_computing_all_at_once_gives(model, exact_model):
    talk = talk_through(model)
    inputs = whole(model, talk)
    fresh, exact = computed_at_once(model, inputs), computed_at_once(exact_model, inputs)
    held = talk.cache.length
    assert len(talk.ids) - 1 <= held <= len(talk.ids)
    assert talk.cache.layers.keys() == fresh.keys()
    for layer, pair in talk.cache.layers.items():
        for ours, once, precise in zip(pair, fresh[layer], exact[layer], strict=True):
            assert_same_but_for_rounding(ours, once[:, :held], precise[:, :held])


def test_the_answers_are_those_of_the_same_ids_at_once(model):
    """Each answer again, greedily, from one prompt of all ids before it."""
    talk = talk_through(model)
    logits = model.forward(whole(model, talk))
    start = model.tokenizer.encode("assistant\n")
    ends = [i + len(start) for i in range(len(talk.ids)) if is_at(talk.ids, i, start)]
    stops = model.config.eos_token_ids
    compared = 0
    for end, message in zip(ends, talk.messages[1::2], strict=True):
        for i in range(end - 1, len(talk.ids) - 1):
            if talk.ids[i + 1] in stops:
                break
            assert np.argmax(logits[i]) == talk.ids[i + 1]
            compared += 1
            if i - end + 2 == 5:
                break
        assert message["role"] == "assistant"
    assert compared >= 8


def is_at(ids, i, part):
    return ids[i : i + len(part)].tolist() == part.tolist()


def test_only_new_tokens_are_computed(model):
    talk = Conversation(model)
    for turn in TURNS:
        with tinyqwenvl.trace("model.layers.0", "visual.blocks.0") as stages:
            before, held = len(talk.ids), talk.cache.length
            tokens = list(talk.say(turn, max_tokens=5))
        computed = sum(len(x) for x in stages["model.layers.0"])
        assert computed == talk.cache.length - held
        assert computed <= len(talk.ids) - before + 1 + len(tokens)
        new = isinstance(turn, list)
        assert ("visual.blocks.0" in stages) == new  # what was shown before is not encoded again


def test_the_prompt_is_the_published_template(model):
    """The ids between the answers, as if the whole conversation were rendered."""
    talk = talk_through(model, system="Be brief.", add_vision_id=True)
    text = model.tokenizer.decode(talk.ids, skip_special=False)
    rendered = "".join(tinyqwenvl.chat.render(talk.messages, False, True))
    for pad in ("image", "video"):
        while f"<|{pad}_pad|><|{pad}_pad|>" in text:
            text = text.replace(f"<|{pad}_pad|><|{pad}_pad|>", f"<|{pad}_pad|>")
    assert rendered.startswith(text) and rendered[len(text) :] in ("", "<|im_end|>\n")
    assert "Picture 2: " in text and "Video 1: " in text


def test_leaving_an_answer_early_keeps_what_was_said(model, exact_model):
    talk = Conversation(model)
    tokens = talk.say("hello", max_tokens=50)
    token = next(tokens)
    tokens.close()
    assert talk.ids[-1] == token and talk.messages[-1]["role"] == "assistant"
    list(talk.say("again", max_tokens=3))
    inputs = whole(model, talk)
    fresh, exact = computed_at_once(model, inputs), computed_at_once(exact_model, inputs)
    held = talk.cache.length
    assert_same_but_for_rounding(
        talk.cache.layers[2][0], fresh[2][0][:, :held], exact[2][0][:, :held]
    )


def test_one_answer_at_a_time(model):
    talk = Conversation(model)
    first = talk.say("a", max_tokens=20)
    next(first)
    with pytest.raises(UserError, match="still open"):
        next(talk.say("b"))
    first.close()
    list(talk.say("b", max_tokens=2))


@pytest.mark.parametrize(
    "where", ["visual.blocks.2", "model.layers.1", "model.layers.2", "model.norm", "lm_head"]
)
def test_a_turn_that_fails_before_its_first_token_changes_nothing(model, where):
    talk = Conversation(model)
    list(talk.say("hello", max_tokens=3))
    ids, messages, held = talk.ids.copy(), list(talk.messages), talk.cache.length

    def fail(name, value, _):
        if name == where:
            raise KeyboardInterrupt

    with tinyqwenvl.tracing.watching(fail), pytest.raises(KeyboardInterrupt):
        list(talk.say(TURNS[0], max_tokens=3))
    with pytest.raises(UserError, match="no such image"):
        list(talk.say([{"image": "nowhere.png"}]))
    np.testing.assert_array_equal(talk.ids, ids)
    assert (talk.messages, talk.cache.length, talk.media) == (messages, held, {})
    straight = Conversation(model)
    list(straight.say("hello", max_tokens=3))
    again = [list(t.say(TURNS[0], max_tokens=5)) for t in (talk, straight)]
    assert again[0] == again[1]


def test_an_interrupt_in_the_middle_of_a_token_keeps_whole_tokens(model):
    talk = Conversation(model)
    tokens = talk.say("hello", max_tokens=50)
    said = [next(tokens)]

    def fail(name, value, _):
        if name == "model.layers.1":
            raise KeyboardInterrupt

    with tinyqwenvl.tracing.watching(fail), pytest.raises(KeyboardInterrupt):
        next(tokens)
    assert talk.ids[-1:].tolist() == said
    assert {k.shape[1] for k, _ in talk.cache.layers.values()} == {len(talk.ids) - 1}
    list(talk.say("go on", max_tokens=3))


def test_clear_and_templates_of_their_own(model, tmp_path):
    talk = Conversation(model, system="s")
    first = list(talk.say("hello", max_tokens=4))
    talk.clear()
    assert talk.ids.size == talk.cache.length == 0
    assert list(talk.say("hello", max_tokens=4)) == first
    directory = write_checkpoint(tmp_path, tiny_config("qwen2_vl"))
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UserError, match="its own chat template"):
        Conversation(tinyqwenvl.load(directory))


# ------------------------------------------------------------------ run --chat

HERE = Path(__file__).parents[1]
TRUTH = EXAMPLE_IMAGE.with_suffix(".txt").read_text()


def chat(lines, *words):
    command = [sys.executable, "-m", "tinyqwenvl.run", "--chat", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    text = "\n".join(lines) + "\n"
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment)


def test_turns_and_commands(tmp_path):
    for i in range(4):
        Image.new("RGB", (112, 112), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [f"/image {EXAMPLE_IMAGE}", "describe", "", "How many shapes are there?"]
    lines += ["/nonsense", "/image", "/image nowhere.png", "hello", "/clear"]
    lines += [f'/video "{tmp_path}" fast', "/video nowhere"]
    lines += [f'/video "{tmp_path}" 4', "When does it appear?", "/exit", "not reached"]
    done = chat(lines, "-v")
    assert done.returncode == 0
    answers = done.stdout.splitlines()
    assert answers[0] + "\n" == TRUTH and len(answers) == 4
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    for word in ("unknown command /nonsense", "unknown command /image", "nowhere.png", "fast"):
        assert any(word in error for error in errors), word
    assert done.stderr.count("tokens in the cache") == 4


def test_a_bug_costs_its_line_only(tmp_path):
    (tmp_path / "thin.png").write_bytes(b"")
    Image.new("L", (900, 2)).save(tmp_path / "thin.png")  # opens, but no model takes it
    done = chat([f"/image {tmp_path / 'thin.png'}", "what?", f"/image {EXAMPLE_IMAGE}", "describe"])
    assert done.stdout == TRUTH
    assert "are dropped" in done.stderr and done.stderr.count("error: ") == 1


def test_turns_are_drawn_apart_and_the_same_conversation_again():
    words = ["--temperature", "3", "--seed", "4", "-n", "12", "-v"]
    first, again = (chat(["hello", "/clear", "hello"], *words) for _ in range(2))
    one, two = first.stdout.splitlines()
    assert one != two and first.stdout == again.stdout
    assert "note: seed 4\n" in first.stderr and "note: seed 5\n" in first.stderr


def test_a_first_image_and_prompt(capsys):
    assert chat([], EXAMPLE_IMAGE, "describe").stdout == TRUTH
    assert chat(["describe"], EXAMPLE_IMAGE).stdout == TRUTH
    assert run.main(["--chat", "--json"]) == 2
    assert "--chat excludes" in capsys.readouterr().err
