"""Which program a worker runs, and the proof of a whole step before it runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from dougong.errors import PlanError
from dougong.parallel.plan import Plan, Role
from dougong.parallel.schedules.check import Alive, check
from dougong.parallel.schedules.operation import Operation, Program
from dougong.parallel.schedules.registry import SCHEDULES
from dougong.parallel.schedules.serial import serial
from dougong.planner.needs.programs import pipeline_of, programs_of, prove
from tests.jobs import make_job, plan_for

BATCH = {"lanes": 4, "microbatches": 3, "microbatch_size": 1}


def laid_out(roles: str, **changes: Any) -> tuple[Any, Plan]:
    job = make_job(batch=BATCH, **changes)
    return job, plan_for(job, roles)


@pytest.mark.parametrize(
    ("roles", "asked", "expected"),
    [
        ("BB", "auto", "colocated"),
        ("AE", "auto", "zebra"),
        ("ABE", "auto", "zebra"),
        ("AAE", "af_pipe", "af_pipe"),
        ("BB", "serial", "serial"),
    ],
)
def test_the_schedule_follows_the_roles_unless_it_is_named(roles: str, asked: str, expected: str) -> None:
    job, plan = laid_out(roles, pipeline=asked)
    assert pipeline_of(job, plan) == expected
    programs = programs_of(job, plan)
    assert [p.worker for p in programs] == [w.name for w in plan.workers]
    assert [p.role for p in programs] == [w.role_in_step for w in plan.workers]


@pytest.mark.parametrize("roles", ["B", "BBB", "AE", "AAAE", "AEEE", "ABE"])
@pytest.mark.parametrize("pipeline", ["auto", "serial", "zebra", "af_pipe"])
def test_a_step_is_proved_and_what_it_keeps_alive_is_known(roles: str, pipeline: str) -> None:
    job, plan = laid_out(roles, pipeline=pipeline)
    alive = prove(job, plan)
    assert set(alive) == {w.role_in_step for w in plan.workers}
    most = 3 * 4  # micro-batches times segments; one experts call less
    assert all(0 <= kept.segments <= most and 0 <= kept.waves <= most - 3 for kept in alive.values())
    assert sum(kept.segments for kept in alive.values()) > 0 < sum(kept.waves for kept in alive.values())


def test_a_schedule_that_is_not_made_for_these_roles_is_refused() -> None:
    job, plan = laid_out("AE", pipeline="colocated")
    with pytest.raises(PlanError, match="colocated"):
        prove(job, plan)


def test_a_plan_of_the_same_kinds_of_workers_is_not_proved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[list[str]] = []

    def counted(programs: Sequence[Program], *numbers: int) -> dict[str, Alive]:
        proved.append([program.worker for program in programs])
        return check(programs, *numbers)

    monkeypatch.setattr("dougong.planner.needs.programs.check", counted)
    job, plan = laid_out("AAEE", pipeline="af_pipe")
    job = job.model_copy(update={"batch": job.batch.model_copy(update={"microbatches": 7})})
    alive = prove(job, plan)
    renamed = dataclasses.replace(plan, workers=tuple(dataclasses.replace(w, name=f"b/{w.rank}") for w in plan.workers))
    assert prove(job, renamed) == alive and len(proved) == 1
    assert prove(job, laid_out("AAAAEEEE")[1]) == alive and len(proved) == 1
    prove(job, laid_out("AE")[1])
    prove(job.model_copy(update={"pipeline": "serial"}), plan)
    assert len(proved) == 3


def test_what_is_refused_is_named_by_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
        return serial(num_sites, num_microbatches, role)[::-1]

    job, plan = laid_out("AE", pipeline="serial")
    job = job.model_copy(update={"batch": job.batch.model_copy(update={"microbatches": 6})})
    monkeypatch.setitem(SCHEDULES, "serial", late)
    for _ in range(2):  # a refusal is not kept
        with pytest.raises(PlanError, match=r"worker east/0 \(attention\) cannot run operation 0"):
            prove(job, plan)
    monkeypatch.undo()
    assert prove(job, plan)


def test_it_needs_no_torch() -> None:
    code = "import sys, dougong.planner.needs.programs, dougong.tools.plan_chart; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
