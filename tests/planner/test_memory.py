"""Memory that agents have told of, held against what a plan takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.handshake import AgentFacts
from dougong.errors import PlanError
from dougong.planner.memory import KnownMemory, check_fit, check_hosts, known_memory
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import AgentSpec, seats_of_job
from dougong.planner.plan_job import plan_job
from tests.planner.test_plan_job import TINY, job_of, with_island

SPECS = (
    AgentSpec("a", "a", "attention", "cpu", 1, 0, 2),
    AgentSpec("e", "e", "experts", "cuda", 1, 0, 2),
)


def agent(name: str, accelerator: str, node: str, memory_bytes: int | None) -> AgentFacts:
    return AgentFacts(name, name, node, 1, accelerator, None, {}, {}, memory_bytes=memory_bytes)


def test_a_machine_is_shared_and_a_device_is_not() -> None:
    agents = {"a": agent("a", "cpu", "forge", 100), "e": agent("e", "cuda", "anvil", 80)}
    assert known_memory(job_of(), SPECS, agents) == [
        KnownMemory("a device of anvil", ("e/0",), 80, False),
        KnownMemory("a device of anvil", ("e/1",), 80, False),
        KnownMemory("forge", ("a/0", "a/1"), 100, True),
    ]


def test_a_device_that_is_used_together_counts_once_for_all_its_workers() -> None:
    east = AgentSpec("a", "a", "attention", "cuda", 1, 0, 2, shares_device=True)
    west = AgentSpec("e", "e", "experts", "cuda", 1, 0, 2, shares_device=True)
    agents = {name: agent(name, "cuda", "anvil", 80) for name in ("a", "e")}
    together = KnownMemory("the cuda device of anvil", ("a/0", "a/1", "e/0", "e/1"), 80, False)
    assert known_memory(job_of(), (east, west), agents) == [together]
    job = job_of()
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    needed = sum(memory.peak for memory in needed_memory(job, TINY, plan))
    check_fit(job, plan, needed_memory(job, TINY, plan), [replace(together, num_bytes=needed)])
    with pytest.raises(PlanError, match="the 4 workers on the cuda device of anvil need"):
        check_fit(job, plan, needed_memory(job, TINY, plan), [replace(together, num_bytes=needed - 1)])


def test_islands_on_one_machine_share_it_with_each_other() -> None:
    specs = (SPECS[0], AgentSpec("e", "e", "experts", "cpu", 1, 0, 2))
    agents = {"a": agent("a", "cpu", "forge", 100), "e": agent("e", "cpu", "forge", 90)}
    (known,) = known_memory(job_of(), specs, agents)
    assert known == KnownMemory("forge", ("a/0", "a/1", "e/0", "e/1"), 90, True)


@pytest.mark.parametrize(("memory_bytes", "changes"), [(None, {}), (80, {"memory_gb": 1.0})])
def test_what_is_unknown_or_said_by_the_job_is_not_judged(memory_bytes: int | None, changes: dict[str, Any]) -> None:
    agents = {"a": agent("a", "cpu", "forge", None), "e": agent("e", "cuda", "anvil", memory_bytes)}
    assert known_memory(with_island(job_of(), "e", **changes), SPECS, agents) == []


def test_a_device_is_refused_one_byte_short() -> None:
    job = job_of()
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    needed = needed_memory(job, TINY, plan)[2].peak
    check_fit(job, plan, needed_memory(job, TINY, plan), [KnownMemory("a device of anvil", ("e/0",), needed, False)])
    with pytest.raises(PlanError) as refused:
        check_fit(
            job, plan, needed_memory(job, TINY, plan), [KnownMemory("a device of anvil", ("e/0",), needed - 1, False)]
        )
    said = str(refused.value)
    assert said.startswith(
        "e/0 needs 0.354 GB at its peak (forward and backward), and a device of anvil has 0.354 GB: "
    )
    assert "rows of experts 0.226 GB, moments 0.064 GB, gradients 0.032 GB, weights 0.032 GB" in said
    assert "; of rows of experts: set recompute: layers" in said and said.endswith("set islands.e.memory_gb")


def test_a_machine_holds_copies_of_the_state_too_and_a_device_does_not() -> None:
    job = job_of()
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    memories = needed_memory(job, TINY, plan)
    names = ("a/0", "a/1")
    needed = sum(memory.peak + memory.on_host for memory in memories[:2])
    check_fit(job, plan, needed_memory(job, TINY, plan), [KnownMemory("forge", names, needed, True)])
    with pytest.raises(PlanError) as refused:
        check_fit(job, plan, needed_memory(job, TINY, plan), [KnownMemory("forge", names, needed - 1, True)])
    said = str(refused.value)
    assert said.startswith("the 2 workers on forge need 0.289 GB (a/0 0.253 GB, a/1 0.0367 GB), and it has 0.289 GB: ")
    assert "snapshots 0.24 GB" in said and "of snapshots: set fault.snapshots.replicas: 0" in said
    assert said.endswith("fault.snapshots.every: 0 (no snapshots); to run even so, set islands.a.memory_gb")
    check_fit(
        job, plan, needed_memory(job, TINY, plan), [KnownMemory("a device of anvil", ("e/0",), memories[2].peak, False)]
    )


def test_a_machine_must_hold_what_lies_beside_its_devices() -> None:
    job = with_island(job_of(optimizer={"device": "host"}), "e", accelerator="cuda")
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    (node,) = {worker.node for worker in plan.workers if worker.island == "e"}
    needed = sum(memory.on_host for memory in needed_memory(job, TINY, plan)[2:])
    check_hosts(job, plan, needed_memory(job, TINY, plan), {node: needed})
    with pytest.raises(PlanError) as refused:
        check_hosts(job, plan, needed_memory(job, TINY, plan), {node: needed - 1})
    said = str(refused.value)
    assert "and beside their devices its 2 workers need" in said
    assert "moments 0.128 GB" in said and "masters 0.064 GB" in said and "set fault.snapshots.replicas: 0" in said
