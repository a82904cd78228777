"""Every function of the package whose signature states a shape, wrapped so that it is checked."""

import importlib
import inspect
import pkgutil
import typing

import tinyqwenvl
from tinyqwenvl.dims import Dims, checked


def _states_a_shape(function) -> bool:
    """Whether a signature says anything that ``checked`` looks at: wrapping the rest costs only."""

    def shaped(hint):
        said = any(isinstance(part, Dims) for part in getattr(hint, "__metadata__", ()))
        return said or any(map(shaped, typing.get_args(hint)))

    return any(map(shaped, typing.get_type_hints(function, include_extras=True).values()))


def _check_all_shapes() -> int:
    names = [m.name for m in pkgutil.walk_packages(tinyqwenvl.__path__, "tinyqwenvl.")]
    modules = [importlib.import_module(name) for name in names if "__main__" not in name]
    wrapped: dict = {}

    def ours(value):
        return getattr(value, "__module__", "").startswith("tinyqwenvl.") and (
            value.__module__ not in ("tinyqwenvl.dims", "tinyqwenvl.tracing")
        )

    def wrap(holder, names, put):
        done = set(wrapped.values())
        for name, value in names:
            if inspect.isfunction(value) and value in done:  # by another name
                continue
            if inspect.isfunction(value) and ours(value) and _states_a_shape(value):
                put(holder, name, wrapped.setdefault(value, checked(value)))

    for module in modules:
        wrap(module, list(vars(module).items()), setattr)
        for value in list(vars(module).values()):
            if inspect.isclass(value) and ours(value):
                wrap(value, list(vars(value).items()), setattr)
    for table in (tinyqwenvl.vision.NORM, tinyqwenvl.vision.MLP):
        wrap(table, list(table.items()), dict.__setitem__)
    return len(wrapped)


CHECKED_FUNCTIONS = _check_all_shapes()
