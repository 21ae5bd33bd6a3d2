"""Writes down and shows what the controller says: events, metrics, status, screen, TensorBoard.
Decides nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from dougong.records.directory import MetricsRow, RunDir
from dougong.records.events import Event, from_json
from dougong.ui.view import View

STATUS_EVERY_S = 0.5


class MetricsSink(Protocol):
    """An experiment tracker, such as TensorBoard files."""

    def step(self, row: MetricsRow) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """One run's record. `status` is asked for whenever status.json is due."""

    def __init__(
        self,
        run_dir: RunDir,
        view: View,
        tracker: MetricsSink | None,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self.run_dir = run_dir
        self.view = view
        self._tracker = tracker
        self._status = status
        self._status_at = 0.0

    def report_status(self, status: Callable[[], dict[str, Any]]) -> None:
        """From now on status.json holds what `status` returns."""
        self._status = status

    def record(self, event: Event) -> Event:
        """Write an event down and show it; handed back with its clocks."""
        stamped = self.run_dir.append_event(event)
        self.view.event(stamped)
        return stamped

    def event(self, kind: str, generation: int, **fields: Any) -> Event:
        """`record`, for callers that still name an event by its kind."""
        return self.record(from_json({"kind": kind, "generation": generation, **fields}))

    def state(self, state: str, generation: int) -> None:
        self.event("state", generation, state=state)
        self.view.state(state, generation)
        self.write_status()

    def step(self, row: MetricsRow) -> None:
        self.run_dir.append_metrics(row)
        if self._tracker is not None:
            self._tracker.step(row)
        self.view.step(row)

    def tick(self) -> None:
        """Call often: draws the view, and status.json when it is due."""
        self.view.tick()
        if time.monotonic() - self._status_at >= STATUS_EVERY_S:
            self.write_status()

    def write_status(self) -> None:
        self._status_at = time.monotonic()
        self.run_dir.write_status(
            {**self._status(), "controller": {"host": socket.gethostname(), "pid": os.getpid()}}
        )

    def close(self, summary: str) -> None:
        if self._tracker is not None:
            self._tracker.close()
        self.view.close(summary)
