"""Classes that installed packages offer by entry points. Imports no torch."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TypeVar

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
    except Exception as error:  # whatever another package's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise DeviceError(
            f"{where} does not load ({reason}); install its package again, with the libraries that "
            f"it needs{otherwise}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        wanted = f"{base.__module__}.{base.__qualname__}"
        raise DeviceError(f"{where} is {kind!r}, not a subclass of {wanted}; see {page}{otherwise}")
    return kind
