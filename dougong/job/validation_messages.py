"""Pydantic's findings in plain words: what is wrong, what was given, what to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from dougong.job.schema import PATTERNS, Job
from dougong.job.section import Section, section_for, sections_of
from dougong.job.yaml_locations import KeyPath, read, write_flow

_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
}
_SAME = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "ascend": "npu",
    "fp32": "float32",
    "bf16": "bfloat16",
    "ffn": "experts",
}
_USE_ONE = "; use one of them"
_ADD_ACCELERATOR = "or install a package that adds it as an entry point of dougong.accelerators"


def explain(errors: Sequence[Mapping[str, Any]], data: Any) -> Iterator[tuple[KeyPath, str]]:
    """(path, text) for each error; a missing key is not told where an unknown one beside it is its
    misspelling."""
    meant = {}
    for error in errors:
        if error["type"] == "extra_forbidden":
            path = tuple(error["loc"])
            meant[path] = _meant(path, data)
    spoken_for = {(*path[:-1], name) for path, name in meant.items() if name}
    for error in errors:
        path = _without_branch(tuple(error["loc"]))
        if path != tuple(error["loc"]) and isinstance(error["input"], str) != (
            error["type"] == "literal_error"
        ):
            continue  # a word is held against the words, anything else against the number
        if error["type"] == "missing" and path in spoken_for:
            continue
        if error["type"] == "too_short" and error["input"]:
            continue  # pydantic counts the valid items, and has named each of the others
        if _is_item_count(error):
            pair = path[:-1] if error["type"] == "missing" else path
            yield (
                pair,
                f"must be {_shape(pair)} (got {_short(error['input'])}): {_description(pair)}",
            )
        else:
            yield path, _unknown(path, meant[path]) if path in meant else _text(path, error)


def _without_branch(path: KeyPath) -> KeyPath:
    """Where a field takes words or a number, pydantic adds to its path which of the two it
    tried."""
    info = _field(path[:-1])
    kinds = (
        {typing.get_origin(part) for part in typing.get_args(info.annotation)} if info else set()
    )
    return path[:-1] if {typing.Literal, typing.Annotated} <= kinds else path


def _is_item_count(error: Mapping[str, Any]) -> bool:
    """A tuple of fixed length got fewer or more items."""
    return error["type"] == "too_long" or (
        error["type"] == "missing" and isinstance(error["loc"][-1], int)
    )


def section_at(path: KeyPath, data: Any = None) -> type[Section] | None:
    """The section of the schema at a path, such as `Island` at ("islands", 0).

    `data`: what the user has written; where a key `name` chooses among sections, it decides.
    """
    section: type[Section] | None = Job
    value = data
    for part in path:
        value = _item(value, part)
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return None
        info = section.model_fields[part]
        options = sections_of(info)
        section = section_for(info, value) or (options[0] if options else None)
    return section


def _item(value: Any, part: str | int) -> Any:
    """What stands at a key or index of the user's data; None where nothing does."""
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None


def _meant(path: KeyPath, data: Any) -> str | None:
    section = section_at(path[:-1])
    given = data
    for part in path[:-1]:
        given = given[part]
    known = list(section.model_fields) if section else []
    free = [name for name in known if name not in given]
    key = str(path[-1]).lower()
    if _elsewhere(key):
        return None
    close = difflib.get_close_matches(key, free, 1) or difflib.get_close_matches(key, known, 1)
    return close[0] if close else None


def _unknown(path: KeyPath, meant: str | None) -> str:
    if meant:
        return f"unknown key; did you mean '{meant}'?"
    elsewhere = _elsewhere(str(path[-1]))
    if elsewhere:
        return f"unknown key; did you mean {' or '.join(elsewhere)}?"
    section = section_at(path[:-1])
    return f"unknown key; known here are {', '.join(section.model_fields) if section else 'none'}"


def _elsewhere(key: str) -> list[str]:
    top = [f"'{key}' at the top level"] if key in Job.model_fields else []
    return top + [f"'{place}.{key}'" for place in dict.fromkeys(_places_of(key, Job, ""))]


def _places_of(key: str, section: type[Section], place: str) -> Iterator[str]:
    for name, info in section.model_fields.items():
        here = f"{place}.{name}".lstrip(".")
        for inner in sections_of(info):
            if key in inner.model_fields:
                yield here
            yield from _places_of(key, inner, here)


def _text(path: KeyPath, error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"missing; add `{path[-1]}: ...`, {_description(path)}"
    got = f"(got {_short(error['input'])})"
    if kind in ("model_type", "tuple_type"):
        return f"must be {_shape(path)} {got}{_leave_out(path, error['input'])}"
    if kind == "unknown_accelerator":
        close = _similar(context["expected"], error["input"])
        advice = f"{close}, {_ADD_ACCELERATOR}" if close == _USE_ONE else close
        return f"must be {context['expected']} {got}{advice}"
    if kind == "literal_error":
        return f"must be {context['expected']} {got}{_similar(context['expected'], error['input'])}"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS[context['pattern']]} {got}"
    rule = _KINDS[kind].format(**context) if kind in _KINDS else error["msg"]
    return f"{rule} {got}{_unquoted(kind, error['input']) or ': ' + _description(path)}"


def _shape(path: KeyPath) -> str:
    section = section_at(path)
    keys = f"a mapping with the keys {', '.join(section.model_fields)}" if section else "2 values"
    info = _field(path)
    if info is None or typing.get_origin(info.annotation) is not tuple or isinstance(path[-1], int):
        return keys
    return f"a list of {keys}" if section is None else f"a list, each item {keys}"


def _leave_out(path: KeyPath, given: Any) -> str:
    info = _field(path)
    return (
        "; remove the key to get the default"
        if given is None and info and not info.is_required()
        else ""
    )


def _unquoted(kind: str, given: Any) -> str:
    number = kind in ("int_type", "float_type") and isinstance(given, str)
    return "; write it without quotes" if number and type(read(given).data) in (int, float) else ""


def _field(path: KeyPath) -> FieldInfo | None:
    """The schema's field at a path; an item of a list is described with its list."""
    names = [part for part in path if isinstance(part, str)]
    section = section_at(tuple(names[:-1])) if names else None
    return section.model_fields.get(names[-1]) if section else None


def _description(path: KeyPath) -> str:
    info = _field(path)
    return info.description if info and info.description else "see docs/job-file.md"


def _similar(expected: str, given: Any) -> str:
    names = expected.replace("'", "").replace(" or ", ", ").split(", ")
    word = str(given).lower()
    close = [_SAME[word]] if _SAME.get(word) in names else difflib.get_close_matches(word, names, 1)
    return f"; did you mean '{close[0]}'?" if close else _USE_ONE if len(names) > 1 else ""


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else write_flow(value)
    return text if len(text) <= 60 else text[:57] + "..."
