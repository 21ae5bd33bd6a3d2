"""What is true of a run now, from its events and rows."""

from __future__ import annotations

import pytest
from dougong.fault.culprit import Culprit
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    FailureDiagnosed,
    GenerationStarted,
    RunEnded,
    StateChanged,
    Suspected,
    SuspicionEnded,
)
from dougong.ui.run_progress import NewestCheckpoint, RunProgress
from tests.ui.recorded import make_layout, make_row, progress_at


def test_eta_is_the_pace_of_the_last_steps() -> None:
    progress = progress_at(30)
    assert progress.eta_s(60.0) == pytest.approx(60.0)
    assert progress.eta_s(61.5) == pytest.approx(58.5)
    assert progress.eta_s(1e6) == 0.0
    progress.state = "recovering"
    assert progress.eta_s(60.0) is None
    assert RunProgress("tiny", 60, 0.0).eta_s(1.0) is None


def test_a_rewind_takes_back_losses_pace_and_validation() -> None:
    progress = progress_at(29)
    progress.take(make_row(2, 15), 100.0)
    assert [step for step, _ in progress.losses] == list(range(1, 16))
    assert progress.validation is None
    assert progress.eta_s(100.0) == pytest.approx(45 * 0.5)


def test_island_rates() -> None:
    progress = progress_at(2)
    assert progress.island_rates() == {}
    progress.take_plan(make_layout({"east": 1, "west": 3}))
    assert progress.island_rates() == {"east": 2048.0, "west": 6144.0}
    progress.row["islands"]["east"]["tokens_per_s"] = 2000.0  # type: ignore[index]
    assert progress.island_rates()["east"] == 2000.0


def test_the_newest_checkpoint() -> None:
    progress = progress_at(20)
    progress.note(GenerationStarted(generation=2, workers=("east/0",), resume="step-000010"), 41.0)
    assert progress.checkpoint == NewestCheckpoint("step-000010", None)
    committed = CheckpointCommitted(generation=2, step=20, directory="step-000020", num_bytes=1, seconds=1.0)
    progress.note(committed, 42.0)
    assert progress.checkpoint == NewestCheckpoint("step 20", 42.0)
    rejected = CheckpointRejected(generation=2, directory="step-000020", reason="digest differs")
    progress.note(rejected, 43.0)  # beside training: that is an old one
    assert progress.checkpoint is not None
    progress.note(StateChanged(generation=2, state="RECOVERING"), 44.0)
    progress.note(rejected, 44.0)
    assert progress.checkpoint is None


def test_state_failures_and_generation() -> None:
    progress = progress_at(3)
    progress.note(StateChanged(generation=1, state="RECOVERING"), 7.0)
    progress.note(FailureDiagnosed(generation=1, worker="east/1", failure="crash", cause="SIGKILL"), 7.0)
    assert (progress.state, progress.failures) == ("recovering", 1)
    progress.note(RunEnded(kind="stopped", generation=3, step=3), 8.0)
    assert (progress.state, progress.generation) == ("stopped", 3)


def test_a_new_generation_has_no_pace_yet() -> None:
    progress = progress_at(9)
    progress.note(GenerationStarted(generation=2, workers=("east/0",)), 20.0)
    assert progress.eta_s(20.0) is None


def test_a_suspect_is_shown_until_it_goes_on_or_is_diagnosed() -> None:
    progress, worker = progress_at(3), Culprit("worker", "east/1")
    suspected = Suspected(generation=1, culprit=worker, why="stopped", since_s=0.2, limit="3 s")
    progress.note(suspected, 7.0)
    assert progress.suspects == {"east/1": "stopped"}
    progress.note(SuspicionEnded(generation=1, culprit=worker, seconds=1.2), 8.0)
    assert progress.suspects == {}
    progress.note(suspected, 9.0)
    progress.note(FailureDiagnosed(generation=1, worker="east/1", failure="hang", cause="stopped"), 12.0)
    assert progress.suspects == {}
