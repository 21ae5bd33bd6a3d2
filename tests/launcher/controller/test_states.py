"""Which phase a start or a recovery is in, and what is told of it."""

from __future__ import annotations

import pytest
from dougong.control.messages import Heartbeat
from dougong.control.progress import WorkerProgress
from dougong.errors import DeviceError, SupersededError
from dougong.launcher.controller.states import Outcome, Recovering, Stage, Starting, StartPhases
from dougong.records.events import PhaseEnded, PhaseStarted
from tests.launcher.controller.machine import ALL, Machine, Says, exits, killed, running


@pytest.mark.parametrize(("has_begun", "status"), [(False, 2), (True, 1)])
def test_a_command_ends_with_the_outcome_s_status_and_the_error_s_class(has_begun: bool, status: int) -> None:
    told = Outcome.failed(DeviceError("no driver"), has_begun).told("no driver\nnext: ...")
    assert (type(told), str(told), told.exit_status) == (DeviceError, "no driver\nnext: ...", status)
    assert DeviceError("another").exit_status == 2


def test_a_run_that_is_alive_elsewhere_is_so_begun_or_not() -> None:
    assert {Outcome.failed(SupersededError("gone"), begun).status for begun in (False, True)} == {3}


def note(phases: StartPhases, made: Machine, now: float) -> tuple[PhaseStarted | PhaseEnded, ...]:
    assert made.facts.generation is not None
    return phases.note(made.state, made.facts.number, made.facts.generation.is_built, now)


def told(phases: StartPhases, *given: tuple[Stage, float], number: int = 0) -> list[tuple[str, str, float | None]]:
    found = []
    for stage, now in given:
        for event in phases.note(Starting(stage, now), number, True, now):
            found.append((event.kind, event.phase, event.seconds if isinstance(event, PhaseEnded) else None))
    return found


def test_a_start_tells_each_phase_once_with_its_seconds() -> None:
    stages = [(Stage.BACKEND, 0.0), (Stage.PLACES, 1.0), (Stage.JOIN, 2.0), (Stage.PATHS, 3.0), (Stage.READY, 4.0),
              (Stage.MODEL, 9.0), (Stage.FINGERPRINTS, 11.0), (Stage.CHECKPOINT, 12.5)]  # fmt: skip
    began_and_ended = told(StartPhases("Ray", probes=True), *stages)
    assert began_and_ended == [
        ("phase_started", "Ray", None), ("phase_ended", "Ray", 3.0),
        ("phase_started", "paths", None), ("phase_ended", "paths", 1.0),
        ("phase_started", "imports", None), ("phase_ended", "imports", 5.0),
        ("phase_started", "data", None), ("phase_ended", "data", 2.0),
        ("phase_started", "probes", None), ("phase_ended", "probes", 1.5),
    ]  # fmt: skip
    assert told(StartPhases("agents", probes=False), *stages)[-1] == ("phase_ended", "data", 2.0)
    assert told(StartPhases("Ray", probes=True), *stages, number=1)[-1] == ("phase_started", "checkpoint", None)


def test_the_model_is_built_when_every_worker_has_begun_a_step() -> None:
    made, phases = running(), StartPhases("Ray", probes=False)
    assert note(phases, made, 5.0) == (PhaseStarted(generation=1, phase="model"),)
    beats = {name: WorkerProgress(1, 1, "forward", 0) for name in ALL}
    made.play(Says("east", Heartbeat(1, 1, {"east/0": beats["east/0"]})))
    assert note(phases, made, 6.0) == () and phases.current == "model"
    made.play(Says("east", Heartbeat(1, 1, beats)))
    assert note(phases, made, 7.0) == (PhaseEnded(generation=1, phase="model", seconds=2.0),)
    assert phases.current is None


def test_a_phase_that_a_failure_cuts_short_is_not_told_as_done() -> None:
    made, phases = running(), StartPhases("Ray", probes=False)
    note(phases, made, 5.0)
    made.play(exits("east/1", -9))
    assert isinstance(made.state, Recovering)
    assert note(phases, made, 6.0) == ()
    made.play(*killed("east/0", "west/0"))
    assert made.state.stage is Stage.CHECKPOINT
    (began,) = note(phases, made, 7.0)
    assert began.phase == "checkpoint"
