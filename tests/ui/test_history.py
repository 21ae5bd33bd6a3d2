"""A run's record put together: recoveries with their durations, checkpoints, sittings, states."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointFailed,
    CheckpointRejected,
    CheckpointsSetAside,
    FirstStep,
    GenerationStarted,
    RunCreated,
    RunEnded,
    StepSkipped,
    StepsRecomputed,
)
from dougong.records.status import ControllerProcess, RunStatus
from dougong.ui.history import RunFailure, closing_words, find_checkpoints, read_history
from tests.ui.recorded import Recorder, failed_run, finished_run, running_run


def test_a_finished_run(tmp_path: Path) -> None:
    history = read_history(finished_run(tmp_path / "run"))
    assert (history.job_name, history.state, history.steps, history.last_step, history.generation) == (
        "quickstart",
        "finished",
        60,
        60,
        2,
    )
    assert history.tokens == 60 * 4096
    assert history.validation == (60, pytest.approx(2.15, abs=0.1))
    assert [row["step"] for row in history.rows] == list(range(1, 61))
    assert [[row["step"] for row in stretch] for stretch in history.rewound] == [list(range(21, 30))]
    assert history.command == "dougong run examples/quickstart.yaml"
    assert history.machine.cpu == "Example CPU @ 2.60GHz"
    assert history.goodput.wall_s == pytest.approx(history.events[-1].monotonic_s - history.events[0].monotonic_s)
    assert history.plan is not None and len(history.plan.workers) == 2


def test_a_failed_run(tmp_path: Path) -> None:
    history = read_history(failed_run(tmp_path / "run"))
    assert history.state == "failed" and history.failure is not None
    assert (history.failure.worker, history.failure.generation) == ("east/0", 2)
    assert history.failure.cause.startswith("RuntimeError: <script>")
    first, last = history.recoveries
    assert (first.resumed_from, first.lost_steps) == (None, 24)
    assert (last.total_s, last.failure, last.step) == (None, "exception", 9)
    assert history.checkpoints[0].rejected == "optimizer/rank00001: digest differs"


def test_checkpoints_know_whether_they_are_still_there(tmp_path: Path) -> None:
    history = read_history(finished_run(tmp_path / "run"))
    assert [(c.step, c.present, c.num_bytes) for c in history.checkpoints] == [
        (20, False, 39_000_020), (40, True, 39_000_040), (60, True, 39_000_060),
    ]  # fmt: skip


KILLED = "killed by signal 9 (SIGKILL), as rehearsed"


def failed_generation(run: RunDir) -> int | None:
    failure = read_history(run).failure
    return failure.generation if failure else None


def test_the_failed_workers_log_is_that_of_its_own_generation(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for generation, worker in ((1, "east/1"), (2, "east/1"), (3, "east/0")):
        recorder.kill(generation, worker, 3)
    recorder.event("failed", 3, step=2, worker="east/1", cause=KILLED)
    assert failed_generation(recorder.run) == 1
    recorder.event("created", 4, job="quickstart")
    recorder.kill(4, "east/1", 3)
    recorder.event("failed", 4, step=2, worker="east/1", cause=KILLED)
    assert failed_generation(recorder.run) == 4


def test_the_log_of_a_death_that_the_run_had_got_over_is_not_shown(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for generation in (1, 2):
        recorder.event("first_step", generation, step=1)
        recorder.kill(generation, "east/0", 3)
    mistake = {"worker": "east/0", "class": "data", "cause": "DataError: line 3 is empty"}
    recorder.event("worker_died", 3, **mistake)
    recorder.event("failed", 3, step=2, **mistake)
    assert failed_generation(recorder.run) == 3
    recorder.event("failed", 3, step=2, worker="east/0", cause=KILLED)
    assert failed_generation(recorder.run) == 2


def test_time_between_sittings_is_not_the_runs(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 20)
    recorder.event("stopped", 1, step=20)
    first = recorder.seconds - 100.05
    recorder.seconds = 5.0  # the machine was started anew
    recorder.event("created", 2, 0.0, job="quickstart", command=["dougong", "resume", "run"])
    recorder.generation(2, "step-000020", 20)
    recorder.train(2, 21, 60)
    recorder.event("finished", 2, step=60)
    history = read_history(recorder.run)
    assert history.goodput.wall_s == pytest.approx(first + recorder.seconds - 5.0)
    assert (history.state, history.recoveries) == ("finished", [])
    assert history.command == "dougong run examples/quickstart.yaml\ndougong resume run"


def test_a_failure_resumed_in_another_sitting_has_no_recovery_time(tmp_path: Path) -> None:
    run = failed_run(tmp_path / "run")
    again = RunDir(run.path, monotonic=lambda: 9e5)
    again.append_event(RunCreated(generation=3, job="quickstart"))
    again.append_event(GenerationStarted(generation=3, workers=("east/0",)))
    again.append_event(FirstStep(generation=3, step=1))
    history = read_history(run)
    assert [r.total_s is None for r in history.recoveries] == [False, True]
    assert history.failure is None


@pytest.mark.parametrize(("pid_lives", "state"), [(True, "running"), (False, "lost")])
def test_a_controller_that_died_without_a_word_is_lost(tmp_path: Path, pid_lives: bool, state: str) -> None:
    run = running_run(tmp_path / "run")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(60)
    pid = os.getpid() if pid_lives else child.pid
    status = run.read_status() or RunStatus()
    here = ControllerProcess(host=socket.gethostname(), pid=pid)
    run.write_status(status.model_copy(update={"controller": here}))
    assert read_history(run).state == state
    elsewhere = ControllerProcess(host="elsewhere", pid=child.pid)
    run.write_status(status.model_copy(update={"controller": elsewhere}))
    assert read_history(run).state == "running"


def test_a_run_that_ended_before_its_plan(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    history = read_history(run)
    assert (history.state, history.steps, history.last_step, history.plan, history.rows) == ("starting", 0, 0, None, [])
    run.append_event(RunEnded(kind="failed", generation=0, step=0, cause="2 GPUs asked for, this cluster has 1"))
    assert read_history(run).failure == RunFailure("2 GPUs asked for, this cluster has 1")


def test_a_checkpoint_that_was_set_aside_is_not_the_next_one_of_its_name(tmp_path: Path) -> None:
    def committed(step: int, seconds: float) -> CheckpointCommitted:
        return CheckpointCommitted(generation=1, step=step, directory=f"step-{step:06d}", num_bytes=1, seconds=seconds)

    aside = CheckpointsSetAside(generation=1, step=10, names=("step-000020",), folder="aside/1")
    rejected = CheckpointRejected(generation=2, directory="step-000020", reason="torn")
    for name in ("step-000010", "step-000020"):
        (tmp_path / name).mkdir()
    events = [committed(10, 1.0), committed(20, 2.0), aside, committed(20, 3.0), rejected]
    found = [(c.step, c.seconds, c.present, c.aside, c.rejected) for c in find_checkpoints(events, tmp_path)]
    assert found == [(10, 1.0, True, "", ""), (20, 2.0, False, "aside/1", ""), (20, 3.0, True, "", "torn")]


def test_the_controller_knows_the_end_that_its_record_lacks(tmp_path: Path) -> None:
    words = closing_words(running_run(tmp_path / "run"), "failed").splitlines()
    assert ": failed at step" in words[0] and words[1].startswith("next: dougong resume")


def test_closing_words(tmp_path: Path) -> None:
    words = closing_words(finished_run(tmp_path / "run")).splitlines()
    assert (
        words[0] == "quickstart: finished at step 60/60, 245,760 tokens, 40 s (goodput 76.9 %), loss 2.0852, 1 failure"
    )
    assert words[1] == f"next: dougong export {tmp_path / 'run'} OUT"


def test_closing_words_are_all_of_the_step_that_they_name(tmp_path: Path) -> None:
    """A generation that failed before its first step has taken back those after its start."""
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    trained = recorder.train(1, 1, 25)
    recorder.generation(2, "step-000020", 20)
    recorder.event("failed", 2, step=20, cause="no node")
    recorder.status("FAILED", 2, 20)
    (words, _) = closing_words(recorder.run).splitlines()
    assert "failed at step 20/60, 81,920 tokens, " in words
    assert f", loss {trained[19]['loss']:.4f}" in words


def test_a_finished_run_whose_resume_was_refused_is_finished(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    run.append_event(RunCreated(generation=3, job="quickstart"))
    run.write_status(RunStatus(job="quickstart", state="FAILED", generation=3, step=40, steps=90))
    run.append_event(RunEnded(kind="failed", generation=3, step=40, cause="its kernels differ"))
    history = read_history(run)
    assert (history.state, history.steps, history.failure) == ("finished", 60, None)
    words = closing_words(run, "failed").splitlines()
    assert words[0].startswith("quickstart: finished at step 60/60")
    assert words[0].endswith(", as before: the resume trained no step")
    assert words[1] == f"next: dougong export {tmp_path / 'run'} OUT"


def test_closing_words_count_skipped_steps(tmp_path: Path) -> None:
    """Step 21 was computed, and skipped, by two generations."""
    run = finished_run(tmp_path / "run")
    for generation, step in ((1, 20), (1, 21), (2, 21)):
        run.append_event(
            StepSkipped(generation=generation, step=step, loss=math.nan, grad_norm=math.nan, where="the loss")
        )
    assert closing_words(run).splitlines()[0].endswith(", 1 failure, 2 steps skipped")


def test_closing_words_say_since_when_nothing_is_saved(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    run.append_event(CheckpointFailed(generation=2, step=50, reason="disk full", newest=40))
    assert closing_words(run).splitlines()[0].endswith(", no checkpoint since step 40: disk full")


def again(first: int, last: int, **parted: Any) -> StepsRecomputed:
    return StepsRecomputed(generation=2, first=first, last=last, earlier=(1,), **parted)


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([again(21, 29)], "steps 21-29 computed again: the same bits"),
        ([again(21, 29), again(41, 41)], "steps 21-29, step 41 computed again: the same bits"),
        ([again(21, 29), again(41, 43, differs_from=1)], "step 43 computed again: other bits"),
    ],
)
def test_closing_words_tell_what_came_of_steps_computed_again(
    tmp_path: Path, events: list[StepsRecomputed], text: str
) -> None:
    run = finished_run(tmp_path / "run")
    for event in events:
        run.append_event(event)
    assert closing_words(run).splitlines()[0].endswith(f", 1 failure, {text}")


@pytest.mark.parametrize(
    ("words", "typed"),
    [(["dougong", "run", "a.yaml"], "dougong run a.yaml"),
     (["dougong", "run", "a b.yaml", "-o", "drill=[]"], "dougong run 'a b.yaml' -o 'drill=[]'"),
     (["__main__.py", "run", "a.yaml"], "python -m dougong run a.yaml"), ([], "")],
)  # fmt: skip
def test_the_command_can_be_typed_again(tmp_path: Path, words: list[str], typed: str) -> None:
    run = RunDir.create(tmp_path / "run")
    run.append_event(RunCreated(generation=1, job="tiny", command=tuple(words)))
    assert read_history(run).command == typed
