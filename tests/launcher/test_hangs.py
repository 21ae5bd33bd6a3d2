"""Whole runs of toy workers that hang, and that only pause."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.launcher.test_run import fault
from tests.launcher.toyrun import ToyRun, toy_job, wait_for


@pytest.mark.parametrize(
    ("do", "cause", "seen"),
    [
        ("stop", "stopped, and was given up after 3 s (fault.deadlines.hang_s)", "process state T for "),
        pytest.param(
            "hold", "its interpreter does not run", "no pulse of its interpreter for ", marks=pytest.mark.slow
        ),
    ],
)
def test_a_worker_that_hangs_is_suspected_named_and_replaced(tmp_path: Path, do: str, cause: str, seen: str) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault(do)])).start()
    assert run.finish() == 0, run.text()
    suspects = [event for event in run.events("suspect") if event["culprit"]["name"] == "east/1"]
    assert suspects[0]["since_s"] < 1.0
    (diagnosis,) = run.events("diagnosis")
    assert (diagnosis["class"], diagnosis["culprit"]["name"]) == ("hang", "east/1")
    assert cause in diagnosis["cause"] and any(fact.startswith(seen) for fact in diagnosis["evidence"])
    assert run.run_dir.read_status().state == "FINISHED"  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_stopped_fork_server_is_suspected_given_up_and_named(tmp_path: Path) -> None:
    """One that goes on in time is nothing; a drill orders both. The workers train on."""
    drill = [
        {"after_s": 0.2, "fault": "stop_fork_server", "on": "east/1", "for_s": 1.0},
        {"after_s": 2.5, "fault": "stop_fork_server", "on": "east/1"},
    ]
    run = ToyRun(tmp_path / "run", toy_job(steps=100_000, step_s=0.05, drill=drill)).start()
    (diagnosis,) = wait_for(lambda: run.events("diagnosis"), "it is named")
    suspects = run.events("suspect")
    assert [event["culprit"]["kind"] for event in suspects] == ["fork_server"] * 2
    assert all(event["since_s"] < 1.0 for event in suspects)
    assert [event["culprit"]["kind"] for event in run.events("suspect_cleared")] == ["fork_server"]
    assert (diagnosis["class"], diagnosis["culprit"]["kind"]) == ("hang", "fork_server")
    assert diagnosis["latency_s"] > 3.0 and diagnosis["evidence"][0].startswith("process state T for 3.")
    (decision,) = wait_for(lambda: run.events("decision"), "nothing is done")
    assert decision["action"] == "ignore" and len(run.events("generation_started")) == 1
    run.process.terminate()
    run.finish()


@pytest.mark.slow
def test_pauses_of_workers_and_agents_are_not_acted_on(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=100_000, step_s=0.02, checkpoint={"every": 0})).start()
    run.await_step(5)
    agent = run.events("agents_started")[0]["agents"][0]["pid"]
    workers = wait_for(lambda: len(run.worker_pids()) == 2 and run.worker_pids(), "status.json names both")
    for pid, seconds in ((workers["east/1"], 1.5), (agent, 2.0), (workers["east/0"], 0.7)):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
    wait_for(lambda: run.events("suspect_cleared"), "a suspicion is taken back")
    assert not run.events("diagnosis"), run.text()
    # Without their agent they have trained on: more steps are told at once than can be done in that time.
    told_at = [row["monotonic_s"] for row in run.run_dir.read_metrics()]
    assert max(sum(at <= other < at + 0.3 for other in told_at) for at in told_at) > 2 * 0.3 / 0.02
    run.process.terminate()
    run.finish()
