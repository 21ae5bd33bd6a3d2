"""What the controller says is in the files and on the screen, whatever it is."""

from __future__ import annotations

import errno
import io
import os
import socket
from pathlib import Path

import pytest
from dougong.errors import StorageError
from dougong.records.directory import RunDir
from dougong.records.events import RunEnded, StateChanged, WarningRaised
from dougong.records.metrics import MetricsRow
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


class FullDisk(TensorBoardFiles):
    """Files on a disk that has no more room."""

    def step(self, row: MetricsRow) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_curve_that_cannot_be_written_is_told_and_ends_no_run(tmp_path: Path) -> None:
    out, run_dir = io.StringIO(), RunDir.create(tmp_path / "run")
    view = make_view(Console(file=out, width=200), "tiny", 60)
    recorder = Recorder(run_dir, view, FullDisk(run_dir.tensorboard))
    for step in (1, 2):
        recorder.step(make_row(1, step))
    recorder.close("the end")
    assert [row["step"] for row in run_dir.read_metrics()] == [1, 2]
    (warned,) = run_dir.read_events()
    assert isinstance(warned, WarningRaised)
    assert warned.text == "no more points for TensorBoard: No space left on device; metrics.jsonl has them"
    assert out.getvalue().count("no more points") == 1


def test_the_end_of_a_run_is_shown_also_where_it_cannot_be_written(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    recorder.run_dir.events_file.unlink()
    recorder.run_dir.events_file.mkdir()
    with pytest.raises(StorageError, match=r"events\.jsonl: cannot append"):
        recorder.tell(RunEnded(kind="failed", generation=1, step=4, cause="no room"))
    assert out.getvalue().rstrip().endswith("failed at step 4")  # the command's last words have the cause


def test_files_for_tensorboard_that_cannot_be_begun_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(StorageError, match="tensorboard: cannot be written: File exists; make room or mend it"):
        TensorBoardFiles(tmp_path / "tensorboard")


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
