"""Classes that installed packages offer by entry points. Imports no torch."""

from __future__ import annotations

import platform
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import TypeVar

from dougong.error_words import reason_words
from dougong.errors import DeviceError

T = TypeVar("T")


def offered_class(
    point: EntryPoint, base: type[T], what: str, page: str, otherwise: str = ""
) -> type[T]:
    """What an entry point names, a subclass of `base`. `what` it is, in words; `page`: where it is
    told what such a class must be; `otherwise`: what else a person can do.

    Raises DeviceError for one that does not load, or is something else.
    """
    where = f"{what} {point.name}: entry point {point.value}"
    try:
        kind = point.load()
    except (Exception, SystemExit) as error:  # whatever another package's module may raise
        reason = reason_words(error, named=True)
        raise DeviceError(
            f"{where} does not load ({reason}); {_remedy(error, point)}{otherwise}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        wanted = f"{base.__module__}.{base.__qualname__}"
        raise DeviceError(f"{where} is {kind!r}, not a subclass of {wanted}; see {page}{otherwise}")
    return kind


def _remedy(error: BaseException, point: EntryPoint) -> str:
    """What to do where a module is not there, does not fit, or is wrong in itself."""
    if isinstance(error, ImportError | OSError):
        return "install its package again, with the libraries that it needs"
    if isinstance(error, SyntaxError):
        return (
            "correct that line in the package, or install a release of it for Python "
            f"{platform.python_version()}"
        )
    lacking = error.obj if isinstance(error, AttributeError) else None
    if isinstance(lacking, ModuleType) and lacking.__name__ == point.module:
        return "have the package's entry point name a class that is there"
    return f"correct it in the package (`python -c 'import {point.module}'` shows where)"
