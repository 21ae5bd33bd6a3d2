"""What faults have cost a run: goodput and the number of its failures, over all its controllers.

There is one reckoning, that of the run's record: its events and rows, in order. Status, screen,
last words and report all tell what it gives, so that they cannot part.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timezone

from dougong.errors import DougongError, RecordError
from dougong.records.damage import OnFault, refuse
from dougong.records.directory import RunDir
from dougong.records.event.base import read_wall
from dougong.records.events import Event, RunEnded
from dougong.records.metrics import MetricsRow
from dougong.records.rebuilt_status import last_step
from dougong.records.status import RunStatus
from dougong.ui.goodput.meter import GoodputMeter, in_order
from dougong.ui.recoveries import RecoveryReader, num_failures

_Item = Event | MetricsRow


class RunAccount:
    """Follows a run's events and rows, in the order in which they were written."""

    def __init__(self) -> None:
        self._meter = GoodputMeter()
        self._reader = RecoveryReader()

    @staticmethod
    def of(run_dir: RunDir, before: int | None = None) -> RunAccount:
        """That of the record. `before`: of the controllers with lower numbers alone. RecordError
        where it cannot be read."""
        account = RunAccount()
        events = run_dir.read_events()
        rows = run_dir.stream_metrics()
        if before is not None:
            events = [event for event in events if event.fence < before]
            rows = (row for row in rows if int(row.get("fence", 0)) < before)
        for item in in_order(events, rows):
            account.take(item)
        return account

    def take(self, item: _Item) -> None:
        """The next event or row."""
        if isinstance(item, dict):
            self._meter.step(item)
        else:
            self._meter.note(item)
            self._reader.take(item)

    def sign(self, status: RunStatus, now: float | None = None) -> RunStatus:
        """The status with what is reckoned. `now`: by the controller's clock; None: up to the last
        item."""
        until = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        goodput = self._meter.so_far(now).model_copy(update={"until": until})
        if status.state == "LOST":
            self._reader.note_lost()
        failures = num_failures(self._reader.recoveries)
        return status.model_copy(update={"goodput": goodput, "recoveries": failures})


class LiveAccount:
    """That of a run whose controller writes it. A thread of its own reads what earlier controllers
    have written: a long record takes seconds, and storage may not answer. Until it is read, and
    where it cannot be, nothing is told of the whole."""

    def __init__(self, run_dir: RunDir) -> None:
        self._account: RunAccount | None = None if run_dir.fence else RunAccount()
        self._waiting: deque[_Item] | None = deque()
        self._lock = threading.Lock()
        if self._account is None:
            read = threading.Thread(
                target=self._read, args=(run_dir,), name="read what a run has cost", daemon=True
            )
            read.start()

    def take(self, item: _Item) -> None:
        """The next event or row."""
        with self._lock:
            if self._account is not None:
                self._account.take(item)
            elif self._waiting is not None:
                self._waiting.append(item)

    def sign(self, status: RunStatus) -> RunStatus:
        """The status with what is known by now."""
        with self._lock:
            return status if self._account is None else self._account.sign(status, time.monotonic())

    def _read(self, run_dir: RunDir) -> None:
        account = None
        # Who reads the record, and must, tells what is the matter with it.
        with contextlib.suppress(DougongError, OSError):
            account = RunAccount.of(run_dir, before=run_dir.fence)
        with self._lock:
            waiting, self._waiting = self._waiting or (), None
            if account is not None:
                for item in waiting:
                    account.take(item)
            self._account = account


def with_account(run_dir: RunDir, status: RunStatus, on_fault: OnFault = refuse) -> RunStatus:
    """A status without a controller beside it, with what the record gives. The last word of a
    controller that has ended is that already. `on_fault`: who takes a damaged row, without which
    nothing is reckoned."""
    events = run_dir.read_events()
    if _is_last_word(events, status):
        return status
    try:
        signed = RunAccount.of(run_dir).sign(status)
    except RecordError as error:
        on_fault(error)
        signed = status  # its cost stays as it was told last
    if status.state != "LOST":
        return signed
    # Its controller has written rows since its last status.
    step = last_step(events, run_dir.read_last_metrics(on_fault))
    return signed.model_copy(update={"step": step})


def _is_last_word(events: Sequence[Event], status: RunStatus) -> bool:
    if not status.has_ended or status.goodput is None:
        return False
    ended = [event for event in events if isinstance(event, RunEnded)]
    if not ended or ended[-1].fence != status.fence:
        return False
    return read_wall(status.goodput.until) >= read_wall(ended[-1].wall)
