"""What an out-of-memory is answered with: by the plan's own bytes."""

from __future__ import annotations

import pytest
from dougong.planner.memory_advice import memory_advice
from dougong.planner.needs.holdings import state_bytes
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from tests.planner.test_plan_job import TINY, job_of

JOB = job_of(islands=[{"name": "b", "accelerator": "cpu", "workers": 2}])
PLAN = plan_job(JOB, TINY, seats_of_job(JOB.islands))
FIRST, SECOND = state_bytes(JOB, TINY, PLAN)


@pytest.mark.parametrize(
    ("memory_bytes", "shared", "expected"),
    [
        # Each of two workers holds 8 experts of 16 MB, the dense tensor, and gradients of it for two lanes.
        (FIRST // 2, False, "state of b/0 take 0.148 GB of 0.074 GB: no batch is small enough for that; "
         "give island b more workers"),
        (FIRST // 2, True, "state of the 2 workers on - take 0.288 GB of 0.074 GB: no batch is small "
         "enough for that; give island b workers on more machines"),
        (2 * FIRST, False, "of 0.296 GB, so the rest is activations: lower data.sequence_length (now 1000)"),
        (4 * FIRST, True, "take 0.288 GB of 0.592 GB, and snapshots 0.816 GB: set fault.snapshots.replicas: 0"),
        (20 * FIRST, True, "of 2.96 GB, so the rest is activations: lower data.sequence_length (now 1000)"),
        (None, False, "take 0.148 GB; where a device has less, give the job more workers"),
    ],
)  # fmt: skip
def test_state_that_cannot_fit_is_told_from_activations(memory_bytes: int | None, shared: bool, expected: str) -> None:
    assert FIRST + SECOND == 288_008_704  # gradients begin at multiples of 512 bytes
    assert expected in memory_advice(JOB, TINY, PLAN, "b/0", memory_bytes, shared)


def test_a_smaller_micro_batch_comes_before_shorter_sequences() -> None:
    job = JOB.model_copy(update={"batch": JOB.batch.model_copy(update={"microbatch_size": 4})})
    assert "lower batch.microbatch_size (now 4)" in memory_advice(job, TINY, PLAN, "b/0", 2 * FIRST, False)
