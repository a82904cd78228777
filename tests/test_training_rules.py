"""Which tokens training code learns, and how it packages: each rule beside the code that has it.

The witnesses are short re-statements of what the named projects do, token by token, written from
their sources (docs/training.md); the templates are the published ones, rendered by jinja2.
"""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import max_examples

from scripts.random_checkpoint import TOKEN_IDS, byte_tokenizer, random_image
from tinyqwenvl import UserError, chat
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.transform import Transform

END, EOS, START = (TOKEN_IDS[f"<|{name}|>"] for name in ("im_end", "endoftext", "im_start"))
IMAGE = random_image(3, 60, 90)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_tokenizer().save(str(file))
    return file


texts = st.text(st.characters(codec="ascii", exclude_characters="<|>"), max_size=6)
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=5)


def conversation(pairs):
    return [{"role": role, "content": text} for role, text in pairs]


def learnt(sample):
    return [not out for out in sample["mask"]]


def official_labels(ids, newline):
    """preprocess_qwen_visual: after ``assistant`` and a newline, up to ``<|im_end|>`` and one more.

    (There the role is one token; in this byte tokenizer it is its letters.)
    """
    role = [TOKEN_IDS["<|im_start|>"], *byte_ids("assistant\n")]
    labels, at = [False] * len(ids), 0
    while at < len(ids):
        if ids[at : at + len(role)] == role:
            start = end = at + len(role)
            while end < len(ids) and ids[end] != END:
                end += 1
            if end < len(ids):
                labels[start : end + 1 + newline] = [True] * (end + 1 + newline - start)
                at = end
        at += 1
    return labels


def byte_ids(text):
    return byte_tokenizer().encode(text, add_special_tokens=False).ids


@max_examples(60)
@given(turns)
def test_the_official_code_learns_the_newline(path, pairs):
    """As TRL, LLaMA-Factory and VeOmni; axolotl and NeMo are the same without it."""
    for newline in (True, False):
        transform = Transform(path, add_eos=False, learn_newline=newline)
        sample = transform({"messages": conversation(pairs)})
        assert learnt(sample) == official_labels(sample["tokens"], newline)


@max_examples(60)
@given(
    turns,
    st.sampled_from(["turn", "all", "last", "none"]),
    st.sampled_from([("assistant",), ("user",), ("user", "assistant"), ()]),
)
def test_roles_and_ends_of_turns_as_axolotl_has_them(path, pairs, ends, roles):
    """roles_to_train and train_on_eos of its ChatTemplateStrategy."""
    transform = Transform(
        path, add_eos=False, learn_newline=False, train_on_roles=roles, train_on_eos=ends
    )
    sample = transform({"messages": conversation(pairs)})
    ids, labels, last = sample["tokens"], [False] * len(sample["tokens"]), -1
    starts = [i for i, token in enumerate(ids) if token == START]
    system = [] if pairs[0][0] == "system" else [("system", "")]
    for start, (role, _) in zip(starts, [*system, *pairs], strict=True):
        begin, end = start + 1 + len(byte_ids(role + "\n")), ids.index(END, start)
        trained = role in roles
        if trained:
            labels[begin:end] = [True] * (end - begin)
            last = end
        labels[end] = ends == "all" or (ends == "turn" and trained)
    if ends == "last" and last >= 0:
        labels[last] = True
    assert learnt(sample) == labels


# ------------------------------------------------------------------ TorchTune's packaging


def torchtune(messages, add_eos, max_seq_len=None):
    """Qwen2_5Tokenizer.tokenize_messages: its header, footer, eos and truncation."""
    tokens, mask = [], []
    for i, message in enumerate(messages):
        new = [START, *byte_ids(message.role + "\n")]
        new += [token for item in message.content for token in byte_ids(item["content"])]
        if message.role != "assistant" or i != len(messages) - 1:
            new += [END, *byte_ids("\n")]
        tokens += new
        mask += [message.masked] * len(new)
    if add_eos:
        tokens.append(END)
        mask.append(mask[-1])
    if max_seq_len is not None:
        tokens, mask = tokens[:max_seq_len], mask[:max_seq_len]
        if add_eos:
            tokens[-1], mask[-1] = END, True
    return tokens, mask


