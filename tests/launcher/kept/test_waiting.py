"""Whether a run may go on with what an agent has that has lost its controller. How an agent waits: test_detached.py."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.waiting import RunWatch
from dougong.launcher.outlived import end_waiting
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted, RunEnded
from dougong.records.status import RunStatus
from tests.launcher.toyrun import wait_for
from tests.leases import held, left


def begun(number: int, fence: int = 0) -> GenerationStarted:
    return GenerationStarted(generation=number, fence=fence, workers=("east/0",))


def nothing(run: RunDir) -> None:
    """The controller is gone."""


def resumed_in_vain(run: RunDir) -> None:
    left(run, ended=True).append_event(RunEnded(kind="failed", generation=2, step=3))


def resumed_without_it(run: RunDir) -> None:
    left(run).append_event(begun(2))


def failed(run: RunDir) -> None:
    left(run, ended=True).append_event(begun(2))
    run.of_writer(2).append_event(RunEnded(kind="failed", generation=2, step=3))


def stopped(run: RunDir) -> None:
    """By `dougong stop`, when its controller was gone already."""
    run.write_status(RunStatus(job="toy", state="RUNNING", step=3))
    end_waiting(run, QUICK)


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (nothing, ""),
        (resumed_in_vain, ""),
        (resumed_without_it, "the run goes on without it"),
        (failed, "the run has ended"),
        (stopped, "the run has ended"),
    ],
)
def test_what_becomes_of_the_run_is_seen_in_its_directory(
    tmp_path: Path, happens: Callable[[RunDir], None], words: str
) -> None:
    run = RunDir.create(tmp_path / "run")
    left(run).append_event(begun(1))
    happens(run)
    watch = RunWatch(watched(run))
    if words:
        wait_for(lambda: watch.over == words, words, 10)
    else:
        time.sleep(10 * QUICK.lease_renew_s)
        assert watch.over == ""
        watch.over = "the test"


def test_a_controller_that_lives_has_given_it_up(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    with held(run):
        watch = RunWatch(watched(run))
        wait_for(lambda: watch.over == "its controller lives, and has given it up", "its end", 10)


QUICK = dataclasses.replace(DEADLINES, lease_renew_s=0.1)


def watched(run: RunDir) -> AgentSettings:
    """Of an agent whose controller was the first one."""
    place = str(run.path)
    return AgentSettings("east", "east", "cpu", 1, True, ("", 1), "s", place, (), place, deadlines=QUICK, fence=1)
