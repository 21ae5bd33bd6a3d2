"""The schema itself: strict scalars, closed sections, a description and a kind for every field."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.schema import Job
from dougong.job.section import Section, section_in
from pydantic import ValidationError

LEAST: dict[str, Any] = {
    "job": "a",
    "model": {"family": "qwen3_moe"},
    "data": {"text": "stdlib"},
    "steps": 1,
    "islands": [{"name": "east", "accelerator": "cpu"}],
}


def with_value(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = {**LEAST, "optimizer": {}, "schedule": {}, "batch": {}, "checkpoint": {}, "fault": {}}
    inner: Any = data
    for key in path[:-1]:
        inner[key] = inner = dict(inner[key])
    inner[path[-1]] = value
    return data


def sections(section: type[Section] = Job) -> list[type[Section]]:
    inner = [section_in(info.annotation) for info in section.model_fields.values()]
    return [section, *(found for one in inner if one is not None for found in sections(one))]


def test_the_least_job() -> None:
    job = Job.model_validate(LEAST)
    assert (job.batch.lanes, job.precision, job.seed, job.drill, job.fault.max_restarts) == (1, "float32", 0, (), 3)
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), True),
        (("steps",), "1"),
        (("steps",), 1.5),
        (("steps",), 0),
        (("steps",), 2**31),
        (("seed",), -1),
        (("job",), ""),
        (("job",), "-a"),
        (("job",), "a b"),
        (("job",), "a/b"),
        (("job",), "a\n"),
        (("job",), "a" * 64),
        (("job",), 5),
        (("islands",), []),
        (("islands",), [{"name": "a.b", "accelerator": "cpu"}]),
        (("islands",), [{"name": "a", "accelerator": "tpu"}]),
        (("islands",), [{"name": "a", "accelerator": "cpu", "workers": 0}]),
        (("islands",), [{"name": "a", "accelerator": "cpu", "threads": True}]),
        (("drill",), [{"at_step": 1, "kill": "east"}]),
        (("drill",), [{"at_step": 1, "kill": "east/01"}]),
        (("drill",), [{"at_step": 0, "kill": "east/1"}]),
        (("data", "sequence_length"), 1),
        (("data", "text"), ""),
        (("data", "validation"), {"fraction": 1.0}),
        (("data", "validation"), {"fraction": 0.0}),
        (("optimizer", "lr"), float("nan")),
        (("optimizer", "lr"), float("inf")),
        (("optimizer", "lr"), 0),
        (("optimizer", "lr"), "1e-3"),
        (("optimizer", "betas"), [0.9]),
        (("optimizer", "betas"), [0.9, 1.0]),
        (("optimizer", "betas"), [-0.1, 0.9]),
        (("optimizer", "clip_norm"), 0.0),
        (("schedule", "final_fraction"), 1.5),
        (("schedule", "warmup_steps"), -1),
        (("checkpoint", "keep"), 0),
        (("checkpoint", "every"), -1),
        (("precision",), "float16"),
    ],
)
def test_values_out_of_bounds_are_refused(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Job.model_validate(with_value(path, value))
    assert all(error["loc"][: len(path)] == path for error in caught.value.errors())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), 2**63 - 1),
        (("checkpoint", "every"), 0),
        (("fault", "max_restarts"), 0),
        (("optimizer", "lr"), 1),
        (("optimizer", "clip_norm"), None),
        (("optimizer", "betas"), [0, 0.999]),
        (("islands",), [{"name": "0", "accelerator": "npu", "node": "10.0.0.7"}]),
    ],
)
def test_values_at_the_bounds_are_taken(path: tuple[str, ...], value: Any) -> None:
    Job.model_validate(with_value(path, value))


@pytest.mark.parametrize("section", sections())
def test_sections_are_closed_frozen_and_described(section: type[Section]) -> None:
    assert section.model_config["extra"] == "forbid" and section.model_config["frozen"]
    assert section.__doc__
    for info in section.model_fields.values():
        assert info.description
        assert isinstance(info.json_schema_extra, dict)
        assert info.json_schema_extra["x-kind"] in ("logical", "physical")


def test_what_fixes_the_bits() -> None:
    kinds = {
        f"{section.__name__}.{name}": info.json_schema_extra["x-kind"]
        for section in sections()
        for name, info in section.model_fields.items()
        if isinstance(info.json_schema_extra, dict)
    }
    assert [kinds[name] for name in ("Batch.lanes", "Island.threads", "Data.text", "Job.seed")] == ["logical"] * 4
    assert [kinds[name] for name in ("Island.workers", "Island.role", "Checkpoint.every", "Drill.kill")] == [
        "physical"
    ] * 4


@pytest.mark.parametrize(
    ("determinism", "numerics", "promises"),
    [
        ("layout", "exact", (True, True, True)),
        ("layout", "bounded", (True, True, False)),
        ("run", "exact", (False, True, False)),
        ("off", "exact", (False, False, False)),
    ],
)
def test_what_a_job_promises_of_its_bits(determinism: str, numerics: str, promises: tuple[bool, bool, bool]) -> None:
    job = Job.model_validate({**LEAST, "determinism": determinism, "numerics": numerics})
    assert (job.is_layout_free, job.is_deterministic, job.needs_exact_kernels) == promises
