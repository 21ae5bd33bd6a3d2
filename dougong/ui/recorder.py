"""Writes down and shows what the controller says: events, metrics, status. Decides nothing.

What it is given is on the screen when it returns, and written by threads of its own: a controller
that waited for storage would not hear its agents.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial

from dougong.deadlines import DEADLINES, Deadlines
from dougong.records.directory import RunDir
from dougong.records.event.storage import storage_event
from dougong.records.events import Event
from dougong.records.metrics import MetricsRow
from dougong.records.status import ControllerProcess, RunStatus
from dougong.storage.trouble import Trouble
from dougong.storage.watch import TroubleWatch
from dougong.storage.writer import PieceKind, StorageWriter
from dougong.ui.account import LiveAccount
from dougong.ui.event_words import OpenTroubles
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import View

_EVENTS = PieceKind("events")
_METRICS = PieceKind("rows of metrics", most_bytes=64 << 20)
_POINTS = PieceKind("rows for TensorBoard", most_bytes=16 << 20)
_STATUS = PieceKind("status", newest_only=True)
_ROW_BYTES = 4 << 10
"""A row of metrics takes about as much in memory."""


class Recorder:
    """One run's record and its picture on the screen. All methods belong to one thread (the
    controller's), and none waits for storage but `settle`.

    `tensorboard`: where the metrics go besides metrics.jsonl; None for a run of a tool.
    """

    def __init__(
        self,
        run_dir: RunDir,
        view: View,
        tensorboard: TensorBoardFiles | None,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self.run_dir = run_dir
        self.view = view
        self._tensorboard = tensorboard
        self._deadlines = deadlines
        self._process = ControllerProcess(host=socket.gethostname(), pid=os.getpid())
        self._generation = 0
        self._records = StorageWriter("the run's records", deadlines)
        # The folder may be a link to other storage.
        self._curves = StorageWriter("points for TensorBoard", deadlines)
        self._writers = (self._records, self._curves)
        self._watches = [TroubleWatch(writer) for writer in self._writers]
        self._open = OpenTroubles()
        self._account = LiveAccount(run_dir)

    def record(self, event: Event) -> Event:
        """Write an event down and show it; it comes back with its clocks."""
        stamped = self.run_dir.stamp(event)
        self._generation = max(self._generation, event.generation)
        self._open.note(stamped)
        self._account.take(stamped)
        self._records.put(_EVENTS, partial(self.run_dir.write_event, stamped))
        self.view.event(stamped)
        return stamped

    def step(self, row: MetricsRow) -> None:
        """A step is done."""
        stamped = self.run_dir.stamp_row(row)
        self._account.take(stamped)
        self._records.put(_METRICS, partial(self.run_dir.write_row, stamped), _ROW_BYTES)
        if self._tensorboard is not None:
            self._curves.put(_POINTS, partial(self._tensorboard.step, stamped), _ROW_BYTES)
        self.view.step(stamped)

    def set_status(self, status: RunStatus) -> None:
        """Replace status.json, signed by this process; the screen shows it, too."""
        news = {"controller": self._process, "storage": self.storage_words()}
        signed = self._account.sign(status.model_copy(update=news))
        self.view.status(signed)
        self._records.put(_STATUS, partial(self.run_dir.write_status, signed))

    def storage_words(self) -> str:
        """What cannot be written now, and for how long; empty for nothing."""
        return self._open.words(time.monotonic())

    def keep(self, name: str, write: Callable[[], None]) -> None:
        """Have a file written that only its newest text counts of. `name`: in words."""
        self._records.put(PieceKind(name, newest_only=True), write)

    def tick(self) -> None:
        """Call often: shows what is due and draws the view."""
        for watch in self._watches:
            news = watch.look()
            if news is not None:
                self.record(storage_event(self._generation, news))
        self.view.tick()

    def settle(self, timeout_s: float) -> tuple[Trouble, ...]:
        """Wait until all is written; after the limit, what is not."""
        deadline = time.monotonic() + timeout_s
        left = [writer.settle(deadline - time.monotonic()) for writer in self._writers]
        self.tick()
        if not any(left):  # what that look has found to say is the last that is written
            left = [writer.settle(self._deadlines.storage_told_s) for writer in self._writers]
        return tuple(trouble for trouble in left if trouble is not None)

    def close(self, summary: str) -> None:
        """The run is over: its last words go to the screen."""
        self.settle(self._deadlines.storage_told_s)
        for writer in self._writers:
            writer.close()
        if self._tensorboard is not None and self._curves.trouble() is None:
            self._tensorboard.abandon()
        self.view.close(summary)
