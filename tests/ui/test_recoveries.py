"""Failures and what followed each, with their durations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.records.events import Event, from_json
from dougong.ui.history import read_history
from dougong.ui.recoveries import find_recoveries
from dougong.ui.report.rows import recovery_rows
from tests.ui.recorded import finished_run


def test_a_recovery_has_its_parts(tmp_path: Path) -> None:
    (recovery,) = read_history(finished_run(tmp_path / "run")).recoveries
    assert (recovery.place, recovery.failure, recovery.generation) == ("east/1", "crash", 1)
    assert recovery.detail == "last words of east/1"
    assert (recovery.step, recovery.resumed_from, recovery.lost_steps) == (29, "step-000020", 9)
    assert recovery.noticed_s == pytest.approx(0.004)
    assert recovery.restart_s == pytest.approx(0.032)
    assert recovery.reload_s == pytest.approx(0.8)
    assert recovery.total_s == pytest.approx(0.836)


def test_the_first_failure_of_a_generation_is_its_cause() -> None:
    def event(kind: str, at: float, generation: int = 1, **fields: Any) -> Event:
        wall = "2025-01-01T00:00:00Z"
        return from_json({"kind": kind, "generation": generation, "monotonic_s": at, "wall": wall, **fields})

    events = [
        event("worker_died", 5.0, worker="west/1", cause="exit status 1", **{"class": "crash"}),
        event("worker_died", 5.1, worker="east/0", cause="connection closed by peer", **{"class": "exception"}),
        event("diagnosis", 5.2, worker="west/1", cause="exit status 1", **{"class": "out_of_memory"}),
        event("generation_started", 5.5, generation=2, workers=[], resume="step-000003"),
        event("worker_died", 5.6, generation=2, worker="east/1", cause="exit status 1", **{"class": "crash"}),
    ]
    first, second = find_recoveries(events, [{"generation": 1, "step": 4}])
    assert (first.place, first.failure, first.cause) == ("west/1", "out_of_memory", "exit status 1")
    assert (first.restart_s, first.reload_s, first.total_s) == (0.5, None, None)
    assert (second.place, second.step, second.noticed_s) == ("east/1", 4, None)


def test_a_recovery_tells_what_was_waited_for_and_which_workers_moved() -> None:
    def event(kind: str, generation: int, **fields: Any) -> Event:
        return from_json({"kind": kind, "generation": generation, **fields})

    moved = [{"worker": "west/0", "before": "node1", "now": "node2"}]
    died = {"worker": "west/0", "cause": "its connection ended", "class": "node_lost"}
    plans = [event("planned", 0, workers=2, lanes=4, experts=8), event("generation_started", 1, workers=[])]
    moves = [
        event("waiting", 1, text="a node for west/0", monotonic_s=1.0),
        event("waiting", 1, text="another", monotonic_s=5.0),
        event("agents_started", 1, agents=[], monotonic_s=13.0),
        event("planned", 1, workers=2, lanes=4, experts=8, moved=moved),
    ]
    after = [event("generation_started", 2, workers=[], resume="step-000003"), event("first_step", 2, step=4)]
    (recovery,) = find_recoveries([*plans, event("worker_died", 1, **died), *moves, *after], [])
    (one,) = recovery.moved
    assert (one.worker, one.before, one.now) == ("west/0", "node1", "node2")
    (row,) = recovery_rows([recovery])
    assert row.outcome == "resumed from step-000003, 0 steps lost; waited 12 s for a node; west/0: node1 -> node2"


def event(kind: str, at: float, generation: int = 1, **fields: Any) -> Event:
    return from_json({"kind": kind, "generation": generation, "monotonic_s": at, "wall": WALL, **fields})


WALL = "2025-01-01T00:00:00Z"
DIED = {"worker": "west/1", "cause": "SIGKILL", "class": "crash"}
OVER = {
    "failed": 1, "noticed_s": 0.02, "decided_s": 0.03, "left_s": 0.05, "begun_s": 0.05, "formed_s": 0.09,
    "fetched_s": 0.1, "first_step_s": 0.3, "kept": ["west/0"], "forked": ["west/1"], "step": 4,
    "tiers": {"peer": 1 << 20},
}  # fmt: skip


def test_a_recovery_from_memory_tells_its_parts_and_its_tiers() -> None:
    events = [
        event("worker_died", 5.0, **DIED),
        event("generation_started", 5.1, 2, workers=[], resume="step-000003", step=4, in_memory=True),
        event("first_step", 5.3, 2, step=5),
        event("recovered", 5.3, 2, **OVER),
    ]
    (recovery,) = find_recoveries(events, [{"generation": 1, "step": 4}])
    assert (recovery.total_s, recovery.memory_step, recovery.lost_steps) == (0.3, 4, 0)
    (row,) = recovery_rows([recovery])
    names = ["noticed", "decided", "left", "prepared", "formed", "state", "first step"]
    assert [part.name for part in row.parts] == names
    assert sum(part.seconds for part in row.parts) == pytest.approx(0.3)
    assert row.outcome == "went on from step 4 (a peer's memory 1.0 MiB), 0 steps lost; 1 worker kept, 1 forked"


def test_what_ended_nothing_hides_no_later_failure() -> None:
    lost = {"culprit": {"kind": "fork_server", "name": "west"}, "cause": "status -9", "class": "crash"}
    events = [
        event("diagnosis", 4.0, **lost),
        event("decision", 4.0, action="ignore", reason="x"),
        event("worker_died", 5.0, **DIED),
        event("generation_started", 5.5, 2, workers=[], resume="step-000003"),
        event("first_step", 6.0, 2, step=4),
    ]
    ignored, recovery = find_recoveries(events, [])
    assert (ignored.is_ignored, ignored.total_s, recovery.total_s) == (True, None, 1.0)
    assert recovery_rows([ignored])[0].outcome == "nothing ended by it, and training went on"
