"""Differences of many layers that are alike, said once. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dougong.tools.difference import Difference
from dougong.ui.formatting import ranges

_NUMBER = re.compile(r"(?<!\w)\d+(?!\w)")


def grouped(differences: Iterable[Difference]) -> list[Difference]:
    """Those whose names differ in numbers alone, and that are the same words or numbers of as many
    elements, as one: its elements are those of all, its largest difference that of all. Each group
    stands where its first one stood."""
    groups: dict[tuple[str, str, int], list[Difference]] = {}
    for one in differences:
        key = _NUMBER.sub("*", one.name), one.note, one.num_elements
        groups.setdefault(key, []).append(one)
    return [_as_one(group) for group in groups.values()]


def _as_one(group: Sequence[Difference]) -> Difference:
    first = group[0]
    if len(group) == 1:
        return first
    name = _name([one.name for one in group])
    if first.note and first.num_elements == 1:
        return replace(first, name=name)
    largest = [one.largest for one in group if one.largest is not None]
    return replace(
        first,
        name=name,
        num_different=sum(one.num_different for one in group),
        num_elements=sum(one.num_elements for one in group),
        largest=max(largest, default=None),
    )


def _name(names: Sequence[str]) -> str:
    """`model.layers.*.mlp.gate.weight (* is 0-23)`."""
    columns = list(zip(*(_NUMBER.findall(name) for name in names), strict=True))
    texts = _NUMBER.split(names[0])
    varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    words = texts[0]
    for index, (column, text) in enumerate(zip(columns, texts[1:], strict=True)):
        words += ("*" if index in varying else column[0]) + text
    alike = {columns[index] for index in varying}
    if len(alike) == 1:
        numbers = sorted({int(number) for number in alike.pop()})
        return f"{words} (* is {ranges(numbers)})"
    return f"{words} ({len(names)} of such a name)"
