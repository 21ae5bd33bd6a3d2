"""Whole runs of toy workers without Ray: faults, signals, stops, resumes, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.verify import verify
from dougong.job.load import load_job
from dougong.records.claim import strangers_in
from tests.launcher.jobs import write
from tests.launcher.toyrun import ROOT, ToyRun, toy_job, wait_for


def fault(do: str, worker: str = "east/1", step: int = 8, generation: int = 1) -> dict[str, Any]:
    return {"do": do, "worker": worker, "step": step, "generation": generation}


def dougong(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dougong.cli.main import main; main()", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_run_trains_to_its_end_and_leaves_its_record(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job()).start()
    assert run.finish() == 0, run.text()
    rows = run.run_dir.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert all(row["generation"] == 1 for row in rows)
    assert [e["step"] for e in run.events("checkpoint_committed")] == [5, 10, 15, 20]
    kept = sorted(p.name for p in run.run_dir.checkpoints.glob("step-*"))
    assert kept == ["step-000015", "step-000020"]
    assert all(verify(run.run_dir.checkpoints / name).ok for name in kept)
    status = run.run_dir.read_status()
    assert status is not None
    assert (status.state, status.generation, status.step, status.steps) == ("FINISHED", 1, 20, 20)
    assert {w.name for w in status.workers} == {"east/0", "east/1"}
    first = json.loads(run.run_dir.status_file.read_text())["workers"][0]
    assert {"host", "pid", "device", "role", "lanes", "experts"} <= set(first)
    assert "east/1 begins after step 0" in run.run_dir.log_file(1, "east/1").read_text()
    assert run.run_dir.read_controller() is None
    assert run.run_dir.report_file.exists()
    assert strangers_in(run.run_dir) == ["toy"]  # the toy workers' own; all else is a run's


@pytest.mark.parametrize(
    ("do", "kind", "cause"),
    [
        ("kill", "crash", "SIGKILL"),
        ("raise", "exception", "ValueError: the seventh seal is broken on east/1"),
        pytest.param("segfault", "crash", "SIGSEGV", marks=pytest.mark.slow),
        pytest.param("leave", "crash", "left before its work was done", marks=pytest.mark.slow),
        pytest.param("exit", "exception", "SystemExit: 3", marks=pytest.mark.slow),
        pytest.param("memory", "out_of_memory", "can't allocate memory", marks=pytest.mark.slow),
        ("kill_agent", "crash", "connection"),
    ],
)
def test_a_fault_is_named_and_the_run_goes_on(tmp_path: Path, do: str, kind: str, cause: str) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault(do)])).start()
    assert run.finish() == 0, run.text()
    (diagnosis,) = run.events("diagnosis")
    assert diagnosis["class"] == kind
    assert cause in diagnosis["cause"]
    culprit = ("agent", "east") if do == "kill_agent" else ("worker", "east/1")
    assert (diagnosis["culprit"]["kind"], diagnosis["culprit"]["name"]) == culprit
    assert [e["resume"] for e in run.events("generation_started")] == [None, "step-000005"]
    second = [row["step"] for row in run.run_dir.read_metrics() if row["generation"] == 2]
    assert second == list(range(6, 21))
    assert run.run_dir.read_status().state == "FINISHED"  # type: ignore[union-attr]


def test_the_loss_of_a_fork_server_is_named_and_ends_nothing(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("kill_zygote")])).start()
    assert run.finish() == 0, run.text()
    (diagnosis,), (decision,) = run.events("diagnosis"), run.events("decision")
    assert (diagnosis["class"], diagnosis["culprit"]["kind"], decision["action"]) == ("crash", "fork_server", "ignore")
    assert len(run.events("generation_started")) == 1


@pytest.mark.slow
def test_an_echo_of_a_death_is_not_taken_for_the_cause(tmp_path: Path) -> None:
    faults = [fault("echo", "east/0"), fault("raise", "east/1")]
    run = ToyRun(tmp_path / "run", toy_job(faults=faults)).start()
    assert run.finish() == 0, run.text()
    (diagnosis,) = run.events("diagnosis")
    assert diagnosis["worker"] == "east/1"
    assert "seventh seal" in diagnosis["cause"]


@pytest.mark.slow
def test_a_worker_that_ignores_signals_and_has_children_is_ended_with_them(tmp_path: Path) -> None:
    faults = [fault("hang", "east/0", step=9), fault("kill", "east/1", step=9)]
    quick = {"deadlines": {"leave_s": 0.3}}
    run = ToyRun(tmp_path / "run", toy_job(faults=faults, fault=quick)).start()
    assert run.finish() == 0, run.text()
    assert len(run.events("generation_started")) == 2


def test_after_max_restarts_the_run_fails_with_the_first_cause_since_its_last_step(tmp_path: Path) -> None:
    """Each generation trains before it dies: what an earlier one died of is history."""
    faults = [fault("raise", step=3, generation=1), fault("kill", step=4, generation=9)]
    run = ToyRun(tmp_path / "run", toy_job(faults=faults, fault={"max_restarts": 2})).start()
    assert run.finish() == 1
    assert len(run.events("generation_started")) == 3
    (failed,) = run.events("failed")
    assert (failed["worker"], failed["class"]) == ("east/1", "crash")
    last = run.text().splitlines()[-3:]
    assert "SIGKILL from outside the run (the last of 3 failures)" in last[0]
    assert str(run.run_dir.log_file(3, "east/1")) in last[1]
    assert run.run_dir.read_status().state == "FAILED"  # type: ignore[union-attr]


def test_wrong_data_is_not_tried_again(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("data")])).start()
    assert run.finish() == 1
    assert len(run.events("generation_started")) == 1
    assert "byte 17" in run.text().splitlines()[-3]


def test_wrong_data_is_told_before_a_worker_starts(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("data", step=0)])).start()
    assert run.finish() == 2
    assert "empty file" in run.text().splitlines()[-2]
    assert run.events("generation_started") == []


def test_a_module_that_does_not_import_is_told(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(), ["--preload", "no_such_module_at_all"]).start()
    assert run.finish() == 1
    assert "No module named 'no_such_module_at_all'" in run.text()


@pytest.mark.slow
def test_a_drill_fires_once_in_the_life_of_the_run(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(drill=[{"at_step": 7, "kill": "east/1"}])).start()
    assert run.finish() == 0, run.text()
    assert [(e["worker"], e["step"]) for e in run.events("drill")] == [("east/1", 7)]
    (diagnosis,) = run.events("diagnosis")
    assert "as its drill said" in diagnosis["cause"]
    run.start("resume", "-o", "steps=24")
    assert run.finish() == 0, run.text()
    assert len(run.events("drill")) == 1


def test_a_damaged_row_costs_a_resume_nothing_and_is_told(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job()).start()
    assert run.finish() == 0, run.text()
    run.run_dir.report_file.unlink()
    with run.run_dir.metrics_file.open("a") as file:
        file.write('{"step": "x"}\n')
    run.start("resume", "-o", "steps=24")
    assert run.finish() == 0, run.text()
    note = f"note: {run.run_dir.metrics_file}:21: not a row of a step: step: Input should be"
    assert note in run.text() and "restore the line or delete it" in run.text()
    assert "Traceback" not in run.text() and "no report: " not in run.text()
    assert run.events("finished") and run.run_dir.report_file.exists()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_first_signal_ends_the_step_and_writes_a_checkpoint(tmp_path: Path, number: int, status: int) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=2000, step_s=0.05, checkpoint={"every": 0})).start()
    run.await_step(3)
    run.process.send_signal(number)
    assert run.finish() == status, run.text()
    stopped_at = run.run_dir.read_status().step  # type: ignore[union-attr]
    assert [e["step"] for e in run.events("checkpoint_committed")] == [stopped_at]
    assert run.run_dir.read_status().state == "STOPPED"  # type: ignore[union-attr]
    run.start("resume", "-o", f"steps={stopped_at + 5}")
    assert run.finish() == 0, run.text()
    assert [row["step"] for row in run.run_dir.read_metrics()] == list(range(1, stopped_at + 6))


@pytest.mark.slow
def test_the_status_says_that_a_run_is_stopping(tmp_path: Path) -> None:
    """It said RUNNING until the end: the state had two owners."""
    run = ToyRun(tmp_path / "run", toy_job(steps=2000, step_s=2.0)).start()
    run.await_step(1)

    def state() -> str:
        status = run.run_dir.read_status()
        assert status is not None
        return status.state

    wait_for(lambda: state() == "RUNNING", "the status of a run that trains")
    run.process.send_signal(signal.SIGINT)
    seen = []
    while run.process.poll() is None:
        seen.append(state())
        time.sleep(0.02)
    assert run.finish() == 130, run.text()
    assert next(one for one in seen if one != "RUNNING") == "STOPPING"
    assert [event["state"] for event in run.events("state")][1:] == ["RUNNING", "STOPPING", "STOPPED"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("hang", step=3)], steps=2000)).start()
    run.await_step(2)
    run.process.send_signal(signal.SIGINT)
    wait_for(lambda: run.events("stop_requested"), "the first signal is noted")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.text()
    assert run.run_dir.read_status().state == "STOPPED"  # type: ignore[union-attr]


@pytest.mark.parametrize("victim", [pytest.param("driver", marks=pytest.mark.slow), "agent"])
def test_nothing_survives_a_kill(tmp_path: Path, victim: str) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=5000, step_s=0.05, fault={"max_restarts": 0})).start()
    run.await_step(2)
    assert len(run.processes()) == 5  # driver, agent, fork server, two workers
    if victim == "driver":
        run.process.kill()
    else:
        pids = [pid for pid, words in run.processes().items() if "dougong agent " in words]
        os.kill(min(pids), signal.SIGKILL)
    status = run.finish()
    assert status == (-signal.SIGKILL if victim == "driver" else 1)
    if victim == "driver":
        answer = json.loads(dougong("status", "--json", str(run.path)).stdout)
        assert answer["state"] == "LOST"
        assert not any(w["alive"] for w in answer["workers"])
        run.job["steps"] = 5
        run.start("resume", "-o", "steps=40", "-o", "checkpoint.every=0")
        assert run.finish() == 0, run.text()


def test_a_stopped_worker_does_not_delay_the_end(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=2000, step_s=0.05)).start()
    run.await_step(2)
    pids = wait_for(run.worker_pids, "the workers' numbers")
    os.kill(pids["east/0"], signal.SIGSTOP)
    os.kill(pids["east/1"], signal.SIGKILL)
    wait_for(lambda: len(run.events("generation_started")) == 2, "the next generation", 20)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 143, run.text()


def test_status_logs_and_stop_from_another_terminal(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=5000, step_s=0.05)).start()
    run.await_step(2)
    assert (run.run_dir.address_file(1).stat().st_mode & 0o777) == 0o600
    wait_for(lambda: len(run.worker_pids()) == 2, "the workers' numbers")
    live = json.loads(dougong("status", "--json", str(run.path)).stdout)
    assert live["state"] == "RUNNING"
    assert sorted(w["name"] for w in live["workers"]) == ["east/0", "east/1"]
    assert all(w["alive"] and w["pid"] in run.processes() for w in live["workers"])
    second = dougong("resume", str(run.path))
    assert second.returncode == 3
    assert "is alive" in second.stderr
    again = dougong("run", str(write(tmp_path)), "--no-ray", "--run-dir", str(run.path))
    assert again.returncode == 3
    assert f"`dougong stop {run.path}` ends it" in again.stderr
    stopped = dougong("stop", str(run.path))
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.startswith("stopped at step")
    assert run.finish() == 130, run.text()
    assert "begins after step 0" in dougong("logs", str(run.path), "east/1").stdout
    assert "stopped" in dougong("status", str(run.path)).stdout
    assert dougong("logs", str(run.path), "west/7").returncode == 2
    assert dougong("stop", str(run.path)).stdout == stopped.stdout  # it has ended: the same answer at once
    taken = dougong("run", str(write(tmp_path)), "--no-ray", "--run-dir", str(run.path))
    assert "holds a run already, with checkpoints of step" in taken.stderr


def test_stop_now_does_not_wait(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("hang", step=3)], steps=2000)).start()
    run.await_step(2)
    assert dougong("stop", "--now", str(run.path)).returncode == 0
    assert run.finish() == 130, run.text()


@pytest.mark.slow
def test_a_resume_with_other_arithmetic_is_refused_and_with_other_workers_is_not(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job()).start()
    assert run.finish() == 0, run.text()
    run.start("resume", "-o", "seed=7", "-o", "optimizer.lr=0.1", "-o", "steps=30")
    assert run.finish() == 2
    assert "optimizer.lr: 0.0003 then, 0.1 now; seed: 0 then, 7 now" in run.text()
    run.start("resume")
    assert run.finish() == 2
    assert "step 20 of 20 is done already" in run.text()
    assert "steps: 20" in run.run_dir.read_job()  # what was refused has changed nothing
    run.start("resume", "-o", "steps=30", "-o", "islands.0.workers=3")
    assert run.finish() == 0, run.text()
    kept = load_job(run.run_dir.job_file).job
    assert (kept.steps, kept.schedule.decay_steps) == (30, 20)
    assert not any("learning rate" in event["text"] for event in run.events("warning"))
    assert len(json.loads(run.run_dir.plan_file.read_text())["workers"]) == 3
    assert [row["generation"] for row in run.run_dir.read_metrics()] == [1] * 20 + [2] * 10


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job()).start()
    assert run.finish() == 0, run.text()
    file = run.run_dir.checkpoints / "step-000020" / "model" / "toy-1.json"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    run.start("resume", "-o", "steps=25", "-o", "schedule.decay_steps=25")
    assert run.finish() == 0, run.text()
    (bent,) = [e["text"] for e in run.events("warning") if "bends" in e["text"]]
    assert bent.endswith("(schedule.decay_steps: 20 then, 25 now)") and "would have had 3e-05" in bent
    (rejected,) = run.events("checkpoint_rejected")[:1]
    assert rejected["directory"] == "step-000020"
    assert "toy-1.json" in rejected["reason"]
    aside = run.run_dir.checkpoints / "set-aside" / "1" / "step-000020.damaged"
    assert rejected["aside"] == str(aside) and (aside / "model" / "toy-1.json").read_bytes() == data
    assert run.events("generation_started")[-1]["resume"] == "step-000015"
    assert verify(run.run_dir.checkpoints / "step-000020").ok, "computed again, and saved under its own name"


def test_what_workers_print_is_kept_and_its_alarms_are_shown(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("spam", "east/0"), fault("spam", "east/1")])).start()
    assert run.finish() == 0, run.text()
    log = run.run_dir.log_file(1, "east/1").read_text()
    assert "x" * 100_000 in log
    assert all(f"line {i}\n" in log for i in range(5000))
    assert "the same from everybody" in run.text()
    assert "more lines in its log" in run.text()


def test_a_malformed_message_is_reported_and_harmless(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(faults=[fault("garble", step=20)], checkpoint={"every": 0})).start()
    status = run.finish(120)
    assert "malformed message" in run.text()
    assert status == 0, run.text()


def test_two_islands_and_two_agents(tmp_path: Path) -> None:
    islands = [
        {"name": "east", "accelerator": "cpu", "workers": 2},
        {"name": "west", "accelerator": "cpu", "workers": 1, "node": "127.0.0.1"},
    ]
    run = ToyRun(tmp_path / "run", toy_job(islands=islands, faults=[fault("kill_agent", "west/0")])).start()
    assert run.finish() == 0, run.text()
    (diagnosis,) = run.events("diagnosis")
    assert (diagnosis["culprit"]["kind"], diagnosis["culprit"]["name"], diagnosis["class"]) == (
        "agent",
        "west",
        "crash",
    )


def test_an_island_pinned_elsewhere_is_refused(tmp_path: Path) -> None:
    islands = [{"name": "east", "accelerator": "cpu", "workers": 2, "node": "10.1.2.3"}]
    run = ToyRun(tmp_path / "run", toy_job(islands=islands)).start()
    assert run.finish() == 1
    assert "pinned to node '10.1.2.3'" in run.text()


def test_a_death_is_noticed_without_waiting_for_anybody(tmp_path: Path) -> None:
    """The controller's own record shows the order: death, kill, next generation; no collective's timeout in between."""
    run = ToyRun(tmp_path / "run", toy_job(steps=5000, step_s=0.02)).start()
    run.await_step(3)
    pids = wait_for(run.worker_pids, "the workers' numbers")
    before = time.monotonic()
    os.kill(pids["east/1"], signal.SIGKILL)
    died = wait_for(lambda: run.events("worker_died"), "the death is noted", 20)[0]
    assert died["monotonic_s"] >= before - 1
    assert died["worker"] == "east/1"
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.text()
