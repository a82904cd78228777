"""Multi-turn chat that keeps its KV cache, so that each turn computes only its new tokens.

The ids of an answer are kept as generated (re-encoding its text may give others). The cache
therefore always holds exactly the ids of :attr:`Conversation.ids`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from . import chat
from .errors import UserError
from .generate import Generation, Past
from .model import Inputs, Model
from .nn import KVCache
from .sampling import GREEDY, Sampling


class Conversation:
    """The messages so far, and their KV cache.

    :meth:`say` takes the user's content and yields the tokens of the answer. Images and videos are
    encoded once, in the turn that contains them. Only for checkpoints with the published chat
    template.
    """

    def __init__(self, model: Model, system: str | None = None, add_vision_id: bool = False):
        if model.template is not None:
            raise UserError(
                "this checkpoint has its own chat template, whose prompts need not grow turn by "
                "turn; give the whole prompt each time"
            )
        self.model, self.add_vision_id = model, add_vision_id
        self.system = [] if system is None else [{"role": "system", "content": system}]
        self.clear()

    def clear(self) -> None:
        """Drop everything except the system prompt."""
        self.messages: list[dict[str, Any]] = list(self.system)
        self.ids = np.zeros(0, np.int64)
        self.cache = KVCache()
        self.media: dict[str, Any] = {}  # grids and seconds of all media so far
        self.generation: Generation | None = None  # of the last answer
        self._speaking = False

    def say(
        self,
        content: str | Sequence[dict[str, Any]],
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        **reading: Any,
    ) -> Generator[int, None, None]:
        """Answer the user's turn: yields the tokens of the answer one by one.

        The conversation keeps the tokens that were yielded, even if you leave the loop early. A
        turn that fails, or is interrupted before its first token, changes nothing. ``reading``
        goes to :meth:`Model.read_media`. Raises UserError.
        """
        if self._speaking:
            raise UserError("the last answer is still open; finish or close it first")
        self.generation = None
        inputs, messages, media = self._next(content, reading)
        before = self.ids[: self.cache.length]
        past = Past(self.cache, before)
        self.generation = self.model.generate(inputs, max_tokens, sampling, past)
        answer: list[int] = []
        began, self._speaking = False, True
        try:
            for token in self.generation:
                began = True
                answer.append(token)
                yield token
            began = True
        finally:
            self._speaking = False
            held = self.cache.whole(self.model.config.text.num_hidden_layers)
            self.cache.keep(held if began else len(before))
            if began:
                asked = np.append(before, inputs.input_ids)
                text = self.model.tokenizer.decode(answer)
                self.messages = [*messages, {"role": "assistant", "content": text}]
                self.media = media
                self.ids = np.append(asked, np.array(answer, np.int64))

    def _next(
        self, content: Any, reading: dict[str, Any]
    ) -> tuple[Inputs, list[dict[str, Any]], dict[str, Any]]:
        """Inputs that are not in the cache yet; messages and media including the new turn."""
        message = {"role": "user", "content": content}
        messages = [*self.messages, message]
        new = self.model.read_media([message], **reading)
        pieces = chat.render(messages, add_vision_id=self.add_vision_id)
        if len(self.messages) > len(self.system):  # the model has read all but the last answer
            known = chat.render(self.messages[:-1], add_vision_id=self.add_vision_id)
            pieces = pieces[len(known) + 1 :]
        ids = np.append(self.ids, self.model.encode(pieces, new))
        media: dict[str, Any] = {
            name: _joined(self.media.get(name), new.get(name))
            for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if name in self.media or name in new
        }
        positions, delta = self.model.positions(ids, media)
        held = self.cache.length
        return Inputs(ids[held:], positions[:, held:], delta, **new), messages, media


def _joined(old: Any, new: Any) -> Any:
    if old is None or new is None:
        return new if old is None else old
    return old + new if isinstance(old, tuple) else np.concatenate([old, new])
