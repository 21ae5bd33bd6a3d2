"""Overrides from the command line: `KEY=VALUE`, a dotted path and YAML, laid over the job file's
values."""

from __future__ import annotations

from typing import Any

from dougong.job import yaml_locations
from dougong.job.provenance import Source, dotted
from dougong.job.yaml_locations import KeyPath


def lay(source: Source, said: str) -> None:
    """Put one override into `source.data`; what is wrong with it is noted in `source.mistakes`."""
    key, equals, text = said.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        source.refuse(said, (), "an override is KEY=VALUE, such as -o batch.lanes=8")
        return
    # A value cannot name an anchor, so a `*` at its start is a glob.
    document = yaml_locations.read(
        yaml_locations.write_flow(text) if text.startswith("*") else text
    )
    for problem in document.problems:
        source.refuse(
            said,
            (*parts, *problem.path),
            f"{problem.text} (column {problem.mark.column} of the value)",
        )
    if not document.readable:
        return
    try:
        path = _put(source.data, parts, document.data)
    except _NoSuchPlaceError as error:
        source.refuse(said, tuple(parts), str(error))
        return
    source.override(path, document, said)


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
    if isinstance(data, dict):
        return part
    if not isinstance(data, list):
        raise _NoSuchPlaceError(
            f"{dotted(path)} is {yaml_locations.write_flow(data)}, not a section; override it whole"
        )
    if part.isdecimal() and int(part) <= len(data):
        return int(part)
    names = [item.get("name") if isinstance(item, dict) else None for item in data]
    if part in names:
        return names.index(part)
    have = ", ".join(str(name or index) for index, name in enumerate(names)) or "nothing yet"
    raise _NoSuchPlaceError(f"{dotted(path)} has no {part}; it has {have}")


def _enter(data: Any, key: Any, after: str) -> Any:
    exists = key in data if isinstance(data, dict) else key < len(data)
    if not exists or data[key] is None:
        _set(data, key, [] if after == "0" else {})
    return data[key]


def _set(data: Any, key: Any, value: Any) -> None:
    if isinstance(data, list) and key == len(data):
        data.append(value)
    else:
        data[key] = value