@max_examples(60)
@given(turns, st.booleans(), st.one_of(st.none(), st.integers(1, 90)))
def test_the_packaging_of_torchtune(path, pairs, add_eos, most):
    messages = [
        SimpleNamespace(
            role=role, content=[{"type": "text", "content": text}], masked=role != "assistant"
        )
        for role, text in pairs
    ]
    transform = Transform(path, packaging="torchtune", add_eos=add_eos, max_seq_len=most)
    expected = torchtune(messages, add_eos, most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # that it was cut
        tokens, mask = transform.tokenize_messages(messages)
    assert (tokens, mask) == expected
    plain = transform.tokenize_messages(conversation(pairs)) if most is None else expected
    assert plain == expected  # without ``masked``, a turn is trained by its role


def test_torchtune_has_no_system_turn_and_ends_in_im_end(path):
    transform = Transform(path, packaging="torchtune")
    sample = transform({"messages": conversation([("user", "a"), ("assistant", "b")])})
    text = transform.decode(sample["tokens"], False)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    assert transform.eos_id == END and transform.encode("a", add_eos=True)[-1] == END
    assert transform.stop_tokens == [EOS, END]


# ------------------------------------------------------------------ tools

TOOL_TEMPLATE = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
"""  # noqa: E501  of Qwen2.5-VL's tokenizer_config.json

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich <b>"}}}
BARE = {"name": "add", "arguments": {"a": 1, "b": [2, None]}}
TOOL = {"type": "function", "function": {"name": "weather", "description": 'The "weather" & é'}}
spoken = st.one_of(
    st.tuples(st.just("user"), texts, st.none()),
    st.tuples(st.just("assistant"), texts, st.sampled_from([None, [], [CALL], [CALL, BARE]])),
    st.tuples(st.just("tool"), texts, st.none()),
)


def rendered(messages, tools):
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)  # as transformers
    return environment.from_string(TOOL_TEMPLATE).render(messages=messages, tools=tools)


@max_examples(80)
@given(
    st.lists(spoken, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, [], [TOOL], [TOOL, TOOL]]),
)
def test_tools_are_those_of_the_published_template(path, said, system, tools):
    messages = [{"role": r, "content": c, **({"tool_calls": t} if t else {})} for r, c, t in said]
    if system:
        messages = [{"role": "system", "content": "Be brief."}, *messages]
    elif messages[0]["role"] == "system":
        return
    transform = Transform(path, add_eos=False)
    sample = transform({"messages": messages, "tools": tools})
    expected = rendered(messages, tools)
    obeyed = chat.obey(
        [expected.replace("<tool_call>", "\ue000").replace("</tool_call>", "\ue001")]
    )
    back = {"\ue000": "<tool_call>", "\ue001": "</tool_call>"}
    pieces = [p if isinstance(p, chat.SpecialToken) else _back(p, back) for p in obeyed]
    assert sample["tokens"] == transform.tokenizer.encode(pieces).tolist()
    text = transform.decode([t for t, out in zip(sample["tokens"], sample["mask"], strict=True)
                             if not out], False)  # fmt: skip
    assert text.count("<tool_call>") == sum(len(t or []) for _, _, t in said)
    assert "<tool_response>" not in text and "# Tools" not in text


def _back(text, table):
    for this, that in table.items():
        text = text.replace(this, that)
    return text


def test_calls_and_results_of_torchtune(path):
    """``ipython``: the content of the answer is the call; results are of the role ipython."""

    def message(role, text, ipython=False):
        items = [{"type": "text", "content": text}]
        return SimpleNamespace(role=role, content=items, masked=False, ipython=ipython)

    transform = Transform(path, packaging="torchtune")
    tokens, _ = transform.tokenize_messages(
        [message("assistant", "{}", True), message("ipython", "1"), message("ipython", "2"),
         message("assistant", "3")]
    )  # fmt: skip
    assert transform.decode(tokens, False) == (
        "<|im_start|>assistant\n<tool_call>\n{}\n</tool_call><|im_end|>\n<|im_start|>user\n"
        "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>"
    )


def test_a_result_may_hold_an_image(path):
    results = [{"role": "tool", "content": [{"type": "image", "image": IMAGE}]}]
    sample = Transform(path)({"messages": [{"role": "user", "content": "x"}, *results]})
    vision = sample["encoder_input"]["vision"]
    assert len(vision["images"]) == 1 and vision["image_grid_thw"].shape == (1, 3)
    assert "image_grid_thw" in results[0]["content"][0]


# ------------------------------------------------------------------ messages as tables hold them


def test_keys_that_are_none_do_not_count(path):
    full = [
        {"type": "image", "image": IMAGE, "text": None},
        {"type": "text", "text": "a", "image": None},
    ]
    bare = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "a"}]
    none = {"tool_calls": None, "masked": None, "name": None}
    transform = Transform(path)
    one = transform({"messages": [{"role": "user", "content": full, **none}], "tools": None})
    two = transform({"messages": {"role": "user", "content": bare}})  # a single message
    assert one["tokens"] == two["tokens"]


def test_the_grids_of_the_images_that_were_kept(path):
    items = [{"image": IMAGE}, {"text": "and"}, {"image": IMAGE[:, :30]}]
    messages = [{"role": "user", "content": items}]
    whole = Transform(path, add_eos=False)({"messages": messages})
    grids = whole["encoder_input"]["vision"]["image_grid_thw"]
    assert [np.prod(g) for g in grids] == [
        len(i) for i in whole["encoder_input"]["vision"]["images"]
    ]
    with pytest.warns(ImageWarning, match="1 of 2 images dropped"):
        cut = Transform(path, max_seq_len=len(whole["tokens"]) - 4)({"messages": messages})
    np.testing.assert_array_equal(cut["encoder_input"]["vision"]["image_grid_thw"], grids[:1])
    none = Transform(path)({"messages": [{"role": "user", "content": "x"}]})
    assert none["encoder_input"]["vision"]["image_grid_thw"].shape == (0, 3)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "only the assistant calls"),
        ({"role": "assistant", "content": "x", "tool_calls": "f"}, "a list of calls"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "has no name"),
        ({"role": "assistant", "content": "x", "tool_calls": [5]}, "has no name"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]},
            r"json\.loads",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {1, 2}}]},
            "cannot be JSON",
        ),
        ({"role": "assistant", "content": None}, "a text or a list"),
        ({"role": None, "content": "x"}, "the role of a message must be a text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "image": "b.png"}]},
            "also has",
        ),
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "text or image"),
        ({"role": "user", "content": [{"image": None, "text": None}]}, "text or image"),
    ],
)
def test_odd_messages_are_one_line(path, message, says):
    with pytest.raises(UserError, match=says) as caught:
        Transform(path)({"messages": [message]})
    assert "\n" not in str(caught.value)


def test_odd_settings_are_one_line(path):
    good = [{"role": "user", "content": "x"}]
    for call, says in (
        (lambda: Transform(path, train_on_eos="yes"), "turn, all, last, none"),
        (lambda: Transform(path, packaging="llama"), "published, torchtune"),
        (lambda: Transform(path, train_on_roles="user"), "a list such as"),
        (
            lambda: Transform(path)({"messages": good, "tools": "f"}),
            "tools must be a list of dicts",
        ),
        (
            lambda: Transform(path, packaging="torchtune")({"messages": good, "tools": [TOOL]}),
            "tools need a system turn",
        ),
    ):
        with pytest.raises(UserError, match=says):
            call()
