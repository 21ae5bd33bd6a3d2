"""The job that faults are rehearsed on is a job, with a worker of each role."""

from __future__ import annotations

from dougong.job.drills.drill import Drill
from dougong.job.rule import worker_names
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.small_job import WORKERS, checked, small_job


def test_it_is_a_job_with_every_role() -> None:
    job = checked(small_job())
    assert tuple(worker_names(job.islands)) == WORKERS
    assert {island.role for island in job.islands} == {"attention", "experts", "both"} and job.is_layout_free


def test_it_orders_what_has_a_step() -> None:
    planned = (PlannedFault("stop", "both/0", 4, for_s=2.0), PlannedFault("kill", "both/0", after_s=1.0))
    assert checked(small_job(planned)).drill == (Drill(at_step=4, fault="stop", on="both/0", for_s=2.0),)


def test_it_is_audited_where_that_is_asked() -> None:
    assert checked(small_job()).fault.audit is None and checked(small_job(is_audited=True)).fault.audit == "all"
