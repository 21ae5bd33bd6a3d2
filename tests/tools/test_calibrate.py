"""Speeds of islands: which runs are made, and what a run's metrics say."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import JobError, LaunchError
from dougong.job.load import load_job
from dougong.launcher.run import Options
from dougong.parallel.plan import Inventory, Plan, make_plan
from dougong.planner.placement import seats_of_job
from dougong.tools.calibrate import calibrate, rates, turns
from tests.launcher.jobs import QUICKSTART, ROOT

AFD = ROOT / "examples" / "afd.yaml"


def test_every_island_takes_each_role_once_with_one_worker() -> None:
    job = load_job(AFD, ["offload=auto"]).job
    roles = [[(i.name, i.role, i.workers) for i in turn.islands] for turn in turns(job, 5)]
    assert roles == [
        [("east", "attention", 1), ("west", "experts", 1)],
        [("east", "experts", 1), ("west", "attention", 1)],
    ]
    assert all(turn.steps == 5 and turn.offload == "none" and not turn.drill for turn in turns(job, 5))


def plan_and_rows(seconds: float) -> tuple[Plan, list[dict[str, dict[str, dict[str, float]]]]]:
    turn = turns(load_job(AFD).job, 3)[0]
    plan = make_plan(4, Inventory("tiny", (), ("a", "b", "c"), 16, ()), seats_of_job(turn.islands))
    times = [9.0, seconds, 3 * seconds, 2 * seconds]
    return plan, [{"islands": {"east": {"compute_s": t}, "west": {"compute_s": 2 * t}}} for t in times]


def test_rates_are_work_by_the_median_second_after_the_first_step() -> None:
    job = turns(load_job(AFD).job, 3)[0]
    # 4 lanes x 4 micro-batches x 3 layers; 16 x 128 tokens x 4 experts each, in each of 3 layers
    assert rates(job, *plan_and_rows(0.5), 4) == {
        "east": ("attention", 48 / 1.0),
        "west": ("experts", pytest.approx(3 * 8.192 / 2.0)),
    }
    with pytest.raises(LaunchError, match="east/0 computed for less time than can be measured"):
        rates(job, *plan_and_rows(0.0), 4)


def test_one_island_has_nothing_to_be_weighed_against(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="one island"):
        calibrate(load_job(QUICKSTART), tmp_path / "c", Options(ray=False), 3)
