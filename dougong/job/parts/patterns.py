"""Patterns of tensor names, as a job file has them. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

NOT = "!"
"""Before a pattern: what it matches is taken out again."""
_EXPERT = re.compile(r"\[\d+\]$")


def parameter_name(tensor: str) -> str:
    """The name of the model's parameter, of a tensor or of one expert's part of one."""
    return _EXPERT.sub("", tensor)


def is_among(patterns: Iterable[str], name: str) -> bool:
    """Whether the last of the patterns that matches a name is none with a `!`. `*` stands for
    anything, dots too."""
    found = False
    for pattern in patterns:
        if fnmatchcase(name, pattern.removeprefix(NOT)):
            found = not pattern.startswith(NOT)
    return found


def without_match(patterns: Sequence[str], names: Iterable[str]) -> str | None:
    """What is wrong with the first pattern that matches none of the names, in words; None where
    each matches one."""
    names = sorted(set(names))
    for pattern in patterns:
        plain = pattern.removeprefix(NOT)
        if any(fnmatchcase(name, plain) for name in names):
            continue
        near = difflib.get_close_matches(plain, names, 1, 0.3) or names[:1]
        such = f", such as {near[0]}" if near else ""
        return f"{pattern!r} matches no tensor of the model{such} (`*` stands for anything)"
    return None
