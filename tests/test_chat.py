import json

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyqwenvl
from tinyqwenvl import UserError, chat
from tinyqwenvl.model import EMBEDDED, user_message
from tinyqwenvl.tokenizer import SpecialToken

TEMPLATE = json.loads((EMBEDDED / "chat_template.json").read_text())["chat_template"]
PUBLISHED = jinja2.Environment().from_string(TEMPLATE)

words = st.text(max_size=12)
items = st.one_of(
    words.map(lambda t: {"type": "text", "text": t}),
    st.sampled_from(
        [
            {"type": "image", "image": "a.png"},
            {"image_url": "a.png"},
            {"image": "a.png", "text": "unread"},
            {"type": "video", "video": "a.mp4"},
            {"video": ["a.png"]},
        ]
    ),
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]),
            "content": st.one_of(words, st.lists(items, max_size=4)),
        }
    ),
    min_size=1,
    max_size=4,
)


@given(messages, st.booleans(), st.booleans())
def test_render_equals_the_published_template(conversation, prompt, vision_id):
    expected = PUBLISHED.render(
        messages=conversation, add_generation_prompt=prompt, add_vision_id=vision_id
    )
    assert "".join(chat.render(conversation, prompt, vision_id)) == expected


def test_a_question_about_an_image():
    text = "".join(chat.render(user_message("a.png", "describe")))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>describe<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ([{"content": "hello"}], "role"),
        (["hello"], "role|content"),
        ("hello", "list of dicts"),
        ({"content": "hello"}, "role"),
        (None, "list of dicts"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": 5}], "content"),
        ([{"role": "user", "content": ["hello"]}], "content"),
        ([{"role": None, "content": "hello"}], "role"),
        ([{"role": "user", "content": None}], "content"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a"}]}], "image, video or text"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "'input_text'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "image, video or text"),
    ],
)
def test_bad_messages(bad, complaint):
    for read in (chat.render, tinyqwenvl.load().prepare):
        with pytest.raises(UserError, match=complaint):
            read(bad)


def test_expand():
    pieces = ["<|image_pad|>", chat.IMAGE_PAD, "and", chat.IMAGE_PAD]
    expanded = chat.expand(pieces, chat.IMAGE_PAD, [2, 3])
    assert [isinstance(p, SpecialToken) for p in expanded] == [
        False,
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(UserError, match="2 image placeholders for 1"):
        chat.expand(pieces, chat.IMAGE_PAD, [2])
