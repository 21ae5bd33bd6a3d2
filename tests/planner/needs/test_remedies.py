"""What makes a part of the memory less: keys that are not set yet, and that the job may be given."""

from __future__ import annotations

import re
from typing import Any

import pytest
from dougong.job.rules import breaches
from dougong.job.schema import Job
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.terms import Term
from dougong.planner.needs.worker_memory import STEP, needed_memory
from dougong.training.start.preflight import inspect_only
from tests.jobs import make_job, plan_for
from tests.planner.test_plan_job import job_of, plan_of, with_island

BOTH = [{"name": "b", "accelerator": "cuda", "workers": 2}]
"""Of four lanes and eight experts."""


def of(term: Term, job: Job) -> str:
    return Remedies(job, plan_of(job)).of(term)


def both(**changes: Any) -> Job:
    return job_of(islands=BOTH, **changes)


@pytest.mark.parametrize(
    ("term", "key", "changes"),
    [
        (Term.WEIGHTS, "dense: shard", {"dense": "shard"}),
        (Term.GRADIENTS, "dense: shard", {"dense": "shard"}),
        (Term.ACTIVATIONS, "recompute: layers", {"recompute": "layers"}),
        (Term.ROWS, "recompute: layers", {"recompute": "layers"}),
        (Term.MASTERS, "optimizer.device: host", {"optimizer": {"device": "host"}}),
        (Term.MOMENTS, "optimizer.device: host", {"optimizer": {"device": "host"}}),
        (Term.MOMENTS, "optimizer.state: bfloat16", {"optimizer": {"state": "bfloat16"}}),
        (Term.STAGING, "optimizer.state: bfloat16", {"optimizer": {"state": "bfloat16"}}),
        (Term.SNAPSHOTS, "fault.snapshots.replicas: 0", {"fault": {"snapshots": {"replicas": 0}}}),
        (Term.MESSAGES, "combine: at_experts", {"combine": "at_experts"}),
    ],
)
def test_a_key_is_named_until_it_is_set(term: Term, key: str, changes: dict[str, Any]) -> None:
    base = {"determinism": "run"} if term is Term.MESSAGES else {}
    assert key in of(term, both(**base))
    assert key not in of(term, both(**base | changes))


def test_a_batch_that_is_as_small_as_it_gets_is_not_to_be_made_smaller() -> None:
    small = {"lanes": 2, "microbatches": 1, "microbatch_size": 1}
    said = of(Term.ACTIVATIONS, both(batch=small))
    assert said == "set recompute: layers, or lower data.sequence_length (now 1000) in a new run"
    several = both(batch=small | {"microbatch_size": 4, "microbatches": 3}, pipeline="zebra")
    assert "batch.microbatch_size (now 4)" in of(Term.ACTIVATIONS, several)
    assert "pipeline: serial" in of(Term.ACTIVATIONS, several)
    assert "batch.microbatches (now 3; zebra has all of them alive)" in of(Term.ACTIVATIONS, several)
    sharded = several.model_copy(update={"dense": "shard"})
    assert "pipeline: serial" not in of(Term.ACTIVATIONS, sharded)


def test_workers_are_to_be_added_where_there_is_something_for_them_to_have() -> None:
    job = job_of(batch={"lanes": 2, "microbatches": 1, "microbatch_size": 1})
    assert of(Term.WEIGHTS, job) == "set dense: shard, or add workers with experts (now 2, at most 8)"
    assert "lanes" not in of(Term.GRADIENTS, job)
    assert "add workers with lanes (now 2 for 4 lanes), or begin a run with fewer batch.lanes (now 4)" in of(
        Term.GRADIENTS, job_of()
    )
    full = with_island(job_of(dense="shard"), "e", workers=8)
    assert of(Term.WEIGHTS, full).startswith("nothing in this job makes it less: take a smaller model")
    assert of(Term.SCRATCH, full) == of(Term.WEIGHTS, full)


def test_one_worker_with_lanes_gains_nothing_by_sharing() -> None:
    alone = with_island(job_of(), "a", workers=1)
    assert "dense" not in of(Term.WEIGHTS, alone)


def test_another_schedule_is_named_where_sharing_needs_one() -> None:
    assert "set dense: shard and pipeline: zebra" in of(Term.WEIGHTS, both(pipeline="serial"))


def test_memory_of_the_host_is_no_remedy_where_devices_have_none_of_their_own() -> None:
    job = job_of(islands=[{"name": "b", "accelerator": "cpu", "workers": 2}])
    assert "host" not in of(Term.MASTERS, job) and "host" not in of(Term.MOMENTS, job)
    slow = both(optimizer={"betas": [0.9, 0.999]})
    assert "bfloat16" not in of(Term.MOMENTS, slow), "of betas that half a state cannot have"


JOBS = [
    both(),
    both(pipeline="serial"),
    job_of(),
    job_of(precision="bfloat16", dense="shard"),
    both(batch={"lanes": 4, "microbatches": 1, "microbatch_size": 2}, pipeline="af_pipe", determinism="run"),
]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("term", list(Term))
def test_what_is_named_is_a_key_of_the_job_that_it_may_be_given(term: Term, job: Job) -> None:
    for words in of(term, job).split(", or "):
        values = job.model_dump()
        for path, value in re.findall(r"(?:set|with|and) ([a-z_.]+): (\w+)", words):
            section = values
            *names, last = path.split(".")
            for name in names:
                section = section[name]
            assert last in section
            section[last] = {"null": None}.get(value, int(value) if value.isdigit() else value)
        for path in re.findall(r"(?:lower|fewer) ([a-z_.]+) \(now", words):
            section = values
            for name in path.split("."):
                section = section[name]
            assert section > 1
        changed = Job.model_validate(values)
        sections = {name: getattr(changed, name) for name in type(changed).model_fields}
        assert not breaches(sections)


@pytest.mark.parametrize(
    ("term", "changes"),
    [
        (Term.WEIGHTS, {"dense": "shard"}),
        (Term.GRADIENTS, {"dense": "shard"}),
        (Term.ACTIVATIONS, {"recompute": "layers"}),
        (Term.ROWS, {"recompute": "layers"}),
        (Term.MOMENTS, {"optimizer": {"state": "bfloat16"}}),
        (Term.SNAPSHOTS, {"fault": {"snapshots": {"replicas": 0}}}),
    ],
)
def test_what_is_named_makes_that_part_less(term: Term, changes: dict[str, Any]) -> None:
    def most(**changes: Any) -> int:
        batch = {"lanes": 4, "microbatches": 4, "microbatch_size": 1}
        job = make_job(precision="bfloat16", batch=batch, pipeline="zebra", **changes)
        memories = needed_memory(job, inspect_only(job), plan_for(job, "BB"))
        return max(one.always.get(term, 0) + one.phases[STEP].get(term, 0) + one.host.get(term, 0) for one in memories)

    assert most(**changes) < most()
