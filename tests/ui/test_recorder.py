"""What the controller says is in the files and on the screen, whatever it is."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

from dougong.records.directory import RunDir
from dougong.records.events import StateChanged, WarningRaised
from dougong.records.status import ControllerProcess, RunStatus
from dougong.ui.recorder import Recorder
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import make_view
from rich.console import Console
from tests.ui.recorded import make_row


def recorder_in(path: Path, with_tensorboard: bool = False) -> tuple[Recorder, io.StringIO]:
    out = io.StringIO()
    run_dir = RunDir.create(path)
    files = TensorBoardFiles(run_dir.tensorboard) if with_tensorboard else None
    return Recorder(run_dir, make_view(Console(file=out), "tiny", 60), files), out


def test_an_event_is_written_shown_and_comes_back_with_its_clocks(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    event = recorder.record(WarningRaised(generation=1, text="disk is slow", workers=("east/0",)))
    assert event.monotonic_s > 0 and event.wall.endswith("Z")
    assert recorder.run_dir.read_events() == [event]
    assert out.getvalue().rstrip().endswith("! [east/0] disk is slow")


def test_a_quiet_event_is_written_and_not_shown(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    recorder.record(StateChanged(generation=1, state="RUNNING"))
    assert len(recorder.run_dir.read_events()) == 1
    assert out.getvalue() == ""


def test_a_step_is_in_metrics_tensorboard_and_on_the_screen(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run", with_tensorboard=True)
    recorder.step(make_row(1, 1))
    recorder.close("the end")
    (row,) = recorder.run_dir.read_metrics()
    assert row == {**make_row(1, 1), "wall": row["wall"]}
    (file,) = recorder.run_dir.tensorboard.iterdir()
    assert file.stat().st_size > 100
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step  1/60") and lines[-1] == "the end"


def test_the_status_is_signed_by_this_process(tmp_path: Path) -> None:
    recorder, _ = recorder_in(tmp_path / "run")
    recorder.set_status(RunStatus(job="tiny", state="RUNNING", steps=60))
    status = recorder.run_dir.read_status()
    assert status is not None and (status.state, status.steps) == ("RUNNING", 60)
    assert status.controller == ControllerProcess(host=socket.gethostname(), pid=os.getpid())


def test_tick_shows_what_is_due(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    recorder.view.worker_line("east/0", "a line of the first worker")
    recorder.tick()
    assert out.getvalue() == "a line of the first worker\n"
