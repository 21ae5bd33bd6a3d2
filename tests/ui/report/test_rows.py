"""What tables and bars show."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.records.events import RunCreated, WarningRaised
from dougong.records.machine import Machine
from dougong.ui.history import read_history
from dougong.ui.report import rows
from tests.ui.recorded import failed_run, finished_run


def test_bars_of_recoveries_are_on_one_scale(tmp_path: Path) -> None:
    first, last = rows.recovery_rows(read_history(failed_run(tmp_path / "run")).recoveries)
    assert sum(part.width for part in first.parts) == pytest.approx(100)
    assert [part.name for part in first.parts] == ["noticed", "new generation", "first step"]
    assert first.outcome == "started again from the beginning, 24 steps rewound"
    assert (last.parts, last.outcome) == ((), "")


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


def test_classes_of_arithmetic_by_island() -> None:
    assert rows.class_words({"east/0": "aa", "east/1": "aa", "west/0": "bb"}) == "east aa, west bb"
    assert rows.class_words({}) == ""


def test_only_what_is_known_of_the_machine() -> None:
    assert rows.machine_facts(Machine()) == []
    machine = Machine(host="forge", cores=2, memory_bytes=2**34, versions={"torch": "2.13.0"})
    assert rows.machine_facts(machine) == [
        ("Host", "forge"), ("Cores", "2"), ("Memory", "16.0 GiB"), ("torch", "2.13.0"),
    ]  # fmt: skip
