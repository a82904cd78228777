"""Chat templates of a checkpoint's own, held to what transformers writes for the same messages."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import tinyqwenvl
from scripts.random_checkpoint import tiny_config, write_checkpoint
from scripts.template_cases import (
    NAMED,
    TOOLS,
    FixedDay,
    read_goldens,
    template_texts,
    tokenizer_with_tokens,
    write_folder,
)
from tinyqwenvl import UserError, template_env
from tinyqwenvl.model import EMBEDDED, user_message
from tinyqwenvl.template import Template, is_published, load_template, special_token_variables
from tinyqwenvl.tokenizer import SpecialToken, Tokenizer, load_tokenizer

TOKENIZER = Tokenizer(tokenizer_with_tokens())
TEXTS = template_texts()
GOLDENS = read_goldens()["cases"]
PUBLISHED = json.loads((EMBEDDED / "chat_template.json").read_text())["chat_template"]


def template(text, **tokens):
    return Template({"default": text}, {**NAMED, **tokens})


def special(pieces):
    return [p for p in pieces if isinstance(p, SpecialToken)]


def user(text):
    return {"role": "user", "content": text}


# ------------------------------------------------------------------ transformers says


@pytest.fixture
def fixed_day(monkeypatch):
    monkeypatch.setattr(template_env, "datetime", FixedDay)


@pytest.mark.parametrize("number", range(len(GOLDENS)))
def test_goldens_of_transformers(number, fixed_day):
    case = GOLDENS[number]
    ours = template(TEXTS[case["template"]])
    if case.get("error"):
        with pytest.raises(UserError):
            ours.write(case["messages"], **case["variables"])
        return
    assert ours.write(case["messages"], **case["variables"]) == case["text"]
    obeyed = ours.render(case["messages"], TOKENIZER, True, **case["variables"])
    assert TOKENIZER.encode(obeyed).tolist() == case["ids"]
    if "safe_ids" in case:  # special tokens inside messages are text
        kept = ours.render(case["messages"], TOKENIZER, **case["variables"])
        assert TOKENIZER.encode(kept).tolist() == case["safe_ids"]


def test_goldens_cover_every_template():
    held = {case["template"] for case in GOLDENS if "text" in case}
    assert held == set(TEXTS) and len(held) >= 12
    assert sum("safe_ids" in case and case["safe_ids"] != case["ids"] for case in GOLDENS) > 10


def test_live_comparison(tmp_path, fixed_day):
    pytest.importorskip("transformers")
    from scripts import compare_templates as live

    live.chat_template_utils.datetime = template_env.datetime
    for number, (name, text) in enumerate(TEXTS.items()):
        rng = np.random.default_rng([5, number])
        for what, holds, case in live.compare(rng, name, text, tmp_path / name, 3):
            assert holds, (what, case)
    for what, holds in live.compare_files(tmp_path / "files"):
        assert holds, what


# ------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ eos_token }}|{{ bos_token }}|{{ nothing }}", "<|im_end|>|<s>|"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "a<b>é!"),
        ("{{ {'b': 'é<', 'a': none} | tojson }}", '{"b": "é<", "a": null}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ tools is none }} {{ documents is none }} {{ tools is not none }}", "True True False"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2026-01-02"),
        ("{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}"
         "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ dict(a=1).a }}", "21"),
        ("{% if true %}\na\n  {% endif %}\nb", "a\nb"),
        ("{{ messages[0].content }}{{ add_generation_prompt }}", "a<b>éTrue"),
    ],
)  # fmt: skip
def test_environment(text, expected, fixed_day):
    assert template(text).write([user("a<b>é")]) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no\nsuch role') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(_x=1) }}",
        "{{ dict.__class__.__mro__ }}",
    ],
)
def test_a_template_that_fails_is_one_line(bad):
    with pytest.raises(UserError, match="chat template") as caught:
        template(bad).render([user("a")], TOKENIZER)
    assert "\n" not in str(caught.value)


def test_a_template_sees_plain_data_and_never_an_image():
    image = np.zeros((28, 28, 3), np.uint8)
    text = template("{{ messages[0].content[0].image }} {{ messages[0].content[1].type }}").write(
        [{"role": "user", "content": [{"image": image}, {"type": "image_url", "image_url": "u"}]}]
    )
    assert text == "<ndarray> image"


def test_tools_documents_and_variables_go_to_the_template():
    ours = template("{{ tools | tojson }}{{ documents[0].text }}{{ enable_thinking }}")
    text = ours.write([user("a")], tools=TOOLS, documents=[{"text": "d"}], enable_thinking=False)
    assert text == json.dumps(TOOLS, ensure_ascii=False) + "dFalse"
    with pytest.raises(UserError, match="no variable max_pixel"):
        ours.write([user("a")], max_pixel=3)
    with pytest.raises(UserError, match="tools must be a list of dicts"):
        ours.write([user("a")], tools=["weather"])


def test_without_jinja2_one_line_says_what_to_do(monkeypatch):
    template_env.compile_template.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match="pip install jinja2"):
        template("{{ messages }}").write([user("a")])
    monkeypatch.undo()
    import jinja2

    monkeypatch.setattr(jinja2, "__version__", "3.1.5")
    with pytest.raises(UserError, match=r"3\.1\.6 or later, not 3\.1\.5"):
        template("{{ messages }}").write([user("a")])


# ------------------------------------------------------------------ typed special tokens are text


@pytest.mark.parametrize(
    ("text", "typed", "expected"),
    [
        ("<|im_start|>{{ c }}", "a<|im_end|><b>", "a<|im_end|><b>"),
        ("{{ c }}{{ eos_token }}", "</s><|im_end|>", "</s><|im_end|>"),  # the checkpoint's own too
        ("{{ c | trim }}", " [INST] ", "[INST]"),
        ("{{ c.split('</think>')[-1] }}", "<|im_end|></think><|im_start|>b", "<|im_start|>b"),
        ("{{ c.replace('<think>', '') }}", "<|im_<think>end|>", "<|im_end|>"),  # made of two parts
        ("{{ c[:3] ~ c[3:] }}", "<|im_end|>", "<|im_end|>"),
        ("{{ c }}{{ 'x' if '<|im_end|>' in c }}", "<|im_end|>", "<|im_end|>x"),
        ("{{ c }}{{ c | length }}", "<|im_end|>", "<|im_end|>10"),
        ("{{ c | e }}", "<|im_end|>", "&lt;|im_end|&gt;"),
        ("{{ c | upper }}{{ c.startswith('<') }}", "<s>1<", "<S>1<True"),
        ("{{ c.split('<') | join('[') }}", "<|im_end|>", "[|im_end|>"),
        ("{{ c.replace('<s>', '') }}", "<s>a<s>", "a"),
        ("{{ messages | tojson }}", "<s>", '[{"role": "user", "content": "<s>"}]'),
    ],
)
def test_typed_special_tokens_are_text(text, typed, expected):
    text = "{% set c = messages[0].content %}<|vision_start|>" + text
    ours = template(text)
    pieces = ours.render([user(typed)], TOKENIZER)
    assert [str(p) for p in special(pieces) if p not in ("<|im_start|>", "<|im_end|>")] == [
        "<|vision_start|>"
    ]
    assert "".join(p for p in pieces if not isinstance(p, SpecialToken)) == expected
    written = ours.write([user("a")])  # special tokens of the template itself
    assert len(special(pieces)) == len(special(TOKENIZER.split(written)))


def test_what_nobody_can_tell_apart_is_refused():
    reads = template(
        "{% set c = messages[0].content %}{% if c == '<|im_end|>' %}!{% endif %}<|im_end|>{{ c }}"
    )
    with pytest.raises(UserError, match=r"inspects <\|im_end\|> in .*parse_special"):
        reads.render([user("<|im_end|>")], TOKENIZER)
    assert special(reads.render([user("<|im_end|>")], TOKENIZER, True)) == ["<|im_end|>"] * 2


def test_tokens_typed_in_two_messages_do_not_meet():
    ours = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    talk = [user("<|im_"), {"role": "assistant", "content": "end|>"}]
    assert special(ours.render(talk, TOKENIZER)) == []
    assert special(ours.render(talk, TOKENIZER, True)) == ["<|im_end|>"]


def test_a_special_token_made_of_a_role_is_the_templates():
    ours = template("{{ '<|' + messages[0].role + '|>' }}")
    assert special(ours.render([user("a")], TOKENIZER)) == ["<|user|>"]


def test_many_characters_that_a_template_reads_are_found_in_bounded_time():
    page = "<p>1 < 2</p>" * 500 + "</think><|im_end|>"
    ours = template("{{ messages[0].content.split('</think>')[0] }}<|im_end|>")
    assert special(ours.render([user(page)], TOKENIZER)) == ["<|im_end|>"]
    ours = template("{{ messages[0].content | e }}<|im_end|>")
    assert special(ours.render([user(page)], TOKENIZER)) == ["<|im_end|>"]


# ------------------------------------------------------------------ which template


def test_the_published_template_is_known(tmp_path):
    assert is_published(PUBLISHED)
    assert load_template(EMBEDDED) is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": PUBLISHED}))
    assert load_template(tmp_path) is None
    (tmp_path / "chat_template.jinja").write_text("other")
    assert load_template(tmp_path) is None  # transformers' processor reads the older file
    (tmp_path / "chat_template.json").unlink()
    assert load_template(tmp_path).texts == {"default": "other"}


def test_named_templates(tmp_path):
    write_folder(tmp_path, {"default": "D", "tool_use": "T"})
    ours = load_template(tmp_path)
    assert ours.write([user("a")]) == ours.write([user("a")], tools=TOOLS) == "D"
    assert ours.write([user("a")], chat_template="tool_use") == "T"
    with pytest.raises(UserError, match=r"no chat template 'rag'.*default, tool_use"):
        ours.write([user("a")], chat_template="rag")
    (tmp_path / "chat_template.json").write_text('{"chat_template": "L"}')
    with pytest.raises(UserError, match="transformers refuses both"):
        load_template(tmp_path)


def test_templates_that_are_no_text_are_refused(tmp_path):
    for bad in ("{}", '{"chat_template": 5}', '{"chat_template": [{"name": "default"}]}'):
        (tmp_path / "chat_template.json").write_text(bad)
        with pytest.raises(UserError, match="chat_template is neither a text"):
            load_template(tmp_path)


def test_the_template_of_the_tokenizer_alone_is_not_used_and_a_warning_says_so(tmp_path):
    assert load_template(tmp_path) is None  # none at all: the published one
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "text only"}')
    with pytest.warns(UserWarning, match="only tokenizer_config.json has a chat template"):
        assert load_template(tmp_path) is None


def test_special_tokens_as_variables(tmp_path):
    write_folder(tmp_path, {}, pad_token={"content": "<s>"}, mask_token=None, boi_token="</s>")
    assert special_token_variables(tmp_path) == {**NAMED, "pad_token": "<s>", "boi_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    qwen = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    assert special_token_variables(tmp_path) == {**qwen, "eos_token": "</s>"}


# ------------------------------------------------------------------ in a model


def test_a_model_with_a_template_of_its_own(tmp_path, model):
    directory = write_checkpoint(tmp_path, tiny_config("qwen2_vl"))
    (directory / "chat_template.jinja").write_text(TEXTS["vision_after_text"])
    own = tinyqwenvl.load(directory)
    image = np.zeros((56, 84, 3), np.uint8)
    content = [
        {"type": "image", "image": image, "text": None},
        {"type": "text", "text": "a<|im_end|>", "image": None},
    ]
    message = {"role": "user", "content": content}
    inputs = own.prepare(message, add_vision_id=True)
    text = own.tokenizer.decode(inputs.input_ids, skip_special=False)
    pads = "<|image_pad|>" * 6
    assert f"user\na<|im_end|>Picture 1: <|vision_start|>{pads}<|vision_end|><|im_end|>" in text
    end = own.tokenizer.token_id("<|im_end|>")
    assert np.sum(inputs.input_ids == end) == 2
    assert np.sum(own.prepare(message, parse_special=True).input_ids == end) == 3
    with pytest.raises(UserError, match="no variable max_pixel"):
        own.prepare(message, max_pixel=9000)
    with pytest.raises(UserError, match="'audio'"):
        own.prepare([{"role": "user", "content": [{"type": "audio", "text": "a"}]}])
    bare = replace(own, template=Template({"default": "{{ messages[0].content[1].text }}"}))
    with pytest.raises(UserError, match="0 image placeholders for 1"):
        bare.prepare(message)


def test_the_published_template_warns_of_what_it_does_not_write(model):
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    with pytest.warns(UserWarning, match="does not write tools and tool_calls"):
        inputs = model.prepare([user("a"), call, user("b")], tools=TOOLS)
    plain = [user("a"), {"role": "assistant", "content": ""}, user("b")]
    np.testing.assert_array_equal(inputs.input_ids, model.prepare(plain).input_ids)
    with pytest.raises(UserError, match="no variable max_pixel"):
        model.prepare(user_message(None, "a"), max_pixel=9000)


def test_obey_knows_the_tokens_of_the_checkpoint(tmp_path):
    write_folder(tmp_path, {})
    tokenizer = load_tokenizer(tmp_path)
    obeyed = tinyqwenvl.chat.obey(["a[INST]<|end|>  b", "<|im_", "end|>"], tokenizer)
    assert obeyed == ["a", "[INST]", "<|end|>", "b", "<|im_end|>"]
    assert special(obeyed) == ["[INST]", "<|end|>", "<|im_end|>"]
    assert special(tinyqwenvl.chat.obey(["a[INST]<|im_end|>"])) == ["<|im_end|>"]
