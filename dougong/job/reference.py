"""The job file's schema for editors (JSON Schema) and for people (`docs/job-file.md`), both written
from `job.schema.Job`."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.fields import FieldInfo

from dougong.job.schema import Job
from dougong.job.section import Section, mark_of, sections_of, takes_list
from dougong.job.yaml.scalars import write_flow

_BEGIN = "<!-- tables: written by schema/update.py -->"
_END = "<!-- end of tables -->"
_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}
"""Those of pydantic's that are told: `lt` is there for what a machine can hold."""
_PLAIN_TYPES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    dict: "mapping",
    type(None): "null",
}


def json_schema() -> str:
    """The text of `schema/job.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(mode="validation"),
        "title": "dougong job file",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def tables(top: type[Section] = Job) -> str:
    """Markdown: a heading and a table of keys for each section of the job file, in the order of the
    file; one for each choice where a key `name` chooses."""
    return "\n".join(_section("Top level", top, ""))


def fill(page: str) -> str:
    """The page with fresh tables between its two marks; ValueError when a mark is missing."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n\n{tables()}\n{_END}{after}"


def _section(title: str, section: type[Section], path: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{_paragraphs(section)}\n"
    yield "| key | type | default | kind | resume | meaning |"
    yield "|---|---|---|---|---|---|"
    for name, info in section.model_fields.items():
        yield _row(name, info)
    yield ""
    for name, info in section.model_fields.items():
        here = f"{path}.{name}".lstrip(".")
        options = sections_of(info)
        for inner in options:
            which = f", name: {_name_of(inner)}" if len(options) > 1 else ""
            yield from _section(f"`{here}`{which}", inner, here)


def _name_of(section: type[Section]) -> str:
    """What the key `name` says to choose this section."""
    return str(section.model_fields["name"].get_default())


def _paragraphs(section: type[Section]) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (section.__doc__ or "").split("\n\n"))


def _row(name: str, info: FieldInfo) -> str:
    cells = (
        f"`{name}`",
        _type_of(info),
        _default(info),
        mark_of(info, "x-kind") or "",
        _resume(info),
        info.description or "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _resume(info: FieldInfo) -> str:
    """Whether a resume may change the key, and why it may where it is logical."""
    if mark_of(info, "x-resume") is not None:
        return f"may change: {mark_of(info, 'x-resume')}"
    if mark_of(info, "x-kind") == "physical":
        return "may change"
    return "by its keys" if sections_of(info) else "stays"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return "its defaults"
    return f"`{write_flow(list(default) if isinstance(default, tuple) else default)}`"


def _type_of(info: FieldInfo) -> str:
    if sections_of(info):
        words = [_type_name(part) for part in typing.get_args(info.annotation) if _is_word(part)]
        shape = "list of mappings" if takes_list(info) else "mapping"
        return " or ".join([shape, *words])
    return _type_name(info.annotation) + _bounds(info.metadata)


def _is_word(part: Any) -> bool:
    return typing.get_origin(part) is typing.Literal


def _type_name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{_as_written(part)}`" for part in parts)
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {_type_name(parts[0])}"
    if origin is tuple:
        return f"list of {len(parts)} numbers"
    if origin is typing.Annotated:
        return _type_name(parts[0]) + _bounds(annotation.__metadata__)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in parts)
    return _PLAIN_TYPES[origin or annotation]


def _bounds(marks: Iterable[Any]) -> str:
    """Between what a number may be, such as `, at least 4, at most 604800`; empty where nothing
    but the machine bounds it."""
    words = ""
    for mark in marks:
        for bound in mark.metadata if isinstance(mark, FieldInfo) else (mark,):
            for name, word in _BOUNDS.items():
                number = getattr(bound, name, None)
                words += "" if number is None else f", {word} {number:.12g}"
    return words


def _as_written(word: Any) -> str:
    return str(word).lower() if isinstance(word, bool) else str(word)
