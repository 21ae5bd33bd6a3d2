"""Whole runs without torch: after a fault only what is lost is started anew, and no other process ends."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.launcher.toyrun import ToyRun, toy_job, wait_for

ISLANDS = [
    {"name": "east", "accelerator": "cpu", "workers": 2},
    {"name": "west", "accelerator": "cpu", "workers": 2},
]


def started(tmp_path: Path, **job: Any) -> ToyRun:
    """A run of two islands whose workers keep each step in memory."""
    fault = {"max_restarts": 40, "deadlines": {"leave_s": 2}}
    job = {"islands": ISLANDS, "steps": 90, "step_s": 0.04, "memory": True, "fault": fault, **job}
    run = ToyRun(tmp_path / "run", toy_job(**job)).start()
    run.await_step(3)
    return run


def pids(run: ToyRun) -> dict[str, int]:
    """Of all four workers: status.json follows within half a second."""
    return wait_for(lambda: (found := run.worker_pids()) and len(found) == 4 and found, f"all workers: {run.text()}")


def recovered(run: ToyRun, count: int) -> dict[str, Any]:
    """The recovery of that number, when it is over."""
    return wait_for(lambda: run.events("recovered")[count - 1 :], f"recovery {count}: {run.text()}")[0]


def ended(run: ToyRun) -> None:
    """The run finishes; every generation has gone on from the newest step, or the one before."""
    assert run.finish() == 0, run.text()
    rows = list(run.run_dir.read_metrics())
    assert rows[-1]["step"] == run.job["steps"]
    for number in sorted({row["generation"] for row in rows})[1:]:
        newest = max(row["step"] for row in rows if row["generation"] < number)
        first = next(row["step"] for row in rows if row["generation"] == number)
        assert newest <= first <= newest + 1


@pytest.mark.slow
def test_a_step_has_one_row_although_its_teller_dies_before_it_tells(tmp_path: Path) -> None:
    faults = [{"worker": "east/0", "step": step, "do": "kill", "moment": "untold"} for step in (5, 12)]
    faults[1]["generation"] = 2
    job = {"islands": ISLANDS, "memory": True, "faults": faults, "step_s": 0.04}
    run = ToyRun(tmp_path / "run", toy_job(**job)).start()
    assert run.finish() == 0, run.text()
    rows = run.run_dir.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["generation"] for row in rows] == [1] * 5 + [2] * 7 + [3] * 8


def test_a_fault_costs_what_it_has_hit_and_at_most_one_step(tmp_path: Path) -> None:
    """A death, a preemption, and the death of an agent, one after the other."""
    run = started(tmp_path)
    before = pids(run)
    os.kill(before["east/1"], signal.SIGKILL)
    over = recovered(run, 1)
    assert (over["kept"], over["forked"]) == (["east/0", "west/0", "west/1"], ["east/1"])
    assert over["tiers"] == {"own": 24, "peer": 8}
    assert over["left_s"] <= over["begun_s"] <= over["formed_s"] <= over["first_step_s"]
    after = wait_for(lambda: pids(run)["east/1"] != before["east/1"] and pids(run), "the new worker is shown")
    assert {name for name in before if before[name] != after[name]} == {"east/1"}

    os.kill(after["west/0"], signal.SIGTERM)
    over = recovered(run, 2)
    assert (over["kept"], over["forked"]) == (["east/0", "east/1", "west/1"], ["west/0"])

    (agents, *_) = run.events("agents_started")
    os.kill(next(agent["pid"] for agent in agents["agents"] if agent["agent"] == "west"), signal.SIGKILL)
    over = recovered(run, 3)
    assert (over["kept"], over["forked"]) == (["east/0", "east/1"], ["west/0", "west/1"])
    ended(run)
    assert [e["in_memory"] for e in run.events("generation_started")] == [False, True, True, True]


@pytest.mark.slow
def test_kills_in_pairs_within_a_recovery(tmp_path: Path) -> None:
    """A second one 0.05 to 1.2 s after the first: it finds the generation leaving, forming or at its first step."""
    run, chance = started(tmp_path, steps=400), random.Random(7)
    for _ in range(12):
        first, second = chance.sample(sorted(pids(run).items()), 2)
        os.kill(first[1], signal.SIGKILL)
        time.sleep(chance.uniform(0.05, 1.2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(second[1], signal.SIGKILL)
        wait_for(lambda: pids(run).items().isdisjoint({first, second}), f"both are replaced: {run.text()}")  # noqa: B023
    assert run.run_dir.read_status().state == "RUNNING"  # type: ignore[union-attr]
    ended(run)
    assert len(run.events("recovered")) >= 12
