"""What tables and bars show."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.records.events import (
    CheckpointFailed,
    Event,
    FirstStep,
    RecoveryDecided,
    RunCreated,
    WarningRaised,
    from_json,
)
from dougong.records.machine import Machine
from dougong.ui.history import read_history
from dougong.ui.report import rows
from tests.ui.recorded import Recorder, failed_run, finished_run


def test_bars_of_recoveries_are_on_one_scale(tmp_path: Path) -> None:
    first, last = rows.recovery_rows(read_history(failed_run(tmp_path / "run")).recoveries)
    assert sum(part.width for part in first.parts) == pytest.approx(100)
    assert [part.name for part in first.parts] == ["noticed", "new generation", "first step"]
    assert first.outcome == "started again from the beginning, 24 steps lost"
    assert (last.parts, last.outcome) == ((), "")


def test_a_failure_that_comes_again_before_a_step_is_one_row(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for number in range(1, 5):
        recorder.generation(number)
        recorder.event("worker_died", number, worker="east/0", cause="out of memory", **{"class": "out_of_memory"})
    recorder.event("failed", 4, step=0, worker="east/0", cause="out of memory")
    (row,) = rows.recovery_rows(read_history(recorder.run).recoveries)
    assert row.where == "4 times, generations 1-4"


def test_a_recovery_that_a_step_followed_stands_alone(tmp_path: Path) -> None:
    first, last = rows.recovery_rows(read_history(failed_run(tmp_path / "run")).recoveries)
    assert (first.where, last.where) == ("generation 1", "generation 2")


def test_each_start_tells_its_phases() -> None:
    def ended(phase: str, seconds: float, generation: int) -> Event:
        return from_json({"kind": "phase_ended", "generation": generation, "phase": phase, "seconds": seconds})

    events = [
        RunCreated(generation=1, job="tiny"), ended("Ray", 2.0, 0), ended("imports", 3.0, 0), ended("model", 0.5, 1),
        FirstStep(generation=1, step=1), RecoveryDecided(generation=1, action="restart", reason=""),
        ended("checkpoint", 0.5, 1), ended("model", 1.0, 2), FirstStep(generation=2, step=5),
        RunCreated(generation=3, job="tiny"), ended("agents", 1.0, 2),
    ]  # fmt: skip
    assert [(row.name, row.phases, row.total_s) for row in rows.start_rows(events)] == [
        ("start, generation 1", {"Ray": 2.0, "imports": 3.0, "model": 0.5}, 5.5),
        ("recovery, generation 2", {"checkpoint": 0.5, "model": 1.0}, 1.5),
        ("resume, no step", {"agents": 1.0}, 1.0),
    ]


def test_a_warning_is_told_once() -> None:
    slow, other = (WarningRaised(generation=1, text=text) for text in ("slow", "MoE layer 2: uneven"))
    assert rows.warning_words([slow, other, slow]) == ["slow (2 times)", "MoE layer 2: uneven"]


def test_a_run_that_is_not_saved_says_so_before_anything_else() -> None:
    slow = WarningRaised(generation=1, text="slow")
    failed = CheckpointFailed(generation=1, step=20, reason="disk full")
    assert rows.warning_words([slow, failed]) == ["no checkpoint yet: disk full", "slow"]


def test_workers_and_what_they_own(tmp_path: Path) -> None:
    history = read_history(finished_run(tmp_path / "run"))
    assert history.plan is not None
    first, second = rows.worker_rows(history, history.plan)
    assert (first.host, first.pid, first.num_tensors, second.num_tensors) == ("forge", 4020, 1, 0)
    assert (second.lanes.text, second.lanes.stretches) == ("2–3", [(50, 50)])
    assert (second.experts.text, second.experts.stretches) == ("8–15", [(50, 50)])


def test_time_between_events() -> None:
    def at(seconds: float) -> WarningRaised:
        return WarningRaised(generation=1, text="slow", monotonic_s=seconds)

    events = [at(10.0), at(10.5), at(75.5), RunCreated(generation=2, job="tiny", monotonic_s=3.0)]
    found = rows.event_rows(events)
    assert [row.after for row in found] == ["+0.000 s", "+0.500 s", "+1:05", ""]
    assert [row.level for row in found] == ["warning"] * 3 + ["info"]


def test_a_diagnosis_that_repeats_the_death_before_it_is_left_out(tmp_path: Path) -> None:
    found = rows.event_rows(read_history(finished_run(tmp_path / "run")).events)
    kinds = [row.event.kind for row in found]
    assert "worker_died" in kinds and "diagnosis" not in kinds
    assert {"state", "phase_started", "checkpoint_started"}.isdisjoint(kinds)


def test_classes_of_arithmetic_by_island() -> None:
    assert rows.class_words({"east/0": "aa", "east/1": "aa", "west/0": "bb"}) == "east aa, west bb"
    assert rows.class_words({}) == ""


def test_only_what_is_known_of_the_machine() -> None:
    assert rows.machine_facts(Machine()) == []
    machine = Machine(host="forge", cores=2, memory_bytes=2**34, versions={"torch": "2.13.0"})
    assert rows.machine_facts(machine) == [
        ("Host", "forge"), ("Cores", "2"), ("Memory", "16.0 GiB"), ("torch", "2.13.0"),
    ]  # fmt: skip
