"""Messages as people bring them."""

import enum
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.random_checkpoint import random_image
from tinyqwenvl import UserError, chat
from tinyqwenvl.messages import as_messages, content_items, media_kind

IMAGE = random_image(1, 56, 56)

ONE = {"role": "user", "content": "hello"}
TEXT = "".join(chat.render([ONE]))


class Role(str, enum.Enum):  # noqa: UP042 (its text is not its value, as in older models)
    user = "user"


@dataclass
class Item:
    type: str
    text: str | None = None
    image: Any = None


@dataclass
class Message:
    role: str
    content: Any
    tool_calls: list = field(default_factory=list)


class Pydantic:
    """The part of a pydantic model that counts."""

    def __init__(self, **values):
        self.values = values

    def model_dump(self):
        return self.values


@pytest.mark.parametrize(
    "messages",
    [
        ONE,
        (ONE,),
        {**ONE, "name": None, "tool_calls": None},
        [{"role": Role.user, "content": "hello"}],
        Message("user", "hello"),
        [Message("user", [Item("text", "hello")])],
        [Message("user", [{"type": "text", "text": "hello", "image": None, "video": None}])],
        SimpleNamespace(role="user", content="hello"),
        [SimpleNamespace(role="user", content=[SimpleNamespace(type="text", text="hello")])],
        SimpleNamespace(messages=[ONE]),
        [Pydantic(role="user", content="hello", tool_calls=None)],
        [{"role": "user", "content": [Pydantic(type="text", text="hello", image_url=None)]}],
    ],
)
def test_every_form_of_one_message(messages, model):
    assert "".join(chat.render(messages)) == TEXT
    assert model.tokenizer.decode(model.prepare(messages).input_ids, False) == TEXT


def test_pydantic_messages():
    pydantic = pytest.importorskip("pydantic")

    class Text(pydantic.BaseModel):
        type: str = "text"
        text: str | None = None
        image_url: dict | None = None

    class Turn(pydantic.BaseModel):
        role: str
        content: str | list[Text] | None = None
        tool_calls: list | None = None

    assert "".join(chat.render([Turn(role="user", content=[Text(text="hello")])])) == TEXT
    assert "".join(chat.render(Turn(role="user", content="hello"))) == TEXT


def test_media_are_left_as_they_are():
    image = random_image(1, 30, 40)
    for item in ({"type": "image", "image": image}, Item("image", image=image)):
        (found,) = as_messages([{"role": "user", "content": [item]}])
        assert found["content"][0]["image"] is image
    frames = [image, image]
    (found,) = as_messages({"role": "user", "content": [{"video": frames, "fps": None}]})
    assert found["content"] == [{"video": frames}] and found["content"][0]["video"] is frames


def test_the_callers_messages_are_not_changed():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a", "image": None}]}]
    chat.render(messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "a", "image": None}]}]


@pytest.mark.parametrize("key", ["tool_calls", "function_call", "reasoning_content"])
def test_content_may_be_none_beside_tool_calls_or_thoughts(key):
    message = {"role": "assistant", "content": None, key: [{}]}
    assert content_items(message) == []
    assert "".join(chat.render([message], False)).endswith("<|im_start|>assistant\n<|im_end|>\n")


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"role": "assistant", "content": None, "tool_calls": None}, "content"),
        ({"role": 5, "content": "a"}, "'role' and 'content'"),
        ([ONE, None], "'role' and 'content'"),
        (Pydantic(role="user"), "content|list of dicts"),
        ([[ONE]], "'role' and 'content'"),
    ],
)
def test_what_is_no_message(bad, complaint):
    with pytest.raises(UserError, match=complaint):
        as_messages(bad)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"type": "image"}, "image"),
        ({"type": "image_url", "image_url": {"url": "a"}}, "image"),
        ({"type": "text", "text": ""}, "text"),
        ({"type": "video", "path": "a"}, "video"),
        ({"type": "video_url", "video_url": {"url": "a"}}, "video"),
        ({"type": "video", "video": "a", "image": None}, "video"),
        ({"image": "a", "text": "b"}, "image"),
    ],
)
def test_kinds_of_items(item, kind):
    assert media_kind(item) == kind


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"image": IMAGE, "text": "b"}, "image and text: only the image is read"),
        ({"type": "text", "text": "b", "image": IMAGE}, "image and text"),
        ({"image": IMAGE, "video": [IMAGE]}, "image and video: only the image"),
        ({"video": [IMAGE], "text": "b"}, "video and text"),
        ({"image": IMAGE, "text": "", "video": None}, None),
    ],
)
def test_what_templates_do_not_write_of_an_item_is_said_once(item, said, model, recwarn):
    model.prepare([{"role": "user", "content": [item]}])
    told = [str(w.message) for w in recwarn if "content item" in str(w.message)]
    assert len(told) == (said is not None) and all(said in text for text in told)


@pytest.mark.parametrize("kind", ["audio", "input_text", "input_image", "file", 5, "", ["text"]])
def test_unknown_types_are_refused_whatever_their_keys(kind):
    item = {"type": kind, "text": "a", "image": "b"}
    with pytest.raises(UserError, match="must be image, video or text"):
        chat.render([{"role": "user", "content": [item]}])
