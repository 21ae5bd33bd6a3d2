"""Many tensors in few words: `model.layers.*.self_attn.indexer.*`. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set

MOST_PATTERNS = 6

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def name_patterns(names: Iterable[str], others: Iterable[str]) -> str:
    """The patterns of `names`, none of which matches one of `others`.

    A module whose tensors are all among `names` stands for them, and layers or experts that are
    alike are one pattern, with `*` for their number.
    """
    taken = _modules(others)
    # The shortest beginning of a name that none of the others has.
    own = list(dict.fromkeys(_own(name, taken) for name in names))
    patterns = _merged(own, {_without_numbers(prefix) for prefix in taken})
    more = len(patterns) - MOST_PATTERNS
    text = ", ".join(patterns[:MOST_PATTERNS])
    return f"{text} and {more} more" if more > 0 else text


def _merged(own: Sequence[str], taken: Set[str]) -> list[str]:
    """One pattern for all that differ in numbers alone. `taken`: the others' modules, without their
    numbers."""
    alike: dict[str, list[str]] = {}
    for pattern in own:
        alike.setdefault(_without_numbers(pattern), []).append(pattern)
    merged = []
    for pattern, members in alike.items():
        # `model.layers.*` would speak of all layers where only the last is meant.
        is_clear = len(members) > 1 and pattern.removesuffix(".*") not in taken
        merged += [pattern] if is_clear else members
    return merged


def _without_numbers(name: str) -> str:
    return _NUMBER.sub("*", name)


def _modules(names: Iterable[str]) -> set[str]:
    """The names, and the names of all modules around them."""
    modules: set[str] = set()
    for name in names:
        words = name.split(".")
        modules.update(".".join(words[: count + 1]) for count in range(len(words)))
    return modules


def _own(name: str, taken: set[str]) -> str:
    words = name.split(".")
    for count in range(1, len(words)):
        prefix = ".".join(words[:count])
        if prefix not in taken:
            return f"{prefix}.*"
    return name
