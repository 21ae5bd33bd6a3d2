"""A run's record put together: recoveries with their durations, checkpoints, sittings, states."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import FirstStep, GenerationStarted, RunCreated, RunEnded
from dougong.ui.history import closing_words, find_recoveries, next_command, read_history, split_rows
from tests.ui.recorded import Recorder, failed_run, finished_run, running_run


def test_a_finished_run(tmp_path: Path) -> None:
    told = read_history(finished_run(tmp_path / "run"))
    assert (told.job_name, told.state, told.steps, told.last_step, told.generation) == (
        "quickstart",
        "finished",
        60,
        60,
        2,
    )
    assert told.tokens == 60 * 4096
    assert told.validation == (60, pytest.approx(2.15, abs=0.1))
    assert [row["step"] for row in told.rows] == list(range(1, 61))
    assert [[row["step"] for row in stretch] for stretch in told.rewound] == [list(range(21, 30))]
    assert told.command == "dougong run examples/quickstart.yaml"
    assert told.machine["cpu"] == "Example CPU @ 2.60GHz"
    assert told.duration_s == pytest.approx(told.events[-1]["monotonic_s"] - told.events[0]["monotonic_s"])
    assert told.plan is not None and len(told.plan.workers) == 2


def test_a_recovery_has_its_parts(tmp_path: Path) -> None:
    (recovery,) = read_history(finished_run(tmp_path / "run")).recoveries
    assert (recovery.worker, recovery.fault, recovery.generation) == ("east/1", "crash", 1)
    assert recovery.detail == "last words of east/1"
    assert (recovery.step, recovery.resumed_from, recovery.lost_steps) == (29, "step-000020", 9)
    assert recovery.noticed_s == pytest.approx(0.004)
    assert recovery.restart_s == pytest.approx(0.032)
    assert recovery.reload_s == pytest.approx(0.8)
    assert recovery.total_s == pytest.approx(0.836)


def test_a_failed_run(tmp_path: Path) -> None:
    told = read_history(failed_run(tmp_path / "run"))
    assert (told.state, told.failed_worker, told.failed_generation) == ("failed", "east/0", 2)
    assert told.cause.startswith("RuntimeError: <script>")
    first, last = told.recoveries
    assert (first.resumed_from, first.lost_steps) == (None, 24)
    assert (last.total_s, last.fault, last.step) == (None, "exception", 9)
    assert told.checkpoints[0].rejected == "optimizer/rank00001: digest differs"


def test_checkpoints_know_whether_they_are_still_there(tmp_path: Path) -> None:
    told = read_history(finished_run(tmp_path / "run"))
    assert [(c.step, c.present, c.num_bytes) for c in told.checkpoints] == [
        (20, False, 39_000_020), (40, True, 39_000_040), (60, True, 39_000_060),
    ]  # fmt: skip


def test_the_first_failure_of_a_generation_is_its_cause() -> None:
    def event(kind: str, at: float, generation: int = 1, **fields: Any) -> dict[str, Any]:
        return {"kind": kind, "generation": generation, "monotonic_s": at, "wall": "2025-01-01T00:00:00Z", **fields}

    events = [
        event("worker_died", 5.0, worker="west/1", cause="exit status 1"),
        event("worker_died", 5.1, worker="east/0", cause="connection closed by peer"),
        event("diagnosis", 5.2, worker="west/1", **{"class": "out_of_memory"}),
        event("generation_started", 5.5, generation=2, resume="step-000003"),
        event("worker_died", 5.6, generation=2, worker="east/1", cause="exit status 1"),
    ]
    first, second = find_recoveries(events, [{"attempt": 1, "step": 4}])
    assert (first.worker, first.fault, first.cause) == ("west/1", "out_of_memory", "exit status 1")
    assert (first.restart_s, first.reload_s, first.total_s) == (0.5, None, None)
    assert (second.worker, second.step, second.noticed_s) == ("east/1", 4, None)


def test_the_failed_workers_log_is_that_of_its_own_generation(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for generation, worker in ((1, "east/1"), (2, "east/1"), (3, "east/0")):
        recorder.kill(generation, worker, 3)
    recorder.event("failed", 3, worker="east/1", cause="the first cause is told at the end")
    assert read_history(recorder.run).failed_generation == 1
    recorder.event("created", 4, job="quickstart")
    recorder.kill(4, "east/1", 3)
    recorder.event("failed", 4, worker="east/1", cause="again")
    assert read_history(recorder.run).failed_generation == 4


def test_time_between_sittings_is_not_the_runs(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 20)
    recorder.event("stopped", 1, step=20)
    first = recorder.seconds - 100.05
    recorder.seconds = 5.0  # the machine was started anew
    recorder.event("created", 2, 0.0, job="quickstart", command=["dougong", "resume", "run"])
    recorder.event("generation_started", 2, resume="step-000020", step=20)
    recorder.train(2, 21, 60)
    recorder.event("finished", 2, step=60)
    told = read_history(recorder.run)
    assert told.duration_s == pytest.approx(first + recorder.seconds - 5.0)
    assert (told.state, told.recoveries) == ("finished", [])
    assert told.command == "dougong run examples/quickstart.yaml\ndougong resume run"


def test_a_failure_resumed_in_another_sitting_has_no_recovery_time(tmp_path: Path) -> None:
    run = failed_run(tmp_path / "run")
    again = RunDir(run.path, monotonic=lambda: 9e5)
    again.append_event(RunCreated(generation=3, job="quickstart"))
    again.append_event(GenerationStarted(generation=3, resume=None))
    again.append_event(FirstStep(generation=3, step=1))
    told = read_history(run)
    assert [r.total_s is None for r in told.recoveries] == [False, True]
    assert told.cause == ""


@pytest.mark.parametrize(("pid_lives", "state"), [(True, "running"), (False, "lost")])
def test_a_controller_that_died_without_a_word_is_lost(tmp_path: Path, pid_lives: bool, state: str) -> None:
    run = running_run(tmp_path / "run")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(60)
    pid = os.getpid() if pid_lives else child.pid
    status = run.read_status() or {}
    run.write_status({**status, "controller": {"host": socket.gethostname(), "pid": pid}})
    assert read_history(run).state == state
    run.write_status({**status, "controller": {"host": "elsewhere", "pid": child.pid}})
    assert read_history(run).state == "running"


def test_a_run_that_ended_before_its_plan(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    told = read_history(run)
    assert (told.state, told.steps, told.last_step, told.plan, told.rows) == ("starting", 0, 0, None, [])
    run.append_event(RunEnded(kind="failed", generation=0, cause="2 GPUs asked for, this cluster has 1"))
    assert read_history(run).cause == "2 GPUs asked for, this cluster has 1"


def test_split_rows_keeps_each_attempts_stretch_apart() -> None:
    rows = [{"attempt": a, "step": s} for a, s in [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3), (3, 4)]]
    live, rewound = split_rows(rows)
    assert [(r["attempt"], r["step"]) for r in live] == [(1, 1), (2, 2), (3, 3), (3, 4)]
    assert [[(r["attempt"], r["step"]) for r in stretch] for stretch in rewound] == [[(1, 2), (1, 3)], [(2, 3)]]


def test_closing_words(tmp_path: Path) -> None:
    words = closing_words(finished_run(tmp_path / "run")).splitlines()
    assert words[0] == "quickstart: finished at step 60/60, 245,760 tokens, 40 s, loss 2.0852, 1 failure"
    assert words[1] == f"next: dougong export {tmp_path / 'run'} OUT"
    assert next_command(read_history(failed_run(tmp_path / "b"))) == f"dougong resume {tmp_path / 'b'}"
    assert next_command(read_history(running_run(tmp_path / "c"))) == f"dougong status {tmp_path / 'c'}"


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
