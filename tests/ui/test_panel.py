"""The panel at any width, the plain line of a step, and the curve of the loss."""

from __future__ import annotations

import io
import re

import pytest
from dougong.records.events import (
    AgentsStarted,
    CheckpointCommitted,
    CheckpointFailed,
    FailureDiagnosed,
    Recovered,
    RecoveryDecided,
    Waiting,
)
from dougong.records.status import Goodput, RunStatus, WorkerState
from dougong.ui.panel import draw_panel, plain_step, sparkline
from dougong.ui.run_progress import RunProgress
from rich.console import Console
from tests.ui.recorded import make_layout, make_row, progress_at

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_several_islands_have_their_rates_on_the_line() -> None:
    progress = progress_at(2)
    progress.take_plan(make_layout({"east": 1, "west": 3}))
    assert "(east 2,048, west 6,144)" in plain_step(progress, 4.0)


def test_before_the_first_step_there_is_no_line() -> None:
    assert plain_step(RunProgress("tiny", 60, 0.0), 1.0) == ""


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_the_panel_fits_any_width(width: int) -> None:
    progress = progress_at(45)
    progress.note(CheckpointCommitted(generation=1, step=40, directory="step-000040", num_bytes=1, seconds=1.0), 80.0)
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(draw_panel(progress, 95.0, width))
    lines = ANSI.sub("", out.getvalue()).splitlines()
    assert len(lines) == 8
    assert all(len(line) <= width for line in lines)
    if width == 100:
        assert "checkpoint step 40, 15 s ago" in out.getvalue()


def test_what_is_awaited_has_a_line_with_how_long_until_agents_are_there() -> None:
    progress = progress_at(3)
    progress.note(Waiting(generation=1, text="a node for west/0"), 10.0)
    progress.note(Waiting(generation=1, text="a node for west/0, or another"), 12.0)
    out = io.StringIO()
    Console(file=out, width=100).print(draw_panel(progress, 15.0, 100))
    assert " waiting 5.0 s: a node for west/0, or another" in out.getvalue()
    progress.note(AgentsStarted(generation=1, agents=()), 16.0)
    assert progress.awaited_words(16.0) == ""


def test_a_checkpoint_that_was_not_committed_stands_in_the_panel_until_one_is() -> None:
    progress = progress_at(45)
    failed = CheckpointFailed(generation=1, step=40, reason="/run: no room", newest=20)
    saved = CheckpointCommitted(generation=1, step=60, directory="step-000060", num_bytes=1, seconds=1.0)
    for event, shown in ((failed, True), (saved, False)):
        progress.note(event, 80.0)
        out = io.StringIO()
        Console(file=out, width=100).print(draw_panel(progress, 95.0, 100))
        assert ("not saved: no checkpoint since step 20: /run: no room" in out.getvalue()) is shown


def test_a_broken_loss_is_shown_as_such() -> None:
    progress = progress_at(3)
    progress.take({**make_row(1, 4), "loss": float("nan"), "val_loss": float("inf")}, 8.0)
    assert "loss nan  val inf" in plain_step(progress, 8.0)
    out = io.StringIO()
    Console(file=out, width=100).print(draw_panel(progress, 8.0, 100))
    assert "loss nan" in out.getvalue()


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([], 10, ""), ([1.0], 10, ""), ([1.0, 2.0], 10, "▁█"), ([3.0] * 4, 10, "▁▁▁▁"),
     ([0.0, 0.0, 7.0, 7.0], 2, "▁█"), ([float("nan"), 1.0, 2.0], 3, " ▁█")],
)  # fmt: skip
def test_sparkline(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


@pytest.mark.parametrize("number", [2, 256])
def test_workers_goodput_and_the_last_fault_stand_in_80_columns(number: int) -> None:
    progress = progress_at(3)
    workers = [WorkerState(name=f"east/{i}", pid=i + 1, alive=True, health="running") for i in range(number)]
    workers[1] = workers[1].model_copy(update={"health": "suspect: stopped for 0.6 s"})
    goodput = Goodput(parts={"training": 90.0, "again": 6.0, "restoring": 4.0}, steps_again=9)
    progress.take_status(RunStatus(workers=tuple(workers), goodput=goodput))
    progress.note(FailureDiagnosed(generation=1, worker="east/1", failure="crash", cause="SIGKILL"), 8.0)
    assert "last fault 2.0 s ago, not over yet: east/1: crash: SIGKILL" in panel_text(progress, 10.0)
    progress.note(RecoveryDecided(generation=1, action="replace_by_spare", reason="x"), 8.0)
    assert "last fault 2.0 s ago, decision: replace by a spare: east/1: crash" in panel_text(progress, 10.0)
    over = {"noticed_s": 0.0, "decided_s": 0.0, "left_s": 0.1, "begun_s": 0.1, "first_step_s": 0.4}
    progress.note(Recovered(generation=2, failed=1, **over), 9.0)
    shown = panel_text(progress, 10.0)
    assert f" workers 1 suspected (east/1), {number - 1} running" in shown
    assert " goodput 90.0 % of 1:40, 9 steps computed again (" in shown
    assert " last fault 2.0 s ago, trained again after 0.40 s: east/1: crash: SIGKILL" in shown


def panel_text(progress: RunProgress, now: float) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(draw_panel(progress, now, 80))
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    return out.getvalue()
