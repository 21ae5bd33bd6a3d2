"""TensorBoard event files, written without torch: one file for each controller, one curve for the
whole run.

A rewound step is written again: a session-start mark at the first such step makes TensorBoard drop
the older points, in this file and in those of earlier controllers. `metrics.jsonl` keeps them all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from dougong.errors import StorageError
from dougong.records.files import ROOM
from dougong.records.metrics import MetricsRow

_TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "lr": "optimizer/lr",
    "balance_loss": "loss/balance",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_s": "speed/tokens_per_s",
    "step_s": "speed/step_s",
    "generation": "run/generation",
}


class TensorBoardFiles:
    """Rows of metrics.jsonl as scalars. Once `step` returns, its row is in the file. StorageError
    when none can be begun. One thread writes."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._directory, self._wall = directory, wall
        self._record_writer = RecordWriter
        self._event_type = event_pb2.Event
        self._start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._generation: int | None = None
        self._file: BinaryIO | None = None
        try:
            self._begin_file()
        except OSError as error:
            raise StorageError(
                f"{directory}: cannot be written: {error.strerror}; {ROOM}"
            ) from error

    def step(self, row: MetricsRow) -> None:
        """Write one row. The first row of a generation takes back every point of its step and
        of later ones. OSError where it cannot be written whole; the next row begins a new file."""
        try:
            if self._file is None:
                self._begin_file()
            self._add(row)
        except OSError:
            # Nobody can read on behind half a record.
            self.abandon()
            raise

    def _add(self, row: MetricsRow) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if row["generation"] != self._generation:
            self._write(step=row["step"], session_log=self._start)
            self._generation = row["generation"]
        summary = Summary()
        for tag, number in _scalars(row).items():
            summary.value.add(tag=tag, simple_value=number)
        self._write(step=row["step"], summary=summary)

    def close(self) -> None:
        """Close the file; more than once does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def abandon(self) -> None:
        """Close the file, whatever the storage says: every row was written when it came."""
        with contextlib.suppress(OSError):
            self.close()

    def _begin_file(self) -> None:
        self._generation = None
        self._directory.mkdir(exist_ok=True)
        self._file = _new_file(self._directory, int(self._wall()))
        self._writer = self._record_writer(self._file)
        self._write(file_version="brain.Event:2")

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event_type(wall_time=self._wall(), **fields).SerializeToString())
        self._writer.flush()


def _scalars(row: MetricsRow) -> dict[str, float]:
    """Tag -> number, of what the row has."""
    scalars = {tag: float(row[key]) for key, tag in _TAGS.items() if row.get(key) is not None}
    for place, loss in row.get("val_by_source", {}).items():
        scalars[f"loss/validation/{place}"] = float(loss)
    if row.get("load") is not None:
        scalars["load/worst_max_over_mean"] = float(row["load"]["worst"])
    for island, times in row.get("islands", {}).items():
        for key, value in times.items():
            if value is not None:
                scalars[f"island/{island}/{key}"] = float(value)
    return scalars


def _new_file(directory: Path, second: int) -> BinaryIO:
    """A file whose name is after those of all earlier ones: TensorBoard reads a folder's files in
    the order of their names."""
    for earlier in directory.glob("events.out.tfevents.*.*"):
        second = max(second, int(earlier.name.split(".")[3]) + 1)
    name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
    return (directory / name).open("xb")
