"""What comes to whom, where routing is even."""

from __future__ import annotations

from dougong.planner.needs.step_shapes import NO_SEGMENT, StepShapes
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from tests.planner.test_plan_job import TINY, job_of


def shapes_of(**changes: object) -> StepShapes:
    job = job_of(**changes)
    return StepShapes(job, TINY, plan_job(job, TINY, seats_of_job(job.islands)))


def test_rows_follow_experts_and_a_token_crosses_once_to_a_worker() -> None:
    shapes = shapes_of()
    # 4 lanes x 1000 tokens x 2 of 8 experts; a worker has 4 of them.
    assert [shapes.rows(num) for num in (0, 4, 8)] == [0, 4000, 8000]
    # Both choices of a token are elsewhere in 4/8 * 3/7 of all cases.
    assert [shapes.crossing(num) for num in (0, 4, 8)] == [0, 786, 1000]
    assert shapes.vectors_by_site == [2 * 786] * 2


def test_tiles_are_filled_up_by_half_of_one_an_expert() -> None:
    assert shapes_of(expert_tile="none").padded_rows(4) == 4000
    assert shapes_of(expert_tile=128).padded_rows(4) == 4000 + 4 * 64


def test_segments_of_which_nothing_is_known_take_nothing() -> None:
    assert shapes_of().segments("cpu") == (NO_SEGMENT,) * 3
