"""Cases of chat_template: messages and the text of their prompt."""

from __future__ import annotations

from typing import Any

from .registry import case

IMAGE_ITEM, VIDEO_ITEM = {"type": "image"}, {"type": "video"}


def text(words: str) -> dict[str, str]:
    """A text item."""
    return {"type": "text", "text": words}


def user(*content: Any) -> dict[str, Any]:
    """A user's message; one string is the content itself."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else [*content]}


def said(role: str, content: Any) -> dict[str, Any]:
    """A message of another role."""
    return {"role": role, "content": content}


def chat(name: str, pins: str, flags: str, *messages: Any, **more: Any) -> None:
    """A case of chat_template."""
    given = {"add_generation_prompt": True, "add_vision_id": False}
    given = {key: more.pop(key, value) for key, value in given.items()}
    case("chat_template", name, pins, flags, **more, messages=[*messages], **given)


chat("words", "The default system message comes first.", "text", user("What is red?"))
chat("a-picture", "One placeholder between its markers, no line end after it.", "picture",
     user(IMAGE_ITEM, text("describe")))  # fmt: skip
chat("text-first", "Items keep the order in which they are written.", "picture order",
     user(text("Look at "), IMAGE_ITEM, text(" and say what it is.")))  # fmt: skip
chat("text-before-pictures", "Pictures are not moved before the text.", "pictures order",
     user(text("First"), IMAGE_ITEM, text("second"), IMAGE_ITEM, text("same?")))  # fmt: skip
chat("own-system-message", "A system message takes the place of the default one.", "system",
     said("system", "Answer in one word."), user(IMAGE_ITEM, text("What is it?")))  # fmt: skip
chat("system-as-items", "A system message may be a list of items.", "system",
     said("system", [text("Be "), text("brief.")]), user("Hello"))  # fmt: skip
chat("empty-system-message", "An empty system message is a system message.", "system",
     said("system", ""), user("Hello"))  # fmt: skip
chat("late-system-message", "Only the first message decides about the default.", "system",
     user("Hello"), said("system", "Answer in French."), user("And now?"))  # fmt: skip
chat("three-turns", "Every turn ends with its marker and a line end.", "turns",
     user(IMAGE_ITEM, text("What is it?")), said("assistant", "A square."),
     user("Its colour?"), said("assistant", [text("Red.")]), user("Sure?"))  # fmt: skip
chat("without-generation-prompt", "The assistant's turn is not begun.", "turns",
     user("Hello"), said("assistant", "Hi."), add_generation_prompt=False)  # fmt: skip
chat("picture-numbers", "Pictures and videos are counted apart, from 1.", "add-vision-id",
     user(IMAGE_ITEM, VIDEO_ITEM, IMAGE_ITEM, text("Compare."), VIDEO_ITEM),
     add_vision_id=True)  # fmt: skip
chat("picture-numbers-over-turns", "Numbers go on over the turns.", "add-vision-id turns",
     user(IMAGE_ITEM, text("What is it?")), said("assistant", "A dog."),
     user(IMAGE_ITEM, text("And this?")), add_vision_id=True)  # fmt: skip
chat("a-clip", "A video has its own placeholder.", "video", user(VIDEO_ITEM, text("What happens?")))
chat("keys-without-types", "An item is what its keys say: image, image_url, video.", "pictures",
     user({"image": "a.png"}, {"image_url": "b.png"}, {"video": "c.mp4"},
          {"text": "?"}))  # fmt: skip
chat("key-over-type", "An item with an image is a picture, even if it calls itself a text.",
     "picture", user({"type": "text", "text": "unread", "image": "a.png"}, text("!")))  # fmt: skip
chat("spaces-are-kept", "Spaces and line ends at the ends of a text stay.", "text",
     user("  two spaces before, a line end after\n"))  # fmt: skip
chat("beyond-ascii", "Text is passed on as it is.", "text", user('图片和 "naïve" <b> & 🙂 {{ x }}'))
chat("other-role", "Any role is written down.", "text", user("1 + 1?"), said("tool", "2"))
chat("nothing-said", "A message without items is a message.", "text", said("user", []))
chat("content-a-number", "A content that is no text and no list is refused.", "mistake",
     said("user", 5))  # fmt: skip
chat("unknown-item", "An item that is no text, picture or video is refused.", "mistake",
     user({"type": "audio", "audio": "a.wav"}, text("What is said?")),
     reason="The published template leaves out what it does not know, without a word.",
      result="acceptable")  # fmt: skip
chat("no-role", "A message without a role is refused.", "mistake", {"content": "Hello"},
     reason="The published template writes an empty role.",
      result="acceptable")  # fmt: skip
