"""What `dougong stop` says while it waits, and at the end."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.records.events import RunCreated, RunEnded, StepGivenUp
from dougong.records.status import RunStatus, WorkerState
from dougong.ui.stop_words import StopWatch, awaited_words, how_it_stopped


def status(state: str = "STOPPING", phases: str = "forward forward", **more: Any) -> RunStatus:
    workers = []
    for number, phase in enumerate(phases.split()):
        workers.append(WorkerState(name=f"east/{number}", alive=phase != "ended", step=12, phase=phase))
    return RunStatus(state=state, step=11, steps=60, workers=tuple(workers), **more)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (status(), "step 12 to end: forward"),
        (status(phases="exchange exchange forward"), "step 12 to end: east/0-1 in exchange, east/2 in forward"),
        (status(phases="ended ended"), "the last checkpoint to be committed"),
        (status("RECOVERING", "forward ended"), "the workers of a failed generation to end"),
        (status("RECOVERING", "ended", phase="paths"), "the run to be ended as it starts"),
        (status("STARTING", ""), "the run to be ended as it starts"),
        (status(phases="ended", waiting="storage, for the last checkpoint"), "storage, for the last checkpoint"),
        (status("STOPPED"), None),
    ],
)
def test_what_the_end_waits_for(given: RunStatus, words: str | None) -> None:
    assert awaited_words(given) == words


def test_it_is_told_at_once_and_then_now_and_again_with_how_long() -> None:
    watch = StopWatch()
    assert watch.note(status(), 100.0) == "waits for step 12 to end: forward"
    assert watch.note(status(), 103.0) is None
    assert watch.note(status(), 105.0) == "waits for step 12 to end: forward, 5.0 s"
    assert watch.note(status(phases="checkpoint checkpoint"), 107.0) is None
    assert watch.note(status(phases="checkpoint checkpoint"), 110.0) == ("waits for step 12 to end: checkpoint, 3.0 s")
    assert watch.note(status("STOPPED"), 120.0) is None


def test_the_end_says_why_a_step_is_missing() -> None:
    earlier = StepGivenUp(generation=1, limit="1 s")
    events = [earlier, RunCreated(generation=2, job="toy"), StepGivenUp(generation=2, limit="60 s")]
    assert how_it_stopped(status("STOPPED"), events) == (
        "stopped at step 11 of 60\nthe step did not end: no worker has moved for 60 s; the run ends without it, there "
        "is no checkpoint"
    )
    assert how_it_stopped(status("STOPPED"), events[:2]) == "stopped at step 11 of 60"
    failed = RunEnded(kind="failed", generation=2, step=11, cause="boom")
    assert how_it_stopped(status("FAILED"), [*events[:2], failed]) == (
        "failed at step 11 of 60\nfailed at step 11: boom"
    )
