"""Whole runs with an agent that stands by: it takes the place of one that is lost, and the run is not restarted."""

from __future__ import annotations

import dataclasses
import io
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.backends.local import Local
from dougong.launcher.controller.config import ControllerConfig
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import SignalReceived
from dougong.planner.nodes import Node
from dougong.records.directory import RunDir
from dougong.records.events import StateChanged
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view
from rich.console import Console
from tests.launcher.drive import TOY
from tests.launcher.toyrun import ROOT, ToyRun, toy_job, wait_for


def spare_run(path: Path, *flags: str, **more: Any) -> ToyRun:
    """Two agents on this machine, one worker each, and one that stands by for the second; the second is killed."""
    islands = [
        {"name": "east", "accelerator": "cpu"},
        {"name": "west", "accelerator": "cpu", "spares": 1},
    ]
    faults = [{"worker": "west/0", "step": 150, "do": "kill_agent"}]
    pace: dict[str, Any] = {"steps": 260, "step_s": 0.02, "checkpoint": {"every": 100}}
    job = toy_job(islands=islands, faults=faults, memory=True, **pace, **more)
    return ToyRun(path, job, flags=flags).start()


@pytest.mark.parametrize("flags", [(), pytest.param(("--ray",), marks=pytest.mark.slow)], ids=["no ray", "ray"])
def test_a_spare_takes_the_place_of_an_agent_that_is_killed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    run = spare_run(tmp_path / "run", *flags)
    run.await_step(2)
    wait_for(lambda: run.events("spare_stands"), f"a spare stands by: {run.text()}")
    assert run.finish() == 0, run.text()
    (took,) = run.events("spare_took")
    assert (took["agent"], took["place"], took["workers"]) == ("west-spare-1", "west", ["west/0"])
    (over,) = run.events("recovered")
    assert (over["kept"], over["forked"]) == (["east/0"], ["west/0"])


class TwoMachines(Local):
    """This machine as two, of which the second one may be away."""

    may_grow = True
    is_whole = True

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        names = ("a", "b") if self.is_whole else ("a",)
        return [Node(f"id-of-{name}", name, "127.0.0.1", cpus=2.0) for name in names]

    def lose(self, *agents: str) -> None:
        """The second machine is away, and these agents were there."""
        self.is_whole = False
        for name in agents:
            self._processes[name].kill(self._deadlines)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_workers_and_takes_them_back(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run")
    islands = [{"name": n, "accelerator": "cpu", "node": m} for n, m in (("east", "a"), ("west", "b"))]
    pace: dict[str, Any] = {"steps": 100_000, "step_s": 0.02, "checkpoint": {"every": 0}}
    values = toy_job(islands=islands, memory=True, fault={"without_spare": "shrink"}, **pace)
    deadlines = dataclasses.replace(DEADLINES, reserve_every_s=0.3)
    config = ControllerConfig(Job.model_validate(values), "secret", str(ROOT), entries=TOY, deadlines=deadlines)
    backend, view = TwoMachines(run_dir, deadlines), make_view(Console(file=io.StringIO()), "toy", 100_000)
    inbox = Inbox()
    made = Controller(config, inbox, backend, Recorder(run_dir, view, None, deadlines))

    def kinds() -> list[str]:
        return [event.kind for event in run_dir.read_events()]

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(made.run)
        wait_for(lambda: any(row["step"] >= 5 for row in run_dir.read_metrics()), "five steps")
        backend.lose("west")
        wait_for(lambda: "shrunk" in kinds(), "a run of one worker")
        wait_for(lambda: kinds().count("first_step") == 2, "it trains")
        backend.is_whole = True
        wait_for(lambda: kinds().count("first_step") == 3, "all workers train")
        inbox.put(SignalReceived(signal.SIGTERM))
        outcome = running.result(60)
    assert (outcome.state, outcome.status) == ("STOPPED", 128 + signal.SIGTERM)
    assert made.recorder.settle(10) == ()
    states = [event.state for event in run_dir.read_events() if isinstance(event, StateChanged)]
    assert states == ["STARTING", "RUNNING", "RECOVERING", "RUNNING", "GROWING", "RUNNING", "STOPPING", "STOPPED"]
    assert kinds().count("diagnosis") == kinds().count("recovered") == kinds().count("grown") == 1
    rows = [row for row in run_dir.read_metrics() if row["generation"] > 1]
    steps = [row["step"] for row in rows]
    assert steps == list(range(steps[0], steps[-1] + 1)), "growing back has cost no step"
    assert {row["generation"] for row in rows} == {2, 3}
