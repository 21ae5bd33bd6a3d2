"""Pydantic's findings in plain words: what is wrong, what was given, what to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dougong.launcher.job import Job, Section
from dougong.launcher.marked_yaml import KeyPath, write_flow

_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping, {key: value}",
    "tuple_type": "must be a list, [...]",
    "model_type": "must be a mapping, {key: value}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
}


def explain(errors: Sequence[Mapping[str, Any]], data: Any) -> Iterator[tuple[KeyPath, str]]:
    """(path, text) for each error; a missing key is not told where an unknown one beside it is its misspelling."""
    meant = {}
    for error in errors:
        if error["type"] == "extra_forbidden":
            path = tuple(error["loc"])
            meant[path] = _meant(path, data)
    spoken_for = {(*path[:-1], name) for path, name in meant.items() if name}
    for error in errors:
        path = tuple(error["loc"])
        if error["type"] == "missing" and path in spoken_for:
            continue
        yield path, _unknown(path, meant[path]) if path in meant else _text(path, error)


def section_at(path: KeyPath) -> type[Section] | None:
    """The section of the schema at a path, such as `Island` at ("islands", 0)."""
    section: type[Section] | None = Job
    for part in path:
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return None
        section = section_in(section.model_fields[part].annotation)
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """The section named in a field's type, such as `Validation` in `Validation | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (section_in(part) for part in typing.get_args(annotation))
    return next((one for one in found if one is not None), None)


def _meant(path: KeyPath, data: Any) -> str | None:
    section = section_at(path[:-1])
    given = data
    for part in path[:-1]:
        given = given[part]
    known = list(section.model_fields) if section else []
    free = [name for name in known if name not in given]
    key = str(path[-1]).lower()
    close = difflib.get_close_matches(key, free, 1) or difflib.get_close_matches(key, known, 1)
    return close[0] if close else None


def _unknown(path: KeyPath, meant: str | None) -> str:
    if meant:
        return f"unknown key; did you mean '{meant}'?"
    elsewhere = [f"'{place}.{path[-1]}'" for place in _places_of(str(path[-1]), Job, "")]
    if elsewhere:
        return f"unknown key; did you mean {' or '.join(elsewhere)}?"
    section = section_at(path[:-1])
    return f"unknown key; known here are {', '.join(section.model_fields) if section else 'none'}"


def _places_of(key: str, section: type[Section], place: str) -> Iterator[str]:
    for name, info in section.model_fields.items():
        inner = section_in(info.annotation)
        if inner is None:
            continue
        here = f"{place}.{name}".lstrip(".")
        if key in inner.model_fields:
            yield here
        yield from _places_of(key, inner, here)


def _text(path: KeyPath, error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"missing; add `{path[-1]}: ...`, {_description(path)}"
    got = f"(got {_short(error['input'])})"
    if kind == "literal_error":
        return f"must be {context['expected']} {got}{_similar(context['expected'], error['input'])}"
    if kind == "string_pattern_mismatch":
        return f"must be {_description(path)} {got}"
    rule = _KINDS[kind].format(**context) if kind in _KINDS else error["msg"]
    return f"{rule} {got}; {_description(path)}"


def _description(path: KeyPath) -> str:
    section, name = section_at(path[:-1]), path[-1]
    while isinstance(name, int):  # an item is described with its list
        path = path[:-1]
        section, name = section_at(path[:-1]), path[-1]
    info = section.model_fields.get(name) if section else None
    return info.description if info and info.description else "see docs/job-file.md"


def _similar(expected: str, given: Any) -> str:
    names = expected.replace("'", "").replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(str(given).lower(), names, 1)
    return f"; did you mean '{close[0]}'?" if close else "; use one of them"


def _short(value: Any) -> str:
    text = write_flow(value)
    return text if len(text) <= 60 else text[:57] + "..."
