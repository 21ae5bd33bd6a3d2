"""A run that has trained three steps, for tests of what the report tells of its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dougong.ui.history import read_history
from dougong.ui.report.fault_row import FaultRow
from dougong.ui.report.faults import fault_rows
from tests.ui.recorded import Recorder

EAST = {"kind": "worker", "name": "east/1"}
DIED = {"worker": "east/1", "cause": "SIGKILL", "class": "crash"}


def begun(path: Path) -> Recorder:
    """Nothing has happened so far."""
    recorder = Recorder(path)
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 3)
    return recorder


def rows(recorder: Recorder) -> list[FaultRow]:
    return fault_rows(read_history(recorder.run))


def named(recorder: Recorder, generation: int = 1, after_s: float = 0.0, **more: Any) -> None:
    """A worker's failure is named, and decided about."""
    recorder.event("worker_died", generation, after_s, **DIED)
    recorder.event("diagnosis", generation, 0, **DIED, **more)
    recorder.event("decision", generation, 0, action="restart", reason="")
