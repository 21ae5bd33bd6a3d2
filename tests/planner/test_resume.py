"""What a resume may change is what the schema's marks say."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.errors import CheckpointError, JobError
from dougong.fault.quarantine import QuarantinedDevice
from dougong.job.schema import Job
from dougong.job.section import Section, mark_of, sections_of
from dougong.planner.resume import (
    changeable_keys,
    changes,
    changes_of_bits,
    check_lift,
    check_resume,
    check_written,
    identity,
    may_change,
)
from tests.launcher.toyrun import toy_job

VALIDATION = {"fraction": 0.1, "every": 10, "batches": 2}


def job_of(**changes: Any) -> Job:
    data = {"text": "stdlib", "validation": VALIDATION, **changes.pop("data", {})}
    return Job.model_validate(toy_job(data=data, **changes))


BEFORE = job_of()
ISLAND = {"name": "elsewhere", "accelerator": "cuda", "workers": 3, "threads": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"job": "renamed"},
        {"steps": 1000},
        {"islands": [ISLAND]},
        {"offload": 0},
        {"pipeline": "serial"},
        {"numerics": "bounded"},
        {"checkpoint": {"every": 7, "keep": 5}},
        {"fault": {"max_restarts": 0, "deadlines": {"message_s": 30.0}}},
        {"drill": [{"at_step": 1, "kill": "elsewhere/0"}], "islands": [ISLAND]},
        {"data": {"validation": {**VALIDATION, "every": 3, "batches": 9}}},
    ],
    ids=lambda change: ",".join(change),
)
def test_what_may_change(change: dict[str, Any]) -> None:
    check_resume(BEFORE, job_of(**change))


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({}, ()),
        ({"steps": 1000, "job": "renamed", "pipeline": "serial", "checkpoint": {"every": 7, "keep": 5}}, ()),
        ({"fault": {"non_finite": "skip"}}, ()),
        ({"islands": [{"name": "a", "accelerator": "cpu"}, {"name": "b", "accelerator": "cpu"}]}, ()),
        ({"islands": [ISLAND]}, ("islands.accelerator", "islands.threads")),
        ({"numerics": "bounded"}, ("numerics",)),
        ({"schedule": {"decay_steps": 99}}, ("schedule.decay_steps",)),
    ],
)
def test_what_a_resume_changes_that_may_change_bits(change: dict[str, Any], keys: tuple[str, ...]) -> None:
    assert changes_of_bits(BEFORE, job_of(**change)) == keys


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 5}, "seed"),
        ({"batch": {"lanes": 99}}, "batch.lanes"),
        ({"optimizer": {"lr": 0.5}}, "optimizer.lr"),
        ({"optimizer": {"betas": [0.5, 0.6]}}, "optimizer.betas"),
        ({"schedule": {"name": "linear"}}, "schedule.name"),
        ({"router": {"bias_rate": 0.001}}, "router.bias_rate"),
        ({"precision": "bfloat16"}, "precision"),
        ({"determinism": "run"}, "determinism"),
        ({"expert_tile": 16}, "expert_tile"),
        ({"model": {"family": "other"}}, "model.family"),
        ({"data": {"validation": {**VALIDATION, "fraction": 0.5}}}, "data.validation.fraction"),
        ({"data": {"validation": None}}, "data.validation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_stay(change: dict[str, Any], key: str) -> None:
    with pytest.raises(JobError) as caught:
        check_resume(BEFORE, job_of(**change))
    text = str(caught.value)
    assert text.startswith(f"{key}: ") and " now: this run has computed with the former" in text
    *others, last = changeable_keys()
    assert f"a resume may change {', '.join(others)} and {last}; for the rest, begin a new run" in text


def test_both_values_of_every_changed_key_are_named() -> None:
    with pytest.raises(JobError) as caught:
        check_resume(BEFORE, job_of(seed=5, optimizer={"betas": [0.5, 0.6]}, data={"validation": None}))
    text = str(caught.value)
    assert f"seed: {BEFORE.seed} then, 5 now; " in text or f"seed: {BEFORE.seed} then, 5 now: " in text
    assert "optimizer.betas: [0.9, 0.95] then, [0.5, 0.6] now" in text
    assert "data.validation: {fraction: 0.1} then, null now" in text


def test_a_job_is_its_own_identity() -> None:
    assert [change.key for change in changes(identity(BEFORE), identity(BEFORE))] == []
    kept = identity(BEFORE)
    assert kept["seed"] == BEFORE.seed and kept["data"]["validation"] == {"fraction": 0.1}
    assert not kept.keys() & {"job", "steps", "islands", "drill"}


def test_an_older_checkpoint_still_compares() -> None:
    """It holds whole sections, keys that may change among them, and none of the keys that came after it."""
    old = BEFORE.model_dump(mode="json")
    for key in ("islands", "offload", "pipeline", "checkpoint", "fault", "drill", "steps", "numerics", "combine"):
        del old[key]
    del old["optimizer"]["eps"]
    assert [change.key for change in changes(old, identity(job_of(job="renamed")))] == []
    assert [change.key for change in changes(old, identity(job_of(seed=5)))] == ["seed"]
    found = changes(old, identity(job_of(combine="at_experts", determinism="run")))
    assert [change.key for change in found] == ["determinism", "combine"]


def fields_below(section: type[Section], place: str, changeable: bool) -> list[tuple[str, bool, bool]]:
    """(dotted key, may it change, may what it stands in) for every field of a section and below."""
    found = []
    for name, field in section.model_fields.items():
        here = f"{place}.{name}".lstrip(".")
        found.append((here, may_change(field), changeable))
        for inner in sections_of(field):
            found += fields_below(inner, here, changeable or may_change(field))
    return found


def test_no_key_that_must_stay_lies_in_a_section_that_may_change() -> None:
    """A section that may change is not looked into; so no key in it may be logical without a reason beside it."""
    fields = fields_below(Job, "", False)
    assert {"islands.threads", "islands.accelerator", "steps"} <= {name for name, may, _ in fields if may}
    assert [name for name, may, inside in fields if inside and not may] == []


def test_reasons_stand_on_logical_keys_alone() -> None:
    for section in (Job, *(inner for field in Job.model_fields.values() for inner in sections_of(field))):
        for field in section.model_fields.values():
            assert mark_of(field, "x-resume") is None or mark_of(field, "x-kind") == "logical"


def test_changeable_keys_are_whole_sections_where_they_can_be() -> None:
    keys = changeable_keys()
    assert "fault" in keys and "fault.max_restarts" not in keys
    assert "data.validation.every" in keys and "data" not in keys


def test_a_device_that_was_never_left_out_cannot_be_used_again() -> None:
    known = [QuarantinedDevice("cuda", "GPU-1", "node0", "Xid 79")]
    check_lift(["GPU-1"], known)
    check_lift([], [])
    with pytest.raises(JobError, match="no device GPU-2 is in quarantine in this run; there are: GPU-1; give a key"):
        check_lift(["GPU-1", "GPU-2"], known)
    with pytest.raises(JobError, match="there is none; give a key"):
        check_lift(["GPU-1"], [])


def test_a_job_file_that_was_changed_by_hand_is_refused() -> None:
    """What a resume may change is no reason."""
    written = identity(BEFORE)
    check_written("step-000005", written, job_of(steps=99, numerics="bounded"))
    check_written("step-000005", None, job_of(seed=5))
    with pytest.raises(CheckpointError) as caught:
        check_written("step-000005", written, job_of(optimizer={"lr": 0.5}))
    text = str(caught.value)
    assert text.startswith("step-000005: was written by another job (optimizer.lr: ") and "then, 0.5 now)" in text
    assert "put job.yaml back as it was" in text


def mixture_of(*weights: float) -> Job:
    mixture = [{"tokens": f"{number}.bin", "weight": weight} for number, weight in enumerate(weights)]
    return Job.model_validate(toy_job(data={"mixture": mixture}))


def test_of_a_mixture_the_items_that_differ_are_named() -> None:
    with pytest.raises(JobError, match=r"^data.mixture.1.weight: 1.0 then, 3.0 now: this run has computed"):
        check_resume(mixture_of(2.0, 1.0), mixture_of(2.0, 3.0))
    gone = r"^data.mixture.2: \{tokens: 2.bin, weight: 4.0\} then, null now: this run"
    with pytest.raises(JobError, match=gone):
        check_resume(mixture_of(2.0, 1.0, 4.0), mixture_of(2.0, 1.0))
    with pytest.raises(JobError, match=r"data.mixture.0: null then, \{tokens: 0.bin, weight: 2.0\} now"):
        check_resume(BEFORE, mixture_of(2.0))
    check_resume(mixture_of(2.0, 1.0), mixture_of(2.0, 1.0))


def test_keys_that_an_older_mixture_lacks_count_as_their_defaults() -> None:
    written = identity(mixture_of(2.0, 1.0))
    for item in written["data"]["mixture"]:
        del item["epochs"], item["document_end"]
    assert changes(written, identity(mixture_of(2.0, 1.0))) == []
    older = identity(BEFORE)
    del older["data"]["mixture"]
    assert changes(older, identity(BEFORE)) == []
