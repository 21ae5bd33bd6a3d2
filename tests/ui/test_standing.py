"""Where a run stands: loss, pace, pauses, checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FailureDiagnosed,
    GenerationStarted,
    LinksMeasured,
    RecoveryDecided,
    RunCreated,
    RunEnded,
)
from dougong.records.status import Goodput, RunStatus
from dougong.ui.standing import Standing, find_standing

NOON = datetime(2025, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
RUNNING = RunStatus(job="tiny", state="RUNNING", generation=1, step=10, steps=60)


def wall(seconds: float) -> str:
    """So many seconds after noon."""
    return (NOON + timedelta(seconds=seconds)).isoformat()


def rows(*times: float, generation: int = 1) -> list[dict[str, Any]]:
    """Step 10 is the last one."""
    first = 11 - len(times)
    return [
        {"generation": generation, "step": first + i, "loss": 2.5, "tokens_per_s": 3000.0, "wall": wall(time)}
        for i, time in enumerate(times)
    ]


def at(
    seconds: float,
    *given: dict[str, Any],
    status: RunStatus = RUNNING,
    events: tuple[Event, ...] = (),
    present: Collection[str] = ("step-000004", "step-000008"),
) -> Standing:
    return find_standing(status, given, events, present, "dougong status run", NOON + timedelta(seconds=seconds))


def test_a_run_in_its_stride() -> None:
    committed = CheckpointCommitted(
        generation=1, step=8, directory="step-000008", num_bytes=1, seconds=1.0, wall=wall(5.0)
    )
    found = at(9.0, *rows(2.0, 4.0, 6.0, 8.0), events=(committed,))
    assert found.lines() == [
        "tiny: running, step 10 of 60, generation 1",
        "loss 2.5000, 3,000 tokens/s, eta 1:39, last step 1.0 s ago, checkpoint of step 8, 4.0 s ago",
    ]
    assert found.to_json()["checkpoint"] == {"step": 8, "name": "step-000008", "age_s": 4.0}
    assert (found.eta_s, found.usual_step_s, found.quiet) == (99.0, 2.0, False)


def test_what_links_gave_is_a_line_of_its_own() -> None:
    assert at(9.0, *rows(8.0)).to_json()["links"] == ""
    link = {"one": "a/0", "other": "b/0", "islands": ["a", "b"], "path": "host-staged", "facts": "gloo",
            "latency_s": 2e-4, "bytes_per_s": 9.5e8}  # fmt: skip
    found = at(9.0, *rows(8.0), events=(LinksMeasured.model_validate({"generation": 1, "links": [link]}),))
    words = "links: a/0 - b/0: host-staged, 950 MB/s, 0.2 ms; gloo"
    assert found.lines().count(words) == 1 and found.to_json()["links"] == words


@pytest.mark.parametrize(("pause", "quiet"), [(9.0, False), (45.0, True)])
def test_a_long_pause_is_told(pause: float, quiet: bool) -> None:
    found = at(3.6 + pause, *rows(1.2, 2.4, 3.6))
    assert found.quiet is quiet
    assert ("no step for 45 s, usual 1.2 s" in found.lines()) is quiet


def test_the_time_left_is_not_waited_away() -> None:
    """Only the rest of the present step passes while it lasts."""
    near_end = RUNNING.model_copy(update={"steps": 13})
    etas = [at(3.6 + pause, *rows(1.2, 2.4, 3.6), status=near_end).eta_s for pause in (0.0, 1.0, 9.0)]
    assert etas == pytest.approx([3.6, 2.6, 2.4])
    assert at(9.0, *rows(1.2, 2.4, 3.6), status=RUNNING.model_copy(update={"steps": 10})).eta_s == 0.0


def test_a_resume_that_came_to_nothing_is_told_beside_the_finish() -> None:
    finished = RunEnded(kind="finished", generation=1, step=10)
    refused = RunEnded(kind="failed", generation=2, step=8, cause="its kernels differ")
    events = (finished, RunCreated(generation=2, job="tiny"), refused)
    done = RUNNING.model_copy(update={"state": "FINISHED"})
    told = "the last resume trained no step, and the run is as it was: its kernels differ"
    assert at(1.0, status=done, events=events).lines()[-1] == told
    assert at(1.0, status=done, events=events[:1]).remark == ""


def test_a_run_that_is_not_saved_says_so() -> None:
    unsaved = RUNNING.model_copy(update={"unsaved": "no checkpoint since step 4: disk full"})
    assert at(1.0, status=unsaved).lines()[-1] == "no checkpoint since step 4: disk full"
    assert at(1.0, status=unsaved).to_json()["unsaved"] == "no checkpoint since step 4: disk full"


def test_what_of_ray_is_gone_is_said_while_the_run_goes_on() -> None:
    headless = RUNNING.model_copy(update={"ray": "Ray's head does not answer"})
    assert at(1.0, status=headless).lines()[-1] == "Ray's head does not answer"
    ended = headless.model_copy(update={"state": "STOPPED"})
    assert "Ray's head does not answer" not in at(1.0, status=ended).lines()


def test_goodput_and_the_last_fault_are_said_to_people_and_programs() -> None:
    goodput = Goodput(parts={"training": 90.0, "again": 10.0}, steps_again=9)
    told = FailureDiagnosed(generation=1, worker="east/1", failure="crash", cause="SIGKILL", wall=wall(5.0))
    found = at(9.0, status=RUNNING.model_copy(update={"goodput": goodput}), events=(told,))
    assert found.lines()[-2:] == [
        "goodput 90.0 % of 1:40, 9 steps computed again (lost steps 10.0 %)",
        "last fault: 4.0 s ago, east/1: crash: SIGKILL",
    ]
    told_json = found.to_json()
    assert (told_json["goodput"]["share"], told_json["goodput"]["wall_s"]) == (0.9, 100.0)
    assert told_json["goodput"]["parts"] == goodput.parts
    fault = {"who": "east/1", "what": "crash: SIGKILL", "generation": 1, "age_s": 4.0, "decided": "", "outcome": ""}
    assert told_json["last_fault"] == fault
    assert (at(9.0).to_json()["goodput"], at(9.0).to_json()["last_fault"]) == (None, None)


def test_the_last_fault_says_what_was_decided_last() -> None:
    told = FailureDiagnosed(generation=1, worker="east/1", failure="node_lost", cause="dark", wall=wall(5.0))
    decisions = [
        RecoveryDecided(generation=1, action=action, reason=action[0], again=action == "shrink")
        for action in ("replace_node", "shrink", "retry_step")
    ]
    found = at(9.0, events=(told, *decisions))
    assert found.lines()[-1] == "last fault: 4.0 s ago, east/1: node lost: dark; decision: shrink (s)"


def test_a_checkpoint_among_the_steps_makes_a_longer_pause_usual() -> None:
    assert not at(40.0, *rows(0.0, 1.0, 20.0)).quiet
    assert at(90.0, *rows(0.0, 1.0, 20.0)).quiet


def test_no_pace_before_the_first_steps_and_after_the_end() -> None:
    ended = RUNNING.model_copy(update={"state": "STOPPED"})
    assert at(500.0, *rows(1.0, 2.0, 3.0), status=ended).lines()[1].startswith("loss 2.5000, 3,000 tokens/s, last")
    starting = RunStatus(job="tiny", state="STARTING", steps=60, phase="data", phase_s=3.2)
    assert at(1.0, status=starting).lines() == ["tiny: starting (data, 3.2 s), step 0 of 60, generation 0"]


def test_rows_that_are_being_computed_again_do_not_count() -> None:
    again = RUNNING.model_copy(update={"generation": 2, "step": 9})
    assert at(9.0, *rows(1.0, 2.0), status=again).since_step_s == 8.0
    assert at(9.0, *rows(1.0, 2.0), *rows(7.0, generation=2), status=again).since_step_s == 2.0


def test_the_newest_checkpoint_that_counts() -> None:
    def committed(step: int) -> CheckpointCommitted:
        return CheckpointCommitted(
            generation=1, step=step, directory=f"step-{step:06d}", num_bytes=1, seconds=1.0, wall=wall(step)
        )

    rejected = CheckpointRejected(generation=1, directory="step-000008", reason="torn")
    found = at(9.0, events=(committed(4), committed(8), rejected))
    assert found.checkpoint is not None and found.checkpoint.step == 4
    aside = CheckpointsSetAside(generation=2, step=4, names=("step-000008",), folder="aside")
    found = at(9.0, events=(committed(4), committed(8), aside))
    assert found.checkpoint is not None and found.checkpoint.step == 4
    found = at(9.0, events=(committed(4), committed(8)), present=["step-000004"])
    assert found.checkpoint is not None and found.checkpoint.step == 4
    assert at(9.0, events=(committed(4), committed(8)), present=[]).lines()[-1] == "no checkpoint is left"
    anew = GenerationStarted(generation=2, workers=("east/0",), resume=None)
    assert at(9.0, events=(committed(4), anew)).checkpoint is None
