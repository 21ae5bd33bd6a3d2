"""Reading a run's files after a disk or a person has damaged them: one sentence that names the
place, the fault and the next step."""

from __future__ import annotations

import contextlib
import reprlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dougong.checkpoint.directories import MANIFEST
from dougong.errors import RecordError
from dougong.records.events import Event, RunCreated, from_json
from dougong.records.metrics import MetricsRow, RowShape

_Model = TypeVar("_Model", bound=BaseModel)

_ANEW = (
    "read it with the release of dougong that wrote it, or delete the file: a resume writes it anew"
)

_UNKNOWN = {"unexpected_keyword_argument": "unknown key"}
_WITHOUT_VALUE = ("missing", "missing_argument", "json_invalid", "union_tag_not_found")
"""Kinds of pydantic's findings whose words say all: there is no value that a reader could mend."""


def read_text(path: Path) -> str | None:
    """The file's text; None where there is no such file. RecordError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path}: byte {error.start} is not UTF-8 text; restore the file from a copy"
        ) from error
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read: {error.strerror}; restore it from a copy"
        ) from error


def read_model(path: Path, model: type[_Model], advice: str = _ANEW) -> _Model | None:
    """What the file holds, checked; None where there is no such file. RecordError when it is
    damaged."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, first_fault(error), advice) from error


def damaged(path: Path, fault: str, advice: str = _ANEW) -> RecordError:
    """The error of a file with a fault, and what to do about it."""
    return RecordError(f"{path}: {fault}; {advice}")


OnFault = Callable[[RecordError], None]
"""Who takes a line of a record that is damaged: it raises, or notes it and reads on."""


def refuse(error: RecordError) -> None:
    """Who reads on must say so."""
    raise error


def rows_note(faults: Sequence[RecordError]) -> str:
    """What a reader tells who has left damaged lines of metrics.jsonl out; empty for none."""
    if not faults:
        return ""
    more = f" (and {len(faults) - 1} more such)" if len(faults) > 1 else ""
    return f"{faults[0]}{more}; what is told here is without it"


def check_row(place: str, row: MetricsRow, needed: Sequence[str]) -> None:
    """RecordError for what is no row of metrics.jsonl, or lacks a key that is needed."""
    fault = next((f"{key}: Field required" for key in needed if key not in row), None)
    try:
        RowShape.model_validate(row)
    except ValidationError as error:
        fault = first_fault(error)
    if fault is not None:
        raise RecordError(f"{place}: not a row of a step: {fault}; restore the line or delete it")


def parse_event(path: Path, number: int, fields: dict[str, Any]) -> Event:
    """The event of a line. RecordError for what is none of this release."""
    fault = "wall: Field required"
    try:
        event = from_json(fields)
        if event.wall:
            return event
    except ValidationError as error:
        fault = first_fault(error)
    raise RecordError(
        f"{path}:{number}: not an event of this release: kind {fields.get('kind')!r},"
        f" {fault}; read the run with the release of dougong that wrote it"
    )


def first_fault(error: ValidationError) -> str:
    """The first thing that does not fit, such as `step: Field required`."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    text = _UNKNOWN.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    if fault["type"] not in _WITHOUT_VALUE:
        text = f"{text} (got {reprlib.repr(fault['input'])})"
    return f"{place}: {text}" if place else text


def lost_job_words(job_file: Path, newest: Path, began: Sequence[str]) -> str:
    """That a run's job.yaml is gone, and from what it is written anew. `newest`: the run's newest
    checkpoint; `began`: the words of the command that began it, empty where nobody knows."""
    by = f" (`{shlex.join(['dougong', *began[1:]])}`)" if began else ""
    return (
        f"{job_file}: is gone, and the run goes on by it; put it back from a copy, or write it "
        f"anew from the job file that the run began with{by}, with the same -o: `dougong check "
        f"FILE --print > {shlex.quote(str(job_file))}`; the values of it that fix the bits are in "
        f"{newest / MANIFEST} (body.header.job)"
    )


def command_of(read_events: Callable[[], Sequence[Event]]) -> tuple[str, ...]:
    """The words of the command that began a run; empty where its events do not say it."""
    with contextlib.suppress(RecordError):
        created = (event for event in read_events() if isinstance(event, RunCreated))
        return next((event.command for event in created), ())
    return ()


def meant_words(path: Path) -> str:
    """Which run directory was meant, as the end of a sentence."""
    inner = [found.parent for found in path.glob("*/events.jsonl")]
    if inner:
        newest = max(inner, key=lambda run: (run / "events.jsonl").stat().st_mtime)
        return f"; did you mean {newest}?"
    for outer in path.absolute().parents:
        if (outer / "events.jsonl").is_file():
            return f"; did you mean {outer}?"
    return "; give the directory that `dougong run` printed"
