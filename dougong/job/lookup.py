"""The schema by path: which section and which field stand where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from dougong.job.schema import Job
from dougong.job.section import Section, section_for, sections_of
from dougong.job.yaml.locations import KeyPath


def section_at(path: KeyPath, data: Any = None) -> type[Section] | None:
    """The section of the schema at a path, such as `Island` at ("islands", 0); None where none is.

    `data`: what the user has written; where a key `name` chooses among sections, it decides.
    """
    section: type[Section] | None = Job
    value = data
    for part in path:
        value = value_at((part,), value)
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return None
        section = _section_of_field(section.model_fields[part], value)
    return section


def _section_of_field(field: FieldInfo, value: Any) -> type[Section] | None:
    chosen = section_for(field, value)
    if chosen is not None:
        return chosen
    options = sections_of(field)
    return options[0] if options else None


def field_at(path: KeyPath, data: Any = None) -> FieldInfo | None:
    """The schema's field at a path; an item of a list is described with its list."""
    names = list(path)
    while names and isinstance(names[-1], int):
        names.pop()
    if not names:
        return None
    *parents, name = names
    section = section_at(tuple(parents), data)
    return section.model_fields.get(str(name)) if section else None


def value_at(path: KeyPath, data: Any) -> Any:
    """What the user has written at a path; None where nothing is."""
    value = data
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def places_of(key: str) -> list[str]:
    """Dotted places below the top level that know a key, such as `optimizer.name`."""
    return list(dict.fromkeys(_places_below(key, Job, "")))


def _places_below(key: str, section: type[Section], place: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        here = f"{place}.{name}".lstrip(".")
        for inner in sections_of(field):
            if key in inner.model_fields:
                yield f"{here}.{key}"
            yield from _places_below(key, inner, here)
