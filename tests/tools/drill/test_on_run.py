"""Drills of a run that goes on: a toy one."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from pathlib import Path

import pytest
import typer
from dougong.cli.drill import drill
from dougong.control.channel import Channel
from dougong.control.handshake import Hello
from dougong.control.messages import Message, RequestRefused
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.status import ControllerAddress
from dougong.tools.drill.on_run import RunDrills
from dougong.tools.drill.schedule import PlannedFault
from tests.launcher.toyrun import ToyRun, toy_job, wait_for
from tests.leases import left
from typer.testing import CliRunner


def test_a_run_that_allows_it_is_drilled_and_goes_on(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(drill="allowed", steps=100_000, step_s=0.05)).start()
    run.await_step(2)
    drills = RunDrills(run.run_dir)
    assert drills.workers() == ("east/0", "east/1")
    planned = list(drills.draw(7, 5))
    assert planned == list(drills.draw(7, 5)) and {one.worker for one in planned} <= {"", *drills.workers()}
    for fault, kind, culprit in (("kill", "crash", "east/1"), ("raise", "exception", "east/1")):
        verdict = drills.rehearse(PlannedFault(fault, "east/1", after_s=0.0))
        assert (verdict.is_right, verdict.kind, verdict.culprit) == (True, kind, culprit), str(verdict)
        assert verdict.recovered_s is not None
    with pytest.raises(LaunchError, match="no worker is called 'west/0'"):
        drills.rehearse(PlannedFault("kill", "west/0", after_s=0.0))
    assert [event["by_command"] for event in run.events("drill")] == [True, True]
    run.process.terminate()
    assert run.finish() == 143


@pytest.mark.slow
def test_what_a_worker_cannot_take_is_told_as_ordered_and_not_as_done(tmp_path: Path) -> None:
    """It is stopped when the order comes, and is given up with what it was to do."""
    run = ToyRun(tmp_path / "run", toy_job(drill="allowed", steps=100_000, step_s=0.05)).start()
    run.await_step(2)
    told: list[str] = []
    drills = RunDrills(run.run_dir, tell=told.append)
    pid = wait_for(lambda: run.worker_pids().get("east/1"), "its number")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(LaunchError, match=r"raise was ordered and not done: east/1 does it as its next step begins"):
        drills.rehearse(PlannedFault("raise", "east/1", after_s=0.0))
    (text,) = told
    assert text.startswith("ordered: east/1 does it as its next step begins, and is in ")
    run.process.terminate()
    assert run.finish() == 143


def test_a_run_that_is_over_is_refused_before_a_fault_is_announced(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(drill="allowed", steps=2)).start()
    assert run.finish() == 0
    app = typer.Typer()
    app.command()(drill)
    for words in (["--fault", "kill", "--on", "east/1"], ["--seed", "7"]):
        told = CliRunner().invoke(app, [str(run.run_dir.path), *words])
        assert isinstance(told.exception, LaunchError) and told.output == ""
        assert str(told.exception).endswith("says how it ended")


def test_a_run_that_does_not_allow_it_is_left_alone(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=100_000, step_s=0.05)).start()
    run.await_step(2)
    with pytest.raises(LaunchError, match=r"`drill: allowed`.*resume it with `-o drill=allowed`"):
        RunDrills(run.run_dir).rehearse(PlannedFault("kill", "east/1", after_s=0.0))
    run.process.terminate()
    assert run.finish() == 143 and run.events("diagnosis") == []


@pytest.mark.parametrize(
    ("limit_s", "said", "num_asked"),
    [(60.0, "refused: no worker is called", 3), (1e-9, "recovering; waited 1e-09 s", 1)],
)
def test_an_order_waits_until_the_run_trains_again(tmp_path: Path, limit_s: float, said: str, num_asked: int) -> None:
    """Something else befalls the run before the order comes: it is no reason to drop a drill."""
    asked: list[Message] = []
    told: list[str] = []

    def answer(hello: Hello, channel: Channel) -> None:
        asked.append(channel.receive(5))
        is_over = len(asked) == 3
        channel.send(RequestRefused("no worker is called west/0" if is_over else "recovering", not is_over))

    server = Server("127.0.0.1", "secret", answer, lambda text: None, DEADLINES)
    run_dir = left(RunDir(tmp_path), machine="here")
    host, port = server.address
    here = ControllerAddress(host=host, port=port, pid=1, token="secret", machine=socket.gethostname())
    run_dir.write_controller(here)
    limits = dataclasses.replace(DEADLINES, drill_s=limit_s)
    drills = RunDrills(run_dir, limits, sleep=lambda seconds: None, tell=told.append)
    with pytest.raises(LaunchError, match=said):
        drills.rehearse(PlannedFault("kill", "west/0", after_s=0.0))
    server.close()
    assert len(asked) == num_asked
    assert told == (["waits until the run trains again, 60 s at most"] if num_asked > 1 else [])
