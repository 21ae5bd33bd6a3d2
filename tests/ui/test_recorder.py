"""What the controller says is in the files and on the screen, whatever it is."""

from __future__ import annotations

import errno
import io
import os
import socket
import time
from pathlib import Path

import pytest
from dougong.deadlines import Deadlines
from dougong.errors import StorageError
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted, RunCreated, RunEnded, StateChanged, WarningRaised
from dougong.records.metrics import MetricsRow
from dougong.records.status import ControllerProcess, RunStatus
from dougong.ui.recorder import Recorder
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import make_view
from rich.console import Console
from tests.launcher.toyrun import wait_for
from tests.ui.recorded import make_row

QUICK = Deadlines(storage_retry_s=0.02, storage_told_s=0.2)


def recorder_in(path: Path, with_tensorboard: bool = False) -> tuple[Recorder, io.StringIO]:
    out = io.StringIO()
    run_dir = RunDir.create(path)
    files = TensorBoardFiles(run_dir.tensorboard) if with_tensorboard else None
    return Recorder(run_dir, make_view(Console(file=out), "tiny", 60), files), out


def test_an_event_is_written_shown_and_comes_back_with_its_clocks(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    event = recorder.record(WarningRaised(generation=1, text="disk is slow", workers=("east/0",)))
    assert recorder.settle(10) == ()
    assert event.monotonic_s > 0 and event.wall.endswith("Z")
    assert recorder.run_dir.read_events() == [event]
    assert out.getvalue().rstrip().endswith("! [east/0] disk is slow")


def test_the_status_has_goodput_that_goes_on_with_the_next_controller(tmp_path: Path) -> None:
    """It counts the time in which nobody led the run, and takes back the steps that come again."""
    first, _ = recorder_in(tmp_path / "run")
    first.record(RunCreated(generation=1, job="tiny"))
    first.record(GenerationStarted(generation=1, workers=()))
    for step in (1, 2):
        time.sleep(0.02)
        first.step({**make_row(1, step), "step_s": 0.01})
    first.set_status(RunStatus(generation=1, step=2))
    first.close("")
    time.sleep(0.1)
    second = Recorder(RunDir(tmp_path / "run", fence=2), make_view(Console(file=io.StringIO()), "tiny", 60), None)
    second.record(RunCreated(generation=2, job="tiny"))
    second.record(GenerationStarted(generation=2, workers=(), step=1))
    wait_for(lambda: second.set_status(RunStatus()) or (second.run_dir.read_status() or RunStatus()).recoveries, "both")
    found = second.run_dir.read_status().goodput  # type: ignore[union-attr]
    assert found.parts["training"] == pytest.approx(0.01)
    assert found.parts["again"] >= 0.01 and (found.steps_lost, found.steps_again) == (1, 0)
    assert found.parts["down"] >= 0.09
    second.close("")


def test_a_quiet_event_is_written_and_not_shown(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    recorder.record(StateChanged(generation=1, state="RUNNING"))
    recorder.settle(10)
    assert len(recorder.run_dir.read_events()) == 1
    assert out.getvalue() == ""


def test_a_step_is_in_metrics_tensorboard_and_on_the_screen(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run", with_tensorboard=True)
    recorder.step(make_row(1, 1))
    recorder.close("the end")
    (row,) = recorder.run_dir.read_metrics()
    assert row == {**make_row(1, 1), "fence": 0, "wall": row["wall"], "monotonic_s": row["monotonic_s"]}
    (file,) = recorder.run_dir.tensorboard.iterdir()
    assert file.stat().st_size > 100
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step  1/60") and lines[-1] == "the end"


class FullDisk(TensorBoardFiles):
    """Files on a disk that has no room for the first row, at first."""

    is_full = True

    def step(self, row: MetricsRow) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().step(row)


def test_a_curve_that_cannot_be_written_is_told_and_written_when_there_is_room(tmp_path: Path) -> None:
    out, run_dir = io.StringIO(), RunDir.create(tmp_path / "run")
    view = make_view(Console(file=out, width=200), "tiny", 60)
    files = FullDisk(run_dir.tensorboard)
    recorder = Recorder(run_dir, view, files, QUICK)
    for step in (1, 2):
        recorder.step(make_row(1, step))
    await_news(recorder, out, "points for TensorBoard cannot be written: No space left on device")
    files.is_full = False
    await_news(recorder, out, "points for TensorBoard can be written again")
    assert recorder.settle(10) == ()
    assert [row["step"] for row in run_dir.read_metrics()] == [1, 2]
    assert [event.kind for event in run_dir.read_events()] == ["storage_trouble", "storage_answers"]


def await_news(recorder: Recorder, out: io.StringIO, words: str) -> None:
    deadline = time.monotonic() + 10
    while words not in out.getvalue():
        assert time.monotonic() < deadline, out.getvalue()
        recorder.tick()
        time.sleep(0.01)


def test_events_that_cannot_be_written_are_kept_in_memory_and_written_later(tmp_path: Path) -> None:
    """Nobody waits for it, and the screen and the status say what is the matter."""
    out, run_dir = io.StringIO(), RunDir.create(tmp_path / "run")
    recorder = Recorder(run_dir, make_view(Console(file=out, width=200), "tiny", 60), None, QUICK)
    run_dir.events_file.unlink()
    run_dir.events_file.mkdir()
    for text in "abc":
        recorder.record(WarningRaised(generation=1, text=text))
    await_news(recorder, out, "kept in memory: 3 of events")
    recorder.set_status(RunStatus(job="tiny", state="RUNNING"))
    wait_for(lambda: run_dir.read_status() is not None, "the status, which has a file of its own")
    status = run_dir.read_status()
    assert status is not None and "events.jsonl: cannot append: Is a directory" in status.storage
    run_dir.events_file.rmdir()
    await_news(recorder, out, "the run's records can be written again")
    assert recorder.settle(10) == ()
    texts = [event.text for event in run_dir.read_events() if isinstance(event, WarningRaised)]
    assert texts == ["a", "b", "c"]


def test_the_end_of_a_run_that_cannot_be_written_is_shown_and_named(tmp_path: Path) -> None:
    out, run_dir = io.StringIO(), RunDir.create(tmp_path / "run")
    recorder = Recorder(run_dir, make_view(Console(file=out, width=200), "tiny", 60), None, QUICK)
    run_dir.events_file.unlink()
    run_dir.events_file.mkdir()
    recorder.record(RunEnded(kind="finished", generation=1, step=4))
    (trouble,) = recorder.settle(0.2)
    assert trouble.kept[0][0] == "events" and "cannot append" in trouble.reason
    recorder.close("the end")
    assert "finished at step 4" in out.getvalue()


def test_files_for_tensorboard_that_cannot_be_begun_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(StorageError, match="tensorboard: cannot be written: File exists; make room or mend it"):
        TensorBoardFiles(tmp_path / "tensorboard")


def test_the_status_is_signed_by_this_process(tmp_path: Path) -> None:
    recorder, _ = recorder_in(tmp_path / "run")
    recorder.set_status(RunStatus(job="tiny", state="RUNNING", steps=60))
    recorder.settle(10)
    status = recorder.run_dir.read_status()
    assert status is not None and (status.state, status.steps) == ("RUNNING", 60)
    assert status.controller == ControllerProcess(host=socket.gethostname(), pid=os.getpid())


def test_tick_shows_what_is_due(tmp_path: Path) -> None:
    recorder, out = recorder_in(tmp_path / "run")
    recorder.view.worker_line("east/0", "a line of the first worker")
    recorder.tick()
    assert out.getvalue() == "a line of the first worker\n"
