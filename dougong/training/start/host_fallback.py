"""Operators that a device does not have and that its library runs on the host, unasked: told, since
each costs two copies and a wait."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_FALLBACK = re.compile(
    r"fall ?back to (run on )?the cpu|fallback from \w+ to cpu|runs on the host", re.IGNORECASE
)
"""How vendors' plug-ins say so: torch has no type for it. The first form is torch's own."""
_OPERATOR = re.compile(r"\b\w+::\w+(?:\.\w+)?")


def operator_on_host(text: str) -> str | None:
    """The operator of a library's warning that it runs on the host; the whole warning where no
    operator is named, None where it speaks of something else."""
    if _FALLBACK.search(text) is None:
        return None
    operator = _OPERATOR.search(text)
    return operator[0] if operator else text.strip()


@contextmanager
def fallbacks_told(device: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, each operator that the library of `device` runs on the host is told once. All
    warnings are shown as before."""
    told: set[str] = set()
    show: Any = warnings.showwarning

    def look(message: Warning | str, *place: Any, **more: Any) -> None:
        operator = operator_on_host(str(message))
        if operator is not None and operator not in told:
            told.add(operator)
            tell(
                f"{operator} has no kernel on {device} and runs on the host, each time with a copy "
                f"there and back: `dougong conform --accelerator {device}` lists all such "
                "operators; another model.attention or a newer plug-in of the vendor may avoid it"
            )
        show(message, *place, **more)

    warnings.showwarning = look
    try:
        yield
    finally:
        warnings.showwarning = show
