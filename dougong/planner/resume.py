"""What a resume may change, read from the marks of the job's schema. Pure; imports no torch.

A physical key may change: it does not touch the bits. A logical key may not, but for those few
whose mark `x-resume` says why it may even so. What is left is the job's `identity`; checkpoints
keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from dougong.errors import CheckpointError, JobError
from dougong.fault.quarantine import QuarantinedDevice
from dougong.job.schema import Job
from dougong.job.section import Section, mark_of, section_for, sections_of
from dougong.job.yaml.scalars import write_flow

_SAME_BITS = ("fault.non_finite",)
"""Logical keys of sections that a resume may change because they touch no step that was recorded;
`steps`, which is no section's, is another."""


@dataclass(frozen=True)
class Change:
    """A dotted key that two identities give another value, as JSON holds it."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {write_flow(self.before)} then, {write_flow(self.after)} now"


def may_change(field: FieldInfo) -> bool:
    """Whether a resume may give this field of the schema another value."""
    return mark_of(field, "x-kind") == "physical" or mark_of(field, "x-resume") is not None


def identity(job: Job) -> dict[str, Any]:
    """The values that a resume must not change, by key, as JSON holds them."""
    return _fixed_values(Job, job.model_dump(mode="json"))


def describe_data(job: Job, step: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """Which data a checkpoint was trained on, and how much of it."""
    batch = job.batch
    samples = step * batch.lanes * batch.microbatches * batch.microbatch_size
    return {
        "name": data.get("name"),
        "digest": data.get("digest"),
        "step": step,
        "samples": samples,
        "tokens": samples * job.data.sequence_length,
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Where two identities differ.

    `before` may be what an older release has written: keys that a resume may change today are left
    out of the comparison, and keys that were not there then count as their defaults.
    """
    return list(_changes(Job, before, after, ""))


def changes_of_bits(before: Job, after: Job) -> tuple[str, ...]:
    """Keys that a resume may change, has changed, and that may give the next steps other bits."""
    old, new = dict(_values_of_bits(before)), dict(_values_of_bits(after))
    keys = dict.fromkeys([*old, *new])
    return tuple(key for key in keys if old.get(key) != new.get(key))


def _values_of_bits(job: Job) -> Iterator[tuple[str, Any]]:
    """(key, value) of what a resume may change in a job's arithmetic; of a list of sections the
    set of values, since its order and its length are not the arithmetic's."""
    yield "numerics", job.numerics
    for name in Job.model_fields:
        value = getattr(job, name)
        sections = value if isinstance(value, tuple) else (value,)
        if sections and isinstance(sections[0], Section):
            yield from _marked(sections, f"{name}.")


def _marked(sections: Sequence[Section], path: str) -> Iterator[tuple[str, Any]]:
    for name, field in type(sections[0]).model_fields.items():
        key = f"{path}{name}"
        if mark_of(field, "x-resume") is not None and key not in _SAME_BITS:
            yield key, {getattr(section, name) for section in sections}


def changeable_keys() -> list[str]:
    """Dotted keys that a resume may change, a section as a whole where all of it may."""
    return list(_changeable(Job, ""))


def check_resume(before: Job, after: Job) -> None:
    """JobError when `after` is not a job that may go on from where `before` has come to."""
    found = changes(identity(before), identity(after))
    if not found:
        return
    *others, last = changeable_keys()
    raise JobError(
        f"{'; '.join(map(str, found))}: this run has computed with the former, so its next steps "
        f"would be another run's; a resume may change {', '.join(others)} and {last}; for the "
        "rest, begin a new run"
    )


def check_written(place: str, written: Mapping[str, Any] | None, job: Job) -> None:
    """CheckpointError when a checkpoint at `place` is another job's. `written`: the identity that
    it holds, None where it holds none. A run's job.yaml may have been changed by hand."""
    found = changes(written, identity(job)) if written else []
    if found:
        raise CheckpointError(
            f"{place}: was written by another job ({'; '.join(map(str, found))}), so the next "
            "steps would be another run's; put job.yaml back as it was, or begin a new run with "
            "`model: {path: ...}`"
        )


def _fixed_values(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if may_change(field):
            continue
        value = values[name]
        inner = section_for(field, value)
        if inner is not None:
            kept[name] = _fixed_values(inner, value)
        elif isinstance(value, list) and sections_of(field):
            kept[name] = [_fixed_values(sections_of(field)[0], item) for item in value]
        else:
            kept[name] = value
    return kept


def _changes(
    section: type[Section], before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[Change]:
    for name, field in section.model_fields.items():
        if may_change(field):
            continue
        old, new = _value(before, name, field), _value(after, name, field)
        inner = section_for(field, new)
        if inner is not None and isinstance(old, Mapping):
            yield from _changes(inner, old, new, f"{path}{name}.")
        elif _are_lists(field, old, new):
            yield from _changes_of_items(field, old, new, f"{path}{name}")
        elif old != new:
            yield Change(f"{path}{name}", old, new)


def _are_lists(field: FieldInfo, old: Any, new: Any) -> bool:
    """Whether both are lists of a section's items."""
    return bool(sections_of(field)) and isinstance(old, list) and isinstance(new, list)


def _changes_of_items(
    field: FieldInfo, old: Sequence[Any], new: Sequence[Any], path: str
) -> Iterator[Change]:
    section = sections_of(field)[0]
    for number, (before, after) in enumerate(zip(old, new, strict=False)):
        yield from _changes(section, before, after, f"{path}.{number}.")
    longer = old if len(old) > len(new) else new
    for number in range(min(len(old), len(new)), len(longer)):
        said = {key: value for key, value in longer[number].items() if value is not None}
        pair = (said, None) if longer is old else (None, said)
        yield Change(f"{path}.{number}", *pair)


def _value(values: Mapping[str, Any], name: str, field: FieldInfo) -> Any:
    """What stands there, else the field's default as JSON holds it; None for one that has none."""
    if name in values:
        return values[name]
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return default.model_dump(mode="json")
    return list(default) if isinstance(default, tuple) else default


def _changeable(section: type[Section], path: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if may_change(field):
            yield f"{path}{name}"
            continue
        for inner in sections_of(field):
            yield from _changeable(inner, f"{path}{name}.")


def check_lift(lifted: Sequence[str], quarantined: Sequence[QuarantinedDevice]) -> None:
    """JobError where a device is to be used again that was never left out in this run."""
    known = [device.key for device in quarantined]
    unknown = [key for key in lifted if key not in known]
    if unknown:
        there = f"there are: {', '.join(dict.fromkeys(known))}" if known else "there is none"
        raise JobError(
            f"fault.quarantine.lift: no device {', '.join(unknown)} is in quarantine in this run; "
            f"{there}; give a key as `dougong status` has it"
        )
