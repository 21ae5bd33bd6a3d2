"""Patterns of tensor names, as a job file has them. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

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
        if _matches(name, pattern.removeprefix(NOT)):
            found = not pattern.startswith(NOT)
    return found


def without_match(patterns: Sequence[str], names: Iterable[str]) -> str | None:
    """What is wrong with the first pattern that matches none of the names, in words; None where
    each matches one."""
    names = sorted(set(names))
    for pattern in patterns:
        plain = pattern.removeprefix(NOT)
        if not any(_matches(name, plain) for name in names):
            near = _near(plain, names)
            such = f", such as {near}" if near else ""
            return f"{pattern!r} matches no tensor of the model{such} (`*` stands for anything)"
    return None


def _matches(name: str, pattern: str) -> bool:
    return _expression(pattern).fullmatch(name) is not None


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))


def _near(pattern: str, names: Sequence[str]) -> str | None:
    """A name with a word that is nearly the longest one of the pattern that is in no name."""
    words = dict[str, str]()
    for name in names:
        words |= dict.fromkeys(name.split("."), name)
    given = re.split(r"[*.]", pattern)
    word = max([one for one in given if one not in words] or given, key=len)
    near = difflib.get_close_matches(word, list(words), 1, 0.5)
    return words[near[0]] if near else next(iter(names), None)
