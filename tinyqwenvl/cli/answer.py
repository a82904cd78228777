"""Print an answer token by token; Ctrl-C ends it and keeps the text so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import UserError
from ..generate import until
from ..model import Model


def say(
    model: Model,
    tokens: Iterable[int],
    finish_reason: Callable[[], str | None],
    stops: list[str],
    first_token: Callable[[], None],
    stream: bool,
) -> dict[str, Any]:
    """Generate an answer; with ``stream``, print the text as it arrives. Ctrl-C ends it early."""
    ids: list[int] = []
    text = ""

    def kept() -> Iterator[int]:
        for token in tokens:
            first_token()
            ids.append(token)
            yield token

    try:
        for part in until(model.tokenizer.stream(kept()), stops):
            text += part
            if stream:
                print(part, end="", flush=True)
        reason = finish_reason() or "stop"
    except KeyboardInterrupt:
        reason = "interrupt"
    except UserError:
        if text and stream:
            print(flush=True)
        raise
    if stream:
        print(flush=True)
    return {"text": text, "token_ids": ids, "finish_reason": reason}
