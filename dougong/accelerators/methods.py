"""How an accelerator's methods are called, so that a package's mistake is found when it is loaded
and not where the method is first used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any


def wrong_methods(kind: type[Any], base: type[Any]) -> Iterator[str]:
    """Of each method that cannot be called as `base`'s is: its arguments, and those that it is
    given. The class itself is called with none."""
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError) as error:
        yield f"{kind.__name__}() is called without arguments ({error})"
    for name, wanted in inspect.getmembers(base, inspect.isfunction):
        given = getattr(kind, name, None)
        if name.startswith("_") or given is getattr(base, name):
            continue
        if not callable(given):
            yield f"{name} is {given!r}, and must be a method"
        elif not _takes(given, inspect.signature(wanted), _has_self(kind, name)):
            yield f"{name}{inspect.signature(given)} is called as {name}{inspect.signature(wanted)}"


def _has_self(kind: type[Any], name: str) -> bool:
    """Whether the function that the class gives by this name takes the instance, too."""
    return not isinstance(inspect.getattr_static(kind, name), (staticmethod, classmethod))


def _takes(given: Any, wanted: inspect.Signature, has_self: bool) -> bool:
    """Whether a method can be called with all arguments of another one, in order and by name."""
    instance = [None] if has_self else []
    names = list(wanted.parameters)[1:]
    try:
        signature = inspect.signature(given)
        signature.bind(*instance, *([None] * len(names)))
        signature.bind(*instance, **dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True
