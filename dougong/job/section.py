"""What every part of the job file is made of: plain values, strict sections, and fields that say
what they fix.

A field is *logical* (it fixes the bits of loss and weights) or *physical* (it decides where, how
fast and how safely they are computed). `planner.resume` reads these marks: a resume may change what
is physical, and those few logical fields that say here why it may.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from dougong.accelerators.registry import accelerator_names, is_accelerator
from dougong.addresses import Ports
from dougong.bridge_names import bridge_names
from dougong.deadlines import LEAST_SILENCE_S, MOST_S

TEXT = r"^[^\x00]+$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$"
WORKER = r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}/(0|[1-9][0-9]*)$"
PATTERNS = {
    TEXT: "text that is not empty",
    NAME: "letters, digits and '-', 63 at most, and begin with a letter or digit",
    WORKER: "a worker's name, ISLAND/NUMBER such as east/1",
}
UNKNOWN_NAME = "unknown_name"
"""Pydantic's type of the error for a kind of device, or a bridge, that nobody offers."""


def _known_accelerator(name: str, info: ValidationInfo) -> str:
    """The name, if dougong or an installed package has such an accelerator. The validation's
    context: names that pass besides, since a run has them from packages that may be gone."""
    is_known = is_accelerator(name) or name in (info.context or ())
    return name if is_known else _refuse("accelerator", accelerator_names())


def _known_bridge(name: str, info: ValidationInfo) -> str:
    """The name, if it is one that means a bridge here; context: as of an accelerator."""
    known = bridge_names()
    return name if name in known or name in (info.context or ()) else _refuse("bridge", known)


def _refuse(what: str, known: Sequence[str]) -> NoReturn:
    *others, last = [f"'{option}'" for option in known]
    expected = f"{', '.join(others)} or {last}"
    raise PydanticCustomError(UNKNOWN_NAME, "{what}", {"what": what, "expected": expected})


def _port_range(text: str) -> str:
    """The text, if it is a range of ports."""
    try:
        Ports.read(text)
    except ValueError as error:
        raise PydanticCustomError("port_range", "{rule}", {"rule": str(error)}) from None
    return text


def _whole(value: Any) -> Any:
    """YAML reads 6.0 and 1e3 as numbers with a decimal point; they are whole all the same."""
    return int(value) if type(value) is float and value.is_integer() else value


Text = Annotated[StrictStr, Field(pattern=TEXT)]
Name = Annotated[StrictStr, Field(pattern=NAME)]
WorkerName = Annotated[StrictStr, Field(pattern=WORKER)]
PortRange = Annotated[StrictStr, AfterValidator(_port_range)]
AcceleratorName = Annotated[StrictStr, AfterValidator(_known_accelerator)]
BridgeName = Annotated[StrictStr, AfterValidator(_known_bridge)]
WHOLE = BeforeValidator(_whole)
"""Last of what annotates a whole number: the bounds before it are then the JSON Schema's too."""
Positive = Annotated[StrictInt, Field(gt=0, lt=2**31), WHOLE]
Count = Annotated[StrictInt, Field(ge=0, lt=2**31), WHOLE]
AboveZero = Annotated[StrictFloat, Field(gt=0)]
Seconds = Annotated[StrictFloat, Field(gt=0, le=MOST_S)]
Silence = Annotated[StrictFloat, Field(ge=LEAST_SILENCE_S, le=MOST_S)]


class Section(BaseModel):
    """A strict, immutable part of the job file: an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
    )


def logical(default: Any, description: str, *, resume: str | None = None, **rules: Any) -> Any:
    """A field that fixes the arithmetic: another value gives another run.

    `resume`: why a resume may change it even so; None: it must not.
    """
    marks: JsonDict = {"x-kind": "logical"}
    if resume is not None:
        marks["x-resume"] = resume
    return Field(default, description=description, json_schema_extra=marks, **rules)


def physical(default: Any, description: str, **rules: Any) -> Any:
    """A field that decides where and how safely the same bits are computed."""
    marks: JsonDict = {"x-kind": "physical"}
    return Field(default, description=description, json_schema_extra=marks, **rules)


def mark_of(info: FieldInfo, name: str) -> str | None:
    """A field's `x-kind` or `x-resume`; None where it has no such mark."""
    extra = info.json_schema_extra
    found = extra.get(name) if isinstance(extra, dict) else None
    return found if isinstance(found, str) else None


class ChosenByName:
    """Marks a field that takes one of several sections, by their key `name`.

    `options`: name -> section, the default first. What is wrong inside the chosen section is
    reported at its own keys, as for any other section.
    """

    def __init__(self, options: Mapping[str, type[Section]]) -> None:
        self.options = dict(options)

    def option_for(self, value: Any) -> type[Section]:
        """The section that a value means; the first where it names none, or none that is known."""
        default = next(iter(self.options.values()))
        name = value.get("name") if isinstance(value, Mapping) else None
        return self.options.get(name, default) if isinstance(name, str) else default

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schemas: list[CoreSchema | tuple[CoreSchema, str]] = [
            handler.generate_schema(section) for section in self.options.values()
        ]
        any_of_them = core_schema.union_schema(schemas)
        return core_schema.no_info_wrap_validator_function(self._validate, any_of_them)

    def _validate(self, value: Any, handler: Any) -> Section:
        if isinstance(value, tuple(self.options.values())):
            assert isinstance(value, Section)
            return value
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            self._refuse_unknown(value["name"])
        return self.option_for(value).model_validate(value)

    def _refuse_unknown(self, name: str) -> None:
        if name in self.options:
            return
        *others, last = [f"'{option}'" for option in self.options]
        expected = f"{', '.join(others)} or {last}" if others else last
        details = InitErrorDetails(
            type="literal_error", loc=("name",), input=name, ctx={"expected": expected}
        )
        raise ValidationError.from_exception_data("section", [details])


def sections_of(info: FieldInfo) -> tuple[type[Section], ...]:
    """The sections that a field takes: none for a plain value, several where `name` chooses one."""
    for mark in info.metadata:
        if isinstance(mark, ChosenByName):
            return tuple(mark.options.values())
    section = section_in(info.annotation)
    return () if section is None else (section,)


def takes_list(info: FieldInfo) -> bool:
    """Whether a field takes a list, be it among other values."""
    parts = (info.annotation, *typing.get_args(info.annotation))
    return any(typing.get_origin(part) is tuple for part in parts)


def names_that_know(info: FieldInfo, key: str) -> list[str]:
    """Of a field whose section is chosen by `name`: the names of those that have a key."""
    known = []
    for mark in info.metadata:
        if isinstance(mark, ChosenByName):
            known += [name for name, section in mark.options.items() if key in section.model_fields]
    return known


def section_for(info: FieldInfo, value: Any) -> type[Section] | None:
    """The section that a value of a field is one of; None for a plain value, and for a list."""
    if not isinstance(value, Mapping):
        return None
    for mark in info.metadata:
        if isinstance(mark, ChosenByName):
            return mark.option_for(value)
    return section_in(info.annotation)


def section_in(annotation: Any) -> type[Section] | None:
    """The section named in a type, such as `Validation` in `Validation | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in typing.get_args(annotation):
        section = section_in(part)
        if section is not None:
            return section
    return None
