"""A job's values written out as YAML, one a line, each with its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.provenance import dotted
from dougong.job.yaml.scalars import write_flow

_MOST_WIDTH = 80


@dataclass(frozen=True)
class Line:
    """One line; `path` of the value on it, None where a section or a list begins."""

    text: str
    path: KeyPath | None


def lines_of(values: Mapping[str, Any], path: KeyPath = (), indent: str = "") -> Iterator[Line]:
    """The lines of a mapping. A list of mappings is a block, any other list one value."""
    for key, value in values.items():
        here, name = (*path, key), write_flow(key)
        if isinstance(value, dict) and value:
            yield Line(f"{indent}{name}:", None)
            yield from lines_of(value, here, indent + "  ")
        elif _is_block(value):
            yield Line(f"{indent}{name}:", None)
            for index, item in enumerate(value):
                yield from _item_lines(item, (*here, index), indent)
        else:
            yield Line(f"{indent}{name}: {write_flow(value)}", here)


def _is_block(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) and item for item in value)


def _item_lines(item: Mapping[str, Any], path: KeyPath, indent: str) -> Iterator[Line]:
    """A mapping in a list: its first line carries the dash."""
    first, *rest = lines_of(item, path, indent + "    ")
    yield replace(first, text=f"{indent}  - {first.text.lstrip()}")
    yield from rest


def with_comments(lines: list[Line], comments: Mapping[str, str]) -> Iterator[str]:
    """The lines' texts, each with the comment of its dotted path, if there is one, in one
    column."""
    width = min(max(len(line.text) for line in lines), _MOST_WIDTH)
    for line in lines:
        comment = None if line.path is None else comments.get(dotted(line.path))
        yield line.text if comment is None else f"{line.text:{width}}  # {comment}"
