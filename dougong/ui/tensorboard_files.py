"""TensorBoard event files, written without torch. One file for each controller; one curve for the
whole run.

A rewound step is written again: a session-start mark at the first such step makes TensorBoard drop
the older points, in this file and in those of earlier controllers. `metrics.jsonl` keeps them all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "lr": "optimizer/lr",
    "balance_loss": "loss/balance",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_s": "speed/tokens_per_s",
    "step_s": "speed/step_s",
    "attempt": "run/attempt",
}


class TensorBoardFiles:
    """Writes rows of metrics.jsonl as scalars. What `step` was given is on its way to the disk when
    it returns."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        self._wall = wall
        self._event_type = event_pb2.Event
        self._start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._attempt: int | None = None
        self._file = _new_file(directory, int(wall()))
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def step(self, row: dict[str, Any]) -> None:
        """Write one row. The first row of an attempt takes back every point of its step and later
        ones."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if row["attempt"] != self._attempt:
            self._attempt = row["attempt"]
            self._write(step=row["step"], session_log=self._start)
        values = [
            Summary.Value(tag=tag, simple_value=number) for tag, number in _scalars(row).items()
        ]
        self._write(step=row["step"], summary=Summary(value=values))

    def close(self) -> None:
        """Close the file; more than once does nothing."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event_type(wall_time=self._wall(), **fields).SerializeToString())
        self._writer.flush()


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    scalars = {tag: float(row[key]) for key, tag in _TAGS.items() if row.get(key) is not None}
    if row.get("load") is not None:
        scalars["load/worst_max_over_mean"] = float(row["load"]["worst"])
    for island, times in row.get("islands", {}).items():
        scalars |= {
            f"island/{island}/{key}": float(value)
            for key, value in times.items()
            if value is not None
        }
    return scalars


def _new_file(directory: Path, second: int) -> Any:
    """TensorBoard reads a folder's files in the order of their names: never one that sorts before
    an earlier one."""
    seconds = [
        int(p.name.split(".")[3])
        for p in directory.glob("events.out.tfevents.*")
        if p.name.count(".") >= 3
    ]
    second = max([second, *(s + 1 for s in seconds)])
    name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
    return (directory / name).open("xb")
