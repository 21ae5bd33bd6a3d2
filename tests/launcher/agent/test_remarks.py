"""What is told once of the machines of a run: each remark where it belongs, and none where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.handshake import AgentFacts, MachineLimits
from dougong.launcher.agent.remarks import JoinedAgent, remarks_on_machines, remarks_on_memory
from dougong.models.inventory import inspect_model
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import AgentSpec
from dougong.remarks import NOTHING
from tests.jobs import make_job, plan_for

GIB = 1 << 30
PLENTY = MachineLimits(
    cpus=64, free_memory_bytes=1 << 50, open_files=1 << 20, processes=None, shared_memory_bytes=64 * GIB
)


def agent(
    node: str, workers: int = 2, threads: int = 1, island: str = "east", accelerator: str = "cpu", ahead_s: float = 0.0,
    **limits: Any,
) -> JoinedAgent:  # fmt: skip
    spec = AgentSpec(island, island, "both", accelerator, threads, 0, workers)
    facts = AgentFacts(island, island, node, 1, accelerator, None, {}, {}, limits=replace(PLENTY, **limits))
    return JoinedAgent(spec, facts, ahead_s)


def test_where_all_is_well_nothing_is_said() -> None:
    agents = [agent("alpha", ahead_s=4.9), agent("beta", island="west", accelerator="cuda", ahead_s=-4.9)]
    assert remarks_on_machines(agents, ["alpha", "beta"]) == NOTHING


@pytest.mark.parametrize(
    ("agents", "text"),
    [
        (
            [agent("alpha", 4, cpus=2)],
            "4 workers with 1 thread each on 2 CPUs of alpha: they share them",
        ),
        (
            [agent("alpha", 1, 8, cpus=2), agent("alpha", 2, 1, "west", cpus=2)],
            "3 workers with 10 threads in all on 2 CPUs of alpha: they share them",
        ),
        (
            [agent("alpha", ahead_s=-7200.0)],
            "the clock of alpha is 2:00:00 behind that of this machine (dougong run); no decision depends on it, but "
            "times in that node's logs are other ones",
        ),
        ([agent("alpha", ahead_s=60.0)], "the clock of alpha is 1:00 ahead of that of this machine"),
        (
            [agent("alpha", accelerator="cuda", locked_memory_bytes=65536), agent("beta", island="west")],
            "a process on alpha may pin 64.0 KiB of memory; InfiniBand and its like need more: `ulimit -l unlimited`",
        ),
    ],
)
def test_notes(agents: list[JoinedAgent], text: str) -> None:
    found = remarks_on_machines(agents, ["alpha"])
    assert len(found.notes) == 1 and found.notes[0].startswith(text)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("agents", "text"),
    [
        (
            [agent("alpha", 40, open_files=256), agent("beta", 40, island="west")],
            "a process on alpha may have 256 files and connections open, and one of a run with 80 workers needs about "
            "580: `ulimit -n 1160` where Ray is started there",
        ),
        (
            [agent("alpha", 8, processes=100)],
            "this user may have 100 processes and threads on alpha, and 8 workers there need about 296: `ulimit",
        ),
        (
            [agent("alpha", 2, accelerator="cuda", shared_memory_bytes=64 << 20)],
            "/dev/shm of alpha has 64.0 MiB, and 2 devices exchange through it: give it 1.0 GiB (of a container: "
            "--shm-size=1g)",
        ),
    ],
)
def test_warnings(agents: list[JoinedAgent], text: str) -> None:
    found = remarks_on_machines(agents, ["alpha"])
    assert len(found.warnings) == 1 and found.warnings[0].startswith(text)
    assert found.notes == ()


def test_limits_matter_only_where_something_needs_them() -> None:
    """A worker on CPUs exchanges by sockets, and one device with nobody."""
    small = {"shared_memory_bytes": 64 << 20, "locked_memory_bytes": 65536}
    assert remarks_on_machines([agent("alpha", 8, **small)], ["alpha"]) == NOTHING
    assert remarks_on_machines([agent("alpha", 1, accelerator="cuda", **small)], ["alpha"]) == NOTHING


def test_only_nodes_with_news_are_looked_at_again() -> None:
    agents = [agent("alpha", 4, cpus=2), agent("beta", 4, cpus=2, island="west")]
    (note,) = remarks_on_machines(agents, ["beta"]).notes
    assert "CPUs of beta" in note


def test_less_free_memory_than_the_plan_needs_is_a_warning_of_the_node() -> None:
    job = make_job()
    plan = plan_for(job, "BB")
    inventory = inspect_model(job.model, 256)
    memories = needed_memory(job, inventory, plan)
    on_host = sum(memory.on_host for memory in memories)
    needed = sum(memory.peak for memory in memories) + on_host
    (warning,) = remarks_on_memory(job, inventory, plan, [agent("alpha", free_memory_bytes=needed - 1)]).warnings
    assert warning.startswith("alpha has ") and "of memory free now, and its workers need " in warning
    assert "at their peaks: " in warning and "weights" in warning and "snapshots" in warning
    assert remarks_on_memory(job, inventory, plan, [agent("alpha", free_memory_bytes=needed)]) == NOTHING
    assert remarks_on_memory(job, inventory, plan, [agent("alpha", free_memory_bytes=None)]) == NOTHING
    devices = [agent("alpha", accelerator="cuda", free_memory_bytes=on_host)]
    assert remarks_on_memory(job, inventory, plan, devices) == NOTHING
    devices = [agent("alpha", accelerator="cuda", free_memory_bytes=on_host - 1)]
    (warning,) = remarks_on_memory(job, inventory, plan, devices).warnings
    assert "fault.snapshots.replicas: 0" in warning and "weights" not in warning
    off = make_job(fault={"snapshots": {"every": 0}})
    devices = [agent("alpha", accelerator="cuda", free_memory_bytes=0)]
    (warning,) = remarks_on_memory(off, inventory, plan, devices).warnings
    assert "a checkpoint that is being written" in warning and "snapshots" not in warning
