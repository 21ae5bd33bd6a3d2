"""The job file's `drill`: a list of rehearsed faults, or `allowed`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    StrictStr,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dougong.job.drills.vocabulary import NamedFault, has_worker, known_fault, orderable
from dougong.job.section import AboveZero, Positive, Seconds, Section, WorkerName, physical

ALLOWED = "allowed"
NOT_ORDERED = "not_ordered"
"""Pydantic's type of the error for a fault that a job file cannot order."""

UNKNOWN_FAULT = "unknown_fault"
"""Pydantic's type of the error for a fault that the vocabulary does not have."""

NOT_A_LIST = "drill_word"
"""Pydantic's type of the error for a word in place of the list that is none."""


def _orderable_fault(name: str) -> str:
    """The name, if it is a fault that a job file may order."""
    fault = known_fault(name)
    if fault is None:
        *others, last = [f"'{one.name}'" for one in orderable()]
        words = {"expected": f"{', '.join(others)} or {last}"}
        raise PydanticCustomError(UNKNOWN_FAULT, "a fault", words)
    if fault.refusal:
        raise PydanticCustomError(NOT_ORDERED, "{rule}", {"rule": _refused(fault)})
    return name


def _refused(fault: NamedFault) -> str:
    return f"cannot be ordered here: {fault.does}; {fault.refusal}"


FaultName = Annotated[
    StrictStr,
    AfterValidator(_orderable_fault),
    WithJsonSchema({"type": "string", "enum": [fault.name for fault in orderable()]}),
]
_OF_NOBODY = [fault.name for fault in orderable() if not has_worker(fault.name)]
_WHAT: JsonDict = {
    "anyOf": [
        {"required": ["kill"]},
        {"required": ["fault", "on"]},
        {"required": ["fault"], "properties": {"fault": {"enum": [*_OF_NOBODY]}}},
    ]
}


class Drill(Section):
    """A rehearsed fault, once in the life of the run. `{at_step: 30, kill: east/1}` kills that
    worker when step 30 begins; `{at_step: 30, fault: stop, on: east/1}` does another thing to it.

    `drill: allowed`, in place of the list, lets `dougong drill RUN` do so while the run goes on.
    """

    model_config = ConfigDict(json_schema_extra=_WHAT)

    at_step: Positive | None = physical(
        None, "the step with whose beginning it comes, from 1; this or `after_s`"
    )
    after_s: Seconds | None = physical(
        None, "it comes so many seconds after the run's first step; this or `at_step`"
    )
    kill: WorkerName | None = physical(
        None, "a worker's name, such as east/1: short for `fault: kill` and `on`"
    )
    fault: FaultName | None = physical(
        None, "what happens, by its name in the vocabulary", examples=["stop", "kill_agent"]
    )
    on: WorkerName | None = physical(
        None,
        "the worker to which it happens, or to whose agent or fork server; left out where it "
        "happens to the controller",
    )
    for_s: AboveZero | None = physical(
        None, "how long it lasts, of what lasts; null: as long as the vocabulary says"
    )

    @property
    def what(self) -> str:
        """The fault's name."""
        return "kill" if self.fault is None else self.fault

    @property
    def worker(self) -> str:
        """To whom it happens; empty: to the controller."""
        return self.kill or self.on or ""


class ListOrAllowed:
    """Marks the field that takes a list of drills, or one word in its place: what is wrong in an
    item is reported at the item."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        items = handler.generate_schema(tuple[Drill, ...])
        either = core_schema.union_schema([items, core_schema.literal_schema([ALLOWED])])
        return core_schema.no_info_wrap_validator_function(_validate, either)


def _validate(value: Any, handler: Any) -> Any:
    if not isinstance(value, str):
        return TypeAdapter(tuple[Drill, ...]).validate_python(value)
    if value != ALLOWED:
        words = {"expected": f"a list of faults or '{ALLOWED}'"}
        raise PydanticCustomError(NOT_A_LIST, "a list of faults", words)
    return value


DrillList = Annotated[tuple[Drill, ...] | Literal["allowed"], ListOrAllowed()]


def listed(drill: tuple[Drill, ...] | Literal["allowed"]) -> tuple[Drill, ...]:
    """The faults that the job file itself orders."""
    return () if isinstance(drill, str) else drill
