"""Whole runs with an agent that stands by: it takes the place of one that is lost, and the run is not restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.launcher.toyrun import ToyRun, toy_job, wait_for


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
    before = run.worker_pids()
    assert run.finish() == 0, run.text()
    (took,) = run.events("spare_took")
    assert (took["agent"], took["place"], took["workers"]) == ("west-spare-1", "west", ["west/0"])
    (over,) = run.events("recovered")
    assert (over["kept"], over["forked"]) == (["east/0"], ["west/0"])
    assert before["east/0"] == next(w.pid for w in run.run_dir.read_status().workers if w.name == "east/0")  # type: ignore[union-attr]
