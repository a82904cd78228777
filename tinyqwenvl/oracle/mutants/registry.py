"""The registry of injected bugs (mutants): what a mutant is, and how it is applied."""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from ... import (
    chat,
    config,
    decoder,
    deprecated,
    image,
    model,
    nn,
    position,
    sampling,
    video,
    vision,
)
from ...errors import UserError

MODULES = {
    m.__name__.rpartition(".")[2]: m
    for m in (chat, config, decoder, image, model, nn, position, sampling, video, vision)
}


@dataclass(frozen=True)
class Mutant:
    """An injected bug: ``make()`` returns {"module.name": its replacement}."""

    name: str
    what: str  # one line
    report: str
    make: Callable[[], dict[str, Any]]


MUTANTS: dict[str, Mutant] = {}
RENAMED = {  # names of version 0.1
    "pictures_before_text": "images_before_text",
    "windows_across_pictures": "windows_across_images",
}


def mutant(report: str) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Register a function under its name; its docstring says what is wrong.

    ``report`` is where the bug was seen. The function returns {"module.name": its replacement}.
    """

    def register(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        what = " ".join((make.__doc__ or "").split()).rstrip(".")
        MUTANTS[make.__name__] = Mutant(make.__name__, what, report, make)
        return make

    return register


def of_the_prompt() -> list[str]:
    """The bugs in the preparation of the prompt: chat template, images, videos."""
    return [n for n, bug in MUTANTS.items() if bug.make.__module__.endswith((".chat", ".image"))]


def find_mutant(name: str) -> Mutant:
    """The mutant of that name, which may be one of version 0.1. Raises UserError for others."""
    current = RENAMED.get(name, name)
    if current not in MUTANTS:
        raise UserError(f"no mutant is called {name[:200]}; `oracle mutants` lists them")
    if current != name:
        deprecated.warn(f"the mutant {name}", current)
    return MUTANTS[current]


@contextmanager
def apply(*names: str | None) -> Iterator[None]:
    """Inject the bugs called ``names``, one after another, while the block runs; None is none.

    Raises UserError for an unknown name, and for a mutant that replaces what does not exist.
    """
    with ExitStack() as stack:
        for name in names:
            if name is not None:
                stack.enter_context(_applied(find_mutant(name)))
        yield


@contextmanager
def _applied(bug: Mutant) -> Iterator[None]:
    replaced, nothing = _replacements(bug), object()
    before = [(module, attr, vars(module).get(attr, nothing)) for module, attr, _ in replaced]
    try:
        for module, attribute, value in replaced:
            setattr(module, attribute, _joined(vars(module).get(attribute), value))
        yield
    finally:
        for module, attribute, value in reversed(before):
            if value is nothing:
                delattr(module, attribute)
            else:
                setattr(module, attribute, value)


def _joined(old: Any, new: Any) -> Any:
    """A variant of a module that another bug has changed already: with the changes of both."""
    if not isinstance(old, SimpleNamespace) or not isinstance(new, SimpleNamespace):
        return new
    original = vars(sys.modules[new.__name__])
    changed = {n: value for n, value in vars(new).items() if value is not original.get(n)}
    return SimpleNamespace(**{**vars(old), **changed})


def _replacements(bug: Mutant) -> list[tuple[ModuleType, str, Any]]:
    """(module, attribute, replacement), each attribute being one that the module has or uses."""
    found = []
    for path, value in bug.make().items():
        name, _, attribute = path.partition(".")
        module = MODULES.get(name)
        if module is None or not (attribute in vars(module) or _calls(module, attribute)):
            raise UserError(f"the mutant {bug.name} replaces {path}, which does not exist")
        found.append((module, attribute, value))
    return found


def _calls(module: ModuleType, name: str) -> bool:
    """Whether a function of the module calls the builtin ``name``, such as ``round``."""
    functions = [inspect.unwrap(f) for f in vars(module).values() if inspect.isfunction(f)]
    own = [f for f in functions if f.__module__ == module.__name__]
    return hasattr(builtins, name) and any(name in f.__code__.co_names for f in own)


def variant(module: ModuleType, **changed: Any) -> Any:
    """A module with some functions changed, for one of those that use it.

    Raises UserError for a function that the module does not have.
    """
    if unknown := [name for name in changed if name not in vars(module)]:
        raise UserError(f"{module.__name__} has no {unknown[0]}, which a mutant replaces")
    return SimpleNamespace(**{**vars(module), **changed})
