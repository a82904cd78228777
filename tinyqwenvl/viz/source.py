"""Show the source of the library in a notebook, so that no copy can become stale."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, NamedTuple


class Source(NamedTuple):
    """An excerpt of the library's source, and its file."""

    file: str  # such as tinyqwenvl/image.py
    text: str  # Python source

    def __repr__(self) -> str:
        return f"# {self.file}\n\n{self.text}"

    def _repr_markdown_(self) -> str:
        return f"`{self.file}`\n\n```python\n{self.text}\n```"


def source(*functions: Any) -> Source:
    """The source of functions, methods or classes of one file.

    Jupyter shows the last expression of a cell: ``source(image.patchify)``.
    """
    plain = [inspect.unwrap(function) for function in functions]
    modules = {function.__module__ for function in plain}
    if len(modules) != 1:
        raise ValueError(f"show one file at a time, not {', '.join(sorted(modules))}")
    texts = [textwrap.dedent(inspect.getsource(function)).rstrip() for function in plain]
    return Source(modules.pop().replace(".", "/") + ".py", "\n\n\n".join(texts))
