"""Writes down and shows what the controller says: events, metrics, status, screen, TensorBoard.
Decides nothing."""

from __future__ import annotations

import os
import socket
from typing import Any, Protocol

from dougong.records.directory import MetricsRow, RunDir
from dougong.records.events import Event, StateChanged
from dougong.ui.view import View


class MetricsSink(Protocol):
    """An experiment tracker, such as TensorBoard files."""

    def step(self, row: MetricsRow) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """One run's record and its picture on the screen."""

    def __init__(self, run_dir: RunDir, view: View, tracker: MetricsSink | None) -> None:
        self.run_dir = run_dir
        self.view = view
        self._tracker = tracker

    def record(self, event: Event) -> Event:
        """Write an event down and show it; handed back with its clocks."""
        stamped = self.run_dir.append_event(event)
        self.view.event(stamped)
        if isinstance(stamped, StateChanged):
            self.view.state(stamped.state, stamped.generation)
        return stamped

    def step(self, row: MetricsRow) -> None:
        self.run_dir.append_metrics(row)
        if self._tracker is not None:
            self._tracker.step(row)
        self.view.step(row)

    def set_status(self, status: dict[str, Any]) -> None:
        """Replace status.json, signed by this process."""
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        self.run_dir.write_status({**status, "controller": process})

    def tick(self) -> None:
        """Call often: shows what is due and draws the view."""
        self.view.tick()

    def close(self, summary: str) -> None:
        if self._tracker is not None:
            self._tracker.close()
        self.view.close(summary)
