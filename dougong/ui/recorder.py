"""Writes down and shows what the controller says: events, metrics, status. Decides nothing."""

from __future__ import annotations

import os
import socket

from dougong.errors import StorageError
from dougong.records.directory import RunDir
from dougong.records.events import Event, WarningRaised
from dougong.records.metrics import MetricsRow
from dougong.records.status import ControllerProcess, RunStatus
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import View


class Recorder:
    """One run's record and its picture on the screen. All methods belong to one thread (the
    controller's).

    `tensorboard`: where the metrics go besides metrics.jsonl; None for a run of a tool.
    """

    def __init__(
        self,
        run_dir: RunDir,
        view: View,
        tensorboard: TensorBoardFiles | None,
    ) -> None:
        self.run_dir = run_dir
        self.view = view
        self._tensorboard = tensorboard
        self._process = ControllerProcess(host=socket.gethostname(), pid=os.getpid())

    def record(self, event: Event) -> Event:
        """Write an event down and show it; it comes back with its clocks."""
        stamped = self.run_dir.append_event(event)
        self.view.event(stamped)
        return stamped

    def tell(self, event: Event) -> None:
        """As `record`, for the end of a run: an event that cannot be written is shown even so, and
        the StorageError raised after that."""
        try:
            self.record(event)
        except StorageError:
            self.view.event(self.run_dir.stamp(event))
            raise

    def step(self, row: MetricsRow) -> None:
        """A step is done."""
        stamped = self.run_dir.append_metrics(row)
        if self._tensorboard is not None:
            self._curve(self._tensorboard, stamped)
        self.view.step(stamped)

    def _curve(self, tensorboard: TensorBoardFiles, row: MetricsRow) -> None:
        """The row for TensorBoard, which is a copy: that it cannot be written ends no run."""
        try:
            tensorboard.step(row)
        except OSError as error:
            self._tensorboard = None
            tensorboard.abandon()
            text = f"no more points for TensorBoard: {error.strerror}; metrics.jsonl has them"
            self.record(WarningRaised(generation=row["generation"], text=text))

    def set_status(self, status: RunStatus) -> None:
        """Replace status.json, signed by this process."""
        signed = status.model_copy(update={"controller": self._process})
        self.run_dir.write_status(signed)

    def tick(self) -> None:
        """Call often: shows what is due and draws the view."""
        self.view.tick()

    def close(self, summary: str) -> None:
        """The run is over: its last words go to the screen."""
        if self._tensorboard is not None:
            self._tensorboard.abandon()
        self.view.close(summary)
