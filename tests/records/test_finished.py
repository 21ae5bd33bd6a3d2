"""A finished run and what a later resume makes of it."""

from __future__ import annotations

import pytest
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FirstStep,
    GenerationStarted,
    RecoveryDecided,
    RunCreated,
    RunEnded,
)
from dougong.records.finished import as_finished, finish_before, newest_generation, vain_resume
from dougong.records.status import RunStatus

FINISHED = RunEnded(kind="finished", generation=1, step=10)
AGAIN = RunCreated(generation=2, job="tiny")
REFUSED = RunEnded(kind="failed", generation=2, step=8, cause="its kernels differ")
EARLIER = CheckpointRejected(generation=2, directory="step-000008", reason="torn")
TOLD = "the last resume trained no step, and the run is as it was"
LAST = CheckpointCommitted(generation=1, step=10, directory="step-000010", num_bytes=1, seconds=0.1)
ASIDE = CheckpointsSetAside(generation=2, step=8, names=("step-000010",), folder="aside")


@pytest.mark.parametrize(
    ("since", "told"),
    [
        ([AGAIN, REFUSED], f"{TOLD}: its kernels differ"),
        ([AGAIN, REFUSED, AGAIN], TOLD),  # the second one was killed
        (
            [AGAIN, CheckpointRejected(generation=2, directory="step-000008", reason="torn"), REFUSED],
            f"{TOLD}: its kernels differ",
        ),
        ([AGAIN, RunEnded(kind="stopped", generation=2, step=10)], TOLD),
    ],
)
def test_a_resume_that_came_to_nothing_leaves_the_run_finished(since: list[Event], told: str) -> None:
    events = [AGAIN, LAST, FINISHED, *since]
    assert (finish_before(events), vain_resume(events)) == (FINISHED, told)


@pytest.mark.parametrize(
    "since",
    [
        [],
        [AGAIN, FirstStep(generation=2, step=9), REFUSED],
        [AGAIN, ASIDE, REFUSED],
        [AGAIN, CheckpointRejected(generation=2, directory="step-000010", reason="torn"), REFUSED],
        [AGAIN, FINISHED],
    ],
)
def test_a_resume_that_has_changed_something_counts(since: list[Event]) -> None:
    events = [AGAIN, LAST, FINISHED, *since]
    assert (finish_before(events), vain_resume(events)) == (None, "")
    assert finish_before([AGAIN, REFUSED]) is None


def test_the_status_is_that_of_the_finish() -> None:
    written = RunStatus(job="tiny", state="FAILED", generation=2, step=8, steps=20)
    events = [AGAIN, FINISHED, AGAIN, REFUSED]
    found = as_finished(written, events)
    assert (found.state, found.generation, found.step, found.steps) == ("FINISHED", 1, 10, 10)
    assert as_finished(written, events[:2]) == written
    starting = written.model_copy(update={"state": "STARTING"})
    assert as_finished(starting, events[:3]) == starting


def begun(number: int, fence: int = 0) -> GenerationStarted:
    return GenerationStarted(generation=number, fence=fence, workers=("east/0",))


ROLL_BACK = RecoveryDecided(generation=1, action="roll_back", reason="x")


def ended(fence: int) -> RunEnded:
    return RunEnded(kind="failed", generation=1, fence=fence, step=3)


@pytest.mark.parametrize(
    ("events", "newest"),
    [
        ([], None),
        ([begun(1), begun(2)], 2),
        ([begun(1), ROLL_BACK], None),
        ([begun(1), ROLL_BACK, begun(2)], 2),
        ([begun(1, 1), ended(1)], None),
        ([begun(1, 1), RunCreated(generation=2, fence=2, job="toy"), ended(2)], 1),  # a resume that came to nothing
        ([begun(1, 1), begun(2, 2), ended(2)], None),
    ],
)
def test_the_newest_generation_alone_holds_what_the_run_has_come_to(events: list[Event], newest: int | None) -> None:
    assert newest_generation(events) == newest
