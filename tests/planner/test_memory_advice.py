"""What an out-of-memory is answered with: by the plan's own bytes."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.planner.memory_advice import memory_advice
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from tests.planner.test_plan_job import TINY, job_of

JOB = job_of(islands=[{"name": "b", "accelerator": "cpu", "workers": 2}])
PLAN = plan_job(JOB, TINY, seats_of_job(JOB.islands))
FIRST, SECOND = needed_memory(JOB, TINY, PLAN)


def told(memory_bytes: int | None, shared: bool, **changes: Any) -> str:
    job = JOB.model_copy(update=changes)
    return memory_advice(job, TINY, PLAN, "b/0", memory_bytes, shared)


def test_a_peak_that_cannot_fit_is_told_with_its_terms_and_what_makes_the_largest_less() -> None:
    text = told(FIRST.peak - 1, shared=False)
    assert text.startswith(
        f"the plan counts {FIRST.peak / 1e9:.3g} GB at the peak of b/0, of {FIRST.peak / 1e9:.3g} GB: "
    )
    assert (
        ": rows of experts 0.13 GB, moments 0.072 GB, " in text
        and "; of rows of experts: set recompute: layers" in text
    )


def test_where_workers_share_a_machine_all_of_them_count_and_what_lies_beside() -> None:
    text = told(FIRST.peak, shared=True)
    total = FIRST.peak + SECOND.peak + FIRST.on_host + SECOND.on_host
    assert text.startswith(f"the plan counts {total / 1e9:.3g} GB at the peak of the 2 workers on -, of ")
    assert "snapshots 0.816 GB" in text and "set fault.snapshots.replicas: 0" in text


def test_a_peak_that_would_have_fitted_is_told_so_with_what_leaves_more_room() -> None:
    text = told(2 * FIRST.peak, shared=False)
    assert "; what came on top of that it does not know" in text
    ways = "set recompute: layers, or set dense: shard, or add workers, or lower data.sequence_length (now 1000)"
    assert text.endswith(f": {ways} in a new run")
    batch = JOB.batch.model_copy(update={"microbatch_size": 4})
    text = told(2 * FIRST.peak, shared=False, batch=batch, recompute="layers", dense="copy", pipeline="serial")
    assert text.endswith(
        "): set dense: shard and pipeline: zebra, or add workers, or lower batch.microbatch_size (now 4) in a new run"
    )


@pytest.mark.parametrize("shared", [False, True])
def test_without_a_known_size_the_largest_terms_are_advised(shared: bool) -> None:
    text = told(None, shared)
    assert ", of " not in text.partition(":")[0] and "; of " in text
