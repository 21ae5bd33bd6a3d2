"""status.json: typed, and readable where an earlier release wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.status import ControllerProcess, RunStatus, WorkerState


def test_it_comes_back_and_holds_lists(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    worker = WorkerState(name="east/0", host="forge", pid=7, lanes=(0, 1), experts=((0, 1), (), (2,)), alive=True)
    status = RunStatus(job="tiny", state="RUNNING", generation=2, step=3, steps=9, workers=(worker,))
    signed = status.model_copy(update={"controller": ControllerProcess(host="forge", pid=1)})
    run.write_status(signed)
    assert run.read_status() == signed
    (written,) = json.loads(run.status_file.read_text())["workers"]
    assert (written["lanes"], written["experts"]) == ([0, 1], [[0, 1], [], [2]])


def test_experts_as_earlier_releases_wrote_them(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    worker = {"name": "east/0", "host": "forge", "pid": None, "lanes": [0], "experts": "0-1 x2 | none", "alive": False}
    run.status_file.write_text(json.dumps({"job": "tiny", "state": "FAILED", "workers": [worker]}))
    status = run.read_status()
    assert status is not None and status.has_ended
    assert status.workers[0].experts == ((0, 1), (0, 1), ())


@pytest.mark.parametrize(("state", "ended"), [("RUNNING", False), ("LOST", False), ("STOPPED", True)])
def test_has_ended(state: str, ended: bool) -> None:
    assert RunStatus(state=state).has_ended is ended


def test_what_is_no_status_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.status_file.write_text('{"workers": [{"pid": 7}]}')
    with pytest.raises(LaunchError, match=r"status\.json: workers\.0\.name: Field required; read it with the release"):
        run.read_status()
