"""A run over a cluster whose controller is gone is stopped by the command itself; its agents see that in its record."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from dougong.errors import LaunchError
from dougong.launcher.client import read_status, stop
from dougong.launcher.outlived import has_waiting_agents
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted, RunCreated, RunEnded
from dougong.records.finished import newest_generation
from dougong.records.lease import see_newest
from dougong.records.status import ControllerAddress, RunStatus, WorkerState
from tests.launcher.test_client import QUICK
from tests.leases import GONE, left

WORKERS = (WorkerState(name="east/0", alive=True),)


def lost(place: Path, address: str) -> RunDir:
    """At step 8, with a checkpoint of step 5."""
    run = RunDir.create(place)
    written = left(run)
    written.append_event(RunCreated(generation=1, job="toy", address=address))
    written.append_event(GenerationStarted(generation=1, workers=("east/0",)))
    written.write_status(RunStatus(job="toy", state="RUNNING", step=8, steps=20, workers=WORKERS))
    written.write_controller(
        ControllerAddress(host="127.0.0.1", port=1, pid=GONE, token="t", machine=socket.gethostname())
    )
    return run


def test_a_lost_run_over_a_cluster_is_stopped_and_says_what_is_given_up(tmp_path: Path) -> None:
    run = lost(tmp_path / "run", "10.0.0.1:6379")
    told: list[str] = []
    assert has_waiting_agents(run)
    status = stop(run, now=False, timeout_s=10, deadlines=QUICK, tell=told.append)
    assert (status.state, status.step) == ("STOPPED", 8)
    assert read_status(run).state == "STOPPED" and not any(worker.alive for worker in read_status(run).workers)
    (text,) = told
    assert "the agents that waited for a resume end within seconds: stopped at step 8 (no checkpoint: a resume" in text
    assert newest_generation(run.read_events()) is None and not has_waiting_agents(run)
    lease = see_newest(run.path)
    assert lease is not None and lease.is_past, "a resume need not wait"
    assert stop(run, now=False, timeout_s=10, deadlines=QUICK).state == "STOPPED", "once more changes nothing"
    assert sum(isinstance(event, RunEnded) for event in run.read_events()) == 1


def test_without_a_cluster_nothing_waits_and_nothing_is_written(tmp_path: Path) -> None:
    run = lost(tmp_path / "run", "")
    before = run.read_events()
    with pytest.raises(LaunchError, match="is gone, so that there is nothing to stop"):
        stop(run, now=False, timeout_s=10, deadlines=QUICK)
    assert run.read_events() == before
