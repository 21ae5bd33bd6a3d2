"""Workers that outlive a generation: real training under a real agent, with this test as the controller."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dougong.job.schema import Job
from dougong.parallel.plan import Plan
from tests.families import config_values
from tests.jobs import make_job
from tests.launcher.agent.survivors import Survivors
from tests.training.running import digests, lay_out, token_file

STEPS = 20  # so many that none of these runs is over before it is disturbed
NAMES = ("east/0", "east/1", "east/2")


def training_job(folder: Path, **changes: Any) -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16}
    model = {"family": "qwen3_moe", "config": config_values("qwen3_moe", attention_dropout=0.1)}
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    return make_job(
        **{"model": model, "data": data, "batch": batch, "steps": STEPS, "checkpoint": {"every": 3}, **changes}
    )


def series(rows: dict[int, dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """What must be the same bits."""
    return {step: (row["loss"], row["grad_norm"], row["ledger"]) for step, row in rows.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivors]:
    made = Survivors(tmp_path_factory.mktemp("run"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def job(run: Survivors) -> Job:
    return training_job(run.folder)


@pytest.fixture(scope="module")
def undisturbed(run: Survivors, job: Job) -> tuple[dict[int, tuple[Any, ...]], dict[Any, str]]:
    """What an undisturbed run of one worker gives: its steps, and the digests of its weights and optimizer state."""
    run.begin(job, lay_out(job, "B"))
    run.finish()
    return series(run.rows), digests(run.committed[STEPS])


@pytest.fixture(scope="module")
def whole(undisturbed: tuple[dict[int, tuple[Any, ...]], dict[Any, str]]) -> dict[int, tuple[Any, ...]]:
    return undisturbed[0]


@pytest.mark.slow
@pytest.mark.parametrize("roles", ["BBB", "AAE"])
def test_survivors_keep_their_process_and_the_run_its_bits(
    run: Survivors, job: Job, whole: dict[int, tuple[Any, ...]], roles: str
) -> None:
    """Twice in a row, each time another worker is killed."""
    plan = lay_out(job, roles)
    first = run.begin(job, plan)
    run.until(lambda: 3 in run.committed)
    run.kill("east/1")
    run.have_left("east/0", "east/2")
    second = run.begin(job, plan, resume=3)
    assert [second[name] == first[name] for name in NAMES] == [True, False, True]
    run.until_step(4)
    run.kill("east/2")
    run.have_left("east/0", "east/1")
    third = run.begin(job, plan, resume=3)
    assert [third[name] == second[name] for name in NAMES] == [True, True, False]
    run.finish()
    assert series(run.rows) == whole


def test_a_worker_that_hangs_for_another_one_is_freed(
    run: Survivors, job: Job, whole: dict[int, tuple[Any, ...]]
) -> None:
    """A stopped worker says nothing and closes nothing: the others wait in a call of the library."""
    plan = lay_out(job, "BBB")
    first = run.begin(job, plan)
    run.until(lambda: 3 in run.committed)
    run.kill("east/1", signal.SIGSTOP)
    run.have_left("east/0", "east/2")
    # Freed by order, one has nothing to tell. One that hears the order after another has left may see that one go.
    assert all((told.type, told.stays, told.waited_for) == ("PeerError", True, ()) for told in run.raised.values())
    run.have_killed("east/1")
    second = run.begin(job, plan, resume=3)
    assert [second[name] == first[name] for name in NAMES] == [True, False, True]
    run.finish()
    assert series(run.rows) == whole


@pytest.mark.parametrize(
    ("roles", "fewer", "changes"),
    [
        ("BBB", "BB", {}),
        ("BBB", "BB", {"dense": "shard"}),
        pytest.param("AAE", "AE", {}, marks=pytest.mark.slow),
        pytest.param("BBB", "BB", {"fault": {"snapshots": {"every": 0}}}, marks=pytest.mark.slow),
        pytest.param("BBB", "BB", {"fault": {"snapshots": {"every": 3}}}, marks=pytest.mark.slow),
    ],
)
def test_a_run_on_fewer_workers_and_on_all_of_them_again_keeps_its_bits(
    run: Survivors, job: Job, undisturbed: tuple[Any, Any], roles: str, fewer: str, changes: dict[str, Any]
) -> None:
    """One is lost, and done without; it is taken back at the end of a step, and no step is computed twice for that."""
    job = training_job(run.folder, **changes)
    lost = NAMES[roles.rindex("A" if "A" in roles else "B")]
    kept = tuple(name for name in NAMES if name != lost)
    first = run.begin(job, lay_out(job, roles))
    run.until(lambda: 3 in run.committed)
    run.kill(lost)
    run.have_left(*kept)
    second = run.begin(job, _without(lay_out(job, fewer), kept), resume=3)
    assert [second[name] == first[name] for name in kept] == [True, True]
    run.until(lambda: run.newest >= 5)
    run.rest()
    assert not any(generation == run.generation for generation, _ in run.raised)
    last = run.newest
    saved = last if last in run.committed else 3
    third = run.begin(job, lay_out(job, roles), resume=saved)
    assert [third[name] == second[name] for name in kept] == [True, True]
    run.finish()
    assert {run.fetched[run.generation, name].step for name in NAMES} == {last}, "no step is lost"
    assert (series(run.rows), digests(run.committed[STEPS])) == undisturbed


def _without(plan: Plan, names: tuple[str, ...]) -> Plan:
    """The plan with these names of its workers: of those that are left."""
    workers = [dataclasses.replace(worker, name=name) for worker, name in zip(plan.workers, names, strict=True)]
    return dataclasses.replace(plan, workers=tuple(workers))


def test_an_exception_is_told_while_messages_are_under_way_and_only_the_others_stay(run: Survivors, job: Job) -> None:
    """It waits neither for what never comes (`message_s` is 600 s) nor for the end of anything else."""
    first = run.begin(job, lay_out(job, "BBB"), entry="tests.launcher.agent.survivors:fail_with_messages_under_way")
    run.until(lambda: run.raised)
    ((who, raised),) = run.raised.items()
    assert who == (run.generation, "east/0")
    assert (raised.type, raised.message, raised.stays) == ("ZeroDivisionError", "of its own", False)
    run.until(lambda: [(end.worker, end.code, end.asked) for end in run.ended] == [("east/0", 1, False)])
    run.have_left("east/1", "east/2")
    second = run.begin(job, lay_out(job, "BBB"))
    assert [second[name] == first[name] for name in NAMES] == [False, True, True]
    run.finish()
