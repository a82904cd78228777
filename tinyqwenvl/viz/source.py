"""The source of the library itself, shown in a notebook: never a second copy of it."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, NamedTuple


class Source(NamedTuple):
    """A piece of the library's text, and the file that it stands in."""

    file: str
    text: str

    def __repr__(self) -> str:
        return f"# {self.file}\n\n{self.text}"

    def _repr_markdown_(self) -> str:
        return f"`{self.file}`\n\n```python\n{self.text}\n```"


def source(*functions: Any) -> Source:
    """The source of functions, methods or classes of one file, as it stands there.

    The last expression of a cell is shown: ``source(image.patchify)``.
    """
    plain = [inspect.unwrap(function) for function in functions]
    modules = {function.__module__ for function in plain}
    if len(modules) != 1:
        raise ValueError(f"show one file at a time, not {', '.join(sorted(modules))}")
    texts = [textwrap.dedent(inspect.getsource(function)).rstrip() for function in plain]
    return Source(modules.pop().replace(".", "/") + ".py", "\n\n\n".join(texts))
