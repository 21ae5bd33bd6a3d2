"""Overrides from the command line: `KEY=VALUE`, a dotted path and YAML, laid over the job file's
values."""

from __future__ import annotations

from typing import Any

from dougong.job.yaml import locations
from dougong.job.yaml.locations import KeyPath, YamlDocument
from dougong.job.yaml.provenance import Source, dotted
from dougong.job.yaml.scalars import write_flow


def lay(source: Source, override: str) -> None:
    """Put one override into `source.data`; what is wrong with it is noted in `source.mistakes`."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        source.refuse(override, (), "an override is KEY=VALUE, such as -o batch.lanes=8")
        return
    document = _read_value(text)
    for problem in document.problems:
        where = f"column {problem.mark.column} of the value"
        source.refuse(override, (*parts, *problem.path), f"{problem.text} ({where})")
    if not document.readable:
        return
    try:
        path = _put(source.data, parts, document.data)
    except _NoSuchPlaceError as error:
        source.refuse(override, tuple(parts), str(error))
        return
    source.override(path, document, override)


def _read_value(text: str) -> YamlDocument:
    # A value cannot name an anchor, so a `*` at its start is a glob.
    return locations.read(write_flow(text) if text.startswith("*") else text)


class _NoSuchPlaceError(Exception):
    pass


def _put(data: Any, parts: list[str], value: Any) -> KeyPath:
    """Set the value; returns its path with list items as numbers. Missing mappings on the way are
    made."""
    path: list[str | int] = []
    for depth, part in enumerate(parts):
        key = _key(data, part, tuple(path))
        path.append(key)
        if depth == len(parts) - 1:
            _set(data, key, value)
        else:
            data = _enter(data, key, parts[depth + 1])
    return tuple(path)


def _key(data: Any, part: str, path: KeyPath) -> str | int:
    """What a part of the dotted path means here: a key, or an item's number or name."""
    if isinstance(data, dict):
        return part
    if isinstance(data, list):
        return _item_number(data, part, path)
    value = write_flow(data)
    raise _NoSuchPlaceError(f"{dotted(path)} is {value}, not a section; override it whole")


def _item_number(items: list[Any], part: str, path: KeyPath) -> int:
    if part.isdecimal() and int(part) <= len(items):
        return int(part)
    names = [_name_of(item) for item in items]
    if part in names:
        return names.index(part)
    known = [str(name or index) for index, name in enumerate(names)]
    have = ", ".join(known) or "nothing yet"
    raise _NoSuchPlaceError(f"{dotted(path)} has no {part}; it has {have}")


def _name_of(item: Any) -> Any:
    return item.get("name") if isinstance(item, dict) else None


def _enter(data: Any, key: Any, after: str) -> Any:
    """The section or list at a key, made where there is none; `after`: the next part of the
    path."""
    exists = key in data if isinstance(data, dict) else key < len(data)
    if not exists or data[key] is None:
        _set(data, key, [] if after == "0" else {})
    return data[key]


def _set(data: Any, key: Any, value: Any) -> None:
    if isinstance(data, list) and key == len(data):
        data.append(value)
    else:
        data[key] = value
