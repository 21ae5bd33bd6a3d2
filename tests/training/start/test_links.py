"""Links between islands are tried before the first step; one that does not answer is told with what to look for."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.start.links import probe_links
from tests.parallel.workers import plan_of
from tests.processes import run_workers


def apart(kinds: str) -> Plan:
    """Each worker an island of its own."""
    plan = plan_of(kinds)
    workers = [replace(worker, island=f"island-{worker.rank}") for worker in plan.workers]
    return replace(plan, workers=tuple(workers))


def probe(world: World, plan: Plan) -> list[tuple[str, str, str, bool, bool]]:
    found = probe_links(world, plan)
    assert not found.copies, "nobody here computes on a device"
    return [(one.one, one.other, one.path, one.bytes_per_s > 0, one.latency_s > 0) for one in found.links]


def test_all_workers_know_what_every_link_gives() -> None:
    plan = apart("AEA")
    names = [worker.name for worker in plan.workers]
    due = [(names[one], names[other], "host", True, True) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert [sorted(links) for links in run_workers(probe, plan)] == [sorted(due)] * 3


def test_one_island_has_no_link() -> None:
    assert run_workers(probe, plan_of("AE")) == [[], []]


def answer_nothing(world: World, plan: Plan) -> tuple[str, tuple[str, ...]]:
    if world.rank == 1:
        time.sleep(2)
        return "", ()
    with pytest.raises(PeerError) as raised:
        probe_links(world, plan)
    return str(raised.value), raised.value.waited_for


def test_a_link_that_does_not_answer_is_told_with_what_to_look_for() -> None:
    plan = apart("AE")
    here, there = plan.workers
    (told, waited_for), _ = run_workers(answer_nothing, plan, deadlines=Deadlines(link_s=0.5))
    assert f"waited 0.5 s (fault.deadlines.link_s) for worker 1 ({there.name})" in told
    assert f"too little comes through between {here.name} on {here.node} and {there.name} on {there.node}" in told
    assert "look for a cable, or a firewall" in told and "\n" not in told
    assert waited_for == (there.name,)
