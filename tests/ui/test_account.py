"""What faults have cost is reckoned once: a controller that goes on, one that reads the record, and a report agree."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted, RunCreated, RunEnded, from_json
from dougong.records.status import RunStatus
from dougong.ui.account import LiveAccount, RunAccount, with_account
from dougong.ui.history import closing_words, read_history
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view
from rich.console import Console
from tests.launcher.toyrun import wait_for
from tests.ui.recorded import Recorder as Record
from tests.ui.recorded import failed_run, finished_run, make_row, running_run

ENDED = RunStatus(state="FINISHED", generation=3, step=4)


def controller(path: Path, fence: int) -> Recorder:
    run_dir = RunDir(path, fence=fence)
    return Recorder(run_dir, make_view(Console(file=io.StringIO()), "tiny", 60), None)


def steps(recorder: Recorder, generation: int, first: int, last: int) -> None:
    recorder.record(GenerationStarted(generation=generation, workers=(), step=first - 1))
    for step in range(first, last + 1):
        recorder.step({**make_row(generation, step), "step_s": 1e-4})


def test_three_controllers_and_a_failed_worker_are_told_alike_everywhere(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run").write_job("job: tiny\n")
    first = controller(tmp_path / "run", 1)
    first.record(RunCreated(generation=1, job="tiny"))
    steps(first, 1, 1, 3)
    told = {"worker": "east/1", "class": "crash", "cause": "SIGKILL", "generation": 1}
    first.record(from_json({"kind": "diagnosis", **told}))
    first.record(from_json({"kind": "decision", "generation": 1, "action": "restart", "reason": ""}))
    steps(first, 2, 3, 4)
    first.close("")  # without a word
    second = controller(tmp_path / "run", 2)
    second.record(RunCreated(generation=3, job="tiny"))
    steps(second, 3, 2, 3)
    assert second.settle(10) == ()
    lost = with_account(second.run_dir, RunStatus(state="LOST"))
    assert lost.recoveries == 3, "a worker and two controllers, the last of which has left no word either"
    second.close("")
    third = controller(tmp_path / "run", 3)
    third.record(RunCreated(generation=4, job="tiny"))
    steps(third, 4, 4, 4)
    third.record(RunEnded(kind="finished", generation=4, step=4))

    def signed() -> RunStatus | None:
        third.set_status(ENDED)
        third.settle(10)
        status = third.run_dir.read_status()
        return status if status is not None and status.goodput is not None else None

    status = wait_for(signed, "what earlier controllers have cost")
    third.close("")
    history = read_history(third.run_dir)
    assert status.goodput.parts == history.goodput.parts
    assert (status.goodput.steps_lost, status.goodput.steps_again) == (4, 4), "3, then 2, 3 and 4 anew"
    assert (history.goodput.steps_lost, history.goodput.steps_again) == (4, 4)
    assert status.recoveries == len(history.recoveries) == 3
    assert "3 failures" in closing_words(third.run_dir)
    assert with_account(third.run_dir, status) is status, "its controller's last word"


@pytest.mark.parametrize("make", [finished_run, failed_run, running_run])
def test_a_record_gives_the_report_s_figures(make: Any, tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    history = read_history(run)
    signed = RunAccount.of(run).sign(RunStatus(state=history.state.upper()))
    assert signed.goodput is not None and signed.goodput.parts == history.goodput.parts
    assert signed.recoveries == len(history.recoveries)


def test_a_record_that_cannot_be_read_leaves_the_cost_untold(tmp_path: Path) -> None:
    """Rather than told of one controller alone."""
    recorder = Record(tmp_path / "run")
    recorder.start()
    recorder.run.events_file.write_text("no event\n{}\n")
    account = LiveAccount(RunDir(tmp_path / "run", fence=2))
    account.take(make_row(2, 1))
    status = account.sign(RunStatus())
    assert (status.goodput, status.recoveries) == (None, 0)
