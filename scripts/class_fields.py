"""The fields of dataclasses and named tuples, with the comments beside them, for Sphinx.

``depth: int = 32  # blocks`` becomes an attribute of the class's page: name, type, default, and
what the comment says.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from dataclasses import is_dataclass


def comments(source):
    """{line number: text} of all comments, their first space taken off."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string[1:].removeprefix(" ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def meaning(said, line):
    """The comment of a line, with indented comments on the lines below, which continue it."""
    text = [said.get(line, "").split("noqa")[0]]
    while text[0] and said.get(line + len(text), "").startswith(" "):
        text.append(said[line + len(text)])
    return " ".join(" ".join(text).split())


def fields(cls):
    """(name, type, default, meaning) of each field, as the source has them; "" where it has none.

    A class that is neither a dataclass nor a named tuple has no fields.
    """
    if not (is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))):
        return
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made at run time
        return
    said = comments(source)
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            default = ast.unparse(node.value) if node.value else ""
            made = re.fullmatch(r"field\(default_factory=([\w.]+).*\)", default)
            default = f"{made[1]}()" if made else default
            type_ = ast.unparse(node.annotation)
            yield node.target.id, type_, default, meaning(said, node.end_lineno)


def escaped(text):
    """A comment as reStructuredText that shows it as it is; ``code`` stays code."""
    parts = re.split(r"(``.*?``|:\w+:`.*?`)", text)
    parts[::2] = [re.sub(r"([\\*|`]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def described(cls):
    """Lines of reStructuredText: an attribute for each field."""
    for name, type_, default, text in fields(cls):
        yield from ("", f".. py:attribute:: {name}", f"   :type: {type_}")
        if default:
            yield f"   :value: {default}"
        yield from ("", f"   {escaped(text)}", "")


def add_to_docstring(app, what, name, item, options, lines):
    """Sphinx's event ``autodoc-process-docstring``."""
    if what in ("class", "exception") and isinstance(item, type):
        lines.extend(described(item))


def readable_signature(app, what, name, item, options, signature, result):
    """Sphinx's event ``autodoc-process-signature``: it cannot parse Python's ``<factory>``."""
    if signature and "<factory>" in signature:
        return signature.replace("=<factory>", " = ...").replace("<factory>", "..."), result
    return None


def skip_fields(app, what, name, item, skip, options):
    """Sphinx's event ``autodoc-skip-member``: fields are described already.

    "Alias for field number 0" is Python's docstring of one, and a type as a default has its own.
    """
    default = isinstance(item, type) and not item.__module__.startswith("tinyqwenvl")
    return True if type(item).__name__ == "_tuplegetter" or (what == "class" and default) else None
